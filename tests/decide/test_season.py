"""What is kept of the last week, and what it says of the next minutes."""

from __future__ import annotations

from random import Random

import pytest

from modelfleet.api.modeldeployment import LearnedStatus
from modelfleet.decide.season import LEAST_LOAD, NO_WEEK, WEEK_SLOTS, Week, remember, seen_before

SLOT, DAY = 120.0, 86_400.0
MORNING = 1_000 * DAY + 8 * 3600.0
"""A whole number of slots."""
NEAR = 0.026
"""A level stands for loads that differ by up to this."""


def near(load: float) -> object:
    return pytest.approx(load, rel=NEAR)


def lived(*loads: tuple[float, float], week: Week = NO_WEEK) -> Week:
    """Let (time, load) pass."""
    for now, load in loads:
        week = remember(week, load, now=now)
    return week


def day(morning: float, high: float) -> list[tuple[float, float]]:
    """Return a load of 1 from an hour before a morning on, and a high one from then on for nine hours."""
    return [(morning + at * SLOT, high if 0 <= at < 270 else 1.0) for at in range(-30, 690)]


@pytest.mark.parametrize("days", [1, 7])
@pytest.mark.parametrize(
    ("before_seconds", "want"),
    {
        "the rise is further off than a start": (121.0, 1.0),
        "a start before": (120.0, 9.0),
        "a moment before": (1.0, 9.0),
        "once it is due": (0.0, 9.0),
        "to the end of its two minutes": (-119.0, 9.0),
        "and not beyond": (-120.0, 1.0),
    }.values(),
)
def test_what_rose_before_is_seen_a_start_ahead(days: int, before_seconds: float, want: float) -> None:
    """A day ago, or a week, whatever is seen now."""
    past = lived((MORNING - SLOT, 1.0), (MORNING, 9.0), (MORNING + SLOT, 1.0), (MORNING + 2 * SLOT, 1.0))
    now = MORNING + days * DAY - before_seconds

    for load in (1.0, 20.0):
        assert seen_before(lived((now, load), week=past), now=now, seconds=120.0) == near(want)


def test_a_week_is_believed_rather_than_a_day() -> None:
    """Monday is not like Sunday, nor Saturday like Friday."""
    loads = [9.0, 9.0, 9.0, 9.0, 9.0, 1.0, 1.0] * 2
    week, seen = NO_WEEK, []
    for number, high in enumerate(loads):
        morning = MORNING + number * DAY
        seen.append(seen_before(week, now=morning, seconds=120.0))
        week = lived(*day(morning, high), week=week)

    assert seen[:1] + seen[7:] == [0.0, *map(near, loads[7:])]
    assert seen[1:7] == [*map(near, [9.0, 9.0, 9.0, 9.0, 9.0, 1.0])]


def test_the_highest_of_two_minutes_is_kept() -> None:
    week = lived((MORNING, 2.0), (MORNING + 20, 7.0), (MORNING + 100, 3.0), (MORNING + SLOT, 1.0))

    assert seen_before(week, now=MORNING + DAY, seconds=0.0) == near(7.0)


@pytest.mark.parametrize("load", [0.06, 0.3, 1.0, 7.7, 64.0, 1000.0, 10_000.0])
def test_a_level_is_near_the_load(load: float) -> None:
    week = lived((MORNING, load), (MORNING + SLOT, 0.0))

    assert seen_before(week, now=MORNING + DAY, seconds=0.0) == near(load)


@pytest.mark.parametrize(("load", "least", "most"), [(0.0, 0.0, 0.0), (LEAST_LOAD, 0.0, 0.0), (1e9, 1e4, 2e4)])
def test_levels_have_a_lowest_and_a_highest(load: float, least: float, most: float) -> None:
    week = lived((MORNING, load), (MORNING + SLOT, 1.0))

    assert least <= seen_before(week, now=MORNING + DAY, seconds=0.0) <= most


def test_nothing_is_said_before_a_day_was_seen() -> None:
    young = lived(*((MORNING + at * SLOT, 5.0) for at in range(700)))

    assert seen_before(NO_WEEK, now=MORNING, seconds=300.0) == 0.0
    assert seen_before(young, now=MORNING + 699 * SLOT, seconds=300.0) == 0.0


@pytest.mark.parametrize("gap_slots", [1, 3, 719, WEEK_SLOTS - 1, WEEK_SLOTS, 5 * WEEK_SLOTS + 7])
def test_what_was_not_seen_is_unknown_and_not_what_it_was_a_week_before(gap_slots: int) -> None:
    full = lived(*((MORNING + at * SLOT, 5.0) for at in range(WEEK_SLOTS + 1)))
    assert WEEK_SLOTS - full.levels.count(0) == WEEK_SLOTS
    back = lived((MORNING + (WEEK_SLOTS + gap_slots) * SLOT, 5.0), week=full)

    unseen = min(gap_slots - 1, WEEK_SLOTS - 1)
    # The slot that goes on is still what it was a week ago, unless nothing was seen then.
    assert back.levels.count(0) == unseen + (gap_slots > WEEK_SLOTS)


def test_a_clock_that_is_put_back_loses_nothing_but_its_two_minutes() -> None:
    week = lived((MORNING, 2.0), (MORNING - 5 * SLOT, 3.0), (MORNING - 4 * SLOT, 1.0))

    assert seen_before(week, now=MORNING + DAY - 5 * SLOT, seconds=0.0) == near(3.0)
    assert seen_before(week, now=MORNING + DAY, seconds=0.0) == near(2.0)


def test_what_was_kept_is_not_changed() -> None:
    """A decision is a value of what was: the same past twice gives the same."""
    before = lived((MORNING, 2.0))
    kept = (before.slot, before.highest, before.levels)
    lived((MORNING + 10, 9.0), (MORNING + 3 * SLOT, 9.0), week=before)

    assert (before.slot, before.highest, before.levels) == kept


def test_a_restart_forgets_nothing_but_the_two_minutes_that_go_on() -> None:
    week = lived(*(point for number in range(9) for point in day(MORNING + number * DAY, 3.0 + number)))
    again = Week.resumed(week.slot, week.encoded)

    assert (again.slot, again.levels) == (week.slot, week.levels)
    ahead = [MORNING + 8 * DAY + at * SLOT for at in range(700, 5000, 7)]
    assert [seen_before(again, now=now, seconds=120.0) for now in ahead] == [
        seen_before(week, now=now, seconds=120.0) for now in ahead
    ]


def test_the_status_has_room_for_any_week() -> None:
    """Noise cannot be deflated."""
    noise = Week(0, 0, Random(1).randbytes(WEEK_SLOTS))
    (longest,) = LearnedStatus.model_fields["week_levels"].metadata

    assert len(noise.encoded) <= longest.max_length
    assert Week.resumed(0, noise.encoded) == noise


def _encoded(levels: bytes) -> str:
    return Week(0, 0, levels).encoded


@pytest.mark.parametrize(
    "encoded",
    ["", "AAAA", "no base64", "é" * 8, _encoded(b"short"), _encoded(bytes(10**7)), _encoded(bytes(WEEK_SLOTS))[:-8]],
)
def test_what_is_no_week_is_no_past(encoded: str) -> None:
    """Anyone who may write the status may write anything."""
    assert Week.resumed(2**31 - 1, encoded) == NO_WEEK
