"""The first part of the quick start is typed as it stands, in one shell, and a model scales."""

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
from tests.docs.pages import CHECKOUT, blocks, text

pytestmark = pytest.mark.xdist_group("quickstart")

PAGE = text(CHECKOUT / "docs" / "quickstart.md")
PART = PAGE.split("## 1. ", 1)[1].split("\n## ", 1)[0]
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
    for name, line in shims.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_make_runs_what_is_run_here() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for target, recipe in RECIPES.values():
        assert re.search(rf"^{target}:.*\n\t@\$\(PY\) {re.escape(recipe)}$", makefile, re.M)


def test_it_scales_and_leaves_nothing(programs: Path) -> None:
    lines = [line for block in blocks(PART) for line in block.splitlines() if not line.startswith("Scaled ")]
    down = lines.index("make sandbox-down")
    seen = "kubectl get mdep llama-8b -o json | tr -d '\\n'; echo"
    script = "\n".join(["set -euo pipefail", *lines[:down], seen, *lines[down:]])
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{CHECKOUT / 'operator'}:{CHECKOUT}",
    }
    # The page's own first line puts .venv/bin, an installation's programs, before those of the test.
    script = script.replace('export PATH="$PWD/.venv/bin:$PATH"', ":")
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
    finally:
        Sandbox.remove(DEFAULT_ROOT / NAME)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (found,) = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{    "apiVersion"'))
    assert found["status"]["desiredReplicas"] > 1
    assert re.search(r"ScaledUp .*Scaled 1→\d: ", done.stdout)
    assert "default/llama-8b: " in done.stdout
    assert "ARITHMETIC" in done.stdout
    assert f"sandbox {NAME} is gone" in done.stderr
