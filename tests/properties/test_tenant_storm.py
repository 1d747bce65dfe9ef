"""10,000 decisions in a row while demands, quotas and nodes change at random: what 0003 promises, second by second."""

from __future__ import annotations

from collections import deque
from random import Random

from modelfleet.api.meta import Key
from modelfleet.decide.snapshot import Quota
from tests.builders import tenant
from tests.decide.tenancy import Cluster

DECISIONS = 10_000
DRAIN_SECONDS, LAG_SECONDS = 20, 2
BOUND_SECONDS = 1 + LAG_SECONDS + DRAIN_SECONDS + 2 + LAG_SECONDS
"""From want to grant: a decision, a Deployment that follows, the drain, a decision, a pod and its binding."""
NODES = {f"n{number}": 8 for number in range(4)}


def _limit(quota: Quota) -> int | None:
    return None if quota.borrowing_limit_gpus is None else quota.nominal_gpus + quota.borrowing_limit_gpus


def test_ten_thousand_decisions_keep_the_limits_and_the_bound() -> None:
    """Nobody grows beyond its limit, nobody within nominal waits longer than the bound, nothing exceeds a node."""
    random = Random("storm")
    cluster = Cluster(
        nodes=dict(NODES),
        tenants={
            "a": tenant("a", 8, borrowing=6),
            "b": tenant("b", 8),
            "c": tenant("c", 4, borrowing=8),
        },
        start_seconds=5,
        drain_seconds=DRAIN_SECONDS,
        lag_seconds=LAG_SECONDS,
    )
    models = {
        key: gpus
        for team, names in {"a": ("x", "y", "z"), "b": ("x",), "c": ("x", "y")}.items()
        for name in names
        for gpus in (2 if team == "c" else 1,)
        for key in (cluster.model(team, name, gpus=gpus, most=20),)
    }
    wants = dict.fromkeys(models, 1)
    for key in models:
        cluster._follow(key, 1, ())
    had: dict[str, int] = {}
    entitled: dict[str, deque[int]] = {team: deque(maxlen=BOUND_SECONDS + 1) for team in cluster.tenants}
    back_at: dict[str, float] = {}
    limits_edited = nodes_lost = 0
    for _ in range(DECISIONS):
        if random.random() < 0.08:
            key = random.choice(list(models))
            wants[key] = random.randint(1, 14)
            cluster.wants(key, wants[key])
        if random.random() < 0.005:
            team = random.choice(("a", "c"))
            limits_edited += 1
            cluster.quota(
                team, nominal_gpus=random.randint(2, 8 if team == "a" else 4), borrowing_limit_gpus=random.randint(0, 8)
            )
        if random.random() < 0.003 and len(cluster.nodes) == len(NODES):
            node = random.choice(list(NODES))
            nodes_lost += 1
            cluster.lose(node)
            back_at[node] = cluster.now + random.randint(30, 200)
            for key in models:
                cluster._follow(key, cluster.replicas[key], ())
        for node, at in list(back_at.items()):
            if cluster.now >= at:
                cluster.nodes[node] = NODES[node]
                del back_at[node]
        cluster.step()

        assert min(cluster.free().values()) >= 0
        for team, bound in cluster.tenants.items():
            used, quota = cluster.used(team), bound.quotas["h100"]
            limit = _limit(quota)
            # Over a limit that was cut it may only become less; pods that were asked for before the cut may still come.
            assert limit is None or used <= limit or used <= had.get(team, 0), (cluster.now, team, used, limit)
            if used < had.get(team, 0):
                entitled[team].clear()  # what died or drained is wanted anew; until then it was the team's own
            had[team] = used
            entitled[team].append(_entitled(quota.nominal_gpus, team, wants, models))
            if len(entitled[team]) > BOUND_SECONDS:
                # What it was entitled to all along.
                assert used >= min(entitled[team]), (cluster.now, team)
    assert limits_edited > 20
    assert nodes_lost > 10


def _entitled(nominal: int, team: str, wants: dict[Key, int], models: dict[Key, int]) -> int:
    left = nominal
    for key, gpus in models.items():
        if key.namespace == team:
            left -= min(wants[key], left // gpus) * gpus
    return nominal - left
