"""`python -m sandbox.load`: an open-loop load on one ModelDeployment."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from modelfleet.api.meta import Key
from modelfleet.simulate.arrivals import MAX_TOKENS, Arrival, Lengths, Replay, replayed
from modelfleet.simulate.shapes import Shape, shape_arrivals
from modelfleet.simulate.traces import UnknownFormat, read_trace
from sandbox.load.client import Patience, run_load
from sandbox.load.latency import Percentiles
from sandbox.load.report import Progress, Report, Targets

# Locals would show the cluster's token in a traceback.
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
MAX_PODS_LISTED: Final = 16
console = Console(stderr=True, soft_wrap=True)


@app.command()
def main(
    kubeconfig: Annotated[Path, typer.Option(help="Cluster to load.", exists=True, dir_okay=False)],
    deployment: Annotated[str, typer.Option(help="ModelDeployment, as NAMESPACE/NAME.")],
    shape: Annotated[Shape, typer.Option(help="Synthetic load, unless --trace is given.")] = Shape.STEADY,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace.", exists=True, dir_okay=False)] = None,
    rate: Annotated[float, typer.Option(help="Requests a second, at the shape's highest.", min=1e-6)] = 1.0,
    duration: Annotated[float, typer.Option(help="Seconds the shape lasts.", min=1e-3)] = 60.0,
    prompt_tokens: Annotated[float, typer.Option(help="Mean prompt length, where no trace tells it.", min=1)] = 200.0,
    output_tokens: Annotated[float, typer.Option(help="Mean output length, where no trace tells it.", min=1)] = 64.0,
    length_variation: Annotated[float, typer.Option(help="Coefficient of variation of both lengths.", min=0)] = 0.0,
    rate_scale: Annotated[float, typer.Option(help="Requests sent for each one in the trace.", min=1e-9)] = 1.0,
    time_scale: Annotated[float, typer.Option(help="Seconds of the source played in one second.", min=1e-9)] = 1.0,
    max_seconds: Annotated[float, typer.Option(help="Stop sending after this long.", min=1e-3)] = float("inf"),
    max_tokens_cap: Annotated[int, typer.Option(help="Longest prompt, and longest output.", min=1)] = MAX_TOKENS,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    model: Annotated[str, typer.Option(help="Model name to send; the pods' own when empty.")] = "",
    hold_seconds: Annotated[float, typer.Option(help="How long a request waits for a ready pod.", min=0)] = 600.0,
    ttft: Annotated[float, typer.Option(help="Target of the time to first token, s.", min=0)] = 2.0,
    tpot: Annotated[float, typer.Option(help="Target of the mean time between tokens, ms.", min=0)] = 50.0,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress lines.")] = False,
) -> None:
    """Send requests at their times to the ready pods of a ModelDeployment, and report what came back."""
    namespace, _, name = deployment.partition("/")
    if not namespace or not name:
        raise typer.BadParameter("must be NAMESPACE/NAME", param_hint="--deployment")
    lengths = Lengths(prompt_tokens, output_tokens, length_variation)
    if trace is None:
        source = shape_arrivals(shape, requests_per_second=rate, duration_seconds=duration, lengths=lengths, seed=seed)
    else:
        source = _trace_arrivals(trace, lengths, rate_scale, seed)
    replay = Replay(time_scale=time_scale, max_seconds=max_seconds, max_tokens_cap=max_tokens_cap)
    report = uvloop.run(
        run_load(
            kubeconfig,
            Key(namespace, name),
            replayed(source, replay),
            model=model,
            patience=Patience(hold_seconds=hold_seconds),
            targets=Targets(ttft, tpot / 1000.0),
            on_progress=None if quiet else _print_progress,
        )
    )
    if json_output:
        sys.stdout.write(report.to_json() + "\n")
    else:
        _print_report(report)
    raise typer.Exit(1 if report.failed else 0)


def _trace_arrivals(path: Path, lengths: Lengths, rate_scale: float, seed: int) -> Iterator[Arrival]:
    try:
        trace = read_trace(path)
    except UnknownFormat as error:
        raise typer.BadParameter(str(error), param_hint="--trace") from error
    console.print(f"{trace.format} trace: {trace.rows} rows, {trace.bad_rows} bad", highlight=False)
    for sample in trace.bad_samples:
        console.print(f"  {sample}", highlight=False, markup=False)
    return trace.arrivals(lengths=lengths, rate_scale=rate_scale, seed=seed)


def _print_progress(progress: Progress) -> None:
    console.print(
        f"{progress.elapsed_seconds:6.0f} s  pods {progress.ready_pods}  "
        f"{progress.arrivals_per_second:6.1f} req/s  {progress.output_tokens_per_second:8.0f} tok/s  "
        f"in flight {progress.in_flight}  held {progress.holding}  failed {progress.failed}  "
        f"TTFT p95 {_milliseconds(progress.time_to_first_token.p95)}",
        highlight=False,
    )


def _print_report(report: Report) -> None:
    table = Table(title=f"{report.duration_seconds:.1f} s of load", show_header=False)
    rows = [
        ("requests", f"{report.requests} ({report.completed} completed, {report.failed} failed)"),
        ("errors", ", ".join(f"{kind} {count}" for kind, count in report.errors.items()) or "none"),
        ("held, retried", f"{report.held}, {report.retries}"),
        ("tokens", f"{report.prompt_tokens} in, {report.output_tokens} out"),
        ("output tokens/s", f"{report.output_tokens_per_second:.0f}"),
        ("TTFT p50 p95 p99", _line(report.time_to_first_token_seconds)),
        ("inter-token p50 p95 p99", _line(report.inter_token_latency_seconds)),
        ("request p50 p95 p99", _line(report.request_latency_seconds)),
        ("in target", f"{100.0 * report.attainment:.2f} %"),
        ("generator's own lag", _milliseconds(report.largest_send_lag_seconds)),
    ]
    if 0 < len(report.by_pod) <= MAX_PODS_LISTED:
        rows += [(f"sent to {pod}", str(count)) for pod, count in report.by_pod.items()]
    elif report.by_pod:
        counts = report.by_pod.values()
        rows.append((f"sent to {len(counts)} pods", f"{min(counts)} to {max(counts)} each"))
    for label, value in rows:
        table.add_row(label, value)
    Console().print(table)


def _line(percentiles: Percentiles) -> str:
    return " ".join(_milliseconds(value) for value in (percentiles.p50, percentiles.p95, percentiles.p99))


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000.0:.0f} ms"


if __name__ == "__main__":
    app()
