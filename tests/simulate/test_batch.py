"""Continuous batching: a table of small schedules, and what holds for every one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet.simulate.batch import Batch, Sequence, Token, begin, cancel, complete, submit
from sandbox.engine.profile import EngineProfile

PROFILE = EngineProfile(
    prefill_base_ms=3.0,
    prefill_ms_per_token=0.5,
    decode_base_ms=10.0,
    decode_ms_per_sequence=1.0,
    decode_ms_per_kv_token=0.1,
    kv_cache_tokens=1000,
    max_running=4,
)


def request(number: int, *, prompt: int = 10, output: int = 3, at: float = 0.0) -> Sequence:
    return Sequence(id=number, prompt_tokens=prompt, output_tokens=output, arrived_at=at)


def test_a_step_costs_prefill_and_decode() -> None:
    batch, step = begin(submit(Batch(), request(1)), PROFILE, at_seconds=5.0)
    # 3 + 0.5 x 10 to prefill; 10 + 1 x 1 + 0.1 x 10 KV tokens to decode.
    assert step.duration_seconds == pytest.approx(0.020)
    assert step.prefill_seconds == pytest.approx(0.008)
    batch, tokens = complete(batch, at_seconds=5.02)
    assert [t.sequence.generated_tokens for t in tokens] == [1]
    assert tokens[0].sequence.first_token_at == 5.02 and tokens[0].previous_at is None
    _, step = begin(batch, PROFILE, at_seconds=5.02)
    assert step.prefill_seconds == 0.0
    assert step.duration_seconds == pytest.approx(0.0121)  # one KV token more


def test_cached_prompt_tokens_cost_nothing() -> None:
    profile = PROFILE.model_copy(update={"cached_prompt_fraction": 0.5})
    batch, step = begin(submit(Batch(), request(1)), profile, at_seconds=0.0)
    assert step.prefill_tokens == 5
    assert batch.running[0].cached_prompt_tokens == 5
    assert batch.kv_tokens == 10  # cached or not, they are held


def test_the_prefill_budget_bounds_a_step_but_never_blocks_one_prompt() -> None:
    profile = PROFILE.model_copy(update={"max_batched_tokens": 25})
    batch = Batch()
    for number, prompt in enumerate((30, 10, 10, 10)):
        batch = submit(batch, request(number, prompt=prompt))
    batch, step = begin(batch, profile, at_seconds=0.0)
    assert [s.id for s in step.admitted] == [0]
    batch, step = begin(complete(batch, at_seconds=0.1)[0], profile, at_seconds=0.1)
    assert [s.id for s in step.admitted] == [1, 2]


def test_kv_exhaustion_puts_the_newest_back_at_the_queues_head() -> None:
    profile = PROFILE.model_copy(update={"kv_cache_tokens": 24})
    batch = Batch()
    for number in range(3):
        batch = submit(batch, request(number, prompt=9, output=10))
    batch, _ = begin(batch, profile, at_seconds=0.0)
    assert [s.id for s in batch.running] == [0, 1]  # 2 x (9 + 1) of 24
    preempted = None
    for turn in range(1, 6):
        batch, _ = complete(batch, at_seconds=float(turn))
        batch, step = begin(batch, profile, at_seconds=float(turn))
        if step.preempted:
            preempted = step.preempted[0]
            break
    assert preempted is not None
    assert preempted.id == 1 and preempted.preemptions == 1
    assert preempted.generated_tokens > 0
    assert [s.id for s in batch.waiting] == [1, 2]


def test_cancelling_frees_the_slot_in_mid_step() -> None:
    profile = PROFILE.model_copy(update={"max_running": 1})
    batch, _ = begin(submit(submit(Batch(), request(1)), request(2)), profile, at_seconds=0.0)
    batch = cancel(batch, (1,))
    batch, tokens = complete(batch, at_seconds=0.1)
    assert tokens == ()
    batch, step = begin(batch, profile, at_seconds=0.1)
    assert [s.id for s in step.admitted] == [2]
    assert cancel(batch, (2,)).idle


profiles = st.builds(
    lambda running, kv, budget, cached: PROFILE.model_copy(
        update={
            "max_running": running,
            "kv_cache_tokens": kv,
            "max_batched_tokens": budget,
            "cached_prompt_fraction": cached,
        }
    ),
    st.integers(1, 6),
    st.integers(20, 120),
    st.integers(1, 80),
    st.sampled_from((0.0, 0.5, 1.0)),
)
requests = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 14), st.integers(1, 6)), min_size=1, max_size=14
)  # step of arrival, prompt, output


@settings(max_examples=300, deadline=None)
@given(profile=profiles, wanted=requests, cancelled_at=st.dictionaries(st.integers(0, 13), st.integers(0, 30)))
def test_every_schedule_is_sound(
    profile: EngineProfile, wanted: list[tuple[int, int, int]], cancelled_at: dict[int, int]
) -> None:
    batch = Batch()
    pending = sorted(enumerate(wanted), key=lambda item: item[1][0])
    tokens: list[Token] = []
    admissions: list[int] = []
    cancelled: set[int] = set()
    previous_step_seconds = 0.0
    now = 0.0
    for turn in range(2000):
        while pending and pending[0][1][0] <= turn:
            number, (_, prompt, output) = pending.pop(0)
            batch = submit(batch, request(len(wanted) * turn + number, prompt=prompt, output=output, at=now))
        batch, step = begin(batch, profile, at_seconds=now)
        admissions += [s.id for s in step.admitted if s.preemptions == 0]
        # Never above the limits, also after the token that the step will add to each.
        assert len(batch.running) <= profile.max_running
        assert batch.kv_tokens + len(batch.running) <= profile.kv_cache_tokens
        assert step.duration_seconds >= profile.decode_base_ms / 1000.0
        # FIFO: whoever waits came after whoever runs, and the queue is in order of arrival.
        waiting = [s.id for s in batch.waiting]
        assert waiting == sorted(waiting)
        assert not waiting or max((s.id for s in batch.running), default=-1) < waiting[0]
        # Work is never refused while there is room: an idle engine with a queue admits its head.
        assert batch.running or not batch.waiting
        gone = {s.id for s in (*batch.running, *batch.waiting) if cancelled_at.get(s.id % len(wanted)) == turn}
        cancelled |= gone
        batch = cancel(batch, gone)
        now += step.duration_seconds
        previous_step_seconds = step.duration_seconds
        batch, emitted = complete(batch, at_seconds=now)
        tokens += emitted
        if not pending and batch.idle:
            break
    assert previous_step_seconds > 0.0
    assert batch.idle, "every request ends"
    # Tokens are conserved: each request emits exactly its output, one a step, in order.
    by_request: dict[int, list[int]] = {}
    for token in tokens:
        by_request.setdefault(token.sequence.id, []).append(token.sequence.generated_tokens)
    finished = {t.sequence.id for t in tokens if t.finished}
    for number, counts in by_request.items():
        assert counts == list(range(1, len(counts) + 1))
        output = wanted[number % len(wanted)][2]
        assert len(counts) == output if number in finished else number in cancelled
    assert len(finished | cancelled) == len(wanted)
    assert admissions == sorted(admissions), "first come, first admitted"


def test_service_jitter_is_bounded_and_repeats() -> None:
    profile = PROFILE.model_copy(update={"service_jitter": 0.3})
    batch = submit(Batch(), request(1, output=100))
    durations = []
    for turn in range(50):
        batch, step = begin(batch, profile, at_seconds=float(turn))
        durations.append(step.duration_seconds / begin(replace(batch), PROFILE, at_seconds=0.0)[1].duration_seconds)
        batch, _ = complete(batch, at_seconds=float(turn))
    assert min(durations[1:]) >= 0.69
    assert max(durations[1:]) <= 1.31
    assert len(set(durations)) > 40
