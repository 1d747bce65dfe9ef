"""The HPA's arithmetic against Kubernetes' documentation and tests."""

import pytest

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.rivals.hpa import (
    DEFAULT_BEHAVIOR,
    IN_FLIGHT,
    TOKENS,
    Behavior,
    Hpa,
    InFlight,
    Limit,
    OutputRate,
    Scaler,
    average_value_replicas,
    rate_limited,
    stabilized,
)
from tests.simulate.rivals.rival_samples import pod, sample, setting


@pytest.mark.parametrize(
    ("total", "target", "replicas", "want"),
    [
        # The algorithm's page: twice the wanted value doubles, half of it halves.
        (200.0 * 3, 100.0, 3, 6),
        (50.0 * 4, 100.0, 4, 2),
        # replica_calculator_test.go: ScaleUpPerPodCMExternal, ScaleDownPerPodCMExternal, TolerancePerPodCMExternal.
        (8600.0, 2150.0, 3, 4),
        (8600.0, 2867.0, 5, 3),
        (8600.0, 2867.0, 3, 3),
        # Within 10 % nothing happens, and 10 % itself is within.
        (110.0, 10.0, 10, 10),
        (90.0, 10.0, 10, 10),
        (110.1, 10.0, 10, 12),
        (89.9, 10.0, 10, 9),
        # The sum does not know the replicas: starting ones do not multiply it.
        (100.0, 10.0, 40, 10),
        (0.0, 10.0, 2, 0),
    ],
)
def test_average_value(total: float, target: float, replicas: int, want: int) -> None:
    """ceil(total / target) outside of the tolerance."""
    assert average_value_replicas(total, target=target, replicas=replicas) == want


DOCUMENTED = Behavior(down_limits=(Limit(4, False, 60.0), Limit(10, True, 60.0)))
"""The example of the page's "Scaling policies"."""


@pytest.mark.parametrize(
    ("desired", "current", "changes", "behavior", "want"),
    [
        # Default: the larger of +4 pods and +100 % in 15 s.
        (100, 1, [], DEFAULT_BEHAVIOR, 5),
        (100, 4, [], DEFAULT_BEHAVIOR, 8),
        (100, 10, [], DEFAULT_BEHAVIOR, 20),
        (7, 10, [], DEFAULT_BEHAVIOR, 7),
        (0, 80, [], DEFAULT_BEHAVIOR, 0),
        # What was added within the period counts, and a removal gives it back.
        (100, 8, [(90.0, 4)], DEFAULT_BEHAVIOR, 8),
        (100, 8, [(85.1, 4)], DEFAULT_BEHAVIOR, 8),
        (100, 8, [(85.0, 4)], DEFAULT_BEHAVIOR, 16),
        (100, 8, [(90.0, 4), (95.0, -2)], DEFAULT_BEHAVIOR, 12),
        # Nobody is sent back below the current count by a limit.
        (100, 30, [(90.0, 28)], DEFAULT_BEHAVIOR, 30),
        # 80 pods: 10 % is 8; 72: 7.2 rounds up to 8; 40: 10 % is 4 and as much as the 4 pods; below, 4 pods.
        (10, 80, [], DOCUMENTED, 72),
        (10, 72, [], DOCUMENTED, 64),
        (10, 40, [], DOCUMENTED, 36),
        (10, 30, [], DOCUMENTED, 26),
        (10, 72, [(50.0, -8)], DOCUMENTED, 72),
        (10, 72, [(40.0, -8)], DOCUMENTED, 64),
        # Upwards a percentage rounds up, or a single pod could never grow by half.
        (9, 1, [], Behavior(up_limits=(Limit(50, True, 15.0),)), 2),
        (900, 100, [], Behavior(up_limits=(Limit(10, True, 15.0),)), 110),
    ],
)
def test_policies_limit_the_change_within_their_period(
    desired: int, current: int, changes: list[tuple[float, int]], behavior: Behavior, want: int
) -> None:
    """At second 100, with changes given as (second, change)."""
    assert rate_limited(desired, current=current, changes=changes, now=100.0, behavior=behavior) == want


@pytest.mark.parametrize(
    ("desired", "recommended", "up_window", "want"),
    [
        (5, [], 0.0, 5),
        (5, [(300.0, 9)], 0.0, 9),
        (5, [(100.1, 9)], 0.0, 9),
        (5, [(100.0, 9)], 0.0, 5),
        # Never above the current count on the way down, however high a recommendation was.
        (5, [(300.0, 40)], 0.0, 10),
        # Upwards at once by default; with a window the lowest of it.
        (20, [(390.0, 12)], 0.0, 20),
        (20, [(390.0, 12)], 60.0, 12),
        (20, [(330.0, 12)], 60.0, 20),
        (10, [(390.0, 3)], 0.0, 10),
    ],
)
def test_windows_hold_the_count(
    desired: int, recommended: list[tuple[float, int]], up_window: float, want: int
) -> None:
    """At second 400 with ten replicas: down takes the highest of 300 s, up the newest."""
    behavior = Behavior(up_window_seconds=up_window)

    assert stabilized(desired, current=10, recommended=recommended, now=400.0, behavior=behavior) == want


def test_a_lull_of_less_than_five_minutes_removes_nothing() -> None:
    """Load 8 until second 60, then 2: the eighth replica goes when the last high recommendation is 300 s old."""
    scaler, current, seen = Scaler(setting(1.0, least=1, most=20)), 8, {}
    for step in range(40):
        now = 15.0 * step
        current = scaler.settle(now, current=current, desired=8 if now <= 60.0 else 2)
        seen[now] = current

    assert seen[345.0] == 8
    assert seen[360.0] == 2


def test_the_replicas_of_the_beginning_are_a_recommendation() -> None:
    """A controller that starts (or sees an object first) does not scale down for five minutes."""
    scaler = Scaler(setting(1.0))

    assert scaler.settle(0.0, current=6, desired=1) == 6
    assert scaler.settle(299.0, current=6, desired=1) == 6
    assert scaler.settle(300.0, current=6, desired=1) == 1


def test_up_steps_are_15_seconds_apart_and_end_at_the_maximum() -> None:
    """1, 5, 10, 20, 30 with a maximum of 30; a sync 5 s later adds nothing."""
    scaler, current, seen = Scaler(setting(1.0, most=30)), 1, []
    for now in (0.0, 5.0, 15.0, 30.0, 45.0, 60.0):
        current = scaler.settle(now, current=current, desired=100)
        seen.append(current)

    assert seen == [5, 5, 10, 20, 30, 30]


def test_every_second_look_is_a_scrape() -> None:
    """The second look's 90 requests are not seen until the third."""
    hpa = Hpa(setting(10.0), InFlight())
    assert (hpa.sample_seconds, hpa.period_seconds) == (7.5, 15.0)

    hpa.observe(sample(0.0, pod(queued=10, running=20)))
    hpa.observe(sample(7.5, pod(queued=70, running=20)))
    assert hpa.decide(8.0, 1) == 3
    hpa.observe(sample(15.0, pod(queued=70, running=20)))

    assert hpa.decide(23.0, 3) == 7  # Nine wanted, 3 + 4 allowed.


def test_without_a_series_the_count_stays() -> None:
    """Before the first scrape, and while every pod starts and none has a metrics page."""
    hpa = Hpa(setting(10.0), InFlight())
    assert hpa.decide(0.0, 3) == 3

    hpa.observe(sample(1.0, pod(ready=False)))

    assert hpa.decide(2.0, 3) == 3


def test_tokens_are_a_rate_over_a_minute() -> None:
    """600 tokens/s from two pods at 100 per replica: six; a pod that starts has no counter yet."""
    hpa = Hpa(setting(100.0), OutputRate())
    starting = pod("c", ready=False)
    for look in range(9):
        at = 7.5 * look
        pods = pod("a", generated=1_000_000 + round(400 * at)), pod("b", generated=round(200 * at))
        hpa.observe(sample(at, *pods, starting))

    assert hpa.decide(60.0, 3) == 6


def test_a_pod_that_leaves_takes_its_tokens_out_of_the_rate_in_the_end() -> None:
    """Its 10,000 tokens are never subtracted: 400 per second stay 400."""
    rate = OutputRate()
    assert rate.read(0.0) is None
    for scrape in range(9):
        at = 15.0 * scrape
        pods = [pod("a", generated=round(400 * at))]
        if at < 30.0:
            pods.append(pod("b", generated=10_000))
        rate.scrape(sample(at, *pods))

    assert rate.read(120.0) == pytest.approx(400.0)


def test_targets_follow_the_replica() -> None:
    """A batch of 256 sequences: cheapest is a full one; a full batch on half its cache makes 10,659 tokens/s."""
    model = ReplicaModel()
    in_flight, tokens = IN_FLIGHT.targets(model), TOKENS.targets(model)

    assert (in_flight[0], in_flight[-1]) == pytest.approx((256.0, 1.5))
    # 256 / (7.69 + 0.0044 x 256 + 7.6e-5 x 200,000 ms) = 10,659.
    assert (tokens[0], tokens[-1]) == pytest.approx((10_659.38 / 2, 10_659.38 / 250), rel=1e-6)
    assert (IN_FLIGHT.default_target(model), TOKENS.default_target(model)) == pytest.approx((128.0, 10_659.38 / 5))


def test_the_defaults_of_the_api() -> None:
    """defaults.go: GenerateHPAScaleUpRules and GenerateHPAScaleDownRules."""
    assert (
        Behavior(
            up_window_seconds=0.0,
            down_window_seconds=300.0,
            up_limits=(Limit(4, False, 15.0), Limit(100, True, 15.0)),
            down_limits=(Limit(100, True, 15.0),),
        )
        == DEFAULT_BEHAVIOR
    )
