"""From a load step to the write of spec.replicas and to the first new Pod, beside a HorizontalPodAutoscaler.

Each ModelDeployment has a twin: a plain Deployment with a HorizontalPodAutoscaler that reads the same queue. One
step raises the queue from nothing to twice what a replica tolerates, so both want two replicas, and both are back
at one before the next step.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass

from bench.cluster import NAMESPACE, Cluster, cluster, say
from bench.external_metrics import METRIC, SELECTOR_LABEL, external_metrics
from bench.figures import Figure, spread
from bench.product import Operator
from modelfleet.api.meta import Key

PAIRS = 12
TOLERATED = 8
STEP = 2 * TOLERATED
HPA_NAMESPACE = "bench-hpa"
HPA_SYNC_SECONDS = 15.0
"""The controller's default, which managed clusters do not let anyone change: a step's phase is random within it."""
GIVE_UP_SECONDS = 60.0
WRITE_TARGETS = {"p50": 1.5, "p99": 3.0}
POD_TARGETS = {"p50": 2.0, "p99": 4.0}
# What an expert writes to lose no time: no window, and no rate limit that binds. Shrinking at once is for the
# bench's own reset, on both sides.
AT_ONCE = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]}
SCALING = {"targets": {"queuedRequests": TOLERATED}, "behavior": {"scaleDown": AT_ONCE}}


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds from a load step to the write and to the first new Pod."""

    to_write: float
    to_pod: float


async def measure(*, steps: int) -> list[Figure]:
    """Measure at least this many steps and return the figures of both autoscalers."""
    pairs = min(PAIRS, steps)
    keys = [Key(NAMESPACE, f"model-{number:02}") for number in range(pairs)]
    async with cluster("reaction", h100_nodes=-(-2 * pairs // 8) + 1) as here:

        def queued(name: str) -> int:
            return here.engines.load(Key(NAMESPACE, name)).queued

        async with external_metrics(here.sandbox, here.sandbox.directory, queued):
            operator = Operator(here.sandbox, here.account, "reaction")
            try:
                await here.deploy(keys, scaling=SCALING)
                _create_twins(here, keys)
                await here.settled([*keys, *map(_twin, keys)], seconds=90)
                say(f"reaction: {pairs} pairs are ready, {steps} steps")
                rounds = -(-steps // pairs)
                found = await asyncio.gather(
                    *(_steps(here, key, rounds, random.Random(number)) for number, key in enumerate(keys))
                )
                operator.check()
            finally:
                operator.stop()
    ours = [step for mine, _ in found for step in mine]
    theirs = [step for _, peers in found for step in peers]
    say(f"reaction: {len(ours)} steps measured")
    return list(_figures(ours, theirs))


def _figures(ours: list[Step], theirs: list[Step]) -> Iterator[Figure]:
    peer = "HorizontalPodAutoscaler"
    writes, peer_writes = [step.to_write for step in ours], [step.to_write for step in theirs]
    pods, peer_pods = [step.to_pod for step in ours], [step.to_pod for step in theirs]
    yield Figure("load steps measured", len(ours), "steps")
    yield from spread("load step to scale write", writes, "s", targets=WRITE_TARGETS, peer=(peer, peer_writes))
    yield from spread("load step to first new Pod", pods, "s", targets=POD_TARGETS, peer=(peer, peer_pods))


async def _steps(here: Cluster, key: Key, count: int, phase: random.Random) -> tuple[list[Step], list[Step]]:
    ours, theirs = [], []
    for _ in range(count):
        await asyncio.sleep(phase.uniform(0, HPA_SYNC_SECONDS))
        at = here.engines.set_queue(key, STEP)
        ours.append(await _reaction(here, key, at))
        theirs.append(await _reaction(here, _twin(key), at))
        here.engines.set_queue(key, 0)
        await here.settled((key, _twin(key)), seconds=GIVE_UP_SECONDS)
    return ours, theirs


async def _reaction(here: Cluster, key: Key, at: float) -> Step:
    await here.settled([key], replicas=2, seconds=GIVE_UP_SECONDS)
    write, pod = here.observer.first_scale(key, after=at, replicas=2), here.observer.first_pod(key, after=at)
    assert write is not None and pod is not None
    return Step(write - at, pod - at)


def _twin(key: Key) -> Key:
    return Key(HPA_NAMESPACE, key.name)


def _create_twins(here: Cluster, keys: list[Key]) -> None:
    request = here.sandbox.request
    request("POST", "/api/v1/namespaces", {"metadata": {"name": HPA_NAMESPACE}})
    for key in keys:
        labels = {SELECTOR_LABEL: key.name}
        pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "engine", "image": "engine"}]}}
        deployment = {
            "metadata": {"name": key.name},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
        }
        request("POST", f"/apis/apps/v1/namespaces/{HPA_NAMESPACE}/deployments", deployment)
        external = {
            "metric": {"name": METRIC, "selector": {"matchLabels": labels}},
            "target": {"type": "AverageValue", "averageValue": str(TOLERATED)},
        }
        autoscaler = {
            "metadata": {"name": key.name},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": key.name},
                "minReplicas": 1,
                "maxReplicas": 4,
                "metrics": [{"type": "External", "external": external}],
                "behavior": {"scaleUp": AT_ONCE, "scaleDown": AT_ONCE},
            },
        }
        request("POST", f"/apis/autoscaling/v2/namespaces/{HPA_NAMESPACE}/horizontalpodautoscalers", autoscaler)
