"""The dialect table: what every row must have, and what the others do not."""

from collections import Counter

import pytest

from modelfleet.api.engine import Engine
from modelfleet.engines.dialects import AT_FINISH_WINDOW_SECONDS, DIALECTS, PER_STEP_WINDOW_SECONDS, Fold


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
    )

    assert {metric.fold for metric in counts} == {Fold.SUM}
    assert dialect.kv_cache_utilization.fold is Fold.MAX


@pytest.mark.parametrize("engine", Engine)
def test_no_name_means_two_things(engine: Engine) -> None:
    """A name stands for one concept of an engine."""
    repeated = [name for name, count in Counter(DIALECTS[engine].names()).items() if count > 1]

    assert repeated == []


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
