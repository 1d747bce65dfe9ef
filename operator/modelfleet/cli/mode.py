"""`modelfleet pause`, `resume` and `recommend`: the mode of one deployment, with an end if it is given one."""

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

import typer

from modelfleet.adapters.kubernetes import Conflict, Json
from modelfleet.api.meta import API_VERSION
from modelfleet.api.modeldeployment import Mode
from modelfleet.cli.bad_input import BadInput
from modelfleet.cli.cluster import Cluster, Context, Kubeconfig, Namespace, clock, in_cluster
from modelfleet.cli.names import deployment_names

MANAGER: Final = "modelfleet-cli"
"""Field manager of what these commands write: two fields of spec.scaling and no more."""
UNIT: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

Name = Annotated[str, typer.Argument(help="Of a ModelDeployment.", autocompletion=deployment_names)]
For = Annotated[str | None, typer.Option("--for", help="30m, 12h, 7d, 2w; without end when absent.", metavar="TIME")]
Force = Annotated[bool, typer.Option("--force", help="Take the field from whoever owns it.")]


class Only(StrEnum):
    """The direction that is paused, in KEDA's words."""

    IN = "in"
    OUT = "out"


def pause(
    name: Name,
    lasting: For = None,
    only: Annotated[Only | None, typer.Option(help="in: remove none, out: add none; both when absent.")] = None,
    force: Force = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Leave the replicas as they are, for a time or until `resume`."""
    mode = {None: Mode.PAUSED, Only.IN: Mode.PAUSED_SCALE_IN, Only.OUT: Mode.PAUSED_SCALE_OUT}[only]
    _set(name, mode, lasting, force=force, namespace=namespace, kubeconfig=kubeconfig, context=context)


def recommend(
    name: Name,
    lasting: For = None,
    force: Force = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Decide and say what would be done, but do not scale, for a time or until `resume`."""
    _set(name, Mode.RECOMMEND, lasting, force=force, namespace=namespace, kubeconfig=kubeconfig, context=context)


def resume(
    name: Name,
    force: Force = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Scale again: undo `pause` and `recommend`."""
    _set(name, Mode.AUTO, None, force=force, namespace=namespace, kubeconfig=kubeconfig, context=context)


def _set(
    name: str,
    mode: Mode,
    lasting: str | None,
    *,
    force: bool,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    async def work(cluster: Cluster) -> str:
        until = None if lasting is None else ends(lasting, clock())
        before = await cluster.deployment(name)
        # What these commands set they also let go of: the default is Auto, and nobody owns it.
        wanted: Json = {} if mode is Mode.AUTO else {"mode": mode.value}
        if mode is Mode.AUTO and not _own(before) and before["spec"]["scaling"]["mode"] != Mode.AUTO:
            wanted = {"mode": mode.value}
        if until is not None:
            wanted["modeUntil"] = f"{until:%Y-%m-%dT%H:%M:%SZ}"
        manifest: Json = {
            "apiVersion": API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": cluster.namespace, "uid": before["metadata"]["uid"]},
            **({"spec": {"scaling": wanted}} if wanted else {}),
        }
        try:
            await cluster.kubernetes.apply(manifest, field_manager=MANAGER, force=force)
        except Conflict as error:
            raise BadInput("NAME", f"{error}; change it there, or take the field over with --force") from error
        return f"{cluster.namespace}/{name}: {mode.value}" + (f" until {until:%Y-%m-%d %H:%M:%SZ}" if until else "")

    typer.echo(in_cluster(work, kubeconfig=kubeconfig, context=context, namespace=namespace))


def _own(item: Json) -> bool:
    return any(entry.get("manager") == MANAGER for entry in item["metadata"].get("managedFields") or ())


def ends(lasting: str, now: datetime) -> datetime:
    """Return when a length of time that begins now ends.

    Raises:
        BadInput: If it cannot be read.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", lasting)
    if match is None:
        raise BadInput("--for", f"{lasting!r} is no length of time; give one like 30m, 12h, 7d or 2w")
    return now + timedelta(**{UNIT[match[2]]: int(match[1])})
