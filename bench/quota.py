"""Whether quotas hold while everything goes wrong at once, as a witness with watches of its own sees it.

Three tenants share 32 GPUs. Demand is minReplicas = maxReplicas, edited at random, so that the witness can read it
without the operator's words; draining takes anything up to the grace period.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from time import monotonic
from typing import Any

from bench import product
from bench.cluster import Cluster, cluster, say
from bench.figures import Against, Figure
from bench.product import ACCOUNT, Operator
from bench.product import NAMESPACE as OPERATOR_NAMESPACE
from bench.quota_checker import RESOURCE, Verdict, Witness
from modelfleet.api.meta import Key
from sandbox.cluster import RequestFailed, Sandbox, SandboxError
from sandbox.nodes import NodePlan, manifests

NODES = 4
CLASS = "h100"
CREATORS = 50
REACTION_SECONDS = 5.0
"""What the stated bound has beyond a drain: two decisions a second apart, and a Deployment that follows."""
TAKEOVER_SECONDS = 10.0
"""What the chart promises: while nobody leads nothing is decided."""
DRAIN_SECONDS = (0.2, 0.2, 1.0, 3.0, 15.0)
SLEEP_SECONDS = (8.0, 30.0)
"""How long a team asks for next to nothing, so that others borrow."""
ELSEWHERE = "modelfleet-elsewhere"
"""Namespace of an installation that should not be there: its operator has a lease of its own."""
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases/{ACCOUNT}"
LEADING_SECONDS = 60.0
SAID = 10
"""Findings of a kind that are told one by one."""


@dataclass(frozen=True, slots=True)
class Team:
    """A tenant: its namespaces, and one ModelDeployment in each."""

    name: str
    namespaces: tuple[str, ...]
    nominal: int
    borrowing: int
    gpus: int = 1


TEAMS = (
    Team("ant", ("ant-1", "ant-2", "ant-3"), 9, 12),
    Team("bee", ("bee-1",), 9, 12),
    Team("cat", ("cat-1", "cat-2"), 4, 16, gpus=2),
)
TENANTS = "/apis/modelfleet.dev/v1alpha1/tenants"


@dataclass(frozen=True, slots=True)
class Size:
    """Seconds of each scenario."""

    storm: float = 240.0
    failover: float = 150.0
    two: float = 120.0
    none: float = 30.0


QUICK = Size(storm=25.0, failover=40.0, two=25.0, none=10.0)


async def measure(size: Size) -> AsyncIterator[Figure]:
    """Play the scenarios one after the other on one cluster."""
    chance = random.Random(0)
    async with cluster("quota", h100_nodes=NODES, drain_seconds=lambda: chance.choice(DRAIN_SECONDS)) as here:
        world = World(here, chance)
        await asyncio.to_thread(world.create)
        scenarios: tuple[tuple[str, Callable[[], Awaitable[Witness]], float], ...] = (
            ("random demand, quota edits, nodes lost", partial(world.storm, size.storm), REACTION_SECONDS),
            (
                "the same, leader killed or paused",
                partial(world.failover, size.failover),
                REACTION_SECONDS + TAKEOVER_SECONDS,
            ),
            (
                f"the same, two leaders, {CREATORS} creators of raw pods",
                partial(world.two_leaders, size.two),
                REACTION_SECONDS,
            ),
            (f"no operator, {CREATORS} creators of raw pods", partial(world.nobody, size.none), REACTION_SECONDS),
        )
        for name, play, reaction_seconds in scenarios:
            say(f"quota: {name}")
            ticks, accepted = world.ticks(), world.raw.copy()
            witness = await play()
            verdict = witness.judge(reaction_seconds=reaction_seconds)
            for kind, findings in (("over", verdict.over), ("late", verdict.late), ("passed", verdict.passed)):
                for finding in findings[:SAID]:
                    say(f"quota: {kind}: {finding.tenant}: {finding.what}")
            for figure in _figures(name, verdict):
                yield figure
            yield Figure(f"{name}: decisions of the whole fleet", world.ticks() - ticks, "decisions")
            if world.raw != accepted:
                made, refused = (world.raw[word] - accepted[word] for word in ("made", "refused"))
                yield Figure(f"{name}: raw pods made; {refused} refused", made, "pods")
        world.stop()


def _figures(name: str, verdict: Verdict) -> Iterator[Figure]:
    yield Figure(f"{name}: moments over nominal + borrowing", len(verdict.over), "moments", Against("target", 0))
    yield Figure(f"{name}: moments in which the API server passed a quota in force", len(verdict.passed), "moments")
    yield Figure(f"{name}: waits within nominal beyond the bound", len(verdict.late), "waits", Against("target", 0))
    yield Figure(f"{name}: states judged", verdict.states, "states")
    yield Figure(f"{name}: of them with a tenant at its limit", verdict.full, "states")
    if verdict.waits:
        longest, bound = max(verdict.waits)
        yield Figure(f"{name}: longest of {len(verdict.waits)} waits", longest, "s", Against("bound", bound))


class World:
    """The tenants, and everything that is done to them."""

    def __init__(self, here: Cluster, chance: random.Random) -> None:
        """Prepare; `create` makes the tenants."""
        self._here = here
        self._sandbox: Sandbox = here.sandbox
        self._chance = chance
        self._names = count()
        self._operators: list[Operator] = []
        self._ended_ticks = 0
        self.raw: Counter[str] = Counter()

    def create(self) -> None:
        """Create namespaces, Tenants and ModelDeployments."""
        for team in TEAMS:
            for namespace in team.namespaces:
                self._sandbox.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            item = {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": team.name}}
            self._sandbox.request("POST", TENANTS, {**item, "spec": _spec(team, team.nominal, team.borrowing)})
            for namespace in team.namespaces:
                scaling = {"minReplicas": 1, "maxReplicas": 1}
                made = product.model_deployment(Key(namespace, "model"), scaling=scaling)
                made["spec"]["gpusPerReplica"] = team.gpus
                product.create(self._sandbox, made)
        self._sandbox.request("POST", "/api/v1/namespaces", {"metadata": {"name": ELSEWHERE}})
        for kind in ("role", "rolebinding"):
            found = self._sandbox.request(
                "GET", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/{kind}s/{ACCOUNT}-lease"
            )
            found["metadata"] = {"name": found["metadata"]["name"], "namespace": ELSEWHERE}
            self._sandbox.request("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ELSEWHERE}/{kind}s", found)

    def ticks(self) -> int:
        """Return how often the operators decided so far, those that ended included, as far as they were asked."""
        return self._ended_ticks + sum(_ticks(operator) for operator in self._operators if operator.alive)

    # --- scenarios ------------------------------------------------------------------------------

    async def storm(self, seconds: float) -> Witness:
        """Demand, quotas and nodes change at random while one operator leads."""
        async with self._operator():
            return await self._change_everything(seconds)

    async def failover(self, seconds: float) -> Witness:
        """The same with two replicas, whose leader is killed or stopped for a while."""
        replicas = [self._start(), self._start()]
        changing = None
        try:
            await self._leading(*replicas)
            changing = asyncio.create_task(self._change_everything(seconds))
            until = monotonic() + seconds
            for number in count():
                await asyncio.sleep(self._chance.uniform(8, 14))
                if monotonic() > until:
                    break
                leader = self._leader(replicas)
                if leader is None:
                    continue
                if number % 2:
                    say("quota: leader paused")
                    leader.signal(signal.SIGSTOP)
                    await asyncio.sleep(TAKEOVER_SECONDS)
                    leader.signal(signal.SIGCONT)
                else:
                    say("quota: leader killed")
                    self._kill(leader)
                replicas = [replica for replica in replicas if replica.alive]
                while len(replicas) < 2:
                    replicas.append(self._start())
            return await changing
        finally:
            if changing is not None:
                changing.cancel()
            for replica in replicas:
                self._stop(replica)

    async def two_leaders(self, seconds: float) -> Witness:
        """The same with two operators that both lead, by leases of their own, and raw pods in every namespace."""
        async with self._operator(), self._operator(f"--namespace={ELSEWHERE}"):
            with self._creators():
                return await self._change_everything(seconds)

    async def nobody(self, seconds: float) -> Witness:
        """Raw pods alone."""
        with Witness(self._sandbox) as witness, self._creators():
            await asyncio.sleep(seconds)
        return witness

    # --- what is done ---------------------------------------------------------------------------

    async def _change_everything(self, seconds: float) -> Witness:
        """Change demands, quotas and nodes for so long; return who saw it."""
        until = monotonic() + seconds
        with Witness(self._sandbox) as witness:
            try:
                while monotonic() < until:
                    change = self._chance.choices((self._demand, self._tide, self._quota, self._node), (16, 3, 3, 1))[0]
                    with suppress(SandboxError):  # two edits at once
                        await asyncio.to_thread(change)
                    await asyncio.sleep(self._chance.uniform(0.2, 2.0))
            finally:
                await asyncio.to_thread(self._mend)
        return witness

    def _tide(self) -> None:
        """Let a team sleep, so that others borrow, and wake with all it may have."""
        team = self._chance.choice(TEAMS)
        for namespace in team.namespaces:
            self._ask(namespace, 1)
        most = (team.nominal + team.borrowing) // team.gpus
        wake = partial(self._ask, self._chance.choice(team.namespaces), most)
        threading.Timer(self._chance.uniform(*SLEEP_SECONDS), wake).start()

    def _demand(self) -> None:
        team = self._chance.choice(TEAMS)
        namespace = self._chance.choice(team.namespaces)
        # Mostly the whole limit or next to nothing: what is in between is soon no conflict.
        most = (team.nominal + team.borrowing) // team.gpus
        replicas = self._chance.choice((1, most, most, self._chance.randint(1, most)))
        self._ask(namespace, replicas)

    def _ask(self, namespace: str, replicas: int) -> None:
        path = f"/apis/modelfleet.dev/v1alpha1/namespaces/{namespace}/modeldeployments/model"
        scaling = {"minReplicas": replicas, "maxReplicas": replicas}
        with suppress(SandboxError):
            self._sandbox.request("PATCH", path, {"spec": {"scaling": scaling}})

    def _quota(self) -> None:
        team = self._chance.choice(TEAMS)
        # Nominals never grow beyond what was promised to all at first: 22 of 32 GPUs, and of 24 while a node is gone.
        nominal, borrowing = team.nominal, team.borrowing
        if self._chance.random() < 0.4:
            nominal, borrowing = nominal - self._chance.randint(0, 3), self._chance.randint(0, borrowing)
        spec = _spec(team, nominal, borrowing)
        self._sandbox.request("PATCH", f"{TENANTS}/{team.name}", {"spec": {"quotas": spec["quotas"]}})

    def _node(self) -> None:
        number = self._chance.randrange(NODES)
        path = f"/api/v1/nodes/h100-{number}"
        if self._chance.random() < 0.5:
            self._sandbox.request("PATCH", path, {"spec": {"unschedulable": True}})
        else:
            self._sandbox.request("DELETE", path)
        threading.Timer(self._chance.uniform(3, 20), partial(self._return_node, number)).start()

    def _return_node(self, number: int) -> None:
        with suppress(SandboxError):
            try:
                self._sandbox.request("PATCH", f"/api/v1/nodes/h100-{number}", {"spec": {"unschedulable": None}})
            except RequestFailed as error:
                if error.code != 404:
                    raise
                self._sandbox.request("POST", "/api/v1/nodes", list(manifests(NodePlan(NODES, 0, 0)))[number])

    def _mend(self) -> None:
        for number in range(NODES):
            self._return_node(number)
        for team in TEAMS:
            spec = _spec(team, team.nominal, team.borrowing)
            self._sandbox.request("PATCH", f"{TENANTS}/{team.name}", {"spec": {"quotas": spec["quotas"]}})

    @contextmanager
    def _creators(self) -> Iterator[None]:
        """Let many create pods that hold GPUs, and delete them again, in the namespaces of the tenants of several."""
        ended = threading.Event()
        threads = [threading.Thread(target=self._create_pods, args=(number, ended)) for number in range(CREATORS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _create_pods(self, number: int, ended: threading.Event) -> None:
        chance = random.Random(number)
        namespaces = [namespace for team in TEAMS for namespace in team.namespaces]
        made: list[str] = []
        for each in count():
            if ended.is_set():
                break
            namespace, name = chance.choice(namespaces), f"raw-{number}-{next(self._names)}-{each}"
            path = f"/api/v1/namespaces/{namespace}/pods"
            try:
                self._sandbox.request("POST", path, _raw_pod(name, chance.choice((1, 1, 1, 2)), chance))
                self.raw["made"] += 1
                made.append(f"{path}/{name}")
            except SandboxError:
                self.raw["refused"] += 1
            ended.wait(chance.uniform(0.2, 1.8))
            if made and chance.random() < 0.6:
                self._delete(made.pop(0))
        for path in made:
            self._delete(path)

    def _delete(self, path: str) -> None:
        with suppress(SandboxError):
            self._sandbox.request("DELETE", path, {"gracePeriodSeconds": 0})

    # --- operators ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _operator(self, *arguments: str) -> AsyncIterator[None]:
        operator = self._start(*arguments)
        try:
            await self._leading(operator)
            yield
            operator.check()
        finally:
            await asyncio.to_thread(self._stop, operator)

    async def _leading(self, *operators: Operator) -> None:
        """Wait until one of some operators decides."""
        give_up = monotonic() + LEADING_SECONDS
        while not any([await asyncio.to_thread(_ticks, operator) for operator in operators]):
            for operator in operators:
                operator.check()
            if monotonic() > give_up:
                raise TimeoutError(f"no operator decides after {LEADING_SECONDS:.0f} s")
            await asyncio.sleep(0.2)

    def _start(self, *arguments: str) -> Operator:
        operator = Operator(self._sandbox, self._here.account, f"quota-{next(self._names)}", *arguments)
        self._operators.append(operator)
        return operator

    def _stop(self, operator: Operator) -> None:
        self._count(operator)
        operator.stop()

    def _kill(self, operator: Operator) -> None:
        self._count(operator)
        operator.kill()

    def _count(self, operator: Operator) -> None:
        if operator.alive and operator in self._operators:
            self._ended_ticks += _ticks(operator)
            self._operators.remove(operator)

    def _leader(self, replicas: list[Operator]) -> Operator | None:
        with suppress(SandboxError):
            holder = self._sandbox.request("GET", LEASE)["spec"].get("holderIdentity") or ""
            return next((one for one in replicas if one.alive and holder.endswith(f"_{one.pid}")), None)
        return None

    def stop(self) -> None:
        """End whatever still runs."""
        for operator in list(self._operators):
            self._stop(operator)


def _ticks(operator: Operator) -> int:
    """Return how often an operator decided; 0 when it does not answer, as one that has only just started."""
    with suppress(OSError, StopIteration), urllib.request.urlopen(operator.metrics_url, timeout=5) as page:
        for line in page.read().decode().splitlines():
            if line.startswith("modelfleet_tick_seconds_count "):
                return int(float(line.split()[1]))
    return 0


def _spec(team: Team, nominal: int, borrowing: int) -> dict[str, Any]:
    quota = {"accelerator": CLASS, "nominalQuota": nominal, "borrowingLimit": borrowing}
    return {"namespaces": list(team.namespaces), "quotas": [quota]}


def _raw_pod(name: str, gpus: int, chance: random.Random) -> dict[str, Any]:
    """Return a pod that holds GPUs, sometimes by an init container or a sidecar."""
    busy: dict[str, Any] = {"name": "job", "image": "job", "resources": {"limits": {RESOURCE: str(gpus)}}}
    idle: dict[str, Any] = {"name": "main", "image": "job"}
    containers: list[dict[str, Any]] = [busy]
    before: list[dict[str, Any]] = []
    match chance.randrange(6):
        case 0:
            containers, before = [idle], [busy]
        case 1:
            containers, before = [idle], [{**busy, "restartPolicy": "Always"}]
    return {
        "metadata": {"name": name},
        "spec": {
            "containers": containers,
            "initContainers": before,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
        },
    }
