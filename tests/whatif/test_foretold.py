"""What is foretold is what comes, in clusters that are played second by second with signals, drains and starts."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from modelfleet.api.meta import Key
from modelfleet.decide.snapshot import Assumed, Node, Snapshot
from modelfleet.simulate.allocation import World, settle
from tests.builders import fleet, tenant
from tests.decide.tenancy import Cluster

TEAMS = ("team-a", "team-b", "team-c")


def seen(cluster: Cluster) -> Snapshot:
    """Return the cluster as the operator sees it."""
    nodes = tuple(Node(name, free, cluster.nodes[name]) for name, free in cluster.free().items())
    tenants = tuple(
        replace(tenant, used_gpus={"h100": cluster.used(tenant.name)}) for tenant in cluster.tenants.values()
    )
    made = [cluster._seen(key) for key in cluster.models]
    return fleet(*made, now=cluster.now, gpus={"h100": nodes}, tenants=tenants)


def told(cluster: Cluster, wanted: dict[Key, int]) -> dict[Key, int]:
    world = World(seen(cluster))
    _, rests = settle(world, {key: Assumed(replicas=replicas) for key, replicas in wanted.items()})
    assert rests
    return world.asked()


def by_team(replicas: dict[Key, int]) -> dict[str, int]:
    """Add up each team's replicas: which of its own it gives up depends on who is idle."""
    return {team: sum(count for key, count in replicas.items() if key.namespace == team) for team in TEAMS}


@pytest.mark.parametrize("seed", range(8))
def test_where_a_cluster_comes_to_rest_is_foretold(seed: int) -> None:
    """Random quotas, weights and demands at rest; then other quotas: every team has what was told.

    The nominals fit the GPUs: where they do not, who asks first keeps, and no count follows from the quotas.
    """
    random = Random(seed)
    cluster = Cluster(
        nodes={f"n{number}": 8 for number in range(random.randint(2, 3))},
        tenants={team: tenant(team, random.randint(2, 5), weight=random.randint(1, 3)) for team in TEAMS},
    )
    keys = [cluster.model(team, name) for team in TEAMS for name in ("llama", "qwen")]
    wanted = {key: random.randint(1, 8) for key in keys}
    for key, replicas in wanted.items():
        cluster._follow(key, 1, ())
        cluster.wants(key, replicas)
    cluster.play(240)
    for team in TEAMS:
        cluster.quota(team, nominal_gpus=random.randint(2, 5), borrowing_limit_gpus=random.choice((None, 0, 2, 6)))
    foretold = told(cluster, wanted)
    cluster.play(240)

    assert by_team(foretold) == by_team(cluster.replicas)
