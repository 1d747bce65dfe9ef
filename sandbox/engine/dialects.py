"""How each engine reports: metric names, types, labels and bucket bounds, and where its traps are.

Pure: gauges and counters of every rank in, exposition text out. Facts come from the engines' own collectors;
llama.cpp's names and help were read from the running server that `real.py` starts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from prometheus_client.utils import floatToGoString

from sandbox.engine.meters import Buckets, Gauges, Histogram, Meters

EXPOSITION_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]
Value = tuple[Labels, float]


@dataclass(frozen=True)
class Rank:
    """One data-parallel rank at the instant of a scrape."""

    index: int
    gauges: Gauges
    meters: Meters


@dataclass(frozen=True)
class Engine:
    """One engine, as a scrape sees it. `ranks` is never empty."""

    model: str
    ranks: tuple[Rank, ...]


@dataclass(frozen=True)
class Dialect:
    """Where an engine answers, and how.

    Attributes:
        metrics_path: Prometheus exposition.
        json_metrics_path: Iteration statistics as JSON, or empty.
        health_path: What a readiness probe asks.
        other_health_paths: Further paths with the same answer.
        checks_model: Whether a request for another model is a 404; the others serve whatever they have.
        render: Exposition of a loaded engine.
    """

    metrics_path: str
    json_metrics_path: str
    health_path: str
    other_health_paths: tuple[str, ...]
    checks_model: bool
    buckets: Buckets
    render: Callable[[Engine], str]


def render_loading(started_at_unix: float) -> str:
    """Exposition of a process whose engine is still loading: no engine family exists yet (absent, not zero)."""
    page = _Page()
    page.gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        [((), started_at_unix)],
    )
    return page.text()


def render_iteration_stats(engine: Engine) -> str:
    """TensorRT-LLM's `/metrics`: a JSON list of iterations, which no Prometheus can read."""
    gauges = [rank.gauges for rank in engine.ranks]
    meters = [rank.meters for rank in engine.ranks]
    blocks = sum(g.kv_cache_tokens // g.kv_block_tokens for g in gauges)
    used = sum(-(-g.kv_tokens // g.kv_block_tokens) for g in gauges)
    iteration = {
        "iter": sum(m.decode_steps for m in meters),
        "iterLatencyMS": max(m.last_step_seconds for m in meters) * 1000.0,
        "numActiveRequests": sum(g.running for g in gauges),
        "numQueuedRequests": sum(g.waiting for g in gauges),
        "maxNumActiveRequests": sum(g.max_running for g in gauges),
        "numCompletedRequests": sum(m.finished for m in meters),
        "kvCacheStats": {
            "maxNumBlocks": blocks,
            "usedNumBlocks": used,
            "freeNumBlocks": blocks - used,
            "tokensPerBlock": gauges[0].kv_block_tokens,
        },
    }
    return json.dumps([iteration])


def _python_number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _plain_number(value: float) -> str:
    return f"{value:.10g}"


class _Page:
    """Collects families in the order given and renders the text format."""

    def __init__(self, *, number: Callable[[float], str] = _python_number, created: bool = False) -> None:
        self._lines: list[str] = []
        self._number = number
        self._created = created

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def gauge(self, name: str, help_text: str, values: Sequence[Value]) -> None:
        self._family(name, "gauge", help_text)
        self._samples(name, values)

    def counter(self, name: str, help_text: str, values: Sequence[Value], *, created_at_unix: float = 0.0) -> None:
        """`name` in full: the Python client's counters end in _total, the Rust client's need not."""
        self._family(name, "counter", help_text)
        self._samples(name, values)
        if self._created:
            stem = name.removesuffix("_total")
            self.gauge(f"{stem}_created", help_text, [(labels, created_at_unix) for labels, _ in values])

    def histogram(
        self, name: str, help_text: str, values: Sequence[tuple[Labels, Histogram]], *, created_at_unix: float = 0.0
    ) -> None:
        self._family(name, "histogram", help_text)
        for labels, histogram in values:
            cumulative = 0
            for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
                cumulative += count
                edge = "+Inf" if bound == float("inf") else self._number(bound)
                self._samples(f"{name}_bucket", [((*labels, ("le", edge)), cumulative)])
            self._samples(f"{name}_count", [(labels, cumulative)])
            self._samples(f"{name}_sum", [(labels, histogram.sum)])
        if self._created:
            self.gauge(f"{name}_created", help_text, [(labels, created_at_unix) for labels, _ in values])

    def _family(self, name: str, kind: str, help_text: str) -> None:
        if help_text:
            self._lines.append(f"# HELP {name} {help_text}")
        self._lines.append(f"# TYPE {name} {kind}")

    def _samples(self, name: str, values: Sequence[Value]) -> None:
        for labels, value in values:
            pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in sorted(labels))
            self._lines.append(f"{name}{{{pairs}}} {self._number(value)}" if pairs else f"{name} {self._number(value)}")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _per_rank(engine: Engine, labels: Callable[[Rank], Labels], value: Callable[[Rank], float]) -> list[Value]:
    return [(labels(rank), value(rank)) for rank in engine.ranks]


def _per_rank_histogram(
    engine: Engine, labels: Callable[[Rank], Labels], value: Callable[[Meters], Histogram]
) -> list[tuple[Labels, Histogram]]:
    return [(labels(rank), value(rank.meters)) for rank in engine.ranks]


def _total(engine: Engine, value: Callable[[Rank], float]) -> float:
    return sum(value(rank) for rank in engine.ranks)


def _merged(engine: Engine, value: Callable[[Meters], Histogram]) -> Histogram:
    """One histogram for engines that report a pod as one, however many ranks it has."""
    parts = [value(rank.meters) for rank in engine.ranks]
    whole = Histogram(parts[0].bounds)
    for part in parts:
        whole.counts = [a + b for a, b in zip(whole.counts, part.counts, strict=True)]
        whole.sum += part.sum
    return whole


def _vllm(engine: Engine) -> str:
    """vLLM v1. Token counters move every iteration; every series has `engine`, one per data-parallel rank."""

    def labels(rank: Rank) -> Labels:
        return (("model_name", engine.model), ("engine", str(rank.index)))

    created = engine.ranks[0].meters.started_at_unix
    page = _Page(created=True)
    page.gauge(
        "vllm:num_requests_running",
        "Number of requests in model execution batches.",
        _per_rank(engine, labels, lambda r: r.gauges.running),
    )
    page.gauge(
        "vllm:num_requests_waiting",
        "Number of requests waiting to be processed.",
        _per_rank(engine, labels, lambda r: r.gauges.waiting),
    )
    # Trap: shares its first 26 characters with the gauge above, and its reasons add up to it.
    page.gauge(
        "vllm:num_requests_waiting_by_reason",
        "Number of requests waiting to be processed, by reason.",
        [
            ((*labels(rank), ("reason", reason)), count)
            for rank in engine.ranks
            for reason, count in (("capacity", rank.gauges.waiting), ("deferred", 0))
        ],
    )
    page.gauge(
        "vllm:engine_sleep_state",
        "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake.",
        [((*labels(rank), ("sleep_state", "awake")), 1) for rank in engine.ranks],
    )
    page.gauge(
        "vllm:kv_cache_usage_perc",
        "KV-cache usage. 1 means 100 percent usage.",
        _per_rank(engine, labels, lambda r: r.gauges.kv_utilization),
    )
    for name, help_text, value in _VLLM_COUNTERS:
        page.counter(name, help_text, _per_rank(engine, labels, value), created_at_unix=created)
    page.counter(
        "vllm:request_success_total",
        "Count of successfully processed requests.",
        [
            ((*labels(rank), ("finished_reason", reason)), count)
            for rank in engine.ranks
            for reason, count in (("stop", 0), ("length", rank.meters.finished), ("abort", rank.meters.aborted))
        ],
        created_at_unix=created,
    )
    for name, help_text, histogram in _VLLM_HISTOGRAMS:
        page.histogram(name, help_text, _per_rank_histogram(engine, labels, histogram), created_at_unix=created)
    # Trap: the only place that tells the KV capacity has no model_name.
    page.gauge(
        "vllm:cache_config_info",
        "Information of the LLMEngine CacheConfig",
        [
            (
                (
                    ("block_size", str(rank.gauges.kv_block_tokens)),
                    ("num_gpu_blocks", str(rank.gauges.kv_cache_tokens // rank.gauges.kv_block_tokens)),
                    ("enable_prefix_caching", "True"),
                    ("gpu_memory_utilization", "0.9"),
                    ("engine", str(rank.index)),
                ),
                1,
            )
            for rank in engine.ranks
        ],
    )
    return page.text()


_VLLM_COUNTERS: Final[tuple[tuple[str, str, Callable[[Rank], float]], ...]] = (
    (
        "vllm:prefix_cache_queries_total",
        "Prefix cache queries, in terms of number of queried tokens.",
        lambda r: r.meters.prompt_tokens,
    ),
    (
        "vllm:prefix_cache_hits_total",
        "Prefix cache hits, in terms of number of cached tokens.",
        lambda r: r.meters.cached_prompt_tokens,
    ),
    (
        "vllm:num_preemptions_total",
        "Cumulative number of preemption from the engine.",
        lambda r: r.meters.preemptions,
    ),
    ("vllm:prompt_tokens_total", "Number of prefill tokens processed.", lambda r: r.meters.prompt_tokens),
    ("vllm:prompt_tokens_cached_total", "Number of cached prompt tokens.", lambda r: r.meters.cached_prompt_tokens),
    ("vllm:generation_tokens_total", "Number of generation tokens processed.", lambda r: r.meters.generation_tokens),
)

_VLLM_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[Meters], Histogram]], ...]] = (
    (
        "vllm:time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        lambda m: m.time_to_first_token,
    ),
    (
        "vllm:inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        lambda m: m.inter_token_latency,
    ),
    (
        "vllm:request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        lambda m: m.mean_token_time,
    ),
    ("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", lambda m: m.request_latency),
    (
        "vllm:request_queue_time_seconds",
        "Histogram of time spent in WAITING phase for request.",
        lambda m: m.queue_time,
    ),
    ("vllm:request_prompt_tokens", "Number of prefill tokens processed.", lambda m: m.request_prompt_tokens),
    (
        "vllm:request_generation_tokens",
        "Number of generation tokens processed.",
        lambda m: m.request_generation_tokens,
    ),
)


def _sglang(engine: Engine) -> str:
    """SGLang. Gauges are the scheduler's, one per rank; token counters are the tokenizer's, moved at finish only."""

    def scheduler(rank: Rank) -> Labels:
        own: Labels = (
            ("model_name", engine.model),
            ("engine_type", "unified"),
            ("tp_rank", "0"),
            ("pp_rank", "0"),
            ("moe_ep_rank", "0"),
        )
        return (*own, ("dp_rank", str(rank.index))) if len(engine.ranks) > 1 else own

    tokenizer: Labels = (("model_name", engine.model),)
    created = engine.ranks[0].meters.started_at_unix
    page = _Page(created=True)
    gauges: tuple[tuple[str, str, Callable[[Gauges], float]], ...] = (
        ("sglang:num_running_reqs", "The number of running requests.", lambda g: g.running),
        ("sglang:num_used_tokens", "The number of used tokens.", lambda g: g.kv_tokens),
        ("sglang:token_usage", "The token usage.", lambda g: g.kv_utilization),
        # Trap: refreshed once in 40 decode steps and kept for 30 s after the last one.
        (
            "sglang:gen_throughput",
            "The generation throughput (token/s).",
            lambda g: g.generation_tokens_per_second,
        ),
        ("sglang:num_queue_reqs", "The number of requests in the waiting queue.", lambda g: g.waiting),
        (
            "sglang:max_total_num_tokens",
            "Maximum total number of tokens in the KV cache pool.",
            lambda g: g.kv_cache_tokens,
        ),
    )
    for name, help_text, read in gauges:
        page.gauge(name, help_text, [(scheduler(rank), read(rank.gauges)) for rank in engine.ranks])
    page.gauge(
        "sglang:cache_hit_rate",
        "The prefix cache hit rate.",
        [
            (scheduler(rank), rank.meters.cached_prompt_tokens / max(rank.meters.prompt_tokens, 1))
            for rank in engine.ranks
        ],
    )
    page.counter(
        "sglang:realtime_tokens_total",
        "Total number of tokens processed in each mode. This metric is updated on each log interval.",
        [
            ((*scheduler(rank), ("mode", mode)), count)
            for rank in engine.ranks
            for mode, count in (
                ("prefill_compute", rank.meters.prompt_tokens - rank.meters.cached_prompt_tokens),
                ("prefill_cache", rank.meters.cached_prompt_tokens),
                ("decode", rank.meters.logged_generation_tokens),
            )
            if count
        ],
        created_at_unix=created,
    )
    counters: tuple[tuple[str, str, Callable[[Meters], float]], ...] = (
        ("sglang:prompt_tokens_total", "Number of prefill tokens processed.", lambda m: m.finished_prompt_tokens),
        (
            "sglang:generation_tokens_total",
            "Number of generation tokens processed.",
            lambda m: m.finished_generation_tokens,
        ),
        (
            "sglang:cached_tokens_total",
            "Number of cached prompt tokens.",
            lambda m: m.finished_cached_prompt_tokens,
        ),
        ("sglang:num_requests_total", "Number of requests processed.", lambda m: m.finished),
        ("sglang:num_aborted_requests_total", "Number of requests aborted.", lambda m: m.aborted),
    )
    # Trap: like any labelled counter of the Python client these do not exist before their first increment.
    for name, help_text, count in counters:
        value = sum(count(rank.meters) for rank in engine.ranks)
        page.counter(name, help_text, [(tokenizer, value)] if value else [], created_at_unix=created)
    histograms: tuple[tuple[str, str, Callable[[Meters], Histogram]], ...] = (
        (
            "sglang:time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            lambda m: m.time_to_first_token,
        ),
        (
            "sglang:inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            lambda m: m.inter_token_latency,
        ),
        (
            "sglang:e2e_request_latency_seconds",
            "Histogram of End-to-end request latency in seconds",
            lambda m: m.request_latency,
        ),
    )
    for name, help_text, histogram in histograms:
        whole = _merged(engine, histogram)
        page.histogram(name, help_text, [(tokenizer, whole)] if whole.count else [], created_at_unix=created)
    return page.text()


def _tgi(engine: Engine) -> str:
    """TGI's router. No labels, no _total suffix, tokens only inside histograms, nothing of the KV cache.

    Trap: its Rust client makes a series at its first use, so a fresh and idle server exposes none.
    """
    page = _Page(number=_plain_number)
    if not _total(engine, lambda r: r.meters.received):
        return page.text()
    page.gauge("tgi_queue_size", "Current number of requests in the internal queue", [((), _total(engine, _waiting))])
    page.gauge("tgi_batch_current_size", "Current batch size", [((), _total(engine, _running))])
    page.gauge(
        "tgi_batch_current_max_tokens",
        "Number of maximum tokens the current batch will grow to",
        [((), _total(engine, lambda r: r.gauges.kv_tokens))],
    )
    page.counter("tgi_request_count", "Total number of requests", [((), _total(engine, lambda r: r.meters.received))])
    page.counter(
        "tgi_request_success",
        "Number of successful requests",
        [((), _total(engine, lambda r: r.meters.finished))],
    )
    page.counter(
        "tgi_batch_inference_count",
        "Inference calls per method (prefill or decode)",
        [((("method", "next_token"),), _total(engine, lambda r: r.meters.decode_steps))],
    )
    histograms: tuple[tuple[str, str, Callable[[Meters], Histogram]], ...] = (
        ("tgi_request_input_length", "Input token length per request", lambda m: m.request_prompt_tokens),
        ("tgi_request_generated_tokens", "Generated tokens per request", lambda m: m.request_generation_tokens),
        ("tgi_request_duration", "End-to-end generate request duration (in seconds)", lambda m: m.request_latency),
        ("tgi_request_queue_duration", "Time spent in the queue per request (in seconds)", lambda m: m.queue_time),
        (
            "tgi_request_mean_time_per_token_duration",
            "Mean time per token per request (in seconds)",
            lambda m: m.mean_batch_time,
        ),
    )
    for name, help_text, histogram in histograms:
        page.histogram(name, help_text, [((), _merged(engine, histogram))])
    return page.text()


def _trtllm(engine: Engine) -> str:
    """trtllm-serve's Prometheus page: one engine per pod; token counters move when a request finishes."""
    labels: Labels = (("model_name", engine.model), ("engine_type", "trtllm"))
    first = engine.ranks[0].gauges
    created = engine.ranks[0].meters.started_at_unix
    blocks = _total(engine, lambda r: r.gauges.kv_cache_tokens // r.gauges.kv_block_tokens)
    used = _total(engine, lambda r: -(-r.gauges.kv_tokens // r.gauges.kv_block_tokens))
    page = _Page(created=True)
    for name, help_text, value in (
        ("trtllm_num_requests_running", "Number of active requests", _total(engine, _running)),
        ("trtllm_num_requests_waiting", "Number of queued requests", _total(engine, _waiting)),
        (
            "trtllm_max_num_active_requests",
            "Maximum number of active requests",
            _total(engine, lambda r: r.gauges.max_running),
        ),
        ("trtllm_kv_cache_utilization", "KV cache utilization", used / blocks),
        ("trtllm_kv_cache_max_blocks", "Maximum number of KV cache blocks", blocks),
        ("trtllm_kv_cache_free_blocks", "Number of free KV cache blocks", blocks - used),
        ("trtllm_kv_cache_used_blocks", "Number of used KV cache blocks", used),
        ("trtllm_kv_cache_tokens_per_block", "Number of tokens per KV cache block", first.kv_block_tokens),
        (
            "trtllm_kv_cache_hit_rate",
            "KV cache hit rate",
            _total(engine, lambda r: r.meters.cached_prompt_tokens)
            / max(_total(engine, lambda r: r.meters.prompt_tokens), 1),
        ),
    ):
        page.gauge(name, help_text, [(labels, value)])
    for name, help_text, value in (
        (
            "trtllm_prompt_tokens_total",
            "Cumulative number of prompt (input) tokens processed.",
            _total(engine, lambda r: r.meters.finished_prompt_tokens),
        ),
        (
            "trtllm_generation_tokens_total",
            "Cumulative number of generation (output) tokens produced.",
            _total(engine, lambda r: r.meters.finished_generation_tokens),
        ),
        (
            "trtllm_num_requests_completed_total",
            "Total number of completed requests across iterations",
            _total(engine, lambda r: r.meters.finished),
        ),
    ):
        page.counter(name, help_text, [(labels, value)], created_at_unix=created)
    page.counter(
        "trtllm_request_success_total",
        "Count of successfully processed requests.",
        [((*labels, ("finished_reason", "length")), _total(engine, lambda r: r.meters.finished))],
        created_at_unix=created,
    )
    histograms: tuple[tuple[str, str, Callable[[Meters], Histogram]], ...] = (
        (
            "trtllm_time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            lambda m: m.time_to_first_token,
        ),
        (
            "trtllm_time_per_output_token_seconds",
            "Histogram of time per output token in seconds.",
            lambda m: m.mean_token_time,
        ),
        (
            "trtllm_e2e_request_latency_seconds",
            "Histogram of end to end request latency in seconds.",
            lambda m: m.request_latency,
        ),
        (
            "trtllm_request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            lambda m: m.queue_time,
        ),
    )
    for name, help_text, histogram in histograms:
        page.histogram(name, help_text, [(labels, _merged(engine, histogram))], created_at_unix=created)
    return page.text()


def _nim(engine: Engine) -> str:
    """NIM on its vLLM backend: vLLM's families without their prefix, and without created series.

    `engine` appears only with several ranks.
    """

    def labels(rank: Rank) -> Labels:
        own: Labels = (("model_name", engine.model),)
        return (*own, ("engine", str(rank.index))) if len(engine.ranks) > 1 else own

    page = _Page()
    gauges: tuple[tuple[str, str, Callable[[Gauges], float]], ...] = (
        ("num_requests_running", "Number of requests currently running on GPU.", lambda g: g.running),
        ("num_requests_waiting", "Number of requests waiting to be processed.", lambda g: g.waiting),
        ("num_request_max", "Max number of concurrently running requests.", lambda g: g.max_running),
        ("gpu_cache_usage_perc", "GPU KV-cache usage. 1 means 100 percent usage.", lambda g: g.kv_utilization),
    )
    for name, help_text, read in gauges:
        page.gauge(name, help_text, [(labels(rank), read(rank.gauges)) for rank in engine.ranks])
    page.counter(
        "prompt_tokens_total",
        "Number of prefill tokens processed.",
        _per_rank(engine, labels, lambda r: r.meters.prompt_tokens),
    )
    page.counter(
        "generation_tokens_total",
        "Number of generation tokens processed.",
        _per_rank(engine, labels, lambda r: r.meters.generation_tokens),
    )
    page.counter(
        "request_success_total",
        "Count of successfully processed requests.",
        [((*labels(rank), ("finished_reason", "length")), rank.meters.finished) for rank in engine.ranks],
    )
    histograms: tuple[tuple[str, str, Callable[[Meters], Histogram]], ...] = (
        (
            "time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            lambda m: m.time_to_first_token,
        ),
        (
            "time_per_output_token_seconds",
            "Histogram of time per output token in seconds.",
            lambda m: m.inter_token_latency,
        ),
        (
            "e2e_request_latency_seconds",
            "Histogram of end to end request latency in seconds.",
            lambda m: m.request_latency,
        ),
        ("request_prompt_tokens", "Number of prefill tokens processed.", lambda m: m.request_prompt_tokens),
        (
            "request_generation_tokens",
            "Number of generation tokens processed.",
            lambda m: m.request_generation_tokens,
        ),
    )
    for name, help_text, histogram in histograms:
        page.histogram(name, help_text, _per_rank_histogram(engine, labels, histogram))
    return page.text()


def _llamacpp(engine: Engine) -> str:
    """llama.cpp. No labels, no histograms; predicted tokens move when a slot is released, prompt tokens at prefill.

    Trap: the predicted seconds are a slot's from its first token to its last, one interval less than it has tokens.
    """
    prompt_tokens = _total(engine, lambda r: r.meters.prompt_tokens - r.meters.cached_prompt_tokens)
    prompt_seconds = _total(engine, lambda r: r.meters.prefill_seconds)
    predicted = _total(engine, lambda r: r.meters.released_generation_tokens)
    predicted_seconds = _total(engine, lambda r: r.meters.released_generation_seconds)
    decodes = _total(engine, lambda r: r.meters.decode_steps)
    page = _Page(number=_plain_number)
    for name, help_text, value in (
        (
            "llamacpp:prompt_tokens_total",
            "Number of prompt tokens processed, excluding cached tokens",
            prompt_tokens,
        ),
        (
            "llamacpp:prompt_tokens_cached_total",
            "Number of prompt tokens reused from the cache",
            _total(engine, lambda r: r.meters.cached_prompt_tokens),
        ),
        ("llamacpp:prompt_seconds_total", "Total time spent processing prompts", prompt_seconds),
        ("llamacpp:tokens_predicted_total", "Number of generation tokens processed", predicted),
        ("llamacpp:tokens_predicted_seconds_total", "Total time spent generating tokens", predicted_seconds),
        (
            "llamacpp:n_decode_total",
            "Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding",
            decodes,
        ),
        (
            "llamacpp:n_tokens_max",
            "Largest observed sequence length (prompt + generation)",
            max(rank.meters.longest_sequence_tokens for rank in engine.ranks),
        ),
    ):
        page.counter(name, help_text, [((), value)])
    for name, help_text, value in (
        (
            "llamacpp:prompt_tokens_seconds",
            "Average prompt throughput in tokens/s",
            prompt_tokens / prompt_seconds if prompt_seconds else 0.0,
        ),
        (
            "llamacpp:predicted_tokens_seconds",
            "Average generation throughput in tokens/s",
            predicted / predicted_seconds if predicted_seconds else 0.0,
        ),
        ("llamacpp:requests_processing", "Number of requests processing", _total(engine, _running)),
        ("llamacpp:requests_deferred", "Number of requests deferred", _total(engine, _waiting)),
        (
            "llamacpp:n_busy_slots_per_decode",
            "Average number of busy slots per llama_decode() call",
            _total(engine, lambda r: r.meters.busy_slot_steps) / max(decodes, 1),
        ),
    ):
        page.gauge(name, help_text, [((), value)])
    return page.text()


def _running(rank: Rank) -> float:
    return rank.gauges.running


def _waiting(rank: Rank) -> float:
    return rank.gauges.waiting


# vLLM's bounds; TensorRT-LLM copied its collector from vLLM, bounds included.
_VLLM_BUCKETS: Final = Buckets(
    time_to_first_token=(
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
        *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
    ),
    inter_token_latency=(
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
        *(20.0, 40.0, 80.0),
    ),
    request_latency=(
        *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
        *(240.0, 480.0, 960.0, 1920.0, 7680.0),
    ),
    request_tokens=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000),
)

_SGLANG_BUCKETS: Final = Buckets(
    time_to_first_token=(0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400),
    inter_token_latency=(
        *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08),
        *(0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8),
    ),
    request_latency=(
        *(0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600),
        *(1200, 1800, 2400),
    ),
    request_tokens=(100, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 10_000, 20_000, 40_000, 132_000),
)

_NIM_BUCKETS: Final = Buckets(
    time_to_first_token=_VLLM_BUCKETS.time_to_first_token[:16],
    inter_token_latency=_VLLM_BUCKETS.inter_token_latency[:13],
    request_latency=(1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    request_tokens=_VLLM_BUCKETS.request_tokens,
)

# TGI makes its own from a factor of 1.5 for durations and 100 equal steps for lengths; these are coarser.
_TGI_BUCKETS: Final = Buckets(
    time_to_first_token=(0.1, 0.5, 1.0, 5.0, 10.0),
    inter_token_latency=tuple(0.0001 * 1.5**n for n in range(32)),
    request_latency=tuple(0.0001 * 1.5**n for n in range(40)),
    request_tokens=tuple(float(n) for n in range(320, 32_320, 320)),
)

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "vllm": Dialect("/metrics", "", "/health", ("/ping",), True, _VLLM_BUCKETS, _vllm),
        "sglang": Dialect("/metrics", "", "/health", ("/health_generate",), False, _SGLANG_BUCKETS, _sglang),
        "tgi": Dialect("/metrics", "", "/health", (), False, _TGI_BUCKETS, _tgi),
        # Trap: what looks like the metrics path answers JSON.
        "trtllm": Dialect("/prometheus/metrics", "/metrics", "/health", (), False, _VLLM_BUCKETS, _trtllm),
        "nim": Dialect("/v1/metrics", "", "/v1/health/ready", ("/v1/health/live",), True, _NIM_BUCKETS, _nim),
        "llamacpp": Dialect("/metrics", "", "/health", ("/v1/health",), False, _VLLM_BUCKETS, _llamacpp),
    }
)
"""By the value of the `modelfleet.dev/engine` label."""
