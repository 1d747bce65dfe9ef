"""Raw objects become records."""

from typing import Any

import pytest

from modelfleet.decide.lookback import Kept
from modelfleet.decide.snapshot import Learned
from modelfleet.shell.records import parse_deployment, parse_pod

UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes"}


def pod(*, node: str = "", conditions: tuple[dict[str, str], ...] = ()) -> dict[str, Any]:
    """Return a pod of a deployment."""
    return {
        "metadata": {
            "name": "llama-1",
            "namespace": "team-a",
            "uid": "uid",
            "resourceVersion": "1",
            "labels": {"modelfleet.dev/deployment": "llama"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"containers": [], **({"nodeName": node} if node else {})},
        "status": {"phase": "Pending", "conditions": list(conditions)},
    }


@pytest.mark.parametrize(
    ("item", "want"),
    [
        pytest.param(pod(), False, id="the scheduler has not looked at it yet"),
        pytest.param(pod(conditions=(UNSCHEDULABLE,)), True, id="it looked and found none"),
        pytest.param(pod(node="gpu-1"), False, id="it found one"),
    ],
)
def test_a_pod_finds_no_node_when_the_scheduler_says_so(item: dict[str, Any], want: bool) -> None:
    """A surge that is a moment old must not be given up."""
    record = parse_pod(item)
    assert record is not None

    assert record.finds_no_node is want


@pytest.mark.parametrize(
    ("status", "want"),
    [
        ({}, None),
        ({"learned": {"idleInterTokenMicroseconds": 0, "forecast": "10s-peak-day", "marginPercent": 100}}, None),
        (
            {"learned": {"idleInterTokenMicroseconds": 12_000, "forecast": "10s-peak-day", "marginPercent": 80}},
            Learned(idle_inter_token_seconds=0.012, lookback=Kept(forecast="10s-peak-day", margin_percent=80)),
        ),
        ({"learned": {"idleInterTokenMicroseconds": 12_000, "forecast": "10s-peak-day", "marginPercent": "x"}}, None),
    ],
)
def test_what_an_earlier_process_learned_is_read_back(status: dict[str, Any], want: Learned | None) -> None:
    """From the status, where it is whole."""
    item = {
        "metadata": {"name": "llama", "namespace": "team-a", "uid": "uid", "resourceVersion": "1", "generation": 1},
        "spec": {"model": {"name": "m/m"}, "runtime": "vllm", "accelerator": "h100"},
        "status": status,
    }

    assert parse_deployment(item).learned == want


def container(gpus: int, *, restarts: bool = False) -> dict[str, Any]:
    """Return a container that holds GPUs; an init container that restarts is a sidecar."""
    own = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)} if gpus else {}}}
    return {**own, **({"restartPolicy": "Always"} if restarts else {})}


@pytest.mark.parametrize(
    ("before", "containers", "want"),
    [
        pytest.param([], [1, 2], 3, id="containers run side by side"),
        pytest.param([container(4)], [1, 2], 4, id="an init container that needs more runs before them"),
        pytest.param([container(2)], [1, 2], 3, id="one that needs less does not count"),
        pytest.param([container(4), container(4)], [1], 4, id="init containers run one after another"),
        pytest.param([container(1, restarts=True)], [2], 3, id="a sidecar runs beside the containers"),
        pytest.param([container(1, restarts=True), container(4)], [1], 5, id="and beside what starts after it"),
        pytest.param([container(4), container(1, restarts=True)], [1], 4, id="not beside what ended before"),
        pytest.param([container(2, restarts=True), container(1, restarts=True)], [], 3, id="sidecars add up"),
    ],
)
def test_a_pod_holds_what_the_scheduler_counts(before: list[dict[str, Any]], containers: list[int], want: int) -> None:
    """GPUs of init containers and sidecars are the team's too."""
    item = pod(node="gpu-1")
    item["spec"] |= {"initContainers": before, "containers": [container(gpus) for gpus in containers]}
    record = parse_pod(item)
    assert record is not None

    assert record.resources == (("nvidia.com/gpu", want),)


@pytest.mark.parametrize(("written", "gpus"), [("2", 2), ("2k", 2_000), ("2e3", 2_000), ("2Ki", 2_048), ("1E", 10**18)])
def test_a_number_is_read_however_its_author_wrote_it(written: str, gpus: int) -> None:
    """A quantity has many spellings, and the API server counts them all."""
    item = pod(node="gpu-1")
    item["spec"]["containers"] = [{"resources": {"limits": {"nvidia.com/gpu": written, "cpu": "1500m"}}}]
    record = parse_pod(item)
    assert record is not None

    assert record.resources == (("nvidia.com/gpu", gpus),)
