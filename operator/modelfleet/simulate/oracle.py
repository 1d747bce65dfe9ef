"""The oracle: it knows every request beforehand, and still pays a pod's start.

The work of each request in replica-seconds is counted when it arrives; what is beyond a step's constant share is
the part that batching cannot save, and under a limit of the time between tokens only 1 - constant / limit of a
replica can be filled with it. So many replicas are needed in each window that the fullest of them stays below
the target. Replica k is then kept through every gap in which it is not needed that is shorter than a start, for
holding it is cheaper than starting another, and each start is asked for early enough. For a given target this
is the cheapest plan that covers the need.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil

from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting

WINDOW_SECONDS = 10.0
"""Work is spread over this long: a queue of a few seconds is within usual latency targets."""
LATE_FACTOR = 1.1
"""Starts are asked for this much earlier than they take at the median: a pod may be slow."""


class Oracle:
    """Plays a plan made beforehand."""

    sample_seconds = 60.0
    period_seconds = 1.0

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Make the plan."""
        need = needed(
            circumstances.arrivals,
            circumstances.model,
            target=setting.target,
            tpot_seconds=circumstances.tpot_seconds,
            most=setting.max_replicas,
        )
        self._changes = plan(need, start_seconds=circumstances.start_seconds * LATE_FACTOR, least=setting.min_replicas)
        self._times = [at for at, _ in self._changes]

    def observe(self, sample: Sample) -> None:
        """Nothing that could be seen is news."""

    def decide(self, now: float, current: int) -> int:
        """Read the plan."""
        return self._changes[bisect_right(self._times, now) - 1][1]


def work_seconds(prompt_tokens: int, output_tokens: int, model: ReplicaModel) -> float:
    """Return the time that one request adds to a replica's steps, their constant part left out."""
    kv_token_steps = prompt_tokens * output_tokens + output_tokens * (output_tokens - 1) / 2.0
    computed = prompt_tokens * (1.0 - model.cached_prompt_fraction)
    return (
        model.prefill_base_ms
        + model.prefill_ms_per_token * computed
        + model.decode_ms_per_sequence * output_tokens
        + model.decode_ms_per_kv_token * kv_token_steps
    ) / 1000.0


def needed(
    arrivals: Sequence[Arrival], model: ReplicaModel, *, target: float, tpot_seconds: float, most: int
) -> list[int]:
    """Return the replicas needed in each window.

    Args:
        arrivals: In order of time.
        model: What a replica does.
        target: Share of what a replica may carry under the limit, > 0.
        tpot_seconds: The limit of the mean time between tokens.
        most: Never more than this.
    """
    usable = max(0.05, 1.0 - model.decode_base_ms / 1000.0 / tpot_seconds)
    windows = int(arrivals[-1].at_seconds / WINDOW_SECONDS) + 1 if arrivals else 0
    work = [0.0] * windows
    for arrival in arrivals:
        work[int(arrival.at_seconds / WINDOW_SECONDS)] += work_seconds(
            arrival.prompt_tokens, arrival.output_tokens, model
        )
    return [min(most, ceil(seconds / WINDOW_SECONDS / usable / target)) for seconds in work]


def plan(need: Sequence[int], *, start_seconds: float, least: int) -> list[tuple[float, int]]:
    """Return when to ask for how many replicas so that every window has what it needs.

    Args:
        need: Replicas needed in each window.
        start_seconds: How long before its first use a replica must be asked for; a gap shorter than this is held.
        least: Replicas that are always there.

    Returns:
        Times and counts, in order; the first is at the beginning.
    """
    changes: dict[float, int] = {}
    for rank in range(least + 1, max(need, default=0) + 1):
        begun: float | None = None
        ended = 0.0
        for window, count in enumerate(need):
            if count < rank:
                continue
            at = window * WINDOW_SECONDS
            if begun is None or at - ended > start_seconds:
                if begun is not None:
                    changes[ended] = changes.get(ended, 0) - 1
                begun = max(0.0, at - start_seconds)
                changes[begun] = changes.get(begun, 0) + 1
            ended = at + WINDOW_SECONDS
        if begun is not None:
            changes[ended] = changes.get(ended, 0) - 1
    count, answer = least, [(0.0, least)]
    for at in sorted(changes):
        count += changes[at]
        answer.append((at, count))
    return answer


KIND = Kind(
    name="oracle",
    title="Knows every request beforehand and pays the same start",
    unit="share of what a replica may carry",
    targets=lambda model: (2.0, 1.6, 1.3, 1.1, 0.95, 0.8, 0.65, 0.5, 0.4, 0.3),
    default_target=lambda model: 0.8,
    build=Oracle,
    tunes_minimum=False,
)
