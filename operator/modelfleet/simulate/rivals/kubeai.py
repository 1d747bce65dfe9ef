"""KubeAI: the mean of the requests in flight at its proxy over 10 min, divided by the target, every 10 s.

It scales up at once and down after three ticks in a row that wanted less (30 s). Once it has begun to scale down
it goes on with every tick, until one wants as much or more. Pods that start do not matter to it.
"""

from collections import deque
from math import ceil
from typing import Final

from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting
from modelfleet.simulate.rivals.grid import in_flight_targets

TICK_SECONDS: Final = 10.0
WINDOW_SECONDS: Final = 600.0
SCALE_DOWN_DELAY_SECONDS: Final = 30.0
TARGET_REQUESTS: Final = 100.0
REQUIRED_AGREEMENTS: Final = ceil(SCALE_DOWN_DELAY_SECONDS / TICK_SECONDS)


def replicas_for(mean_active: float, *, target: float) -> int:
    """Return the replicas for a mean of requests in flight.

    Source:
        KubeAI internal/modelautoscaler/autoscaler.go, Start; interval, window: internal/config/system.go; target
        and delay: api/k8s/v1/model_types.go.
    """
    return ceil(mean_active / target)


def agreed(desired: int, *, current: int, agreements: int) -> tuple[int, int]:
    """Return the replicas to ask for, and how many ticks in a row have wanted less.

    Args:
        desired: Within the bounds.
        current: Replicas asked for.
        agreements: Ticks in a row before this one that wanted less.

    Source:
        KubeAI internal/modelclient/scale.go, Scale: the counter is not reset by scaling down.
    """
    if desired >= current:
        return desired, 0
    if agreements < REQUIRED_AGREEMENTS:
        return current, agreements + 1
    return desired, agreements


class Kubeai:
    """The autoscaler of one model."""

    sample_seconds = TICK_SECONDS
    period_seconds = TICK_SECONDS

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Begin with an empty window: its mean is then over what there is, as after a restart with saved averages."""
        self._setting = setting
        self._active: deque[int] = deque(maxlen=int(WINDOW_SECONDS / TICK_SECONDS))
        self._sum = 0
        self._agreements = 0
        self._serving = False

    def observe(self, sample: Sample) -> None:
        """Ask the proxies; while no pod serves it neither counts nor scales."""
        self._serving = any(pod.ready_at is not None for pod in sample.pods)
        if not self._serving:
            return
        if len(self._active) == self._active.maxlen:
            self._sum -= self._active[0]
        self._active.append(sample.active_requests)
        self._sum += sample.active_requests

    def decide(self, now: float, current: int) -> int:
        """Tick."""
        if not self._serving:
            return current
        desired = replicas_for(self._sum / len(self._active), target=self._setting.target)
        desired = min(max(desired, self._setting.min_replicas), self._setting.max_replicas)
        replicas, self._agreements = agreed(desired, current=current, agreements=self._agreements)
        return replicas


KIND: Final = Kind(
    name="kubeai",
    title="KubeAI: mean of requests in flight over 10 min, every 10 s",
    unit="requests in flight per replica",
    targets=in_flight_targets,
    default_target=lambda model: TARGET_REQUESTS,
    build=Kubeai,
)
