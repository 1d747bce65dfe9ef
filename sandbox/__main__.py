"""A Kubernetes cluster on this machine, without containers: real control plane, pretend nodes and GPUs."""

from __future__ import annotations

import re
from typing import Annotated, NoReturn

import typer

from sandbox import fleet
from sandbox.binaries import TOOLS, BinariesError, ensure
from sandbox.cluster import DEFAULT_ROOT, AlreadyRunning, Sandbox, SandboxError, running
from sandbox.nodes import NodePlan


def _checked_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", value):
        raise typer.BadParameter("lower-case letters, digits and inner hyphens only, 32 at most")
    return value


app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
Name = Annotated[str, typer.Option(help="Name of the sandbox; several can run at once.", callback=_checked_name)]


@app.command()
def up(
    name: Name = "default",
    h100: Annotated[int, typer.Option(min=0, help="Nodes with 8 H100 GPUs.")] = NodePlan.h100,
    a100: Annotated[int, typer.Option(min=0, help="Nodes with 4 A100 GPUs.")] = NodePlan.a100,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Run Prometheus too.")] = False,
    modelfleet: Annotated[bool, typer.Option("--modelfleet", help="Install and run Modelfleet in it.")] = False,
) -> None:
    """Start a cluster that runs until `down`, and print the line that makes kubectl use it."""
    try:
        sandbox = Sandbox.start(
            DEFAULT_ROOT / name,
            name=name,
            nodes=NodePlan(h100=h100, a100=a100),
            prometheus=prometheus,
            detach=True,
            report=_report,
        )
        if modelfleet:
            _report("installing CRDs, RBAC and presets; starting the operator and the engines")
            fleet.detach(sandbox)
        if sandbox.prometheus_url:
            _report(f"Prometheus: {sandbox.prometheus_url}")
    except AlreadyRunning:
        sandbox = _attach(name)
        _report(f"sandbox {name} is already up")
    except (SandboxError, BinariesError) as error:
        _fail(error)
    typer.echo(f"export KUBECONFIG={sandbox.kubeconfig}")


@app.command()
def down(name: Name = "default") -> None:
    """End a cluster and remove all of it."""
    directory = DEFAULT_ROOT / name
    if not directory.exists():
        _report(f"sandbox {name} is not up")
        return
    served_by = directory / fleet.PID_FILE
    process_id = int(served_by.read_text()) if served_by.exists() else 0
    Sandbox.remove(directory)
    if process_id:
        fleet.await_end(process_id)
    _report(f"sandbox {name} is gone")


@app.command("list")
def list_sandboxes() -> None:
    """List the clusters that run in this checkout."""
    for sandbox in running():
        typer.echo(
            f"{sandbox.name:<16} {sandbox.server:<30} pods {sandbox.pod_cidr_prefix}.0.0/16  {sandbox.kubeconfig}"
        )


@app.command()
def fetch(names: Annotated[list[str] | None, typer.Argument(help="Programs; all of them by default.")] = None) -> None:
    """Download or build the programs a cluster runs, so that no start waits for them, and print their paths."""
    if unknown := set(names or ()) - set(TOOLS):
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(TOOLS)}")
    try:
        found = ensure(*(names or TOOLS), report=_report)
    except BinariesError as error:
        _fail(error)
    for path in found.values():
        typer.echo(path)


def _attach(name: str) -> Sandbox:
    try:
        return Sandbox.attach(DEFAULT_ROOT / name)
    except SandboxError as error:
        _fail(error)


def _report(line: str) -> None:
    typer.echo(line, err=True)  # standard output is for what a shell evaluates


def _fail(error: Exception) -> NoReturn:
    _report(f"error: {error}")
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
