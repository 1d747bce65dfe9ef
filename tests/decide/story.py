"""A fleet of one, played second by second: load, replicas that start slowly, faults, and the decisions.

The model is a fluid: a ready replica serves up to `tokens_per_second`, its batch fills with its load,
what does not fit waits. It is no simulator of engines; it closes the loop around `decide`, so that a
test reads as a day in the life of one deployment.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

from modelfleet.api.meta import Key
from modelfleet.decide.cycle import decide
from modelfleet.decide.history import Memory
from modelfleet.decide.plan import Decision, Plan
from tests.builders import NOW, DeploymentBuilder, PodBuilder, fleet, nodes


@dataclass
class Story:
    """One deployment and the world around it.

    Attributes:
        made: The deployment; its child and pods are the story's own.
        start_seconds: From a pod's creation to ready.
        never_ready: New pods stay as they are.
        blind: No pod's metrics can be read.
        deaf: Names of pods whose metrics cannot be read.
        idle_pace: Time between tokens of an idle replica, in seconds; it grows without bound as work fills the
            replica. None: the engine does not tell.
        pace_limit: Time between tokens of a replica that serves `tokens_per_second`.
    """

    made: DeploymentBuilder
    replicas: int = 1
    start_seconds: float = 120.0
    tokens_per_second: float = 1000.0
    tokens_per_request: float = 200.0
    room: float = 32.0
    gpus: int = 512
    now: float = NOW
    queue: float = 0.0
    never_ready: bool = False
    blind: bool = False
    deaf: set[str] = field(default_factory=set)
    idle_pace: float | None = None
    pace_limit: float = 0.050
    history: dict[Key, Memory] = field(default_factory=dict)
    scaled_by: str = ""
    desired: list[int] = field(default_factory=list)
    created: int = 0
    decision: Decision | None = None
    plan: Plan | None = None
    _pods: list[PodBuilder] = field(default_factory=list)
    _running: float = 0.0
    _tokens: float = 0.0
    _finished: float = 0.0
    _numbers: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        """Begin with every replica ready for an hour."""
        self._create(self.replicas)
        self._pods = [replace(pod, created_at=NOW - 3720, ready_at=NOW - 3600) for pod in self._pods]

    @property
    def ready(self) -> int:
        """Replicas that serve."""
        return sum(1 for pod in self._pods if pod.ready_at is not None)

    def play(self, seconds: int, *, requests_per_second: float) -> list[int]:
        """Let time pass under a load; return what was asked for, second by second."""
        began = len(self.desired)
        for _ in range(seconds):
            self.now += 1
            self._serve(requests_per_second)
            self._decide()
            self._reconcile()
        return self.desired[began:]

    def restart_operator(self) -> None:
        """Forget everything that a process remembers."""
        self.history = {}

    def scale_by_hand(self, replicas: int, *, manager: str = "kubectl-scale") -> None:
        """Set the Deployment's count as a person would."""
        self.replicas, self.scaled_by = replicas, manager

    def _serve(self, requests_per_second: float) -> None:
        most = self.ready * self.tokens_per_second / self.tokens_per_request
        served = min(most, requests_per_second + self.queue)
        self.queue += requests_per_second - served
        self._finished, self._tokens = served, served * self.tokens_per_request
        self._running = self.room * self.ready * (served / most) if most else 0.0

    def _decide(self) -> None:
        seen = self.made.asks(self.replicas, scaled_by=self.scaled_by)
        seen = replace(seen, made=tuple(self._report(pod) for pod in self._pods))
        gpus = {seen.spec.accelerator: nodes(self.gpus - len(self._pods), size=self.gpus)}
        self.plan = decide(fleet(seen, now=self.now, gpus=gpus), self.history)
        self.history = dict(self.plan.history)
        self.decision = self.plan.decisions[seen.key]
        self.desired.append(self.decision.desired)
        for scale in self.plan.scales:
            self.replicas, self.scaled_by = scale.replicas, ""
            victims = [pod for pod in self._pods if pod.name in scale.victims]
            self._pods = [pod for pod in self._pods if pod not in victims]

    def _report(self, pod: PodBuilder) -> PodBuilder:
        if pod.ready_at is None or self.blind or pod.name in self.deaf:
            return pod.lost()
        share = 1 / self.ready
        told = (
            pod.queue(self.queue * share)
            .running(self._running * share)
            .tokens(self._tokens * share)
            .finished(self._finished * share)
        )
        if self.idle_pace is None or not self._tokens:
            return told
        filled = self._tokens * share / self.tokens_per_second
        return told.inter_token(self.idle_pace / (1.0 - filled * (1.0 - self.idle_pace / self.pace_limit)))

    def _reconcile(self) -> None:
        if len(self._pods) < self.replicas:
            self._create(self.replicas - len(self._pods))
        while len(self._pods) > self.replicas:
            self._pods.pop()
        if not self.never_ready:
            self._pods = [
                replace(pod, ready_at=self.now)
                if pod.ready_at is None and self.now - pod.created_at >= self.start_seconds
                else pod
                for pod in self._pods
            ]

    def _create(self, replicas: int) -> None:
        self.created += replicas
        self._pods += [
            PodBuilder(name=f"pod-{next(self._numbers)}", created_at=self.now, ready_at=None) for _ in range(replicas)
        ]
