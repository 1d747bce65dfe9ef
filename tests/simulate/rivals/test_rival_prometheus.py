"""`rate` as Prometheus computes it, and counters of pods that come and go."""

import pytest

from modelfleet.simulate.rivals.prometheus import (
    LOOK_SECONDS,
    SCRAPE_SECONDS,
    CounterRange,
    FleetIncrease,
    PeakRange,
    counter_rate,
)

MINUTE = 60.0


@pytest.mark.parametrize(
    ("samples", "now", "window", "want"),
    [
        # promql/testdata/functions.test: testcounter 0+10x10 every 5m, rate(testcounter[50m]) at 50m is 0.0333.
        ([(5.0 * n * MINUTE, 10.0 * n) for n in range(1, 11)], 50 * MINUTE, 50 * MINUTE, 100 / 3000),
        # Both ends near: 45 s of samples stand for all 60 s.
        ([(15.0, 100.0), (30.0, 115.0), (45.0, 130.0), (60.0, 145.0)], 60.0, 60.0, 1.0),
        # A pod that vanished 30 s ago: only half an interval more is added (45 + 15 is over 1.1 x 15), 52.5 of 60 s...
        ([(5.0, 100.0), (20.0, 115.0), (35.0, 130.0)], 60.0, 60.0, 30.0 * (30.0 + 5.0 + 7.5) / 30.0 / 60.0),
        # A young counter is not stretched to before it was zero: 2 of the 5 s before it.
        ([(20.0, 2.0), (35.0, 17.0), (50.0, 32.0)], 60.0, 60.0, 30.0 * (30.0 + 2.0 + 10.0) / 30.0 / 60.0),
        # One that begins far inside the window, well above zero: half an interval.
        ([(30.0, 90.0), (45.0, 105.0), (60.0, 120.0)], 60.0, 60.0, 30.0 * (30.0 + 7.5) / 30.0 / 60.0),
        # 17 s before the first are too many (16.5 would do), 16 are not.
        ([(17.0, 90.0), (32.0, 105.0), (47.0, 120.0), (60.0, 133.0)], 60.0, 60.0, 43.0 * 50.1666667 / 43.0 / 60.0),
        ([(16.0, 90.0), (31.0, 105.0), (46.0, 120.0), (61.0, 135.0)], 61.0, 61.0, 1.0),
        ([(30.0, 90.0)], 60.0, 60.0, None),
        ([], 60.0, 60.0, None),
        ([(30.0, 7.0), (45.0, 7.0)], 60.0, 60.0, 0.0),
    ],
)
def test_rate_stretches_the_increase_as_prometheus_does(
    samples: list[tuple[float, float]], now: float, window: float, want: float | None
) -> None:
    """Worked by hand after extrapolatedRate; the first is Prometheus' own test."""
    assert counter_rate(samples, now=now, window_seconds=window) == (None if want is None else pytest.approx(want))


def test_a_vanished_pod_never_makes_the_rate_negative_and_fades_within_the_window() -> None:
    """Pod b is gone after 60 s; what it did counts for less and less, and then not at all."""
    counters = CounterRange(60.0)
    for at in (0.0, 15.0, 30.0, 45.0, 60.0):
        counters.add(at, [("a", 5_000.0 + at * 10.0), ("b", 90_000.0 + at * 100.0)])
    rates = [counters.rate(60.0)]
    for at in (75.0, 90.0, 105.0):
        counters.add(at, [("a", 5_000.0 + at * 10.0)])
        rates.append(counters.rate(at))

    # b: one scrape missing is near enough; then two are left, an interval before and half of one after; then one.
    assert rates == [pytest.approx(rate) for rate in (110.0, 110.0, 10.0 + 62.5, 10.0)]


def test_a_pod_counts_from_its_second_scrape() -> None:
    """A rate needs two samples."""
    counters = CounterRange(60.0)
    counters.add(0.0, [("a", 0.0)])
    assert counters.rate(1.0) is None

    counters.add(15.0, [("a", 150.0), ("b", 9_000.0)])

    # 150 tokens in 15 s, the counter at zero before: 15 + 0 + 1 s of 60.
    assert counters.rate(16.0) == pytest.approx(150.0 * 16.0 / 15.0 / 60.0)


def test_peaks_are_of_the_window_and_of_pods_that_are_there() -> None:
    """`max_over_time([1m])` at 15 s scrapes sees four of them."""
    peaks = PeakRange(60.0)
    for at, value in ((0.0, 9.0), (15.0, 3.0), (30.0, 5.0), (45.0, 4.0)):
        peaks.add(at, [("a", value), ("b", 1.0)])

    assert peaks.peaks(59.0) == {"a": 9.0, "b": 1.0}
    assert peaks.peaks(60.0) == {"a": 5.0, "b": 1.0}

    peaks.add(60.0, [("a", 2.0)])

    assert peaks.peaks(75.0) == {"a": 5.0}
    assert peaks.peaks(91.0) == {"a": 4.0}


def test_increase_ignores_what_was_before_a_pod_was_first_seen_and_after_it_was_last() -> None:
    """Of three pods: one steady, one that leaves, one that comes with a counter of its own."""
    fleet = FleetIncrease(30.0)
    fleet.add(0.0, [("a", 100.0), ("b", 1_000.0)])
    fleet.add(15.0, [("a", 110.0), ("b", 1_005.0)])
    fleet.add(30.0, [("a", 120.0), ("c", 7_000.0)])
    assert fleet.increase() == 25.0

    fleet.add(45.0, [("a", 130.0), ("c", 7_001.0)])
    # From 15 s on: the window's beginning is within.
    assert fleet.increase() == 21.0
    fleet.add(59.0, [("a", 130.0), ("c", 7_001.0)])
    assert fleet.increase() == 21.0
    fleet.add(60.0, [("a", 130.0), ("c", 7_001.0)])

    assert fleet.increase() == 11.0


def test_a_scrape_is_every_second_look() -> None:
    """Prometheus' usual 15 s."""
    assert (SCRAPE_SECONDS, LOOK_SECONDS) == (15.0, 7.5)


def test_nothing_seen_is_no_increase() -> None:
    """Zero, and no division by callers."""
    assert FleetIncrease(30.0).increase() == 0.0
