"""Raw API objects become slim records: what a decision or a report needs, and nothing else."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from modelfleet.api.conditions import Reason
from modelfleet.api.meta import (
    APPLIED_HASH_ANNOTATION,
    DEPLOYMENT_LABEL,
    FENCE_EPOCH_ANNOTATION,
    FENCE_FIELD_MANAGER,
    FIELD_MANAGER,
    SCALE_FIELD_MANAGER,
    Key,
    Model,
)
from modelfleet.api.modeldeployment import LearnedStatus, ModelDeploymentSpec, ModelDeploymentStatus
from modelfleet.api.tenant import TenantSpec, TenantStatus
from modelfleet.api.tenantview import VIEW_NAME, TenantViewSpec
from modelfleet.decide.lookback import Kept
from modelfleet.decide.snapshot import Fault, Learned
from modelfleet.render.children import CONTAINER
from modelfleet.render.quota import QUOTA_NAME

Json = dict[str, Any]
Spec = TypeVar("Spec", bound=Model)

FAILED_WAITS = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)


def key_of(item: Json) -> Key:
    """Return an object's key; the namespace of a cluster-scoped one is empty."""
    metadata = item["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def moment(text: str | None) -> float | None:
    """Return an API server's time as seconds since the epoch."""
    return None if not text else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


# --- the operator's own kinds -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A ModelDeployment as applied, and what its status says."""

    key: Key
    uid: str
    version: int
    generation: int
    deleting: bool
    spec: ModelDeploymentSpec | Fault
    status_json: bytes
    recorded_desired: int | None
    measured_tokens_per_second: float | None
    learned: Learned | None

    def status(self) -> ModelDeploymentStatus | None:
        """Return the last written status; None when there is none that parses."""
        try:
            return ModelDeploymentStatus.model_validate_json(self.status_json)
        except ValidationError:
            return None


def parse_deployment(item: Json) -> DeploymentRecord:
    """Read a ModelDeployment; a spec that does not parse becomes a Fault that names the field."""
    metadata, status = item["metadata"], item.get("status") or {}
    return DeploymentRecord(
        key=key_of(item),
        uid=metadata["uid"],
        version=_version(metadata),
        generation=metadata.get("generation", 0),
        deleting="deletionTimestamp" in metadata,
        spec=parse_spec(item, ModelDeploymentSpec),
        status_json=json.dumps(status, separators=(",", ":")).encode(),
        recorded_desired=status.get("desiredReplicas"),
        measured_tokens_per_second=status.get("outputTokensPerSecondPerReplica"),
        learned=_learned(status.get("learned") or {}),
    )


def _learned(status: Json) -> Learned | None:
    """Read what was learned; None where there is nothing that parses."""
    try:
        learned = LearnedStatus.model_validate(status)
    except ValidationError:
        return None
    if not learned.idle_inter_token_microseconds:
        return None
    return Learned(
        idle_inter_token_seconds=learned.idle_inter_token_microseconds / 1e6,
        lookback=Kept(
            forecast=learned.forecast,
            margin_percent=learned.margin_percent,
            steepness_tenths=learned.late_steepness_tenths,
            costs=learned.forecast_costs,
            day_peaks={name: (float(peak.load), peak.at.timestamp()) for name, peak in learned.day_peaks.items()},
            week_slot=learned.week_slot,
            week_levels=learned.week_levels,
        ),
    )


def parse_spec(item: Json, model: type[Spec]) -> Spec | Fault:
    """Read a spec; one that does not parse becomes a Fault that names the field."""
    try:
        return model.model_validate(item.get("spec") or {})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(['spec', *(str(part) for part in fault['loc'])])}: {fault['msg']}"
            for fault in error.errors()[:3]
        )
        return Fault(Reason.INVALID_SPEC, f"{faults}; correct it and apply again")


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A Tenant as applied, and what its status says; None where there is none that parses."""

    name: str
    uid: str
    version: int
    generation: int
    created_at: float
    deleting: bool
    spec: TenantSpec | Fault
    status: TenantStatus | None


def parse_tenant(item: Json) -> TenantRecord:
    """Read a Tenant."""
    metadata = item["metadata"]
    try:
        status = TenantStatus.model_validate(item["status"]) if item.get("status") else None
    except ValidationError:
        status = None
    return TenantRecord(
        name=metadata["name"],
        uid=metadata["uid"],
        version=_version(metadata),
        generation=metadata.get("generation", 0),
        created_at=moment(metadata.get("creationTimestamp")) or 0.0,
        deleting="deletionTimestamp" in metadata,
        spec=parse_spec(item, TenantSpec),
        status=status,
    )


# --- children -----------------------------------------------------------------------------------


@dataclass(slots=True)
class ChildRecord:
    """A Deployment, Service or PodDisruptionBudget that a ModelDeployment owns.

    Attributes:
        live: The object as far as it is rendered; dropped once it was compared, to save memory.
        replicas: spec.replicas of a Deployment; 0 for other kinds.
        scaled_by_other: Manager of spec.replicas, when it is not the operator.
        rolling_out: Pods of an older template exist.
        pods_refused: The API server refuses more of its pods, as a ResourceQuota that is used up does.
    """

    key: Key
    kind: str
    uid: str
    version: int
    owner_uid: str
    applied_hash: str
    live: Json | None
    replicas: int
    scaled_by_other: str
    rolling_out: bool
    progress_deadline_exceeded: bool
    pods_refused: bool
    surges: bool
    deleting: bool


def parse_child(item: Json, kind: str) -> ChildRecord:
    """Read one child of the kind that its collection holds."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
    return ChildRecord(
        key=key_of(item),
        kind=kind,
        uid=metadata["uid"],
        version=_version(metadata),
        owner_uid=controller_of(metadata),
        applied_hash=(metadata.get("annotations") or {}).get(APPLIED_HASH_ANNOTATION, ""),
        live={
            "metadata": {
                name: metadata[name]
                for name in ("name", "namespace", "labels", "annotations", "ownerReferences")
                if name in metadata
            },
            "spec": spec,
        },
        replicas=spec.get("replicas", 0) if kind == "Deployment" else 0,
        scaled_by_other=_other_scaler(metadata.get("managedFields") or ()),
        rolling_out=status.get("replicas", 0) > status.get("updatedReplicas", 0),
        progress_deadline_exceeded=any(
            condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded"
            for condition in status.get("conditions") or ()
        ),
        pods_refused=any(
            condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
            for condition in status.get("conditions") or ()
        ),
        surges=rolling.get("maxSurge") == 1,
        deleting="deletionTimestamp" in metadata,
    )


def controller_of(metadata: Mapping[str, Any]) -> str:
    """Return the UID of the controlling owner, or an empty string."""
    return next((owner["uid"] for owner in metadata.get("ownerReferences") or () if owner.get("controller")), "")


def _other_scaler(managed_fields: Any) -> str:
    owners = [
        entry.get("manager", "")
        for entry in managed_fields
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    return "" if not owners or SCALE_FIELD_MANAGER in owners else owners[0]


@dataclass(frozen=True, slots=True)
class QuotaRecord:
    """A ResourceQuota of the operator's.

    Attributes:
        hard: Limits that the operator owns, by `requests.<resourceName>`; one that somebody changed is not among them.
        epoch: The fence's epoch in which it was written; None where an operator wrote it that knew none.
        enforced: Limits that the API server goes by: a controller copies them from hard.
        used: What the API server counts against them.
        scoped: Whether it counts some pods only, which the operator never asks for and nobody can change.
    """

    key: Key
    uid: str
    version: int
    owner_uid: str
    hard: Mapping[str, int]
    epoch: int | None
    enforced: Mapping[str, int]
    used: Mapping[str, int]
    scoped: bool


def parse_quota(item: Json) -> QuotaRecord | None:
    """Read a ResourceQuota; None when it is not the fence, whatever labels it carries."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    hard = spec.get("hard") or {}
    if metadata["name"] != QUOTA_NAME:
        return None
    epoch = (metadata.get("annotations") or {}).get(FENCE_EPOCH_ANNOTATION, "")
    owned = {
        field.removeprefix("f:")
        for entry in metadata.get("managedFields") or ()
        if entry.get("manager") in {FIELD_MANAGER, FENCE_FIELD_MANAGER}
        for field in ((entry.get("fieldsV1") or {}).get("f:spec") or {}).get("f:hard") or {}
    }
    return QuotaRecord(
        key=key_of(item),
        uid=metadata["uid"],
        version=_version(metadata),
        owner_uid=controller_of(metadata),
        hard={name: _quantity(amount) for name, amount in hard.items() if name in owned},
        epoch=int(epoch) if _EPOCH.fullmatch(epoch) else None,
        enforced={name: _quantity(amount) for name, amount in (status.get("hard") or {}).items()},
        used={name: _quantity(amount) for name, amount in (status.get("used") or {}).items()},
        scoped=bool(spec.get("scopes") or spec.get("scopeSelector")),
    )


_EPOCH = re.compile(r"[0-9]{1,9}")
"""No longer than a Tenant's status can hold: whoever may edit the quota may write anything."""


def _quantity(text: str) -> int:
    """Read a whole quantity as the API server writes it: 2000 is 2k, or 2e3 or 2Ki where its author wrote so.

    Raises:
        ValueError: If it is not whole.
    """
    number = text.rstrip("kKMGTPEi") if "e" not in text else text[: text.index("e")]
    suffix = text[len(number) :]
    return int(number) * (int(10 ** int(suffix[1:])) if suffix.startswith("e") else _FACTORS[suffix])


_FACTORS = {
    "": 1,
    **{suffix: 1_000**power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": 1_024**power for power, suffix in enumerate("KMGTPE", start=1)},
}


@dataclass(frozen=True, slots=True)
class ViewRecord:
    """A TenantView of the operator's; `spec` is None where it does not parse."""

    key: Key
    uid: str
    version: int
    owner_uid: str
    spec: TenantViewSpec | None


def parse_view(item: Json) -> ViewRecord | None:
    """Read a TenantView; None when it has another name than the operator's."""
    metadata = item["metadata"]
    if metadata["name"] != VIEW_NAME:
        return None
    spec = parse_spec(item, TenantViewSpec)
    return ViewRecord(
        key=key_of(item),
        uid=metadata["uid"],
        version=_version(metadata),
        owner_uid=controller_of(metadata),
        spec=spec if isinstance(spec, TenantViewSpec) else None,
    )


# --- pods, their ReplicaSets, nodes, foreign autoscalers ----------------------------------------


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod that is the operator's own, or that holds an extended resource.

    Attributes:
        replica_set_uid: UID of the controlling owner, which tells whose pod it truly is.
        resources: Extended resources it holds, as (name, count).
        trouble: Why it does not start, in the kubelet's or the scheduler's words.
    """

    key: Key
    uid: str
    version: int
    deployment: str
    replica_set_uid: str
    ip: str
    node: str
    resources: tuple[tuple[str, int], ...]
    created_at: float
    ready_at: float | None
    terminating: bool
    restarts: int
    trouble: str

    @property
    def finds_no_node(self) -> bool:
        """Whether the scheduler said so; a pod that it has not looked at yet may be placed in a moment."""
        return not self.node and bool(self.trouble)


def parse_pod(item: Json) -> PodRecord | None:
    """Read a pod; None when it is neither the operator's nor holds what a class could count."""
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    deployment = (metadata.get("labels") or {}).get(DEPLOYMENT_LABEL, "")
    resources = _extended(spec)
    if not (deployment or resources) or status.get("phase") in {"Succeeded", "Failed"}:
        return None
    ready: Json = next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), {})
    engine: Json = next((c for c in status.get("containerStatuses") or () if c.get("name") == CONTAINER), {})
    return PodRecord(
        key=key_of(item),
        uid=metadata["uid"],
        version=_version(metadata),
        deployment=deployment,
        replica_set_uid=controller_of(metadata),
        ip=status.get("podIP", ""),
        node=spec.get("nodeName", ""),
        resources=resources,
        created_at=moment(metadata.get("creationTimestamp")) or 0.0,
        ready_at=moment(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
        terminating="deletionTimestamp" in metadata,
        restarts=engine.get("restartCount", 0),
        trouble=_trouble(status, engine),
    )


def _extended(spec: Json) -> tuple[tuple[str, int], ...]:
    """Add up the extended resources of a pod as the scheduler and the ResourceQuota do.

    Source:
        Kubernetes, k8s.io/component-helpers/resource, PodRequests: an init container runs beside the restartable ones
        before it; all containers run beside all restartable ones.
    """
    beside, most, held = Counter[str](), Counter[str](), Counter[str]()
    for container in spec.get("initContainers") or ():
        own = _limits(container)
        if container.get("restartPolicy") == "Always":
            beside.update(own)
            most |= beside
        else:
            most |= beside + own
    for container in spec.get("containers") or ():
        held.update(_limits(container))
    return tuple(((held + beside) | most).items())


def _limits(container: Json) -> Counter[str]:
    limits = (container.get("resources") or {}).get("limits") or {}
    return Counter({name: _quantity(amount) for name, amount in limits.items() if "/" in name})


def _trouble(status: Json, engine: Json) -> str:
    waiting = (engine.get("state") or {}).get("waiting") or {}
    if waiting.get("reason") in FAILED_WAITS:
        return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")[:300]
    last = (engine.get("lastState") or {}).get("terminated") or {}
    if engine.get("restartCount", 0) >= 3 and not engine.get("ready") and last:
        return f"restarted {engine['restartCount']} times, last {last.get('reason', 'exited')}"[:300]
    unscheduled: Json = next(
        (c for c in status.get("conditions") or () if c.get("type") == "PodScheduled" and c.get("status") == "False"),
        {},
    )
    return str(unscheduled.get("message", ""))[:300]


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node's labels, what it has of extended resources, and whether it takes pods."""

    name: str
    version: int
    labels: Mapping[str, str]
    allocatable: tuple[tuple[str, int], ...]
    usable: bool


def parse_node(item: Json) -> NodeRecord:
    """Read a node."""
    metadata, status = item["metadata"], item.get("status") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    return NodeRecord(
        name=metadata["name"],
        version=_version(metadata),
        labels=metadata.get("labels") or {},
        allocatable=tuple(
            (name, int(amount))
            for name, amount in (status.get("allocatable") or {}).items()
            if "/" in name and str(amount).isdigit()
        ),
        usable=ready and not (item.get("spec") or {}).get("unschedulable", False),
    )


@dataclass(frozen=True, slots=True)
class AutoscalerRecord:
    """A HorizontalPodAutoscaler and what it scales."""

    key: Key
    uid: str
    version: int
    target_kind: str
    target_name: str


def parse_autoscaler(item: Json) -> AutoscalerRecord:
    """Read a HorizontalPodAutoscaler."""
    target = item["spec"]["scaleTargetRef"]
    metadata = item["metadata"]
    return AutoscalerRecord(key_of(item), metadata["uid"], _version(metadata), target["kind"], target["name"])


def _version(metadata: Json) -> int:
    # Resource versions are ordered integers: Kubernetes guarantees it since 1.35, etcd always did.
    return int(metadata.get("resourceVersion") or 0)
