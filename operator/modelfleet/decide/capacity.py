"""Step 2, capacity: what one replica sustains, and how long a start takes.

What a replica sustains is measured while it is saturated (every ready pod has a request waiting):
then its throughput is its capacity, whatever the model, the GPU and the mix of requests. Until that
was seen for MIN_SATURATED_SECONDS the runtime's prior stands in.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from modelfleet.decide.demand import Demand
from modelfleet.decide.history import Measured
from modelfleet.decide.snapshot import Pod

TARGET_UTILIZATION = 0.8
"""Share of the sustained throughput to plan for; above it queues form at any burst (M/M/c, c small)."""
MIN_SATURATED_SECONDS = 10.0
"""Saturation shorter than this is a burst's edge, whose batch is still filling."""
SETTLED_SECONDS = 30.0
"""A pod younger than this still fills its batch and its caches: its throughput is no capacity."""
AVERAGING_SECONDS = 30.0
"""Time constant of the moving average over saturated intervals."""
START_PRIOR_SECONDS = 120.0
"""Start time before one was measured: an 8B model from a warm cache takes 65 to 130 s."""
START_SAMPLES = 20
"""Starts remembered; P90 of 20 is the second longest."""


class CapacitySource(StrEnum):
    """Where the target of one replica comes from."""

    SPEC = "spec.scaling.targets.outputTokensPerSecond"
    MEASURED = "80 % of the throughput measured while saturated"
    PRIOR = "80 % of the runtime's prior"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica should carry and how long a new one takes.

    Attributes:
        target_tokens_per_second: Generated tokens/s that one replica should carry; None when unknown.
        source: Where that comes from.
        start_seconds: P90 of created-to-ready, or a prior.
    """

    target_tokens_per_second: float | None
    source: CapacitySource
    start_seconds: float


def capacity(
    *,
    spec_target: float | None,
    measured: Measured,
    prior_tokens_per_second: float | None,
    start_seconds: tuple[float, ...],
) -> Capacity:
    """Choose the target of one replica: the spec's, else the measured, else the runtime's prior."""
    start = p90(start_seconds) if start_seconds else START_PRIOR_SECONDS
    if spec_target is not None:
        return Capacity(spec_target, CapacitySource.SPEC, start)
    if measured.tokens_per_second is not None and measured.saturated_seconds >= MIN_SATURATED_SECONDS:
        return Capacity(measured.tokens_per_second * TARGET_UTILIZATION, CapacitySource.MEASURED, start)
    if prior_tokens_per_second is not None:
        return Capacity(prior_tokens_per_second * TARGET_UTILIZATION, CapacitySource.PRIOR, start)
    return Capacity(None, CapacitySource.UNKNOWN, start)


def measure(
    measured: Measured, demand: Demand, pods: tuple[Pod, ...], *, saturated: bool, now: float, elapsed: float
) -> Measured:
    """Fold the throughput of one saturated interval into the measurement.

    Args:
        measured: The measurement so far.
        demand: The load of this interval.
        pods: The pods behind it.
        saturated: Whether every ready pod had a request waiting, at both ends of the interval.
        now: Seconds since the epoch.
        elapsed: Length of the interval in seconds.
    """
    per_replica = demand.output_tokens_per_second.value / demand.ready
    settled = all(pod.ready_at is None or pod.terminating or now - pod.ready_at >= SETTLED_SECONDS for pod in pods)
    if not (saturated and demand.complete and settled and per_replica > 0 and elapsed > 0):
        return measured
    if measured.tokens_per_second is None:
        return Measured(per_replica, elapsed)
    # The first intervals weigh by their share of what was seen, later ones by the time constant.
    weight = elapsed / min(measured.saturated_seconds + elapsed, AVERAGING_SECONDS)
    blended = measured.tokens_per_second + min(weight, 1.0) * (per_replica - measured.tokens_per_second)
    return Measured(blended, measured.saturated_seconds + elapsed)


def p90(samples: tuple[float, ...]) -> float:
    """Return the nearest-rank 90th percentile of at least one sample."""
    ordered = sorted(samples)
    return ordered[ceil(0.9 * len(ordered)) - 1]
