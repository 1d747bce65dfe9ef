"""Rates from raw counters: per life of a process, over a window, never extrapolated."""

from dataclasses import dataclass

import pytest

from modelfleet.adapters.counters import NO_TOKEN, CounterWindow, InterTokenWindow
from modelfleet.decide.snapshot import Missing, Reading, Signal

FIRST = ("uid", 0)
RESTARTED = ("uid", 1)
ONE = Missing("one sample of the counter so far; a rate needs two")
CLOSE = Missing("two samples of the counter are too close for a rate")


@dataclass(frozen=True)
class Case:
    """Samples as (second, value, life), and the rate after the last."""

    samples: tuple[tuple[float, float, tuple[str, int]], ...]
    want: Reading


def _samples(
    *pairs: tuple[float, float], life: tuple[str, int] = FIRST
) -> tuple[tuple[float, float, tuple[str, int]], ...]:
    return tuple((at, value, life) for at, value in pairs)


CASES = {
    "nothing seen": Case((), ONE),
    "one sample is no rate, whatever its value": Case(_samples((0, 1e6)), ONE),
    "two samples": Case(_samples((0, 1000), (2, 1600)), Signal(300, 2)),
    "a counter that stands": Case(_samples((0, 1000), (2, 1000)), Signal(0, 2)),
    "two samples too close": Case(_samples((0, 1000), (0.4, 1600)), CLOSE),
    "close enough to be a rate": Case(_samples((0, 1000), (0.5, 1600)), Signal(1200, 0.5)),
    "the window and not the day": Case(
        _samples((0, 0), (1, 1000), (2, 2000), (3, 2000), (4, 2000), (5, 2000), (6, 2000), (7, 2000)), Signal(0, 7)
    ),
    "the window is covered, not undercut": Case(_samples((0, 0), (3, 300), (6, 900)), Signal(150, 6)),
    "a sample at the very edge is the start": Case(_samples((0, 0), (1, 100), (6, 1100)), Signal(200, 6)),
    "lost scrapes stretch the span": Case(_samples((0, 0), (60, 6000)), Signal(100, 60)),
    "a value that fell starts anew": Case(_samples((0, 5000), (1, 5100), (2, 30)), ONE),
    "and counts from there": Case(_samples((0, 5000), (1, 5100), (2, 30), (4, 230)), Signal(100, 4)),
    "a container that restarted starts anew though its value is higher": Case(
        (*_samples((0, 50), (1, 100)), *_samples((2, 9000), life=RESTARTED)), ONE
    ),
    "and its rate is its own": Case(
        (*_samples((0, 50), (1, 100)), *_samples((2, 9000), (3, 9100), life=RESTARTED)), Signal(100, 3)
    ),
    "a clock that stepped back gives no negative rate": Case(_samples((300, 100), (0, 200)), CLOSE),
    "and heals within one window": Case(_samples((300, 100), (0, 200), (2, 300), (4, 400), (6, 500)), Signal(50, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_rate(name: str) -> None:
    """The increase per second over a window of five seconds, or why there is none."""
    case = CASES[name]
    window = CounterWindow(5.0)
    for at, value, life in case.samples:
        window.add(value, at=at, life=life)
    expected = case.want
    actual = window.rate()

    assert expected == actual


def test_a_window_holds_no_more_than_it_needs() -> None:
    """Samples of a day of scrapes do not pile up."""
    window = CounterWindow(5.0)
    for second in range(86_400):
        window.add(second * 10.0, at=float(second), life=FIRST)
    actual = window._samples

    assert len(actual) == 6
    assert window.rate() == Signal(10, 86_399)


@dataclass(frozen=True)
class Intervals:
    """Samples as (second, sum of seconds, count, life), and the mean after the last."""

    samples: tuple[tuple[float, float, float, tuple[str, int]], ...]
    want: Reading


def _intervals(
    *samples: tuple[float, float, float], life: tuple[str, int] = FIRST
) -> tuple[tuple[float, float, float, tuple[str, int]], ...]:
    return tuple((at, seconds, tokens, life) for at, seconds, tokens in samples)


INTERVALS = {
    "nothing seen": Intervals((), ONE),
    "one sample says nothing of now, whatever its mean": Intervals(_intervals((0, 40.0, 1000)), ONE),
    "the increase of one by that of the other": Intervals(
        _intervals((0, 40.0, 1000), (2, 46.0, 1200)), Signal(0.03, 2)
    ),
    "two samples too close": Intervals(_intervals((0, 40.0, 1000), (0.4, 46.0, 1200)), CLOSE),
    # In the window 100 tokens of 10 ms and 300 of 50 ms: (1 + 15) / 400, and not the mean of the two, 30 ms.
    "by tokens and not by scrapes": Intervals(
        _intervals((0, 0, 0), (3, 9.0, 100), (6, 10.0, 200), (9, 25.0, 500)), Signal(0.04, 9)
    ),
    "no token is no time": Intervals(_intervals((0, 40.0, 1000), (2, 40.0, 1000)), NO_TOKEN),
    "the window and not the day": Intervals(
        _intervals((0, 0, 0), (1, 90.0, 1000), (2, 90.0, 1000), (4, 90.0, 1000), (7, 90.0, 1000)), NO_TOKEN
    ),
    "a restart forgets both": Intervals(_intervals((0, 40.0, 1000), (2, 46.0, 1200), (3, 1.0, 20)), ONE),
    "and counts from there": Intervals(
        _intervals((0, 40.0, 1000), (2, 46.0, 1200), (3, 1.0, 20), (5, 2.0, 70)), Signal(0.02, 5)
    ),
    # Slower after the restart: its seconds have passed the last sample, its tokens have not.
    "a restart that only the count shows": Intervals(_intervals((0, 4.0, 1000), (2, 5.0, 1200), (4, 6.0, 100)), ONE),
    "and whose mean is its own": Intervals(
        _intervals((0, 4.0, 1000), (2, 5.0, 1200), (4, 6.0, 100), (6, 8.0, 200)), Signal(0.02, 6)
    ),
    "a restart that only the seconds show": Intervals(
        _intervals((0, 40.0, 100), (2, 45.0, 120), (4, 6.0, 600), (6, 8.0, 700)), Signal(0.02, 6)
    ),
    "a container that restarted starts anew though both are higher": Intervals(
        (*_intervals((0, 4.0, 100), (1, 5.0, 110)), *_intervals((2, 90.0, 9000), life=RESTARTED)), ONE
    ),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_mean_time_between_tokens(name: str) -> None:
    """The mean over a window of five seconds, weighted by tokens, or why there is none."""
    case = INTERVALS[name]
    window = InterTokenWindow(5.0)
    for at, seconds, tokens, life in case.samples:
        window.add(seconds=seconds, tokens=tokens, at=at, life=life)
    actual = window.mean()
    # A quotient of differences of rates: compared to the digits that it has.
    rounded = Signal(round(actual.value, 9), actual.sampled_at) if isinstance(actual, Signal) else actual

    assert case.want == rounded
