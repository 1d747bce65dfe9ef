"""A running sandbox: a real Kubernetes control plane on loopback, with nodes and pods played by kwok.

Every sandbox takes one 127.X.0.0/16 of its own. Linux answers on all of 127/8 without any set-up, so each pod
gets an address on which a simulated engine can really listen, and the control plane's own ports never meet
another sandbox's.

It needs Linux: for that, and because its processes die with their parent by prctl.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from sandbox import binaries, components, supervisor
from sandbox import nodes as pretend_nodes
from sandbox.nodes import NodePlan

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_ROOT = CHECKOUT / ".sandbox"
RECORD = "sandbox.json"

CONTROL_PLANE_TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "kubectl")
FIRST_NETWORK, LAST_NETWORK = 16, 250

NODES_READY_TIMEOUT_SECONDS = 120
STOP_TIMEOUT_SECONDS = 20
REQUEST_TIMEOUT_SECONDS = 30
KUBECTL_TIMEOUT_SECONDS = 300
TOKEN_SECONDS = 24 * 3600
POLL_SECONDS = 0.1

Report = Callable[[str], None]


class SandboxError(Exception):
    """The sandbox, or a command to it, failed; the text is for people."""


class AlreadyRunning(SandboxError):
    """A sandbox runs in this directory."""


class RequestFailed(SandboxError):
    """The API server refused a request.

    Attributes:
        code: The HTTP status.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Sandbox:
    """A running cluster; leave its `with` block, or call stop(), and nothing of it remains.

    Attributes:
        directory: All its state: pki, logs/NAME.log, kubeconfig.
        name: What `python -m sandbox` calls it.
        server: URL of the API server.
        token: The administrator's bearer token.
        pod_cidr_prefix: "127.X": every pod's address begins with it.
        prometheus_url: URL of Prometheus, empty without one.
    """

    directory: Path
    name: str
    server: str
    token: str = field(repr=False)
    pod_cidr_prefix: str
    prometheus_url: str = ""
    _process: subprocess.Popen[str] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        name: str = "default",
        nodes: NodePlan = NodePlan(),  # noqa: B008  a frozen value
        prometheus: bool | Path = False,
        audit: bool = False,
        detach: bool = False,
        report: Report = lambda line: None,
    ) -> Sandbox:
        """Start a cluster and wait until its nodes are ready.

        Args:
            directory: New, empty, or left behind by a former sandbox.
            name: Names the kubeconfig's context.
            nodes: How many pretend nodes.
            prometheus: Run Prometheus too: with this configuration file, or with True one that scrapes the
                file_sd targets in `prometheus_targets`.
            audit: Write every request to logs/audit.log (level Metadata).
            detach: Outlive this process; otherwise the cluster dies with it, however it dies.
            report: Is told of each step, a line at a time.

        Raises:
            AlreadyRunning: If one runs in this directory.
            SandboxError: If it cannot start; the text has the failed component's last words.
            binaries.BinariesError: If a binary can neither be downloaded nor built.
        """
        directory = directory.resolve()
        wanted = (*CONTROL_PLANE_TOOLS, "prometheus") if prometheus else CONTROL_PLANE_TOOLS
        tools = binaries.ensure(*wanted, report=report)
        with ExitStack() as held:
            lock = held.enter_context(_claim_directory(directory))
            network, prefix = _claim_network()
            held.enter_context(network)
            plane = components.prepare(
                directory, name=name, pod_cidr_prefix=prefix, tools=tools, prometheus=prometheus, audit=audit
            )
            supervisor.write_components(directory, plane.processes)
            # The supervisor inherits the lock and the network: with its death both are free again.
            process = subprocess.Popen(
                [sys.executable, "-m", "sandbox.supervisor", str(directory), "detached" if detach else "attached"],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL if detach else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=held.enter_context((directory / "logs" / "supervisor.log").open("wb")),
                pass_fds=(lock.fileno(), network.fileno()),
                start_new_session=True,
                text=True,
            )
            lock.write(str(process.pid))
        sandbox = cls(directory, name, plane.server, plane.admin_token, prefix, plane.prometheus_url, process)
        try:
            sandbox._await_processes(report)
            sandbox._create_nodes(nodes, report)
        except SandboxError as error:
            sandbox._end_processes()  # the logs stay
            failure = directory / supervisor.FAILURE
            raise SandboxError(failure.read_text() if failure.exists() else str(error)) from error
        except BaseException:
            sandbox.stop()
            raise
        sandbox._write_record()
        return sandbox

    @classmethod
    def attach(cls, directory: Path) -> Sandbox:
        """Return the sandbox that another process started in the directory.

        Raises:
            SandboxError: If none runs there.
        """
        directory = directory.resolve()
        record = directory / RECORD
        if not _is_locked(directory / supervisor.LOCK):
            raise SandboxError(f"no sandbox runs in {directory}")
        if not record.exists():
            raise SandboxError(f"the sandbox in {directory} is still starting")
        return cls(directory=directory, **json.loads(record.read_text()))

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; it needs no other file, so it may be copied."""
        return self.directory / "kubeconfig"

    @property
    def prometheus_targets(self) -> Path:
        """The directory whose *.json and *.yaml file_sd files the default Prometheus configuration scrapes."""
        return self.directory / "prometheus" / "targets"

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002  as subprocess.run names it
        """Run kubectl as administrator and return what it prints.

        Raises:
            SandboxError: If it fails; the text is its error output.
        """
        environment = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.directory / "kubectl-cache")}
        done = subprocess.run(
            [str(binaries.ensure("kubectl")["kubectl"]), *arguments],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=KUBECTL_TIMEOUT_SECONDS,
            env=os.environ | environment,
        )
        if done.returncode:
            raise SandboxError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send one JSON request to the API server as administrator, far cheaper than a kubectl process.

        Args:
            method: GET, POST, PUT, DELETE or PATCH (a merge patch).
            path: Such as /api/v1/nodes.
            body: What to send as JSON.

        Raises:
            RequestFailed: If the server refuses.
            SandboxError: If it does not answer.
        """
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": kind},
        )
        try:
            with self._https.open(request, timeout=REQUEST_TIMEOUT_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise RequestFailed(error.code, f"{method} {path}: {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise SandboxError(f"{method} {path}: {error}") from error

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Write a kubeconfig with a real token of the ServiceAccount, good for a day, and return its path."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        granted = self.request("POST", path, {"spec": {"expirationSeconds": TOKEN_SECONDS}})
        return components.write_kubeconfig(
            self.directory / f"kubeconfig-{namespace}-{name}",
            context=f"sandbox-{self.name}-{namespace}-{name}",
            server=self.server,
            ca=self._ca,
            token=granted["status"]["token"],
        )

    def stop(self) -> None:
        """End every process and remove the directory; once more does no harm."""
        self._end_processes()
        self.remove(self.directory)

    @staticmethod
    def remove(directory: Path) -> None:
        """End the sandbox of a directory, whoever started it and however far it got, and remove the directory."""
        _end_supervisor(directory)
        if (directory / supervisor.LOCK).exists():
            shutil.rmtree(directory, ignore_errors=True)

    @property
    def _ca(self) -> Path:
        return self.directory / "pki" / "ca.crt"

    @cached_property
    def _https(self) -> urllib.request.OpenerDirector:
        return supervisor.https_opener(self._ca)

    def _await_processes(self, report: Report) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            match json.loads(line):
                case {"started": str(name), "seconds": float(seconds)}:
                    report(f"started {name} in {seconds:.1f} s")
                case {"failed": str(why)}:
                    raise SandboxError(why)
                case {"running": True}:
                    return
        raise SandboxError(f"the supervisor ended; see {self.directory / 'logs' / 'supervisor.log'}")

    def _create_nodes(self, plan: NodePlan, report: Report) -> None:
        """Create the nodes, and wait until kwok and the controllers have done their part, so that pods can run."""
        began = time.monotonic()
        for manifest in pretend_nodes.manifests(plan):
            self.request("POST", "/api/v1/nodes", manifest)
        while not (self._nodes_are_ready() and self._has_default_service_account()):
            if time.monotonic() - began > NODES_READY_TIMEOUT_SECONDS:
                raise SandboxError(
                    f"the nodes are not ready after {NODES_READY_TIMEOUT_SECONDS} s; see {self.directory / 'logs'}"
                )
            time.sleep(POLL_SECONDS)
        report(f"nodes ready in {time.monotonic() - began:.1f} s")

    def _nodes_are_ready(self) -> bool:
        nodes = self.request("GET", "/api/v1/nodes")["items"]
        taints = [taint["key"] for node in nodes for taint in node["spec"].get("taints", [])]
        return "node.kubernetes.io/not-ready" not in taints

    def _has_default_service_account(self) -> bool:
        try:
            self.request("GET", "/api/v1/namespaces/default/serviceaccounts/default")
        except RequestFailed as error:
            if error.code != 404:
                raise
            return False
        return True

    def _write_record(self) -> None:
        """Leave behind what attach() needs."""
        record = {
            "name": self.name,
            "server": self.server,
            "token": self.token,
            "pod_cidr_prefix": self.pod_cidr_prefix,
            "prometheus_url": self.prometheus_url,
        }
        components.write_private(self.directory / RECORD, json.dumps(record))

    def _end_processes(self) -> None:
        _end_supervisor(self.directory)
        if self._process is not None:
            self._process.communicate()  # reap it, and close its pipes


def running(root: Path = DEFAULT_ROOT) -> list[Sandbox]:
    """Return the sandboxes that run in the directories of a root, by name."""
    found = []
    for lock in sorted(root.glob(f"*/{supervisor.LOCK}")):
        with suppress(SandboxError):
            found.append(Sandbox.attach(lock.parent))
    return found


def _claim_directory(directory: Path) -> TextIO:
    """Empty the directory of what a former sandbox left and return its lock, held."""
    lock = directory / supervisor.LOCK
    if directory.exists() and not lock.exists() and any(directory.iterdir()):
        raise SandboxError(f"{directory} is not empty, and not a sandbox's")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = lock.open("a")
    if not _acquire(held, fcntl.LOCK_EX):
        held.close()
        raise AlreadyRunning(f"a sandbox already runs in {directory}")
    held.truncate(0)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != lock:
            path.unlink()
    return held


def _end_supervisor(directory: Path) -> None:
    """Return when nothing of the directory's sandbox runs."""
    give_up = time.monotonic() + STOP_TIMEOUT_SECONDS
    # The supervisor removes its directory before it ends; an open file tells until the very end.
    with suppress(FileNotFoundError), (directory / supervisor.LOCK).open() as lock:
        while not _acquire(lock, fcntl.LOCK_SH):
            number = signal.SIGTERM if time.monotonic() < give_up else signal.SIGKILL
            lock.seek(0)
            with suppress(ProcessLookupError, ValueError):  # it ends, or begins, at this moment
                os.kill(int(lock.read()), number)
            time.sleep(POLL_SECONDS)


def is_running(directory: Path) -> bool:
    """Return whether a sandbox runs in the directory."""
    return _is_locked(directory / supervisor.LOCK)


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as lock:
            return not _acquire(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _acquire(lock: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _claim_network() -> tuple[socket.socket, str]:
    """Return a 127.X that no sandbox on this machine has, and the socket whose closing gives it back.

    The claim is an abstract Unix socket: it belongs to the same network namespace as the loopback addresses themselves,
    whoever the user, and no crash leaves one behind.
    """
    for number in range(FIRST_NETWORK, LAST_NETWORK + 1):
        prefix = f"127.{number}"
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0modelfleet-sandbox-{prefix}")
        except OSError:
            claim.close()
        else:
            return claim, prefix
    raise SandboxError(f"all networks 127.{FIRST_NETWORK} to 127.{LAST_NETWORK} are taken by sandboxes")
