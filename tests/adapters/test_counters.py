"""Rates from raw counters: per life of a process, over a window, never extrapolated."""

from dataclasses import dataclass

import pytest

from modelfleet.adapters.counters import CounterWindow
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
