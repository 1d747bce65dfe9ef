"""The main job with a real Prometheus in between: it scrapes the pods, the operator asks it."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox import binaries
from sandbox.cluster import Sandbox
from sandbox.fleet import Fleet, end, spawn

pytestmark = pytest.mark.xdist_group("prometheus-source")

MANIFEST = {
    "apiVersion": "modelfleet.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {
        "name": "llama",
        "namespace": "prom",
        "annotations": {
            "sandbox.modelfleet.dev/engine": json.dumps(
                {"imagePullSeconds": 0, "modelLoadSeconds": 0.5, "maxRunning": 4, "decodeBaseMs": 30}
            )
        },
    },
    "spec": {
        "model": {"name": "meta-llama/Llama-3.1-8B-Instruct"},
        "runtime": "vllm",
        "accelerator": "h100",
        "drainSeconds": 5,
        "scaling": {
            "maxReplicas": 3,
            "targets": {"queuedRequests": 2},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
        },
    },
}


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PrometheusServer:
    """A Prometheus that finds the pods by the API server, as a PodMonitor would have it."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.port = free_port()
        self.directory = directory
        (directory / "prometheus.yaml").write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                    "scrape_configs": [
                        {
                            "job_name": "inference",
                            "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(sandbox.kubeconfig)}],
                            "relabel_configs": [
                                {
                                    "source_labels": ["__meta_kubernetes_pod_container_port_name"],
                                    "regex": "http",
                                    "action": "keep",
                                },
                                {
                                    "source_labels": ["__meta_kubernetes_pod_phase"],
                                    "regex": "Running",
                                    "action": "keep",
                                },
                                {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
                                {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
                            ],
                        }
                    ],
                }
            )
        )
        self.start()

    @property
    def url(self) -> str:
        """Return its root URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it on its port, with the data it had."""
        binary = binaries.ensure("prometheus")["prometheus"]
        self.process = spawn(
            [
                str(binary),
                f"--config.file={self.directory / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            self.directory / "prometheus.log",
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, PrometheusServer, Fleet]]:
    """A sandbox, a Prometheus and an operator that asks it."""
    directory = tmp_path_factory.mktemp("prom")
    with Sandbox.start(directory / "cluster", name="prom") as sandbox:
        server = PrometheusServer(sandbox, directory)
        arguments = ("--source", "prometheus", "--prometheus-url", server.url)
        arguments += ("--prometheus-scrape-interval-seconds", "1")
        try:
            with Fleet(sandbox, directory / "logs", arguments=arguments) as fleet:
                sandbox.kubectl("create", "namespace", "prom")
                sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump(MANIFEST))
                yield sandbox, server, fleet
        finally:
            end([server.process])


def status(sandbox: Sandbox) -> dict[str, Any]:
    """Return the status of the deployment."""
    item = sandbox.request("GET", "/apis/modelfleet.dev/v1alpha1/namespaces/prom/modeldeployments/llama")
    return item.get("status", {})


def fresh(seen: dict[str, Any]) -> str:
    """Return the status of the condition MetricsFresh."""
    return next((c["status"] for c in seen.get("conditions", ()) if c["type"] == "MetricsFresh"), "")


def wait_for(sandbox: Sandbox, holds: Callable[[dict[str, Any]], bool], *, seconds: float) -> dict[str, Any]:
    """Wait until the status is as asked."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        seen = status(sandbox)
        if holds(seen):
            return seen
        time.sleep(0.2)
    pytest.fail(f"not within {seconds} s; last: {json.dumps(status(sandbox))[:3000]}")


def start_load(sandbox: Sandbox, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Send about twice what one replica serves."""
    command = [sys.executable, "-m", "sandbox.load", "--kubeconfig", str(sandbox.kubeconfig), "--quiet", "--json"]
    command += ["--deployment", "prom/llama", "--rate", "9", "--duration", str(seconds), "--output-tokens", "32"]
    return spawn(command, log)


def test_replicas_follow_prometheus_and_hold_without_it(
    world: tuple[Sandbox, PrometheusServer, Fleet], tmp_path: Path
) -> None:
    """Load scales out; an outage under idle load scales nothing in and is said; its end scales in."""
    sandbox, server, _ = world
    wait_for(sandbox, lambda seen: seen.get("readyReplicas") == 1 and fresh(seen) == "True", seconds=60)

    load = start_load(sandbox, tmp_path / "load.json", 20)
    grown = wait_for(sandbox, lambda seen: seen.get("desiredReplicas", 0) >= 2, seconds=40)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    blind_at = time.monotonic()
    blind = wait_for(sandbox, lambda seen: fresh(seen) == "False", seconds=15)
    blind_after = time.monotonic() - blind_at
    load.wait()
    held = []
    while time.monotonic() - blind_at < 25:
        held.append(status(sandbox)["desiredReplicas"])
        time.sleep(0.5)
    server.start()
    wait_for(sandbox, lambda seen: fresh(seen) == "True", seconds=10)
    shrunk = wait_for(sandbox, lambda seen: seen.get("desiredReplicas") == 1, seconds=40)

    assert grown["desiredReplicas"] >= 2
    assert blind_after < 15
    assert "Prometheus" in next(c["message"] for c in blind["conditions"] if c["type"] == "MetricsFresh")
    assert set(held) == {blind["desiredReplicas"]}
    assert shrunk["desiredReplicas"] == 1
