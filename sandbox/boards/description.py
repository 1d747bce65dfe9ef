"""What the three dashboards show: the one truth from which their JSON and their pictures are made.

Two operator replicas may report one fleet for a moment, so every query takes `max by` before it adds up. Figures in
dollars and by the day come from the recording rules of charts/modelfleet/rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

INTEGRAL_SECONDS = 15
"""Step of the sums over a day: a subquery takes a sample at each, and nothing where there was none."""


class Unit(StrEnum):
    """How a value reads, in Grafana's words."""

    COUNT = "short"
    GPUS = "suffix: GPUs"
    TOKENS = "locale"
    TOKENS_PER_SECOND = "suffix: tok/s"
    SECONDS = "s"
    SHARE = "percentunit"
    USD = "currencyUSD"
    USD_PER_HOUR = "suffix: $/h"
    PER_MINUTE = "suffix: /min"
    BYTES = "bytes"


class Kind(Enum):
    """How a panel shows its queries."""

    STAT = "stat"
    LINES = "timeseries"
    AREAS = "stacked timeseries"
    STATES = "state-timeline"
    TABLE = "table"


@dataclass(frozen=True)
class Query:
    """One PromQL expression.

    Attributes:
        legend: Name of its series; {{label}} stands for a label's value. In a table it heads the column.
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel; `width` in 24ths of the board."""

    title: str
    description: str
    kind: Kind
    unit: Unit
    width: int
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Row:
    """Panels side by side under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a board: the values of a label of a metric. The first one is chosen at first."""

    name: str
    metric: str


@dataclass(frozen=True)
class Board:
    """One dashboard; `name` is its file, its ConfigMap and its uid."""

    name: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


# --- expressions --------------------------------------------------------------------------------

CHOSEN = '{namespace=~"$namespace", deployment=~"$deployment"}'
OF_TENANT = '{tenant=~"$tenant"}'


def each(metric: str, *, chosen: str = CHOSEN, by: str = "namespace, deployment") -> str:
    """Return a deployment metric of the chosen deployments, once each."""
    return f"max by ({by}) (modelfleet_deployment_{metric}{chosen})"


def tenants(metric: str) -> str:
    """Return a tenant metric of the chosen tenants, once a class."""
    return f"max by (tenant, accelerator) (modelfleet_tenant_{metric}{OF_TENANT})"


def classes(metric: str) -> str:
    """Return a metric of every accelerator class."""
    return f"max by (accelerator) (modelfleet_accelerator_{metric})"


def over(rate: str, span: str) -> str:
    """Return the integral of a rate per second; a gap adds nothing."""
    return f"sum_over_time({rate}[{span}:{INTEGRAL_SECONDS}s]) * {INTEGRAL_SECONDS}"


def tokens(by: str, *, chosen: str = "") -> str:
    """Return output tokens per second."""
    return f"sum by ({by}) (tenant_model:modelfleet_output_tokens_per_second:sum{chosen})"


def usd_per_million_tokens(chosen: str = "") -> str:
    """Return what a model's GPUs cost for its tokens, over the last hour."""
    spent = over(f"tenant_model:modelfleet_gpu_cost_usd_per_hour:sum{chosen}", "1h")
    made = over(f"tenant_model:modelfleet_output_tokens_per_second:sum{chosen}", "1h")
    return f"sum by (model) ({spent}) / 3600 / (sum by (model) ({made}) > 0) * 1e6"


def withheld(info: str) -> str:
    """Return the replicas wanted and not asked for, by what keeps them back; `info` selects the deployments."""
    missing = f"({each('replicas_wanted', chosen='')} - {each('replicas_desired', chosen='')} > 0)"
    limited = each("limited", chosen="", by="namespace, deployment, limit, owner")
    if info:
        limited = f"({limited} and on (namespace, deployment) modelfleet_deployment_info{info})"
    return f"sum by (limit, owner) ({missing} * on (namespace, deployment) group_right () {limited})"


def now(chosen: str, *, only: str = "") -> tuple[Query, ...]:
    """Return the columns of a table of deployments; `only` keeps those it matches."""

    def column(metric: str, by: str = "namespace, deployment") -> str:
        return each(metric, chosen=chosen, by=by) + only

    return (
        Query(column("reason", "namespace, deployment, reason"), "REASON"),
        Query(column("limited", "namespace, deployment, limit, owner"), "LIMITED-BY"),
        Query(column("replicas_ready"), "READY"),
        Query(column("replicas_desired"), "DESIRED"),
        Query(column("replicas_wanted"), "WANTED"),
        Query(column("queued_requests"), "QUEUE"),
        Query(column("output_tokens_per_second"), "TOK/S"),
    )


def tokens_of_the_day(chosen: str = "") -> str:
    """Return the output tokens of the last 24 hours of the chosen tenants and models."""
    return f"sum({over(f'tenant_model:modelfleet_output_tokens_per_second:sum{chosen}', '1d')})"


# --- the boards ---------------------------------------------------------------------------------

FLEET = Board(
    name="modelfleet-fleet",
    title="Modelfleet / fleet",
    description="The whole cluster: load and replicas, GPUs and what they cost, what is limited by whom.",
    variables=(),
    rows=(
        Row(
            "Now",
            (
                Panel(
                    "Deployments",
                    "ModelDeployments that the operator decides about.",
                    Kind.STAT,
                    Unit.COUNT,
                    3,
                    (Query(f"count({each('replicas_desired', chosen='')})", "deployments"),),
                ),
                Panel(
                    "Ready of desired",
                    "Replicas that serve, of those asked for.",
                    Kind.STAT,
                    Unit.SHARE,
                    3,
                    (
                        Query(
                            f"sum({each('replicas_ready', chosen='')}) / sum({each('replicas_desired', chosen='')})",
                            "ready",
                        ),
                    ),
                ),
                Panel(
                    "GPUs in use",
                    "Of the allocatable GPUs on usable nodes, by pods of any kind.",
                    Kind.STAT,
                    Unit.SHARE,
                    3,
                    (Query(f"1 - sum({classes('free_gpus')}) / sum({classes('capacity_gpus')})", "in use"),),
                ),
                Panel(
                    "Output tokens/s",
                    "Generated tokens per second of all pods that report.",
                    Kind.STAT,
                    Unit.TOKENS_PER_SECOND,
                    4,
                    (Query(f"sum({tokens('tenant')})", "tokens/s"),),
                ),
                Panel(
                    "Output tokens, 24 h",
                    "Integral of the tokens per second; a lower bound where pods did not report.",
                    Kind.STAT,
                    Unit.TOKENS,
                    4,
                    (Query(tokens_of_the_day(), "tokens"),),
                ),
                Panel(
                    "Cost",
                    "GPUs of usable nodes at the price of their AcceleratorClass, used or not.",
                    Kind.STAT,
                    Unit.USD_PER_HOUR,
                    4,
                    (Query(f"sum({classes('capacity_gpus')} * {classes('usd_per_gpu_hour')})", "$/h"),),
                ),
                Panel(
                    "Load unknown",
                    "Deployments whose load is unknown or partial: replicas are held.",
                    Kind.STAT,
                    Unit.COUNT,
                    3,
                    (Query("sum(modelfleet_deployments_without_signals)", "unknown"),),
                ),
            ),
        ),
        Row(
            "Load and replicas",
            (
                Panel(
                    "Load against capacity",
                    "Load is in replicas used to the full, by the time between tokens, the running requests or the "
                    "tokens, whichever fits. Capacity is the replicas that serve.",
                    Kind.LINES,
                    Unit.COUNT,
                    12,
                    (
                        Query(f"sum({each('load_replicas', chosen='')})", "load"),
                        Query(f"sum({each('replicas_ready', chosen='')})", "ready"),
                        Query(f"sum({each('replicas_desired', chosen='')})", "desired"),
                        Query(f"sum({each('replicas_wanted', chosen='')})", "wanted"),
                    ),
                ),
                Panel(
                    "Output tokens/s by model",
                    "Generated tokens per second.",
                    Kind.AREAS,
                    Unit.TOKENS_PER_SECOND,
                    12,
                    (Query(tokens("model"), "{{model}}"),),
                ),
                Panel(
                    "Cold starts under way",
                    "Pods on a node that do not serve yet, and pods that wait for a node.",
                    Kind.AREAS,
                    Unit.COUNT,
                    12,
                    (
                        Query(f"sum({each('replicas_starting', chosen='')})", "starting"),
                        Query(f"sum({each('replicas_unscheduled', chosen='')})", "without a node"),
                    ),
                ),
                Panel(
                    "Cold start time, P90",
                    "Created to ready, the last 20 starts of each deployment; nothing before the first one.",
                    Kind.LINES,
                    Unit.SECONDS,
                    12,
                    (Query(each("start_seconds", chosen=""), "{{namespace}}/{{deployment}}"),),
                ),
            ),
        ),
        Row(
            "GPUs and money",
            (
                Panel(
                    "GPUs by tenant",
                    "GPUs that pods hold, whoever made them. No tenant: by namespaces without one, on usable nodes.",
                    Kind.AREAS,
                    Unit.GPUS,
                    12,
                    (
                        Query(
                            "sum by (tenant) (max by (tenant, accelerator) (modelfleet_tenant_used_gpus))", "{{tenant}}"
                        ),
                        Query(
                            f"clamp_min(sum({classes('capacity_gpus')}) - sum({classes('free_gpus')}) - (sum(max by "
                            "(tenant, accelerator) (modelfleet_tenant_used_gpus)) or vector(0)), 0)",
                            "no tenant",
                        ),
                        Query(f"sum({classes('free_gpus')})", "free"),
                    ),
                ),
                Panel(
                    "Cost by tenant",
                    "GPUs in use, and free ones, at the price of their class.",
                    Kind.AREAS,
                    Unit.USD_PER_HOUR,
                    12,
                    (
                        Query(
                            "sum by (tenant) (max by (tenant, accelerator) (modelfleet_tenant_used_gpus) "
                            f"* on (accelerator) group_left () {classes('usd_per_gpu_hour')})",
                            "{{tenant}}",
                        ),
                        Query(f"sum({classes('free_gpus')} * {classes('usd_per_gpu_hour')})", "free"),
                    ),
                ),
                Panel(
                    "Output tokens by tenant, last 24 h",
                    "Integral of the tokens per second; a lower bound where pods did not report.",
                    Kind.LINES,
                    Unit.TOKENS,
                    12,
                    (
                        Query(
                            f"sum by (tenant) ({over('tenant_model:modelfleet_output_tokens_per_second:sum', '1d')})",
                            "{{tenant}}",
                        ),
                    ),
                ),
                Panel(
                    "Cost of a million output tokens, last hour",
                    "What the GPUs cost that a model's pods held, over the tokens they made.",
                    Kind.LINES,
                    Unit.USD,
                    12,
                    (Query(usd_per_million_tokens(), "{{model}}"),),
                ),
            ),
        ),
        Row(
            "Limits and their owners",
            (
                Panel(
                    "Replicas withheld",
                    "Wanted and not asked for, by what keeps them back and who can lift it.",
                    Kind.AREAS,
                    Unit.COUNT,
                    9,
                    (Query(withheld(""), "{{limit}} ({{owner}})"),),
                ),
                Panel("Deployments", "As `kubectl get mdep -A`.", Kind.TABLE, Unit.COUNT, 15, now("")),
            ),
        ),
        Row(
            "Operator",
            (
                Panel(
                    "Tick",
                    "Signals, snapshot and decision; one a second by default.",
                    Kind.LINES,
                    Unit.SECONDS,
                    6,
                    tuple(
                        Query(
                            f"histogram_quantile({quantile}, "
                            "sum by (le) (rate(modelfleet_tick_seconds_bucket[$__rate_interval])))",
                            f"P{quantile * 100:.0f}",
                        )
                        for quantile in (0.5, 0.9)
                    ),
                ),
                Panel(
                    "Scales",
                    "Replica counts written.",
                    Kind.LINES,
                    Unit.PER_MINUTE,
                    6,
                    (
                        Query(
                            "sum by (direction) (rate(modelfleet_scales_total[$__rate_interval])) * 60", "{{direction}}"
                        ),
                    ),
                ),
                Panel(
                    "Writes",
                    "Statuses written; writes that failed and are tried again; children put right.",
                    Kind.LINES,
                    Unit.PER_MINUTE,
                    6,
                    (
                        Query("sum(rate(modelfleet_status_writes_total[$__rate_interval])) * 60", "statuses"),
                        Query("sum(rate(modelfleet_write_failures_total[$__rate_interval])) * 60", "failed"),
                        Query("sum(rate(modelfleet_repairs_total[$__rate_interval])) * 60", "repairs"),
                    ),
                ),
                Panel(
                    "Memory",
                    "Of each operator process.",
                    Kind.LINES,
                    Unit.BYTES,
                    6,
                    (Query("process_resident_memory_bytes and on (instance, job) modelfleet_leader", "{{pod}}"),),
                ),
            ),
        ),
    ),
)

DEPLOYMENT = Board(
    name="modelfleet-deployment",
    title="Modelfleet / deployment",
    description="One model: its load, what it wants, gets and has, and why not more.",
    variables=(
        Variable("namespace", "modelfleet_deployment_replicas_desired"),
        Variable("deployment", 'modelfleet_deployment_replicas_desired{namespace=~"$namespace"}'),
    ),
    rows=(
        Row(
            "Now",
            (
                Panel("State", "As `kubectl get mdep`.", Kind.TABLE, Unit.COUNT, 14, now(CHOSEN)),
                Panel(
                    "Output tokens, 24 h",
                    "Integral of the tokens per second; a lower bound where pods did not report.",
                    Kind.STAT,
                    Unit.TOKENS,
                    4,
                    (Query(f"sum({over(each('output_tokens_per_second'), '1d')})", "tokens"),),
                ),
                Panel("GPUs", "Held by its pods.", Kind.STAT, Unit.GPUS, 3, (Query(f"sum({each('gpus')})", "GPUs"),)),
                Panel(
                    "Cost",
                    "Its GPUs at the price of their class.",
                    Kind.STAT,
                    Unit.USD_PER_HOUR,
                    3,
                    (
                        Query(
                            f"sum({each('gpus')} * on (namespace, deployment) group_right () "
                            f"{each('info', by='namespace, deployment, accelerator')} "
                            f"* on (accelerator) group_left () {classes('usd_per_gpu_hour')})",
                            "$/h",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Replicas",
            (
                Panel(
                    "Wanted, desired, ready",
                    "Wanted: what the load alone calls for. Desired: what is asked for, within every limit.",
                    Kind.LINES,
                    Unit.COUNT,
                    12,
                    (
                        Query(f"sum({each('replicas_wanted')})", "wanted"),
                        Query(f"sum({each('replicas_desired')})", "desired"),
                        Query(f"sum({each('replicas_ready')})", "ready"),
                        Query(f"sum({each('replicas_max')})", "maxReplicas"),
                        Query(f"sum({each('replicas_min')})", "minReplicas"),
                    ),
                ),
                Panel(
                    "Load against capacity",
                    "Load in replicas used to the full; more than ready means that requests wait or tokens come late.",
                    Kind.LINES,
                    Unit.COUNT,
                    12,
                    (
                        Query(f"sum({each('load_replicas')})", "load"),
                        Query(f"sum({each('replicas_ready')})", "ready"),
                    ),
                ),
            ),
        ),
        Row(
            "What its users feel",
            (
                Panel(
                    "Queue",
                    "Waiting requests, and how many the ready replicas may have.",
                    Kind.LINES,
                    Unit.COUNT,
                    8,
                    (
                        Query(f"sum({each('queued_requests')})", "queued"),
                        Query(
                            f"sum({each('target_queued_requests_per_replica')} * {each('replicas_ready')})", "tolerated"
                        ),
                        Query(f"sum({each('running_requests')})", "running"),
                    ),
                ),
                Panel(
                    "Time between tokens",
                    "Mean over its pods, weighted by tokens, and the longest that is wanted.",
                    Kind.LINES,
                    Unit.SECONDS,
                    8,
                    (
                        Query(f"max({each('inter_token_seconds')})", "mean"),
                        Query(f"min({each('target_inter_token_seconds')})", "target"),
                    ),
                ),
                Panel(
                    "Output tokens/s",
                    "Generated, and what the ready replicas should carry, where that is known.",
                    Kind.LINES,
                    Unit.TOKENS_PER_SECOND,
                    8,
                    (
                        Query(f"sum({each('output_tokens_per_second')})", "generated"),
                        Query(
                            f"sum({each('target_output_tokens_per_second_per_replica')} * {each('replicas_ready')})",
                            "target of the ready",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Why not more",
            (
                Panel(
                    "Limited by",
                    "What keeps desired from wanted, and who can lift it.",
                    Kind.STATES,
                    Unit.COUNT,
                    12,
                    (Query(f"max by (limit, owner) (modelfleet_deployment_limited{CHOSEN})", "{{limit}} ({{owner}})"),),
                ),
                Panel(
                    "Reason",
                    "The one word for its state.",
                    Kind.STATES,
                    Unit.COUNT,
                    12,
                    (Query(f"max by (reason) (modelfleet_deployment_reason{CHOSEN})", "{{reason}}"),),
                ),
                Panel(
                    "Wait for GPUs that drain",
                    "How long it has waited without a grant for GPUs that others give back, and the longest that "
                    "may take. Nothing while it does not wait.",
                    Kind.LINES,
                    Unit.SECONDS,
                    8,
                    (
                        Query(f"max({each('reclaim_wait_seconds')})", "waits"),
                        Query(f"max({each('reclaim_wait_bound_seconds')})", "bound"),
                    ),
                ),
                Panel(
                    "Cold starts",
                    "Pods on a node that do not serve yet, and pods that wait for a node.",
                    Kind.AREAS,
                    Unit.COUNT,
                    5,
                    (
                        Query(f"sum({each('replicas_starting')})", "starting"),
                        Query(f"sum({each('replicas_unscheduled')})", "without a node"),
                    ),
                ),
                Panel(
                    "Cold start time, P90",
                    "Created to ready, its last 20 starts.",
                    Kind.LINES,
                    Unit.SECONDS,
                    5,
                    (Query(f"max({each('start_seconds')})", "P90"),),
                ),
                Panel(
                    "Age of the signals",
                    "Of the oldest sample that the load was computed from.",
                    Kind.LINES,
                    Unit.SECONDS,
                    6,
                    (Query(f"time() - min({each('signals_timestamp_seconds')})", "age"),),
                ),
            ),
        ),
    ),
)

TENANT = Board(
    name="modelfleet-tenant",
    title="Modelfleet / tenant",
    description="One team: its own GPUs, what it borrows and lends, its tokens and what they cost.",
    variables=(Variable("tenant", "modelfleet_tenant_nominal_gpus"),),
    rows=(
        Row(
            "Now",
            (
                *(
                    Panel(
                        title, description, Kind.STAT, Unit.GPUS, 3, (Query(f"sum({tenants(metric)})", title.lower()),)
                    )
                    for title, description, metric in (
                        ("Nominal", "GPUs that are its own.", "nominal_gpus"),
                        ("Used", "GPUs that pods of its namespaces hold, whoever made them.", "used_gpus"),
                        ("Borrowed", "Used beyond nominal.", "borrowed_gpus"),
                        ("Lent", "Of its own, used by others.", "lent_gpus"),
                        ("Waiting", "Asked for by its replicas and not there.", "waiting_gpus"),
                    )
                ),
                Panel(
                    "Output tokens, 24 h",
                    "Integral of the tokens per second; a lower bound where pods did not report.",
                    Kind.STAT,
                    Unit.TOKENS,
                    5,
                    (Query(tokens_of_the_day(OF_TENANT), "tokens"),),
                ),
                Panel(
                    "Cost, 24 h",
                    "GPUs that its pods held, at the price of their class.",
                    Kind.STAT,
                    Unit.USD,
                    4,
                    (
                        Query(
                            f"sum({over(f'tenant_accelerator:modelfleet_gpu_cost_usd_per_hour:sum{OF_TENANT}', '1d')}) "
                            "/ 3600",
                            "$",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "GPUs",
            (
                Panel(
                    "Used against its own",
                    "Between nominal and the limit it borrows. Guaranteed is its demand as far as nominal covers it.",
                    Kind.LINES,
                    Unit.GPUS,
                    12,
                    tuple(
                        Query(tenants(f"{name}_gpus"), f"{name} {{{{accelerator}}}}")
                        for name in ("used", "nominal", "limit", "guaranteed")
                    ),
                ),
                Panel(
                    "Borrowed, lent, waiting",
                    "Lent counts downward.",
                    Kind.LINES,
                    Unit.GPUS,
                    12,
                    (
                        Query(f"sum by (accelerator) ({tenants('borrowed_gpus')})", "borrowed {{accelerator}}"),
                        Query(f"-sum by (accelerator) ({tenants('lent_gpus')})", "lent {{accelerator}}"),
                        Query(f"sum by (accelerator) ({tenants('waiting_gpus')})", "waiting {{accelerator}}"),
                    ),
                ),
                Panel(
                    "GPUs by deployment",
                    "Held by pods of its ModelDeployments.",
                    Kind.AREAS,
                    Unit.GPUS,
                    12,
                    (
                        Query(
                            f"{each('gpus', chosen='')} and on (namespace, deployment) "
                            f"modelfleet_deployment_info{OF_TENANT}",
                            "{{namespace}}/{{deployment}}",
                        ),
                    ),
                ),
                Panel(
                    "Replicas withheld",
                    "Wanted and not asked for, by what keeps them back and who can lift it.",
                    Kind.AREAS,
                    Unit.COUNT,
                    12,
                    (Query(withheld(OF_TENANT), "{{limit}} ({{owner}})"),),
                ),
            ),
        ),
        Row(
            "Tokens and money",
            (
                Panel(
                    "Output tokens/s by model",
                    "Generated tokens per second.",
                    Kind.AREAS,
                    Unit.TOKENS_PER_SECOND,
                    12,
                    (Query(tokens("model", chosen=OF_TENANT), "{{model}}"),),
                ),
                Panel(
                    "Output tokens by model, last 24 h",
                    "Integral of the tokens per second; a lower bound where pods did not report.",
                    Kind.LINES,
                    Unit.TOKENS,
                    12,
                    (
                        Query(
                            "sum by (model) ("
                            f"{over(f'tenant_model:modelfleet_output_tokens_per_second:sum{OF_TENANT}', '1d')})",
                            "{{model}}",
                        ),
                    ),
                ),
                Panel(
                    "Cost by class",
                    "GPUs that its pods hold, at the price of their class.",
                    Kind.AREAS,
                    Unit.USD_PER_HOUR,
                    12,
                    (
                        Query(
                            f"sum by (accelerator) ({tenants('used_gpus')} "
                            f"* on (accelerator) group_left () {classes('usd_per_gpu_hour')})",
                            "{{accelerator}}",
                        ),
                    ),
                ),
                Panel(
                    "Cost of a million output tokens, last hour",
                    "What the GPUs cost that a model's pods held, over the tokens they made.",
                    Kind.LINES,
                    Unit.USD,
                    12,
                    (Query(usd_per_million_tokens(OF_TENANT), "{{model}}"),),
                ),
            ),
        ),
        Row(
            "Deployments",
            (
                Panel(
                    "Deployments",
                    "As `kubectl get mdep`.",
                    Kind.TABLE,
                    Unit.COUNT,
                    24,
                    now("", only=f" and on (namespace, deployment) modelfleet_deployment_info{OF_TENANT}"),
                ),
            ),
        ),
    ),
)

BOARDS = (FLEET, DEPLOYMENT, TENANT)
