"""`modelfleet simulate`: autoscalers against each other on one load, in seconds and without a cluster."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from decimal import Decimal
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from time import time
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from modelfleet.api.engine import Engine
from modelfleet.cli.bad_input import BadInput
from modelfleet.cli.fleet_file import read_fleet
from modelfleet.cli.simulate_fleet import UNUSED, fleet_facts, fleet_json, fleet_tables
from modelfleet.cli.simulate_load import KNOWN_TRACES, Asked, Load, Synthetic, only_source, read_loads
from modelfleet.cli.simulate_past import Past, past
from modelfleet.cli.simulate_tables import BEST, choices_table, runs_table
from modelfleet.engines.recordings import RECORDINGS
from modelfleet.simulate.arrivals import Lengths
from modelfleet.simulate.calibration import (
    CALIBRATIONS,
    DEFAULT_CALIBRATION,
    CalibrationError,
    ReplicaModel,
    load_replica_model,
)
from modelfleet.simulate.fleet import Fleet, FleetJob, play_fleet_job, settings
from modelfleet.simulate.frontier import (
    Job,
    Outcome,
    best_rival,
    equal_attainment,
    equal_cost,
    pareto,
    play_drawn_job,
    play_jobs,
    points,
    representatives,
    sweep,
    what_if,
)
from modelfleet.simulate.policy import Circumstances, Kind, Setting
from modelfleet.simulate.processes import Progress, in_processes
from modelfleet.simulate.registry import KINDS, OURS, UnknownPolicy, kind_named, targets
from modelfleet.simulate.shapes import Shape
from modelfleet.simulate.world import Start

MAX_REPLICAS: Final = 1_000
"""As a ModelDeployment has it."""
BATCH_REQUESTS: Final = 200_000
"""About 30 MB of arrivals in each process."""
PRINT_COLUMNS: Final = 240


def simulate(
    context: typer.Context,
    trace: Annotated[Path | None, typer.Option(help=f"Load: {KNOWN_TRACES}; gzipped or not.", metavar="FILE")] = None,
    shape: Annotated[
        str | None, typer.Option(help=f"Synthetic load instead: {', '.join(Shape)}.", metavar="NAME")
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(help="Many deployments on shared GPUs instead: a YAML or JSON file.", metavar="FILE"),
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="What this Prometheus recorded instead.", metavar="URL")
    ] = None,
    deployment: Annotated[str | None, typer.Option(help="Whose record it is.", metavar="NAMESPACE/NAME")] = None,
    since: Annotated[str, typer.Option(help="How far back: 30m, 12h, 7d, 2w.", metavar="TIME")] = "7d",
    engine: Annotated[
        str, typer.Option(help=f"Of that deployment: {', '.join(RECORDINGS)}.", metavar="NAME")
    ] = Engine.VLLM.value,
    rate: Annotated[float, typer.Option(help="Requests/s at the shape's highest.")] = 10.0,
    duration_seconds: Annotated[float, typer.Option(help="How long the shape lasts.")] = 3600.0,
    prompt_tokens: Annotated[float, typer.Option(help="Mean prompt, where no trace tells it.")] = 1000.0,
    output_tokens: Annotated[float, typer.Option(help="Mean output, where no trace tells it.")] = 200.0,
    variation: Annotated[float, typer.Option(help="Coefficient of variation of both.")] = 0.5,
    rate_scale: Annotated[float, typer.Option(help="Requests played for each one of the load.")] = 1.0,
    time_limit_seconds: Annotated[float | None, typer.Option(help="Cut the load after this long.")] = None,
    calibration: Annotated[
        str, typer.Option(help="What one replica does: a name, or a JSON or YAML file.", metavar="NAME|FILE")
    ] = DEFAULT_CALIBRATION,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit", help="Fit the service times to the Prometheus record; limits and GPUs stay the calibration's."
        ),
    ] = False,
    start_seconds: Annotated[float, typer.Option(help="From a pod's creation to ready.")] = 110.0,
    min_replicas: Annotated[int, typer.Option(help="Fewest replicas.")] = 1,
    max_replicas: Annotated[int, typer.Option(help="Most replicas.")] = 16,
    policy: Annotated[
        str | None, typer.Option(help=f"Of {', '.join(KINDS)}; all when absent.", metavar="A,B,...")
    ] = None,
    target: Annotated[float | None, typer.Option(help="For all of them; each one's default when absent.")] = None,
    frontier: Annotated[
        bool,
        typer.Option("--frontier", help="Sweep targets and minimums: tuned on the first half, judged on the second."),
    ] = False,
    goal: Annotated[float, typer.Option(help="Attainment, 0 to 1, at which costs are compared.")] = 0.99,
    ttft: Annotated[float, typer.Option(help="Target of the time to first token, s.")] = 2.0,
    tpot: Annotated[float, typer.Option(help="Target of the mean time between tokens, ms.")] = 50.0,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    seeds: Annotated[int, typer.Option(help="Play so many times, the next seed each: median and worst.")] = 1,
    price: Annotated[float | None, typer.Option(help="USD per GPU-hour; no cost is shown when absent.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of tables.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report that opens anywhere.", metavar="FILE")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at once; one per CPU when absent.")] = None,
) -> None:
    """Play one load against autoscaling policies: what each costs, and how many requests meet their latency targets.

    Times come from a model of the engine, not from GPUs. The same options give the same numbers.
    """
    with _refusals():
        _check(
            {
                "--rate": rate,
                "--duration-seconds": duration_seconds,
                "--rate-scale": rate_scale,
                "--time-limit-seconds": time_limit_seconds,
                "--target": target,
                "--ttft": ttft,
                "--tpot": tpot,
                "--goal": goal,
            },
            above=0.0,
        )
        _check({"--variation": variation, "--start-seconds": start_seconds, "--price": price}, least=0.0)
        _check({"--prompt-tokens": prompt_tokens, "--output-tokens": output_tokens}, least=1.0)
        _check(
            {"--min-replicas": min_replicas, "--max-replicas": max_replicas, "--seeds": seeds, "--jobs": jobs},
            least=1.0,
        )
        _check({"--goal": goal}, most=1.0)
        _check({"--max-replicas": max_replicas}, most=MAX_REPLICAS)
        _check_together(min_replicas, max_replicas, target if frontier else None)
        kinds = _kinds(policy)
        if html is not None:
            _check_html(html, read=[trace, fleet, Path(calibration)])
        usd_per_gpu_hour = None if price is None else Decimal(str(price))
        if fleet is not None:
            pool, plan = _fleet(
                context, fleet, kinds, target=target, asked=(ttft, tpot, time_limit_seconds), seed=seed, seeds=seeds
            )
            _simulate_fleet(
                fleet.name, pool, plan, price=usd_per_gpu_hour, json_output=json_output, html=html, jobs=jobs
            )
            return
        recorded = _recorded(prometheus, deployment=deployment, since=since, engine=engine, fit=fit)
        source = only_source(trace=trace, shape=_shaped(shape, rate, duration_seconds), past=recorded)
        fitted_to = recorded if fit else None
        model = _model(calibration, fitted_to)
        asked = Asked(source, Lengths(prompt_tokens, output_tokens, variation), rate_scale, time_limit_seconds, seed)
        loads = read_loads(asked, model, seeds=seeds, warn=_warn)
        load = next(loads)
        circumstances = Circumstances(model, start_seconds, ttft, tpot / 1000.0, load.arrivals)
        if frontier:
            tried = sweep(kinds, circumstances, min_replicas=min_replicas, max_replicas=max_replicas)
        else:
            tried = _one_each(kinds, target, circumstances, min_replicas=min_replicas, max_replicas=max_replicas)
        start = Start.of(start_seconds)
        planned = [Job(name, setting, start, seed) for name, setting in tried]
        outcomes = _play(planned, chain([load], loads), circumstances, seeds=seeds, processes=jobs)
    facts = {
        "requests": _requests(load, outcomes),
        "replica": f"{_replica(calibration, fitted_to)}, {_plural(model.gpus, 'GPU')}",
        "replicas": f"{min_replicas} to {max_replicas}, {min_replicas} of them at the beginning, "
        f"{start_seconds:g} s from creation to ready",
        "targets": f"TTFT at most {ttft:g} s and TPOT at most {tpot:g} ms",
        "seeds": f"{seed}" if seeds == 1 else f"{seed} to {seed + seeds - 1}",
    }
    if json_output:
        typer.echo(_json(outcomes, frontier=frontier))
    else:
        _print({"load": load.title, **facts}, outcomes, goal=goal if frontier else None, price=usd_per_gpu_hour)
    if html is None:
        return
    chosen = representatives(points(outcomes), goal=goal)
    rival = best_rival(chosen, goal=goal)
    shown = [Job(name, point.setting, start, seed, keep_run=True) for name, point in chosen.items()]
    changed = [each for job in shown if job.policy in (OURS, rival) for each in what_if(job)]
    with _progress("report") as told:
        played = play_jobs([*shown, *(each.job for each in changed)], circumstances, processes=jobs, progress=told)
    if calibration in CALIBRATIONS and fitted_to is None:
        facts["times from"] = CALIBRATIONS[calibration].source
    if frontier:
        facts["settings"] = f"cheapest with {100.0 * goal:g} % of the first half in target, else the nearest to that"
    # Not at the top: it needs the optional extra.
    from modelfleet.simulate.report import Story, render  # noqa: PLC0415

    story = Story(
        title=load.title,
        facts=facts,
        ttft_seconds=ttft,
        shown=played[: len(shown)],
        points=points(outcomes) if frontier else (),
        what_ifs=list(zip(changed, played[len(shown) :], strict=True)),
        rival=rival,
        price=usd_per_gpu_hour,
    )
    _write(html, render(story))


def _fleet(
    context: typer.Context,
    path: Path,
    kinds: Sequence[Kind],
    *,
    target: float | None,
    asked: tuple[float, float, float | None],
    seed: int,
    seeds: int,
) -> tuple[Fleet, list[FleetJob]]:
    """Read a fleet, and plan a run a policy and seed; refuse a target that a policy cannot take."""
    _only_fleet(context)
    ttft_seconds, tpot_milliseconds, limit_seconds = asked
    pool = read_fleet(
        path,
        ttft_seconds=ttft_seconds,
        tpot_milliseconds=tpot_milliseconds,
        limit_seconds=limit_seconds,
        seed=seed,
        warn=_warn,
    )
    planned = [FleetJob(kind.name, target, seed + more) for kind in kinds for more in range(seeds)]
    _check_targets(planned, pool)
    return pool, planned


def _simulate_fleet(
    title: str,
    pool: Fleet,
    planned: Sequence[FleetJob],
    *,
    price: Decimal | None,
    json_output: bool,
    html: Path | None,
    jobs: int | None,
) -> None:
    """Play a fleet, and print or write what came of it."""
    with _progress("playing") as told:
        outcomes = in_processes(play_fleet_job, planned, pool, processes=jobs, progress=told)
    seeds = sorted({each.seed for each in planned})
    facts = {**fleet_facts(pool), "seeds": f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"}
    if json_output:
        typer.echo(fleet_json(outcomes))
    else:
        console = Console(width=PRINT_COLUMNS, highlight=False)
        for name, text in {"fleet": title, **facts}.items():
            console.print(f"[dim]{escape(name):<9}[/] {escape(text)}")
        for table in fleet_tables(outcomes, price=price):
            console.print()
            console.print(table)
        if len(seeds) > 1:
            console.print("\n[dim]median (least-most) of the seeds[/]")
    if html is None:
        return
    shown = [replace(each, keep_runs=True) for each in planned if each.seed == seeds[0]]
    with _progress("report") as told:
        played = in_processes(play_fleet_job, shown, pool, processes=jobs, progress=told)
    # Not at the top: it needs the optional extra.
    from modelfleet.simulate.fleet_report import render_fleet  # noqa: PLC0415

    _write(html, render_fleet(title, facts, played, gpus=pool.gpus, price=price))


def _only_fleet(context: typer.Context) -> None:
    """Refuse options that a fleet does not read."""
    for name, remedy in UNUSED.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise BadInput(f"--{name.replace('_', '-')}", remedy)


def _check_targets(planned: Sequence[FleetJob], pool: Fleet) -> None:
    for job in planned:
        for name, setting in settings(pool, job).items():
            try:
                kind_named(job.policy).build(setting, pool.deployments[name].circumstances)
            except ValueError as error:
                raise BadInput("--target", f"{job.policy} cannot take {setting.target:g}: {error}") from error


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn a refusal into one line and exit code 2."""
    try:
        yield
    except BadInput as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


def _check(
    options: Mapping[str, float | None],
    *,
    above: float | None = None,
    least: float | None = None,
    most: float = math.inf,
) -> None:
    """Refuse numbers that are out of bounds or none; None was not given."""
    for option, value in options.items():
        if value is None:
            continue
        if not math.isfinite(value):
            raise BadInput(option, f"{value} is no number; give a finite one")
        if above is not None and value <= above:
            raise BadInput(option, f"{value:g} must be above {above:g}")
        if least is not None and value < least:
            raise BadInput(option, f"{value:g} must be at least {least:g}")
        if value > most:
            raise BadInput(option, f"{value:g} must be at most {most:g}")


def _check_together(min_replicas: int, max_replicas: int, target_of_frontier: float | None) -> None:
    """Refuse options that contradict each other."""
    if min_replicas > max_replicas:
        raise BadInput(
            "--min-replicas", f"{min_replicas} is above --max-replicas {max_replicas}; lower the one or raise the other"
        )
    if target_of_frontier is not None:
        raise BadInput("--target", "a frontier sweeps targets by itself; drop one of --target and --frontier")


def _recorded(prometheus: str | None, *, deployment: str | None, since: str, engine: str, fit: bool) -> Past | None:
    """Return the past that was asked for, and refuse what needs one where there is none."""
    if prometheus is not None:
        return past(url=prometheus, deployment=deployment, since=since, engine=engine, now=time())
    if deployment is not None:
        raise BadInput("--deployment", "its load is read from a Prometheus; give a --prometheus too")
    if fit:
        raise BadInput("--fit", "service times are fitted to what a Prometheus recorded; give a --prometheus too")
    return None


def _shaped(name: str | None, requests_per_second: float, duration_seconds: float) -> Synthetic | None:
    return None if name is None else Synthetic(name, requests_per_second, duration_seconds)


def _replica(calibration: str, fitted_to: Past | None) -> str:
    """Return what the replica's numbers come from, for people."""
    return calibration if fitted_to is None else f"fitted to {fitted_to.deployment}, limits of {calibration}"


def _warn(line: str) -> None:
    typer.echo(line, err=True)


def _kinds(names: str | None) -> list[Kind]:
    if names is None:
        return list(KINDS.values())
    try:
        # A name that is given twice is played once.
        return [kind_named(name) for name in dict.fromkeys(name.strip() for name in names.split(","))]
    except UnknownPolicy as error:
        raise BadInput("--policy", error) from error


def _model(calibration: str, fitted_to: Past | None) -> ReplicaModel:
    try:
        known = load_replica_model(calibration)
    except CalibrationError as error:
        raise BadInput("--calibration", error) from error
    return known if fitted_to is None else fitted_to.fitted(known, _warn)


def _one_each(
    kinds: Sequence[Kind], target: float | None, circumstances: Circumstances, *, min_replicas: int, max_replicas: int
) -> tuple[tuple[str, Setting], ...]:
    tried = tuple(
        (
            kind,
            kind.setting(
                target or kind.default_target(circumstances.model),
                min_replicas=min_replicas,
                max_replicas=max_replicas,
            ),
        )
        for kind in kinds
    )
    for kind, setting in tried:
        if target is not None and setting.target != target:
            raise BadInput(
                "--target", f"{kind.name} cannot take {target:g}: replicas are {min_replicas} to {max_replicas}"
            )
        try:
            kind.build(setting, circumstances)
        except ValueError as error:
            raise BadInput("--target", f"{kind.name} cannot take {setting.target:g}: {error}") from error
    return tuple((kind.name, setting) for kind, setting in tried)


def _check_html(html: Path, *, read: Sequence[Path | None]) -> None:
    """Refuse a report that could not be written, or that would replace what is read, before anything is played."""
    if any(path is not None and path.exists() and html.exists() and html.samefile(path) for path in read):
        raise BadInput("--html", f"{html} is read too; give another file")
    there = html if html.exists() else html.parent
    if html.is_dir() or not html.parent.is_dir() or not os.access(there, os.W_OK):
        raise BadInput("--html", f"cannot write {html}; give a file in a directory that you may write to")
    if find_spec("plotly") is None:
        raise BadInput("--html", "needs plotly; pip install 'modelfleet[simulate]'")


def _write(html: Path, report: str) -> None:
    with _refusals():
        try:
            html.write_text(report, encoding="utf-8")
        except OSError as error:
            raise BadInput("--html", f"cannot write {html}: {error.strerror}; give another file") from error


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """Show a bar on standard error where that is a terminal; it is gone in the end."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _play(
    planned: Sequence[Job], loads: Iterable[Load], circumstances: Circumstances, *, seeds: int, processes: int | None
) -> list[Outcome]:
    """Play every job on each draw of the load, with the next seed each."""
    outcomes: list[Outcome] = []
    with _progress("playing") as told:
        for drawn in _batches(loads, planned[0].seed):
            jobs = [replace(job, seed=seed) for job in planned for seed in drawn]
            outcomes += in_processes(
                play_drawn_job,
                jobs,
                {seed: replace(circumstances, arrivals=load.arrivals) for seed, load in drawn.items()},
                processes=processes,
                progress=_part(told, len(outcomes), len(planned) * seeds),
            )
    return outcomes


def _batches(loads: Iterable[Load], seed: int) -> Iterator[dict[int, Load]]:
    """Yield loads by their seeds, a few together: all of a batch travel to every process."""
    batch: dict[int, Load] = {}
    for number, load in enumerate(loads, start=seed):
        if batch and sum(len(each.arrivals) for each in batch.values()) + len(load.arrivals) > BATCH_REQUESTS:
            yield batch
            batch = {}
        batch[number] = load
    yield batch


def _part(told: Progress, before: int, total: int) -> Progress:
    """Return what tells of a part as of the whole, of which so much was done before."""
    return lambda done, _: told(before + done, total)


def _requests(load: Load, outcomes: Sequence[Outcome]) -> str:
    """Return how many requests there are, for people: of several draws the fewest and the most."""
    counts = [each.whole.requests for each in outcomes]
    return (
        " to ".join(f"{count:,}" for count in dict.fromkeys((min(counts), max(counts))))
        + f" in {load.arrivals[-1].at_seconds:,.0f} s"
        + (f"; {load.rejected:,} more are longer than the KV cache, and in no figure" if load.rejected else "")
    )


def _json(outcomes: Sequence[Outcome], *, frontier: bool) -> str:
    """Return one object a run and line: the whole load's figures, and for a frontier each half's as well."""
    tuned = {(point.policy, point.setting) for point in pareto(points(outcomes))} if frontier else set()
    rows = []
    for each in sorted(outcomes, key=_order(outcomes)):
        row: dict[str, Any] = {**asdict(each.whole), "seed": each.job.seed}
        if frontier:
            row["first_half"], row["second_half"] = asdict(each.first), asdict(each.second)
            row["tuned_on_first_half"] = (each.job.policy, each.job.setting) in tuned
        rows.append(json.dumps(row, allow_nan=False))
    return "[\n" + ",\n".join(rows) + "\n]"


def _order(outcomes: Sequence[Outcome]) -> Callable[[Outcome], tuple[int, float, int, int]]:
    """Return what rows are sorted by: policies as they were given, then target, minimum and seed."""
    place = {name: number for number, name in enumerate(dict.fromkeys(each.job.policy for each in outcomes))}

    def key(each: Outcome) -> tuple[int, float, int, int]:
        return place[each.job.policy], each.job.setting.target, each.job.setting.min_replicas, each.job.seed

    return key


def _print(facts: Mapping[str, str], outcomes: Sequence[Outcome], *, goal: float | None, price: Decimal | None) -> None:
    """Print the facts, and the tables of the runs or, with a goal, of the frontier."""
    # Wider than any table: in a narrow terminal lines then wrap, where rich would cut off digits.
    console = Console(width=PRINT_COLUMNS, highlight=False)
    for name, text in facts.items():
        console.print(f"[dim]{name:<9}[/]{escape(text)}")
    for title, table in _tables(outcomes, goal, price):
        console.print(f"\n[bold]{escape(title)}[/]" if title else "")
        console.print(table)
    console.print(
        f"\n[dim]{BEST} best of its column; the oracle knows every request beforehand and has no part in it[/]"
    )
    for text in targets(dict.fromkeys(each.job.policy for each in outcomes)):
        console.print(f"[dim]target of {escape(text)}[/]")


def _tables(
    outcomes: Sequence[Outcome], goal: float | None, price: Decimal | None
) -> Iterator[tuple[str | None, Table]]:
    if goal is None:
        yield None, runs_table(outcomes, price=price)
        return
    tried = points(outcomes)
    yield (
        f"On the second half, the cheapest setting that kept {100.0 * goal:g} % of the first in target; "
        f"{BEST} of those that kept it here too",
        choices_table(equal_attainment(tried, goal=goal), none="none did", price=price, goal=goal),
    )
    chosen = representatives(tried, goal=goal)
    anchor = OURS if OURS in chosen else next(iter(chosen))
    budget = chosen[anchor].first.gpu_hours
    yield (
        f"On the second half, the setting of the fewest violations for {budget:.2f} GPU-hours on the first, "
        f"which {anchor} took{' above' if chosen[anchor].first.attainment >= goal else ' to come nearest to that'}",
        choices_table(equal_cost(tried, gpu_hours=budget), none="all cost more", price=price),
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
