"""Step 7, admit: a token allowance caps the load that may buy replicas."""

from collections.abc import Iterable, Mapping
from math import ceil

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.decide.snapshot import Allowance, Missing, Tokens
from modelfleet.decide.value import value


@value
class Admission:
    """What the tightest allowance left of a load, in tokens per second as that allowance counts them.

    Attributes:
        allowance: The one that bound it, for all that share it.
        demand: The deployment's own load.
        admitted: The part of the load that may buy replicas.
        admitted_output: The same in generated tokens per second, which is what replicas are sized by.
    """

    allowance: Allowance
    demand: float
    admitted: float
    admitted_output: float


@value
class Uncounted:
    """An allowance counts tokens of a load that are unknown: no replica is added.

    Attributes:
        allowance: The allowance that counts them.
        why: Why they are unknown.
    """

    allowance: Allowance
    why: str


@value
class Load:
    """What one deployment of a tenant is asked for.

    Attributes:
        model: Its spec.model.name.
        output: Generated tokens per second.
        input_per_output: Prompt tokens that come with one generated token, or why that is unknown.
    """

    model: str
    output: float
    input_per_output: float | Missing = 0.0

    def per_output(self, counts: Tokens) -> float | Missing:
        """Return the tokens that an allowance counts for one generated token."""
        if counts is Tokens.OUTPUT or isinstance(self.input_per_output, Missing):
            return 1.0 if counts is Tokens.OUTPUT else self.input_per_output
        return self.input_per_output + (1.0 if counts is Tokens.TOTAL else 0.0)


def share_allowances(
    loads: Mapping[Key, Load], allowances: Iterable[Allowance]
) -> tuple[dict[Key, Admission], dict[Key, Uncounted]]:
    """Share a tenant's allowances among its deployments by their load.

    Each allowance is filled like water: a deployment gets all of its load or as much as any other gets. So one
    that grows beyond the allowance takes nothing from those that ask for less. They are filled in their order, each
    with what those before it left.

    Returns:
        Those that are admitted less than their load, and those of which an allowance counts what is unknown, which
        take no part in it. All others are not bound.
    """
    admitted = {key: load.output for key, load in loads.items()}
    admissions: dict[Key, Admission] = {}
    uncounted: dict[Key, Uncounted] = {}
    for allowance in allowances:
        shares: list[tuple[float, Key, float]] = []
        for key, load in loads.items():
            if allowance.model not in ("", load.model):
                continue
            each = load.per_output(allowance.counts)
            if isinstance(each, Missing):
                uncounted.setdefault(key, Uncounted(allowance, each.why))
            else:
                shares.append((admitted[key] * each, key, each))
        left = allowance.per_second
        for number, (tokens, key, each) in enumerate(sorted(shares)):
            level = left / (len(shares) - number)
            if tokens > level:
                tokens, admitted[key] = level, level / each  # noqa: PLW2901 - what is left of it
                admissions[key] = Admission(allowance, loads[key].output * each, level, admitted[key])
            left -= tokens
    return admissions, uncounted


def admit(
    count: int,
    *,
    allowance_tokens_per_second: float | None,
    target_tokens_per_second: float | None,
    floor: int,
    current: int,
) -> tuple[int, Limit]:
    """Return at most the replicas that the allowed load needs.

    Args:
        count: Replicas after bounds.
        allowance_tokens_per_second: Generated tokens/s that may buy replicas; None means that they are unknown.
        target_tokens_per_second: What one replica should carry; None when unknown.
        floor: minReplicas: replicas that are bought by the spec, not by load.
        current: Replicas asked for before: they stay where tokens cannot be turned into replicas, and none is added.
    """
    if allowance_tokens_per_second is None or target_tokens_per_second is None:
        allowed = max(floor, current)
    else:
        allowed = max(floor, ceil(allowance_tokens_per_second / target_tokens_per_second))
    return (allowed, Limit.TOKEN_ALLOWANCE) if allowed < count else (count, Limit.NONE)
