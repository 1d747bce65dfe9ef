"""Follows one kind of object through list and watch, as JSON, across outages of the API server."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes import aio

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS: Final = 0.1
LAST_BACKOFF_SECONDS: Final = 3.0
WATCH_SECONDS: Final = 290
"""The server ends each watch after this long; the client gives up a little later."""
_LIST_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
_WATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=WATCH_SECONDS + 20)
_PATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, sock_connect=5)


class Change(StrEnum):
    """What happened to an object."""

    UPSERTED = "upserted"
    DELETED = "deleted"


OnChange = Callable[[Change, Mapping[str, Any]], None]


class ApiStatus(Exception):
    """The API server answered with a status other than 200.

    Attributes:
        code: The HTTP status, or the one inside a watch's ERROR event.
    """

    def __init__(self, code: int, text: str) -> None:
        """Keep the code, and the first words of the answer."""
        super().__init__(f"{code}: {text[:200]}")
        self.code = code


class KubeApi:
    """The few raw requests that the engine and the load generator make."""

    def __init__(self, client: Any) -> None:
        """Speak through a `kubernetes.aio` ApiClient, which knows the address and the credentials."""
        self._client = client

    @classmethod
    async def from_kubeconfig(cls, path: Path) -> "KubeApi":
        """Read a kubeconfig.

        Raises:
            kubernetes.aio.config.ConfigException: If it is not one.
        """
        return cls(await aio.config.new_client_from_config(config_file=str(path), persist_config=False))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def list(self, path: str, *, label_selector: str = "") -> tuple[list[dict[str, Any]], str]:
        """Return the objects at a path and the resourceVersion to watch from.

        Raises:
            ApiStatus: If the answer is not 200.
            aiohttp.ClientError, TimeoutError: If there is none.
        """
        query = urlencode({"labelSelector": label_selector}) if label_selector else ""
        response = await self._send("GET", f"{path}?{query}", timeout=_LIST_TIMEOUT)
        body = await _checked_json(response)
        return body["items"] or [], body["metadata"]["resourceVersion"]

    async def watch(
        self, path: str, *, resource_version: str, label_selector: str = ""
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield events until the server ends the watch.

        Raises:
            ApiStatus: If it is refused, or ends with an ERROR event (410: list again).
            aiohttp.ClientError, TimeoutError: If the connection fails.
        """
        query = {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if label_selector:
            query["labelSelector"] = label_selector
        response = await self._send("GET", f"{path}?{urlencode(query)}", timeout=_WATCH_TIMEOUT)
        try:
            if response.status != 200:
                raise ApiStatus(response.status, await response.text())
            while line := await response.content.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiStatus(int(event["object"].get("code", 0)), str(event["object"].get("message")))
                yield event["type"], event["object"]
        finally:
            response.close()

    async def merge_patch(self, path: str, patch: Mapping[str, Any]) -> None:
        """Send a JSON merge patch.

        Raises:
            ApiStatus: If it is refused.
            aiohttp.ClientError, TimeoutError: If there is no answer.
        """
        response = await self._send(
            "PATCH", path, timeout=_PATCH_TIMEOUT, content_type="application/merge-patch+json", body=dict(patch)
        )
        await _checked_json(response)

    async def _send(
        self, method: str, path: str, *, timeout: aiohttp.ClientTimeout, content_type: str = "", body: Any = None
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"}
        if content_type:
            headers["Content-Type"] = content_type
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path
        answer = await self._client.rest_client.request(
            method, url, headers=headers, body=body, _request_timeout=timeout
        )
        response: aiohttp.ClientResponse = answer.response
        return response


async def follow(
    api: KubeApi, path: str, *, on_change: OnChange, on_synced: Callable[[], None], label_selector: str = ""
) -> None:
    """Tell every change at a path, for ever.

    A kind that is not installed (404) counts as empty and is looked for again. After an outage or a 410 the
    list is read anew, and what vanished meanwhile is told as deleted.

    Args:
        api: Where to ask.
        path: For example /api/v1/pods.
        on_change: Called for every object of a list, and for every event after it.
        on_synced: Called after each list.
        label_selector: Selects on the server.
    """
    known: dict[str, Mapping[str, Any]] = {}
    backoff_seconds = FIRST_BACKOFF_SECONDS

    def tell(change: Change, item: Mapping[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        if change is Change.DELETED:
            known.pop(uid, None)
        else:
            known[uid] = item
        on_change(change, item)

    while True:
        try:
            items, version = await api.list(path, label_selector=label_selector)
            listed = {item["metadata"]["uid"] for item in items}
            for gone in [item for uid, item in known.items() if uid not in listed]:
                tell(Change.DELETED, gone)
            for item in items:
                tell(Change.UPSERTED, item)
            on_synced()
            while True:
                async for kind, item in api.watch(path, resource_version=version, label_selector=label_selector):
                    backoff_seconds = FIRST_BACKOFF_SECONDS
                    version = item["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        tell(Change.DELETED if kind == "DELETED" else Change.UPSERTED, item)
        except ApiStatus as error:
            if error.code == 404:
                on_synced()
            elif error.code != 410:
                log.warning("%s: %s", path, error)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.warning("%s: %s: %s", path, type(error).__name__, error)
        await asyncio.sleep(backoff_seconds)
        backoff_seconds = min(backoff_seconds * 2.0, LAST_BACKOFF_SECONDS)


async def _checked_json(response: aiohttp.ClientResponse) -> Any:
    text = await response.text()
    if response.status not in (200, 201):
        raise ApiStatus(response.status, text)
    return json.loads(text)
