"""The service times of an engine from its own metrics: no benchmark, only what it did under its own load.

The mean step of an interval took

    decode base + per sequence * batch + per KV token * KV tokens + per prompt token * prompt tokens prefilled

milliseconds, with the means of the interval's steps on the right: a least-squares problem of four unknowns, none
of which can be negative. Steps are counted (vLLM) or the time divided by the mean gap between tokens. What a step
of prefill costs beyond its tokens is not seen apart, and ends in the times per prompt token and per sequence.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, pstdev
from typing import Final

from pydantic import ValidationError

from modelfleet.adapters.history import History, NoHistory, Series
from modelfleet.api.engine import Engine
from modelfleet.engines.dialects import DIALECTS
from modelfleet.engines.recordings import RECORDINGS, Recorded
from modelfleet.simulate.calibration import ReplicaModel

MIN_INTERVALS: Final = 20
MIN_INTERVAL_SECONDS: Final = 10.0
"""Shorter ones are joined: a step that is cut in two by a scrape must not weigh."""
MAX_SCRAPE_SECONDS: Final = 120.0
BUSY_FRACTION: Final = 0.97
"""Of an interval, by its steps and their length. The rest, taken for work, is an error of the decode base."""
BUSY_BATCH: Final = 4.0
"""Where steps are not counted: with as many requests at a time on average, it is idle 2 % of it (Poisson: e^-4)."""
MIN_BATCH_VARIATION: Final = 0.1
"""Coefficient of variation."""
LEAST_BASE_MS: Final = 0.1
"""As ServiceModel has it."""
UNKNOWNS: Final = ("decode_base_ms", "decode_ms_per_sequence", "decode_ms_per_kv_token", "prefill_ms_per_token")


class CannotFit(ValueError):
    """The intervals do not tell the service times; the text says what they lack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """What one engine did between two scrapes, with requests running at every scrape in it.

    Attributes:
        seconds: How long; of a pod with several data-parallel ranks, times their number.
        steps: Forward passes; None where the engine does not count them.
        inter_token_seconds: Mean gap between a request's tokens.
        generated_tokens: In all steps.
        prompt_tokens: Prefilled: those that the prefix cache held are left out.
        running_requests: Mean of the scrapes.
        kv_tokens: Held by the running requests, mean of the scrapes.
        kv_cache_tokens: What the cache holds, per rank.
    """

    seconds: float
    steps: float | None
    inter_token_seconds: float
    generated_tokens: float
    prompt_tokens: float
    running_requests: float
    kv_tokens: float
    kv_cache_tokens: int

    @property
    def all_steps(self) -> float:
        """Steps, counted or as many as fit."""
        return self.seconds / self.inter_token_seconds if self.steps is None else self.steps

    @property
    def batch(self) -> float:
        """Mean sequences in a step: each generates one token in it."""
        return self.generated_tokens / self.all_steps

    @property
    def busy(self) -> bool:
        """Whether a step was under way all along."""
        if self.steps is None:
            return self.batch >= BUSY_BATCH
        return self.steps * self.inter_token_seconds >= BUSY_FRACTION * self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Service times in milliseconds, and how far they can be trusted.

    Attributes:
        standard_errors: By the field's name; of the scatter alone. That a scrape sees the KV tokens of one moment is
            not in them: it moves time from the KV tokens to the sequences, by a third where batches are below 20.
        r_squared: Part of the mean steps' variance that the times explain.
        intervals: Busy ones, which were fitted.
        intervals_seen: All.
        kv_cache_tokens: Capacity of one rank.
    """

    decode_base_ms: float
    decode_ms_per_sequence: float
    decode_ms_per_kv_token: float
    prefill_ms_per_token: float
    standard_errors: Mapping[str, float]
    r_squared: float
    intervals: int
    intervals_seen: int
    kv_cache_tokens: int

    def step_ms(self, *, batch: float, kv_tokens: float, prompt_tokens: float) -> float:
        """Return how long a step takes: of this batch, holding and prefilling so many tokens."""
        return (
            self.decode_base_ms
            + self.decode_ms_per_sequence * batch
            + self.decode_ms_per_kv_token * kv_tokens
            + self.prefill_ms_per_token * prompt_tokens
        )

    def model(self, known: ReplicaModel) -> ReplicaModel:
        """Return the replica with these service times.

        Args:
            known: Where its limits and its GPUs come from: no metric tells them.

        Raises:
            CannotFit: If no replica can be like this.
        """
        fitted = {name: getattr(self, name) for name in UNKNOWNS}
        values = known.model_dump() | fitted | {"prefill_base_ms": 0.0, "kv_cache_tokens": self.kv_cache_tokens}
        try:
            return ReplicaModel.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise CannotFit(f"{'.'.join(map(str, first['loc']))} is {first['input']}: {first['msg']}") from error


def fit(intervals: Sequence[Interval]) -> Fit:
    """Return the service times under which the busy intervals took what they took.

    Args:
        intervals: Of pods with one engine, model and GPU.

    Raises:
        CannotFit: If too few were busy, or what they did was always the same.
    """
    busy = [interval for interval in intervals if interval.busy]
    if len(busy) < MIN_INTERVALS:
        raise CannotFit(
            f"{len(busy)} of {len(intervals)} intervals were busy all along, and {MIN_INTERVALS} are needed: "
            "look further back, or at a time of more load"
        )
    rows = [_row(interval) for interval in busy]
    batches = [interval.batch for interval in busy]
    if pstdev(batches) < MIN_BATCH_VARIATION * fmean(batches):
        raise CannotFit(
            f"the batch was {min(batches):.1f} to {max(batches):.1f} all along, so what a sequence adds cannot be "
            "told from what every step takes: look further back, or at a time of more and of less load"
        )
    for name, column in zip(UNKNOWNS, zip(*rows, strict=True), strict=True):
        if not any(column):
            raise CannotFit(f"{name} is not to be told: the intervals have none of what it is per")
    steps_ms = [1000.0 * interval.seconds / interval.all_steps for interval in busy]
    # Columns of like size: KV tokens are a thousand times as many as sequences.
    scales = [math.sqrt(sum(value * value for value in column)) for column in zip(*rows, strict=True)]
    scaled = [[value / scale for value, scale in zip(row, scales, strict=True)] for row in rows]
    times, residual = _least_squares(scaled, steps_ms)
    spread = residual / (len(rows) - len(UNKNOWNS))
    inverse = _solve(_products(scaled), [[float(i == j) for j in range(len(scales))] for i in range(len(scales))])
    if inverse is None:
        raise CannotFit("batch, KV tokens and prompt tokens rose and fell as one: look at a time of other requests")
    errors = {name: math.sqrt(spread * inverse[i][i]) / scales[i] for i, name in enumerate(UNKNOWNS)}
    mean = fmean(steps_ms)
    variance = sum((each - mean) ** 2 for each in steps_ms)
    base, per_sequence, per_kv_token, per_prompt_token = (t / s for t, s in zip(times, scales, strict=True))
    if base < LEAST_BASE_MS:
        raise CannotFit(
            f"steps would take {base:.2f} ms and what is in them, which no engine does: {len(busy)} intervals"
        )
    return Fit(
        decode_base_ms=base,
        decode_ms_per_sequence=per_sequence,
        decode_ms_per_kv_token=per_kv_token,
        prefill_ms_per_token=per_prompt_token,
        standard_errors=errors,
        r_squared=1.0 - residual / variance if variance else 1.0,
        intervals=len(busy),
        intervals_seen=len(intervals),
        kv_cache_tokens=min(interval.kv_cache_tokens for interval in busy),
    )


def _row(interval: Interval) -> list[float]:
    # The gauges' KV tokens a sequence times the exact batch: a scrape catches the batch at one moment, which says
    # little of the interval's mean, and an error here moves the blame from the KV tokens to the sequences.
    kv_tokens = interval.kv_tokens / interval.running_requests * interval.batch
    return [1.0, interval.batch, kv_tokens, interval.prompt_tokens / interval.all_steps]


def _least_squares(rows: Sequence[Sequence[float]], wanted: Sequence[float]) -> tuple[list[float], float]:
    """Return the non-negative unknowns of the smallest sum of squared residuals, and that sum.

    Of four unknowns there are 15 choices of those above zero. The best of the choices that need no negative one
    is the minimum, and no iteration has to converge.
    """
    products = _products(rows)
    right = [sum(row[i] * value for row, value in zip(rows, wanted, strict=True)) for i in range(len(products))]
    best = [0.0] * len(products), sum(value * value for value in wanted)
    for size in range(1, len(products) + 1):
        for chosen in combinations(range(len(products)), size):
            found = _solve([[products[i][j] for j in chosen] for i in chosen], [[right[i]] for i in chosen])
            if found is None or any(value[0] < 0.0 for value in found):
                continue
            unknowns = [0.0] * len(products)
            for i, value in zip(chosen, found, strict=True):
                unknowns[i] = value[0]
            residual = sum((value - _dot(row, unknowns)) ** 2 for row, value in zip(rows, wanted, strict=True))
            if residual < best[1]:
                best = unknowns, residual
    return best


def _products(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    columns = list(zip(*rows, strict=True))
    return [[_dot(one, other) for other in columns] for one in columns]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _solve(matrix: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> list[list[float]] | None:
    """Return the solution by Gauss and Jordan, or None if the matrix, of diagonal 1, is near singular."""
    size = len(matrix)
    rows = [[*left, *wanted] for left, wanted in zip(matrix, right, strict=True)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda row: abs(rows[row][i]))
        if abs(rows[pivot][i]) < 1e-9:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i:
                factor = rows[j][i]
                rows[j] = [value - factor * own for value, own in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]


def read_intervals(url: str, deployment: str, since_seconds: float, engine: Engine, now: float) -> list[Interval]:
    """Read what a deployment's engines did from a Prometheus, scrape by scrape.

    Args:
        url: Root URL of the server.
        deployment: "namespace/name".
        since_seconds: How far back.
        engine: vLLM or SGLang.
        now: Seconds since the epoch.

    Raises:
        HistoryError: BadDeployment, PrometheusUnavailable, or NoHistory where a metric is missing.
    """
    if engine not in RECORDINGS:
        raise NoHistory(f"service times can be fitted of {', '.join(RECORDINGS)}; {engine} does not record its steps")
    concepts = _concepts(engine)
    names = sorted({name for concept in concepts.values() for name in concept.names})
    history = History(url, deployment)
    series = history.samples(names, begins_at=now - since_seconds, ends_at=now)
    for concept in ("running", *_NEEDED):
        if not any(each.name in concepts[concept].names for each in series):
            raise NoHistory(f"Prometheus has no series {concepts[concept].names[0]} of {history.deployment}")
    return intervals_of(series, engine)


_NEEDED: Final = (
    "kv_cache_utilization",
    "kv_cache_tokens",
    "generated_tokens",
    "prompt_tokens",
    "inter_token_seconds",
    "inter_tokens",
)
_COUNTERS: Final = (
    "steps",
    "generated_tokens",
    "prompt_tokens",
    "cached_prompt_tokens",
    "inter_token_seconds",
    "inter_tokens",
)


def intervals_of(series: Iterable[Series], engine: Engine) -> list[Interval]:
    """Return the intervals between the scrapes of each pod.

    Args:
        series: Every sample of the engine's metrics.
        engine: Whose they are.
    """
    by_pod: defaultdict[str, list[Series]] = defaultdict(list)
    for each in series:
        by_pod[each.labels.get("pod", "")].append(each)
    found: list[Interval] = []
    for _, of_pod in sorted(by_pod.items()):
        values = {concept: _first(of_pod, names) for concept, names in _concepts(engine).items()}
        capacities = _capacities(values["kv_cache_tokens"])
        if capacities:
            found += _intervals(values, capacities)
    return found


def _concepts(engine: Engine) -> dict[str, Recorded]:
    dialect, recording = DIALECTS[engine], RECORDINGS[engine]
    return {
        "running": Recorded(dialect.running_requests.names),
        "kv_cache_utilization": Recorded(dialect.kv_cache_utilization.names),
        "kv_cache_tokens": recording.kv_cache_tokens,
        **{name: getattr(recording, name) for name in _COUNTERS},
    }


def _first(series: Sequence[Series], concept: Recorded) -> list[Series]:
    for name in concept.names:
        found = [each for each in series if each.name == name and each.labels.get("mode", "") == concept.mode]
        if found:
            return found
    return []


def _capacities(series: Sequence[Series]) -> list[int]:
    """Return what each rank's KV cache holds, in tokens."""
    found = []
    for each in series:
        if "block_size" not in each.labels:
            found.append(int(each.samples[-1][1]))
            continue
        # Some versions say None for what they learn only once the engine runs.
        blocks, size = each.labels.get("num_gpu_blocks", ""), each.labels["block_size"]
        if blocks.isdecimal() and size.isdecimal():
            found.append(int(blocks) * int(size))
    return [capacity for capacity in found if capacity > 0]


def _added(series: Sequence[Series]) -> dict[float, float]:
    """Return the sum of the series at each time. All samples of one scrape have its time."""
    total: defaultdict[float, float] = defaultdict(float)
    for each in series:
        for at, value in each.samples:
            total[at] += value
    return dict(total)


def _intervals(values: Mapping[str, Sequence[Series]], capacities: Sequence[int]) -> Iterator[Interval]:
    running, utilization = _added(values["running"]), _added(values["kv_cache_utilization"])
    counters = {name: _added(values[name]) for name in _COUNTERS}
    ranks = len(values["running"])
    kv_cache_tokens = min(capacities)

    def counted(name: str, at: float) -> float:
        return counters[name].get(at, 0.0)

    span: list[float] = []
    for at in sorted(running.keys() & utilization.keys()):
        if span and (
            at - span[-1] > MAX_SCRAPE_SECONDS or any(counted(name, at) < counted(name, span[-1]) for name in _COUNTERS)
        ):
            span = []
        if not running[at]:
            span = []
            continue
        span.append(at)
        if at - span[0] < MIN_INTERVAL_SECONDS:
            continue
        grew = {name: counted(name, at) - counted(name, span[0]) for name in _COUNTERS}
        steps = grew["steps"] if counters["steps"] else None
        if grew["inter_tokens"] and grew["inter_token_seconds"] and steps != 0.0 and grew["generated_tokens"]:
            yield Interval(
                seconds=(at - span[0]) * ranks,
                steps=steps,
                inter_token_seconds=grew["inter_token_seconds"] / grew["inter_tokens"],
                generated_tokens=grew["generated_tokens"],
                prompt_tokens=max(0.0, grew["prompt_tokens"] - grew["cached_prompt_tokens"]),
                running_requests=fmean(running[each] for each in span),
                # A utilization is a part of each rank's cache.
                kv_tokens=fmean(utilization[each] for each in span) * kv_cache_tokens,
                kv_cache_tokens=kv_cache_tokens,
            )
        span = [at]
