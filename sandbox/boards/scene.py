"""A few minutes on a sandbox in which every panel has something to show, with a real Prometheus that watches.

Two tenants share eight GPUs, half each. team-b grows into what team-a leaves idle, up to its limit; team-a wakes,
waits, has its own back, and falls asleep again. A third team without a tenant follows a small load on GPUs of another
class.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from prometheus_api_client import PrometheusConnect

from modelfleet.api.meta import API_VERSION, Key
from modelfleet.simulate.arrivals import Arrival
from sandbox.cluster import CHECKOUT, Sandbox, SandboxError
from sandbox.fleet import NAMESPACE, Fleet
from sandbox.load.client import run_load
from sandbox.load.report import Report
from sandbox.nodes import NodePlan

RULES = CHECKOUT / "charts" / "modelfleet" / "rules" / "modelfleet.yaml"
SCRAPE_SECONDS = 1
EVALUATE_SECONDS = 5
READY_SECONDS = 60.0
SAY = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model and its load: requests a second at moments of the play, which lasts from 0 to 1; lines between."""

    namespace: str
    name: str
    model: str
    runtime: str
    accelerator: str
    max_replicas: int
    output_tokens: int
    drain_seconds: int
    load: tuple[tuple[float, float], ...]

    @property
    def key(self) -> Key:
        """Its namespace and name."""
        return Key(self.namespace, self.name)

    def manifest(self, load_seconds: float) -> dict[str, Any]:
        """Return the ModelDeployment, whose engine takes this long to load its model."""
        engine = {"imagePullSeconds": 0, "modelLoadSeconds": load_seconds, "maxRunning": 4, "decodeBaseMs": 30}
        return {
            "apiVersion": API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "annotations": {"sandbox.modelfleet.dev/engine": json.dumps(engine)},
            },
            "spec": {
                "model": {"name": self.model},
                "runtime": self.runtime,
                "accelerator": self.accelerator,
                "drainSeconds": self.drain_seconds,
                "scaling": {
                    "maxReplicas": self.max_replicas,
                    "targets": {"queuedRequests": 2},
                    "behavior": {
                        "scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 5}]},
                        "scaleDown": {
                            "stabilizationWindowSeconds": 15,
                            "policies": [{"type": "Percent", "value": 50, "periodSeconds": 10}],
                        },
                    },
                },
            },
        }

    def arrivals(self, seconds: float) -> Iterator[Arrival]:
        """Yield its requests when the play lasts so many seconds, evenly under the lines."""
        due = 0.0
        for (begin, low), (end, high) in zip(self.load, self.load[1:], strict=False):
            steps = int((end - begin) * seconds * 100)
            for step in range(steps):
                due += (low + (high - low) * step / steps) / 100
                if due >= 1:
                    due -= 1
                    yield Arrival(begin * seconds + step / 100, 50, self.output_tokens)


LENDER = Part(
    namespace="team-a",
    name="llama-8b",
    model="meta-llama/Llama-3.1-8B-Instruct",
    runtime="vllm",
    accelerator="h100",
    max_replicas=6,
    output_tokens=64,
    drain_seconds=5,
    load=((0, 0.6), (0.42, 0.6), (0.44, 7), (0.7, 7), (0.72, 0.6), (1, 0.6)),
)
BORROWER = Part(
    namespace="team-b",
    name="qwen-32b",
    model="Qwen/Qwen2.5-32B-Instruct",
    runtime="sglang",
    accelerator="h100",
    max_replicas=12,
    output_tokens=256,
    drain_seconds=30,
    load=((0, 0.2), (0.05, 0.2), (0.22, 3.2), (0.5, 3.2), (0.54, 2), (0.72, 2), (0.8, 3.2), (1, 3.2)),
)
UNBOUND = Part(
    namespace="lab",
    name="gemma-4b",
    model="ggml-org/gemma-3-4b-it-GGUF",
    runtime="llamacpp",
    accelerator="a100",
    max_replicas=3,
    output_tokens=64,
    drain_seconds=5,
    load=((0, 0.5), (0.5, 4), (1, 0.5)),
)
PARTS = (LENDER, BORROWER, UNBOUND)
QUOTAS: dict[str, dict[str, int]] = {"team-a": {"nominalQuota": 4}, "team-b": {"nominalQuota": 4, "borrowingLimit": 3}}
CHOICES = {"namespace": LENDER.namespace, "deployment": LENDER.name, "tenant": BORROWER.namespace}
"""What is chosen at the top of the boards: who waits for its own, and who has a limit."""


@dataclass(frozen=True)
class Stage:
    """The scene, ready to be played.

    Attributes:
        prometheus: It scrapes the operator as a PodMonitor with honorLabels would have it, and evaluates the rules.
    """

    sandbox: Sandbox
    prometheus: PrometheusConnect

    def play(self, seconds: float) -> dict[Key, Report]:
        """Send the loads; return what the clients saw."""

        async def loads() -> list[Report]:
            return await asyncio.gather(
                *(run_load(self.sandbox.kubeconfig, part.key, part.arrivals(seconds)) for part in PARTS)
            )

        return dict(zip((part.key for part in PARTS), asyncio.run(loads()), strict=True))

    def ask(
        self, expr: str, choices: dict[str, str], *, begin: float, end: float, step: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Return the series of a panel's query: labels, and (time, value) of each step that has one.

        Args:
            expr: As in the description.
            choices: Value of each variable.
            begin: First moment, seconds since the epoch; `end` the last.
            step: Seconds between two values.

        Raises:
            PrometheusApiClientException: If Prometheus refuses the expression.
        """
        for name, value in {**choices, "__rate_interval": "15s"}.items():
            expr = expr.replace(f"${name}", value)
        found = self.prometheus.custom_query_range(
            expr, datetime.fromtimestamp(begin, UTC), datetime.fromtimestamp(end, UTC), str(step)
        )
        return [(each["metric"], [(float(at), float(value)) for at, value in each["values"]]) for each in found]


@contextmanager
def stage(directory: Path, *, load_seconds: float, say: SAY = lambda line: None) -> Iterator[Stage]:
    """Start a sandbox with Prometheus, the operator, tenants and models, all ready; end it after the block.

    Args:
        directory: Empty; logs stay there.
        load_seconds: How long a model takes to load.
        say: Is told of each step.

    Raises:
        SandboxError: If something does not become ready.
    """
    targets = directory / "targets.json"
    with Sandbox.start(
        directory / "cluster",
        name="boards",
        nodes=NodePlan(h100=1, a100=1),
        prometheus=_configuration(directory / "prometheus.yaml", targets),
        report=say,
    ) as sandbox:
        say("installing CRDs, RBAC and presets; starting the operator")
        with Fleet(sandbox, directory / "logs") as fleet:
            where = {"namespace": NAMESPACE, "pod": "modelfleet-0"}
            targets.write_text(json.dumps([{"targets": [f"127.0.0.1:{fleet.operators[0].port()}"], "labels": where}]))
            for part in PARTS:
                sandbox.kubectl("create", "namespace", part.namespace)
            sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([*_tenants(), *_models(load_seconds)]))
            _await_ready(sandbox)
            yield Stage(sandbox, PrometheusConnect(sandbox.prometheus_url))


def _configuration(path: Path, targets: Path) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{EVALUATE_SECONDS}s"},
                "rule_files": [str(RULES)],
                "scrape_configs": [
                    {
                        "job_name": "modelfleet",
                        "honor_labels": True,
                        "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}],
                    }
                ],
            }
        )
    )
    return path


def _tenants() -> Iterator[dict[str, Any]]:
    for name, quota in QUOTAS.items():
        spec = {"namespaces": [name], "quotas": [{"accelerator": "h100", **quota}]}
        yield {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": name}, "spec": spec}


def _models(load_seconds: float) -> Iterator[dict[str, Any]]:
    return (part.manifest(load_seconds) for part in PARTS)


def _await_ready(sandbox: Sandbox) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while True:
        items = sandbox.request("GET", "/apis/modelfleet.dev/v1alpha1/modeldeployments")["items"]
        ready = [item for item in items if item.get("status", {}).get("readyReplicas")]
        if len(ready) == len(PARTS):
            return
        if time.monotonic() > give_up:
            raise SandboxError(f"{len(ready)} of {len(PARTS)} models are ready after {READY_SECONDS:.0f} s")
        time.sleep(0.5)
