"""TenantViews: in each namespace of a Tenant, what it has, for its people and for admission policies."""

from collections.abc import Iterable, Iterator
from time import monotonic

import structlog

from modelfleet.adapters.kubernetes import Conflict, Json, Kubernetes, KubernetesError, NotFound, resource_path
from modelfleet.api.meta import API_VERSION, FIELD_MANAGER
from modelfleet.api.tenantview import VIEW_NAME, ClassView, TenantViewSpec
from modelfleet.decide.snapshot import Fault, Snapshot
from modelfleet.render.quota import owner_reference
from modelfleet.shell.fence import ABSENT_SECONDS
from modelfleet.shell.lease import Leadership
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.records import TenantRecord, ViewRecord
from modelfleet.shell.tenancy import Account, worth_a_write

log = structlog.get_logger()


class ViewReporter:
    """Knows what every TenantView has to say anew."""

    def __init__(self, kubernetes: Kubernetes, mirror: Mirror, leadership: Leadership) -> None:
        """Prepare."""
        self._kubernetes = kubernetes
        self._mirror = mirror
        self._leadership = leadership
        self._began_at: float | None = None
        self._written_at: dict[str, float] = {}
        self._absent_until: dict[str, float] = {}

    def stale(self, accounts: Iterable[Account]) -> list[ViewRecord]:
        """Return the views of namespaces that are no Tenant's any more."""
        bound = {namespace for account in accounts for namespace in account.status.namespaces}
        return [view for namespace, view in self._mirror.views.items() if namespace not in bound]

    def due(
        self, accounts: Iterable[Account], snapshot: Snapshot
    ) -> Iterator[tuple[str, TenantRecord, TenantViewSpec]]:
        """Yield the views that have to be written now: namespace, owner and what to say."""
        now = snapshot.taken_at
        self._began_at = now if self._began_at is None else self._began_at
        blind = now - self._began_at < snapshot.metrics_max_age_seconds
        for account in accounts:
            if isinstance(account.record.spec, Fault):
                continue  # like its fence it stays as it is
            new = _view(account)
            for namespace in account.status.namespaces:
                if self._worth_a_write(namespace, account.record, new, now, blind=blind):
                    yield namespace, account.record, new

    async def write(self, namespace: str, tenant: TenantRecord, spec: TenantViewSpec, *, now: float) -> bool:
        """Write one view; return whether that need not be tried again."""
        if not self._leadership.held():
            return False
        manifest: Json = {
            "apiVersion": API_VERSION,
            "kind": "TenantView",
            "metadata": {
                "name": VIEW_NAME,
                "namespace": namespace,
                "ownerReferences": [owner_reference(tenant.name, tenant.uid)],
            },
            "spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        try:
            answer = await self._kubernetes.apply(manifest, field_manager=FIELD_MANAGER)
        except NotFound:
            self._absent_until[namespace] = monotonic() + ABSENT_SECONDS
            return True
        except KubernetesError as error:
            log.warning("tenant view not written; retrying", namespace=namespace, error=str(error))
            return False
        self._written_at[namespace] = now
        self._mirror.view_table.upsert(answer)
        return True

    async def delete(self, view: ViewRecord) -> bool:
        """Delete one view; return whether that need not be tried again."""
        if not self._leadership.held():
            return False
        path = resource_path(API_VERSION, "TenantView", namespace=view.key.namespace, name=view.key.name)
        try:
            await self._kubernetes.delete(path, uid=view.uid)
        except (NotFound, Conflict):
            return True
        except KubernetesError as error:
            log.warning("tenant view not deleted; retrying", namespace=view.key.namespace, error=str(error))
            return False
        return True

    def _worth_a_write(
        self, namespace: str, tenant: TenantRecord, new: TenantViewSpec, now: float, *, blind: bool
    ) -> bool:
        if monotonic() < self._absent_until.get(namespace, 0.0):
            return False
        live, written_at = self._mirror.views.get(namespace), self._written_at.get(namespace)
        if live is None or live.spec is None or live.owner_uid != tenant.uid:
            return True
        return worth_a_write(
            now,
            written_at=written_at,
            blind=blind,
            bounds=_bounds(live.spec) != _bounds(new),
            words=live.spec.reason != new.reason,
            counts=live.spec != new,
        )


def _view(account: Account) -> TenantViewSpec:
    status = account.status
    classes = tuple(
        ClassView(
            accelerator=row.accelerator,
            guaranteed=row.guaranteed,
            used=row.used,
            borrowed=row.borrowed,
            lent=row.lent,
            waiting=row.waiting,
            nominal_quota=row.quota.nominal_gpus,
            limit=row.quota.limit_gpus,
            minimums=row.minimums,
            largest_node_gpus=row.largest_node_gpus,
        )
        for row in account.rows
    )
    return TenantViewSpec(
        tenant=account.record.name,
        used=", ".join(f"{each.accelerator} {each.used}/{each.nominal_quota}" for each in classes),
        waiting=status.waiting,
        reason=status.reason,
        # The last condition of this reason has the numbers: WithinQuota says only that no limit is passed.
        message=next((each.message for each in reversed(status.conditions) if each.reason == status.reason), ""),
        classes=classes,
    )


def _bounds(view: TenantViewSpec) -> tuple[object, ...]:
    """Return what admission policies judge by, and people set."""
    return (
        view.tenant,
        tuple(
            (each.accelerator, each.nominal_quota, each.limit, each.minimums, each.largest_node_gpus)
            for each in view.classes
        ),
    )
