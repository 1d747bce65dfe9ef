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
