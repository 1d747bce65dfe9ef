"""Modelfleet on a sandbox: CRDs, what the chart makes, engines for the pods, and operator processes.

The operator runs under the chart's own ServiceAccount and RBAC, with a token of it, never as admin.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sandbox import binaries
from sandbox.cluster import CHECKOUT, Sandbox, SandboxError, is_running
from sandbox.supervisor import PR_SET_PDEATHSIG

CHART = CHECKOUT / "charts" / "modelfleet"
NAMESPACE = "modelfleet-system"
SERVICE_ACCOUNT = "modelfleet"
READY_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 15.0
KUBE_VERSION = "1.36"
PID_FILE = "fleet.pid"
POLL_SECONDS = 0.5

Report = Callable[[str], None]


def install(sandbox: Sandbox) -> None:
    """Apply the CRDs, everything the chart makes, and its presets, but no pods: the operator runs as a process here.

    Raises:
        SandboxError: If the API server refuses something.
    """
    sandbox.kubectl("apply", "--server-side", "-f", str(CHECKOUT / "crds"))
    for name in ("modeldeployments", "inferenceruntimes", "acceleratorclasses", "tenants", "tenantviews"):
        sandbox.kubectl("wait", "--for=condition=Established", f"crd/{name}.modelfleet.dev", "--timeout=30s")
    sandbox.kubectl("create", "namespace", NAMESPACE)
    sandbox.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(chart_objects()))
    sandbox.kubectl("apply", "--server-side", "--recursive", "-f", str(CHART / "presets"))


def chart_objects() -> list[dict[str, Any]]:
    """Return what stays of a release of the chart, but its Deployment and its CRDs."""
    helm = binaries.ensure("helm")["helm"]
    rendered = subprocess.run(
        [
            *(str(helm), "template", "modelfleet", str(CHART)),
            *("--namespace", NAMESPACE, "--kube-version", KUBE_VERSION, "--no-hooks", "--set", "crds.install=false"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [item for item in yaml.safe_load_all(rendered) if item and item["kind"] != "Deployment"]


def start_engines(sandbox: Sandbox, log: Path) -> subprocess.Popen[bytes]:
    """Start the process that gives every inference pod its engine."""
    return spawn([sys.executable, "-m", "sandbox.engine", "--kubeconfig", str(sandbox.kubeconfig)], log)


@dataclass
class Operator:
    """One operator process."""

    process: subprocess.Popen[bytes]
    log: Path

    def port(self) -> int:
        """Return the port of its metrics and probes.

        Raises:
            SandboxError: If it does not come up; the text has the end of its log.
        """
        give_up = time.monotonic() + READY_TIMEOUT_SECONDS
        while time.monotonic() < give_up and self.process.poll() is None:
            for line in self.log.read_text(errors="replace").splitlines():
                if '"event": "listening"' in line:
                    return int(yaml.safe_load(line)["port"])
            time.sleep(0.05)
        raise SandboxError("the operator does not listen:\n" + "\n".join(self.log.read_text().splitlines()[-15:]))

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of one of its pages."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port()}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_ready(self) -> None:
        """Wait until /readyz answers 200."""
        give_up = time.monotonic() + READY_TIMEOUT_SECONDS
        while time.monotonic() < give_up:
            with suppress(OSError):
                if self.get("/readyz")[0] == 200:
                    return
            time.sleep(0.1)
        raise SandboxError("the operator does not become ready:\n" + "\n".join(self.log.read_text().splitlines()[-15:]))


def start_operator(sandbox: Sandbox, log: Path, *arguments: str) -> Operator:
    """Start an operator process under the chart's ServiceAccount; more arguments go to `modelfleet run`."""
    kubeconfig = sandbox.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT)
    command = [sys.executable, "-m", "modelfleet", "run", "--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE]
    listen = ["--listen-address", "127.0.0.1", "--listen-port", "0"]
    return Operator(spawn([*command, *listen, *arguments], log), log)


@dataclass
class Fleet:
    """Engines and operators on a sandbox, for as long as the block lasts.

    Attributes:
        arguments: More arguments of the first operator's `modelfleet run`.
    """

    sandbox: Sandbox
    logs: Path
    arguments: tuple[str, ...] = ()
    operators: list[Operator] = field(default_factory=list)
    engines: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Fleet:
        """Install everything and start one engine process and one operator."""
        self.logs.mkdir(parents=True, exist_ok=True)
        install(self.sandbox)
        self.engines = start_engines(self.sandbox, self.logs / "engines.log")
        self.add_operator(*self.arguments).wait_ready()
        return self

    def add_operator(self, *arguments: str) -> Operator:
        """Start one more operator."""
        operator = start_operator(self.sandbox, self.logs / f"operator-{len(self.operators)}.log", *arguments)
        self.operators.append(operator)
        return operator

    def __exit__(self, *_: object) -> None:
        """End what was started."""
        end([*(operator.process for operator in self.operators), *([self.engines] if self.engines else [])])


def detach(sandbox: Sandbox) -> None:
    """Give a detached sandbox its Modelfleet, which lives as long as it does.

    Raises:
        SandboxError: If it does not come up; the text says where to look.
    """
    log = sandbox.directory / "logs" / "fleet.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.fleet", str(sandbox.directory)],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    (sandbox.directory / PID_FILE).write_text(str(process.pid))
    if process.stdout is None or process.stdout.readline() != b"ready\n":
        raise SandboxError(f"Modelfleet did not start; see {log}")


def await_end(process_id: int) -> None:
    """Wait until the fleet of a sandbox that is gone has ended too."""
    give_up = time.monotonic() + STOP_TIMEOUT_SECONDS + POLL_SECONDS
    while time.monotonic() < give_up:
        try:
            if b"sandbox.fleet" not in Path(f"/proc/{process_id}/cmdline").read_bytes():
                return
        except OSError:
            return
        time.sleep(0.1)


def main(directory: Path) -> None:
    """Serve a detached sandbox until it is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sandbox = Sandbox.attach(directory)
    with Fleet(sandbox, directory / "logs"):
        print("ready", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        while is_running(directory):
            time.sleep(POLL_SECONDS)


def spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one, its output in a file."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl, no locks
        )


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and make those that do not."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + STOP_TIMEOUT_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
