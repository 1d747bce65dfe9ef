"""`modelfleet presets`: create objects of the operator's own kinds as soon as those are served."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import yaml

from modelfleet.adapters.kubernetes import Conflict, Json, Kubernetes, NotFound, Unavailable, resource_path
from modelfleet.cli.cluster import Cluster, Context, Kubeconfig, in_cluster

FIELD_MANAGER = "modelfleet-presets"
RETRY_SECONDS = 1.0


def presets(
    directory: Annotated[Path, typer.Argument(help="Directory of YAML manifests.", exists=True, file_okay=False)],
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    timeout_seconds: Annotated[float, typer.Option(help="How long to wait for the CRDs.")] = 120.0,
) -> None:
    """Create the InferenceRuntimes and AcceleratorClasses that are missing; one that is there is not touched.

    A changed runtime restarts the replicas of every model that names it: never as a side effect of an upgrade.
    """
    manifests = [
        manifest
        for path in sorted(directory.glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]

    async def create_all(cluster: Cluster) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                for manifest in manifests:
                    done = await _create(cluster.kubernetes, manifest)
                    typer.echo(f"{manifest['kind']}/{manifest['metadata']['name']}: {done}")
        except TimeoutError as error:
            raise Unavailable(f"the CRDs are not served after {timeout_seconds:.0f} s") from error

    in_cluster(create_all, kubeconfig=kubeconfig, context=context, namespace=None)


async def _create(kubernetes: Kubernetes, manifest: Json) -> str:
    """Create one object, waiting for its kind; return what happened."""
    path = resource_path(manifest["apiVersion"], manifest["kind"])
    while True:
        try:
            await kubernetes.create(path, manifest, field_manager=FIELD_MANAGER)
        except Conflict:
            return "is there already, left as it is"
        except (NotFound, Unavailable):
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return "created"
