"""A token allowance on a real cluster: prompts of the engines' own counters are what binds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION, Key
from modelfleet.cli.main import app
from modelfleet.simulate.arrivals import Arrival
from sandbox.cluster import Sandbox
from sandbox.load.client import run_load
from tests.cluster.operator.scene import Team, Watched, gpu_class, same, scale_in_after, unique, until

pytestmark = pytest.mark.xdist_group("operator-objects")

SCALING = {"maxReplicas": 3, "targets": {"outputTokensPerSecond": 100, "queuedRequests": 4}}


def manifest(name: str, namespace: str, accelerator: str, **tokens_per_minute: int) -> dict[str, Any]:
    """Return a Tenant with GPUs enough and an allowance."""
    spec = {
        "namespaces": [namespace],
        "quotas": [{"accelerator": accelerator, "nominalQuota": 4}],
        "tokensPerMinute": tokens_per_minute,
    }
    return {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def tenant(sandbox: Sandbox, operator: Watched, team: Team) -> Iterator[Callable[..., str]]:
    """Makes a Tenant of the team's that ends with the test."""
    name = unique("allowed")

    def create(accelerator: str, **tokens_per_minute: int) -> str:
        item = manifest(name, team.namespace, accelerator, **tokens_per_minute)
        sandbox.request("POST", resource_path(API_VERSION, "Tenant"), item)
        return name

    yield create
    sandbox.kubectl("delete", "tenant", name, "--ignore-not-found")


async def test_prompts_beyond_the_allowance_buy_no_replica(
    sandbox: Sandbox, team: Team, tenant: Callable[..., str]
) -> None:
    """Three replicas' worth of load, 400 prompt tokens with 50 generated ones: 8 for each. 750/s buy 1 replica."""
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        name = tenant(accelerator, input=45_000, output=600_000)
        team.deploy(accelerator=accelerator, scaling={**SCALING, "behavior": scale_in_after(60)})
        await asyncio.to_thread(team.await_ready)
        arrivals = [Arrival(number / 6, 400, 50) for number in range(6 * 30)]
        load = asyncio.create_task(run_load(sandbox.kubeconfig, Key(team.namespace, "llama"), arrivals))
        await asyncio.to_thread(same, "TokenAllowance", lambda: team.status().get("limitedBy"))
        bound = team.status()
        wider = yaml.safe_dump(manifest(name, team.namespace, accelerator, input=48_000_000))
        asked = ["whatif", "--kubeconfig", str(sandbox.kubeconfig), "-f", "-", "-o", "json"]
        foretold = await asyncio.to_thread(CliRunner().invoke, app, asked, input=wider)
        sandbox.request(
            "PATCH",
            resource_path(API_VERSION, "Tenant", name=name),
            {"spec": {"tokensPerMinute": {"input": 48_000_000}}},
        )
        await asyncio.to_thread(until, lambda: team.replicas() >= 2)
        report = await load

    admitted = next(step for step in bound["decision"]["steps"] if step["name"] == "admit")
    signals = {signal["name"]: signal.get("value") for signal in bound["decision"]["signals"]}
    assert bound["wantedReplicas"] >= 2
    assert bound["desiredReplicas"] == 1
    assert admitted["detail"].startswith("input tokens: demand ")
    assert admitted["detail"].endswith(" tok/s, allowance 750, admitted 750")
    assert (
        "a larger spec.tokensPerMinute.input in the Tenant (now 45000 for all that share it)"
        in (bound["decision"]["unblock"])
    )
    assert float(signals["inputTokensPerSecond"]) > 0
    assert report.failed == 0
    (row,) = [each for each in json.loads(foretold.stdout)["deployments"] if each["namespace"] == team.namespace]
    assert (row["now"], row["asIs"]) == (1, 1)
    assert row["whatIf"] >= 2
