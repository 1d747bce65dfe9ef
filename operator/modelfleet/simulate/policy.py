"""What an autoscaler may see and say: the interfaces that ours, the rivals and the oracle share.

The world calls `observe` every `sample_seconds` and `decide` every `period_seconds`, each with a random phase,
as real scrapes and loops have. A policy owns its windows, its state and its lags; it never sees the future,
except the oracle, which is handed the trace.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from modelfleet.decide.snapshot import Node
from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.calibration import ReplicaModel


@dataclass(frozen=True, slots=True)
class PodSample:
    """One pod at one moment, as its engine's metrics and the API server show it.

    Attributes:
        uid: Identity; never reused.
        created_at: Seconds since the start.
        ready_at: When it became ready; None while it starts.
        queued_requests: Waiting for a place in the batch; 0 while it starts.
        running_requests: In the batch.
        kv_tokens: KV tokens held by the running requests.
        kv_cache_utilization: The same as a fraction of the cache, 0 to 1.
        queued_prompt_tokens: Prompt tokens of the waiting requests.
        prompt_tokens: Prompt tokens prefilled since it started (a counter).
        generated_tokens: Tokens generated since it started (a counter, per step as vLLM's).
        finished_requests: Requests completed since it started (a counter).
        ttft_seconds_sum: Sum of times to first token, of requests that had theirs (a histogram's sum).
        first_tokens: How many had theirs (the histogram's count).
        inter_token_seconds_sum: Sum of the gaps between tokens (a histogram's sum).
        inter_tokens: Number of those gaps (its count).
        node: Whose GPUs it has; empty while it is Pending.
    """

    uid: str
    created_at: float
    ready_at: float | None
    queued_requests: int
    running_requests: int
    kv_tokens: int
    kv_cache_utilization: float
    queued_prompt_tokens: int
    prompt_tokens: int
    generated_tokens: int
    finished_requests: int
    ttft_seconds_sum: float
    first_tokens: int
    inter_token_seconds_sum: float
    inter_tokens: int
    node: str = "node"


@dataclass(frozen=True, slots=True)
class Sample:
    """The deployment at one moment.

    Attributes:
        at: Seconds since the start.
        pods: Pods that are not terminating, oldest first, starting ones included.
        arrived_requests: Requests that reached the gateway since the start (a counter).
        arrived_prompt_tokens: Their prompt tokens (a counter).
        active_requests: Requests that arrived and are not finished, wherever they are: what a proxy sees.
        held_requests: Those of them that wait at the gateway because no pod is ready.
        terminating: UIDs of pods that were scaled away and still finish what they have, with their nodes.
    """

    at: float
    pods: tuple[PodSample, ...]
    arrived_requests: int
    arrived_prompt_tokens: int
    active_requests: int
    held_requests: int
    terminating: tuple[tuple[str, str], ...] = ()


class Asked(NamedTuple):
    """What one deployment of a fleet is asked for.

    Attributes:
        replicas: How many.
        first: UIDs of the pods that go first when that is fewer; after them the idlest.
    """

    replicas: int
    first: tuple[str, ...] = ()


class Policy(Protocol):
    """An autoscaler of one deployment.

    Attributes:
        sample_seconds: Time between two looks at the signals (a scrape interval).
        period_seconds: Time between two decisions.
    """

    sample_seconds: float
    period_seconds: float

    def observe(self, sample: Sample) -> None:
        """Take a look at the signals."""

    def decide(self, now: float, current: int) -> int:
        """Return the replicas to ask for; `current` is what was last asked for.

        The world clips the answer into the bounds, as every API server does.
        """


class FleetPolicy(Protocol):
    """An autoscaler of many deployments at once, by name.

    Attributes:
        sample_seconds: Time between two looks at the signals of all of them.
        period_seconds: Time between two decisions.
    """

    sample_seconds: float
    period_seconds: float

    def observe(self, samples: Mapping[str, Sample], nodes: Mapping[str, tuple[Node, ...]]) -> None:
        """Take a look at the signals, and at the nodes' free GPUs by accelerator class."""

    def decide(self, now: float, current: Mapping[str, int]) -> Mapping[str, Asked]:
        """Return the replicas to ask for, in the order to write them; who is left out keeps its count.

        Args:
            now: The time.
            current: What was last asked for.
        """


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy's expert would tune.

    Attributes:
        target: The policy's own knob; its unit is the kind's.
        min_replicas: Fewest replicas, at least 1.
        max_replicas: Most replicas.
    """

    target: float
    min_replicas: int
    max_replicas: int


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known beforehand about the deployment.

    Attributes:
        model: What one replica does.
        start_seconds: From a pod's creation to ready, at the median.
        ttft_seconds: Target of the time to first token.
        tpot_seconds: Target of the mean time between tokens.
        arrivals: Every request: for the oracle alone.
    """

    model: ReplicaModel
    start_seconds: float
    ttft_seconds: float
    tpot_seconds: float
    arrivals: Sequence[Arrival]


@dataclass(frozen=True, slots=True)
class Kind:
    """A policy by name.

    Attributes:
        name: As `--policy` takes it.
        title: One line for people: what it is, with its source.
        unit: Of its target; empty when it has none.
        targets: Targets that its experts would try, for a replica model; in ascending order of cost.
        default_target: The one its documentation suggests, for a replica model.
        build: Makes it.
        tunes_minimum: Whether a frontier sweeps its minimum as well.
        constant: Its target is its count from the first moment on: its minimum too.
    """

    name: str
    title: str
    unit: str
    targets: Callable[[ReplicaModel], tuple[float, ...]]
    default_target: Callable[[ReplicaModel], float]
    build: Callable[[Setting, Circumstances], Policy]
    tunes_minimum: bool = True
    constant: bool = False

    def setting(self, target: float, *, min_replicas: int, max_replicas: int) -> Setting:
        """Return a setting; the count of a constant one is held to the bounds, and is there when the load begins."""
        if not self.constant:
            return Setting(target, min_replicas, max_replicas)
        target = min(max(target, float(min_replicas)), float(max_replicas))
        return Setting(target, round(target), max_replicas)
