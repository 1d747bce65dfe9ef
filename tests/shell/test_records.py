"""Raw objects become records."""

from typing import Any

import pytest

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
            Learned(idle_inter_token_seconds=0.012, forecast="10s-peak-day", margin_percent=80),
        ),
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


def container(gpus: str, **more: str) -> dict[str, Any]:
    """Return a container that holds so many GPUs."""
    return {"resources": {"limits": {"nvidia.com/gpu": gpus, "cpu": "1500m"}}, **more}


@pytest.mark.parametrize(
    ("spec", "gpus"),
    {
        "containers run together": ({"containers": [container("1"), container("2")]}, 3),
        "one that starts first and needs less": (
            {"containers": [container("2")], "initContainers": [container("1")]},
            2,
        ),
        "one that starts first and needs more": (
            {"containers": [container("1")], "initContainers": [container("4")]},
            4,
        ),
        "one that starts first, alone": ({"containers": [{}], "initContainers": [container("1")]}, 1),
        "a sidecar runs beside": (
            {"containers": [container("1")], "initContainers": [container("2", restartPolicy="Always")]},
            3,
        ),
        "a step beside an earlier sidecar": (
            {"containers": [{}], "initContainers": [container("2", restartPolicy="Always"), container("3")]},
            5,
        ),
        "thousands": ({"containers": [container("2k")]}, 2_000),
        "thousands, in a power of ten": ({"containers": [container("2e3")]}, 2_000),
        "thousands, binary": ({"containers": [container("2Ki")]}, 2_048),
        "a quintillion": ({"containers": [container("1E")]}, 10**18),
    }.values(),
)
def test_a_pod_holds_what_the_scheduler_and_quotas_count(spec: dict[str, Any], gpus: int) -> None:
    """Whatever containers it is spread over, and however its author wrote the number."""
    record = parse_pod({**pod(), "spec": spec})
    assert record is not None

    assert record.resources == (("nvidia.com/gpu", gpus),)
