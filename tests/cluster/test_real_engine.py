"""The main job with a real model: SmolLM2-135M behind llama.cpp, real tokens, real metrics."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from sandbox.cluster import Sandbox
from sandbox.fleet import Fleet

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
MANIFEST = {
    "apiVersion": "modelfleet.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {
        "name": "smollm2",
        "namespace": "real",
        "annotations": {"sandbox.modelfleet.dev/engine": '{"real": "smollm2", "imagePullSeconds": 0}'},
    },
    "spec": {
        "model": {"name": MODEL},
        "runtime": "llamacpp",
        "accelerator": "a100",
        "drainSeconds": 20,
        "scaling": {
            "maxReplicas": 2,
            "targets": {"queuedRequests": 2},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}},
        },
    },
}
DEADLINE_SECONDS = 120.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox with Modelfleet and one real model deployed."""
    directory = tmp_path_factory.mktemp("real")
    with Sandbox.start(directory / "cluster", name="real") as sandbox, Fleet(sandbox, directory / "logs"):
        sandbox.kubectl("create", "namespace", "real")
        sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump(MANIFEST))
        yield sandbox


def status(sandbox: Sandbox) -> dict[str, Any]:
    """Return the status of the deployment."""
    path = "/apis/modelfleet.dev/v1alpha1/namespaces/real/modeldeployments/smollm2"
    return sandbox.request("GET", path).get("status", {})


def await_status(sandbox: Sandbox, **wanted: int) -> dict[str, Any]:
    """Wait until the status has these values."""
    give_up = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < give_up:
        seen = status(sandbox)
        if all(seen.get(name) == value for name, value in wanted.items()):
            return seen
        time.sleep(0.3)
    pytest.fail(f"no status with {wanted} in {DEADLINE_SECONDS} s; last: {status(sandbox)}")


def ready_addresses(sandbox: Sandbox) -> list[str]:
    """Return the base URLs of the ready pods."""
    pods = sandbox.request("GET", "/api/v1/namespaces/real/pods")["items"]
    return [
        f"http://{pod['status']['podIP']}:{pod['spec']['containers'][0]['ports'][0]['containerPort']}/v1"
        for pod in pods
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]


async def chat(base_url: str, *, max_tokens: int) -> tuple[str, int]:
    """Stream one completion with the openai client; return its text and the generated tokens it reports."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", timeout=110, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Name three fruits and say what they taste like."}],
            max_tokens=max_tokens,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, tokens = "", 0
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return text, tokens


@pytest.mark.xdist_group("real-engine")
def test_a_real_model_is_scaled_on_its_own_metrics(cluster: Sandbox, tmp_path: Path) -> None:
    """Requests beyond the real server's slots queue there, add a replica, are all answered, and it goes again."""
    await_status(cluster, readyReplicas=1)
    base_url = ready_addresses(cluster)[0]

    async def burst() -> list[tuple[str, int]]:
        return await asyncio.gather(*(chat(base_url, max_tokens=40) for _ in range(16)))

    answers = asyncio.run(burst())
    grown = await_status(cluster, desiredReplicas=2)
    await_status(cluster, readyReplicas=2)
    events = cluster.kubectl("get", "events", "-n", "real", "-o", "jsonpath={.items[*].message}")
    second = asyncio.run(chat(next(url for url in ready_addresses(cluster) if url != base_url), max_tokens=8))
    shrunk = await_status(cluster, desiredReplicas=1, replicas=1)

    assert all(text.strip() and 0 < tokens <= 40 for text, tokens in answers)
    assert second[1] > 0
    assert "Scaled 1→2:" in events
    assert grown["decision"] is not None
    assert shrunk["readyReplicas"] == 1
