"""A constant fleet."""

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
    """Two per doubling, as far as anybody goes."""
    model = ReplicaModel()

    assert KIND.targets(model) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    assert KIND.default_target(model) == 4
