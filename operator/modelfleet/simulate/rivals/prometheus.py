"""Prometheus, through which most rivals see the fleet: a scrape every 15 s, and its functions over the scrapes.

A counter that has vanished stays in a range until its samples are too old, and never makes a rate negative.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

SCRAPE_SECONDS: Final = 15.0
LOOK_SECONDS: Final = SCRAPE_SECONDS / 2.0
"""How often a policy behind Prometheus looks; every second look is a scrape.

The world lets a policy that looks as often as it decides do so right after looking. Prometheus and the loop that
asks it begin at unrelated moments, so a scrape is 0 to 15 s old when it is read: twice the looks, half of them
ignored, give that.
"""

Samples = Sequence[tuple[float, float]]
"""Times and values, in order of time."""


def counter_rate(samples: Samples, *, now: float, window_seconds: float) -> float | None:
    """Return what `rate(counter[window])` does: the increase per second, stretched to the window's ends.

    It is stretched to an end that is near (within 1.1 sample intervals), else by half an interval, and never to
    before the moment at which the counter would have been zero.

    Args:
        samples: Of one counter within the window; a counter never falls, for a new pod is a new counter.
        now: The window's end.
        window_seconds: Its length.

    Returns:
        None with fewer than two samples.

    Source:
        Prometheus promql/functions.go, extrapolatedRate.
    """
    if len(samples) < 2:
        return None
    (first_at, first), (last_at, last) = samples[0], samples[-1]
    increase, spanned = last - first, last_at - first_at
    interval = spanned / (len(samples) - 1)
    before = first_at - (now - window_seconds)
    after = now - last_at
    if before >= 1.1 * interval:
        before = interval / 2.0
    if increase > 0.0:
        before = min(before, spanned * first / increase)
    if after >= 1.1 * interval:
        after = interval / 2.0
    return increase * (spanned + before + after) / spanned / window_seconds


class CounterRange:
    """The scrapes of one counter of every pod within a window."""

    def __init__(self, window_seconds: float) -> None:
        """Begin without scrapes."""
        self._window_seconds = window_seconds
        self._samples: dict[str, deque[tuple[float, float]]] = {}

    def add(self, at: float, values: Iterable[tuple[str, float]]) -> None:
        """Take a scrape: pods' uids and their counters."""
        for uid, value in values:
            self._samples.setdefault(uid, deque()).append((at, value))

    def rate(self, now: float) -> float | None:
        """Return `sum(rate(counter[window]))`; None when no pod has two scrapes in the window."""
        begins = now - self._window_seconds
        total: float | None = None
        for uid, samples in list(self._samples.items()):
            while samples and samples[0][0] <= begins:
                samples.popleft()
            if not samples:
                del self._samples[uid]
                continue
            rate = counter_rate(tuple(samples), now=now, window_seconds=self._window_seconds)
            if rate is not None:
                total = rate + (total or 0.0)
        return total


class PeakRange:
    """`max_over_time(gauge[window])` of every pod."""

    def __init__(self, window_seconds: float) -> None:
        """Begin without scrapes."""
        self._window_seconds = window_seconds
        self._peaks: dict[str, deque[tuple[float, float]]] = {}

    def add(self, at: float, values: Iterable[tuple[str, float]]) -> None:
        """Take a scrape; pods that it lacks are forgotten, as a collector that looks pods up forgets them."""
        peaks: dict[str, deque[tuple[float, float]]] = {}
        for uid, value in values:
            # Falling values only: what an equal or higher one follows is no peak any more.
            samples = peaks[uid] = self._peaks.get(uid) or deque()
            while samples and samples[-1][1] <= value:
                samples.pop()
            samples.append((at, value))
        self._peaks = peaks

    def peaks(self, now: float) -> dict[str, float]:
        """Return the highest value of each pod within the window, pods without any left out."""
        begins = now - self._window_seconds
        for samples in self._peaks.values():
            while samples and samples[0][0] <= begins:
                samples.popleft()
        return {uid: samples[0][1] for uid, samples in self._peaks.items() if samples}


class FleetIncrease:
    """By how much a counter grew within a window, over all pods that were seen twice in it."""

    def __init__(self, window_seconds: float) -> None:
        """Begin without scrapes."""
        self._window_seconds = window_seconds
        self._last: dict[str, float] = {}
        self._total = 0.0
        self._totals: deque[tuple[float, float]] = deque()

    def add(self, at: float, values: Iterable[tuple[str, float]]) -> None:
        """Take a scrape: pods' uids and their counters."""
        last: dict[str, float] = {}
        for uid, value in values:
            self._total += value - self._last.get(uid, value)
            last[uid] = value
        self._last = last
        totals = self._totals
        totals.append((at, self._total))
        while len(totals) > 1 and totals[1][0] <= at - self._window_seconds:
            totals.popleft()

    def increase(self) -> float:
        """Return the growth from the window's first scrape to its last."""
        return self._totals[-1][1] - self._totals[0][1] if self._totals else 0.0
