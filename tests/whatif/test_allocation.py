"""A cluster played by the operator's own decisions: where it comes to rest, and what a past of it comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import Mode
from modelfleet.decide.snapshot import Allowance, Assumed, Missing, Node, Snapshot, Tenant, Tokens
from modelfleet.simulate.allocation import World, replay, settle
from tests.builders import NOW, DeploymentBuilder, deployment, fleet, ready, tenant

HOUR = 60


def team(name: str, replicas: int, *, node: str = "x", gpus: int = 1, most: int = 16) -> DeploymentBuilder:
    """Return a deployment that holds so many replicas on one node."""
    made = [replace(ready(f"{name}-{number}"), node=node) for number in range(replicas)]
    return deployment("llama", name).bounds(1, most).gpus(gpus).pods(*made).asks(replicas)


def cluster(*made: DeploymentBuilder, tenants: tuple[Tenant, ...], nodes: dict[str, int]) -> Snapshot:
    """Return a snapshot in which nodes and tenants are held as the deployments' pods have it."""
    used: dict[str, int] = {}
    free = dict(nodes)
    for one in made:
        for pod in one.made:
            free[pod.node] -= one.spec.gpus_per_replica
            used[one.namespace] = used.get(one.namespace, 0) + one.spec.gpus_per_replica
    return fleet(
        *made,
        gpus={"h100": tuple(Node(name, free[name], size) for name, size in nodes.items())},
        tenants=tuple(replace(each, used_gpus={"h100": used.get(each.name, 0)}) for each in tenants),
    )


def wants(**replicas: int) -> dict[Key, Assumed]:
    """Return what teams are asked for."""
    return {Key(name.replace("_", "-"), "llama"): Assumed(replicas=count) for name, count in replicas.items()}


def test_what_was_borrowed_goes_back_and_nothing_moves_after() -> None:
    """A has 2 of its 8, B borrows 6 of them; A wants 8: 6 of B's drain, A has its 8, B its own 8."""
    snapshot = cluster(
        team("team-a", 2),
        team("team-b", 6),
        replace(team("team-b", 8, node="y"), name="qwen"),
        tenants=(tenant("team-a", 8), tenant("team-b", 8)),
        nodes={"x": 8, "y": 8},
    )
    world = World(snapshot)
    demand = {**wants(team_a=8, team_b=6), Key("team-b", "qwen"): Assumed(replicas=8)}
    plan, rests = settle(world, demand)
    asked = world.asked()

    assert rests
    assert asked[Key("team-a", "llama")] == 8
    assert asked[Key("team-b", "llama")] + asked[Key("team-b", "qwen")] == 8
    assert sum(len(reclaim.pods) for reclaim in world.reclaims) == 6
    assert {(reclaim.tenant, reclaim.taker) for reclaim in world.reclaims} == {("team-b", "team-a")}
    again = world.step(demand)
    assert not world.moved
    assert again.scales == plan.scales == ()
    assert sum(node.free_gpus for node in world.snapshot().nodes["h100"]) == 0


def test_rest_is_where_windows_have_passed() -> None:
    """Two replicas are wanted of the eight that run: they are given up once the scale-down window has filled."""
    snapshot = cluster(team("team-a", 8), tenants=(tenant("team-a", 8),), nodes={"x": 8})
    world = World(snapshot)
    _, rests = settle(world, wants(team_a=2))

    assert rests
    assert world.asked() == {Key("team-a", "llama"): 2}
    assert world.now - NOW >= 300
    assert world.snapshot().tenants[0].used_gpus == {"h100": 2}


def test_a_pod_that_no_deployment_made_stays() -> None:
    """Three GPUs of a node are a job's: they are never free, and count for its team."""
    snapshot = cluster(team("team-a", 1), tenants=(tenant("team-a", 8),), nodes={"x": 8})
    (node,) = snapshot.nodes["h100"]
    snapshot = replace(
        snapshot,
        nodes={"h100": (replace(node, free_gpus=4),)},
        tenants=(replace(snapshot.tenants[0], used_gpus={"h100": 4}),),
    )
    world = World(snapshot)
    plan, _ = settle(world, wants(team_a=9))

    assert world.asked() == {Key("team-a", "llama"): 5}
    assert plan.decisions[Key("team-a", "llama")].limited_by in {Limit.CAPACITY, Limit.TENANT_QUOTA}
    assert world.snapshot().tenants[0].used_gpus == {"h100": 8}


def test_who_is_not_scaled_stays_as_it_is() -> None:
    """Paused with 3 replicas: what is wanted of it is nobody's business."""
    snapshot = cluster(team("team-a", 3).mode(Mode.PAUSED), tenants=(tenant("team-a", 8),), nodes={"x": 8})
    world = World(snapshot)
    settle(world, wants(team_a=7))

    assert world.asked() == {Key("team-a", "llama"): 3}


def given(mix: float | Missing) -> Assumed:
    """Return six replicas of 100 generated tokens/s each."""
    return Assumed(replicas=6, output_tokens_per_second=600.0, input_per_output=mix, target_tokens_per_second=100.0)


ALLOWANCES: dict[str, tuple[Assumed, int, Limit]] = {
    "tokens are known": (given(3.0), 4, Limit.TOKEN_ALLOWANCE),
    "prompts are not": (given(Missing("not told")), 1, Limit.TOKEN_ALLOWANCE),
    "its load is not: it takes no part": (Assumed(replicas=6), 6, Limit.NONE),
}


@pytest.mark.parametrize("case", ALLOWANCES)
def test_a_token_allowance_caps_what_is_given(case: str) -> None:
    """1,200 prompt tokens/s are allowed of 1,800: 400 generated ones of 600."""
    assumed, expected, limit = ALLOWANCES[case]
    allowed = tenant("team-a", 8, allowances=(Allowance(Tokens.INPUT, 1200.0),))
    world = World(cluster(team("team-a", 1), tenants=(allowed,), nodes={"x": 8}))
    key = Key("team-a", "llama")
    plan, _ = settle(world, {key: assumed})

    assert (world.asked()[key], plan.decisions[key].limited_by) == (expected, limit)


def test_what_does_not_fit_on_one_node_waits() -> None:
    """Four GPUs are free on two nodes: no place for a replica of four."""
    world = World(
        cluster(
            team("team-a", 1, gpus=4),
            team("team-b", 2),
            team("team-c", 2, node="y"),
            tenants=(tenant("team-a", 12), tenant("team-b", 2), tenant("team-c", 2)),
            nodes={"x": 8, "y": 4},
        )
    )
    plan, _ = settle(world, wants(team_a=3, team_b=2, team_c=2))

    assert world.asked()[Key("team-a", "llama")] == 1
    assert plan.decisions[Key("team-a", "llama")].limited_by is Limit.CAPACITY


# --- a past -----------------------------------------------------------------------------------------


def hours(
    demand_of: Callable[[int], dict[Key, Assumed]], snapshot: Snapshot, minutes: int
) -> tuple[dict[str, tuple[float, float, int]], dict[str, tuple[float, float, float]]]:
    """Play a past; return used, waiting and drains by team, and borrowed, lent and waiting by tenant."""
    heard = []
    totals = replay(
        snapshot,
        [demand_of(minute) for minute in range(minutes)],
        step_seconds=60,
        progress=lambda: heard.append(1),
    )
    assert len(heard) == minutes
    return (
        {key.namespace: (each.used, each.waiting, each.drains) for key, each in totals.deployments.items()},
        {name: (each.borrowed, each.lent, each.waiting) for name, each in totals.tenants.items()},
    )


def test_a_day_at_rest_is_its_replicas_times_its_hours() -> None:
    """3 and 5 GPUs for 24 hours: 72 and 120 GPU-hours, less the first minutes; 1 of B's is borrowed of A all day."""
    snapshot = cluster(
        team("team-a", 1), team("team-b", 1), tenants=(tenant("team-a", 4), tenant("team-b", 4)), nodes={"x": 8}
    )
    deployments, tenants = hours(lambda _: wants(team_a=3, team_b=5), snapshot, 24 * HOUR)

    assert deployments["team-a"] == (pytest.approx(72, abs=0.1), pytest.approx(0, abs=0.1), 0)
    assert deployments["team-b"] == (pytest.approx(120, abs=0.1), pytest.approx(0, abs=0.1), 0)
    assert tenants["team-b"] == (pytest.approx(24, abs=0.1), 0.0, pytest.approx(0, abs=0.1))
    assert tenants["team-a"] == (0.0, pytest.approx(24, abs=0.1), pytest.approx(0, abs=0.1))


def test_a_morning_takes_back_what_the_night_lent() -> None:
    """A sleeps two hours and wakes: 3 of B's 7 drain once, A waits for their drain, and B goes on with its own."""
    snapshot = cluster(
        team("team-a", 1), team("team-b", 1), tenants=(tenant("team-a", 4), tenant("team-b", 4)), nodes={"x": 8}
    )
    deployments, tenants = hours(
        lambda minute: wants(team_a=1 if minute < 2 * HOUR else 4, team_b=8), snapshot, 4 * HOUR
    )
    drain_hours = 3 * team("team-b", 1).spec.drain_seconds / 3600

    assert deployments["team-b"][2] == 3
    assert deployments["team-a"][2] == 0
    assert deployments["team-a"][0] == pytest.approx(2 * 1 + 2 * 4 - drain_hours, abs=0.05)
    assert deployments["team-a"][1] == pytest.approx(drain_hours, abs=0.05)
    assert deployments["team-b"][0] == pytest.approx(2 * 7 + 2 * 4, abs=0.15)
    assert tenants["team-b"][0] == pytest.approx(2 * 3 + drain_hours, abs=0.1)
