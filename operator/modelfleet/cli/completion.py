"""`kubectl_complete-modelfleet`: what kubectl runs to complete `kubectl modelfleet ...`."""

import sys
from typing import Final

import typer
from typer._click.shell_completion import ShellComplete

NO_FILES: Final = ":4"
"""Cobra's last line: what was printed is all there is, and no file names."""


def complete() -> None:
    """Print the words that may come next, one a line, for the words on the command line."""
    from modelfleet.cli.main import app  # noqa: PLC0415 - main names the commands, which need nothing of this

    *words, incomplete = sys.argv[1:] or [""]
    found = ShellComplete(typer.main.get_command(app), {}, "modelfleet", "_MODELFLEET_COMPLETE").get_completions(
        words, incomplete
    )
    for item in found:
        print(f"{item.value}\t{item.help}" if item.help else item.value)
    print(NO_FILES)
