"""The deployments' world: requests, gateways, pods that start slowly and drain, and autoscalers that look on.

A deployment's gateway sends each request to the ready pod with the fewest in flight, of several to the one that was
sent the fewest, and holds requests while there is none. A pod that is scaled away takes no new ones and finishes what
it has. A pod that finds no node with GPUs enough is Pending: when some come free the pods that wait are tried by
priority, then by age, as kube-scheduler does; one that does not fit holds up nobody, and none is preempted.
Everything is played from event to event; between them replicas are only brought up to date when somebody looks.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import inf

from modelfleet.decide.snapshot import Node
from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.policy import Asked, Circumstances, FleetPolicy, PodSample, Policy, Sample, Setting
from modelfleet.simulate.pool import Pool
from modelfleet.simulate.replica import Replica, Request
from modelfleet.simulate.score import Moment, Run, Served

GRACE_SECONDS = 600.0
"""After the last arrival requests may finish for so long; GPUs are no longer counted."""
DRAIN_SECONDS = 120.0
"""Longest time a pod that was scaled away may take to finish what it has begun."""
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


@dataclass(frozen=True, slots=True)
class Member:
    """One deployment of a world.

    Attributes:
        name: Its own in the world: what happens at the same time happens in the order of names.
        setting: Bounds that the world enforces, and the target for the record.
        circumstances: The replica model, the latency targets, and the requests in order of time.
        start: How its pods start.
        seed: Of its random phases and spreads.
        accelerator: Class of the nodes that run it.
        priority: Of its pods while they wait for GPUs; higher is placed first.
    """

    name: str
    setting: Setting
    circumstances: Circumstances
    start: Start
    seed: int
    accelerator: str
    priority: int = 0


def play(
    arrivals: Sequence[Arrival],
    *,
    name: str,
    policy: Policy,
    setting: Setting,
    circumstances: Circumstances,
    start: Start,
    seed: int,
    drain_seconds: float = DRAIN_SECONDS,
) -> Run:
    """Play requests against an autoscaled deployment that finds GPUs for every pod.

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
    here = replace(circumstances, arrivals=arrivals)
    return play_fleet(
        (Member("model", setting, here, start, seed, _ALONE),),
        nodes={_ALONE: (Node("node", _PLENTY, _PLENTY),)},
        name=name,
        policies={"model": policy},
        drain_seconds=drain_seconds,
    )["model"]


_ALONE, _PLENTY = "any", 2**31


def play_fleet(
    members: Sequence[Member],
    *,
    nodes: Mapping[str, tuple[Node, ...]],
    name: str,
    policies: Mapping[str, Policy] | FleetPolicy,
    drain_seconds: float = DRAIN_SECONDS,
) -> dict[str, Run]:
    """Play deployments that share nodes.

    Args:
        members: In any order: it changes nothing.
        nodes: All of them free, by accelerator class.
        name: Of the policy, for the record.
        policies: One for each member by its name, which know nothing of each other, or one for all.
        drain_seconds: Longest time a pod that was scaled away may take to finish what it has begun.

    Returns:
        The run of each member by its name. All end at the last arrival of the latest.
    """
    return _World(members, nodes, policies, drain_seconds).run(name)


class _Alone:
    """A policy of one deployment as one of a fleet of one."""

    def __init__(self, name: str, policy: Policy) -> None:
        self._name, self._policy = name, policy
        self.sample_seconds, self.period_seconds = policy.sample_seconds, policy.period_seconds

    def observe(self, samples: Mapping[str, Sample], nodes: Mapping[str, tuple[Node, ...]]) -> None:
        self._policy.observe(samples[self._name])

    def decide(self, now: float, current: Mapping[str, int]) -> Mapping[str, Asked]:
        return {self._name: Asked(self._policy.decide(now, current[self._name]))}


class _Pod:
    """A pod: Pending while it has no node, starting while it has no replica.

    Attributes:
        rank: Of its deployment.
        number: In its deployment, by age.
        starts_seconds: From its GPUs to ready.
    """

    __slots__ = (
        "created_at",
        "node",
        "number",
        "placed_at",
        "rank",
        "ready_at",
        "replica",
        "sent",
        "starts_seconds",
        "uid",
    )

    def __init__(self, rank: int, number: int, created_at: float, starts_seconds: float) -> None:
        self.rank = rank
        self.number = number
        self.uid = f"pod-{number}"
        self.created_at = created_at
        self.starts_seconds = starts_seconds
        self.node = ""
        self.placed_at: float | None = None
        self.ready_at: float | None = None
        self.replica: Replica | None = None
        self.sent = 0


class _World:
    """The nodes, the clock, and the order of everything."""

    def __init__(
        self,
        members: Sequence[Member],
        nodes: Mapping[str, tuple[Node, ...]],
        policies: Mapping[str, Policy] | FleetPolicy,
        drain_seconds: float,
    ) -> None:
        ordered = sorted(members, key=lambda member: member.name)
        self._ranked = tuple(_Deployment(member, rank, drain_seconds) for rank, member in enumerate(ordered))
        self._by_name = {each.member.name: each for each in self._ranked}
        self._seconds = max((each.seconds for each in self._ranked), default=0.0)
        self._pool = Pool(nodes)
        self._pending: list[_Pod] = []
        self._loops: list[tuple[FleetPolicy, tuple[_Deployment, ...]]] = (
            [(_Alone(name, policies[name]), (each,)) for name, each in self._by_name.items()]
            if isinstance(policies, Mapping)
            else [(policies, self._ranked)]
        )
        self._events: list[tuple[float, int, int, int, _Pod | None]] = []
        """Heap of times, what happens, to whose rank, to which of its pods: no two are equal before the pod."""

    def run(self, name: str) -> dict[str, Run]:
        deployments = self._ranked
        for each in deployments:
            self._pending += each.begin()
        self._place(0.0)
        self._schedule_loops()
        # Two lists, for as many pairs would keep the garbage collector busy. Of the same moment the first by name comes
        # first, then the first that arrived.
        requests = [request for each in deployments for request in each.requests]
        owners = [each for each in deployments for _ in each.requests]
        order = sorted(range(len(requests)), key=lambda place: requests[place].at_seconds)
        ends, coming, total, events = self._seconds + GRACE_SECONDS, 0, len(order), self._events
        while True:
            at, what, rank, _, pod = events[0]
            while coming < total and requests[order[coming]].at_seconds <= at:
                owners[order[coming]].arrive(requests[order[coming]])
                coming += 1
            if what == _GONE:
                heappop(events)
                assert pod is not None  # noqa: S101 - only pods go
                its = deployments[rank]
                self._pool.give_back(its.member.accelerator, pod.node, its.gpus)
                self._place(at)
                continue
            # All of them are looked at, whichever is the first that is active: the order of names changes nothing.
            if at > ends or (coming == total and not sum([each.active(at) for each in deployments])):
                break
            heappop(events)
            self._happen(at, what, rank, pod)
        return {each.member.name: each.run(name, seconds=self._seconds, ends=ends) for each in deployments}

    # --- events ---------------------------------------------------------------------------------

    def _schedule_loops(self) -> None:
        """Give each loop its phase; one that decides as often as it looks decides right after looking."""
        heappush(self._events, (0.0, _MOMENT, 0, 0, None))
        for rank, (policy, its) in enumerate(self._loops):
            dice = its[0].dice
            look = dice.random() * policy.sample_seconds
            together = policy.sample_seconds == policy.period_seconds
            decide = look if together else dice.random() * policy.period_seconds
            heappush(self._events, (look, _LOOK, rank, 0, None))
            heappush(self._events, (decide, _DECIDE, rank, 0, None))

    def _happen(self, at: float, what: int, rank: int, pod: _Pod | None) -> None:
        if what == _LOOK:
            policy, its = self._loops[rank]
            policy.observe({each.member.name: each.sample(at) for each in its}, self._pool.nodes())
            heappush(self._events, (at + policy.sample_seconds, _LOOK, rank, 0, None))
        elif what == _DECIDE:
            policy, its = self._loops[rank]
            asked = policy.decide(at, {each.member.name: each.desired for each in its})
            for name, count in asked.items():
                self._scale(self._by_name[name], at, count)
            self._place(at)
            heappush(self._events, (at + policy.period_seconds, _DECIDE, rank, 0, None))
        elif what == _MOMENT:
            for each in self._ranked:
                each.look_on(at)
            heappush(self._events, (at + max(LEAST_MOMENT_SECONDS, self._seconds / MOMENTS), _MOMENT, 0, 0, None))
        elif pod is not None:
            self._ranked[rank].become_ready(pod, at)

    def _scale(self, deployment: "_Deployment", now: float, asked: Asked) -> None:
        made, drained = deployment.scale(now, asked)
        self._pending += made
        for pod, gone in drained:
            if pod.node:
                self._pool.drain(deployment.member.accelerator, pod.node, deployment.gpus)
                heappush(self._events, (gone, _GONE, deployment.rank, pod.number, pod))
            else:
                self._pending.remove(pod)

    def _place(self, now: float) -> None:
        """Give the pods that wait their GPUs, as far as there are any."""
        if not self._pending:
            return
        waiting, full = [], set()
        for pod in sorted(self._pending, key=self._turn):
            its = self._ranked[pod.rank]
            asks = (its.member.accelerator, its.gpus)
            pod.node = "" if asks in full else self._pool.take(*asks)
            if not pod.node:
                full.add(asks)
                waiting.append(pod)
                continue
            pod.placed_at = now
            if pod.created_at < 0.0 and now == 0.0:
                its.become_ready(pod, now)
            else:
                heappush(self._events, (now + pod.starts_seconds, _READY, its.rank, pod.number, pod))
        self._pending = waiting

    def _turn(self, pod: _Pod) -> tuple[int, float, int, int]:
        """Order pods that wait for GPUs, across deployments."""
        return (-self._ranked[pod.rank].member.priority, pod.created_at, pod.rank, pod.number)


class _Deployment:
    """One deployment: its gateway, its pods, and what became of both."""

    def __init__(self, member: Member, rank: int, drain_seconds: float) -> None:
        arrivals = member.circumstances.arrivals
        self.member = member
        self.rank = rank
        self.requests = [
            Request(number, arrival.at_seconds, arrival.prompt_tokens, arrival.output_tokens)
            for number, arrival in enumerate(arrivals)
        ]
        self.seconds = arrivals[-1].at_seconds if arrivals else 0.0
        self.gpus = member.circumstances.model.gpus
        self.desired = 0
        self.dice = random.Random(f"world/{member.seed}")
        self._setting, self._start, self._model = member.setting, member.start, member.circumstances.model
        self._drain_seconds = drain_seconds
        self._pods: list[_Pod] = []
        """Not terminating, oldest first."""
        self._serving: list[_Pod] = []
        self._held: deque[Request] = deque()
        self._leaving: list[float] = []
        """Heap of the times at which draining pods finish their requests."""
        self._draining: list[tuple[float, str, str]] = []
        """Heap of the times at which draining pods are gone, their UIDs and nodes."""
        self._holds: list[tuple[float, float]] = []
        self._waits: list[tuple[float, float]] = []
        self._made = self._arrived = self._arrived_prompt = 0
        self._timeline: list[Moment] = []
        self._scales: list[tuple[float, int]] = []

    def begin(self) -> list[_Pod]:
        """Return the pods that were made before the run; those that have GPUs are ready when it begins."""
        self.desired = self._setting.min_replicas
        return [self._create(-self._start.seconds, self._start.seconds) for _ in range(self.desired)]

    def run(self, name: str, *, seconds: float, ends: float) -> Run:
        for pod in self._pods:
            if pod.replica is not None:
                pod.replica.advance(ends)
        return Run(
            policy=name,
            setting=self._setting,
            seconds=seconds,
            gpus_per_replica=self.gpus,
            pods=[*self._holds, *((pod.placed_at, inf) for pod in self._pods if pod.placed_at is not None)],
            served=[_served(request, ends) for request in self.requests],
            timeline=self._timeline,
            scales=self._scales,
            waits=[*self._waits, *(_wait(pod, inf) for pod in self._pods)],
        )

    # --- requests -------------------------------------------------------------------------------

    def arrive(self, request: Request) -> None:
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

    def become_ready(self, pod: _Pod, at: float) -> None:
        """Serve from now on, unless the pod was scaled away while it started."""
        if pod not in self._pods:
            return
        pod.ready_at = at
        pod.replica = Replica(self._model, at_seconds=at)
        self._serving.append(pod)
        while self._held:
            self._send(self._held.popleft(), at)

    # --- scaling --------------------------------------------------------------------------------

    def scale(self, now: float, asked: Asked) -> tuple[list[_Pod], list[tuple[_Pod, float]]]:
        """Return the pods that were made, and those that were scaled away with the time at which they are gone."""
        desired = max(self._setting.min_replicas, min(self._setting.max_replicas, asked.replicas))
        change = desired - self.desired
        if not change:
            return [], []
        self.desired = desired
        self._scales.append((now, change))
        made = [self._create(now, self._start.seconds * self._factor()) for _ in range(change)]
        drained = []
        if change < 0:
            self._advance(now)
            going = sorted(self._pods, key=lambda pod: (pod.uid not in asked.first, _idlest(pod)))
            drained = [(pod, self._drain(pod, now)) for pod in going[:-change]]
        return made, drained

    def _factor(self) -> float:
        return 1.0 + self._start.spread * self.dice.uniform(-1.0, 1.0)

    def _create(self, at: float, starts_seconds: float) -> _Pod:
        pod = _Pod(self.rank, self._made, at, starts_seconds)
        self._made += 1
        self._pods.append(pod)
        return pod

    def _drain(self, pod: _Pod, now: float) -> float:
        """Take a pod out of service; what it will do until it is gone is known now. Return when that is."""
        self._pods.remove(pod)
        self._waits.append(_wait(pod, now))
        if pod.placed_at is None:
            return now
        gone = now
        if pod.replica is not None:
            self._serving.remove(pod)
            begun = pod.replica.unfinished()
            pod.replica.advance(now + self._drain_seconds)
            finished = [request.finished_at for request in begun if request.finished_at is not None]
            gone = max(finished, default=now) if len(finished) == len(begun) else now + self._drain_seconds
            for at in finished:
                heappush(self._leaving, at)
        heappush(self._draining, (gone, pod.uid, pod.node))
        self._holds.append((pod.placed_at, gone))
        return gone

    # --- looking --------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        for pod in self._serving:
            assert pod.replica is not None  # noqa: S101 - a serving pod has one
            pod.replica.advance(now)

    def active(self, now: float) -> int:
        """Return the requests that arrived and have not finished."""
        self._advance(now)
        while self._leaving and self._leaving[0] <= now:
            heappop(self._leaving)
        here = sum(pod.replica.in_flight for pod in self._serving if pod.replica is not None)
        return here + len(self._held) + len(self._leaving)

    def sample(self, now: float) -> Sample:
        active = self.active(now)
        return Sample(
            at=now,
            pods=tuple(_look(pod, self._model.kv_cache_tokens) for pod in self._pods),
            arrived_requests=self._arrived,
            arrived_prompt_tokens=self._arrived_prompt,
            active_requests=active,
            held_requests=len(self._held),
            terminating=tuple((uid, node) for gone, uid, node in self._draining if gone > now),
        )

    def look_on(self, now: float) -> None:
        """Keep this moment for the timeline."""
        active = self.active(now)
        while self._draining and self._draining[0][0] <= now:
            heappop(self._draining)
        replicas = [pod.replica for pod in self._serving if pod.replica is not None]
        queued = len(self._held) + sum(replica.queued for replica in replicas)
        pending = sum(pod.placed_at is None for pod in self._pods)
        self._timeline.append(
            Moment(
                at_seconds=now,
                desired=self.desired,
                pods=len(self._pods) - pending + len(self._draining),
                ready=len(self._serving),
                queued=queued,
                running=active - queued,
                arrived=self._arrived,
                pending=pending,
            )
        )


# What happens at the same moment happens in this order: policies decide on what they have just seen.
_GONE, _MOMENT, _LOOK, _DECIDE, _READY = range(5)


def _idlest(pod: _Pod) -> tuple[bool, bool, int, float, str]:
    """Order pods by who goes first: Pending ones, starting ones, then the least busy, the newest of them."""
    busy = 0 if pod.replica is None else pod.replica.in_flight
    return (pod.placed_at is not None, pod.replica is not None, busy, -pod.created_at, pod.uid)


def _wait(pod: _Pod, until: float) -> tuple[float, float]:
    """Return from when to when a pod waited for its GPUs."""
    return max(0.0, pod.created_at), until if pod.placed_at is None else pod.placed_at


def _look(pod: _Pod, kv_cache_tokens: int) -> PodSample:
    replica = pod.replica
    if replica is None:
        return PodSample(pod.uid, pod.created_at, None, 0, 0, 0, 0.0, 0, 0, 0, 0, 0.0, 0, 0.0, 0, pod.node)
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
        pod.node,
    )


def _served(request: Request, ends: float) -> Served:
    first, last = request.first_token_at, request.finished_at
    if first is None or first > ends:
        return Served(request.at_seconds, None, None)
    gaps = request.output - 1
    tpot = None if last is None or last > ends else (last - first) / gaps if gaps else 0.0
    return Served(request.at_seconds, first - request.at_seconds, tpot)
