"""Many runs over one trace: which setting of which policy is worth what.

A frontier is tuned on the trace's first half and judged on its second, so that no policy wins by knowing the
trace. One run gives both halves; seeds are folded into medians before anything is chosen.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from math import ceil
from statistics import median
from typing import Final

from modelfleet.simulate.oracle import needed
from modelfleet.simulate.policy import Circumstances, Kind, Setting
from modelfleet.simulate.processes import Progress, in_processes
from modelfleet.simulate.registry import KINDS, ORACLE, OURS, kind_named
from modelfleet.simulate.score import Run, Score, score
from modelfleet.simulate.world import Start, play

MINIMUM_PARTS: Final = (0.25, 0.5, 0.75)
"""Minimums that a frontier tries beside the lowest, as parts of what the trace's peak needs."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run to make.

    Attributes:
        policy: Name of its kind: a kind's functions do not travel to another process.
        setting: How it is tuned.
        start: How pods start.
        seed: Of the run.
        keep_run: Whether the run itself comes back too, for pictures; it is large.
    """

    policy: str
    setting: Setting
    start: Start
    seed: int
    keep_run: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job: over the whole trace, and over each half of it."""

    job: Job
    whole: Score
    first: Score
    second: Score
    run: Run | None


def play_job(job: Job, circumstances: Circumstances) -> Outcome:
    """Play one run and judge it."""
    here = replace(circumstances, start_seconds=job.start.seconds)
    run = play(
        here.arrivals,
        name=job.policy,
        policy=kind_named(job.policy).build(job.setting, here),
        setting=job.setting,
        circumstances=here,
        start=job.start,
        seed=job.seed,
    )
    # Half of the trace, not of the run: one that falls behind ends later, and its halves would be others.
    half = here.arrivals[-1].at_seconds / 2.0

    def part(begins: float, ends: float | None) -> Score:
        return score(run, ttft_seconds=here.ttft_seconds, tpot_seconds=here.tpot_seconds, begins=begins, ends=ends)

    return Outcome(job, part(0.0, None), part(0.0, half), part(half, None), run if job.keep_run else None)


def play_drawn_job(job: Job, drawn: Mapping[int, Circumstances]) -> Outcome:
    """Play one run on the load that was drawn with its seed, and judge it."""
    return play_job(job, drawn[job.seed])


def play_jobs(
    jobs: Sequence[Job], circumstances: Circumstances, *, processes: int | None = None, progress: Progress | None = None
) -> list[Outcome]:
    """Play runs in parallel; the outcomes are in the order of the jobs.

    Args:
        jobs: What to play.
        circumstances: Of all of them, but for the start. At least one arrival.
        processes: How many at once; None is one per CPU. 1 plays them here.
        progress: Called after each one.
    """
    return in_processes(play_job, jobs, circumstances, processes=processes, progress=progress)


def sweep(
    kinds: Sequence[Kind], circumstances: Circumstances, *, min_replicas: int, max_replicas: int
) -> tuple[tuple[str, Setting], ...]:
    """Return what the policies' experts would try: every target with every minimum, by policy.

    Args:
        kinds: The policies.
        circumstances: Of the deployment.
        min_replicas: The lowest minimum, and the only one of a policy that does not tune it.
        max_replicas: The maximum of all settings.
    """
    peak = max(
        needed(
            circumstances.arrivals,
            circumstances.model,
            target=KINDS[ORACLE].default_target(circumstances.model),
            tpot_seconds=circumstances.tpot_seconds,
            most=max_replicas,
        )
    )
    tuned = sorted({min_replicas, *(max(min_replicas, ceil(part * peak)) for part in MINIMUM_PARTS)})
    tried = [
        (kind.name, kind.setting(target, min_replicas=minimum, max_replicas=max_replicas))
        for kind in kinds
        for target in kind.targets(circumstances.model)
        for minimum in (tuned if kind.tunes_minimum else [min_replicas])
    ]
    # Counts beyond the bounds are all the same one.
    return tuple(dict.fromkeys(tried))


def usd(gpu_hours: float, usd_per_gpu_hour: Decimal) -> Decimal:
    """Return what GPU-hours cost, to the cent."""
    return (Decimal(gpu_hours) * usd_per_gpu_hour).quantize(Decimal("0.01"))


class Knob(StrEnum):
    """What a what-if turns."""

    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    START = "start"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A run with one thing changed: to which value."""

    knob: Knob
    value: float
    job: Job


def what_if(job: Job) -> tuple[WhatIf, ...]:
    """Return a job with its minimum, its maximum and its start time changed, one at a time; unchanged included."""
    setting, start = job.setting, job.start
    job = replace(job, keep_run=False)
    minimums = {setting.min_replicas, 1, *(ceil(part * setting.max_replicas) for part in (0.25, 0.5, 0.75))}
    maximums = {max(setting.min_replicas, ceil(part * setting.max_replicas)) for part in (0.25, 0.5, 0.75, 1.0, 1.5)}
    return (
        *(
            WhatIf(Knob.MINIMUM, value, replace(job, setting=_with_minimum(job.policy, setting, value)))
            for value in sorted(minimums)
        ),
        *(
            WhatIf(Knob.MAXIMUM, value, replace(job, setting=replace(setting, max_replicas=value)))
            for value in sorted(maximums)
        ),
        *(
            WhatIf(Knob.START, round(factor * start.seconds, 3), replace(job, start=_times(start, factor)))
            for factor in (0.1, 0.5, 1.0, 2.0, 4.0)
        ),
    )


def _with_minimum(policy: str, setting: Setting, value: int) -> Setting:
    """Return it with another minimum; a constant fleet is then of that size."""
    kind = kind_named(policy)
    target = float(value) if kind.constant else setting.target
    return kind.setting(target, min_replicas=value, max_replicas=setting.max_replicas)


def _times(start: Start, factor: float) -> Start:
    return replace(
        start,
        schedule_seconds=start.schedule_seconds * factor,
        image_seconds=start.image_seconds * factor,
        load_seconds=start.load_seconds * factor,
    )


@dataclass(frozen=True, slots=True)
class Half:
    """A setting's worth on one half of the trace."""

    gpu_hours: float
    attainment: float
    violations: float


@dataclass(frozen=True, slots=True)
class Point:
    """A policy's setting on both halves; medians over the seeds."""

    policy: str
    setting: Setting
    first: Half
    second: Half


def points(outcomes: Iterable[Outcome]) -> tuple[Point, ...]:
    """Fold the seeds of each setting into their medians, in the order in which settings come first."""
    groups: dict[tuple[str, Setting], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.job.policy, outcome.job.setting), []).append(outcome)
    return tuple(
        Point(
            policy,
            setting,
            _half([outcome.first for outcome in group]),
            _half([outcome.second for outcome in group]),
        )
        for (policy, setting), group in groups.items()
    )


def _half(scores: Sequence[Score]) -> Half:
    return Half(
        gpu_hours=median(each.gpu_hours for each in scores),
        attainment=median(each.attainment for each in scores),
        violations=median(each.violations for each in scores),
    )


def pareto(points: Iterable[Point]) -> tuple[Point, ...]:
    """Return each policy's settings that none of its others beats on the first half, cheapest first.

    One setting beats another that costs no less and attains no more, unless both are equal: then the first stays.
    """
    best: list[Point] = []
    attained: dict[str, float] = {}
    for point in sorted(points, key=lambda each: (each.policy, each.first.gpu_hours, -each.first.attainment)):
        if point.first.attainment > attained.get(point.policy, -1.0):
            attained[point.policy] = point.first.attainment
            best.append(point)
    return tuple(best)


def equal_attainment(points: Sequence[Point], *, goal: float) -> Mapping[str, Point | None]:
    """Choose each policy's cheapest setting that reached the goal on the first half; None where none did.

    What it says is in the second half of the chosen one.

    Args:
        points: All settings of all policies.
        goal: Share of requests within their targets, 0 to 1.
    """
    return _choose(
        points,
        fits=lambda half: half.attainment >= goal,
        key=lambda half: (half.gpu_hours, -half.attainment),
    )


def equal_cost(points: Sequence[Point], *, gpu_hours: float) -> Mapping[str, Point | None]:
    """Choose each policy's setting of the fewest first-half violations within a cost; None where all cost more.

    What it says is in the second half of the chosen one.

    Args:
        points: All settings of all policies.
        gpu_hours: Most GPU-hours on the first half.
    """
    return _choose(
        points,
        fits=lambda half: half.gpu_hours <= gpu_hours,
        key=lambda half: (half.violations, half.gpu_hours),
    )


def _choose(
    points: Sequence[Point], *, fits: Callable[[Half], bool], key: Callable[[Half], tuple[float, float]]
) -> Mapping[str, Point | None]:
    chosen: dict[str, Point | None] = {point.policy: None for point in points}
    for point in points:
        best = chosen[point.policy]
        # Of equals the last, whose target is the more cautious: what the first half did not show may come.
        if fits(point.first) and (best is None or key(point.first) <= key(best.first)):
            chosen[point.policy] = point
    return chosen


def representatives(points: Sequence[Point], *, goal: float) -> Mapping[str, Point]:
    """Choose one setting of each policy: the cheapest that reached the goal, else the one that came nearest."""
    nearest = {point.policy: point for point in pareto(points)}
    return {policy: point or nearest[policy] for policy, point in equal_attainment(points, goal=goal).items()}


def best_rival(representatives: Mapping[str, Point], *, goal: float) -> str | None:
    """Name the best policy but ours and the oracle: the cheapest at the goal, else the one that came nearest."""

    def rank(policy: str) -> tuple[bool, float, float]:
        first = representatives[policy].first
        missed = first.attainment < goal
        return missed, -first.attainment if missed else 0.0, first.gpu_hours

    return min((policy for policy in representatives if policy not in (OURS, ORACLE)), key=rank, default=None)
