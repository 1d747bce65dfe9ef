"""The API server, as raw JSON.

The `kubernetes` package brings the credentials, TLS and token refresh; objects stay dictionaries,
because a typed model costs 14 times the parse (500 pods: 25 ms against 348 ms) and refuses fields it
does not know.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.config import ConfigException, incluster_config

from modelfleet.api.kinds import KINDS
from modelfleet.api.meta import API_VERSION, FIELD_MANAGER

Json = dict[str, Any]

REQUEST_TIMEOUT_SECONDS = 10.0
PAGE_SIZE = 500
WATCH_SECONDS = 290
"""The server ends a watch after this long; a new one starts where it ended."""
SILENCE_SECONDS = 75.0
"""A watch without a byte for this long is dead: the server sends a bookmark every minute."""

_PLURALS: dict[tuple[str, str], tuple[str, bool]] = {
    ("v1", "Node"): ("nodes", False),
    ("v1", "Pod"): ("pods", True),
    ("v1", "Service"): ("services", True),
    ("v1", "ResourceQuota"): ("resourcequotas", True),
    ("apps/v1", "Deployment"): ("deployments", True),
    ("apps/v1", "ReplicaSet"): ("replicasets", True),
    ("policy/v1", "PodDisruptionBudget"): ("poddisruptionbudgets", True),
    ("autoscaling/v2", "HorizontalPodAutoscaler"): ("horizontalpodautoscalers", True),
    ("coordination.k8s.io/v1", "Lease"): ("leases", True),
    ("events.k8s.io/v1", "Event"): ("events", True),
    **{(API_VERSION, kind.kind): (kind.plural, kind.scope == "Namespaced") for kind in KINDS},
}


class KubernetesError(Exception):
    """A request to the API server that did not succeed."""


class Unavailable(KubernetesError):
    """No answer, or 429, or a 5xx: worth trying again."""


class NotFound(KubernetesError):
    """The object or its kind does not exist."""


class Conflict(KubernetesError):
    """Somebody else changed, owns or already created the object."""


class Gone(KubernetesError):
    """The resource version is too old to watch from: list again."""


class Refused(KubernetesError):
    """The request is invalid or forbidden: the same one will be refused again."""


def resource_path(api_version: str, kind: str, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Return the URL path of a collection, an object or a subresource.

    Raises:
        KeyError: For a kind the operator does not handle.
    """
    plural, namespaced = _PLURALS[api_version, kind]
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    parts = [root]
    if namespaced and namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(plural)
    parts += [quote(part, safe="") for part in (name, subresource) if part]
    return "/".join(parts)


def _only_a_pods_account() -> bool:
    files = (os.environ.get("KUBECONFIG") or "~/.kube/config").split(os.pathsep)
    return "KUBERNETES_SERVICE_HOST" in os.environ and not any(Path(each).expanduser().is_file() for each in files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """Server, user and trust; paths to PEM files."""

    server: str
    token: str | None
    ca_path: str | None
    certificate_path: str | None
    private_key_path: str | None
    insecure: bool


class Kubernetes:
    """Requests to one API server, with the credentials of the pod or of a kubeconfig."""

    def __init__(self, api: client.ApiClient) -> None:
        """Wrap a configured client; use `connect` to make one."""
        self._api = api

    @classmethod
    async def connect(cls, kubeconfig: str | None) -> "Kubernetes":
        """Return a client for a kubeconfig, or for the pod's own service account when None.

        Raises:
            Unavailable: When neither can be read; the message names what to set.
        """
        settings = client.Configuration()
        try:
            if kubeconfig:
                await config.load_kube_config(config_file=kubeconfig, client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except (ConfigException, OSError) as error:
            raise Unavailable(
                f"no Kubernetes credentials: {error}; set --kubeconfig or KUBECONFIG outside a cluster"
            ) from error
        settings.connection_pool_maxsize = 0  # unlimited: each watch holds one connection for good
        return cls(client.ApiClient(configuration=settings))

    @classmethod
    async def connect_as_user(cls, kubeconfig: str | None, context: str | None) -> tuple["Kubernetes", str]:
        """Return a client for a person, as kubectl finds it, and the namespace of the context.

        Args:
            kubeconfig: When None: KUBECONFIG, then ~/.kube/config, then in a pod its service account.
            context: When None: the current one.

        Raises:
            Unavailable: When there is none that can be read; the message names what to set.
        """
        if kubeconfig is None and context is None and _only_a_pods_account():
            namespace = Path(incluster_config.SERVICE_TOKEN_FILENAME).with_name("namespace")
            return await cls.connect(None), namespace.read_text() if namespace.is_file() else "default"
        settings = client.Configuration()
        try:
            loader = await config.load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=settings
            )
        except (ConfigException, OSError) as error:
            raise Unavailable(
                f"no Kubernetes credentials: {error}; set --kubeconfig, --context or KUBECONFIG"
            ) from error
        return cls(client.ApiClient(configuration=settings)), loader.current_context["context"].get(
            "namespace", "default"
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._api.close()

    async def credentials(self) -> "Credentials":
        """Return what another client needs to speak to the same server as the same user, as of now."""
        settings = self._api.configuration
        # "Bearer ..." from a kubeconfig, "bearer ..." from a service account.
        _, _, token = ((await settings.auth_settings()).get("BearerToken", {}).get("value") or "").partition(" ")
        return Credentials(
            server=settings.host,
            token=token or None,
            ca_path=settings.ssl_ca_cert,
            certificate_path=settings.cert_file,
            private_key_path=settings.key_file,
            insecure=not settings.verify_ssl,
        )

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Read an object or a list."""
        return await self._json("GET", path, query=query)

    async def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Read what is no JSON, such as a log."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
        response = await self._open("GET", path, query=query, body=None, content_type=None, timeout=timeout)
        try:
            await _raise_for_status(response)
            return (await response.read()).decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unavailable(f"GET {path}: {_text(error)}") from error
        finally:
            response.release()

    async def server_time(self) -> datetime:
        """Return the API server's clock, to the second."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
        response = await self._open("GET", "/version", query=None, body=None, content_type=None, timeout=timeout)
        response.release()
        return parsedate_to_datetime(response.headers["Date"])

    async def create(self, path: str, body: Json, *, field_manager: str) -> Json:
        """Create an object in a collection."""
        return await self._json("POST", path, query={"fieldManager": field_manager}, body=body)

    async def replace(self, path: str, body: Json) -> Json:
        """Replace an object; its resourceVersion makes this fail when it changed meanwhile."""
        return await self._json("PUT", path, body=body)

    async def merge_patch(self, path: str, body: Json, *, field_manager: str = FIELD_MANAGER) -> Json:
        """Change the fields named in the body (JSON merge patch)."""
        query = {"fieldManager": field_manager}
        return await self._json("PATCH", path, query=query, body=body, content_type="application/merge-patch+json")

    async def json_patch(self, path: str, operations: list[Json], *, field_manager: str) -> Json:
        """Change an object by JSON patch operations, all or none; a `test` among them that fails is Refused."""
        query = {"fieldManager": field_manager}
        return await self._json("PATCH", path, query=query, body=operations, content_type="application/json-patch+json")

    async def delete(self, path: str, *, uid: str) -> None:
        """Delete an object.

        Raises:
            Conflict: When another object has the name under another UID.
        """
        await self._json("DELETE", path, body={"preconditions": {"uid": uid}})

    async def apply(self, manifest: Json, *, field_manager: str, subresource: str = "", force: bool = True) -> Json:
        """Apply a manifest server-side and return the object as it stands then.

        Raises:
            Conflict: When another object has the manifest's name under another UID.
        """
        metadata = manifest["metadata"]
        path = resource_path(
            manifest["apiVersion"],
            manifest["kind"],
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
            subresource=subresource,
        )
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        return await self._json("PATCH", path, query=query, body=manifest, content_type="application/apply-patch+yaml")

    async def pages(self, path: str, *, label_selector: str = "") -> AsyncIterator[Json]:
        """List a collection page by page, newest state first read (no stale cache)."""
        query = {"limit": str(PAGE_SIZE)}
        if label_selector:
            query["labelSelector"] = label_selector
        while True:
            page = await self._json("GET", path, query=query, timeout_seconds=60.0)
            yield page
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    async def watch(
        self, path: str, resource_version: str, *, label_selector: str = "", field_selector: str = ""
    ) -> AsyncIterator[Json]:
        """Stream the events after a resource version until the server ends the watch.

        Raises:
            Gone: When the version is too old.
            Unavailable: When the stream breaks or stays silent.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
        response = await self._open("GET", path, query=query, body=None, content_type=None, timeout=timeout)
        try:
            await _raise_for_status(response)
            async for line in _lines(response.content):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error(int(event["object"].get("code", 500)), event["object"].get("message", ""))
                yield event
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unavailable(f"watch of {path} broke: {_text(error)}") from error
        finally:
            response.close()

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | list[Json] | None = None,
        content_type: str | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        response = await self._open(method, path, query=query, body=body, content_type=content_type, timeout=timeout)
        try:
            await _raise_for_status(response)
            answer: Json = json.loads(await response.read())
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise Unavailable(f"{method} {path}: {_text(error)}") from error
        finally:
            response.release()
        return answer

    async def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: Json | list[Json] | None,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type or "application/json"}
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._api.call_api(*request, _request_timeout=timeout)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {path}: {_text(error)}") from error
        response: aiohttp.ClientResponse = answer.response
        return response


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    # Not `readline`: an object may be longer than any line limit that is worth setting.
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status < 300:
        return
    text = await response.text()
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text[:200]
    raise _error(response.status, message)


def _error(status: int, message: str) -> KubernetesError:
    match status:
        case 404:
            return NotFound(message)
        case 409:
            return Conflict(message)
        case 410:
            return Gone(message)
        case 400 | 401 | 403 | 405 | 413 | 415 | 422:
            return Refused(message)
        case _:
            return Unavailable(f"{status}: {message}")


def _text(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError | asyncio.TimeoutError) else str(error)
