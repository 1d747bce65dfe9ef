"""`python -m bench`: measure the operator and its peers on this machine."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from bench import agreement, decide_cost, drift, failover, fleet, quota, reaction
from bench.figures import Figure, table


class Benchmark(StrEnum):
    """What can be measured by itself."""

    DECIDE = "decide"
    REACTION = "reaction"
    FAILOVER = "failover"
    FLEET = "fleet"
    AGREEMENT = "agreement"
    QUOTA = "quota"
    DRIFT = "drift"


app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    only: Annotated[list[Benchmark] | None, typer.Option(help="Measure this one; may be repeated.")] = None,
    steps: Annotated[int | None, typer.Option(help="Load steps of the reaction benchmark.", min=1)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps and a smaller fleet: a few minutes.")] = False,
) -> None:
    """Print one figure a line as JSON, then all of them as a table; progress goes to standard error."""
    figures: list[Figure] = []

    async def run() -> None:
        # Ended from outside, the clusters and operators go too.
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async for figure in _measure(tuple(only or Benchmark), steps=steps, quick=quick):
            typer.echo(figure.line())
            figures.append(figure)

    uvloop.run(run())
    Console(width=140).print(table(figures))


async def _measure(  # noqa: PLR0912 - one branch a benchmark
    wanted: tuple[Benchmark, ...], *, steps: int | None, quick: bool
) -> AsyncIterator[Figure]:
    if Benchmark.DECIDE in wanted:
        for figure in decide_cost.measure():
            yield figure
    if Benchmark.REACTION in wanted:
        for figure in await reaction.measure(steps=steps or (12 if quick else 60)):
            yield figure
    if Benchmark.FAILOVER in wanted:
        for figure in await failover.measure(kills=2 if quick else 5):
            yield figure
    if Benchmark.FLEET in wanted:
        async for figure in fleet.measure(fleet.QUICK if quick else fleet.Size()):
            yield figure
    if Benchmark.AGREEMENT in wanted:
        for figure in await agreement.measure(quick=quick):
            yield figure
    if Benchmark.QUOTA in wanted:
        async for figure in quota.measure(quota.QUICK if quick else quota.Size()):
            yield figure
    if Benchmark.DRIFT in wanted:
        for figure in await drift.measure(minutes=2 if quick else 30):
            yield figure


if __name__ == "__main__":
    app()
