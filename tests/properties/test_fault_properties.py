"""10,000 random fault patterns: pods that fall silent, report late or nothing, start, die, over whole sequences."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest

from modelfleet.api.meta import Key
from modelfleet.decide.cycle import decide
from modelfleet.decide.demand import FIRST_SIGNALS_SECONDS
from modelfleet.decide.history import Memory
from modelfleet.decide.pace import LEAST_TOKENS_PER_SECOND
from tests.builders import MAX_AGE_SECONDS, NOW, DeploymentBuilder, PodBuilder, behavior, deployment, fleet, nodes

SEQUENCES = 100
TICKS = 25
CHUNKS = 4
NEEDED = ("queued", "running", "tokens")
RULES = (
    behavior(),
    behavior(down_window=None),
    behavior(down_window=10),
    behavior(down_window=0, down=("100 Percent / 1 s",)),
)


def _faulty(pod: PodBuilder, random: Random, load: float) -> PodBuilder:
    pod = pod.queue(random.choice((0, 0, 1, 9, 400)) * load).running(random.randint(0, 32) * load)
    pod = pod.tokens(random.randint(0, 1500) * load).finished(random.random() * 8).stale(random.random())
    pod = pod.inter_token(random.choice((0.008, 0.02, 0.05, 0.3)))
    match random.randrange(9):
        case 0:
            return pod.lost()
        case 1:
            return pod.lost(random.choice(NEEDED))
        case 2:
            return pod.stale(MAX_AGE_SECONDS + random.choice((0.1, 60, 86_400)))
        case 3:
            return pod.lost("finished", "kv")
        case 4:
            return pod.lost("inter_token")
        case _:
            return pod


def _silent(pod: PodBuilder) -> bool:
    return _serves(pod) and (pod.age > MAX_AGE_SECONDS or any(pod.values[name] is None for name in NEEDED))


def _serves(pod: PodBuilder) -> bool:
    return pod.ready_at is not None and not pod.terminating


def _unequally_paced(pods: Iterable[PodBuilder], now: float) -> bool:
    """Whether one pod that generates tokens tells their pace, and another, ready for long, does not."""
    busy = [pod for pod in pods if _serves(pod) and (pod.values["tokens"] or 0.0) >= LEAST_TOKENS_PER_SECOND]
    told = {pod.name for pod in busy if pod.values["inter_token"] is not None}
    silent = [pod for pod in busy if pod.name not in told and now - (pod.ready_at or now) >= FIRST_SIGNALS_SECONDS]
    return bool(told) and bool(silent)


class World:
    """One deployment whose pods follow what is asked for, more or less."""

    def __init__(self, name: str, random: Random) -> None:
        self.random = random
        self.made: DeploymentBuilder = (
            deployment(name).bounds(1, 20).behavior(random.choice(RULES)).targets(tokens=random.choice((None, 100)))
        )
        self.replicas = random.randint(1, 12)
        self.pods: list[PodBuilder] = []
        self.born = 0

    def tick(self, now: float, load: float) -> DeploymentBuilder:
        """Return the deployment as it is seen now."""
        random = self.random
        while len(self.pods) < self.replicas and random.random() < 0.9:
            self.born += 1
            self.pods.append(PodBuilder(name=f"p{self.born}", created_at=now, ready_at=None))
        while len(self.pods) > self.replicas:
            self.pods.pop(random.randrange(len(self.pods)))
        self.pods = [
            replace(pod, ready_at=random.choice((now - 30, now - 1, pod.ready_at, pod.ready_at, None)))
            for pod in self.pods
        ]
        seen = [_faulty(pod, random, load) for pod in self.pods]
        return replace(self.made.asks(self.replicas), made=tuple(seen))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_scale_in_while_any_ready_pod_is_silent(chunk: int) -> None:
    """Over sequences of 25 decisions with faults, loads that come and go, and restarts of the operator.

    A shrink happens only when every ready pod reports queue, running requests and throughput, within
    bounds, and not before one window of the process's own watching.
    """
    patterns = shrinks = 0
    for sequence in range(SEQUENCES // CHUNKS):
        random = Random(f"{chunk} {sequence}")
        worlds = [World(name, random) for name in "abcd"]
        history: dict[Key, Memory] = {}
        now = NOW
        for _ in range(TICKS):
            now += random.choice((1, 1, 2, 7, 40, 301))
            if random.random() < 0.03:
                history = {}
            load = random.choice((0.0, 0.01, 1.0, 1.0))
            seen = [world.tick(now, load) for world in worlds]
            plan = decide(fleet(*seen, now=now, gpus={"h100": nodes(8, 8, 8)}), history)
            for world, one in zip(worlds, seen, strict=True):
                decision = plan.decisions[one.key]
                patterns += 1
                assert 1 <= decision.desired <= 20
                if decision.desired < world.replicas:
                    shrinks += 1
                    watched = now - plan.history[one.key].since
                    assert not any(_silent(pod) for pod in one.made), (chunk, sequence)
                    assert not _unequally_paced(one.made, now), (chunk, sequence)
                    assert watched >= one.spec.scaling.behavior.scale_down.watch_seconds
            for scale in plan.scales:
                next(world for world in worlds if world.made.key == scale.key).replicas = scale.replicas
            history = dict(plan.history)

    assert patterns == SEQUENCES // CHUNKS * TICKS * 4
    # The sequences do shrink: what is asserted above is no empty promise.
    assert shrinks > patterns / 200
