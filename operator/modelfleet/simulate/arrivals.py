"""What to send and when: the one value that traces and shapes both become, and the knobs that apply to both."""

import heapq
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

MAX_TOKENS: Final = 1_000_000
"""No request is longer, whatever a trace says."""
COPY_SPREAD_SECONDS: Final = 1.0
"""A request that is sent several times (rate scale above 1) is spread over this long."""


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """One request: when it is sent, in seconds from the start, and how long its prompt and answer are."""

    at_seconds: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Lengths:
    """Prompt and output tokens of requests whose source does not tell them.

    Attributes:
        prompt_tokens: Mean.
        output_tokens: Mean.
        variation: Coefficient of variation of both, log-normal; 0 gives every request the mean.
    """

    prompt_tokens: float = 200.0
    output_tokens: float = 64.0
    variation: float = 0.0

    def draw(self, dice: random.Random) -> tuple[int, int]:
        """Return one request's prompt and output tokens, each at least 1."""
        return self._one(dice, self.prompt_tokens), self._one(dice, self.output_tokens)

    def _one(self, dice: random.Random, mean: float) -> int:
        if self.variation <= 0.0:
            return max(1, round(mean))
        # Of a log-normal with mean m and coefficient of variation c: sigma^2 = ln(1 + c^2), mu = ln m - sigma^2 / 2.
        variance = math.log1p(self.variation * self.variation)
        return min(MAX_TOKENS, max(1, round(dice.lognormvariate(math.log(mean) - variance / 2.0, variance**0.5))))


@dataclass(frozen=True)
class Replay:
    """How a source is played.

    Attributes:
        time_scale: Source seconds played in one second; 10 plays an hour in six minutes, at ten times the rate.
        max_seconds: When to stop, on the played clock.
        max_tokens_cap: Longest prompt and longest output; longer ones are cut to it.
    """

    time_scale: float = 1.0
    max_seconds: float = float("inf")
    max_tokens_cap: int = MAX_TOKENS

    def __post_init__(self) -> None:
        """Refuse what plays nothing.

        Raises:
            ValueError: If a number is not above zero.
        """
        for name in ("time_scale", "max_seconds", "max_tokens_cap"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above zero")


def replayed(arrivals: Iterable[Arrival], replay: Replay) -> Iterator[Arrival]:
    """Yield the arrivals as they are to be sent, in order of time.

    Args:
        arrivals: In order of time.
        replay: How to play them.
    """
    for arrival in arrivals:
        at_seconds = arrival.at_seconds / replay.time_scale
        if at_seconds > replay.max_seconds:
            return
        yield Arrival(
            at_seconds,
            max(1, min(arrival.prompt_tokens, replay.max_tokens_cap)),
            max(1, min(arrival.output_tokens, replay.max_tokens_cap)),
        )


def scaled(arrivals: Iterable[Arrival], *, rate_scale: float, seed: int) -> Iterator[Arrival]:
    """Yield each arrival `rate_scale` times on average: thinned below 1, copied above, at random by the seed."""
    if rate_scale == 1.0:
        yield from arrivals
        return
    dice = random.Random(f"scaled/{seed}")
    whole, part = int(rate_scale), rate_scale - int(rate_scale)
    later: list[Arrival] = []
    for arrival in arrivals:
        while later and later[0].at_seconds <= arrival.at_seconds:
            yield heapq.heappop(later)
        copies = whole + (dice.random() < part)
        for copy in range(copies):
            delay = 0.0 if copy == 0 else dice.random() * COPY_SPREAD_SECONDS
            heapq.heappush(later, Arrival(arrival.at_seconds + delay, arrival.prompt_tokens, arrival.output_tokens))
    while later:
        yield heapq.heappop(later)
