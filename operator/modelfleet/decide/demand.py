"""Step 1, demand: the signals of the ready pods become one load. Unknown is not zero."""

from collections.abc import Sequence
from typing import Final

from modelfleet.decide.snapshot import Missing, Pod, Reading, Signal
from modelfleet.decide.value import value

FIRST_SIGNALS_SECONDS: Final = 10.0
"""A rate needs two samples: a pod ready for less than this need not have one, and that is no fault."""


@value
class Total:
    """One signal added up over the ready pods that have it.

    Attributes:
        value: The sum over `known` pods; a lower bound of the truth while `known` is less than all.
        known: Ready pods that had a fresh value.
        sampled_at: Time of the oldest sample; 0 when there is none.
        missing: Why the first pod that should have a value has none; empty when all have one, or when
            those without became ready less than FIRST_SIGNALS_SECONDS ago.
    """

    value: float
    known: int
    sampled_at: float
    missing: str


@value
class Demand:
    """The load on one deployment now.

    Attributes:
        ready: Pods that serve.
        queues: Waiting requests of each of them that told.
        complete: Every ready pod reported queue, running requests and throughput. Only then may
            the deployment shrink; the sums of a partial answer are lower bounds.
        missing: Why a pod that should report does not; empty when all do, or when those that do not
            became ready less than FIRST_SIGNALS_SECONDS ago.
    """

    ready: int
    queues: tuple[float, ...]
    queued_requests: Total
    running_requests: Total
    output_tokens_per_second: Total
    finished_requests_per_second: Total
    input_tokens_per_second: Total
    complete: bool
    missing: str


@value
class Growth:
    """Requests per second that come beyond what goes; negative while there are fewer by the moment.

    Attributes:
        queued: Of those that wait.
        in_flight: Of those that wait and those that run.
    """

    queued: float = 0.0
    in_flight: float = 0.0


NO_GROWTH: Final = Growth()


def demand(pods: tuple[Pod, ...], *, now: float, max_age_seconds: float) -> Demand | Missing:
    """Add up the fresh signals of the ready pods.

    Args:
        pods: Every pod of the deployment; those that are terminating or not ready serve nobody new.
        now: Seconds since the epoch.
        max_age_seconds: An older sample is no sample.

    Returns:
        The load, or why no pod's queue is known.
    """
    ready = [pod for pod in pods if pod.ready_at is not None and not pod.terminating]
    if not ready:
        return Missing("no pod is ready", fault=False)
    oldest = now - max_age_seconds
    signals = [pod.signals for pod in ready]
    queues = [each.queued_requests for each in signals]
    queued = _total(queues, ready, now, oldest)
    if queued.known == 0:
        return Missing(queued.missing or "no ready pod has reported yet", fault=bool(queued.missing))
    running = _total([each.running_requests for each in signals], ready, now, oldest)
    output = _total([each.output_tokens_per_second for each in signals], ready, now, oldest)
    return Demand(
        len(ready),
        tuple([queue.value for queue in queues if type(queue) is Signal and queue.sampled_at >= oldest]),
        queued,
        running,
        output,
        _total([each.finished_requests_per_second for each in signals], ready, now, oldest),
        _total([each.input_tokens_per_second for each in signals], ready, now, oldest),
        queued.known == running.known == output.known == len(ready),
        queued.missing or running.missing or output.missing,
    )


def should_tell(pod: Pod, now: float) -> bool:
    """Return whether a pod has been ready for long enough that a missing signal is a fault."""
    return pod.ready_at is not None and now - pod.ready_at >= FIRST_SIGNALS_SECONDS


def saturated(pods: tuple[Pod, ...]) -> bool:
    """Return whether every ready pod has a request waiting, so that throughput shows capacity."""
    queues = [pod.signals.queued_requests for pod in pods if pod.ready_at is not None and not pod.terminating]
    return bool(queues) and all(isinstance(queue, Signal) and queue.value >= 1 for queue in queues)


def _total(readings: Sequence[Reading], ready: Sequence[Pod], now: float, oldest: float) -> Total:
    """Add up one signal of the ready pods, in their order."""
    value = 0.0
    known, sampled_at = 0, now
    for reading in readings:
        if type(reading) is Signal:
            at = reading.sampled_at
            if at >= oldest:
                value += reading.value
                if not known or at < sampled_at:
                    sampled_at = at
                known += 1
    missing = "" if known == len(readings) else _missing(readings, ready, now, oldest)
    return Total(value, known, sampled_at if known else 0.0, missing)


def _missing(readings: Sequence[Reading], ready: Sequence[Pod], now: float, oldest: float) -> str:
    """Return why the first pod that should have a value has none."""
    for pod, reading in zip(ready, readings, strict=True):
        if not should_tell(pod, now):
            continue
        if isinstance(reading, Missing):
            return f"{pod.name}: {reading.why}"
        if reading.sampled_at < oldest:
            return f"{pod.name}: last sample is {now - reading.sampled_at:.0f} s old"
    return ""
