"""What a run was worth: GPU-hours, latencies, and how many requests met their targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil

from modelfleet.simulate.policy import Setting


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one request.

    Attributes:
        at_seconds: When it arrived.
        ttft_seconds: Time to its first token; None when the run ended before.
        tpot_seconds: Mean time between its tokens; None when it did not finish, 0 for a single token.
    """

    at_seconds: float
    ttft_seconds: float | None
    tpot_seconds: float | None

    def meets(self, *, ttft_seconds: float, tpot_seconds: float) -> bool:
        """Return whether it came whole, and within both."""
        return (
            self.ttft_seconds is not None
            and self.tpot_seconds is not None
            and self.ttft_seconds <= ttft_seconds
            and self.tpot_seconds <= tpot_seconds
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """The deployment at one moment of a run, for pictures.

    Attributes:
        at_seconds: Since the start.
        desired: Replicas asked for.
        pods: Pods that hold GPUs, draining ones included.
        ready: Pods that serve.
        queued: Requests that wait, at the gateway or in an engine.
        running: Requests in batches.
        arrived: Requests that arrived so far.
        pending: Pods that wait for GPUs.
    """

    at_seconds: float
    desired: int
    pods: int
    ready: int
    queued: int
    running: int
    arrived: int
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A policy's run over a trace.

    Attributes:
        policy: Its name.
        setting: How it was tuned.
        seconds: Length of the run; it ends with its last request or a little later.
        gpus_per_replica: GPUs that one pod holds.
        pods: From when to when each pod held its GPUs: starting, serving and draining.
        served: Every request, in order of arrival.
        timeline: A moment every few seconds.
        scales: Times and sizes of the changes of the replica count that was asked for.
        waits: From when to when each pod waited for its GPUs; most waited for no time at all.
    """

    policy: str
    setting: Setting
    seconds: float
    gpus_per_replica: int
    pods: Sequence[tuple[float, float]]
    served: Sequence[Served]
    timeline: Sequence[Moment]
    scales: Sequence[tuple[float, int]]
    waits: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A run in numbers; the fields of the JSON output.

    Attributes:
        policy: Name.
        target: Its tuned knob.
        min_replicas: Its tuned minimum.
        gpu_hours: GPUs held times hours.
        attainment: Share of requests that met both latency targets; an unfinished one met none.
        violations: Requests that did not.
        requests: All of them.
        ttft_p50_s, ttft_p99_s: Time to first token; an unfinished request counts as infinite (None in JSON).
        tpot_p50_ms, tpot_p99_ms: Mean time between tokens.
        reversals_per_hour: How often a change of the replica count went the other way than the one before.
        max_replicas: Most pods at once.
        unfinished: Requests that had not finished at the end.
    """

    policy: str
    target: float
    min_replicas: int
    gpu_hours: float
    attainment: float
    violations: int
    requests: int
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_ms: float | None
    tpot_p99_ms: float | None
    reversals_per_hour: float
    max_replicas: int
    unfinished: int


def score(
    run: Run, *, ttft_seconds: float, tpot_seconds: float, begins: float = 0.0, ends: float | None = None
) -> Score:
    """Judge a run, or the part of it between two times, by its latency targets.

    Args:
        run: What happened.
        ttft_seconds: Longest time to first token that meets the target.
        tpot_seconds: Longest mean time between tokens that does.
        begins: Requests and GPU-hours before this do not count.
        ends: Nor do those from this on; None is the run's end.
    """
    until = run.seconds if ends is None else min(ends, run.seconds)
    # The last request comes at the run's very end.
    served = [each for each in run.served if begins <= each.at_seconds and (ends is None or each.at_seconds < until)]
    met = sum(1 for each in served if each.meets(ttft_seconds=ttft_seconds, tpot_seconds=tpot_seconds))
    requests = len(served)
    signs = [1 if change > 0 else -1 for at, change in run.scales if begins <= at < until]
    reversals = sum(1 for before, after in pairwise(signs) if before != after)
    ttft = [each.ttft_seconds for each in served]
    tpot = [None if each.tpot_seconds is None else each.tpot_seconds * 1000.0 for each in served]
    held = sum(max(0.0, min(gone, until) - max(made, begins)) for made, gone in run.pods)
    hours = (until - begins) / 3600.0
    return Score(
        policy=run.policy,
        target=run.setting.target,
        min_replicas=run.setting.min_replicas,
        gpu_hours=held * run.gpus_per_replica / 3600.0,
        attainment=met / requests if requests else 1.0,
        violations=requests - met,
        requests=requests,
        ttft_p50_s=percentile(ttft, 0.50),
        ttft_p99_s=percentile(ttft, 0.99),
        tpot_p50_ms=percentile(tpot, 0.50),
        tpot_p99_ms=percentile(tpot, 0.99),
        reversals_per_hour=reversals / hours if hours > 0 else 0.0,
        max_replicas=_most_at_once(run.pods, begins, until),
        unfinished=sum(1 for each in served if each.tpot_seconds is None),
    )


def _most_at_once(pods: Sequence[tuple[float, float]], begins: float, until: float) -> int:
    """Return the most pods that held GPUs at one moment of a stretch."""
    here = [(made, gone) for made, gone in pods if made < until and gone > begins]
    # Of one moment those that are gone come first: their GPUs are free.
    changes = sorted([*((made, 1) for made, _ in here), *((gone, -1) for _, gone in here)])
    return max(accumulate((change for _, change in changes), initial=0))


def percentile(values: Sequence[float | None], share: float) -> float | None:
    """Return the nearest-rank percentile, None counting as infinite; None when it falls there or nowhere."""
    if not values:
        return None
    rank = ceil(share * len(values)) - 1
    known = sorted(value for value in values if value is not None)
    return known[rank] if rank < len(known) else None
