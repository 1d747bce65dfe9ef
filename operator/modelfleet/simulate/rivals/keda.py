"""KEDA from one replica on: an HPA fed by Prometheus triggers. (Its own loop only moves between zero and one.)

The ScaledObject is llm-d's recommended one: requests that run, counted at the gateway, and requests that wait
there because no replica can take them, at most one per replica; the larger answer counts. Up at most to double per
15 s, at once; down by the highest recommendation of 300 s. A query without an answer counts as zero.
"""

from typing import Final

from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting
from modelfleet.simulate.rivals.grid import in_flight_targets
from modelfleet.simulate.rivals.hpa import SYNC_SECONDS, Behavior, Limit, Scaler, average_value_replicas
from modelfleet.simulate.rivals.prometheus import LOOK_SECONDS

HELD_PER_REPLICA: Final = 1.0
RUNNING_PER_REPLICA: Final = 16.0
BEHAVIOR: Final = Behavior(up_limits=(Limit(100, True, 15.0),))


def replicas_for(*, running: int, held: int, running_target: float, replicas: int) -> int:
    """Return the larger answer of the two triggers.

    Args:
        running: Requests that the gateway has sent on and that are not finished.
        held: Requests that wait at the gateway.
        running_target: Wanted of the former per replica, > 0.
        replicas: Those there are, starting ones included; >= 1.

    Source:
        llm-d guides/workload-autoscaling/keda-epp: base/scaledobject.yaml and components/trigger-queue; several
        metrics: kubernetes horizontal.go, computeReplicasForMetrics.
    """
    return max(
        average_value_replicas(running, target=running_target, replicas=replicas),
        average_value_replicas(held, target=HELD_PER_REPLICA, replicas=replicas),
    )


class Keda:
    """The HPA that a ScaledObject makes."""

    sample_seconds = LOOK_SECONDS
    period_seconds = SYNC_SECONDS

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Begin without a scrape."""
        self._target = setting.target
        self._scaler = Scaler(setting, BEHAVIOR)
        self._looks = self._running = self._held = 0

    def observe(self, sample: Sample) -> None:
        """Scrape the gateway, every second time."""
        if self._looks % 2 == 0:
            self._running, self._held = sample.active_requests - sample.held_requests, sample.held_requests
        self._looks += 1

    def decide(self, now: float, current: int) -> int:
        """Sync the HPA."""
        desired = replicas_for(running=self._running, held=self._held, running_target=self._target, replicas=current)
        return self._scaler.settle(now, current=current, desired=desired)


KIND: Final = Kind(
    name="keda",
    title="KEDA as llm-d recommends it: running and held requests at the gateway (Prometheus, 15 s)",
    unit="running requests per replica",
    targets=in_flight_targets,
    default_target=lambda model: RUNNING_PER_REPLICA,
    build=Keda,
)
