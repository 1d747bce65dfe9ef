"""KEDA's two triggers, as llm-d's ScaledObject has them."""

import pytest

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.rivals.keda import BEHAVIOR, KIND, Keda, replicas_for
from tests.simulate.rivals.rival_samples import circumstances, pod, sample, setting


@pytest.mark.parametrize(
    ("running", "held", "replicas", "want"),
    [
        (16, 0, 1, 1),
        (17, 0, 1, 1),  # Within 10 %.
        (18, 0, 1, 2),
        (64, 0, 2, 4),
        (16, 5, 1, 5),  # One held request per replica.
        (160, 5, 1, 10),
        (0, 0, 4, 0),
    ],
)
def test_the_larger_trigger_counts(running: int, held: int, replicas: int, want: int) -> None:
    """Thresholds 16 running and 1 held per replica, AverageValue each, the maximum of both."""
    assert replicas_for(running=running, held=held, running_target=16.0, replicas=replicas) == want


def test_up_at_most_doubles_and_down_waits_five_minutes() -> None:
    """The ScaledObject's behavior has no +4 pods."""
    keda = Keda(setting(16.0), circumstances())
    keda.observe(sample(0.0, pod(), active=1_600))

    assert [keda.decide(0.0, 1), keda.decide(15.0, 2), keda.decide(30.0, 4)] == [2, 4, 8]

    keda.observe(sample(7.5, pod()))  # No scrape: every second look is one.
    assert keda.decide(7.5, 100) == 100
    keda.observe(sample(45.0, pod()))
    assert keda.decide(45.0, 8) == 8
    assert keda.decide(329.0, 8) == 8
    assert keda.decide(330.0, 8) == 1
    assert BEHAVIOR.down_window_seconds == 300.0


def test_held_requests_are_not_running() -> None:
    """The gateway counts 30 in flight, 2 of them held: 28 run, which want 14; counted twice they would want 15."""
    keda = Keda(setting(2.0), circumstances())
    keda.observe(sample(0.0, active=30, held=2))

    assert keda.decide(0.0, 10) == 14


def test_an_empty_answer_is_zero() -> None:
    """ignoreNullValues: the minimum, once the replicas of the beginning are 300 s old."""
    keda = Keda(setting(16.0, least=2), circumstances())

    assert keda.decide(0.0, 5) == 5
    assert keda.decide(300.0, 5) == 2


def test_default_is_the_guides_threshold() -> None:
    """Sixteen running requests per replica."""
    assert KIND.default_target(ReplicaModel()) == 16.0
