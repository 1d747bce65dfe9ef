"""Step 4, replicas: how many replicas the load calls for, before any limit.

Two measures, and the larger wins:

* by tokens: load / target of one replica. Says how much is needed.
* by queue: waiting requests / tolerated per replica. Says that help is late, which the tokens show
  only once requests finish. It says nothing about how much is needed: while new replicas load, a
  queue grows without the load growing. So it asks at most for a doubling of what serves, or for
  four more.
"""

from dataclasses import dataclass
from enum import Enum
from math import ceil

from modelfleet.decide.capacity import Capacity
from modelfleet.decide.demand import Demand
from modelfleet.decide.forecast import Load

QUEUE_GROWTH_FACTOR = 2
QUEUE_GROWTH_PODS = 4


class Measure(Enum):
    """Which measure called for the replica count."""

    TOKENS = "tokens"
    QUEUE = "queue"
    QUEUE_HOLDS = "queue holds"
    CAPACITY_UNKNOWN = "capacity unknown"
    PARTIAL = "partial signals"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The raw count and the facts behind it.

    Attributes:
        replicas: What the load calls for.
        by_tokens: load / target; None when the target is unknown.
        by_queue: queue / tolerated per replica, capped.
        measure: Which of them decided.
        within_tolerance: The load is so close to the target that the current count stays.
    """

    replicas: int
    by_tokens: float | None
    by_queue: float
    measure: Measure
    within_tolerance: bool = False


def replicas(
    demand: Demand,
    load: Load,
    capacity: Capacity,
    *,
    current: int,
    queued_per_replica: int,
    tolerance: float,
) -> Wanted:
    """Return the fewest replicas that carry the load.

    Args:
        demand: The load as seen.
        load: The load one start ahead, in generated tokens per second.
        capacity: What one replica should carry.
        current: Replicas asked for, starting ones included: they are supply on its way.
        queued_per_replica: Waiting requests tolerated per replica.
        tolerance: Distance from the target, as a fraction, that changes nothing.

    Source:
        HorizontalPodAutoscaler, AverageValue: ceil(value / target) unless within tolerance of current.
    """
    queue_cap = max(QUEUE_GROWTH_FACTOR * demand.ready, demand.ready + QUEUE_GROWTH_PODS)
    by_queue = min(demand.queued_requests.value / queued_per_replica, float(queue_cap))
    by_tokens = (
        load.tokens_per_second / capacity.target_tokens_per_second if capacity.target_tokens_per_second else None
    )
    idle = demand.complete and demand.queued_requests.value == 0 and demand.running_requests.value == 0
    if by_tokens is None and not idle and by_queue <= current:
        return Wanted(current, by_tokens, by_queue, Measure.CAPACITY_UNKNOWN)
    exact = max(by_tokens or 0.0, by_queue)
    measure = Measure.QUEUE if by_queue > (by_tokens or 0.0) else Measure.TOKENS
    if current > 0 and abs(exact / current - 1.0) <= tolerance:
        return Wanted(current, by_tokens, by_queue, measure, within_tolerance=True)
    count = ceil(exact)
    if count < current and not demand.complete:
        return Wanted(current, by_tokens, by_queue, Measure.PARTIAL)
    if count < current and demand.queued_requests.value > queued_per_replica * demand.ready:
        return Wanted(current, by_tokens, by_queue, Measure.QUEUE_HOLDS)
    return Wanted(count, by_tokens, by_queue, measure)
