"""The kubelet's stand-in in a real cluster: pods start, serve, fail, restart and drain as their annotations say."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelfleet.api.meta import Key
from modelfleet.simulate.arrivals import Arrival
from sandbox.cluster import CHECKOUT, Sandbox
from sandbox.load.client import run_load
from sandbox.load.report import Report

NAME = "llama"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
PROFILE = {"imagePullSeconds": 1.0, "modelLoadSeconds": 2.0, "decodeBaseMs": 10.0, "maxRunning": 4}
PATIENCE_SECONDS = 30.0


@pytest.fixture(scope="module")
def engines(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    sandbox.kubectl("apply", "--server-side", "-f", str(CHECKOUT / "crds"))
    sandbox.kubectl("wait", "--for=condition=Established", "crd/modeldeployments.modelfleet.dev", "--timeout=30s")
    log = (tmp_path_factory.mktemp("engine") / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.engine", "--kubeconfig", str(sandbox.kubeconfig), "--verbose"],
        cwd=CHECKOUT,
        stderr=log,
    )
    yield
    process.terminate()
    try:
        assert process.wait(10) == 0, Path(log.name).read_text()
        assert "Traceback" not in Path(log.name).read_text()
    finally:
        process.kill()
        process.wait()


class Fleet:
    """One ModelDeployment without an operator: its Deployment is made by hand, as the operator will make it."""

    def __init__(self, sandbox: Sandbox, namespace: str) -> None:
        self.sandbox = sandbox
        self.namespace = namespace
        self.pods_path = f"/api/v1/namespaces/{namespace}/pods"
        self.path = f"/apis/modelfleet.dev/v1alpha1/namespaces/{namespace}/modeldeployments"

    def create(self, *, replicas: int, profile: str, engine: str = "vllm", grace_seconds: int = 20) -> None:
        annotations = {"sandbox.modelfleet.dev/engine": profile}
        spec = {"model": {"name": MODEL}, "runtime": "by-hand", "accelerator": "by-hand"}
        self.sandbox.request(
            "POST",
            self.path,
            {
                "apiVersion": "modelfleet.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": NAME, "annotations": annotations},
                "spec": spec,
            },
        )
        labels = {
            "app.kubernetes.io/managed-by": "modelfleet",
            "modelfleet.dev/deployment": NAME,
            "modelfleet.dev/engine": engine,
        }
        container = {
            "name": "engine",
            "image": "engine",
            "args": ["--model", MODEL],
            "ports": [{"name": "http", "containerPort": 8000}],
            "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        }
        self.sandbox.request(
            "POST",
            f"/apis/apps/v1/namespaces/{self.namespace}/deployments",
            {
                "metadata": {"name": NAME},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"modelfleet.dev/deployment": NAME}},
                    "template": {
                        "metadata": {"labels": labels, "annotations": {"modelfleet.dev/model": MODEL}},
                        "spec": {"terminationGracePeriodSeconds": grace_seconds, "containers": [container]},
                    },
                },
            },
        )

    def pods(self) -> list[dict[str, Any]]:
        return list(self.sandbox.request("GET", self.pods_path)["items"])

    def annotate(self, **annotations: str | None) -> None:
        """Annotate the ModelDeployment."""
        patch = {f"sandbox.modelfleet.dev/{key}": value for key, value in annotations.items()}
        self.sandbox.request("PATCH", f"{self.path}/{NAME}", {"metadata": {"annotations": patch}})

    def scale(self, replicas: int) -> None:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{NAME}"
        self.sandbox.request("PATCH", path, {"spec": {"replicas": replicas}})

    def load(self, arrivals: list[Arrival]) -> Report:
        return asyncio.run(run_load(self.sandbox.kubeconfig, Key(self.namespace, NAME), arrivals))


@pytest.fixture
def fleet(sandbox: Sandbox, namespace: str, engines: None) -> Fleet:
    return Fleet(sandbox, namespace)


def ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def until(what: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Return what is true, once it is."""
    give_up = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < give_up, "never happened"
        time.sleep(0.05)
    return result


def health(pod: dict[str, Any]) -> int:
    """Return what a pod's probe sees; 0 while nobody listens, before and between containers."""
    try:
        return get(pod, "/health")[0]
    except urllib.error.URLError:
        return 0


def get(pod: dict[str, Any], path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8000{path}", timeout=2) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_a_deployment_becomes_ready_serves_and_drains(fleet: Fleet) -> None:
    begins = time.monotonic()
    fleet.create(replicas=2, profile=json.dumps(PROFILE))

    running = until(lambda: [p for p in fleet.pods() if p["status"]["phase"] == "Running"])
    assert time.monotonic() - begins >= PROFILE["imagePullSeconds"]
    until(lambda: health(running[0]) == 503)
    assert "vllm:" not in get(running[0], "/metrics")[1]

    until(lambda: sum(map(ready, fleet.pods())) == 2)
    assert time.monotonic() - begins >= PROFILE["imagePullSeconds"] + PROFILE["modelLoadSeconds"]
    pods = fleet.pods()
    assert len({p["status"]["podIP"] for p in pods}) == 2
    assert f'vllm:num_requests_running{{engine="0",model_name="{MODEL}"}} 0.0' in get(pods[0], "/metrics")[1]

    # Eight streams of 2 s; a second in, one pod is told to leave. Nobody notices.
    async def load_and_scale_in() -> Report:
        load = asyncio.create_task(
            run_load(
                fleet.sandbox.kubeconfig, Key(fleet.namespace, NAME), [Arrival(n * 0.02, 50, 200) for n in range(8)]
            )
        )
        await asyncio.sleep(1.0)
        await asyncio.to_thread(fleet.scale, 1)
        return await load

    report = asyncio.run(load_and_scale_in())
    assert (report.completed, report.failed, report.output_tokens) == (8, 0, 1600)
    assert sorted(report.by_pod.values()) == [4, 4]
    until(lambda: len(fleet.pods()) == 1, seconds=10)
    (stays,) = fleet.pods()
    (left,) = (p for p in pods if p["metadata"]["name"] != stays["metadata"]["name"])
    with pytest.raises(OSError, match="refused"):
        get(left, "/health")
    assert get(stays, "/health")[0] == 200


def test_faults_come_and_go_with_their_annotation(fleet: Fleet) -> None:
    fleet.create(replicas=1, profile=json.dumps(PROFILE | {"modelLoadSeconds": 0.2, "imagePullSeconds": 0.0}))
    (pod,) = until(lambda: [p for p in fleet.pods() if ready(p)])
    fleet.annotate(fault="never-ready")
    until(lambda: not ready(fleet.pods()[0]), seconds=15)
    # The pod's own annotation wins, the empty one too.
    path = f"{fleet.pods_path}/{pod['metadata']['name']}"
    fleet.sandbox.request("PATCH", path, {"metadata": {"annotations": {"sandbox.modelfleet.dev/fault": ""}}})
    until(lambda: ready(fleet.pods()[0]), seconds=15)
    fleet.sandbox.request(
        "PATCH", path, {"metadata": {"annotations": {"sandbox.modelfleet.dev/fault": '{"kind": "http500"}'}}}
    )
    until(lambda: get(pod, "/metrics")[0] == 500, seconds=5)
    assert ready(fleet.pods()[0])


def test_a_restarted_container_loads_again_and_counts_from_zero(fleet: Fleet) -> None:
    fleet.create(replicas=1, profile=json.dumps(PROFILE | {"modelLoadSeconds": 1.0, "imagePullSeconds": 0.0}))
    (pod,) = until(lambda: [p for p in fleet.pods() if ready(p)])
    assert fleet.load([Arrival(0.0, 5, 7)]).completed == 1
    assert "vllm:generation_tokens_total{" in get(pod, "/metrics")[1]
    fleet.sandbox.request(
        "PATCH",
        f"{fleet.pods_path}/{pod['metadata']['name']}",
        {"metadata": {"annotations": {"sandbox.modelfleet.dev/crash": "1", "sandbox.modelfleet.dev/loaded": "false"}}},
    )
    until(lambda: fleet.pods()[0]["status"]["containerStatuses"][0]["restartCount"] == 1, seconds=10)
    until(lambda: health(pod) == 503, seconds=5)
    until(lambda: ready(fleet.pods()[0]), seconds=10)
    assert f'vllm:generation_tokens_total{{engine="0",model_name="{MODEL}"}} 0.0' in get(pod, "/metrics")[1]


def test_streams_longer_than_the_grace_period_are_cut(fleet: Fleet) -> None:
    fleet.create(replicas=1, profile=json.dumps(PROFILE | {"modelLoadSeconds": 0.2}), grace_seconds=2)
    until(lambda: [p for p in fleet.pods() if ready(p)])

    async def load_and_delete() -> Report:
        load = asyncio.create_task(
            run_load(fleet.sandbox.kubeconfig, Key(fleet.namespace, NAME), [Arrival(0.0, 5, 2000)])
        )
        await asyncio.sleep(1.0)
        await asyncio.to_thread(fleet.scale, 0)
        return await load

    begins = time.monotonic()
    report = asyncio.run(load_and_delete())
    assert report.errors == {"disconnected": 1}
    assert time.monotonic() - begins < 8.0
    until(lambda: not fleet.pods(), seconds=5)


def test_a_bad_profile_keeps_the_pod_from_starting_and_says_why(fleet: Fleet) -> None:
    fleet.create(replicas=1, profile='{"maxRuning": 8}')

    def complaint() -> str:
        (pod,) = fleet.pods()
        return str(pod["metadata"].get("annotations", {}).get("sandbox.modelfleet.dev/engine-error", ""))

    assert "maxRuning" in until(lambda: fleet.pods() and complaint())
    assert fleet.pods()[0]["status"]["phase"] == "Pending"
    fleet.annotate(engine='{"imagePullSeconds": 0, "modelLoadSeconds": 0}')
    until(lambda: ready(fleet.pods()[0]), seconds=15)
    assert complaint() == ""
