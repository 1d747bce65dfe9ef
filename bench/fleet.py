"""A fleet of 500 deployments: what it costs at rest, what a restart costs, and how it still reacts.

A stock kopf operator works on the same objects in the same cluster, one after the other so that neither disturbs
the other's CPU time.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from bench import audit, procfs, stock_operator
from bench.cluster import NAMESPACE, Cluster, cluster, say
from bench.figures import Against, Figure, spread
from bench.product import ACCOUNT, Operator, Program
from bench.product import NAMESPACE as OPERATOR_NAMESPACE
from bench.reaction import POD_TARGETS, STEP, WRITE_TARGETS, Step
from modelfleet.api.meta import Key
from sandbox.cluster import CHECKOUT

SPARE_GPUS = 40
STOCK = "stock-operator"
PROMETHEUS_TICK_SECONDS = 2.0
PROMETHEUS_INTERVAL_SECONDS = 5.0
"""How often the sandbox's Prometheus scrapes."""
READY_SECONDS = 300.0

REACTION_SPREAD_SECONDS = 10.0
GIVE_UP_SECONDS = 60.0
POLL_SECONDS = 0.05
CHECK_SECONDS = 1.0

TARGET_QUERIES = 8.0
TARGET_CPU_SECONDS = 6.0
"""Per 1,000 deployments and minute, at a 2 s tick."""
TARGET_REQUESTS_A_SECOND = 0.5
TARGET_FIRST_DECISION_SECONDS = 10.0
TARGET_SLOPE_KIB = 20.0
TARGET_BASE_MIB = 100.0


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is.

    Attributes:
        few: Deployments at which memory is measured first; the slope is taken from there to `many`.
        many: Deployments of everything else.
        idle_seconds: Length of an idle window.
        settle_seconds: Before anything is measured at rest; after a restart twice as long, so that the first
            refresh of measurements, due after 30 s, is seen.
        steps: Load steps amid the whole fleet.
    """

    few: int = 100
    many: int = 500
    idle_seconds: float = 60.0
    settle_seconds: float = 20.0
    steps: int = 20


QUICK = Size(few=20, many=100, idle_seconds=10.0, settle_seconds=4.0, steps=8)


@dataclass(frozen=True, slots=True)
class Idle:
    """What a process did in an idle window."""

    seconds: float
    cpu_seconds: float
    resident_bytes: int
    requests: list[audit.Request]

    @property
    def writes(self) -> list[audit.Request]:
        """Every write but those of the lease."""
        return [request for request in self.requests if request.writes and request.resource != "leases"]

    def cpu_per_thousand_and_minute(self, deployments: int) -> float:
        """Return CPU-seconds for 1,000 deployments a minute."""
        return self.cpu_seconds / self.seconds * 60 / deployments * 1_000


async def measure(size: Size) -> AsyncIterator[Figure]:
    """Yield each figure as it is known."""
    keys = [Key(NAMESPACE, f"model-{number:04}") for number in range(size.many)]
    async with cluster("fleet", h100_nodes=-(-(size.many + SPARE_GPUS) // 8), prometheus=True) as here:
        run = _Run(here, keys, size)
        try:
            async for figure in run.measure():
                yield figure
        finally:
            run.end()


class _Run:
    """One fleet through all of its phases."""

    def __init__(self, here: Cluster, keys: list[Key], size: Size) -> None:
        self.here, self.keys, self.size = here, keys, size
        self.stock_account: Path | None = None
        self.running: Program | None = None

    def end(self) -> None:
        if self.running is not None:
            self.running.stop()
            self.running = None

    async def measure(self) -> AsyncIterator[Figure]:
        few_ours, few_stock = await self._grow_to_few()
        async for figure in self._grow_to_many():
            yield figure
        async for figure in self._restart():
            yield figure
        ours = await self._idle("Modelfleet, scraping", ours=True)
        for figure in self._rest(ours, "scraping every pod each second"):
            yield figure
        self.end()
        # Prometheus learns of the pods before the peer's turn: a rate needs its whole window of samples.
        targets = self.here.sandbox.prometheus_targets / "pods.json"
        await asyncio.to_thread(targets.write_text, json.dumps(self.here.engines.targets()))
        async for figure in self._against_stock(ours, few_ours, few_stock):
            yield figure
        async for figure in self._prometheus():
            yield figure
        async for figure in self._react():
            yield figure

    # --- phases ---------------------------------------------------------------------------------

    async def _grow_to_few(self) -> tuple[int, int]:
        """Return the memory of both operators with few deployments."""
        few = self.keys[: self.size.few]
        self._operate("provision-few")
        await self._provision(few, few)
        self.end()
        operator = self._operate("few")
        await self._decided(operator, len(few))
        await asyncio.sleep(self.size.settle_seconds)
        ours = operator.resident_bytes
        self.end()
        stock = self._stock("few")
        await _handled(stock, len(few))
        await asyncio.sleep(self.size.settle_seconds)
        theirs = stock.resident_bytes
        self.end()
        say(f"fleet: {len(few)} deployments: {ours >> 20} MiB, stock {theirs >> 20} MiB")
        return ours, theirs

    async def _grow_to_many(self) -> AsyncIterator[Figure]:
        self._operate("provision")
        began = monotonic()
        ended = await self._provision(self.keys[self.size.few :], self.keys)
        added = self.size.many - self.size.few
        yield Figure(f"{added} new deployments applied to all ready", monotonic() - began, "s")
        yield Figure(f"operator ended by itself while {added} deployments were new", ended, "times")
        say(f"fleet: {len(self.keys)} deployments are ready")
        await asyncio.sleep(self.size.settle_seconds)  # the last statuses are written

    async def _restart(self) -> AsyncIterator[Figure]:
        """Kill and start again with the whole fleet; leaves the operator running."""
        assert self.running is not None
        self.running.kill()
        self.running = None
        operator = self._operate("restart")
        decided = await self._decided(operator, len(self.keys))
        watched = 2 * self.size.settle_seconds
        await asyncio.sleep(watched)
        requests = self._requests(operator, since=operator.started_at, until=time())
        writes = [request for request in requests if request.writes and request.resource != "leases"]
        say(f"fleet: after the restart: {audit.summary(requests)}")
        count = f"{len(self.keys)} deployments"
        yield Figure(
            f"killed and restarted with {count}: start to all decided, the dead one's lease included",
            decided - operator.started_at,
            "s",
            Against("target", TARGET_FIRST_DECISION_SECONDS),
        )
        yield Figure(f"writes of the restart and {watched:.0f} s after it", len(writes), "writes")

    async def _prometheus(self) -> AsyncIterator[Figure]:
        url = self.here.sandbox.prometheus_url
        operator = self._operate(
            "prometheus",
            "--source=prometheus",
            f"--prometheus-url={url}",
            f"--prometheus-scrape-interval-seconds={PROMETHEUS_INTERVAL_SECONDS:g}",
            f"--tick-seconds={PROMETHEUS_TICK_SECONDS:g}",
        )
        await self._decided(operator, len(self.keys))
        queries: list[float] = []
        ticks: list[float] = []

        async def sample() -> None:
            queries.append(await _metric(f"{url}/metrics", "prometheus_http_requests_total", handler="/api/v1/query"))
            ticks.append(await _metric(operator.metrics_url, "modelfleet_tick_seconds_count"))

        found = await self._idle("Modelfleet, Prometheus", ours=True, sample=sample)
        self.end()
        asked, looped = queries[1] - queries[0], ticks[1] - ticks[0]
        name = f"Prometheus queries a loop, {len(self.keys)} deployments"
        yield Figure(name, asked / looped, "queries", Against("target", TARGET_QUERIES))
        for figure in self._rest(found, f"Prometheus, {PROMETHEUS_TICK_SECONDS:g} s tick"):
            yield figure

    async def _against_stock(self, ours: Idle, few_ours: int, few_stock: int) -> AsyncIterator[Figure]:
        stock = self._stock("first")  # puts its finalizer on each object
        await _handled(stock, len(self.keys))
        stock.kill()
        stock = self._stock("restart")
        handled_after = await _handled(stock, len(self.keys))
        theirs = await self._idle("stock kopf operator", ours=False)
        stock.stop()
        self.running = None
        count = len(self.keys)
        yield Figure(
            f"stock kopf operator restarted with {count} deployments: start to all handled", handled_after, "s"
        )
        name = "stock kopf operator, no signals, 2 s timers"
        yield Figure(f"CPU for 1,000 deployments a minute: {name}", theirs.cpu_per_thousand_and_minute(count), "CPU-s")
        yield Figure(f"writes in {theirs.seconds:.0f} s at rest: {name}", len(theirs.writes), "writes")
        added = self.size.many - self.size.few
        slope = (ours.resident_bytes - few_ours) / added / 1024
        stock_slope = (theirs.resident_bytes - few_stock) / added / 1024
        megabytes, rival = ours.resident_bytes / 2**20, Against("stock kopf", theirs.resident_bytes / 2**20)
        base = Against("target, 100 MiB + 20 KiB each", TARGET_BASE_MIB + TARGET_SLOPE_KIB * count / 1024)
        yield Figure(f"memory with {count} deployments", megabytes, "MiB", base)
        yield Figure(f"memory with {count} deployments", megabytes, "MiB", rival)
        yield Figure("memory a deployment more", slope, "KiB", Against("target", TARGET_SLOPE_KIB))
        yield Figure("memory a deployment more", slope, "KiB", Against("stock kopf", stock_slope))

    async def _react(self) -> AsyncIterator[Figure]:
        """Step the load of some deployments amid the whole fleet, and of one more while the operator is down."""
        operator = self._operate("reaction")
        await self._decided(operator, len(self.keys))
        await asyncio.sleep(self.size.settle_seconds)
        chance = random.Random(0)
        stepped = chance.sample(self.keys, self.size.steps + 1)

        async def step(key: Key) -> Step:
            await asyncio.sleep(chance.uniform(0, REACTION_SPREAD_SECONDS))
            return await self._reaction(key, self.here.engines.set_queue(key, STEP))

        found = await asyncio.gather(*(step(key) for key in stepped[1:]))
        writes, pods = [each.to_write for each in found], [each.to_pod for each in found]
        where = f"amid {len(self.keys)} deployments"
        for figure in (
            *spread(f"load step to scale write, {where}", writes, "s", targets=WRITE_TARGETS),
            *spread(f"load step to first new Pod, {where}", pods, "s", targets=POD_TARGETS),
        ):
            yield figure
        operator.kill()
        at = self.here.engines.set_queue(stepped[0], STEP)
        self._operate("loaded-restart")
        reaction = await self._reaction(stepped[0], at)
        wrong = [each for each in self.here.observer.scales if each.key not in stepped or each.replicas != 2]
        yield Figure(
            f"only replica killed as a load arrives, restarted at once, {where}: kill to scale write",
            reaction.to_write,
            "s",
        )
        yield Figure("wrong scales over the whole run", len(wrong), "writes")

    async def _provision(self, new: list[Key], all_: list[Key]) -> int:
        """Create deployments and wait until all are ready; return how often the operator had to be started again."""
        await self.here.deploy(new)
        ended, give_up = 0, monotonic() + READY_SECONDS
        while not await self.here.is_settled(all_, seconds=CHECK_SECONDS):
            if monotonic() > give_up:
                raise TimeoutError(f"{len(all_)} deployments are not ready after {READY_SECONDS:.0f} s")
            assert self.running is not None
            if not self.running.alive:
                ended += 1
                say(f"fleet: the operator ended: {self.running.log.read_text().splitlines()[-1][:300]}")
                self._operate(f"provision-again-{ended}")  # as its orchestrator would
        return ended

    # --- measuring ------------------------------------------------------------------------------

    async def _idle(self, name: str, *, ours: bool, sample: Callable[[], Awaitable[None]] | None = None) -> Idle:
        program = self.running
        assert program is not None
        await asyncio.sleep(self.size.settle_seconds)
        if sample is not None:
            await sample()
        began, clock = time(), monotonic()
        cpu, busy = program.cpu_seconds, procfs.machine_busy_seconds()
        await asyncio.sleep(self.size.idle_seconds)
        seconds, until = monotonic() - clock, time()
        cpu, busy = program.cpu_seconds - cpu, procfs.machine_busy_seconds() - busy
        if sample is not None:
            await sample()
        program.check()
        user = (OPERATOR_NAMESPACE, ACCOUNT) if ours else (STOCK, STOCK)
        requests = audit.requests_of(self._logs, f"system:serviceaccount:{':'.join(user)}", since=began, until=until)
        say(
            f"fleet: {name}: {cpu / seconds:.0%} of a core, the machine {busy / seconds:.0%}, "
            f"{program.resident_bytes >> 20} MiB, requests: {audit.summary(requests)}"
        )
        return Idle(seconds, cpu, program.resident_bytes, requests)

    def _rest(self, found: Idle, how: str) -> list[Figure]:
        count = len(self.keys)
        writes = f"writes in {found.seconds:.0f} s at rest, {count} deployments, leases not counted: {how}"
        return [
            Figure(writes, len(found.writes), "writes"),
            Figure(
                f"requests to the API server at rest: {how}",
                len(found.requests) / found.seconds,
                "requests/s",
                Against("target", TARGET_REQUESTS_A_SECOND),
            ),
            Figure(
                f"CPU for 1,000 deployments a minute: {how}",
                found.cpu_per_thousand_and_minute(count),
                "CPU-s",
                Against("target", TARGET_CPU_SECONDS),
            ),
        ]

    async def _reaction(self, key: Key, at: float) -> Step:
        await self.here.settled([key], replicas=2, seconds=GIVE_UP_SECONDS)
        write = self.here.observer.first_scale(key, after=at, replicas=2)
        pod = self.here.observer.first_pod(key, after=at)
        assert write is not None and pod is not None
        return Step(write - at, pod - at)

    def _requests(self, _: Operator, *, since: float, until: float) -> list[audit.Request]:
        user = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{ACCOUNT}"
        return audit.requests_of(self._logs, user, since=since, until=until)

    @property
    def _logs(self) -> Path:
        return self.here.sandbox.directory / "logs"

    # --- processes ------------------------------------------------------------------------------

    def _operate(self, name: str, *arguments: str) -> Operator:
        self.running = operator = Operator(self.here.sandbox, self.here.account, f"fleet-{name}", *arguments)
        return operator

    def _stock(self, name: str) -> Program:
        if self.stock_account is None:
            self.stock_account = _create_stock_account(self.here)
        command = (sys.executable, "-m", "kopf", "run", "--quiet", "--standalone", "--all-namespaces")
        module = str(CHECKOUT / "bench" / Path(stock_operator.__file__).name)
        self.running = stock = Program(
            (*command, module), self._logs / f"stock-{name}.log", KUBECONFIG=str(self.stock_account)
        )
        return stock

    async def _decided(self, operator: Operator, count: int) -> float:
        """Wait until an operator has decided about all; return when it had (Unix seconds)."""
        give_up = monotonic() + READY_SECONDS
        while len(decided := operator.decided_at()) < count:
            operator.check()
            if monotonic() > give_up:
                raise TimeoutError(f"{len(decided)} of {count} decided after {READY_SECONDS:.0f} s")
            await asyncio.sleep(1.0)  # reading the log costs it CPU, too
        return max(decided.values())


async def _handled(stock: Program, count: int) -> float:
    """Wait until the stock operator has handled every object once; return the seconds since its start."""
    give_up = monotonic() + READY_SECONDS
    while f"handled {count}\n" not in stock.log.read_text():
        stock.check()
        if monotonic() > give_up:
            raise TimeoutError(f"the stock operator has not handled {count} after {READY_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
    return time() - stock.started_at


async def _metric(url: str, name: str, **labels: str) -> float:
    """Return the sum of one metric's series that carry these labels."""
    async with aiohttp.ClientSession(trust_env=False) as session, session.get(url) as response:
        text = await response.text()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _create_stock_account(here: Cluster) -> Path:
    request = here.sandbox.request
    request("POST", "/api/v1/namespaces", {"metadata": {"name": STOCK}})
    request("POST", f"/api/v1/namespaces/{STOCK}/serviceaccounts", {"metadata": {"name": STOCK}})
    request(
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "metadata": {"name": STOCK},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": STOCK, "namespace": STOCK}],
        },
    )
    return here.sandbox.service_account_kubeconfig(STOCK, STOCK)
