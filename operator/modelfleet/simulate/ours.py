"""Modelfleet's own policy: `decide` itself, fed with the Snapshot that the operator would have built.

Counters become rates in the scraper's own windows, once a second, and the plan's replicas are the answer. A fleet is
one Snapshot and one Plan, with the nodes as they are; a deployment by itself is a fleet of one with GPUs enough.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from modelfleet.adapters.counters import CounterWindow, InterTokenWindow
from modelfleet.api.engine import Engine
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec, Scaling, ServedModel, Targets
from modelfleet.decide.cycle import decide
from modelfleet.decide.history import Memory
from modelfleet.decide.snapshot import Child, Node, Observed, Pod, PodSignals, Signal, Snapshot
from modelfleet.engines.dialects import DIALECTS
from modelfleet.simulate.policy import Asked, Circumstances, Kind, PodSample, Sample, Setting

TICK_SECONDS = 1.0
PRIOR_OUTPUT_TOKENS_PER_SECOND_PER_GPU = 1200
"""What the vLLM preset says of a GPU before a replica was measured."""
QUIET_SECONDS = 10
"""An operator has looked on before the first request: as long as its longest window of signals, the queue's growth."""
MAX_AGE_SECONDS = 5.0
ACCELERATOR = "simulated"
NAMESPACE = "simulate"
MODEL = "model"


@dataclass(frozen=True, slots=True)
class Governed:
    """One deployment that the operator scales.

    Attributes:
        setting: Bounds, and the target as its latencyWeight.
        circumstances: The replica model and the latency targets.
        accelerator: Class of its nodes.
        priority: Who is granted free GPUs first; higher wins.
    """

    setting: Setting
    circumstances: Circumstances
    accelerator: str
    priority: int


class ModelfleetFleet:
    """The operator's loop around `decide`, for all deployments at once."""

    sample_seconds = TICK_SECONDS
    period_seconds = TICK_SECONDS

    def __init__(self, governed: Mapping[str, Governed]) -> None:
        """Start as a new operator does: without history.

        Args:
            governed: The deployments by name.
        """
        self._watched = {Key(NAMESPACE, name): _Watched(each) for name, each in governed.items()}
        self._nodes: Mapping[str, tuple[Node, ...]] = {}
        self._history: dict[Key, Memory] = {}

    def observe(self, samples: Mapping[str, Sample], nodes: Mapping[str, tuple[Node, ...]]) -> None:
        """Turn samples into the pods of a snapshot."""
        self._nodes = nodes
        if not self._history:
            self._look_on_idle(samples)
        for key, watched in self._watched.items():
            watched.observe(samples[key.name])

    def decide(self, now: float, current: Mapping[str, int]) -> Mapping[str, Asked]:
        """Decide as the operator does; what shrinks is written first."""
        plan = decide(
            Snapshot(
                taken_at=now,
                metrics_max_age_seconds=MAX_AGE_SECONDS,
                deployments=tuple(
                    Observed(
                        key=key,
                        uid=f"simulated/{key.name}",
                        generation=1,
                        spec=watched.spec,
                        child=Child(uid=f"child/{key.name}", replicas=current[key.name]),
                        pods=watched.pods,
                        rate_window_seconds=WINDOW_SECONDS,
                        prior_output_tokens_per_second=watched.prior_output_tokens_per_second,
                    )
                    for key, watched in self._watched.items()
                ),
                nodes=self._nodes,
            ),
            self._history,
        )
        self._history = dict(plan.history)
        return {scale.key.name: Asked(scale.replicas, scale.victims) for scale in plan.scales}

    def _look_on_idle(self, first: Mapping[str, Sample]) -> None:
        """Decide about the first replicas while nothing has come yet."""
        for seconds in range(QUIET_SECONDS, 0, -1):
            at = next(iter(first.values())).at - seconds
            for key, watched in self._watched.items():
                sample = first[key.name]
                watched.observe(replace(sample, at=at, pods=tuple(_idle(pod) for pod in sample.pods)))
            self.decide(at, {name: len(sample.pods) for name, sample in first.items()})


class Modelfleet:
    """The same for one deployment, with GPUs enough for its maximum."""

    sample_seconds = TICK_SECONDS
    period_seconds = TICK_SECONDS

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Start as a new operator does: without history."""
        self._fleet = ModelfleetFleet({MODEL: Governed(setting, circumstances, ACCELERATOR, 0)})
        gpus = 2 * setting.max_replicas * circumstances.model.gpus
        self._nodes = {ACCELERATOR: (Node("node", gpus, gpus),)}

    def observe(self, sample: Sample) -> None:
        """Turn a sample into the pods of a snapshot."""
        self._fleet.observe({MODEL: sample}, self._nodes)

    def decide(self, now: float, current: int) -> int:
        """Decide as the operator does."""
        return self._fleet.decide(now, {MODEL: current}).get(MODEL, Asked(current)).replicas


class _Watched:
    """What the operator has seen of one deployment."""

    def __init__(self, governed: Governed) -> None:
        setting, circumstances = governed.setting, governed.circumstances
        self.spec = ModelDeploymentSpec(
            model=ServedModel(name="simulated/model"),
            runtime="vllm",
            accelerator=governed.accelerator,
            gpus_per_replica=circumstances.model.gpus,
            priority=governed.priority,
            scaling=Scaling(
                min_replicas=setting.min_replicas,
                max_replicas=setting.max_replicas,
                latency_weight=round(setting.target),
                targets=Targets(inter_token_milliseconds=round(circumstances.tpot_seconds * 1000.0)),
            ),
        )
        self.prior_output_tokens_per_second = float(PRIOR_OUTPUT_TOKENS_PER_SECOND_PER_GPU * circumstances.model.gpus)
        self.pods: tuple[Pod, ...] = ()
        self._windows: dict[str, tuple[CounterWindow, CounterWindow, CounterWindow, InterTokenWindow]] = {}

    def observe(self, sample: Sample) -> None:
        alive = {pod.uid for pod in sample.pods}
        self._windows = {uid: windows for uid, windows in self._windows.items() if uid in alive}
        self.pods = (
            *(self._pod(pod, sample.at) for pod in sample.pods),
            *(
                Pod(name=uid, uid=uid, created_at=sample.at, ready_at=None, node=node, terminating=True)
                for uid, node in sample.terminating
            ),
        )

    def _pod(self, pod: PodSample, at: float) -> Pod:
        if pod.ready_at is None:
            trouble = "" if pod.node else "no node has GPUs enough"
            return Pod(
                name=pod.uid, uid=pod.uid, created_at=pod.created_at, ready_at=None, node=pod.node, trouble=trouble
            )
        windows = self._windows.get(pod.uid)
        if windows is None:
            windows = self._windows[pod.uid] = (
                CounterWindow(WINDOW_SECONDS),
                CounterWindow(WINDOW_SECONDS),
                CounterWindow(WINDOW_SECONDS),
                InterTokenWindow(WINDOW_SECONDS),
            )
        output, prompt, finished, inter_token = windows
        life = (pod.uid, 0)
        inter_token.add(seconds=pod.inter_token_seconds_sum, tokens=float(pod.inter_tokens), at=at, life=life)
        output.add(float(pod.generated_tokens), at=at, life=life)
        prompt.add(float(pod.prompt_tokens), at=at, life=life)
        finished.add(float(pod.finished_requests), at=at, life=life)
        return Pod(
            name=pod.uid,
            uid=pod.uid,
            created_at=pod.created_at,
            ready_at=pod.ready_at,
            node=pod.node,
            signals=PodSignals(
                queued_requests=Signal(float(pod.queued_requests), at),
                running_requests=Signal(float(pod.running_requests), at),
                output_tokens_per_second=output.rate(),
                input_tokens_per_second=prompt.rate(),
                finished_requests_per_second=finished.rate(),
                kv_cache_utilization=Signal(pod.kv_cache_utilization, at),
                inter_token_seconds=inter_token.mean(),
            ),
        )


def _idle(pod: PodSample) -> PodSample:
    return replace(
        pod,
        queued_requests=0,
        running_requests=0,
        kv_tokens=0,
        kv_cache_utilization=0.0,
        queued_prompt_tokens=0,
        prompt_tokens=0,
        generated_tokens=0,
        finished_requests=0,
        ttft_seconds_sum=0.0,
        first_tokens=0,
        inter_token_seconds_sum=0.0,
        inter_tokens=0,
    )


WINDOW_SECONDS = DIALECTS[Engine.VLLM].rate_window_seconds

KIND = Kind(
    name="modelfleet",
    title="Modelfleet's own decision, as the operator runs it",
    unit="latencyWeight",
    targets=lambda model: (3.0, 10.0, 30.0, 100.0, 300.0),
    default_target=lambda model: 30.0,
    build=Modelfleet,
)
