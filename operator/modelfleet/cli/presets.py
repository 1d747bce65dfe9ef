"""`modelfleet presets`: create objects of the operator's own kinds as soon as those are served."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import yaml

from modelfleet.adapters.kubernetes import (
    Conflict,
    Json,
    Kubernetes,
    KubernetesError,
    NotFound,
    Unavailable,
    resource_path,
)

FIELD_MANAGER = "modelfleet-presets"
RETRY_SECONDS = 1.0


def presets(
    directory: Annotated[Path, typer.Argument(help="Directory of YAML manifests.", exists=True, file_okay=False)],
    kubeconfig: Annotated[
        str | None, typer.Option(envvar="KUBECONFIG", help="Kubeconfig; the pod's service account when absent.")
    ] = None,
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
    try:
        asyncio.run(_create_all(manifests, kubeconfig, timeout_seconds))
    except TimeoutError:
        typer.echo(f"the CRDs are not served after {timeout_seconds:.0f} s", err=True)
        raise typer.Exit(1) from None
    except KubernetesError as error:
        typer.echo(f"{error}", err=True)
        raise typer.Exit(1) from error


async def _create_all(manifests: list[Json], kubeconfig: str | None, timeout_seconds: float) -> None:
    kubernetes = await Kubernetes.connect(kubeconfig)
    try:
        async with asyncio.timeout(timeout_seconds):
            for manifest in manifests:
                typer.echo(f"{manifest['kind']}/{manifest['metadata']['name']}: {await _create(kubernetes, manifest)}")
    finally:
        await kubernetes.close()


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
