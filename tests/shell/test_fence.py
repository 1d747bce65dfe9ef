"""When a tenant's fence is not as it should be."""

from __future__ import annotations

from typing import Any, cast

from modelfleet.api.tenant import FenceStatus, NamespaceLimit
from modelfleet.render.quota import new_quota
from modelfleet.shell.fence import Fence
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.records import TenantRecord, parse_tenant
from tests.shell.test_mirror_tenants import tenant

GPU = "requests.nvidia.com/gpu"


def quota(namespace: str, gpus: int | None, *, epoch: str = "1") -> dict[str, Any]:
    """Return a ResourceQuota that the operator wrote."""
    item = new_quota(namespace, "team", "team", {} if gpus is None else {GPU: gpus})
    item["metadata"] |= {"uid": namespace, "resourceVersion": "1", "annotations": {"modelfleet.dev/fence-epoch": epoch}}
    if gpus is not None:
        item["spec"]["hard"][GPU] = str(gpus)
        owned = {"f:spec": {"f:hard": {f"f:{GPU}": {}}}}
        item["metadata"]["managedFields"] = [{"manager": "modelfleet", "fieldsV1": owned}]
    return item


def recorded(fence: FenceStatus | None) -> TenantRecord:
    status = {} if fence is None else {"fence": fence.model_dump(mode="json", by_alias=True)}
    return parse_tenant({**tenant("team", "a", "b"), "status": status})


def fence(*quotas: dict[str, Any]) -> Fence:
    mirror = Mirror()
    mirror.quota_table.replace(quotas)
    return Fence(cast("Any", None), mirror, cast("Any", None))


def test_without_a_class_there_is_nothing_to_divide() -> None:
    """Two namespaces and no limit: no record is written, tick for tick."""
    kept = fence(quota("a", None), quota("b", None))
    assert not kept.differs(recorded(None), {"a": {}, "b": {}})


def test_a_split_is_forgotten_where_one_namespace_has_all() -> None:
    """Else a split that comes later would begin with it."""
    limits = tuple(NamespaceLimit(namespace=name, resource="nvidia.com/gpu", gpus=1) for name in ("a", "b"))
    kept = fence(quota("a", 2))
    assert kept.differs(recorded(FenceStatus(epoch=1, limits=limits)), {"a": {GPU: 2}})
    assert not kept.differs(recorded(FenceStatus(epoch=1)), {"a": {GPU: 2}})


def test_an_epoch_that_no_status_can_hold_is_none() -> None:
    """Whoever may edit a quota may write anything there."""
    for epoch in ("²", "9" * 12, "9" * 5_000, "", "-1"):
        mirror = Mirror()
        mirror.quota_table.replace([quota("a", 2, epoch=epoch)])
        assert mirror.quotas["a"].epoch is None
