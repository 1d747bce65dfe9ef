"""Tenants when something is wrong: two leaders, pods of nobody's, what cannot be read, what is not there yet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import pytest

from bench.quota_checker import Witness
from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION
from sandbox.cluster import RequestFailed, Sandbox, SandboxError
from sandbox.fleet import NAMESPACE
from tests.cluster.operator.scene import Cast, Team, Watched, gpu_class, same, unique, until
from tests.cluster.operator.test_tenants import TARGETS, Tenants, hard, load, tenants

__all__ = ["tenants"]

pytestmark = pytest.mark.xdist_group("operator-signals")

CREATORS = 12
REACTION_SECONDS = 5.0
APPEARED_SECONDS = 30.0
"""A namespace that is not there is looked for every 15 s."""
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tenants.modelfleet.dev"
LEASES = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{}s"


@contextmanager
def creators(*teams: Team) -> Iterator[list[str]]:
    """Let many make and end pods of a GPU in some namespaces as fast as they may; yield what was refused."""
    ended, refused = threading.Event(), list[str]()

    def create(number: int) -> None:
        random, made = Random(number), list[str]()
        while not ended.is_set():
            path, name = f"/api/v1/namespaces/{random.choice(teams).namespace}/pods", unique(f"raw-{number}")
            container = {"name": "job", "image": "job", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
            item = {"metadata": {"name": name}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
            try:
                teams[0].sandbox.request("POST", path, item)
                made.append(f"{path}/{name}")
            except RequestFailed as error:
                refused.append(str(error))
            ended.wait(random.uniform(0.1, 0.6))
            if made and random.random() < 0.5:
                teams[0].sandbox.request("DELETE", made.pop(0))
        for path in made:
            with suppress(SandboxError):
                teams[0].sandbox.request("DELETE", path)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(CREATORS)]
    for thread in threads:
        thread.start()
    try:
        yield refused
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def second_installation(sandbox: Sandbox) -> str:
    """Let the operator's account hold a lease in another namespace too; return its name."""
    namespace = unique("installation")
    sandbox.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    for kind in ("role", "rolebinding"):
        item = sandbox.request("GET", f"{LEASES.format(NAMESPACE, kind)}/modelfleet-lease")
        item["metadata"] = {"name": "modelfleet-lease", "namespace": namespace}
        sandbox.request("POST", LEASES.format(namespace, kind), item)
    return namespace


def test_two_leaders_and_pods_of_nobodys_never_pass_the_limit(
    cast: Cast, sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants, operator: Watched
) -> None:
    """Two operators move the limit to and fro between three namespaces while others take whatever is free."""
    first, second, third = new_team(), new_team(), new_team()
    with gpu_class(sandbox, gpus=(8,)) as accelerator:
        tenants.create(accelerator, first, second, third, nominalQuota=5, borrowingLimit=1)
        for team in (second, third):
            team.deploy(accelerator=accelerator, drainSeconds=1)
            team.await_ready()
        rival = cast.add(f"--namespace={second_installation(sandbox)}")
        until(rival.leads)
        assert operator.leads()
        with Witness(sandbox) as witness, creators(first, second, third) as refused:
            for replicas in (4, 1, 4, 1, 3, 1, 4, 2, 4, 1):
                for team, count in ((second, replicas), (third, 5 - replicas)):
                    team.change(scaling={"minReplicas": count, "maxReplicas": count})
                operator.await_ticks(2)
                rival.await_ticks(2)
        verdict = witness.judge(reaction_seconds=REACTION_SECONDS)
        assert rival.end() == 0

    assert verdict.over == ()
    assert verdict.full > 0
    assert any("exceeded quota" in answer for answer in refused)


def test_namespaces_of_no_tenant_get_nothing_where_that_is_set(
    cast: Cast, sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants, operator: Watched
) -> None:
    """With --no-unbound-may-borrow what runs without a tenant is drained; without it, it borrows what is idle."""
    bound, free = new_team(), new_team()
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        tenants.create(accelerator, bound, nominalQuota=2)
        free.deploy(accelerator=accelerator, drainSeconds=1)
        free.await_ready()
        assert operator.end() == 0
        strict = cast.add("--no-unbound-may-borrow")
        same(0, free.replicas)
        same("TenantQuota", lambda: free.status().get("limitedBy"))
        bound.deploy(accelerator=accelerator, drainSeconds=1)
        bound.await_ready()
        assert strict.end() == 0
        cast.only()
        free.await_ready()


def test_a_namespace_that_appears_later_is_fenced_and_every_gpu_counts(
    sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants
) -> None:
    """The limit waits for a namespace that is not there; an init container's GPUs are the tenant's."""
    here = new_team()
    later = Team(sandbox, unique("team-later"))
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        name = tenants.create(accelerator, here, later, nominalQuota=3, borrowingLimit=0)
        same(3, lambda: hard(here))
        assert hard(later) is None
        sandbox.request("POST", "/api/v1/namespaces", {"metadata": {"name": later.namespace}})
        until(lambda: later.find("/api/v1", "serviceaccounts", "default"))
        same(0, lambda: hard(later), seconds=APPEARED_SECONDS)
        gpus = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
        spec = {
            "initContainers": [{"name": "before", "image": "job", **gpus}],
            "containers": [{"name": "job", "image": "job"}],
            "nodeSelector": {"nvidia.com/gpu.product": accelerator},
            "tolerations": [{"operator": "Exists"}],
        }
        path = f"/api/v1/namespaces/{here.namespace}/pods"
        sandbox.request("POST", path, {"metadata": {"name": "job"}, "spec": spec})
        same([2, 2, 0, 0, 0], lambda: tenants.counts(name))
        later.deploy(accelerator=accelerator)
        later.await_ready()
        same((2, 1), lambda: (hard(here), hard(later)))
        later.end()


async def test_load_beyond_the_allowance_buys_no_replica(
    sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants
) -> None:
    """300 tok/s at 100 a replica, 6,000 tokens a minute allowed: one replica. Without an allowance three."""
    team = new_team()
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        name = tenants.create(accelerator, team, nominalQuota=4)
        path = resource_path(API_VERSION, "Tenant", name=name)
        sandbox.request("PATCH", path, {"spec": {"tokensPerMinute": {"output": 6000}}})
        team.deploy(accelerator=accelerator, scaling={"maxReplicas": 3, "targets": TARGETS})
        await asyncio.to_thread(team.await_ready)
        busy = load(team, rate=6, seconds=15)
        await asyncio.to_thread(same, "TokenAllowance", lambda: team.status().get("limitedBy"))
        capped = await asyncio.to_thread(team.replicas)
        sandbox.request("PATCH", path, {"spec": {"tokensPerMinute": None}})
        await asyncio.to_thread(same, 3, team.replicas)
        report = await busy

    assert capped == 1
    assert report.failed == 0


def test_cohorts_lend_among_themselves(sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants) -> None:
    """Of 4 GPUs one is nobody's: who has 1 gets 2, and all 4 once the idle owner of 2 is of its cohort."""
    idle, busy = new_team(), new_team()
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        owner = tenants.create(accelerator, idle, nominalQuota=2)
        borrower = tenants.create(accelerator, busy, nominalQuota=1)
        for name, cohort in ((owner, "research"), (borrower, "serving")):
            sandbox.request("PATCH", resource_path(API_VERSION, "Tenant", name=name), {"spec": {"cohort": cohort}})
        busy.deploy(accelerator=accelerator, scaling={"minReplicas": 4, "maxReplicas": 4})
        same("LendingLimit", lambda: busy.status().get("limitedBy"))
        # The status may be told before the Deployment is made.
        until(lambda: busy.child("Deployment", "llama"))
        same(2, busy.replicas)
        sandbox.request("PATCH", resource_path(API_VERSION, "Tenant", name=owner), {"spec": {"cohort": "serving"}})
        busy.await_ready(replicas=4)
        same(2, lambda: tenants.get(owner)["status"]["lent"])


def test_a_tenant_that_cannot_be_read_keeps_its_fence(
    cast: Cast, sandbox: Sandbox, new_team: Callable[..., Team], tenants: Tenants, operator: Watched
) -> None:
    """As written by another version: limits and replicas stay, over a restart too; both objects say why."""
    team = new_team()
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        name = tenants.create(accelerator, team, nominalQuota=2, borrowingLimit=0)
        team.deploy(accelerator=accelerator)
        team.await_ready()
        same(2, lambda: hard(team))
        with any_nominal_quota(sandbox):
            quotas = [{"accelerator": accelerator, "nominalQuota": -1, "borrowingLimit": 0}]
            patch = {"spec": {"quotas": quotas}}
            until(lambda: accepted(sandbox, name, patch))
            same(("True", "InvalidSpec"), lambda: tenants.condition(name, "Stalled")[:2])
            told = tenants.condition(name, "Stalled")[2]
            same(("True", "TenantInvalid"), lambda: team.condition("Stalled"))
            team.change(scaling={"minReplicas": 2, "maxReplicas": 2})
            assert operator.end() == 0
            cast.only().await_ticks(3)
            assert (hard(team), team.replicas()) == (2, 1)
            sandbox.request(
                "PATCH",
                resource_path(API_VERSION, "Tenant", name=name),
                {"spec": {"quotas": [{**quotas[0], "nominalQuota": 3}]}},
            )
            team.await_ready(replicas=2)
            same(3, lambda: hard(team))
            same(("", ""), lambda: tenants.condition(name, "Stalled")[:2])

    assert told.startswith("spec.quotas.0.nominalQuota: ")
    assert "its ResourceQuotas stay as they are" in told


def accepted(sandbox: Sandbox, name: str, patch: dict[str, Any]) -> bool:
    """Return whether the API server takes a change of a Tenant."""
    try:
        sandbox.request("PATCH", resource_path(API_VERSION, "Tenant", name=name), patch)
    except RequestFailed:
        return False
    return True


@contextmanager
def any_nominal_quota(sandbox: Sandbox) -> Iterator[None]:
    """Let the API server take negative nominal quotas."""
    before = sandbox.request("GET", CRD)
    changed = sandbox.request("GET", CRD)
    schema = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    schema["quotas"]["items"]["properties"]["nominalQuota"].pop("minimum")
    sandbox.request("PUT", CRD, changed)
    try:
        yield
    finally:
        sandbox.request("PATCH", CRD, {"spec": {"versions": before["spec"]["versions"]}})
