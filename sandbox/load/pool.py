"""The ready pods of one ModelDeployment, and which of them gets the next request."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelfleet.api.meta import DEPLOYMENT_LABEL, Key
from sandbox.engine.pods import UnusablePod, parse_pod
from sandbox.engine.reflect import Change, KubeApi, follow


@dataclass
class Endpoint:
    """A pod that may be sent requests."""

    name: str
    base_url: str
    model: str
    in_flight: int = 0
    sent: int = 0
    ready: bool = True


class Pool:
    """Ready endpoints by pod uid; least in flight first."""

    def __init__(self) -> None:
        """Start empty."""
        self._endpoints: dict[str, Endpoint] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many are ready."""
        return len(self._endpoints)

    def put(self, uid: str, endpoint: Endpoint) -> None:
        """Add a ready pod; one that is known already keeps its counts."""
        if uid not in self._endpoints:
            self._endpoints[uid] = endpoint
            self._changed.set()

    def remove(self, uid: str) -> None:
        """Take a pod out; requests under way go on."""
        if endpoint := self._endpoints.pop(uid, None):
            endpoint.ready = False

    def pick(self, *, excluding: frozenset[str] = frozenset()) -> Endpoint | None:
        """Return the endpoint with the fewest requests in flight (then: sent so far, then by name), if any."""
        candidates = [e for e in self._endpoints.values() if e.name not in excluding]
        return min(candidates, key=lambda e: (e.in_flight, e.sent, e.name), default=None)

    async def changed(self) -> None:
        """Return once a pod was added after the call."""
        self._changed.clear()
        await self._changed.wait()


PODS_PATH: Final = "/api/v1/namespaces/{namespace}/pods"


async def follow_deployment(api: KubeApi, deployment: Key, pool: Pool) -> None:
    """Keep the pool equal to the ready, not terminating pods of a ModelDeployment, for ever."""

    def on_change(change: Change, pod: Mapping[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        try:
            view = parse_pod(pod)
        except UnusablePod:
            return
        if change is Change.DELETED or not view.ready or view.leaving or not view.ip:
            pool.remove(uid)
        else:
            pool.put(uid, Endpoint(view.key.name, f"http://{view.ip}:{view.port}", view.model))

    await follow(
        api,
        PODS_PATH.format(namespace=deployment.namespace),
        label_selector=f"{DEPLOYMENT_LABEL}={deployment.name}",
        on_change=on_change,
        on_synced=lambda: None,
    )
