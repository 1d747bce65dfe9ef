"""What the operator exports: the names of every family, and a page of a small fleet that has them all."""

from __future__ import annotations

import re

from prometheus_client import generate_latest

from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.decide.cycle import decide
from modelfleet.shell import loop, telemetry  # noqa: F401 - loop names the kinds of writes
from modelfleet.shell.fleet_metrics import FleetMetrics
from tests.builders import UNDAMPED, deployment, fleet, nodes, pods, ready, tenant, watched

METRIC = re.compile(r"\bmodelfleet_[a-z0-9_]+")


def page() -> str:
    """Return a page on which every family has a sample: team-a waits for GPUs that team-b has borrowed."""
    a = deployment("llama", "team-a").behavior(UNDAMPED)
    a = a.pods(ready().queue(41).running(9).tokens(400).inter_token(0.04))
    b = deployment("qwen", "team-b").behavior(UNDAMPED).pods(*(one.tokens(100).running(1) for one in pods(7)))
    tenants = (tenant("team-a", 4, used=1), tenant("team-b", 4, borrowing=6, used=7))
    snapshot = fleet(a, b, gpus={"h100": nodes(0)}, tenants=tenants)
    metrics = FleetMetrics()
    plan = decide(snapshot, {a.key: watched(a, start_seconds=(60.0,)), b.key: watched(b)})
    metrics.show(snapshot, plan, {"h100": AcceleratorClassSpec(node_selector={"gpu": "h100"}, usd_per_gpu_hour="2.50")})
    telemetry.REGISTRY.register(metrics)
    try:
        return generate_latest(telemetry.REGISTRY).decode()
    finally:
        telemetry.REGISTRY.unregister(metrics)


def names() -> set[str]:
    """Return the name of every series, buckets and sums included."""
    return {line.split("{")[0].split(" ")[0] for line in page().splitlines() if not line.startswith("#")}
