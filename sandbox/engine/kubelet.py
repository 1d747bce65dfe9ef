"""The kubelet's stand-in: gives every inference pod an engine at its own address, and reports for it.

kwok plays the pods' lifecycle from annotations; this module writes them. Image pull and readiness are told as
they happen to the engine: the probe is a real HTTP request to the engine's own health path.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from modelfleet.api.meta import ENGINE_LABEL, GROUP, MANAGED_BY, MANAGED_BY_LABEL, VERSION, Key
from sandbox.engine.faults import FAULT_ANNOTATION, Fault, FaultError, parse_fault
from sandbox.engine.pods import (
    DRAINED_ANNOTATION,
    ERROR_ANNOTATION,
    LOADED_ANNOTATION,
    PULL_ANNOTATION,
    PodView,
    UnusablePod,
    parse_pod,
)
from sandbox.engine.profile import PROFILE_ANNOTATION, EngineProfile, ProfileError, parse_profile
from sandbox.engine.real import RealEngine
from sandbox.engine.reflect import (
    FIRST_BACKOFF_SECONDS,
    LAST_BACKOFF_SECONDS,
    ApiStatus,
    Change,
    KubeApi,
    follow,
)
from sandbox.engine.runner import PodEngine
from sandbox.engine.server import EngineServer

log = logging.getLogger(__name__)

PODS_PATH: Final = "/api/v1/pods"
PODS_SELECTOR: Final = f"{MANAGED_BY_LABEL}={MANAGED_BY},{ENGINE_LABEL}"
DEPLOYMENTS_PATH: Final = f"/apis/{GROUP}/{VERSION}/modeldeployments"

STARTUP_PROBE_SECONDS: Final = 0.5
PROBE_TIMEOUT_SECONDS: Final = 1.0
MAX_CONCURRENT_PATCHES: Final = 16


class Served(Protocol):
    """What answers at a pod's address: a simulated engine or a real one."""

    async def start(self, host: str, port: int) -> None:
        """Listen, and begin to load."""

    def set_fault(self, fault: Fault | None) -> None:
        """Turn a fault on or off."""

    async def drain(self, *, seconds: float) -> bool:
        """Finish what was accepted, at most this long."""

    async def stop(self) -> None:
        """Stop listening and let go of everything."""


class SimulatedPod:
    """A simulated engine and its HTTP server; loads in the time its profile says."""

    def __init__(self, view: PodView, profile: EngineProfile, *, load_seconds: float) -> None:
        """Prepare the engine of a pod."""
        self.engine = PodEngine(
            engine=view.engine,
            model=view.model,
            profile=profile,
            clock=time.monotonic,
            now_unix=time.time(),
        )
        self._server = EngineServer(self.engine)
        self._load_seconds = load_seconds
        self._loading: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen at once; be loaded later."""
        await self._server.start(host, port)
        self._loading = asyncio.get_running_loop().call_later(self._load_seconds, self._loaded)

    def set_fault(self, fault: Fault | None) -> None:
        """Turn a fault on or off."""
        self.engine.set_fault(fault)

    async def drain(self, *, seconds: float) -> bool:
        """Refuse newcomers and finish the rest."""
        return await self.engine.drain(seconds=seconds)

    async def stop(self) -> None:
        """Stop listening and stepping."""
        if self._loading is not None:
            self._loading.cancel()
        await self._server.stop()
        await self.engine.stop()

    def _loaded(self) -> None:
        self.engine.loaded = True


class RealPod(RealEngine):
    """A llama.cpp process. It has no faults to turn on."""

    _ignored: Fault | None = None

    def set_fault(self, fault: Fault | None) -> None:
        """Say once that a fault has no effect here."""
        if fault != self._ignored and fault is not None:
            log.warning("a real engine cannot play the fault %s", fault.kind)
        self._ignored = fault


class Kubelet:
    """Follows pods and ModelDeployments and runs one `_PodLife` for each pod."""

    def __init__(self, api: KubeApi) -> None:
        """Speak to one cluster; nothing happens before `run`."""
        self.api = api
        self.session: aiohttp.ClientSession
        self._lives: dict[str, _PodLife] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._deployments: dict[Key, Mapping[str, str]] = {}
        self._deployments_known = asyncio.Event()
        self._patches = asyncio.Semaphore(MAX_CONCURRENT_PATCHES)
        self._complained: set[str] = set()

    async def run(self) -> None:
        """Follow the cluster until cancelled; then close every listener."""
        # No proxy from the environment: pods are on loopback.
        async with aiohttp.ClientSession(
            trust_env=False, timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_SECONDS)
        ) as self.session:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(
                        follow(
                            self.api,
                            DEPLOYMENTS_PATH,
                            on_change=self._deployment_changed,
                            on_synced=self._deployments_known.set,
                        )
                    )
                    group.create_task(
                        follow(
                            self.api,
                            PODS_PATH,
                            label_selector=PODS_SELECTOR,
                            on_change=self._pod_changed,
                            on_synced=lambda: None,
                        )
                    )
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def profile_annotation(self, deployment: Key | None) -> str | None:
        """The profile of a pod's ModelDeployment, once those are known."""
        await self._deployments_known.wait()
        return self._annotation(deployment, PROFILE_ANNOTATION)

    def fault_of(self, view: PodView) -> Fault | None:
        """The fault of a pod: its own, or else its ModelDeployment's. An unreadable one is no fault."""
        annotation = view.annotations.get(FAULT_ANNOTATION)
        if annotation is None:
            annotation = self._annotation(view.deployment, FAULT_ANNOTATION)
        try:
            return parse_fault(annotation)
        except FaultError as error:
            self._complain(f"{view.key}: {error}")
            return None

    async def annotate(self, view: PodView, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of a pod, however long the API server is away. Does nothing once the pod is gone."""
        # The uid makes it a precondition: a new pod of the same name must not inherit the old one's state.
        patch = {"metadata": {"uid": view.uid, "annotations": dict(annotations)}}
        path = f"/api/v1/namespaces/{view.key.namespace}/pods/{view.key.name}"
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while True:
            try:
                async with self._patches:
                    await self.api.merge_patch(path, patch)
                return
            except ApiStatus as error:
                if error.code in (404, 409, 422):
                    return
                log.warning("%s: %s", view.key, error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("%s: %s: %s", view.key, type(error).__name__, error)
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(backoff_seconds * 2.0, LAST_BACKOFF_SECONDS)

    def _annotation(self, deployment: Key | None, name: str) -> str | None:
        return self._deployments.get(deployment, {}).get(name) if deployment else None

    def _deployment_changed(self, change: Change, item: Mapping[str, Any]) -> None:
        metadata = item["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        if change is Change.DELETED:
            self._deployments.pop(key, None)
        else:
            self._deployments[key] = metadata.get("annotations") or {}
        for life in self._lives.values():
            if life.view.deployment == key:
                life.look_again()

    def _pod_changed(self, change: Change, item: Mapping[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        if change is Change.DELETED:
            if life := self._lives.pop(uid, None):
                life.end()
            return
        try:
            view = parse_pod(item)
        except UnusablePod as error:
            self._complain(f"{item['metadata']['namespace']}/{item['metadata']['name']}: {error}")
            return
        if life := self._lives.get(uid):
            life.update(view)
            return
        life = self._lives[uid] = _PodLife(self, view)
        task = asyncio.create_task(life.run())
        life.end = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _complain(self, text: str) -> None:
        if text not in self._complained:
            self._complained.add(text)
            log.warning("%s", text)


class _PodLife:
    """One pod from scheduling to its end."""

    def __init__(self, kubelet: Kubelet, view: PodView) -> None:
        self.view = view
        self.served: Served | None = None
        self.end: Callable[[], object] = lambda: None
        self._kubelet = kubelet
        self._changed = asyncio.Event()
        # A pod that was ready before this process started has loaded its model already.
        self._was_loaded = view.annotations.get(LOADED_ANNOTATION) == "true"

    def update(self, view: PodView) -> None:
        self.view = view
        self.look_again()

    def look_again(self) -> None:
        if self.served is not None:
            self.served.set_fault(self._kubelet.fault_of(self.view))
        self._changed.set()

    async def run(self) -> None:
        try:
            await self._until(lambda view: view.scheduled)
            profile = await self._profile()
            if profile is not None and not self.view.leaving:
                if PULL_ANNOTATION not in self.view.annotations:
                    seconds = profile.pull_seconds(self.view.key.name)
                    await self._kubelet.annotate(self.view, {PULL_ANNOTATION: f"{seconds:.3f}s"})
                await self._until(lambda view: view.running)
                while not self.view.leaving:
                    await self._container_life(profile)
            await self._kubelet.annotate(self.view, {DRAINED_ANNOTATION: "true"})
        except Exception:  # one pod's engine must not end the others'
            log.exception("%s: engine failed", self.view.key)

    async def _profile(self) -> EngineProfile | None:
        """The profile, read once as a container's arguments are; a bad one keeps the pod from starting."""
        complained = ""
        while not self.view.leaving:
            # Cleared before reading, so that a change while reading is seen.
            self._changed.clear()
            try:
                profile = parse_profile(await self._kubelet.profile_annotation(self.view.deployment))
            except ProfileError as error:
                if str(error) != complained:
                    complained = str(error)
                    log.warning("%s: %s", self.view.key, error)
                    await self._kubelet.annotate(self.view, {ERROR_ANNOTATION: complained})
                await self._changed.wait()
                continue
            if complained:
                await self._kubelet.annotate(self.view, {ERROR_ANNOTATION: None})
            return profile
        return None

    async def _container_life(self, profile: EngineProfile) -> None:
        """Serve until the pod leaves or its container restarts."""
        view = self.view
        served: Served
        if profile.real is not None:
            served = RealPod(model=view.model)
        else:
            load_seconds = 0.0 if self._was_loaded else profile.load_seconds(view.key.name)
            served = SimulatedPod(view, profile, load_seconds=load_seconds)
        if not self._was_loaded and view.annotations.get(LOADED_ANNOTATION) == "true":
            # A container that restarts loads its model again; the annotation is its last life's.
            await self._kubelet.annotate(view, {LOADED_ANNOTATION: "false"})
        try:
            await self._listen(served)
            self.served = served
            served.set_fault(self._kubelet.fault_of(self.view))
            prober = asyncio.create_task(self._probe(ready=self._was_loaded))
            self._was_loaded = False
            try:
                await self._until(lambda now: now.restarts != view.restarts)
            finally:
                prober.cancel()
                await asyncio.gather(prober, return_exceptions=True)
            if self.view.deletion_at_unix is not None:
                finished = await served.drain(seconds=self.view.deletion_at_unix - time.time())
                log.info("%s: %s", self.view.key, "drained" if finished else "cut at the end of its grace period")
        finally:
            self.served = None
            await served.stop()

    async def _listen(self, served: Served) -> None:
        """Bind the pod's address; whoever holds it yet (the last life of a restarted pod) will let go."""
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while True:
            try:
                await served.start(self.view.ip, self.view.port)
                return
            except OSError as error:
                log.warning("%s: cannot listen at %s:%d: %s", self.view.key, self.view.ip, self.view.port, error)
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(backoff_seconds * 2.0, LAST_BACKOFF_SECONDS)

    async def _probe(self, *, ready: bool) -> None:
        """Ask the engine's health over HTTP, and report each change from what was last reported."""
        failures = 0
        while True:
            healthy = await self._healthy()
            failures = 0 if healthy else failures + 1
            # As the kubelet: one success makes ready, several failures in a row make unready.
            if healthy != ready and (healthy or failures >= self.view.probe_failures):
                ready = healthy
                await self._kubelet.annotate(self.view, {LOADED_ANNOTATION: "true" if ready else "false"})
            await asyncio.sleep(self.view.probe_period_seconds if healthy else STARTUP_PROBE_SECONDS)

    async def _healthy(self) -> bool:
        url = f"http://{self.view.ip}:{self.view.port}{self.view.probe_path}"
        try:
            async with self._kubelet.session.get(url, allow_redirects=False) as response:
                return 200 <= response.status < 400
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _until(self, condition: Callable[[PodView], bool]) -> None:
        """Wait until the condition holds or the pod leaves."""
        while not condition(self.view) and not self.view.leaving:
            self._changed.clear()
            await self._changed.wait()


async def run(kubeconfig: Path) -> None:
    """Serve every inference pod of a cluster until cancelled."""
    api = await KubeApi.from_kubeconfig(kubeconfig)
    try:
        await Kubelet(api).run()
    finally:
        await api.close()
