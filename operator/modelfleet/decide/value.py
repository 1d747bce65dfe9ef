"""How values are declared that are made for every deployment or pod, at every decision."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def value(cls: type[_T]) -> type[_T]:
    """Make a dataclass that type checkers hold frozen.

    One that is frozen when it runs costs four times as much to make, and a NamedTuple costs half as much again and
    more to read. compile_decide.py writes its __init__ out, which makes it five times cheaper than either.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
