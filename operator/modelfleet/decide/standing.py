"""What every tenant has, owes and waits for, as its status and its events tell it. Nothing is decided here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from modelfleet.api.conditions import Reason, TenantCondition
from modelfleet.api.tenant import MOST_GPUS
from modelfleet.decide.explain import why_taken
from modelfleet.decide.plan import Plan, StepName
from modelfleet.decide.shares import Reclaim
from modelfleet.decide.snapshot import Fault, Quota, Snapshot, Tenant


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One tenant and one accelerator class, in GPUs; the words are those of ClassView."""

    accelerator: str
    quota: Quota
    guaranteed: int
    used: int
    borrowed: int
    lent: int
    waiting: int
    minimums: int
    largest_node_gpus: int


@dataclass(frozen=True, slots=True)
class TenantVerdict:
    """One condition of a Tenant without its times."""

    type: TenantCondition
    holds: bool
    reason: Reason
    message: str


def standings(snapshot: Snapshot, plan: Plan) -> dict[str, tuple[Standing, ...]]:
    """Return the standing of every tenant in each class of its quotas, by name."""
    tenant_of = {namespace: tenant.name for tenant in snapshot.tenants for namespace in tenant.namespaces}
    held: dict[tuple[str, str], int] = {}
    asked: dict[tuple[str, str], int] = {}
    waiting: dict[tuple[str, str], int] = {}
    minimums: dict[tuple[str, str], int] = {}
    for observed in snapshot.deployments:
        if observed.spec is None:
            continue
        place = tenant_of.get(observed.key.namespace, ""), observed.spec.accelerator
        gpus = observed.spec.gpus_per_replica
        has = sum(1 for pod in observed.pods if pod.node and not pod.terminating)
        decision = plan.decisions[observed.key]
        wants = next((step.replicas for step in decision.steps if step.name is StepName.ADMIT), decision.current)
        held[place] = held.get(place, 0) + has * gpus
        asked[place] = asked.get(place, 0) + wants * gpus
        waiting[place] = waiting.get(place, 0) + max(0, wants - has) * gpus
        minimums[place] = minimums.get(place, 0) + observed.spec.scaling.min_replicas * gpus
    classes = {accelerator for tenant in snapshot.tenants for accelerator in tenant.quotas}
    lent = {accelerator: _lent(snapshot, accelerator, held.get(("", accelerator), 0)) for accelerator in classes}
    largest = {
        accelerator: max((node.allocatable_gpus for node in snapshot.nodes.get(accelerator, ())), default=0)
        for accelerator in classes
    }
    found: dict[str, tuple[Standing, ...]] = {}
    for tenant in snapshot.tenants:
        rows = []
        for accelerator, quota in sorted(tenant.quotas.items()):
            place = tenant.name, accelerator
            used = tenant.used_gpus.get(accelerator, 0)
            demand = max(0, used - held.get(place, 0)) + asked.get(place, 0)
            rows.append(
                Standing(
                    accelerator=accelerator,
                    quota=quota,
                    guaranteed=min(demand, quota.nominal_gpus),
                    used=used,
                    borrowed=max(0, used - quota.nominal_gpus),
                    lent=lent[accelerator].get(tenant.name, 0),
                    # A team may ask for what no cluster has: its own numbers end where a status can hold them.
                    waiting=min(MOST_GPUS, waiting.get(place, 0)),
                    minimums=min(MOST_GPUS, minimums.get(place, 0)),
                    largest_node_gpus=largest[accelerator],
                )
            )
        found[tenant.name] = tuple(rows)
    return found


def _lent(snapshot: Snapshot, accelerator: str, unbound: int) -> dict[str, int]:
    """Return what each tenant lends: what is borrowed beyond what is nobody's, from those that leave most idle."""
    mine = [tenant for tenant in snapshot.tenants if accelerator in tenant.quotas]
    capacity = sum(node.allocatable_gpus for node in snapshot.nodes.get(accelerator, ()))
    surplus = max(0, capacity - sum(tenant.quotas[accelerator].nominal_gpus for tenant in mine))
    lent: dict[str, int] = {}
    for cohort in sorted({tenant.cohort for tenant in mine} | {""}):
        members = [tenant for tenant in mine if tenant.cohort == cohort]
        borrowed = sum(max(0, _used(tenant, accelerator)) for tenant in members) + (unbound if cohort == "" else 0)
        beyond, surplus = max(0, borrowed - surplus), max(0, surplus - borrowed)
        for tenant in sorted(members, key=lambda tenant: (_used(tenant, accelerator), tenant.name)):
            quota = tenant.quotas[accelerator]
            idle = max(0, -_used(tenant, accelerator))
            lendable = idle if quota.lending_limit_gpus is None else min(idle, quota.lending_limit_gpus)
            lent[tenant.name] = min(beyond, lendable)
            beyond -= lent[tenant.name]
    return lent


def _used(tenant: Tenant, accelerator: str) -> int:
    """Return what a tenant uses beyond nominal; negative where it leaves some idle."""
    return tenant.used_gpus.get(accelerator, 0) - tenant.quotas[accelerator].nominal_gpus


def judge_tenant(
    tenant: Tenant, standing: Iterable[Standing], reclaims: Iterable[Reclaim]
) -> tuple[TenantVerdict, ...]:
    """Return a tenant's conditions that follow from the decision; each names the other side and its reason.

    Args:
        tenant: The tenant.
        standing: What it has of each class.
        reclaims: Everybody's, of this decision.
    """
    rows, reclaims = tuple(standing), tuple(reclaims)
    over = [
        f"{row.used} of {row.quota.limit_gpus} GPUs of {row.accelerator} are used"
        for row in rows
        if row.quota.limit_gpus is not None and row.used > row.quota.limit_gpus
    ]
    gives = [
        f"{each.gpus} GPUs of {each.key} go to {each.taker}, which {why_taken(of_its_own=each.of_its_own)}"
        for each in reclaims
        if each.tenant == tenant.name != each.taker
    ]
    takes = [
        f"{each.gpus} GPUs come from {each.tenant or 'no tenant'} ({each.key}), which had borrowed them"
        for each in reclaims
        if each.taker == tenant.name != each.tenant
    ]
    borrowed = [f"{row.borrowed} GPUs of {row.accelerator}" for row in rows if row.borrowed]
    lent = [f"{row.lent} GPUs of {row.accelerator}" for row in rows if row.lent]
    return (
        TenantVerdict(
            TenantCondition.WITHIN_QUOTA,
            not over,
            Reason.OVER_QUOTA if over else Reason.BORROWING if borrowed else Reason.WITHIN_NOMINAL,
            f"{'; '.join(over)}: replicas drain, and pods of its own are its own to end"
            if over
            else "no limit is passed",
        ),
        TenantVerdict(
            TenantCondition.BORROWING,
            bool(borrowed),
            Reason.GIVING_BACK if gives else Reason.BORROWING if borrowed else Reason.NOT_BORROWING,
            "; ".join(gives or borrowed) or "nothing beyond nominal is used",
        ),
        TenantVerdict(
            TenantCondition.LENDING,
            bool(lent),
            Reason.TAKING_BACK if takes else Reason.LENDING if lent else Reason.NOT_LENDING,
            "; ".join(takes or lent) or "others use nothing of its nominal",
        ),
    )


def judge_unreadable(fault: Fault) -> TenantVerdict:
    """Return what a Tenant is told whose spec cannot be read."""
    return TenantVerdict(
        TenantCondition.STALLED,
        True,
        Reason.INVALID_SPEC,
        f"{fault.message}. Until then its ResourceQuotas stay as they are, and its replicas as many",
    )


def judge_claims(taken: Mapping[str, str]) -> TenantVerdict:
    """Return whether every namespace that a tenant names is its own; `taken` has the owner of each that is not."""
    if not taken:
        return TenantVerdict(TenantCondition.NAMESPACES_CLAIMED, True, Reason.CLAIMED, "every namespace is its own")
    named = ", ".join(f"namespace {namespace} is Tenant {owner}'s" for namespace, owner in sorted(taken.items()))
    return TenantVerdict(
        TenantCondition.NAMESPACES_CLAIMED,
        False,
        Reason.CLAIMED_BY_ANOTHER,
        f"{named}, which is older: take it out of spec.namespaces of one of the two",
    )


def one_word(verdicts: Iterable[TenantVerdict]) -> Reason:
    """Return what a tired reader needs first: what is wrong, then what moves, then what is so."""
    reasons = {verdict.reason for verdict in verdicts}
    return next((reason for reason in _WORDS if reason in reasons), Reason.WITHIN_NOMINAL)


_WORDS: Final = (
    Reason.INVALID_SPEC,
    Reason.CLAIMED_BY_ANOTHER,
    Reason.OVER_QUOTA,
    Reason.GIVING_BACK,
    Reason.TAKING_BACK,
    Reason.BORROWING,
    Reason.LENDING,
)
