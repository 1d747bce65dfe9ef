"""The sandbox behaves as a cluster does, several fit on a machine, and none leaves anything behind."""

from __future__ import annotations

import base64
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sandbox import binaries
from sandbox.certificates import Authority
from sandbox.cluster import CHECKOUT, AlreadyRunning, RequestFailed, Sandbox, SandboxError, running
from sandbox.nodes import NodePlan

SMALL = NodePlan(h100=0, a100=1, cpu=0)
ANNOTATION = "sandbox.modelfleet.dev"


def inference_pod(name: str, *, gpus: int = 2, grace_seconds: int = 30, **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "modelfleet"},
            "annotations": {f"{ANNOTATION}/{key.replace('_', '-')}": value for key, value in annotations.items()},
        },
        "spec": {
            "terminationGracePeriodSeconds": grace_seconds,
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [
                {"name": "engine", "image": "engine", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
            ],
        },
    }


class Pods:
    """The pods of one namespace, as a person with kubectl sees them."""

    def __init__(self, sandbox: Sandbox, namespace: str) -> None:
        self.sandbox = sandbox
        self.namespace = namespace
        self.path = f"/api/v1/namespaces/{namespace}/pods"

    def create(self, manifest: dict[str, Any]) -> None:
        self.sandbox.request("POST", self.path, manifest)

    def annotate(self, name: str, **annotations: str) -> None:
        changes = {f"{ANNOTATION}/{key.replace('_', '-')}": value for key, value in annotations.items()}
        self.sandbox.request("PATCH", f"{self.path}/{name}", {"metadata": {"annotations": changes}})

    def line(self, name: str) -> str:
        """READY, STATUS and RESTARTS; empty when the pod is gone."""
        options = ("--no-headers", "--ignore-not-found", f"--namespace={self.namespace}")
        columns = self.sandbox.kubectl("get", "pod", name, *options).split()
        return " ".join(columns[1:4])

    def becomes(self, name: str, line: str, *, within_seconds: float = 10) -> None:
        eventually(lambda: self.line(name), line, within_seconds=within_seconds)

    def get(self, name: str) -> Any:
        return self.sandbox.request("GET", f"{self.path}/{name}")

    def delete(self, name: str) -> None:
        self.sandbox.request("DELETE", f"{self.path}/{name}")


@pytest.fixture
def pods(sandbox: Sandbox, namespace: str) -> Pods:
    return Pods(sandbox, namespace)


def eventually(look: Callable[[], object], want: object, *, within_seconds: float = 10) -> None:
    give_up = time.monotonic() + within_seconds
    while (got := look()) != want and time.monotonic() < give_up:
        time.sleep(0.1)
    assert got == want


def processes_of(directory: Path) -> list[str]:
    """The command lines that name the directory: every component's and the supervisor's do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found


# Nodes and pods


def test_nodes_look_like_gpu_machines(sandbox: Sandbox) -> None:
    nodes = {node["metadata"]["name"]: node for node in sandbox.request("GET", "/api/v1/nodes")["items"]}
    assert sorted(nodes) == ["a100-0", "a100-1", "cpu-0", "h100-0", "h100-1"]
    gpus = {name: node["status"]["allocatable"].get("nvidia.com/gpu") for name, node in nodes.items()}
    assert gpus == {"a100-0": "4", "a100-1": "4", "cpu-0": None, "h100-0": "8", "h100-1": "8"}
    labels = nodes["h100-0"]["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert labels["nvidia.com/gpu.count"] == "8"
    assert nodes["h100-0"]["spec"]["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    assert nodes["h100-0"]["spec"]["providerID"] == "kwok://h100-0"
    assert "taints" not in nodes["cpu-0"]["spec"]
    sandbox.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=10s")


def test_inference_pod_pulls_loads_and_loses_readiness_as_its_engine_says(pods: Pods) -> None:
    pods.create(inference_pod("replica"))
    pods.becomes("replica", "0/1 ContainerCreating 0")
    assert "podIP" not in pods.get("replica")["status"]
    pods.annotate("replica", image_pull_seconds="0.2")
    pods.becomes("replica", "0/1 Running 0")
    assert pods.get("replica")["status"]["podIP"].startswith(f"{pods.sandbox.pod_cidr_prefix}.")
    for loaded, line in (("true", "1/1 Running 0"), ("false", "0/1 Running 0")) * 2:
        pods.annotate("replica", loaded=loaded)
        pods.becomes("replica", line)


def test_image_pull_ends_on_time_although_the_pod_changes_meanwhile(pods: Pods) -> None:
    pods.create(inference_pod("replica", image_pull_seconds="2.5"))
    began = time.monotonic()
    while "podIP" not in pods.get("replica")["status"]:
        pods.annotate("replica", tick=str(time.monotonic()))
        time.sleep(0.1)
        assert time.monotonic() - began < 10
    assert time.monotonic() - began > 2.4


def test_pod_address_accepts_a_listener(pods: Pods) -> None:
    pods.create(inference_pod("replica", image_pull_seconds="0"))
    pods.becomes("replica", "0/1 Running 0")
    address = pods.get("replica")["status"]["podIP"]
    with socket.create_server((address, 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_crash_restarts_the_container_once_per_new_value(pods: Pods) -> None:
    pods.create(inference_pod("replica", image_pull_seconds="0", loaded="true"))
    pods.becomes("replica", "1/1 Running 0")
    for crashes in (1, 2):
        pods.annotate("replica", loaded="false", crash=str(crashes))
        pods.becomes("replica", f"0/1 Running {crashes}")
        pods.annotate("replica", loaded="true")
        pods.becomes("replica", f"1/1 Running {crashes}")


def test_terminating_pod_serves_until_its_engine_has_drained(pods: Pods) -> None:
    pods.create(inference_pod("replica", image_pull_seconds="0", loaded="true", grace_seconds=60))
    pods.becomes("replica", "1/1 Running 0")
    pods.delete("replica")
    pods.becomes("replica", "1/1 Terminating 0")
    time.sleep(1)
    assert pods.line("replica") == "1/1 Terminating 0"
    pods.annotate("replica", drained="true")
    pods.becomes("replica", "")


def test_terminating_pod_that_never_drains_is_gone_after_its_grace_period(pods: Pods) -> None:
    pods.create(inference_pod("replica", image_pull_seconds="0", grace_seconds=3))
    pods.becomes("replica", "0/1 Running 0")
    began = time.monotonic()
    pods.delete("replica")
    pods.becomes("replica", "")
    # deletionTimestamp has whole seconds, rounded down.
    assert 2 < time.monotonic() - began < 5


def test_pod_that_never_ran_leaves_at_once(pods: Pods) -> None:
    pods.create(inference_pod("replica", grace_seconds=60))
    pods.becomes("replica", "0/1 ContainerCreating 0")
    pods.delete("replica")
    pods.becomes("replica", "", within_seconds=5)


def test_resource_quota_of_four_gpus_refuses_the_third_two_gpu_pod(pods: Pods) -> None:
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "4"}}}
    pods.sandbox.request("POST", f"/api/v1/namespaces/{pods.namespace}/resourcequotas", quota)
    eventually(lambda: "used" in pods.sandbox.request("GET", f"{pods.path[:-5]}/resourcequotas/gpus")["status"], True)
    pods.create(inference_pod("first"))
    pods.create(inference_pod("second"))
    with pytest.raises(RequestFailed, match="exceeded quota") as refusal:
        pods.create(inference_pod("third"))
    assert refusal.value.code == 403


def test_deployment_of_other_pods_rolls_out_and_its_job_completes(sandbox: Sandbox, namespace: str) -> None:
    here = f"--namespace={namespace}"
    sandbox.kubectl("create", "deployment", "web", "--image=web", "--replicas=3", here)
    sandbox.kubectl("rollout", "status", "deployment/web", "--timeout=30s", here)
    sandbox.kubectl("create", "job", "once", "--image=once", here)
    sandbox.kubectl("wait", "--for=condition=Complete", "job/once", "--timeout=30s", here)
    sandbox.kubectl("delete", "deployment", "web", "--cascade=foreground", "--timeout=30s", here)
    eventually(lambda: sandbox.kubectl("get", "pods", "--selector=app=web", here), "")


# Access


def test_service_account_may_do_what_its_role_says_and_no_more(sandbox: Sandbox, namespace: str) -> None:
    here = f"--namespace={namespace}"
    sandbox.kubectl("create", "serviceaccount", "reader", here)
    sandbox.kubectl("create", "role", "reader", "--verb=list", "--resource=pods", here)
    sandbox.kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:reader", here)
    reader = f"--kubeconfig={sandbox.service_account_kubeconfig(namespace, 'reader')}"
    sandbox.kubectl(reader, "get", "pods", here)
    with pytest.raises(SandboxError, match=f"system:serviceaccount:{namespace}:reader.*cannot list resource"):
        sandbox.kubectl(reader, "get", "secrets", here)


@contextmanager
def https_server(address: str, authority: Authority, pki: Path, body: object) -> Iterator[tuple[int, list[str]]]:
    """Answer every GET with a JSON body; yield the port, and a list to which each request's user is added."""
    users: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            users.append(self.headers.get("X-Remote-User", ""))
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the base class names it
            pass

    pair = authority.issue("extension", dns_names=("metrics.kube-system.svc",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(pki / "front-proxy-ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    server = ThreadingHTTPServer((address, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, users
    finally:
        server.shutdown()
        server.server_close()


def test_api_service_of_an_external_name_reaches_a_local_process(sandbox: Sandbox, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "extension-ca")
    resources = {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "external.metrics.k8s.io/v1beta1",
        "resources": [],
    }
    with https_server("127.0.0.1", authority, sandbox.directory / "pki", resources) as (port, users):
        service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
        services = "/api/v1/namespaces/kube-system/services"
        sandbox.request("POST", services, {"metadata": {"name": "metrics"}, "spec": service})
        name = "v1beta1.external.metrics.k8s.io"
        api_service = {
            "metadata": {"name": name},
            "spec": {
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"namespace": "kube-system", "name": "metrics", "port": port},
                "caBundle": base64.b64encode(authority.certificate.read_bytes()).decode(),
            },
        }
        api_services = "/apis/apiregistration.k8s.io/v1/apiservices"
        sandbox.request("POST", api_services, api_service)
        try:
            sandbox.kubectl("wait", "--for=condition=Available", f"apiservice/{name}", "--timeout=30s")
            assert sandbox.request("GET", "/apis/external.metrics.k8s.io/v1beta1") == resources
            assert "sandbox-admin" in users
        finally:
            sandbox.request("DELETE", f"{api_services}/{name}")
            sandbox.request("DELETE", f"{services}/metrics")


# Life and death


def test_two_sandboxes_share_a_machine_and_stop_leaves_no_trace(sandbox: Sandbox, tmp_path: Path) -> None:
    directory = tmp_path / "second"
    with Sandbox.start(directory, name="second", nodes=SMALL, audit=True) as second:
        assert second.pod_cidr_prefix != sandbox.pod_cidr_prefix
        pods = Pods(second, "default")
        pods.create(inference_pod("replica", image_pull_seconds="0"))
        pods.becomes("replica", "0/1 Running 0")
        assert pods.get("replica")["status"]["podIP"].startswith(f"{second.pod_cidr_prefix}.")
        assert "replica" in (directory / "logs" / "audit.log").read_text()
        assert "replica" not in sandbox.kubectl("get", "pods", "--namespace=default")
        assert running(tmp_path) == [second]
        with pytest.raises(AlreadyRunning):
            Sandbox.start(directory)
        assert len(processes_of(directory)) == 6
    assert processes_of(directory) == []
    assert not directory.exists()
    second.stop()


@pytest.mark.parametrize("victim", ["parent", "supervisor"])
def test_sudden_death_leaves_no_process(tmp_path: Path, victim: str) -> None:
    directory = tmp_path / "cluster"
    script = (
        "import sys, time; from pathlib import Path; from sandbox.cluster import Sandbox; "
        "sandbox = Sandbox.start(Path(sys.argv[1])); print('up', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(directory)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        if victim == "supervisor":
            subprocess.run(["kill", "-KILL", (directory / "supervisor.lock").read_text()], check=True)
            eventually(lambda: [line for line in processes_of(directory) if "-c import" not in line], [])
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: processes_of(directory), [])
    # What is left of it, if anything, is no obstacle.
    with Sandbox.start(directory, nodes=SMALL):
        pass
    assert not directory.exists()


def test_detached_sandbox_outlives_its_starter_and_can_be_stopped_by_another(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    script = (
        "import sys; from pathlib import Path; from sandbox.cluster import Sandbox; "
        "Sandbox.start(Path(sys.argv[1]), detach=True)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(directory)], cwd=CHECKOUT, check=True)
    sandbox = Sandbox.attach(directory)
    assert "cpu-0" in sandbox.kubectl("get", "nodes")
    sandbox.stop()
    assert processes_of(directory) == []
    assert not directory.exists()
    with pytest.raises(SandboxError, match="no sandbox runs"):
        Sandbox.attach(directory)


def test_failed_start_tells_the_last_words_of_the_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "cluster"
    broken = tmp_path / "kwok"
    broken.write_text("#!/bin/sh\necho the moon is in the wrong phase\nexit 3\n")
    broken.chmod(0o755)
    ensure = binaries.ensure
    monkeypatch.setattr(binaries, "ensure", lambda *names, **options: ensure(*names, **options) | {"kwok": broken})
    with pytest.raises(SandboxError, match=r"kwok ended with code 3(.|\n)*the moon is in the wrong phase"):
        Sandbox.start(directory)
    assert processes_of(directory) == []
    assert (directory / "logs" / "kwok.log").exists()


def test_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SandboxError, match="not empty"):
        Sandbox.start(tmp_path)
    Sandbox.remove(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_prometheus_scrapes_the_targets_it_finds_in_files(tmp_path: Path) -> None:
    with Sandbox.start(tmp_path / "cluster", nodes=SMALL, prometheus=True) as sandbox:
        itself = [{"targets": [sandbox.prometheus_url.removeprefix("http://")]}]
        (sandbox.prometheus_targets / "itself.json").write_text(json.dumps(itself))

        def up() -> object:
            url = f"{sandbox.prometheus_url}/api/v1/query?query=up"
            with urllib.request.urlopen(url) as response:  # noqa: S310  a sandbox's own URL
                return [series["value"][1] for series in json.load(response)["data"]["result"]]

        eventually(up, ["1"], within_seconds=30)
