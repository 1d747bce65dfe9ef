"""The cluster listed once, into the same mirror that the operator's watches feed."""

from collections.abc import Callable
from dataclasses import dataclass

from modelfleet.adapters.kubernetes import Json, Kubernetes, resource_path
from modelfleet.adapters.reflector import Sink
from modelfleet.api.meta import API_VERSION, MANAGED_BY, MANAGED_BY_LABEL
from modelfleet.shell.mirror import Mirror

OWNED = f"{MANAGED_BY_LABEL}={MANAGED_BY}"


@dataclass(frozen=True, slots=True)
class Collection:
    """One kind, and the part of a mirror that takes it."""

    path: str
    sink: Sink
    label_selector: str = ""


def seen(mirror: Mirror) -> tuple[Collection, ...]:
    """Return what a snapshot is made of beside the operator's own kinds."""
    return (
        Collection(resource_path("v1", "Pod"), mirror.pods),
        Collection(resource_path("v1", "Node"), mirror.nodes),
        Collection(resource_path("apps/v1", "Deployment"), mirror.deployment_children, OWNED),
        Collection(resource_path("apps/v1", "ReplicaSet"), mirror.replica_sets, OWNED),
        Collection(resource_path("autoscaling/v2", "HorizontalPodAutoscaler"), mirror.autoscalers),
        # A Tenant that cannot be read keeps the namespaces that it has.
        Collection(resource_path("v1", "ResourceQuota"), mirror.quota_table, OWNED),
    )


def kept_in_order(mirror: Mirror) -> tuple[Collection, ...]:
    """Return what the operator only keeps as it should be."""
    return (
        Collection(resource_path("v1", "Service"), mirror.services, OWNED),
        Collection(resource_path("policy/v1", "PodDisruptionBudget"), mirror.budgets, OWNED),
        Collection(resource_path(API_VERSION, "TenantView"), mirror.view_table),
    )


async def list_own_kinds(kubernetes: Kubernetes, mirror: Mirror) -> None:
    """Take the operator's own kinds as they are now; what is gone is forgotten.

    Raises:
        KubernetesError: If one cannot be listed.
    """
    takers: tuple[tuple[str, Callable[[str | None, Json], None]], ...] = (
        ("InferenceRuntime", mirror.inference_runtime),
        ("AcceleratorClass", mirror.accelerator_class),
        ("Tenant", mirror.tenant),
        ("ModelDeployment", mirror.model_deployment),
    )
    for kind, take in takers:
        found = await _list(kubernetes, resource_path(API_VERSION, kind))
        for item in found:
            take("ADDED", item)
        alive = {item["metadata"]["uid"] for item in found}
        if kind == "ModelDeployment":
            mirror.forget_deployments_except(alive)
        elif kind == "Tenant":
            mirror.forget_tenants_except(alive)


async def read_cluster(kubernetes: Kubernetes) -> Mirror:
    """Return a mirror of the cluster as it is now, for one snapshot.

    Raises:
        KubernetesError: If something cannot be listed.
    """
    mirror = Mirror()
    await list_own_kinds(kubernetes, mirror)
    for collection in seen(mirror):
        collection.sink.replace(await _list(kubernetes, collection.path, collection.label_selector))
    return mirror


async def _list(kubernetes: Kubernetes, path: str, label_selector: str = "") -> list[Json]:
    found: list[Json] = []
    async for page in kubernetes.pages(path, label_selector=label_selector):
        found += page["items"]
    return found
