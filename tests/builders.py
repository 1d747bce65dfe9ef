"""Fluent builders of snapshots: a test names only what it is about.

Every builder is a frozen value whose methods return a changed copy, so that one can be shared:

    deployment("llama").bounds(1, 8).asks(3).pods(ready("a").queue(41), starting("b"))

A pod's samples are taken when the snapshot is, unless `stale` or `lost` says otherwise. Its time between tokens is
the one signal that is missing until told: most engines have none while they are idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal

from modelfleet.api.conditions import Reason
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import (
    Behavior,
    Mode,
    ModelDeploymentSpec,
    ScaleDown,
    ScaleUp,
    Scaling,
    ScalingPolicy,
    Schedule,
    ServedModel,
    Targets,
)
from modelfleet.decide.capacity import Capacity, CapacitySource
from modelfleet.decide.demand import Demand, Total
from modelfleet.decide.history import LoadMemory, Measured, Memory, Windows
from modelfleet.decide.snapshot import (
    Allowance,
    Child,
    Fault,
    Missing,
    Node,
    Observed,
    Pod,
    PodSignals,
    Quota,
    Reading,
    Signal,
    Snapshot,
    Tenant,
)

NOW = 1_000_000.0
"""The moment most tests happen at, in seconds since the epoch."""
MAX_AGE_SECONDS = 5.0
NO_TOKEN = Missing("no token in the rate window", fault=False)


# --- pods ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PodBuilder:
    """One pod; idle, complete and an hour old until told otherwise."""

    name: str
    created_at: float = NOW - 3600
    ready_at: float | None = NOW - 3500
    terminating: bool = False
    node: str = "node-0"
    trouble_text: str = ""
    values: Mapping[str, float | None] = field(
        default_factory=lambda: {
            "queued": 0.0,
            "running": 0.0,
            "tokens": 0.0,
            "finished": 0.0,
            "kv": 0.0,
            "prompts": 0.0,
        }
    )
    age: float = 0.0

    def queue(self, requests: float) -> PodBuilder:
        """Let requests wait."""
        return self._with(queued=requests)

    def running(self, requests: float) -> PodBuilder:
        """Let requests be in the batch."""
        return self._with(running=requests)

    def tokens(self, per_second: float) -> PodBuilder:
        """Generate tokens."""
        return self._with(tokens=per_second)

    def prompts(self, per_second: float) -> PodBuilder:
        """Read prompt tokens."""
        return self._with(prompts=per_second)

    def finished(self, per_second: float) -> PodBuilder:
        """Finish requests."""
        return self._with(finished=per_second)

    def inter_token(self, seconds: float) -> PodBuilder:
        """Take this long from one token of a sequence to the next."""
        return self._with(inter_token=seconds)

    def lost(
        self, *names: Literal["queued", "running", "tokens", "finished", "kv", "prompts", "inter_token"]
    ) -> PodBuilder:
        """Lose the named signals, or all of them."""
        every = (*self.values, "inter_token")
        return self._with(**dict.fromkeys(names or every))

    def stale(self, seconds: float) -> PodBuilder:
        """Let the last samples be this old."""
        return replace(self, age=seconds)

    def aged(self, seconds: float) -> PodBuilder:
        """Let it be ready for this long."""
        return replace(self, ready_at=NOW - seconds, created_at=min(self.created_at, NOW - seconds))

    def born(self, at: float) -> PodBuilder:
        """Let it be created then."""
        return replace(self, created_at=at)

    def unscheduled(self) -> PodBuilder:
        """Take its node away."""
        return replace(self, node="")

    def dying(self) -> PodBuilder:
        """Let it terminate."""
        return replace(self, terminating=True)

    def trouble(self, text: str) -> PodBuilder:
        """Say why it cannot start."""
        return replace(self, trouble_text=text)

    def _with(self, **values: float | None) -> PodBuilder:
        return replace(self, values={**self.values, **values})

    def build(self, now: float = NOW) -> Pod:
        """Return the pod, its samples taken at `now` less their age."""

        def reading(name: str) -> Reading:
            value = self.values[name]
            return Missing("connection refused") if value is None else Signal(value, now - self.age)

        return Pod(
            name=self.name,
            uid=f"uid-{self.name}",
            created_at=self.created_at,
            ready_at=self.ready_at,
            terminating=self.terminating,
            node=self.node,
            trouble=self.trouble_text,
            signals=PodSignals(
                queued_requests=reading("queued"),
                running_requests=reading("running"),
                output_tokens_per_second=reading("tokens"),
                input_tokens_per_second=reading("prompts"),
                finished_requests_per_second=reading("finished"),
                kv_cache_utilization=reading("kv"),
                inter_token_seconds=reading("inter_token") if "inter_token" in self.values else NO_TOKEN,
            ),
        )


def ready(name: str = "a") -> PodBuilder:
    """Return a pod that serves."""
    return PodBuilder(name=name)


def starting(name: str = "s") -> PodBuilder:
    """Return a pod that is on a node and not ready yet."""
    return PodBuilder(name=name, ready_at=None, created_at=NOW - 10).lost()


def pods(count: int, *, prefix: str = "pod") -> tuple[PodBuilder, ...]:
    """Return pods that serve nobody."""
    return tuple(ready(f"{prefix}-{number:03d}") for number in range(count))


# --- specs --------------------------------------------------------------------------------------


def policy(text: str) -> ScalingPolicy:
    """Read `4 Pods / 15 s` or `100 Percent / 60 s`."""
    value, kind, _, seconds, _ = text.split()
    return ScalingPolicy.model_validate({"type": kind, "value": int(value), "period_seconds": int(seconds)})


def behavior(
    *,
    up: tuple[str, ...] | None = None,
    down: tuple[str, ...] | None = None,
    up_window: int = 0,
    down_window: int | None = 300,
    tolerance: int = 10,
    up_enabled: bool = True,
    down_enabled: bool = True,
) -> Behavior:
    """Return damping; policies as `policy` reads them, the default ones when None; a window of None is unset."""
    rules_up: dict[str, Any] = {} if up is None else {"policies": tuple(policy(text) for text in up)}
    rules_down: dict[str, Any] = {} if down is None else {"policies": tuple(policy(text) for text in down)}
    return Behavior(
        scale_up=ScaleUp(stabilization_window_seconds=up_window, enabled=up_enabled, **rules_up),
        scale_down=ScaleDown(stabilization_window_seconds=down_window, enabled=down_enabled, **rules_down),
        tolerance_percent=tolerance,
    )


UNDAMPED = behavior(up=("10000 Pods / 1 s",), down=("10000 Pods / 1 s",), down_window=0, tolerance=0)
"""What the load calls for, at once."""


# --- deployments --------------------------------------------------------------------------------


LLAMA = ModelDeploymentSpec(
    model=ServedModel(name="meta-llama/Llama-3.1-8B-Instruct"),
    runtime="vllm",
    accelerator="h100",
    scaling=Scaling(max_replicas=8, targets=Targets(queued_requests=8, output_tokens_per_second=100)),
)
ONE = Child(uid="child", replicas=1)


@dataclass(frozen=True, kw_only=True)
class DeploymentBuilder:
    """One ModelDeployment: 1 to 8 replicas of one GPU, 8 waiting requests and 100 tokens/s each."""

    name: str = "llama"
    namespace: str = "team-a"
    spec: ModelDeploymentSpec = LLAMA
    child: Child | None = ONE
    made: tuple[PodBuilder, ...] = ()
    rest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Its namespace and name."""
        return Key(self.namespace, self.name)

    def bounds(self, low: int, high: int) -> DeploymentBuilder:
        """Set minReplicas and maxReplicas."""
        return self._scaling(min_replicas=low, max_replicas=high)

    def targets(self, *, queue: int = 8, tokens: int | None = None) -> DeploymentBuilder:
        """Set what one replica should carry."""
        return self._scaling(targets=Targets(queued_requests=queue, output_tokens_per_second=tokens))

    def behavior(self, damping: Behavior) -> DeploymentBuilder:
        """Set the damping."""
        return self._scaling(behavior=damping)

    def mode(self, mode: Mode, *, until: datetime | None = None) -> DeploymentBuilder:
        """Set what the operator may do, and until when."""
        return self._scaling(mode=mode, mode_until=f"{until:%Y-%m-%dT%H:%M:%SZ}" if until else None)

    def schedules(self, *schedules: Schedule) -> DeploymentBuilder:
        """Set other bounds at certain hours."""
        return self._scaling(schedules=schedules)

    def gpus(self, count: int) -> DeploymentBuilder:
        """Set the GPUs of one replica."""
        return replace(self, spec=self.spec.model_copy(update={"gpus_per_replica": count}))

    def priority(self, value: int) -> DeploymentBuilder:
        """Set the priority."""
        return replace(self, spec=self.spec.model_copy(update={"priority": value}))

    def asks(self, replicas: int, *, scaled_by: str = "") -> DeploymentBuilder:
        """Let its Deployment have this count, set by the operator or by somebody else."""
        child = self.child or Child(uid="child", replicas=0)
        return replace(self, child=replace(child, replicas=replicas, scaled_by_other=scaled_by))

    def rolling_out(self, *, overdue: bool = False) -> DeploymentBuilder:
        """Let its Deployment be in a roll-out."""
        assert self.child is not None
        return replace(self, child=replace(self.child, rolling_out=True, progress_deadline_exceeded=overdue))

    def overdue(self) -> DeploymentBuilder:
        """Let its Deployment have given up waiting for a ready pod."""
        assert self.child is not None
        return replace(self, child=replace(self.child, progress_deadline_exceeded=True))

    def childless(self) -> DeploymentBuilder:
        """Take its Deployment away."""
        return replace(self, child=None)

    def pods(self, *made: PodBuilder) -> DeploymentBuilder:
        """Give it pods, and a Deployment that asks for at least as many."""
        asked = self.child.replicas if self.child is not None else 0
        return replace(self.asks(max(asked, len(made))), made=made)

    def fault(self, reason: Reason, message: str = "mend me") -> DeploymentBuilder:
        """Make it impossible to run."""
        return self.having(fault=Fault(reason, message))

    def having(self, **fields: Any) -> DeploymentBuilder:
        """Set other fields of Observed."""
        return replace(self, rest={**self.rest, **fields})

    def _scaling(self, **changes: Any) -> DeploymentBuilder:
        scaling = self.spec.scaling.model_copy(update=changes)
        # Copies are not validated, and no test may be about a spec that the API refuses.
        checked = Scaling.model_validate(scaling.model_dump())
        return replace(self, spec=self.spec.model_copy(update={"scaling": checked}))

    def build(self, now: float = NOW) -> Observed:
        """Return the deployment as seen at `now`."""
        fields: dict[str, Any] = {"uid": f"uid-{self.name}", "generation": 1, "spec": self.spec, **self.rest}
        return Observed(
            key=self.key,
            child=self.child,
            pods=tuple(pod.build(now) for pod in self.made),
            **fields,
        )


def deployment(name: str = "llama", namespace: str = "team-a") -> DeploymentBuilder:
    """Return a deployment with a Deployment that asks for one replica, and without pods."""
    return DeploymentBuilder(name=name, namespace=namespace)


# --- fleets -------------------------------------------------------------------------------------


def nodes(*free: int, size: int = 8) -> tuple[Node, ...]:
    """Return nodes with so many free GPUs each."""
    return tuple(Node(f"node-{number}", count, max(size, count)) for number, count in enumerate(free))


def tenant(
    name: str,
    nominal: int,
    *,
    borrowing: int | None = None,
    lending: int | None = None,
    weight: int = 1,
    used: int = 0,
    cohort: str = "",
    allowances: tuple[Allowance, ...] = (),
) -> Tenant:
    """Return a tenant of the namespace of its name, with a quota of class h100."""
    return Tenant(
        name=name,
        namespaces=(name,),
        cohort=cohort,
        quotas={"h100": Quota(nominal, borrowing, lending, weight)},
        used_gpus={"h100": used},
        allowances=allowances,
    )


PLENTY = {"h100": nodes(*[8] * 64)}


def fleet(
    *made: DeploymentBuilder | Observed,
    now: float = NOW,
    gpus: Mapping[str, tuple[Node, ...]] | None = None,
    max_age: float = MAX_AGE_SECONDS,
    tenants: tuple[Tenant, ...] = (),
) -> Snapshot:
    """Return a snapshot; 512 free GPUs of class h100 unless told otherwise."""
    return Snapshot(
        tenants=tenants,
        taken_at=now,
        metrics_max_age_seconds=max_age,
        deployments=tuple(one if isinstance(one, Observed) else one.build(now) for one in made),
        nodes=PLENTY if gpus is None else gpus,
    )


def watched(made: DeploymentBuilder, *, desired: int | None = None, seconds: float = 3600, **fields: Any) -> Memory:
    """Return the memory of a deployment that this process has decided about for a while.

    Args:
        fields: Of the memory, of its load and of its windows.
    """
    asked = desired if desired is not None else (made.child.replicas if made.child else None)
    memory: dict[str, Any] = {
        "uid": f"uid-{made.name}",
        "since": NOW - seconds,
        "desired": asked,
        "last_decided_at": NOW - 1,
        "ready_pods": frozenset(f"uid-{pod.name}" for pod in made.made),
        "load": LoadMemory(**{name: fields.pop(name) for name in _names(LoadMemory) if name in fields}),
        "windows": Windows(**{name: fields.pop(name) for name in _names(Windows) if name in fields}),
        **fields,
    }
    return Memory(**memory)


def _names(of: type[Any]) -> list[str]:
    return [each.name for each in fields(of)]


# --- values between the steps -------------------------------------------------------------------


def total(value: float, *, of: int = 1, known: int | None = None) -> Total:
    """Return a signal added up over `of` pods."""
    count = of if known is None else known
    return Total(value, count, NOW if count else 0.0, "" if count == of else "pod-x: connection refused")


def load_of(
    *,
    ready: int = 1,
    queue: float = 0,
    running: float = 0,
    tokens: float = 0,
    finished: float = 0,
    prompts: float = 0,
    known: int | None = None,
) -> Demand:
    """Return a demand; `known` fewer than `ready` makes it partial."""
    count = ready if known is None else known
    return Demand(
        ready=ready,
        queues=(queue / max(1, count),) * count,
        queued_requests=total(queue, of=ready, known=count),
        running_requests=total(running, of=ready, known=count),
        output_tokens_per_second=total(tokens, of=ready, known=count),
        finished_requests_per_second=total(finished, of=ready, known=count),
        input_tokens_per_second=total(prompts, of=ready, known=count),
        complete=count == ready,
        missing="" if count == ready else "pod-x: connection refused",
    )


def carries(tokens: float | None = 100.0, *, running: float | None = None, start: float = 120.0) -> Capacity:
    """Return what one replica should carry."""
    source = CapacitySource.UNKNOWN if tokens is None else CapacitySource.SPEC
    return Capacity(tokens, source, running, start)


def measured(tokens: float | None = None, *, running: float | None = None, seconds: float = 30.0) -> Measured:
    """Return a measurement that has been going on for a while."""
    return Measured(tokens_per_second=tokens, running_requests=running, measured_seconds=seconds)
