"""The `modelfleet` command, `kubectl modelfleet` too: one line per subcommand, each in a module of its own."""

import typer

from modelfleet.cli.crds import crds
from modelfleet.cli.doctor import doctor
from modelfleet.cli.explain import explain
from modelfleet.cli.history import history
from modelfleet.cli.mode import pause, recommend, resume
from modelfleet.cli.presets import presets
from modelfleet.cli.report import report
from modelfleet.cli.run import run
from modelfleet.cli.simulate import simulate
from modelfleet.cli.status import status
from modelfleet.cli.whatif import whatif

app = typer.Typer(name="modelfleet", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def modelfleet() -> None:
    """Run LLM inference replicas on Kubernetes, scale them, and say why."""


for command in (
    explain,
    status,
    history,
    doctor,
    report,
    pause,
    resume,
    recommend,
    whatif,
    simulate,
    run,
    crds,
    presets,
):
    app.command()(command)
