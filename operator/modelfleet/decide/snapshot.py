"""What the operator saw, once a tick, as frozen values. Nothing here is computed from anything else.

All times are seconds since the epoch; all rates are per second.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Final

from modelfleet.api.conditions import Reason
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec
from modelfleet.decide.lookback import Kept
from modelfleet.decide.value import value


@value
class Signal:
    """A measured value and when it was sampled."""

    value: float
    sampled_at: float


@value
class Missing:
    """There is no value, and why. Never a zero.

    Attributes:
        fault: Whether there should be one: nothing is wrong with a pod that has just become ready.
    """

    why: str
    fault: bool = True


Reading = Signal | Missing
NOT_MEASURED: Final = Missing("not measured")
NOT_RECORDED: Final = Missing("not in the record")


@value
class PodSignals:
    """What one pod's engine reports; ranks of a data-parallel engine are already folded.

    Attributes:
        queued_requests: Requests that wait for a place in the batch.
        running_requests: Requests in the batch.
        output_tokens_per_second: Generated tokens per second over the dialect's rate window.
        finished_requests_per_second: Completed requests per second over the same window.
        kv_cache_utilization: Fraction of the KV cache in use, 0 to 1.
        inter_token_seconds: Mean time between two tokens of a sequence over the same window, weighted by tokens;
            by requests where the engine tells no more (TGI, trtllm-serve). A decision can do without it: it never
            makes the signals of a deployment incomplete, and where the engine does not report it, or no token
            came, it is missing without fault.
        input_tokens_per_second: Prompt tokens per second over the same window. Only a token allowance asks for it.
    """

    _: KW_ONLY
    queued_requests: Reading
    running_requests: Reading
    output_tokens_per_second: Reading
    finished_requests_per_second: Reading
    kv_cache_utilization: Reading
    inter_token_seconds: Reading = Missing("not measured", fault=False)
    input_tokens_per_second: Reading = NOT_MEASURED

    @classmethod
    def missing(cls, why: str) -> "PodSignals":
        """Return signals that are all missing for one reason."""
        gone = Missing(why)
        return cls(
            queued_requests=gone,
            running_requests=gone,
            output_tokens_per_second=gone,
            finished_requests_per_second=gone,
            kv_cache_utilization=gone,
            inter_token_seconds=gone,
            input_tokens_per_second=gone,
        )


NOT_SCRAPED: Final = PodSignals.missing("not scraped")


@value
class Pod:
    """One pod of a ModelDeployment."""

    _: KW_ONLY
    name: str
    uid: str
    created_at: float
    ready_at: float | None
    """When it last became ready; None while it is not."""
    terminating: bool = False
    node: str = ""
    """Empty while it is not scheduled."""
    trouble: str = ""
    """Why it cannot start, in the kubelet's or the scheduler's words."""
    signals: PodSignals = NOT_SCRAPED

    @property
    def finds_no_node(self) -> bool:
        """Whether the scheduler said so; a pod that it has not looked at yet may be placed in a moment."""
        return not self.node and bool(self.trouble)


@value
class Child:
    """The apps/v1 Deployment that runs the replicas."""

    _: KW_ONLY
    uid: str
    replicas: int
    scaled_by_other: str = ""
    """Field manager that owns spec.replicas, when it is not the operator."""
    rolling_out: bool = False
    progress_deadline_exceeded: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Something about the object, its references or its cluster that an administrator or the team must mend."""

    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What an earlier process learned, as the status kept it.

    Attributes:
        idle_inter_token_seconds: Time between tokens of a replica with next to nothing to do.
        lookback: The past of its load.
    """

    idle_inter_token_seconds: float
    lookback: Kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed:
    """What a deployment is taken to be asked for, where that is not seen but given: a status' or a record's word.

    Attributes:
        replicas: What its load calls for.
        output_tokens_per_second: That load; None when unknown, and then it takes no part in a token allowance.
        input_per_output: Prompt tokens that come with one generated token, or why that is unknown.
        target_tokens_per_second: What one replica should carry; None when unknown.
    """

    replicas: int
    output_tokens_per_second: float | None = None
    input_per_output: float | Missing = NOT_RECORDED
    target_tokens_per_second: float | None = None


@value
class Observed:
    """One ModelDeployment with everything that belongs to it.

    Attributes:
        fault: Set when the object cannot be run as it stands; it is then left as it is.
        recorded_desired: desiredReplicas in its status: what the operator last asked for.
        rate_window_seconds: Span over which its throughput is taken.
        prior_output_tokens_per_second: The runtime's prior for one replica.
        measured_output_tokens_per_second: What its status says that one replica was measured to sustain.
        learned: What its status says that was learned about its load.
        foreign_autoscaler: namespace/name of an autoscaler that targets the same replicas.
        assumed: Stands for the demand that its pods' signals would show; None where they are asked.
    """

    _: KW_ONLY
    key: Key
    uid: str
    generation: int
    spec: ModelDeploymentSpec | None
    fault: Fault | None = None
    child: Child | None = None
    pods: tuple[Pod, ...] = ()
    recorded_desired: int | None = None
    rate_window_seconds: float = 5.0
    prior_output_tokens_per_second: float | None = None
    measured_output_tokens_per_second: float | None = None
    learned: Learned | None = None
    foreign_autoscaler: str = ""
    assumed: Assumed | None = None


@value
class Node:
    """A node of one accelerator class."""

    name: str
    free_gpus: int
    """Allocatable GPUs that no pod holds; 0 while the node is not ready or is cordoned."""
    allocatable_gpus: int
    draining_gpus: int = 0
    """GPUs of terminating pods: held until the pods are gone, then free."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may have of one accelerator class, in GPUs.

    Attributes:
        nominal_gpus: Its own whenever it asks for them.
        borrowing_limit_gpus: Most it may have beyond; None is all that is idle.
        lending_limit_gpus: Most of nominal that others may have while it is idle; None is all of it.
        weight: Share of idle GPUs against other borrowers, >= 1.
    """

    nominal_gpus: int
    borrowing_limit_gpus: int | None = None
    lending_limit_gpus: int | None = None
    weight: int = 1

    @property
    def limit_gpus(self) -> int | None:
        """Most it may have in all; None while borrowing has no limit."""
        return None if self.borrowing_limit_gpus is None else self.nominal_gpus + self.borrowing_limit_gpus


class Tokens(StrEnum):
    """What a token allowance counts."""

    INPUT = "input"
    OUTPUT = "output"
    TOTAL = "total"


@value
class Allowance:
    """Load of a tenant that may buy replicas.

    Attributes:
        counts: Which tokens.
        per_second: How many.
        model: The spec.model.name whose deployments share it; empty for all of the tenant's.
    """

    counts: Tokens
    per_second: float
    model: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """A tenant as its administrators bound it, and what its namespaces hold.

    Attributes:
        namespaces: Those that are its own: claims that an older Tenant has are left out.
        cohort: Tenants of one cohort lend to each other; empty is the common pool.
        quotas: By accelerator class; a class that is not there is closed to it.
        used_gpus: By accelerator class, GPUs that pods of its namespaces hold on nodes, whoever made them,
            terminating ones and those on cordoned nodes included.
        allowances: Load that may buy replicas, those of single models first; none is no limit.
        fault: Why its spec cannot be read. It then has what it holds, of every class, and no more.
    """

    name: str
    namespaces: tuple[str, ...]
    cohort: str = ""
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    used_gpus: Mapping[str, int] = field(default_factory=dict)
    allowances: tuple[Allowance, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The fleet at one moment."""

    taken_at: float
    metrics_max_age_seconds: float
    deployments: tuple[Observed, ...]
    nodes: Mapping[str, tuple[Node, ...]]
    """Nodes by accelerator class name."""
    tenants: tuple[Tenant, ...] = ()
    """Without any, GPUs are one pool for everybody."""
    unbound_may_borrow: bool = True
    """Whether namespaces of no tenant get GPUs that all tenants leave idle, or none; without tenants it is all one."""
