"""The dialect table: what every row must have, and what the others do not."""

from collections import Counter
from dataclasses import fields

import pytest

from modelfleet.api.engine import Engine
from modelfleet.engines.dialects import AT_FINISH_WINDOW_SECONDS, DIALECTS, PER_STEP_WINDOW_SECONDS, Fold, Metric


@pytest.mark.parametrize("engine", Engine)
def test_every_engine_can_be_scaled(engine: Engine) -> None:
    """Queue, running requests and tokens are what a decision needs; an engine without one could only be held."""
    dialect = DIALECTS[engine]

    assert dialect.queued_requests.names
    assert dialect.running_requests.names
    assert dialect.output_tokens.names
    assert dialect.metrics_path.startswith("/")
    assert dialect.health_path.startswith("/")
    # Replicas run without root: no port below 1024.
    assert 1024 <= dialect.port <= 65535


@pytest.mark.parametrize("engine", Engine)
def test_counts_add_up_and_fractions_do_not(engine: Engine) -> None:
    """Ranks' counts are one pod's parts; the fullest cache is what matters."""
    dialect = DIALECTS[engine]
    counts = (
        dialect.queued_requests,
        dialect.running_requests,
        dialect.output_tokens,
        dialect.finished_requests,
        dialect.output_tokens_per_second,
        dialect.inter_token_seconds_sum,
        dialect.inter_token_seconds_count,
    )

    assert {metric.fold for metric in counts} == {Fold.SUM}
    assert dialect.kv_cache_utilization.fold is Fold.MAX


@pytest.mark.parametrize("engine", Engine)
def test_no_name_means_two_things(engine: Engine) -> None:
    """A name stands for one concept of an engine; llama.cpp alone counts its times by the tokens themselves."""
    dialect = DIALECTS[engine]
    values = [getattr(dialect, field.name) for field in fields(dialect)]
    names = [name for value in values if isinstance(value, Metric) for name in value.names]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    expected = ["llamacpp:tokens_predicted_total"] if engine is Engine.LLAMACPP else []

    assert expected == repeated
    # Read once, whatever it stands for.
    assert len(dialect.names()) == len(set(dialect.names()))


INTER_TOKEN = {
    Engine.VLLM: ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    Engine.SGLANG: ("sglang:inter_token_latency_seconds",),
    Engine.TGI: ("tgi_request_mean_time_per_token_duration",),
    Engine.TRTLLM: ("trtllm_time_per_output_token_seconds",),
    Engine.NIM: ("time_per_output_token_seconds",),
}


@pytest.mark.parametrize("engine", INTER_TOKEN)
def test_time_between_tokens_is_one_histogram(engine: Engine) -> None:
    """Sum and count are of one histogram, name by name: of two, they would be no mean."""
    dialect = DIALECTS[engine]
    names = INTER_TOKEN[engine]

    assert dialect.inter_token_seconds_sum.names == tuple(f"{name}_sum" for name in names)
    assert dialect.inter_token_seconds_count.names == tuple(f"{name}_count" for name in names)


def test_llamacpp_counts_seconds_and_tokens_of_its_slots() -> None:
    """It has no histogram; two counters say the same."""
    dialect = DIALECTS[Engine.LLAMACPP]

    assert dialect.inter_token_seconds_sum.names == ("llamacpp:tokens_predicted_seconds_total",)
    assert dialect.inter_token_seconds_count.names == ("llamacpp:tokens_predicted_total",)


@pytest.mark.parametrize("engine", Engine)
def test_every_metric_is_read(engine: Engine) -> None:
    """A metric that is in the table and not among the names would be missing on every page."""
    dialect = DIALECTS[engine]
    metrics = {field.name: getattr(dialect, field.name) for field in fields(dialect)}
    names = {name for metric in metrics.values() if isinstance(metric, Metric) for name in metric.names}

    assert set(dialect.names()) == names


WINDOWS = {
    Engine.VLLM: PER_STEP_WINDOW_SECONDS,
    Engine.NIM: PER_STEP_WINDOW_SECONDS,
    Engine.SGLANG: AT_FINISH_WINDOW_SECONDS,
    Engine.TGI: AT_FINISH_WINDOW_SECONDS,
    Engine.TRTLLM: AT_FINISH_WINDOW_SECONDS,
    Engine.LLAMACPP: AT_FINISH_WINDOW_SECONDS,
}


@pytest.mark.parametrize("engine", Engine)
def test_window_is_longer_than_a_step_or_a_request(engine: Engine) -> None:
    """A counter that moves at a request's end needs a window in which some end."""
    assert WINDOWS[engine] == DIALECTS[engine].rate_window_seconds


def test_only_llamacpp_is_stopped_by_sigterm() -> None:
    """For the engine that does not finish its streams the stop itself is delayed."""
    abrupt = [engine for engine, dialect in DIALECTS.items() if not dialect.drains_on_sigterm]

    assert abrupt == [Engine.LLAMACPP]


def test_table_is_complete() -> None:
    """Every engine of the API has its row."""
    assert set(Engine) == set(DIALECTS)
