"""What every kind shares: group, names of labels and annotations, keys, and the pydantic base.

Anything that two modules must spell alike is spelled here once.
"""

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

GROUP = "modelfleet.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "modelfleet"

FIELD_MANAGER = "modelfleet"
"""Owns every field of the children except `spec.replicas`."""
SCALE_FIELD_MANAGER = "modelfleet-scaler"
"""Owns `spec.replicas` alone, so that a hand edit shows up as another manager's field."""

FENCE_FIELD_MANAGER = "modelfleet-fence"
"""Owns what a Tenant's status says of its fence, which is written at other moments than the rest of it."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "modelfleet"
DEPLOYMENT_LABEL = f"{GROUP}/deployment"
ENGINE_LABEL = f"{GROUP}/engine"
MODEL_ANNOTATION = f"{GROUP}/model"
FENCE_EPOCH_ANNOTATION = f"{GROUP}/fence-epoch"
APPLIED_HASH_ANNOTATION = f"{GROUP}/applied-hash"
DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
]
"""An RFC 1123 label: what a name must be for a Service of the same name to exist."""

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""Something counted; as wide as the replica counts of Kubernetes."""

Generation = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A `metadata.generation`; bounded by the largest integer that every reader of JSON keeps exactly."""


class Key(NamedTuple):
    """The namespace and name of a namespaced object; sorts by namespace, then name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Model(BaseModel):
    """A frozen value whose Python names are snake_case and whose API names are camelCase."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )
