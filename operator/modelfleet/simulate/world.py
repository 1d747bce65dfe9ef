"""One deployment's world: requests, a gateway, pods that start slowly and drain, and an autoscaler that looks on.

The gateway sends each request to the ready pod with the fewest in flight, of several to the one that was sent the
fewest, and holds requests while there is none. A pod that is scaled away takes no new ones and finishes what it
has. Everything is played from event to event; between them replicas are only brought up to date when somebody looks.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.policy import Circumstances, PodSample, Policy, Sample, Setting
from modelfleet.simulate.replica import Replica, Request
from modelfleet.simulate.score import Moment, Run, Served

GRACE_SECONDS = 600.0
"""After the last arrival requests may finish for so long; GPUs are no longer counted."""
MOMENTS = 1_000
"""Most moments of a run's timeline."""
LEAST_MOMENT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Start:
    """How long a pod takes from creation to ready, phase by phase, in seconds.

    Attributes:
        schedule_seconds: Scheduler, sandbox, volumes.
        image_seconds: Image pull.
        load_seconds: Weights, compilation, graph capture.
        spread: Each pod draws one factor for the whole from [1 - spread, 1 + spread].
    """

    schedule_seconds: float = 2.0
    image_seconds: float = 18.0
    load_seconds: float = 90.0
    spread: float = 0.1

    @property
    def seconds(self) -> float:
        """The sum at the median."""
        return self.schedule_seconds + self.image_seconds + self.load_seconds

    @classmethod
    def of(cls, seconds: float) -> "Start":
        """Split a whole start into phases as a warm cache does: 2 %, 16 %, 82 %."""
        return cls(seconds * 0.02, seconds * 0.16, seconds * 0.82)


def play(
    arrivals: Sequence[Arrival],
    *,
    name: str,
    policy: Policy,
    setting: Setting,
    circumstances: Circumstances,
    start: Start,
    seed: int,
    drain_seconds: float = 120.0,
) -> Run:
    """Play requests against an autoscaled deployment.

    Args:
        arrivals: In order of time.
        name: Of the policy, for the record.
        policy: Decides; its state belongs to this run.
        setting: Bounds that the world enforces, and the target for the record.
        circumstances: The replica model and the latency targets.
        start: How pods start.
        seed: Of every random phase and spread: the same arguments give the same run.
        drain_seconds: Longest time a pod that was scaled away may take to finish what it has begun.
    """
    return _World(arrivals, policy, setting, circumstances, start, seed, drain_seconds).run(name)


class _Pod:
    """A pod: starting while it has no replica."""

    __slots__ = ("created_at", "ready_at", "replica", "sent", "uid")

    def __init__(self, uid: str, created_at: float) -> None:
        self.uid = uid
        self.created_at = created_at
        self.ready_at: float | None = None
        self.replica: Replica | None = None
        self.sent = 0


class _World:
    def __init__(
        self,
        arrivals: Sequence[Arrival],
        policy: Policy,
        setting: Setting,
        circumstances: Circumstances,
        start: Start,
        seed: int,
        drain_seconds: float,
    ) -> None:
        self._requests = [
            Request(number, arrival.at_seconds, arrival.prompt_tokens, arrival.output_tokens)
            for number, arrival in enumerate(arrivals)
        ]
        self._policy, self._setting, self._start = policy, setting, start
        self._model: ReplicaModel = circumstances.model
        self._drain_seconds = drain_seconds
        self._dice = random.Random(f"world/{seed}")
        self._seconds = arrivals[-1].at_seconds if arrivals else 0.0
        self._pods: list[_Pod] = []
        """Not terminating, oldest first."""
        self._serving: list[_Pod] = []
        self._held: deque[Request] = deque()
        self._leaving: list[float] = []
        """Heap of the times at which draining pods finish their requests."""
        self._draining: list[float] = []
        """Heap of the times at which draining pods are gone."""
        self._holds: list[tuple[float, float]] = []
        self._made = self._arrived = self._arrived_prompt = 0
        self._desired = 0
        self._timeline: list[Moment] = []
        self._scales: list[tuple[float, int]] = []
        self._events: list[tuple[float, int, _Pod | None]] = []

    def run(self, name: str) -> Run:
        self._desired = self._setting.min_replicas
        for _ in range(self._desired):
            pod = self._create(-self._start.seconds, ready_at=0.0)
            self._become_ready(pod, 0.0)
        self._schedule_loops()
        ends, coming = self._seconds + GRACE_SECONDS, 0
        requests, total, events = self._requests, len(self._requests), self._events
        while True:
            at = events[0][0]
            while coming < total and requests[coming].at_seconds <= at:
                self._arrive(requests[coming])
                coming += 1
            if at > ends or (coming == total and not self._active(at)):
                break
            _, what, becoming = heappop(events)
            self._happen(at, what, becoming)
        for pod in self._pods:
            if pod.replica is not None:
                pod.replica.advance(ends)
        return Run(
            policy=name,
            setting=self._setting,
            seconds=self._seconds,
            gpus_per_replica=self._model.gpus,
            pods=[*self._holds, *((max(0.0, pod.created_at), inf) for pod in self._pods)],
            served=[_served(request, ends) for request in requests],
            timeline=self._timeline,
            scales=self._scales,
        )

    # --- events ---------------------------------------------------------------------------------

    def _schedule_loops(self) -> None:
        """Give each loop its phase; one that decides as often as it looks decides right after looking."""
        policy = self._policy
        look = self._dice.random() * policy.sample_seconds
        together = policy.sample_seconds == policy.period_seconds
        decide = look if together else self._dice.random() * policy.period_seconds
        for at, what in ((0.0, _MOMENT), (look, _LOOK), (decide, _DECIDE)):
            heappush(self._events, (at, what, None))

    def _happen(self, at: float, what: int, pod: _Pod | None) -> None:
        if what == _LOOK:
            self._policy.observe(self._sample(at))
            heappush(self._events, (at + self._policy.sample_seconds, _LOOK, None))
        elif what == _DECIDE:
            self._scale(at, self._policy.decide(at, self._desired))
            heappush(self._events, (at + self._policy.period_seconds, _DECIDE, None))
        elif what == _MOMENT:
            self._timeline.append(self._moment(at))
            heappush(self._events, (at + max(LEAST_MOMENT_SECONDS, self._seconds / MOMENTS), _MOMENT, None))
        elif pod is not None and pod in self._pods:
            self._become_ready(pod, at)

    def _arrive(self, request: Request) -> None:
        self._arrived += 1
        self._arrived_prompt += request.prompt
        if self._serving:
            self._send(request, request.at_seconds)
        else:
            self._held.append(request)

    def _send(self, request: Request, now: float) -> None:
        least, chosen = inf, None
        for pod in self._serving:
            replica = pod.replica
            assert replica is not None  # noqa: S101 - a serving pod has one
            if replica.next_finish_at <= now:
                replica.advance(now)
            load = replica.in_flight
            if load < least or (load == least and chosen is not None and pod.sent < chosen.sent):
                least, chosen = load, pod
        assert chosen is not None and chosen.replica is not None  # noqa: S101 - the caller saw that somebody serves
        chosen.sent += 1
        chosen.replica.submit(request, now=now)

    def _become_ready(self, pod: _Pod, at: float) -> None:
        pod.ready_at = at
        pod.replica = Replica(self._model, at_seconds=at)
        self._serving.append(pod)
        while self._held:
            self._send(self._held.popleft(), at)

    # --- scaling --------------------------------------------------------------------------------

    def _scale(self, now: float, asked: int) -> None:
        desired = max(self._setting.min_replicas, min(self._setting.max_replicas, asked))
        change = desired - self._desired
        if not change:
            return
        self._desired = desired
        self._scales.append((now, change))
        for _ in range(change):
            self._create(now, ready_at=now + self._start.seconds * self._factor())
        if change < 0:
            self._advance(now)
            for pod in sorted(self._pods, key=_idlest)[:-change]:
                self._drain(pod, now)

    def _factor(self) -> float:
        return 1.0 + self._start.spread * self._dice.uniform(-1.0, 1.0)

    def _create(self, at: float, *, ready_at: float) -> _Pod:
        pod = _Pod(f"pod-{self._made}", at)
        self._made += 1
        self._pods.append(pod)
        if ready_at > 0.0:
            heappush(self._events, (ready_at, _READY + self._made, pod))
        return pod

    def _drain(self, pod: _Pod, now: float) -> None:
        """Take a pod out of service; what it will do until it is gone is known now."""
        self._pods.remove(pod)
        gone = now
        if pod.replica is not None:
            self._serving.remove(pod)
            begun = pod.replica.unfinished()
            pod.replica.advance(now + self._drain_seconds)
            finished = [request.finished_at for request in begun if request.finished_at is not None]
            gone = max(finished, default=now) if len(finished) == len(begun) else now + self._drain_seconds
            for at in finished:
                heappush(self._leaving, at)
        heappush(self._draining, gone)
        self._holds.append((max(0.0, pod.created_at), gone))

    # --- looking --------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        for pod in self._serving:
            assert pod.replica is not None  # noqa: S101 - a serving pod has one
            pod.replica.advance(now)

    def _active(self, now: float) -> int:
        """Return the requests that arrived and have not finished."""
        self._advance(now)
        while self._leaving and self._leaving[0] <= now:
            heappop(self._leaving)
        here = sum(pod.replica.in_flight for pod in self._serving if pod.replica is not None)
        return here + len(self._held) + len(self._leaving)

    def _sample(self, now: float) -> Sample:
        active = self._active(now)
        return Sample(
            at=now,
            pods=tuple(_look(pod, self._model.kv_cache_tokens) for pod in self._pods),
            arrived_requests=self._arrived,
            arrived_prompt_tokens=self._arrived_prompt,
            active_requests=active,
            held_requests=len(self._held),
        )

    def _moment(self, now: float) -> Moment:
        active = self._active(now)
        while self._draining and self._draining[0] <= now:
            heappop(self._draining)
        replicas = [pod.replica for pod in self._serving if pod.replica is not None]
        queued = len(self._held) + sum(replica.queued for replica in replicas)
        return Moment(
            at_seconds=now,
            desired=self._desired,
            pods=len(self._pods) + len(self._draining),
            ready=len(self._serving),
            queued=queued,
            running=active - queued,
            arrived=self._arrived,
        )


# What happens at the same moment happens in this order: policies decide on what they have just seen.
_MOMENT, _LOOK, _DECIDE, _READY = range(4)


def _idlest(pod: _Pod) -> tuple[bool, int, float, str]:
    """Order pods by who goes first: starting ones, then the least busy, the newest of them."""
    busy = 0 if pod.replica is None else pod.replica.in_flight
    return (pod.replica is not None, busy, -pod.created_at, pod.uid)


def _look(pod: _Pod, kv_cache_tokens: int) -> PodSample:
    replica = pod.replica
    if replica is None:
        return PodSample(pod.uid, pod.created_at, None, 0, 0, 0, 0.0, 0, 0, 0, 0, 0.0, 0, 0.0, 0)
    return PodSample(
        pod.uid,
        pod.created_at,
        pod.ready_at,
        replica.queued,
        replica.running,
        replica.kv_tokens,
        replica.kv_tokens / kv_cache_tokens,
        replica.queued_prompt_tokens,
        replica.prompt_tokens,
        replica.generated_tokens,
        replica.finished_requests,
        replica.ttft_seconds_sum,
        replica.first_tokens,
        replica.inter_token_seconds_sum,
        replica.inter_tokens,
    )


def _served(request: Request, ends: float) -> Served:
    first, last = request.first_token_at, request.finished_at
    if first is None or first > ends:
        return Served(request.at_seconds, None, None)
    gaps = request.output - 1
    tpot = None if last is None or last > ends else (last - first) / gaps if gaps else 0.0
    return Served(request.at_seconds, first - request.at_seconds, tpot)
