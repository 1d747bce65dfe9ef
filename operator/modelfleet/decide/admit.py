"""Step 7, admit: a token allowance caps the load that may buy replicas."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key


@dataclass(frozen=True, slots=True)
class Admission:
    """What an allowance left of a load, in generated tokens per second.

    Attributes:
        demand: The deployment's own load.
        allowance: The allowance that bound it, of the tenant or of the model, for all that share it.
        admitted: The part of the load that may buy replicas.
    """

    demand: float
    allowance: float
    admitted: float


@dataclass(frozen=True, slots=True)
class Load:
    """What one deployment of a tenant is asked for, in generated tokens per second."""

    model: str
    tokens_per_second: float


def share_allowance(
    loads: Mapping[Key, Load],
    *,
    tenant_tokens_per_second: float | None,
    model_tokens_per_second: Mapping[str, float],
) -> dict[Key, Admission]:
    """Share a tenant's allowances among its deployments by their load.

    Each allowance is filled like water: a deployment gets all of its load or as much as any other gets. So one
    that grows beyond the allowance takes nothing from those that ask for less. Allowances of models come first.

    Returns:
        Those that are admitted less than their load; all others are not bound.
    """
    admissions: dict[Key, Admission] = {}
    admitted = {key: load.tokens_per_second for key, load in loads.items()}
    for model, allowance in model_tokens_per_second.items():
        _share(admitted, [key for key, load in loads.items() if load.model == model], allowance, loads, admissions)
    if tenant_tokens_per_second is not None:
        _share(admitted, list(loads), tenant_tokens_per_second, loads, admissions)
    return admissions


def _share(
    admitted: dict[Key, float],
    keys: list[Key],
    allowance: float,
    loads: Mapping[Key, Load],
    admissions: dict[Key, Admission],
) -> None:
    """Lower what is admitted of the keys so that together they stay within the allowance."""
    left = allowance
    keys = sorted(keys, key=lambda key: (admitted[key], key))
    for number, key in enumerate(keys):
        level = left / (len(keys) - number)
        if admitted[key] > level:
            admitted[key] = level
            admissions[key] = Admission(loads[key].tokens_per_second, allowance, level)
        left -= admitted[key]


def admit(
    count: int,
    *,
    allowance_tokens_per_second: float | None,
    target_tokens_per_second: float | None,
    floor: int,
) -> tuple[int, Limit]:
    """Return at most the replicas that the allowed load needs.

    Args:
        count: Replicas after bounds.
        allowance_tokens_per_second: Generated tokens/s that may buy replicas; None means no cap.
        target_tokens_per_second: What one replica should carry; None when unknown, and then tokens
            cannot be turned into replicas and the cap does not apply.
        floor: minReplicas: replicas that are bought by the spec, not by load.
    """
    if allowance_tokens_per_second is None or target_tokens_per_second is None:
        return count, Limit.NONE
    allowed = max(floor, ceil(allowance_tokens_per_second / target_tokens_per_second))
    return (allowed, Limit.TOKEN_ALLOWANCE) if allowed < count else (count, Limit.NONE)
