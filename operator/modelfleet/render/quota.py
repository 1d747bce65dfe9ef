"""The fence: one ResourceQuota in each namespace of a tenant, by which the API server itself refuses pods.

`docs/design/0003-tenants.md` has the rules. Counts are GPUs; a Split is namespace to `requests.<resourceName>` to GPUs.
"""

from collections.abc import Mapping
from typing import Any

from modelfleet.api.meta import API_VERSION, FENCE_EPOCH_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL
from modelfleet.decide.snapshot import Tenant

QUOTA_NAME = "modelfleet-gpus"

Split = dict[str, dict[str, int]]
Place = tuple[str, str]
"""A namespace and the name of a resource."""


def hard_limits(
    tenant: Tenant, *, resources: Mapping[str, str], held: Mapping[Place, int], needed: Mapping[Place, int]
) -> Split:
    """Return the hard limits of a tenant's namespaces; added up they are its limit of each resource.

    Args:
        tenant: The tenant; a class that it does not list is closed to it.
        resources: Resource name of every accelerator class.
        held: What pods request that are not finished.
        needed: The same, and what granted replicas that are not there yet will request.
    """
    namespaces = sorted(tenant.namespaces)
    split: Split = {namespace: {} for namespace in namespaces}
    for resource in sorted(set(resources.values())):
        needs = {namespace: needed.get((namespace, resource), 0) for namespace in namespaces}
        limit = _limit(tenant, resource, resources, sum(needs.values()))
        floors = {namespace: held.get((namespace, resource), 0) for namespace in namespaces}
        for namespace, hard in _divide(limit, floors, needs).items():
            split[namespace][f"requests.{resource}"] = hard
    return split


def _limit(tenant: Tenant, resource: str, resources: Mapping[str, str], needed: int) -> int:
    quotas = [quota for name, quota in tenant.quotas.items() if resources.get(name) == resource]
    limit = sum(quota.nominal_gpus + (quota.borrowing_limit_gpus or 0) for quota in quotas)
    unlimited = any(quota.borrowing_limit_gpus is None for quota in quotas)
    return max(limit, needed) if unlimited else limit


def _divide(limit: int, held: Mapping[str, int], needed: Mapping[str, int]) -> dict[str, int]:
    """Give each namespace what it holds, then what it needs, as far as the limit goes; the first gets what is left.

    While more is held than the limit, none may replace a pod that ends: each has as much less as is too much in all.
    """
    too_much = sum(held.values()) - limit
    if too_much > 0:
        return {namespace: max(0, gpus - too_much) for namespace, gpus in held.items()}
    left = limit
    shares = dict.fromkeys(held, 0)
    for wants in (held, needed):
        for namespace, want in wants.items():
            more = min(left, max(0, want - shares[namespace]))
            shares[namespace] += more
            left -= more
    for namespace in list(shares)[:1]:
        shares[namespace] += left
    return shares


def lowered(granted: Split, wanted: Split) -> Split:
    """Return the split on the way from one to another: what is taken is taken, and nothing is given yet."""
    return {
        namespace: {name: min(hard, granted.get(namespace, {}).get(name, 0)) for name, hard in limits.items()}
        for namespace, limits in wanted.items()
    }


def raised(low: Split, wanted: Split, used: Mapping[str, Mapping[str, int]]) -> Split:
    """Return how far a split may be raised: pods that came while it was being lowered count beside the limits.

    Args:
        low: The limits in force.
        wanted: What they are to become; added up they are the tenant's limit.
        used: What pods request by namespace, by the names of the limits.
    """
    split: Split = {namespace: {} for namespace in wanted}
    for name in sorted({name for limits in wanted.values() for name in limits}):
        taken = {namespace: max(low[namespace][name], used.get(namespace, {}).get(name, 0)) for namespace in wanted}
        left = sum(limits[name] for limits in wanted.values()) - sum(taken.values())
        for namespace, limits in wanted.items():
            # Up to what its pods have already it costs the others nothing, unless there is too much of them in all.
            if left < 0:
                split[namespace][name] = low[namespace][name]
                continue
            hard = min(limits[name], taken[namespace])
            more = min(left, limits[name] - hard)
            split[namespace][name] = hard + more
            left -= more
    return split


def new_quota(namespace: str, tenant: str, uid: str, hard: Mapping[str, int]) -> dict[str, Any]:
    """Return the manifest of a ResourceQuota that does not exist yet and lets nothing through."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {
            "name": QUOTA_NAME,
            "namespace": namespace,
            "labels": {MANAGED_BY_LABEL: MANAGED_BY, "app.kubernetes.io/part-of": "modelfleet"},
            "annotations": {FENCE_EPOCH_ANNOTATION: "0"},
            "ownerReferences": [owner_reference(tenant, uid)],
        },
        "spec": {"hard": dict.fromkeys(hard, "0")},
    }


def quota_patch(
    tenant: str, uid: str, hard: Mapping[str, int], *, epoch: int, seen: int | None
) -> list[dict[str, Any]]:
    """Return the JSON patch that sets the limits; it fails where the quota is of another epoch than was seen.

    Args:
        tenant: The Tenant that owns it, and with which it goes.
        uid: The Tenant's UID.
        hard: The limits.
        epoch: The fence's epoch.
        seen: The epoch that the quota had; None where it has none.
    """
    annotation = f"/metadata/annotations/{FENCE_EPOCH_ANNOTATION.replace('/', '~1')}"
    return [
        *([{"op": "test", "path": annotation, "value": str(seen)}] if seen is not None else []),
        {"op": "add", "path": annotation, "value": str(epoch)}
        if seen is not None
        else {"op": "add", "path": "/metadata/annotations", "value": {FENCE_EPOCH_ANNOTATION: str(epoch)}},
        {"op": "add", "path": "/metadata/ownerReferences", "value": [owner_reference(tenant, uid)]},
        {"op": "add", "path": "/spec/hard", "value": {name: str(gpus) for name, gpus in hard.items()}},
    ]


def owner_reference(tenant: str, uid: str) -> dict[str, Any]:
    """Return what makes an object a Tenant's."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Tenant",
        "name": tenant,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
