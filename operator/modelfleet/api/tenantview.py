"""TenantView: what a tenant has, told in each of its namespaces, where its people and admission policies can read it.

The operator writes one, named VIEW_NAME, in every namespace that is a Tenant's.
"""

from typing import Annotated

from pydantic import Field, StringConstraints

from modelfleet.api.meta import Count, Model, Name
from modelfleet.api.tenant import ClassUsage, Gpus

VIEW_NAME = "modelfleet"


class ClassView(ClassUsage):
    """One accelerator class as the tenant may have it and has it, in GPUs over all its namespaces."""

    nominal_quota: Gpus
    """GPUs that are the tenant's own whenever its replicas ask for them."""
    limit: Count | None = None
    """Most it may have: nominalQuota + borrowingLimit. When absent: all that is idle."""
    minimums: Count
    """Sum of minReplicas x gpusPerReplica over the tenant's ModelDeployments."""
    largest_node_gpus: Count
    """GPUs of the class's largest node; 0 while there is none."""


class TenantViewSpec(Model):
    """What the tenant has, in all its namespaces together."""

    tenant: Name
    """Name of the Tenant to which this namespace belongs."""
    used: Annotated[str, StringConstraints(max_length=4_096)]
    """GPUs used / nominalQuota of each class."""
    waiting: Count
    """GPUs that its replicas ask for and do not have yet, over all classes."""
    reason: Annotated[str, StringConstraints(max_length=64)]
    """One word for the state, as the Tenant's status has it."""
    message: Annotated[str, StringConstraints(max_length=1_024)]
    """What the reason means in numbers."""
    classes: Annotated[tuple[ClassView, ...], Field(max_length=32)]
    """Each class of the Tenant's quotas. A class that is not listed is closed to the tenant."""
