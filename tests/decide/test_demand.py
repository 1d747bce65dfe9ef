"""Step 1: what the signals of the ready pods add up to."""

import pytest

from modelfleet.decide.demand import Demand, demand, saturated
from modelfleet.decide.snapshot import Missing
from tests.builders import NOW, PodBuilder, ready, starting


def _demand(*pods: PodBuilder, max_age: float = 5.0) -> Demand | Missing:
    return demand(tuple(pod.build() for pod in pods), now=NOW, max_age_seconds=max_age)


SUMS: dict[str, tuple[tuple[PodBuilder, ...], tuple[int, float, float, float, bool, str]]] = {
    "one pod is its own sum": (
        (ready("a").queue(3).running(16).tokens(900),),
        (1, 3, 16, 900, True, ""),
    ),
    "two pods add up": (
        (ready("a").queue(3).running(16).tokens(900), ready("b").queue(4).running(8).tokens(450)),
        (2, 7, 24, 1350, True, ""),
    ),
    "a pod that is not ready serves nobody": (
        (ready("a").queue(3), starting("b").queue(40)),
        (1, 3, 0, 0, True, ""),
    ),
    "a pod that terminates finishes what it has and takes nothing new": (
        (ready("a").queue(3), ready("b").queue(40).dying()),
        (1, 3, 0, 0, True, ""),
    ),
    "one pod without a queue leaves a lower bound": (
        (ready("a").queue(3).tokens(10), ready("b").lost("queued").tokens(20)),
        (2, 3, 0, 30, False, "b: connection refused"),
    ),
    "throughput alone is missing": (
        (ready("a").queue(3).lost("tokens"),),
        (1, 3, 0, 0, False, "a: connection refused"),
    ),
    "running requests alone are missing": (
        (ready("a").queue(3).lost("running"),),
        (1, 3, 0, 0, False, "a: connection refused"),
    ),
    "an engine that does not count finished requests is complete": (
        (ready("a").queue(3).lost("finished"),),
        (1, 3, 0, 0, True, ""),
    ),
    "an engine that does not tell its KV cache is complete": (
        (ready("a").queue(3).lost("kv"),),
        (1, 3, 0, 0, True, ""),
    ),
    "an engine that does not tell its time between tokens is complete": (
        (ready("a").queue(3), ready("b").lost("inter_token").tokens(20)),
        (2, 3, 0, 20, True, ""),
    ),
    "the time between tokens is no part of a sum": (
        (ready("a").queue(3).inter_token(0.02), ready("b").inter_token(0.04).tokens(20)),
        (2, 3, 0, 20, True, ""),
    ),
    "a sample as old as allowed still counts": (
        (ready("a").queue(3).stale(5),),
        (1, 3, 0, 0, True, ""),
    ),
    "an older sample is no sample": (
        (ready("a").queue(3), ready("b").queue(40).stale(5.5)),
        (2, 3, 0, 0, False, "b: last sample is 6 s old"),
    ),
    "a sample from a clock that is ahead counts": (
        (ready("a").queue(3).stale(-30),),
        (1, 3, 0, 0, True, ""),
    ),
    "a pod just ready lacks a rate, which is incomplete and no fault": (
        (ready("a").queue(3), ready("b").aged(1).lost("tokens")),
        (2, 3, 0, 0, False, ""),
    ),
    "a pod ready for ten seconds should have a rate": (
        (ready("a").queue(3), ready("b").aged(10).lost("tokens")),
        (2, 3, 0, 0, False, "b: connection refused"),
    ),
}


@pytest.mark.parametrize("case", SUMS)
def test_sum(case: str) -> None:
    """Fresh signals of ready pods add up, and a sum says whether it is the whole truth."""
    pods, expected = SUMS[case]
    seen = _demand(*pods)
    assert isinstance(seen, Demand)
    actual = (
        seen.ready,
        seen.queued_requests.value,
        seen.running_requests.value,
        seen.output_tokens_per_second.value,
        seen.complete,
        seen.missing,
    )

    assert expected == actual


NONE: dict[str, tuple[tuple[PodBuilder, ...], Missing]] = {
    "no pod at all": ((), Missing("no pod is ready", fault=False)),
    "the only pod starts": ((starting("a"),), Missing("no pod is ready", fault=False)),
    "the only pod terminates": ((ready("a").dying(),), Missing("no pod is ready", fault=False)),
    "no queue is known": ((ready("a").lost(), ready("b").lost()), Missing("a: connection refused")),
    "every queue is stale": ((ready("a").queue(0).stale(60),), Missing("a: last sample is 60 s old")),
    "the queue is unknown while throughput is known": (
        (ready("a").lost("queued").tokens(900),),
        Missing("a: connection refused"),
    ),
    "the only pod has just become ready": (
        (ready("a").aged(2).lost(),),
        Missing("no ready pod has reported yet", fault=False),
    ),
}


@pytest.mark.parametrize("case", NONE)
def test_no_load_is_missing_and_never_zero(case: str) -> None:
    """Without one known queue there is no load, and the reason tells a fault from a start."""
    pods, expected = NONE[case]
    actual = _demand(*pods)

    assert expected == actual


def test_oldest_sample_dates_the_sum() -> None:
    """A sum is as old as its oldest part."""
    seen = _demand(ready("a").stale(1), ready("b").stale(4), ready("c").stale(2))
    assert isinstance(seen, Demand)
    actual = seen.queued_requests.sampled_at

    assert actual == NOW - 4


SATURATED = {
    "every pod has one waiting": ((ready("a").queue(1), ready("b").queue(9)), True),
    "one pod has a free place": ((ready("a").queue(0), ready("b").queue(9)), False),
    "half a request is none": ((ready("a").queue(0.5),), False),
    "a starting pod does not count": ((ready("a").queue(1), starting("b")), True),
    "a terminating pod does not count": ((ready("a").queue(1), ready("b").dying()), True),
    "an unknown queue proves nothing": ((ready("a").queue(1), ready("b").lost()), False),
    "nobody is ready": ((starting("a"),), False),
}


@pytest.mark.parametrize("case", SATURATED)
def test_saturated(case: str) -> None:
    """Throughput shows capacity only while every ready pod has a request waiting."""
    pods, expected = SATURATED[case]
    actual = saturated(tuple(pod.build() for pod in pods))

    assert expected == actual
