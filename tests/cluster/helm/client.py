"""The real helm, as one administrator runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from sandbox import binaries
from sandbox.fleet import NAMESPACE


class HelmFailed(Exception):
    """What helm said."""


class Helm:
    """Commands in the operator's namespace, with a home that is nobody else's."""

    def __init__(self, directory: Path, kubeconfig: Path) -> None:
        """Prepare."""
        self._program = str(binaries.ensure("helm")["helm"])
        homes = {f"HELM_{kind}_HOME": str(directory / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        self._environment = {**os.environ, **homes, "KUBECONFIG": str(kubeconfig)}

    def __call__(self, *arguments: str) -> str:
        """Run a command; return what it prints.

        Raises:
            HelmFailed: If helm fails.
        """
        command = [self._program, *arguments, "--namespace", NAMESPACE]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HelmFailed(done.stderr)
        return done.stdout
