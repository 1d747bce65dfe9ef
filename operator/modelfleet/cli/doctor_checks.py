"""What `modelfleet doctor` concludes: facts in, findings out."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from modelfleet.adapters.kubernetes import Json
from modelfleet.api.crd import custom_resource_definition
from modelfleet.api.kinds import KINDS
from modelfleet.api.meta import DEPLOYMENT_LABEL, GROUP
from modelfleet.cli.cluster import condition, moment, span
from modelfleet.cli.doctor_facts import ACCOUNT, Facts, Listed, Unread
from modelfleet.shell.lease import LEASE_SECONDS
from modelfleet.shell.records import parse_pod

SKEW_SECONDS: Final = 5.0
"""The server tells whole seconds, and the way there and back takes some."""
UNSEEN_SECONDS: Final = 30.0
"""A changed spec that was not looked at for this long is not looked at."""
FORGOTTEN_SECONDS: Final = 86_400.0
"""A mode other than Auto without an end is asked about after this long."""
APPLY_CRDS: Final = "kubectl apply --server-side -f crds/"


class Severity(StrEnum):
    """How bad a finding is; only errors make the exit code 1."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    severity: Severity
    where: str
    what: str
    remedy: str

    def plain(self) -> Json:
        """Return it as a plain value."""
        return {
            "severity": self.severity.value,
            "where": self.where,
            "what": self.what,
            "remedy": self.remedy,
        }


def findings(facts: Facts) -> list[Finding]:
    """Return everything that is found, the worst first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    order = list(Severity)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _error(where: str, what: str, remedy: str) -> Finding:
    return Finding(Severity.ERROR, where, what, remedy)


def _warning(where: str, what: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, where, what, remedy)


def _name(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else str(metadata["name"])


def _watches(facts: Facts, item: Mapping[str, Any]) -> bool:
    return not facts.watched or item["metadata"]["namespace"] in facts.watched


def _known(listed: Listed) -> tuple[Json, ...]:
    return () if isinstance(listed, Unread) else listed


# --- what could not be looked at ------------------------------------------------------------------


def rights_of_the_user(facts: Facts) -> Iterator[Finding]:
    """Name the checks that could not be made."""
    for name in (
        "definitions",
        "operators",
        "operator_pods",
        "leases",
        "lacking",
        "deployments",
        "runtimes",
        "classes",
        "tenants",
        "nodes",
        "children",
        "pods",
        "autoscalers",
        "scaled_objects",
        "quotas",
    ):
        value = getattr(facts, name)
        if isinstance(value, Unread):
            yield Finding(
                Severity.NOTE,
                "you",
                f"not checked: {value.why}",
                "run it as somebody who may, or have it granted to you",
            )


def clocks(facts: Facts) -> Iterator[Finding]:
    """Compare this machine's clock with the API server's, and the leader's with both."""
    skew = (facts.here - facts.server).total_seconds()
    if abs(skew) > SKEW_SECONDS:
        ahead = "ahead of" if skew > 0 else "behind"
        yield _warning(
            "this machine",
            f"its clock is {abs(skew):.0f} s {ahead} the API server's; ages shown here are wrong by that",
            "synchronise the clocks (NTP)",
        )
    for lease in _known(facts.leases):
        renewed = lease["spec"].get("renewTime")
        if renewed and (lead := (moment(renewed) - facts.server).total_seconds()) > SKEW_SECONDS:
            yield _error(
                f"operator {lease['spec'].get('holderIdentity')}",
                f"its clock is {lead:.0f} s ahead of the API server's: samples of metrics look stale to it, or fresh",
                "synchronise the clock of its node (NTP)",
            )


# --- the installation -----------------------------------------------------------------------------


def definitions(facts: Facts) -> Iterator[Finding]:
    """Compare the CRDs in the cluster with those of this binary."""
    if isinstance(facts.definitions, Unread):
        return
    there = {item["spec"]["names"]["kind"]: item for item in facts.definitions}
    for kind in KINDS:
        name = f"{kind.plural}.{GROUP}"
        if kind.kind not in there:
            yield _error(f"CRD {name}", "it is not installed", APPLY_CRDS)
            continue
        ours = custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        served = {version["name"]: version for version in there[kind.kind]["spec"]["versions"]}
        theirs = served.get("v1alpha1", {}).get("schema", {}).get("openAPIV3Schema", {})
        if different := _first_difference(ours, theirs):
            yield _warning(
                f"CRD {name}",
                f"its schema is another one than this program's: {different}",
                f"{APPLY_CRDS} of the operator's version, or use the program of that version",
            )


def _first_difference(ours: Any, theirs: Any, path: str = "") -> str:
    """Return the first field, in our order, that differs; empty when none does."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            inner = path if name in {"properties", "items"} else f"{path}.{name}" if path else name
            if name not in theirs:
                return f"{inner} is not there"
            if different := _first_difference(value, theirs[name], inner):
                return different
        extra = sorted(theirs.keys() - ours.keys())
        return f"{path}.{extra[0]} is unknown here" if extra else ""
    return "" if ours == theirs else f"{path} differs"


def operator(facts: Facts) -> Iterator[Finding]:
    """See whether an operator is installed, leads, renews its Lease and looks at what is changed."""
    if isinstance(facts.leases, Unread):
        return
    pods = {pod["metadata"]["name"]: pod for pod in _known(facts.operator_pods)}
    yield from _operator_pods(facts)
    lease = next(iter(facts.leases), None)
    holder = lease["spec"].get("holderIdentity") if lease else None
    where = f"namespace {facts.operator_namespace}"
    if lease is None or not holder:
        if not pods and not _known(facts.operators):
            remedy = f"helm install modelfleet charts/modelfleet -n {facts.operator_namespace} --create-namespace"
            yield _error(where, "no operator is installed here, and none leads", f"{remedy}, or --operator-namespace")
        else:
            yield _error(
                where, "no operator leads: its Lease has no holder", "kubectl logs -l app.kubernetes.io/name=modelfleet"
            )
        return
    age = (facts.server - moment(lease["spec"]["renewTime"])).total_seconds()
    if age > 2 * LEASE_SECONDS:
        pod = pods.get(holder.rsplit("_", 1)[0])
        state = "its pod is gone" if pod is None else f"its pod is {pod.get('status', {}).get('phase', 'Unknown')}"
        yield _error(
            f"operator {holder}",
            f"the leader is stuck: it renewed its Lease {span(age)} ago (every {LEASE_SECONDS} s at least is due), "
            f"{state}, and no standby took over; nothing is scaled",
            f"kubectl -n {facts.operator_namespace} delete pod {holder.rsplit('_', 1)[0]}; "
            "two replicas of the operator take over by themselves",
        )
        return
    unseen = [
        item
        for item in _known(facts.deployments)
        if _watches(facts, item) and _unseen_seconds(item, facts.server) > UNSEEN_SECONDS
    ]
    if unseen:
        yield _error(
            f"operator {holder}",
            f"it renews its Lease, but {len(unseen)} changed ModelDeployments wait for it, {_name(unseen[0])} first",
            f"kubectl -n {facts.operator_namespace} logs {holder.rsplit('_', 1)[0]}, then delete that pod",
        )


def _operator_pods(facts: Facts) -> Iterator[Finding]:
    for pod in _known(facts.operator_pods):
        status = pod.get("status", {})
        for container in status.get("containerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting")
            if waiting:
                yield _error(
                    f"pod {_name(pod)}",
                    f"the operator does not run: {waiting.get('reason')}: {waiting.get('message', '')}".rstrip(": "),
                    f"kubectl -n {pod['metadata']['namespace']} describe pod {pod['metadata']['name']}",
                )


def _unseen_seconds(item: Mapping[str, Any], now: datetime) -> float:
    """Return for how long the spec's last change was not looked at; 0 when it was."""
    metadata = item["metadata"]
    if (item.get("status") or {}).get("observedGeneration", 0) >= metadata.get("generation", 0):
        return 0.0
    changes = [
        moment(entry["time"])
        for entry in metadata.get("managedFields") or ()
        if "f:spec" in (entry.get("fieldsV1") or {}) and entry.get("time")
    ]
    return (now - max([*changes, moment(metadata["creationTimestamp"])])).total_seconds()


def rights_of_the_operator(facts: Facts) -> Iterator[Finding]:
    """Name each right that the operator's account lacks."""
    if isinstance(facts.lacking, Unread) or not facts.lacking:
        return
    account = f"system:serviceaccount:{facts.operator_namespace}:{ACCOUNT}"
    yield _error(
        "RBAC",
        f"{account} may not {', '.join(map(str, facts.lacking))}",
        "put the rules of ClusterRole and Role modelfleet back: helm upgrade, or charts/modelfleet/templates/rbac.yaml",
    )


def prometheus(facts: Facts) -> Iterator[Finding]:
    """Say what is wrong with the Prometheus that was named."""
    if facts.prometheus:
        yield _error(
            "Prometheus",
            f"it cannot be asked from here: {facts.prometheus}",
            "correct --prometheus-url, or its network",
        )


# --- nodes and classes ----------------------------------------------------------------------------


def classes(facts: Facts) -> Iterator[Finding]:
    """Compare each class with the labels and resources of the nodes."""
    if isinstance(facts.nodes, Unread):
        return
    used = {item["spec"]["accelerator"] for item in _known(facts.deployments)}
    for item in _known(facts.classes):
        spec = item["spec"]
        # Nodes of a class that nobody uses may be for an autoscaler of nodes to bring, or for another day.
        severity = Severity.ERROR if _name(item) in used else Severity.NOTE
        wanted, resource = spec["nodeSelector"], spec["resourceName"]
        matching = [node for node in facts.nodes if wanted.items() <= (node["metadata"].get("labels") or {}).items()]
        where = f"AcceleratorClass {_name(item)}"
        if not matching:
            yield Finding(severity, where, f"no node has {_labels(wanted)}", _nearest(wanted, resource, facts.nodes))
        elif not any(_amount(node, resource) for node in matching):
            what = f"none of its {len(matching)} nodes has {resource} to give, {_name(matching[0])} among them"
            remedy = "see that the device plugin runs there, or correct spec.resourceName"
            yield Finding(severity, where, what, remedy)
        elif not any(_usable(node) for node in matching):
            what = f"all of its {len(matching)} nodes are cordoned or not ready"
            yield Finding(severity, where, what, "kubectl get nodes; kubectl uncordon NODE")


def _labels(selector: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(selector.items()))


def _nearest(wanted: Mapping[str, str], resource: str, nodes: tuple[Json, ...]) -> str:
    """Name what the nodes that have the resource are labelled instead."""
    carriers = [node for node in nodes if _amount(node, resource)]
    if not carriers:
        return f"no node has {resource} at all: add GPU nodes, or see that the device plugin runs"
    told = []
    for label, value in sorted(wanted.items()):
        values = Counter((node["metadata"].get("labels") or {}).get(label) for node in carriers)
        if value in values:
            continue
        named = [f"{label}={each} ({number} nodes)" for each, number in values.most_common(3) if each is not None]
        told.append(", ".join(named) or f"no node with {resource} has a label {label}")
    there = "; ".join(told) or "each label is there, but no node has them all"
    return f"correct spec.nodeSelector, or label the nodes; those with {resource} have: {there}"


def _amount(node: Mapping[str, Any], resource: str) -> int:
    amount = str((node.get("status", {}).get("allocatable") or {}).get(resource, "0"))
    return int(amount) if amount.isdigit() else 0


def _usable(node: Mapping[str, Any]) -> bool:
    return not node.get("spec", {}).get("unschedulable") and condition(node, "Ready").get("status") == "True"


# --- deployments ----------------------------------------------------------------------------------


def deployments(facts: Facts) -> Iterator[Finding]:
    """Repeat what the operator says is wrong with a deployment."""
    for item in _known(facts.deployments):
        where = f"ModelDeployment {_name(item)}"
        stalled, ready = condition(item, "Stalled"), condition(item, "Ready")
        if not _watches(facts, item):
            yield _error(
                where,
                f"nobody runs it: the operator is installed for the namespaces {', '.join(facts.watched)} only",
                "add its namespace to the chart's watchNamespaces, or create it in one of those",
            )
        elif stalled.get("status") == "True":
            yield _error(where, f"{stalled['reason']}: {stalled.get('message', '')}", "as the message says")
        elif ready.get("status") == "False" and ready.get("reason") in {"Unschedulable", "ApplyFailed"}:
            yield _error(
                where,
                f"{ready['reason']}: {ready.get('message', '')}",
                "free or add GPUs, or see the finding about its class",
            )
        elif not item.get("status"):
            age = (facts.server - moment(item["metadata"]["creationTimestamp"])).total_seconds()
            if age > UNSEEN_SECONDS:
                yield _error(where, f"nobody looked at it for {span(age)}", "see the findings about the operator")


def metrics(facts: Facts) -> Iterator[Finding]:
    """Name the runtimes whose engines give no fresh metrics, with one deployment's own words."""
    blind: dict[str, list[Json]] = {}
    for item in _known(facts.deployments):
        if condition(item, "MetricsFresh").get("status") == "False":
            blind.setdefault(item["spec"]["runtime"], []).append(item)
    for runtime, items in sorted(blind.items()):
        first = condition(items[0], "MetricsFresh")
        since = span((facts.server - moment(first["lastTransitionTime"])).total_seconds())
        yield _error(
            f"InferenceRuntime {runtime}",
            f"{len(items)} deployments have no fresh metrics, and none of their replicas is removed; "
            f"{_name(items[0])} since {since}: {first.get('message', '')}",
            "see that the engine serves its metrics port and path, that a NetworkPolicy lets the operator in, and that "
            "the Prometheus of the operator's --prometheus-url answers",
        )


def modes(facts: Facts) -> Iterator[Finding]:
    """Name what is not scaled on purpose: an open end that is a day old was perhaps forgotten."""
    for item in _known(facts.deployments):
        mode = (item.get("status") or {}).get("mode", "")
        if not mode or mode.startswith("Auto"):
            continue
        since = condition(item, "Scaling").get("lastTransitionTime") or item["metadata"]["creationTimestamp"]
        age = (facts.server - moment(since)).total_seconds()
        endless = "modeUntil" not in item["spec"]["scaling"]
        metadata = item["metadata"]
        yield Finding(
            Severity.WARNING if endless and age > FORGOTTEN_SECONDS else Severity.NOTE,
            f"ModelDeployment {_name(item)}",
            f"mode {mode} since {span(age)}" + (", without an end" if endless else ""),
            f"kubectl modelfleet resume {metadata['name']} -n {metadata['namespace']}",
        )


def autoscalers(facts: Facts) -> Iterator[Finding]:
    """Name autoscalers that scale the same replicas."""
    children = {_name(item) for item in _known(facts.children)}
    ours = {_name(item) for item in _known(facts.deployments)}
    for kind, default, listed in (
        ("HorizontalPodAutoscaler", "", facts.autoscalers),
        ("ScaledObject", "Deployment", facts.scaled_objects),
    ):
        for item in _known(listed):
            target = item["spec"]["scaleTargetRef"]
            key = f"{item['metadata']['namespace']}/{target['name']}"
            aims = target.get("kind", default)
            if (aims == "Deployment" and key in children) or (aims == "ModelDeployment" and key in ours):
                yield _error(
                    f"{kind} {_name(item)}",
                    f"it scales {aims} {key}, whose replicas are Modelfleet's; Modelfleet leaves them alone meanwhile"
                    + ("" if aims == "Deployment" else ", and what it writes to minReplicas has no effect"),
                    f"kubectl delete {kind.lower()} -n {item['metadata']['namespace']} {item['metadata']['name']}",
                )


def pods_refused(facts: Facts) -> Iterator[Finding]:
    """Name what the API server refuses to create, and the ResourceQuotas that leave no GPU."""
    for item in _known(facts.children):
        failure = condition(item, "ReplicaFailure")
        if failure.get("status") == "True":
            yield _error(
                f"Deployment {_name(item)}",
                f"the API server refuses its pods: {failure.get('message', '')}",
                "raise that ResourceQuota, free what it counts, or lower maxReplicas",
            )
    busy = {item["metadata"]["namespace"] for item in _known(facts.deployments)}
    resources = {item["spec"]["resourceName"] for item in _known(facts.classes)}
    for quota in _known(facts.quotas):
        if quota["metadata"]["namespace"] not in busy or quota["metadata"]["name"] == "modelfleet-gpus":
            continue
        hard, used = ((quota.get("status") or {}).get(part) or {} for part in ("hard", "used"))
        for name in sorted(resources):
            limit = hard.get(f"requests.{name}")
            if limit is not None and str(limit).isdigit() and int(used.get(f"requests.{name}", 0)) >= int(limit):
                yield _warning(
                    f"ResourceQuota {_name(quota)}",
                    f"all {limit} of its {name} are used: the next replica is refused",
                    "raise it, or lower maxReplicas; a Tenant is what limits GPUs without refusing pods",
                )


def pods(facts: Facts) -> Iterator[Finding]:
    """Name why pods do not start, once a deployment and cause."""
    said = set()
    for item in _known(facts.pods):
        record = parse_pod(item)
        if record is None or record.terminating or not record.trouble:
            continue
        cause = record.trouble.split(":", 1)[0]
        owner = (item["metadata"].get("labels") or {}).get(DEPLOYMENT_LABEL, "")
        if (record.key.namespace, owner, cause) in said:
            continue
        said.add((record.key.namespace, owner, cause))
        image = next((each.get("image") for each in item["spec"]["containers"]), "")
        remedy = (
            f"correct the image of the InferenceRuntime ({image}), or its pull secret"
            if "Image" in cause
            else f"kubectl -n {record.key.namespace} describe pod {record.key.name}, and kubectl logs of it"
        )
        yield _error(f"pod {record.key}", record.trouble, remedy)


CHECKS: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    definitions,
    operator,
    rights_of_the_operator,
    prometheus,
    classes,
    deployments,
    pods,
    pods_refused,
    autoscalers,
    metrics,
    modes,
    clocks,
    rights_of_the_user,
)
"""In the order in which they are told: what explains the others comes first."""
