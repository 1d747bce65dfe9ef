"""Modelfleet's own policy: `decide` itself, fed with the Snapshot that the operator would have built.

Counters become rates in the scraper's own windows, once a second, and the plan's replicas are the answer.
"""

from modelfleet.adapters.counters import CounterWindow, InterTokenWindow
from modelfleet.api.engine import Engine
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec, Scaling, ServedModel, Targets
from modelfleet.decide.cycle import decide
from modelfleet.decide.history import Memory
from modelfleet.decide.snapshot import Child, Node, Observed, Pod, PodSignals, Signal, Snapshot
from modelfleet.engines.dialects import DIALECTS
from modelfleet.simulate.policy import Circumstances, Kind, PodSample, Sample, Setting

TICK_SECONDS = 1.0
PRIOR_OUTPUT_TOKENS_PER_SECOND_PER_GPU = 1200
"""What the vLLM preset says of a GPU before a replica was measured."""
QUIET_SECONDS = 10
"""An operator has looked on before the first request: as long as its longest window of signals, the queue's growth."""
MAX_AGE_SECONDS = 5.0
ACCELERATOR = "simulated"
KEY = Key("simulate", "model")


class Modelfleet:
    """The operator's loop around `decide`, for one deployment with GPUs enough for its maximum."""

    sample_seconds = TICK_SECONDS
    period_seconds = TICK_SECONDS

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Start as a new operator does: without history."""
        self._spec = ModelDeploymentSpec(
            model=ServedModel(name="simulated/model"),
            runtime="vllm",
            accelerator=ACCELERATOR,
            gpus_per_replica=circumstances.model.gpus,
            scaling=Scaling(
                min_replicas=setting.min_replicas,
                max_replicas=setting.max_replicas,
                latency_weight=round(setting.target),
                targets=Targets(inter_token_milliseconds=round(circumstances.tpot_seconds * 1000.0)),
            ),
        )
        gpus = 2 * setting.max_replicas * circumstances.model.gpus
        self._prior = float(PRIOR_OUTPUT_TOKENS_PER_SECOND_PER_GPU * circumstances.model.gpus)
        self._nodes = {ACCELERATOR: (Node("node", gpus, gpus),)}
        self._windows: dict[str, tuple[CounterWindow, CounterWindow, InterTokenWindow]] = {}
        self._pods: tuple[Pod, ...] = ()
        self._history: dict[Key, Memory] = {}

    def observe(self, sample: Sample) -> None:
        """Turn a sample into the pods of a snapshot."""
        if not self._history:
            self._look_on_idle(sample)
        alive = {pod.uid for pod in sample.pods}
        self._windows = {uid: windows for uid, windows in self._windows.items() if uid in alive}
        self._pods = tuple(self._pod(pod, sample.at) for pod in sample.pods)

    def decide(self, now: float, current: int) -> int:
        """Decide as the operator does."""
        plan = decide(
            Snapshot(
                taken_at=now,
                metrics_max_age_seconds=MAX_AGE_SECONDS,
                deployments=(
                    Observed(
                        key=KEY,
                        uid="simulated",
                        generation=1,
                        spec=self._spec,
                        child=Child(uid="child", replicas=current),
                        pods=self._pods,
                        rate_window_seconds=WINDOW_SECONDS,
                        prior_output_tokens_per_second=self._prior,
                    ),
                ),
                nodes=self._nodes,
            ),
            self._history,
        )
        self._history = dict(plan.history)
        return plan.decisions[KEY].desired

    def _look_on_idle(self, first: Sample) -> None:
        """Decide about the first replicas while nothing has come yet."""
        for seconds in range(QUIET_SECONDS, 0, -1):
            at = first.at - seconds
            self._pods = tuple(self._pod(_idle(pod), at) for pod in first.pods)
            self.decide(at, len(first.pods))

    def _pod(self, pod: PodSample, at: float) -> Pod:
        if pod.ready_at is None:
            return Pod(name=pod.uid, uid=pod.uid, created_at=pod.created_at, ready_at=None, node="node")
        windows = self._windows.get(pod.uid)
        if windows is None:
            windows = self._windows[pod.uid] = (
                CounterWindow(WINDOW_SECONDS),
                CounterWindow(WINDOW_SECONDS),
                InterTokenWindow(WINDOW_SECONDS),
            )
        output, finished, inter_token = windows
        life = (pod.uid, 0)
        inter_token.add(seconds=pod.inter_token_seconds_sum, tokens=float(pod.inter_tokens), at=at, life=life)
        output.add(float(pod.generated_tokens), at=at, life=life)
        finished.add(float(pod.finished_requests), at=at, life=life)
        return Pod(
            name=pod.uid,
            uid=pod.uid,
            created_at=pod.created_at,
            ready_at=pod.ready_at,
            node="node",
            signals=PodSignals(
                queued_requests=Signal(float(pod.queued_requests), at),
                running_requests=Signal(float(pod.running_requests), at),
                output_tokens_per_second=output.rate(),
                finished_requests_per_second=finished.rate(),
                kv_cache_utilization=Signal(pod.kv_cache_utilization, at),
                inter_token_seconds=inter_token.mean(),
            ),
        )


def _idle(pod: PodSample) -> PodSample:
    return PodSample(pod.uid, pod.created_at, pod.ready_at, 0, 0, 0, 0.0, 0, 0, 0, 0, 0.0, 0, 0.0, 0)


WINDOW_SECONDS = DIALECTS[Engine.VLLM].rate_window_seconds

KIND = Kind(
    name="modelfleet",
    title="Modelfleet's own decision, as the operator runs it",
    unit="latencyWeight",
    targets=lambda model: (3.0, 10.0, 30.0, 100.0, 300.0),
    default_target=lambda model: 30.0,
    build=Modelfleet,
)
