"""Every dialect's page is read by Prometheus' own parser, and has its engine's names and traps."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelfleet.adapters.exposition import fold, read
from modelfleet.api.engine import Engine as OperatorEngine
from modelfleet.engines.dialects import DIALECTS as OPERATOR_DIALECTS
from modelfleet.simulate.batch import Batch, Sequence, begin, complete, submit
from sandbox.engine.dialects import DIALECTS, Engine, Rank, render_iteration_stats, render_loading
from sandbox.engine.meters import Meters
from sandbox.engine.profile import EngineProfile

PROFILE = EngineProfile(decode_base_ms=10.0, kv_cache_tokens=1600, max_running=2, cached_prompt_fraction=0.25)
MODEL = 'org/"odd"\\name'
STARTED = 1_700_000_000.0


def played(name: str, *, ranks: int, finish: bool) -> Engine:
    """An engine after some steps: per rank two requests run and one waits; with `finish` all three are done."""
    return Engine(model=MODEL, ranks=tuple(_rank(name, index, finish=finish) for index in range(ranks)))


def _rank(name: str, index: int, *, finish: bool) -> Rank:
    meters = Meters(buckets=DIALECTS[name].buckets, started_at_unix=STARTED)
    batch = Batch()
    for number in range(3):
        meters.count_received()
        batch = submit(batch, Sequence(id=number, prompt_tokens=100, output_tokens=8, arrived_at=0.0))
    now = 0.0
    for _ in range(100 if finish else 3):
        if batch.idle:
            break
        batch, step = begin(batch, PROFILE, at_seconds=now)
        meters.count_begun(step)
        now += step.duration_seconds
        batch, tokens = complete(batch, at_seconds=now)
        meters.count_completed(step, tokens, at_seconds=now)
    return Rank(index=index, gauges=meters.gauges(batch, PROFILE, at_seconds=now), meters=meters)


Samples = dict[str, list[tuple[dict[str, str], float]]]


def parsed(page: str) -> Samples:
    samples: Samples = {}
    for family in text_string_to_metric_families(page):
        assert family.type != "unknown", f"{family.name} has no TYPE"
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return samples


def total(samples: Samples, name: str) -> float:
    # The Python parser gives every counter the suffix that TGI's Rust client leaves away.
    return sum(value for _, value in samples.get(name) or samples[f"{name}_total"])


# Two ranks; per rank 2 running and 1 waiting after 3 steps, so 6 tokens generated, of 2 prompts of 100.
LIVE = {
    "vllm": {
        "vllm:num_requests_running": 4,
        "vllm:num_requests_waiting": 2,
        "vllm:prompt_tokens_total": 400,
        "vllm:prompt_tokens_cached_total": 100,
        "vllm:generation_tokens_total": 12,
        "vllm:time_to_first_token_seconds_count": 4,
        "vllm:inter_token_latency_seconds_count": 8,
    },
    "sglang": {
        "sglang:num_running_reqs": 4,
        "sglang:num_queue_reqs": 2,
        "sglang:max_total_num_tokens": 3200,
        "sglang:realtime_tokens_total": 400,  # prompts computed and cached; decode comes with the 40th step
        "sglang:time_to_first_token_seconds_count": 4,
        "sglang:inter_token_latency_seconds_count": 8,
    },
    "tgi": {
        "tgi_batch_current_size": 4,
        "tgi_queue_size": 2,
        "tgi_request_count": 6,
        "tgi_request_success": 0,
        "tgi_request_generated_tokens_sum": 0,
        "tgi_request_mean_time_per_token_duration_count": 0,
    },
    "trtllm": {
        "trtllm_num_requests_running": 4,
        "trtllm_num_requests_waiting": 2,
        "trtllm_generation_tokens_total": 0,
        "trtllm_kv_cache_max_blocks": 200,
        "trtllm_time_to_first_token_seconds_count": 4,
        "trtllm_time_per_output_token_seconds_count": 0,
    },
    "nim": {
        "num_requests_running": 4,
        "num_requests_waiting": 2,
        "num_request_max": 4,
        "prompt_tokens_total": 400,
        "generation_tokens_total": 12,
        "time_per_output_token_seconds_count": 8,
    },
    "llamacpp": {
        "llamacpp:requests_processing": 4,
        "llamacpp:requests_deferred": 2,
        "llamacpp:prompt_tokens_total": 300,
        "llamacpp:tokens_predicted_total": 0,
        "llamacpp:tokens_predicted_seconds_total": 0,
    },
}
DONE = {
    "vllm": {"vllm:generation_tokens_total": 48, "vllm:request_success_total": 6, "vllm:num_requests_running": 0},
    "sglang": {"sglang:generation_tokens_total": 48, "sglang:prompt_tokens_total": 600, "sglang:num_requests_total": 6},
    "tgi": {"tgi_request_success": 6, "tgi_request_generated_tokens_sum": 48, "tgi_request_input_length_sum": 600},
    "trtllm": {"trtllm_generation_tokens_total": 48, "trtllm_request_success_total": 6},
    "nim": {"generation_tokens_total": 48, "request_success_total": 6, "e2e_request_latency_seconds_count": 6},
    "llamacpp": {"llamacpp:tokens_predicted_total": 48, "llamacpp:prompt_tokens_total": 450},
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("finish", [False, True], ids=["running", "finished"])
def test_two_ranks_read_back(name: str, finish: bool) -> None:
    samples = parsed(DIALECTS[name].render(played(name, ranks=2, finish=finish)))
    for metric, want in (DONE if finish else LIVE)[name].items():
        assert total(samples, metric) == pytest.approx(want), metric


@pytest.mark.parametrize("name", DIALECTS)
def test_histograms_are_cumulative_and_whole(name: str) -> None:
    samples = parsed(DIALECTS[name].render(played(name, ranks=2, finish=True)))
    for bucket_name in [metric for metric in samples if metric.endswith("_bucket")]:
        series: dict[str, list[tuple[float, float]]] = {}
        for labels, value in samples[bucket_name]:
            bound = float(labels.pop("le"))
            series.setdefault(json.dumps(labels, sort_keys=True), []).append((bound, value))
        for labels_text, points in series.items():
            bounds, counts = zip(*points, strict=True)
            assert list(bounds) == sorted(bounds)
            assert list(counts) == sorted(counts)
            count_of = {json.dumps(lbl, sort_keys=True): v for lbl, v in samples[bucket_name[:-7] + "_count"]}
            assert counts[-1] == count_of[labels_text]


# Four sequences of ten tokens, side by side in steps of 20 ms: what each engine counts, and the mean on its page.
STEP_SECONDS = 0.02
STEADY = {
    "vllm": (4 * 9, STEP_SECONDS),
    "sglang": (4 * 9, STEP_SECONDS),
    "nim": (4 * 9, STEP_SECONDS),
    "tgi": (4, STEP_SECONDS),
    "trtllm": (4, STEP_SECONDS),
    # A slot's ten tokens and its nine intervals.
    "llamacpp": (4 * 10, STEP_SECONDS * 9 / 10),
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_time_between_tokens_is_the_step_time_of_a_steady_batch(name: str, ranks: int) -> None:
    page = DIALECTS[name].render(Engine(MODEL, tuple(_steady(name, index) for index in range(ranks))))
    dialect = OPERATOR_DIALECTS[OperatorEngine(name)]
    samples = read(page, dialect)
    seconds, count = fold(samples, dialect.inter_token_seconds_sum), fold(samples, dialect.inter_token_seconds_count)
    want_count, want_mean = STEADY[name]
    assert isinstance(seconds, float)
    assert isinstance(count, float)
    assert count == want_count * ranks
    assert seconds / count == pytest.approx(want_mean)


def _steady(name: str, index: int) -> Rank:
    profile = EngineProfile(
        decode_base_ms=1000 * STEP_SECONDS,
        decode_ms_per_sequence=0,
        decode_ms_per_kv_token=0,
        prefill_base_ms=0,
        prefill_ms_per_token=0,
        service_jitter=0,
        max_running=4,
    )
    meters = Meters(buckets=DIALECTS[name].buckets, started_at_unix=STARTED)
    batch = Batch()
    for number in range(4):
        meters.count_received()
        batch = submit(batch, Sequence(id=number, prompt_tokens=10, output_tokens=10, arrived_at=0.0))
    now = 0.0
    while not batch.idle:
        batch, step = begin(batch, profile, at_seconds=now)
        now += step.duration_seconds
        batch, tokens = complete(batch, at_seconds=now)
        meters.count_completed(step, tokens, at_seconds=now)
    return Rank(index=index, gauges=meters.gauges(batch, profile, at_seconds=now), meters=meters)


def test_tgis_time_per_token_has_the_prefill_in_it_and_trtllms_has_not() -> None:
    rank = _rank("tgi", 0, finish=True)
    prefill = PROFILE.prefill_base_ms / 1000
    assert prefill > 0
    by_interval, in_batch = rank.meters.mean_token_time, rank.meters.mean_batch_time
    assert by_interval.count == in_batch.count == 3
    # Of eight tokens each: at least an eighth of a prefill is in the mean of the one.
    assert in_batch.sum / 3 > by_interval.sum / 3 * 7 / 8 + prefill / 8


def test_llamacpp_counts_the_seconds_of_a_request_that_is_cut_off() -> None:
    meters = Meters(buckets=DIALECTS["llamacpp"].buckets, started_at_unix=STARTED)
    cut = Sequence(
        id=1,
        prompt_tokens=10,
        output_tokens=100,
        arrived_at=0.0,
        generated_tokens=5,
        admitted_at=1.0,
        first_token_at=2.0,
        last_token_at=2.4,
    )
    meters.count_aborted(cut)
    meters.count_aborted(Sequence(id=2, prompt_tokens=10, output_tokens=100, arrived_at=0.0))
    assert meters.released_generation_tokens == 5
    assert meters.released_generation_seconds == pytest.approx(0.4)


def test_data_parallel_ranks_are_told_apart_where_the_engine_does() -> None:
    vllm = parsed(DIALECTS["vllm"].render(played("vllm", ranks=2, finish=False)))
    assert [labels for labels, _ in vllm["vllm:num_requests_running"]] == [
        {"engine": "0", "model_name": MODEL},
        {"engine": "1", "model_name": MODEL},
    ]
    sglang = parsed(DIALECTS["sglang"].render(played("sglang", ranks=2, finish=True)))
    assert [labels["dp_rank"] for labels, _ in sglang["sglang:num_running_reqs"]] == ["0", "1"]
    assert len(sglang["sglang:generation_tokens_total"]) == 1
    nim = parsed(DIALECTS["nim"].render(played("nim", ranks=1, finish=False)))
    assert nim["num_requests_running"] == [({"model_name": MODEL}, 2.0)]


def test_vllm_traps() -> None:
    samples = parsed(DIALECTS["vllm"].render(played("vllm", ranks=1, finish=False)))
    by_reason = {labels["reason"]: value for labels, value in samples["vllm:num_requests_waiting_by_reason"]}
    assert by_reason == {"capacity": 1.0, "deferred": 0.0}
    ((labels, one),) = samples["vllm:cache_config_info"]
    assert one == 1.0
    assert "model_name" not in labels
    assert int(labels["num_gpu_blocks"]) * int(labels["block_size"]) == PROFILE.kv_cache_tokens
    assert samples["vllm:generation_tokens_created"][0][1] == STARTED


def test_finish_time_counters_do_not_exist_or_move_while_requests_run() -> None:
    sglang = parsed(DIALECTS["sglang"].render(played("sglang", ranks=1, finish=False)))
    assert "sglang:generation_tokens_total" not in sglang
    trtllm = parsed(DIALECTS["trtllm"].render(played("trtllm", ranks=1, finish=False)))
    assert total(trtllm, "trtllm_prompt_tokens_total") == 0


def test_sglangs_throughput_gauge_moves_every_forty_steps_and_outlives_the_load() -> None:
    meters = Meters(buckets=DIALECTS["sglang"].buckets, started_at_unix=STARTED)
    profile = EngineProfile(decode_base_ms=10.0, decode_ms_per_sequence=0, decode_ms_per_kv_token=0, max_running=2)
    batch = submit(Batch(), Sequence(id=1, prompt_tokens=1, output_tokens=50, arrived_at=0.0))
    now, seen = 0.0, []
    while not batch.idle:
        batch, step = begin(batch, profile, at_seconds=now)
        now += step.duration_seconds
        batch, tokens = complete(batch, at_seconds=now)
        meters.count_completed(step, tokens, at_seconds=now)
        seen.append(meters.gauges(batch, profile, at_seconds=now).generation_tokens_per_second)
    assert seen[38] == 0.0
    assert seen[39] == pytest.approx(100.0, rel=0.02)
    assert meters.gauges(batch, profile, at_seconds=now + 29.0).generation_tokens_per_second == seen[39]
    assert meters.gauges(batch, profile, at_seconds=now + 31.0).generation_tokens_per_second == 0.0


def test_a_fresh_tgi_exposes_nothing() -> None:
    gauges = Meters(buckets=DIALECTS["tgi"].buckets, started_at_unix=STARTED)
    fresh = Engine(MODEL, (Rank(0, gauges.gauges(Batch(), PROFILE, at_seconds=0.0), gauges),))
    assert parsed(DIALECTS["tgi"].render(fresh)) == {}


def test_while_loading_no_engine_family_exists() -> None:
    assert set(parsed(render_loading(STARTED))) == {"process_start_time_seconds"}


def test_trtllms_metrics_path_is_json() -> None:
    (iteration,) = json.loads(render_iteration_stats(played("trtllm", ranks=2, finish=False)))
    assert iteration["numActiveRequests"] == 4
    assert iteration["numQueuedRequests"] == 2
    assert iteration["kvCacheStats"]["maxNumBlocks"] == 200
    assert DIALECTS["trtllm"].metrics_path == "/prometheus/metrics"
