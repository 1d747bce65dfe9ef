"""Days in the life of deployments of one team whose priorities differ, with and without Tenants."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import Mode, Scaling
from modelfleet.decide.explain import reclaim_note, unblock
from tests.builders import tenant
from tests.decide.tenancy import Cluster

LAG, DRAIN = 2, 20
TO_TAKE = 1 + LAG + DRAIN + 2 + LAG
"""From want to grant: a tick, a Deployment that follows, the drain, a tick, a pod and its binding."""


def _full(cluster: Cluster, *, gpus: int = 1, batch: int = 16) -> tuple[Key, Key]:
    """Let batch fill the GPUs beside the one replica of a chat of a higher priority."""
    chat = cluster.model("team-a", "chat", gpus=gpus, priority=100, most=8)
    low = cluster.model("team-a", "batch")
    cluster.wants(low, batch)
    for key in (chat, low):
        cluster._follow(key, 1, ())
    cluster.play(120)
    return chat, low


def _with_min_replicas(cluster: Cluster, key: Key, count: int) -> None:
    made = cluster.models[key]
    scaling = Scaling.model_validate({**made.spec.scaling.model_dump(), "min_replicas": count})
    cluster.models[key] = replace(made, spec=made.spec.model_copy(update={"scaling": scaling}))


POOLS = {"without Tenants": {}, "at the limit of a Tenant": {"team-a": tenant("team-a", 16, borrowing=0)}}


@pytest.mark.parametrize("name", POOLS)
def test_a_lower_priority_gives_by_draining(name: str) -> None:
    """Batch holds all that chat leaves; chat wants 6 more: 6 of batch's drain, once each, and chat has them."""
    cluster = Cluster(nodes={"n0": 8, "n1": 8}, tenants=dict(POOLS[name]))
    chat, batch = _full(cluster)
    assert (cluster.held(chat), cluster.held(batch)) == (1, 15)

    cluster.wants(chat, 7)
    cluster.step()
    assert cluster.plan is not None
    waits, gives = cluster.plan.decisions[chat], cluster.plan.decisions[batch]
    assert (waits.limited_by, gives.limited_by) == (Limit.RECLAIM, Limit.PREEMPTED)
    assert unblock(cluster._seen(chat).build(cluster.now), waits) == (
        "6 GPUs of h100: team-a/batch returns them in ≤250 s"
    )
    assert [reclaim.preemptor for reclaim in gives.reclaims] == [chat]
    assert "6 GPUs go to team-a/chat, of a higher priority" in reclaim_note(gives.reclaims[0])

    for _ in range(DRAIN):
        cluster.step()
        assert cluster.plan.decisions[chat].limited_by is Limit.RECLAIM
    cluster.until(chat, 7, within=TO_TAKE - DRAIN)
    cluster.play(200)
    assert (cluster.held(chat), cluster.held(batch), cluster.told) == (7, 9, 6)
    assert cluster.used("team-a") == 16


def test_what_was_given_comes_back_when_the_higher_priority_sleeps() -> None:
    """Batch does not grow into the places that it gives; when chat needs less, it does."""
    cluster = Cluster(nodes={"n0": 8, "n1": 8}, tenants={})
    chat, batch = _full(cluster)
    cluster.drain_seconds = 90
    cluster.wants(chat, 7)
    for _ in range(95):
        cluster.step()
        assert cluster.held(batch) in (9, 15)
    cluster.play(60)
    assert (cluster.held(chat), cluster.told) == (7, 6)
    cluster.wants(chat, 2)
    cluster.play(200)
    assert (cluster.held(chat), cluster.held(batch), cluster.told) == (2, 14, 6)


def test_min_replicas_are_kept() -> None:
    """Batch gives down to its minReplicas, and chat is told that there is nothing more."""
    cluster = Cluster(nodes={"n0": 8}, tenants={})
    chat, batch = _full(cluster)
    _with_min_replicas(cluster, batch, 5)
    cluster.wants(chat, 7)
    cluster.play(120)
    assert (cluster.held(chat), cluster.held(batch), cluster.told) == (3, 5, 2)
    assert cluster.plan is not None
    assert cluster.plan.decisions[chat].limited_by is Limit.CAPACITY


def test_a_large_replica_opens_one_node() -> None:
    """Chat's 4-GPU replica takes four of one node, not four of two."""
    cluster = Cluster(nodes={"n0": 8, "n1": 8}, tenants={})
    chat, batch = _full(cluster, gpus=4)
    cluster.wants(chat, 2)
    cluster.step()
    assert cluster.plan is not None
    [reclaim] = cluster.plan.decisions[batch].reclaims
    assert len({pod.node for pod in cluster.pods if pod.name in reclaim.pods}) == 1
    cluster.play(LAG)
    # They end one after the other, and batch takes none of the places that are free by then.
    for number, pod in enumerate(pod for pod in cluster.pods if pod.gone_at is not None):
        pod.gone_at = cluster.now + 20 * (number + 1)
    cluster.play(120)
    assert (cluster.held(chat), cluster.told) == (2, 4)


def test_a_paused_deployment_keeps_its_places() -> None:
    """A team that paused its batch meant it, whatever the priorities say."""
    cluster = Cluster(nodes={"n0": 8, "n1": 8}, tenants={})
    chat, batch = _full(cluster)
    cluster.mode(batch, Mode.PAUSED)
    cluster.wants(chat, 7)
    cluster.play(120)
    assert (cluster.held(chat), cluster.held(batch), cluster.told) == (1, 15, 0)


def test_other_teams_give_nothing_to_a_priority() -> None:
    """Priorities count within a team: another team's batch stays within its nominal quota."""
    cluster = Cluster(nodes={"n0": 8, "n1": 8}, tenants={"team-a": tenant("team-a", 8), "team-b": tenant("team-b", 8)})
    chat, batch = _full(cluster, batch=7)
    other = cluster.model("team-b", "other")
    cluster.wants(other, 8)
    cluster._follow(other, 1, ())
    cluster.play(120)
    assert (cluster.held(chat), cluster.held(batch), cluster.held(other)) == (1, 7, 8)
    cluster.wants(chat, 5)
    cluster.play(120)
    assert (cluster.held(chat), cluster.held(batch), cluster.held(other)) == (5, 3, 8)


def test_wandering_wants_do_not_thrash() -> None:
    """A chat that wants one replica more or less every minute costs batch one drain a minute at most."""
    cluster = Cluster(nodes={"n0": 8, "n1": 8}, tenants={})
    chat, _ = _full(cluster)
    for minute in range(20):
        cluster.wants(chat, 4 + minute % 2)
        cluster.play(60)
    assert cluster.told <= 3 + 20
