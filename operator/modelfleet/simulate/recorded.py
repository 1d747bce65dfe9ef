"""A deployment's recorded past as a trace: how many requests came in each step, and how long they were.

Requests arrive unseen: what is recorded is that they finish, and that they wait or run. So of each pod

    arrived in a step = finished in it + in flight at its end - in flight at its beginning

A step of which that is not known is left out, and time closes up over it: played as an hour without load, a
gap in the record would reward every autoscaler that scales in fast.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Final

from modelfleet.adapters.history import TOLERATED_STEPS, History, NoHistory, Points, Steps
from modelfleet.api.engine import Engine
from modelfleet.engines.dialects import DIALECTS
from modelfleet.engines.recordings import RECORDINGS
from modelfleet.simulate.traces import BAD_ROW_SAMPLES, RateWindow, Trace, drawing

STEP_SECONDS: Final = 60
FORMAT: Final = "prometheus"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a pod's counters say, or by how much they grew.

    Attributes:
        finished: Requests that left, aborted ones included.
        prompt_tokens: Of those requests.
        output_tokens: Of those requests.
        in_flight: Requests that wait or run; of a growth, by how many more they are.
    """

    finished: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    in_flight: float = 0.0

    def fell(self, before: "Counts") -> bool:
        """Return whether a counter is lower than before: another process counts."""
        return (
            self.finished < before.finished
            or self.prompt_tokens < before.prompt_tokens
            or self.output_tokens < before.output_tokens
        )

    def plus(self, growth: "Counts", *, times: float) -> "Counts":
        """Return these with another's added so many times."""
        return Counts(
            self.finished + growth.finished * times,
            self.prompt_tokens + growth.prompt_tokens * times,
            self.output_tokens + growth.output_tokens * times,
            self.in_flight + growth.in_flight * times,
        )


Pod = Mapping[int, Counts]
"""Counters at the end of each step that has a sample, by the step's number."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The steps of a record.

    Attributes:
        grew: What all pods' counters grew by, by the step's number; none of a step without pods.
        unknown: Why a step is not known, by its number.
    """

    grew: Mapping[int, Counts]
    unknown: Mapping[int, str]


def read_history(
    url: str,
    deployment: str,
    since_seconds: float,
    engine: Engine,
    now: float,
    *,
    step_seconds: int = STEP_SECONDS,
) -> Trace:
    """Read a deployment's arrivals from a Prometheus.

    Args:
        url: Root URL of the server.
        deployment: "namespace/name".
        since_seconds: How far back, at least two steps.
        engine: vLLM or SGLang.
        now: Seconds since the epoch.
        step_seconds: Length of a row; at least the scrape interval.

    Raises:
        HistoryError: BadDeployment, PrometheusUnavailable, or NoHistory where nothing fits.
    """
    dialect, recording = DIALECTS[engine], RECORDINGS.get(engine)
    if recording is None:
        known = ", ".join(RECORDINGS)
        raise NoHistory(f"a history can be read of {known}; {engine} does not record what it needs")
    steps = Steps(
        begins_at=int((now - since_seconds) // step_seconds) * step_seconds,
        count=max(1, int(since_seconds // step_seconds)),
        seconds=step_seconds,
    )
    history = History(url, deployment)
    running = history.values(dialect.running_requests.names, steps)
    if not running:
        raise NoHistory(
            f"Prometheus has no series {dialect.running_requests.names[0]} with namespace and pod labels of "
            f"{history.deployment}: check its name, the PodMonitor, and how long Prometheus keeps its data"
        )
    queued = history.values(dialect.queued_requests.names, steps)
    counters = (
        dialect.finished_requests.names,
        recording.aborted_requests.names,
        recording.request_prompt_tokens.names,
        recording.request_output_tokens.names,
    )
    last = [history.values(names, steps) if names else {} for names in counters]
    first = [history.first_values(names, steps) if names else {} for names in counters]
    if any(value > 0.0 for points in running.values() for value in points.values()):
        for names, found in zip(counters, last, strict=True):
            if names and not found and names is not recording.aborted_requests.names:
                raise NoHistory(f"Prometheus has no series {names[0]} of {history.deployment}, though requests ran")
    there = frozenset(number for points in running.values() for number in points)
    if len(there) <= steps.count:
        # Without pods, or without Prometheus? The two are told apart only where there is something to tell.
        there |= history.recorded(steps)

    def counts(of: Sequence[Mapping[str, Points]], pod: str, number: int, in_flight: float) -> Counts:
        # A counter that is not there has not counted yet: clients make one of SGLang's when it first moves.
        finished, aborted, prompt, output = (each.get(pod, {}).get(number, 0.0) for each in of)
        return Counts(finished + aborted, prompt, output, in_flight)

    pods = {
        pod: {
            number: counts(last, pod, number, value + queued.get(pod, {}).get(number, 0.0))
            for number, value in points.items()
            if number not in untold
        }
        for pod, points in running.items()
        for untold in (_holes([each.get(pod, {}) for each in last]),)
    }
    births = {pod: {number: counts(first, pod, number, 0.0) for number in points} for pod, points in running.items()}
    return trace_of(recorded(pods, births, there, count=steps.count), steps)


def _holes(counters: Sequence[Points]) -> frozenset[int]:
    """Return the steps in which a counter is missing that goes on later where it was.

    Counted as nothing it would make a whole life a burst. One that begins lower is another process's.
    """
    return frozenset(
        missing
        for points in counters
        for before, after in pairwise(sorted(points))
        if points[after] >= points[before]
        for missing in range(before + 1, after)
    )


def recorded(pods: Mapping[str, Pod], births: Mapping[str, Pod], there: frozenset[int], *, count: int) -> Recorded:
    """Return by how much all counters grew in each step from 1 to `count`.

    Args:
        pods: Counters by pod. Those at step 0 are where the first step begins.
        births: What a pod's counters were at its first sample in a step; read where its life begins in it.
        there: Steps in which Prometheus scraped anything.
        count: Of steps.
    """
    grew: defaultdict[int, Counts] = defaultdict(Counts)
    unknown = {number: "Prometheus has no samples" for number in range(1, count + 1) if number not in there}
    for name, pod in pods.items():
        before: int | None = None
        for number in sorted(pod):
            now = pod[number]
            restarted = before is None or now.fell(pod[before])
            if before is not None and number - before <= TOLERATED_STEPS:
                # What a process that is gone had in flight is lost: its successor counts from nothing.
                growth = now.plus(Counts() if restarted else pod[before], times=-1.0)
                for each in range(before + 1, number + 1):
                    grew[each] = grew[each].plus(growth, times=1.0 / (number - before))
            elif before is not None and not restarted:
                unknown.update(dict.fromkeys(range(before + 1, number + 1), f"no samples of pod {name}"))
            elif number - 1 in there and number > 0:
                grew[number] = grew[number].plus(now.plus(births[name].get(number, Counts()), times=-1.0), times=1.0)
            elif number > 0:
                unknown[number] = "its beginning is not known"
            before = number
    return Recorded(grew, unknown)


def trace_of(record: Recorded, steps: Steps) -> Trace:
    """Return the trace of a record: one window a known step, one after the other.

    Raises:
        NoHistory: If no step is known.
    """
    known = [number for number in range(1, steps.count + 1) if number not in record.unknown]
    if not known:
        raise NoHistory(f"none of {steps.count} steps of {steps.seconds} s is known: {_gaps(record, steps)[0]}")
    whole = Counts()
    for number in known:
        whole = whole.plus(record.grew.get(number, Counts()), times=1.0)
    windows = []
    # A gauge may lag behind a counter by a step: what it takes back is owed by the steps after it.
    owed = 0.0
    for row, number in enumerate(known):
        if number - 1 in record.unknown:
            owed = 0.0
        grew = record.grew.get(number, Counts())
        arrived = grew.finished + grew.in_flight + owed
        owed = min(0.0, arrived)
        windows.append(
            RateWindow(
                begins_seconds=float(row * steps.seconds),
                requests_per_second=max(0.0, arrived) / steps.seconds,
                lengths=_lengths(grew) or _lengths(whole),
                seconds=float(steps.seconds),
            )
        )
    samples = tuple(_gaps(record, steps)[:BAD_ROW_SAMPLES])
    return Trace(FORMAT, len(known), len(record.unknown), samples, drawing(FORMAT, {"": windows}))


def _lengths(counts: Counts) -> tuple[float, float] | None:
    if counts.finished <= 0.0:
        return None
    return max(1.0, counts.prompt_tokens / counts.finished), max(1.0, counts.output_tokens / counts.finished)


def _gaps(record: Recorded, steps: Steps) -> list[str]:
    """Return one line a stretch of unknown steps."""

    def lines() -> Iterator[str]:
        numbers = enumerate(sorted(record.unknown))
        for _, stretch in groupby(numbers, key=lambda pair: (pair[1] - pair[0], record.unknown[pair[1]])):
            gap = [number for _, number in stretch]
            begins, ends = (
                datetime.fromtimestamp(steps.at(number), UTC).isoformat(timespec="minutes")
                for number in (gap[0] - 1, gap[-1])
            )
            yield f"{begins} to {ends}: {record.unknown[gap[0]]} ({len(gap)} steps, left out)"

    return list(lines())
