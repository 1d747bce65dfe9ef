"""What a load was a week ago, or a day: people keep hours, and jobs run by the clock.

A rise that is steeper than a pod's start is no trend when it is seen. If it came at this time before it may come
again; whether that is worth asking for is the lookback's to find out (lookback.py). The load of a week is kept so
small that the status holds it, for the process after a restart.
"""

from base64 import b64decode, b64encode
from math import log
from typing import Final
from zlib import compress, decompressobj, error

from modelfleet.decide.value import value

SLOT_SECONDS: Final = 120.0
"""As long as a start or less: what is expected of a slot is held from a start before it to its end."""
DAY_SLOTS: Final = 720
WEEK_SLOTS: Final = 7 * DAY_SLOTS
UNKNOWN: Final = 0
"""A level of its own, below all loads."""
LEAST_LOAD: Final = 0.05
"""In replicas: what is less is level 1, and none."""
LEVEL_STEP: Final = 1.05
"""From level to level: 254 of them reach beyond 10,000 replicas."""
LOADS: Final[tuple[float, ...]] = (0.0, 0.0, *[LEAST_LOAD * LEVEL_STEP**above for above in range(1, 255)])
"""What each level stands for, in replicas."""


@value
class Week:
    """The last week of a load.

    Attributes:
        slot: The one that goes on, counted from the epoch.
        highest: Level of its highest load so far; UNKNOWN before one was seen.
        levels: For each slot of a week the level of its highest load, UNKNOWN where none was seen: from `slot` on those
            of a week ago. Empty at first.
    """

    slot: int
    highest: int
    levels: bytes

    @classmethod
    def resumed(cls, slot: int, encoded: str) -> "Week":
        """Return what an earlier process kept; what is none is no past."""
        inflate = decompressobj()
        try:
            # A few characters can stand for any number of bytes.
            levels = inflate.decompress(b64decode(encoded, validate=True), WEEK_SLOTS + 1)
        except (ValueError, error):
            return NO_WEEK
        return cls(slot, UNKNOWN, levels) if inflate.eof and len(levels) == WEEK_SLOTS else NO_WEEK

    @property
    def encoded(self) -> str:
        """The levels, deflated, in printable characters."""
        return b64encode(compress(self.levels)).decode()


NO_WEEK: Final = Week(0, UNKNOWN, b"")
"""Before the first load."""


def remember(week: Week, load: float, *, now: float) -> Week:
    """Add a load, in replicas, that is seen now: seconds since the epoch."""
    slot, level = int(now // SLOT_SECONDS), _level(load)
    if slot == week.slot:
        return week if level <= week.highest else Week(slot, level, week.levels)
    if not week.levels:
        return Week(slot, level, bytes(WEEK_SLOTS))
    levels = bytearray(week.levels)
    levels[week.slot % WEEK_SLOTS] = week.highest
    # Of times without a load nothing is known, not even what they were a week before.
    for unseen in range(max(week.slot + 1, slot - WEEK_SLOTS), slot):
        levels[unseen % WEEK_SLOTS] = UNKNOWN
    return Week(slot, level, bytes(levels))


def _level(load: float) -> int:
    """Return the nearest level."""
    if load <= LEAST_LOAD:
        return 1
    return min(len(LOADS) - 1, 1 + round(log(load / LEAST_LOAD, LEVEL_STEP)))


def seen_before(week: Week, *, now: float, seconds: float) -> float:
    """Return the highest load, in replicas, from now on for so long a week ago, or a day; 0 if none was seen.

    What a week knows of it a day is not asked: Monday is not like Sunday.
    """
    if not week.levels:
        return 0.0
    first, last = int(now // SLOT_SECONDS), int((now + seconds) // SLOT_SECONDS)
    return max([_before(week, slot) for slot in range(first, min(last, first + DAY_SLOTS - 1) + 1)])


def _before(week: Week, slot: int) -> float:
    """Return the load of a slot a week before, or else a day."""
    return LOADS[week.levels[slot % WEEK_SLOTS] or week.levels[(slot - DAY_SLOTS) % WEEK_SLOTS]]
