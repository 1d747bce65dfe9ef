"""The scripted engine's page is one the operator reads as vLLM's."""

from __future__ import annotations

from bench.engines import MetricsPage
from modelfleet.adapters.exposition import fold, read
from modelfleet.api.engine import Engine
from modelfleet.engines.dialects import DIALECTS


async def test_page_says_what_was_put_in() -> None:
    vllm = DIALECTS[Engine.VLLM]
    page = await MetricsPage.of_vllm()
    samples = read(page.render(waiting=16, running=4, tokens=1234.5).decode(), vllm)
    assert fold(samples, vllm.queued_requests) == 16
    assert fold(samples, vllm.running_requests) == 4
    assert fold(samples, vllm.output_tokens) == 1234.5
    assert fold(samples, vllm.finished_requests) == 0
    # On the page, and no token yet: the operator knows the metric and has no time from it.
    assert fold(samples, vllm.inter_token_seconds_sum) == 0
    assert fold(samples, vllm.inter_token_seconds_count) == 0
