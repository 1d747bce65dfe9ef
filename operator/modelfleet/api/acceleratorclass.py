"""AcceleratorClass: one kind of GPU, as administrators name it for teams."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from modelfleet.api.conditions import Condition
from modelfleet.api.meta import Count, Generation, Model

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_QUALIFIED_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"

# A pod with a key, value or resource name outside these patterns is refused, and then no replica of the class starts.
LabelKey = Annotated[
    str, StringConstraints(min_length=1, max_length=317, pattern=rf"^({_SUBDOMAIN}/)?{_QUALIFIED_NAME}$")
]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=rf"^({_QUALIFIED_NAME})?$")]
ResourceName = Annotated[
    str, StringConstraints(min_length=3, max_length=317, pattern=rf"^{_SUBDOMAIN}/{_QUALIFIED_NAME}$")
]
Usd = Annotated[str, StringConstraints(max_length=16, pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]


class Toleration(Model):
    """A core/v1 toleration."""

    key: Annotated[str, StringConstraints(max_length=317, pattern=rf"^(({_SUBDOMAIN}/)?{_QUALIFIED_NAME})?$")] = ""
    """Taint key; empty with operator Exists matches every taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Exists ignores the value."""
    value: LabelValue = ""
    """Taint value, for Equal."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty matches all."""

    @model_validator(mode="after")
    def _value_needs_equal(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError("value must be empty when operator is Exists")
        return self

    @model_validator(mode="after")
    def _equal_needs_key(self) -> Self:
        if self.operator == "Equal" and not self.key:
            raise ValueError("key must not be empty when operator is Equal")
        return self


class AcceleratorClassSpec(Model):
    """Which nodes and which extended resource this class means."""

    resource_name: ResourceName = "nvidia.com/gpu"
    """Extended resource that a pod requests, for example nvidia.com/gpu or nvidia.com/mig-1g.10gb."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(min_length=1, max_length=16)]
    """Node labels that select this class, for example nvidia.com/gpu.product."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that replicas of this class tolerate."""
    usd_per_gpu_hour: Usd | None = None
    """Price of one GPU for one hour, in US dollars, as a decimal string. Reported, never a limit."""

    @model_validator(mode="after")
    def _resource_is_no_quota_item(self) -> Self:
        if self.resource_name.startswith("requests."):
            raise ValueError("resourceName must not start with requests.")
        return self


def readable_resource(name: object) -> str | None:
    """Return the resource that a class means whose spec is not valid as a whole; None where no pod can ask for it."""
    given = {} if name is None else {"resource_name": name}
    try:
        return AcceleratorClassSpec.model_validate({"node_selector": {"any": ""}, **given}).resource_name
    except ValidationError:
        return None


class AcceleratorClassStatus(Model):
    """What the cluster has of this class now, in GPUs."""

    observed_generation: Generation = 0
    """Generation of the spec that this status describes."""
    nodes: Count = 0
    """Ready, schedulable nodes of the class."""
    capacity_gpus: Count = 0
    """Allocatable GPUs on those nodes."""
    free_gpus: Count = 0
    """Allocatable GPUs that no pod holds."""
    largest_node_gpus: Count = 0
    """GPUs of the largest node: the upper bound of gpusPerReplica."""
    updated_at: datetime | None = None
    """When these counts last changed."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """Ready is False while no node matches."""
