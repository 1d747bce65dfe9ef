"""Days in the life of a deployment whose engine tells the time between tokens: the lookback decides.

One replica meets the limit of 50 ms up to 1,000 tokens/s, five requests per second of 200 tokens.
"""

import re
from dataclasses import replace

import pytest

from modelfleet.api.modeldeployment import ModelDeploymentStatus
from modelfleet.decide.explain import scale_event, status
from modelfleet.decide.lateness import PRIOR, late_share
from modelfleet.decide.lookback import BUCKET_SECONDS, FORECASTS, MARGINS, NO_COSTS, Forecast, Kept
from modelfleet.decide.plan import Facts
from modelfleet.decide.replicas import Measure
from modelfleet.decide.snapshot import Learned, Missing
from modelfleet.shell.records import parse_deployment
from tests.builders import DeploymentBuilder, deployment
from tests.decide.story import Story


def _model(*, low: int = 1, high: int = 64) -> DeploymentBuilder:
    # No prior and no target: the pace is all there is.
    return deployment().targets(queue=8).bounds(low, high).having(prior_output_tokens_per_second=None)


def _story(**how: object) -> Story:
    return Story(_model(), idle_pace=0.010, **how)  # type: ignore[arg-type]


def _turns(counts: list[int]) -> list[int]:
    return [count for number, count in enumerate(counts) if number == 0 or counts[number - 1] != count]


def test_no_target_and_no_prior_are_needed() -> None:
    """15 requests/s are three full replicas: four or five serve them in time, asked for before a queue forms."""
    story = _story(replicas=2)
    counts = story.play(1800, requests_per_second=9)
    story.play(1800, requests_per_second=15)

    assert set(counts[600:]) <= {2, 3, 4}
    assert 4 <= story.desired[-1] <= 6
    assert story.queue == 0


def test_a_steady_load_turns_no_replica_in_an_hour() -> None:
    """Once it has settled, the count stays."""
    story = _story(replicas=3)
    story.play(1200, requests_per_second=11.5)
    counts = story.play(3600, requests_per_second=11.5)

    assert len(_turns(counts)) <= 2
    assert all(3 <= count <= 5 for count in counts)


def test_a_flash_crowd_does_not_run_away() -> None:
    """50 requests/s are ten full replicas. While they load the queue grows, the load does not."""
    story = _story()
    story.play(60, requests_per_second=3)
    counts = story.play(1200, requests_per_second=50)

    assert counts[1] >= 5
    # Until the first of them is ready, two minutes later, nothing is asked for that the load, with the margin of a
    # deployment that knows nothing yet, does not call for.
    assert 17 <= max(counts[:118]) <= 20
    assert story.queue == 0
    assert 11 <= counts[-1] <= 25


def test_pods_that_never_become_ready_do_not_multiply() -> None:
    """The count is bounded by what the load calls for, whatever waits for it."""
    story = _story(never_ready=True)
    counts = story.play(3600, requests_per_second=20)

    assert max(counts) <= 16


def test_an_outage_takes_nothing_away() -> None:
    """While nothing is known the count stands, and its end is no reason to shrink at once."""
    story = _story(replicas=8)
    story.play(900, requests_per_second=31)
    held = story.desired[-1]
    story.blind = True
    counts = story.play(3600, requests_per_second=0)
    assert story.decision is not None
    blind = story.decision.facts
    story.blind = False
    # The window is a start, which takes two minutes here.
    after = story.play(110, requests_per_second=0)

    assert {held} == set(counts)
    assert isinstance(blind, Missing)
    assert {held} == set(after)


def test_one_silent_pod_holds_them_all() -> None:
    """Seven pods that are idle say nothing about the eighth."""
    story = _story(replicas=8)
    story.play(600, requests_per_second=31)
    story.deaf = {"pod-3"}
    counts = story.play(1200, requests_per_second=0)

    assert min(counts) >= 8


def test_short_bursts_are_not_chased() -> None:
    """Twenty seconds in every five minutes, starts of two: after 90 minutes the count stands still, at the burst."""
    story = _story(replicas=2)
    for _ in range(18):
        _burst(story)
    counts = [count for _ in range(4) for count in _burst(story)]

    assert len(_turns(counts)) == 1
    assert 6 <= counts[0] <= 9


def _burst(story: Story) -> list[int]:
    return [*story.play(20, requests_per_second=30), *story.play(280, requests_per_second=1)]


def test_a_restart_takes_up_what_was_learned() -> None:
    """The next process knows an idle pace and the choice before the first token."""
    story = _story(replicas=4)
    story.play(900, requests_per_second=15)
    story.restart_operator()
    story.made = story.made.having(
        learned=Learned(idle_inter_token_seconds=0.010, lookback=Kept(forecast="30s-peak-day", margin_percent=150))
    )
    counts = story.play(50, requests_per_second=15)
    memory = next(iter(story.history.values()))

    assert memory.load.pace.constant_seconds == pytest.approx(0.010, abs=0.001)
    assert memory.load.lookback.forecast.name == "30s-peak-day"
    assert min(counts) >= 4


def test_after_a_restart_bursts_find_what_they_found_before() -> None:
    """The status gives back what forecasts cost and how high the day was: nothing is missed anew to be learned anew."""
    story, undisturbed, forgetful = (_story(replicas=4) for _ in range(3))
    for each in (story, undisturbed, forgetful):
        _bursts(each, 60)
    told = _told(story)
    story.restart_operator()
    forgetful.restart_operator()
    story.made = story.made.having(learned=_read_back(told))
    counts, as_before, anew = (_bursts(each, 10) for each in (story, undisturbed, forgetful))

    assert counts == as_before
    assert anew != as_before


def test_the_status_holds_all_that_is_kept() -> None:
    """What one process tells the next one reads."""
    story = _story(replicas=4)
    _bursts(story, 10)
    learned = _read_back(_told(story))
    lookback = next(iter(story.history.values())).load.lookback
    kept = lookback.kept(30.0, now=story.now)

    assert learned is not None
    assert lookback.costs != NO_COSTS
    assert kept.week_levels
    assert replace(learned.lookback, day_peaks={}) == replace(kept, day_peaks={})
    for name, (load, at) in kept.day_peaks.items():
        assert learned.lookback.day_peaks[name] == pytest.approx((load, at), abs=1.0)


def test_metrics_that_fail_after_a_restart_forget_nothing() -> None:
    """A second restart, before anything was seen, finds what the first one found."""
    story = _story(replicas=4)
    _bursts(story, 10)
    first = _told(story)
    story.restart_operator()
    story.made = story.made.having(learned=_read_back(first))
    story.deaf = {"pod-1"}
    story.play(30, requests_per_second=1)
    second = _told(story)

    assert first.learned is not None and second.learned is not None
    assert next(iter(story.history.values())).load.lookback.began_at is None
    assert second.learned.day_peaks.keys() == first.learned.day_peaks.keys()
    for name, peak in first.learned.day_peaks.items():
        again = second.learned.day_peaks[name]
        assert again.load == peak.load
        # It ages with what is seen: nothing was for the last half minute.
        assert abs((again.at - peak.at).total_seconds()) <= 30.0 + 2 * BUCKET_SECONDS


def _told(story: Story) -> ModelDeploymentStatus:
    observed = story.made.build(story.now)
    assert story.decision is not None
    return status(observed, story.decision, story.history[observed.key], previous=None, now=story.now)


def _bursts(story: Story, number: int) -> list[int]:
    """Return the counts of bursts of 20 s, each followed by 100 s of next to nothing: shorter than a start."""
    played = ([*story.play(20, requests_per_second=30), *story.play(100, requests_per_second=1)] for _ in range(number))
    return [count for counts in played for count in counts]


def _read_back(told: ModelDeploymentStatus) -> Learned | None:
    metadata = {"name": "llama", "namespace": "team-a", "uid": "uid", "resourceVersion": "1", "generation": 1}
    spec = {"model": {"name": "m/m"}, "runtime": "vllm", "accelerator": "h100"}
    dumped = told.model_dump(mode="json", by_alias=True)
    return parse_deployment({"metadata": metadata, "spec": spec, "status": dumped}).learned


def test_who_sets_a_target_decides_the_margin() -> None:
    """With spec.scaling.targets.outputTokensPerSecond the lookback only watches."""
    made = _model().targets(queue=8, tokens=500)
    story = Story(made, idle_pace=0.010, replicas=2)
    story.play(900, requests_per_second=5)
    assert story.decision is not None
    facts = story.decision.facts
    assert not isinstance(facts, Missing)

    assert facts.wanted.planned is None
    assert facts.wanted.measure is not Measure.FORECAST
    assert story.desired[-1] == 2


def test_rates_and_windows_still_apply() -> None:
    """A forecast is damped as every recommendation is."""
    story = _story(replicas=2)
    story.play(300, requests_per_second=8)
    counts = [story.desired[-1], *story.play(300, requests_per_second=200)]

    for second in range(15, len(counts)):
        before = counts[second - 15]
        assert counts[second] <= max(2 * before, before + 4), second


def test_the_status_shows_the_forecast_its_margin_and_the_load() -> None:
    """Who reads it can do the sum again, and sees what the load would call for at this moment."""
    story = _story(replicas=2)
    story.play(900, requests_per_second=9)
    told = _told(story)
    assert told.decision is not None and told.learned is not None
    detail = _arithmetic(story)
    found = re.match(r"max\(load (\S+) \(peak of (\d+) s, averaged over (\d+) s\) × (\S+) = (\S+), queue", detail)
    assert found is not None, detail
    load, _, _, margin, planned = (float(text) for text in found.groups())
    signals = {signal.name: signal.value for signal in told.decision.signals}

    assert load * margin == pytest.approx(planned, abs=0.1 * margin)
    assert "; now time between tokens" in detail
    assert float(signals["loadInReplicas"] or 0) == pytest.approx(load, abs=0.2)
    assert (signals["targetSource"] or "").endswith(", not used")
    steepness = told.learned.late_steepness_tenths / 10
    in_time = 1 - late_share(float(signals["shareOfReplicaFor99PercentInTime"] or 0), steepness)
    assert in_time == pytest.approx(0.99, abs=0.002)
    assert told.learned.idle_inter_token_microseconds > 0
    assert told.learned.margin_percent == round(100 * margin)


def test_the_status_says_what_bounds_the_margin() -> None:
    """A sum whose result is not its product needs a reason."""
    story = _story(replicas=2)
    story.play(1200, requests_per_second=9)
    detail, most = _arithmetic_of(story, (FORECASTS.index(Forecast(3, 1)), len(MARGINS) - 1))
    found = re.search(r"× 1\.9, at most (\S+) = (\S+), queue", detail)

    assert found is not None, detail
    assert float(found[1]) == pytest.approx(float(found[2]), abs=0.06)
    assert float(found[1]) == pytest.approx(most, abs=0.06)


@pytest.mark.parametrize(
    ("forecast", "want"),
    [
        (Forecast(6, 1, "trend"), r"trend of \d+ s, averaged over 60 s"),
        (Forecast(3, 1, "season"), r"a week or a day ago, peak of \d+ s, averaged over 30 s"),
    ],
)
def test_the_status_says_when_no_peak_decides(forecast: Forecast, want: str) -> None:
    """Who does the sum again must know what it was."""
    story = _story(replicas=2)
    story.play(300, requests_per_second=9)
    detail, _ = _arithmetic_of(story, (FORECASTS.index(forecast), 3))

    assert re.match(rf"max\(load \S+ \({want}\) × 1.25 = ", detail)


def _arithmetic_of(story: Story, choice: tuple[int, int]) -> tuple[str, float]:
    """Return what the status would say if this forecast and margin decided, and what bounds the margin."""
    assert story.decision is not None
    facts = story.decision.facts
    assert isinstance(facts, Facts)
    lookback = replace(facts.lookback, choice=choice)
    wanted = replace(facts.wanted, planned=lookback.replicas)
    story.decision = replace(story.decision, facts=replace(facts, lookback=lookback, wanted=wanted))
    return _arithmetic(story), lookback.most


def test_an_event_says_which_forecast_called_for_the_change() -> None:
    """`Scaled 2→5: load 3.0 (peak of 120 s, averaged over 30 s) × 1.25 = 3.8 > 2`."""
    story = _story(replicas=2)
    story.play(300, requests_per_second=8)
    notes = []
    for _ in range(300):
        story.play(1, requests_per_second=14)
        assert story.plan is not None and story.decision is not None
        for scale in story.plan.scales:
            notes.append(scale_event(scale, story.decision)[1])

    assert notes
    assert any(
        re.match(r"Scaled \d→\d+: load \S+ \(peak of \d+ s, averaged over \d+ s\) × \S+ = \S+ > \d", n) for n in notes
    )


def _small_requests(**how: object) -> Story:
    """100 requests/s fill a replica."""
    return _story(replicas=2, tokens_per_request=10.0, **how)


def test_a_queue_that_is_gone_in_a_second_asks_for_no_replica() -> None:
    """A clump of 150 at three replicas, far beyond the eight that the spec tolerates for each."""
    story = _small_requests()
    before = story.play(900, requests_per_second=110)[-1]
    counts = story.play(1, requests_per_second=450)
    waiting = story.queue
    counts += story.play(30, requests_per_second=110)

    assert 140 <= waiting <= 160
    assert set(counts) == {before}
    assert re.search(r"queue 0 / (99|100) = 0.00", _arithmetic(story))


def test_one_that_stays_asks_within_seconds() -> None:
    """A step to 4.5 replicas: what waits is soon more than a second's work."""
    story = _small_requests()
    before = story.play(900, requests_per_second=110)[-1]
    counts = story.play(4, requests_per_second=450)

    assert counts[-1] > before
    assert re.search(r"queue \d+ / (99|100)( = [4-9]|, capped)", _arithmetic(story))


def test_until_forecasts_pay_a_queue_asks_at_once() -> None:
    """Nothing else tells that more was needed: three starts are six minutes."""
    story = _small_requests()
    before = story.play(240, requests_per_second=110)[-1]
    counts = story.play(1, requests_per_second=450)

    assert counts[-1] > before


def test_what_waits_for_less_than_a_second_is_not_late() -> None:
    """A clump every ten seconds for half an hour, no token slower than the limit: the load is taken for an even one."""
    story = _small_requests(pace_limit=0.049)
    story.play(600, requests_per_second=110)
    for _ in range(180):
        story.play(9, requests_per_second=110)
        story.play(1, requests_per_second=450)
    (memory,) = story.history.values()

    assert memory.load.lookback.lateness.believed == PRIOR.believed
    assert story.desired[-1] == 3


def _arithmetic(story: Story) -> str:
    told = _told(story).decision
    assert told is not None
    return told.steps[0].detail or ""
