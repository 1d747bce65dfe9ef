"""Step 3c, lateness: which part of the requests is late when replicas are filled to a share, learned from the past.

A load that comes evenly is served in time up to a full replica; one that comes in clumps has late requests at a
third of that. Both follow one curve with one parameter, its steepness k:

    late(u) = v^k / (1 + v^k),  v = u / 1.03

u is load over replicas as a request meets it (lookback.py). Which k fits is learned from the part of the tokens that
came slower than the limit of the time between them, or beside a queue, bucket by bucket: an engine tells it without a
saturation or a histogram. Each of eight curves keeps how badly it foretold that part, and the best one is believed.

Source: the Hill equation; fitted to constant fleets under eleven loads on three calibrations (design/0002).
"""

from bisect import bisect_left
from math import log
from typing import Final

from modelfleet.decide.value import value

STEEPNESS: Final[tuple[float, ...]] = (2.0, 3.0, 4.5, 7.0, 10.0, 15.0, 22.0, 32.0)
"""From bursts of seconds (code completion: 2 to 4) over Poisson arrivals of long requests (7 to 10) to many short
ones (20 and more)."""
HALF_LATE_SHARE: Final = 1.03
"""A bit over full: what waits for seconds is within usual limits of the first token."""
_HALF_LATE_PERCENT: Final = round(100.0 * HALF_LATE_SHARE)
PRIOR_STEEPNESS: Final = 22.0
"""Many even requests. What is hoped for is tried, and refuted by late tokens within minutes; what is feared is never
tried, for half empty replicas look alike under all steep curves."""
PRIOR_LOSS: Final = 5.0
"""Weight of the prior: a curve e times steeper or flatter begins with this much."""
SAMPLES: Final = 20.0
"""A bucket counts as so many requests, however many came: those of one bucket are late together."""
SURPRISE: Final = 0.005
"""No curve is believed beyond this: a scrape that failed or a node that stuttered makes requests late at any load."""
CLEARLY: Final = 1.0
"""Another curve is believed when the present one foretold the past worse by this much: a factor of e."""


@value
class Lateness:
    """What is known of one deployment.

    Attributes:
        losses: How badly each curve foretold the past, the best at 0.
        believed: Number of the curve that is believed.
    """

    losses: tuple[float, ...]
    believed: int

    @classmethod
    def expected(cls, steepness: float) -> "Lateness":
        """Return what to begin with when this steepness is expected."""
        losses = [PRIOR_LOSS * abs(log(k / steepness)) for k in STEEPNESS]
        return cls(tuple(losses), losses.index(min(losses)))

    @classmethod
    def resumed(cls, steepness_tenths: int) -> "Lateness":
        """Return what to begin with when an earlier process believed this; the prior where it is none of today's."""
        known = steepness_tenths / 10.0
        return cls.expected(known) if known in STEEPNESS else PRIOR

    @property
    def steepness_tenths(self) -> int:
        """The steepness that is believed, times ten, as the status keeps it."""
        return round(10.0 * STEEPNESS[self.believed])

    @property
    def share_in_time(self) -> float:
        """How far replicas may be filled for 99 % of the requests to be in time."""
        share: float = HALF_LATE_SHARE * 99.0 ** (-1.0 / STEEPNESS[self.believed])
        return share

    @property
    def late_in_range(self) -> tuple[float, ...]:
        """Which part of the requests is late in each range of SHARES."""
        return _LATE_IN_RANGE[self.believed]


PRIOR: Final = Lateness.expected(PRIOR_STEEPNESS)
"""Before anything was late."""


def late_share(share: float, steepness: float) -> float:
    """Return the part of the requests that is late.

    Args:
        share: Load over replicas, >= 0.
        steepness: k.
    """
    odds: float = (share / HALF_LATE_SHARE) ** steepness
    return odds / (1.0 + odds)


def _losses(share: float, steepness: float) -> tuple[float, float]:
    """Return how badly a curve foretells a late request, and one in time."""
    late = SURPRISE + (1.0 - 2.0 * SURPRISE) * late_share(share, steepness)
    return -SAMPLES * log(late), -SAMPLES * log(1.0 - late)


_LOSSES: Final = tuple(
    [tuple([_losses(percent / 100, k) for k in STEEPNESS]) for percent in range(_HALF_LATE_PERCENT + 1)]
)

SHARES: Final[tuple[float, ...]] = (
    0.2,
    0.35,
    0.5,
    0.6,
    0.7,
    0.75,
    0.8,
    0.85,
    0.9,
    0.95,
    1.0,
    1.05,
    1.1,
    1.2,
    1.35,
    2.0,
)
"""Where ranges of shares end, for who sums loads up by them: narrow where steep curves rise."""
LAST_PERCENT: Final = 200
"""What is filled further counts as twice of what it carries."""
RANGE_OF_PERCENT: Final = tuple([bisect_left(SHARES, percent / 100) for percent in range(LAST_PERCENT + 1)])
_MIDDLES: Final = [(low + high) / 2 for low, high in zip((0.0, *SHARES), SHARES, strict=False)]
_LATE_IN_RANGE: Final = tuple([tuple([late_share(middle, k) for middle in _MIDDLES]) for k in STEEPNESS])


def learn(known: Lateness, *, share: float, late: float, kept: float) -> Lateness:
    """Return what is known after one more bucket.

    Args:
        known: From the past.
        share: Load over replicas in the bucket, 0 to HALF_LATE_SHARE. How many are late in an overload is a matter of
            when it began: its first bucket would make every load look clumped.
        late: Part of its tokens that came late, 0 to 1.
        kept: What the past counts from now on, 0 to 1.
    """
    percent = int(100.0 * share)
    # A replica that is next to idle says next to nothing, and what comes late there waited for something else.
    weight = min(1.0, share * share)
    told = [
        kept * loss + weight * (late * if_late + (1.0 - late) * if_not)
        # As many losses as curves, and strict=True keeps mypyc from making this a loop.
        for loss, (if_late, if_not) in zip(known.losses, _LOSSES[percent])  # noqa: B905
    ]
    least = min(told)
    losses = tuple([loss - least for loss in told])
    return Lateness(losses, losses.index(0.0) if losses[known.believed] > CLEARLY else known.believed)
