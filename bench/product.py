"""The product as its users have it: CRDs, the chart's account, RBAC and presets, and operator processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from time import monotonic, time
from typing import Any

from bench import procfs
from modelfleet.api.meta import API_VERSION, Key
from sandbox import fleet
from sandbox.cluster import CHECKOUT, Sandbox

NAMESPACE = fleet.NAMESPACE
ACCOUNT = fleet.SERVICE_ACCOUNT
STOP_SECONDS = 20.0
PYTHONPATH = os.pathsep.join((str(CHECKOUT), str(CHECKOUT / "operator")))


def install(sandbox: Sandbox) -> Path:
    """Install everything of the product but its pods; return a kubeconfig of the operator's own account."""
    fleet.install(sandbox)
    return sandbox.service_account_kubeconfig(NAMESPACE, ACCOUNT)


def model_deployment(key: Key, *, scaling: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a ModelDeployment of the vLLM dialect with one GPU a replica."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "spec": {
            "model": {"name": "bench/model"},
            "runtime": "vllm",
            "accelerator": "h100",
            "scaling": {"minReplicas": 1, "maxReplicas": 4, **(scaling or {})},
            "drainSeconds": 10,
        },
    }


def create(sandbox: Sandbox, manifest: dict[str, Any]) -> None:
    """Create one ModelDeployment."""
    namespace = manifest["metadata"]["namespace"]
    sandbox.request("POST", f"/apis/{API_VERSION}/namespaces/{namespace}/modeldeployments", manifest)


class Program:
    """A process with a log file, started at once."""

    def __init__(self, command: Sequence[str], log: Path, **environment: str) -> None:
        """Start it, with these variables besides this process's own."""
        self.log = log
        self.started_at = time()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": PYTHONPATH} | environment,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """CPU time it has used."""
        return procfs.cpu_seconds(self.pid)

    @property
    def resident_bytes(self) -> int:
        """Its resident set."""
        return procfs.resident_bytes(self.pid)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise when it has ended.

        Raises:
            RuntimeError: With the end of its log.
        """
        if not self.alive:
            raise RuntimeError(f"ended with code {self._process.returncode}:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> float:
        """Kill it without warning; return the moment (monotonic)."""
        at = monotonic()
        self._process.kill()
        self._process.wait()
        return at

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it as its orchestrator would: it lets go of its lease."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


class Operator(Program):
    """One `modelfleet run`."""

    def __init__(self, sandbox: Sandbox, kubeconfig: Path, name: str, *arguments: str) -> None:
        """Start it under the given account."""
        command = (sys.executable, "-m", "modelfleet", "run", f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}")
        listening = ("--listen-port=0", "--listen-address=127.0.0.1")
        super().__init__([*command, *listening, *arguments], sandbox.directory / "logs" / f"operator-{name}.log")

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged so far."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # a warning of the interpreter, or a line being written
        return found

    def decided_at(self) -> dict[str, float]:
        """Return when each ModelDeployment was first decided about (Unix seconds), by namespace/name."""
        decided: dict[str, float] = {}
        for line in self.lines():
            if line.get("event") == "decision":
                decided.setdefault(line["deployment"], datetime.fromisoformat(line["timestamp"]).timestamp())
        return decided

    def complaints(self) -> list[dict[str, Any]]:
        """Return its warnings and errors."""
        return [line for line in self.lines() if line.get("level") in {"warning", "error", "critical"}]

    @cached_property
    def metrics_url(self) -> str:
        """URL of its own metrics."""
        port = next(line["port"] for line in self.lines() if line.get("event") == "listening")
        return f"http://127.0.0.1:{port}/metrics"
