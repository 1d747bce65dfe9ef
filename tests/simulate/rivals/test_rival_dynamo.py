"""Dynamo's thresholds from its easy-mode tests, and its SLA arithmetic by hand."""

import pytest

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.policy import PodSample
from modelfleet.simulate.rivals.dynamo import (
    LOAD,
    THROUGHPUT,
    DynamoLoad,
    DynamoThroughput,
    Engine,
    Limits,
    Traffic,
    applied,
    between_tokens_seconds,
    down_threshold,
    engine_requests_per_second,
    first_token_seconds,
    floor_replicas,
    latency_replicas,
    load_replicas,
)
from tests.simulate.rivals.rival_samples import circumstances, pod, sample, setting


@pytest.mark.parametrize(
    ("utilizations", "up", "down", "want"),
    [
        # TestDecodeThroughputEasy: 110 % adds, 40 % removes, 70 % and one alone hold.
        ([1.1], 1.0, 0.6, 2),
        ([0.4, 0.4], 1.0, 0.6, 1),
        ([0.7, 0.7], 1.0, 0.6, 2),
        ([0.0], 1.0, 0.6, 1),
        # TestDecodeLatencyEasy: 45 % adds, 5 % removes.
        ([0.45], 0.4, 0.1, 2),
        ([0.05, 0.05], 0.4, 0.1, 1),
        # TestAnyUpAllDown: one hot engine adds, one warm one keeps the others.
        ([0.5, 1.1], 1.0, 0.6, 3),
        ([0.2, 0.7], 1.0, 0.6, 2),
        # The thresholds themselves do neither.
        ([1.0], 1.0, 0.6, 1),
        ([0.6, 0.6], 1.0, 0.6, 2),
        ([0.6, 0.6, 0.6], 1.0, 0.6, 3),
        # What the rest may be, it may be exactly.
        ([0.5, 0.5], 1.0, 0.6, 1),
        # test_startup_easy_consolidation: two at 55 % would be one at 110 %.
        ([0.55, 0.55], 1.0, 0.6, 2),
        ([0.55, 0.55, 0.55], 1.0, 0.6, 2),
    ],
)
def test_load(utilizations: list[float], up: float, down: float, want: int) -> None:
    """Any engine above adds one, all below remove one unless the rest would be above."""
    assert load_replicas(utilizations, up=up, down=down) == want


@pytest.mark.parametrize(("up", "down"), [(1.0, 0.6), (0.4, 0.1), (0.2, 0.05), (0.01, 0.0025)])
def test_the_lower_threshold_goes_through_both_presets(up: float, down: float) -> None:
    """`throughput` 1.0 and 0.6, `latency` 0.4 and 0.1; below that the latter's ratio."""
    assert down_threshold(up) == pytest.approx(down)


MODEL = ReplicaModel(
    prefill_base_ms=5.0,
    prefill_ms_per_token=0.1,
    decode_base_ms=10.0,
    decode_ms_per_sequence=1.0,
    decode_ms_per_kv_token=0.001,
    kv_cache_tokens=100_000,
    max_running=64,
    max_batched_tokens=1_000,
)
TRAFFIC = Traffic(requests_per_second=10.0, prompt_tokens=500.0, output_tokens=100.0)
IDLE = Engine(0, 0, 0)


@pytest.mark.parametrize(
    ("queued", "decode", "want"),
    [
        (0.0, IDLE, 0.065),  # 10 + 5 + 50 ms
        (400.0, IDLE, 0.105),  # One chunk of 900.
        (1_700.0, IDLE, 0.115 + 0.115 + 0.035),  # 1,000, 1,000 and 200.
        (0.0, Engine(10_000, 0, 20), 0.095),  # 20 sequences, 10,000 tokens.
    ],
)
def test_first_token(queued: float, decode: Engine, want: float) -> None:
    """The queue and a prompt of 500, in chunks of 1,000, each with the decoding of a step."""
    got = first_token_seconds(MODEL, queued_tokens=queued, prompt_tokens=500.0, decode=decode)

    assert got == pytest.approx(want)


def test_between_tokens() -> None:
    """20 sequences: 10 + 20 + 10 ms, and the prefill that replaces them, 20 x 500 / 100 tokens: 5 + 10 ms."""
    got = between_tokens_seconds(MODEL, kv_tokens=10_000, running=20, traffic=TRAFFIC)

    assert got == pytest.approx(0.055)


@pytest.mark.parametrize(
    ("limits", "batch"),
    [
        # A batch of B takes 15 + B (1 + 0.55 + 0.5) ms: 50 ms hold 17.
        (Limits(10.0, 0.050), 17),
        (Limits(10.0, 0.080), 31),
        # 500 tokens and a batch's share of 5 B before them: 65 + 2.05 B ms until the first token.
        (Limits(0.100, 1.0), 17),
        (Limits(10.0, 10.0), 64),  # max_running.
        (Limits(10.0, 0.018), 1),  # Two take 19.1.
        (Limits(0.001, 0.001), 1),  # Out of reach: the rate of one.
    ],
)
def test_an_engine_serves_its_largest_batch_within_the_limits(limits: Limits, batch: int) -> None:
    """Little's law: batch / (output tokens x step)."""
    step = 0.015 + batch * 0.00205

    got = engine_requests_per_second(MODEL, TRAFFIC, limits)

    assert got == pytest.approx(batch / (100.0 * step))


def test_a_batch_fits_into_the_cache_and_leaves_room_for_prefill() -> None:
    """Contexts of 550 tokens: 18 in 10,000; and of prompts 900 times the answer, 100 of 1,000 steps are left."""
    small = MODEL.model_copy(update={"kv_cache_tokens": 10_000})
    assert engine_requests_per_second(small, TRAFFIC, Limits(9.0, 9.0)) == pytest.approx(18 / (100.0 * 0.0519))

    wide = MODEL.model_copy(update={"max_running": 4_096, "kv_cache_tokens": 100_000_000})
    rate = engine_requests_per_second(wide, Traffic(1.0, 900.0, 1.0), Limits(999.0, 999.0))
    assert rate == pytest.approx(100 / (0.015 + 0.100 + 0.1 + 100 * 900.5 * 1e-6))


@pytest.mark.parametrize(("demand", "rate", "want"), [(0.0, 8.0, 1), (8.0, 8.0, 1), (100.0, 8.0, 13)])
def test_floor(demand: float, rate: float, want: int) -> None:
    """ceil(forecast / what an engine serves), at least one."""
    traffic = Traffic(demand, 1.0, 1.0)

    assert floor_replicas(traffic, engine_requests_per_second=rate) == want


BUSY, CALM = Engine(20_000, 0, 36), Engine(2_000, 0, 4)
"""84.6 ms and 21.5 ms between tokens."""
LATE = Engine(2_000, 4_000, 4)
"""585 ms until the first token."""


@pytest.mark.parametrize(
    ("engines", "want"),
    [
        ([BUSY, BUSY], 3),
        ([BUSY, CALM], 2),
        ([LATE, LATE], 3),
        # 49.5 ms, and 50.3 with one more context of the mean length.
        ([Engine(12_000, 0, 15)] * 2, 3),
        ([LATE, CALM], 2),
        ([CALM, CALM], 1),
        ([CALM], 1),
        ([IDLE, IDLE, IDLE], 2),
        # 12 sequences: 39.6 ms is within 80 % of 50; with 18 of them it would not be.
        ([Engine(6_000, 0, 12)] * 3, 3),
        ([Engine(3_900, 0, 7)] * 3, 2),
    ],
)
def test_latency(engines: list[Engine], want: int) -> None:
    """SLA of 500 and 50 ms: all above one limit add, all within 80 % after the loss of one remove."""
    assert latency_replicas(engines, MODEL, TRAFFIC, Limits(0.5, 0.05)) == want


@pytest.mark.parametrize(
    ("sensitivity_case", "want"),
    [
        # 77 ms its own, 423 are left, 80 % are 338. Twice 700 queued: 140 ms and a second chunk's 29 are added.
        (Engine(2_000, 700, 4), 1),
        # Twice 1,300: 260 ms and three more chunks of 29: 347 ms.
        (Engine(2_000, 1_300, 4), 2),
    ],
)
def test_only_what_the_queue_adds_is_held_to_80_percent(sensitivity_case: Engine, want: int) -> None:
    """Of the time to first token, at twice the load."""
    calm = Limits(0.5, 9.0)

    assert latency_replicas([sensitivity_case] * 2, MODEL, TRAFFIC, calm) == want


def test_no_replica_goes_when_its_tokens_would_not_fit() -> None:
    """Two caches just over half full, without any limit in sight."""
    half = Engine(50_000, 0, 1)

    assert latency_replicas([half, half], MODEL, TRAFFIC, Limits(999.0, 999.0)) == 2
    assert latency_replicas([Engine(49_000, 0, 1)] * 2, MODEL, TRAFFIC, Limits(999.0, 999.0)) == 1
    assert latency_replicas([Engine(49_000, 2_000, 1)] * 2, MODEL, TRAFFIC, Limits(999.0, 999.0)) == 2


@pytest.mark.parametrize(
    ("wanted", "floor", "ready", "want"),
    [(5, 1, 4, 5), (3, 1, 4, 3), (9, 1, 3, 4), (1, 1, 3, 4), (3, 6, 4, 6), (0, 1, 4, 2), (20, 1, 4, 8)],
)
def test_nothing_is_applied_while_a_replica_starts(wanted: int, floor: int, ready: int, want: int) -> None:
    """Four asked for, between 2 and 8."""
    assert applied(wanted, floor=floor, ready=ready, current=4, setting=setting(1.0, least=2, most=8)) == want


def test_the_load_planner_counts_queued_prompts() -> None:
    """30,000 held and 15,000 queued of 100,000 are above 40 %, and both at 2,000 below 10 %."""
    policy = DynamoLoad(setting(0.4), circumstances(MODEL))
    assert policy.decide(0.0, 1) == 1
    assert (policy.sample_seconds, policy.period_seconds) == (5.0, 5.0)

    policy.observe(sample(0.0, pod(kv_tokens=30_000, queued_tokens=15_000)))
    assert policy.decide(0.0, 1) == 2
    policy.observe(sample(5.0, pod(kv_tokens=30_000, queued_tokens=15_000), pod("b", ready=False)))
    assert policy.decide(5.0, 2) == 2
    policy.observe(sample(10.0, pod(kv_tokens=2_000), pod("b", kv_tokens=2_000)))

    assert policy.decide(10.0, 2) == 1


def traffic_until(policy: DynamoThroughput, seconds: int, *pods: str, per_second: int, current: int) -> list[int]:
    """Requests of 500 and 100 tokens since second 0, looked at every 5 s; the engines are idle at each look."""
    counts = []
    for second in range(0, seconds + 1, 5):
        requests = per_second * second

        def serving(uid: str, requests: int = requests) -> PodSample:
            return pod(uid, generated=100 * requests, finished=requests)

        policy.observe(sample(float(second), *map(serving, pods), arrived=requests, prompt_tokens=500 * requests))
        current = policy.decide(float(second), current)
        counts.append(current)
    return counts


def test_the_forecast_is_a_floor_every_three_minutes() -> None:
    """27 requests/s at 17 / (100 x 49.85 ms) = 3.41 per engine need eight, but not before 180 s."""
    policy = DynamoThroughput(setting(1.0), circumstances(MODEL, ttft=10.0))

    counts = traffic_until(policy, 180, "a", per_second=27, current=1)

    assert counts[:-1] == [1] * 36
    assert counts[-1] == 8


def test_the_first_forecast_waits_for_an_interval() -> None:
    """Whatever was served before the planner ran: at 280 s, when it started at 100 s."""
    policy = DynamoThroughput(setting(1.0), circumstances(MODEL, ttft=10.0))
    for second in range(0, 285, 5):
        requests = 27 * second
        one = pod("a", generated=100 * requests, finished=requests)
        policy.observe(sample(float(second), one, arrived=requests, prompt_tokens=500 * requests))
        if second >= 100:
            assert policy.decide(float(second), 1) == (8 if second == 280 else 1)


def test_the_load_may_only_lower_to_the_floor() -> None:
    """Idle engines: from ten one goes per look, until the floor of eight."""
    policy = DynamoThroughput(setting(1.0), circumstances(MODEL, ttft=10.0))
    traffic_until(policy, 180, "a", per_second=27, current=1)
    current = 10
    for look in range(4):
        at, pods = 185.0 + 5 * look, (pod(str(n)) for n in range(current))
        policy.observe(sample(at, *pods, arrived=4_860, prompt_tokens=500 * 4_860))
        current = policy.decide(at, current)

    assert current == 8


def test_its_target_scales_both_limits() -> None:
    """At 1.6 times 50 ms a batch of 31 serves 3.94 per second: seven."""
    policy = DynamoThroughput(setting(1.6), circumstances(MODEL, ttft=10.0))

    assert traffic_until(policy, 180, "a", per_second=27, current=1)[-1] == 7


def test_defaults() -> None:
    """The throughput preset, and the latency targets as they are; and the ends of the grids."""
    assert (LOAD.default_target(MODEL), THROUGHPUT.default_target(MODEL)) == (1.0, 1.0)
    assert (LOAD.targets(MODEL)[0], LOAD.targets(MODEL)[-1]) == pytest.approx((1.0, 0.01))
    assert (THROUGHPUT.targets(MODEL)[0], THROUGHPUT.targets(MODEL)[-1]) == pytest.approx((2.0, 0.2))
