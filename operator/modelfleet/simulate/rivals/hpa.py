"""The Kubernetes HorizontalPodAutoscaler on an External metric (AverageValue), and what KEDA and WVA need of it.

A sync every 15 s compares the metric's sum with target x replicas; within a tolerance of 10 % nothing happens.
The highest recommendation of the last 300 s decides downwards, the newest one upwards; per 15 s the count may
double or grow by 4, and fall without limit. The count is the scale's status: pods that still start are in it, and
since the sum does not depend on them, they neither add demand nor hide it.

Two ways to feed it are here. Requests in flight (waiting and running) are what every guide ends at: they grow with
the load as well as with the time each request takes. Generated tokens per second say how much work is done, not
how much waits, and stop growing when a replica is full; they are the usual signal of those who bill by tokens.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting
from modelfleet.simulate.rivals.grid import full_batch_tokens_per_second, geometric, in_flight_targets
from modelfleet.simulate.rivals.prometheus import LOOK_SECONDS, CounterRange

SYNC_SECONDS: Final = 15.0
TOLERANCE: Final = 0.1
RATE_WINDOW_SECONDS: Final = 60.0
"""Four scrapes: the shortest range that still has two samples when one scrape fails."""

Times = Iterable[tuple[float, int]]
"""When, and replicas."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A scaling policy: the most that may change within a period.

    Attributes:
        value: Pods, or percent of the count at the period's beginning.
        percent: Which of the two.
        period_seconds: The period.
    """

    value: int
    percent: bool
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Behavior:
    """`spec.behavior`; of several limits of a direction the widest holds (selectPolicy Max).

    Source:
        kubernetes pkg/apis/autoscaling/v2/defaults.go; the down window: --horizontal-pod-autoscaler-downscale-
        stabilization.
    """

    up_window_seconds: float = 0.0
    down_window_seconds: float = 300.0
    up_limits: tuple[Limit, ...] = (Limit(4, False, 15.0), Limit(100, True, 15.0))
    down_limits: tuple[Limit, ...] = (Limit(100, True, 15.0),)


DEFAULT_BEHAVIOR: Final = Behavior()


def average_value_replicas(total: float, *, target: float, replicas: int, tolerance: float = TOLERANCE) -> int:
    """Return the replicas that bring the metric's average to its target.

    Args:
        total: The metric's sum over the fleet.
        target: Wanted per replica, > 0.
        replicas: Those there are, starting ones included; >= 1.
        tolerance: Part by which the average may be off without any change.

    Source:
        kubernetes pkg/controller/podautoscaler/replica_calculator.go, GetExternalPerPodMetricReplicas; tolerance
        0.1: config/v1alpha1/defaults.go.
    """
    ratio = total / (target * replicas)
    if 1.0 - tolerance <= ratio <= 1.0 + tolerance:
        return replicas
    return ceil(total / target)


def stabilized(desired: int, *, current: int, recommended: Times, now: float, behavior: Behavior) -> int:
    """Return the count closest to the current one that the windows allow.

    Args:
        desired: The newest recommendation.
        current: Replicas asked for.
        recommended: Earlier recommendations, as they were before this and any limit.
        now: The time.
        behavior: With the windows.

    Source:
        horizontal.go, stabilizeRecommendationWithBehaviors.
    """
    lowest = highest = desired
    for at, replicas in recommended:
        if at > now - behavior.up_window_seconds:
            lowest = min(lowest, replicas)
        if at > now - behavior.down_window_seconds:
            highest = max(highest, replicas)
    return min(max(current, lowest), highest)


def rate_limited(desired: int, *, current: int, changes: Times, now: float, behavior: Behavior) -> int:
    """Return the count nearest to the desired one that the scaling policies allow.

    Args:
        desired: Wanted.
        current: Replicas asked for.
        changes: Earlier changes of it, signed.
        now: The time.
        behavior: With the limits.

    Source:
        horizontal.go, calculateScaleUpLimitWithScalingRules and calculateScaleDownLimitWithBehaviors.
    """
    if desired == current:
        return current

    def allowed(limit: Limit, sign: int) -> int:
        start = current - sum(change for at, change in changes if at > now - limit.period_seconds)
        if not limit.percent:
            return start + sign * limit.value
        # Upwards it rounds up, or 1 could not grow by half; downwards it is cut, which again favours the change.
        # The product is taken before the quotient: 100 x 1.1 is above 110 in binary.
        scaled = start * (100 + sign * limit.value)
        return -(-scaled // 100) if sign > 0 else scaled // 100

    if desired > current:
        most = max((allowed(limit, 1) for limit in behavior.up_limits), default=desired)
        return min(desired, max(most, current))
    least = min((allowed(limit, -1) for limit in behavior.down_limits), default=desired)
    return max(desired, min(least, current))


class Scaler:
    """What an HPA does with a recommendation; remembers recommendations and changes as long as they matter."""

    def __init__(self, setting: Setting, behavior: Behavior = DEFAULT_BEHAVIOR) -> None:
        """Begin without a past."""
        self._least, self._most, self._behavior = setting.min_replicas, setting.max_replicas, behavior
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()
        self._keep_recommended = max(behavior.up_window_seconds, behavior.down_window_seconds)
        limits = (*behavior.up_limits, *behavior.down_limits)
        self._keep_changes = max((limit.period_seconds for limit in limits), default=0.0)

    def settle(self, now: float, *, current: int, desired: int) -> int:
        """Return the replicas to ask for: windows first, then limits, then bounds."""
        recommended, changes = self._recommended, self._changes
        if not recommended:
            recommended.append((now, current))
        while recommended and recommended[0][0] <= now - self._keep_recommended:
            recommended.popleft()
        while changes and changes[0][0] <= now - self._keep_changes:
            changes.popleft()
        replicas = stabilized(desired, current=current, recommended=recommended, now=now, behavior=self._behavior)
        recommended.append((now, desired))
        replicas = rate_limited(replicas, current=current, changes=changes, now=now, behavior=self._behavior)
        replicas = min(max(replicas, self._least), self._most)
        if replicas != current:
            changes.append((now, replicas - current))
        return replicas


class Signal(Protocol):
    """A PromQL query whose answer is one number."""

    def scrape(self, sample: Sample) -> None:
        """Take what a scrape shows."""

    def read(self, now: float) -> float | None:
        """Answer; None when no pod has a series for it."""


class InFlight:
    """`sum(vllm:num_requests_waiting + vllm:num_requests_running)`."""

    def __init__(self) -> None:
        """Begin without a scrape."""
        self._total: float | None = None

    def scrape(self, sample: Sample) -> None:
        """Add up; a pod that starts has no metrics page yet."""
        ready = [pod for pod in sample.pods if pod.ready_at is not None]
        self._total = float(sum(pod.queued_requests + pod.running_requests for pod in ready)) if ready else None

    def read(self, now: float) -> float | None:
        """Answer from the last scrape."""
        return self._total


class OutputRate:
    """`sum(rate(vllm:generation_tokens_total[1m]))`."""

    def __init__(self) -> None:
        """Begin without a scrape."""
        self._tokens = CounterRange(RATE_WINDOW_SECONDS)

    def scrape(self, sample: Sample) -> None:
        """Keep the counters; a pod that starts has no metrics page yet."""
        self._tokens.add(
            sample.at, ((pod.uid, float(pod.generated_tokens)) for pod in sample.pods if pod.ready_at is not None)
        )

    def read(self, now: float) -> float | None:
        """Answer from the scrapes of the last minute."""
        return self._tokens.rate(now)


class Hpa:
    """One HorizontalPodAutoscaler with one External metric."""

    sample_seconds = LOOK_SECONDS
    period_seconds = SYNC_SECONDS

    def __init__(self, setting: Setting, signal: Signal) -> None:
        """Begin without a past."""
        self._target = setting.target
        self._signal = signal
        self._scaler = Scaler(setting)
        self._looks = 0

    def observe(self, sample: Sample) -> None:
        """Scrape, every second time."""
        if self._looks % 2 == 0:
            self._signal.scrape(sample)
        self._looks += 1

    def decide(self, now: float, current: int) -> int:
        """Sync; a metric that cannot be read leaves the count alone."""
        total = self._signal.read(now)
        if total is None:
            return current
        desired = average_value_replicas(total, target=self._target, replicas=current)
        return self._scaler.settle(now, current=current, desired=desired)


def _builder(signal: Callable[[], Signal]) -> Callable[[Setting, Circumstances], Hpa]:
    return lambda setting, circumstances: Hpa(setting, signal())


def _token_targets(model: ReplicaModel) -> tuple[float, ...]:
    # Even with short prompts prefill takes half; long prompts with short answers leave a hundredth, and less in bursts.
    peak = full_batch_tokens_per_second(model)
    return geometric(peak / 2.0, peak / 250.0)


IN_FLIGHT: Final = Kind(
    name="hpa-inflight",
    title="Kubernetes HPA on waiting and running requests per replica (Prometheus, 15 s)",
    unit="requests in flight per replica",
    targets=in_flight_targets,
    # Half the batch, as GKE's guide begins its search.
    default_target=lambda model: model.max_running / 2.0,
    build=_builder(InFlight),
)
TOKENS: Final = Kind(
    name="hpa-tokens",
    title="Kubernetes HPA on generated tokens per second and replica (Prometheus, 15 s, rate over 1 m)",
    unit="generated tokens/s per replica",
    targets=_token_targets,
    default_target=lambda model: full_batch_tokens_per_second(model) / 5.0,
    build=_builder(OutputRate),
)
