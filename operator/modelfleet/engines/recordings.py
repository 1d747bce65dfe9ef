"""The metrics that tell an engine's past: what a recorded history and a fit of service times are read from.

No decision reads them; those that decisions read are in `dialects`. Only engines whose token counters can be
laid to requests and to steps are here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from modelfleet.api.engine import Engine
from modelfleet.engines.dialects import DIALECTS


@dataclass(frozen=True, slots=True)
class Recorded:
    """One concept: its names newest first, empty where the engine does not expose it.

    Attributes:
        names: The first of them that a pod has is read.
        mode: Value of the label `mode`, where one name holds several concepts.
    """

    names: tuple[str, ...] = ()
    mode: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One engine's names. All but the capacity are counters.

    Attributes:
        aborted_requests: Those that `finished_requests` of the dialect leaves out.
        request_prompt_tokens: Of requests, moved when they finish; older vLLM: when they are prefilled.
        request_output_tokens: The same of generated tokens; older vLLM: with every step.
        steps: Forward passes.
        generated_tokens: Moved with every step, or nearly so.
        prompt_tokens: Moved when they are prefilled.
        cached_prompt_tokens: The part of these that the prefix cache held.
        inter_token_seconds: Sum of the gaps between a request's tokens.
        inter_tokens: Number of those gaps.
        kv_cache_tokens: Capacity: a gauge, or vLLM's information in labels.
    """

    aborted_requests: Recorded = Recorded()
    request_prompt_tokens: Recorded
    request_output_tokens: Recorded
    steps: Recorded = Recorded()
    generated_tokens: Recorded
    prompt_tokens: Recorded
    cached_prompt_tokens: Recorded = Recorded()
    inter_token_seconds: Recorded
    inter_tokens: Recorded
    kv_cache_tokens: Recorded


RECORDINGS: Final[Mapping[Engine, Recording]] = MappingProxyType(
    {
        Engine.VLLM: Recording(
            request_prompt_tokens=Recorded(("vllm:request_prompt_tokens_sum", "vllm:prompt_tokens_total")),
            request_output_tokens=Recorded(("vllm:request_generation_tokens_sum", "vllm:generation_tokens_total")),
            # A histogram called _total: its count is the number of iterations.
            steps=Recorded(("vllm:iteration_tokens_total_count",)),
            generated_tokens=Recorded(("vllm:generation_tokens_total",)),
            prompt_tokens=Recorded(("vllm:prompt_tokens_total",)),
            cached_prompt_tokens=Recorded(("vllm:prompt_tokens_cached_total", "vllm:prefix_cache_hits_total")),
            inter_token_seconds=Recorded(DIALECTS[Engine.VLLM].inter_token_seconds_sum.names),
            inter_tokens=Recorded(DIALECTS[Engine.VLLM].inter_token_seconds_count.names),
            kv_cache_tokens=Recorded(("vllm:cache_config_info",)),
        ),
        Engine.SGLANG: Recording(
            aborted_requests=Recorded(("sglang:num_aborted_requests_total",)),
            request_prompt_tokens=Recorded(("sglang:prompt_tokens_total",)),
            request_output_tokens=Recorded(("sglang:generation_tokens_total",)),
            generated_tokens=Recorded(("sglang:realtime_tokens_total",), mode="decode"),
            prompt_tokens=Recorded(("sglang:realtime_tokens_total",), mode="prefill_compute"),
            inter_token_seconds=Recorded(DIALECTS[Engine.SGLANG].inter_token_seconds_sum.names),
            inter_tokens=Recorded(DIALECTS[Engine.SGLANG].inter_token_seconds_count.names),
            kv_cache_tokens=Recorded(("sglang:max_total_num_tokens",)),
        ),
    }
)
