"""The external metrics API, by which a HorizontalPodAutoscaler reads the scripted engines' live queues.

It answers from the same value the engines expose, at the moment it is asked: no adapter and no Prometheus in
between, the best case of a HorizontalPodAutoscaler.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from sandbox.certificates import Authority
from sandbox.cluster import Sandbox

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
METRIC = "queued_requests"
SELECTOR_LABEL = "app"
_ROOT = f"/apis/{GROUP}/{VERSION}"


@asynccontextmanager
async def external_metrics(sandbox: Sandbox, directory: Path, queued: Callable[[str], int]) -> AsyncIterator[None]:
    """Serve the API to the cluster, registered with its aggregator, until the block is left.

    Args:
        sandbox: The cluster.
        directory: Where the certificate goes.
        queued: Waiting requests of a deployment, by its name.
    """

    async def discovery(_: web.Request) -> web.Response:
        resource = {"name": METRIC, "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
        body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}"}
        return web.json_response({**body, "resources": [resource]})

    async def value(request: web.Request) -> web.Response:
        deployment = request.query["labelSelector"].partition("=")[2]
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        item = {"metricName": METRIC, "metricLabels": {}, "timestamp": now, "value": str(queued(deployment))}
        body = {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}}
        return web.json_response({**body, "items": [item]})

    application = web.Application()
    application.router.add_get(_ROOT, discovery)
    application.router.add_get(f"{_ROOT}/namespaces/{{namespace}}/{METRIC}", value)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    authority = Authority.create(directory, "external-metrics-ca")
    pair = authority.issue("external-metrics", dns_names=("metrics.kube-system.svc",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        _register(sandbox, port=runner.addresses[0][1], ca=authority.certificate)
        yield
    finally:
        await runner.cleanup()


def _register(sandbox: Sandbox, *, port: int, ca: Path) -> None:
    service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    sandbox.request(
        "POST", "/api/v1/namespaces/kube-system/services", {"metadata": {"name": "metrics"}, "spec": service}
    )
    sandbox.request(
        "POST",
        "/apis/apiregistration.k8s.io/v1/apiservices",
        {
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"namespace": "kube-system", "name": "metrics", "port": port},
                "caBundle": base64.b64encode(ca.read_bytes()).decode(),
            },
        },
    )
