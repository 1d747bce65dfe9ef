"""Days in the life of one deployment: the whole decision, closed over a model of replicas that start slowly.

One replica serves 1,000 tokens/s, of which 80 % are planned for; a request is 200 tokens. So five
requests per second fill one replica, and four are its share.
"""

from itertools import pairwise

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.api.modeldeployment import Mode
from modelfleet.decide.snapshot import Missing
from tests.builders import DeploymentBuilder, behavior, deployment
from tests.decide.story import Story


def _model(*, low: int = 1, high: int = 64) -> DeploymentBuilder:
    return deployment().targets(queue=8).bounds(low, high).having(prior_output_tokens_per_second=1000.0)


def _turns(counts: list[int]) -> list[int]:
    """Return a series without repetitions."""
    return [count for number, count in enumerate(counts) if number == 0 or counts[number - 1] != count]


def test_steady_load_changes_nothing() -> None:
    """An hour of the same load is an hour of the same count, without one write."""
    story = Story(_model(), replicas=3)
    counts = story.play(3600, requests_per_second=11.5)

    assert {3} == set(counts)
    assert story.created == 3


def test_flash_crowd_with_slow_starts_does_not_run_away() -> None:
    """Ten times the load in one second, starts of two minutes: helped at once, and never asked for a multiple.

    50 requests/s are 10,000 tokens/s: 12.5 replicas at 80 %. Clearing within one start what waited for
    the first may double that; a fleet of 64 would be the queue that doubles with every new replica.
    """
    story = Story(_model())
    story.play(60, requests_per_second=3)
    counts = story.play(900, requests_per_second=50)

    assert counts[1] >= 5
    assert counts[60] >= 13
    assert max(counts) <= 30
    assert story.queue == 0
    assert counts[-1] == 13


def test_flash_crowd_is_answered_within_the_rate() -> None:
    """The count at most doubles, or grows by four, in any 15 s."""
    story = Story(_model(), replicas=2)
    story.play(60, requests_per_second=6)
    counts = [2, *story.play(300, requests_per_second=200)]

    for second in range(15, len(counts)):
        before = counts[second - 15]
        assert counts[second] <= max(2 * before, before + 4), second


def test_crowd_that_leaves_is_followed_slowly() -> None:
    """After the load has gone, the count stays for one window and then halves at most once a minute."""
    story = Story(_model(), replicas=16)
    story.play(400, requests_per_second=60)
    counts = story.play(900, requests_per_second=2)

    assert {16} == set(counts[:295])
    assert _turns(counts) == [16, 8, 4, 2, 1]


def test_metrics_outage_of_an_hour_takes_nothing_away() -> None:
    """While nothing is known the count stands, whatever the load becomes."""
    story = Story(_model(), replicas=8)
    story.play(600, requests_per_second=31)
    story.blind = True
    counts = story.play(3600, requests_per_second=0)
    assert story.decision is not None

    assert {8} == set(counts)
    assert isinstance(story.decision.facts, Missing)


def test_end_of_an_outage_is_no_reason_to_shrink_at_once() -> None:
    """The held count fills the scale-down window: one window after the end, not one second."""
    story = Story(_model(), replicas=8)
    story.play(600, requests_per_second=31)
    story.blind = True
    story.play(3600, requests_per_second=0)
    story.blind = False
    counts = story.play(400, requests_per_second=0)

    assert {8} == set(counts[:299])
    assert counts[-1] < 8


def test_one_silent_pod_of_eight_holds_them_all() -> None:
    """Seven pods that are idle say nothing about the eighth."""
    story = Story(_model(), replicas=8)
    story.play(600, requests_per_second=31)
    story.deaf = {"pod-3"}
    counts = story.play(1200, requests_per_second=0)

    assert {8} == set(counts)


def test_one_silent_pod_does_not_hide_a_crowd() -> None:
    """Partial signals add replicas: what is seen is a lower bound."""
    story = Story(_model(), replicas=4)
    story.play(60, requests_per_second=15)
    story.deaf = {"pod-1"}
    counts = story.play(60, requests_per_second=60)

    assert max(counts) > 4


def test_pod_whose_metrics_flicker_is_no_growing_queue() -> None:
    """A queue that is tolerated and steady calls for nothing, however often a quarter of it is not seen."""
    story = Story(_model(), replicas=4, queue=24)
    for second in range(300):
        story.deaf = {"pod-1"} if second % 7 < 3 else set()
        # As much as four replicas serve: the queue neither grows nor shrinks.
        counts = story.play(1, requests_per_second=20)

        assert counts[-1] <= 7, second


def test_restart_takes_nothing_away_until_one_window_has_filled() -> None:
    """A new process has seen nothing: it may add, and shrinks after 300 s of its own watching."""
    story = Story(_model(), replicas=8)
    story.play(290, requests_per_second=2)
    story.restart_operator()
    counts = story.play(400, requests_per_second=2)
    assert story.decision is not None

    assert {8} == set(counts[:299])
    assert counts[-1] < 8


def test_restarts_every_four_minutes_never_shrink() -> None:
    """A process that does not live for one window takes nothing away, ever."""
    story = Story(_model(), replicas=8)
    for _ in range(10):
        story.restart_operator()
        counts = story.play(240, requests_per_second=0)

        assert {8} == set(counts)


def test_restart_still_grows_at_once() -> None:
    """Growth waits for no window."""
    story = Story(_model(), replicas=2)
    story.play(60, requests_per_second=6)
    story.restart_operator()
    counts = story.play(5, requests_per_second=60)

    assert counts[1] > 2


def test_hand_edit_is_put_back_and_named() -> None:
    """kubectl scale in Auto lasts one decision, upwards as downwards."""
    for edit in (1, 12):
        story = Story(_model(), replicas=4)
        story.play(60, requests_per_second=15)
        story.scale_by_hand(edit)
        story.play(1, requests_per_second=15)
        assert story.plan is not None
        (scale,) = story.plan.scales
        expected = (edit, 4, "kubectl-scale")
        actual = (scale.current, scale.replicas, scale.reverted_from)

        assert expected == actual
        assert story.replicas == 4


def test_hand_edit_while_the_operator_was_away_is_put_back_to_its_last_word() -> None:
    """After a restart the status remembers what somebody else has overwritten."""
    story = Story(_model().having(recorded_desired=4), replicas=4)
    story.play(60, requests_per_second=15)
    story.restart_operator()
    story.scale_by_hand(9)
    counts = story.play(10, requests_per_second=15)

    assert {4} == set(counts)
    assert story.replicas == 4


def test_foreign_autoscaler_is_left_alone() -> None:
    """Two writers never fight: the count is another's until its autoscaler is gone, and is then taken as it is."""
    story = Story(_model().having(foreign_autoscaler="HorizontalPodAutoscaler team-a/hpa"), replicas=4)
    story.play(5, requests_per_second=60)
    assert story.decision is not None
    limit = story.decision.limited_by
    story.scale_by_hand(9, manager="hpa")
    counts = story.play(200, requests_per_second=15)
    story.made = _model()
    after = story.play(60, requests_per_second=15)

    assert {9} == set(counts)
    assert limit is Limit.FOREIGN_AUTOSCALER
    assert {9} == set(after)


@pytest.mark.parametrize(("mode", "limit"), [(Mode.PAUSED, Limit.PAUSED), (Mode.RECOMMEND, Limit.RECOMMEND)])
def test_hands_off_modes_write_nothing(mode: Mode, limit: Limit) -> None:
    """Paused and Recommend decide, say what Auto would do, and leave even a hand edit alone."""
    story = Story(_model().mode(mode), replicas=2)
    story.play(30, requests_per_second=6)
    story.scale_by_hand(3)
    counts = story.play(60, requests_per_second=40)
    assert story.decision is not None
    assert story.plan is not None

    assert {3} == set(counts)
    assert story.plan.scales == ()
    assert story.decision.limited_by is limit
    assert story.decision.granted > 3


def test_auto_starts_from_what_it_finds() -> None:
    """What was scaled by hand while Paused is where Auto begins: no jump back to an older word."""
    story = Story(_model().mode(Mode.PAUSED), replicas=2)
    story.play(30, requests_per_second=6)
    story.scale_by_hand(6)
    story.play(30, requests_per_second=6)
    story.made = _model()
    counts = story.play(100, requests_per_second=6)

    assert {6} == set(counts)


def test_lower_maximum_shrinks_even_while_nothing_is_known() -> None:
    """maxReplicas is a word of the team, not a reading of the load: it holds in an outage too."""
    story = Story(_model(high=10), replicas=8)
    story.play(60, requests_per_second=31)
    story.blind = True
    story.play(60, requests_per_second=31)
    story.made = _model(high=5)
    counts = story.play(1, requests_per_second=31)
    assert story.decision is not None

    assert counts == [5]
    assert story.decision.limited_by is Limit.MAX_REPLICAS


def test_higher_minimum_grows_even_while_nothing_is_known() -> None:
    """So does minReplicas, and it waits for no rate."""
    story = Story(_model(), replicas=1)
    story.play(60, requests_per_second=2)
    story.blind = True
    story.made = _model(low=20)
    counts = story.play(1, requests_per_second=2)

    assert counts == [20]


def test_pods_that_never_become_ready_do_not_multiply() -> None:
    """Replicas that were asked for are supply on its way: half an hour of waiting asks for no third helping.

    20 requests/s are 4,000 tokens/s: five replicas at 80 %, and as many again for what waits.
    """
    story = Story(_model())
    story.play(60, requests_per_second=3)
    story.never_ready = True
    counts = story.play(1800, requests_per_second=20)

    assert max(counts) <= 10
    assert story.created <= 10


def test_first_pod_that_never_becomes_ready_stays_alone() -> None:
    """Nothing serves, so nothing is known, so nothing is added."""
    story = Story(_model(), replicas=0)
    story.never_ready = True
    story.scale_by_hand(1, manager="")
    counts = story.play(1800, requests_per_second=50)

    assert {1} == set(counts)


def test_fast_starts_are_no_division_by_zero() -> None:
    """Pods that are created and ready within one second of the API server's clock."""
    story = Story(_model(), start_seconds=0)
    story.play(30, requests_per_second=3)
    counts = story.play(300, requests_per_second=20)

    assert counts[-1] >= 5
    assert story.queue == 0


def test_noise_of_a_fifth_rarely_turns_the_count() -> None:
    """Twenty minutes of a load that swings by 20 % every few seconds: at most two turns in ten minutes."""
    story = Story(_model(), replicas=10)
    counts: list[int] = []
    for block in range(240):
        factor = (0.8, 1.2, 1.0, 0.9, 1.1)[block % 5]
        counts += story.play(5, requests_per_second=38 * factor)
    changes = [after - before for before, after in pairwise(counts) if after != before]
    turns = sum(1 for before, after in pairwise(changes) if (before > 0) != (after > 0))

    assert turns <= 2
    assert max(counts) <= 16


def test_load_that_fits_no_gpu_asks_for_what_there_is() -> None:
    """Replicas above minReplicas are asked for only where they fit, and the limit says so."""
    story = Story(_model(), gpus=3)
    counts = story.play(120, requests_per_second=50)
    assert story.decision is not None

    assert max(counts) == 3
    assert story.decision.limited_by is Limit.CAPACITY


def test_one_spike_in_one_sample_is_bounded_by_the_step() -> None:
    """Twenty times the load in a single second adds no more than one step, and is forgotten after the window."""
    story = Story(_model(), replicas=4, start_seconds=30)
    story.play(300, requests_per_second=15)
    story.play(1, requests_per_second=300)
    counts = story.play(600, requests_per_second=15)

    assert max(counts) <= 8
    assert counts[-1] == 4


def test_slow_window_up_waits_for_load_that_stays() -> None:
    """With a scale-up window of 60 s, a minute of load is needed for the first step."""
    made = _model().behavior(behavior(up_window=60))
    story = Story(made, replicas=2)
    story.play(120, requests_per_second=7)
    counts = story.play(90, requests_per_second=15)

    assert {2} == set(counts[:59])
    assert counts[-1] > 2
