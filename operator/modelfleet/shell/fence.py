"""Writes the fence: a ResourceQuota in each namespace of a tenant, none ever allowing what another still may.

The limit of a tenant moves between its namespaces. Two operators that both believe to lead, or one that was paused,
must not give the same GPUs twice. So a move goes through one record, the split in the Tenant's status, and each step
of it fails where somebody else made one meanwhile (docs/design/0003-tenants.md, "The fence"):

1. what is to be taken is taken from the record, which begins an epoch;
2. every ResourceQuota is brought down to the record and into the epoch. It is patched only in the epoch in which it was
   seen before the record was read: who read an older record is refused from now on;
3. the API server has to go by the lower limits, and what pods have got meanwhile counts;
4. what is to be given is given in the record, and then in the ResourceQuotas.
"""

import asyncio
from collections.abc import Mapping
from time import monotonic

import structlog

from modelfleet.adapters.kubernetes import (
    Conflict,
    Json,
    Kubernetes,
    KubernetesError,
    NotFound,
    Refused,
    resource_path,
)
from modelfleet.api.meta import API_VERSION, FENCE_FIELD_MANAGER, FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL
from modelfleet.api.tenant import FenceStatus, NamespaceLimit
from modelfleet.render.quota import QUOTA_NAME, Split, lowered, new_quota, quota_patch, raised
from modelfleet.shell.lease import Leadership
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.records import QuotaRecord, TenantRecord, parse_quota, parse_tenant

ABSENT_SECONDS = 15.0
"""Between two attempts to fence a namespace that a Tenant names and that does not exist."""
ENFORCED_SECONDS, ENFORCED_LOOK_SECONDS = 3.0, 0.05
"""How long a lower limit may take to be the one that the API server goes by, before the move is tried again."""

log = structlog.get_logger()


class Fence:
    """Moves the limits of tenants."""

    def __init__(self, kubernetes: Kubernetes, mirror: Mirror, leadership: Leadership) -> None:
        """Prepare."""
        self._kubernetes = kubernetes
        self._mirror = mirror
        self._leadership = leadership
        self._absent_until: dict[str, float] = {}

    def differs(self, tenant: TenantRecord, wanted: Split) -> bool:
        """Return whether a tenant's fence is not as it should be."""
        recorded = tenant.status.fence if tenant.status else None
        if (split_of(recorded) if recorded else {}) != (wanted if _divides(wanted) else {}):
            return True
        epoch = recorded.epoch if _divides(wanted) and recorded is not None else None
        quotas = self._mirror.quotas
        return any(self._is_off(tenant, name, quotas.get(name), hard, epoch) for name, hard in wanted.items())

    async def move(self, tenant: TenantRecord, wanted: Split) -> bool:
        """Bring a tenant's fence to a split; return whether it is there."""
        try:
            return await self._move(tenant, wanted)
        except KubernetesError as error:
            # A conflict too: somebody else moved it, or the Tenant is another one by now.
            log.warning("fence not moved; looking again", tenant=tenant.name, error=str(error))
        return False

    async def remove(self, quota: QuotaRecord) -> bool:
        """Delete the ResourceQuota of a namespace that is no tenant's any more."""
        try:
            self._leadership.ask()
            await self._kubernetes.delete(_path(quota.key.namespace), uid=quota.uid)
        except (NotFound, Conflict):
            return True
        except KubernetesError as error:
            log.warning("quota not deleted; retrying", namespace=quota.key.namespace, error=str(error))
            return False
        return True

    async def _move(self, tenant: TenantRecord, wanted: Split) -> bool:
        # Before the record is read: a quota that was brought into a newer epoch since is not written.
        seen = {namespace: self._mirror.quotas.get(namespace) for namespace in wanted}
        if not _divides(wanted) and not (tenant.status and tenant.status.fence and tenant.status.fence.limits):
            return await self._write(tenant, seen, wanted, epoch=None)
        now = await self._kubernetes.get(resource_path(API_VERSION, "Tenant", name=tenant.name))
        fresh = parse_tenant(now)
        if (fresh.uid, fresh.generation) != (tenant.uid, tenant.generation):
            return False
        recorded = fresh.status.fence if fresh.status else None
        version = now["metadata"]["resourceVersion"]
        before, epoch = (split_of(recorded), recorded.epoch) if recorded else ({}, 0)
        if not _divides(wanted):
            # Before the quota is raised: a split that comes later does not begin with this one.
            await self._record(tenant, {}, epoch=epoch, version=version)
            return await self._write(tenant, seen, wanted, epoch=None)
        there = [quota for quota in seen.values() if quota is not None]
        newest = max([epoch, *(quota.epoch or 0 for quota in there)])
        # Not split so far: one of the quotas may have the whole limit. Without any, there is nothing to be taken.
        low = lowered(before or {quota.key.namespace: dict(quota.hard) for quota in there} or wanted, wanted)
        if low != before or newest > epoch:
            epoch = newest + 1
            version = await self._record(tenant, low, epoch=epoch, version=version)
        if not await self._write(tenant, seen, low, epoch=epoch):
            return False
        if low == wanted:
            return True
        if not await self._in_force(low):
            log.info("lower limits are not in force yet; looking again", tenant=tenant.name)
            return False
        high = raised(low, wanted, self._used(wanted))
        if high != low:
            # Before it is given: the record is still of this epoch, so these quotas are of no later one.
            seen = {namespace: self._mirror.quotas.get(namespace) for namespace in wanted}
            await self._record(tenant, high, epoch=epoch, version=version)
            if not await self._write(tenant, seen, high, epoch=epoch):
                return False
        return high == wanted

    async def _record(self, tenant: TenantRecord, split: Split, *, epoch: int, version: str) -> str:
        """Write the split into the Tenant's status if that is of the given version; return its version then."""
        limits = tuple(
            NamespaceLimit(namespace=namespace, resource=name.removeprefix("requests."), gpus=hard)
            for namespace, limits in split.items()
            for name, hard in limits.items()
        )
        manifest: Json = {
            "apiVersion": API_VERSION,
            "kind": "Tenant",
            "metadata": {"name": tenant.name, "uid": tenant.uid, "resourceVersion": version},
            "status": {"fence": FenceStatus(epoch=epoch, limits=limits).model_dump(mode="json", by_alias=True)},
        }
        self._leadership.ask()
        answer = await self._kubernetes.apply(manifest, field_manager=FENCE_FIELD_MANAGER, subresource="status")
        self._mirror.tenant("MODIFIED", answer)
        return str(answer["metadata"]["resourceVersion"])

    async def _write(
        self, tenant: TenantRecord, seen: Mapping[str, QuotaRecord | None], split: Split, *, epoch: int | None
    ) -> bool:
        """Write the ResourceQuotas that are not as they should be; return whether all are there."""
        there = [
            await self._write_one(tenant, namespace, seen[namespace], hard, epoch)
            for namespace, hard in split.items()
            if self._is_off(tenant, namespace, seen[namespace], hard, epoch)
        ]
        return all(there)

    async def _write_one(
        self, tenant: TenantRecord, namespace: str, seen: QuotaRecord | None, hard: Mapping[str, int], epoch: int | None
    ) -> bool:
        if seen is not None and seen.scoped:
            self._leadership.ask()
            await self._kubernetes.delete(_path(namespace), uid=seen.uid)
            seen = None
        if seen is None:
            seen = await self._create(tenant, namespace, hard)
            if seen is None:
                return namespace in self._absent_until  # where there is no namespace there are no pods
        if epoch is None:
            epoch = seen.epoch or 0
        operations = quota_patch(tenant.name, tenant.uid, hard, epoch=epoch, seen=seen.epoch)
        self._leadership.ask()
        answer = await self._kubernetes.json_patch(_path(namespace), operations, field_manager=FIELD_MANAGER)
        self._mirror.quota_table.upsert(answer)
        return True

    async def _create(self, tenant: TenantRecord, namespace: str, hard: Mapping[str, int]) -> QuotaRecord | None:
        """Create a ResourceQuota that lets nothing through; None where there is no namespace for it."""
        self._absent_until.pop(namespace, None)
        self._leadership.ask()
        try:
            answer = await self._kubernetes.apply(
                new_quota(namespace, tenant.name, tenant.uid, hard), field_manager=FENCE_FIELD_MANAGER, force=False
            )
        except Conflict:
            # It exists and is not watched: somebody took its label away.
            labels = {"metadata": {"labels": {MANAGED_BY_LABEL: MANAGED_BY}}}
            answer = await self._kubernetes.merge_patch(_path(namespace), labels, field_manager=FIELD_MANAGER)
            self._mirror.quota_table.upsert(answer)
            return None
        except (NotFound, Refused) as error:
            if isinstance(error, Refused) and "being terminated" not in str(error):
                raise
            self._absent_until[namespace] = monotonic() + ABSENT_SECONDS
            return None
        self._mirror.quota_table.upsert(answer)
        return parse_quota(answer)

    async def _in_force(self, low: Split) -> bool:
        """Wait until the API server goes by limits that were lowered."""
        give_up = monotonic() + ENFORCED_SECONDS
        while not all(
            quota.enforced.get(name, hard + 1) <= hard
            for namespace, limits in low.items()
            if (quota := self._mirror.quotas.get(namespace)) is not None
            for name, hard in limits.items()
        ):
            if monotonic() > give_up:
                return False
            await asyncio.sleep(ENFORCED_LOOK_SECONDS)
        return True

    def _used(self, wanted: Split) -> dict[str, dict[str, int]]:
        used: dict[str, dict[str, int]] = {}
        for namespace, limits in wanted.items():
            quota = self._mirror.quotas.get(namespace)
            used[namespace] = {
                name: max(
                    self._mirror.requested[namespace, name.removeprefix("requests.")],
                    quota.used.get(name, 0) if quota is not None else 0,
                )
                for name in limits
            }
        return used

    def _is_off(
        self,
        tenant: TenantRecord,
        namespace: str,
        quota: QuotaRecord | None,
        hard: Mapping[str, int],
        epoch: int | None,
    ) -> bool:
        if monotonic() < self._absent_until.get(namespace, 0.0):
            return False
        if quota is None or quota.scoped or quota.owner_uid != tenant.uid or quota.hard != hard:
            return True
        return epoch is not None and quota.epoch != epoch


def _divides(split: Split) -> bool:
    """Return whether a limit is divided: one namespace has it whole, and without an AcceleratorClass there is none."""
    return len(split) > 1 and any(split.values())


def split_of(fence: FenceStatus) -> Split:
    """Return the split that a Tenant's status records."""
    split: Split = {}
    for limit in fence.limits:
        split.setdefault(limit.namespace, {})[f"requests.{limit.resource}"] = limit.gpus
    return split


def _path(namespace: str) -> str:
    return resource_path("v1", "ResourceQuota", namespace=namespace, name=QUOTA_NAME)
