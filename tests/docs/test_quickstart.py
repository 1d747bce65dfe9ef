"""What a reader types from the quick start's first part, typed as it stands in one shell."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import binaries
from sandbox.cluster import DEFAULT_ROOT, Sandbox
from tests.docs.pages import CHECKOUT, blocks, script, text

pytestmark = pytest.mark.xdist_group("quickstart")

PAGE = text(CHECKOUT / "docs" / "quickstart.md")
HERE = re.split(r"^## \d\. ", PAGE, flags=re.M)[1]
NAME = f"quickstart-{os.getpid()}"
RECIPES = {
    "-s sandbox": ("sandbox", "-m sandbox up --modelfleet"),
    "sandbox-down": ("sandbox-down", "-m sandbox down"),
}
"""What the page calls make with; its target, and what that runs."""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with what an installation has on its PATH, and a make that takes a sandbox of the test's own name."""
    python = shlex.quote(sys.executable)
    cases = "".join(f'"{words}") exec {python} {recipe} --name {NAME} ;;\n' for words, (_, recipe) in RECIPES.items())
    shims = {
        "python": f'exec {python} "$@"',
        "kubectl": f'exec {shlex.quote(str(binaries.ensure("kubectl")["kubectl"]))} "$@"',
        "kubectl-modelfleet": f'exec {python} -m modelfleet "$@"',
        "make": f'case "$*" in\n{cases}*) echo "no recipe for make $*" >&2; exit 2 ;;\nesac',
    }
    directory = tmp_path / "programs"
    directory.mkdir()
    for name, line in shims.items():
        (directory / name).write_text(f"#!/bin/sh\n{line}\n")
        (directory / name).chmod(0o755)
    return directory


def typed(lines: list[str], programs: Path, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines in one shell that ends at the first that fails."""
    search = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": f"{CHECKOUT / 'operator'}:{CHECKOUT}"}
    return subprocess.run(
        # Ends what a line has started too, such as a wait for what does not come.
        ["timeout", "240", "bash", "-c", "\n".join(["set -euo pipefail", *lines])],
        cwd=where,
        env=os.environ | search | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def ended_well(done: subprocess.CompletedProcess[str]) -> str:
    """Return what was printed."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_make_runs_what_is_run_here() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for target, recipe in RECIPES.values():
        assert re.search(rf"^{target}:.*\n\t@\$\(PY\) {re.escape(recipe)}$", makefile, re.M)


def test_it_scales_on_the_sandbox_and_leaves_nothing(programs: Path) -> None:
    # The page's first line puts an installation's programs on the PATH: those of the test are there already.
    lines = [line for block in blocks(HERE) for line in script(block) if not line.startswith("export PATH=")]
    down = lines.index("make sandbox-down")
    seen = "kubectl get mdep llama-8b -o jsonpath='{.status}{\"\\n\"}'"
    try:
        done = typed([*lines[:down], seen, *lines[down:]], programs, CHECKOUT)
    finally:
        Sandbox.remove(DEFAULT_ROOT / NAME)

    output = ended_well(done)
    (status,) = (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    assert len(lines) == 9
    assert status["desiredReplicas"] > 1
    assert re.search(r"ScaledUp .*Scaled 1→\d: ", output)
    assert "default/llama-8b: " in output
    assert "ARITHMETIC" in output
    assert f"sandbox {NAME} is gone" in done.stderr
