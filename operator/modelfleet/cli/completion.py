"""`kubectl_complete-modelfleet`: what kubectl runs to complete `kubectl modelfleet ...`."""

import os
import shlex
import sys
from contextlib import suppress
from typing import Final

NO_FILES: Final = ":4"
"""Cobra's last line: what was printed is all there is, and no file names."""


def complete() -> None:
    """Print the words that may come next, one a line, for the words on the command line."""
    from modelfleet.cli.main import app  # noqa: PLC0415 - main names the commands, which need nothing of this

    *words, incomplete = sys.argv[1:] or [""]
    line = shlex.join(["modelfleet", *words, incomplete])
    # What the completion of bash asks for: one word a line.
    os.environ |= {"_MODELFLEET_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) + 1)}
    with suppress(SystemExit):
        app(prog_name="modelfleet")
    print(NO_FILES)
