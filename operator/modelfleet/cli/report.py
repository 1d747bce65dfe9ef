"""`modelfleet report`: a support bundle, without secrets."""

import asyncio
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml

from modelfleet.adapters.kubernetes import Json, KubernetesError
from modelfleet.cli.cluster import (
    OPERATOR_NAMESPACE,
    AnyNamespace,
    Cluster,
    Context,
    Kubeconfig,
    OperatorNamespace,
    clock,
    in_cluster,
    refuse,
)
from modelfleet.cli.doctor_checks import findings
from modelfleet.cli.doctor_facts import Facts, Unread, gather

LOG_LINES: Final = 2_000
HIDDEN: Final = "(left out)"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_CREDENTIALS_IN_URL: Final = re.compile(r"(?<=://)[^/@\s\"']+(?=@)")
_SECRET_NAME: Final = r"[\w.-]*(?:token|passwo?r?d|secret|api[-_]?key|credential|authorization)[\w.-]*"  # noqa: S105 - names of secrets, none itself
_SECRET_VALUE: Final = re.compile(rf"(?i)({_SECRET_NAME}[\"']?\s*[=:]\s*(?:bearer\s+)?[\"']?)[^\s\"',}}]+")
_SECRET_FLAG: Final = re.compile(rf"(?i)^--?{_SECRET_NAME}$")
_BEARER: Final = re.compile(r"(?i)(bearer\s+)[\w.~+/=-]+")


def report(
    path: Annotated[
        Path | None,
        typer.Argument(help="Of the file to write; modelfleet-report-TIME.zip when absent.", metavar="FILE"),
    ] = None,
    namespace: AnyNamespace = None,
    operator_namespace: OperatorNamespace = OPERATOR_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Write a support bundle: objects, events, the operator's log and doctor's findings. No Secret is read."""
    now = clock()
    target = path or Path(f"modelfleet-report-{now:%Y%m%d-%H%M%S}.zip")
    if target.exists():
        refuse(f"FILE: {target} exists; name another one")

    async def read(cluster: Cluster) -> dict[str, str]:
        facts = await gather(
            cluster.kubernetes,
            namespace=namespace or "",
            operator_namespace=operator_namespace,
            prometheus_url=None,
            clock=clock,
        )
        logs, events = await asyncio.gather(_logs(cluster, facts), _events(cluster, namespace))
        return {**bundle(facts), **logs, "events.yaml": events}

    files = in_cluster(read, kubeconfig=kubeconfig, context=context, namespace=namespace)
    try:
        with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    except OSError as error:
        refuse(f"FILE: {target} cannot be written: {error}")
    typer.echo(
        f"{target}: {len(files)} files, without Secrets and values of environment variables; read it before you send it"
    )


def bundle(facts: Facts) -> dict[str, str]:
    """Return the text of each file, by name."""
    files = {"findings.json": json.dumps([finding.plain() for finding in findings(facts)], indent=2)}
    for name in (
        "deployments",
        "runtimes",
        "classes",
        "tenants",
        "children",
        "pods",
        "operators",
        "operator_pods",
        "leases",
        "autoscalers",
        "scaled_objects",
        "quotas",
    ):
        files[f"{name.replace('_', '-')}.yaml"] = _yaml(getattr(facts, name))
    nodes = facts.nodes
    files["nodes.yaml"] = _yaml(nodes if isinstance(nodes, Unread) else tuple(_node(node) for node in nodes))
    files["clocks.json"] = json.dumps({"here": facts.here.isoformat(), "server": facts.server.isoformat()})
    return files


def _yaml(listed: tuple[Json, ...] | Unread) -> str:
    if isinstance(listed, Unread):
        return f"# not read: {listed.why}\n"
    return yaml.safe_dump_all([clean(item) for item in listed], sort_keys=False, allow_unicode=True)


def _node(node: Mapping[str, Any]) -> Json:
    """Return what decides about placement: no addresses, no images."""
    status = node.get("status", {})
    return {
        "metadata": {"name": node["metadata"]["name"], "labels": node["metadata"].get("labels", {})},
        "spec": {name: node["spec"][name] for name in ("taints", "unschedulable") if name in node.get("spec", {})},
        "status": {name: status[name] for name in ("allocatable", "conditions") if name in status},
    }


def clean(value: Any) -> Any:
    """Return a value without what may be secret: values of environment variables, of flags and words named so."""
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name not in {LAST_APPLIED, "managedFields"}}
        return {name: _without_values(each) if name == "env" else clean(each) for name, each in kept.items()}
    if isinstance(value, list | tuple):
        flags = [False, *(isinstance(each, str) and bool(_SECRET_FLAG.match(each)) for each in value)]
        return [HIDDEN if flag else clean(each) for flag, each in zip(flags, value, strict=False)]
    return scrub(value) if isinstance(value, str) else value


def _without_values(variables: Any) -> Any:
    if not isinstance(variables, list):
        return clean(variables)
    return [{name: HIDDEN if name == "value" else each for name, each in variable.items()} for variable in variables]


def scrub(text: str) -> str:
    """Return a text without credentials in URLs, bearer tokens and what follows a word like password."""
    text = _CREDENTIALS_IN_URL.sub(HIDDEN, text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _SECRET_VALUE.sub(rf"\1{HIDDEN}", text)


async def _logs(cluster: Cluster, facts: Facts) -> dict[str, str]:
    pods = () if isinstance(facts.operator_pods, Unread) else facts.operator_pods

    async def log(pod: Json) -> str:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        try:
            return scrub(await cluster.kubernetes.text(path, {"tailLines": str(LOG_LINES)}))
        except KubernetesError as error:
            return f"not read: {error}\n"

    texts = await asyncio.gather(*(log(pod) for pod in pods))
    return {f"logs/{pod['metadata']['name']}.log": text for pod, text in zip(pods, texts, strict=True)}


async def _events(cluster: Cluster, namespace: str | None) -> str:
    path = "/apis/events.k8s.io/v1/" + (f"namespaces/{namespace}/events" if namespace else "events")
    try:
        items = [item async for page in cluster.kubernetes.pages(path) for item in page["items"]]
    except KubernetesError as error:
        return f"# not read: {error}\n"
    about = {"ModelDeployment", "Tenant", "Deployment", "ReplicaSet", "Pod", "ResourceQuota", "Lease"}
    return _yaml(tuple(item for item in items if (item.get("regarding") or {}).get("kind") in about))
