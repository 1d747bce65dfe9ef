"""What `modelfleet simulate` plays: a trace or a shape, cut and checked, and what was left out of it."""

import csv
import itertools
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfleet.simulate.arrivals import Arrival, Lengths, Replay, replayed
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.shapes import Shape, shape_arrivals
from modelfleet.simulate.traces import Trace, UnknownFormat, read_trace

MAX_REQUESTS: Final = 2_000_000
"""About 300 MB of arrivals in each process."""
KNOWN_TRACES: Final = "Azure, AIBrix, BurstGPT, Mooncake, ServeGen, or t_s,prompt_tokens,output_tokens as CSV or JSONL"


class BadInput(ValueError):
    """An option cannot be used; the text names it and says what to do, in one line."""

    def __init__(self, option: str, text: object) -> None:
        """Say what is wrong with an option."""
        super().__init__(f"{option}: {' '.join(str(text).split())}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options ask for.

    Attributes:
        trace: A file; None for a shape.
        shape: Name of a shape; None for a trace.
        requests_per_second: At the shape's highest.
        duration_seconds: Of the shape.
        lengths: Where the trace does not tell them.
        rate_scale: Requests played for each one of the load.
        limit_seconds: Cut after this long; None keeps all.
        seed: Of every random draw.
    """

    trace: Path | None
    shape: str | None
    requests_per_second: float
    duration_seconds: float
    lengths: Lengths
    rate_scale: float
    limit_seconds: float | None
    seed: int


@dataclass(frozen=True, slots=True)
class Load:
    """What is played.

    Attributes:
        title: Names it for people.
        arrivals: In order of time; at least one.
    """

    title: str
    arrivals: tuple[Arrival, ...]


def read_load(asked: Asked, model: ReplicaModel, *, warn: Callable[[str], None]) -> Load:
    """Read or draw the requests, and leave out those that a replica can never take.

    Args:
        asked: The options.
        model: What a replica takes.
        warn: Told, in whole lines, about everything that is left out.

    Raises:
        BadInput: If the options contradict each other, or nothing is left to play.
    """
    if asked.trace is not None and asked.shape is not None:
        raise BadInput("--shape", "there is a --trace already; drop one of them")
    if asked.trace is not None:
        trace = _read(asked.trace, warn)
        if not trace.rows:
            raise BadInput("--trace", f"{asked.trace} holds no request; give one that does")
        title = f"{asked.trace.name} ({trace.format})"
        source: Iterable[Arrival] = trace.arrivals(lengths=asked.lengths, rate_scale=asked.rate_scale, seed=asked.seed)
    elif asked.shape is not None:
        if asked.shape not in tuple(Shape):
            raise BadInput("--shape", f"{asked.shape!r} is no shape; known: {', '.join(Shape)}")
        title = f"{asked.shape}, {asked.requests_per_second:g} requests/s"
        source = shape_arrivals(
            Shape(asked.shape),
            requests_per_second=asked.requests_per_second * asked.rate_scale,
            duration_seconds=asked.duration_seconds,
            lengths=asked.lengths,
            seed=asked.seed,
        )
    else:
        raise BadInput("--trace", f"nothing to play; give a trace, or one of --shape {', '.join(Shape)}")
    if asked.rate_scale != 1.0:
        title += f" × {asked.rate_scale:g}"
    if asked.limit_seconds is not None:
        source = replayed(source, Replay(max_seconds=asked.limit_seconds))
    arrivals = tuple(itertools.islice(source, MAX_REQUESTS + 1))
    if len(arrivals) > MAX_REQUESTS:
        raise BadInput(
            "--time-limit-seconds", f"the load has more than {MAX_REQUESTS:,} requests; cut it, or lower --rate-scale"
        )
    if not arrivals:
        raise BadInput(
            "--time-limit-seconds" if asked.limit_seconds is not None else "--rate-scale",
            "no request is left of the load; raise it",
        )
    room = model.kv_cache_tokens
    taken = tuple(each for each in arrivals if each.prompt_tokens + each.output_tokens <= room)
    if not taken:
        raise BadInput(
            "--calibration", f"every request is longer than its KV cache of {room:,} tokens; take a larger one"
        )
    if len(taken) < len(arrivals):
        warn(
            f"{len(arrivals) - len(taken):,} of {len(arrivals):,} requests are longer than the KV cache of {room:,} "
            "tokens: rejected, and in no figure"
        )
    return Load(title, taken)


def _read(path: Path, warn: Callable[[str], None]) -> Trace:
    try:
        trace = read_trace(path)
    except UnknownFormat as error:
        raise BadInput("--trace", f"{path}: {error}; known are {KNOWN_TRACES}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput("--trace", f"cannot read {path}: {error}; give a readable file") from error
    except (ValueError, csv.Error) as error:
        raise BadInput("--trace", f"{path} is no trace: {error}; known are {KNOWN_TRACES}") from error
    if trace.bad_rows:
        warn(f"{trace.bad_rows:,} of {trace.bad_rows + trace.rows:,} rows of {path} cannot be read, and are left out:")
        for sample in trace.bad_samples:
            warn(f"  {sample}")
    return trace
