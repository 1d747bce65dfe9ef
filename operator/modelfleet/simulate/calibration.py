"""How fast one replica is: service times and limits of an engine with a model on a GPU, and where they come from."""

import json
import zlib
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

Milliseconds = Annotated[float, Field(ge=0.0, le=60_000.0)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

DEFAULT_CALIBRATION: Final = "llama-3.1-8b-h100"


class CalibrationError(ValueError):
    """A calibration is neither a known name nor a file that holds one."""


class Calibration(BaseModel):
    """Service times and KV capacity measured on one model and GPU, and where they come from."""

    model_config = ConfigDict(frozen=True)

    prefill_base_ms: float
    prefill_ms_per_token: float
    decode_base_ms: float
    decode_ms_per_sequence: float
    decode_ms_per_kv_token: float
    kv_cache_tokens: int
    gpus: int = 1
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
            gpus=8,
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


class ServiceModel(BaseModel):
    """The limits and service times of one engine. Fields left out come from the calibration named."""

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
    max_running: Annotated[int, Field(ge=1, le=4096)] = 256
    """Sequences in one batch, per data-parallel rank (vLLM's max_num_seqs)."""
    max_batched_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 8192
    """Prompt tokens prefilled in one step, unless a single prompt is longer."""
    kv_cache_tokens: Tokens = 400_000
    """Tokens the KV cache holds, per rank."""
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
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Seeds every jitter."""

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
            if field in cls.model_fields and field not in filled and to_camel(field) not in filled:
                filled[field] = value
        return filled

    @model_validator(mode="after")
    def _one_step_takes_time(self) -> Self:
        # A step of zero length would never end.
        if self.decode_base_ms < 0.1:
            raise ValueError("decodeBaseMs must be at least 0.1")
        return self


class ReplicaModel(ServiceModel):
    """A service model and what it costs."""

    gpus: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    """GPUs that one replica holds."""


def load_replica_model(name_or_path: str) -> ReplicaModel:
    """Return a calibration by its name, or from a JSON or YAML file of ReplicaModel's fields.

    Raises:
        CalibrationError: If it is neither, or a field is unknown or out of bounds.
    """
    if name_or_path in CALIBRATIONS:
        return ReplicaModel.model_validate({"calibration": name_or_path})
    path = Path(name_or_path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(CALIBRATIONS)
        raise CalibrationError(f"{name_or_path!r} is no calibration ({known}) and no readable file: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: neither JSON nor YAML: {error}") from error
    if not isinstance(values, dict):
        raise CalibrationError(f"{path}: expected a mapping of fields, found {json.dumps(values)[:80]}")
    try:
        return ReplicaModel.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise CalibrationError(f"{path}: {where}{first['msg'].removeprefix('Value error, ')}") from error


def noise(seed: int, *parts: str | int) -> float:
    """Return a number in [-1, 1] that depends on its arguments alone."""
    digest = zlib.crc32("/".join(str(part) for part in (seed, *parts)).encode())
    return 2.0 * digest / 0xFFFFFFFF - 1.0
