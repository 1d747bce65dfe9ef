"""A fleet as its users see it: a team with its namespace, an administrator, and what the API server recorded."""

from __future__ import annotations

import base64
import json
import signal
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION, DEPLOYMENT_LABEL
from sandbox import supervisor
from sandbox.cluster import RequestFailed, Sandbox
from sandbox.fleet import NAMESPACE, SERVICE_ACCOUNT, Fleet, Operator
from sandbox.nodes import NodePlan, manifests

Json = dict[str, Any]
Seen = TypeVar("Seen")

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
QUICK = {"imagePullSeconds": 0, "modelLoadSeconds": 0.5, "maxRunning": 4, "decodeBaseMs": 20}
"""An engine that starts at once and makes 50 tokens/s in each of four streams."""
PATIENCE_SECONDS = 30.0
USER = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
CHILD_KINDS = {"Deployment": "apps/v1", "Service": "v1", "PodDisruptionBudget": "policy/v1"}
WRITING_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})

_numbers = count()


def until(what: Callable[[], Seen], *, seconds: float = PATIENCE_SECONDS) -> Seen:
    """Return the first answer that is true; the last one that is not says what went wrong."""
    give_up = time.monotonic() + seconds
    while not (seen := what()):
        assert time.monotonic() < give_up, f"not within {seconds} s; last seen: {seen!r}"
        time.sleep(0.05)
    return seen


def same(expected: Seen, what: Callable[[], Seen], *, seconds: float = PATIENCE_SECONDS) -> float:
    """Wait until the answer is the expected one; return how long that took."""
    began = time.monotonic()
    while (seen := what()) != expected:
        assert time.monotonic() < began + seconds, f"not within {seconds} s: expected {expected!r}, seen {seen!r}"
        time.sleep(0.05)
    return time.monotonic() - began


def unique(prefix: str) -> str:
    """Return a name that no other test of this worker has; names sort as they are made."""
    return f"{prefix}-{next(_numbers):04}"


def scale_in_after(seconds: int) -> Json:
    """Return a behaviour that shrinks as far as the load allows once it was low for so long."""
    policies = [{"type": "Percent", "value": 100, "periodSeconds": 1}]
    return {"scaleDown": {"stabilizationWindowSeconds": seconds, "policies": policies}}


@dataclass(frozen=True)
class Team:
    """A namespace and the ModelDeployments in it."""

    sandbox: Sandbox
    namespace: str

    @classmethod
    def create(cls, sandbox: Sandbox, **labels: str) -> Team:
        """Create the namespace; pods can be created in it at once."""
        name = unique("team")
        sandbox.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        team = cls(sandbox, name)
        until(lambda: team.find("/api/v1", "serviceaccounts", "default"))
        return team

    def end(self) -> None:
        """Delete the namespace; its deletion goes on afterwards."""
        with suppress(RequestFailed):
            self.sandbox.request("DELETE", f"/api/v1/namespaces/{self.namespace}")

    # --- ModelDeployments ------------------------------------------------------------------------

    def deploy(
        self,
        name: str = "llama",
        *,
        engine: Mapping[str, Any] | None = None,
        runtime: str = "vllm",
        accelerator: str = "h100",
        scaling: Json | None = None,
        **spec: Any,
    ) -> None:
        """Create a ModelDeployment whose engine starts quickly."""
        wanted = {
            "model": {"name": MODEL},
            "runtime": runtime,
            "accelerator": accelerator,
            "drainSeconds": 30,
            "scaling": {"behavior": scale_in_after(2), **(scaling or {})},
            **spec,
        }
        self.sandbox.request(
            "POST",
            resource_path(API_VERSION, "ModelDeployment", namespace=self.namespace),
            {
                "apiVersion": API_VERSION,
                "kind": "ModelDeployment",
                "metadata": {
                    "name": name,
                    "annotations": {"sandbox.modelfleet.dev/engine": json.dumps({**QUICK, **(engine or {})})},
                },
                "spec": wanted,
            },
        )

    def path(self, name: str = "llama") -> str:
        """Return the URL path of a ModelDeployment."""
        return resource_path(API_VERSION, "ModelDeployment", namespace=self.namespace, name=name)

    def get(self, name: str = "llama") -> Json:
        """Return a ModelDeployment."""
        found: Json = self.sandbox.request("GET", self.path(name))
        return found

    def status(self, name: str = "llama") -> Json:
        """Return its status, empty before the first one is written."""
        status: Json = self.get(name).get("status", {})
        return status

    def condition(self, type_: str, name: str = "llama") -> tuple[str, str]:
        """Return status and reason of a condition; both empty while it is not there."""
        found = self._condition(type_, name)
        return (found["status"], found["reason"]) if found else ("", "")

    def message(self, type_: str, name: str = "llama") -> str:
        """Return the message of a condition."""
        return str(self._condition(type_, name).get("message", ""))

    def _condition(self, type_: str, name: str) -> Json:
        conditions = self.status(name).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == type_), {})

    def change(self, name: str = "llama", **spec: Any) -> None:
        """Merge a change into its spec."""
        self.sandbox.request("PATCH", self.path(name), {"spec": spec})

    def fault(self, kind: str, name: str = "llama") -> None:
        """Turn an engine fault on, or off with an empty word."""
        self.sandbox.request(
            "PATCH", self.path(name), {"metadata": {"annotations": {"sandbox.modelfleet.dev/fault": kind}}}
        )

    def await_ready(self, name: str = "llama", *, replicas: int = 1, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the current spec is served by so many replicas and nothing is on its way."""

        def state() -> tuple[Any, ...]:
            item = self.get(name)
            status = item.get("status", {})
            return (
                status.get("observedGeneration") == item["metadata"]["generation"],
                status.get("desiredReplicas"),
                status.get("ready"),
                self.condition("Ready", name)[0],
            )

        same((True, replicas, f"{replicas}/{replicas}", "True"), state, seconds=seconds)

    # --- what belongs to it ----------------------------------------------------------------------

    def find(self, prefix: str, plural: str, name: str) -> Json | None:
        """Return an object of this namespace, or None."""
        try:
            found: Json = self.sandbox.request("GET", f"{prefix}/namespaces/{self.namespace}/{plural}/{name}")
        except RequestFailed as error:
            if error.code == 404:
                return None
            raise
        return found

    def child_path(self, kind: str, name: str = "llama") -> str:
        """Return the URL path of a child."""
        return resource_path(CHILD_KINDS[kind], kind, namespace=self.namespace, name=name)

    def child(self, kind: str = "Deployment", name: str = "llama") -> Json | None:
        """Return a child, or None."""
        try:
            found: Json = self.sandbox.request("GET", self.child_path(kind, name))
        except RequestFailed as error:
            if error.code == 404:
                return None
            raise
        return found

    def deployment(self, name: str = "llama") -> Json:
        """Return the Deployment, which must exist."""
        found = self.child("Deployment", name)
        assert found is not None, f"no Deployment {name}"
        return found

    def replicas(self, name: str = "llama") -> int:
        """Return what the Deployment is asked for."""
        return int(self.deployment(name)["spec"]["replicas"])

    def pods(self, name: str = "llama") -> list[Json]:
        """Return the pods of a ModelDeployment."""
        selector = urllib.parse.quote(f"{DEPLOYMENT_LABEL}={name}")
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}"
        return list(self.sandbox.request("GET", path)["items"])

    def events(self, reason: str = "", name: str = "llama") -> list[str]:
        """Return the notes of the operator's events about a ModelDeployment; a repetition counts as one more."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        notes = []
        for event in self.sandbox.request("GET", path)["items"]:
            if event.get("reportingController") != "modelfleet.dev/operator" or event["regarding"]["name"] != name:
                continue
            if reason in ("", event["reason"]):
                notes += [event["note"]] * (event.get("series") or {}).get("count", 1)
        return notes

    def versions(self) -> dict[str, str]:
        """Return the resourceVersion of every ModelDeployment and child: equal versions, nothing written."""
        kinds = {**CHILD_KINDS, "ModelDeployment": API_VERSION}
        return {
            f"{kind}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
            for kind, version in kinds.items()
            for item in self.sandbox.request("GET", resource_path(version, kind, namespace=self.namespace))["items"]
        }


def teams(sandbox: Sandbox) -> list[str]:
    """Return the teams' namespaces that are there, those being deleted included."""
    names = (item["metadata"]["name"] for item in sandbox.request("GET", "/api/v1/namespaces")["items"])
    return [name for name in names if name.startswith("team-")]


def ready(pod: Json) -> bool:
    """Return whether a pod is ready and stays."""
    conditions = pod["status"].get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


@contextmanager
def gpu_class(sandbox: Sandbox, *, gpus: tuple[int, ...], memory: str = "2Ti") -> Iterator[str]:
    """Make an AcceleratorClass with nodes of its own, so many GPUs on each; yield its name."""
    name = unique("gpu")
    names = [f"{name}-node-{number}" for number, _ in enumerate(gpus)]
    for node_name, node_gpus in zip(names, gpus, strict=True):
        (node,) = manifests(NodePlan(h100=1, a100=0, cpu=0))
        capacity = {**node["status"]["capacity"], "nvidia.com/gpu": str(node_gpus), "memory": memory}
        node["metadata"]["name"] = node_name
        node["metadata"]["labels"] |= {"kubernetes.io/hostname": node_name, "nvidia.com/gpu.product": name}
        node["spec"]["providerID"] = f"kwok://{node_name}"
        node["status"] = {"capacity": capacity, "allocatable": capacity}
        sandbox.request("POST", "/api/v1/nodes", node)
    for node_name in names:
        path = f"/api/v1/nodes/{node_name}"
        until(lambda path=path: "not-ready" not in json.dumps(sandbox.request("GET", path)["spec"]["taints"]))  # type: ignore[misc]
    create_class(sandbox, name)
    try:
        yield name
    finally:
        sandbox.request("DELETE", resource_path(API_VERSION, "AcceleratorClass", name=name))
        for node_name in names:
            sandbox.request("DELETE", f"/api/v1/nodes/{node_name}")


def create_class(sandbox: Sandbox, name: str) -> None:
    """Create an AcceleratorClass for the nodes whose product has its name."""
    sandbox.request(
        "POST",
        resource_path(API_VERSION, "AcceleratorClass"),
        {
            "apiVersion": API_VERSION,
            "kind": "AcceleratorClass",
            "metadata": {"name": name},
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": name},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            },
        },
    )


def gpus_taken(sandbox: Sandbox, name: str) -> int:
    """Return how many GPUs of a class its status says are taken."""
    status = sandbox.request("GET", resource_path(API_VERSION, "AcceleratorClass", name=name)).get("status", {})
    return int(status.get("capacityGpus", 0)) - int(status.get("freeGpus", 0))


def create_runtime(sandbox: Sandbox, name: str, *arguments: str) -> str:
    """Create an InferenceRuntime of the vLLM dialect; return its URL path."""
    sandbox.request(
        "POST",
        resource_path(API_VERSION, "InferenceRuntime"),
        {
            "apiVersion": API_VERSION,
            "kind": "InferenceRuntime",
            "metadata": {"name": name},
            "spec": {"engine": "vllm", "image": "registry.example/engine:1.0", "args": list(arguments)},
        },
    )
    return resource_path(API_VERSION, "InferenceRuntime", name=name)


class History:
    """Every state that the objects of a collection went through, from a watch of its own.

    It sees what polling would miss, and survives an API server that stands still.
    """

    def __init__(self, sandbox: Sandbox, path: str) -> None:
        """Begin to watch a collection from now on."""
        self._sandbox = sandbox
        self._path = path
        self._opener = supervisor.https_opener(sandbox.directory / "pki" / "ca.crt")
        self._version = sandbox.request("GET", path)["metadata"]["resourceVersion"]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.seen: list[tuple[str, Json]] = []

    def __enter__(self) -> History:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take what happened until now, and end."""
        version = int(self._sandbox.request("GET", self._path)["metadata"]["resourceVersion"])
        # A bookmark a minute would be long to wait for: an object's own version, or the stream's end, is enough.
        with suppress(AssertionError):
            until(lambda: int(self._version) >= version, seconds=1.0)
        self._stopped.set()

    def states(self, name: str) -> list[Json]:
        """Return the states of one object, in order."""
        return [item for _, item in self.seen if item["metadata"]["name"] == name]

    def replicas(self, name: str = "llama") -> list[int]:
        """Return the values that spec.replicas of a Deployment took, in order, without repetitions."""
        values: list[int] = []
        for item in self.states(name):
            if not values or values[-1] != item["spec"]["replicas"]:
                values.append(item["spec"]["replicas"])
        return values

    def _follow(self) -> None:
        while not self._stopped.is_set():
            url = f"{self._sandbox.server}{self._path}?watch=true&resourceVersion={self._version}&timeoutSeconds=60"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._sandbox.token}"})  # noqa: S310 - the sandbox's own server
            with suppress(OSError), self._opener.open(request, timeout=90) as stream:
                for line in stream:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return
                    self._version = event["object"]["metadata"]["resourceVersion"]
                    self.seen.append((event["type"], event["object"]))
                    if self._stopped.is_set():
                        return
            self._stopped.wait(0.1)


# --- operator processes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """An operator process and the one token that only it has, by which the audit log knows it."""

    operator: Operator
    credential: str

    @property
    def process(self) -> Any:
        """Return the process."""
        return self.operator.process

    def metric(self, name: str) -> float:
        """Return one of its metrics; 0 while it is not there."""
        _, text = self.operator.get("/metrics")
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)

    def gauge(self, name: str, team: Team, deployment: str) -> float:
        """Return one of its metrics about a deployment."""
        return self.metric(f'modelfleet_deployment_{name}{{deployment="{deployment}",namespace="{team.namespace}"}}')

    def leads(self) -> bool:
        """Return whether it holds the lease."""
        return self.process.poll() is None and self.metric("modelfleet_leader") == 1.0

    def await_ticks(self, number: int) -> None:
        """Wait until it has decided so many times more."""
        before = self.metric("modelfleet_tick_seconds_count")
        until(lambda: self.metric("modelfleet_tick_seconds_count") >= before + number)

    def lines(self, event: str = "") -> list[Json]:
        """Return its log lines, or those of one event."""
        found = [json.loads(line) for line in self.operator.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if event in ("", line["event"])]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and return its exit code."""
        self.process.send_signal(number)
        return int(self.process.wait(20))


@dataclass
class Cast:
    """The operator processes of a fleet."""

    fleet: Fleet
    members: list[Watched] = field(default_factory=list)

    def add(self, *arguments: str) -> Watched:
        """Start one more operator; it is ready, as leader or as standby."""
        operator = self.fleet.add_operator(*arguments)
        member = Watched(operator, _credential(self.fleet.sandbox))
        self.members.append(member)
        operator.wait_ready()
        return member

    def only(self) -> Watched:
        """Return the one operator, leading; whatever an earlier test left behind is put right."""
        alive = [member for member in self.members if member.process.poll() is None]
        leading = [member for member in alive if member.leads()]
        for member in alive:
            if member not in leading[:1]:
                member.process.kill()
                member.process.wait()
        chosen = leading[0] if leading else self.add()
        until(chosen.leads)
        return chosen


def _credential(sandbox: Sandbox) -> str:
    """Return the id of the token that the last operator was started with."""
    text = (sandbox.directory / f"kubeconfig-{NAMESPACE}-{SERVICE_ACCOUNT}").read_text()
    token = json.loads(text)["users"][0]["user"]["token"].split(".")[1]
    return f"JTI={json.loads(base64.urlsafe_b64decode(token + '=='))['jti']}"


# --- the API server's record ----------------------------------------------------------------------


class Audit:
    """What was asked of the API server by the operator's account, or by other accounts of its, from a moment on."""

    def __init__(self, sandbox: Sandbox, *accounts: str) -> None:
        """Begin now."""
        names = accounts or (SERVICE_ACCOUNT,)
        self._users = {f"system:serviceaccount:{NAMESPACE}:{name}" for name in names}
        self._log: Path = sandbox.directory / "logs" / "audit.log"
        self._from = self._log.stat().st_size

    def requests(self, *, by: Watched | None = None) -> list[Json]:
        """Return the requests that the accounts made since, or those of one process."""
        with self._log.open("rb") as log:
            log.seek(self._from)
            entries = [json.loads(line) for line in log if line.endswith(b"\n") and USER.encode() in line]
        return [
            entry
            for entry in entries
            if entry["user"]["username"] in self._users
            and (by is None or by.credential in entry["user"].get("extra", {}).get(CREDENTIAL, ()))
        ]

    def writes(self, *, by: Watched | None = None) -> list[str]:
        """Return what was written, the Lease aside, as `verb resource/subresource namespace/name`."""
        return [
            described(entry)
            for entry in self.requests(by=by)
            if entry["verb"] in WRITING_VERBS and entry["objectRef"]["resource"] != "leases"
        ]


CREDENTIAL = "authentication.kubernetes.io/credential-id"


def described(entry: Json) -> str:
    """Return one request in one line."""
    target = entry.get("objectRef") or {}
    resource = "/".join(target[part] for part in ("resource", "subresource") if part in target)
    name = "/".join(target[part] for part in ("namespace", "name") if part in target)
    return f"{entry['verb']} {resource} {name}".rstrip()
