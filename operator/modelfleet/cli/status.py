"""`modelfleet status`: the fleet, its tenants, its classes and its operator, at a glance."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from modelfleet.adapters.kubernetes import Json, Kubernetes, KubernetesError, NotFound, resource_path
from modelfleet.api.meta import API_VERSION
from modelfleet.cli.cluster import (
    OPERATOR_NAMESPACE,
    Cluster,
    Context,
    Kubeconfig,
    Namespace,
    OperatorNamespace,
    OutputOption,
    clock,
    condition,
    emit,
    in_cluster,
    moment,
    printer,
    span,
)
from modelfleet.shell.lease import LEASE_NAME, LEASE_SECONDS

WATCH_SECONDS: Final = 2.0


def status(
    namespace: Namespace = None,
    everywhere: Annotated[bool, typer.Option("-A", "--all-namespaces", help="Every namespace.")] = False,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Again every 2 s, until interrupted.")] = False,
    operator_namespace: OperatorNamespace = OPERATOR_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: OutputOption = None,
) -> None:
    """Show the fleet at a glance: deployments, tenants, classes of GPUs, the operator."""
    console = printer()

    async def work(cluster: Cluster) -> None:
        async def seen() -> Json:
            place = "" if everywhere else cluster.namespace
            return overview(await gather(cluster.kubernetes, place, operator_namespace), clock())

        if output is not None:
            emit(await seen(), output)
        elif not watch:
            console.print(shown(await seen()))
        else:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    if console.is_terminal:
                        live.update(shown(await seen()), refresh=True)
                    else:
                        console.print(shown(await seen()))
                    await asyncio.sleep(WATCH_SECONDS)

    try:
        in_cluster(work, kubeconfig=kubeconfig, context=context, namespace=namespace)
    except KeyboardInterrupt:
        raise typer.Exit from None


async def gather(kubernetes: Kubernetes, namespace: str, operator_namespace: str) -> dict[str, list[Json] | str]:
    """Read what the overview needs; a text says why something cannot be read.

    Raises:
        KubernetesError: When not even the ModelDeployments can be.
    """

    async def listed(path: str) -> list[Json] | str:
        try:
            return [item async for page in kubernetes.pages(path) for item in page["items"]]
        except KubernetesError as error:
            return str(error)

    async def lease() -> list[Json] | str:
        path = resource_path("coordination.k8s.io/v1", "Lease", namespace=operator_namespace, name=LEASE_NAME)
        try:
            return [await kubernetes.get(path)]
        except NotFound:
            return []
        except KubernetesError as error:
            return str(error)

    path = resource_path(API_VERSION, "ModelDeployment", namespace=namespace)
    try:
        deployments = [item async for page in kubernetes.pages(path) for item in page["items"]]
    except NotFound as error:
        raise NotFound(
            "the cluster has no ModelDeployments; install the CRDs: kubectl apply --server-side -f crds/"
        ) from error
    tenants, classes, leases = await asyncio.gather(
        listed(resource_path(API_VERSION, "Tenant")), listed(resource_path(API_VERSION, "AcceleratorClass")), lease()
    )
    return {"deployments": deployments, "tenants": tenants, "classes": classes, "operator": leases}


def overview(found: Mapping[str, list[Json] | str], now: datetime) -> Json:
    """Return the fleet as a plain value."""
    deployments = found["deployments"]
    statuses = [item.get("status") or {} for item in deployments if isinstance(item, dict)]
    return {
        "fleet": {
            "deployments": len(statuses),
            **{
                name: sum(each.get(field) or 0 for each in statuses)
                for name, field in (
                    ("ready", "readyReplicas"),
                    ("desired", "desiredReplicas"),
                    ("wanted", "wantedReplicas"),
                )
            },
            "notReady": sum(condition(item, "Ready").get("status") != "True" for item in _items(deployments)),
            "metricsMissing": sum(
                condition(item, "MetricsFresh").get("status") == "False" for item in _items(deployments)
            ),
            "notAuto": sum(not each.get("mode", "Auto").startswith("Auto") for each in statuses),
        },
        "deployments": [
            {
                "namespace": item["metadata"]["namespace"],
                "name": item["metadata"]["name"],
                **{
                    field: (item.get("status") or {}).get(field)
                    for field in ("ready", "desiredReplicas", "wantedReplicas", "load", "limitedBy", "reason", "mode")
                },
            }
            for item in _items(deployments)
        ],
        "tenants": _or_text(found["tenants"], _tenant),
        "classes": _or_text(found["classes"], _class),
        "operator": found["operator"]
        if isinstance(found["operator"], str)
        else next((_operator(lease, now) for lease in found["operator"]), {"holder": None}),
    }


def _items(found: list[Json] | str) -> Iterator[Json]:
    yield from (found if isinstance(found, list) else ())


def _or_text(found: list[Json] | str, row: Any) -> Any:
    return found if isinstance(found, str) else [row(item) for item in found]


def _tenant(item: Json) -> Json:
    fields = ("guaranteed", "used", "borrowed", "lent", "waiting", "reason")
    return {"name": item["metadata"]["name"], **{field: (item.get("status") or {}).get(field) for field in fields}}


def _class(item: Json) -> Json:
    found = item.get("status") or {}
    capacity, free = found.get("capacityGpus", 0), found.get("freeGpus", 0)
    return {
        "name": item["metadata"]["name"],
        "nodes": found.get("nodes", 0),
        "capacityGpus": capacity,
        "usedGpus": capacity - free,
        "freeGpus": free,
    }


def _operator(lease: Json, now: datetime) -> Json:
    spec = lease["spec"]
    age = (now - moment(spec["renewTime"])).total_seconds() if spec.get("renewTime") else None
    return {
        "holder": spec.get("holderIdentity") or None,
        "renewedSecondsAgo": None if age is None else round(age, 1),
        "leads": bool(spec.get("holderIdentity")) and age is not None and age <= 2 * LEASE_SECONDS,
    }


def shown(value: Mapping[str, Any]) -> Group:
    """Return the overview for reading."""
    fleet = value["fleet"]
    head = (
        f"{fleet['deployments']} deployments: {fleet['ready']} replicas ready, {fleet['desired']} desired, "
        f"{fleet['wanted']} wanted; {fleet['notReady']} not ready, {fleet['metricsMissing']} without fresh metrics, "
        f"{fleet['notAuto']} not in mode Auto"
    )
    return Group(
        Text(head, style="bold"),
        _operator_line(value["operator"]),
        *_table("class", ("CLASS", "NODES", "GPUS", "USED", "FREE"), value["classes"]),
        *_table("tenant", ("TENANT", "GUARANTEED", "USED", "BORROWED", "LENT", "WAITING", "REASON"), value["tenants"]),
        *_table(
            "deployment",
            ("NAMESPACE", "NAME", "READY", "DESIRED", "WANTED", "LOAD", "LIMITED-BY", "REASON", "MODE"),
            value["deployments"],
        ),
    )


def _operator_line(operator: Mapping[str, Any] | str) -> Text:
    if isinstance(operator, str):
        return Text(f"operator: unknown: {operator}", style="yellow")
    if not operator["holder"]:
        return Text("operator: none leads; `modelfleet doctor` tells why", style="red")
    age = span(operator["renewedSecondsAgo"] or 0.0)
    if not operator["leads"]:
        return Text(
            f"operator: {operator['holder']} does not renew its Lease, last {age} ago; `modelfleet doctor`", "red"
        )
    return Text(f"operator: {operator['holder']} leads, Lease renewed {age} ago")


def _table(what: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]] | str) -> list[Text | Table]:
    if isinstance(rows, str):
        return [Text(f"{what}: unknown: {rows}", style="yellow")]
    if not rows:
        return []
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row.values()))
    return [table]
