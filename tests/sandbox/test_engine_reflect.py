"""Following a cluster through refusals, expiries and outages, against an API server that can be told to misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sandbox.engine.pods import UnusablePod, parse_pod
from sandbox.engine.reflect import Change, KubeApi, follow

PODS = "/api/v1/pods"


def pod(name: str, *, version: int = 1, **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "team",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {"modelfleet.dev/engine": "vllm", "modelfleet.dev/deployment": "llama"},
            "annotations": annotations,
        },
        "spec": {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {},
    }


class FakeApiServer:
    """Lists `objects`; a watch sends what is put into `events`: a dict as it is, an int as an ERROR of that code."""

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = []
        self.events: asyncio.Queue[dict[str, Any] | int | None] = asyncio.Queue()
        self.status = 200
        self.lists = 0
        self.watched_from: list[str] = []
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.status != 200:
            return web.json_response({"message": "no"}, status=self.status)
        assert request.headers["Authorization"] == "Bearer secret"
        if "watch" not in request.query:
            self.lists += 1
            return web.json_response({"metadata": {"resourceVersion": "100"}, "items": self.objects})
        self.watched_from.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self.events.get()) is not None:
            if isinstance(event, int):
                event = {"type": "ERROR", "object": {"code": event, "message": "told to"}}
            await response.write(json.dumps(event).encode() + b"\n")
        return response


class Seen:
    """What a follower was told."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.told: list[tuple[Change, str]] = []
        self.synced = 0

    def change(self, change: Change, item: Any) -> None:
        name = item["metadata"]["name"]
        self.told.append((change, name))
        self.names.discard(name) if change is Change.DELETED else self.names.add(name)

    def sync(self) -> None:
        self.synced += 1

    async def becomes(self, *names: str, seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while self.names != set(names):  # noqa: ASYNC110  a test's patience
                await asyncio.sleep(0.01)


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    server = FakeApiServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def seen(server: FakeApiServer, tmp_path: Path) -> AsyncIterator[Seen]:
    kubeconfig = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    api = await KubeApi.from_kubeconfig(tmp_path / "kubeconfig")
    seen = Seen()
    following = asyncio.create_task(follow(api, PODS, on_change=seen.change, on_synced=seen.sync))
    yield seen
    assert not following.done()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await api.close()


async def test_it_lists_then_watches_on(server: FakeApiServer, seen: Seen) -> None:
    await seen.becomes()
    await server.events.put({"type": "ADDED", "object": pod("a", version=101)})
    await seen.becomes("a")
    await server.events.put({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "150"}}})
    await server.events.put({"type": "ADDED", "object": pod("b", version=151)})
    await server.events.put({"type": "DELETED", "object": pod("a", version=152)})
    await seen.becomes("b")
    # A watch that ends in order goes on from where it was, without another list.
    await server.events.put(None)
    await server.events.put({"type": "ADDED", "object": pod("c", version=153)})
    await seen.becomes("b", "c")
    assert server.watched_from == ["100", "152"]
    assert server.lists == 1


async def test_expiry_lists_anew_and_tells_what_vanished(server: FakeApiServer, seen: Seen) -> None:
    await server.events.put({"type": "ADDED", "object": pod("a")})
    await seen.becomes("a")
    server.objects = [pod("b")]
    await server.events.put(410)
    await seen.becomes("b")
    assert (Change.DELETED, "a") in seen.told
    assert server.lists == 2


async def test_it_outlives_an_outage(server: FakeApiServer, seen: Seen) -> None:
    await server.events.put({"type": "ADDED", "object": pod("a")})
    await seen.becomes("a")
    await server.stop()
    server.objects = [pod("a"), pod("b")]
    await asyncio.sleep(0.5)
    assert seen.names == {"a"}, "an outage is no deletion"
    await server.start()
    await seen.becomes("a", "b")


async def test_a_kind_that_is_not_installed_counts_as_empty_until_it_is(server: FakeApiServer, seen: Seen) -> None:
    server.status = 404
    await server.events.put(410)
    async with asyncio.timeout(5):
        while not seen.synced:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    server.objects = [pod("a")]
    server.status = 200
    await seen.becomes("a")


async def test_a_refusal_is_retried(server: FakeApiServer, seen: Seen) -> None:
    server.status = 500
    await server.events.put(410)
    await asyncio.sleep(0.2)
    assert seen.synced <= 1
    server.objects = [pod("a")]
    server.status = 200
    await seen.becomes("a")


def test_a_pod_is_read_once() -> None:
    raw = pod("a")
    raw["spec"]["nodeName"] = "h100-0"
    raw["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/healthz"}, "periodSeconds": 3}
    raw["status"] = {
        "phase": "Running",
        "podIP": "127.16.0.9",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"restartCount": 2}],
    }
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
    view = parse_pod(raw)
    assert (str(view.key), str(view.deployment), view.engine, view.port) == ("team/a", "team/llama", "vllm", 8000)
    assert (view.scheduled, view.running, view.ready, view.leaving, view.restarts) == (True, True, True, True, 2)
    assert (view.probe_path, view.probe_period_seconds, view.probe_failures) == ("/healthz", 3.0, 3)
    assert view.deletion_at_unix == 1767225630.0


@pytest.mark.parametrize(
    ("annotations", "arguments", "model"),
    [
        ({"modelfleet.dev/model": "org/a"}, ["--model", "org/b"], "org/a"),
        ({}, ["serve", "--model=org/b", "--served-model-name", "b"], "b"),
        ({}, ["--model-path", "org/c"], "org/c"),
        ({}, ["--alias"], "llama"),
    ],
)
def test_the_model_is_the_annotations_or_the_arguments(
    annotations: dict[str, str], arguments: list[str], model: str
) -> None:
    raw = pod("a", **annotations)
    raw["spec"]["containers"][0]["args"] = arguments
    assert parse_pod(raw).model == model


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda raw: raw["metadata"]["labels"].update({"modelfleet.dev/engine": "ollama"}), "ollama"),
        (lambda raw: raw["spec"]["containers"][0].update({"name": "main"}), "container"),
        (lambda raw: raw["spec"]["containers"][0].update({"ports": None}), "port"),
    ],
)
def test_a_pod_that_no_engine_can_serve_is_refused(break_it: Any, says: str) -> None:
    raw = pod("a")
    break_it(raw)
    with pytest.raises(UnusablePod, match=says):
        parse_pod(raw)
