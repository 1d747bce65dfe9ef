"""What is kept of the last day, and what it says of the next minutes."""

from __future__ import annotations

import pytest

from modelfleet.decide.season import NO_DAY, Day, a_day_ago, remember

MINUTE, DAY = 60.0, 86_400.0
MORNING = 1_000 * DAY + 8 * 60 * MINUTE


def lived(*loads: tuple[float, float], day: Day = NO_DAY) -> Day:
    """Let (time, load) pass."""
    for now, load in loads:
        day = remember(day, load, now=now)
    return day


@pytest.mark.parametrize(
    ("before_seconds", "want"),
    {
        "the rise is further off than a start": (200.0, 1.0),
        "a start and a minute before, for within a minute nobody knows when": (180.0, 9.0),
        "a start before": (120.0, 9.0),
        "a moment before": (10.0, 9.0),
    }.values(),
)
def test_what_rose_a_day_ago_is_seen_a_start_ahead(before_seconds: float, want: float) -> None:
    yesterday = lived(*((MORNING + at * MINUTE, 9.0 if at >= 0 else 1.0) for at in range(-600, 600)))
    now = MORNING + DAY - before_seconds
    today = lived((now, 1.0), day=yesterday)

    assert a_day_ago(today, now=now, seconds=120.0) == want


def test_a_fall_is_seen_too() -> None:
    """Only what comes counts: not what was high until now."""
    yesterday = lived(*((MORNING + at * MINUTE, 9.0 if at <= 0 else 1.0) for at in range(-600, 600)))
    now = MORNING + DAY

    assert a_day_ago(lived((now, 9.0), day=yesterday), now=now, seconds=120.0) == 1.0


def test_the_highest_of_a_minute_is_kept() -> None:
    day = lived((MORNING, 2.0), (MORNING + 10, 7.0), (MORNING + 50, 3.0), (MORNING + MINUTE, 1.0))

    assert a_day_ago(day, now=MORNING + DAY - 50, seconds=0.0) == 7.0


def test_nothing_is_said_before_a_day_was_seen() -> None:
    young = lived(*((MORNING + at * MINUTE, 5.0) for at in range(600)))

    assert a_day_ago(NO_DAY, now=MORNING, seconds=300.0) == 0.0
    assert a_day_ago(young, now=MORNING + 599 * MINUTE, seconds=300.0) == 0.0


@pytest.mark.parametrize("gap_minutes", [30, 1439, 1440, 5 * 1440 + 7])
def test_what_was_not_seen_is_unknown_and_not_what_it_was_a_day_before(gap_minutes: int) -> None:
    full = lived(*((MORNING + at * MINUTE, 5.0) for at in range(1440)))
    back = MORNING + (1439 + gap_minutes) * MINUTE
    day = lived((back, 1.0), day=full)

    unseen = MORNING + 1439 * MINUTE + min(gap_minutes, 1440) / 2 * MINUTE + DAY * ((gap_minutes - 1) // 1440)
    assert a_day_ago(day, now=unseen + DAY - 2 * MINUTE, seconds=0.0) == (0.0 if gap_minutes > 2 else 5.0)
    seen = [load for load in day.loads if load >= 0]
    assert len(seen) == max(1, 1440 - gap_minutes + 1)


def test_a_clock_that_is_put_back_loses_nothing_but_its_minute() -> None:
    day = lived((MORNING, 2.0), (MORNING - 5 * MINUTE, 3.0), (MORNING - 4 * MINUTE, 1.0))

    assert a_day_ago(day, now=MORNING + DAY - 6 * MINUTE, seconds=0.0) == 3.0


def test_what_was_kept_is_not_changed() -> None:
    """A decision is a value of what was: the same past twice gives the same."""
    before = lived((MORNING, 2.0))
    kept = list(before.loads)
    lived((MORNING + 10, 9.0), (MORNING + 3 * MINUTE, 9.0), day=before)

    assert list(before.loads) == kept
