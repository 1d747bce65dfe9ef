"""A cluster of several teams, played second by second: loads, a scheduler, pods that drain, and the decisions.

Every replica serves 100 tokens/s at its target, so a load of 800 tokens/s wants 8. Metrics are complete and damping is
off: what is played here is quota, not load.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import Mode
from modelfleet.decide.cycle import decide
from modelfleet.decide.history import Memory
from modelfleet.decide.plan import Plan
from modelfleet.decide.snapshot import Node, Tenant
from tests.builders import NOW, UNDAMPED, DeploymentBuilder, PodBuilder, deployment, fleet


@dataclass
class Played:
    """One pod of the cluster; `key` is None for somebody's own pod."""

    name: str
    namespace: str
    key: Key | None
    gpus: int
    created_at: float
    node: str = ""
    ready_at: float | None = None
    gone_at: float | None = None


@dataclass
class Cluster:
    """Nodes of class h100, the teams' tenants and models, and everything that runs.

    Attributes:
        start_seconds: From a pod's place on a node to ready.
        drain_seconds: From being told to go to being gone.
        lag_seconds: How long a Deployment takes to show what it was told: pods made, pods terminating.
    """

    nodes: dict[str, int]
    tenants: dict[str, Tenant]
    start_seconds: float = 30.0
    drain_seconds: float = 20.0
    lag_seconds: float = 2.0
    now: float = NOW
    models: dict[Key, DeploymentBuilder] = field(default_factory=dict)
    loads: dict[Key, float] = field(default_factory=dict)
    replicas: dict[Key, int] = field(default_factory=dict)
    pods: list[Played] = field(default_factory=list)
    history: dict[Key, Memory] = field(default_factory=dict)
    plan: Plan | None = None
    told: int = 0
    _writes: list[tuple[float, Key, int, tuple[str, ...]]] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def model(self, team: str, name: str = "llama", *, gpus: int = 1, most: int = 64, priority: int = 0) -> Key:
        """Add a ModelDeployment that asks for nothing yet but its one replica at least."""
        made = deployment(name, team).targets(tokens=100, queue=10_000).behavior(UNDAMPED).bounds(1, most)
        made = made.gpus(gpus).priority(priority)
        self.models[made.key], self.loads[made.key], self.replicas[made.key] = made, 0.0, 1
        return made.key

    def raw(self, team: str, gpus: int) -> None:
        """Let a team run a pod of its own."""
        free = self.free()
        node = min(name for name in free if free[name] >= gpus)
        self.pods.append(Played(f"raw-{next(self._numbers)}", team, None, gpus, self.now, node, self.now))

    def wants(self, key: Key, replicas: int) -> None:
        """Give a deployment the load of so many replicas."""
        self.loads[key] = replicas * 100.0

    def quota(self, team: str, **changes: int | None) -> None:
        """Edit a quota."""
        tenant = self.tenants[team]
        self.tenants[team] = replace(tenant, quotas={"h100": replace(tenant.quotas["h100"], **changes)})

    def lose(self, node: str) -> None:
        """Let a node die with everything on it."""
        del self.nodes[node]
        self.pods = [pod for pod in self.pods if pod.node != node]

    def mode(self, key: Key, mode: Mode) -> None:
        """Set a deployment's mode."""
        self.models[key] = self.models[key].mode(mode)

    def used(self, team: str) -> int:
        """GPUs that a team's pods hold on nodes."""
        return sum(pod.gpus for pod in self.pods if pod.namespace == team and pod.node)

    def held(self, key: Key) -> int:
        """Replicas of a deployment that are on a node and stay."""
        return sum(1 for pod in self.pods if pod.key == key and pod.node and pod.gone_at is None)

    def free(self) -> dict[str, int]:
        """GPUs that no pod holds, by node."""
        return {
            name: size - sum(pod.gpus for pod in self.pods if pod.node == name) for name, size in self.nodes.items()
        }

    def play(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(seconds):
            self.step()

    def until(self, key: Key, replicas: int, *, within: int) -> int:
        """Play until a deployment holds so many replicas; return the seconds it took."""
        for second in range(within + 1):
            if self.held(key) >= replicas:
                return second
            self.step()
        raise AssertionError(f"{key} holds {self.held(key)} of {replicas} after {within} s")

    def step(self) -> None:
        """Let one second pass: pods end and start, the scheduler binds, the operator decides, Deployments follow."""
        self.now += 1
        self.pods = [pod for pod in self.pods if pod.gone_at is None or self.now < pod.gone_at]
        for pod in self.pods:
            if not pod.node:
                free = self.free()
                # Where most is free, as kube-scheduler does.
                fits = sorted((-have, name) for name, have in free.items() if have >= pod.gpus)
                if fits:
                    pod.node, pod.ready_at = fits[0][1], self.now + self.start_seconds
        self._decide()
        due = [write for write in self._writes if write[0] <= self.now]
        self._writes = [write for write in self._writes if write[0] > self.now]
        for _, key, replicas, victims in due:
            self._follow(key, replicas, victims)

    def _decide(self) -> None:
        draining = {
            name: sum(pod.gpus for pod in self.pods if pod.node == name and pod.gone_at is not None)
            for name in self.nodes
        }
        nodes = tuple(Node(name, have, self.nodes[name], draining[name]) for name, have in self.free().items())
        tenants = tuple(replace(tenant, used_gpus={"h100": self.used(tenant.name)}) for tenant in self.tenants.values())
        seen = [self._seen(key) for key in self.models]
        self.plan = decide(fleet(*seen, now=self.now, gpus={"h100": nodes}, tenants=tenants), self.history)
        self.history = dict(self.plan.history)
        self.told += sum(len(reclaim.pods) for one in self.plan.decisions.values() for reclaim in one.reclaims)
        for scale in self.plan.scales:
            self.replicas[scale.key] = scale.replicas
            self._writes.append((self.now + self.lag_seconds, scale.key, scale.replicas, scale.victims))

    def _seen(self, key: Key) -> DeploymentBuilder:
        mine = [pod for pod in self.pods if pod.key == key]
        serving = [pod for pod in mine if pod.gone_at is None and pod.ready_at is not None and pod.ready_at <= self.now]
        made = []
        for pod in mine:
            ready = pod.ready_at is not None and pod.ready_at <= self.now
            built = PodBuilder(
                name=pod.name, created_at=pod.created_at, ready_at=pod.ready_at if ready else None, node=pod.node
            )
            if not ready:
                built = built.lost()
            elif pod in serving:
                built = built.tokens(self.loads[key] / len(serving)).running(1)
            made.append(built.dying() if pod.gone_at is not None else built)
        return replace(self.models[key].asks(self.replicas[key]), made=tuple(made))

    def _follow(self, key: Key, replicas: int, victims: tuple[str, ...]) -> None:
        """Do as a ReplicaSet does: what is not on a node goes first, then what is not ready, then whom it was told."""
        alive = [pod for pod in self.pods if pod.key == key and pod.gone_at is None]
        alive.sort(
            key=lambda pod: (
                bool(pod.node),
                pod.ready_at is not None and pod.ready_at <= self.now,
                pod.name not in victims,
                -pod.created_at,
                pod.name,
            )
        )
        for pod in alive[: max(0, len(alive) - replicas)]:
            pod.gone_at = self.now + (self.drain_seconds if pod.node else 0)
        gpus = self.models[key].spec.gpus_per_replica
        for _ in range(replicas - len(alive)):
            name = f"{key.name}-{next(self._numbers):04}"
            self.pods.append(Played(name, key.namespace, key, gpus, self.now))
