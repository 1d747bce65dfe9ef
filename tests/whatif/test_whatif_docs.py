"""docs/whatif.md names what the command has."""

import re
from pathlib import Path

from typer.main import get_command

from modelfleet.cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "whatif.md").read_text(encoding="utf-8")


def test_every_option_is_told_and_every_told_one_is_there() -> None:
    """But for the kubeconfig, which is every client's, and the words that switch a default on."""
    parameters = get_command(app).commands["whatif"].params  # type: ignore[attr-defined]
    known = {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    told = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", PAGE))

    assert told <= known
    assert {"-f", "--delete", "--prometheus", "--since", "--no-unbound-may-borrow", "-o"} <= told
