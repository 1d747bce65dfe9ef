"""`modelfleet explain NAME`: the last decision, step by step, and what would change it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from modelfleet.adapters.kubernetes import Json
from modelfleet.api.conditions import Limit
from modelfleet.api.crd import custom_resource_definition
from modelfleet.api.kinds import MODEL_DEPLOYMENT
from modelfleet.cli.cluster import (
    Context,
    Kubeconfig,
    Namespace,
    OutputOption,
    ago,
    clock,
    emit,
    moment,
    printer,
    read_deployment,
    span,
)
from modelfleet.cli.names import deployment_names
from modelfleet.decide.explain import LIMIT_FIELDS

DEFAULT: Final = "default"
CLIENT_SIDE_APPLY: Final = "kubectl-client-side-apply"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def explain(
    name: Annotated[str, typer.Argument(help="Of a ModelDeployment.", autocompletion=deployment_names)],
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: OutputOption = None,
) -> None:
    """Show the arithmetic of the last decision: signals, steps, limits and their owners, and what would unblock it."""
    item = read_deployment(name, kubeconfig=kubeconfig, context=context, namespace=namespace)
    if output is not None:
        emit(explanation(item), output)
        return
    console = printer()
    for part in lines(item, clock()):
        console.print(part)


def explanation(item: Mapping[str, Any]) -> Json:
    """Return what is known of a deployment's last decision, as a plain value."""
    metadata, status = item["metadata"], item.get("status") or {}
    decision = status.get("decision") or {}
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "generation": metadata.get("generation"),
        **{
            field: status.get(field)
            for field in (
                "observedGeneration",
                "readyReplicas",
                "desiredReplicas",
                "wantedReplicas",
                "load",
                "limitedBy",
                "reason",
                "mode",
                "bounds",
            )
        },
        **_owner(item, status.get("limitedBy") or ""),
        "decision": {
            **decision,
            "steps": [{**step, **_owner(item, step.get("limitedBy", ""))} for step in decision.get("steps") or ()],
        },
        "conditions": status.get("conditions") or [],
    }


def _owner(item: Mapping[str, Any], limit: str) -> Json:
    """Return where a limit is said, and who said so last."""
    field = LIMIT_FIELDS.get(Limit(limit), "") if limit in set(Limit) else ""
    said = _said_by(item, field.split(".")) if field.startswith("spec.") else ""
    return {name: value for name, value in (("limitField", field), ("setBy", said)) if value}


def _said_by(item: Mapping[str, Any], path: Sequence[str]) -> str:
    """Return the field manager of a field, or that its value is the default.

    Who creates an object other than by server-side apply is made the manager of its defaults too. What such a manager
    wrote is told by kubectl's own record of it; without one, a value that is the default may be either's.
    """
    fields = [f"f:{name}" for name in path]
    managed = item["metadata"].get("managedFields") or ()
    entry = next((each for each in managed if _at(each.get("fieldsV1"), fields) is not None), None)
    if entry is None:
        return DEFAULT if managed else ""
    manager = str(entry.get("manager", ""))
    if entry.get("operation") == "Apply" or _at(item, path) != _default(path):
        return manager
    written = (item["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if manager != CLIENT_SIDE_APPLY or written is None:
        return f"{manager}, or {DEFAULT}"
    try:
        return DEFAULT if _at(json.loads(written), path) is None else manager
    except ValueError:
        return manager


def _at(node: Any, path: Iterable[str]) -> Any:
    """Return what is there; None where nothing is."""
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _default(path: Sequence[str]) -> Any:
    """Return what the API server fills in where nothing is written."""
    schema = custom_resource_definition(MODEL_DEPLOYMENT)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return _at(schema, [part for name in path for part in ("properties", name)] + ["default"])


def lines(item: Mapping[str, Any], now: datetime) -> list[Text | Table]:
    """Return the explanation for reading."""
    told = explanation(item)
    decision = told["decision"]
    if not told["reason"]:
        return [
            Text(
                f"{told['namespace']}/{told['name']} has no status yet: is an operator running? "
                "`modelfleet doctor` tells"
            )
        ]
    head = (
        f"{told['namespace']}/{told['name']}: {told['reason']}, ready {told['readyReplicas']}, "
        f"desired {told['desiredReplicas']}, wanted {told['wantedReplicas']}"
    )
    parts: list[Text | Table] = [
        Text(head, style="bold"),
        Text(f"mode {told['mode']}; bounds {told['bounds']}; load {told['load']}"),
        Text(f"decided {ago(decision.get('decidedAt'), now)}"),
    ]
    if told["limitedBy"]:
        parts.append(Text(f"limited by {told['limitedBy']}: {_said(told)}"))
    if told["generation"] != told["observedGeneration"]:
        parts.append(
            Text(
                f"this is about generation {told['observedGeneration']} of the spec; {told['generation']} is not "
                "decided about yet",
                style="yellow",
            )
        )
    age = (now - moment(decision["decidedAt"])).total_seconds() if "decidedAt" in decision else 0.0
    parts += [_signals(decision, age), _steps(decision)]
    if decision.get("nextChange"):
        at = moment(decision["nextChangeAt"])
        left = (at - now).total_seconds()
        when = f"in {span(left)}" if left > 0 else "due"
        parts.append(Text(f"next: {at:%Y-%m-%d %H:%M:%SZ} ({when}): {decision['nextChange']}"))
    else:
        parts.append(Text("next: when the load, the spec or the cluster changes; no time alone does"))
    parts.append(Text(f"to unblock: {decision.get('unblock') or 'nothing stands between wanted and desired'}"))
    for each in told["conditions"]:
        style = "" if each["status"] == "True" or each["reason"] == "DesiredWithinRange" else "yellow"
        since = ago(each["lastTransitionTime"], now)
        parts.append(
            Text(
                f"{each['type']}={each['status']} {each['reason']} since {since}: {each.get('message', '')}",
                style=style,
            )
        )
    return parts


def _signals(decision: Mapping[str, Any], age: float) -> Table:
    table = Table("SIGNAL", "VALUE", "AGE", box=None, pad_edge=False)
    for signal in decision.get("signals") or ():
        value, missing = signal.get("value", ""), signal.get("missing", "")
        shown = f"{value} (missing: {missing})" if value and missing else value or f"missing: {missing}"
        sampled = signal.get("ageSeconds")
        table.add_row(signal["name"], shown, "" if sampled is None else span(sampled + age))
    return table


def _steps(decision: Mapping[str, Any]) -> Table:
    table = Table("STEP", "REPLICAS", "LIMITED-BY", "OWNER", "ARITHMETIC", box=None, pad_edge=False)
    for step in decision.get("steps") or ():
        limit = step.get("limitedBy", "")
        table.add_row(step["name"], str(step["replicas"]), limit, _said(step), step.get("detail", ""))
    return table


def _said(limited: Mapping[str, Any]) -> str:
    return str(limited.get("limitField", "")) + (f", set by {limited['setBy']}" if "setBy" in limited else "")
