"""NVIDIA Dynamo's planner for aggregated engines: the load planner, and the SLA planner of forecast and load.

The load planner (`optimization_target: load`) looks every 5 s at each engine's KV tokens, queued prompts included,
as a part of its cache: one engine above the upper threshold adds a replica, all below the lower one remove one,
unless the rest would then be above the upper.

The SLA planner forecasts the next 180 s of requests and their lengths, asks its performance model how many
requests per second an engine serves within the limits of TTFT and ITL, and holds at least as many replicas as that
needs. Every 5 s it also estimates both latencies of each engine: all above a limit add one replica; one goes when
the rest would stay within 80 % of the limits.

Both move by one replica, and by none while one starts. (A version of September 2026 lets a sustained low load
cancel starts; over the traces here that served fewer requests, so it is left out.)

The performance model here is the simulator's own: Dynamo sweeps the engine before it is deployed and corrects the
result with every forward pass. The forecast is its `constant` one; the default, `arima`, is the same until it has
five intervals, and needs a library of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Final

from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting
from modelfleet.simulate.rivals.grid import geometric
from modelfleet.simulate.rivals.prometheus import FleetIncrease

LOAD_SECONDS: Final = 5.0
THROUGHPUT_SECONDS: Final = 180.0
SCALING_DOWN_SENSITIVITY: Final = 0.8
THROUGHPUT_THRESHOLDS: Final = (1.0, 0.6)
LATENCY_THRESHOLDS: Final = (0.4, 0.1)
"""Up and down, of the two presets."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine's last forward pass.

    Attributes:
        kv_tokens: KV tokens of the scheduled requests.
        queued_tokens: Prompt tokens of the waiting ones.
        running: Scheduled requests.
    """

    kv_tokens: int
    queued_tokens: int
    running: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests per second, and the mean tokens of their prompts and answers."""

    requests_per_second: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Time to first token and time between tokens, in seconds."""

    ttft_seconds: float
    itl_seconds: float


# --- the load planner ---------------------------------------------------------------------------


def down_threshold(up: float) -> float:
    """Return the lower threshold that goes with an upper one.

    Both are free settings. From the `latency` preset's ratio, which also holds below it, to the `throughput`
    preset's this is the power of the upper threshold that goes through both, so that either preset is what it says.
    """
    (far_up, far_down), (near_up, near_down) = THROUGHPUT_THRESHOLDS, LATENCY_THRESHOLDS
    power = log(far_down / near_down) / log(far_up / near_up)
    between: float = far_down * (up / far_up) ** power
    return max(between, up * near_down / near_up)


def load_replicas(utilizations: Sequence[float], *, up: float, down: float) -> int:
    """Return the replicas that the engines' cache utilizations ask for.

    Args:
        utilizations: KV tokens, queued prompts included, as parts of the caches of the engines; at least one.
        up: One above it adds a replica.
        down: All below it remove one, if the mean of the rest would not be above `up`.

    Source:
        Dynamo components/src/dynamo/planner/core/load_scaling.py, _agg_easy_decision; what becomes of the rest:
        planner/tests/unit/test_pending_startup_scaling.py, test_startup_easy_consolidation.
    """
    engines = len(utilizations)
    if any(each > up for each in utilizations):
        return engines + 1
    rest = engines - 1
    if rest and all(each < down for each in utilizations) and sum(utilizations) / rest <= up:
        return rest
    return engines


# --- the SLA planner ----------------------------------------------------------------------------


def step_seconds(model: ReplicaModel, *, prefill_tokens: float, kv_tokens: float, sequences: float) -> float:
    """Return the length of one step of an engine."""
    milliseconds = (
        model.decode_base_ms + model.decode_ms_per_sequence * sequences + model.decode_ms_per_kv_token * kv_tokens
    )
    if prefill_tokens > 0.0:
        milliseconds += model.prefill_base_ms + model.prefill_ms_per_token * prefill_tokens
    return milliseconds / 1000.0


def first_token_seconds(model: ReplicaModel, *, queued_tokens: float, prompt_tokens: float, decode: Engine) -> float:
    """Return the estimated time to first token of a request that would come now.

    Args:
        model: Of the engine.
        queued_tokens: Prompt tokens before it.
        prompt_tokens: Its own.
        decode: What is decoded meanwhile, in every chunk.

    Source:
        Dynamo planner/core/perf_model/agg.py, estimate_next_ttft.
    """
    tokens = (queued_tokens + prompt_tokens) * (1.0 - model.cached_prompt_fraction)
    steps = ceil(tokens / model.max_batched_tokens)
    if not steps:
        return 0.0
    rest = tokens - (steps - 1) * model.max_batched_tokens
    full = step_seconds(
        model, prefill_tokens=model.max_batched_tokens, kv_tokens=decode.kv_tokens, sequences=decode.running
    )
    last = step_seconds(model, prefill_tokens=rest, kv_tokens=decode.kv_tokens, sequences=decode.running)
    return (steps - 1) * full + last


def between_tokens_seconds(model: ReplicaModel, *, kv_tokens: float, running: float, traffic: Traffic) -> float:
    """Return the estimated time between tokens, with the prefill that a steady state adds to each step.

    Source:
        Dynamo planner/core/perf_model/agg.py, estimate_next_itl.
    """
    prefill = running * traffic.prompt_tokens * (1.0 - model.cached_prompt_fraction) / traffic.output_tokens
    return step_seconds(
        model, prefill_tokens=min(prefill, model.max_batched_tokens), kv_tokens=kv_tokens, sequences=running
    )


def engine_requests_per_second(model: ReplicaModel, traffic: Traffic, limits: Limits) -> float:
    """Return the requests per second that one engine serves within both limits.

    Args:
        model: Of the engine.
        traffic: Its lengths, above zero.
        limits: Of the latencies; where not even one sequence meets them, the rate of one is returned.

    Source:
        Dynamo planner/core/perf_model/agg.py, find_best_engine_agg_rps: the largest batch within the cache, the
        sequence limit, the balance of prefill and decode, and both limits; Little's law makes it a rate.
    """
    prompt, output = traffic.prompt_tokens, traffic.output_tokens
    context = prompt + output / 2.0
    most = min(
        max(1, int(model.kv_cache_tokens / max(1.0, context))),
        model.max_running,
        model.max_batched_tokens - 1,
        max(1, int(model.max_batched_tokens - prompt / output)),
    )
    best = 0.0
    for batch in range(1, most + 1):
        prefill = min(batch * prompt * (1.0 - model.cached_prompt_fraction) / output, model.max_batched_tokens)
        kv_tokens = batch * context
        seconds = step_seconds(model, prefill_tokens=prefill, kv_tokens=kv_tokens, sequences=batch)
        ttft = first_token_seconds(
            model, queued_tokens=prefill, prompt_tokens=prompt, decode=Engine(int(kv_tokens), 0, batch)
        )
        late = seconds > limits.itl_seconds or ttft > limits.ttft_seconds
        if late and batch > 1:
            break
        best = batch / (output * seconds)
        if late:
            break
    return best


def latency_replicas(engines: Sequence[Engine], model: ReplicaModel, traffic: Traffic, limits: Limits) -> int:
    """Return the replicas that the engines' estimated latencies ask for.

    Args:
        engines: At least one.
        model: Of each.
        traffic: Lengths, above zero.
        limits: All engines above either add a replica; all within 80 % of both, after one is gone, remove one.

    Source:
        Dynamo planner/core/load_scaling.py, _agg_prefill_scaling, _agg_decode_scaling and _advance_load_agg: of
        the time to first token only what the queue adds is held to the 80 %.
    """
    count = len(engines)
    late_first = late_next = True
    for engine in engines:
        mean_kv = engine.kv_tokens / engine.running if engine.running else 0.0
        ttft = first_token_seconds(
            model, queued_tokens=engine.queued_tokens, prompt_tokens=traffic.prompt_tokens, decode=engine
        )
        itl = between_tokens_seconds(
            model, kv_tokens=engine.kv_tokens + mean_kv, running=engine.running, traffic=traffic
        )
        late_first = late_first and ttft > limits.ttft_seconds
        late_next = late_next and itl > limits.itl_seconds
    if late_first or late_next:
        return count + 1
    if count > 1 and all(_bears(engine, count / (count - 1), model, traffic, limits) for engine in engines):
        return count - 1
    return count


def _bears(engine: Engine, grown: float, model: ReplicaModel, traffic: Traffic, limits: Limits) -> bool:
    """Tell whether an engine stays within 80 % of the limits with this many times its load."""
    kv_tokens = (engine.kv_tokens + engine.queued_tokens) * grown
    if kv_tokens >= model.kv_cache_tokens:
        return False
    after = Engine(int(engine.kv_tokens * grown), 0, int(engine.running * grown))
    own, whole = (
        first_token_seconds(model, queued_tokens=queued, prompt_tokens=traffic.prompt_tokens, decode=after)
        for queued in (0.0, engine.queued_tokens * grown)
    )
    budget = (limits.ttft_seconds - own) * SCALING_DOWN_SENSITIVITY
    itl = between_tokens_seconds(model, kv_tokens=kv_tokens, running=engine.running * grown, traffic=traffic)
    return budget > 0.0 and whole - own < budget and itl < limits.itl_seconds * SCALING_DOWN_SENSITIVITY


def floor_replicas(traffic: Traffic, *, engine_requests_per_second: float) -> int:
    """Return the replicas that serve a forecast.

    Source:
        Dynamo planner/core/throughput_scaling.py, _throughput_agg.
    """
    return max(1, ceil(traffic.requests_per_second / engine_requests_per_second))


# --- what they share ----------------------------------------------------------------------------


def applied(wanted: int, *, floor: int, ready: int, current: int, setting: Setting) -> int:
    """Return the replicas to ask for: the wanted ones within their bounds, unless some still start.

    Source:
        Dynamo planner/core/load_scaling.py, _advance_load_agg (scaling_in_progress), _apply_single_budget.
    """
    if ready != current:
        return current
    return min(max(wanted, floor, setting.min_replicas), setting.max_replicas)


def _engines(sample: Sample) -> list[Engine]:
    return [
        Engine(pod.kv_tokens, pod.queued_prompt_tokens, pod.running_requests)
        for pod in sample.pods
        if pod.ready_at is not None
    ]


class DynamoLoad:
    """The planner with `optimization_target: load`."""

    sample_seconds = LOAD_SECONDS
    period_seconds = LOAD_SECONDS

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Take the upper threshold from the target."""
        self._up = setting.target
        self._down = down_threshold(setting.target)
        self._cache = circumstances.model.kv_cache_tokens
        self._setting = setting
        self._engines: Sequence[Engine] = ()

    def observe(self, sample: Sample) -> None:
        """Take the engines' forward passes; they are pushed, not scraped."""
        self._engines = _engines(sample)

    def decide(self, now: float, current: int) -> int:
        """Tick."""
        if not self._engines:
            return current
        utilizations = [(engine.kv_tokens + engine.queued_tokens) / self._cache for engine in self._engines]
        wanted = load_replicas(utilizations, up=self._up, down=self._down)
        return applied(wanted, floor=1, ready=len(self._engines), current=current, setting=self._setting)


class DynamoThroughput:
    """The planner with `optimization_target: sla`, throughput and load scaling both on, as its guide says."""

    sample_seconds = LOAD_SECONDS
    period_seconds = LOAD_SECONDS

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Take the limits from the targets of the deployment, times the setting's."""
        self._model = circumstances.model
        self._setting = setting
        self._limits = Limits(circumstances.ttft_seconds * setting.target, circumstances.tpot_seconds * setting.target)
        self._engines: Sequence[Engine] = ()
        self._arrived, self._prompts = FleetIncrease(THROUGHPUT_SECONDS), FleetIncrease(THROUGHPUT_SECONDS)
        self._generated, self._finished = FleetIncrease(THROUGHPUT_SECONDS), FleetIncrease(THROUGHPUT_SECONDS)
        self._traffic: Traffic | None = None
        self._floor = 1
        self._forecast_at: float | None = None

    def observe(self, sample: Sample) -> None:
        """Take the frontend's counters and the engines' forward passes."""
        self._engines = _engines(sample)
        self._arrived.add(sample.at, (("frontend", float(sample.arrived_requests)),))
        self._prompts.add(sample.at, (("frontend", float(sample.arrived_prompt_tokens)),))
        self._generated.add(sample.at, _counters(sample, generated=True))
        self._finished.add(sample.at, _counters(sample, generated=False))

    def decide(self, now: float, current: int) -> int:
        """Forecast when it is time, and tick."""
        self._traffic = self._measured()
        if self._forecast_at is None:
            self._forecast_at = now + THROUGHPUT_SECONDS
        if now >= self._forecast_at:
            self._forecast_at += THROUGHPUT_SECONDS
            self._forecast()
        if not self._engines or self._traffic is None:
            return current
        wanted = latency_replicas(self._engines, self._model, self._traffic, self._limits)
        return applied(wanted, floor=self._floor, ready=len(self._engines), current=current, setting=self._setting)

    def _measured(self) -> Traffic | None:
        """Return the last interval's traffic; lengths stay what they were when there was none."""
        arrived, finished = self._arrived.increase(), self._finished.increase()
        before = self._traffic
        prompt = self._prompts.increase() / arrived if arrived else before.prompt_tokens if before else 0.0
        output = self._generated.increase() / finished if finished else before.output_tokens if before else 0.0
        if prompt <= 0.0 or output <= 0.0:
            return None
        return Traffic(arrived / THROUGHPUT_SECONDS, prompt, output)

    def _forecast(self) -> None:
        """Set the floor for the next interval: it will be as the last one was."""
        if self._traffic is not None:
            rate = engine_requests_per_second(self._model, self._traffic, self._limits)
            self._floor = floor_replicas(self._traffic, engine_requests_per_second=rate)


def _counters(sample: Sample, *, generated: bool) -> Iterable[tuple[str, float]]:
    return (
        (pod.uid, float(pod.generated_tokens if generated else pod.finished_requests))
        for pod in sample.pods
        if pod.ready_at is not None
    )


LOAD: Final = Kind(
    name="dynamo-load",
    title="NVIDIA Dynamo planner on engine load (KV cache and queue), +-1 every 5 s",
    unit="KV cache utilization to scale up at",
    targets=lambda model: geometric(1.0, 0.01),
    default_target=lambda model: THROUGHPUT_THRESHOLDS[0],
    build=DynamoLoad,
)
THROUGHPUT: Final = Kind(
    name="dynamo-throughput",
    title="NVIDIA Dynamo SLA planner: forecast every 180 s as a floor, load every 5 s above it",
    unit="times the latency targets",
    targets=lambda model: geometric(2.0, 0.2),
    default_target=lambda model: 1.0,
    build=DynamoThroughput,
)
