"""Step 3: the load one replica start ahead."""

from dataclasses import replace

import pytest

from modelfleet.decide.demand import NO_GROWTH, Demand, Growth
from modelfleet.decide.forecast import (
    MAX_TOKENS_PER_REQUEST,
    Load,
    forecast,
    growth,
    input_per_output,
    learn_token_mix,
    learn_tokens_per_request,
    remember_queue,
)
from modelfleet.decide.history import QueueSample, TokenMix
from modelfleet.decide.snapshot import Missing
from tests.builders import NOW, load_of, total


def _samples(*pairs: tuple[float, float], running: float = 0.0) -> tuple[QueueSample, ...]:
    return tuple(QueueSample(NOW + at, queued, queued + running) for at, queued in pairs)


GROWTH: dict[str, tuple[tuple[QueueSample, ...], float]] = {
    "nothing seen": ((), 0.0),
    "one sample has no trend": (_samples((0, 50)), 0.0),
    "two samples too close say more about one arrival": (_samples((-2.9, 0), (0, 50)), 0.0),
    "three seconds make a trend": (_samples((-3, 0), (0, 30)), 10.0),
    "ends count, not the way between": (_samples((-10, 5), (-5, 90), (0, 25)), 2.0),
    "a queue that drains": (_samples((-10, 50), (0, 0)), -5.0),
    "a clock that stepped back": (_samples((300, 0), (0, 50)), 0.0),
}


@pytest.mark.parametrize("case", GROWTH)
def test_growth(case: str) -> None:
    """Growth is taken over a span that can carry it."""
    samples, expected = GROWTH[case]
    actual = growth(samples).queued

    assert expected == actual


LOADS: dict[str, tuple[Demand, tuple[QueueSample, ...], float | None, Load]] = {
    "what is served, when nothing waits": (load_of(tokens=900), (), 200, Load(900, 0, 0)),
    "a queue within what is tolerated is no backlog": (load_of(tokens=900, queue=8), (), 200, Load(900, 0, 0)),
    # (20 - 8 tolerated) × 200 tokens / 120 s to the next replica
    "the backlog is cleared within one start": (load_of(tokens=900, queue=20), (), 200, Load(900, 0, 20)),
    # 3 more a second × 200 tokens
    "growth is load that throughput cannot show": (
        load_of(tokens=900, queue=8),
        _samples((-10, 0), (0, 30)),
        200,
        Load(900, 600, 0),
    ),
    # 900 served, of which 3 × 200 come out of the queue
    "a queue that is worked off is served, but does not arrive": (
        load_of(tokens=900, queue=0),
        _samples((-10, 30), (0, 0)),
        200,
        Load(900, -600, 0),
    ),
    "clients that give up are no negative load": (
        load_of(tokens=900, queue=0),
        _samples((-10, 300), (0, 0)),
        200,
        Load(900, -900, 0),
    ),
    # (10,008 - 8) × 200 / 120 would be 16,667: eighteen times what arrives
    "a backlog asks for no more than the load again": (
        load_of(tokens=900, queue=10_008),
        (),
        200,
        Load(900, 0, 900),
    ),
    "no request finished yet: a queue has no length in tokens": (
        load_of(tokens=900, queue=500),
        _samples((-10, 0), (0, 500)),
        None,
        Load(900, 0, 0),
    ),
}


@pytest.mark.parametrize("case", LOADS)
def test_load(case: str) -> None:
    """The load is what is served, what arrives beyond it, and what clears the backlog in one start."""
    demand, queue, tokens_per_request, expected = LOADS[case]
    actual = forecast(
        demand,
        queue_growth_per_second=growth(queue).queued,
        tokens_per_request=tokens_per_request,
        queue_tolerated=8,
        start_seconds=120,
    )

    assert expected == actual
    assert expected.served + expected.growth + expected.backlog == actual.tokens_per_second


def test_queue_memory_keeps_the_growth_window() -> None:
    """Samples older than ten seconds are dropped, however often is sampled."""
    queue: tuple[QueueSample, ...] = ()
    for second in range(30):
        queue = remember_queue(queue, load_of(queue=second), now=NOW + second)
    actual = [sample.queued_requests for sample in queue]

    assert actual == [20, 21, 22, 23, 24, 25, 26, 27, 28, 29]


def test_a_pod_that_reports_again_is_no_growth() -> None:
    """Three of four pods show 30 waiting, then all four 40, as it was all along: nothing has grown."""
    queue = _samples((-4, 40), (-3, 40))
    queue = remember_queue(queue, load_of(ready=4, known=3, queue=30), now=NOW - 2)
    queue = remember_queue(queue, load_of(ready=4, known=3, queue=30), now=NOW - 1)
    queue = remember_queue(queue, load_of(ready=4, queue=40), now=NOW)

    assert growth(queue) == NO_GROWTH


def test_a_batch_that_fills_is_growth_of_what_is_in_flight() -> None:
    """Thirty more run after ten seconds, and five fewer wait."""
    queue = (*_samples((-10, 8), running=20), *_samples((0, 3), running=50))

    assert growth(queue) == Growth(queued=-0.5, in_flight=2.5)


def test_what_runs_is_remembered_beside_what_waits() -> None:
    """Where one of them is partial nothing is: a pod that reports again would look like growth."""
    whole = load_of(ready=4, queue=3, running=20)
    (sample,) = remember_queue((), whole, now=NOW)

    assert sample == QueueSample(NOW, 3, 23)
    assert remember_queue((), replace(whole, running_requests=total(15, of=4, known=3)), now=NOW) == ()


TOKENS: dict[str, tuple[float | None, Demand, float | None]] = {
    "the first requests finish": (None, load_of(tokens=900, finished=3), 300),
    "the average moves by a tenth": (200, load_of(tokens=900, finished=3), 210),
    "nothing finished: nothing learned": (200, load_of(tokens=900, finished=0), 200),
    "nothing generated: nothing learned": (200, load_of(tokens=0, finished=3), 200),
    "nothing was ever known": (None, load_of(tokens=900, finished=0), None),
    "one pod is silent: the ratio would be of different pods": (
        200,
        load_of(ready=2, known=1, tokens=900, finished=3),
        200,
    ),
    "a burst's edge: 100 running, one finished": (
        None,
        load_of(tokens=1e6, finished=0.001),
        MAX_TOKENS_PER_REQUEST,
    ),
    "a counter that moved by almost nothing": (None, load_of(tokens=1e6, finished=1e-310), MAX_TOKENS_PER_REQUEST),
}


@pytest.mark.parametrize("case", TOKENS)
def test_tokens_per_request(case: str) -> None:
    """Tokens per request are learned from pods that report both, and stay within what a request can be."""
    known, demand, expected = TOKENS[case]
    actual = learn_tokens_per_request(known, demand)

    assert expected == actual


def test_prompts_and_answers_are_averaged_over_minutes() -> None:
    """600 prompt tokens for one second of every 20, 30 generated in each: one mean, whenever it is looked at."""
    mix, seen = TokenMix(), []
    for second in range(1200):
        load = load_of(tokens=30, prompts=600 if second % 20 == 0 else 0)
        mix = learn_token_mix(mix, load, elapsed_seconds=1.0)
        seen.append(input_per_output(mix, load))

    assert seen[-20:] == pytest.approx([1.0] * 20, abs=0.04)


def test_a_mix_stays_while_nothing_comes_or_nothing_is_known() -> None:
    """A night without requests, and an hour of pods that do not tell, forget nothing."""
    mix = learn_token_mix(TokenMix(), load_of(tokens=10, prompts=40), elapsed_seconds=1.0)
    night = learn_token_mix(mix, load_of(), elapsed_seconds=1.0)
    partial = learn_token_mix(mix, load_of(ready=2, known=1, tokens=10, prompts=900), elapsed_seconds=1.0)

    assert mix == night == partial
    assert input_per_output(mix, load_of()) == 4.0


def test_prompts_that_no_pod_tells_are_unknown() -> None:
    """However much was known before: the allowance would be shared by a guess."""
    mix = TokenMix(40.0, 10.0)
    told = load_of(ready=2, known=1)

    assert input_per_output(mix, load_of(known=0)) == Missing("pod-x: connection refused")
    assert input_per_output(mix, told) == 4.0
    assert isinstance(input_per_output(TokenMix(), load_of()), Missing)
