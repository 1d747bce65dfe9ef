"""What `modelfleet simulate` plays: a trace, a shape or a past, cut and checked, and what was left out of it."""

import csv
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfleet.cli.bad_input import BadInput
from modelfleet.cli.simulate_past import Past
from modelfleet.simulate.arrivals import Arrival, Lengths, Replay, replayed
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.shapes import Shape, shape_arrivals
from modelfleet.simulate.traces import Trace, UnknownFormat, read_trace

MAX_REQUESTS: Final = 2_000_000
"""About 300 MB of arrivals in each process."""
MAX_SECONDS: Final = 32 * 86_400.0
"""A month, in which `decide` is called 2.7 million times: minutes. One wrong time would make it years."""
KNOWN_TRACES: Final = "Azure, AIBrix, BurstGPT, Mooncake, ServeGen, or t_s,prompt_tokens,output_tokens as CSV or JSONL"


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A shape, as it was asked for.

    Attributes:
        name: Of the shape; it may be none.
        requests_per_second: At its highest.
        duration_seconds: How long.
        phase: Part of it at which it begins.
    """

    name: str
    requests_per_second: float
    duration_seconds: float
    phase: float = 0.0


Source = Path | Synthetic | Past
"""A trace file, a shape, or what a Prometheus recorded."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options ask for.

    Attributes:
        source: Where the requests come from.
        lengths: Where the source does not tell them.
        rate_scale: Requests played for each one of the load.
        limit_seconds: Cut after this long; None keeps all.
        seed: Of every random draw; of the first where the load is drawn several times.
    """

    source: Source
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
        rejected: Requests that no replica has room for, left out of the arrivals.
    """

    title: str
    arrivals: tuple[Arrival, ...]
    rejected: int = 0


def only_source(*, trace: Path | None, shape: Synthetic | None, past: Past | None) -> Source:
    """Return the one source that was given.

    Raises:
        BadInput: If there is none, or more than one.
    """
    options: dict[str, Source | None] = {"--trace": trace, "--shape": shape, "--prometheus": past}
    given = {option: source for option, source in options.items() if source is not None}
    if not given:
        raise BadInput(
            "--trace", f"nothing to play; give a trace, a --prometheus, or one of --shape {', '.join(Shape)}"
        )
    first, *others = given
    if others:
        raise BadInput(others[0], f"there is a {first} already; drop one of them")
    return given[first]


def read_load(asked: Asked, model: ReplicaModel, *, warn: Callable[[str], None], at: str = "") -> Load:
    """Read or draw the requests, and leave out those that a replica can never take.

    Args:
        asked: The options.
        model: What a replica takes.
        warn: Told, in whole lines, about everything that is left out.
        at: Where the load is described, if not by the options: a refusal begins with it.

    Raises:
        BadInput: If the source cannot be read, or nothing of it is left to play.
    """
    if at:
        try:
            return read_load(asked, model, warn=lambda line: warn(f"{at}: {line}"))
        except BadInput as error:
            raise BadInput(at, str(error).removeprefix("--")) from error
    return next(read_loads(asked, model, seeds=1, warn=warn))


def read_loads(asked: Asked, model: ReplicaModel, *, seeds: int, warn: Callable[[str], None]) -> Iterator[Load]:
    """Read the requests once, as read_load does, and yield what is drawn of them with one seed after the other."""
    title, draw = _drawn(asked, warn)
    if asked.rate_scale != 1.0:
        title += f" × {asked.rate_scale:g}"
    for more in range(seeds):
        # What is left out hardly differs between draws.
        yield _load(title, draw(asked.seed + more), asked, model, _unsaid if more else warn)


def _unsaid(line: str) -> None:
    pass


def _load(
    title: str, source: Iterable[Arrival], asked: Asked, model: ReplicaModel, warn: Callable[[str], None]
) -> Load:
    if asked.limit_seconds is not None:
        source = replayed(source, Replay(max_seconds=asked.limit_seconds))
    arrivals = tuple(itertools.islice(source, MAX_REQUESTS + 1))
    if len(arrivals) > MAX_REQUESTS:
        raise BadInput(
            "--time-limit-seconds", f"the load has more than {MAX_REQUESTS:,} requests; cut it, or lower --rate-scale"
        )
    if not arrivals:
        raise BadInput(_shortener(asked), "no request is left of the load; raise it")
    seconds = arrivals[-1].at_seconds
    if seconds > MAX_SECONDS:
        raise BadInput(
            "--time-limit-seconds",
            f"the load lasts {seconds / 86_400.0:,.0f} days, and {MAX_SECONDS / 86_400.0:.0f} can be played; "
            "cut it, or mend times that are wrong or in another unit",
        )
    if seconds <= 0.0:
        raise BadInput(_shortener(asked), "all requests of the load come at one moment; give it more, at other times")
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
    return Load(title, taken, rejected=len(arrivals) - len(taken))


def _drawn(asked: Asked, warn: Callable[[str], None]) -> tuple[str, Callable[[int], Iterable[Arrival]]]:
    """Return the source's title, and what draws its requests from a seed, in order of time."""
    match asked.source:
        case Synthetic(name, requests_per_second, duration_seconds, phase):
            if name not in tuple(Shape):
                raise BadInput("--shape", f"{name!r} is no shape; known: {', '.join(Shape)}")
            return f"{name}, up to {requests_per_second:g} requests/s", lambda seed: shape_arrivals(
                Shape(name),
                requests_per_second=requests_per_second * asked.rate_scale,
                duration_seconds=duration_seconds,
                lengths=asked.lengths,
                seed=seed,
                phase=phase,
            )
        case Past() as past:
            title, trace = past.title, past.trace(warn)
        case path:
            title, trace = path.name, _read(path, warn)
            if not trace.rows:
                raise BadInput("--trace", f"{path} holds no request; give one that does")
    return f"{title} ({trace.format})", lambda seed: trace.arrivals(
        lengths=asked.lengths, rate_scale=asked.rate_scale, seed=seed
    )


def _shortener(asked: Asked) -> str:
    """Return the option that may have left no request."""
    if asked.limit_seconds is not None:
        return "--time-limit-seconds"
    return "--since" if isinstance(asked.source, Past) and asked.rate_scale >= 1.0 else "--rate-scale"


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
        warn(f"{trace.bad_rows:,} of {trace.bad_rows + trace.rows:,} rows of {path} are left out:")
        for sample in trace.bad_samples:
            warn(f"  {sample}")
    return trace
