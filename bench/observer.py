"""An independent watch: when each replica count was written, and when each Pod object appeared and went."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from modelfleet.api.meta import DEPLOYMENT_LABEL, Key
from sandbox.engine.reflect import Change, KubeApi, follow

DEPLOYMENTS_PATH, PODS_PATH = "/apis/apps/v1/deployments", "/api/v1/pods"


@dataclass(frozen=True, slots=True)
class ScaleSeen:
    """A write of spec.replicas, at the monotonic moment its watch event arrived."""

    at: float
    key: Key
    replicas: int


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A Pod object, by the monotonic moments its watch events arrived.

    Attributes:
        first_seen_at: Its first event.
        ready_at: The event that told it ready; None while it is not.
        gone_at: Its deletion; None while it exists.
    """

    first_seen_at: float
    ready_at: float | None = None
    gone_at: float | None = None


class Observer:
    """Watches Deployments and Pods with a connection of its own; knows nothing of the operator."""

    def __init__(self, api: KubeApi) -> None:
        """Speak to one cluster; nothing is seen before `run`."""
        self._api = api
        self.replicas: dict[Key, int] = {}
        self.scales: list[ScaleSeen] = []
        self.pods: dict[Key, dict[str, PodSeen]] = {}
        self.gone: dict[Key, list[PodSeen]] = {}
        self.created: Counter[Key] = Counter()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for path, take in ((DEPLOYMENTS_PATH, self._deployment), (PODS_PATH, self._pod)):
                group.create_task(follow(self._api, path, on_change=take, on_synced=self._tell))

    async def until(self, condition: Callable[[], bool], *, seconds: float) -> bool:
        """Wait until the condition holds; return whether it did in time."""
        give_up = monotonic() + seconds
        while not condition():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, give_up - monotonic()))
            except TimeoutError:
                return condition()
        return True

    def first_scale(self, key: Key, *, after: float, replicas: int) -> float | None:
        """Return when a Deployment was first asked for this many replicas after a moment."""
        return next(
            (seen.at for seen in self.scales if seen.key == key and seen.at > after and seen.replicas == replicas),
            None,
        )

    def first_pod(self, key: Key, *, after: float) -> float | None:
        """Return when the first Pod of a Deployment appeared after a moment."""
        moments = [pod.first_seen_at for pod in self.pods.get(key, {}).values() if pod.first_seen_at > after]
        return min(moments, default=None)

    def settled(self, key: Key, count: int) -> bool:
        """Return whether a Deployment asks for this many replicas, and as many pods exist and are ready."""
        pods = self.pods.get(key, {}).values()
        return self.replicas.get(key) == count and len(pods) == count and all(pod.ready_at is not None for pod in pods)

    def _tell(self) -> None:
        self._changed.set()

    def _deployment(self, change: Change, item: Mapping[str, Any]) -> None:
        key = Key(item["metadata"]["namespace"], item["metadata"]["name"])
        if change is Change.DELETED:
            self.replicas.pop(key, None)
        else:
            count = item["spec"]["replicas"]
            before = self.replicas.get(key)
            self.replicas[key] = count
            if before is not None and before != count:
                self.scales.append(ScaleSeen(monotonic(), key, count))
        self._tell()

    def _pod(self, change: Change, item: Mapping[str, Any]) -> None:
        metadata = item["metadata"]
        labels = metadata.get("labels") or {}
        key = Key(metadata["namespace"], labels.get(DEPLOYMENT_LABEL) or labels.get("app") or "")
        pods, uid, now = self.pods.setdefault(key, {}), metadata["uid"], monotonic()
        known = pods.get(uid)
        if change is Change.DELETED:
            if known is not None:
                self.gone.setdefault(key, []).append(replace(pods.pop(uid), gone_at=now))
        else:
            self.created[key] += known is None
            conditions = item.get("status", {}).get("conditions") or []
            ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
            was_ready_at = None if known is None else known.ready_at
            pods[uid] = PodSeen(
                first_seen_at=now if known is None else known.first_seen_at,
                ready_at=(was_ready_at or now) if ready else None,
            )
        self._tell()
