"""Step 3b: the forecast that its own past would have been cheapest with."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from modelfleet.decide.lateness import PRIOR, PRIOR_STEEPNESS, STEEPNESS, Lateness, late_share
from modelfleet.decide.lookback import (
    BEYOND,
    BEYOND_REPLICAS,
    BIRTH_STARTS,
    BUCKET_SECONDS,
    FIRST_CHOICE,
    FORECASTS,
    LEAST_BUCKETS,
    MARGINS,
    MOST_CATCHING_UP,
    NO_COSTS,
    NO_PAST,
    PEAK_RESOLUTION,
    ROUNDING,
    Costs,
    Forecast,
    Kept,
    Lookback,
    Moment,
    look_back,
)
from modelfleet.decide.season import NO_WEEK, UNKNOWN, remember

START_SECONDS = 120.0
HOUR = 3600
DAY_SECONDS = 86_400.0
HOUR_BUCKETS = 360


def live(
    loads: Iterable[float],
    *,
    lookback: Lookback = NO_PAST,
    weight: float = 30.0,
    least: int = 1,
    start: float = START_SECONDS,
    tick: float = 10.0,
    late: Callable[[float], float] | None = None,
    serving: int = 10,
    settled: bool = True,
) -> Lookback:
    """Let loads pass, one a tick; `late` tells which part of the tokens is late at a share of the replicas."""
    now = 1_000_000.0 if lookback.began_at is None else lookback.began_at + tick
    for load in loads if lookback.began_at is not None else [0.0, *loads]:
        slow = 0.0 if late is None else 1000.0 * late(load / max(1, serving))
        lookback = look_back(
            lookback,
            Moment(load, 0.0 if late is None else 1000.0, slow, serving, settled),
            now=now,
            elapsed_seconds=tick,
            start_seconds=start,
            latency_weight=weight,
            min_replicas=least,
        )
        now += tick
    return lookback


def hours(number: float, load: Callable[[float], float]) -> list[float]:
    """Return the loads of so many hours, a bucket each, from a function of seconds."""
    return [load(bucket * BUCKET_SECONDS) for bucket in range(int(number * HOUR / BUCKET_SECONDS))]


def costs(past: Lookback, forecast: Forecast, *, believed: Lateness = PRIOR, weight: float = 30.0) -> list[float]:
    """Return what a forecast cost with each margin, by what is believed of lateness."""
    first = FORECASTS.index(forecast) * len(MARGINS)
    return past.costs.judged(believed).totals(weight)[first : first + len(MARGINS)]


def steady(_: float) -> float:
    """Return four replicas of load."""
    return 4.0


def bursts(at: float) -> float:
    """Return ten replicas for 20 s in every ten minutes, of which there is no sign before, and next to nothing else."""
    return 10.0 if at % 600 < 20 else 0.2


def day(at: float) -> float:
    """Return between two and twenty replicas within three hours, without noise."""
    return 11.0 - 9.0 * math.cos(2 * math.pi * at / (3 * HOUR))


def swings(at: float) -> float:
    """Return two replicas, and every ninety minutes a hill of forty: up in ten minutes, down in thirty."""
    part = at % 5400
    return 2.0 + 38.0 * (part / 600 if part < 600 else max(0.0, 1.0 - (part - 600) / 1800))


RISE = [5.0 + bucket / 4 for bucket in range(60)]
"""A replica of load more every forty seconds, a bucket each."""


def test_a_minute_is_seen_before_it_decides() -> None:
    """Until then the present load does."""
    young = live([3.0] * (LEAST_BUCKETS - 1))

    assert young.replicas is None
    assert live([3.0], lookback=young).replicas == pytest.approx(3.0 * MARGINS[-1])
    assert young.choice == FIRST_CHOICE


def test_a_bucket_is_the_mean_of_its_ticks() -> None:
    """Ten loads of a second make one, whenever the ticks come."""
    filled = live([2.0, 4.0] * 5, tick=1.0)

    assert filled.buckets == 1
    assert filled.recent[-1] == pytest.approx(3.0, abs=0.2)


def test_what_was_not_seen_is_no_load_and_no_rest() -> None:
    """After an hour without signals the bucket holds what was known of it."""
    before = live(hours(0.1, steady))
    after = look_back(
        before,
        Moment(4.0, 0.0, 0.0, 10, settled=True),
        now=(before.began_at or 0.0) + HOUR,
        elapsed_seconds=HOUR,
        start_seconds=START_SECONDS,
        latency_weight=30.0,
        min_replicas=1,
    )

    assert after.recent[-1] == 4.0
    assert after.buckets == before.buckets + 1


def test_bursts_shorter_than_a_start_are_met_by_a_constant_fleet_or_not_at_all() -> None:
    """Following them buys replicas that come too late; the price says which of the two is cheaper."""
    dear, cheap = live(hours(6, bursts), weight=100.0), live(hours(6, bursts), weight=3.0)
    asked = [live(hours(6 + part / 60, bursts), weight=100.0).replicas for part in (0, 3, 7)]

    assert dear.forecast.peak_starts is None or dear.forecast.peak_starts * START_SECONDS >= 600
    assert max(asked) - min(asked) < 0.5  # type: ignore[type-var,operator]
    assert _whole(dear.replicas or 0.0) >= 10
    assert _whole(cheap.replicas or 0.0) <= 2


@pytest.mark.parametrize("averaged", [3, 6])
def test_a_trend_carries_a_rise_on_and_leaves_a_fall_alone(averaged: int) -> None:
    """By as much as the average rose within the last start; a fall is no reason to expect less than what is there."""
    rise, fall = live(RISE), live(RISE[::-1])
    peak, trend = (FORECASTS.index(Forecast(averaged, 1, each)) for each in ("peak", "trend"))

    in_a_start = RISE[int(START_SECONDS / BUCKET_SECONDS)] - RISE[0]
    assert rise.tracks[trend].value == pytest.approx(rise.tracks[peak].value + in_a_start)
    assert fall.tracks[trend].value == fall.tracks[peak].value


def test_a_trend_waits_for_a_start_of_past() -> None:
    """Before that nobody knows how much a load rises within one."""
    young = live(RISE[: int(START_SECONDS / BUCKET_SECONDS)])
    plain, trend = (young.tracks[FORECASTS.index(Forecast(3, 1, each))] for each in ("peak", "trend"))

    assert trend.value == plain.value


def test_a_load_that_rises_fast_and_falls_again_is_met_by_its_trend() -> None:
    """With a peak alone, the margin that the rise needs would be held through the fall."""
    past = live(hours(6, swings))

    assert past.forecast.basis == "trend"
    assert past.margin < 1.5
    assert min(costs(past, Forecast(3, 1, "trend"))) < 0.9 * min(costs(past, Forecast(3, 1)))


def office(at: float) -> float:
    """Return one replica by night, and six from eight to five, within a minute: faster than a start."""
    hour = at % (24 * HOUR) / HOUR
    return 1.0 + 5.0 * (min(1.0, max(0.0, 60 * (hour - 8))) - min(1.0, max(0.0, 60 * (hour - 17))))


def test_until_a_day_was_seen_what_came_then_is_the_peak() -> None:
    """And costs the same to the last digit, so that it changes no choice."""
    past = live(hours(9, office))
    peak, season = (FORECASTS.index(Forecast(3, 1, each)) for each in ("peak", "season"))

    assert past.tracks[season] == past.tracks[peak]
    assert costs(past, FORECASTS[season]) == costs(past, FORECASTS[peak])
    assert past.forecast.basis != "season"


def test_what_is_kept_of_the_week_lasts_while_a_bucket_is_open() -> None:
    """Decisions come once a second."""
    past = live(hours(1, steady))
    meanwhile = live([4.0] * 5, tick=1.0, lookback=past)

    assert meanwhile.buckets == past.buckets
    assert meanwhile.week == past.week
    assert past.week.highest == remember(NO_WEEK, 4.0, now=0.0).highest


def test_a_load_that_rises_by_the_clock_is_met_before_it_rises() -> None:
    """No trend sees a step; that it came yesterday is seen, pays, and decides."""
    before = live(hours(56 - START_SECONDS / HOUR, office))
    peak, season = (FORECASTS.index(Forecast(3, 1, each)) for each in ("peak", "season"))

    # Two minutes before the third morning.
    assert before.recent[-1] == 1.0
    assert before.tracks[peak].value == pytest.approx(1.0)
    assert before.tracks[season].value > 5.0
    after = live([office((56 + bucket / HOUR_BUCKETS) * HOUR) for bucket in range(HOUR_BUCKETS)], lookback=before)
    late = [costs(after, FORECASTS[each])[3] - costs(before, FORECASTS[each])[3] for each in (season, peak)]
    assert late[0] < 0.8 * late[1]


def test_a_load_that_rises_by_the_clock_is_met_after_a_restart_too() -> None:
    """In the night before the third morning: what the status keeps is enough."""
    learned = live(hours(50, office))
    assert learned.forecast.basis == "season"
    resumed = Lookback.resumed(learned.kept(30.0, now=0.0), now=learned.began_at or 0.0)
    until = 56 - START_SECONDS / HOUR
    night = [office(bucket * BUCKET_SECONDS) for bucket in range(50 * HOUR_BUCKETS, int(until * HOUR_BUCKETS))]
    before = live(night, lookback=replace(resumed, began_at=learned.began_at))

    assert before.recent[-1] == 1.0
    assert before.load > 5.0


def test_a_load_that_wanders_is_followed() -> None:
    """At the peak of a day as many as the peak needs, at its bottom a few: never the peak all day."""
    top, bottom = live(hours(7.5, day)), live(hours(9, day))

    assert 20 <= _whole(top.replicas or 0.0) <= 40
    assert _whole(bottom.replicas or 0.0) <= 7


def test_a_steady_load_gets_one_count() -> None:
    """Nothing moves, so nothing is followed, and a quarter too much is too dear in the end."""
    asked = {
        _whole(live(hours(2 + part / 10, steady), late=lambda share: 0.0, serving=5).replicas or 0.0)
        for part in range(10)
    }

    assert len(asked) == 1
    assert 5 <= asked.pop() <= 7


def test_dearer_latency_never_asks_for_fewer() -> None:
    """The one knob works in one direction."""
    for load in (steady, bursts, day):
        asked = [_whole(live(hours(3, load), weight=weight).replicas or 0.0) for weight in (1.0, 10.0, 100.0, 1000.0)]

        assert asked == sorted(asked)


def test_the_choice_changes_only_for_one_that_is_clearly_cheaper() -> None:
    """Two forecasts that cost the same must not take turns."""
    choices = []
    past = live(hours(3, steady))
    for _ in range(60):
        past = live([4.0], lookback=past)
        choices.append(past.choice)

    assert len(set(choices)) == 1


def test_what_was_missed_is_charged_to_those_who_had_too_few() -> None:
    """Seven replicas of load where there were four cost whoever has three more than whoever has eight."""
    past = live(hours(1, steady))
    after = live([7.0] * 6, lookback=past)
    before, since = (costs(each, FORECASTS[FIRST_CHOICE[0]]) for each in (past, after))
    added = [new - old for new, old in zip(since, before, strict=True)]

    assert added[0] > added[-1]


def test_what_a_forecast_cost_counts_half_after_four_hours() -> None:
    """While both cost the same, the lead of one over the other halves."""
    idle = live([0.0] * HOUR_BUCKETS, lookback=live(hours(1, bursts)))
    later = live([0.0] * 4 * HOUR_BUCKETS, lookback=idle)
    leads = [most - least for least, *_, most in (costs(each, Forecast(1, 1)) for each in (idle, later))]

    assert abs(leads[0]) > 1000
    assert leads[1] == pytest.approx(leads[0] / 2)


def test_what_is_learned_of_lateness_is_believed_of_the_past_too() -> None:
    """The same past, dear for who was at two thirds where loads are clumped, and cheap where they are even."""
    past = live(hours(1, steady))
    narrow = MARGINS.index(1.5)
    first = FORECASTS[FIRST_CHOICE[0]]
    clumped, even, held = (
        costs(past, first, believed=Lateness.expected(k), weight=weight)[narrow]
        for k, weight in ((2.0, 30.0), (32.0, 30.0), (32.0, 0.0))
    )

    assert clumped > 3 * even
    assert even == pytest.approx(held, rel=0.01)


def test_a_belief_that_changes_on_the_way_judges_as_one_that_was_there_all_along() -> None:
    """What was late is summed up bucket by bucket, and again from all of the past whenever the belief changes."""
    past, believed = live(hours(1, bursts)), set()
    for steepness in (2.0, 32.0, 7.0):
        past = live(hours(1, steady), lookback=past, late=lambda share, k=steepness: late_share(share, k))
        believed.add(past.lateness.believed)

        assert past.costs.missed == pytest.approx(past.costs.judged(past.lateness).missed)

    assert len(believed) > 1


def test_what_is_asked_for_serves_a_start_later() -> None:
    """The first minutes after a step find what was asked for before it, by every forecast."""
    step = live([12.0] * 3, lookback=live(hours(1, steady)))

    assert step.tracks[FIRST_CHOICE[0]].value == pytest.approx(12.0)
    assert step.tracks[FIRST_CHOICE[0]].trough[0][1] == pytest.approx(4.0)


def test_what_one_step_missed_buys_no_margin_on_its_level() -> None:
    """Nothing tells by how much a load will exceed all that was seen; what was seen is held with room to spare."""
    past = live(hours(2, steady))
    asked = []
    for _ in range(HOUR_BUCKETS):
        past = live([7.0], lookback=past)
        asked.append(past.replicas or 0.0)

    assert max(asked) == BEYOND * 7.0 + BEYOND_REPLICAS < MARGINS[-1] * 7.0


def test_who_was_just_born_may_ask_for_all_of_the_first_margin() -> None:
    """There is no past yet whose highest load would mean anything."""
    young = live([8.0] * 10)
    assert young.replicas == MARGINS[-1] * 8.0


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(lambda at: 5.0 + 4.0 * math.sin(at * at), id="noise"),
        pytest.param(lambda at: 100.0 - at / 1000.0, id="a-fall-of-a-day"),
        pytest.param(lambda at: 50.0 + 49.0 * math.sin(at * math.tau / 86_400), id="a-diurnal-load"),
    ],
)
def test_its_memory_is_bounded(load: Callable[[float], float]) -> None:
    """More than a day keeps few peaks and a few starts, whatever the load."""
    past = live(hours(26, load))

    assert len(past.recent) <= 6 + START_SECONDS / BUCKET_SECONDS
    assert max(map(len, (*past.peaks, *(track.trough for track in past.tracks)))) < 500


def test_a_peak_is_never_forgotten_nor_much_too_high() -> None:
    """Of a load that falls, the day's peak is its first value, and the last start's hardly above what it was."""
    falls = hours(3, lambda at: 100.0 - at / 120.0)
    past = live(falls)

    day, start = (FORECASTS.index(Forecast(1, peak)) for peak in (None, 1))
    assert past.tracks[day].value == pytest.approx(falls[0])
    true = max(falls[-math.ceil(START_SECONDS / BUCKET_SECONDS) :])
    assert true <= past.tracks[start].value <= true * (1.0 + 2 * PEAK_RESOLUTION)


def test_what_an_earlier_process_kept_is_taken_up() -> None:
    """What was learned survives a restart: the choice, what each forecast cost, how high the day was, and the week."""
    learned = live(hours(6, bursts), weight=100.0)
    kept = learned.kept(100.0, now=0.0)
    resumed = Lookback.resumed(replace(kept, steepness_tenths=150), now=(learned.began_at or 0.0) + 300.0)

    assert resumed.choice == learned.choice
    assert resumed.week == replace(learned.week, highest=UNKNOWN)
    assert STEEPNESS[resumed.lateness.believed] == 15.0
    assert resumed.costs.totals(7.0) == pytest.approx(learned.costs.totals(100.0), abs=0.5)
    for before, after in zip(learned.peaks, resumed.peaks, strict=True):
        for bucket, load in after:
            assert load == max(value for _, value in before)
            assert bucket == before[0][0] - learned.buckets - 30
    assert sum(map(len, resumed.peaks)) == 2


def test_the_peak_of_a_day_is_forgotten_after_a_day_whatever_restarted() -> None:
    at, name = 1_000_000.0, "10s-peak-day"
    for age, want in ((DAY_SECONDS - 60.0, 9.0), (DAY_SECONDS + 60.0, 1.0)):
        kept = Kept(forecast=name, margin_percent=100, day_peaks={name: (9.0, at - age)})
        past = live([1.0], lookback=replace(Lookback.resumed(kept, now=at), began_at=at))

        assert past.forecast.name == name
        assert past.load == want


@pytest.mark.parametrize(
    "kept",
    [
        Kept(forecast="a-crystal-ball", margin_percent=125),
        Kept(forecast=FORECASTS[0].name, margin_percent=126),
    ],
)
def test_what_another_version_chose_is_ignored(kept: Kept) -> None:
    told = live(hours(1, steady)).costs.told(30.0)

    assert Lookback.resumed(replace(kept, costs=told), now=0.0) == NO_PAST


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop(FORECASTS[-1].name),
        lambda told: told.update({FORECASTS[0].name: "1 2 3 4 5"}),
        lambda told: told.update({FORECASTS[0].name: "1 2 3 4 5 6 7"}),
        lambda told: told.update({FORECASTS[0].name: "1 2 3 4 5 many"}),
    ],
)
def test_costs_of_other_forecasts_are_none(change: Callable[[dict[str, str]], object]) -> None:
    """Another version may have others: then all begin anew, for some would look cheap."""
    told = live(hours(1, bursts)).costs.told(30.0)
    assert Costs.resumed(told) != NO_COSTS
    change(told)

    assert Costs.resumed(told) == NO_COSTS


def test_every_forecast_has_a_name_of_its_own() -> None:
    """The status tells them apart."""
    assert len({forecast.name for forecast in FORECASTS}) == len(FORECASTS)
    assert Forecast(3, 1).name == "30s-peak-1-starts"
    assert Forecast(3, 1, "trend").name == "30s-trend-1-starts"
    assert Forecast(3, 1, "season").name == "30s-season-1-starts"
    assert [round(100 * margin) for margin in MARGINS] == sorted({round(100 * margin) for margin in MARGINS})


def test_what_a_deployment_is_born_into_is_nobodys_fault() -> None:
    """For three starts nothing is charged, and the first margin decides: no forecast could have met it."""
    birth = BIRTH_STARTS * round(START_SECONDS / BUCKET_SECONDS)
    born = live([8.0] * birth)

    assert born.costs == NO_COSTS
    assert born.choice == FIRST_CHOICE
    assert any(costs(live([8.0], lookback=born), FORECASTS[0]))


def test_a_load_in_clumps_counts_as_requests_meet_it() -> None:
    """Half of ten seconds at nothing and half at twelve: whoever came met twelve."""
    clumps = live([0.0] * 5 + [12.0] * 5, tick=1.0, lookback=live(hours(1, steady)))
    before = live(hours(1, steady))

    assert clumps.recent[-1] == pytest.approx(6.0)
    charged = paid(before, clumps, Forecast(1, 1), 1.5)
    assert charged == pytest.approx(6 * 10 + 30 * 6 * 10 * late_share(12 / 6, _believed(clumps)), rel=0.01)


@pytest.mark.parametrize("true", [3.0, 7.0, 22.0])
def test_the_steepness_is_learned_from_what_is_late(true: float) -> None:
    """A day that fills ten replicas to between 20 and 90 % is enough to tell bursts from even loads."""
    learned = live(hours(6, lambda at: 5.5 - 3.5 * math.cos(at / 600)), late=lambda share: late_share(share, true))

    assert _believed(learned) == true


def test_even_loads_need_fewer_replicas_than_bursts_of_the_same_size() -> None:
    """Who was never late at 80 % of a replica does not pay for half of it to stay idle."""
    even = live(hours(6, steady), late=lambda share: late_share(share, 32.0), serving=6).replicas
    clumped = live(hours(6, steady), late=lambda share: late_share(share, 4.5), serving=6).replicas

    assert _whole(even or 0.0) <= 5
    assert _whole(clumped or 0.0) == 6


def test_one_bad_minute_teaches_next_to_nothing() -> None:
    """A scrape or a node that stutters makes everybody late at any load: no reason to doubt hours of good service."""
    even = live(hours(3, steady), late=lambda share: late_share(share, 22.0), serving=5)
    after = live([4.0] * 2, lookback=even, late=lambda share: 1.0, serving=5)

    assert _believed(after) >= 15.0


def test_replicas_that_only_just_serve_teach_nothing() -> None:
    """The requests that waited for them are late whatever the load is."""
    assert live(hours(2, steady), late=lambda share: 1.0, settled=False).lateness == PRIOR


@pytest.mark.parametrize("late", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("replicas", [0, 1, 3])
def test_an_overload_teaches_nothing(late: float, replicas: int) -> None:
    """In its first bucket hardly anybody is late yet, in its last ones all are, whatever the load."""
    assert live([4.0] * 60, late=lambda share: late, serving=replicas).lateness == PRIOR


def test_what_waited_for_replicas_teaches_nothing_until_it_is_served() -> None:
    """Everything is late for a while after they joined; then nothing is, and what comes late from there on counts."""
    joined = live([4.0], late=lambda share: 1.0, settled=False)
    behind = live([4.0] * (MOST_CATCHING_UP - 1), lookback=joined, late=lambda share: 1.0)
    caught_up = live([4.0], lookback=behind, late=lambda share: 0.0)

    assert behind.lateness == PRIOR
    assert _believed(live([4.0] * 30, lookback=caught_up, late=lambda share: 0.1)) < PRIOR_STEEPNESS


def test_what_stays_late_after_replicas_joined_counts_in_the_end() -> None:
    """There may be too few of them: it must not go unnoticed because it never stops."""
    joined = live([4.0], late=lambda share: 1.0, settled=False)
    after = live([4.0] * (MOST_CATCHING_UP + 30), lookback=joined, late=lambda share: 0.3)

    assert _believed(after) < PRIOR_STEEPNESS


def _believed(past: Lookback) -> float:
    return STEEPNESS[past.lateness.believed]


@pytest.mark.parametrize(
    ("share", "least", "most"),
    [(0.0, 0.0, 0.0), (0.5, 0.0, 0.01), (0.8, 0.08, 0.15), (1.03, 0.5, 0.5), (1.5, 0.9, 1.0), (50.0, 0.99, 1.0)],
)
def test_the_late_share(share: float, least: float, most: float) -> None:
    """Poisson arrivals: few are late at half of the capacity, half of them a bit beyond all of it."""
    assert least <= late_share(share, 8.0) <= most


def paid(before: Lookback, after: Lookback, forecast: Forecast, margin: float) -> float:
    """Return what a forecast was charged for the one bucket between two pasts."""
    now, then = (costs(each, forecast)[MARGINS.index(margin)] for each in (after, before))
    return now - then


def test_until_a_start_has_passed_a_forecast_pays_for_what_its_new_replicas_do_not_serve() -> None:
    """A minute after a step it asks for nine replicas for seven of load, but five serve: everybody is late."""
    before = live([7.0] * 6, lookback=live(hours(1, steady)))
    after = live([7.0], lookback=before)

    # By the middle of the range from 1.35 to 2.
    everybody = late_share(1.675, PRIOR_STEEPNESS)
    assert everybody == pytest.approx(1.0, abs=0.001)
    assert paid(before, after, Forecast(1, 1), 1.25) == pytest.approx(9 * 10 + 30 * 7 * 10 * everybody)


def test_each_replica_added_costs_half_a_start_besides() -> None:
    """From four to seven: seven for 10 s, and three times half of 120 s; no load, so nothing is missed."""
    before = live([7.0], lookback=live(hours(1, steady)))
    after = live([0.0], lookback=before)

    assert paid(before, after, Forecast(1, 1), 1.0) == pytest.approx(7 * 10 + 3 * 60)


def _whole(load: float) -> int:
    return max(1, math.ceil(load - ROUNDING))
