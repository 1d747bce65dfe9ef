"""AIBrix's APA against its own algorithm tests, its guard, and its cooldown window."""

import pytest

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.rivals.aibrix import DAMPED, KIND, Pick, guarded, recommended, stabilized
from tests.simulate.rivals.rival_samples import circumstances, pod, sample, setting


@pytest.mark.parametrize(
    ("average", "replicas", "want"),
    [
        # apa_test.go, target 30: basic up, up to ceiling, up to the doubling.
        (45.0, 2, 3),
        (35.0, 2, 3),
        (90.0, 2, 4),
        # Basic down, down to ceiling, down to half.
        (20.0, 6, 4),
        (18.0, 6, 4),
        (10.0, 6, 3),
        (5.0, 7, 3),  # floor(7 / 2)
        # Within the tolerances: 0.1 up, and 0.2 down as its samples set it.
        (33.0, 2, 2),
        (33.1, 20, 23),
        (24.0, 10, 10),
        (23.9, 10, 8),
    ],
)
def test_recommended(average: float, replicas: int, want: int) -> None:
    """ceil(replicas x average / target), at most doubled, at least halved."""
    assert recommended(average, target=30.0, replicas=replicas) == want


@pytest.mark.parametrize(
    ("desired", "average", "replicas", "ready", "want"),
    [
        # Nothing starts, or nothing changes.
        (8, 60.0, 4, 4, 8),
        (4, 60.0, 4, 2, 4),
        # 2 ready at twice the target, 2 starting: 60 x 2 / 30 = 4, what there will be.
        (8, 60.0, 4, 2, 4),
        # 3 ready at three times: 9 of the recommended 8.
        (8, 90.0, 4, 3, 8),
        # 3 ready at 2.2 times: ceil(6.6).
        (9, 66.0, 4, 3, 7),
        # Down: 2 ready at half, 2 starting at the target: (15 x 2 + 30 x 2) / 30 = 3.
        (2, 15.0, 4, 2, 3),
        (1, 0.0, 4, 1, 3),
        (2, 16.0, 4, 2, 4),  # (16 x 2 + 30 x 2) / 30 = 3.07.
        # No further than recommended, and never up.
        (3, 3.0, 4, 3, 3),
    ],
)
def test_starting_pods_are_empty_on_the_way_up_and_full_on_the_way_down(
    desired: int, average: float, replicas: int, ready: int, want: int
) -> None:
    """applyPendingReplicaGuard, worked by hand; the target is 30."""
    assert guarded(desired, average=average, target=30.0, replicas=replicas, ready=ready) == want


EARLIER = ((100.0, 1), (101.0, 3), (250.0, 9))


@pytest.mark.parametrize(
    ("desired", "pick", "want"), [(12, min, 12), (10, min, 10), (8, min, 3), (2, min, 2), (8, max, 9), (2, max, 9)]
)
def test_the_cooldown_takes_the_lowest_downwards(desired: int, pick: Pick, want: int) -> None:
    """At second 400 with ten replicas; what is 300 s old is out; upwards only the newest counts."""
    assert stabilized(desired, current=10, earlier=EARLIER, now=400.0, pick=pick) == want


def test_the_average_is_of_pods_that_answer_over_thirty_seconds() -> None:
    """Target 0.5: readings 0.6, 0.9 and 0.9 of the last 30 s make 0.8, not the 0.1 before them."""
    policy = KIND.build(setting(0.5), circumstances())
    starting = pod("z", ready=False)
    for at, value in ((0.0, 0.1), (10.0, 0.6), (20.0, 0.9), (30.0, 0.9)):
        policy.observe(sample(at, pod("a", utilization=value), pod("b", utilization=value), starting))

    # ceil(3 x 1.6) = 5; one of three starts: ceil(0.8 x 2 / 0.5) = 4.
    assert policy.decide(30.0, 3) == 4


def test_a_queue_of_a_hundred_per_pod_is_the_second_metric() -> None:
    """150 wait in each of two pods whose caches are as wanted: three."""
    policy = KIND.build(setting(0.5), circumstances())
    assert (policy.sample_seconds, policy.period_seconds) == (10.0, 10.0)
    policy.observe(sample(0.0, *(pod(uid, utilization=0.5, queued=150) for uid in "ab")))
    assert policy.decide(0.0, 2) == 3

    # The guard reckons with the metric that won: 150 in one ready of two, ceil(1.5) is what there is.
    policy = KIND.build(setting(0.5), circumstances())
    policy.observe(sample(0.0, pod("a", utilization=0.6, queued=150), pod("b", ready=False)))
    assert policy.decide(0.0, 2) == 2


def test_as_coded_an_old_low_recommendation_is_taken_and_as_documented_a_high_one_held() -> None:
    """Quiet at 1 replica, a surge, and a first small decline: the code falls back to the 1 of before."""
    counts = {}
    for kind in (KIND, DAMPED):
        policy, current = kind.build(setting(0.5), circumstances()), 1
        for tick, utilization in enumerate((0.5, 0.5, 1.0, 1.0, 1.0, 0.3, 0.3, 0.3)):
            policy.observe(sample(10.0 * tick, *(pod(str(n), utilization=utilization) for n in range(current))))
            current = policy.decide(10.0 * tick, current)
            counts[kind.name, tick] = current

    # 1, 2 (mean .67), 4 (.83), 8 (1), 13 (.77), and .53 is within the tolerance; .3 recommends 8.
    assert counts["aibrix", 6] == counts["aibrix-max", 6] == 13
    assert (counts["aibrix", 7], counts["aibrix-max", 7]) == (1, 13)


def test_without_an_answer_nothing_changes() -> None:
    """No pod is ready, at first or later."""
    policy = KIND.build(setting(0.5), circumstances())
    policy.observe(sample(0.0, pod(ready=False)))
    assert policy.decide(0.0, 4) == 4
    policy.observe(sample(10.0, pod(utilization=1.0)))
    policy.observe(sample(20.0, pod(ready=False)))

    assert policy.decide(20.0, 4) == 4


def test_default_is_half_the_cache() -> None:
    """samples/autoscaling/apa.yaml; the grid goes from a full cache to half a percent of one."""
    model = ReplicaModel()

    assert KIND.default_target(model) == 0.5
    assert (KIND.targets(model)[0], KIND.targets(model)[-1]) == pytest.approx((0.95, 0.005))
