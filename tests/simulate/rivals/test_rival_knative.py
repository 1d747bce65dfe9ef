"""The KPA against Knative's own autoscaler tests; their rates are 10 up and 10 down."""

import pytest

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.rivals.knative import DELAYED, KIND, DelayWindow, Knative, Panic, Spec, scale
from tests.simulate.rivals.rival_samples import circumstances, pod, sample, setting

QUIET = Panic()


def spec(target: float, *, up: float = 10.0, down: float = 10.0) -> Spec:
    return Spec(target=target, max_scale_up_rate=up, max_scale_down_rate=down)


@pytest.mark.parametrize(
    ("case", "stable", "panic", "ready", "state", "want"),
    [
        (spec(10), 0.0, 0.0, 1, QUIET, 0),
        (spec(181), 21.0, 26.0, 1, QUIET, 1),
        (spec(10), 50.0, 49.0, 1, QUIET, 5),
        (spec(10), 50.0, 50.0, 5, QUIET, 5),
        # In panic the larger of the two averages counts.
        (spec(1), 50.0, 30.0, 5, Panic(95.0, 5), 50),
        (spec(1), 20.0, 30.0, 5, Panic(95.0, 5), 30),
        (spec(10), 50.0, 100.0, 1, QUIET, 10),
        # ceil(1.1 x 2) lets it grow at all; floor(100 / 1.1) is 90.
        (spec(1, up=1.1), 3.0, 3.1, 2, QUIET, 3),
        (spec(10, down=1.1), 1.0, 1.0, 100, QUIET, 90),
        # Rate limits: 10 from one pod or from none, 100 from ten; 10 from a hundred, 1 from ten.
        (spec(10), 1000.0, 1001.0, 1, QUIET, 10),
        (spec(10), 1000.0, 1001.0, 0, QUIET, 10),
        (spec(10), 1000.0, 1001.0, 10, QUIET, 100),
        (spec(10), 1.0, 1.0, 100, QUIET, 10),
        (spec(10), 1.0, 1.0, 10, QUIET, 1),
        # Stable decrease: 8 ready, 100 wants ten, 50 five.
        (spec(10), 100.0, 100.0, 8, QUIET, 10),
        (spec(10), 50.0, 50.0, 8, QUIET, 5),
        # The real rates: a thousandfold up, half down.
        (Spec(target=1.0), 5_000.0, 5_000.0, 2, QUIET, 2_000),
        (Spec(target=10.0), 1.0, 1.0, 9, QUIET, 4),
    ],
)
def test_scale(case: Spec, stable: float, panic: float, ready: int, state: Panic, want: int) -> None:
    """TestAutoscalerScale, RateLimitScaleUp/Down, UseOnePodAsMinimum, StableModeDecrease."""
    assert scale(case, stable=stable, panic=panic, ready=ready, state=state, now=100.0)[0] == want


def test_panic_keeps_its_peak_until_60_seconds_after_its_last_cause() -> None:
    """TestAutoscalerPanicThenUnPanicScaleDown."""
    desired, state = scale(spec(10), stable=100.0, panic=1000.0, ready=10, state=QUIET, now=0.0)
    assert (desired, state.since) == (100, 0.0)

    desired, state = scale(spec(10), stable=1.0, panic=1.0, ready=10, state=state, now=30.0)
    assert (desired, state.since) == (100, 0.0)
    desired, state = scale(spec(10), stable=1.0, panic=1.0, ready=10, state=state, now=60.0)
    assert (desired, state.since) == (100, 0.0)

    desired, state = scale(spec(10), stable=1.0, panic=1.0, ready=10, state=state, now=61.0)
    assert (desired, state) == (1, Panic())


def test_slow_increase_ends_a_panic_in_time() -> None:
    """TestAutoscalerUnpanicAfterSlowIncrease: 10 to 25 pods, then one more every 2 s; no new cause."""
    one = spec(1)
    desired, state = scale(one, stable=11.0, panic=25.0, ready=10, state=QUIET, now=0.0)
    assert (desired, state.since) == (25, 0.0)
    desired, state = scale(one, stable=30.0, panic=41.0, ready=40, state=state, now=30.0)
    assert (desired, state.since) == (41, 0.0)

    desired, state = scale(one, stable=50.0, panic=56.0, ready=55, state=state, now=62.0)

    assert (desired, state) == (50, Panic())


def test_a_new_surge_extends_a_panic() -> None:
    """TestAutoscalerExtendPanicWindow: twice the ready pods again after 30 s."""
    one = spec(1)
    _, state = scale(one, stable=11.0, panic=25.0, ready=10, state=QUIET, now=0.0)

    desired, state = scale(one, stable=30.0, panic=80.0, ready=40, state=state, now=30.0)

    assert (desired, state.since) == (80, 30.0)


@pytest.mark.parametrize(("panic", "since"), [(19.0, None), (19.1, 5.0)])
def test_panic_begins_at_twice_the_ready_pods(panic: float, since: float | None) -> None:
    """ceil(19 / 1) of ten is 1.9; ceil(19.1) is 20, twice."""
    assert scale(spec(1), stable=1.0, panic=panic, ready=10, state=QUIET, now=5.0)[1].since == since


def test_scale_down_delay_is_a_running_maximum() -> None:
    """TestAutoscalerScaleDownDelay, both parts: five minutes in slots of 2 s."""
    window = DelayWindow(300.0)
    assert [window.highest(at, count) for at, count in ((2.0, 4), (300.0, 0), (302.0, 0))] == [4, 4, 0]
    gradual = ((540.0, 4), (600.0, 3), (660.0, 0), (840.0, 0), (900.0, 0))
    assert [window.highest(at, count) for at, count in gradual] == [4, 4, 4, 3, 0]


def autoscaler(concurrency: float, *, delay: float = 0.0) -> Knative:
    return Knative(setting(concurrency), delay_seconds=delay)


def watch(policy: Knative, *, first: int, seconds: int, active: int, ready: int = 1) -> None:
    for second in range(first, first + seconds):
        policy.observe(sample(float(second), *(pod(str(n)) for n in range(ready)), active=active))


def test_seventy_percent_of_the_concurrency_is_aimed_at() -> None:
    """A concurrency of 100 wants a second pod for the 71st request, and no panic for it: 2 of 2 ready pods."""
    policy = autoscaler(100.0)
    watch(policy, first=0, seconds=60, active=70)
    assert policy.decide(60.0, 1) == 1

    watch(policy, first=60, seconds=60, active=71, ready=2)

    assert policy.decide(120.0, 1) == 2


def test_the_stable_window_is_sixty_reports_and_the_panic_window_six() -> None:
    """59 of 60 reports at 7, one at 0: the stable mean is below one pod's 7 only after a zero is in it."""
    policy = autoscaler(10.0)
    watch(policy, first=0, seconds=1, active=14, ready=3)
    watch(policy, first=1, seconds=59, active=7, ready=3)
    # Mean 7.12: two pods. One report later the 14 is out: one pod, at least half of three.
    policy._panic = Panic()
    assert policy.decide(60.0, 3) == 2
    watch(policy, first=60, seconds=1, active=7, ready=3)
    assert policy.decide(61.0, 3) == 1

    # Six reports of 42 want six pods, twice the three; five of them want 36.2 / 7, six as well, four 30.3, five.
    watch(policy, first=61, seconds=4, active=42, ready=3)
    policy.decide(65.0, 3)
    assert policy._panic == Panic()
    watch(policy, first=65, seconds=1, active=42, ready=3)
    assert policy.decide(66.0, 3) == 6
    assert policy._panic == Panic(66.0, 6)


def test_above_one_pod_it_begins_in_panic() -> None:
    """TestStartInPanicMode: two ready pods stay for the first 60 s, one does not make it panic."""
    two, one = autoscaler(10.0), autoscaler(10.0)
    watch(two, first=0, seconds=1, active=0, ready=2)
    watch(one, first=0, seconds=1, active=0, ready=1)

    assert one.decide(0.0, 1) == 0
    assert two.decide(0.0, 2) == 2
    assert two.decide(60.0, 2) == 2
    assert two.decide(61.0, 2) == 1


def test_starting_pods_do_not_count_and_no_report_changes_nothing() -> None:
    """Ready pods alone bound the step down."""
    policy = autoscaler(10.0)
    assert policy.decide(0.0, 9) == 9

    policy.observe(sample(0.0, pod("a"), pod("b", ready=False), pod("c", ready=False), active=0))

    assert policy.decide(1.0, 3) == 0


def test_kinds() -> None:
    """The delayed kind holds for 300 s, the other not at all; defaults are Knative's 100."""
    prompt = KIND.build(setting(10.0), circumstances())
    prompt.observe(sample(0.0, pod(), active=7))
    assert prompt.decide(0.0, 1) == 1
    for second in range(1, 61):
        prompt.observe(sample(float(second), pod(), active=0))
    assert prompt.decide(60.0, 1) == 0

    delayed = DELAYED.build(setting(10.0), circumstances())
    delayed.observe(sample(0.0, pod(), active=70))
    assert delayed.decide(0.0, 1) == 10
    for second in range(1, 400):
        delayed.observe(sample(float(second), pod(), active=0))
    assert delayed.decide(298.0, 10) == 10
    assert delayed.decide(300.0, 10) == 0
    assert (KIND.default_target(ReplicaModel()), DELAYED.default_target(ReplicaModel())) == (100.0, 100.0)
    assert KIND.targets(ReplicaModel())[0] * 0.7 == pytest.approx(256.0)
