"""What a run was worth."""

from __future__ import annotations

from math import inf

import pytest

from modelfleet.simulate.policy import Setting
from modelfleet.simulate.score import Run, score


@pytest.mark.parametrize(
    ("pods", "begins", "ends", "want"),
    {
        "a peak of a second": ([(0.0, inf), (10.0, 11.0), (10.5, 90.0)], 0.0, None, 3),
        "one that takes over from another": ([(0.0, 50.0), (50.0, inf)], 0.0, None, 1),
        "before it is looked at": ([(0.0, inf), (10.0, 11.0)], 20.0, None, 1),
        "after": ([(0.0, inf), (60.0, inf)], 0.0, 60.0, 1),
        "there before, and held through": ([(-100.0, inf), (-100.0, 30.0)], 20.0, 40.0, 2),
        "none": ([], 0.0, None, 0),
    }.values(),
)
def test_most_replicas_are_the_most_pods_at_one_moment(
    pods: list[tuple[float, float]], begins: float, ends: float | None, want: int
) -> None:
    run = Run("any", Setting(1.0, 1, 9), 100.0, 1, pods, served=[], timeline=[], scales=[])

    assert score(run, ttft_seconds=2.0, tpot_seconds=0.05, begins=begins, ends=ends).max_replicas == want
