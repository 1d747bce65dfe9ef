"""WVA's capacity, demand and thresholds against the numbers of its analyzer's tests."""

import pytest

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.policy import PodSample
from modelfleet.simulate.rivals.wva import (
    KIND,
    Engine,
    Lengths,
    Load,
    Wva,
    compute_bound_tokens,
    demand_tokens,
    median_tokens,
    output_bucket,
    replica_capacity,
    wanted_replicas,
)
from tests.simulate.rivals.rival_samples import circumstances, pod, sample, setting

UNKNOWN = Lengths(0.0, 0.0)


@pytest.mark.parametrize(
    ("batched", "running", "prompt", "output", "want"),
    [
        (2048, 256, 500.0, 100.0, 140_800),  # min(341.3, 256) x 550
        (4096, 256, 500.0, 100.0, 140_800),
        (8192, 64, 100.0, 200.0, 12_800),  # min(5461, 64) x 200
        (1200, 256, 500.0, 100.0, 110_000),  # 200 x 550: prefill is the limit.
        (8192, 256, 500.0, 0.0, None),
    ],
)
def test_compute_bound(batched: int, running: int, prompt: float, output: float, want: int | None) -> None:
    """estimateCapacityFromParams: min(B x O / (I + O), S) x (I + O / 2)."""
    assert compute_bound_tokens(Engine(16_000, batched, running), Lengths(prompt, output)) == want


@pytest.mark.parametrize(
    ("load", "engine", "lengths", "history", "want"),
    [
        (Load(5_000, 0), Engine(16_000, 2048, 256), UNKNOWN, None, 12_800),  # 80 % of the cache.
        (Load(8_000, 6), Engine(16_000, 2048, 256), UNKNOWN, None, 8_000),  # Saturated: what is in use.
        (Load(4_000, 5), Engine(16_000, 2048, 256), UNKNOWN, None, 4_000),
        (Load(4_000, 4), Engine(16_000, 2048, 256), UNKNOWN, None, 12_800),
        (Load(6_000, 2), Engine(16_000, 2048, 256), UNKNOWN, 8_000.0, 8_000),  # Remembered.
        (Load(5_000, 2), Engine(16_000, 2048, 256), Lengths(500.0, 100.0), None, 12_800),
        (Load(5_000, 2), Engine(400_000, 1200, 256), Lengths(500.0, 100.0), None, 110_000),  # Derived.
        (Load(0, 9), Engine(16_000, 2048, 256), UNKNOWN, None, 12_800),
    ],
)
def test_capacity_is_observed_else_remembered_else_derived_else_memory(
    load: Load, engine: Engine, lengths: Lengths, history: float | None, want: int
) -> None:
    """computeReplicaCapacity; the queue that saturates is five."""
    assert replica_capacity(load, engine, lengths, history=history, kv_cache_threshold=0.8) == want


@pytest.mark.parametrize(
    ("loads", "held", "want"),
    [
        ((Load(1_000, 4),), 0, 1_600.0),  # 1000 resident + 4 x (100 + 50)
        ((Load(5_000, 0),), 10, 6_500.0),  # 10 at the gateway.
        ((Load(3_000, 0), Load(2_000, 0)), 10, 6_500.0),
        ((Load(5_000, 0),), 0, 5_000.0),
    ],
)
def test_demand_charges_waiting_requests_with_prompt_and_answer(
    loads: tuple[Load, ...], held: int, want: float
) -> None:
    """Requests of 100 and 50 tokens, as in the analyzer's tests."""
    assert demand_tokens(loads, Lengths(100.0, 50.0), held=held) == want


@pytest.mark.parametrize(("values", "want"), [([42], 42), ([5, 1, 3], 3), ([1, 3, 5, 7], 4), ([2, 3], 2)])
def test_median(values: list[int], want: int) -> None:
    """The analyzer's own cases, and an even one that is cut."""
    assert median_tokens(values) == want


@pytest.mark.parametrize(
    ("demand", "ready", "current", "want"),
    [
        (10_000.0, 1, 1, 1),  # 0.78 of 12,800: between the thresholds.
        (11_000.0, 1, 1, 2),  # 0.86
        (10_880.0, 1, 1, 1),  # 0.85 exactly.
        (40_000.0, 1, 1, 4),  # 47,059 less 12,800 is 2.7 more.
        (11_000.0, 1, 2, 2),  # One that starts is enough.
        (40_000.0, 1, 3, 4),
        (2_000.0, 2, 2, 1),
        (2_000.0, 1, 2, 2),  # Of the one that is ready 9,943 are spare: not a whole one.
        (8_900.0, 2, 2, 1),  # 12,714 of 25,600 are needed below .70: 12,886 are spare, one.
        (8_970.0, 2, 2, 2),  # 12,786 are not.
        (0.0, 3, 3, 1),  # All are spare; the last stays.
    ],
)
def test_thresholds(demand: float, ready: int, current: int, want: int) -> None:
    """applyUniversalThreshold: demand / .85 against all, demand / .70 against the ready; capacity 12,800."""
    got = wanted_replicas(
        demand, capacity=12_800, ready=ready, current=current, scale_up_threshold=0.85, scale_down_boundary=0.70
    )

    assert got == want


def controller(**changes: float) -> Wva:
    """Of an engine with a cache of 16,000 tokens."""
    model = ReplicaModel(kv_cache_tokens=16_000)
    return Wva(setting(changes.get("up", 0.85), most=50), circumstances(model))


def look(policy: Wva, first: int, count: int, *pods: PodSample, held: int = 0) -> None:
    for number in range(first, first + count):
        policy.observe(sample(7.5 * number, *pods, held=held))


def test_four_loops_stand_between_a_load_and_a_pod() -> None:
    """Engines scraped at 0 s, WVA at 7.5 s, its gauge scraped at 15 s, the HPA at its next sync."""
    policy, pods = controller(), [pod(uid, utilization=0.9) for uid in "abcd"]
    assert (policy.sample_seconds, policy.period_seconds) == (7.5, 15.0)
    look(policy, 0, 2, *pods)
    assert policy.decide(8.0, 4) == 4

    look(policy, 2, 1, *pods)

    # 57,600 / .85 = 67,765 of 51,200: two more, and the HPA's target is one.
    assert policy.decide(16.0, 4) == 6


def test_peaks_of_the_last_minute_count() -> None:
    """A utilization of 0.9 at 0 s still rules WVA at 52.5 s, and no more at 67.5 s."""
    policy = controller()
    look(policy, 0, 1, pod(utilization=0.9))
    look(policy, 1, 7, pod(utilization=0.1))
    assert policy._written == 2

    look(policy, 8, 2, pod(utilization=0.1))

    assert policy._written == 1


def test_a_saturated_replica_is_remembered() -> None:
    """Six wait at 8,000 tokens in use: capacity 8,000, also a minute later when the queue is gone."""
    policy = controller()
    look(policy, 0, 2, pod(utilization=0.5, queued=6))
    assert policy._written == 2  # 8,000 / .85 = 9,412 of 8,000.

    # 40 s later the window holds the quiet only: 7,000 of 8,000 is above 85 %, of 12,800 it would not be.
    look(policy, 2, 12, pod(utilization=0.4375))

    assert policy._written == 2


@pytest.mark.parametrize(("tokens", "want"), [(0.0, 0), (99.9, 0), (100.0, 1), (499.9, 1), (500.0, 2), (9e9, 2)])
def test_memories_are_by_output_length(tokens: float, want: int) -> None:
    """Short below 100, long from 500."""
    assert output_bucket(tokens) == want


def test_each_memory_keeps_ten_and_serves_its_own_length() -> None:
    """Eleven saturated replicas: the first is forgotten. What short answers taught does not rule medium ones."""
    policy = controller()
    look(policy, 0, 2, *(pod(str(n), utilization=0.1 + n / 100, queued=5) for n in range(11)))
    assert list(policy._saturated[0]) == [int((0.1 + n / 100) * 16_000) for n in range(1, 11)]

    # Later than the minute of the queue's maximum, and with answers of 200 tokens.
    for number in range(20, 24):
        pods = [pod(str(n), utilization=0.1, generated=2_000 * number, finished=10 * number) for n in range(11)]
        policy.observe(sample(7.5 * number, *pods))
    assert len(policy._saturated[0]) == 10
    assert list(policy._saturated[1]) == []


def test_lengths_are_of_five_minutes() -> None:
    """Prompts of 1,000 until 300 s, then of 100: after as long again only those count."""
    policy, prompts = controller(), {}
    total = 0
    for scrape in range(41):
        total += 1_000 if scrape <= 20 else 100
        policy.observe(sample(15.0 * scrape, pod(), arrived=scrape, prompt_tokens=total))
        prompts[scrape] = policy._lengths().prompt
        policy.observe(sample(15.0 * scrape + 7.5, pod(), arrived=scrape, prompt_tokens=total))

    assert (prompts[0], prompts[20], prompts[30], prompts[39], prompts[40]) == (0.0, 1_000.0, 550.0, 145.0, 100.0)


def test_lengths_are_learnt_from_counters_over_five_minutes() -> None:
    """100 prompt and 50 answer tokens a request: four waiting add 600 to 10,400 in use, over 85 % of 12,800."""
    policy = controller()
    for number in range(4):
        policy.observe(
            sample(
                7.5 * number,
                pod(utilization=0.65, queued=4, generated=500 * number, finished=10 * number),
                arrived=10 * number,
                prompt_tokens=1_000 * number,
            )
        )

    # 11,000 / .85 = 12,941.
    assert policy._written == 2


def test_its_target_is_the_upper_threshold_and_the_lower_one_keeps_its_ratio() -> None:
    """Up at 0.425, down below 0.35: 6,000 of 12,800 adds one."""
    policy = controller(up=0.425)
    look(policy, 0, 2, pod(utilization=0.375))
    assert policy._written == 2

    # 7,000 of 25,600 in two: 20,000 needed below .35, 0.4 spare: both stay. 4,000 frees one.
    look(policy, 2, 10, pod("a", utilization=0.21875), pod("b", utilization=0.21875))
    assert policy._written == 2
    look(policy, 12, 10, pod("a", utilization=0.125), pod("b", utilization=0.125))

    assert policy._written == 1


def test_without_metrics_it_holds() -> None:
    """Before any scrape, and while all pods start."""
    policy = controller()
    assert policy.decide(0.0, 3) == 3

    look(policy, 0, 6, pod(ready=False), held=500)

    assert policy.decide(45.0, 3) == 3


def test_default_is_its_threshold() -> None:
    """scaleUpThreshold; the grid goes from a full supply to a hundredth."""
    assert KIND.default_target(ReplicaModel()) == 0.85
    assert KIND.targets(ReplicaModel())[:: len(KIND.targets(ReplicaModel())) - 1] == pytest.approx((0.98, 0.01))
