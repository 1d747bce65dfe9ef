"""KubeAI's mean and its agreement on scaling down."""

import pytest

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.rivals.kubeai import KIND, REQUIRED_AGREEMENTS, Kubeai, agreed, replicas_for
from tests.simulate.rivals.rival_samples import circumstances, pod, sample, setting


@pytest.mark.parametrize(
    ("mean_active", "target", "want"), [(0.0, 100.0, 0), (1.0, 100.0, 1), (100.0, 100.0, 1), (100.1, 100.0, 2)]
)
def test_replicas_are_the_mean_over_the_target(mean_active: float, target: float, want: int) -> None:
    """Rounded up: any request in ten minutes keeps a replica."""
    assert replicas_for(mean_active, target=target) == want


@pytest.mark.parametrize(
    ("desired", "current", "agreements", "want"),
    [
        (5, 3, 2, (5, 0)),
        (3, 3, 2, (3, 0)),
        (2, 3, 0, (3, 1)),
        (2, 3, 2, (3, 3)),
        (2, 3, 3, (2, 3)),
        (1, 2, 3, (1, 3)),  # Not counted anew after a step down.
    ],
)
def test_three_ticks_must_have_wanted_less(desired: int, current: int, agreements: int, want: tuple[int, int]) -> None:
    """scale.go: a fourth tick that wants less acts; wanting as much or more resets."""
    assert agreed(desired, current=current, agreements=agreements) == want
    assert REQUIRED_AGREEMENTS == 3


def play(policy: Kubeai, active: list[int], *, first: int, current: int) -> list[int]:
    counts = []
    for tick, requests in enumerate(active, first):
        policy.observe(sample(10.0 * tick, pod(), active=requests))
        current = policy.decide(10.0 * tick, current)
        counts.append(current)
    return counts


def test_the_window_is_sixty_ticks() -> None:
    """Ten minutes at 100, then 400: one replica more per 100 of the mean, 20 ticks apart; the peak is forgotten."""
    policy = Kubeai(setting(100.0), circumstances())
    assert play(policy, [100] * 60, first=0, current=1)[-1] == 1

    counts = play(policy, [400] * 60, first=60, current=1)

    # After k ticks the mean is 100 + 5 k.
    assert (counts[0], counts[19], counts[20], counts[39], counts[40], counts[59]) == (2, 2, 3, 3, 4, 4)
    assert play(policy, [400], first=120, current=4) == [4]


def test_the_oldest_tick_is_the_one_that_goes() -> None:
    """600 and then nothing: the mean of 60 ticks is 10 until the first is out."""
    policy = Kubeai(setting(10.0), circumstances())
    play(policy, [600] + [0] * 59, first=0, current=1)
    assert policy._sum == 600

    play(policy, [0], first=60, current=1)

    assert policy._sum == 0


def test_the_first_ticks_must_agree_too() -> None:
    """A new autoscaler that finds too many replicas waits 30 s as well."""
    assert play(Kubeai(setting(100.0), circumstances()), [1] * 4, first=0, current=3) == [3, 3, 3, 1]


def test_a_young_window_is_averaged_over_what_it_has() -> None:
    """As after a restart that found its averages in the ConfigMap; two ticks of 200 and 400 make 300."""
    assert play(Kubeai(setting(100.0), circumstances()), [200, 400], first=0, current=1) == [2, 3]


def test_down_comes_after_thirty_seconds_and_in_one_step() -> None:
    """From 8 at once to what is wanted, within the bounds."""
    policy = Kubeai(setting(1.0, least=2, most=8), circumstances())
    assert play(policy, [50], first=0, current=1) == [8]

    policy._active.clear()
    policy._sum = 0

    assert play(policy, [1, 1, 1, 1], first=1, current=8) == [8, 8, 8, 2]


def test_without_a_serving_pod_it_waits() -> None:
    """No endpoints: the tick is skipped, and what was in flight is not counted."""
    policy = Kubeai(setting(10.0), circumstances())
    policy.observe(sample(0.0, pod(ready=False), active=500))
    assert policy.decide(0.0, 1) == 1

    policy.observe(sample(10.0, pod(), active=20))

    assert policy.decide(10.0, 1) == 2


def test_default_is_a_hundred_requests() -> None:
    """targetRequests."""
    assert KIND.default_target(ReplicaModel()) == 100.0
