"""A constant fleet."""

from itertools import pairwise

import pytest

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.rivals.static import KIND
from tests.simulate.rivals.rival_samples import circumstances, pod, sample, setting


def test_it_asks_for_its_target_whatever_it_sees() -> None:
    """Also before it has looked."""
    policy = KIND.build(setting(7.0), circumstances())
    assert policy.decide(0.0, 1) == 7

    policy.observe(sample(0.0, pod(queued=10_000), active=10_000))

    assert policy.decide(3600.0, 7) == 7
    assert not KIND.tunes_minimum


def test_counts_to_try() -> None:
    """Every one where one replica is much, else steps of a twelfth, as far as a deployment goes."""
    counts = KIND.targets(ReplicaModel())

    assert counts[:25] == (*range(1, 25), 26)
    assert all(1.03 < larger / count < 1.12 for count, larger in pairwise(counts[23:]))
    assert 900 < counts[-1] <= 1000
    assert KIND.default_target(ReplicaModel()) == 4


@pytest.mark.parametrize(("target", "want"), [(7.0, (7.0, 7)), (1.0, (2.0, 2)), (20.0, (9.0, 9))])
def test_its_count_is_there_from_the_beginning_within_the_bounds(target: float, want: tuple[float, int]) -> None:
    setting = KIND.setting(target, min_replicas=2, max_replicas=9)

    assert (setting.target, setting.min_replicas, setting.max_replicas) == (*want, 9)


def test_half_a_replica_is_refused() -> None:
    with pytest.raises(ValueError, match="a count of replicas is a whole number"):
        KIND.build(setting(2.5), circumstances())
