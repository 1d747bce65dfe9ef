"""Which settings are tried, what a run is worth on each half, and that the first half alone chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from modelfleet.cli.simulate_tables import BEST, choices_table
from modelfleet.simulate.arrivals import Arrival, Lengths
from modelfleet.simulate.calibration import load_replica_model
from modelfleet.simulate.frontier import (
    Half,
    Job,
    Knob,
    Outcome,
    Point,
    best_rival,
    equal_attainment,
    equal_cost,
    pareto,
    play_job,
    play_jobs,
    points,
    representatives,
    sweep,
    usd,
    what_if,
)
from modelfleet.simulate.policy import Circumstances, Kind, Setting
from modelfleet.simulate.registry import KINDS, ORACLE, OURS, UnknownPolicy, kind_named
from modelfleet.simulate.rivals import static
from modelfleet.simulate.score import Score
from modelfleet.simulate.shapes import Shape, shape_arrivals
from modelfleet.simulate.world import Start

MODEL = load_replica_model("llama-3-8b-a100")
START = Start.of(60.0)
LOAD = tuple(
    shape_arrivals(
        Shape.STEP,
        requests_per_second=8.0,
        duration_seconds=240.0,
        lengths=Lengths(prompt_tokens=1500, output_tokens=50),
        seed=1,
    )
)


def circumstances(arrivals: Sequence[Arrival] = LOAD) -> Circumstances:
    return Circumstances(MODEL, START.seconds, 2.0, 0.05, arrivals)


def point(
    policy: str,
    *,
    first: tuple[float, float],
    second: tuple[float, float] = (0.0, 0.0),
    target: float = 1.0,
    violations: float = 0.0,
) -> Point:
    """GPU-hours and attainment on each half."""
    return Point(policy, Setting(target, 1, 8), Half(*first, violations=violations), Half(*second, violations=0.0))


CHEAP = point("a", first=(1.0, 0.80), second=(9.0, 0.10), target=1)
MIDDLE = point("a", first=(2.0, 0.95), second=(1.0, 0.99), target=2)
DEAR = point("a", first=(3.0, 0.99), second=(2.0, 0.50), target=3)


@pytest.mark.parametrize(
    ("tried", "want"),
    {
        "what costs more and attains more stays": ([DEAR, CHEAP, MIDDLE], [CHEAP, MIDDLE, DEAR]),
        "what costs more and attains less goes": (
            [CHEAP, worse := point("a", first=(1.5, 0.70), second=(0.1, 1.0)), DEAR],
            [CHEAP, DEAR],
        ),
        "what costs the same and attains less goes": ([point("a", first=(1.0, 0.79)), CHEAP], [CHEAP]),
        "what costs more and attains the same goes": ([point("a", first=(1.1, 0.80)), CHEAP], [CHEAP]),
        "of equals the first stays": ([CHEAP, replace(CHEAP, setting=Setting(9.0, 1, 8))], [CHEAP]),
        "policies do not beat each other": ([CHEAP, worse, rival := replace(worse, policy="b")], [CHEAP, rival]),
        "nothing": ([], []),
    }.values(),
)
def test_the_pareto_optimal_settings_of_the_first_half(tried: list[Point], want: list[Point]) -> None:
    """A better second half saves no setting: that would be choosing with hindsight."""
    assert list(pareto(tried)) == want


@pytest.mark.parametrize(
    ("tried", "goal", "want"),
    {
        "the cheapest that reached it, whatever came of it later": ([CHEAP, DEAR, MIDDLE], 0.95, {"a": MIDDLE}),
        "just reached is reached": ([CHEAP, MIDDLE], 0.80, {"a": CHEAP}),
        "none reached it": ([CHEAP, MIDDLE], 0.999, {"a": None}),
        "each policy by itself": (
            [MIDDLE, other := point("b", first=(5.0, 0.95)), point("c", first=(0.1, 0.5))],
            0.9,
            {"a": MIDDLE, "b": other, "c": None},
        ),
        "the same cost: what attains more": (
            [point("a", first=(2.0, 0.96)), best := point("a", first=(2.0, 0.97), target=7)],
            0.95,
            {"a": best},
        ),
    }.values(),
)
def test_equal_attainment(tried: list[Point], goal: float, want: dict[str, Point | None]) -> None:
    assert equal_attainment(tried, goal=goal) == want


@pytest.mark.parametrize(
    ("tried", "budget", "want"),
    {
        "the fewest violations that it pays for": (
            [
                point("a", first=(1.0, 0.8), violations=20),
                affordable := point("a", first=(2.0, 0.9), violations=10),
                point("a", first=(2.1, 1.0), violations=0),
            ],
            2.0,
            {"a": affordable},
        ),
        "none is cheap enough": ([DEAR], 2.9, {"a": None}),
        "the same violations: the cheaper": (
            [point("a", first=(2.0, 0.9), violations=5), cheaper := point("a", first=(1.0, 0.9), violations=5)],
            3.0,
            {"a": cheaper},
        ),
    }.values(),
)
def test_equal_cost(tried: list[Point], budget: float, want: dict[str, Point | None]) -> None:
    assert equal_cost(tried, gpu_hours=budget) == want


def test_a_policy_that_misses_the_goal_is_represented_by_what_came_nearest() -> None:
    tried = [CHEAP, MIDDLE, DEAR, near := point("b", first=(1.0, 0.7)), point("b", first=(2.0, 0.6))]

    assert representatives(tried, goal=0.9) == {"a": MIDDLE, "b": near}


@pytest.mark.parametrize(
    ("tried", "want"),
    {
        "the cheapest at the goal": (
            {"x": point("x", first=(3.0, 0.99)), "y": point("y", first=(2.0, 0.96)), "z": point("z", first=(1.0, 0.5))},
            "y",
        ),
        "none at the goal: the nearest": (
            {"x": point("x", first=(3.0, 0.8)), "y": point("y", first=(2.0, 0.7))},
            "x",
        ),
        "neither ours nor the oracle": (
            {
                OURS: point(OURS, first=(1.0, 1.0)),
                ORACLE: point(ORACLE, first=(1.0, 1.0)),
                "x": point("x", first=(9.0, 0.1)),
            },
            "x",
        ),
        "nobody": ({OURS: point(OURS, first=(1.0, 1.0))}, None),
    }.values(),
)
def test_the_best_rival(tried: dict[str, Point], want: str | None) -> None:
    assert best_rival(tried, goal=0.95) == want


def score(gpu_hours: float, attainment: float, violations: int) -> Score:
    return Score("a", 1.0, 1, gpu_hours, attainment, violations, 100, 0.1, 0.2, 10.0, 20.0, 0.0, 2, 0)


def test_seeds_become_medians_on_each_half() -> None:
    job = Job("a", Setting(1.0, 1, 8), START, 0)
    other = replace(job, setting=Setting(2.0, 1, 8))
    whole = score(0.0, 0.0, 0)
    outcomes = [
        Outcome(job, whole, score(1.0, 0.9, 10), score(4.0, 0.5, 50), None),
        Outcome(replace(job, seed=1), whole, score(3.0, 0.7, 30), score(6.0, 0.1, 90), None),
        Outcome(other, whole, score(7.0, 0.6, 40), score(8.0, 0.8, 20), None),
        Outcome(replace(job, seed=2), whole, score(2.0, 0.8, 20), score(5.0, 0.3, 70), None),
    ]

    assert points(outcomes) == (
        Point("a", job.setting, Half(2.0, 0.8, 20), Half(5.0, 0.3, 70)),
        Point("a", other.setting, Half(7.0, 0.6, 40), Half(8.0, 0.8, 20)),
    )


def kind(name: str, *, tunes_minimum: bool = True) -> Kind:
    def build(setting: Setting, circumstances: Circumstances) -> None:
        raise AssertionError

    return Kind(name, name, "", lambda model: (10.0, 5.0), lambda model: 10.0, build, tunes_minimum)


# 1,500 prompt tokens of 0.0671 ms and 50 output tokens with their KV are 0.117 s of a replica's steps: 400 of them in
# 10 s, with 76 % of a step left by its constant part and 80 % of that wanted, need 400 x 0.117 / 10 / 0.76 / 0.8 = 7.7.
PEAK = tuple([Arrival(0.0, 1500, 50)] * 400)


@pytest.mark.parametrize(
    ("least", "most", "tunes", "want"),
    {
        "quarters of what the peak needs": (1, 8, True, [1, 2, 4, 6]),
        "a lavish maximum changes nothing": (1, 1000, True, [1, 2, 4, 6]),
        "a maximum below the peak": (1, 4, True, [1, 2, 3]),
        "never below the lowest": (5, 8, True, [5, 6]),
        "a policy that does not tune it": (1, 8, False, [1]),
        "one replica": (1, 1, True, [1]),
    }.values(),
)
def test_a_sweep_is_every_target_with_every_minimum(least: int, most: int, tunes: bool, want: list[int]) -> None:
    kinds = [kind("a", tunes_minimum=tunes), kind("b", tunes_minimum=tunes)]

    assert sweep(kinds, circumstances(PEAK), min_replicas=least, max_replicas=most) == tuple(
        (name, Setting(target, minimum, most)) for name in ("a", "b") for target in (10.0, 5.0) for minimum in want
    )


def test_of_settings_that_are_equal_on_the_first_half_the_more_cautious_is_chosen() -> None:
    """Targets go from cheap to costly: the first half does not tell them apart, the second may."""
    equals = [replace(CHEAP, setting=Setting(float(target), 1, 8)) for target in (1, 2, 3)]

    assert equal_attainment(equals, goal=0.5) == {"a": equals[-1]}
    assert equal_cost(equals, gpu_hours=2.0) == {"a": equals[-1]}


def test_what_missed_the_goal_is_no_best() -> None:
    """The cheapest of all is worth nothing where it serves nobody in time."""
    chosen = {
        name: point(name, first=(1.0, 1.0), second=second)
        for name, second in {"keda": (1.0, 0.2), "static": (4.0, 0.99), "kubeai": (5.0, 0.98)}.items()
    }

    def hours(goal: float) -> list[str]:
        table = choices_table(chosen, none="", price=None, goal=goal)
        return [str(cell) for cell in table.columns[3].cells]

    assert [BEST in cell for cell in hours(0.95)] == [False, True, False]
    assert [BEST in cell for cell in hours(0.0)] == [True, False, False]


def test_a_sweep_of_constant_fleets_is_each_size_within_the_bounds_once() -> None:
    tried = sweep([static.KIND], circumstances(PEAK), min_replicas=2, max_replicas=5)

    assert tried == tuple(("static", Setting(float(count), count, 5)) for count in (2, 3, 4, 5))


def test_what_if_the_minimum_of_a_constant_fleet_were_other_is_another_size() -> None:
    tried = what_if(Job("static", Setting(3.0, 3, 8), START, 5))

    assert [each.job.setting for each in tried if each.knob is Knob.MINIMUM] == [
        Setting(float(count), count, 8) for count in (1, 2, 3, 4, 6)
    ]
    assert {each.job.setting.target for each in tried if each.knob is not Knob.MINIMUM} == {3.0}


def test_a_what_if_changes_one_thing_at_a_time() -> None:
    job = Job(OURS, Setting(3.0, 2, 8), START, 5, keep_run=True)

    tried = what_if(job)

    assert [(each.knob, each.value) for each in tried] == [
        *((Knob.MINIMUM, value) for value in (1, 2, 4, 6)),
        *((Knob.MAXIMUM, value) for value in (2, 4, 6, 8, 12)),
        *((Knob.START, value) for value in (6.0, 30.0, 60.0, 120.0, 240.0)),
    ]
    for each in tried:
        setting, start = each.job.setting, each.job.start
        assert not each.job.keep_run
        assert (each.job.policy, setting.target, each.job.seed) == (OURS, 3.0, 5)
        assert setting.min_replicas == (each.value if each.knob is Knob.MINIMUM else 2)
        assert setting.max_replicas == (each.value if each.knob is Knob.MAXIMUM else 8)
        assert start.seconds == pytest.approx(each.value if each.knob is Knob.START else 60.0)
        assert start.spread == START.spread


def test_one_run_gives_both_halves_of_the_trace() -> None:
    outcome = play_job(Job(OURS, Setting(1.0, 1, 4), START, 0), circumstances())
    half = LOAD[-1].at_seconds / 2.0

    assert outcome.run is None
    assert outcome.first.requests == sum(1 for each in LOAD if each.at_seconds < half)
    assert outcome.first.requests + outcome.second.requests == outcome.whole.requests == len(LOAD)
    assert outcome.first.gpu_hours + outcome.second.gpu_hours == pytest.approx(outcome.whole.gpu_hours)
    assert outcome.whole.gpu_hours > LOAD[-1].at_seconds / 3600.0


def test_processes_give_what_one_process_gives_in_the_order_of_the_jobs() -> None:
    jobs = [
        Job(policy, Setting(KINDS[policy].default_target(MODEL), least, 4), START, seed, keep_run=seed == 1)
        for policy in (OURS, ORACLE)
        for least in (2, 1)
        for seed in (0, 1)
    ]
    told: list[tuple[int, int]] = []

    here = play_jobs(jobs, circumstances(), processes=1)
    there = play_jobs(jobs, circumstances(), processes=2, progress=lambda done, total: told.append((done, total)))

    assert there == here
    assert [outcome.job for outcome in there] == jobs
    assert [outcome.run is not None for outcome in there] == [job.keep_run for job in jobs]
    assert told == [(done, 8) for done in range(9)]


def test_a_start_that_takes_longer_is_known_to_the_policy() -> None:
    """The oracle asks earlier: it is told the start of its job, not the one of the circumstances."""
    slow = Start.of(100.0)
    setting = Setting(0.8, 1, 8)

    quick_run = play_job(Job(ORACLE, setting, START, 0, keep_run=True), circumstances()).run
    slow_run = play_job(Job(ORACLE, setting, slow, 0, keep_run=True), circumstances()).run

    assert quick_run is not None
    assert slow_run is not None
    assert min(at for at, _ in slow_run.scales) < min(at for at, _ in quick_run.scales) - 10.0


def test_money_is_counted_to_the_cent() -> None:
    assert usd(1.5, Decimal("2.49")) == Decimal("3.74")


def test_ours_comes_first_and_the_oracle_last() -> None:
    first, *_, last = KINDS

    assert (first, last) == (OURS, ORACLE)
    assert all(name == each.name for name, each in KINDS.items())


def test_an_unknown_policy_names_those_that_are_known() -> None:
    with pytest.raises(UnknownPolicy) as refusal:
        kind_named("keda-3")

    assert str(refusal.value) == f"'keda-3' is no policy; known: {', '.join(KINDS)}"
