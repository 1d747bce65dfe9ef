"""Replicas follow real load on real HTTP up and down, told with the arithmetic, and nobody's stream breaks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from modelfleet.api.meta import Key
from modelfleet.simulate.arrivals import Arrival
from sandbox.cluster import Sandbox
from sandbox.load.client import run_load
from sandbox.load.report import Report
from tests.cluster.operator.scene import History, Team, Watched, gpu_class, ready, same, scale_in_after, until

pytestmark = pytest.mark.xdist_group("operator-signals")

TARGETS = {"outputTokensPerSecond": 100, "queuedRequests": 4}
"""Half of what the quick engine makes with its four streams of 50 tokens/s."""
STREAM_TOKENS = 900
"""18 s of one stream: longer than the load, its rate window and the scale-down window."""
ARITHMETIC = r"(load [\d.]+k? tok/s|queue \d+|running \d+) {sign} [\d.]+k?( tok/s)? per replica × \d"


def steady(rate: float, seconds: float, tokens: int = 50) -> list[Arrival]:
    """Return requests at a steady rate, each of so many tokens."""
    return [Arrival(number / rate, 20, tokens) for number in range(int(rate * seconds))]


def load(team: Team, arrivals: list[Arrival], name: str = "llama") -> asyncio.Task[Report]:
    """Start sending requests to a deployment."""
    return asyncio.create_task(run_load(team.sandbox.kubeconfig, Key(team.namespace, name), arrivals))


async def test_replicas_follow_the_load_and_a_long_stream_outlives_the_scale_in(team: Team) -> None:
    """Out with the load, in without it; the pod with a stream stays, the idle ones go, no request is lost."""
    team.deploy(scaling={"maxReplicas": 3, "targets": TARGETS, "behavior": scale_in_after(2)})
    await asyncio.to_thread(team.await_ready)
    rush = load(team, steady(rate=6, seconds=7))
    await asyncio.to_thread(until, lambda: sum(map(ready, team.pods())) >= 3)
    stream = load(team, [Arrival(0, 20, STREAM_TOKENS)])
    served = await rush
    await asyncio.to_thread(same, 1, team.replicas, seconds=20)
    still_streaming = not stream.done()
    await asyncio.to_thread(same, 1, lambda: len([pod for pod in team.pods() if ready(pod)]))
    (left,) = [pod["metadata"]["name"] for pod in team.pods() if ready(pod)]
    long = await stream

    assert (served.completed, served.failed) == (served.requests, 0)
    assert (long.completed, long.output_tokens, list(long.by_pod)) == (1, STREAM_TOKENS, [left])
    assert still_streaming
    out, back = team.events("ScaledUp"), team.events("ScaledDown")
    assert out
    assert back
    assert [note for note in out if not re.match(rf"Scaled \d→\d: {ARITHMETIC.format(sign='>')}", note)] == []
    assert [note for note in back if not re.match(rf"Scaled \d→\d: {ARITHMETIC.format(sign='<')}", note)] == []
    assert team.status()["limitedBy"] in ("", "MinReplicas")


async def test_each_limit_is_named_and_namespaces_do_not_mix(
    sandbox: Sandbox, new_team: Callable[..., Team], operator: Watched
) -> None:
    """One name in three namespaces: maxReplicas binds one, the class's GPUs the other, the third sees no load."""
    bounded, crowded, idle = new_team(), new_team(), new_team()
    with gpu_class(sandbox, gpus=(2,)) as accelerator:
        for team in (bounded, idle):
            team.deploy(scaling={"maxReplicas": 1, "targets": TARGETS})
        crowded.deploy(accelerator=accelerator, scaling={"maxReplicas": 8, "targets": TARGETS})
        for team in (bounded, crowded, idle):
            await asyncio.to_thread(team.await_ready)
        with History(sandbox, idle.path("").rstrip("/")) as history:
            loads = [load(bounded, steady(rate=3.5, seconds=10)), load(crowded, steady(rate=7.5, seconds=10))]
            await asyncio.to_thread(same, "MaxReplicas", lambda: bounded.status()["limitedBy"])
            await asyncio.to_thread(same, "Capacity", lambda: crowded.status()["limitedBy"])
            max_replicas, capacity = bounded.status(), crowded.status()
            reports = [await each for each in loads]

        assert (max_replicas["desiredReplicas"], capacity["desiredReplicas"]) == (1, 2)
        assert re.fullmatch(
            r"raise spec\.scaling\.maxReplicas \(now 1\) to \d+", max_replicas["decision"]["unblock"]
        ), max_replicas["decision"]
        assert re.fullmatch(
            rf"1 free GPUs of class {accelerator} on one node for each of \d+ more replicas: add nodes, or free GPUs",
            capacity["decision"]["unblock"],
        ), capacity["decision"]
        assert [report.failed for report in reports] == [0, 0]
        assert {item["status"]["wantedReplicas"] for item in history.states("llama")} <= {0, 1}
        assert {item["status"]["desiredReplicas"] for item in history.states("llama")} <= {1}
        table = sandbox.kubectl("get", "mdep", "--all-namespaces", "--no-headers")
        assert {team.namespace for team in (bounded, crowded, idle)} <= {line.split()[0] for line in table.splitlines()}
