"""InferenceRuntime: how one inference engine is run, as administrators curate it."""

import re
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from modelfleet.api.engine import Engine
from modelfleet.api.meta import Model

Argument = Annotated[str, StringConstraints(min_length=1, max_length=512)]
HttpPath = Annotated[str, StringConstraints(max_length=128, pattern=r"^/[A-Za-z0-9/_.-]*$")]
# Neither the root nor a way up: the claim would hide the image's own files.
MountPath = Annotated[str, StringConstraints(max_length=128, pattern=r"^(/\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*)+$")]
Quantity = Annotated[str, StringConstraints(max_length=16, pattern=r"^[1-9][0-9]{0,8}(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")]
EnvName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Image = Annotated[
    str,
    StringConstraints(
        max_length=384,
        pattern=r"^[a-z0-9][A-Za-z0-9._/-]*(:[0-9]+/[A-Za-z0-9._/-]+)?(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[a-f0-9]{64})$",
    ),
]

PLACEHOLDERS = frozenset({"model", "revision", "gpus", "port", "drainSeconds"})
PLACEHOLDER = re.compile(r"\{(?P<name>[A-Za-z]+)\}")


class EnvVar(Model):
    """A literal environment variable of the engine."""

    name: EnvName
    """Name of the variable."""
    value: Annotated[str, StringConstraints(max_length=1024)] = ""
    """Its value. Secrets do not belong here: use spec.model.tokenSecretName of the ModelDeployment."""


class RuntimeResources(Model):
    """What one replica requests besides GPUs."""

    cpu: Quantity = "4"
    """CPU request."""
    memory: Quantity = "16Gi"
    """Memory request and limit."""
    shared_memory: Quantity = "8Gi"
    """Size limit of /dev/shm; tensor-parallel workers talk through it."""


class Capacity(Model):
    """What one replica is believed to sustain before any was measured."""

    output_tokens_per_second_per_gpu: Annotated[int, Field(ge=1, le=1_000_000)]
    """Prior for generated tokens per second and GPU; the first saturated minutes replace it."""


class InferenceRuntimeSpec(Model):
    """The closed template from which the operator renders a replica."""

    engine: Engine
    """Dialect of the server: metric names, port, paths, drain flag."""
    image: Image
    """Container image with a digest (registry/name@sha256:...) or a release tag. Pin a digest in production:
    a tag can change under running replicas. The tag `latest` is refused."""
    command: Annotated[tuple[Argument, ...], Field(max_length=16)] = ()
    """Entry point; the image's own when empty."""
    args: Annotated[tuple[Argument, ...], Field(max_length=64)] = ()
    """Arguments. {model}, {revision}, {gpus}, {port} and {drainSeconds} are replaced."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64)] = ()
    """Literal environment variables; {model}, {revision}, {gpus}, {port} and {drainSeconds} are replaced."""
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """HTTP port; the engine's usual one when absent. Above 1023, as replicas run without root."""
    metrics_path: HttpPath | None = None
    """Path of the Prometheus metrics; the engine's usual one when absent."""
    health_path: HttpPath | None = None
    """Path that answers 200 once the model is loaded; the engine's usual one when absent."""
    cache_mount_path: MountPath = "/models"
    """Where a model cache claim is mounted. Not /dev/shm, which is taken."""
    resources: RuntimeResources = RuntimeResources()
    """What one replica requests besides GPUs."""
    capacity: Capacity | None = None
    """Prior for what one replica sustains."""

    @model_validator(mode="after")
    def _image_is_pinned(self) -> Self:
        if self.image.endswith(":latest"):
            raise ValueError("image must not use the tag latest")
        return self

    @model_validator(mode="after")
    def _shared_memory_keeps_its_path(self) -> Self:
        if self.cache_mount_path == "/dev/shm":  # noqa: S108 - a path in the replica, not here
            raise ValueError("cacheMountPath must not be /dev/shm")
        return self

    @model_validator(mode="after")
    def _placeholders_are_known(self) -> Self:
        for text in (*self.command, *self.args, *(variable.value for variable in self.env)):
            for name in PLACEHOLDER.findall(text):
                if name not in PLACEHOLDERS:
                    raise ValueError(f"{{{name}}} in {text!r} is no placeholder; known are {sorted(PLACEHOLDERS)}")
        return self
