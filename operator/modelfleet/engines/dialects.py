"""The dialect table: metric names, ports, paths and shutdown of every engine.

Names are matched exactly: `vllm:num_requests_waiting` must not also match
`vllm:num_requests_waiting_by_reason`. A metric lists its names newest first; the first one that a
pod exposes is used. Several series of one name in one pod (data-parallel ranks, label `engine` or
`dp_rank`) are one pod's parts: counts add up, fractions take the fullest rank, because the fullest
rank is the one that starts to queue.
"""

from dataclasses import dataclass
from enum import Enum

from modelfleet.api.engine import Engine


class Fold(Enum):
    """How the several series of one pod become one number."""

    SUM = "sum"
    MAX = "max"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One concept in one dialect; `names` newest first, empty when the engine does not expose it."""

    names: tuple[str, ...] = ()
    fold: Fold = Fold.SUM


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How one engine's server is spoken to.

    Attributes:
        output_tokens: Counter of generated tokens.
        prompt_tokens: Counter of prompt tokens; those that the prefix cache held too, but for llama.cpp.
        output_tokens_per_second: Live gauge of the same; preferred where counters move at request end.
        inter_token_seconds_sum: Counter of the seconds between two tokens of a sequence; a histogram's sum.
        inter_token_seconds_count: Counter of those intervals; the same histogram's count.
        rate_window_seconds: Span over which counter rates are taken. Counters that move at request end
            need a span longer than a typical request; counters that move with every step do not.
        drains_on_sigterm: Whether the server finishes its streams after SIGTERM (vLLM: with the
            --shutdown-timeout that its preset sets). Where it does not, the stop is delayed instead.
        token_variable: Environment variable from which it reads the token of the place that has the weights.
    """

    port: int
    metrics_path: str
    health_path: str
    queued_requests: Metric
    running_requests: Metric
    output_tokens: Metric
    prompt_tokens: Metric
    finished_requests: Metric
    kv_cache_utilization: Metric = Metric(fold=Fold.MAX)
    output_tokens_per_second: Metric = Metric()
    inter_token_seconds_sum: Metric
    inter_token_seconds_count: Metric
    rate_window_seconds: float
    drains_on_sigterm: bool = True
    token_variable: str = "HF_TOKEN"  # noqa: S105 - a name

    def names(self) -> tuple[str, ...]:
        """Return every metric name that a decision reads."""
        metrics = (
            self.queued_requests,
            self.running_requests,
            self.output_tokens,
            self.prompt_tokens,
            self.finished_requests,
            self.kv_cache_utilization,
            self.output_tokens_per_second,
            self.inter_token_seconds_sum,
            self.inter_token_seconds_count,
        )
        # Once each: llama.cpp's tokens are counted as output, and by their time.
        return tuple(dict.fromkeys(name for metric in metrics for name in metric.names))


PER_STEP_WINDOW_SECONDS = 5.0
AT_FINISH_WINDOW_SECONDS = 30.0

DIALECTS: dict[Engine, Dialect] = {
    Engine.VLLM: Dialect(
        port=8000,
        metrics_path="/metrics",
        health_path="/health",
        queued_requests=Metric(names=("vllm:num_requests_waiting",)),
        running_requests=Metric(names=("vllm:num_requests_running",)),
        output_tokens=Metric(names=("vllm:generation_tokens_total",)),
        prompt_tokens=Metric(names=("vllm:prompt_tokens_total",)),
        finished_requests=Metric(names=("vllm:request_success_total",)),
        kv_cache_utilization=Metric(names=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), fold=Fold.MAX),
        # One interval per sequence and step, however many tokens a speculative step accepted. Renamed in 0.11.
        # vllm:request_time_per_output_token_seconds is another thing: one mean per finished request.
        inter_token_seconds_sum=Metric(
            names=("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum")
        ),
        inter_token_seconds_count=Metric(
            names=("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count")
        ),
        rate_window_seconds=PER_STEP_WINDOW_SECONDS,
    ),
    Engine.SGLANG: Dialect(
        port=30000,
        metrics_path="/metrics",
        health_path="/health",
        queued_requests=Metric(names=("sglang:num_queue_reqs",)),
        running_requests=Metric(names=("sglang:num_running_reqs",)),
        output_tokens=Metric(names=("sglang:generation_tokens_total",)),
        prompt_tokens=Metric(names=("sglang:prompt_tokens_total",)),
        finished_requests=Metric(names=("sglang:num_requests_total",)),
        kv_cache_utilization=Metric(names=("sglang:token_usage",), fold=Fold.MAX),
        output_tokens_per_second=Metric(names=("sglang:gen_throughput",)),
        # One interval per token, moved while requests run. No older name: sglang:time_per_output_token_seconds
        # was a request's whole duration by its tokens, queue included.
        inter_token_seconds_sum=Metric(names=("sglang:inter_token_latency_seconds_sum",)),
        inter_token_seconds_count=Metric(names=("sglang:inter_token_latency_seconds_count",)),
        rate_window_seconds=AT_FINISH_WINDOW_SECONDS,
    ),
    # A TGI that never served a request exposes no series at all: unknown until the first one.
    Engine.TGI: Dialect(
        port=8080,
        metrics_path="/metrics",
        health_path="/health",
        queued_requests=Metric(names=("tgi_queue_size",)),
        running_requests=Metric(names=("tgi_batch_current_size",)),
        output_tokens=Metric(names=("tgi_request_generated_tokens_sum",)),
        prompt_tokens=Metric(names=("tgi_request_input_length_sum",)),
        finished_requests=Metric(names=("tgi_request_success", "tgi_request_success_total")),
        # One value per finished request: its time in the batch, prefill included, by its tokens. Sum by count
        # is a mean over requests: a short answer, in which the prefill shows most, weighs as much as a long one.
        inter_token_seconds_sum=Metric(names=("tgi_request_mean_time_per_token_duration_sum",)),
        inter_token_seconds_count=Metric(names=("tgi_request_mean_time_per_token_duration_count",)),
        rate_window_seconds=AT_FINISH_WINDOW_SECONDS,
    ),
    # trtllm-serve answers JSON at /metrics; Prometheus text needs `return_perf_metrics: true`, and its
    # token counters are per-request metrics: they move when a request ends.
    Engine.TRTLLM: Dialect(
        port=8000,
        metrics_path="/prometheus/metrics",
        health_path="/health",
        queued_requests=Metric(names=("trtllm_num_requests_waiting",)),
        running_requests=Metric(names=("trtllm_num_requests_running",)),
        output_tokens=Metric(names=("trtllm_generation_tokens_total", "trtllm_generation_tokens")),
        prompt_tokens=Metric(names=("trtllm_prompt_tokens_total", "trtllm_prompt_tokens")),
        finished_requests=Metric(names=("trtllm_request_success_total", "trtllm_request_success")),
        kv_cache_utilization=Metric(names=("trtllm_kv_cache_utilization",), fold=Fold.MAX),
        # One value per finished request of two tokens or more, the mean of its intervals: a mean over requests.
        inter_token_seconds_sum=Metric(names=("trtllm_time_per_output_token_seconds_sum",)),
        inter_token_seconds_count=Metric(names=("trtllm_time_per_output_token_seconds_count",)),
        rate_window_seconds=AT_FINISH_WINDOW_SECONDS,
    ),
    Engine.NIM: Dialect(
        port=8000,
        metrics_path="/v1/metrics",
        health_path="/v1/health/ready",
        queued_requests=Metric(names=("num_requests_waiting",)),
        running_requests=Metric(names=("num_requests_running",)),
        output_tokens=Metric(names=("generation_tokens_total",)),
        prompt_tokens=Metric(names=("prompt_tokens_total",)),
        finished_requests=Metric(names=("request_success_total",)),
        kv_cache_utilization=Metric(names=("gpu_cache_usage_perc",), fold=Fold.MAX),
        # NVIDIA documents it as counted per request: a window may well see none.
        inter_token_seconds_sum=Metric(names=("time_per_output_token_seconds_sum",)),
        inter_token_seconds_count=Metric(names=("time_per_output_token_seconds_count",)),
        rate_window_seconds=PER_STEP_WINDOW_SECONDS,
        token_variable="NGC_API_KEY",  # noqa: S106 - a name
    ),
    Engine.LLAMACPP: Dialect(
        port=8080,
        metrics_path="/metrics",
        health_path="/health",
        queued_requests=Metric(names=("llamacpp:requests_deferred",)),
        running_requests=Metric(names=("llamacpp:requests_processing",)),
        output_tokens=Metric(names=("llamacpp:tokens_predicted_total",)),
        prompt_tokens=Metric(names=("llamacpp:prompt_tokens_total",)),
        finished_requests=Metric(),
        # Added when a slot is released: its time from first to last token, and its tokens. The first token
        # has no interval, so an answer of n tokens shows (n - 1)/n of the time between them.
        inter_token_seconds_sum=Metric(names=("llamacpp:tokens_predicted_seconds_total",)),
        inter_token_seconds_count=Metric(names=("llamacpp:tokens_predicted_total",)),
        rate_window_seconds=AT_FINISH_WINDOW_SECONDS,
        drains_on_sigterm=False,
    ),
}
