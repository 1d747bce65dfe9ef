"""Step 2b, pace: how full the replicas are, read from the time between tokens.

A step of an engine costs a constant, c, and work that grows with what is in it. When the steps of a second are
s long, n = 1 / s of them fit, their constants take n c, and the rest of the second, 1 - c / s, is work. Work adds
up over replicas whatever the model, the mix of requests and how they are batched. c is where the line of pace over
batch meets an empty batch; where all batches are alike, the pace of a replica with next to nothing to do. A limit
T of the time between tokens lets a replica fill 1 - c / T with work, so the work of all of them in units of that
is the load in replicas: exactly 1 where s = T, whatever c is.
"""

from collections.abc import Sequence
from math import inf
from typing import Final

from modelfleet.decide.demand import Growth, should_tell
from modelfleet.decide.snapshot import Pod, Signal
from modelfleet.decide.value import value

LEAST_USABLE: Final = 0.2
"""Share of a replica that may be filled, however close the limit is to its constant: no limit can be met below."""
MOST_USABLE: Final = 0.95
"""A replica that is busy to the last is late at every burst."""
LEAST_WITHIN: Final = 10
"""Samples within the limit without which the constant may be anything below it: an overload that begins with the first
request shows one or two, of replicas that are not idle."""
PRIOR_USABLE: Final = 0.6
"""This much may be filled until then. Published models leave 0.4 to 0.85 of 50 ms (simulate/calibration.py)."""
FALL: Final = 0.2
"""Weight of a sample below the least pace: an idler replica than ever was seen."""
RISE_SECONDS: Final = 86_400.0
"""Time constant by which the least pace follows samples above it: a new model or GPU, not a busy day."""
IDLE_SEQUENCES: Final = 2.0
"""With no more than this under way a replica shows the constant itself, prompts aside."""
LEAST_CONSTANT: Final = 0.5
"""The constant is at least this part of the least pace seen, and is taken for it where nothing tells more: a low one
makes the load look larger, a high one smaller."""
FIT_SECONDS: Final = 7200.0
"""Samples of the last two hours tell how the pace grows with the batch."""
LEAST_SAMPLES: Final = 60.0
LEAST_SPREAD: Final = 0.1
"""Batches that differ by less than this share of their mean show no line."""
LEAST_TOKENS_PER_SECOND: Final = 2.0
"""Fewer tokens say more about one step than about the pace."""
CLEARED_SECONDS: Final = 1.0
"""Half of a usual limit of the first token: what a replica works off within it makes nobody late."""
REQUESTS_REMEMBERED: Final = 500.0
"""Finished requests over which the work of one is averaged."""
LEAST_REQUESTS: Final = 3.0
MOST_TOLERATED: Final = 10_000.0
"""As many as a spec can tolerate."""


@value
class Line:
    """Sums over samples, older ones weighing less, for the line of pace over batch.

    A second of a busy replica is 1 = c x steps + k x tokens. Divided by the steps it is the line pace = c + k x batch,
    fitted so that errors count by their share of the pace: the long steps of an overload do not bend it.
    """

    samples: float = 0.0
    steps: float = 0.0
    tokens: float = 0.0
    steps_steps: float = 0.0
    steps_tokens: float = 0.0
    tokens_tokens: float = 0.0

    def with_samples(self, telling: Sequence[tuple[float, float]], *, kept: float) -> "Line":
        """Add samples of (tokens/s, seconds between tokens); what was there keeps this part of its weight."""
        steps, tokens = kept * self.steps, kept * self.tokens
        steps_steps, steps_tokens = kept * self.steps_steps, kept * self.steps_tokens
        tokens_tokens = kept * self.tokens_tokens
        for rate, seconds in telling:
            a_second = 1.0 / seconds
            steps += a_second
            tokens += rate
            steps_steps += a_second * a_second
            steps_tokens += a_second * rate
            tokens_tokens += rate * rate
        return Line(kept * self.samples + len(telling), steps, tokens, steps_steps, steps_tokens, tokens_tokens)

    def constant_seconds(self) -> float | None:
        """Return c by least squares, k not below 0; None where samples are few or their batches alike."""
        if self.samples < LEAST_SAMPLES:
            return None
        steps, tokens, tokens_tokens = self.steps, self.tokens, self.tokens_tokens
        steps_steps, steps_tokens = self.steps_steps, self.steps_tokens
        apart = steps_steps * tokens_tokens - steps_tokens * steps_tokens
        if apart <= (LEAST_SPREAD * steps_tokens) ** 2:
            return None
        if tokens * steps_steps <= steps * steps_tokens:
            return steps / steps_steps
        return (steps * tokens_tokens - tokens * steps_tokens) / apart


@value
class Pace:
    """What is learned about a replica's steps.

    Attributes:
        idle_seconds: The shortest time between tokens seen of a replica with next to nothing to do; None until seen.
        least_seconds: The shortest of any replica; None until tokens came.
        line: How the pace grows with the batch.
        busy_seconds: Replica-seconds in which the remembered requests were worked on, constants included.
        steps: Steps of that time.
        requests: How many requests they were; one that is under way counts half.
        running: Requests under way when last seen.
        within: Samples seen that were within the limit.
        learned_at: When it was last learned from; None before.
        constant_seconds: c, the time between tokens of a replica with next to no work; None until tokens came.
    """

    idle_seconds: float | None = None
    least_seconds: float | None = None
    line: Line = Line()
    busy_seconds: float = 0.0
    steps: float = 0.0
    requests: float = 0.0
    running: float = 0.0
    within: int = 0
    learned_at: float | None = None
    constant_seconds: float | None = None

    @classmethod
    def resumed(cls, idle_seconds: float) -> "Pace":
        """Return what is known when an earlier process saw this constant."""
        return cls(idle_seconds=idle_seconds, constant_seconds=idle_seconds, within=LEAST_WITHIN)

    @property
    def known(self) -> bool:
        """Whether enough was seen to say what the constant is; else it is a guess."""
        return self.within >= LEAST_WITHIN

    def work_per_request(self, constant_seconds: float) -> float:
        """Return the replica-seconds of work of an average request; 0 until some finished."""
        if self.requests < LEAST_REQUESTS:
            return 0.0
        return max(0.0, self.busy_seconds - constant_seconds * self.steps) / self.requests

    def queue_tolerated(self, least: int, limit_seconds: float) -> int:
        """Return how many requests may wait for one replica: what it works off in a moment, and at least so many.

        Args:
            least: What the spec tolerates.
            limit_seconds: Longest time between tokens that is wanted, > 0.
        """
        if self.constant_seconds is None:
            return least
        constant = _within_room(self.constant_seconds, limit_seconds)
        work = self.work_per_request(constant)
        if work <= 0.0:
            return least
        return max(least, int(min(MOST_TOLERATED, CLEARED_SECONDS * (1.0 - constant / limit_seconds) / work)))


NO_PACE: Final = Pace()
"""Before the first token."""


def _within_room(constant_seconds: float, limit_seconds: float) -> float:
    """Return the constant, or what of it leaves a sane part of a replica to work."""
    return min((1.0 - LEAST_USABLE) * limit_seconds, max((1.0 - MOST_USABLE) * limit_seconds, constant_seconds))


@value
class Samples:
    """What the serving pods that tell it did in the last rate window.

    Attributes:
        busy: How many of them were at work, on average.
        steps_per_second: Their steps.
        telling: Of each with tokens enough: tokens a second, and seconds between the tokens of a sequence.
        tokens_per_second: Of those together.
        late_tokens_per_second: What part of it comes slower than the limit, or beside a queue that is longer than
            tolerated. It is close to that of the requests that are late (design/0002).
        missing: Which pod generates tokens and does not tell their pace; empty when there is none, or when the first
            of them became ready less than FIRST_SIGNALS_SECONDS ago.
    """

    busy: float
    steps_per_second: float
    telling: tuple[tuple[float, float], ...]
    tokens_per_second: float
    late_tokens_per_second: float
    missing: str

    def work(self, constant_seconds: float) -> float:
        """Return the work that they do, in replicas: what steps take beyond their constants."""
        return max(0.0, self.busy - constant_seconds * self.steps_per_second)


def sample(
    pods: tuple[Pod, ...], *, limit_seconds: float, queue_tolerated: float, now: float, max_age_seconds: float
) -> Samples:
    """Return how full and how fast the serving pods are.

    Args:
        pods: Every pod of the deployment.
        limit_seconds: Longest time between tokens that is wanted, > 0.
        queue_tolerated: Waiting requests that a pod may have.
        now: Seconds since the epoch.
        max_age_seconds: An older sample is no sample.
    """
    oldest = now - max_age_seconds
    busy = steps = tokens_per_second = late = 0.0
    telling = []
    missing = ""
    for pod in pods:
        if pod.ready_at is None or pod.terminating:
            continue
        pace, tokens = pod.signals.inter_token_seconds, pod.signals.output_tokens_per_second
        if type(tokens) is not Signal or tokens.sampled_at < oldest:
            continue
        if type(pace) is Signal and pace.sampled_at >= oldest and pace.value > 0.0:
            seconds, rate = pace.value, tokens.value
            batch = rate * seconds
            # One with less than a sequence on average rests in between.
            share = batch if batch < 1.0 else 1.0
            busy += share
            steps += share / seconds
            if rate >= LEAST_TOKENS_PER_SECOND:
                telling.append((rate, seconds))
                tokens_per_second += rate
                queue = pod.signals.queued_requests
                if seconds > limit_seconds or (type(queue) is Signal and queue.value > queue_tolerated):
                    late += rate
        elif not missing and tokens.value >= LEAST_TOKENS_PER_SECOND:
            missing = f"{pod.name}: tokens, but no time between them" if should_tell(pod, now) else ""
    return Samples(busy, steps, tuple(telling), tokens_per_second, late, missing)


def learn_pace(
    pace: Pace,
    samples: Samples,
    *,
    finished_per_second: float,
    running_requests: float,
    limit_seconds: float,
    now: float,
) -> Pace:
    """Fold in what happened since it was last done.

    The work of a request is taken from all work and all requests it was for: those that finished, and half of
    each that is under way, or the first minute of a burst would make every request look like three.

    Args:
        pace: What was learned.
        samples: Of the serving pods.
        finished_per_second: Requests that finish.
        running_requests: How many are under way.
        limit_seconds: Longest time between tokens that is wanted, > 0.
        now: Seconds since the epoch.
    """
    idle, least, line, within = pace.idle_seconds, pace.least_seconds, pace.line, pace.within
    elapsed_seconds = 0.0 if pace.learned_at is None else max(0.0, now - pace.learned_at)
    telling = samples.telling
    if telling:
        fastest = fastest_idle = inf
        for rate, seconds in telling:
            if seconds <= limit_seconds:
                within += 1
            if seconds < fastest:  # noqa: PLR1730 - half the time of min(), once a pod
                fastest = seconds
            if seconds < fastest_idle and rate * seconds <= IDLE_SEQUENCES:
                fastest_idle = seconds
        if fastest_idle < inf:
            idle = _least(idle, fastest_idle, elapsed_seconds)
        least = _least(least, fastest, elapsed_seconds)
        line = line.with_samples(telling, kept=max(0.0, 1.0 - elapsed_seconds / FIT_SECONDS))
    if least is None:
        return pace
    done = max(0.0, finished_per_second * elapsed_seconds + (running_requests - pace.running) / 2.0)
    kept = max(0.0, 1.0 - done / REQUESTS_REMEMBERED)
    return Pace(
        idle,
        least,
        line,
        pace.busy_seconds * kept + samples.busy * elapsed_seconds,
        pace.steps * kept + samples.steps_per_second * elapsed_seconds,
        pace.requests * kept + done,
        running_requests,
        within,
        now,
        _constant_seconds(idle, least, line)
        if within >= LEAST_WITHIN
        else min(LEAST_CONSTANT * least, (1.0 - PRIOR_USABLE) * limit_seconds),
    )


def _constant_seconds(idle: float | None, least: float, line: Line) -> float:
    most = least if idle is None else min(idle, least)
    fitted = line.constant_seconds()
    if fitted is not None:
        return min(most, max(LEAST_CONSTANT * least, fitted))
    return LEAST_CONSTANT * least if idle is None else most


def _least(known: float | None, seen: float, elapsed_seconds: float) -> float:
    if known is None:
        return seen
    return known + (FALL if seen < known else min(1.0, elapsed_seconds / RISE_SECONDS)) * (seen - known)


@value
class Filled:
    """The load as the time between tokens tells it.

    Attributes:
        replicas: How many, filled as far as the limit lets them, the load needs.
        constant_seconds: As in Pace.
        known: As in Pace.
        missing: Which pod did not tell, so that the load is a lower bound; empty when all did.
    """

    replicas: float
    constant_seconds: float
    known: bool
    missing: str = ""


def load_in_replicas(
    pace: Pace, samples: Samples, growth: Growth, *, limit_seconds: float, ready: int, cold: bool
) -> Filled | None:
    """Return the load in replicas; None until a token came, and while tokens come whose pace no pod tells.

    Work that is done is no more than the replicas can do. What comes beyond waits in the queue, or makes batches grow
    whose steps are too long already; the second is counted while nothing better is known. In the overload that a
    deployment is born into it is counted twice: until the first replicas are there as much will wait as comes then.

    Args:
        pace: What was learned.
        samples: Of the serving pods: a lower bound where one is missing.
        growth: Of the requests, in the time of the samples.
        limit_seconds: Longest time between tokens that is wanted, > 0.
        ready: How many replicas serve.
        cold: Whether no forecast decides yet.
    """
    seen = pace.constant_seconds
    if seen is None or (samples.missing and not samples.telling):
        return None
    # Work and room for it by the same constant: a replica at the limit is one replica of load whatever it is.
    constant = _within_room(seen, limit_seconds)
    room, work = 1.0 - constant / limit_seconds, samples.work(constant)
    overloaded = cold and work >= ready * room
    beyond = growth.in_flight if overloaded else growth.queued
    if overloaded and not pace.known:
        beyond = max(beyond, 2.0 * beyond)
    arriving = max(0.0, work + beyond * pace.work_per_request(constant))
    return Filled(arriving / room, seen, pace.known, samples.missing)
