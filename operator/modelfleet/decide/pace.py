"""Step 2b, pace: how full the replicas are, read from the time between tokens.

A step of an engine costs a constant, c, and work that grows with what is in it. When the steps of a second are
s long, n = 1 / s of them fit, their constants take n c, and the rest of the second, 1 - c / s, is work. Work adds
up over replicas whatever the model, the mix of requests and how they are batched. c is where the line of pace over
batch meets an empty batch; where all batches are alike, the pace of a replica with next to nothing to do. A limit
T of the time between tokens lets a replica fill 1 - c / T with work, so the work of all of them in units of that
is the load in replicas: exactly 1 where s = T, whatever c is.
"""

from dataclasses import dataclass

from modelfleet.decide.snapshot import Pod, Signal

LEAST_USABLE = 0.2
"""Share of a replica that may be filled, however close the limit is to its constant: no limit can be met below."""
MOST_USABLE = 0.95
"""A replica that is busy to the last is late at every burst."""
FALL = 0.2
"""Weight of a sample below the least pace: an idler replica than ever was seen."""
RISE_SECONDS = 86_400.0
"""Time constant by which the least pace follows samples above it: a new model or GPU, not a busy day."""
IDLE_SEQUENCES = 2.0
"""With no more than this under way a replica shows the constant itself, prompts aside."""
LEAST_CONSTANT = 0.5
"""The constant is at least this part of the least pace seen, and is taken for it where nothing tells more: a low one
makes the load look larger, a high one smaller."""
FIT_SECONDS = 7200.0
"""Samples of the last two hours tell how the pace grows with the batch."""
LEAST_SAMPLES = 60.0
LEAST_SPREAD = 0.1
"""Batches that differ by less than this share of their mean show no line."""
LEAST_TOKENS_PER_SECOND = 2.0
"""Fewer tokens say more about one step than about the pace."""
REQUESTS_REMEMBERED = 500.0
"""Finished requests over which the work of one is averaged."""
LEAST_REQUESTS = 3.0


@dataclass(frozen=True, slots=True)
class Line:
    """Sums over samples of batch size and pace, older ones weighing less: the line of pace over batch."""

    weight: float = 0.0
    batch: float = 0.0
    pace: float = 0.0
    batch_batch: float = 0.0
    batch_pace: float = 0.0

    def with_samples(self, samples: list[tuple[float, float]], *, kept: float) -> "Line":
        """Add samples of (batch, pace); what was there keeps this part of its weight."""
        weight, batches, paces = self.weight * kept, self.batch * kept, self.pace * kept
        squares, products = self.batch_batch * kept, self.batch_pace * kept
        for batch, pace in samples:
            weight += 1.0
            batches += batch
            paces += pace
            squares += batch * batch
            products += batch * pace
        return Line(weight, batches, paces, squares, products)

    def intercept(self) -> float | None:
        """Return the pace of an empty batch by least squares; None where samples are few or their batches alike."""
        if self.weight < LEAST_SAMPLES:
            return None
        batch, pace = self.batch / self.weight, self.pace / self.weight
        variance = self.batch_batch / self.weight - batch * batch
        if variance < (LEAST_SPREAD * batch) ** 2 or variance <= 0.0:
            return None
        return pace - max(0.0, self.batch_pace / self.weight - batch * pace) / variance * batch


@dataclass(frozen=True, slots=True)
class Pace:
    """What is learned about a replica's steps.

    Attributes:
        idle_seconds: The shortest time between tokens seen of a replica with next to nothing to do; None until seen.
        least_seconds: The shortest of any replica; None until tokens came.
        line: How the pace grows with the batch.
        work_seconds: Work of the remembered requests, in replica-seconds.
        requests: How many they are.
    """

    idle_seconds: float | None = None
    least_seconds: float | None = None
    line: Line = Line()
    work_seconds: float = 0.0
    requests: float = 0.0

    @property
    def constant_seconds(self) -> float | None:
        """c: the time between tokens of a replica with next to no work; None until tokens came."""
        least = self.least_seconds
        if least is None:
            return self.idle_seconds
        line = self.line.intercept()
        if line is not None:
            return min(least, max(LEAST_CONSTANT * least, line))
        return LEAST_CONSTANT * least if self.idle_seconds is None else min(self.idle_seconds, least)

    @property
    def work_per_request(self) -> float:
        """Replica-seconds of work of an average request; 0 until some finished."""
        return self.work_seconds / self.requests if self.requests >= LEAST_REQUESTS else 0.0


NO_PACE = Pace()
"""Before the first token."""


Samples = tuple[tuple[float, float], ...]
"""Of each serving pod that tells it: sequences under way on average, and the time between tokens in seconds."""


def sample(pods: tuple[Pod, ...], *, now: float, max_age_seconds: float) -> Samples:
    """Return how full and how fast the serving pods are; an older sample is no sample."""
    found = []
    for pod in pods:
        if pod.ready_at is None or pod.terminating:
            continue
        seconds, tokens = pod.signals.inter_token_seconds, pod.signals.output_tokens_per_second
        if isinstance(seconds, Signal) and isinstance(tokens, Signal) and now - seconds.sampled_at <= max_age_seconds:
            found.append((tokens.value * seconds.value, seconds.value))
    return tuple(found)


def learn_pace(pace: Pace, samples: Samples, *, finished_requests: float, elapsed_seconds: float) -> Pace:
    """Fold one interval in.

    The work of a request is taken from all work and all requests that finished, so that long requests that have
    not finished yet swing it by what they are of the remembered ones, and not at all while nothing finishes.

    Args:
        pace: What was learned.
        samples: Of the serving pods.
        finished_requests: How many requests finished in the interval.
        elapsed_seconds: Its length.
    """
    telling = [(batch, seconds) for batch, seconds in samples if batch >= LEAST_TOKENS_PER_SECOND * seconds]
    idle, least, line = pace.idle_seconds, pace.least_seconds, pace.line
    if telling:
        idle = _least(idle, [seconds for batch, seconds in telling if batch <= IDLE_SEQUENCES], elapsed_seconds)
        least = _least(least, [seconds for _, seconds in telling], elapsed_seconds)
        line = line.with_samples(telling, kept=max(0.0, 1.0 - elapsed_seconds / FIT_SECONDS))
    constant = Pace(idle, least, line).constant_seconds
    if constant is None:
        return pace
    kept = max(0.0, 1.0 - finished_requests / REQUESTS_REMEMBERED)
    done = work(samples, constant) * elapsed_seconds
    return Pace(idle, least, line, pace.work_seconds * kept + done, pace.requests * kept + finished_requests)


def _least(known: float | None, samples: list[float], elapsed_seconds: float) -> float | None:
    if not samples:
        return known
    seen = min(samples)
    if known is None:
        return seen
    return known + (FALL if seen < known else min(1.0, elapsed_seconds / RISE_SECONDS)) * (seen - known)


def load_in_replicas(
    pace: Pace, samples: Samples, *, limit_seconds: float, queue_growth_per_second: float
) -> float | None:
    """Return how many replicas, filled as far as the limit lets them, the load needs; None until a token came.

    Args:
        pace: What was learned.
        samples: Of the serving pods: a lower bound where a pod says nothing.
        limit_seconds: Longest time between tokens that is wanted, > 0.
        queue_growth_per_second: Requests that arrive beyond what is served; negative while the queue shrinks.
    """
    constant = pace.constant_seconds
    if constant is None:
        return None
    arriving = work(samples, constant) + queue_growth_per_second * pace.work_per_request
    return max(0.0, arriving) / usable(constant, limit_seconds)


def usable(constant_seconds: float, limit_seconds: float) -> float:
    """Return the share of a replica that may be filled with work under a limit of the time between tokens."""
    return min(MOST_USABLE, max(LEAST_USABLE, 1.0 - constant_seconds / limit_seconds))


def work(samples: Samples, constant_seconds: float) -> float:
    """Return the work that the pods do, in replicas; one with less than a sequence on average rests in between."""
    return sum(
        min(1.0, batch) * (1.0 - constant_seconds / seconds) for batch, seconds in samples if seconds > constant_seconds
    )
