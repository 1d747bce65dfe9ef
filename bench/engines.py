"""Scripted engines: a vLLM metrics page at every inference pod's own address, whose queue a benchmark sets.

They stand in for the kubelet as the simulated engine does, but compute nothing: the moment the queue changes is
the moment a benchmark says so, and 500 of them cost next to no CPU. The page is the simulated vLLM engine's own,
with the numbers that matter put in, so a scrape is as long to read as a real one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, cast

from modelfleet.api.meta import ENGINE_LABEL, MANAGED_BY, MANAGED_BY_LABEL, Key
from sandbox.engine.pods import DRAINED_ANNOTATION, LOADED_ANNOTATION, PULL_ANNOTATION, PodView, parse_pod
from sandbox.engine.profile import EngineProfile
from sandbox.engine.reflect import ApiStatus, Change, KubeApi, follow
from sandbox.engine.runner import PodEngine

PODS_PATH = "/api/v1/pods"
SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY},{ENGINE_LABEL}"
CONCURRENT_PATCHES = 16
WAITING, RUNNING, TOKENS = "vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:generation_tokens_total"
BIND_RETRY_SECONDS = 0.05


@dataclass(slots=True)
class Load:
    """What the engines of one ModelDeployment expose.

    Attributes:
        queued: Waiting requests, all of them at the oldest pod, so that their sum never depends on when a pod
            was scraped.
        running: Requests in the batch of each pod.
        tokens_per_second: By which each pod's counter of generated tokens grows.
    """

    queued: int = 0
    running: int = 4
    tokens_per_second: float = 400.0


class MetricsPage:
    """A vLLM exposition with three numbers left open."""

    def __init__(self, text: str) -> None:
        """Find the three series in an exposition."""
        names = "|".join((WAITING, RUNNING, TOKENS))
        self._parts = re.split(rf"(?m)^((?:{names})\{{.*?\}}) \S+$", text)
        self._names = [part.partition("{")[0] for part in self._parts[1::2]]

    @classmethod
    async def of_vllm(cls) -> MetricsPage:
        """Take the page of the simulated vLLM engine."""
        engine = PodEngine(
            engine="vllm", model="bench/model", profile=EngineProfile(), clock=monotonic, now_unix=time()
        )
        engine.loaded = True
        text = engine.metrics_page()
        await engine.stop()
        return cls(text)

    def render(self, *, waiting: float, running: float, tokens: float) -> bytes:
        """Return the page with these numbers."""
        values = {WAITING: waiting, RUNNING: running, TOKENS: tokens}
        text = self._parts[0]
        for name, series, rest in zip(self._names, self._parts[1::2], self._parts[2::2], strict=True):
            text += f"{series} {values[name]:.1f}{rest}"
        return text.encode()


@dataclass(slots=True)
class _Pod:
    view: PodView
    server: asyncio.Server | None = None
    steps: set[str] = field(default_factory=set)


class ScriptedEngines:
    """One listener a pod, and the annotations by which kwok plays the pod's life."""

    def __init__(self, api: KubeApi, page: MetricsPage, *, drain_seconds: Callable[[], float] = lambda: 0.0) -> None:
        """Speak to one cluster; nothing happens before `run`. Each pod drains for `drain_seconds()`."""
        self._api = api
        self._page = page
        self._drain_seconds = drain_seconds
        self._loads: dict[Key, Load] = {}
        self._pods: dict[str, _Pod] = {}
        self._of: dict[Key, dict[str, PodView]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._patches = asyncio.Semaphore(CONCURRENT_PATCHES)
        self._began = monotonic()

    def load(self, key: Key) -> Load:
        """Return the load of a ModelDeployment; changing it changes what its engines expose."""
        return self._loads.setdefault(key, Load())

    def set_queue(self, key: Key, queued: int) -> float:
        """Expose another queue from now on; return the moment (monotonic)."""
        self.load(key).queued = queued
        return monotonic()

    def targets(self) -> list[dict[str, Any]]:
        """Return the pods that listen, as Prometheus's file_sd wants them, labelled as a PodMonitor would."""
        return [
            {
                "targets": [f"{pod.view.ip}:{pod.view.port}"],
                "labels": {"namespace": pod.view.key.namespace, "pod": pod.view.key.name},
            }
            for pod in self._pods.values()
            if pod.server is not None
        ]

    async def run(self) -> None:
        """Follow the cluster's pods until cancelled; then close every listener."""
        try:
            await follow(self._api, PODS_PATH, label_selector=SELECTOR, on_change=self._changed, on_synced=lambda: None)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for pod in self._pods.values():
                if pod.server is not None:
                    pod.server.close()

    def _changed(self, change: Change, item: Mapping[str, Any]) -> None:
        view = parse_pod(item)
        if view.deployment is None:
            return
        if change is Change.DELETED:
            self._of.get(view.deployment, {}).pop(view.uid, None)
            gone = self._pods.pop(view.uid, None)
            if gone is not None and gone.server is not None:
                gone.server.close()
            return
        self._of.setdefault(view.deployment, {})[view.uid] = view
        pod = self._pods.setdefault(view.uid, _Pod(view))
        pod.view = view
        self._once(pod, "pull", lambda: self._annotate(view, PULL_ANNOTATION, "0"))
        if view.running and not view.leaving:
            self._once(pod, "serve", lambda: self._serve(pod))
        if view.leaving:
            self._once(pod, "drain", lambda: self._drain(view))

    def _once(self, pod: _Pod, step: str, work: Callable[[], Any]) -> None:
        if step not in pod.steps:
            pod.steps.add(step)
            task = asyncio.create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, pod: _Pod) -> None:
        view, loop = pod.view, asyncio.get_running_loop()
        while pod.server is None:
            try:
                pod.server = await loop.create_server(lambda: _Exposition(lambda: self._body(pod)), view.ip, view.port)
            except OSError:  # the pod that had the address before is just being forgotten
                await asyncio.sleep(BIND_RETRY_SECONDS)
        if view.uid not in self._pods:
            pod.server.close()
            return
        await self._annotate(view, LOADED_ANNOTATION, "true")

    async def _drain(self, view: PodView) -> None:
        await asyncio.sleep(self._drain_seconds())
        await self._annotate(view, DRAINED_ANNOTATION, "true")

    async def _annotate(self, view: PodView, name: str, value: str) -> None:
        path = f"/api/v1/namespaces/{view.key.namespace}/pods/{view.key.name}"
        async with self._patches:
            try:
                await self._api.merge_patch(path, {"metadata": {"uid": view.uid, "annotations": {name: value}}})
            except ApiStatus as error:
                if error.code not in (404, 409, 422):  # the pod is gone, or another one has its name
                    raise

    def _body(self, pod: _Pod) -> bytes:
        assert pod.view.deployment is not None
        load = self.load(pod.view.deployment)
        oldest = next(iter(self._of[pod.view.deployment]), "") == pod.view.uid
        return self._page.render(
            waiting=load.queued if oldest else 0,
            running=load.running,
            tokens=load.tokens_per_second * (monotonic() - self._began),
        )


class _Exposition(asyncio.Protocol):
    """Answers every request of a connection with the page: scrapers ask for nothing else."""

    def __init__(self, body: Callable[[], bytes]) -> None:
        self._body = body
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        for _ in requests:
            body = self._body()
            head = (
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            assert self._transport is not None
            self._transport.write(head.encode() + body)
