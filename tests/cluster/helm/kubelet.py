"""A node whose pods are processes: what the chart asks for really runs, under its own account, and is really probed.

kwok leaves the node alone, so nothing here is ready before its readiness probe says so. A pod's image is taken to be
the one of the Containerfile: `python -m modelfleet` is the entrypoint, `python` is on the path. The process sees the
root file system read-only, is the user that the manifest names, has no capability, and finds its account where every
container does: namespaces of Linux do that without a container.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from sandbox.cluster import CHECKOUT, RequestFailed, Sandbox
from sandbox.fleet import spawn

Json = dict[str, Any]

NODE = "processes-0"
_RECIPE = (CHECKOUT / "Containerfile").read_text().rpartition("\nFROM ")[2]
ENTRYPOINT: list[str] = json.loads(re.findall(r"^ENTRYPOINT (.+)$", _RECIPE, re.MULTILINE)[-1])
IMAGE = dict(each.split("=", 1) for line in re.findall(r"^ENV (.+)$", _RECIPE, re.MULTILINE) for each in line.split())
"""The environment that the image gives."""
CONTAINER = """
run=$(realpath /var/run)
mount -t tmpfs tmpfs "$run"
if [ -d "$ACCOUNT" ]; then
    mkdir -p "$run/secrets/kubernetes.io"
    cp -r "$ACCOUNT" "$run/secrets/kubernetes.io/serviceaccount"
fi
mount -o remount,bind,ro "$run"
mount -o remount,bind,ro /
exec unshare --user --map-user="$USER_ID" --map-group="$GROUP_ID" env -i --chdir=/ "$@"
"""
HEARTBEAT_SECONDS = 10.0
POLL_SECONDS = 0.2
PROBE_SECONDS = 0.3
RESTART_SECONDS = 1.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Kubelet:
    """Runs the pods of one node."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        """Prepare; the logs of pod NAME go to DIRECTORY/NAME/log."""
        self.sandbox = sandbox
        self.directory = directory
        self.addresses = (f"{sandbox.pod_cidr_prefix}.250.{number}" for number in count(2))
        self.lock = threading.Lock()
        self.lives: dict[str, _Life] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Kubelet:
        capacity = {"cpu": "16", "memory": "64Gi", "pods": "110"}
        labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        node = {"metadata": {"name": NODE, "labels": labels}, "status": {"capacity": capacity, "allocatable": capacity}}
        self.sandbox.request("POST", "/api/v1/nodes", node)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for life in self.lives.values():
            life.end()

    def log(self, prefix: str) -> str:
        """Return what the pods whose names begin so have written, the gone ones too."""
        return "".join(path.read_text() for path in sorted(self.directory.glob(f"{prefix}*/log")))

    def _run(self) -> None:
        beaten_at = float("-inf")
        while not self._stopping.wait(POLL_SECONDS):
            # The API server is another process; an answer that does not come is asked for again.
            with suppress(Exception):
                if time.monotonic() - beaten_at > HEARTBEAT_SECONDS:
                    condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "here"}
                    condition |= {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}
                    status = {"status": {"conditions": [condition]}}
                    self.sandbox.request("PATCH", f"/api/v1/nodes/{NODE}/status", status)
                    beaten_at = time.monotonic()
                self._sync()

    def _sync(self) -> None:
        pods = self.sandbox.request("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={NODE}")["items"]
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid not in self.lives and "deletionTimestamp" not in pod["metadata"]:
                self.lives[uid] = _Life(self, pod, next(self.addresses))
            elif "deletionTimestamp" in pod["metadata"]:
                self.lives[uid].leave() if uid in self.lives else self.gone(pod)

    def gone(self, pod: Json) -> None:
        """Tell the API server that nothing of a pod is left."""
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        with suppress(RequestFailed):
            self.sandbox.request("DELETE", path, {"gracePeriodSeconds": 0})


class _Life:
    """One pod: its process, again and again, and its probes."""

    def __init__(self, kubelet: Kubelet, pod: Json, address: str) -> None:
        self._kubelet = kubelet
        self._pod = pod
        self._address = address
        (self._container,) = pod["spec"]["containers"]
        self._directory = kubelet.directory / pod["metadata"]["name"]
        self._directory.mkdir(parents=True)
        self._leaving = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._reported: Json = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Let it end within its grace period."""
        self._leaving.set()

    def end(self) -> None:
        """End it now."""
        self._leaving.set()
        self._thread.join()

    def _run(self) -> None:
        restarts = 0
        while not self._leaving.is_set():
            self._process = spawn(
                [*self._container_of_linux(), *self._environment(), *self._command()], self._directory / "log"
            )
            code = self._attend(restarts)
            if code is None:
                break
            if self._pod["spec"]["restartPolicy"] == "Never":
                state = {"terminated": {"exitCode": code, "startedAt": _now(), "finishedAt": _now()}}
                self._report("Succeeded" if code == 0 else "Failed", ready=False, restarts=0, state=state)
                self._leaving.wait()
                break
            restarts += 1
            self._leaving.wait(RESTART_SECONDS)
        self._stop()
        self._kubelet.gone(self._pod)

    def _attend(self, restarts: int) -> int | None:
        """Probe the process until it ends, and return its exit code, or until the pod leaves."""
        assert self._process is not None
        started, alive_failures = "startupProbe" not in self._container, 0
        while not self._leaving.is_set():
            if (code := self._process.poll()) is not None:
                return code
            started = started or self._probe("startupProbe")
            ready = started and self._probe("readinessProbe")
            self._report("Running", ready=ready, restarts=restarts, state={"running": {"startedAt": _now()}})
            alive_failures = 0 if not started or self._probe("livenessProbe") else alive_failures + 1
            assert alive_failures < 10, f"not alive: see {self._directory / 'log'}"
            self._leaving.wait(PROBE_SECONDS)
        return None

    def _probe(self, name: str) -> bool:
        probe = self._container.get(name)
        if probe is None:
            return True
        wanted = probe["httpGet"]
        port = self._port(self._container, wanted["port"])
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{self._address}:{port}{wanted['path']}", timeout=probe["timeoutSeconds"]):
                return True
        except (OSError, urllib.error.HTTPError):
            return False

    @staticmethod
    def _port(container: Json, port: str | int) -> int:
        named = {each["name"]: each["containerPort"] for each in container["ports"]}
        return int(named.get(port, port))

    def _report(self, phase: str, *, ready: bool, restarts: int, state: Json) -> None:
        word = "True" if ready else "False"
        news = {"phase": phase, "ready": ready, "restarts": restarts}
        if news == self._reported:
            return
        names = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")
        conditions = [
            {"type": name, "status": word if name.endswith("Ready") else "True", "lastTransitionTime": _now()}
            for name in names
        ]
        container = {"name": self._container["name"], "image": self._container["image"], "imageID": ""}
        status = {
            "phase": phase,
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "startTime": self._pod["metadata"]["creationTimestamp"],
            "conditions": conditions,
            "containerStatuses": [{**container, "ready": ready, "restartCount": restarts, "state": state}],
        }
        path = f"/api/v1/namespaces/{self._pod['metadata']['namespace']}/pods/{self._pod['metadata']['name']}/status"
        with suppress(RequestFailed):
            self._kubelet.sandbox.request("PATCH", path, {"status": status})
            self._reported = news

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self._pod["spec"]["terminationGracePeriodSeconds"])
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    # --- what a container sees -------------------------------------------------------------------

    def _container_of_linux(self) -> list[str]:
        context = self._pod["spec"]["securityContext"]
        given = {"USER_ID": context["runAsUser"], "GROUP_ID": context["runAsGroup"], "ACCOUNT": self._account()}
        unshare = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
        return ["env", *(f"{name}={value}" for name, value in given.items()), *unshare, "sh", "-ec", CONTAINER, "sh"]

    def _command(self) -> list[str]:
        program, *rest = [*self._container.get("command", ENTRYPOINT), *self._container.get("args", [])]
        assert program == "python", f"the image has no {program}"
        known = dict(each.split("=", 1) for each in self._environment())
        arguments = [re.sub(r"\$\((\w+)\)", lambda match: known[match[1]], argument) for argument in rest]
        mounts = self._mounts()
        return [sys.executable, *(str(mounts.get(argument, argument)) for argument in arguments)]

    def _environment(self) -> list[str]:
        """Return NAME=value of everything: no more than the image, the kubelet and the manifest give."""
        server = urlsplit(self._kubelet.sandbox.server)
        known = {
            **IMAGE,
            "PYTHONPATH": str(CHECKOUT / "operator"),
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
        }
        for each in self._container.get("env", []):
            known[each["name"]] = self._value(each)
        return [f"{name}={value}" for name, value in known.items()]

    def _value(self, variable: Json) -> str:
        if "value" in variable:
            return self._resolved(variable["value"])
        match variable["valueFrom"]["fieldRef"]["fieldPath"].split("."):
            case ["status", "podIP"]:
                return self._address
            case ["metadata", field]:
                return str(self._pod["metadata"][field])
        raise AssertionError(f"unknown field {variable}")

    def _resolved(self, value: str) -> str:
        """Put the address of a ready pod in place of a Service's, as its selector and its port lead there."""
        match = re.fullmatch(r"http://([^.]+)\.([^.]+)\.svc:(\d+)", value)
        if match is None:
            return value
        request = self._kubelet.sandbox.request
        service = request("GET", f"/api/v1/namespaces/{match[2]}/services/{match[1]}")["spec"]
        (port,) = (each for each in service["ports"] if each["port"] == int(match[3]))
        selector = ",".join(f"{key}={label}" for key, label in service["selector"].items())
        for pod in request("GET", f"/api/v1/namespaces/{match[2]}/pods?labelSelector={selector}")["items"]:
            if {"type": "Ready", "status": "True"}.items() <= pod["status"]["conditions"][-1].items():
                (container,) = pod["spec"]["containers"]
                return f"http://{pod['status']['podIP']}:{self._port(container, port['targetPort'])}"
        return value

    def _account(self) -> Path:
        namespace, name = self._pod["metadata"]["namespace"], self._pod["spec"]["serviceAccountName"]
        directory = self._directory / "account"
        if not directory.exists():
            with self._kubelet.lock:
                text = self._kubelet.sandbox.service_account_kubeconfig(namespace, name).read_text()
            directory.mkdir()
            config = yaml.safe_load(text)
            (directory / "token").write_text(config["users"][0]["user"]["token"])
            authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])
            (directory / "ca.crt").write_bytes(authority)
        return directory

    def _mounts(self) -> dict[str, Path]:
        """Return the directory behind each mount path of a ConfigMap."""
        maps = {
            each["name"]: each["configMap"]["name"]
            for each in self._pod["spec"].get("volumes", [])
            if "configMap" in each
        }
        found = {}
        for mount in self._container.get("volumeMounts", []):
            if mount["name"] in maps:
                directory = self._directory / mount["name"]
                directory.mkdir(exist_ok=True)
                path = f"/api/v1/namespaces/{self._pod['metadata']['namespace']}/configmaps/{maps[mount['name']]}"
                for name, text in self._kubelet.sandbox.request("GET", path)["data"].items():
                    (directory / name).write_text(text)
                found[mount["mountPath"]] = directory
        return found
