"""A cluster's replicas played from one decision to the next, with demand that is given: who ends up with which GPUs.

The decisions are the operator's own. What stands around them is a scheduler that takes the node with the most free
GPUs, Deployments that follow at once, and pods that drain for their drainSeconds.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import Mode
from modelfleet.decide.cycle import HOLD_OFF_SECONDS, decide
from modelfleet.decide.history import Memory
from modelfleet.decide.plan import Plan, StepName
from modelfleet.decide.shares import Reclaim
from modelfleet.decide.snapshot import Assumed, Child, Observed, Pod, PodSignals, Snapshot
from modelfleet.decide.standing import standings

TICK_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 30.0
"""Where nothing moves, a window or a rate may still let something go: it is looked at this often."""
MOST_DECISIONS: Final = 20_000
"""A cluster that moves for so long never rests."""


_NOT_ASKED = PodSignals.missing("demand is given: no pod is asked")


@dataclass(slots=True)
class _Replica:
    name: str
    created_at: float
    ready_at: float | None
    node: str
    gone_at: float | None = None
    trouble: str = ""


@dataclass(slots=True)
class _Deployed:
    """A deployment, the count it is asked for, and its pods."""

    observed: Observed
    accelerator: str
    gpus: int
    drain_seconds: float
    asked: int
    pods: list[_Replica]
    as_seen: Observed | None = None
    """What the operator sees of it; None once something of it changed."""

    @property
    def running(self) -> int:
        """Replicas that are on a node and stay."""
        return sum(1 for pod in self.pods if pod.node and pod.gone_at is None)


class World:
    """A cluster at one moment, and what the decisions make of it."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Begin with what was seen; pods that are no replicas stay as they are."""
        self.now = snapshot.taken_at
        self.moved = False
        self.reclaims: list[Reclaim] = []
        self._seen = snapshot
        self._history: dict[Key, Memory] = {}
        self._numbers = count()
        self._assumed: Mapping[Key, Assumed] = {}
        self._deployed = {each.key: self._deploy(each) for each in snapshot.deployments if each.spec is not None}
        self._free = {
            accelerator: {node.name: node.free_gpus for node in nodes} for accelerator, nodes in snapshot.nodes.items()
        }
        self._tenant_of = {namespace: tenant.name for tenant in snapshot.tenants for namespace in tenant.namespaces}
        own = self._used()
        self._others = {
            (tenant.name, accelerator): used - own[tenant.name, accelerator]
            for tenant in snapshot.tenants
            for accelerator, used in tenant.used_gpus.items()
        }

    def clear(self) -> None:
        """Take every replica away, as before the first one started; who is not scaled is asked for as many as now."""
        for deployed in self._deployed.values():
            for pod in deployed.pods:
                self._release(deployed, pod)
            deployed.pods.clear()
            deployed.as_seen = None
            assert deployed.observed.spec is not None  # noqa: S101 - others are not here
            scaling = deployed.observed.spec.scaling
            if scaling.mode is Mode.AUTO and not deployed.observed.foreign_autoscaler:
                deployed.asked = scaling.min_replicas

    def step(self, assumed: Mapping[Key, Assumed]) -> Plan:
        """Decide once at this moment about what is asked for, and let Deployments and scheduler follow."""
        for key in [key for key, given in assumed.items() if self._assumed.get(key) != given]:
            if key in self._deployed:
                self._deployed[key].as_seen = None
        self._assumed = assumed
        self.moved = self._end()
        self.moved |= self._schedule()
        plan = decide(self.snapshot(), self._history)
        self._history = dict(plan.history)
        self.reclaims += [reclaim for decision in plan.decisions.values() for reclaim in decision.reclaims]
        for scale in plan.scales:
            self._deployed[scale.key].asked = scale.replicas
            self._deployed[scale.key].as_seen = None
        victims = {scale.key: scale.victims for scale in plan.scales}
        for key, deployed in self._deployed.items():
            self.moved |= self._follow(deployed, victims.get(key, ()))
        self.moved |= self._schedule()
        return plan

    @property
    def draining(self) -> bool:
        """Whether some replica still holds GPUs that it was told to give up."""
        return any(pod.gone_at is not None for deployed in self._deployed.values() for pod in deployed.pods)

    def wait(self, seconds: float) -> None:
        """Let time pass, to the end of the next drain at most."""
        ends = [pod.gone_at for deployed in self._deployed.values() for pod in deployed.pods if pod.gone_at is not None]
        self.now = max(self.now, min([self.now + seconds, *ends]))

    def snapshot(self) -> Snapshot:
        """Return the cluster as the operator would see it now."""
        own = self._used()
        draining: Counter[tuple[str, str]] = Counter()
        for deployed in self._deployed.values():
            for pod in deployed.pods:
                if pod.gone_at is not None:
                    draining[deployed.accelerator, pod.node] += deployed.gpus
        return replace(
            self._seen,
            taken_at=self.now,
            deployments=tuple(
                self._observe(self._deployed[each.key]) if each.key in self._deployed else each
                for each in self._seen.deployments
            ),
            nodes={
                accelerator: tuple(
                    replace(
                        node,
                        free_gpus=self._free[accelerator][node.name],
                        draining_gpus=draining[accelerator, node.name],
                    )
                    for node in nodes
                )
                for accelerator, nodes in self._seen.nodes.items()
            },
            tenants=tuple(
                replace(
                    tenant,
                    used_gpus={
                        accelerator: self._others[tenant.name, accelerator] + own[tenant.name, accelerator]
                        for accelerator in tenant.used_gpus
                    },
                )
                for tenant in self._seen.tenants
            ),
        )

    def asked(self) -> dict[Key, int]:
        """Return the replicas that each deployment is asked for."""
        return {key: deployed.asked for key, deployed in self._deployed.items()}

    def running(self) -> dict[Key, tuple[int, int]]:
        """Return each deployment's replicas that are on a node and stay, and the GPUs of one."""
        return {key: (deployed.running, deployed.gpus) for key, deployed in self._deployed.items()}

    @property
    def patience_seconds(self) -> float:
        """For how long nothing has to move until nothing will: the longest window, period and hold-off."""
        longest = 0
        for deployed in self._deployed.values():
            assert deployed.observed.spec is not None  # noqa: S101 - others are not here
            up = deployed.observed.spec.scaling.behavior.scale_up
            down = deployed.observed.spec.scaling.behavior.scale_down
            longest = max(
                longest,
                up.stabilization_window_seconds,
                down.watch_seconds,
                *(policy.period_seconds for policy in (*up.policies, *down.policies)),
            )
        return longest + HOLD_OFF_SECONDS

    def _deploy(self, observed: Observed) -> _Deployed:
        spec, child = observed.spec, observed.child
        assert spec is not None  # noqa: S101 - the caller looked
        return _Deployed(
            observed=replace(observed, child=child or Child(uid="what-if", replicas=0)),
            accelerator=spec.accelerator,
            gpus=spec.gpus_per_replica,
            drain_seconds=spec.drain_seconds,
            asked=child.replicas if child is not None else observed.recorded_desired or spec.scaling.min_replicas,
            pods=[
                _Replica(
                    name=pod.name,
                    created_at=pod.created_at,
                    ready_at=pod.ready_at,
                    node=pod.node,
                    gone_at=self.now + spec.drain_seconds if pod.terminating else None,
                )
                for pod in observed.pods
            ],
        )

    def _observe(self, deployed: _Deployed) -> Observed:
        if deployed.as_seen is not None:
            return deployed.as_seen
        child = deployed.observed.child
        assert child is not None  # noqa: S101 - _deploy made one
        deployed.as_seen = replace(
            deployed.observed,
            child=replace(child, replicas=deployed.asked, rolling_out=False),
            pods=tuple(
                Pod(
                    name=pod.name,
                    uid=pod.name,
                    created_at=pod.created_at,
                    ready_at=pod.ready_at,
                    terminating=pod.gone_at is not None,
                    node=pod.node,
                    trouble=pod.trouble,
                    signals=_NOT_ASKED,
                )
                for pod in deployed.pods
            ),
            assumed=self._assumed.get(deployed.observed.key),
        )
        return deployed.as_seen

    def _used(self) -> Counter[tuple[str, str]]:
        used: Counter[tuple[str, str]] = Counter()
        for key, deployed in self._deployed.items():
            on_nodes = sum(1 for pod in deployed.pods if pod.node)
            used[self._tenant_of.get(key.namespace, ""), deployed.accelerator] += on_nodes * deployed.gpus
        return used

    def _end(self) -> bool:
        ended = False
        for deployed in self._deployed.values():
            for pod in [pod for pod in deployed.pods if pod.gone_at is not None and pod.gone_at <= self.now]:
                self._release(deployed, pod)
                deployed.pods.remove(pod)
                deployed.as_seen, ended = None, True
        return ended

    def _release(self, deployed: _Deployed, pod: _Replica) -> None:
        free = self._free.get(deployed.accelerator, {})
        if pod.node in free:  # a cordoned node is none of its class
            free[pod.node] += deployed.gpus

    def _follow(self, deployed: _Deployed, victims: Sequence[str]) -> bool:
        """Do as a ReplicaSet does: what is not on a node goes first, then what is not ready, then whom it was told."""
        alive = [pod for pod in deployed.pods if pod.gone_at is None]
        beyond = len(alive) - deployed.asked
        if beyond > 0:
            alive.sort(
                key=lambda pod: (
                    bool(pod.node),
                    pod.ready_at is not None,
                    pod.name not in victims,
                    -pod.created_at,
                    pod.name,
                )
            )
            for pod in alive[:beyond]:
                if pod.node:
                    pod.gone_at = self.now + deployed.drain_seconds
                else:
                    deployed.pods.remove(pod)
        for _ in range(-beyond):
            name = f"{deployed.observed.key.name}-what-if-{next(self._numbers)}"
            deployed.pods.append(_Replica(name=name, created_at=self.now, ready_at=None, node=""))
        if beyond:
            deployed.as_seen = None
        return beyond != 0

    def _schedule(self) -> bool:
        """Place what waits, the oldest first, each on the node with the most free GPUs."""
        waiting = [
            (pod.created_at, key, pod.name, pod, deployed)
            for key, deployed in self._deployed.items()
            for pod in deployed.pods
            if not pod.node and pod.gone_at is None
        ]
        placed = False
        for *_, pod, deployed in sorted(waiting, key=lambda each: each[:3]):
            free = self._free.get(deployed.accelerator, {})
            node = min(free, key=lambda name: (-free[name], name), default=None)
            if node is None or free[node] < deployed.gpus:
                if not pod.trouble:
                    pod.trouble, deployed.as_seen = "no node has GPUs enough", None
                continue
            free[node] -= deployed.gpus
            pod.node, pod.ready_at, pod.trouble = node, self.now, ""
            deployed.as_seen, placed = None, True
        return placed


def settle(world: World, assumed: Mapping[Key, Assumed]) -> tuple[Plan, bool]:
    """Decide until nothing moves, and nothing will while demand stays.

    Returns:
        The last plan, and whether it came to rest: whoever moves for MOST_DECISIONS never does.
    """
    plan = world.step(assumed)
    moved_at = world.now
    for _ in range(MOST_DECISIONS):
        if world.moved or world.draining:
            moved_at = world.now
        elif world.now - moved_at >= world.patience_seconds:
            return plan, True
        world.wait(TICK_SECONDS if world.moved else IDLE_SECONDS)
        plan = world.step(assumed)
    return plan, False


@dataclass(slots=True)
class Total:
    """GPU-hours of a replay, of one deployment or one tenant.

    Attributes:
        used: On nodes; of a deployment those of replicas that stay, of a tenant all that its pods hold.
        waiting: Asked for and not there.
        borrowed: Of a tenant: used beyond nominal.
        lent: Of a tenant: of nominal, used by others.
        drains: Replicas that were told to go.
    """

    used: float = 0.0
    waiting: float = 0.0
    borrowed: float = 0.0
    lent: float = 0.0
    drains: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """What a replay came to."""

    deployments: dict[Key, Total] = field(default_factory=dict)
    tenants: dict[str, Total] = field(default_factory=dict)


def replay(
    snapshot: Snapshot,
    demands: Sequence[Mapping[Key, Assumed]],
    *,
    step_seconds: int,
    progress: Callable[[], None],
) -> Totals:
    """Play a past again: minReplicas everywhere at first, then what each step asked for.

    Args:
        snapshot: The cluster: its nodes, deployments, tenants and others' pods, all as they are now.
        demands: What was asked for, step by step.
        step_seconds: Length of a step.
        progress: Called after each step.
    """
    world = World(snapshot)
    world.clear()
    totals = Totals(
        {each.key: Total() for each in snapshot.deployments if each.spec is not None},
        {tenant.name: Total() for tenant in snapshot.tenants},
    )
    ends = world.now
    for assumed in demands:
        ends += step_seconds
        while world.now < ends:
            plan, began = world.step(assumed), world.now
            seen = world.snapshot()
            world.wait(min(TICK_SECONDS if world.moved else step_seconds, ends - world.now))
            _add(totals, world, seen, plan, hours=(world.now - began) / 3600)
        progress()
    for reclaim in world.reclaims:
        totals.deployments[reclaim.key].drains += len(reclaim.pods)
        if reclaim.tenant:
            totals.tenants[reclaim.tenant].drains += len(reclaim.pods)
    return totals


def _add(totals: Totals, world: World, seen: Snapshot, plan: Plan, *, hours: float) -> None:
    for key, (running, gpus) in world.running().items():
        asked = next((step.replicas for step in plan.decisions[key].steps if step.name is StepName.ADMIT), running)
        totals.deployments[key].used += running * gpus * hours
        totals.deployments[key].waiting += max(0, asked - running) * gpus * hours
    for name, rows in standings(seen, plan).items():
        total = totals.tenants[name]
        for row in rows:
            total.used += row.used * hours
            total.waiting += row.waiting * hours
            total.borrowed += row.borrowed * hours
            total.lent += row.lent * hours
