"""Rates from raw counters, per process life.

A counter belongs to one life of one process: (pod UID, container restarts). A new life starts a new
window; a value that fell without a new life does too, and nothing is extrapolated across either.
"""

from collections import deque
from dataclasses import dataclass, field

from modelfleet.decide.snapshot import Missing, Reading, Signal

MIN_SPAN_SECONDS = 0.5
"""Two samples closer than this say more about scrape jitter than about a rate."""


@dataclass(slots=True)
class CounterWindow:
    """The samples of one counter over the last seconds of one process life."""

    window_seconds: float
    _samples: deque[tuple[float, float]] = field(default_factory=deque)
    _life: tuple[str, int] = ("", -1)

    def add(self, value: float, *, at: float, life: tuple[str, int]) -> None:
        """Add a sample; a new life or a fallen value forgets the earlier ones."""
        if life != self._life or (self._samples and value < self._samples[-1][1]):
            self._samples.clear()
            self._life = life
        self._samples.append((at, value))
        # Keep one sample at or beyond the window's start, so that the span covers the window.
        while len(self._samples) > 2 and self._samples[1][0] <= at - self.window_seconds:
            self._samples.popleft()

    def rate(self) -> Reading:
        """Return the increase per second over the window, or why there is none yet."""
        if len(self._samples) < 2:
            return Missing("one sample of the counter so far; a rate needs two")
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        if last_at - first_at < MIN_SPAN_SECONDS:
            return Missing("two samples of the counter are too close for a rate")
        return Signal((last - first) / (last_at - first_at), last_at)
