"""Step 4, replicas: how many replicas the load calls for, before any limit.

Three measures, and the largest wins:

* by tokens: load / target of one replica. Says how much is needed.
* by running: requests in the batches / those one replica should run. Says how full the replicas are,
  at once and in the engine's own terms, once one was seen full. It cannot run away: batches are finite.
* by queue: waiting requests / tolerated per replica. Says that help is late, which the tokens show
  only once requests finish. It says nothing about how much is needed: while new replicas load, a
  queue grows without the load growing. So it asks at most for a doubling of what serves, or for
  four more.

While the queue falls, running and queue ask for nothing beyond what is asked for already: help has
come, and a long queue would double the replicas anew with every batch of them that becomes ready.
"""

from dataclasses import dataclass
from enum import Enum
from math import ceil, inf

from modelfleet.decide.capacity import Capacity
from modelfleet.decide.demand import Demand
from modelfleet.decide.forecast import Load

QUEUE_GROWTH_FACTOR = 2
QUEUE_GROWTH_PODS = 4
MOST_REPLICAS = 100_000
"""A hundred times the largest maxReplicas. Beyond it an engine's number says nothing, and no status can hold it."""


class Measure(Enum):
    """Which measure called for the replica count."""

    TOKENS = "tokens"
    RUNNING = "running"
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
        by_running: running / target of one replica, capped; None until a replica was seen full.
        by_queue: queue / tolerated per replica, capped.
        measure: Which of them decided.
        within_tolerance: The load is so close to the target that the current count stays.
    """

    replicas: int
    by_tokens: float | None
    by_running: float | None
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
    queue_falls: bool,
    tolerance: float,
) -> Wanted:
    """Return the fewest replicas that carry the load.

    Args:
        demand: The load as seen.
        load: The load one start ahead, in generated tokens per second.
        capacity: What one replica should carry.
        current: Replicas asked for, starting ones included: they are supply on its way.
        queued_per_replica: Waiting requests tolerated per replica.
        queue_falls: Whether fewer requests wait than a moment ago.
        tolerance: Distance from the target, as a fraction, that changes nothing.

    Source:
        HorizontalPodAutoscaler, AverageValue: ceil(value / target) unless within tolerance of current.
    """
    queue_cap = max(QUEUE_GROWTH_FACTOR * demand.ready, demand.ready + QUEUE_GROWTH_PODS)
    help_cap = float(current) if queue_falls else inf
    by_queue = min(demand.queued_requests.value / queued_per_replica, float(queue_cap), help_cap)
    target = capacity.target_tokens_per_second
    room = capacity.target_running_requests
    by_tokens = load.tokens_per_second / target if target else None
    by_running = min(demand.running_requests.value / room, help_cap) if room else None
    exact, measure = max(
        (by_tokens or 0.0, Measure.TOKENS), (by_running or 0.0, Measure.RUNNING), (by_queue, Measure.QUEUE), key=_first
    )

    def wanted(count: int, why: Measure, *, within_tolerance: bool = False) -> Wanted:
        return Wanted(count, by_tokens, by_running, by_queue, why, within_tolerance)

    idle = demand.complete and demand.queued_requests.value == 0 and demand.running_requests.value == 0
    if by_tokens is None and by_running is None and not idle and by_queue <= current:
        return wanted(current, Measure.CAPACITY_UNKNOWN)
    if current > 0 and abs(exact / current - 1.0) <= tolerance:
        return wanted(current, measure, within_tolerance=True)
    count = ceil(min(exact, MOST_REPLICAS))
    if count < current and not demand.complete:
        return wanted(current, Measure.PARTIAL)
    if count < current and demand.queued_requests.value > queued_per_replica * demand.ready:
        return wanted(current, Measure.QUEUE_HOLDS)
    return wanted(count, measure)


def _first(pair: tuple[float, Measure]) -> float:
    return pair[0]
