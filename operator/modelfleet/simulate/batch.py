"""Continuous batching as a pure state machine: FIFO queue, batch limit, KV cache, preemption.

One step is `begin` (preempt, admit, price the step) and, once that much time has passed, `complete` (every
running sequence emits one token). Requests may be submitted or cancelled between the two.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from modelfleet.simulate.calibration import ServiceModel, noise


@dataclass(frozen=True, slots=True)
class Sequence:
    """One request inside the engine. Times are on the caller's clock, in seconds."""

    id: int
    prompt_tokens: int
    output_tokens: int
    arrived_at: float
    generated_tokens: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    preemptions: int = 0
    cached_prompt_tokens: int = 0

    @property
    def kv_tokens(self) -> int:
        """KV tokens held while running: the prompt and what it has generated."""
        return self.prompt_tokens + self.generated_tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """The engine's whole scheduling state; `running` is in order of admission."""

    waiting: tuple[Sequence, ...] = ()
    running: tuple[Sequence, ...] = ()
    steps: int = 0

    @property
    def kv_tokens(self) -> int:
        """KV tokens that the running sequences hold."""
        return sum(sequence.kv_tokens for sequence in self.running)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running


@dataclass(frozen=True, slots=True)
class Step:
    """What one step costs and does."""

    duration_seconds: float
    prefill_seconds: float
    prefill_tokens: int
    admitted: tuple[Sequence, ...]
    preempted: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token: the sequence just after it, and when its previous token came, if any."""

    sequence: Sequence
    previous_at: float | None
    finished: bool


def submit(batch: Batch, sequence: Sequence) -> Batch:
    """Return the batch with the sequence at the end of its queue."""
    return replace(batch, waiting=(*batch.waiting, sequence))


def cancel(batch: Batch, ids: Iterable[int]) -> Batch:
    """Return the batch without these sequences, wherever they are; their KV cache is free at once."""
    gone = frozenset(ids)
    return replace(
        batch,
        waiting=tuple(s for s in batch.waiting if s.id not in gone),
        running=tuple(s for s in batch.running if s.id not in gone),
    )


def begin(batch: Batch, profile: ServiceModel, *, at_seconds: float) -> tuple[Batch, Step]:
    """Start a step: preempt until every running sequence can grow, then admit from the queue's head.

    Admission stops at the first sequence that does not fit (FIFO: nothing overtakes), at `max_running`, when
    the prefill budget is spent, and whenever something was preempted in this step (as vLLM does, because what
    was just freed would be taken straight back).

    Args:
        batch: The state; no step is under way.
        profile: Limits and service times. A submitted sequence never exceeds `longest_sequence_tokens`, so the
            oldest running one always fits and progress is certain.
        at_seconds: Now.

    Returns:
        The state during the step, and the step's price. An idle batch gives a step of no sequences.
    """
    running, preempted = _preempt(batch.running, kv_cache_tokens=profile.kv_cache_tokens)
    waiting = (*preempted, *batch.waiting)
    admitted: list[Sequence] = []
    prefill_tokens = 0
    if not preempted:
        # Each running sequence takes one more token at the end of this step; so does each admitted one.
        kv_tokens = sum(s.kv_tokens + 1 for s in running)
        for sequence in waiting:
            need = sequence.kv_tokens + 1
            cached = int(sequence.kv_tokens * profile.cached_prompt_fraction)
            computed = sequence.kv_tokens - cached
            if len(running) + len(admitted) >= profile.max_running:
                break
            if kv_tokens + need > profile.kv_cache_tokens:
                break
            if admitted and prefill_tokens + computed > profile.max_batched_tokens:
                break
            kv_tokens += need
            prefill_tokens += computed
            if sequence.admitted_at is None:
                admitted.append(replace(sequence, admitted_at=at_seconds, cached_prompt_tokens=cached))
            else:
                admitted.append(sequence)
    running = (*running, *admitted)
    began = Batch(
        waiting=waiting[len(admitted) :],
        running=running,
        steps=batch.steps + 1,
    )
    prefill_ms = profile.prefill_base_ms + profile.prefill_ms_per_token * prefill_tokens if admitted else 0.0
    decode_ms = (
        profile.decode_base_ms
        + profile.decode_ms_per_sequence * len(running)
        + profile.decode_ms_per_kv_token * began.kv_tokens
    )
    factor = 1.0 + profile.service_jitter * noise(profile.seed, "step", began.steps) if profile.service_jitter else 1.0
    return began, Step(
        duration_seconds=(prefill_ms + decode_ms) * factor / 1000.0,
        prefill_seconds=prefill_ms * factor / 1000.0,
        prefill_tokens=prefill_tokens,
        admitted=tuple(admitted),
        preempted=preempted,
    )


def complete(batch: Batch, *, at_seconds: float) -> tuple[Batch, tuple[Token, ...]]:
    """End a step: every running sequence emits one token, and those at their length leave the batch."""
    tokens = []
    staying = []
    for before in batch.running:
        after = Sequence(
            before.id,
            before.prompt_tokens,
            before.output_tokens,
            before.arrived_at,
            before.generated_tokens + 1,
            before.admitted_at,
            at_seconds if before.first_token_at is None else before.first_token_at,
            at_seconds,
            before.preemptions,
            before.cached_prompt_tokens,
        )
        finished = after.generated_tokens >= after.output_tokens
        tokens.append(Token(after, before.last_token_at, finished))
        if not finished:
            staying.append(after)
    return Batch(batch.waiting, tuple(staying), batch.steps), tuple(tokens)


def _preempt(
    running: tuple[Sequence, ...], *, kv_cache_tokens: int
) -> tuple[tuple[Sequence, ...], tuple[Sequence, ...]]:
    """Split the running sequences into those that stay and those put back, newest first to go.

    What is put back keeps its generated tokens, loses its KV cache, and will prefill all of it again.
    """
    kept = len(running)
    kv_tokens = sum(s.kv_tokens + 1 for s in running)
    while kv_tokens > kv_cache_tokens and kept > 1:
        kept -= 1
        kv_tokens -= running[kept].kv_tokens + 1
    return running[:kept], tuple(replace(s, preemptions=s.preemptions + 1) for s in running[kept:])
