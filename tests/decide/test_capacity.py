"""Step 2: what one replica carries, learned while it is saturated, and how long a start takes."""

from dataclasses import replace

import pytest

from modelfleet.decide.capacity import CapacitySource, capacity, measure, p90
from modelfleet.decide.history import Measured
from tests.builders import NOW, PodBuilder, load_of, measured, ready, starting

CHOICES: dict[str, tuple[float | None, Measured, float | None, tuple[float | None, CapacitySource]]] = {
    "nothing is known": (None, Measured(), None, (None, CapacitySource.UNKNOWN)),
    "the runtime's prior, at 80 %": (None, Measured(), 1000, (800, CapacitySource.PRIOR)),
    "a measurement beats the prior": (None, measured(500), 1000, (400, CapacitySource.MEASURED)),
    "a burst's edge does not": (None, measured(500, seconds=2.9), 1000, (800, CapacitySource.PRIOR)),
    "three seconds are enough": (None, measured(500, seconds=3.0), 1000, (400, CapacitySource.MEASURED)),
    "room alone says nothing about tokens": (None, measured(running=64), 1000, (800, CapacitySource.PRIOR)),
    "the spec beats everything, as it is written": (300, measured(500), 1000, (300, CapacitySource.SPEC)),
}


@pytest.mark.parametrize("case", CHOICES)
def test_target(case: str) -> None:
    """The spec's target wins, then what was measured, then the prior; nothing is invented."""
    spec, seen, prior, expected = CHOICES[case]
    chosen = capacity(spec_target=spec, measured=seen, prior_tokens_per_second=prior, start_seconds=())
    actual = (chosen.target_tokens_per_second, chosen.source)

    assert expected == actual


ROOM: dict[str, tuple[float | None, float | None]] = {
    "never full": (None, None),
    "80 % of what ran": (256, 204.8),
    "one request is the least": (1, 1.0),
}


@pytest.mark.parametrize("case", ROOM)
def test_room(case: str) -> None:
    """A replica should run 80 % of the requests it had room for, and never less than one."""
    running, expected = ROOM[case]
    chosen = capacity(
        spec_target=None, measured=measured(running=running), prior_tokens_per_second=None, start_seconds=()
    )
    actual = chosen.target_running_requests

    assert expected == (actual if actual is None else pytest.approx(actual))


STARTS: dict[str, tuple[tuple[float, ...], float]] = {
    "no start seen: an 8B model from a warm cache": ((), 120.0),
    "one start": ((42.0,), 42.0),
    "the third longest of twenty": ((*[60.0] * 17, 90.0, 300.0, 600.0), 90.0),
    "created and ready within one second of the API server's clock": ((0.0, 0.0), 1.0),
}


@pytest.mark.parametrize("case", STARTS)
def test_start(case: str) -> None:
    """A start is the 90th percentile of those seen, and never zero: loads are divided by it."""
    starts, expected = STARTS[case]
    actual = capacity(
        spec_target=None, measured=Measured(), prior_tokens_per_second=None, start_seconds=starts
    ).start_seconds

    assert expected == actual


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ((5.0,), 5.0),
        ((1.0, 2.0), 2.0),
        (tuple(range(1, 11)), 9),
        (tuple(range(10, 0, -1)), 9),
        (tuple(range(1, 21)), 18),
    ],
)
def test_p90_is_the_nearest_rank(samples: tuple[float, ...], expected: float) -> None:
    """The percentile is one of the samples, whatever their order."""
    actual = p90(samples)

    assert expected == actual


# --- learning -----------------------------------------------------------------------------------

FULL = ready("a").queue(5).running(64).tokens(2000)
SATURATED_FOR_LONG = Measured(saturated_since=NOW - 60)


def _measure(
    before: Measured, *pods: PodBuilder, elapsed: float = 1.0, now: float = NOW, known: int | None = None
) -> Measured:
    serving = [pod for pod in pods if pod.ready_at is not None and not pod.terminating]
    seen = load_of(
        ready=len(serving),
        queue=sum(pod.values["queued"] or 0 for pod in serving),
        running=sum(pod.values["running"] or 0 for pod in serving),
        tokens=sum(pod.values["tokens"] or 0 for pod in serving),
        known=known,
    )
    return measure(
        before,
        seen,
        tuple(pod.build(now) for pod in pods),
        rate_window_seconds=5.0,
        now=now,
        elapsed_seconds=elapsed,
    )


LESSONS: dict[str, tuple[Measured, tuple[PodBuilder, ...], tuple[float | None, float | None]]] = {
    "saturated for a minute: throughput is capacity": (SATURATED_FOR_LONG, (FULL,), (2000, 64)),
    "of two replicas, the mean": (
        SATURATED_FOR_LONG,
        (FULL, ready("b").queue(1).running(32).tokens(1000)),
        (1500, 48),
    ),
    "a replica with a free place shows its load, not its capacity": (
        SATURATED_FOR_LONG,
        (FULL, ready("b").queue(0).running(32).tokens(1000)),
        (None, None),
    ),
    "a replica that became ready just now still fills its batch": (
        SATURATED_FOR_LONG,
        (FULL, FULL.aged(9)),
        (None, None),
    ),
    "a replica ready for ten seconds has filled it": (SATURATED_FOR_LONG, (FULL.aged(10),), (2000, 64)),
    "a starting replica disturbs nothing": (SATURATED_FOR_LONG, (FULL, starting("s")), (2000, 64)),
    "a queue before which nothing moves teaches no throughput": (SATURATED_FOR_LONG, (FULL.tokens(0),), (None, 64)),
    "the rate window still shows the time before": (Measured(saturated_since=NOW - 4.9), (FULL,), (None, 64)),
}


@pytest.mark.parametrize("case", LESSONS)
def test_lesson(case: str) -> None:
    """Throughput and room are learned from settled, saturated, complete intervals only."""
    before, pods, expected = LESSONS[case]
    after = _measure(before, *pods)
    actual = (after.tokens_per_second, after.running_requests)

    assert expected == actual


def test_partial_signals_teach_nothing() -> None:
    """A lower bound of the throughput is no capacity."""
    expected = SATURATED_FOR_LONG
    actual = _measure(expected, FULL, replace(FULL, name="b"), known=1)

    assert replace(expected, saturated_since=None) == actual


def test_saturation_that_ends_starts_anew() -> None:
    """What was learned stays; the time of saturation does not."""
    before = replace(measured(1500, running=48), saturated_since=NOW - 60)
    actual = _measure(before, ready("a").running(3).tokens(90))

    assert replace(before, saturated_since=None) == actual


def test_a_waiting_request_for_a_moment_is_no_full_batch() -> None:
    """Engines show an arrival as waiting until their next step: one such sample must not teach the room."""
    almost_idle = ready("a").queue(1).running(2).tokens(60)
    actual = _measure(Measured(), almost_idle).running_requests

    assert actual is None


def test_the_first_minute_converges_and_later_ones_follow() -> None:
    """The first intervals weigh by their share, later ones by a time constant of 30 s."""
    after, now = Measured(), NOW
    for _ in range(40):
        after = _measure(after, FULL.tokens(1000), now=now)
        now += 1
    first = after.tokens_per_second
    for _ in range(30):
        after = _measure(after, FULL.tokens(2000), now=now)
        now += 1
    assert after.tokens_per_second is not None

    assert first == pytest.approx(1000)
    # 1 - (29/30)^30 = 64 % of the way.
    assert after.tokens_per_second == pytest.approx(1640, abs=10)


def test_a_pause_of_the_operator_does_not_overshoot() -> None:
    """After an hour without a decision one interval replaces the average, and no more than that."""
    before = replace(measured(1000, running=64), saturated_since=NOW - 3600)
    actual = _measure(before, FULL, elapsed=3600.0).tokens_per_second

    assert actual == 2000


def test_a_clock_that_steps_back_teaches_nothing_wrong() -> None:
    """A negative interval neither divides by zero nor moves the average away from what is seen."""
    before = replace(measured(1000, running=64, seconds=30), saturated_since=NOW - 60)
    actual = _measure(before, FULL, elapsed=-30.0).tokens_per_second
    assert actual is not None

    assert 1000 <= actual <= 2000
