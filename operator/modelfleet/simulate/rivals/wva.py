"""llm-d's Workload Variant Autoscaler (WVA) v0.9 with its V2 saturation analyzer, and the HPA that applies its answer.

Every 15 s it compares KV tokens: what requests hold, and what the waiting ones will need, with what the replicas
can hold. A replica holds 80 % of its cache, or less if its compute ends first, which it learns from the tokens in
use while five or more requests wait. Above 85 % of the supply, starting replicas counted, it adds what is missing;
below 70 % of the ready supply it removes what is spare. It writes a gauge, which an HPA with a target of 1 follows.

So four loops stand between a load and a pod: the scrape of the engines, WVA, the scrape of WVA, and the HPA. WVA is
the newest rival to be deprecated (llm-d points to KEDA), and v0.9 its last release.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from modelfleet.simulate.policy import Circumstances, Kind, PodSample, Sample, Setting
from modelfleet.simulate.rivals.grid import geometric
from modelfleet.simulate.rivals.hpa import SYNC_SECONDS, Scaler, average_value_replicas
from modelfleet.simulate.rivals.prometheus import LOOK_SECONDS, FleetIncrease, PeakRange

KV_CACHE_THRESHOLD: Final = 0.8
QUEUE_LENGTH_THRESHOLD: Final = 5
SCALE_UP_THRESHOLD: Final = 0.85
SCALE_DOWN_BOUNDARY: Final = 0.7
HISTORY: Final = 10
SHORT_OUTPUT_TOKENS: Final = 100
MEDIUM_OUTPUT_TOKENS: Final = 500
PEAK_SECONDS: Final = 60.0
LENGTHS_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Engine:
    """What a replica can take, from its arguments.

    Attributes:
        kv_cache_tokens: Tokens its cache holds.
        max_batched_tokens: Prompt tokens prefilled in one step.
        max_running: Sequences in one batch.
    """

    kv_cache_tokens: int
    max_batched_tokens: int
    max_running: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of a request: prompt and answer. Zero while unknown."""

    prompt: float
    output: float


@dataclass(frozen=True, slots=True)
class Load:
    """The highest values of a replica's last minute: tokens in use and requests waiting."""

    tokens_in_use: int
    waiting: int


def compute_bound_tokens(engine: Engine, lengths: Lengths) -> int | None:
    """Return the KV tokens at which prefill and decode of a step are in balance; None without known lengths.

    Source:
        llm-d-autoscaling internal/engines/analyzers/saturation_v2/analyzer.go, estimateCapacityFromParams.
    """
    if lengths.output <= 0.0:
        return None
    sequences = engine.max_batched_tokens * lengths.output / (lengths.prompt + lengths.output)
    sequences = min(sequences, float(engine.max_running))
    return int(sequences * (lengths.prompt + lengths.output / 2.0)) or None


def replica_capacity(
    load: Load, engine: Engine, lengths: Lengths, *, history: float | None, kv_cache_threshold: float
) -> int:
    """Return the KV tokens that a replica may hold.

    Args:
        load: Of the replica.
        engine: Its limits.
        lengths: Of the requests.
        history: Mean of the tokens in use at which replicas were seen saturated, with answers of this length.
        kv_cache_threshold: Part of the cache to fill.

    Source:
        saturation_v2/analyzer.go, computeReplicaCapacity and computeK2: observed, else remembered, else derived,
        else bound by memory alone.
    """
    memory_bound = int(engine.kv_cache_tokens * kv_cache_threshold)
    if load.waiting >= QUEUE_LENGTH_THRESHOLD and load.tokens_in_use > 0:
        compute_bound = load.tokens_in_use
    elif history is not None:
        compute_bound = int(history)
    else:
        compute_bound = compute_bound_tokens(engine, lengths) or memory_bound
    return min(memory_bound, compute_bound)


def output_bucket(output_tokens: float) -> int:
    """Return which memory of saturated replicas is for answers of this mean length: short, medium or long.

    Source:
        saturation_v2/analyzer.go, classifyOutputLength.
    """
    return sum(output_tokens >= bound for bound in (SHORT_OUTPUT_TOKENS, MEDIUM_OUTPUT_TOKENS))


def demand_tokens(loads: Iterable[Load], lengths: Lengths, *, held: int) -> float:
    """Return the KV tokens that the requests hold or will hold.

    Args:
        loads: Of the replicas.
        lengths: Of the requests; a waiting one is charged with both, for its replica does all of it.
        held: Requests at the gateway.

    Source:
        saturation_v2/analyzer.go, waitingQueueDemand and estimateSchedulerQueueDemand (its term in bytes left out:
        the gateway's bodies are not in a sample).
    """
    each = lengths.prompt + lengths.output
    return sum(load.tokens_in_use + int(load.waiting * each) for load in loads) + held * each


def median_tokens(values: Sequence[int]) -> int:
    """Return the median, of two middle ones their mean without its fraction."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def wanted_replicas(
    demand: float, *, capacity: int, ready: int, current: int, scale_up_threshold: float, scale_down_boundary: float
) -> int:
    """Return the replicas that bring the demand back between the two thresholds.

    Args:
        demand: KV tokens.
        capacity: KV tokens per replica, > 0.
        ready: Replicas that serve: only they can be spare.
        current: With the starting ones: they count before more are added.
        scale_up_threshold: Part of the supply above which to add.
        scale_down_boundary: Part below which to remove; the last replica stays.

    Source:
        llm-d-autoscaling internal/engines/saturation/engine_v2.go, applyUniversalThreshold; rounding:
        internal/engines/pipeline/analyzer_helpers.go.
    """
    required = demand / scale_up_threshold - capacity * current
    if required > 0.0:
        return current + ceil(required / capacity)
    spare = capacity * ready - demand / scale_down_boundary
    return max(1, current - int(max(0.0, spare) // capacity))


class Wva:
    """The controller, the scrapes around it, and its HPA."""

    sample_seconds = LOOK_SECONDS
    period_seconds = SYNC_SECONDS

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Begin without knowledge of the engines beyond their arguments."""
        model = circumstances.model
        self._setting = setting
        self._engine = Engine(model.kv_cache_tokens, model.max_batched_tokens, model.max_running)
        self._kv = PeakRange(PEAK_SECONDS)
        self._waiting = PeakRange(PEAK_SECONDS)
        self._generated, self._finished = FleetIncrease(LENGTHS_SECONDS), FleetIncrease(LENGTHS_SECONDS)
        self._arrived, self._prompts = FleetIncrease(LENGTHS_SECONDS), FleetIncrease(LENGTHS_SECONDS)
        self._saturated: dict[int, deque[int]] = {}
        """Tokens in use of saturated replicas, by bucket of output length."""
        self._held = 0
        self._written: int | None = None
        self._scraped: int | None = None
        self._scaler = Scaler(setting)
        self._looks = 0

    def observe(self, sample: Sample) -> None:
        """Scrape engines and WVA, or run WVA: by turns, half a scrape interval apart."""
        if self._looks % 2 == 0:
            self._scrape(sample)
        else:
            self._optimize(sample)
        self._looks += 1

    def decide(self, now: float, current: int) -> int:
        """Sync the HPA with the gauge as it was scraped."""
        if self._scraped is None:
            return current
        desired = average_value_replicas(float(self._scraped), target=1.0, replicas=current)
        return self._scaler.settle(now, current=current, desired=desired)

    def _scrape(self, sample: Sample) -> None:
        ready = [pod for pod in sample.pods if pod.ready_at is not None]
        self._kv.add(sample.at, ((pod.uid, pod.kv_cache_utilization) for pod in ready))
        self._waiting.add(sample.at, ((pod.uid, float(pod.queued_requests)) for pod in ready))
        self._generated.add(sample.at, ((pod.uid, float(pod.generated_tokens)) for pod in ready))
        self._finished.add(sample.at, ((pod.uid, float(pod.finished_requests)) for pod in ready))
        self._arrived.add(sample.at, (("gateway", float(sample.arrived_requests)),))
        self._prompts.add(sample.at, (("gateway", float(sample.arrived_prompt_tokens)),))
        self._held = sample.held_requests
        self._scraped = self._written

    def _optimize(self, sample: Sample) -> None:
        loads = self._loads(sample.at, sample.pods)
        if not loads:
            return
        lengths = self._lengths()
        bucket = self._saturated.setdefault(output_bucket(lengths.output), deque(maxlen=HISTORY))
        capacities = []
        for load in loads:
            history = sum(bucket) / len(bucket) if bucket else None
            capacities.append(
                replica_capacity(load, self._engine, lengths, history=history, kv_cache_threshold=KV_CACHE_THRESHOLD)
            )
            if load.waiting >= QUEUE_LENGTH_THRESHOLD and load.tokens_in_use > 0:
                bucket.append(load.tokens_in_use)
        up = self._setting.target
        wanted = wanted_replicas(
            demand_tokens(loads, lengths, held=self._held),
            capacity=median_tokens(capacities),
            ready=sum(1 for pod in sample.pods if pod.ready_at is not None),
            current=len(sample.pods),
            scale_up_threshold=up,
            scale_down_boundary=up * SCALE_DOWN_BOUNDARY / SCALE_UP_THRESHOLD,
        )
        self._written = min(max(wanted, self._setting.min_replicas), self._setting.max_replicas)

    def _loads(self, now: float, pods: Iterable[PodSample]) -> list[Load]:
        """Return the last minute's peaks of the pods that are still there."""
        kv, waiting = self._kv.peaks(now), self._waiting.peaks(now)
        cache = self._engine.kv_cache_tokens
        return [Load(int(kv[pod.uid] * cache), int(waiting[pod.uid])) for pod in pods if pod.uid in kv]

    def _lengths(self) -> Lengths:
        arrived, finished = self._arrived.increase(), self._finished.increase()
        return Lengths(
            prompt=self._prompts.increase() / arrived if arrived else 0.0,
            output=self._generated.increase() / finished if finished else 0.0,
        )


KIND: Final = Kind(
    name="wva",
    title="llm-d WVA v0.9 (saturation V2, 15 s), applied by an HPA",
    unit="part of the KV supply to scale up at",
    targets=lambda model: geometric(0.98, 0.01),
    default_target=lambda model: SCALE_UP_THRESHOLD,
    build=Wva,
)
