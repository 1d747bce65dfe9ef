"""What Tenants are told: their status, written when it says something new and not more often than it must be."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from modelfleet.adapters.kubernetes import Conflict, Json, Kubernetes, KubernetesError, NotFound
from modelfleet.api.meta import API_VERSION, FIELD_MANAGER
from modelfleet.api.tenant import ClassUsage, TenantStatus
from modelfleet.decide.explain import condition
from modelfleet.decide.plan import Plan
from modelfleet.decide.shares import Reclaim
from modelfleet.decide.snapshot import Fault, Snapshot
from modelfleet.decide.standing import (
    Standing,
    TenantVerdict,
    judge_claims,
    judge_tenant,
    judge_unreadable,
    one_word,
    standings,
)
from modelfleet.shell.lease import Leadership
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.records import TenantRecord

COUNTS_SECONDS = 10.0
"""Shortest time between two writes of one status that only bring its counts up to date."""
MESSAGE_LENGTH = 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Account:
    """One Tenant, what it has of each class, and the status that says so."""

    record: TenantRecord
    rows: tuple[Standing, ...]
    status: TenantStatus


class TenantReporter:
    """Knows what every Tenant's status has to say anew."""

    def __init__(self, kubernetes: Kubernetes, mirror: Mirror, leadership: Leadership) -> None:
        """Prepare."""
        self._kubernetes = kubernetes
        self._mirror = mirror
        self._leadership = leadership
        self._began_at: float | None = None
        self._written_at: dict[str, float] = {}
        self._draining: tuple[Reclaim, ...] = ()

    def accounts(self, snapshot: Snapshot, plan: Plan) -> list[Account]:
        """Return what every Tenant has now."""
        self._draining = _still_draining(self._draining, snapshot, plan)
        owner = {namespace: tenant.name for tenant in snapshot.tenants for namespace in tenant.namespaces}
        rows = standings(snapshot, plan) if snapshot.tenants else {}
        found = []
        for tenant in snapshot.tenants:
            record = self._mirror.tenants[tenant.name]
            verdicts: tuple[TenantVerdict, ...]
            if isinstance(record.spec, Fault):
                verdicts = (judge_unreadable(record.spec),)
            else:
                taken = {name: owner[name] for name in record.spec.namespaces if owner[name] != tenant.name}
                verdicts = (*judge_tenant(tenant, rows[tenant.name], self._draining), judge_claims(taken))
            status = _status(record, tenant.namespaces, rows[tenant.name], verdicts, snapshot.taken_at)
            found.append(Account(record, rows[tenant.name], status))
        return found

    def due(self, accounts: Iterable[Account], snapshot: Snapshot) -> Iterator[tuple[TenantRecord, TenantStatus]]:
        """Yield the statuses that have to be written now."""
        now = snapshot.taken_at
        self._began_at = now if self._began_at is None else self._began_at
        for name in self._written_at.keys() - {tenant.name for tenant in snapshot.tenants}:
            del self._written_at[name]
        for account in accounts:
            if self._worth_a_write(account.record, account.status, now, snapshot.metrics_max_age_seconds):
                yield account.record, account.status

    async def write(self, record: TenantRecord, status: TenantStatus, *, now: float) -> bool:
        """Write one status; return whether that need not be tried again."""
        if not self._leadership.held():
            return False
        manifest: Json = {
            "apiVersion": API_VERSION,
            "kind": "Tenant",
            "metadata": {"name": record.name, "uid": record.uid},
            # The fence has its own writer.
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"fence"}),
        }
        try:
            answer = await self._kubernetes.apply(manifest, field_manager=FIELD_MANAGER, subresource="status")
        except (NotFound, Conflict):
            return True  # deleted, or made anew, meanwhile
        except KubernetesError as error:
            log.warning("tenant status not written; retrying", tenant=record.name, error=str(error))
            return False
        self._written_at[record.name] = now
        self._mirror.tenant("MODIFIED", answer)
        return True

    def _worth_a_write(self, record: TenantRecord, new: TenantStatus, now: float, blind_seconds: float) -> bool:
        old, written_at = record.status, self._written_at.get(record.name)
        if old is None or (old.observed_generation, old.namespaces) != (new.observed_generation, new.namespaces):
            return True
        assert self._began_at is not None  # noqa: S101 - due() sets it
        return worth_a_write(
            now,
            written_at=written_at,
            blind=now - self._began_at < blind_seconds,
            bounds=False,
            words=_truths(old) != _truths(new),
            counts=old.classes != new.classes,
        )


def worth_a_write(
    now: float, *, written_at: float | None, blind: bool, bounds: bool, words: bool, counts: bool
) -> bool:
    """Return whether what is told of a tenant has to be told anew now.

    Args:
        now: Seconds since the epoch.
        written_at: When this process last wrote it; None before.
        blind: Whether this process may still lack signals that an earlier one wrote it with.
        bounds: Whether what people set has changed; it waits for nothing.
        words: Whether reasons have changed.
        counts: Whether anything has; counts wait for COUNTS_SECONDS.
    """
    if bounds:
        return True
    if written_at is None and blind:
        return False
    return words or (counts and (written_at is None or now - written_at >= COUNTS_SECONDS))


def _still_draining(before: tuple[Reclaim, ...], snapshot: Snapshot, plan: Plan) -> tuple[Reclaim, ...]:
    """Return what was decided to be given back and is not gone yet."""
    pods = {observed.key: {pod.name for pod in observed.pods} for observed in snapshot.deployments}
    new = [reclaim for decision in plan.decisions.values() for reclaim in decision.reclaims]
    return tuple(
        reclaim
        for reclaim in dict.fromkeys((*before, *new))
        if not pods.get(reclaim.key, set()).isdisjoint(reclaim.pods)
    )


def _status(
    record: TenantRecord,
    namespaces: tuple[str, ...],
    rows: tuple[Standing, ...],
    verdicts: tuple[TenantVerdict, ...],
    now: float,
) -> TenantStatus:
    at = datetime.fromtimestamp(int(now), UTC)
    before = record.status.conditions if record.status else ()
    return TenantStatus(
        observed_generation=record.generation,
        guaranteed=sum(row.guaranteed for row in rows),
        used=sum(row.used for row in rows),
        borrowed=sum(row.borrowed for row in rows),
        lent=sum(row.lent for row in rows),
        waiting=sum(row.waiting for row in rows),
        reason=one_word(verdicts),
        classes=tuple(
            ClassUsage(
                accelerator=row.accelerator,
                guaranteed=row.guaranteed,
                used=row.used,
                borrowed=row.borrowed,
                lent=row.lent,
                waiting=row.waiting,
            )
            for row in rows
        ),
        namespaces=namespaces,
        updated_at=at,
        conditions=tuple(
            condition(
                verdict.type.value,
                "True" if verdict.holds else "False",
                verdict.reason,
                verdict.message[:MESSAGE_LENGTH],
                generation=record.generation,
                previous=before,
                at=at,
            )
            for verdict in verdicts
        ),
    )


def _truths(status: TenantStatus) -> tuple[object, ...]:
    return (status.reason, tuple((each.type, each.status, each.reason) for each in status.conditions))
