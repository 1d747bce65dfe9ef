"""Reads public request traces; the format is told by the header. A row that cannot be read is counted, and kept."""

import csv
import gzip
import heapq
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from modelfleet.simulate.arrivals import MAX_TOKENS, Arrival, Lengths, scaled

BAD_ROW_SAMPLES: Final = 3
FIRST_LINES: Final = 20
"""Among which there is one that tells the format of JSON."""
SERVEGEN_WINDOW_SECONDS: Final = 600.0


class UnknownFormat(ValueError):
    """The header, or the first line, is none that is known."""


@dataclass(frozen=True)
class Trace:
    """A trace that was read.

    Attributes:
        format: Its name.
        rows: Rows that were read well.
        bad_rows: Rows that were not.
        bad_samples: The first of those, with the reason, for people.
        draw: Makes the arrivals, in order of time, from lengths, a rate scale and a seed.
    """

    format: str
    rows: int
    bad_rows: int
    bad_samples: tuple[str, ...]
    draw: Callable[[Lengths, float, int], Iterator[Arrival]] = field(repr=False)

    def arrivals(self, *, lengths: Lengths, rate_scale: float, seed: int) -> Iterator[Arrival]:
        """Yield the arrivals, the first of a request trace at zero.

        Args:
            lengths: Of the requests where the trace does not tell them; its variation wherever it tells means only.
            rate_scale: Requests sent for each one in the trace, on average; above zero.
            seed: Of every random choice.
        """
        return self.draw(lengths, rate_scale, seed)


@dataclass(frozen=True)
class RateWindow:
    """A stretch of constant rate.

    Attributes:
        begins_seconds: Start.
        requests_per_second: Mean rate, 0 or more.
        distribution: Of the inter-arrival times: exponential, Gamma or Weibull.
        shape: Its shape parameter. The scale follows from the rate: ServeGen's own scale (p2) belongs to the
            busiest part of a window and would give up to hundreds of times the window's rate.
        lengths: Mean tokens, where the trace has them.
        seconds: How long it is.
    """

    begins_seconds: float
    requests_per_second: float
    distribution: str = "exponential"
    shape: float = 1.0
    lengths: tuple[float, float] | None = None
    seconds: float = SERVEGEN_WINDOW_SECONDS


def read_trace(path: Path) -> Trace:
    """Read a trace file, gzipped or not.

    Raises:
        OSError: If it cannot be read.
        UnknownFormat: If no format fits.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    # What is no UTF-8 spoils its row, not the file.
    return parse_trace(raw.decode("utf-8-sig", errors="replace"))


def parse_trace(text: str) -> Trace:
    """Parse a trace.

    Raises:
        UnknownFormat: If no format fits.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise UnknownFormat("it is empty")
    if any(line.lstrip().startswith("{") for _, line in lines[:FIRST_LINES]):
        return _parse_jsonl(lines)
    (_, first), *rows = lines
    header = [column.strip() for column in _cells(first)]
    columns = frozenset(header)
    for name, needed, parse in _REQUEST_FORMATS:
        if needed <= columns:
            return _request_trace(name, _csv_rows(header, rows), parse)
    for name, needed, window_of, key_column in _RATE_FORMATS:
        if needed <= columns:
            return _rate_trace(name, _csv_rows(header, rows), window_of, key_column)
    raise UnknownFormat(f"no known trace has the header {first[:120]!r}")


Row = Mapping[str, Any]
Lines = Sequence[tuple[int, str]]
"""Those of a file that are not blank, with their numbers."""


def _seconds(value: Any, *, unit_seconds: float = 1.0) -> float:
    seconds = _number(value) * unit_seconds
    if not math.isfinite(seconds):
        raise ValueError(f"time {value!r} is not finite")
    return seconds


def _tokens(value: Any, *, least: int) -> int:
    tokens = _number(value)
    if not tokens.is_integer() or not least <= tokens <= MAX_TOKENS:
        raise ValueError(f"{value} tokens, where {least} to {MAX_TOKENS:,} can be played")
    return int(tokens)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is no number") from error


def _azure(row: Row) -> Arrival:
    # Seven decimals, one more than datetime reads.
    stamp = datetime.fromisoformat(row["TIMESTAMP"].strip()[:26])
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    return Arrival(stamp.timestamp(), _tokens(row["ContextTokens"], least=1), _tokens(row["GeneratedTokens"], least=1))


def _aibrix(row: Row) -> Arrival:
    return Arrival(
        _seconds(row["t_ms"], unit_seconds=1e-3),
        _tokens(row["prompt_tokens"], least=1),
        _tokens(row["output_tokens"], least=1),
    )


def _burstgpt(row: Row) -> Arrival:
    if _number(row["Response tokens"]) == 0.0:
        raise ValueError("a failed request, with no response token")
    return Arrival(
        _seconds(row["Timestamp"]), _tokens(row["Request tokens"], least=1), _tokens(row["Response tokens"], least=1)
    )


def _plain(row: Row) -> Arrival:
    return Arrival(_seconds(row["t_s"]), _tokens(row["prompt_tokens"], least=1), _tokens(row["output_tokens"], least=1))


def _mooncake(row: Row) -> Arrival:
    return Arrival(
        _seconds(row["timestamp"], unit_seconds=1e-3),
        _tokens(row["input_length"], least=1),
        _tokens(row["output_length"], least=1),
    )


_REQUEST_FORMATS: Final[tuple[tuple[str, frozenset[str], Callable[[Row], Arrival]], ...]] = (
    ("azure", frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}), _azure),
    ("aibrix", frozenset({"t_ms", "prompt_tokens", "output_tokens"}), _aibrix),
    ("burstgpt", frozenset({"Timestamp", "Request tokens", "Response tokens"}), _burstgpt),
    ("plain", frozenset({"t_s", "prompt_tokens", "output_tokens"}), _plain),
)


_JSON_FORMATS: Final[tuple[tuple[str, frozenset[str], Callable[[Row], Arrival]], ...]] = (
    ("mooncake", frozenset({"timestamp", "input_length", "output_length"}), _mooncake),
    ("plain", frozenset({"t_s", "prompt_tokens", "output_tokens"}), _plain),
)


def _servegen_client(row: Row) -> RateWindow:
    distribution = row["dist"].strip().lower()
    if distribution not in ("gamma", "weibull"):
        raise ValueError(f"distribution {row['dist']!r}")
    shape = _number(row["p1"])
    # Below 0.006 a Weibull draw can exceed what a float holds.
    if not 0.006 <= shape <= 1e6:
        raise ValueError(f"shape {shape}")
    return RateWindow(_seconds(row["t_s"]), _rate(row["rate_rps"]), distribution, shape)


def _servegen_aggregate(row: Row) -> RateWindow:
    means = (row["mean_in_tok"], row["mean_out_tok"])
    # Idle windows have no lengths, and need none.
    lengths = (_mean_tokens(means[0]), _mean_tokens(means[1])) if all(means) else None
    return RateWindow(_seconds(row["t_s"]), _rate(row["rate_rps"]), lengths=lengths)


def _mean_tokens(value: Any) -> float:
    mean = _number(value)
    if not 1.0 <= mean <= MAX_TOKENS:
        raise ValueError(f"a mean of {value} tokens, where 1 to {MAX_TOKENS:,} can be played")
    return mean


def _rate(value: Any) -> float:
    rate = _number(value)
    if not 0.0 <= rate < 1e6:
        raise ValueError(f"rate {value!r}")
    return rate


_RATE_FORMATS: Final[tuple[tuple[str, frozenset[str], Callable[[Row], RateWindow], str], ...]] = (
    ("servegen-clients", frozenset({"client", "t_s", "rate_rps", "dist", "p1"}), _servegen_client, "client"),
    (
        "servegen-aggregate",
        frozenset({"t_s", "rate_rps", "mean_in_tok", "mean_out_tok"}),
        _servegen_aggregate,
        "",
    ),
)


@dataclass
class _BadRows:
    """Counts what could not be read."""

    count: int = 0
    samples: list[str] = field(default_factory=list)

    def add(self, line_number: int, error: Exception) -> None:
        self.count += 1
        if len(self.samples) < BAD_ROW_SAMPLES:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            self.samples.append(f"line {line_number}: {why}"[:160])


_ROW_ERRORS: Final = (ValueError, KeyError, TypeError, AttributeError, OverflowError, csv.Error)


def _cells(line: str) -> list[str]:
    # A row is a line: a quote that is never closed spoils its own and no other.
    return next(csv.reader([line], strict=True)) if '"' in line else line.split(",")


def _csv_rows(header: Sequence[str], lines: Lines) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        yield number, _LazyRow(line, lambda line: dict(zip(header, _cells(line), strict=False)))


def _parse_jsonl(lines: Lines) -> Trace:
    def rows() -> Iterator[tuple[int, Row]]:
        for number, line in lines:
            yield number, _LazyRow(line, _fields)

    found: list[str] = []
    for _, line in lines[:FIRST_LINES]:
        with suppress(ValueError):
            fields = _fields(line)
            found = found or sorted(fields)
            for name, needed, parse in _JSON_FORMATS:
                if needed <= fields.keys():
                    return _request_trace(name, rows(), parse)
    raise UnknownFormat(f"no known trace has the fields {found}")


def _fields(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except RecursionError as error:
        raise ValueError("JSON too deep") from error
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


class _LazyRow(dict[str, Any]):
    """A line, read at its first use so that a bad one fails inside the row's own try."""

    def __init__(self, line: str, read: Callable[[str], dict[str, Any]]) -> None:
        super().__init__()
        self._line = line
        self._read = read

    def __missing__(self, key: str) -> Any:
        fields = self._read(self._line)
        self.update(fields)
        if key not in fields:
            raise KeyError(key)
        return fields[key]


def _request_trace(name: str, rows: Iterator[tuple[int, Row]], parse: Callable[[Row], Arrival]) -> Trace:
    bad = _BadRows()
    arrivals = []
    for number, row in rows:
        try:
            arrivals.append(parse(row))
        except _ROW_ERRORS as error:
            bad.add(number, error)
    # Sorted by time alone, so that requests of the same instant keep the file's order.
    arrivals.sort(key=lambda arrival: arrival.at_seconds)
    begins = arrivals[0].at_seconds if arrivals else 0.0

    def draw(lengths: Lengths, rate_scale: float, seed: int) -> Iterator[Arrival]:
        from_zero = (Arrival(a.at_seconds - begins, a.prompt_tokens, a.output_tokens) for a in arrivals)
        return scaled(from_zero, rate_scale=rate_scale, seed=seed)

    return Trace(name, len(arrivals), bad.count, tuple(bad.samples), draw)


def _rate_trace(
    name: str, rows: Iterator[tuple[int, Row]], window_of: Callable[[Row], RateWindow], key_column: str
) -> Trace:
    bad = _BadRows()
    by_client: dict[str, list[RateWindow]] = {}
    count = 0
    for number, row in rows:
        try:
            by_client.setdefault(str(row[key_column]) if key_column else "", []).append(window_of(row))
            count += 1
        except _ROW_ERRORS as error:
            bad.add(number, error)
    for windows in by_client.values():
        windows.sort(key=lambda window: window.begins_seconds)
    return Trace(name, count, bad.count, tuple(bad.samples), drawing(name, by_client))


def drawing(
    name: str, by_client: Mapping[str, Sequence[RateWindow]]
) -> Callable[[Lengths, float, int], Iterator[Arrival]]:
    """Return what draws a trace's arrivals from the windows of its clients.

    Args:
        name: Of the trace: another one draws other arrivals.
        by_client: Windows in order of time; those of one client do not overlap.
    """

    def draw(lengths: Lengths, rate_scale: float, seed: int) -> Iterator[Arrival]:
        return heapq.merge(
            *(
                _window_arrivals(windows, lengths, rate_scale, random.Random(f"{name}/{seed}/{client}"))
                for client, windows in sorted(by_client.items())
            )
        )

    return draw


def _window_arrivals(
    windows: Sequence[RateWindow], lengths: Lengths, rate_scale: float, dice: random.Random
) -> Iterator[Arrival]:
    for window in windows:
        of_window = lengths
        if window.lengths is not None:
            of_window = Lengths(*window.lengths, variation=lengths.variation)
        expected = window.requests_per_second * rate_scale * window.seconds
        count = int(expected) + (dice.random() < expected - int(expected))
        for at_seconds in _times(window, count, dice):
            yield Arrival(window.begins_seconds + at_seconds, *of_window.draw(dice))


def _times(window: RateWindow, count: int, dice: random.Random) -> Iterator[float]:
    """Yield when, after the window's begin, its requests come.

    The gaps are drawn and then stretched to fill the window, so that its rate is exact. Drawing until the window
    is full would never end: a Weibull of shape 0.01, which the set has, reaches its mean only after e^100 draws.
    """
    draw = _GAPS[window.distribution]
    gaps = [draw(dice, window.shape) for _ in range(count + 1)]
    whole = sum(gaps)
    if not 0.0 < whole < math.inf:
        gaps, whole = [1.0] * (count + 1), count + 1.0
    for passed in itertools.islice(itertools.accumulate(gaps), count):
        yield passed / whole * window.seconds


_GAPS: Final[Mapping[str, Callable[[random.Random, float], float]]] = MappingProxyType(
    {
        "gamma": lambda dice, shape: dice.gammavariate(shape, 1.0),
        "weibull": lambda dice, shape: dice.weibullvariate(1.0, shape),
        "exponential": lambda dice, shape: dice.expovariate(1.0),
    }
)
