"""Step 2b: the load in replicas, from the time between tokens."""

from dataclasses import replace

import pytest

from modelfleet.decide import pace as pacing
from modelfleet.decide.demand import NO_GROWTH, Growth
from modelfleet.decide.pace import LEAST_WITHIN, NO_PACE, Pace, Samples
from modelfleet.decide.snapshot import Pod
from tests.builders import MAX_AGE_SECONDS, NOW, PodBuilder, ready

KNOWN = Pace.resumed(0.010)
LIMIT = 0.050
TOLERATED = 8


def busy(name: str, *, pace: float, tokens: float = 1000.0, finished: float = 2.0) -> PodBuilder:
    """Return a ready pod with 20 sequences or so under way."""
    return ready(name).inter_token(pace).tokens(tokens).finished(finished).running(20)


def sample(*pods: Pod) -> Samples:
    """Return what is read of pods now."""
    return pacing.sample(pods, limit_seconds=LIMIT, queue_tolerated=TOLERATED, now=NOW, max_age_seconds=MAX_AGE_SECONDS)


def load_in_replicas(pace: Pace, *pods: Pod, growth: Growth = NO_GROWTH, cold: bool = False) -> float | None:
    """Return the load under the limit, by what is read of pods now."""
    filled = pacing.load_in_replicas(
        pace, sample(*pods), growth, limit_seconds=LIMIT, ready=max(1, len(pods)), cold=cold
    )
    return None if filled is None else filled.replicas


@pytest.mark.parametrize(
    ("paces", "want"),
    [
        pytest.param((0.050,), 1.0, id="at the limit one replica is one replica of load"),
        pytest.param((0.050, 0.050), 2.0, id="work adds up"),
        pytest.param((0.020,), 0.5 / 0.8, id="half of each second is work, and 0.8 of it may be"),
        pytest.param((0.010,), 0.0, id="nothing but the constant is no work"),
        pytest.param((0.009,), 0.0, id="nor is less than it"),
        pytest.param((0.100,), 0.9 / 0.8, id="beyond the limit the load is more than there is"),
    ],
)
def test_load_in_replicas(paces: tuple[float, ...], want: float) -> None:
    """c is 10 ms and the limit 50 ms: 1 - c / T = 0.8 of a replica may be filled."""
    pods = tuple(busy(f"pod-{number}", pace=pace).build() for number, pace in enumerate(paces))
    found = load_in_replicas(KNOWN, *pods)

    assert found == pytest.approx(want)


@pytest.mark.parametrize("constant", [0.0001, 0.005, 0.010, 0.030, 0.045, 0.100])
def test_at_the_limit_the_load_is_one_whatever_was_learned(constant: float) -> None:
    """An error in the constant moves no replica where it matters."""
    pods = (busy("pod-0", pace=0.050).build(),)
    found = load_in_replicas(Pace.resumed(constant), *pods)

    assert found == pytest.approx(1.0)


def test_a_replica_that_rests_counts_for_the_time_it_works() -> None:
    """10 tokens/s of 20 ms each keep it busy for a fifth of the time, and half of that is work."""
    pods = (busy("pod-0", pace=0.020, tokens=10).build(),)
    found = load_in_replicas(KNOWN, *pods)

    assert found == pytest.approx(0.2 * 0.5 / 0.8)


def test_pods_that_serve_nobody_carry_nothing() -> None:
    """Terminating, starting and silent pods add no load."""
    pods = (
        busy("pod-0", pace=0.050).dying().build(),
        replace(busy("pod-1", pace=0.050).build(), ready_at=None),
        busy("pod-2", pace=0.050).lost().build(),
        busy("pod-3", pace=0.050).stale(2 * MAX_AGE_SECONDS).build(),
    )

    assert load_in_replicas(KNOWN, *pods) == 0.0


def test_a_pod_with_tokens_and_no_pace_makes_the_load_a_lower_bound() -> None:
    """Whose pace is lost is named; where nobody tells it the load by pace is unknown, and never zero."""
    told, lost = busy("pod-0", pace=0.050).build(), busy("pod-1", pace=0.050).lost("inter_token")
    filled = pacing.load_in_replicas(
        KNOWN, sample(told, lost.build()), NO_GROWTH, limit_seconds=LIMIT, ready=2, cold=False
    )

    assert filled is not None
    assert filled.replicas == pytest.approx(1.0)
    assert filled.missing == "pod-1: tokens, but no time between them"
    assert not sample(told, lost.aged(5).build()).missing
    assert load_in_replicas(KNOWN, lost.build()) is None


def test_a_growing_queue_is_load_that_arrives() -> None:
    """Each request is 0.1 replica-seconds of work: four more a second are 0.4 of work, half a replica."""
    pace = replace(KNOWN, busy_seconds=50.0, requests=500.0)
    pods = (busy("pod-0", pace=0.050).build(),)
    found = load_in_replicas(pace, *pods, growth=Growth(queued=4.0, in_flight=9.0))

    assert found == pytest.approx(1.0 + 0.4 / 0.8)


def test_a_shrinking_queue_never_makes_the_load_negative() -> None:
    """Clients that give up shorten it too."""
    pace = replace(KNOWN, busy_seconds=50.0, requests=500.0)

    assert load_in_replicas(pace, growth=Growth(queued=-100.0, in_flight=-100.0)) == 0.0


@pytest.mark.parametrize(
    ("pace", "within", "cold", "want"),
    [
        pytest.param(0.050, 10, True, 1.0 + 0.9 / 0.8, id="what the batch takes in is not worked on"),
        pytest.param(0.050, 10, False, 1.0 + 0.4 / 0.8, id="a forecast decides: what waits"),
        pytest.param(0.040, 10, True, (0.75 + 0.4) / 0.8, id="there is room: what the batch takes in is worked on"),
        pytest.param(0.050, 9, True, 1.0 + 1.8 / 0.8, id="born into it: it comes again while replicas start"),
        pytest.param(0.040, 9, True, (0.75 + 0.4) / 0.8, id="born, and there is room"),
    ],
)
def test_a_batch_that_grows_in_an_overload_is_load_that_arrives(
    pace: float, within: int, cold: bool, want: float
) -> None:
    """Nine requests more a second in flight, of which four wait, and each is 0.1 replica-seconds of work."""
    learned = replace(KNOWN, busy_seconds=50.0, requests=500.0, within=within)
    pods = (busy("pod-0", pace=pace).build(),)
    found = load_in_replicas(learned, *pods, growth=Growth(queued=4.0, in_flight=9.0), cold=cold)

    assert found == pytest.approx(want)


def test_clients_that_give_up_do_so_once() -> None:
    """A batch that shrinks in the first overload is no load that comes, and none that goes twice."""
    born = replace(KNOWN, busy_seconds=50.0, requests=500.0, within=0)
    pods = (busy("pod-0", pace=0.050).build(),)

    assert load_in_replicas(born, *pods, growth=Growth(in_flight=-4.0), cold=True) == pytest.approx(1.0 - 0.4 / 0.8)


def test_unknown_is_not_zero() -> None:
    """Before a token came nothing is said, not even that there is no load."""
    pods = (ready("pod-0").build(),)

    assert load_in_replicas(NO_PACE, *pods) is None
    assert learn_pace(NO_PACE, *pods) == NO_PACE


def test_until_steps_within_the_limit_were_seen_often_the_constant_is_a_guess() -> None:
    """A replica that was overloaded from its first requests shows no constant: 0.4 of the limit stands in."""
    pods = (busy("pod-0", pace=0.200).build(),)
    overloaded = NO_PACE
    for seconds in (0.040, *[0.200] * 50):
        overloaded = learn(overloaded, seconds)
    relieved = overloaded
    for _ in range(LEAST_WITHIN):
        relieved = learn(relieved, 0.040)

    assert not overloaded.known
    assert overloaded.constant_seconds == pytest.approx(0.020)
    assert load_in_replicas(overloaded, *pods) == pytest.approx((1 - 0.020 / 0.200) / 0.6)
    assert relieved.known


def test_one_sequence_under_a_flood_of_prompts_is_not_idle() -> None:
    """The first second of an overload has few tokens, and steps of nothing but prompts."""
    flooded = learn_pace(NO_PACE, busy("pod-0", pace=0.450, tokens=3).build())

    assert flooded.idle_seconds == 0.450
    assert not flooded.known
    assert flooded.constant_seconds == pytest.approx(0.020)


def test_a_replica_that_once_was_idle_is_known_in_overload() -> None:
    """Steps longer than the limit say nothing against what was seen."""
    pace = KNOWN
    for _ in range(100):
        pace = learn(pace, 0.200)

    assert pace.known
    assert pace.constant_seconds == pytest.approx(0.010)


def test_an_idle_replica_shows_the_constant_at_once_and_a_busy_day_does_not_hide_it() -> None:
    """It falls within seconds; a new model or GPU is followed within days."""
    first = NO_PACE
    for _ in range(LEAST_WITHIN):
        first = learn(first, 0.030, tokens=50)
    idler = first
    for _ in range(20):
        idler = learn(idler, 0.010, tokens=50)
    hour, days = idler, idler
    for _ in range(720):
        hour = learn(hour, 0.030, tokens=667)
    for _ in range(4 * 24):
        days = learn(days, 0.050, tokens=30, elapsed=3600.0)

    assert first.constant_seconds == 0.030
    assert idler.constant_seconds == pytest.approx(0.010, abs=0.001)
    assert hour.constant_seconds == pytest.approx(0.010, abs=0.001)
    assert days.constant_seconds == pytest.approx(0.050, abs=0.002)


def test_the_constant_is_the_idlest_replicas() -> None:
    """One that idles among busy ones shows it."""
    pods = (busy("pod-0", pace=0.080).build(), busy("pod-1", pace=0.012, tokens=80).build())

    pace = NO_PACE
    for _ in range(LEAST_WITHIN):
        pace = learn_pace(pace, *pods)

    assert pace.constant_seconds == 0.012


def test_where_no_replica_was_ever_idle_the_line_shows_it() -> None:
    """Steps of 20 ms and 0.5 ms for each of 10 to 60 sequences meet an empty batch at 20 ms."""
    pace = NO_PACE
    for number in range(600):
        batch = 10 + number % 50
        seconds = 0.020 + 0.0005 * batch
        pace = learn(pace, seconds, tokens=batch / seconds)

    assert pace.idle_seconds is None
    assert pace.constant_seconds == pytest.approx(0.020, rel=0.02)


def test_an_overload_does_not_bend_the_line() -> None:
    """A minute of full batches, whose steps a backlog of prompts makes half as long again, in ten minutes."""
    pace = NO_PACE
    for number in range(600):
        batch = 10 + number % 50 if number % 10 else 200
        seconds = (0.020 + 0.0005 * batch) * (1 if number % 10 else 1.5)
        pace = learn(pace, seconds, tokens=batch / seconds)

    assert pace.constant_seconds == pytest.approx(0.020, rel=0.2)


def test_a_load_that_never_changes_shows_no_line_and_is_not_taken_for_idle() -> None:
    """Half of the least pace is the guess then: too much load is asked for rather than none."""
    pace = NO_PACE
    for _ in range(600):
        pace = learn(pace, 0.040, tokens=1000)
    pods = (busy("pod-0", pace=0.040).build(),)

    assert pace.constant_seconds == pytest.approx(0.020)
    assert load_in_replicas(pace, *pods) == pytest.approx(0.5 / 0.6)


def test_a_handful_of_tokens_shows_no_pace() -> None:
    """One token a second is one step."""
    pods = (busy("pod-0", pace=0.010, tokens=1.0).build(),)

    assert learn_pace(NO_PACE, *pods) == NO_PACE


def test_the_work_of_a_request_is_all_work_by_all_requests() -> None:
    """Half of each second is work and two requests finish in it: a quarter of a replica-second each."""
    pace = KNOWN
    for _ in range(100):
        pace = learn(pace, 0.020)

    assert pace.work_per_request(0.010) == pytest.approx(0.25, rel=0.05)


def test_long_requests_that_have_not_finished_do_not_swing_it() -> None:
    """A load that comes back after a rest works for 20 s before its first request ends."""
    pace = KNOWN
    for _ in range(250):
        pace = learn(pace, 0.020)
    before = pace.work_per_request(0.010)
    for _ in range(4):
        pace = learn(pace, 0.050, finished=0.0)

    assert before < pace.work_per_request(0.010) < 1.25 * before


def test_the_first_minute_of_a_burst_is_work_for_requests_under_way() -> None:
    """A replica that filled its batch with 20 requests and finished 2 worked for 12 of them, half of 20 and 2."""
    pace = learn(KNOWN, 0.020, finished=0.0)
    for under_way in (5, 10, 15, 20):
        pace = learn(pace, 0.020, finished=0.1, running=float(under_way))

    assert pace.work_per_request(0.010) == pytest.approx(20 * 0.5 / 12, rel=0.02)


def learn(
    pace: Pace,
    seconds: float,
    *,
    finished: float = 2.0,
    tokens: float = 1000.0,
    elapsed: float = 5.0,
    running: float = 0.0,
) -> Pace:
    """Learn from an interval of one replica at a pace."""
    pods = (busy("pod-0", pace=seconds, finished=finished, tokens=tokens).build(),)
    return learn_pace(pace, *pods, finished=finished, elapsed=elapsed, running=running)


def learn_pace(pace: Pace, *pods: Pod, finished: float = 0.0, elapsed: float = 5.0, running: float = 0.0) -> Pace:
    """Learn from an interval of some pods."""
    return pacing.learn_pace(
        pace,
        sample(*pods),
        finished_per_second=finished,
        running_requests=running,
        limit_seconds=LIMIT,
        now=(pace.learned_at or 0.0) + elapsed,
    )


def test_tokens_are_late_where_the_pace_is_beyond_the_limit_or_the_queue_beyond_what_is_tolerated() -> None:
    """At the limits is in time; each pod counts by the tokens it generates."""
    pods = (
        busy("in-time", pace=0.030, tokens=300),
        busy("at-both-limits", pace=0.050, tokens=200).queue(TOLERATED),
        busy("slow", pace=0.060, tokens=100),
        busy("full", pace=0.012, tokens=50).queue(TOLERATED + 1),
        busy("slow-and-full", pace=0.060, tokens=25).queue(TOLERATED + 1),
    )
    samples = sample(*(pod.build() for pod in pods))

    assert (samples.tokens_per_second, samples.late_tokens_per_second) == (675.0, 175.0)
    nothing = sample()
    assert (nothing.tokens_per_second, nothing.late_tokens_per_second) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("pace", "want"),
    [
        pytest.param(NO_PACE, 8, id="before a token came"),
        pytest.param(KNOWN, 8, id="before a request finished"),
        pytest.param(replace(KNOWN, busy_seconds=10.0, requests=500.0), 40, id="0.8 replica-seconds of 20 ms each"),
        pytest.param(replace(KNOWN, busy_seconds=500.0, requests=500.0), 8, id="long requests: what the spec says"),
        pytest.param(replace(KNOWN, busy_seconds=1e-9, requests=500.0), 10_000, id="as many as a spec can say"),
    ],
)
def test_a_replica_may_have_waiting_what_it_works_off_in_a_second(pace: Pace, want: int) -> None:
    """By what a request was seen to take of it."""
    assert pace.queue_tolerated(8, LIMIT) == want
