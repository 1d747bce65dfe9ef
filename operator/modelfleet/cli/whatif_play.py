"""What `modelfleet whatif` finds out: the cluster as it is and as it would be, now and over a recorded past."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from modelfleet.adapters.history import (
    DEMAND_METRIC,
    MIX_METRIC,
    TARGET_METRIC,
    WANTED_METRIC,
    Points,
    Steps,
    exported,
)
from modelfleet.adapters.source import Target
from modelfleet.api.engine import Engine
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import ModelDeploymentStatus
from modelfleet.api.tenant import TenantSpec
from modelfleet.decide.explain import DEMAND_SIGNAL, MIX_SIGNAL, TARGET_SIGNAL, reclaim_note, unblock
from modelfleet.decide.plan import Plan
from modelfleet.decide.snapshot import Assumed, Missing, Observed, PodSignals, Snapshot
from modelfleet.decide.standing import Standing, judge_claims, standings
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.observe import claims, observe
from modelfleet.shell.records import DeploymentRecord
from modelfleet.simulate.allocation import Total, Totals, World, replay, settle

STEP_SECONDS: Final = 60

_NOT_ASKED = PodSignals.missing("no pod is asked: demand is what the statuses say")


class NotAsked:
    """A source of signals that asks no pod."""

    def max_age_seconds(self) -> float:
        """Return zero: nothing is fresh."""
        return 0.0

    def rate_window_seconds(self, engine: Engine) -> float:
        """Return zero: no rate is taken."""
        return 0.0

    def signals(self, uid: str) -> PodSignals:
        """Return that they are missing."""
        return _NOT_ASKED

    async def refresh(self, targets: Sequence[Target], now: float) -> None:
        """Ask nobody."""

    async def close(self) -> None:
        """Nothing is open."""


def look(mirror: Mirror, *, now: float, unbound_may_borrow: bool) -> Snapshot:
    """Return the snapshot that the operator would decide on, but for the pods' signals."""
    return observe(mirror, NotAsked(), now=now, blocked={}, unbound_may_borrow=unbound_may_borrow)


def demand_of(records: Iterable[DeploymentRecord]) -> dict[Key, Assumed]:
    """Return what every deployment is asked for, as its status has it; minReplicas where there is none."""
    return {record.key: _demand(record.status()) for record in records}


def _demand(status: ModelDeploymentStatus | None) -> Assumed:
    if status is None or status.decision is None:
        return Assumed(replicas=0)
    signals = {signal.name: signal.value for signal in status.decision.signals}
    mix = signals.get(MIX_SIGNAL)
    return Assumed(
        replicas=status.wanted_replicas,
        output_tokens_per_second=_number(signals.get(DEMAND_SIGNAL)),
        input_per_output=Missing("its status does not tell") if mix is None else float(mix),
        target_tokens_per_second=_number(signals.get(TARGET_SIGNAL)),
    )


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def refused(mirror: Mirror) -> list[str]:
    """Return each Tenant that another one keeps a namespace from, in the words of its condition."""
    owner = claims(mirror.tenants.values(), mirror.quotas)
    texts = []
    for name, record in sorted(mirror.tenants.items()):
        if isinstance(record.spec, TenantSpec):
            taken = {each: owner[each] for each in record.spec.namespaces if owner.get(each, name) != name}
            if taken:
                texts.append(f"Tenant {name}: {judge_claims(taken).message}")
    return texts


@dataclass(frozen=True, slots=True)
class Rest:
    """Where a cluster comes to rest.

    Attributes:
        asked: Replicas of each deployment.
        drains: What each deployment gives up on the way, in words.
        standings: What each tenant has of each class.
        rests: Whether it did.
    """

    snapshot: Snapshot
    plan: Plan
    asked: Mapping[Key, int]
    drains: Mapping[Key, tuple[str, ...]]
    standings: Mapping[str, tuple[Standing, ...]]
    rests: bool


def rest(snapshot: Snapshot, demand: Mapping[Key, Assumed]) -> Rest:
    """Decide until nothing moves."""
    world = World(snapshot)
    plan, rests = settle(world, demand)
    drains: dict[Key, list[str]] = {}
    for reclaim in world.reclaims:
        drains.setdefault(reclaim.key, []).append(reclaim_note(reclaim))
    after = world.snapshot()
    return Rest(
        snapshot=after,
        plan=plan,
        asked=world.asked(),
        drains={key: tuple(notes) for key, notes in drains.items()},
        standings=standings(after, plan),
        rests=rests,
    )


def tenant_of(snapshot: Snapshot) -> dict[str, str]:
    """Return the tenant of each namespace that has one."""
    return {namespace: tenant.name for tenant in snapshot.tenants for namespace in tenant.namespaces}


def deployments_now(before: Snapshot, as_is: Rest, what_if: Rest) -> list[dict[str, Any]]:
    """Return a row a deployment of either world: replicas now, at rest as it is, at rest as it would be, and why."""
    seen = {each.key: each for each in before.deployments}
    rows = []
    for observed in sorted(what_if.snapshot.deployments, key=lambda each: each.key):
        key = observed.key
        decision = what_if.plan.decisions[key]
        now, was = _asked(seen.get(key)), as_is.asked.get(key, 0)
        after = what_if.asked.get(key, now)
        rows.append(
            {
                "namespace": key.namespace,
                "name": key.name,
                "tenant": tenant_of(what_if.snapshot).get(key.namespace, ""),
                "gpusPerReplica": observed.spec.gpus_per_replica if observed.spec is not None else 0,
                "wanted": decision.wanted,
                "now": now,
                "asIs": was,
                "whatIf": after,
                "change": after - was,
                "limitedBy": decision.limited_by.value,
                "unblock": unblock(observed, decision),
                "drains": list(what_if.drains.get(key, ())),
            }
        )
    return rows


def _asked(observed: Observed | None) -> int:
    return 0 if observed is None or observed.child is None else observed.child.replicas


def tenants_now(as_is: Rest, what_if: Rest) -> list[dict[str, Any]]:
    """Return a row a tenant and class of either world, in GPUs; None where it has none of it."""
    both = [
        {(name, row.accelerator): row for name, rows in each.standings.items() for row in rows}
        for each in (as_is, what_if)
    ]
    return [
        {
            "name": name,
            "accelerator": accelerator,
            **{
                world: _standing(rows.get((name, accelerator)))
                for world, rows in zip(("asIs", "whatIf"), both, strict=True)
            },
        }
        for name, accelerator in sorted(both[0].keys() | both[1].keys())
    ]


def _standing(row: Standing | None) -> dict[str, int] | None:
    if row is None:
        return None
    return {
        "nominal": row.quota.nominal_gpus,
        "guaranteed": row.guaranteed,
        "used": row.used,
        "borrowed": row.borrowed,
        "lent": row.lent,
        "waiting": row.waiting,
    }


# --- a recorded past ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """What a Prometheus recorded of the deployments that there are.

    Attributes:
        demands: Step by step.
        notes: What it does not have, in words.
    """

    steps: Steps
    demands: Sequence[Mapping[Key, Assumed]]
    notes: tuple[str, ...]


def read_record(url: str, since_seconds: int, keys: Iterable[Key], *, now: float, allowed: Collection[str]) -> Record:
    """Return what the operator exported as wanted, minute by minute.

    Args:
        url: Root URL of the Prometheus.
        since_seconds: How far back.
        keys: The deployments of which it is to be read.
        now: Seconds since the epoch.
        allowed: Namespaces whose tenant has a token allowance, as it is or as it would be: tokens count there.

    Raises:
        HistoryError: If Prometheus does not tell it.
    """
    ends_at = int(now) // STEP_SECONDS * STEP_SECONDS
    steps = Steps(ends_at - since_seconds, since_seconds // STEP_SECONDS, STEP_SECONDS)
    of_tokens = (DEMAND_METRIC, MIX_METRIC, TARGET_METRIC) if allowed else ()
    recorded = exported(url, (WANTED_METRIC, *of_tokens), steps)
    wanted, notes, known = recorded[WANTED_METRIC], [], {}
    for key in sorted(keys):
        points = wanted.pop(key, {})
        silent = steps.count - len(points.keys() - {0})
        if not points:
            notes.append(f"{key} is not in the record: minReplicas all the time")
        elif silent:
            notes.append(f"{key}: {silent:,} of {steps.count:,} minutes are not in the record: what was before stays")
        tokens = {name: recorded[name].get(key, {}) for name in of_tokens} if key.namespace in allowed else {}
        without = len(points.keys() - tokens.get(DEMAND_METRIC, {}).keys() - {0})
        if tokens and without:
            notes.append(
                f"{key}: {without:,} of {steps.count - silent:,} recorded minutes have no {DEMAND_METRIC}: it takes no "
                "part in token allowances then"
            )
        known[key] = _filled(points, tokens, steps.count)
    if wanted:
        names = ", ".join(str(key) for key in sorted(wanted))
        notes.append(f"in the record, and not in the cluster: {names}; left out")
    demands = [{key: values[number] for key, values in known.items()} for number in range(steps.count)]
    return Record(steps, demands, tuple(notes))


def _filled(wanted: Points, tokens: Mapping[str, Points], count: int) -> list[Assumed]:
    values, last = [], Assumed(replicas=0)
    for number in range(count + 1):
        if number in wanted:
            demand, mix, target = (
                tokens.get(name, {}).get(number) for name in (DEMAND_METRIC, MIX_METRIC, TARGET_METRIC)
            )
            last = Assumed(
                replicas=round(wanted[number]),
                output_tokens_per_second=demand,
                input_per_output=Missing("not in the record") if mix is None else mix,
                target_tokens_per_second=target,
            )
        values.append(last)
    return values[1:]


def play(snapshot: Snapshot, record: Record, progress: Callable[[], None]) -> Totals:
    """Play the record in a cluster."""
    return replay(snapshot, record.demands, step_seconds=STEP_SECONDS, progress=progress)


def deployments_then(what_if: Snapshot, worlds: tuple[Totals, Totals]) -> list[dict[str, Any]]:
    """Return a row a deployment, in GPU-hours."""
    return [
        {
            "namespace": key.namespace,
            "name": key.name,
            "tenant": tenant_of(what_if).get(key.namespace, ""),
            **{
                name: None if (total := totals.deployments.get(key)) is None else _of_deployment(total)
                for name, totals in zip(("asIs", "whatIf"), worlds, strict=True)
            },
        }
        for key in sorted(worlds[0].deployments.keys() | worlds[1].deployments.keys())
    ]


def tenants_then(worlds: tuple[Totals, Totals]) -> list[dict[str, Any]]:
    """Return a row a tenant, in GPU-hours over all classes."""
    return [
        {
            "name": tenant,
            **{
                name: None if (total := totals.tenants.get(tenant)) is None else _rounded(asdict(total))
                for name, totals in zip(("asIs", "whatIf"), worlds, strict=True)
            },
        }
        for tenant in sorted(worlds[0].tenants.keys() | worlds[1].tenants.keys())
    ]


def _of_deployment(total: Total) -> dict[str, float]:
    return _rounded({"used": total.used, "waiting": total.waiting, "drains": total.drains})


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {
        name if name == "drains" else f"{name}GpuHours": figure if name == "drains" else round(figure, 3)
        for name, figure in figures.items()
    }
