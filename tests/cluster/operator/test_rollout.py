"""Roll-outs where GPUs are scarce: they surge where a place is free and progress where none is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from modelfleet.api.meta import Key
from modelfleet.simulate.arrivals import Arrival
from sandbox.cluster import Sandbox
from sandbox.load.client import run_load
from tests.cluster.operator.scene import History, Json, Team, create_runtime, gpu_class, ready, same, unique

pytestmark = pytest.mark.xdist_group("operator-objects")


@contextmanager
def rolled_out(team: Team, accelerator: str, *, runtime: str = "vllm") -> Iterator[History]:
    """Serve two replicas, roll a new revision out, and yield every state of every pod on the way."""
    team.deploy(accelerator=accelerator, runtime=runtime, scaling={"minReplicas": 2, "maxReplicas": 2})
    team.await_ready(replicas=2)
    before = {pod["metadata"]["uid"] for pod in team.pods()}
    with History(team.sandbox, f"/api/v1/namespaces/{team.namespace}/pods") as history:
        team.change(model={"revision": "v2"})
        same(2, lambda: len([pod for pod in team.pods() if ready(pod) and pod["metadata"]["uid"] not in before]))
        team.await_ready(replicas=2)
    yield history


def args(pod: Json) -> str:
    """Return what the engine was started with."""
    return str(pod["spec"]["containers"][0]["args"])


def fewest_ready(history: History) -> int:
    """Return the fewest pods that were ready at once, two being so at the start."""
    initial = 2
    now: dict[str, bool] = {}
    fewest = initial
    old_lost: set[str] = set()
    for kind, item in history.seen:
        uid = item["metadata"]["uid"]
        is_ready = kind != "DELETED" and ready(item)
        if "revision=main" in args(item):
            old_lost |= set() if is_ready else {uid}
        else:
            now[uid] = is_ready
        fewest = min(fewest, initial - len(old_lost) + sum(now.values()))
    return fewest


def strategy(team: Team) -> Json:
    """Return the Deployment's surge and unavailability."""
    rolling: Json = team.deployment()["spec"]["strategy"]["rollingUpdate"]
    return rolling


def test_a_roll_out_in_a_full_class_gives_up_one_replica_at_a_time(sandbox: Sandbox, team: Team) -> None:
    """Without a free GPU a surge would deadlock: the old pod's GPUs are freed first, and one replica keeps serving."""
    with gpu_class(sandbox, gpus=(2,)) as accelerator, rolled_out(team, accelerator) as history:
        assert strategy(team) == {"maxSurge": 0, "maxUnavailable": 1}
        assert fewest_ready(history) == 1


def test_a_roll_out_beside_a_free_gpu_surges(sandbox: Sandbox, team: Team) -> None:
    """With a place for it the new replica starts first, and two replicas serve throughout."""
    with gpu_class(sandbox, gpus=(3,)) as accelerator, rolled_out(team, accelerator) as history:
        assert strategy(team) == {"maxSurge": 1, "maxUnavailable": 0}
        assert fewest_ready(history) == 2


async def test_a_roll_out_waits_for_the_place_of_a_replica_that_drains(sandbox: Sandbox, team: Team) -> None:
    """A new pod finds no node while an old one answers its last requests: no reason to take another old one away."""
    with gpu_class(sandbox, gpus=(3,)) as accelerator:
        team.deploy(accelerator=accelerator, scaling={"minReplicas": 2, "maxReplicas": 2})
        await asyncio.to_thread(team.await_ready, replicas=2)
        long = [Arrival(0.0, 20, 900)] * 8
        load = asyncio.create_task(run_load(sandbox.kubeconfig, Key(team.namespace, "llama"), long))
        await asyncio.sleep(1.0)
        with History(sandbox, f"/api/v1/namespaces/{team.namespace}/pods") as history:
            team.change(model={"revision": "v2"})
            report = await load
            await asyncio.to_thread(same, 0, lambda: sum("revision=main" in args(pod) for pod in team.pods()))
            await asyncio.to_thread(team.await_ready, replicas=2)

    assert any(pod["status"].get("conditions", [{}])[0].get("reason") == "Unschedulable" for _, pod in history.seen)
    assert strategy(team) == {"maxSurge": 1, "maxUnavailable": 0}
    assert fewest_ready(history) == 2
    assert report.failed == 0


def test_a_surge_that_finds_no_place_after_all_turns_into_a_replacement(sandbox: Sandbox, team: Team) -> None:
    """A free GPU whose node lacks memory looks like a place and is none: the roll-out sees it and goes on."""
    path = create_runtime(sandbox, unique("runtime"), "--revision={revision}")
    try:
        # Two replicas of 16 GiB fit into 40, a third does not.
        with (
            gpu_class(sandbox, gpus=(3,), memory="40Gi") as accelerator,
            rolled_out(team, accelerator, runtime=path.rsplit("/", 1)[1]) as history,
        ):
            assert strategy(team) == {"maxSurge": 0, "maxUnavailable": 1}
            assert fewest_ready(history) == 1
    finally:
        sandbox.request("DELETE", path)


def test_a_roll_out_of_single_replicas_of_a_whole_node_progresses(sandbox: Sandbox, team: Team) -> None:
    """One replica that takes a whole node is replaced in place: no second node is needed."""
    with gpu_class(sandbox, gpus=(8,)) as accelerator:
        team.deploy(accelerator=accelerator, gpusPerReplica=8)
        team.await_ready()
        (before,) = team.pods()
        team.change(model={"revision": "v2"})
        same([True], lambda: [ready(pod) for pod in team.pods() if pod["metadata"]["uid"] != before["metadata"]["uid"]])

        team.await_ready()
