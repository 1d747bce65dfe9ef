"""List, then watch, one kind for ever; keep nothing but what a handler makes of each object.

A reflector survives everything the API server does to it: an ended or broken stream continues where
it ended, a stream without a byte for 75 s counts as broken, a version that is too old lists again,
an outage is retried with back-off and said once.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Protocol

import structlog

from modelfleet.adapters.kubernetes import Gone, Json, Kubernetes, KubernetesError

BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
FULL_RESYNC_SECONDS = 600.0
"""A list this often repairs whatever a stream might have lost."""

log = structlog.get_logger()


class Sink(Protocol):
    """What receives a kind's objects."""

    def replace(self, objects: Iterable[Json]) -> None:
        """Take the complete list; what is not in it is gone."""

    def upsert(self, item: Json) -> None:
        """Take an object that is new or changed."""

    def remove(self, item: Json) -> None:
        """Take the last state of an object that is gone."""


class Reflector:
    """One kind's list and watch."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        path: str,
        sink: Sink,
        *,
        label_selector: str = "",
        slim: Callable[[Json], Json] = lambda item: item,
    ) -> None:
        """Prepare; `run` starts.

        Args:
            kubernetes: The API server.
            path: URL path of the collection.
            sink: What receives the objects.
            label_selector: What the server filters by.
            slim: Cuts an object down while its page is being read, so that a list of 20,000 pods is
                never held whole.
        """
        self._kubernetes = kubernetes
        self.path = path
        self._sink = sink
        self._label_selector = label_selector
        self._slim = slim
        self._heard_at: float | None = None
        self.synced = asyncio.Event()

    def silent_seconds(self) -> float:
        """Return the time since the server was last heard of; infinite before the first list."""
        return float("inf") if self._heard_at is None else monotonic() - self._heard_at

    async def run(self) -> None:
        """List and watch until cancelled."""
        failures = 0
        while True:
            try:
                version = await self._list()
                listed_at = monotonic()
                if failures:
                    log.info("watch recovered", path=self.path)
                failures = 0
                while monotonic() - listed_at < FULL_RESYNC_SECONDS:
                    version = await self._watch(version)
            except Gone:
                continue
            except KubernetesError as error:
                if failures == 0:
                    log.warning("watch interrupted; retrying", path=self.path, error=str(error))
                delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                failures += 1
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret

    async def _list(self) -> str:
        objects: list[Json] = []
        version = ""
        async for page in self._kubernetes.pages(self.path, label_selector=self._label_selector):
            objects.extend(self._slim(item) for item in page["items"])
            version = page["metadata"]["resourceVersion"]
        self._sink.replace(objects)
        self._heard_at = monotonic()
        self.synced.set()
        return version

    async def _watch(self, version: str) -> str:
        """Follow the stream to its end and return the version to go on from."""
        broken_after = monotonic()
        try:
            async for event in self._kubernetes.watch(self.path, version, label_selector=self._label_selector):
                self._heard_at = monotonic()
                item = event["object"]
                version = item["metadata"]["resourceVersion"]
                match event["type"]:
                    case "ADDED" | "MODIFIED":
                        self._sink.upsert(self._slim(item))
                    case "DELETED":
                        self._sink.remove(self._slim(item))
        except Gone:
            raise
        except KubernetesError:
            # A stream that lived for a while just ended badly; one that fails at once is an outage.
            if monotonic() - broken_after < 1.0:
                raise
        return version
