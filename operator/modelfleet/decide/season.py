"""What a load was a day ago, minute by minute: people keep hours, and jobs run by the clock.

A rise that is steeper than a pod's start is no trend when it is seen. If it came at this time yesterday it may come
again; whether that is worth asking for is the lookback's to find out (lookback.py).
"""

from array import array
from typing import Final

from modelfleet.decide.value import value

MINUTE_SECONDS: Final = 60.0
DAY_MINUTES: Final = 1440
UNKNOWN: Final = -1.0


@value
class Day:
    """The last day of a load.

    Attributes:
        minute: The last one that was seen, since the epoch.
        loads: The highest load of each minute of the day, in replicas; UNKNOWN where none was seen. Empty at first.
    """

    minute: int
    loads: "array[float]"


NO_DAY: Final = Day(0, array("f"))
"""Before the first load."""


def remember(day: Day, load: float, *, now: float) -> Day:
    """Add a load, in replicas, that is seen now: seconds since the epoch."""
    minute = int(now // MINUTE_SECONDS)
    place = minute % DAY_MINUTES
    if not day.loads:
        loads = array("f", [UNKNOWN]) * DAY_MINUTES
        loads[place] = load
        return Day(minute, loads)
    loads = day.loads[:]
    if minute == day.minute:
        loads[place] = max(loads[place], load)
        return Day(minute, loads)
    # Of minutes without a load nothing is known, not even what they were a day before.
    for unseen in range(max(day.minute + 1, minute - DAY_MINUTES + 1), minute):
        loads[unseen % DAY_MINUTES] = UNKNOWN
    loads[place] = load
    return Day(minute, loads)


def a_day_ago(day: Day, *, now: float, seconds: float) -> float:
    """Return the highest load, in replicas, that came within so long after this moment a day ago; 0 if none was seen.

    The minute in which that ends counts, and the next: within a minute nobody knows when a load rose.
    """
    if not day.loads:
        return 0.0
    minute, last = int(now // MINUTE_SECONDS), int((now + seconds) // MINUTE_SECONDS) + 1
    # This minute itself is today's already.
    ahead = range(minute + 1, min(last, minute + DAY_MINUTES - 1) + 1)
    return max([day.loads[each % DAY_MINUTES] for each in ahead] + [0.0])
