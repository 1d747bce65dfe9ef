"""The fleet loop: watch, observe, decide, apply, report, once a tick for the whole cluster."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from time import monotonic, perf_counter, time

import structlog

from modelfleet.adapters.kubernetes import Json, Kubernetes, KubernetesError
from modelfleet.adapters.reflector import Reflector
from modelfleet.adapters.source import SignalSource
from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.api.conditions import Limit, Reason
from modelfleet.api.meta import API_VERSION, FIELD_MANAGER, Key
from modelfleet.decide.cycle import decide
from modelfleet.decide.explain import cause, load_column, reclaim_note, scale_event
from modelfleet.decide.history import Memory
from modelfleet.decide.plan import Decision, Facts, Plan, Scale
from modelfleet.decide.snapshot import Fault, Observed, Snapshot
from modelfleet.render.quota import hard_limits
from modelfleet.shell import fleet_metrics, telemetry
from modelfleet.shell.apply import ScaleOutcome, Writer
from modelfleet.shell.events import Event, EventType, Recorder
from modelfleet.shell.fence import Fence
from modelfleet.shell.lease import Leadership
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.observe import observe, targets
from modelfleet.shell.report import Reporter, StatusWrite
from modelfleet.shell.tenancy import TenantReporter
from modelfleet.shell.views import ViewReporter

STUCK_SECONDS = 60.0
"""A tick that takes longer than this is no tick any more."""
SILENT_SECONDS = 180.0
"""A watch that heard nothing for this long, three bookmarks, is dead."""
BLOCKED_RETRY_SECONDS = 15.0
"""Between two attempts to apply children that were refused, unless something changed."""
CLASS_SECONDS = 10.0
"""Shortest time between two status writes of one AcceleratorClass."""
CONCURRENT_WRITES = {"scale": 16, "provision": 8, "status": 8, "class": 2, "tenant": 2, "view": 2, "fence": 4}
for _kind in CONCURRENT_WRITES:
    telemetry.WRITE_FAILURES.labels(_kind)
FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 15.0
BURST_SECONDS = 0.05
"""What comes within this time of a piece of news is decided about with it."""

WriteName = tuple[str, Hashable]
"""The kind of a write, and the object it is for."""

log = structlog.get_logger()


class Background:
    """Writes under way, at most one an object and a kind, a bounded number at once, failed ones less and less often."""

    def __init__(self) -> None:
        """Start with nothing under way."""
        self._tasks: dict[WriteName, asyncio.Task[None]] = {}
        self._failures: dict[WriteName, tuple[int, float]] = {}
        # By kind: a scale must not wait behind the provisioning of 400 new deployments.
        self._slots = {kind: asyncio.Semaphore(slots) for kind, slots in CONCURRENT_WRITES.items()}

    def start(self, name: WriteName, work: Callable[[], Awaitable[bool]]) -> bool:
        """Start a write unless one of this name is under way or failed a moment ago; return whether it started.

        Args:
            name: What is written.
            work: Writes it, and returns whether that need not be tried again.
        """
        _, not_before = self._failures.get(name, (0, 0.0))
        if name in self._tasks or monotonic() < not_before:
            return False
        self._tasks[name] = asyncio.create_task(self._run(name, work))
        return True

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way, then cancel the rest."""
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: WriteName, work: Callable[[], Awaitable[bool]]) -> None:
        done = False
        try:
            async with self._slots[name[0]]:
                done = await work()
        except Exception:
            # One object's fault must not end the loop; the line names it.
            log.exception("a write failed unexpectedly", write=str(name))
        finally:
            self._tasks.pop(name, None)
            if done:
                self._failures.pop(name, None)
            else:
                telemetry.WRITE_FAILURES.labels(name[0]).inc()
                failures = self._failures.get(name, (0, 0.0))[0] + 1
                delay = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** (failures - 1))
                self._failures[name] = (failures, monotonic() + delay)


class FleetLoop:
    """Ticks; owns what is remembered between ticks."""

    def __init__(
        self,
        *,
        mirror: Mirror,
        reflectors: tuple[Reflector, ...],
        source: SignalSource,
        kubernetes: Kubernetes,
        leadership: Leadership,
        identity: str,
        tick_seconds: float,
        unbound_may_borrow: bool,
    ) -> None:
        """Prepare; `run` ticks."""
        self._mirror = mirror
        self._reflectors = reflectors
        self._source = source
        self._kubernetes = kubernetes
        self._leadership = leadership
        self._tick_seconds = tick_seconds
        self._unbound_may_borrow = unbound_may_borrow
        self._writer = Writer(kubernetes, mirror, leadership)
        self._fences = Fence(kubernetes, mirror, leadership)
        self._reporter = Reporter(kubernetes, mirror, leadership)
        self._tenant_reporter = TenantReporter(kubernetes, mirror, leadership)
        self._view_reporter = ViewReporter(kubernetes, mirror, leadership)
        self._recorder = Recorder(kubernetes, identity=identity)
        self._background = Background()
        self._fleet = fleet_metrics.FleetMetrics()
        telemetry.REGISTRY.register(self._fleet)
        self._history: dict[Key, Memory] = {}
        self._blocked: dict[Key, tuple[Fault, float]] = {}
        self._faulty: set[Key] = set()
        self._told: dict[Key, tuple[int, Limit]] = {}
        self._class_written: dict[str, float] = {}
        self._ticked_at: float | None = None

    def faults(self) -> tuple[str, ...]:
        """Return what is wrong with this process, for the liveness probe."""
        stuck = self._ticked_at is not None and monotonic() - self._ticked_at > STUCK_SECONDS
        return (*(("the fleet loop is stuck",) if stuck else ()), *self.silent_watches())

    def silent_watches(self) -> tuple[str, ...]:
        """Return the watches that were heard before and are silent now."""
        return tuple(
            f"watch of {reflector.path} silent for {reflector.silent_seconds():.0f} s"
            for reflector in self._reflectors
            if SILENT_SECONDS < reflector.silent_seconds() < float("inf")
        )

    def unready(self) -> tuple[str, ...]:
        """Return what this process still waits for, for the readiness probe."""
        waiting = tuple(f"{r.path} is not listed yet" for r in self._reflectors if not r.synced.is_set())
        return (*waiting, *self.faults())

    async def run(self) -> None:
        """Tick until cancelled; only a leader's process calls this."""
        await asyncio.gather(*(reflector.synced.wait() for reflector in self._reflectors))
        telemetry.LEADING.set(1)
        log.info("deciding", deployments=len(self._mirror.deployments), tick_seconds=self._tick_seconds)
        while True:
            began = monotonic()
            await self._tick()
            self._ticked_at = monotonic()
            rest = self._tick_seconds - (monotonic() - began)
            await until_news(self._mirror.news, max(0.05, rest))
            self._mirror.news.clear()

    async def stop(self) -> None:
        """Let the writes under way finish."""
        await self._background.drain(5.0)

    async def _tick(self) -> None:
        began = perf_counter()
        await self._source.refresh(targets(self._mirror), time())
        now = time()
        snapshot = observe(
            self._mirror,
            self._source,
            now=now,
            blocked={key: fault for key, (fault, _) in self._blocked.items()},
            unbound_may_borrow=self._unbound_may_borrow,
        )
        decide_began = perf_counter()
        snapshot, plan = self._decide(snapshot)
        telemetry.DECIDE_SECONDS.observe(perf_counter() - decide_began)
        self._history = dict(plan.history)
        self._fleet.show(snapshot, plan, self._mirror.classes())
        self._log_changes(snapshot, plan)
        # Before the scales: what was granted is let through when its pods come. No scale waits for it.
        self._fence(snapshot, plan)
        self._scale(plan)
        self._provision(snapshot, plan, now)
        for write in self._reporter.due(snapshot, plan):
            self._report(write, now)
        self._report_tenants(snapshot, plan, now)
        self._report_classes(snapshot, now)
        telemetry.TICK_SECONDS.observe(perf_counter() - began)

    def _decide(self, snapshot: Snapshot) -> tuple[Snapshot, Plan]:
        """Decide; should an object make that fail, set it aside as faulty and decide about the others."""
        try:
            return snapshot, decide(snapshot, self._history)
        except Exception:
            log.exception("the decision failed; looking for the object that makes it fail")
        judged = tuple(self._set_aside(observed, snapshot) for observed in snapshot.deployments)
        snapshot = replace(snapshot, deployments=judged)
        return snapshot, decide(snapshot, self._history)

    def _set_aside(self, observed: Observed, snapshot: Snapshot) -> Observed:
        try:
            decide(replace(snapshot, deployments=(observed,)), self._history)
        except Exception:
            log.exception("set aside: no decision about it is possible", deployment=str(observed.key))
            message = "the operator cannot decide about this object; its log has the error: please report it"
            return replace(observed, fault=Fault(Reason.INTERNAL_ERROR, message), pods=())
        return observed

    # --- apply ----------------------------------------------------------------------------------

    def _scale(self, plan: Plan) -> None:
        # Down before up: what shrinks frees the GPUs and the quota that what grows needs.
        for scale in sorted(plan.scales, key=lambda scale: (scale.replicas > scale.current, scale.key)):
            decision = plan.decisions[scale.key]
            self._background.start(("scale", scale.key), lambda s=scale, d=decision: self._scale_one(s, d))  # type: ignore[misc]

    async def _scale_one(self, scale: Scale, decision: Decision) -> bool:
        outcome = await self._writer.scale(scale)
        if outcome is not ScaleOutcome.WRITTEN:
            return outcome is ScaleOutcome.OBSOLETE
        telemetry.SCALES.labels("up" if scale.replicas > scale.current else "down").inc()
        record = self._mirror.deployments.get(scale.key)
        if record is None:
            return True
        reason, note = scale_event(scale, decision)
        log.info("scaled", deployment=str(scale.key), reason=reason, note=note)
        weight: EventType = "Warning" if scale.reverted_from else "Normal"
        await self._recorder.record(Event(scale.key, record.uid, weight, reason, "Scale", note))
        for reclaim in decision.reclaims:
            await self._recorder.record(
                Event(
                    scale.key,
                    record.uid,
                    "Normal",
                    "Preempted" if reclaim.preemptor else "Reclaimed",
                    "Scale",
                    reclaim_note(reclaim),
                )
            )
        return True

    def _fence(self, snapshot: Snapshot, plan: Plan) -> None:
        bound = {namespace for tenant in snapshot.tenants for namespace in tenant.namespaces}
        for namespace, quota in self._mirror.quotas.items():
            if namespace not in bound:
                self._background.start(("fence", quota.key), lambda q=quota: self._fences.remove(q))  # type: ignore[misc]
        if not bound:
            return
        resources = self._mirror.resource_names()
        needed = Counter(self._mirror.requested)
        for observed in snapshot.deployments:
            spec = observed.spec
            if spec is not None and spec.accelerator in resources:
                alive = sum(not pod.terminating for pod in observed.pods)
                missing = max(0, plan.decisions[observed.key].desired - alive)
                needed[observed.key.namespace, resources[spec.accelerator]] += missing * spec.gpus_per_replica
        for tenant in snapshot.tenants:
            if tenant.fault is not None:
                continue  # its fence stays as it is
            wanted = hard_limits(tenant, resources=resources, held=self._mirror.requested, needed=needed)
            record = self._mirror.tenants[tenant.name]
            if self._fences.differs(record, wanted):
                self._background.start(("fence", tenant.name), lambda r=record, w=wanted: self._fences.move(r, w))  # type: ignore[misc]

    def _provision(self, snapshot: Snapshot, plan: Plan, now: float) -> None:
        for observed in snapshot.deployments:
            blocked = self._blocked.get(observed.key)
            own_fault = observed.fault is not None and (blocked is None or observed.fault != blocked[0])
            mended = not own_fault and observed.key in self._faulty
            (self._faulty.add if own_fault else self._faulty.discard)(observed.key)
            rolling_out = observed.child is not None and observed.child.rolling_out
            stuck = rolling_out and any(pod.finds_no_node for pod in observed.pods)
            retry = blocked is not None and now - blocked[1] >= BLOCKED_RETRY_SECONDS
            if not own_fault and (mended or stuck or retry or observed.key in self._mirror.dirty):
                self._provision_one(observed, plan.decisions[observed.key].desired)

    def _provision_one(self, observed: Observed, desired: int) -> None:
        key = observed.key
        if self._background.start(("provision", key), lambda: self._apply_children(key, desired)):
            # Before it runs: what changes while it does is looked at again.
            self._mirror.dirty.discard(key)

    async def _apply_children(self, key: Key, desired: int) -> bool:
        record = self._mirror.deployments.get(key)
        if record is None:
            return True
        outcome = await self._writer.provision(record, desired=desired)
        if outcome.retry:
            self._mirror.dirty.add(key)
        if outcome.fault is not None:
            self._blocked[key] = (outcome.fault, time())
        else:
            self._blocked.pop(key, None)
        for kind in outcome.repaired:
            telemetry.REPAIRS.labels(kind).inc()
            note = f"{kind} {key.name} had been edited or deleted; it was put back as the spec asks"
            log.info("repaired", deployment=str(key), kind=kind)
            await self._recorder.record(Event(key, record.uid, "Warning", "Repaired", "Apply", note))
        return not outcome.retry

    # --- report ---------------------------------------------------------------------------------

    def _report(self, write: StatusWrite, now: float) -> None:
        async def work() -> bool:
            outcome = await self._reporter.write(write, now=now)
            for event in outcome.events:
                await self._recorder.record(event)
            return not outcome.retry

        self._background.start(("status", write.observed.key), work)

    def _report_tenants(self, snapshot: Snapshot, plan: Plan, now: float) -> None:
        accounts = self._tenant_reporter.accounts(snapshot, plan)
        for record, status in self._tenant_reporter.due(accounts, snapshot):
            self._background.start(
                ("tenant", record.name),
                lambda r=record, s=status: self._tenant_reporter.write(r, s, now=now),  # type: ignore[misc]
            )
        for namespace, record, spec in self._view_reporter.due(accounts, snapshot):
            self._background.start(
                ("view", namespace),
                lambda n=namespace, r=record, s=spec: self._view_reporter.write(n, r, s, now=now),  # type: ignore[misc]
            )
        for view in self._view_reporter.stale(accounts):
            self._background.start(("view", view.key.namespace), lambda v=view: self._view_reporter.delete(v))  # type: ignore[misc]

    def _report_classes(self, snapshot: Snapshot, now: float) -> None:
        for name, accelerator in self._mirror.accelerators.items():
            known = self._mirror.accelerator_objects.get(name)
            if not isinstance(accelerator, AcceleratorClassSpec) or known is None:
                continue
            nodes = snapshot.nodes.get(name, ())
            new = {
                "observedGeneration": known["generation"],
                "nodes": len(nodes),
                "capacityGpus": sum(node.allocatable_gpus for node in nodes),
                "freeGpus": sum(node.free_gpus for node in nodes),
                "largestNodeGpus": max((node.allocatable_gpus for node in nodes), default=0),
            }
            current = {field: known["status"].get(field) for field in new}
            if new != current and now - self._class_written.get(name, 0.0) >= CLASS_SECONDS:
                self._class_written[name] = now
                self._background.start(("class", name), lambda n=name, s=new: self._write_class(n, s))  # type: ignore[misc]

    async def _write_class(self, name: str, status: Json) -> bool:
        if not self._leadership.held():
            return False
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "AcceleratorClass",
            "metadata": {"name": name},
            "status": status,
        }
        try:
            answer = await self._kubernetes.apply(manifest, field_manager=FIELD_MANAGER, subresource="status")
        except KubernetesError as error:
            log.warning("class status not written; retrying", accelerator=name, error=str(error))
            return False
        self._mirror.accelerator_class("MODIFIED", answer)
        return True

    def _log_changes(self, snapshot: Snapshot, plan: Plan) -> None:
        """Write one line for each decision whose outcome or limit changed."""
        missing = 0
        for observed in snapshot.deployments:
            decision = plan.decisions[observed.key]
            facts = decision.facts
            missing += not (isinstance(facts, Facts) and facts.demand.complete)
            news = (decision.desired, decision.limited_by)
            if self._told.get(observed.key) == news:
                continue
            self._told[observed.key] = news
            log.info(
                "decision",
                deployment=str(observed.key),
                current=decision.current,
                wanted=decision.wanted,
                desired=decision.desired,
                limited_by=decision.limited_by.value,
                load=load_column(decision),
                cause=cause(decision),
            )
        for key in self._told.keys() - plan.decisions.keys():
            del self._told[key]
        telemetry.SIGNALS_MISSING.set(missing)


async def until_news(news: asyncio.Event, seconds: float) -> None:
    """Return soon after the news, or after so long; a burst of events is one decision.

    Not by `asyncio.wait_for`: until Python 3.12 it swallows a cancellation that arrives with the news, and a process
    that lost its lease, or was told to stop, would decide on for ever.
    """
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
        await asyncio.sleep(BURST_SECONDS)
    except TimeoutError:
        return
