"""A vLLM pod that was scraped: the exact batch machine under a load, and what its metrics page said when."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable

from modelfleet.adapters.history import Series
from modelfleet.simulate.arrivals import Arrival, Lengths
from modelfleet.simulate.batch import Batch, Sequence, begin, complete, submit
from modelfleet.simulate.calibration import ReplicaModel

Samples = list[tuple[float, float]]
BLOCK_TOKENS = 16


def poisson(
    *, requests_per_second: float, seconds: float, prompt: float, output: float, seed: int, variation: float = 0.7
) -> list[Arrival]:
    """Return arrivals of one rate, with log-normal lengths."""
    dice = random.Random(seed)
    lengths = Lengths(prompt, output, variation)
    arrivals, at = [], dice.expovariate(requests_per_second)
    while at < seconds:
        arrivals.append(Arrival(at, *lengths.draw(dice)))
        at += dice.expovariate(requests_per_second)
    return arrivals


def play(
    model: ReplicaModel, arrivals: Iterable[Arrival], *, seconds: float, scrape_seconds: float
) -> dict[str, Samples]:
    """Return the samples of each metric of a pod, scraped from its start on.

    A scrape sees the gauges of the step under way and the counters of those that ended.
    """
    waiting = list(arrivals)[::-1]
    scraped: defaultdict[str, Samples] = defaultdict(list)
    counted: Counter[str] = Counter()
    sums = {"vllm:inter_token_latency_seconds_sum": 0.0}
    batch, now, next_scrape, number = Batch(), 0.0, 0.0, 0

    def scrape(until: float) -> None:
        nonlocal next_scrape
        while next_scrape <= min(until, seconds):
            page = {
                "vllm:num_requests_running": float(len(batch.running)),
                "vllm:num_requests_waiting": float(len(batch.waiting)),
                "vllm:kv_cache_usage_perc": batch.kv_tokens / model.kv_cache_tokens,
                "vllm:cache_config_info": 1.0,
                **{name: float(counted[name]) for name in _COUNTERS},
                **sums,
            }
            for name, value in page.items():
                scraped[name].append((next_scrape, value))
            next_scrape += scrape_seconds

    while now < seconds:
        while waiting and waiting[-1].at_seconds <= now:
            arrival = waiting.pop()
            batch = submit(batch, Sequence(number, arrival.prompt_tokens, arrival.output_tokens, arrival.at_seconds))
            number += 1
        if batch.idle:
            now = waiting[-1].at_seconds if waiting else seconds
            scrape(now)
            continue
        batch, step = begin(batch, model, at_seconds=now)
        now += step.duration_seconds
        scrape(now)
        batch, tokens = complete(batch, at_seconds=now)
        counted["vllm:iteration_tokens_total_count"] += 1
        counted["vllm:generation_tokens_total"] += len(tokens)
        counted["vllm:prompt_tokens_total"] += step.prefill_tokens
        for token in tokens:
            if token.previous_at is not None:
                counted["vllm:inter_token_latency_seconds_count"] += 1
                sums["vllm:inter_token_latency_seconds_sum"] += now - token.previous_at
            if token.finished:
                counted["vllm:request_success_total"] += 1
                counted["vllm:request_prompt_tokens_sum"] += token.sequence.prompt_tokens
                counted["vllm:request_generation_tokens_sum"] += token.sequence.output_tokens
    return dict(scraped)


_COUNTERS = (
    "vllm:iteration_tokens_total_count",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:inter_token_latency_seconds_count",
    "vllm:request_success_total",
    "vllm:request_prompt_tokens_sum",
    "vllm:request_generation_tokens_sum",
)


def series(scraped: dict[str, Samples], model: ReplicaModel, *, pod: str, begins_at: float = 0.0) -> list[Series]:
    """Return the samples under the labels that a PodMonitor and vLLM give them."""
    labels = {"namespace": "team-a", "pod": pod, "engine": "0"}
    info = {"block_size": str(BLOCK_TOKENS), "num_gpu_blocks": str(model.kv_cache_tokens // BLOCK_TOKENS)}
    return [
        Series(
            name,
            labels | (info if name == "vllm:cache_config_info" else {"model_name": "llama"}),
            tuple((begins_at + at, value) for at, value in samples),
        )
        for name, samples in scraped.items()
    ]
