"""Names that a shell may complete."""

import asyncio
from typing import Final

import typer

from modelfleet.adapters.kubernetes import Kubernetes, KubernetesError, resource_path
from modelfleet.api.meta import API_VERSION

PATIENCE_SECONDS: Final = 2.0
"""A shell that waits longer than this for a word has lost its user."""


def deployment_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ModelDeployments of the namespace; none when the cluster does not answer at once."""
    options = context.params

    async def names() -> list[str]:
        kubernetes, usual = await Kubernetes.connect_as_user(options.get("kubeconfig"), options.get("context"))
        try:
            path = resource_path(API_VERSION, "ModelDeployment", namespace=options.get("namespace") or usual)
            found = await asyncio.wait_for(kubernetes.get(path), PATIENCE_SECONDS)
        finally:
            await kubernetes.close()
        return [item["metadata"]["name"] for item in found["items"]]

    try:
        return [name for name in asyncio.run(names()) if name.startswith(incomplete)]
    except (KubernetesError, TimeoutError):
        return []
