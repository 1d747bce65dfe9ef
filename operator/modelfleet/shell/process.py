"""One operator process: what it starts, in which order, and why it ends."""

import asyncio
import gc
from collections.abc import Callable
from typing import Self

import kopf
import structlog

from modelfleet.adapters.kubernetes import Credentials, Kubernetes, KubernetesError, NotFound, resource_path
from modelfleet.adapters.prometheus import Prometheus
from modelfleet.adapters.reflector import Reflector
from modelfleet.adapters.scrape import Scraper
from modelfleet.adapters.source import SignalSource
from modelfleet.api.kinds import KINDS
from modelfleet.api.meta import API_VERSION, GROUP, VERSION
from modelfleet.shell import telemetry
from modelfleet.shell.lease import Leadership, LeadershipLost
from modelfleet.shell.listing import kept_in_order, list_own_kinds, seen
from modelfleet.shell.loop import FleetLoop
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.settings import Settings, Source

RESYNC_SECONDS = 600.0
GC_THRESHOLD = 200_000
PREFLIGHT_SECONDS = (1.0, 2.0, 5.0)

log = structlog.get_logger()


class Process:
    """Everything that lives as long as the process; kopf hands it to every handler as its memo."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; nothing is started."""
        self.settings = settings
        self.mirror = Mirror(settings.watch_namespaces)
        self.stopping = asyncio.Event()
        self.failure = ""
        self._kubernetes: Kubernetes | None = None
        self._leadership: Leadership | None = None
        self._loop: FleetLoop | None = None
        self._source: SignalSource | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def __copy__(self) -> Self:
        """Return itself: kopf copies its memo for every object, and this one is shared on purpose."""
        return self

    async def wait_until_served(self) -> None:
        """Wait until the API server answers and serves the operator's kinds; say what is missing."""
        self._kubernetes = await Kubernetes.connect(self.settings.kubeconfig)
        said, attempt = "", 0
        while True:
            trouble = await self._trouble()
            if not trouble:
                return
            if trouble != said:
                log.warning("not started yet; retrying", trouble=trouble)
                said = trouble
            await asyncio.sleep(PREFLIGHT_SECONDS[min(attempt, len(PREFLIGHT_SECONDS) - 1)])
            attempt += 1

    async def credentials(self) -> Credentials:
        """Return the credentials of the API server, as of now."""
        return await self._client().credentials()

    async def start(self) -> None:
        """Start the watches and the claim to leadership."""
        kubernetes = self._client()
        await list_own_kinds(self._client(), self.mirror)
        reflectors = self._reflectors(kubernetes)
        self._source = _source(self.settings)
        self._leadership = Leadership(kubernetes, namespace=self.settings.namespace, identity=self.settings.identity)
        self._loop = FleetLoop(
            mirror=self.mirror,
            reflectors=reflectors,
            source=self._source,
            kubernetes=kubernetes,
            leadership=self._leadership,
            identity=self.settings.identity,
            tick_seconds=self.settings.tick_seconds,
            unbound_may_borrow=self.settings.unbound_may_borrow,
        )
        work: tuple[Callable[[], object], ...] = (*(r.run for r in reflectors), self._resync, self._lead)
        self._tasks = [asyncio.create_task(self._guard(run)) for run in work]

    async def stop(self) -> None:
        """Finish the writes under way, let go of the lease, close every connection."""
        self.stopping.set()  # kopf waits 5 s for whoever still waits for this
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._loop is not None:
            await self._loop.stop()
        if self._leadership is not None:
            await self._leadership.release()
        if self._source is not None:
            await self._source.close()

    async def close(self) -> None:
        """Close the connection to the API server."""
        if self._kubernetes is not None:
            await self._kubernetes.close()

    def faults(self) -> tuple[str, ...]:
        """Return what is wrong, for the liveness probe."""
        return self._loop.faults() if self._loop is not None else ()

    def unready(self) -> tuple[str, ...]:
        """Return what is still waited for, for the readiness probe."""
        if self._loop is None or self._leadership is None:
            return ("waiting for the API server or the CRDs",)
        trouble = self._leadership.trouble
        return (*((trouble,) if trouble else ()), *self._loop.unready())

    def _client(self) -> Kubernetes:
        assert self._kubernetes is not None  # noqa: S101 - wait_until_served comes first
        return self._kubernetes

    async def _trouble(self) -> str:
        try:
            served = await self._client().get(f"/apis/{GROUP}/{VERSION}")
        except NotFound:
            return f"the CRDs of {API_VERSION} are not installed: kubectl apply --server-side -f crds/"
        except KubernetesError as error:
            return f"the API server does not answer: {error}"
        missing = {kind.plural for kind in KINDS} - {item["name"] for item in served["resources"]}
        if missing:
            return f"CRDs missing: {', '.join(sorted(missing))}; kubectl apply --server-side -f crds/"
        try:
            for kind in KINDS:
                await self._client().get(resource_path(API_VERSION, kind.kind), {"limit": "1"})
        except KubernetesError as error:
            # Its pod may be there before its ClusterRoleBinding is.
            return f"its own kinds cannot be read: {error}"
        return ""

    def _reflectors(self, kubernetes: Kubernetes) -> tuple[Reflector, ...]:
        return tuple(
            Reflector(kubernetes, each.path, each.sink, label_selector=each.label_selector)
            for each in (*seen(self.mirror), *kept_in_order(self.mirror))
        )

    async def _lead(self) -> None:
        assert self._leadership is not None and self._loop is not None  # noqa: S101 - start() made them
        await self._leadership.acquire()
        loop = asyncio.create_task(self._loop.run())
        keep = asyncio.create_task(self._leadership.keep())
        try:
            done, _ = await asyncio.wait({loop, keep}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            telemetry.LEADING.set(0)
            for task in (loop, keep):
                task.cancel()
            await asyncio.gather(loop, keep, return_exceptions=True)

    async def _resync(self) -> None:
        """List the operator's own kinds now and then: what a watch of kopf's lost is found again."""
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await list_own_kinds(self._client(), self.mirror)
            except KubernetesError as error:
                log.warning("resync postponed", error=str(error))

    async def _guard(self, run: Callable[[], object]) -> None:
        """Run a part; when it ends by an exception the process ends, to be restarted clean."""
        try:
            await run()  # type: ignore[misc]
        except LeadershipLost as error:
            self.failure = f"leadership lost: {error}"
        except Exception as error:
            log.exception("a part of the operator failed")
            self.failure = f"{type(error).__name__}: {error}"
        if self.failure:
            self.stopping.set()


def _source(settings: Settings) -> SignalSource:
    if settings.source is Source.PROMETHEUS and settings.prometheus_url:
        return Prometheus(settings.prometheus_url, scrape_interval_seconds=settings.prometheus_scrape_interval_seconds)
    return Scraper(period_seconds=settings.tick_seconds, scrapes_per_second=settings.scrapes_per_second)


async def operate(settings: Settings) -> int:
    """Run one operator process until it is told to stop; return its exit code."""
    from modelfleet.shell import handlers  # noqa: F401, PLC0415 - registers the kopf handlers, which import this module

    telemetry.setup_logging(settings.log_format)
    asyncio.get_running_loop().set_exception_handler(telemetry.log_unawaited)
    # A tick makes tens of thousands of values and no cycle: at the default threshold of 700 the collector
    # would walk the whole fleet several times a tick and find nothing.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    process = Process(settings)
    try:
        runner, port = await telemetry.serve(
            settings.listen_address,
            settings.listen_port,
            probes={"/healthz": process.faults, "/readyz": process.unready},
        )
    except OSError as error:
        log.error("cannot listen; choose another --listen-port", port=settings.listen_port, error=str(error))
        return 1
    log.info("listening", port=port, paths="/metrics /healthz /readyz", identity=settings.identity)
    try:
        await process.wait_until_served()
        await kopf.operator(standalone=True, clusterwide=True, memo=process, stop_flag=process.stopping)
    except KubernetesError as error:
        process.failure = str(error)
    except Exception as error:  # noqa: BLE001 - kopf ends by whatever its watch met; say it, be restarted
        process.failure = process.failure or f"kopf ended: {type(error).__name__}: {error}"
    finally:
        await process.close()
        await runner.cleanup()
    if process.failure:
        log.error("stopped", failure=process.failure)
        return 1
    log.info("stopped")
    return 0
