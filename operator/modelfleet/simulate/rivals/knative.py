"""Knative's pod autoscaler (KPA) on concurrency, which its proxies report every second; a decision every 2 s.

Requests in flight are averaged over 60 s, and over 6 s to notice a surge: when the short average alone wants twice
the ready pods, it panics, and for 60 s after the last such moment only scales up. In one step the count may grow
a thousandfold and at most halve. The target is 70 % of what a pod is said to take. Only ready pods count: those
that start are neither demand nor supply, but the wanted number does not depend on how many there are.

Two kinds: as it comes, and with the scale-down delay that its documentation recommends against cold starts, here
as long as an HPA's window.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import Final

from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting
from modelfleet.simulate.rivals.grid import in_flight_targets

TICK_SECONDS: Final = 2.0
REPORT_SECONDS: Final = 1.0
STABLE_SECONDS: Final = 60.0
PANIC_SECONDS: Final = 6.0
"""10 % of the stable window."""
PANIC_THRESHOLD: Final = 2.0
MAX_SCALE_UP_RATE: Final = 1000.0
MAX_SCALE_DOWN_RATE: Final = 2.0
TARGET_UTILIZATION: Final = 0.7
CONCURRENCY: Final = 100.0
DELAY_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Spec:
    """What a decision depends on beside the signals.

    Attributes:
        target: Requests in flight wanted per pod, > 0: the utilization is already in it.
        max_scale_up_rate: Factor by which the count may grow in one decision.
        max_scale_down_rate: Divisor by which it may fall.
        panic_threshold: Panic begins when the short average alone wants this many times the ready pods.
        stable_seconds: How long a panic outlasts its last cause.

    Source:
        Knative serving config/core/configmaps/autoscaler.yaml.
    """

    target: float
    max_scale_up_rate: float = MAX_SCALE_UP_RATE
    max_scale_down_rate: float = MAX_SCALE_DOWN_RATE
    panic_threshold: float = PANIC_THRESHOLD
    stable_seconds: float = STABLE_SECONDS


@dataclass(frozen=True, slots=True)
class Panic:
    """Since when the last cause of a panic is, None outside of one; and the most pods that it asked for."""

    since: float | None = None
    most_pods: int = 0


def scale(spec: Spec, *, stable: float, panic: float, ready: int, state: Panic, now: float) -> tuple[int, Panic]:
    """Return the wanted pods, and the panic from now on.

    Args:
        spec: Fixed.
        stable: Mean requests in flight over the long window.
        panic: The same over the short one.
        ready: Ready pods.
        state: The panic so far.
        now: The time.

    Source:
        Knative serving pkg/autoscaler/scaling/autoscaler.go, Scale.
    """
    pods = max(1, ready)
    most, least = ceil(spec.max_scale_up_rate * pods), floor(pods / spec.max_scale_down_rate)
    wanted_panic = ceil(panic / spec.target)
    desired = min(max(ceil(stable / spec.target), least), most)
    surge = min(max(wanted_panic, least), most)
    if wanted_panic / pods >= spec.panic_threshold:
        state = Panic(now, state.most_pods)
    elif state.since is not None and state.since + spec.stable_seconds < now:
        state = Panic()
    if state.since is None:
        return desired, state
    state = Panic(state.since, max(state.most_pods, desired, surge))
    return state.most_pods, state


class DelayWindow:
    """The highest count of the last while, in slots of one tick.

    Source:
        Knative serving pkg/autoscaler/aggregation/max/timewindow.go.
    """

    def __init__(self, seconds: float) -> None:
        """Begin empty."""
        self._slots = seconds / TICK_SECONDS
        self._falling: deque[tuple[int, int]] = deque()
        """Counts that nothing newer exceeds, with their slots: the first is the highest."""

    def highest(self, now: float, count: int) -> int:
        """Record a count and return the highest in the window."""
        slot, falling = int(now // TICK_SECONDS), self._falling
        while falling and falling[-1][1] <= count:
            falling.pop()
        falling.append((slot, count))
        while falling[0][0] <= slot - self._slots:
            falling.popleft()
        return falling[0][1]


class _Mean:
    """The mean of the last values; fewer while there are fewer, as Knative's buckets do it."""

    def __init__(self, count: int) -> None:
        self._values: deque[int] = deque(maxlen=count)
        self._sum = 0

    def add(self, value: int) -> None:
        if len(self._values) == self._values.maxlen:
            self._sum -= self._values[0]
        self._values.append(value)
        self._sum += value

    def mean(self) -> float:
        return self._sum / len(self._values)


class Knative:
    """The autoscaler of one revision."""

    sample_seconds = REPORT_SECONDS
    period_seconds = TICK_SECONDS

    def __init__(self, setting: Setting, *, delay_seconds: float) -> None:
        """Begin as a new revision does; above one pod it will begin in panic, lest it scale down unknowing."""
        self._spec = Spec(target=setting.target * TARGET_UTILIZATION)
        self._delay = DelayWindow(delay_seconds) if delay_seconds else None
        self._stable = _Mean(int(STABLE_SECONDS / REPORT_SECONDS))
        self._surge = _Mean(int(PANIC_SECONDS / REPORT_SECONDS))
        self._ready: int | None = None
        self._panic: Panic | None = None

    def observe(self, sample: Sample) -> None:
        """Take the proxies' reports; they count requests wherever those wait."""
        self._stable.add(sample.active_requests)
        self._surge.add(sample.active_requests)
        self._ready = sum(1 for pod in sample.pods if pod.ready_at is not None)

    def decide(self, now: float, current: int) -> int:
        """Tick; without any report nothing changes."""
        ready = self._ready
        if ready is None:
            return current
        state = self._panic
        if state is None:
            state = Panic(now if ready > 1 else None, ready)
        desired, self._panic = scale(
            self._spec, stable=self._stable.mean(), panic=self._surge.mean(), ready=ready, state=state, now=now
        )
        return desired if self._delay is None else self._delay.highest(now, desired)


def _builder(delay_seconds: float) -> Callable[[Setting, Circumstances], Knative]:
    return lambda setting, circumstances: Knative(setting, delay_seconds=delay_seconds)


KIND: Final = Kind(
    name="knative",
    title="Knative KPA on concurrency: 60 s window, 6 s panic window, every 2 s",
    unit="concurrency per replica",
    targets=lambda model: tuple(target / TARGET_UTILIZATION for target in in_flight_targets(model)),
    default_target=lambda model: CONCURRENCY,
    build=_builder(0.0),
)
DELAYED: Final = Kind(
    name="knative-delay",
    title="Knative KPA on concurrency, with a scale-down delay of 5 min",
    unit=KIND.unit,
    targets=KIND.targets,
    default_target=KIND.default_target,
    build=_builder(DELAY_SECONDS),
)
