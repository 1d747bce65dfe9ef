"""What Tenants and the pods of their namespaces become in a snapshot."""

from typing import Any

import pytest

from modelfleet.adapters.scrape import Scraper
from modelfleet.decide.snapshot import Allowance, Node, Quota, Tenant, Tokens
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.observe import claims, observe
from modelfleet.shell.records import parse_quota, parse_tenant

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
        assert claims(map(parse_tenant, order)) == expected
    early["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    assert claims(map(parse_tenant, [late, early, twin]))["shared"] == "z"


def test_a_quota_is_read_as_far_as_the_operator_owns_it() -> None:
    """Amounts as the API server writes them; a limit that somebody else set last is not the operator's."""
    item = {
        "metadata": {
            "name": "modelfleet-gpus",
            "namespace": "a",
            "uid": "q",
            "resourceVersion": "7",
            "managedFields": [
                {
                    "manager": "modelfleet",
                    "operation": "Apply",
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
    }

    assert parse_quota(item).hard == {"requests.x/a": 12, "requests.x/b": 2000}
