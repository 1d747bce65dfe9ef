"""Every policy that can be simulated, by name."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from modelfleet.simulate import oracle, ours, rivals
from modelfleet.simulate.policy import Kind, Setting

OURS: Final = ours.KIND.name
ORACLE: Final = oracle.KIND.name
"""It is handed the trace: a yardstick, and no contestant."""

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {kind.name: kind for kind in (ours.KIND, *rivals.KINDS, oracle.KIND)}
)
"""In the order in which they are shown: ours, the rivals, the oracle."""


class UnknownPolicy(ValueError):
    """No policy has this name."""


def kind_named(name: str) -> Kind:
    """Return the policy of this name.

    Raises:
        UnknownPolicy: If there is none; the text lists those that are known.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise UnknownPolicy(f"{name!r} is no policy; known: {', '.join(KINDS)}")
    return kind


def target_number(policy: str, target: float) -> str:
    """Return a target for people; a dash where the policy has none."""
    return f"{target:.4g}" if kind_named(policy).unit else "-"


def setting_text(policy: str, setting: Setting) -> str:
    """Return what was tuned, with its unit, for people."""
    unit = kind_named(policy).unit
    return ", ".join(([f"{setting.target:.4g} {unit}"] if unit else []) + [f"minimum {setting.min_replicas}"])


def targets(policies: Iterable[str]) -> list[str]:
    """Say what these policies' targets count, for people: those that count the same together."""
    by_unit: dict[str, list[str]] = {}
    for policy in policies:
        if unit := kind_named(policy).unit:
            by_unit.setdefault(unit, []).append(policy)
    return [f"{', '.join(names)}: {unit}" for unit, names in by_unit.items()]
