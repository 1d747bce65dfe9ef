"""Tenant: the namespaces of one team, and what it may have of the cluster's GPUs and tokens."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from modelfleet.api.conditions import Condition
from modelfleet.api.meta import Count, Generation, Model, Name

MOST_GPUS = 1_000_000
Gpus = Annotated[int, Field(ge=0, le=MOST_GPUS)]
TokensPerMinute = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
Weight = Annotated[int, Field(ge=1, le=1_000)]


class ClassQuota(Model):
    """What a tenant may have of one accelerator class, in GPUs."""

    accelerator: Name
    """Name of an AcceleratorClass."""
    nominal_quota: Gpus
    """GPUs that are the tenant's own whenever its replicas ask for them."""
    borrowing_limit: Gpus | None = None
    """GPUs beyond nominalQuota that it may borrow while others leave them idle. When absent: all that is idle."""
    lending_limit: Gpus | None = None
    """GPUs of nominalQuota that others may borrow while they are idle. When absent: all of it."""
    weight: Weight = 1
    """Share of idle GPUs against other borrowers: weight 2 borrows twice as much as weight 1."""

    @model_validator(mode="after")
    def _lends_its_own(self) -> Self:
        if self.lending_limit is not None and self.lending_limit > self.nominal_quota:
            raise ValueError("lendingLimit must not be greater than nominalQuota")
        return self


class TokenLimits(Model):
    """Load that may buy replicas, by what is counted; the tightest binds."""

    input: TokensPerMinute | None = None
    """Prompt tokens a minute. When absent: no limit."""
    output: TokensPerMinute | None = None
    """Generated tokens a minute. When absent: no limit."""
    total: TokensPerMinute | None = None
    """Prompt and generated tokens a minute, together. When absent: no limit."""


class ModelAllowance(TokenLimits):
    """The allowance of one served model, over all the tenant's deployments of it."""

    model: Annotated[
        str,
        StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$"),
    ]
    """The model as spec.model.name of a ModelDeployment has it."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.input is None and self.output is None and self.total is None:
            raise ValueError("give one of input, output and total")
        return self


class TokenAllowances(TokenLimits):
    """The tenant's allowance over all models, shared by their demand. Load beyond it is served by what there is."""

    models: Annotated[tuple[ModelAllowance, ...], Field(max_length=64)] = ()
    """Limits of single models."""


class TenantSpec(Model):
    """Who a tenant is and what it may have."""

    namespaces: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
    """Names of the namespaces that are the tenant's. A namespace that an older Tenant names stays with that one."""
    cohort: Name | None = None
    """Tenants of one cohort lend to each other. When absent: the common pool, a cohort of its own."""
    quotas: Annotated[tuple[ClassQuota, ...], Field(max_length=32)]
    """What it may have of each accelerator class. A class that is not listed is closed to the tenant."""
    tokens_per_minute: TokenAllowances | None = None
    """Load that may buy replicas. When absent: all of it."""

    @model_validator(mode="after")
    def _each_namespace_once(self) -> Self:
        if len(set(self.namespaces)) < len(self.namespaces):
            raise ValueError("namespaces must not name one twice")
        return self


class ClassUsage(Model):
    """One accelerator class as the tenant has it now, in GPUs."""

    accelerator: Name
    """Name of the AcceleratorClass."""
    guaranteed: Count = 0
    """Its demand as far as nominalQuota covers it."""
    used: Count = 0
    """GPUs that pods of its namespaces hold, whoever made them; terminating pods hold theirs until they are gone."""
    borrowed: Count = 0
    """GPUs used beyond nominalQuota."""
    lent: Count = 0
    """GPUs of nominalQuota that others use."""
    waiting: Count = 0
    """GPUs that its replicas ask for and do not have yet."""


class NamespaceLimit(Model):
    """What pods of one namespace may request of one resource."""

    namespace: Name
    """The namespace."""
    resource: Annotated[str, StringConstraints(min_length=1, max_length=317)]
    """Name of the resource, for example nvidia.com/gpu."""
    gpus: Count
    """Most that its ResourceQuota may allow."""


class FenceStatus(Model):
    """How the limit is split over several namespaces. No ResourceQuota allows more, whichever operator writes it."""

    epoch: Count = 0
    """Counts how often something was taken from a namespace."""
    limits: Annotated[tuple[NamespaceLimit, ...], Field(max_length=2_048)] = ()
    """Each namespace and resource."""


class TenantStatus(Model):
    """What the tenant has, over all classes and class by class, and what stands in its way."""

    observed_generation: Generation = 0
    """Generation of the spec that this status describes."""
    guaranteed: Count = 0
    """Sum over the classes."""
    used: Count = 0
    """Sum over the classes."""
    borrowed: Count = 0
    """Sum over the classes."""
    lent: Count = 0
    """Sum over the classes."""
    waiting: Count = 0
    """Sum over the classes."""
    reason: Annotated[str, StringConstraints(max_length=64)] = ""
    """One word for the state."""
    classes: Annotated[tuple[ClassUsage, ...], Field(max_length=32)] = ()
    """Each class of spec.quotas."""
    namespaces: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """The namespaces that are the tenant's: those of the spec that no older Tenant names."""
    fence: FenceStatus | None = None
    """How the limit is split; without limits where one namespace has it all."""
    updated_at: datetime | None = None
    """When these counts last changed."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """WithinQuota, Borrowing, Lending, NamespacesClaimed; while the spec cannot be read, Stalled alone."""
