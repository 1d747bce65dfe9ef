"""Step 4, replicas: how many replicas the load calls for, before any limit.

Four measures, and the largest wins:

* by latency: how far the time between tokens says that the replicas are filled (pace.py). It needs no
  saturation to be seen, and no target but the time that is wanted.
* by tokens: load / target of one replica. Says how much is needed, where no replica tells the time between its
  tokens or the spec sets the target.
* by running: requests in the batches, and those that arrive beyond what they take, / those one replica should
  run. Says how full the replicas are, at once and in the engine's own terms, once one was seen full. It cannot
  run away: batches are finite, and what arrives beyond doubles them at most.
* by queue: waiting requests / tolerated per replica. Says that help is late, which the tokens show
  only once requests finish. It says nothing about how much is needed: while new replicas load, a
  queue grows without the load growing. So it asks at most for a doubling of what serves, or for
  four more; and each replica asks for its own part of that at most, for what waits in one engine
  is not helped by another.

While the queue falls, running and queue ask for nothing beyond what is asked for already: help has
come, and a long queue would double the replicas anew with every batch of them that becomes ready.

The first three say what is needed now, the queue aside. What will be needed when a replica that is asked for now
is ready is the lookback's to say, once it has seen a minute (lookback.py).
"""

from enum import Enum
from math import ceil, inf
from typing import Final

from modelfleet.decide.capacity import TARGET_UTILIZATION, Capacity, CapacitySource
from modelfleet.decide.demand import Demand
from modelfleet.decide.forecast import Load
from modelfleet.decide.lookback import ROUNDING
from modelfleet.decide.value import value

QUEUE_GROWTH_FACTOR: Final = 2
QUEUE_GROWTH_PODS: Final = 4
MOST_MORE: Final = 1.0
"""As many places again as are taken, at most: in the first seconds of a burst few have finished."""
HALF_REPLICA: Final = 0.5
"""A forecast that asks for one replica less must do so by this much: loads wander, and starts are dear..."""
QUARTER: Final = 0.25
"""...but by no more than this part of what stays: where there are two, half a replica is a quarter of all."""
MOST_REPLICAS: Final = 100_000
"""A hundred times the largest maxReplicas. Beyond it an engine's number says nothing, and no status can hold it."""


class Measure(Enum):
    """Which measure called for the replica count."""

    LATENCY = "latency"
    TOKENS = "tokens"
    RUNNING = "running"
    QUEUE = "queue"
    FORECAST = "forecast"
    QUEUE_HOLDS = "queue holds"
    CAPACITY_UNKNOWN = "capacity unknown"
    PARTIAL = "partial signals"


@value
class Wanted:
    """The raw count and the facts behind it.

    Attributes:
        replicas: What the load calls for.
        by_latency: load in replicas / target utilization; None until a token came.
        by_tokens: As in Need.
        by_running: asking / target of one replica, capped; None until a replica was seen full.
        by_queue: queue / tolerated per replica, capped.
        queue_tolerated: Waiting requests that each replica may have.
        measure: Which of them decided.
        planned: What the lookback asks for; None before it has seen a minute, or where the spec sets the target.
        within_tolerance: The load is so close to the target that the current count stays.
    """

    replicas: int
    by_latency: float | None
    by_tokens: float | None
    by_running: float | None
    by_queue: float
    queue_tolerated: int
    measure: Measure
    planned: float | None = None
    within_tolerance: bool = False


@value
class Need:
    """What the load of this moment needs, the queue aside, in replicas used to the target.

    Attributes:
        by_latency: From the time between tokens; None until a token came.
        by_tokens: load / target; None when the target is unknown, and where the pace says more: throughput measured
            while requests waited is no capacity where prompts decided it.
        by_running: asking / target of one replica; None until a replica was seen full.
        asking: Requests that would run at once if all found room.
    """

    by_latency: float | None
    by_tokens: float | None
    by_running: float | None
    asking: float

    @property
    def unknown(self) -> bool:
        """Whether no measure knows it."""
        return self.by_latency is None and self.by_tokens is None and self.by_running is None

    @property
    def full_replicas(self) -> float | None:
        """The load in replicas used to the full: as much as any measure says; None when all are unknown."""
        known = [each for each in (self.by_latency, self.by_tokens, self.by_running) if each is not None]
        return max(known) * TARGET_UTILIZATION if known else None


def need(
    demand: Demand,
    load: Load,
    capacity: Capacity,
    *,
    load_in_replicas: float | None,
    queue_growth_per_second: float,
) -> Need:
    """Return what the load needs by each measure that knows it.

    By Little's law a request runs for running / finished seconds: as many places more does it take as arrive in that
    time beyond those that find one. While the queue shrinks all places are taken by what had waited; they count.

    Args:
        demand: The load as seen.
        load: The load one start ahead, in generated tokens per second.
        capacity: What one replica should carry.
        load_in_replicas: The load as the time between tokens tells it, in fully used replicas.
        queue_growth_per_second: Requests that arrive beyond what is served; negative while the queue shrinks.
    """
    finished = demand.finished_requests_per_second
    told = finished.known == demand.ready and finished.value > 0.0
    more = max(0.0, queue_growth_per_second) / finished.value if told else 0.0
    asking = demand.running_requests.value * (1.0 + min(more, MOST_MORE))
    target, room = capacity.target_tokens_per_second, capacity.target_running_requests
    tells = load_in_replicas is None or capacity.source is CapacitySource.SPEC
    return Need(
        None if load_in_replicas is None else load_in_replicas / TARGET_UTILIZATION,
        load.tokens_per_second / target if target and tells else None,
        asking / room if room else None,
        asking,
    )


def replicas(
    demand: Demand,
    need: Need,
    *,
    complete: bool,
    planned: float | None,
    current: int,
    queue_tolerated: int,
    queue_falls: bool,
    tolerance: float,
) -> Wanted:
    """Return the fewest replicas that carry the load.

    Args:
        demand: The load as seen.
        need: What it needs now, the queue aside.
        complete: Whether every ready pod told all that the need was computed from; else it is a lower bound.
        planned: What the lookback asks for, in replicas; None where it does not decide.
        current: Replicas asked for, starting ones included: they are supply on its way.
        queue_tolerated: Waiting requests that each replica may have.
        queue_falls: Whether fewer requests wait than a moment ago.
        tolerance: Distance from the target, as a fraction, that changes nothing.

    Source:
        HorizontalPodAutoscaler, AverageValue: ceil(value / target) unless within tolerance of current.
    """
    help_cap = float(current) if queue_falls else inf
    waiting = _waiting(demand, queue_tolerated)
    by_queue = min(waiting, help_cap)
    by_running = None if need.by_running is None else min(need.by_running, help_cap)
    if planned is not None:
        exact, measure = planned, Measure.FORECAST
    else:
        exact, measure = 0.0, Measure.TOKENS
        for each, its in (
            (need.by_tokens, Measure.TOKENS),
            (need.by_latency, Measure.LATENCY),
            (by_running, Measure.RUNNING),
        ):
            if each is not None and each > exact:
                exact, measure = each, its
    if by_queue > exact:
        exact, measure = by_queue, Measure.QUEUE

    count, within_tolerance = current, False
    idle = complete and demand.queued_requests.value == 0 and demand.running_requests.value == 0
    if need.unknown and not idle and by_queue <= current:
        measure = Measure.CAPACITY_UNKNOWN
    elif current > 0 and _within(exact, current, tolerance=tolerance, planned=planned is not None):
        within_tolerance = True
    else:
        count = ceil(min(exact, MOST_REPLICAS))
        if count < current and not complete:
            count, measure = current, Measure.PARTIAL
        elif count < current and waiting > demand.ready:
            count, measure = current, Measure.QUEUE_HOLDS
    return Wanted(
        count,
        need.by_latency,
        need.by_tokens,
        by_running,
        by_queue,
        queue_tolerated,
        measure,
        planned,
        within_tolerance,
    )


def _waiting(demand: Demand, queue_tolerated: int) -> float:
    """Return the replicas that the queues ask for."""
    if not demand.queued_requests.value:
        return 0.0
    most = max(QUEUE_GROWTH_FACTOR, 1.0 + QUEUE_GROWTH_PODS / demand.ready)
    return sum([min(queue / queue_tolerated, most) for queue in demand.queues])


def _within(exact: float, current: int, *, tolerance: float, planned: bool) -> bool:
    """Return whether the current count may stay."""
    if not planned:
        return abs(exact / current - 1.0) <= tolerance
    less = current - 1.0
    return less - min(HALF_REPLICA, QUARTER * less) <= exact <= current + ROUNDING
