"""The operator about itself: log lines, `modelfleet_*` metrics, probes.

Per-deployment metrics are read from the last plan when Prometheus asks, so that a tick pays nothing
for them.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from aiohttp import ClientError, web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from modelfleet.decide.plan import Facts, Plan
from modelfleet.decide.snapshot import Snapshot
from modelfleet.shell.settings import LogFormat

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

TICK_SECONDS = Histogram(
    "modelfleet_tick_seconds",
    "Time of one tick: signals, snapshot, decision; writes go on beside it.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
    registry=REGISTRY,
)
DECIDE_SECONDS = Histogram(
    "modelfleet_decide_seconds",
    "Time of the decision for the whole fleet.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
    registry=REGISTRY,
)
SCALES = Counter("modelfleet_scales_total", "Replica counts written.", ["direction"], registry=REGISTRY)
REPAIRS = Counter("modelfleet_repairs_total", "Children put right after a foreign edit.", ["kind"], registry=REGISTRY)
STATUS_WRITES = Counter("modelfleet_status_writes_total", "Statuses written.", registry=REGISTRY)
LEADING = Gauge("modelfleet_leader", "1 while this process holds the lease.", registry=REGISTRY)
SIGNALS_MISSING = Gauge(
    "modelfleet_deployments_without_signals", "Deployments whose load is unknown or partial.", registry=REGISTRY
)


class Fleet:
    """A collector of the last plan."""

    def __init__(self) -> None:
        """Start without a plan; then nothing is exported, for unknown is not zero."""
        self._last: tuple[Snapshot, Plan] | None = None
        REGISTRY.register(self)

    def show(self, snapshot: Snapshot, plan: Plan) -> None:
        """Export this plan from now on."""
        self._last = (snapshot, plan)

    def collect(self) -> Iterable[Metric]:
        """Yield one family a concept, labelled by namespace and deployment."""
        labels = ("namespace", "deployment")
        families: dict[str, GaugeMetricFamily] = {}

        def add(name: str, help_text: str, key: tuple[str, ...], value: float) -> None:
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(f"modelfleet_deployment_{name}", help_text, labels=labels)
            family.add_metric(key, value)

        if self._last is not None:
            snapshot, plan = self._last
            for observed in snapshot.deployments:
                decision, key = plan.decisions[observed.key], tuple(observed.key)
                alive = [pod for pod in observed.pods if not pod.terminating]
                add("replicas_desired", "Replicas asked for.", key, decision.desired)
                add("replicas_wanted", "Replicas the load alone calls for.", key, decision.wanted)
                add("replicas", "Pods that are not terminating.", key, len(alive))
                add("replicas_ready", "Pods that serve.", key, sum(pod.ready_at is not None for pod in alive))
                if isinstance(decision.facts, Facts):
                    demand = decision.facts.demand
                    add("queued_requests", "Waiting requests.", key, demand.queued_requests.value)
                    add("running_requests", "Requests in the batch.", key, demand.running_requests.value)
                    add(
                        "output_tokens_per_second",
                        "Generated tokens per second.",
                        key,
                        demand.output_tokens_per_second.value,
                    )
        return families.values()


def setup_logging(log_format: LogFormat) -> None:
    """Send structlog's and the libraries' lines to standard error in one format."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format is LogFormat.JSON
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Plain text: a formatter that prints local variables would print credentials.
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # kopf tells each handler's start and end; a fleet's worth of that hides the decisions.
    for noisy in ("kopf", "kopf.objects", "asyncio", "urllib3", "aiohttp.access", "prometheus_api_client"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_unawaited(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say in one line that a connection was cut under a task nobody waits for: kopf leaves such when it is stopped."""
    error = context.get("exception")
    if isinstance(error, ClientError):
        structlog.get_logger().warning("a connection was cut under a task that nobody waits for", error=str(error))
    else:
        loop.default_exception_handler(context)


async def serve(
    address: str, port: int, *, probes: Mapping[str, Callable[[], tuple[str, ...]]]
) -> tuple[web.AppRunner, int]:
    """Serve /metrics and the probes; return the runner and the port that was bound.

    Args:
        address: Address to listen at.
        port: Port; 0 picks a free one.
        probes: Path to a function that returns what is wrong; nothing wrong answers 200, else 500.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def probe(check: Callable[[], tuple[str, ...]]) -> Callable[[web.Request], Any]:
        async def answer(_: web.Request) -> web.Response:
            faults = check()
            return web.Response(text="\n".join(faults) or "ok", status=500 if faults else 200)

        return answer

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    for path, check in probes.items():
        application.router.add_get(path, probe(check))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, address, port)
    await site.start()
    bound = runner.addresses[0][1]
    return runner, int(bound)
