"""`modelfleet pause`, `resume` and `recommend`: the mode of one deployment, with an end if it is given one."""

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

import typer

from modelfleet.adapters.kubernetes import Json
from modelfleet.api.modeldeployment import Mode
from modelfleet.cli.bad_input import BadInput
from modelfleet.cli.cluster import Cluster, Context, Kubeconfig, Namespace, clock, in_cluster
from modelfleet.cli.names import deployment_names

MANAGER: Final = "modelfleet-cli"
"""Field manager of what these commands write: two fields of spec.scaling and no more."""
UNIT: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

Name = Annotated[str, typer.Argument(help="Of a ModelDeployment.", autocompletion=deployment_names)]
For = Annotated[str | None, typer.Option("--for", help="30m, 12h, 7d, 2w; without end when absent.", metavar="TIME")]


class Only(StrEnum):
    """The direction that is paused, in KEDA's words."""

    IN = "in"
    OUT = "out"


def pause(
    name: Name,
    lasting: For = None,
    only: Annotated[Only | None, typer.Option(help="in: remove none, out: add none; both when absent.")] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Leave the replicas as they are, for a time or until `resume`."""
    mode = {None: Mode.PAUSED, Only.IN: Mode.PAUSED_SCALE_IN, Only.OUT: Mode.PAUSED_SCALE_OUT}[only]
    _set(name, mode, lasting, namespace=namespace, kubeconfig=kubeconfig, context=context)


def recommend(
    name: Name,
    lasting: For = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Decide and say what would be done, but do not scale, for a time or until `resume`."""
    _set(name, Mode.RECOMMEND, lasting, namespace=namespace, kubeconfig=kubeconfig, context=context)


def resume(
    name: Name,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Scale again: undo `pause` and `recommend`."""
    _set(name, Mode.AUTO, None, namespace=namespace, kubeconfig=kubeconfig, context=context)


def _set(
    name: str,
    mode: Mode,
    lasting: str | None,
    *,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    async def work(cluster: Cluster) -> str:
        until = None if lasting is None else ends(lasting, clock())
        before = await cluster.deployment(name)
        text = None if until is None else f"{until:%Y-%m-%dT%H:%M:%SZ}"
        body: Json = {"spec": {"scaling": {"mode": mode.value, "modeUntil": text}}}
        await cluster.kubernetes.merge_patch(cluster.deployment_path(name), body, field_manager=MANAGER)
        said = f"{cluster.namespace}/{name}: {mode.value}" + (f" until {until:%Y-%m-%d %H:%M:%SZ}" if until else "")
        owner = applier(before)
        return f"{said}; {owner} applies spec.scaling.mode and may put it back: change it there too" if owner else said

    typer.echo(in_cluster(work, kubeconfig=kubeconfig, context=context, namespace=namespace))


def applier(item: Json) -> str:
    """Return who applies the mode server-side, as a GitOps controller does; empty when nobody does."""
    for entry in item["metadata"].get("managedFields") or ():
        scaling = ((entry.get("fieldsV1") or {}).get("f:spec") or {}).get("f:scaling") or {}
        if entry.get("operation") == "Apply" and "f:mode" in scaling:
            return str(entry["manager"])
    return ""


def ends(lasting: str, now: datetime) -> datetime:
    """Return when a length of time that begins now ends.

    Raises:
        BadInput: If it cannot be read.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", lasting)
    if match is None:
        raise BadInput("--for", f"{lasting!r} is no length of time; give one like 30m, 12h, 7d or 2w")
    return now + timedelta(**{UNIT[match[2]]: int(match[1])})
