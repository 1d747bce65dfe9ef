"""What one decision leaves for the next, as frozen values."""

from modelfleet.decide.bounds import InForce
from modelfleet.decide.lookback import NO_PAST, Lookback
from modelfleet.decide.pace import NO_PACE, Pace
from modelfleet.decide.value import value


@value
class Recommendation:
    """What the load called for at one moment."""

    at: float
    replicas: int


@value
class ScaleEvent:
    """A change of the replica count that was asked for."""

    at: float
    change: int


@value
class QueueSample:
    """Requests of the whole deployment at one moment: those that wait, and those that wait or run."""

    at: float
    queued_requests: float
    in_flight_requests: float


@value
class Measured:
    """The running measurement of one saturated replica.

    Attributes:
        tokens_per_second: Generated tokens per second; None until seen.
        running_requests: Requests it runs at once when more wait: the room in its batch or KV cache;
            None until seen.
        measured_seconds: How long throughput was measured in all.
        saturated_since: When every ready pod last began to have a request waiting; None while not so.
    """

    tokens_per_second: float | None = None
    running_requests: float | None = None
    measured_seconds: float = 0.0
    saturated_since: float | None = None


@value
class TokenMix:
    """Prompt and generated tokens of the last minutes, for how many come with one another."""

    input: float = 0.0
    output: float = 0.0


@value
class LoadMemory:
    """What was learned from the load of one ModelDeployment.

    Attributes:
        queue: Queue lengths of the last seconds, for its growth.
        measured: Throughput of one saturated replica.
        pace: What a replica's steps cost.
        lookback: The load of the past, and what each forecast of it would have cost.
        tokens_per_request: Generated tokens of an average request; None until one finished.
        token_mix: Its prompt and generated tokens.
    """

    queue: tuple[QueueSample, ...] = ()
    measured: Measured = Measured()
    pace: Pace = NO_PACE
    lookback: Lookback = NO_PAST
    tokens_per_request: float | None = None
    token_mix: TokenMix = TokenMix()


@value
class Windows:
    """The stabilization windows.

    Attributes:
        highest: Of scaling down: past recommendations that no later one exceeds, oldest first.
        lowest: Of scaling up: past recommendations that no later one undercuts, oldest first.
    """

    highest: tuple[Recommendation, ...] = ()
    lowest: tuple[Recommendation, ...] = ()


@value
class Memory:
    """What one ModelDeployment's next decision needs of its earlier ones.

    Attributes:
        uid: Object it is about; another one of the same name starts afresh.
        since: When this process first decided about it; windows fill from here.
        desired: What was last asked for; None before the first decision.
        windows: What was recommended in the stabilization windows.
        scale_events: Changes asked for, no older than the longest policy period.
        load: What was learned from its load.
        start_seconds: Created-to-ready times of the last starts, oldest first.
        ready_pods: UIDs of pods whose start is already counted.
        last_decided_at: When the last decision was made.
        last_scaled_at: When the replica count was last changed.
        leaving: Names of pods that were told to go for somebody else and may still be there.
        gave_back_at: When it last gave back what it had borrowed; while that drains, the last decision.
        yielded_at: When it last gave a place to a higher priority of its own tenant.
        in_force: Bounds and mode of the last decision; None before the first one and without a spec.
    """

    uid: str
    since: float
    desired: int | None = None
    windows: Windows = Windows()
    scale_events: tuple[ScaleEvent, ...] = ()
    load: LoadMemory = LoadMemory()
    start_seconds: tuple[float, ...] = ()
    ready_pods: frozenset[str] = frozenset()
    last_decided_at: float | None = None
    last_scaled_at: float | None = None
    leaving: tuple[str, ...] = ()
    gave_back_at: float | None = None
    yielded_at: float | None = None
    in_force: InForce | None = None
