"""`make demo`: three models in two namespaces follow a load up and down, on a real control plane.

With a terminal it shows a live view until Ctrl-C; without one it prints a line when something
changes, ends by itself, and its exit code says whether replicas followed the load up and down and
every request was served. TRACE=file replays a trace; PICTURE=file.svg keeps the view at its peak.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from sandbox.cluster import Sandbox
from sandbox.fleet import Fleet, end, spawn

READY_SECONDS = 60
LOAD_SECONDS = 75
TRACE_SECONDS = 120
SETTLE_SECONDS = 75
"""After the load: drains, one scale-down window, and what a busy machine needs more."""
HISTORY = 26
SAMPLE_SECONDS = 3
"""Between two columns of the small histories."""
WIDE = 156
"""Columns of a terminal that has room for both histories."""
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
                "drainSeconds": 30,
                "scaling": {
                    "maxReplicas": self.max_replicas,
                    "targets": {"queuedRequests": 4},
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


MODELS = (
    Model(
        namespace="team-a",
        name="llama-8b",
        model="meta-llama/Llama-3.1-8B-Instruct",
        runtime="vllm",
        accelerator="h100",
        gpus=1,
        max_replicas=6,
        engine={"imagePullSeconds": 1, "modelLoadSeconds": 5, "maxRunning": 8, "decodeBaseMs": 30},
        rate=13,
        output_tokens=64,
    ),
    Model(
        namespace="team-a",
        name="qwen-32b",
        model="Qwen/Qwen2.5-32B-Instruct",
        runtime="sglang",
        accelerator="h100",
        gpus=2,
        max_replicas=5,
        engine={"imagePullSeconds": 2, "modelLoadSeconds": 6, "maxRunning": 6, "decodeBaseMs": 40},
        rate=7,
        output_tokens=64,
    ),
    Model(
        namespace="team-b",
        name="gemma-4b",
        model="ggml-org/gemma-3-4b-it-GGUF",
        runtime="llamacpp",
        accelerator="a100",
        gpus=1,
        max_replicas=4,
        engine={"imagePullSeconds": 1, "modelLoadSeconds": 4, "maxRunning": 4, "decodeBaseMs": 35},
        rate=5,
        output_tokens=48,
    ),
)


@dataclass
class Seen:
    """What the API server said of one deployment, tick by tick."""

    status: dict[str, Any] = field(default_factory=dict)
    desired: deque[int] = field(default_factory=lambda: deque(maxlen=HISTORY))
    tokens: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    sampled_at: float = 0.0
    highest: int = 0
    line: str = ""


def main() -> int:
    """Run the demo; return its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = Path(tempfile.mkdtemp(prefix="modelfleet-demo-"))
    try:
        with Sandbox.start(scratch / "cluster", name="demo", report=_say) as sandbox:
            _say("installing CRDs, RBAC and presets; starting the operator under its own ServiceAccount")
            with Fleet(sandbox, scratch / "logs") as fleet:
                return _play(sandbox, fleet, scratch)
    except KeyboardInterrupt:
        _say("stopped")
        return 0
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _play(sandbox: Sandbox, fleet: Fleet, scratch: Path) -> int:
    for namespace in sorted({model.namespace for model in MODELS}):
        sandbox.kubectl("create", "namespace", namespace)
    sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([model.manifest() for model in MODELS]))
    _say(f"applied {', '.join(model.key for model in MODELS)}; look for yourself in another terminal:")
    _say(f"    kubectl --kubeconfig {sandbox.kubeconfig} get mdep -A")
    seen = {model.key: Seen() for model in MODELS}
    _await_ready(sandbox, fleet, seen)
    # Each engine takes its own moment to be first; the load begins when all serve.
    loads = {model.key: _start_load(model, sandbox, scratch) for model in MODELS}
    began = time.monotonic()
    _say("load rises, bursts and falls" if not os.environ.get("TRACE") else f"replaying {os.environ['TRACE']}")
    try:
        _watch(sandbox, fleet, seen, loads, began)
        reports = {key: _report_of(scratch, key) for key in loads}
    finally:
        end(list(loads.values()))
    return _judge(seen, reports)


def _start_load(model: Model, sandbox: Sandbox, scratch: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sandbox.load", "--kubeconfig", str(sandbox.kubeconfig)]
    command += ["--deployment", model.key, "--json", "--quiet"]
    trace = os.environ.get("TRACE")
    if trace:
        command += ["--trace", trace, "--time-scale", os.environ.get("TIME_SCALE", "4")]
        command += ["--rate-scale", os.environ.get("RATE_SCALE", "0.3"), "--max-tokens-cap", "256"]
        command += ["--max-seconds", str(TRACE_SECONDS)]
    else:
        command += ["--shape", "rise-burst-fall", "--rate", str(model.rate), "--duration", str(LOAD_SECONDS)]
        command += ["--output-tokens", str(model.output_tokens), "--prompt-tokens", "50"]
    return spawn(command, _output(scratch, model.key))


def _output(scratch: Path, key: str) -> Path:
    return scratch / f"load-{key.replace('/', '-')}.json"


def _report_of(scratch: Path, key: str) -> dict[str, Any] | None:
    text = _output(scratch, key).read_text()
    try:
        report: dict[str, Any] = json.loads(text[text.index("{") :])
    except ValueError:
        _say(f"{key}: no load report: {text[-500:]}")
        return None
    return report


def _watch(
    sandbox: Sandbox,
    fleet: Fleet,
    seen: dict[str, Seen],
    loads: dict[str, subprocess.Popen[bytes]],
    began: float,
) -> None:
    load_seconds = TRACE_SECONDS if os.environ.get("TRACE") else LOAD_SECONDS
    give_up = began + load_seconds + SETTLE_SECONDS
    if sys.stdout.isatty():
        _say("Ctrl-C ends it")
        with Live(_table(seen, began, console.width), console=console, refresh_per_second=2) as live:
            while True:
                _observe(sandbox, seen)
                live.update(_table(seen, began, console.width))
                time.sleep(1)
                _fail_if_dead(fleet)
    tallest = 0
    while time.monotonic() < give_up:
        _observe(sandbox, seen)
        total = sum(row.status.get("desiredReplicas", 0) for row in seen.values())
        if total >= tallest and os.environ.get("PICTURE"):
            tallest = total
            _draw(_table(seen, began, WIDE), Path(os.environ["PICTURE"]))
        _print_changes(seen, began)
        _fail_if_dead(fleet)
        loads_done = all(load.poll() is not None for load in loads.values())
        if loads_done and all(
            s.status.get("desiredReplicas") == 1 and s.status.get("replicas") == 1 for s in seen.values()
        ):
            return
        time.sleep(1)


def _fail_if_dead(fleet: Fleet) -> None:
    for operator in fleet.operators:
        if operator.process.poll() is not None:
            sys.exit(f"the operator ended:\n{operator.log.read_text()[-2000:]}")
    if fleet.engines is not None and fleet.engines.poll() is not None:
        sys.exit("the engine process ended")


def _observe(sandbox: Sandbox, seen: dict[str, Seen]) -> None:
    listed = sandbox.request("GET", "/apis/modelfleet.dev/v1alpha1/modeldeployments")
    for item in listed["items"]:
        key = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        if key in seen:
            status = item.get("status", {})
            row = seen[key]
            row.status = status
            if time.monotonic() - row.sampled_at >= SAMPLE_SECONDS:
                row.sampled_at = time.monotonic()
                row.desired.append(status.get("desiredReplicas", 0))
                row.tokens.append(_tokens(status))
            row.highest = max(row.highest, status.get("desiredReplicas", 0))


def _tokens(status: dict[str, Any]) -> float:
    for signal_status in (status.get("decision") or {}).get("signals", ()):
        if signal_status["name"] == "outputTokensPerSecond" and "value" in signal_status:
            return float(signal_status["value"])
    return 0.0


def _table(seen: dict[str, Seen], began: float, width: int) -> Table:
    title = f"Modelfleet, {time.monotonic() - began:.0f} s of load"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
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
    for column in columns:
        table.add_column(column, no_wrap=True)
    for key, row in seen.items():
        table.add_row(*(cell(key, row) for cell in columns.values()))
    return table


def sparkline(values: deque[float] | deque[int]) -> str:
    """Return one character a value, scaled to the highest."""
    top = max(values, default=0) or 1
    return "".join(BARS[round(value / top * (len(BARS) - 1))] for value in values)


def _draw(table: Table, path: Path) -> None:
    """Save a table as a picture that needs no network to open."""
    recorder = Console(record=True, width=WIDE, file=io.StringIO())
    recorder.print(table)
    svg = recorder.export_svg(title="make demo")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def _print_changes(seen: dict[str, Seen], began: float) -> None:
    for key, row in seen.items():
        status = row.status
        line = (
            f"{key:16} ready {status.get('ready', '?'):5} desired {status.get('desiredReplicas', '?')!s:2} "
            f"wanted {status.get('wantedReplicas', '?')!s:2} {status.get('load', ''):26} "
            f"{status.get('limitedBy', ''):16} {status.get('reason', '')}"
        ).rstrip()
        if line != row.line:
            row.line = line
            _say(f"{time.monotonic() - began:5.0f} s  {line}")


def _judge(seen: dict[str, Seen], reports: dict[str, dict[str, Any] | None]) -> int:
    faults = []
    for key, row in seen.items():
        report = reports[key]
        settled = row.status.get("desiredReplicas", 0)
        if row.highest < 2:
            faults.append(f"{key} did not scale out")
        if settled >= row.highest:
            faults.append(f"{key} did not scale in: {settled} of {row.highest} replicas are left")
        if report is None:
            faults.append(f"{key}: the load generator left no report")
            continue
        _say(
            f"{key}: replicas 1 → {row.highest} → {settled}, "
            f"{report['completed']} of {report['requests']} requests served, {report['failed']} failed, "
            f"{report['output_tokens']} tokens, TTFT p50 {report['time_to_first_token_seconds']['p50']:.2f} s"
        )
        if report["failed"] or report["completed"] != report["requests"]:
            faults.append(f"{key}: {report['requests'] - report['completed']} requests failed: {report['errors']}")
    for fault in faults:
        _say(f"FAILED: {fault}")
    if not faults:
        _say("replicas followed the load up and down, and every request was served")
    return 1 if faults else 0


def _await_ready(sandbox: Sandbox, fleet: Fleet, seen: dict[str, Seen]) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while not all(row.status.get("readyReplicas", 0) >= 1 for row in seen.values()):
        _fail_if_dead(fleet)
        if time.monotonic() > give_up:
            tail = fleet.operators[0].log.read_text()[-2000:]
            sys.exit(f"the deployments did not become ready within {READY_SECONDS} s; the operator's log ends:\n{tail}")
        time.sleep(0.5)
        _observe(sandbox, seen)


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
