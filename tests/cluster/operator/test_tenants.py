"""Tenants on the real API server: what is lent comes back, the fence holds alone, a claim is told, an end is an end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION, Key
from modelfleet.render.quota import QUOTA_NAME
from modelfleet.simulate.arrivals import Arrival
from sandbox.cluster import RequestFailed, Sandbox
from sandbox.load.client import run_load
from tests.cluster.operator.scene import (
    PATIENCE_SECONDS,
    Audit,
    Cast,
    History,
    Team,
    Watched,
    gpu_class,
    ready,
    same,
    scale_in_after,
    unique,
    until,
)

pytestmark = pytest.mark.xdist_group("operator-objects")

TARGETS = {"outputTokensPerSecond": 100, "queuedRequests": 4}
PEAK = {"maxReplicas": 3, "targets": TARGETS, "behavior": scale_in_after(60)}
RESOURCE = "requests.nvidia.com/gpu"
COLLECTED_SECONDS = 120.0
"""The garbage collector looks for new kinds every 30 s: on a cluster that just got its CRDs children outlive their
owner for up to that and their drain."""
GIVES_SECONDS = 60
"""For so long who gave a place to a priority does not grow."""
FENCED_SECONDS = 10.0
"""The fence follows the pods within ticks, however late they went."""


class Tenants:
    """The Tenants of one test."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._prefix = unique("tenant")
        self.names: list[str] = []

    def create(self, accelerator: str, *teams: Team, **quota: int) -> str:
        """Create one; return its name. Names sort as they are made."""
        name = f"{self._prefix}-{len(self.names)}"
        spec = {
            "namespaces": [team.namespace for team in teams],
            "quotas": [{"accelerator": accelerator, **quota}],
        }
        item = {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": name}, "spec": spec}
        self._sandbox.request("POST", resource_path(API_VERSION, "Tenant"), item)
        self.names.append(name)
        return name

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._sandbox.request("GET", resource_path(API_VERSION, "Tenant", name=name))
        return found

    def delete(self, name: str) -> None:
        self._sandbox.request("DELETE", resource_path(API_VERSION, "Tenant", name=name))
        self.names.remove(name)

    def counts(self, name: str) -> list[int]:
        """Return guaranteed, used, borrowed, lent and waiting; nothing before the first status."""
        status = self.get(name).get("status", {})
        return [status[count] for count in ("guaranteed", "used", "borrowed", "lent", "waiting") if count in status]

    def condition(self, name: str, type_: str) -> tuple[str, str, str]:
        conditions = self.get(name).get("status", {}).get("conditions", [])
        found = next((condition for condition in conditions if condition["type"] == type_), None)
        return (found["status"], found["reason"], found["message"]) if found else ("", "", "")


@pytest.fixture
def tenants(sandbox: Sandbox, operator: Watched) -> Iterator[Tenants]:
    """Makes Tenants that end with the test."""
    made = Tenants(sandbox)
    yield made
    for name in list(made.names):
        made.delete(name)


def hard(team: Team) -> int | None:
    """Return the GPUs that the API server lets a namespace have; None where nothing keeps it."""
    found = team.find("/api/v1", "resourcequotas", QUOTA_NAME)
    # The controller manager copies spec to status, and admission looks there.
    return None if found is None else int(found.get("status", {}).get("hard", {}).get(RESOURCE, -1))


def largest_sum(states: list[tuple[str, dict[str, Any]]], *teams: Team) -> int:
    """Return the most GPUs that the live limits of some namespaces ever added up to, once each had one."""
    now: dict[str, int] = {}
    sums = []
    for _, item in states:
        if item["metadata"]["namespace"] in {team.namespace for team in teams}:
            now[item["metadata"]["namespace"]] = int(item["spec"]["hard"][RESOURCE])
            sums += [sum(now.values())] * (len(now) == len(teams))
    return max(sums)


def raw_pod(team: Team, gpus: int) -> str:
    """Create a pod that no ModelDeployment owns; return why not, or an empty string."""
    container = {"name": "job", "image": "job", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    item = {"metadata": {"name": unique("job")}, "spec": {"containers": [container]}}
    try:
        team.sandbox.request("POST", f"/api/v1/namespaces/{team.namespace}/pods", item)
    except RequestFailed as error:
        return f"{error.code} {error}"
    return ""


def load(team: Team, rate: float, seconds: float, *, name: str = "llama") -> asyncio.Task[Any]:
    """Start requests of 50 tokens each at a steady rate."""
    arrivals = [Arrival(number / rate, 20, 50) for number in range(int(rate * seconds))]
    return asyncio.create_task(run_load(team.sandbox.kubeconfig, Key(team.namespace, name), arrivals))


async def test_what_is_lent_comes_back_by_draining(
    sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants
) -> None:
    """Two tenants of 2 GPUs: one borrows at its peak; the other wakes, waits, has its own back. No request fails."""
    lender, borrower = new_team(), new_team()
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        of_lender = tenants.create(accelerator, lender, nominalQuota=2)
        of_borrower = tenants.create(accelerator, borrower, nominalQuota=2)
        for team in (lender, borrower):
            team.deploy(accelerator=accelerator, drainSeconds=5, scaling=PEAK)
        for team in (lender, borrower):
            await asyncio.to_thread(team.await_ready)
        peak = load(borrower, rate=7, seconds=12)
        await asyncio.to_thread(until, lambda: sum(map(ready, borrower.pods())) == 3)
        await asyncio.to_thread(same, [2, 3, 1, 0, 0], lambda: tenants.counts(of_borrower))
        await asyncio.to_thread(same, "Lending", lambda: tenants.get(of_lender)["status"]["reason"])
        waking = load(lender, rate=3.5, seconds=8)
        await asyncio.to_thread(same, "WaitingForReclaim", lambda: lender.status()["limitedBy"])
        unblock = lender.status()["decision"]["unblock"]
        await asyncio.to_thread(same, "GivingBack", lambda: tenants.condition(of_borrower, "Borrowing")[1])
        giving = tenants.condition(of_borrower, "Borrowing")[2]
        await asyncio.to_thread(until, lambda: sum(map(ready, lender.pods())) == 2)
        await asyncio.to_thread(same, "Reclaimed", lambda: borrower.status()["limitedBy"])
        reports = [await peak, await waking]
        await asyncio.to_thread(same, [2, 2, 0, 0], lambda: tenants.counts(of_borrower)[:4])
        await asyncio.to_thread(same, [2, 2, 0, 0, 0], lambda: tenants.counts(of_lender))
        table = sandbox.kubectl("get", "tenants", "--no-headers")

    assert re.match(rf"1 GPUs of {accelerator}: {of_borrower} returns them in ≤20 s", unblock), unblock
    assert giving == f"1 GPUs of {borrower.namespace}/llama go to {of_lender}, which wants its own back"
    assert [report.failed for report in reports] == [0, 0]
    (waits,) = lender.events("WaitingForReclaim")
    assert f"{of_borrower} returns them in ≤20 s" in waits
    (gives,) = borrower.events("Reclaimed")
    assert gives.startswith(f"1 borrowed GPUs go to {of_lender}, which wants its own back: llama-")
    assert any(line.split()[:5] == [of_lender, "2", "2", "0", "0"] for line in table.splitlines()), table


async def test_a_higher_priority_of_the_team_takes_by_draining_and_gives_back(
    sandbox: Sandbox, team: Team, tenants: Tenants
) -> None:
    """4 GPUs: batch has 3, chat of a higher priority 1. Chat's load wants more: it gets what batch has beyond 2."""
    deployments = f"/apis/apps/v1/namespaces/{team.namespace}/deployments"
    steady_seconds = 3 + GIVES_SECONDS + 12
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        tenants.create(accelerator, team, nominalQuota=4, borrowingLimit=0)
        scaling = {"targets": TARGETS, "maxReplicas": 3}
        team.deploy("batch", accelerator=accelerator, drainSeconds=5, scaling={**scaling, "minReplicas": 2})
        team.deploy("chat", accelerator=accelerator, drainSeconds=5, priority=10, scaling=scaling)
        for name, replicas in (("batch", 2), ("chat", 1)):
            await asyncio.to_thread(team.await_ready, name, replicas=replicas)
        with History(sandbox, deployments) as history:
            steady = load(team, rate=6, seconds=steady_seconds, name="batch")
            await asyncio.to_thread(until, lambda: sum(map(ready, team.pods("batch"))) == 3)
            full = {pod["metadata"]["name"] for pod in team.pods("batch")}
            peak = load(team, rate=6, seconds=14, name="chat")
            await asyncio.to_thread(same, "WaitingForReclaim", lambda: team.status("chat")["limitedBy"])
            waiting = team.status("chat")["decision"]["unblock"]
            await asyncio.to_thread(same, ("Preempted", "Preempted"), lambda: limits(team, "batch"))
            await asyncio.to_thread(until, lambda: sum(map(ready, team.pods("chat"))) == 2)
            freed = team.pods("chat")
            (gone,) = full - {pod["metadata"]["name"] for pod in team.pods("batch")}
            reports = [await peak]
            await asyncio.to_thread(same, (1, 2), lambda: (team.replicas("chat"), team.replicas("batch")))
            await asyncio.to_thread(
                until, lambda: sum(map(ready, team.pods("batch"))) == 3, seconds=GIVES_SECONDS + PATIENCE_SECONDS
            )
            reports += [await steady]

    assert waiting == f"1 GPUs of {accelerator}: {team.namespace}/batch returns them in ≤20 s"
    (waits,) = team.events("WaitingForReclaim", "chat")
    assert waits.endswith(waiting)
    assert team.events("Preempted", "batch") == [
        f"1 GPUs go to {team.namespace}/chat, of a higher priority: {gone} drain"
    ]
    assert {pod["spec"]["nodeName"] for pod in freed} == {f"{accelerator}-node-0"}
    assert [report.failed for report in reports] == [0, 0]
    # Each step once: what was given does not go to and fro, and never below batch's minimum.
    assert (history.replicas("batch"), history.replicas("chat")) == ([3, 2, 3], [2, 1])


def limits(team: Team, name: str) -> tuple[str, str]:
    """Return the columns LIMITED-BY and REASON of a deployment."""
    status = team.status(name)
    return status["limitedBy"], status["reason"]


def test_the_api_server_keeps_the_limit_while_no_operator_runs(
    cast: Cast, sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants, operator: Watched
) -> None:
    """2 + 1 GPUs over two namespaces: limits follow what is granted, a roll-out goes within, more is refused."""
    first, second = new_team(), new_team()
    with gpu_class(sandbox, gpus=(8,)) as accelerator:
        with History(sandbox, "/api/v1/resourcequotas") as history:
            # By nobody's guard kept from being there before: it would let through all pods without a deadline.
            quotas = f"/api/v1/namespaces/{second.namespace}/resourcequotas"
            narrow = {"scopes": ["Terminating"], "hard": {RESOURCE: "0"}}
            sandbox.request("POST", quotas, {"metadata": {"name": QUOTA_NAME}, "spec": narrow})
            name = tenants.create(accelerator, second, nominalQuota=2, borrowingLimit=1)
            same((None, 3), lambda: (hard(first), hard(second)))
            both = {"spec": {"namespaces": [first.namespace, second.namespace]}}
            sandbox.request("PATCH", resource_path(API_VERSION, "Tenant", name=name), both)
            same((3, 0), lambda: (hard(first), hard(second)))
            second.deploy(accelerator=accelerator, drainSeconds=1, scaling={"minReplicas": 2, "maxReplicas": 2})
            second.await_ready(replicas=2)
            same((1, 2), lambda: (hard(first), hard(second)))
            second.change(model={"revision": "v2"})
            same(0, lambda: second.deployment()["spec"]["strategy"]["rollingUpdate"]["maxSurge"])
            second.await_ready(replicas=2)
            sandbox.request("DELETE", second.path())
            until(lambda: not second.pods(), seconds=COLLECTED_SECONDS)
            same((3, 0), lambda: (hard(first), hard(second)), seconds=FENCED_SECONDS)
        assert operator.end() == 0
        answers = [raw_pod(first, 4), raw_pod(first, 3), raw_pod(first, 1), raw_pod(second, 1)]
        cast.only()
        path = f"/api/v1/namespaces/{first.namespace}/resourcequotas/{QUOTA_NAME}"
        sandbox.request("PATCH", path, {"spec": {"hard": {RESOURCE: "9"}}})
        same((3, 0), lambda: (hard(first), hard(second)))

    assert largest_sum(history.seen, first, second) == 3
    assert [answer[:3] for answer in answers] == ["403", "", "403", "403"]
    assert f"exceeded quota: {QUOTA_NAME}" in answers[0], answers[0]


def test_a_second_claim_is_told_and_an_end_frees_everything(
    sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants
) -> None:
    """The older Tenant keeps the namespace; it passes to the other with it gone, and is nobody's with both gone."""
    shared, own = new_team(), new_team()
    with gpu_class(sandbox, gpus=(2,)) as accelerator:
        # Before the Tenants: a minimum beyond the limit is refused.
        shared.deploy(accelerator=accelerator, drainSeconds=0, scaling={"minReplicas": 2, "maxReplicas": 2})
        shared.await_ready(replicas=2)
        older = tenants.create(accelerator, shared, nominalQuota=1, borrowingLimit=0)
        younger = tenants.create(accelerator, own, shared, nominalQuota=2, borrowingLimit=0)
        same("True", lambda: tenants.condition(older, "NamespacesClaimed")[0])
        same(("False", "ClaimedByAnother"), lambda: tenants.condition(younger, "NamespacesClaimed")[:2])
        told = tenants.condition(younger, "NamespacesClaimed")[2]
        assert [own.namespace] == tenants.get(younger)["status"]["namespaces"]
        same((1, 2), lambda: (hard(shared), hard(own)))
        same("TenantQuota", lambda: shared.status().get("limitedBy"))
        tenants.delete(older)
        same(("True", "Claimed"), lambda: tenants.condition(younger, "NamespacesClaimed")[:2])
        shared.await_ready(replicas=2)
        same((2, 0), lambda: (hard(shared), hard(own)))
        tenants.delete(younger)
        same((None, None), lambda: (hard(shared), hard(own)))
        before = shared.replicas()
        shared.await_ready(replicas=2)

    assert told.startswith(f"namespace {shared.namespace} is Tenant {older}'s, which is older")
    assert before == 2


def test_a_restart_beside_tenants_at_rest_writes_nothing(
    cast: Cast, sandbox: Sandbox, team: Team, tenants: Tenants, operator: Watched
) -> None:
    """The next process adopts the status and the quota as they are."""
    with gpu_class(sandbox, gpus=(2,)) as accelerator:
        team.deploy(accelerator=accelerator)
        team.await_ready()
        same(("True", "Fresh"), lambda: team.condition("MetricsFresh"))
        # Counts that change are written every 10 s; the first status has them at once.
        name = tenants.create(accelerator, team, nominalQuota=1)
        same([1, 1, 0, 0, 0], lambda: tenants.counts(name))
        same(1, lambda: hard(team))
        operator.await_ticks(3)
        before = tenants.get(name)["metadata"]["resourceVersion"], team.versions()
        assert operator.end() == 0
        audit = Audit(sandbox)
        successor = cast.only()
        successor.await_ticks(14)
        mine = [line for line in audit.writes(by=successor) if team.namespace in line or name in line]

        assert mine == []
        assert before == (tenants.get(name)["metadata"]["resourceVersion"], team.versions())
