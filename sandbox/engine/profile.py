"""How one simulated engine behaves: start times, limits and service times, as JSON in an annotation."""

import json
import zlib
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

PROFILE_ANNOTATION: Final = "sandbox.modelfleet.dev/engine"

Seconds = Annotated[float, Field(ge=0.0, le=7200.0)]
Milliseconds = Annotated[float, Field(ge=0.0, le=60_000.0)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

DEFAULT_CALIBRATION: Final = "llama-3.1-8b-h100"


class ProfileError(ValueError):
    """The profile annotation is not a valid EngineProfile."""


class Calibration(BaseModel):
    """Service times and KV capacity measured on one model and GPU, and where they come from."""

    model_config = ConfigDict(frozen=True)

    prefill_base_ms: float
    prefill_ms_per_token: float
    decode_base_ms: float
    decode_ms_per_sequence: float
    decode_ms_per_kv_token: float
    kv_cache_tokens: int
    source: str


CALIBRATIONS: Final = MappingProxyType(
    {
        "llama-3.1-8b-h100": Calibration(
            prefill_base_ms=2.9,
            prefill_ms_per_token=0.0204,
            decode_base_ms=7.69,
            decode_ms_per_sequence=0.0044,
            decode_ms_per_kv_token=7.6e-5,
            kv_cache_tokens=400_000,
            source=(
                "decode: BLIS coefficients, Llama-3.1-8B H100 TP1; prefill: Vidur fit of Llama-2-7B H100 TP1, "
                "because BLIS's own prefill beats the GPU's peak FLOPs; KV: 128 KiB a token in what 80 GB leaves"
            ),
        ),
        "llama-2-70b-h100-tp8": Calibration(
            # splitwise-sim's table (54 ms at 512, 133 at 2,048, 372 at 4,096, 812 at 8,192), least squares with
            # the intercept held at 0: a negative one would make short prompts free.
            prefill_base_ms=0.0,
            prefill_ms_per_token=0.096,
            decode_base_ms=29.6,
            decode_ms_per_sequence=0.188,
            decode_ms_per_kv_token=2.18e-4,
            kv_cache_tokens=840_000,
            source="splitwise-sim, Llama-2-70B H100 TP8, R2 .984 for decode; KV: 320 KiB a token, twice 420 k on 4",
        ),
        "llama-3-8b-a100": Calibration(
            prefill_base_ms=6.5,
            prefill_ms_per_token=0.0671,
            decode_base_ms=11.9,
            decode_ms_per_sequence=0.0044,
            decode_ms_per_kv_token=1.25e-4,
            kv_cache_tokens=400_000,
            source="prefill: Vidur fit of Llama-3-8B A100 TP1, R2 .997; decode: BLIS, the same model and GPU",
        ),
    }
)
"""Step time = prefill base + per token, plus decode base + per sequence + per KV token held; milliseconds."""

CalibrationName = Literal["llama-3.1-8b-h100", "llama-2-70b-h100-tp8", "llama-3-8b-a100"]


class EngineProfile(BaseModel):
    """Every knob of a simulated engine. Fields left out come from the calibration named."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    calibration: CalibrationName = DEFAULT_CALIBRATION
    """Where unset service times and the KV capacity come from."""
    image_pull_seconds: Seconds = 2.0
    """From scheduled to running."""
    model_load_seconds: Seconds = 5.0
    """From running to answering /health with 200."""
    start_jitter: Fraction = 0.0
    """Spread of the two times above: each pod draws a factor from [1 - jitter, 1 + jitter]."""
    max_running: Annotated[int, Field(ge=1, le=4096)] = 256
    """Sequences in one batch, per data-parallel rank (vLLM's max_num_seqs)."""
    max_batched_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 8192
    """Prompt tokens prefilled in one step, unless a single prompt is longer."""
    max_model_tokens: Tokens = 131_072
    """Longest prompt plus output; longer requests are refused. Cut to the KV capacity."""
    kv_cache_tokens: Tokens = 400_000
    """Tokens the KV cache holds, per rank."""
    kv_block_tokens: Annotated[int, Field(ge=1, le=1024)] = 16
    """Tokens in a KV block, for metrics that count blocks."""
    prefill_base_ms: Milliseconds = 0.0
    """Added to a step that prefills anything."""
    prefill_ms_per_token: Milliseconds = 0.0
    """Per prompt token that is not in the prefix cache."""
    decode_base_ms: Milliseconds = 0.0
    """Added to every step."""
    decode_ms_per_sequence: Milliseconds = 0.0
    """Per sequence in the batch."""
    decode_ms_per_kv_token: Milliseconds = 0.0
    """Per KV token held by the batch."""
    service_jitter: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Spread of one step's time: a factor from [1 - jitter, 1 + jitter]."""
    cached_prompt_fraction: Fraction = 0.0
    """Part of each prompt found in the prefix cache: it costs no prefill time."""
    data_parallel: Annotated[int, Field(ge=1, le=16)] = 1
    """Engine ranks in one pod; each has its own batch, KV cache and series."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Seeds every jitter."""
    real: Literal["smollm2"] | None = None
    """Serve with a real llama.cpp process and this model instead of the simulation."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_calibration(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        calibration = CALIBRATIONS.get(str(values.get("calibration", DEFAULT_CALIBRATION)))
        if calibration is None:
            return values
        filled = dict(values)
        for field, value in calibration.model_dump(exclude={"source"}).items():
            if field not in filled and to_camel(field) not in filled:
                filled[field] = value
        return filled

    @model_validator(mode="after")
    def _one_step_takes_time(self) -> Self:
        # A step of zero length would spin the event loop of every engine in the process.
        if self.decode_base_ms < 0.1:
            raise ValueError("decodeBaseMs must be at least 0.1")
        return self

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


def noise(seed: int, *parts: str | int) -> float:
    """Return a number in [-1, 1] that depends on its arguments alone."""
    digest = zlib.crc32("/".join(str(part) for part in (seed, *parts)).encode())
    return 2.0 * digest / 0xFFFFFFFF - 1.0
