"""How one simulated engine behaves: start times, limits and service times, as JSON in an annotation."""

import json
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from modelfleet.simulate.calibration import Fraction, ServiceModel, Tokens, noise

PROFILE_ANNOTATION: Final = "sandbox.modelfleet.dev/engine"

Seconds = Annotated[float, Field(ge=0.0, le=7200.0)]


class ProfileError(ValueError):
    """The profile annotation is not a valid EngineProfile."""


class EngineProfile(ServiceModel):
    """Every knob of a simulated engine: how fast it is, its start and what else a pod shows."""

    image_pull_seconds: Seconds = 2.0
    """From scheduled to running."""
    model_load_seconds: Seconds = 5.0
    """From running to answering /health with 200."""
    start_jitter: Fraction = 0.0
    """Spread of the two times above: each pod draws a factor from [1 - jitter, 1 + jitter]."""
    max_model_tokens: Tokens = 131_072
    """Longest prompt plus output; longer requests are refused. Cut to the KV capacity."""
    kv_block_tokens: Annotated[int, Field(ge=1, le=1024)] = 16
    """Tokens in a KV block, for metrics that count blocks."""
    data_parallel: Annotated[int, Field(ge=1, le=16)] = 1
    """Engine ranks in one pod; each has its own batch, KV cache and series."""
    real: Literal["smollm2"] | None = None
    """Serve with a real llama.cpp process and this model instead of the simulation."""

    @property
    def longest_sequence_tokens(self) -> int:
        """Prompt plus output tokens that one request may reach."""
        return min(self.max_model_tokens, self.kv_cache_tokens)

    def pull_seconds(self, pod_name: str) -> float:
        """Seconds this pod's image takes to pull."""
        return self.image_pull_seconds * (1.0 + self.start_jitter * noise(self.seed, "pull", pod_name))

    def load_seconds(self, pod_name: str) -> float:
        """Seconds this pod's model takes to load."""
        return self.model_load_seconds * (1.0 + self.start_jitter * noise(self.seed, "load", pod_name))


def parse_profile(annotation: str | None) -> EngineProfile:
    """Return the profile an annotation holds, or the default one when there is none.

    Raises:
        ProfileError: If it is not JSON, names an unknown field, or a number is out of bounds.
    """
    if annotation is None or not annotation.strip():
        return EngineProfile()
    try:
        return EngineProfile.model_validate(json.loads(annotation))
    except json.JSONDecodeError as error:
        raise ProfileError(f"{PROFILE_ANNOTATION} is not JSON: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "profile"
        raise ProfileError(f"{PROFILE_ANNOTATION}: {where}: {first['msg']}") from error
