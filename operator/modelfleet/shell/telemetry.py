"""The operator about itself: log lines, `modelfleet_*` metrics, probes. The fleet's metrics: fleet_metrics.py."""

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiohttp import ClientError, web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

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
WRITE_FAILURES = Counter(
    "modelfleet_write_failures_total", "Writes that failed and are tried again.", ["kind"], registry=REGISTRY
)
STATUS_WRITES = Counter("modelfleet_status_writes_total", "Statuses written.", registry=REGISTRY)
LEADING = Gauge("modelfleet_leader", "1 while this process holds the lease.", registry=REGISTRY)
SIGNALS_MISSING = Gauge(
    "modelfleet_deployments_without_signals", "Deployments whose load is unknown or partial.", registry=REGISTRY
)
# From zero: what a counter has when it first appears is in no rate.
for _direction in ("up", "down"):
    SCALES.labels(_direction)
for _kind in ("Deployment", "Service", "PodDisruptionBudget"):
    REPAIRS.labels(_kind)


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
        # Beside the loop: a large fleet's page takes as long as many ticks.
        page = await asyncio.to_thread(generate_latest, REGISTRY)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

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
