"""The three children of a ModelDeployment, rendered from its spec, its runtime and its class.

The template is closed: whatever a team writes, a replica runs without root, without a
service-account token, with every capability dropped and on the class's nodes only.
"""

import hashlib
import json
from collections.abc import Mapping
from math import ceil
from typing import Any

from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.api.inferenceruntime import PLACEHOLDER, InferenceRuntimeSpec
from modelfleet.api.meta import (
    API_VERSION,
    APPLIED_HASH_ANNOTATION,
    DEPLOYMENT_LABEL,
    ENGINE_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MODEL_ANNOTATION,
    Key,
)
from modelfleet.api.modeldeployment import ModelDeploymentSpec, grace_seconds, pre_stop_seconds
from modelfleet.engines.dialects import DIALECTS

Manifest = dict[str, Any]

CONTAINER = "engine"
PORT_NAME = "http"
SERVICE_PORT = 80
USER_ID = 1000
STARTUP_PERIOD_SECONDS = 5
PROGRESS_MARGIN_SECONDS = 60


def children(
    key: Key,
    uid: str,
    spec: ModelDeploymentSpec,
    runtime: InferenceRuntimeSpec,
    accelerator: AcceleratorClassSpec,
    *,
    surge: bool,
) -> tuple[Manifest, ...]:
    """Render every child of one ModelDeployment.

    Args:
        key: Namespace and name of the ModelDeployment; the children take them.
        uid: Its UID, for the owner reference.
        spec: What the team asks for.
        runtime: The engine's template.
        accelerator: The class's resource, nodes and tolerations.
        surge: Whether a roll-out may start a new replica before it stops an old one. Without a free
            place for it, it must not: the new pod would wait for the GPUs that the old one holds.

    Returns:
        Manifests in the order to apply. None carries `spec.replicas`: the count has its own writer.
    """
    return (
        _sealed(_deployment(key, uid, spec, runtime, accelerator, surge=surge)),
        _sealed(_service(key, uid)),
        _sealed(_disruption_budget(key, uid)),
    )


def applied_hash(manifest: Mapping[str, Any]) -> str:
    """Return the hash that a rendered manifest carries, or that a live object was last applied with."""
    annotations = manifest.get("metadata", {}).get("annotations") or {}
    return str(annotations.get(APPLIED_HASH_ANNOTATION, ""))


def replicas_patch(key: Key, uid: str, count: int) -> Manifest:
    """Return the apply patch that owns `spec.replicas` and nothing else.

    The UID makes it fail on another Deployment of the same name.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
        "spec": {"replicas": count},
    }


def _sealed(manifest: Manifest) -> Manifest:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    annotations = manifest["metadata"].setdefault("annotations", {})
    annotations[APPLIED_HASH_ANNOTATION] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return manifest


def _metadata(key: Key, uid: str) -> Manifest:
    return {
        "name": key.name,
        "namespace": key.namespace,
        "labels": _labels(key),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": "ModelDeployment",
                "name": key.name,
                "uid": uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def _labels(key: Key) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": key.name,
        "app.kubernetes.io/component": "inference",
        "app.kubernetes.io/part-of": "modelfleet",
        MANAGED_BY_LABEL: MANAGED_BY,
        DEPLOYMENT_LABEL: key.name,
    }


def _deployment(
    key: Key,
    uid: str,
    spec: ModelDeploymentSpec,
    runtime: InferenceRuntimeSpec,
    accelerator: AcceleratorClassSpec,
    *,
    surge: bool,
) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(key, uid),
        "spec": {
            "selector": {"matchLabels": {DEPLOYMENT_LABEL: key.name}},
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": spec.start_timeout_seconds + PROGRESS_MARGIN_SECONDS,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": int(surge), "maxUnavailable": int(not surge)},
            },
            "template": {
                "metadata": {
                    "labels": {**_labels(key), ENGINE_LABEL: runtime.engine.value},
                    "annotations": {MODEL_ANNOTATION: spec.model.name},
                },
                "spec": _pod_spec(spec, runtime, accelerator),
            },
        },
    }


def _pod_spec(spec: ModelDeploymentSpec, runtime: InferenceRuntimeSpec, accelerator: AcceleratorClassSpec) -> Manifest:
    drains = DIALECTS[runtime.engine].drains_on_sigterm
    pre_stop = pre_stop_seconds(spec.drain_seconds, drains_on_sigterm=drains)
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(spec.drain_seconds, drains_on_sigterm=drains),
        "nodeSelector": dict(accelerator.node_selector),
        "tolerations": [
            {name: value for name, value in toleration.model_dump().items() if value}
            for toleration in accelerator.tolerations
        ],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, runtime, accelerator, pre_stop)],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _canonical(runtime.resources.shared_memory)}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "models", "persistentVolumeClaim": {"claimName": spec.model.cache_claim_name}}
            if spec.model.cache_claim_name
            else {"name": "models", "emptyDir": {}},
        ],
    }


def _container(
    spec: ModelDeploymentSpec, runtime: InferenceRuntimeSpec, accelerator: AcceleratorClassSpec, pre_stop: int
) -> Manifest:
    dialect = DIALECTS[runtime.engine]
    port = runtime.port or dialect.port
    values = {
        "model": spec.model.name,
        "revision": spec.model.revision,
        "gpus": str(spec.gpus_per_replica),
        "port": str(port),
        "drainSeconds": str(spec.drain_seconds),
    }
    gpus = {accelerator.resource_name: str(spec.gpus_per_replica)}
    memory = _canonical(runtime.resources.memory)
    health = {"httpGet": {"path": runtime.health_path or dialect.health_path, "port": PORT_NAME}}
    container: Manifest = {
        "name": CONTAINER,
        "image": runtime.image,
        "args": [_filled(argument, values) for argument in runtime.args],
        "env": _environment(spec, runtime, values),
        "ports": [{"name": PORT_NAME, "containerPort": port, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": _canonical(runtime.resources.cpu), "memory": memory, **gpus},
            "limits": {"memory": memory, **gpus},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": {
            **health,
            "periodSeconds": STARTUP_PERIOD_SECONDS,
            "timeoutSeconds": 3,
            "failureThreshold": ceil(spec.start_timeout_seconds / STARTUP_PERIOD_SECONDS),
        },
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 3},
        # A busy engine may answer late; only a minute of silence is a dead one.
        "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": pre_stop}}},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the path tensor-parallel workers use
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own, an emptyDir
            {"name": "models", "mountPath": runtime.cache_mount_path},
        ],
    }
    if runtime.command:
        container["command"] = [_filled(part, values) for part in runtime.command]
    return container


def _environment(spec: ModelDeploymentSpec, runtime: InferenceRuntimeSpec, values: Mapping[str, str]) -> list[Manifest]:
    # A user without a home in the image: every cache of the engine goes to volumes.
    base: list[Manifest] = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the container's own, an emptyDir
        {"name": "HF_HOME", "value": runtime.cache_mount_path},
    ]
    if spec.model.token_secret_name:
        reference = {"name": spec.model.token_secret_name, "key": "token"}
        base.append({"name": DIALECTS[runtime.engine].token_variable, "valueFrom": {"secretKeyRef": reference}})
    own = {variable.name for variable in runtime.env}
    return [variable for variable in base if variable["name"] not in own] + [
        {"name": variable.name, "value": _filled(variable.value, values)} for variable in runtime.env
    ]


_SUFFIXES = (("Ki", "Mi", "Gi", "Ti", "Pi"), ("m", "", "k", "M", "G", "T", "P"))


def _canonical(quantity: str) -> str:
    """Return a quantity as the API server gives it back: 16384Mi is 16Gi, 4000m is 4."""
    digits = quantity.rstrip("mkKMGTi")
    amount, suffix = int(digits), quantity.removeprefix(digits)
    step, suffixes = (1024, _SUFFIXES[0]) if suffix.endswith("i") else (1000, _SUFFIXES[1])
    place = suffixes.index(suffix)
    while amount % step == 0 and place < len(suffixes) - 1:
        amount, place = amount // step, place + 1
    return f"{amount}{suffixes[place]}"


def _filled(text: str, values: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: values[match["name"]], text)


def _service(key: Key, uid: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(key, uid),
        "spec": {
            "type": "ClusterIP",
            "selector": {DEPLOYMENT_LABEL: key.name},
            "ports": [{"name": PORT_NAME, "port": SERVICE_PORT, "targetPort": PORT_NAME, "protocol": "TCP"}],
        },
    }


def _disruption_budget(key: Key, uid: str) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(key, uid),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {DEPLOYMENT_LABEL: key.name}},
            # A pod that never became ready must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
