"""Modelfleet's decision beside its rivals on the loads of loads.py: the tables of docs/benchmarks.md.

Each rival is swept over its targets and minimums. What it needs is the fewest GPU-hours of the second half among
the settings that were worth trying on the first (its frontier there) and reach our attainment on the second: it is
chosen in hindsight, ours is not tuned at all. A constant fleet may have any size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.loads import BURSTY, TABLE, WANDERING, Scenario
from modelfleet.cli.fleet_file import read_fleet
from modelfleet.simulate.fleet import FLEET, FleetJob, FleetOutcome, play_fleet_job
from modelfleet.simulate.frontier import Job, Point, pareto, play_jobs, points, sweep
from modelfleet.simulate.policy import Circumstances, Setting
from modelfleet.simulate.processes import Progress, in_processes
from modelfleet.simulate.registry import KINDS, ORACLE, OURS
from modelfleet.simulate.rivals import static
from modelfleet.simulate.world import Start

TTFT_SECONDS, TPOT_SECONDS = 2.0, 0.050
MAX_REPLICAS = 60
STATIC = static.KIND.name
SETS = {"table": TABLE, "wandering": WANDERING, "bursty": BURSTY}
SCENARIOS = TABLE | WANDERING | BURSTY

FLEET_FILE = Path(__file__).with_name("fleet.yaml")
FLEET_POLICIES = (OURS, "hpa-inflight", "hpa-tokens", "keda", STATIC)
FLEET_SEEDS = 3
FLEET_HEADINGS = ("in target", "worst deployment", "GPU-hours", "of the pool", "pending pod-hours")


@dataclass(frozen=True, slots=True)
class Row:
    """What one scenario shows of the second half: GPU-hours, and requests that were late.

    `rival_late` is of the rival's setting with the fewest within our GPU-hours.
    """

    gpu_hours: float
    attainment: float
    reversals_per_hour: float
    hpa_reversals_per_hour: float | None
    constant: float | None
    rival: float | None
    rival_name: str
    oracle: float | None
    late: float
    rival_late: float | None


def compare(name: str, scenario: Scenario, traces: Path, *, seed: int, every: int) -> Row:
    """Play one scenario: a bursty one beside constant fleets and the oracle, the others beside every rival.

    Args:
        name: For the table.
        scenario: What to play.
        traces: Where the traces are.
        seed: Of the load and of every run.
        every: Try each so many of a rival's targets; 1 tries all.
    """
    model = scenario.model
    arrivals = scenario.load.arrivals(traces, seed)
    here = Circumstances(model, scenario.start_seconds, TTFT_SECONDS, TPOT_SECONDS, arrivals)
    rivals = [
        kind
        for kind in KINDS.values()
        if kind.name not in (OURS, STATIC) and (name not in BURSTY or kind.name == ORACLE)
    ]
    tried = {kind.name: set(kind.targets(model)[::every]) for kind in rivals}
    settings = [
        (OURS, Setting(KINDS[OURS].default_target(model), 1, MAX_REPLICAS)),
        *((STATIC, Setting(float(size), size, MAX_REPLICAS)) for size in range(1, MAX_REPLICAS + 1)),
        *(
            (kind, setting)
            for kind, setting in sweep(rivals, here, min_replicas=1, max_replicas=MAX_REPLICAS)
            if setting.target in tried[kind] or kind == ORACLE
        ),
    ]
    start = Start.of(scenario.start_seconds)
    done = play_jobs(
        [Job(policy, setting, start, seed) for policy, setting in settings], here, progress=_progress(name)
    )
    ours, *others = done
    found = points(others)
    front = pareto(found)
    reached = {
        policy: _fewest([point for point in front if point.policy == policy], ours.second.attainment)
        for policy in dict.fromkeys(point.policy for point in found)
    }
    constant = _fewest([point for point in found if point.policy == STATIC], ours.second.attainment)
    contestants = {**reached, STATIC: constant}
    del contestants[ORACLE]
    best = min(((hours, policy) for policy, hours in contestants.items() if hours is not None), default=None)
    affordable = [
        *(point for point in found if point.policy == STATIC),
        *(point for point in front if point.policy not in (STATIC, ORACLE)),
    ]
    hpa = [each.second.reversals_per_hour for each in others if each.job.policy == "hpa-inflight"]
    return Row(
        gpu_hours=ours.second.gpu_hours,
        attainment=ours.second.attainment,
        reversals_per_hour=ours.second.reversals_per_hour,
        hpa_reversals_per_hour=sorted(hpa)[len(hpa) // 2] if hpa else None,
        constant=constant,
        rival=best[0] if best else None,
        rival_name=best[1] if best else "none reaches it",
        oracle=reached[ORACLE],
        late=ours.second.violations,
        rival_late=min(
            (point.second.violations for point in affordable if point.second.gpu_hours <= ours.second.gpu_hours),
            default=None,
        ),
    )


def _fewest(found: Sequence[Point], attainment: float) -> float | None:
    """Return the fewest second-half GPU-hours of a setting that reaches an attainment there."""
    return min((point.second.gpu_hours for point in found if point.second.attainment >= attainment), default=None)


def _progress(name: str) -> Progress:
    def tell(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            print(f"{name}: {done} of {total} runs", file=sys.stderr, flush=True)

    return tell


def print_fleet(seed: int) -> None:
    """Print one row a policy as Markdown: medians and ranges of seeds of load and run alike."""
    outcomes: dict[str, list[FleetOutcome]] = {policy: [] for policy in FLEET_POLICIES}
    for each in range(seed, seed + FLEET_SEEDS):
        fleet = read_fleet(
            FLEET_FILE,
            ttft_seconds=TTFT_SECONDS,
            tpot_milliseconds=1000.0 * TPOT_SECONDS,
            limit_seconds=None,
            seed=each,
            warn=lambda line: print(line, file=sys.stderr),
        )
        jobs = [FleetJob(policy, None, each) for policy in FLEET_POLICIES]
        for outcome in in_processes(play_fleet_job, jobs, fleet, progress=_progress(f"fleet, seed {each}")):
            outcomes[outcome.job.policy].append(outcome)
    names = list(fleet.deployments)
    print(f"| policy | {' | '.join(FLEET_HEADINGS)} | {' | '.join(f'{name}, in target' for name in names)} |")
    for policy, its in outcomes.items():
        figures = (
            _range([100.0 * each.scores[FLEET].attainment for each in its], "%"),
            _range([100.0 * each.total.worst_attainment for each in its], "%"),
            _range([each.scores[FLEET].gpu_hours for each in its]),
            _range([100.0 * each.total.gpu_utilization for each in its], "%"),
            _range([each.waited[FLEET].pending_pod_hours for each in its]),
            *(_range([100.0 * each.scores[name].attainment for each in its], "%") for name in names),
        )
        print(f"| {policy} | {' | '.join(figures)} |")


def _range(values: Sequence[float], unit: str = "") -> str:
    return f"{median(values):.1f}{unit} ({min(values):.1f} to {max(values):.1f})"


def main(
    traces: Annotated[
        Path | None, typer.Option(envvar="TRACES", help="Folder with aibrix/ and azure2023/; without it, shapes only.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="A load of bench/loads.py, or table, wandering, bursty; fleet: deployments that share GPUs, 3 seeds."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    seeds: Annotated[int, typer.Option(help="Play this one and so many less one after it.", min=1)] = 1,
    every: Annotated[int, typer.Option(help="Try each so many of a rival's targets.", min=1)] = 1,
) -> None:
    """Print one row a scenario as Markdown."""
    if only == [FLEET]:
        print_fleet(seed)
        return
    names = [name for each in only or SETS for name in SETS.get(each, (each,))]
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise typer.BadParameter(f"{unknown[0]!r} is no load; known: {'; '.join(SCENARIOS)}", param_hint="--only")
    if traces is None:
        print("no TRACES folder: the recorded loads are left out", file=sys.stderr)
        names = [name for name in names if not SCENARIOS[name].load.recorded]
    table, lines = Table(*HEADINGS), []
    for name in names:
        rows = [
            compare(name, SCENARIOS[name], traces or Path(), seed=each, every=every)
            for each in range(seed, seed + seeds)
        ]
        cells = (name, *_cells(rows))
        table.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    Console(width=200).print(table)
    print("\n".join(lines))


HEADINGS = (
    "load",
    "GPU-hours",
    "in target",
    "/ best constant fleet",
    "/ best rival",
    "/ oracle",
    "late / best rival's",
    "reversals an hour / HPA",
)


def _cells(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return medians over seeds, of ratios with their range."""
    hours = [row.gpu_hours for row in rows]
    hpa = [row.hpa_reversals_per_hour for row in rows if row.hpa_reversals_per_hour is not None]
    rivals = [row.rival_name for row in rows]
    return (
        f"{median(row.gpu_hours for row in rows):.1f}",
        f"{median(row.attainment for row in rows):.2%}",
        _ratios(hours, [row.constant for row in rows]),
        f"{_ratios(hours, [row.rival for row in rows])} {' '.join(dict.fromkeys(rivals))}",
        _ratios(hours, [row.oracle for row in rows]),
        _ratios([row.late for row in rows], [row.rival_late for row in rows]),
        f"{median(row.reversals_per_hour for row in rows):.0f} / {f'{median(hpa):.0f}' if hpa else '-'}",
    )


def _ratios(ours: Sequence[float], others: Sequence[float | None]) -> str:
    """Return our figure over another's; a seed on which there is no other, or it is 0, has no ratio."""
    ratios = [one / other for one, other in zip(ours, others, strict=True) if other]
    if not ratios:
        return "-"
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ours) > 1 else ""
    return f"{median(ratios):.2f}{spread}"


if __name__ == "__main__":
    typer.run(main)
