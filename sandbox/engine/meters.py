"""What one engine rank has counted since it started, and what it holds now."""

from bisect import bisect_left
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Final

from modelfleet.simulate.batch import Batch, Sequence, Step, Token
from sandbox.engine.profile import EngineProfile

THROUGHPUT_STEPS: Final = 40
"""SGLang refreshes its live throughput once in this many decode steps (`decode_log_interval`)."""
THROUGHPUT_IDLE_SECONDS: Final = 30.0
"""SGLang logs zero once it has been idle this long; until then the gauge keeps its last value."""


@dataclass(frozen=True)
class Buckets:
    """Upper bounds of an engine's histograms, without +Inf. Each engine has its own."""

    time_to_first_token: tuple[float, ...]
    inter_token_latency: tuple[float, ...]
    request_latency: tuple[float, ...]
    request_tokens: tuple[float, ...]


class Histogram:
    """A Prometheus histogram: counts per bucket (not cumulative), and a sum."""

    def __init__(self, bounds: Seq[float]) -> None:
        """Count into these upper bounds, and +Inf."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value. A value equal to a bound is inside it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)


@dataclass(frozen=True)
class Gauges:
    """What one rank holds at the instant of a scrape."""

    running: int
    waiting: int
    kv_tokens: int
    kv_cache_tokens: int
    kv_block_tokens: int
    max_running: int
    generation_tokens_per_second: float

    @property
    def kv_utilization(self) -> float:
        """Part of the KV cache in use, 0 to 1."""
        return self.kv_tokens / self.kv_cache_tokens


@dataclass
class Meters:
    """Counters of one process life. Only a new process, or the counter-reset fault, makes them fall.

    Tokens are counted twice: `prompt_tokens` and `generation_tokens` as they happen (vLLM), and the
    `finished_*` ones when a request ends well (SGLang, TGI, TensorRT-LLM). Which one an engine shows is its
    dialect's business. `released_*` counts those cut off as well (llama.cpp), `logged_*` is what SGLang's
    scheduler last wrote down. The time between tokens is counted by token (`inter_token_latency`), by finished
    request from its first token on (`mean_token_time`) or from its admission on (`mean_batch_time`, TGI).
    """

    buckets: Buckets
    started_at_unix: float
    received: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generation_tokens: int = 0
    logged_generation_tokens: int = 0
    released_generation_tokens: int = 0
    released_generation_seconds: float = 0.0
    finished: int = 0
    finished_prompt_tokens: int = 0
    finished_cached_prompt_tokens: int = 0
    finished_generation_tokens: int = 0
    aborted: int = 0
    preemptions: int = 0
    decode_steps: int = 0
    busy_slot_steps: int = 0
    prefill_seconds: float = 0.0
    last_step_seconds: float = 0.0
    longest_sequence_tokens: int = 0
    time_to_first_token: Histogram = field(init=False)
    inter_token_latency: Histogram = field(init=False)
    request_latency: Histogram = field(init=False)
    queue_time: Histogram = field(init=False)
    mean_token_time: Histogram = field(init=False)
    mean_batch_time: Histogram = field(init=False)
    request_prompt_tokens: Histogram = field(init=False)
    request_generation_tokens: Histogram = field(init=False)
    _throughput: float = 0.0
    _window_tokens: int = 0
    _window_steps: int = 0
    _window_started_at: float = 0.0
    _last_step_at: float = 0.0

    def __post_init__(self) -> None:
        """Make the histograms."""
        self.time_to_first_token = Histogram(self.buckets.time_to_first_token)
        self.inter_token_latency = Histogram(self.buckets.inter_token_latency)
        self.request_latency = Histogram(self.buckets.request_latency)
        self.queue_time = Histogram(self.buckets.request_latency)
        self.mean_token_time = Histogram(self.buckets.inter_token_latency)
        self.mean_batch_time = Histogram(self.buckets.inter_token_latency)
        self.request_prompt_tokens = Histogram(self.buckets.request_tokens)
        self.request_generation_tokens = Histogram(self.buckets.request_tokens)

    def count_received(self) -> None:
        """Count a request that was accepted."""
        self.received += 1

    def count_begun(self, step: Step) -> None:
        """Count what a step puts back."""
        self.preemptions += len(step.preempted)

    def count_completed(self, step: Step, tokens: Seq[Token], *, at_seconds: float) -> None:
        """Count one finished step and the tokens it emitted."""
        if not tokens:
            return
        self.decode_steps += 1
        self.busy_slot_steps += len(tokens)
        self.prefill_seconds += step.prefill_seconds
        self.last_step_seconds = step.duration_seconds
        self.generation_tokens += len(tokens)
        self._measure_throughput(len(tokens), step, at_seconds)
        for token in tokens:
            sequence = token.sequence
            if token.previous_at is None:
                # Once a request, even when preemption makes the engine prefill it again: as vLLM counts.
                self.prompt_tokens += sequence.prompt_tokens
                self.cached_prompt_tokens += sequence.cached_prompt_tokens
                self.time_to_first_token.observe(at_seconds - sequence.arrived_at)
                self.queue_time.observe((sequence.admitted_at or at_seconds) - sequence.arrived_at)
            else:
                self.inter_token_latency.observe(at_seconds - token.previous_at)
            if token.finished:
                self._count_finished(sequence, at_seconds)

    def count_aborted(self, sequence: Sequence) -> None:
        """Count a request whose client went away: no engine's finish-time token counter moves."""
        self.aborted += 1
        self._count_released(sequence)

    def gauges(self, batch: Batch, profile: EngineProfile, *, at_seconds: float) -> Gauges:
        """Return what the rank holds now."""
        idle = batch.idle and at_seconds - self._last_step_at > THROUGHPUT_IDLE_SECONDS
        return Gauges(
            running=len(batch.running),
            waiting=len(batch.waiting),
            kv_tokens=batch.kv_tokens,
            kv_cache_tokens=profile.kv_cache_tokens,
            kv_block_tokens=profile.kv_block_tokens,
            max_running=profile.max_running,
            generation_tokens_per_second=0.0 if idle else self._throughput,
        )

    def _count_finished(self, sequence: Sequence, at_seconds: float) -> None:
        self.finished += 1
        self.finished_prompt_tokens += sequence.prompt_tokens
        self.finished_cached_prompt_tokens += sequence.cached_prompt_tokens
        self.finished_generation_tokens += sequence.generated_tokens
        self._count_released(sequence)
        self.longest_sequence_tokens = max(self.longest_sequence_tokens, sequence.kv_tokens)
        self.request_latency.observe(at_seconds - sequence.arrived_at)
        self.request_prompt_tokens.observe(sequence.prompt_tokens)
        self.request_generation_tokens.observe(sequence.generated_tokens)
        if sequence.generated_tokens > 1 and sequence.first_token_at is not None:
            decode_seconds = at_seconds - sequence.first_token_at
            self.mean_token_time.observe(decode_seconds / (sequence.generated_tokens - 1))
        if sequence.admitted_at is not None:
            self.mean_batch_time.observe((at_seconds - sequence.admitted_at) / sequence.generated_tokens)

    def _count_released(self, sequence: Sequence) -> None:
        self.released_generation_tokens += sequence.generated_tokens
        if sequence.first_token_at is not None and sequence.last_token_at is not None:
            # Each slot's own time: of two that generate side by side, both count.
            self.released_generation_seconds += sequence.last_token_at - sequence.first_token_at

    def _measure_throughput(self, tokens: int, step: Step, at_seconds: float) -> None:
        began_at = at_seconds - step.duration_seconds
        if self._window_steps == 0 or began_at - self._last_step_at > 1.0:
            self._window_started_at, self._window_tokens, self._window_steps = began_at, 0, 0
        self._window_tokens += tokens
        self._window_steps += 1
        self._last_step_at = at_seconds
        if self._window_steps >= THROUGHPUT_STEPS:
            self.logged_generation_tokens = self.generation_tokens
            self._throughput = self._window_tokens / (at_seconds - self._window_started_at)
            self._window_steps = 0
