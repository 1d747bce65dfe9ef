"""The fleet as Prometheus sees it: the last plan as `modelfleet_deployment_*`, `_tenant_*` and `_accelerator_*`.

Everything is read from the last plan when Prometheus asks; a tick only hands it over. What is unknown is left out:
it is never exported as zero. A deployment has at most one series of a family, a tenant or class one each.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric

from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec
from modelfleet.decide.capacity import p90
from modelfleet.decide.demand import Total
from modelfleet.decide.explain import headline
from modelfleet.decide.history import Memory
from modelfleet.decide.plan import Decision, Facts, Plan
from modelfleet.decide.snapshot import Missing, Node, Observed, Pod, Signal, Snapshot
from modelfleet.decide.standing import Standing, standings

TEAM, ADMINISTRATORS, OTHER_TENANTS, OPERATOR = "team", "administrators", "other tenants", "operator"
OWNERS = {
    Limit.METRICS: ADMINISTRATORS,
    Limit.CAPACITY: ADMINISTRATORS,
    Limit.TENANT_QUOTA: ADMINISTRATORS,
    Limit.TOKEN_ALLOWANCE: ADMINISTRATORS,
    Limit.LENDING_LIMIT: OTHER_TENANTS,
    Limit.RECLAIM: OTHER_TENANTS,
    Limit.RECLAIMED: OTHER_TENANTS,
    Limit.WARM_UP: OPERATOR,
}
"""Who can lift a limit; all that are not here are the team's own spec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One deployment at the last tick.

    Attributes:
        alive: Its pods that are not terminating.
        tenant: Its tenant's name; empty without one.
        oldest: An earlier sample is no sample; seconds since the epoch.
        waits_seconds: How long it has waited for GPUs that are given back, without getting one; None while it does not.
    """

    observed: Observed
    decision: Decision
    memory: Memory
    alive: tuple[Pod, ...]
    tenant: str
    oldest: float
    waits_seconds: float | None


class Gauge(NamedTuple):
    """A family with one value a deployment; None is unknown."""

    name: str
    documentation: str
    value: Callable[[Row], float | None]


class Info(NamedTuple):
    """A family whose labels say it; the value is 1. None is nothing to say."""

    name: str
    documentation: str
    labels: tuple[str, ...]
    values: Callable[[Row], tuple[str, ...] | None]


def _of_spec(value: Callable[[ModelDeploymentSpec], float]) -> Callable[[Row], float | None]:
    """Read the spec where there is one."""
    return lambda row: None if row.observed.spec is None else value(row.observed.spec)


def _of_facts(value: Callable[[Facts], float | None]) -> Callable[[Row], float | None]:
    """Read what the decision was computed from, where the load is known."""
    return lambda row: value(row.decision.facts) if isinstance(row.decision.facts, Facts) else None


def _known(total: Total) -> float | None:
    return total.value if total.known else None


def _count(pods: tuple[Pod, ...], holds: Callable[[Pod], bool]) -> int:
    return sum([1 for pod in pods if holds(pod)])


def _inter_token_seconds(row: Row) -> float | None:
    """Return the mean over the serving pods, weighted by their tokens; None where no token came."""
    tokens = seconds = 0.0
    for pod in row.alive:
        rate, pace = pod.signals.output_tokens_per_second, pod.signals.inter_token_seconds
        if (
            isinstance(rate, Signal)
            and isinstance(pace, Signal)
            and min(rate.sampled_at, pace.sampled_at) >= row.oldest
        ):
            tokens += rate.value
            seconds += rate.value * pace.value
    return seconds / tokens if tokens else None


def _signals_missing(decision: Decision) -> float | None:
    """Return whether MetricsFresh is False; None where there is no pod that could tell."""
    if isinstance(decision.facts, Facts):
        return 1.0 if decision.facts.missing else 0.0
    return 1.0 if decision.facts.fault else None


def _sampled_at(facts: Facts) -> float | None:
    demand = facts.demand
    totals = (demand.queued_requests, demand.running_requests, demand.output_tokens_per_second)
    return min((total.sampled_at for total in totals if total.known), default=None)


DEPLOYMENT_GAUGES = (
    Gauge("replicas_desired", "Replicas asked for.", lambda row: row.decision.desired),
    Gauge("replicas_wanted", "Replicas the load alone calls for.", lambda row: row.decision.wanted),
    Gauge("replicas", "Pods that are not terminating.", lambda row: len(row.alive)),
    Gauge("replicas_ready", "Pods that serve.", lambda row: _count(row.alive, lambda pod: pod.ready_at is not None)),
    Gauge(
        "replicas_starting",
        "Pods on a node that do not serve yet.",
        lambda row: _count(row.alive, lambda pod: bool(pod.node) and pod.ready_at is None),
    ),
    Gauge("replicas_unscheduled", "Pods without a node.", lambda row: _count(row.alive, lambda pod: not pod.node)),
    Gauge("replicas_min", "spec.scaling.minReplicas.", _of_spec(lambda spec: spec.scaling.min_replicas)),
    Gauge("replicas_max", "spec.scaling.maxReplicas.", _of_spec(lambda spec: spec.scaling.max_replicas)),
    Gauge(
        "load_replicas",
        "The load in replicas used to the full.",
        _of_facts(lambda facts: facts.need.full_replicas),
    ),
    Gauge(
        "queued_requests",
        "Waiting requests of the pods that told.",
        _of_facts(lambda facts: _known(facts.demand.queued_requests)),
    ),
    Gauge(
        "target_queued_requests_per_replica",
        "Waiting requests that one replica may have.",
        _of_facts(lambda facts: facts.wanted.queue_tolerated),
    ),
    Gauge(
        "running_requests",
        "Requests in the batch of the pods that told.",
        _of_facts(lambda facts: _known(facts.demand.running_requests)),
    ),
    Gauge(
        "output_tokens_per_second",
        "Generated tokens per second of the pods that told.",
        _of_facts(lambda facts: _known(facts.demand.output_tokens_per_second)),
    ),
    Gauge(
        "demand_tokens_per_second",
        "Generated tokens per second that the load calls for, those of waiting requests included.",
        _of_facts(lambda facts: max(0.0, facts.load.tokens_per_second)),
    ),
    Gauge(
        "input_tokens_per_output_token",
        "Prompt tokens that come with one generated token, the mean of 5 minutes.",
        _of_facts(lambda facts: None if isinstance(facts.input_per_output, Missing) else facts.input_per_output),
    ),
    Gauge(
        "target_output_tokens_per_second_per_replica",
        "Generated tokens per second that one replica should carry: the spec's, 80 % of the measured, or of the prior.",
        _of_facts(lambda facts: facts.capacity.target_tokens_per_second),
    ),
    Gauge("inter_token_seconds", "Mean time between two tokens of an answer.", _inter_token_seconds),
    Gauge(
        "target_inter_token_seconds",
        "Longest mean time between two tokens that is wanted.",
        _of_spec(lambda spec: spec.scaling.targets.inter_token_milliseconds / 1000),
    ),
    Gauge(
        "start_seconds",
        "P90 of created-to-ready over the last 20 starts.",
        lambda row: p90(row.memory.start_seconds) if row.memory.start_seconds else None,
    ),
    Gauge(
        "gpus",
        "GPUs that its pods hold on nodes, terminating ones included.",
        lambda row: (
            None
            if row.observed.spec is None
            else row.observed.spec.gpus_per_replica * _count(row.observed.pods, lambda pod: bool(pod.node))
        ),
    ),
    Gauge(
        "signals_missing",
        "1 while a pod that should report its load does not; then nothing is removed.",
        lambda row: _signals_missing(row.decision),
    ),
    Gauge(
        "signals_timestamp_seconds",
        "When the oldest sample of the load was taken.",
        _of_facts(_sampled_at),
    ),
    Gauge(
        "reclaim_wait_seconds",
        "How long it has waited for GPUs that others give back, without getting any.",
        lambda row: row.waits_seconds,
    ),
    Gauge(
        "reclaim_wait_bound_seconds",
        "Longest time that such a wait may take.",
        lambda row: max((wait.seconds for wait in row.decision.waits), default=None),
    ),
)
DEPLOYMENT_INFOS = (
    Info(
        "info",
        "What it is.",
        ("tenant", "accelerator", "runtime", "model", "mode"),
        lambda row: (
            None
            if (spec := row.observed.spec) is None
            else (row.tenant, spec.accelerator, spec.runtime, spec.model.name, spec.scaling.mode.value)
        ),
    ),
    Info(
        "limited",
        "What keeps desired from wanted, and who can lift it; nothing where they are equal.",
        ("limit", "owner"),
        lambda row: (
            (row.decision.limited_by.value, OWNERS.get(row.decision.limited_by, TEAM))
            if row.decision.limited_by
            else None
        ),
    ),
    Info(
        "reason",
        "The one word for its state, as REASON shows it.",
        ("reason",),
        lambda row: (str(headline(row.observed, row.decision).reason),),
    ),
)
TENANT_GAUGES: tuple[tuple[str, str, Callable[[Standing], float | None]], ...] = (
    ("nominal_gpus", "GPUs that are its own.", lambda standing: standing.quota.nominal_gpus),
    (
        "limit_gpus",
        "Most GPUs it may have, nominal and borrowed; nothing where borrowing has no limit.",
        lambda standing: standing.quota.limit_gpus,
    ),
    ("guaranteed_gpus", "Its demand as far as nominal covers it.", lambda standing: standing.guaranteed),
    ("used_gpus", "GPUs that pods of its namespaces hold, whoever made them.", lambda standing: standing.used),
    ("borrowed_gpus", "GPUs used beyond nominal.", lambda standing: standing.borrowed),
    ("lent_gpus", "GPUs of its nominal that others use.", lambda standing: standing.lent),
    ("waiting_gpus", "GPUs that its replicas ask for and do not have.", lambda standing: standing.waiting),
)
ACCELERATOR_GAUGES: tuple[tuple[str, str, Callable[[tuple[Node, ...]], float]], ...] = (
    ("nodes", "Usable nodes of the class.", len),
    ("capacity_gpus", "Allocatable GPUs on them.", lambda nodes: sum(node.allocatable_gpus for node in nodes)),
    ("free_gpus", "GPUs on them that no pod holds.", lambda nodes: sum(node.free_gpus for node in nodes)),
    ("draining_gpus", "GPUs that terminating pods hold.", lambda nodes: sum(node.draining_gpus for node in nodes)),
)
PRICE = "usd_per_gpu_hour"


class FleetMetrics:
    """A collector of the last plan."""

    def __init__(self) -> None:
        """Start without a plan; then nothing is exported."""
        self._last: tuple[Snapshot, Plan, Mapping[str, AcceleratorClassSpec]] | None = None
        self._waiting_since: dict[Key, float] = {}

    def show(self, snapshot: Snapshot, plan: Plan, classes: Mapping[str, AcceleratorClassSpec]) -> None:
        """Export this plan from now on; the classes have the prices."""
        now, since = snapshot.taken_at, self._waiting_since
        self._waiting_since = {
            key: now if decision.desired > decision.current else since.get(key, now)
            for key, decision in plan.decisions.items()
            if decision.waits
        }
        self._last = snapshot, plan, classes

    def collect(self) -> Iterator[Metric]:
        """Yield the families that have a value."""
        if self._last is None:
            return
        snapshot, plan, classes = self._last
        yield from _of_deployments(list(self._rows(snapshot, plan)))
        yield from _of_tenants(standings(snapshot, plan))
        yield from _of_classes(snapshot.nodes, classes)

    def _rows(self, snapshot: Snapshot, plan: Plan) -> Iterator[Row]:
        tenant_of = {namespace: tenant.name for tenant in snapshot.tenants for namespace in tenant.namespaces}
        waiting_since = self._waiting_since
        for observed in snapshot.deployments:
            since = waiting_since.get(observed.key)
            yield Row(
                observed=observed,
                decision=plan.decisions[observed.key],
                memory=plan.history[observed.key],
                alive=tuple([pod for pod in observed.pods if not pod.terminating]),
                tenant=tenant_of.get(observed.key.namespace, ""),
                oldest=snapshot.taken_at - snapshot.metrics_max_age_seconds,
                waits_seconds=None if since is None else snapshot.taken_at - since,
            )


def _of_deployments(rows: list[Row]) -> Iterator[Metric]:
    labels = ("namespace", "deployment")
    for name, documentation, value_of in DEPLOYMENT_GAUGES:
        values = [(tuple(row.observed.key), value_of(row)) for row in rows]
        yield from _family(f"modelfleet_deployment_{name}", documentation, labels, values)
    for name, documentation, more, told in DEPLOYMENT_INFOS:
        said = [((*row.observed.key, *words), 1.0) for row in rows if (words := told(row)) is not None]
        yield from _family(f"modelfleet_deployment_{name}", documentation, (*labels, *more), said)


def _of_tenants(found: Mapping[str, tuple[Standing, ...]]) -> Iterator[Metric]:
    for name, documentation, value_of in TENANT_GAUGES:
        values = [((tenant, row.accelerator), value_of(row)) for tenant, rows in found.items() for row in rows]
        yield from _family(f"modelfleet_tenant_{name}", documentation, ("tenant", "accelerator"), values)


def _of_classes(nodes: Mapping[str, tuple[Node, ...]], classes: Mapping[str, AcceleratorClassSpec]) -> Iterator[Metric]:
    for name, documentation, value_of in ACCELERATOR_GAUGES:
        values = [((accelerator,), value_of(found)) for accelerator, found in nodes.items()]
        yield from _family(f"modelfleet_accelerator_{name}", documentation, ("accelerator",), values)
    prices = [((name,), float(spec.usd_per_gpu_hour)) for name, spec in classes.items() if spec.usd_per_gpu_hour]
    yield from _family(f"modelfleet_accelerator_{PRICE}", "Price of one GPU for one hour.", ("accelerator",), prices)


def _family(
    name: str, documentation: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float | None]]
) -> Iterator[Metric]:
    """Yield the family of the values that are known; a family of none has nothing to say."""
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for key, value in values:
        if value is not None:
            family.add_metric(key, value)
    if family.samples:
        yield family
