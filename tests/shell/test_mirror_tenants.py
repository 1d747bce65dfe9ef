"""What Tenants and the pods of their namespaces become in a snapshot."""

from typing import Any

import pytest

from modelfleet.adapters.scrape import Scraper
from modelfleet.api.conditions import Reason
from modelfleet.decide.snapshot import Allowance, Node, Quota, Tenant, Tokens
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.observe import _tenants, claims, observe
from modelfleet.shell.records import parse_quota, parse_tenant, parse_view

SELECTOR = {"gpu": "h100"}


def tenant(name: str, *namespaces: str, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> dict[str, Any]:
    """Return a Tenant as the API server has it."""
    metadata = {"name": name, "uid": name, "resourceVersion": "1", "generation": 1, "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"namespaces": list(namespaces), "quotas": [], **spec}}


def pod(name: str, namespace: str, node: str, gpus: int, **metadata: Any) -> dict[str, Any]:
    """Return a pod of nobody's that holds GPUs."""
    spec: dict[str, Any] = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]}
    if node:
        spec["nodeName"] = node
    about = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1", **metadata}
    return {"metadata": about, "spec": spec}


def node(name: str, gpus: int, *, cordoned: bool = False, labels: dict[str, str] = SELECTOR) -> dict[str, Any]:
    """Return a ready node."""
    return {
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": labels},
        "spec": {"unschedulable": cordoned},
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@pytest.fixture
def mirror() -> Mirror:
    """Two nodes of a class, one of them cordoned, and one of another."""
    mirror = Mirror()
    spec = {"nodeSelector": SELECTOR, "resourceName": "nvidia.com/gpu"}
    mirror.accelerator_class("ADDED", {"metadata": {"name": "h100"}, "spec": spec})
    mirror.nodes.replace([node("x", 8), node("cordoned", 8, cordoned=True), node("other", 8, labels={})])
    return mirror


async def test_every_pod_of_a_namespace_counts_for_its_tenant(mirror: Mirror) -> None:
    """Raw, terminating and on a cordoned node: held; Pending, elsewhere, or of another class: not held."""
    mirror.tenant(
        None,
        tenant(
            "team",
            "a",
            "b",
            cohort="prod",
            quotas=[{"accelerator": "h100", "nominalQuota": 4, "borrowingLimit": 2, "weight": 3}],
            tokensPerMinute={"output": 600, "total": 0, "models": [{"model": "m", "input": 60, "output": 120}]},
        ),
    )
    mirror.pods.replace(
        [
            pod("raw", "a", "x", 1),
            pod("ends", "b", "x", 2, deletionTimestamp="2026-01-01T00:00:00Z"),
            pod("stays", "a", "cordoned", 4),
            pod("pending", "a", "", 1),
            pod("foreign", "c", "x", 1),
            pod("elsewhere", "a", "other", 1),
        ]
    )
    source = Scraper(period_seconds=1.0, scrapes_per_second=1.0)
    snapshot = observe(mirror, source, now=0.0, blocked={}, unbound_may_borrow=False)
    await source.close()

    assert snapshot.tenants == (
        Tenant(
            name="team",
            namespaces=("a", "b"),
            cohort="prod",
            quotas={"h100": Quota(4, 2, None, 3)},
            used_gpus={"h100": 7},
            allowances=(
                Allowance(Tokens.INPUT, 1.0, "m"),
                Allowance(Tokens.OUTPUT, 2.0, "m"),
                Allowance(Tokens.OUTPUT, 10.0),
                Allowance(Tokens.TOTAL, 0.0),
            ),
        ),
    )
    assert snapshot.nodes == {"h100": (Node("x", 4, 8, 2),)}
    assert snapshot.unbound_may_borrow is False
    assert mirror.requested["a", "nvidia.com/gpu"] == 7


def test_a_pod_that_is_gone_holds_nothing(mirror: Mirror) -> None:
    """Each count goes back to what it was."""
    ends = pod("ends", "a", "x", 2)
    for item in (ends, pod("ends", "a", "x", 2, deletionTimestamp="2026-01-01T00:00:00Z")):
        mirror.pods.upsert(item)
    mirror.pods.remove(ends)

    h100 = mirror.classes()["h100"]
    (left,) = mirror.nodes_of(h100)
    assert left == Node("x", 8, 8, 0)
    assert mirror.held_by(("a",), h100.resource_name, mirror.node_names_of(h100)) == 0
    assert mirror.requested["a", "nvidia.com/gpu"] == 0


def test_a_namespace_is_the_older_tenants_and_then_the_lesser_names() -> None:
    """Age goes before name, and no order of listing matters; one that is being deleted claims nothing."""
    late, early, twin = (
        tenant("a", "shared", "own", created="2026-01-01T00:00:01Z"),
        tenant("y", "shared"),
        tenant("z", "shared", "rest"),
    )
    expected = {"shared": "y", "own": "a", "rest": "z"}
    for order in ([late, early, twin], [twin, early, late]):
        assert claims(map(parse_tenant, order), {}) == expected
    early["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    assert claims(map(parse_tenant, [late, early, twin]), {})["shared"] == "z"


def test_a_quota_is_read_as_far_as_the_operator_owns_it() -> None:
    """Amounts as the API server writes them; a limit that somebody else set last is not the operator's."""
    item: dict[str, Any] = {
        "metadata": {
            "name": "modelfleet-gpus",
            "namespace": "a",
            "uid": "q",
            "resourceVersion": "7",
            "annotations": {"modelfleet.dev/fence-epoch": "4"},
            "managedFields": [
                {
                    "manager": "modelfleet",
                    "operation": "Update",
                    "fieldsV1": {"f:spec": {"f:hard": {"f:requests.x/a": {}, "f:requests.x/b": {}}}},
                },
                {
                    "manager": "kubectl-edit",
                    "operation": "Update",
                    "fieldsV1": {"f:spec": {"f:hard": {"f:requests.x/c": {}}}},
                },
            ],
        },
        "spec": {"hard": {"requests.x/a": "12", "requests.x/b": "2k", "requests.x/c": "9"}},
        "status": {"hard": {"requests.x/a": "13"}, "used": {"requests.x/a": "11"}},
    }
    quota = parse_quota(item)

    assert quota is not None
    assert quota.hard == {"requests.x/a": 12, "requests.x/b": 2000}
    assert (quota.epoch, quota.enforced, quota.used) == (4, {"requests.x/a": 13}, {"requests.x/a": 11})


def _fence(namespace: str, owner: str) -> dict[str, Any]:
    """Return a ResourceQuota of the operator's."""
    return {
        "metadata": {
            "name": "modelfleet-gpus",
            "namespace": namespace,
            "uid": f"quota-{namespace}",
            "resourceVersion": "1",
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {"hard": {}},
    }


async def test_a_tenant_that_cannot_be_read_keeps_what_it_has(mirror: Mirror) -> None:
    """Its namespaces stay its own, found by its ResourceQuotas; it has what it holds; its deployments hold still."""
    unreadable = tenant("old", "a", quotas=[{"accelerator": "h100", "nominalQuota": -1}])
    mirror.tenant(None, unreadable)
    mirror.tenant(None, tenant("new", "a", "b", created="2026-01-01T00:00:01Z"))
    mirror.quota_table.replace([_fence("a", "old")])
    mirror.pods.replace([pod("runs", "a", "x", 3)])
    spec = {"model": {"name": "m/m"}, "runtime": "vllm", "accelerator": "h100"}
    about = {"name": "llama", "namespace": "a", "uid": "llama", "resourceVersion": "1", "generation": 1}
    mirror.model_deployment(None, {"metadata": about, "spec": spec})
    mirror.inference_runtime(
        None, {"metadata": {"name": "vllm"}, "spec": {"engine": "vllm", "image": "registry.example/engine:1.0"}}
    )
    source = Scraper(period_seconds=1.0, scrapes_per_second=1.0)
    snapshot = observe(mirror, source, now=0.0, blocked={}, unbound_may_borrow=True)
    await source.close()
    old, new = snapshot.tenants

    assert (old.namespaces, old.quotas, old.used_gpus) == (("a",), {"h100": Quota(3, 0, 0)}, {"h100": 3})
    assert old.fault is not None
    assert old.fault.message.startswith("spec.quotas.0.nominalQuota: ")
    assert new.namespaces == ("b",)
    [observed] = snapshot.deployments
    assert observed.fault is not None
    assert observed.fault.reason is Reason.TENANT_INVALID
    assert "Tenant 'old'" in observed.fault.message


def test_a_tenant_without_a_namespace_has_no_quota(mirror: Mirror) -> None:
    """It can use nothing, so that nothing is kept for it and nothing of it is lent."""
    quotas = [{"accelerator": "h100", "nominalQuota": 4, "lendingLimit": 0}]
    mirror.tenant(None, tenant("older", "a"))
    mirror.tenant(None, tenant("younger", "a", created="2026-01-01T00:00:01Z", quotas=quotas))
    _, younger = _tenants(mirror)

    assert (younger.namespaces, younger.quotas) == ((), {})


@pytest.mark.parametrize(
    ("spec", "want"), [({"resourceName": "x/y", "nodeSelector": 7}, "x/y"), ({}, "nvidia.com/gpu")]
)
def test_a_class_that_cannot_be_read_keeps_its_resource(spec: dict[str, Any], want: str) -> None:
    """So that its fence stays; nothing is granted of it."""
    mirror = Mirror()
    mirror.accelerator_class("ADDED", {"metadata": {"name": "h100"}, "spec": spec})

    assert mirror.classes() == {}
    assert mirror.resource_names() == {"h100": want}


@pytest.mark.parametrize("name", ["no name", "gpu", "requests.x/y", {"a": "b"}, "x/y/z"])
def test_a_resource_that_no_pod_can_ask_for_is_in_no_fence(mirror: Mirror, name: object) -> None:
    """A ResourceQuota that names it is refused: the fences of all tenants and classes would stay where they are."""
    spec = {"resourceName": name, "nodeSelector": SELECTOR}
    mirror.accelerator_class("ADDED", {"metadata": {"name": "odd"}, "spec": spec})

    assert mirror.resource_names() == {"h100": "nvidia.com/gpu"}


def test_outside_the_watched_namespaces_nothing_is_the_operators() -> None:
    """Deployments there are not seen, Tenants have no claim to them, and quotas there are left alone."""
    mirror = Mirror(["mine"])
    everywhere = Mirror()
    for each in (mirror, everywhere):
        for namespace in ("mine", "theirs"):
            about = {"name": "llama", "namespace": namespace, "uid": namespace, "resourceVersion": "1"}
            each.model_deployment("ADDED", {"metadata": about, "spec": {}})
            about = {"name": "modelfleet-gpus", "namespace": namespace, "uid": f"q-{namespace}", "resourceVersion": "1"}
            each.quota_table.upsert({"metadata": about, "spec": {"hard": {}}})
        each.tenant("ADDED", tenant("both", "theirs", "mine"))
        each.tenant("ADDED", tenant("other", "theirs"))

    assert {key.namespace for key in mirror.deployments} == set(mirror.quotas) == {"mine"}
    assert claims(mirror.tenants.values(), {}) == {"mine": "both"}
    assert {key.namespace for key in everywhere.deployments} == set(everywhere.quotas) == {"mine", "theirs"}
    assert claims(everywhere.tenants.values(), {}) == {"mine": "both", "theirs": "both"}


def test_a_quota_or_view_of_another_name_is_not_the_operators() -> None:
    """Labels and owners are anybody's to write; one object a namespace is looked at."""
    metadata = {"name": "mine", "namespace": "a", "uid": "q", "resourceVersion": "7"}

    assert parse_quota({"metadata": metadata, "spec": {"hard": {"requests.x/a": "1.5"}}}) is None
    assert parse_view({"metadata": metadata, "spec": {"tenant": "team"}}) is None
