"""Step 2, capacity: what one replica sustains, and how long a start takes.

What a replica sustains is measured while it is saturated (every ready pod has a request waiting):
then its throughput is its capacity and the requests it runs are the room it has, whatever the model,
the GPU and the mix of requests. The room shows once saturation is no accident of one sample; throughput
only once it has lasted as long as the window over which it is taken. Until then the runtime's prior stands in.
"""

from dataclasses import replace
from enum import StrEnum
from math import ceil
from typing import Final

from modelfleet.decide.demand import Demand, saturated
from modelfleet.decide.history import Measured
from modelfleet.decide.snapshot import Pod
from modelfleet.decide.value import value

TARGET_UTILIZATION: Final = 0.8
"""Share of the sustained throughput to plan for; above it queues form at any burst (M/M/c, c small)."""
MIN_SATURATED_SECONDS: Final = 3.0
"""Engines show an arrival as waiting until their next step: one such sample is no full batch, and a room of
two learned from it would call for ten replicas where one serves twenty."""
MIN_MEASURED_SECONDS: Final = 3.0
"""Throughput measured for less than this is a burst's edge."""
SETTLED_SECONDS: Final = 10.0
"""A pod younger than this still fills its batch: what it does is not what it can."""
AVERAGING_SECONDS: Final = 30.0
"""Time constant of the moving average over saturated intervals."""
START_PRIOR_SECONDS: Final = 120.0
"""Start time before one was measured: an 8B model from a warm cache takes 65 to 130 s."""
MIN_START_SECONDS: Final = 1.0
"""The API server's times are whole seconds: a pod that is created and ready in the same one took some part of it."""
START_SAMPLES: Final = 20
"""Starts remembered; P90 of 20 is the third longest."""


class CapacitySource(StrEnum):
    """Where the target of one replica comes from."""

    SPEC = "spec.scaling.targets.outputTokensPerSecond"
    MEASURED = "80 % of the throughput measured while saturated"
    PRIOR = "80 % of the runtime's prior"
    UNKNOWN = "unknown"


@value
class Capacity:
    """What one replica should carry and how long a new one takes.

    Attributes:
        target_tokens_per_second: Generated tokens/s that one replica should carry; None when unknown.
        source: Where that comes from.
        target_running_requests: Requests that one replica should run at once; None until one was saturated.
        start_seconds: P90 of created-to-ready, or a prior.
    """

    target_tokens_per_second: float | None
    source: CapacitySource
    target_running_requests: float | None
    start_seconds: float


def capacity(
    *,
    spec_target: float | None,
    measured: Measured,
    prior_tokens_per_second: float | None,
    start_seconds: tuple[float, ...],
) -> Capacity:
    """Choose the target of one replica: the spec's, else the measured, else the runtime's prior."""
    start = max(MIN_START_SECONDS, p90(start_seconds)) if start_seconds else START_PRIOR_SECONDS
    room = measured.running_requests
    running = None if room is None else max(1.0, room * TARGET_UTILIZATION)
    if spec_target is not None:
        return Capacity(spec_target, CapacitySource.SPEC, running, start)
    if measured.tokens_per_second is not None and measured.measured_seconds >= MIN_MEASURED_SECONDS:
        return Capacity(measured.tokens_per_second * TARGET_UTILIZATION, CapacitySource.MEASURED, running, start)
    if prior_tokens_per_second is not None:
        return Capacity(prior_tokens_per_second * TARGET_UTILIZATION, CapacitySource.PRIOR, running, start)
    return Capacity(None, CapacitySource.UNKNOWN, running, start)


def measure(
    measured: Measured,
    demand: Demand,
    pods: tuple[Pod, ...],
    *,
    rate_window_seconds: float,
    now: float,
    elapsed_seconds: float,
) -> Measured:
    """Fold one interval into the measurement, where it shows what a saturated replica does.

    Args:
        measured: The measurement so far.
        demand: The load of this interval.
        pods: The pods behind it.
        rate_window_seconds: Span over which throughput is taken: it shows saturation only once
            saturation has lasted that long.
        now: Seconds since the epoch.
        elapsed_seconds: Length of the interval.
    """
    waiting = demand.complete and demand.queued_requests.value >= demand.ready
    if not (waiting and saturated(pods) and settled(pods, now=now, seconds=SETTLED_SECONDS)):
        return measured if measured.saturated_since is None else replace(measured, saturated_since=None)
    since = now if measured.saturated_since is None else measured.saturated_since
    if now - since < MIN_SATURATED_SECONDS:
        return replace(measured, saturated_since=since)
    running = _blend(
        measured.running_requests, demand.running_requests.value / demand.ready, elapsed_seconds / AVERAGING_SECONDS
    )
    tokens, measured_seconds = measured.tokens_per_second, measured.measured_seconds
    per_replica = demand.output_tokens_per_second.value / demand.ready
    if now - since >= rate_window_seconds and per_replica > 0:
        # The first intervals weigh by their share of what was seen, later ones by the time constant.
        measured_seconds += elapsed_seconds
        weight = elapsed_seconds / min(measured_seconds, AVERAGING_SECONDS) if measured_seconds > 0 else 1.0
        tokens = _blend(tokens, per_replica, weight)
    return Measured(tokens, running, measured_seconds, since)


def settled(pods: tuple[Pod, ...], *, now: float, seconds: float) -> bool:
    """Return whether every pod that serves has done so for so long."""
    return all(pod.ready_at is None or pod.terminating or now - pod.ready_at >= seconds for pod in pods)


def _blend(known: float | None, seen: float, weight: float) -> float:
    return seen if known is None else known + min(weight, 1.0) * (seen - known)


def p90(samples: tuple[float, ...]) -> float:
    """Return the nearest-rank 90th percentile of at least one sample."""
    ordered = sorted(samples)
    return ordered[ceil(0.9 * len(ordered)) - 1]
