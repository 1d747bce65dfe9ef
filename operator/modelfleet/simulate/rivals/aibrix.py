"""AIBrix's APA: every 10 s it reads each pod's metrics and multiplies the replicas by average / target.

As its samples set it up: KV cache utilization is the tuned metric, beside 100 waiting requests per pod, each
averaged over 30 s, and the larger answer counts; nothing happens from 20 % below to 10 % above the target; one
step at most doubles or halves. Only pods that answer are in the average, yet it multiplies the wanted count, so a
guard against pods that start counts those as empty when scaling up, and as at the target when scaling down.

Up it takes the highest recommendation of the last 0 s, down the lowest of the last 300 s. That is what the code
does, and the opposite of damping: an old low recommendation is taken as soon as a newer one is below the current
count. A second kind takes the highest downwards too, as its documentation reads and as an HPA would.
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import ceil, floor
from typing import Final

from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting
from modelfleet.simulate.rivals.grid import geometric

RESYNC_SECONDS: Final = 10.0
WINDOW_SECONDS: Final = 30.0
UP_TOLERANCE: Final = 0.1
DOWN_TOLERANCE: Final = 0.2
MAX_SCALE_UP_RATE: Final = 2.0
MAX_SCALE_DOWN_RATE: Final = 2.0
SCALE_DOWN_COOLDOWN_SECONDS: Final = 300.0
KV_CACHE_UTILIZATION: Final = 0.5
WAITING_REQUESTS: Final = 100.0

Pick = Callable[[Iterable[int]], int]


def recommended(average: float, *, target: float, replicas: int) -> int:
    """Return the replicas for a metric's average.

    Args:
        average: Over the pods that answered and the window.
        target: Wanted per replica, > 0.
        replicas: Asked for, starting ones included.

    Source:
        AIBrix pkg/controller/podautoscaler/algorithm/apa.go, computeTargetReplicas; rates:
        context/context.go; tolerances and window: samples/autoscaling/multimetrics-apa.yaml.
    """
    ratio = average / target
    if ratio > 1.0 + UP_TOLERANCE:
        return min(ceil(replicas * ratio), ceil(MAX_SCALE_UP_RATE * replicas))
    if ratio < 1.0 - DOWN_TOLERANCE:
        return max(ceil(replicas * ratio), floor(replicas / MAX_SCALE_DOWN_RATE))
    return replicas


def guarded(desired: int, *, average: float, target: float, replicas: int, ready: int) -> int:
    """Return the recommendation corrected for pods that start.

    Args:
        desired: The recommendation.
        average: Of the metric that made it.
        target: Of the same.
        replicas: Asked for, >= 1.
        ready: How many of them serve.

    Source:
        AIBrix pkg/controller/podautoscaler/autoscaler.go, applyPendingReplicaGuard.
    """
    starting = replicas - ready
    if starting <= 0 or desired == replicas:
        return desired
    if desired > replicas:
        # ceil(replicas x (average x ready / replicas) / target), without the division that cancels.
        return min(max(ceil(average * ready / target), replicas), desired)
    return max(min(ceil((average * ready + target * starting) / target), replicas), desired)


def stabilized(desired: int, *, current: int, earlier: Iterable[tuple[float, int]], now: float, pick: Pick) -> int:
    """Return the recommendation that the cooldown window takes.

    Args:
        desired: The newest one.
        current: Replicas asked for.
        earlier: Recommendations before it, and when.
        now: The time.
        pick: Of those of the window downwards: `min` is what the code does.

    Source:
        AIBrix pkg/controller/podautoscaler/podautoscaler_controller.go, stabilizeRecommendation (selectMax).
    """
    # The window upwards is 0 s: only the newest counts.
    if desired >= current:
        return desired
    recent = (count for at, count in earlier if at > now - SCALE_DOWN_COOLDOWN_SECONDS)
    return min(pick([desired, *recent]), current)


class _Window:
    """The mean of a metric's fleet averages over the last while."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, at: float, value: float) -> None:
        self._values.append((at, value))
        self._sum += value
        while self._values[0][0] <= at - WINDOW_SECONDS:
            self._sum -= self._values.popleft()[1]

    def mean(self) -> float | None:
        return self._sum / len(self._values) if self._values else None


class Aibrix:
    """One PodAutoscaler of strategy APA."""

    sample_seconds = RESYNC_SECONDS
    period_seconds = RESYNC_SECONDS

    def __init__(self, setting: Setting, *, pick: Pick) -> None:
        """Begin without a past."""
        self._setting = setting
        self._pick = pick
        self._metrics = ((_Window(), setting.target), (_Window(), WAITING_REQUESTS))
        self._ready = 0
        self._earlier: deque[tuple[float, int]] = deque()

    def observe(self, sample: Sample) -> None:
        """Fetch the metrics of all pods that answer."""
        ready = [pod for pod in sample.pods if pod.ready_at is not None]
        self._ready = len(ready)
        if not ready:
            return
        (utilization, _), (waiting, _) = self._metrics
        utilization.add(sample.at, sum(pod.kv_cache_utilization for pod in ready) / len(ready))
        waiting.add(sample.at, sum(pod.queued_requests for pod in ready) / len(ready))

    def decide(self, now: float, current: int) -> int:
        """Reconcile; when no pod answers nothing changes."""
        least, most = self._setting.min_replicas, self._setting.max_replicas
        answers = []
        for window, target in self._metrics:
            average = window.mean()
            if average is None or not self._ready:
                return current
            answers.append((recommended(average, target=target, replicas=current), average, target))
        desired, average, target = max(answers, key=lambda answer: answer[0])
        desired = min(max(desired, least), most)
        desired = guarded(desired, average=average, target=target, replicas=current, ready=self._ready)
        earlier = self._earlier
        while earlier and earlier[0][0] <= now - SCALE_DOWN_COOLDOWN_SECONDS:
            earlier.popleft()
        replicas = stabilized(desired, current=current, earlier=earlier, now=now, pick=self._pick)
        earlier.append((now, desired))
        return min(max(replicas, least), most)


def _builder(pick: Pick) -> Callable[[Setting, Circumstances], Aibrix]:
    return lambda setting, circumstances: Aibrix(setting, pick=pick)


KIND: Final = Kind(
    name="aibrix",
    title="AIBrix APA on KV cache utilization and queue, 30 s window, every 10 s, as its code is",
    unit="KV cache utilization",
    targets=lambda model: geometric(0.95, 0.005),
    default_target=lambda model: KV_CACHE_UTILIZATION,
    build=_builder(min),
)
DAMPED: Final = Kind(
    name="aibrix-max",
    title="AIBrix APA with the highest recommendation of 5 min downwards, as its documentation reads",
    unit=KIND.unit,
    targets=KIND.targets,
    default_target=KIND.default_target,
    build=_builder(max),
)
