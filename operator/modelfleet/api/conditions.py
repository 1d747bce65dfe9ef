"""Condition types, reasons and limits: the closed vocabulary of every explanation."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelfleet.api.meta import Generation, Model


class ConditionType(StrEnum):
    """Conditions of a ModelDeployment. `Stalled` is present only while it is true, as kstatus asks."""

    READY = "Ready"
    SCALING = "Scaling"
    METRICS_FRESH = "MetricsFresh"
    SCALING_LIMITED = "ScalingLimited"
    STALLED = "Stalled"


class TenantCondition(StrEnum):
    """Conditions of a Tenant. `Stalled` is present only while it is true, as kstatus asks."""

    WITHIN_QUOTA = "WithinQuota"
    LENDING = "Lending"
    BORROWING = "Borrowing"
    NAMESPACES_CLAIMED = "NamespacesClaimed"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Why a condition has its status. Names follow HPA and Kueue where they have a word for it."""

    AVAILABLE = "Available"
    STARTING = "Starting"
    ROLLING_OUT = "RollingOut"
    UNSCHEDULABLE = "Unschedulable"
    POD_FAILED = "PodFailed"
    START_TIMEOUT = "StartTimeout"
    INVALID_SPEC = "InvalidSpec"
    RUNTIME_NOT_FOUND = "RuntimeNotFound"
    RUNTIME_INVALID = "RuntimeInvalid"
    ACCELERATOR_NOT_FOUND = "AcceleratorNotFound"
    ACCELERATOR_INVALID = "AcceleratorInvalid"
    TENANT_INVALID = "TenantInvalid"
    GPUS_EXCEED_NODE = "GPUsExceedNode"
    NAME_CONFLICT = "NameConflict"
    APPLY_FAILED = "ApplyFailed"
    INTERNAL_ERROR = "InternalError"
    ABLE_TO_SCALE = "AbleToScale"
    HELD = "Held"
    WARMING_UP = "WarmingUp"
    PAUSED = "Paused"
    PAUSED_SCALE_IN = "PausedScaleIn"
    PAUSED_SCALE_OUT = "PausedScaleOut"
    RECOMMENDING = "Recommending"
    FOREIGN_AUTOSCALER = "ForeignAutoscaler"
    FRESH = "Fresh"
    METRICS_MISSING = "MetricsMissing"
    NO_READY_PODS = "NoReadyPods"
    WITHIN_RANGE = "DesiredWithinRange"
    LIMITED = "Limited"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    WITHIN_NOMINAL = "WithinNominal"
    BORROWING = "Borrowing"
    OVER_QUOTA = "OverQuota"
    NOT_BORROWING = "NotBorrowing"
    GIVING_BACK = "GivingBack"
    LENDING = "Lending"
    NOT_LENDING = "NotLending"
    TAKING_BACK = "TakingBack"
    CLAIMED = "Claimed"
    CLAIMED_BY_ANOTHER = "ClaimedByAnother"


class Limit(StrEnum):
    """Who bounded the replica count. The word in the LIMITED-BY column."""

    NONE = ""
    MIN_REPLICAS = "MinReplicas"
    MAX_REPLICAS = "MaxReplicas"
    SCHEDULE = "Schedule"
    SCALE_UP_RATE = "ScaleUpRate"
    SCALE_DOWN_RATE = "ScaleDownRate"
    SCALE_UP_WINDOW = "ScaleUpWindow"
    SCALE_DOWN_WINDOW = "ScaleDownWindow"
    METRICS = "MetricsMissing"
    WARM_UP = "WarmUp"
    TOKEN_ALLOWANCE = "TokenAllowance"  # noqa: S105 - an allowance, not a password
    CAPACITY = "Capacity"
    TENANT_QUOTA = "TenantQuota"
    LENDING_LIMIT = "LendingLimit"
    RECLAIM = "WaitingForReclaim"
    RECLAIMED = "Reclaimed"
    PREEMPTED = "Preempted"
    PAUSED = "Paused"
    PAUSED_SCALE_IN = "PausedScaleIn"
    PAUSED_SCALE_OUT = "PausedScaleOut"
    RECOMMEND = "RecommendOnly"
    FOREIGN_AUTOSCALER = "ForeignAutoscaler"
    INVALID = "Invalid"


class Condition(Model):
    """A metav1.Condition."""

    type: Annotated[str, Field(max_length=64)]
    """Name of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """One CamelCase word for why."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What happened, and what would change it."""
    last_transition_time: datetime
    """When `status` last changed."""
    observed_generation: Generation = 0
    """Generation of the spec that this condition judges."""
