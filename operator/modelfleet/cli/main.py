"""The `modelfleet` command: one line per subcommand, each of which lives in a module of its own."""

import typer

from modelfleet.cli.crds import crds
from modelfleet.cli.run import run
from modelfleet.cli.simulate import simulate
from modelfleet.cli.whatif import whatif

app = typer.Typer(name="modelfleet", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def modelfleet() -> None:
    """Turn a Kubernetes cluster's GPUs into a Model-as-a-Service."""


app.command()(crds)
app.command()(run)
app.command()(simulate)
app.command()(whatif)
