"""What can be wrong with an engine, switched while it runs by an annotation.

Every fault has one place: `step_factor` and `stalls` change the engine's speed, `answers` replaces whole
responses, `distorted` rewrites the metrics page; the two faults with memory (stale, counter-reset) act once,
when `server.PodEngine.set_fault` turns them on.
"""

import json
import re
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

FAULT_ANNOTATION: Final = "sandbox.modelfleet.dev/fault"


class FaultError(ValueError):
    """The fault annotation does not name a fault."""


class FaultKind(StrEnum):
    """Every fault, by the word that turns it on."""

    SLOW = "slow"
    """Steps take `factor` times as long."""
    HANG = "hang"
    """The engine stops stepping: requests are accepted and queue, tokens stop, metrics stand still."""
    NEVER_READY = "never-ready"
    """/health answers 503 for ever; everything else works."""
    HTTP500 = "http500"
    """Answers 500."""
    SILENT = "silent"
    """Accepts the connection and the request, and never answers."""
    REDIRECT = "redirect"
    """Answers 302 to `location`."""
    INFINITE = "infinite"
    """Answers 200 with a body that never ends."""
    GARBAGE = "garbage"
    """Answers metrics 200 with bytes that are no exposition."""
    NAN = "nan"
    """Every sample is NaN."""
    NEGATIVE = "negative"
    """Every sample is negative."""
    HUGE = "huge"
    """Every sample is 1e308: two of them add up to infinity."""
    STALE = "stale"
    """The metrics page stands still at what it was when the fault came."""
    COUNTER_RESET = "counter-reset"
    """Counters start again from zero, as after a restart that the pod does not show."""


class Fault(BaseModel):
    """One fault and its numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )

    kind: FaultKind
    scope: Literal["metrics", "api", "health", "all"] = "metrics"
    """Which paths http500, silent, redirect and infinite take over."""
    factor: Annotated[float, Field(ge=1.0, le=1000.0)] = 5.0
    """For slow."""
    location: Annotated[str, Field(max_length=2048)] = "http://127.0.0.1:9/metrics"
    """For redirect: an absolute URL. The default is the discard port, so whoever follows it is found out."""


def parse_fault(annotation: str | None) -> Fault | None:
    """Return the fault an annotation names: a bare word, or JSON with `kind`. Empty means none.

    Raises:
        FaultError: If it is neither.
    """
    text = (annotation or "").strip()
    if not text:
        return None
    try:
        return Fault.model_validate(json.loads(text) if text.startswith("{") else {"kind": text})
    except (json.JSONDecodeError, ValidationError) as error:
        raise FaultError(f"{FAULT_ANNOTATION}: {text[:80]!r} is not a fault") from error


def step_factor(fault: Fault | None) -> float:
    """What one step's time is multiplied by."""
    return fault.factor if fault is not None and fault.kind is FaultKind.SLOW else 1.0


def stalls(fault: Fault | None) -> bool:
    """Whether the engine makes no step at all."""
    return fault is not None and fault.kind is FaultKind.HANG


_TAKES_OVER: Final = (FaultKind.HTTP500, FaultKind.SILENT, FaultKind.REDIRECT, FaultKind.INFINITE)


def answers(fault: Fault | None, area: Literal["metrics", "api", "health"]) -> FaultKind | None:
    """Return the fault that answers a request in this area instead of the engine, if any."""
    if fault is None:
        return None
    if fault.kind is FaultKind.NEVER_READY:
        return FaultKind.NEVER_READY if area == "health" else None
    if fault.kind is FaultKind.GARBAGE:
        return FaultKind.GARBAGE if area == "metrics" else None
    return fault.kind if fault.kind in _TAKES_OVER and fault.scope in (area, "all") else None


GARBAGE_BODY: Final = b"\x00\xff<html>\nvllm:num_requests_running{{ 1 2 3\n\xc3\x28 = {\n" * 8
INFINITE_CHUNK: Final = b'vllm:num_requests_waiting{model_name="endless"} 1.0\n' * 1260
"""64 KiB, so that a reader without a limit fills its memory quickly."""

_SAMPLE_VALUE: Final = re.compile(r"^([^#\n].* )(\S+)$", re.MULTILINE)


def distorted(fault: Fault | None, exposition: str) -> str:
    """Return the metrics page as the fault leaves it."""
    if fault is None:
        return exposition
    if fault.kind is FaultKind.NAN:
        return _SAMPLE_VALUE.sub(r"\1NaN", exposition)
    if fault.kind is FaultKind.NEGATIVE:
        # -1 - x, so that a zero turns negative as well.
        return _SAMPLE_VALUE.sub(lambda m: f"{m[1]}{-1.0 - float(m[2])}", exposition)
    if fault.kind is FaultKind.HUGE:
        return _SAMPLE_VALUE.sub(r"\g<1>1e308", exposition)
    return exposition
