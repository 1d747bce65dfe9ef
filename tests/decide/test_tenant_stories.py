"""Days in the life of two teams that share GPUs: lend, take back, lose a node, change a quota."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

from modelfleet.api.conditions import Limit
from modelfleet.api.modeldeployment import Mode
from modelfleet.decide.cycle import decide
from modelfleet.decide.explain import unblock
from tests.builders import UNDAMPED, deployment, fleet, nodes, ready, starting, tenant, watched
from tests.decide.tenancy import Cluster

LAG, DRAIN = 2, 20
TO_TAKE_BACK = 1 + LAG + DRAIN + 2 + LAG
"""From want to grant: a tick, a Deployment that follows, the drain, a tick, a pod and its binding."""


def _two(nodes: int = 2, *, lender: int = 8, borrower: int = 8) -> Cluster:
    return Cluster(
        nodes={f"n{number}": 8 for number in range(nodes)},
        tenants={"team-a": tenant("team-a", lender), "team-b": tenant("team-b", borrower)},
    )


def _settle(cluster: Cluster) -> None:
    """Start every Deployment's first replica, and let the cluster come to rest."""
    for key in cluster.models:
        cluster._follow(key, 1, ())
    cluster.play(120)


def test_idle_gpus_are_borrowed_and_given_back_by_draining() -> None:
    """A sleeps and B borrows 7 of its 8; A wakes: B drains what it borrowed, A grows as GPUs come free, B keeps 8."""
    cluster = _two()
    a, b = cluster.model("team-a"), cluster.model("team-b")
    cluster.wants(b, 16)
    _settle(cluster)
    assert (cluster.held(a), cluster.held(b)) == (1, 15)

    cluster.wants(a, 8)
    cluster.step()
    assert cluster.plan is not None
    waits, gives = cluster.plan.decisions[a], cluster.plan.decisions[b]
    assert waits.limited_by is Limit.RECLAIM
    assert sum(wait.gpus for wait in waits.waits) == 7
    assert {wait.giver for wait in waits.waits} == {"team-b"}
    assert sum(reclaim.gpus for reclaim in gives.reclaims) == 7
    assert {reclaim.taker for reclaim in gives.reclaims} == {"team-a"}
    assert gives.limited_by is Limit.RECLAIMED
    observed = cluster._seen(a).build(cluster.now)
    assert unblock(observed, waits) == "7 GPUs of h100: team-b returns them in ≤250 s"
    # Nothing was promised that is not there yet.
    assert cluster.held(a) == 1

    taken = cluster.until(a, 8, within=TO_TAKE_BACK)
    assert taken >= DRAIN
    cluster.play(300)
    assert (cluster.held(a), cluster.held(b)) == (8, 8)
    assert cluster.told == 7


def test_each_replica_is_told_to_go_once() -> None:
    """While pods drain, and before their Deployment has followed, nobody else is told for the same GPUs."""
    cluster = _two()
    a, b, c = cluster.model("team-a"), cluster.model("team-b"), cluster.model("team-b", "qwen")
    cluster.wants(b, 8)
    cluster.wants(c, 8)
    _settle(cluster)
    cluster.lag_seconds = 7
    cluster.wants(a, 5)
    cluster.until(a, 5, within=60)
    cluster.play(60)

    assert cluster.told == 4
    assert cluster.held(b) + cluster.held(c) == 11


def test_a_hole_opens_on_one_node_for_a_large_replica() -> None:
    """A's 4-GPU replica needs 4 GPUs of one node: four of B's go from one node, none from elsewhere."""
    cluster = _two()
    cluster.model("team-a", gpus=4, most=2)
    [a] = cluster.models
    b = cluster.model("team-b")
    cluster.wants(b, 16)
    _settle(cluster)
    assert cluster.held(b) == 12
    cluster.wants(a, 2)
    cluster.step()
    assert cluster.plan is not None
    [reclaim] = cluster.plan.decisions[b].reclaims
    assert len({pod.node for pod in cluster.pods if pod.name in reclaim.pods}) == 1
    assert len(reclaim.pods) == 4
    cluster.until(a, 2, within=TO_TAKE_BACK)
    cluster.play(120)
    assert (cluster.told, cluster.held(b)) == (4, 8)


def test_priority_and_idleness_choose_who_goes() -> None:
    """Of a team that borrowed, the deployment of less priority gives, and the other keeps all it has."""
    cluster = _two()
    a = cluster.model("team-a")
    dear, cheap = cluster.model("team-b", "dear", priority=10), cluster.model("team-b", "cheap")
    cluster.wants(dear, 8)
    cluster.wants(cheap, 8)
    _settle(cluster)
    before = cluster.held(dear)
    cluster.wants(a, 4)
    cluster.until(a, 4, within=TO_TAKE_BACK)

    assert cluster.held(dear) == before == 8
    assert cluster.held(cheap) == 4


def test_a_paused_deployment_gives_back_too() -> None:
    """A mode is the team's choice, what it borrowed is not."""
    cluster = _two()
    a, b = cluster.model("team-a"), cluster.model("team-b")
    cluster.wants(b, 16)
    _settle(cluster)
    cluster.mode(b, Mode.PAUSED)
    cluster.wants(a, 8)
    cluster.until(a, 8, within=TO_TAKE_BACK)

    assert cluster.held(b) == 8


def test_lower_quota_is_followed_at_once_and_by_draining() -> None:
    """B may borrow nothing any more: it goes down to nominal by draining, though nobody wants the GPUs."""
    cluster = _two()
    cluster.model("team-a")
    b = cluster.model("team-b")
    cluster.wants(b, 16)
    _settle(cluster)
    cluster.quota("team-b", borrowing_limit_gpus=2)
    cluster.play(LAG + DRAIN + 2)
    assert cluster.used("team-b") == 10
    cluster.play(200)
    assert cluster.used("team-b") == 10
    assert cluster.plan is not None
    assert cluster.plan.decisions[b].limited_by is Limit.TENANT_QUOTA

    cluster.quota("team-b", nominal_gpus=12, borrowing_limit_gpus=0)
    cluster.play(60)
    assert cluster.used("team-b") == 12


def test_lost_node_is_made_up_from_what_was_borrowed() -> None:
    """B borrowed a node's worth, A's node dies: A gets its own back from B, and B keeps its nominal."""
    cluster = _two(3)
    a, b = cluster.model("team-a"), cluster.model("team-b")
    cluster.wants(a, 8)
    _settle(cluster)
    cluster.wants(b, 24)
    cluster.play(120)
    assert (cluster.held(a), cluster.held(b)) == (8, 16)
    node = max(cluster.nodes, key=lambda name: sum(1 for pod in cluster.pods if pod.key == a and pod.node == name))
    lost = sum(1 for pod in cluster.pods if pod.key == a and pod.node == node)
    assert lost >= 3
    cluster.lose(node)
    cluster._follow(a, cluster.replicas[a], ())
    cluster._follow(b, cluster.replicas[b], ())
    cluster.until(a, 8, within=TO_TAKE_BACK)
    cluster.play(60)

    assert (cluster.held(a), cluster.held(b)) == (8, 8)


def test_capacity_below_the_nominals_takes_from_nobody_within_nominal() -> None:
    """Half of the GPUs die: what runs within nominal is left alone, and what is lost starts again where it fits."""
    cluster = _two()
    a, b = cluster.model("team-a"), cluster.model("team-b")
    cluster.wants(a, 8)
    cluster.wants(b, 8)
    _settle(cluster)
    cluster.lose("n1")
    cluster.play(200)

    assert cluster.told == 0
    assert cluster.held(a) + cluster.held(b) == 8


def test_minimum_beyond_the_quota_names_the_quota() -> None:
    """Two GPUs for a minimum of three: idle or busy, what the team can ask for is a larger quota."""
    for busy in (0, 40):
        made = deployment().behavior(UNDAMPED).bounds(3, 9).asks(2).pods(ready("a").queue(busy), ready("b"))
        snapshot = fleet(made, gpus={"h100": nodes(6)}, tenants=(tenant("team-a", 2, borrowing=0, used=2),))
        decision = decide(snapshot, {made.key: watched(made)}).decisions[made.key]

        assert (decision.desired, decision.limited_by) == (2, Limit.TENANT_QUOTA)
        assert "nominalQuota" in unblock(made.build(snapshot.taken_at), decision)


def test_raw_pods_count_against_their_team() -> None:
    """4 GPUs of a team's own pods leave 4 of its nominal 8, and what others lend."""
    cluster = _two()
    cluster.quota("team-b", borrowing_limit_gpus=0)
    cluster.model("team-a")
    b = cluster.model("team-b")
    cluster.raw("team-b", 4)
    cluster.wants(b, 16)
    _settle(cluster)

    assert cluster.used("team-b") == 8
    assert cluster.held(b) == 4


def test_flicker_of_a_lender_costs_its_borrowers_one_drain_a_minute() -> None:
    """A's load comes and goes every 15 s for 1,000 s: B is told at most once a minute, and keeps its nominal."""
    cluster = _two()
    cluster.drain_seconds = 3
    a, b = cluster.model("team-a"), cluster.model("team-b")
    cluster.wants(b, 16)
    _settle(cluster)
    told = []
    for second in range(1_000):
        cluster.wants(a, 6 if second // 15 % 2 else 1)
        before = cluster.told
        cluster.step()
        if cluster.told > before and (not told or second > told[-1] + 1):
            told.append(second)
        assert cluster.held(b) >= 8
        assert cluster.used("team-a") + cluster.used("team-b") <= 16

    assert len(told) >= 2
    assert all(later - earlier >= 60 for earlier, later in pairwise(told))


def test_a_pod_that_waits_for_a_node_keeps_its_room_until_it_is_gone() -> None:
    """A 4-GPU pod finds no node and is given up: the team's four small ones wait until it cannot come any more."""
    big = deployment("big", "team-a").behavior(UNDAMPED).gpus(4).pods(starting("big").unscheduled())
    small = deployment("small", "team-a").behavior(UNDAMPED).pods(ready("small").queue(32).running(8).tokens(400))
    world: dict[str, Any] = {
        "gpus": {"h100": nodes(1, 1, 1, 1)},
        "tenants": (tenant("team-a", 1, borrowing=4, used=1),),
    }
    history = {one.key: watched(one) for one in (big, small)}
    both = decide(fleet(big, small, **world), history)
    alone = decide(fleet(small, **world), history)

    assert both.decisions[big.key].granted == 0
    assert both.decisions[small.key].desired == 1
    assert both.decisions[small.key].limited_by is Limit.TENANT_QUOTA
    assert alone.decisions[small.key].desired == 4


def test_the_last_replica_is_told_to_go_once() -> None:
    """B has nothing of its own: its only replica goes for A, and is not asked for again while it drains."""
    cluster = _two(1, lender=8, borrower=0)
    a, b = cluster.model("team-a"), cluster.model("team-b")
    cluster.wants(a, 7)
    _settle(cluster)
    assert (cluster.held(a), cluster.held(b)) == (7, 1)
    cluster.lag_seconds = 5
    cluster.wants(a, 8)
    asked = []
    for _ in range(LAG + DRAIN):
        cluster.step()
        asked.append(cluster.replicas[b])
    cluster.play(30)

    assert asked == [0] * len(asked)
    assert (cluster.told, cluster.held(a), cluster.held(b)) == (1, 8, 0)


def test_quota_holds_at_every_second_of_a_wild_hour() -> None:
    """Loads, raw pods and raised quotas at random: nobody ever holds more than nominal and borrowing in force."""
    random = Random("wild")
    cluster = Cluster(
        nodes={f"n{number}": 8 for number in range(4)},
        tenants={
            "team-a": tenant("team-a", 12, borrowing=4),
            "team-b": tenant("team-b", 8, borrowing=8),
            "team-c": tenant("team-c", 8, borrowing=0, weight=3),
        },
    )
    keys = [cluster.model(team, f"m{gpus}", gpus=gpus) for team in cluster.tenants for gpus in (1, 2, 4)]
    for key in keys[:3]:
        cluster._follow(key, 1, ())
    for _ in range(3_600):
        if random.random() < 0.05:
            cluster.wants(random.choice(keys), random.choice((0, 1, 3, 6, 12)))
        cluster.step()
        for team, limit in (("team-a", 16), ("team-b", 16), ("team-c", 8)):
            assert cluster.used(team) <= limit, (team, cluster.now)


NOMINAL_BEFORE = {"team-a": 2, "team-b": 2, "team-c": 5}


def test_what_was_given_back_is_not_borrowed_again_while_it_drains() -> None:
    """A drain longer than the hold-off: who gave is below its minReplicas, and would be the first to take it again."""
    cluster = Cluster(
        nodes={"x": 8, "y": 8},
        tenants={team: tenant(team, nominal, weight=2) for team, nominal in NOMINAL_BEFORE.items()},
        drain_seconds=90,
    )
    demands = {"team-a": (7, 4), "team-b": (2, 8), "team-c": (1, 7)}
    for team, counts in demands.items():
        for name, replicas in zip(("llama", "qwen"), counts, strict=True):
            key = cluster.model(team, name)
            cluster._follow(key, 1, ())
            cluster.wants(key, replicas)
    cluster.play(240)
    cluster.quota("team-a", nominal_gpus=5)
    cluster.quota("team-b", nominal_gpus=5, borrowing_limit_gpus=2)
    cluster.quota("team-c", nominal_gpus=3)
    cluster.play(600)
    told = cluster.told
    cluster.play(600)

    assert cluster.told == told
    assert not any(cluster.free().values())
