"""The process that owns a sandbox's processes: `python -m sandbox.supervisor DIRECTORY attached|detached`.

It starts the components of DIRECTORY/components.json in order, says so in lines of JSON on its standard output,
and ends them all when it is asked to (SIGTERM), when one of them ends by itself, or when its standard input
closes, which is how it learns of the death, however sudden, of the process that started it (a detached one does
not listen). Should the supervisor itself be killed, the kernel kills its children.

It is single-threaded on purpose: a parent-death signal is tied to the thread that forked.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

# Locked (inherited from the parent) as long as the supervisor lives, so that nobody ever signals a recycled process id.
LOCK = "supervisor.lock"
FAILURE = "failure"
PR_SET_PDEATHSIG = 1
READY_TIMEOUT_SECONDS = 120
POLL_SECONDS = 0.05
IDLE_POLL_SECONDS = 0.5
LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class Component:
    """One process of the control plane.

    Attributes:
        name: Its name, and that of its log file.
        argv: Absolute path of the binary, and its arguments.
        ready_url: Answers 200 once the component serves; empty to go on at once.
    """

    name: str
    argv: tuple[str, ...]
    ready_url: str = ""


class ComponentFailed(Exception):
    """A component ended, or did not become ready in time; the text holds the end of its log."""


class StopRequested(Exception):
    """The parent is gone, or asked for the end."""


def https_opener(ca: Path) -> urllib.request.OpenerDirector:
    """Return an HTTP client that trusts one CA and no proxy: loopback is never behind one."""
    context = ssl.create_default_context(cafile=ca)
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def write_components(directory: Path, components: Sequence[Component]) -> None:
    """Leave the supervisor its orders."""
    text = json.dumps([asdict(component) for component in components], indent=1)
    (directory / "components.json").write_text(text)


class Supervisor:
    """Starts, watches and ends the components of one directory."""

    def __init__(self, directory: Path, *, detached: bool) -> None:
        self.directory = directory
        self.parent = [] if detached else [sys.stdin]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.https = https_opener(directory / "pki" / "ca.crt")

    def start(self, component: Component) -> None:
        """Start a component and wait until it is ready."""
        with self._log(component.name).open("ab") as log:
            self.processes[component.name] = subprocess.Popen(
                component.argv,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509  no threads here
            )
        give_up = time.monotonic() + READY_TIMEOUT_SECONDS
        while component.ready_url and not self._answers(component.ready_url):
            self.pause(POLL_SECONDS)
            if time.monotonic() > give_up:
                raise ComponentFailed(self._explain(component.name, f"is not ready after {READY_TIMEOUT_SECONDS} s"))

    def pause(self, seconds: float) -> None:
        """Wait, unless something happens.

        Raises:
            StopRequested: If standard input closed.
            ComponentFailed: If a component ended.
        """
        if select.select(self.parent, [], [], seconds)[0]:
            raise StopRequested
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise ComponentFailed(self._explain(name, f"ended with code {process.returncode}"))

    def kill_all(self) -> None:
        """End every component at once: nothing of a sandbox outlives it, so nothing needs an orderly shutdown."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()

    def _answers(self, url: str) -> bool:
        try:
            with self.https.open(url, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _explain(self, name: str, what: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"{name} {what}; the end of {self._log(name)}:", *(f"    {line}" for line in lines)])

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"


def _die_with_parent(parent_id: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_id:  # it died before the line above
            os._exit(1)

    return before_exec


def _request_stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and the end must not be interrupted
    raise StopRequested


def _say(**event: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # the closed standard input tells the same, and is acted on
        print(json.dumps(event), flush=True)


def main(directory: Path, *, detached: bool) -> None:
    """Run the components until the end; then remove the directory, or keep it for its logs if a component failed."""
    signal.signal(signal.SIGTERM, _request_stop)
    supervisor = Supervisor(directory, detached=detached)
    try:
        for order in json.loads((directory / "components.json").read_text()):
            component = Component(**order)
            began = time.monotonic()
            supervisor.start(component)
            _say(started=component.name, seconds=time.monotonic() - began)
        _say(running=True)
        # A detached sandbox outlives the reader of this output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        while True:
            supervisor.pause(IDLE_POLL_SECONDS)
    except StopRequested:
        supervisor.kill_all()
        shutil.rmtree(directory, ignore_errors=True)
    except ComponentFailed as failure:
        # Before the kill: whoever sees the API server gone finds out why.
        (directory / FAILURE).write_text(str(failure))
        supervisor.kill_all()
        _say(failed=str(failure))
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), detached=sys.argv[2] == "detached")
