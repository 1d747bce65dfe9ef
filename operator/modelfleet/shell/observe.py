"""From the mirror and the signals to one Snapshot."""

from collections.abc import Iterable, Mapping

from modelfleet.adapters.source import SignalSource, Target
from modelfleet.api.conditions import Reason
from modelfleet.api.inferenceruntime import InferenceRuntimeSpec
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec
from modelfleet.api.tenant import TenantSpec, TokenAllowances, TokenLimits
from modelfleet.decide.faults import find_fault
from modelfleet.decide.snapshot import Allowance, Child, Fault, Observed, Pod, Quota, Snapshot, Tenant, Tokens
from modelfleet.engines.dialects import DIALECTS
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.records import DeploymentRecord, PodRecord, QuotaRecord, TenantRecord


def targets(mirror: Mirror) -> list[Target]:
    """Return every ready pod of the operator's own, with the port and path of its runtime."""
    found = []
    for record in mirror.deployments.values():
        if not isinstance(record.spec, ModelDeploymentSpec):
            continue
        runtime = mirror.runtimes.get(record.spec.runtime)
        if not isinstance(runtime, InferenceRuntimeSpec):
            continue
        dialect = DIALECTS[runtime.engine]
        found += [
            Target(
                namespace=pod.key.namespace,
                name=pod.key.name,
                uid=pod.uid,
                ip=pod.ip,
                engine=runtime.engine,
                port=runtime.port or dialect.port,
                path=runtime.metrics_path or dialect.metrics_path,
                restarts=pod.restarts,
            )
            for pod in mirror.own_pods(record.key)
            if pod.ready_at is not None and pod.ip and not pod.terminating
        ]
    return found


def observe(
    mirror: Mirror, source: SignalSource, *, now: float, blocked: Mapping[Key, Fault], unbound_may_borrow: bool
) -> Snapshot:
    """Build the snapshot of this moment.

    Args:
        mirror: The cluster as last heard of.
        source: The signals as last brought up to date.
        now: Seconds since the epoch.
        blocked: Deployments whose children cannot be applied, and why.
        unbound_may_borrow: The operator's setting of that name.
    """
    tenants = _tenants(mirror)
    unreadable = {
        namespace: Fault(
            Reason.TENANT_INVALID,
            f"Tenant {tenant.name!r}, whose namespace this is, cannot be read: {tenant.fault.message}. "
            "Until then replicas are neither added nor taken",
        )
        for tenant in tenants
        if tenant.fault is not None
        for namespace in tenant.namespaces
    }
    nodes = {name: mirror.nodes_of(accelerator) for name, accelerator in mirror.classes().items()}
    largest = {name: max((node.allocatable_gpus for node in found), default=0) for name, found in nodes.items()}
    return Snapshot(
        taken_at=now,
        metrics_max_age_seconds=source.max_age_seconds(),
        deployments=tuple(
            _observed(mirror, source, record, largest, unreadable.get(record.key.namespace) or blocked.get(record.key))
            for record in mirror.deployments.values()
            if not record.deleting
        ),
        nodes=nodes,
        tenants=tenants,
        unbound_may_borrow=unbound_may_borrow,
    )


def claims(tenants: Iterable[TenantRecord], quotas: Mapping[str, QuotaRecord]) -> dict[str, str]:
    """Return the name of the Tenant that each namespace belongs to: the oldest that names it, then the least name.

    Args:
        tenants: All Tenants. One that cannot be read keeps the namespaces that it has.
        quotas: The operator's ResourceQuotas by namespace, each owned by the Tenant that has it.
    """
    owner: dict[str, str] = {}
    for tenant in sorted(tenants, key=lambda tenant: (tenant.created_at, tenant.name)):
        if not tenant.deleting:
            for namespace in _named(tenant, quotas):
                owner.setdefault(namespace, tenant.name)
    return owner


def _named(tenant: TenantRecord, quotas: Mapping[str, QuotaRecord]) -> tuple[str, ...]:
    if isinstance(tenant.spec, TenantSpec):
        return tenant.spec.namespaces
    fenced = {namespace for namespace, quota in quotas.items() if quota.owner_uid == tenant.uid}
    return tuple(sorted(fenced | set(tenant.status.namespaces if tenant.status else ())))


def _tenants(mirror: Mirror) -> tuple[Tenant, ...]:
    owner = claims(mirror.tenants.values(), mirror.quotas)
    places = {
        name: (accelerator.resource_name, mirror.node_names_of(accelerator))
        for name, accelerator in (mirror.classes().items() if owner else ())
    }
    return tuple(_tenant(mirror, record, owner, places) for record in mirror.tenants.values() if not record.deleting)


def _tenant(
    mirror: Mirror,
    record: TenantRecord,
    owner: Mapping[str, str],
    places: Mapping[str, tuple[str, frozenset[str]]],
) -> Tenant:
    name, spec = record.name, record.spec
    namespaces = tuple(namespace for namespace in _named(record, mirror.quotas) if owner[namespace] == name)
    used = {accelerator: mirror.held_by(namespaces, *place) for accelerator, place in places.items()}
    if isinstance(spec, Fault):
        kept = {accelerator: Quota(gpus, 0, 0) for accelerator, gpus in used.items()}
        return Tenant(name=name, namespaces=namespaces, quotas=kept, used_gpus=used, fault=spec)
    return Tenant(
        name=name,
        namespaces=namespaces,
        cohort=spec.cohort or "",
        # Whose namespaces are all others' can neither use GPUs nor lend them.
        quotas={
            quota.accelerator: Quota(
                nominal_gpus=quota.nominal_quota,
                borrowing_limit_gpus=quota.borrowing_limit,
                lending_limit_gpus=quota.lending_limit,
                weight=quota.weight,
            )
            for quota in (spec.quotas if namespaces else ())
        },
        used_gpus=used,
        allowances=_allowances(spec.tokens_per_minute) if spec.tokens_per_minute is not None else (),
    )


def _allowances(given: TokenAllowances) -> tuple[Allowance, ...]:
    """Return the allowances, those of models first: what a model may not have, others of the tenant may."""
    groups: tuple[tuple[str, TokenLimits], ...] = (*((each.model, each) for each in given.models), ("", given))
    return tuple(
        Allowance(counts, limit / 60, model)
        for model, limits in groups
        for counts in Tokens
        if (limit := getattr(limits, counts)) is not None
    )


def _observed(
    mirror: Mirror,
    source: SignalSource,
    record: DeploymentRecord,
    largest: Mapping[str, int],
    blocked: Fault | None,
) -> Observed:
    spec = record.spec if isinstance(record.spec, ModelDeploymentSpec) else None
    child = mirror.children.get(("Deployment", record.key))
    runtime = mirror.runtimes.get(spec.runtime) if spec is not None else None
    return Observed(
        key=record.key,
        uid=record.uid,
        generation=record.generation,
        spec=spec,
        fault=fault_of(mirror, record, largest) or blocked,
        child=Child(
            uid=child.uid,
            replicas=child.replicas,
            scaled_by_other=child.scaled_by_other,
            rolling_out=child.rolling_out,
            progress_deadline_exceeded=child.progress_deadline_exceeded,
        )
        if child is not None and child.owner_uid == record.uid and not child.deleting
        else None,
        pods=tuple(_pod(pod, source) for pod in mirror.own_pods(record.key)),
        recorded_desired=record.recorded_desired,
        rate_window_seconds=source.rate_window_seconds(runtime.engine)
        if isinstance(runtime, InferenceRuntimeSpec)
        else 0.0,
        prior_output_tokens_per_second=_prior(spec, runtime),
        measured_output_tokens_per_second=record.measured_tokens_per_second,
        learned=record.learned,
        foreign_autoscaler=mirror.foreign_autoscaler(record.key),
    )


def fault_of(mirror: Mirror, record: DeploymentRecord, largest: Mapping[str, int]) -> Fault | None:
    """Return what makes a deployment impossible to run as it stands; `largest` has GPUs of a node by class."""
    if isinstance(record.spec, Fault):
        return record.spec
    return find_fault(
        record.spec,
        runtime=mirror.runtimes.get(record.spec.runtime),
        accelerator=mirror.accelerators.get(record.spec.accelerator),
        largest_node_gpus=largest.get(record.spec.accelerator, 0),
    )


def _prior(spec: ModelDeploymentSpec | None, runtime: InferenceRuntimeSpec | Fault | None) -> float | None:
    if spec is None or not isinstance(runtime, InferenceRuntimeSpec) or runtime.capacity is None:
        return None
    return float(runtime.capacity.output_tokens_per_second_per_gpu * spec.gpus_per_replica)


def _pod(record: PodRecord, source: SignalSource) -> Pod:
    return Pod(
        name=record.key.name,
        uid=record.uid,
        created_at=record.created_at,
        ready_at=record.ready_at,
        terminating=record.terminating,
        node=record.node,
        trouble=record.trouble,
        signals=source.signals(record.uid),
    )
