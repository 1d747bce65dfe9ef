"""A sandbox with the product installed, scripted engines in its pods and an observer, for one benchmark."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from bench import product
from bench.engines import MetricsPage, ScriptedEngines
from bench.observer import Observer
from modelfleet.api.meta import Key
from sandbox.cluster import Sandbox
from sandbox.engine.reflect import KubeApi
from sandbox.nodes import NodePlan

NAMESPACE = "bench"


@dataclass(frozen=True)
class Bare:
    """A cluster with the product installed, and an observer; nothing serves its pods yet."""

    sandbox: Sandbox
    account: Path
    api: KubeApi
    observer: Observer

    async def deploy(self, keys: Iterable[Key], *, scaling: dict[str, Any] | None = None) -> None:
        """Create ModelDeployments; whoever operates the cluster will provision them."""
        for key in keys:
            await asyncio.to_thread(product.create, self.sandbox, product.model_deployment(key, scaling=scaling))

    async def settled(self, keys: Iterable[Key], *, replicas: int = 1, seconds: float) -> None:
        """Wait until each of them asks for this many replicas and as many pods are ready.

        Raises:
            TimeoutError: If they have not in time.
        """
        wanted = list(keys)
        if not await self.is_settled(wanted, replicas=replicas, seconds=seconds):
            late = [key for key in wanted if not self.observer.settled(key, replicas)]
            raise TimeoutError(f"not at {replicas} after {seconds:.0f} s: {len(late)}, first {late[:1]}")

    async def is_settled(self, keys: Iterable[Key], *, replicas: int = 1, seconds: float) -> bool:
        """Wait for the same; return whether it came in time."""
        waiting = set(keys)

        def done() -> bool:
            waiting.difference_update([key for key in waiting if self.observer.settled(key, replicas)])
            return not waiting

        return await self.observer.until(done, seconds=seconds)


@dataclass(frozen=True)
class Cluster(Bare):
    """One with scripted engines."""

    engines: ScriptedEngines


@asynccontextmanager
async def bare(name: str, *, h100_nodes: int, prometheus: bool = False) -> AsyncIterator[Bare]:
    """Start a cluster without engines for one benchmark and end it with the block."""
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelfleet-bench-")))
        say(f"{name}: starting a cluster with {h100_nodes} GPU nodes")
        # In this thread: the cluster dies with the thread that started it.
        sandbox = Sandbox.start(
            root / name, name=name, nodes=NodePlan(h100=h100_nodes, a100=0), prometheus=prometheus, audit=True
        )
        stack.callback(sandbox.stop)
        stack.push(lambda kind, error, trace: _keep_logs(sandbox) if error is not None else None)
        account = await asyncio.to_thread(product.install, sandbox)
        sandbox.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        api = await KubeApi.from_kubeconfig(sandbox.kubeconfig)
        stack.push_async_callback(api.close)
        observer = Observer(api)
        stack.push_async_callback(_end, asyncio.create_task(observer.run()))
        yield Bare(sandbox, account, api, observer)


@asynccontextmanager
async def cluster(
    name: str, *, h100_nodes: int, prometheus: bool = False, drain_seconds: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[Cluster]:
    """Start a cluster with scripted engines for one benchmark and end it with the block."""
    async with bare(name, h100_nodes=h100_nodes, prometheus=prometheus) as here:
        engines = ScriptedEngines(here.api, await MetricsPage.of_vllm(), drain_seconds=drain_seconds)
        serving = asyncio.create_task(engines.run())
        try:
            yield Cluster(here.sandbox, here.account, here.api, here.observer, engines)
        finally:
            await _end(serving)


def _keep_logs(sandbox: Sandbox) -> None:
    kept = tempfile.mkdtemp(prefix="modelfleet-bench-logs-")
    shutil.copytree(sandbox.directory / "logs", kept, dirs_exist_ok=True)
    say(f"failed; the logs are in {kept}")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


_BEGAN = monotonic()


def say(text: str) -> None:
    """Tell people how far the run is; standard output is for figures."""
    load = os.getloadavg()[0]
    print(f"[{monotonic() - _BEGAN:6.1f} s, load {load:.1f}] {text}", file=sys.stderr, flush=True)
