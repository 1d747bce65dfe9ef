"""`modelfleet simulate --fleet`: what its runs say, as JSON and as tables."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from statistics import median
from typing import Any, Final

from rich import box
from rich.table import Table

from modelfleet.simulate.fleet import FLEET, Fleet, FleetOutcome
from modelfleet.simulate.frontier import usd
from modelfleet.simulate.registry import KINDS

_SINGLE: Final = "is of a single deployment; with --fleet drop it"
_IN_THE_FILE: Final = (
    "trace",
    "shape",
    "prometheus",
    "deployment",
    "since",
    "engine",
    "rate",
    "duration_seconds",
    "prompt_tokens",
    "output_tokens",
    "variation",
    "rate_scale",
    "calibration",
    "fit",
    "start_seconds",
    "min_replicas",
    "max_replicas",
)
UNUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(_IN_THE_FILE, f"{_SINGLE}: the file says it for each"),
    **dict.fromkeys(("frontier", "goal"), f"{_SINGLE}: a fleet is played at one target a policy, see --target"),
}
"""Options that a fleet does not read, and what to do instead."""


def fleet_facts(fleet: Fleet) -> dict[str, str]:
    """Return what is played, by name, for people."""
    seconds = max(each.circumstances.arrivals[-1].at_seconds for each in fleet.deployments.values())
    requests = sum(len(each.circumstances.arrivals) for each in fleet.deployments.values())
    facts = {
        "nodes": ", ".join(
            f"{sum(node.allocatable_gpus for node in nodes)} GPUs of {accelerator} on {len(nodes)}"
            for accelerator, nodes in fleet.nodes.items()
        ),
        "requests": f"{requests:,} in {seconds:,.0f} s",
    }
    for name, each in fleet.deployments.items():
        facts[name] = (
            f"{each.min_replicas} to {each.max_replicas} replicas of {each.circumstances.model.gpus} on "
            f"{each.accelerator}, priority {each.priority}, TTFT at most {each.circumstances.ttft_seconds:g} s and "
            f"TPOT at most {1000.0 * each.circumstances.tpot_seconds:g} ms"
        )
    return facts


def fleet_json(outcomes: Sequence[FleetOutcome]) -> str:
    """Return one object a deployment of a run, then one for the fleet: policies as they were given, then seeds."""
    rows = []
    for each in outcomes:
        for name, score in each.scores.items():
            waited = asdict(each.waited[name])
            del waited["pending_pod_hours"]
            row: dict[str, Any] = {**asdict(score), "deployment": name, **waited, "seed": each.job.seed}
            if name == FLEET:
                row["target"] = None
                row |= {**asdict(each.total), "pending_pod_hours": each.waited[FLEET].pending_pod_hours}
            rows.append(json.dumps(row, allow_nan=False))
    return "[\n" + ",\n".join(rows) + "\n]"


Figure = tuple[str, Callable[[FleetOutcome], float], int]
"""Heading, value and decimals."""


def _fleet_figures(price: Decimal | None) -> Iterator[Figure]:
    yield "in target\n%", lambda each: 100.0 * each.scores[FLEET].attainment, 2
    yield "worst\n%", lambda each: 100.0 * each.total.worst_attainment, 2
    yield "GPU-\nhours", lambda each: each.scores[FLEET].gpu_hours, 2
    if price is not None:
        yield "cost\nUSD", lambda each: float(usd(each.scores[FLEET].gpu_hours, price)), 2
    yield "of the pool\n%", lambda each: 100.0 * each.total.gpu_utilization, 1
    yield "pending\npod-hours", lambda each: each.waited[FLEET].pending_pod_hours, 2
    yield "reversals\nper hour", lambda each: each.scores[FLEET].reversals_per_hour, 1


def fleet_tables(outcomes: Sequence[FleetOutcome], *, price: Decimal | None) -> Iterator[Table]:
    """Return a table of the fleet, then one of the deployments; with several seeds medians, and the range of each."""
    groups: dict[str, list[FleetOutcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.job.policy, []).append(outcome)
    ranked = dict(sorted(groups.items(), key=lambda item: (-_attained(item[1], FLEET), list(KINDS).index(item[0]))))
    names = [name for name in outcomes[0].scores if name != FLEET]
    yield _table(ranked, tuple(_fleet_figures(price)))
    yield _table(ranked, tuple(figure for name in names for figure in _deployment_figures(name)))


def _deployment_figures(name: str) -> Iterator[Figure]:
    yield f"{name}\nin target %", lambda each: 100.0 * each.scores[name].attainment, 2
    yield "GPU-\nhours", lambda each: each.scores[name].gpu_hours, 2
    yield "pending\nGPU-hours", lambda each: each.waited[name].gpu_hours_pending, 2


def _attained(outcomes: Sequence[FleetOutcome], name: str) -> float:
    return median(each.scores[name].attainment for each in outcomes)


def _table(groups: Mapping[str, Sequence[FleetOutcome]], figures: Sequence[Figure]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("policy", no_wrap=True)
    for heading, _, _ in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    for policy, outcomes in groups.items():
        table.add_row(policy, *(_text([of(each) for each in outcomes], decimals) for _, of, decimals in figures))
    return table


def _text(values: Sequence[float], decimals: int) -> str:
    middle = f"{median(values):,.{decimals}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{decimals}f}-{max(values):,.{decimals}f})"
