"""How a command reaches a cluster as its user, and how it prints what it found."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer
import yaml
from rich.console import Console

from modelfleet.adapters.kubernetes import Json, Kubernetes, KubernetesError, NotFound, resource_path
from modelfleet.api.meta import API_VERSION
from modelfleet.cli.bad_input import BadInput

Answer = TypeVar("Answer")

UNUSABLE: Final = 2
"""Exit code of a command that was called wrongly or could not reach the cluster."""


class Output(StrEnum):
    """How a value is printed."""

    JSON = "json"
    YAML = "yaml"


Kubeconfig = Annotated[str | None, typer.Option(help="As kubectl's; KUBECONFIG, then ~/.kube/config when absent.")]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig; the current one when absent.")]
Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="The context's when absent.")]
AnyNamespace = Annotated[str | None, typer.Option("-n", "--namespace", help="Every namespace when absent.")]
OperatorNamespace = Annotated[str, typer.Option(help="Where the operator and its Lease are.")]
OutputOption = Annotated[Output | None, typer.Option("-o", "--output", help="json or yaml; for reading when absent.")]
PIPE_COLUMNS: Final = 1_000
OPERATOR_NAMESPACE: Final = "modelfleet-system"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection as somebody, and the namespace that is meant when none is named."""

    kubernetes: Kubernetes
    namespace: str

    async def deployment(self, name: str) -> Json:
        """Return a ModelDeployment.

        Raises:
            BadInput: If there is none of that name.
        """
        try:
            return await self.kubernetes.get(self.deployment_path(name))
        except NotFound as error:
            remedy = "kubectl get mdep -A lists what there is; -n chooses the namespace"
            raise BadInput("NAME", f"no ModelDeployment {name} in namespace {self.namespace}; {remedy}") from error

    def deployment_path(self, name: str) -> str:
        """Return the URL path of a ModelDeployment."""
        return resource_path(API_VERSION, "ModelDeployment", namespace=self.namespace, name=name)


def in_cluster(
    work: Callable[[Cluster], Awaitable[Answer]], *, kubeconfig: str | None, context: str | None, namespace: str | None
) -> Answer:
    """Connect, do the work, and turn a refusal into one line and exit code 2."""

    async def connected() -> Answer:
        async with _connection(kubeconfig, context, namespace) as cluster:
            return await work(cluster)

    try:
        return asyncio.run(connected())
    except (BadInput, KubernetesError) as error:
        refuse(str(error))


def read_deployment(name: str, *, kubeconfig: str | None, context: str | None, namespace: str | None) -> Json:
    """Connect and return a ModelDeployment."""

    async def read(cluster: Cluster) -> Json:
        return await cluster.deployment(name)

    return in_cluster(read, kubeconfig=kubeconfig, context=context, namespace=namespace)


def refuse(text: str) -> NoReturn:
    """Say in one line why there is no answer, and end."""
    typer.echo(f"Error: {' '.join(text.split())}", err=True)
    raise typer.Exit(UNUSABLE)


@asynccontextmanager
async def _connection(kubeconfig: str | None, context: str | None, namespace: str | None) -> AsyncIterator[Cluster]:
    kubernetes, usual = await Kubernetes.connect_as_user(kubeconfig, context)
    try:
        yield Cluster(kubernetes, namespace or usual)
    finally:
        await kubernetes.close()


def emit(value: Any, output: Output) -> None:
    """Print a plain value."""
    if output is Output.JSON:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def printer() -> Console:
    """Return what prints for reading: in a pipe no line is broken, and nothing of the cluster's is taken for markup."""
    return Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def moment(text: str) -> datetime:
    """Read a time as the API server writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def ago(text: str | None, now: datetime) -> str:
    """Return how long ago a time was; `?` when there is none."""
    return "?" if not text else f"{span((now - moment(text)).total_seconds())} ago"


def span(seconds: float) -> str:
    """Return a length of time in its largest unit, as kubectl shows ages: 45s, 12m, 5h, 3d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def clock() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def condition(item: Mapping[str, Any], kind: str) -> Json:
    """Return a condition of an object; empty when it has none of that type."""
    found = (item.get("status") or {}).get("conditions") or ()
    return next((each for each in found if each.get("type") == kind), {})
