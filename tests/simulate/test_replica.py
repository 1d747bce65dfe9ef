"""The fast replica does exactly what the step-by-step batch does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet.simulate.batch import Batch, Sequence, begin, complete, submit
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.replica import Replica, Request

# Crooked numbers: an arrival that falls on a step's very end is before or after it by rounding alone.
MODEL = ReplicaModel(
    prefill_base_ms=3.01737,
    prefill_ms_per_token=0.502913,
    decode_base_ms=10.00719,
    decode_ms_per_sequence=1.001237,
    decode_ms_per_kv_token=0.1000711,
    kv_cache_tokens=200,
    max_running=4,
    max_batched_tokens=60,
)


@dataclass(frozen=True)
class Story:
    """When each request had its first and its last token, and what the counters say at the end."""

    first: tuple[float, ...]
    last: tuple[float, ...]
    generated: int
    prefilled: int
    gaps: int
    gap_seconds: float


def step_by_step(requests: list[Request], model: ReplicaModel) -> Story:
    """Play requests through the exact machine."""
    batch, now, coming = Batch(), 0.0, list(requests)
    first, last = {}, {}
    generated = prefilled = gaps = 0
    gap_seconds = 0.0
    while coming or not batch.idle:
        if batch.idle:
            now = max(now, coming[0].at_seconds)
        while coming and coming[0].at_seconds <= now:
            request = coming.pop(0)
            batch = submit(batch, Sequence(request.number, request.prompt, request.output, request.at_seconds))
        batch, step = begin(batch, model, at_seconds=now)
        now += step.duration_seconds
        prefilled += step.prefill_tokens
        batch, tokens = complete(batch, at_seconds=now)
        for token in tokens:
            generated += 1
            if token.previous_at is None:
                first[token.sequence.id] = now
            else:
                gaps += 1
                gap_seconds += now - token.previous_at
            if token.finished:
                last[token.sequence.id] = now
    order = sorted(first)
    return Story(tuple(first[n] for n in order), tuple(last[n] for n in order), generated, prefilled, gaps, gap_seconds)


def fast(requests: list[Request], model: ReplicaModel, *, looks: list[float]) -> Story:
    """Play them through the fast one, looking at it in between."""
    replica = Replica(model, at_seconds=0.0)
    events = sorted([(r.at_seconds, 0, r) for r in requests] + [(at, 1, None) for at in looks], key=lambda e: e[:2])
    for at, _, request in events:
        if request is None:
            replica.advance(at)
        else:
            in_flight = replica.in_flight
            bound = replica.next_finish_at
            replica.advance(at)
            assert replica.in_flight == in_flight or bound <= at
            replica.submit(request, now=at)
    replica.advance(float("inf"))
    assert replica.in_flight == replica.kv_tokens == replica.queued_prompt_tokens == 0
    return Story(
        tuple(r.first_token_at or -1.0 for r in requests),
        tuple(r.finished_at or -1.0 for r in requests),
        replica.generated_tokens,
        replica.prompt_tokens,
        replica.inter_tokens,
        replica.inter_token_seconds_sum,
    )


def same(left: Story, right: Story) -> None:
    assert left.first == pytest.approx(right.first, abs=1e-9)
    assert left.last == pytest.approx(right.last, abs=1e-9)
    assert (left.generated, left.prefilled, left.gaps) == (right.generated, right.prefilled, right.gaps)
    assert left.gap_seconds == pytest.approx(right.gap_seconds, abs=1e-6)


def requests_of(shapes: list[tuple[float, int, int]]) -> list[Request]:
    at, made = 0.0, []
    for number, (gap, prompt, output) in enumerate(shapes):
        at += gap
        made.append(Request(number, at, prompt, output))
    return made


@settings(max_examples=400, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.001, 0.0173, 0.31, 4.0]) | st.floats(0.0, 0.5),
            st.integers(1, 80),
            st.integers(1, 60),
        ),
        min_size=1,
        max_size=25,
    ),
    looks=st.lists(st.floats(0.0, 20.0), max_size=10),
    model=st.sampled_from(
        [
            MODEL,
            MODEL.model_copy(update={"decode_ms_per_kv_token": 0.0}),
            MODEL.model_copy(update={"kv_cache_tokens": 142, "max_running": 8}),
            MODEL.model_copy(update={"cached_prompt_fraction": 0.4}),
            MODEL.model_copy(update={"service_jitter": 0.2, "seed": 3}),
        ]
    ),
)
def test_every_token_comes_when_the_exact_machine_says(
    shapes: list[tuple[float, int, int]], looks: list[float], model: ReplicaModel
) -> None:
    """First and last token of every request, tokens, prefills and gaps: preemption and full queues included."""
    same(
        fast(requests_of(shapes), model, looks=looks),
        step_by_step(requests_of(shapes), model),
    )


def test_preemption_happens_and_is_played_alike() -> None:
    """Two prompts of 90 in a cache of 200 grow until the younger must go, and prefills again."""
    requests = [(0.0, 90, 40), (0.001, 90, 40)]
    exact = step_by_step(requests_of(requests), MODEL)
    assert exact.prefilled > 180

    same(fast(requests_of(requests), MODEL, looks=[]), exact)
