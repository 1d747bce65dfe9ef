"""What both acts stand on: models, their loads, what the API server says of them, and how it is shown."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from sandbox.cluster import Sandbox
from sandbox.fleet import Fleet, end, spawn

READY_SECONDS = 60
LOOK_SECONDS = 0.5
HISTORY = 26
SAMPLE_SECONDS = 3
"""Between two columns of the small histories."""
WIDE = 156
"""Columns of a terminal that has room for all histories."""
BARS = " ▁▂▃▄▅▆▇█"

console = Console()


@dataclass(frozen=True, kw_only=True)
class Model:
    """One ModelDeployment of the demo, the engine behind it and its load."""

    namespace: str
    name: str
    model: str
    runtime: str
    accelerator: str
    gpus: int
    max_replicas: int
    engine: dict[str, Any]
    rate: float
    output_tokens: int
    targets: Mapping[str, int]
    drain_seconds: int = 30

    @property
    def key(self) -> str:
        """Return namespace/name."""
        return f"{self.namespace}/{self.name}"

    def manifest(self) -> dict[str, Any]:
        """Return the ModelDeployment to apply."""
        return {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "annotations": {"sandbox.modelfleet.dev/engine": json.dumps(self.engine)},
            },
            "spec": {
                "model": {"name": self.model},
                "runtime": self.runtime,
                "accelerator": self.accelerator,
                "gpusPerReplica": self.gpus,
                "drainSeconds": self.drain_seconds,
                "scaling": {
                    "maxReplicas": self.max_replicas,
                    "targets": dict(self.targets),
                    # A demo cannot wait for the default window of 300 s.
                    "behavior": {
                        "scaleDown": {
                            "stabilizationWindowSeconds": 15,
                            "policies": [{"type": "Percent", "value": 50, "periodSeconds": 10}],
                        }
                    },
                },
            },
        }


@dataclass
class Seen:
    """What the API server said of one deployment, tick by tick."""

    status: dict[str, Any] = field(default_factory=dict)
    desired: deque[int] = field(default_factory=lambda: deque(maxlen=HISTORY))
    tokens: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    sampled_at: float = 0.0
    highest: int = 0

    def take(self, status: dict[str, Any]) -> None:
        """Take the status of this moment."""
        self.status = status
        self.highest = max(self.highest, status.get("desiredReplicas", 0))
        if time.monotonic() - self.sampled_at >= SAMPLE_SECONDS:
            self.sampled_at = time.monotonic()
            self.desired.append(status.get("desiredReplicas", 0))
            self.tokens.append(_tokens(status))


@dataclass
class Stage:
    """The cluster and the processes that an act plays on."""

    sandbox: Sandbox
    fleet: Fleet
    scratch: Path

    def deploy(self, models: Iterable[Model]) -> dict[str, Seen]:
        """Create models in namespaces of their own and wait until each serves."""
        models = tuple(models)
        for namespace in sorted({model.namespace for model in models}):
            self.sandbox.kubectl("create", "namespace", namespace)
        self.sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([model.manifest() for model in models]))
        say(f"applied {', '.join(model.key for model in models)}")
        seen = {model.key: Seen() for model in models}
        give_up = time.monotonic() + READY_SECONDS
        while not all(row.status.get("readyReplicas", 0) >= 1 for row in seen.values()):
            self.fail_if_dead()
            if time.monotonic() > give_up:
                tail = self.fleet.operators[0].log.read_text()[-2000:]
                sys.exit(f"no deployment is ready within {READY_SECONDS} s; the operator's log ends:\n{tail}")
            time.sleep(LOOK_SECONDS)
            self.observe(seen)
        return seen

    def observe(self, seen: Mapping[str, Seen]) -> None:
        """Bring what was seen up to date."""
        for item in self.list("modeldeployments"):
            row = seen.get(f"{item['metadata']['namespace']}/{item['metadata']['name']}")
            if row is not None:
                row.take(item.get("status", {}))

    def list(self, plural: str) -> list[dict[str, Any]]:
        """Return all objects of one of the product's kinds."""
        found: list[dict[str, Any]] = self.sandbox.request("GET", f"/apis/modelfleet.dev/v1alpha1/{plural}")["items"]
        return found

    def load(self, model: Model, *arguments: str) -> Load:
        """Start a load on a model."""
        command = [sys.executable, "-m", "sandbox.load", "--kubeconfig", str(self.sandbox.kubeconfig)]
        command += ["--deployment", model.key, "--json", "--quiet", *arguments]
        output = self.scratch / f"load-{model.namespace}-{model.name}.json"
        return Load(model.key, spawn(command, output), output)

    def fail_if_dead(self) -> None:
        """Exit when a process that the act needs has ended."""
        for operator in self.fleet.operators:
            if operator.process.poll() is not None:
                sys.exit(f"the operator ended:\n{operator.log.read_text()[-2000:]}")
        if self.fleet.engines is not None and self.fleet.engines.poll() is not None:
            sys.exit("the engine process ended")


@dataclass
class Load:
    """A load generator."""

    key: str
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def done(self) -> bool:
        """Whether it sent everything and has its answers."""
        return self.process.poll() is not None

    def judge(self) -> list[str]:
        """Say what it measured; return what is wrong with that."""
        text = self.output.read_text()
        try:
            report = json.loads(text[text.index("{") :])
        except ValueError:
            return [f"{self.key}: the load generator left no report: {text[-500:]}"]
        say(
            f"{self.key}: {report['completed']} of {report['requests']} requests served, {report['failed']} failed, "
            f"{report['output_tokens']} tokens, TTFT p50 {report['time_to_first_token_seconds']['p50']:.2f} s"
        )
        if report["failed"] or report["completed"] != report["requests"]:
            return [f"{self.key}: {report['requests'] - report['completed']} requests failed: {report['errors']}"]
        return []


def show(
    stage: Stage,
    step: Callable[[], bool],
    *,
    picture: Callable[[int], RenderableType],
    lines: Callable[[], Mapping[str, str]],
    seconds: float,
    began: float,
) -> None:
    """Show what happens until `step`, which looks anew, returns that it is over, or the time is up.

    Args:
        stage: Whose processes must live.
        step: Is called twice a second.
        picture: The view, for a width in columns.
        lines: What to print where there is no terminal, by what it is about; what did not change is not repeated.
        seconds: Longest time.
        began: The moment (monotonic) from which seconds are told.
    """
    give_up = time.monotonic() + seconds
    said: dict[str, str] = {}
    live = Live(picture(console.width), console=console, refresh_per_second=4) if sys.stdout.isatty() else None
    if live is not None:
        live.start()
    try:
        over = False
        while not over and time.monotonic() < give_up:
            stage.fail_if_dead()
            over = step()
            if live is not None:
                live.update(picture(console.width))
            else:
                for about, line in lines().items():
                    if said.get(about) != line:
                        said[about] = line
                        say(f"{time.monotonic() - began:5.0f} s  {line}")
            time.sleep(LOOK_SECONDS)
    finally:
        if live is not None:
            live.stop()


def deployments_table(seen: Mapping[str, Seen], width: int, *, title: str = "") -> Table:
    """Return the deployments as `kubectl get mdep` has them, and how they went."""
    columns: dict[str, Callable[[str, Seen], str]] = {
        "DEPLOYMENT": lambda key, _: key,
        "READY": lambda _, row: row.status.get("ready", ""),
        "DESIRED": lambda _, row: str(row.status.get("desiredReplicas", "")),
        "WANTED": lambda _, row: str(row.status.get("wantedReplicas", "")),
        "LOAD": lambda _, row: row.status.get("load", ""),
        "LIMITED-BY": lambda _, row: row.status.get("limitedBy", ""),
        "REASON": lambda _, row: row.status.get("reason", ""),
        "REPLICAS": lambda _, row: sparkline(row.desired),
    }
    if width >= WIDE:
        columns["TOKENS/S"] = lambda _, row: sparkline(row.tokens)
    table = framed(title, columns)
    for key, row in seen.items():
        table.add_row(*(cell(key, row) for cell in columns.values()))
    return table


def deployment_lines(seen: Mapping[str, Seen]) -> dict[str, str]:
    """Return one line a deployment."""
    return {
        key: (
            f"{key:16} ready {row.status.get('ready', '?'):5} desired {row.status.get('desiredReplicas', '?')!s:2} "
            f"wanted {row.status.get('wantedReplicas', '?')!s:2} {row.status.get('load', ''):26} "
            f"{row.status.get('limitedBy', ''):16} {row.status.get('reason', '')}"
        ).rstrip()
        for key, row in seen.items()
    }


def framed(title: str, columns: Iterable[str]) -> Table:
    """Return an empty table in the style of all."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def sparkline(values: deque[float] | deque[int], *, top: float = 0.0) -> str:
    """Return one character a value, scaled to `top`, or to the highest where that is 0."""
    top = top or max(values, default=0) or 1
    return "".join(BARS[round(value / top * (len(BARS) - 1))] for value in values)


def draw(view: RenderableType, suffix: str = "") -> None:
    """Save a view as a picture that needs no network to open, where PICTURE asks for it."""
    asked = os.environ.get("PICTURE")
    if asked:
        recorder = Console(record=True, width=WIDE, file=io.StringIO())
        recorder.print(view)
        svg = recorder.export_svg(title="make demo")
        path = Path(asked)
        path.with_stem(path.stem + suffix).write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def end_loads(loads: Iterable[Load]) -> None:
    """End loads that still run."""
    end([load.process for load in loads])


def say(text: str) -> None:
    """Tell people."""
    console.print(text, highlight=False, soft_wrap=True)


def _tokens(status: dict[str, Any]) -> float:
    for signal_status in (status.get("decision") or {}).get("signals", ()):
        if signal_status["name"] == "outputTokensPerSecond" and "value" in signal_status:
            return float(signal_status["value"])
    return 0.0
