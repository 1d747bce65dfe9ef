"""Step 3, forecast: the load that replicas started now would meet.

Throughput saturates at capacity, so it never shows demand alone. What arrives beyond it shows as
growth of the queue; what already waits must be served besides. Both are put into generated tokens
per second, so that one number says what is needed.
"""

from typing import Final

from modelfleet.decide.demand import NO_GROWTH, Demand, Growth
from modelfleet.decide.history import QueueSample, TokenMix
from modelfleet.decide.snapshot import Missing
from modelfleet.decide.value import value

GROWTH_WINDOW_SECONDS: Final = 10.0
"""Span over which queue growth is taken: long enough to see through one batch's admission."""
MIN_GROWTH_SPAN_SECONDS: Final = 3.0
"""Two samples closer than this say more about one arrival than about a trend."""

MAX_TOKENS_PER_REQUEST: Final = 131_072.0
"""The longest context in common use. A larger ratio is a burst's edge, or an engine that does not tell the truth."""

MIX_SECONDS: Final = 300.0
"""Prompts come in one piece and their answers over many seconds: a mean over minutes sees both of a request."""


@value
class Load:
    """Generated tokens per second that the replicas must sustain.

    Attributes:
        served: What they generate now.
        growth: What arrives beyond that and only lengthens the queue; negative while the queue is worked
            off, for then more is served than arrives.
        backlog: What clears the queue beyond the tolerated within one replica start, at most as much again
            as the load itself: while replicas start, or fail to, a queue grows without the load growing.
    """

    served: float
    growth: float
    backlog: float

    @property
    def tokens_per_second(self) -> float:
        """The sum: what replicas started now would meet."""
        return self.served + self.growth + self.backlog


def forecast(
    demand: Demand,
    *,
    queue_growth_per_second: float,
    tokens_per_request: float | None,
    queue_tolerated: float,
    start_seconds: float,
) -> Load:
    """Return the load one replica start ahead.

    Args:
        demand: The load now.
        queue_growth_per_second: Requests; negative while the queue shrinks.
        tokens_per_request: Generated tokens of an average request; None when no request finished yet,
            and then the queue is judged by its length alone (step 4).
        queue_tolerated: Waiting requests that the ready replicas may have.
        start_seconds: How long a replica takes from creation to ready; > 0.
    """
    served = demand.output_tokens_per_second.value
    if tokens_per_request is None:
        return Load(served, 0.0, 0.0)
    # Never below zero: clients that give up shorten the queue too, and nobody served them.
    growth = max(queue_growth_per_second * tokens_per_request, 0.0 - served)
    excess = max(0.0, demand.queued_requests.value - queue_tolerated)
    return Load(served, growth, min(excess * tokens_per_request / start_seconds, served + growth))


def growth(queue: tuple[QueueSample, ...], *, since: float = 0.0) -> Growth:
    """Return how fast requests become more over the samples; not at all when they span too little.

    Args:
        queue: Oldest first.
        since: Earlier samples do not count: what is added to a rate must be of the same time, or what was waiting
            a moment ago and is served now counts twice.
    """
    for first in queue:
        if first.at >= since:
            last = queue[-1]
            span = last.at - first.at
            if span < MIN_GROWTH_SPAN_SECONDS:
                break
            return Growth(
                (last.queued_requests - first.queued_requests) / span,
                (last.in_flight_requests - first.in_flight_requests) / span,
            )
    return NO_GROWTH


def remember_queue(queue: tuple[QueueSample, ...], demand: Demand, *, now: float) -> tuple[QueueSample, ...]:
    """Append this tick's requests and drop what left the growth window.

    A partial sum is left out: a pod that reports again would look like growth.
    """
    since = now - GROWTH_WINDOW_SECONDS
    kept = 0
    while kept < len(queue) and queue[kept].at <= since:
        kept += 1
    queued, running = demand.queued_requests, demand.running_requests
    if queued.known < demand.ready or running.known < demand.ready:
        return queue[kept:]
    return (*queue[kept:], QueueSample(now, queued.value, queued.value + running.value))


def learn_tokens_per_request(known: float | None, demand: Demand) -> float | None:
    """Blend in the tokens of the requests that finished in the rate window.

    Long requests lag at the start of a burst: tokens flow before the first of them finishes. The
    average moves by a tenth at a time, so that such an edge does not swing it.
    """
    finished = demand.finished_requests_per_second
    output = demand.output_tokens_per_second
    if finished.known < demand.ready or output.known < demand.ready or finished.value <= 0 or output.value <= 0:
        return known
    seen = min(output.value / finished.value, MAX_TOKENS_PER_REQUEST)
    return seen if known is None else known + 0.1 * (seen - known)


def learn_token_mix(known: TokenMix, demand: Demand, *, elapsed_seconds: float) -> TokenMix:
    """Add the tokens since the last decision; earlier ones fade while new ones come, and stay while none do."""
    prompt, output = demand.input_tokens_per_second, demand.output_tokens_per_second
    if prompt.known < demand.ready or output.known < demand.ready or not prompt.value + output.value:
        return known
    # The first decision of all has no time before it: its rates are of a second at least.
    seconds = elapsed_seconds or 1.0
    kept = 1.0 - seconds / MIX_SECONDS if seconds < MIX_SECONDS else 0.0
    return TokenMix(kept * known.input + prompt.value * seconds, kept * known.output + output.value * seconds)


def input_per_output(mix: TokenMix, demand: Demand) -> float | Missing:
    """Return the prompt tokens that come with one generated token, or why that is unknown."""
    prompt = demand.input_tokens_per_second
    if prompt.known == 0 and prompt.missing:
        return Missing(prompt.missing)
    if not mix.output:
        return Missing("no token was generated since the operator began to watch", fault=False)
    return mix.input / mix.output
