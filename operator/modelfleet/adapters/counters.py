"""Rates from raw counters, per process life.

A counter belongs to one life of one process: (pod UID, container restarts). A new life starts a new
window; a value that fell without a new life does too, and nothing is extrapolated across either.
"""

from collections import deque
from dataclasses import dataclass, field

from modelfleet.decide.snapshot import Missing, Reading, Signal

MIN_SPAN_SECONDS = 0.5
"""Two samples closer than this say more about scrape jitter than about a rate."""
NO_TOKEN = Missing("no token in the rate window", fault=False)


@dataclass(slots=True)
class CounterWindow:
    """The samples of one counter over the last seconds of one process life."""

    window_seconds: float
    _samples: deque[tuple[float, float]] = field(default_factory=deque)
    _life: tuple[str, int] = ("", -1)

    def add(self, value: float, *, at: float, life: tuple[str, int]) -> None:
        """Add a sample; a new life or a fallen value forgets the earlier ones."""
        if life != self._life or self.falls(value):
            self.forget()
            self._life = life
        self._samples.append((at, value))
        # Keep one sample at or beyond the window's start, so that the span covers the window.
        while len(self._samples) > 2 and self._samples[1][0] <= at - self.window_seconds:
            self._samples.popleft()

    def falls(self, value: float) -> bool:
        """Return whether a value is below the last one."""
        return bool(self._samples) and value < self._samples[-1][1]

    def forget(self) -> None:
        """Forget every sample."""
        self._samples.clear()

    def rate(self) -> Reading:
        """Return the increase per second over the window, or why there is none yet."""
        if len(self._samples) < 2:
            return Missing("one sample of the counter so far; a rate needs two")
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        if last_at - first_at < MIN_SPAN_SECONDS:
            return Missing("two samples of the counter are too close for a rate")
        return Signal((last - first) / (last_at - first_at), last_at)


class InterTokenWindow:
    """The mean time between tokens over the last seconds: the increase of a histogram's sum by that of its count."""

    def __init__(self, window_seconds: float) -> None:
        """Start without samples."""
        self._seconds = CounterWindow(window_seconds)
        self._tokens = CounterWindow(window_seconds)

    def add(self, *, seconds: float, tokens: float, at: float, life: tuple[str, int]) -> None:
        """Add a sample of both counters; a new life, or either's fall, forgets the earlier ones of both."""
        # After a restart one of the two may already be above its last sample: their spans must not differ.
        if self._seconds.falls(seconds) or self._tokens.falls(tokens):
            self._seconds.forget()
            self._tokens.forget()
        self._seconds.add(seconds, at=at, life=life)
        self._tokens.add(tokens, at=at, life=life)

    def mean(self) -> Reading:
        """Return the seconds between two tokens over the window, or why there is no value."""
        seconds, tokens = self._seconds.rate(), self._tokens.rate()
        if isinstance(seconds, Missing):
            return seconds
        if isinstance(tokens, Missing):
            return tokens
        if tokens.value == 0:
            return NO_TOKEN
        return Signal(seconds.value / tokens.value, tokens.sampled_at)
