"""Schedules of minimum and maximum, pauses of one direction, and modes that end by themselves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from pydantic import ValidationError

from modelfleet.api.conditions import ConditionType, Limit, Reason
from modelfleet.api.modeldeployment import Mode, Scaling, Schedule
from modelfleet.decide.bounds import in_force
from modelfleet.decide.explain import RECENT, headline, judge, mode_column, next_change, status
from tests.builders import NOW, behavior, deployment
from tests.decide.story import Story

UNDAMPED = behavior(down_window=0)
MODEL = deployment().bounds(1, 8).targets(tokens=800).behavior(UNDAMPED)
BERLIN_HOURS = Schedule(
    name="office-hours", time_zone="Europe/Berlin", start="0 8 * * mon-fri", end="0 18 * * mon-fri", min_replicas=3
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


WHEN = {
    "before it begins": ("2026-06-01T07:59:59+02:00", (1, "", "2026-06-01T08:00:00+02:00")),
    "the moment it begins": ("2026-06-01T08:00:00+02:00", (3, "office-hours", "2026-06-01T18:00:00+02:00")),
    "the moment it ends": ("2026-06-01T18:00:00+02:00", (1, "", "2026-06-02T08:00:00+02:00")),
    "a weekend": ("2026-06-06T12:00:00+02:00", (1, "", "2026-06-08T08:00:00+02:00")),
    "in winter the zone is an hour later": (
        "2026-12-01T07:30:00+00:00",
        (3, "office-hours", "2026-12-01T17:00:00+00:00"),
    ),
    "in summer the same hour is before it": ("2026-06-01T05:30:00+00:00", (1, "", "2026-06-01T06:00:00+00:00")),
}


@pytest.mark.parametrize("case", WHEN)
def test_a_schedule_holds_from_its_start_to_its_end(case: str) -> None:
    moment, expected = WHEN[case]
    limits = in_force(Scaling(schedules=(BERLIN_HOURS,)), at(moment))

    assert (limits.min_replicas, limits.min_of) == expected[:2]
    assert limits.until == at(expected[2])
    assert limits.then == "office-hours"


TURNS = {
    "it starts daily and ends once a year": (("0 0 * * *", "59 23 31 12 *"), "2026-06-01T12:00:00Z", True),
    "it ends daily and starts once a week": (("0 8 * * mon", "0 18 * * *"), "2026-06-02T12:00:00Z", False),
    "start and end at one moment: it is over": (("0 8 * * *", "0 8 * * mon"), "2026-06-01T08:00:00Z", False),
    "over midnight": (("0 23 * * *", "0 5 * * *"), "2026-06-01T02:00:00Z", True),
    "a leap day": (("0 0 29 2 *", "0 0 1 3 *"), "2028-02-29T12:00:00Z", True),
}


@pytest.mark.parametrize("case", TURNS)
def test_start_and_end_need_not_take_turns(case: str) -> None:
    (start, end), moment, expected = TURNS[case]
    schedule = Schedule(name="odd", start=start, end=end, min_replicas=3)

    assert (in_force(Scaling(schedules=(schedule,)), at(moment)).min_replicas == 3) is expected


CLOCK_CHANGES = {
    "the skipped hour: it begins when that ends": ("2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z"),
    "a day later at its own time": ("2026-03-30T00:29:59Z", "2026-03-30T00:30:00Z"),
    "the doubled hour: it begins once, the first time": ("2026-10-25T00:29:59Z", "2026-10-25T00:30:00Z"),
}


@pytest.mark.parametrize("case", CLOCK_CHANGES)
def test_clock_changes_are_the_zone_s(case: str) -> None:
    """Berlin goes from 2:00 to 3:00 on 29 March 2026, and from 3:00 back to 2:00 on 25 October."""
    before, begins = CLOCK_CHANGES[case]
    night = Schedule(name="night", time_zone="Europe/Berlin", start="30 2 * * *", end="0 5 * * *", min_replicas=3)
    scaling = Scaling(schedules=(night,))

    assert in_force(scaling, at(before)).min_of == ""
    assert in_force(scaling, at(before)).until == at(begins)
    assert in_force(scaling, at(begins)).min_of == "night"
    assert in_force(scaling, at(begins) + 3600).min_of == "night"


def test_an_answer_is_kept_until_it_may_change() -> None:
    scaling = Scaling(schedules=(BERLIN_HOURS,))
    first = in_force(scaling, at("2026-06-01T07:00:00+02:00"))

    assert in_force(scaling, at("2026-06-01T07:59:59+02:00"), first) is first
    assert in_force(scaling, at("2026-06-01T08:00:00+02:00"), first).min_of == "office-hours"
    assert in_force(scaling, at("2026-06-01T06:00:00+02:00"), first) is not first
    assert in_force(Scaling(min_replicas=2), at("2026-06-01T07:30:00+02:00"), first).min_replicas == 2


def always(name: str, *, least: int | None = None, most: int | None = None) -> Schedule:
    return Schedule(name=name, start="0 0 1 1 *", end="59 23 31 12 *", min_replicas=least, max_replicas=most)


OVERLAPS = {
    "one raises both": ((always("a", least=5, most=20),), (5, 20, "a", "a")),
    "the largest minimum, the smallest maximum": (
        (always("a", least=2, most=20), always("b", least=3, most=12)),
        (3, 12, "b", "b"),
    ),
    "each of another": ((always("a", least=4), always("b", most=6)), (4, 6, "a", "b")),
    "the maximum wins where they cross": ((always("a", least=6, most=9), always("b", most=2)), (2, 2, "b", "b")),
    "a lower maximum takes the minimum of the deployment with it": ((always("a", most=1),), (1, 1, "a", "a")),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_schedules_that_overlap(case: str) -> None:
    schedules, expected = OVERLAPS[case]
    limits = in_force(Scaling(min_replicas=2, max_replicas=8, schedules=schedules), NOW)

    assert (limits.min_replicas, limits.max_replicas, limits.min_of, limits.max_of) == expected


BAD = {
    "timeZone": ({"timeZone": "Europe/Berln"}, "no time zone 'Europe/Berln'"),
    "start": ({"start": "61 8 * * *"}, "'61 8 * * *' is no cron expression"),
    "end": ({"end": "0 0 31 2 *"}, "(Bad day-of-month)"),
    "nothing": ({"minReplicas": None}, "minReplicas or maxReplicas must be given"),
    "no span": ({"end": "0 8 * * *"}, "start and end must differ"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_schedule_that_cannot_be_read_names_its_field(case: str) -> None:
    changes, message = BAD[case]
    good = {"name": "day", "start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 2}
    Schedule.model_validate(good)
    with pytest.raises(ValidationError) as refused:
        Schedule.model_validate({**good, **changes})
    (fault,) = refused.value.errors()

    assert message in fault["msg"]
    assert fault["loc"] == ((case,) if case in {"timeZone", "start", "end"} else ())


def test_a_minimum_beyond_the_maximum_is_refused() -> None:
    with pytest.raises(ValidationError, match="minReplicas of a must not be greater than maxReplicas 4"):
        Scaling(schedules=(always("a", least=5),))
    with pytest.raises(ValidationError, match="one name twice"):
        Scaling(schedules=(always("a", least=2), always("a", least=3)))


def test_a_schedule_raises_the_floor_and_lets_it_go() -> None:
    """NOW is 13:46:40 UTC: from 14:00 three replicas are kept, and from 14:30 the load alone decides."""
    hour = Schedule(name="peak", start="0 14 * * *", end="30 14 * * *", min_replicas=3)
    story = Story(MODEL.schedules(hour), start_seconds=10.0)
    before = story.play(790, requests_per_second=2)
    during = story.play(20, requests_per_second=2)
    story.play(600, requests_per_second=2)
    assert story.decision is not None and story.plan is not None
    memory = story.history[story.decision.key]
    observed = story.made.asks(story.replicas).build(story.now)
    told = status(observed, story.decision, memory, previous=None, now=story.now)

    assert set(before) == {1}
    assert during[-1] == 3
    assert story.decision.limited_by is Limit.SCHEDULE
    assert told.bounds == "3-8 (peak)"
    assert told.limited_by == "Schedule"
    assert told.reason != "Schedule"  # a floor is nothing that is wrong
    assert told.decision is not None
    assert told.decision.unblock == (
        "the end of schedule peak at 14:30Z; or lower minReplicas of peak in spec.scaling.schedules to 1"
    )
    assert told.decision.next_change == "schedule peak begins or ends"
    assert told.decision.next_change_at == datetime(1970, 1, 12, 14, 30, tzinfo=UTC)
    assert "minReplicas 3 of schedule peak, maxReplicas 8" in [step.detail for step in told.decision.steps]
    assert story.play(1500, requests_per_second=2)[-1] == 1


def test_paused_scale_in_only_adds() -> None:
    story = Story(MODEL.mode(Mode.PAUSED_SCALE_IN), replicas=4, start_seconds=10.0)
    idle = story.play(60, requests_per_second=1)
    assert story.decision is not None
    limited = story.decision.limited_by
    busy = story.play(200, requests_per_second=30)

    assert set(idle) == {4}
    assert limited is Limit.PAUSED_SCALE_IN
    assert busy[-1] > 4
    assert sorted(busy) == busy


def test_paused_scale_out_only_removes_and_leaves_gpus_to_others() -> None:
    story = Story(MODEL.mode(Mode.PAUSED_SCALE_OUT), replicas=4, start_seconds=10.0)
    busy = story.play(100, requests_per_second=40)
    assert story.decision is not None
    limited = story.decision.limited_by
    story.queue = 0.0
    idle = story.play(400, requests_per_second=1)

    assert set(busy) == {4}
    assert limited is Limit.PAUSED_SCALE_OUT
    assert idle[-1] < 4
    assert sorted(idle, reverse=True) == idle


@pytest.mark.parametrize("mode", [Mode.PAUSED, Mode.RECOMMEND, Mode.PAUSED_SCALE_OUT])
def test_a_mode_ends_by_itself(mode: Mode) -> None:
    """What is paused for ten minutes is not for eleven; the spec still says Paused, the column says Auto."""
    until = datetime.fromtimestamp(NOW + 600, UTC)
    story = Story(MODEL.mode(mode, until=until), replicas=2, start_seconds=10.0)
    held = story.play(599, requests_per_second=30)
    assert story.decision is not None
    decision = story.decision
    observed = story.made.asks(story.replicas).build(story.now)
    change = next_change(decision, story.history[decision.key], story.now)
    then = story.play(30, requests_per_second=30)

    assert set(held) == {2}
    assert mode_column(decision.in_force) == f"{mode.value} until 13:56Z"
    assert change == (NOW + 600, f"mode {mode.value} ends")
    scaling = next(verdict for verdict in judge(observed, decision) if verdict.type is ConditionType.SCALING)
    assert f"spec.scaling.mode is {mode.value} until 13:56Z" in scaling.message
    assert then[-1] > 2
    assert mode_column(story.decision.in_force) == "Auto"
    assert headline(observed, decision).mode != headline(observed, story.decision).mode


def test_a_mode_that_ends_another_day_says_which() -> None:
    until = f"{datetime.fromtimestamp(NOW, UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"

    assert mode_column(in_force(Scaling(mode=Mode.PAUSED, mode_until=until), NOW)) == "Paused until 1970-01-14 13:46Z"
    assert mode_column(in_force(Scaling(mode=Mode.AUTO, mode_until=until), NOW)) == "Auto"


def test_the_status_remembers_what_changed_and_no_more() -> None:
    """An entry for each change of desired or reason, the last twenty of them, over a restart too."""
    story = Story(MODEL, replicas=1, start_seconds=2.0)
    told = None
    for load in (2, 30) * 30:
        story.play(150, requests_per_second=load)
        assert story.decision is not None
        observed = replace(story.made.asks(story.replicas).build(story.now), pods=())
        for _ in range(2):
            told = status(observed, story.decision, story.history[story.decision.key], previous=told, now=story.now)
    assert told is not None

    assert len(told.recent) == RECENT
    pairs = [(past.desired, past.reason) for past in told.recent]
    assert all(one != next_one for one, next_one in pairwise(pairs))
    assert told.recent[-1].desired == told.desired_replicas
    assert [past.at for past in told.recent] == sorted(past.at for past in told.recent)
    assert told.recent[-1].output_tokens_per_second is not None
    assert len(told.model_dump_json(by_alias=True, exclude_none=True)) < 8_000
    assert Reason.PAUSED not in {past.reason for past in told.recent}
