"""Strategies of fleets: any deployments, pods in any state, signals of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import strategies as st

from modelfleet.api.conditions import Reason
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import Mode
from modelfleet.decide.cycle import decide
from modelfleet.decide.history import LoadMemory, Measured, Memory, QueueSample, Recommendation, ScaleEvent, Windows
from modelfleet.decide.snapshot import Node
from tests.builders import (
    NOW,
    UNDAMPED,
    DeploymentBuilder,
    PodBuilder,
    behavior,
    deployment,
    fleet,
    nodes,
    ready,
)

World = tuple[list[DeploymentBuilder], Mapping[str, tuple[Node, ...]], dict[Key, Memory]]
"""Deployments, nodes, and what earlier decisions left."""

BEHAVIORS = (
    UNDAMPED,
    behavior(),
    behavior(down_window=0),
    behavior(up_window=30, down_window=60),
    behavior(up=("1 Pods / 30 s",), down=("10 Percent / 30 s",), down_window=10, tolerance=0),
    behavior(up_enabled=False),
    behavior(down_enabled=False),
)


def _pods(random: Random, *, whole: bool) -> PodBuilder:
    pod = PodBuilder(
        name="pod",
        created_at=NOW - random.choice((0.0, 5.0, 130.0, 4000.0)),
        ready_at=None,
        node=random.choice(("node-0", "node-1")),
    )
    pod = pod.queue(random.choice((0, 0, 1, 5, 60))).running(random.choice((0, 1, 16, 64)))
    pod = pod.tokens(random.choice((0, 1, 90, 2000))).finished(random.choice((0, 0.1, 20)))
    if random.random() < 0.8:
        pod = replace(pod, ready_at=max(pod.created_at, NOW - random.choice((0.0, 2.0, 60.0))))
    elif random.random() < 0.5:
        pod = pod.unscheduled()
    if random.random() < 0.1:
        pod = pod.dying()
    if whole or random.random() < 0.5:
        return pod
    return random.choice((pod.lost(), pod.lost("tokens"), pod.lost("queued"), pod.stale(60), pod.lost("kv")))


def _spec(random: Random, *, auto: bool) -> DeploymentBuilder:
    low = random.choice((1, 1, 2, 4))
    made = (
        deployment("", random.choice(("team-a", "team-b")))
        .bounds(low, low + random.choice((0, 1, 5, 12)))
        .targets(queue=random.choice((1, 8, 40)), tokens=random.choice((None, 50, 400)))
        .behavior(random.choice(BEHAVIORS))
        .gpus(random.choice((1, 1, 2, 8)))
        .priority(random.choice((-1, 0, 0, 7)))
        .asks(random.choice((1, 2, 5, 16)))
        .having(prior_output_tokens_per_second=random.choice((None, 500.0)))
    )
    if auto:
        return made
    made = made.mode(random.choice((Mode.AUTO, Mode.AUTO, *Mode)))
    match random.randrange(10):
        case 0:
            return made.childless()
        case 1:
            return made.fault(Reason.RUNTIME_NOT_FOUND)
        case 2:
            return made.having(foreign_autoscaler="HorizontalPodAutoscaler team-a/hpa")
        case 3:
            return made.asks(random.choice((0, 3, 20)), scaled_by="kubectl")
        case _:
            return made


def _memory(random: Random) -> Memory:
    highest = sorted(random.sample(range(17), random.randrange(4)), reverse=True)
    lowest = sorted(random.sample(range(17), random.randrange(4)))
    changes = [random.choice((-4, -1, 1, 4)) for _ in range(random.randrange(4))]
    return Memory(
        uid="",
        since=NOW - random.choice((0.0, 30.0, 3600.0, 3600.0)),
        desired=random.choice((None, 0, 1, 2, 5, 16)),
        windows=Windows(
            highest=tuple(Recommendation(NOW - 50 + number, count) for number, count in enumerate(highest)),
            lowest=tuple(Recommendation(NOW - 25 + number, count) for number, count in enumerate(lowest)),
        ),
        scale_events=tuple(ScaleEvent(NOW - 40 + 9 * number, change) for number, change in enumerate(changes)),
        load=LoadMemory(
            queue=tuple(
                QueueSample(NOW - 8 + number, random.choice((0, 3, 40, 200)), random.choice((3, 200)))
                for number in range(random.randrange(8))
            ),
            measured=random.choice(
                (
                    Measured(),
                    Measured(tokens_per_second=500.0, running_requests=32.0, measured_seconds=60.0),
                    Measured(running_requests=1.5, saturated_since=NOW - 4),
                    Measured(saturated_since=NOW - 60),
                )
            ),
            tokens_per_request=random.choice((None, 1.0, 200.0)),
        ),
        start_seconds=random.choice(((), (0.0,), (70.0, 90.0))),
        last_decided_at=random.choice((None, NOW - 1, NOW - 1, NOW + 5)),
    )


# Drawing every number costs more than deciding: hypothesis picks from pools, and shrinks to their simple ends.
_random = Random("fleets")
PODS = (ready("pod"), *(_pods(_random, whole=False) for _ in range(600)))
WHOLE_PODS = (ready("pod"), *(_pods(_random, whole=True) for _ in range(300)))
SPECS = (deployment(""), *(_spec(_random, auto=False) for _ in range(300)))
AUTO_SPECS = (deployment(""), *(_spec(_random, auto=True) for _ in range(200)))
MEMORIES = (
    Memory(uid="", since=NOW - 3600, desired=1, last_decided_at=NOW - 1),
    *(_memory(_random) for _ in range(400)),
)


@st.composite
def deployments(draw: st.DrawFn, name: str, *, whole: bool = False, auto: bool = False) -> DeploymentBuilder:
    """Draw one deployment; `whole` with complete signals, `auto` valid and to be scaled."""
    made = replace(draw(st.sampled_from(AUTO_SPECS if auto else SPECS)), name=name)
    drawn = draw(st.lists(st.sampled_from(WHOLE_PODS if whole else PODS), max_size=6))
    return replace(made, made=tuple(replace(pod, name=f"{name}-{number}") for number, pod in enumerate(drawn)))


def memories(made: DeploymentBuilder) -> st.SearchStrategy[Memory]:
    """Draw what earlier decisions may have left."""
    return st.sampled_from(MEMORIES).map(lambda memory: replace(memory, uid=f"uid-{made.name}"))


@st.composite
def fleets(draw: st.DrawFn, *, whole: bool = False, auto: bool = False) -> World:
    """Draw up to four deployments, nodes with free GPUs, and memories of some of them."""
    made = [draw(deployments(name, whole=whole, auto=auto)) for name in "abc"[: draw(st.integers(1, 3))]]
    free = draw(st.sampled_from(((), (0,), (1,), (2, 3), (8,), (8, 8, 8), (1, 1, 1, 1), (7, 5, 3))))
    history = {one.key: draw(memories(one)) for one in made if draw(st.booleans())}
    return made, {"h100": nodes(*free)}, history


def apply(made: list[DeploymentBuilder], plan: Any) -> list[DeploymentBuilder]:
    """Write a plan's scales, as the API server would show them."""
    by_key = {scale.key: scale for scale in plan.scales}
    return [one.asks(by_key[one.key].replicas) if one.key in by_key else one for one in made]


def decide_on(
    made: list[DeploymentBuilder], gpus: Mapping[str, tuple[Node, ...]], history: Mapping[Key, Memory]
) -> Any:
    """Decide about a fleet now."""
    return decide(fleet(*made, gpus=gpus), history)
