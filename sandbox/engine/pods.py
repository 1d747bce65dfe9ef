"""Reads from a Pod what its engine needs to know, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from modelfleet.api.meta import DEPLOYMENT_LABEL, ENGINE_LABEL, MODEL_ANNOTATION, Key
from sandbox.engine.dialects import DIALECTS

CONTAINER_NAME: Final = "engine"
PORT_NAME: Final = "http"
MODEL_FLAGS: Final = ("--served-model-name", "--model-id", "--model", "--model-path", "--alias")
"""In order of preference, when the pod does not name its model in an annotation."""

PULL_ANNOTATION: Final = "sandbox.modelfleet.dev/image-pull-seconds"
LOADED_ANNOTATION: Final = "sandbox.modelfleet.dev/loaded"
DRAINED_ANNOTATION: Final = "sandbox.modelfleet.dev/drained"
ERROR_ANNOTATION: Final = "sandbox.modelfleet.dev/engine-error"

PROBE_PERIOD_SECONDS: Final = 5.0
PROBE_FAILURES: Final = 3


class UnusablePod(ValueError):
    """The pod has no engine label, no known engine, or no container port for it."""


@dataclass(frozen=True)
class PodView:
    """One inference pod, as far as its engine cares. Times are Unix seconds."""

    key: Key
    uid: str
    deployment: Key | None
    engine: str
    model: str
    port: int
    annotations: Mapping[str, str]
    scheduled: bool
    running: bool
    ready: bool
    ip: str
    restarts: int
    deletion_at_unix: float | None
    probe_path: str
    probe_period_seconds: float
    probe_failures: int

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted."""
        return self.deletion_at_unix is not None


def parse_pod(pod: Mapping[str, Any]) -> PodView:
    """Return the view of a Pod's JSON.

    Raises:
        UnusablePod: If no engine could serve it.
    """
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    labels: Mapping[str, str] = metadata.get("labels") or {}
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    engine = labels.get(ENGINE_LABEL, "")
    if engine not in DIALECTS:
        raise UnusablePod(f"label {ENGINE_LABEL} is {engine!r}, not one of {', '.join(DIALECTS)}")
    container = next((c for c in spec["containers"] if c["name"] == CONTAINER_NAME), None)
    if container is None:
        raise UnusablePod(f"no container named {CONTAINER_NAME}")
    ports = {p.get("name"): p["containerPort"] for p in container.get("ports") or []}
    if PORT_NAME not in ports:
        raise UnusablePod(f"container {CONTAINER_NAME} has no port named {PORT_NAME}")
    probe = container.get("readinessProbe") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or []}
    deployment = labels.get(DEPLOYMENT_LABEL)
    return PodView(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        deployment=Key(metadata["namespace"], deployment) if deployment else None,
        engine=engine,
        model=annotations.get(MODEL_ANNOTATION)
        or _model_of_arguments([*(container.get("command") or []), *(container.get("args") or [])])
        or deployment
        or metadata["name"],
        port=int(ports[PORT_NAME]),
        annotations=annotations,
        scheduled=bool(spec.get("nodeName")),
        running=status.get("phase") == "Running" and bool(status.get("podIP")),
        ready=conditions.get("Ready") == "True",
        ip=status.get("podIP") or "",
        restarts=max((s.get("restartCount", 0) for s in status.get("containerStatuses") or []), default=0),
        deletion_at_unix=_unix(metadata.get("deletionTimestamp")),
        probe_path=(probe.get("httpGet") or {}).get("path") or DIALECTS[engine].health_path,
        probe_period_seconds=float(probe.get("periodSeconds") or PROBE_PERIOD_SECONDS),
        probe_failures=int(probe.get("failureThreshold") or PROBE_FAILURES),
    )


def _model_of_arguments(arguments: list[str]) -> str:
    for flag in MODEL_FLAGS:
        for index, argument in enumerate(arguments):
            if argument.startswith(f"{flag}="):
                return argument.removeprefix(f"{flag}=")
            if argument == flag and index + 1 < len(arguments):
                return arguments[index + 1]
    return ""


def _unix(timestamp: str | None) -> float | None:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else None
