"""How values are declared that are made for every deployment or pod, at every decision."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def value(cls: type[_T]) -> type[_T]:
    """Make a dataclass that type checkers hold frozen.

    One that is frozen when it runs costs four times as much to make, and a NamedTuple half as much again. Compiled,
    with the __init__ that compile_decide.py writes out, it costs a fifth of a NamedTuple (design/0004).
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
