"""`python -m modelfleet` is the `modelfleet` command."""

from modelfleet.cli.main import app

app(prog_name="modelfleet")
