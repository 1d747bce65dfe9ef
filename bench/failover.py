"""The leader of two replicas is killed at the moment a load arrives: how long until the other scales."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import count

from bench.cluster import NAMESPACE, Cluster, cluster, say
from bench.figures import Figure, spread
from bench.product import ACCOUNT, Operator
from bench.product import NAMESPACE as OPERATOR_NAMESPACE
from bench.reaction import SCALING, STEP
from modelfleet.api.meta import Key

DEPLOYMENTS = 8
STEPPED = 3
TARGET_SECONDS = 10.0
"""What the chart promises."""
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases/{ACCOUNT}"
CHILDREN = (
    f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    f"/api/v1/namespaces/{NAMESPACE}/services",
    f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets",
)
READY_SECONDS, GIVE_UP_SECONDS = 90.0, 60.0
STANDBY_SECONDS = 3.0


async def measure(*, kills: int) -> list[Figure]:
    """Kill the leader this many times."""
    keys = [Key(NAMESPACE, f"model-{number}") for number in range(DEPLOYMENTS)]
    async with cluster("failover", h100_nodes=-(-2 * DEPLOYMENTS // 8) + 1) as here:
        names = count()
        replicas = [Operator(here.sandbox, here.account, f"failover-{next(names)}") for _ in range(2)]
        try:
            await here.deploy(keys, scaling=SCALING)
            await here.settled(keys, seconds=READY_SECONDS)
            stepped: Counter[Key] = Counter()
            seconds = []
            chance = random.Random(0)
            for number in range(kills):
                await asyncio.sleep(STANDBY_SECONDS + chance.uniform(0, 3))
                victims = chance.sample(keys, STEPPED)
                stepped.update(victims)
                leader = _leader(here, replicas)
                leader.kill()
                seconds.append(await _takeover(here, victims))
                say(f"failover: {number + 1} of {kills}, the other scaled after {seconds[-1]:.1f} s")
                replicas.remove(leader)
                replicas.append(Operator(here.sandbox, here.account, f"failover-{next(names)}"))
                await here.settled(keys, seconds=GIVE_UP_SECONDS)
        finally:
            for replica in replicas:
                replica.stop()
        wrong, extra = _wrong_scales(here, keys, stepped), _extra_objects(here, keys, stepped)
    return [
        *spread("leader killed to the other's scale write", seconds, "s", targets={"max": TARGET_SECONDS}),
        Figure(f"wrong scales over {kills} failovers", wrong, "writes"),
        Figure(f"duplicated children or pods over {kills} failovers", extra, "objects"),
    ]


async def _takeover(here: Cluster, victims: list[Key]) -> float:
    """Load some deployments now, wait until all of them grew, and return when the first was scaled."""
    at = max(here.engines.set_queue(key, STEP) for key in victims)
    await here.settled(victims, replicas=2, seconds=GIVE_UP_SECONDS)
    moments = [here.observer.first_scale(key, after=at, replicas=2) for key in victims]
    for key in victims:
        here.engines.set_queue(key, 0)
    return min(moment for moment in moments if moment is not None) - at


def _leader(here: Cluster, replicas: list[Operator]) -> Operator:
    holder = here.sandbox.request("GET", LEASE)["spec"]["holderIdentity"]
    # An operator's identity ends with its process id.
    return next(replica for replica in replicas if holder.endswith(f"_{replica.pid}"))


def _wrong_scales(here: Cluster, keys: list[Key], stepped: Counter[Key]) -> int:
    """Count the writes that are not one up and one down for each step, in that order."""
    wrong = 0
    for key in keys:
        seen = [scale.replicas for scale in here.observer.scales if scale.key == key]
        wrong += len(seen) - 2 * stepped[key] if len(seen) > 2 * stepped[key] else 0
        wrong += sum(got != want for got, want in zip(seen, [2, 1] * stepped[key], strict=False))
    return wrong


def _extra_objects(here: Cluster, keys: list[Key], stepped: Counter[Key]) -> int:
    children = sum(len(here.sandbox.request("GET", path)["items"]) for path in CHILDREN)
    pods = sum(here.observer.created[key] for key in keys)
    return children - len(CHILDREN) * len(keys) + pods - len(keys) - stepped.total()
