"""Steps 6 and 7: bounds, and the allowance that caps the load that may buy replicas."""

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.decide.admit import admit
from modelfleet.decide.bounds import bounds

BOUNDS = {
    "within": (3, (3, Limit.NONE)),
    "at the floor": (2, (2, Limit.NONE)),
    "at the ceiling": (5, (5, Limit.NONE)),
    "below": (1, (2, Limit.MIN_REPLICAS)),
    "idle": (0, (2, Limit.MIN_REPLICAS)),
    "above": (9, (5, Limit.MAX_REPLICAS)),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_bounds(case: str) -> None:
    """A count is clamped into 2..5, and the end that bound it is named."""
    count, expected = BOUNDS[case]
    actual = bounds(count, min_replicas=2, max_replicas=5)

    assert expected == actual


ADMIT: dict[str, tuple[int, float | None, float | None, int, tuple[int, Limit]]] = {
    "no allowance, no cap": (9, None, 100, 1, (9, Limit.NONE)),
    "capacity unknown: tokens are no replicas": (9, 500, None, 1, (9, Limit.NONE)),
    "500 of 100 each buy five": (9, 500, 100, 1, (5, Limit.TOKEN_ALLOWANCE)),
    "501 buy six": (9, 501, 100, 1, (6, Limit.TOKEN_ALLOWANCE)),
    "asks for less than it may": (3, 500, 100, 1, (3, Limit.NONE)),
    "asks for what it may": (5, 500, 100, 1, (5, Limit.NONE)),
    "the spec's floor is not bought by load": (9, 0, 100, 2, (2, Limit.TOKEN_ALLOWANCE)),
}


@pytest.mark.parametrize("case", ADMIT)
def test_admit(case: str) -> None:
    """An allowance buys replicas above minReplicas, rounded up."""
    count, allowance, target, floor, expected = ADMIT[case]
    actual = admit(count, allowance_tokens_per_second=allowance, target_tokens_per_second=target, floor=floor)

    assert expected == actual
