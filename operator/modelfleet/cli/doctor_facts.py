"""What `modelfleet doctor` looks at: everything is read first, and judged afterwards."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import aiohttp

from modelfleet.adapters.kubernetes import Json, Kubernetes, KubernetesError, NotFound, Unavailable
from modelfleet.api.kinds import KINDS
from modelfleet.api.meta import DEPLOYMENT_LABEL, GROUP, MANAGED_BY, MANAGED_BY_LABEL, VERSION
from modelfleet.api.tenantview import VIEW_NAME
from modelfleet.shell.lease import LEASE_NAME

ACCOUNT: Final = "modelfleet"
PROMETHEUS_SECONDS: Final = 5.0
READ: Final = ("get", "list", "watch")
WATCH_ARGUMENT: Final = "--watch-namespaces="
OWN: Final = f"{MANAGED_BY_LABEL}={MANAGED_BY}"


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that the operator's account must be allowed to do: in one namespace, or everywhere."""

    verb: str
    group: str
    resource: str
    name: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        named = f" {self.name}" if self.name else ""
        return f"{self.verb} {resource}{named}" + (f" in {self.namespace}" if self.namespace else "")


def needed(operator_namespace: str, watched: Sequence[str]) -> tuple[Right, ...]:
    """Return what the chart's roles grant.

    Args:
        operator_namespace: Where the Lease is.
        watched: The chart's watchNamespaces: only there the operator writes; empty for everywhere.
    """

    def rights(verbs: Sequence[str], group: str, *resources: str, name: str = "", namespace: str = "") -> list[Right]:
        return [Right(verb, group, resource, name, namespace) for resource in resources for verb in verbs]

    made = ("create", "patch")
    found = [
        *rights(READ, GROUP, "modeldeployments", "inferenceruntimes", "acceleratorclasses", "tenants"),
        *rights(("patch",), GROUP, "acceleratorclasses/status", "tenants/status"),
        *rights(READ, "apps", "deployments"),
        *rights(READ, "", "services", "pods"),
        *rights(READ, "policy", "poddisruptionbudgets"),
        *rights(("list", "watch"), "", "resourcequotas", "nodes"),
        *rights(("list", "watch"), GROUP, "tenantviews"),
        *rights(("list", "watch"), "apps", "replicasets"),
        *rights(("list", "watch"), "autoscaling", "horizontalpodautoscalers"),
        *rights(("create",), "coordination.k8s.io", "leases", namespace=operator_namespace),
        *rights((*READ, "update"), "coordination.k8s.io", "leases", name=LEASE_NAME, namespace=operator_namespace),
    ]
    for place in watched or ("",):
        found += [
            *rights(("patch",), GROUP, "modeldeployments/status", namespace=place),
            *rights(made, "apps", "deployments", namespace=place),
            *rights(made, "", "services", namespace=place),
            *rights(made, "policy", "poddisruptionbudgets", namespace=place),
            *rights((*made, "delete"), "", "resourcequotas", name="modelfleet-gpus", namespace=place),
            *rights((*made, "delete"), GROUP, "tenantviews", name=VIEW_NAME, namespace=place),
            *rights(("patch",), "", "pods", namespace=place),
            *rights(made, "events.k8s.io", "events", namespace=place),
        ]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Unread:
    """Something that could not be read, and why: which right is missing, as the API server says."""

    why: str


Listed = tuple[Json, ...] | Unread


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was read.

    Attributes:
        here: This machine's clock when the server's was read.
        watched: Namespaces in which the operator runs ModelDeployments; empty for all.
        lacking: Rights that the operator's account lacks.
        prometheus: What is wrong with the Prometheus that was named; empty when nothing is, or none was.
        scaled_objects: KEDA's; empty where KEDA is not installed.
    """

    here: datetime
    server: datetime
    operator_namespace: str
    definitions: Listed
    operators: Listed
    watched: tuple[str, ...]
    operator_pods: Listed
    leases: Listed
    lacking: tuple[Right, ...] | Unread
    deployments: Listed
    runtimes: Listed
    classes: Listed
    tenants: Listed
    nodes: Listed
    children: Listed
    pods: Listed
    autoscalers: Listed
    scaled_objects: Listed
    quotas: Listed
    prometheus: str


async def gather(
    kubernetes: Kubernetes,
    *,
    namespace: str,
    operator_namespace: str,
    prometheus_url: str | None,
    clock: Callable[[], datetime],
) -> Facts:
    """Read everything at once; what is not allowed to be read becomes Unread.

    Args:
        kubernetes: The connection.
        namespace: Namespace to look at; empty for all.
        operator_namespace: Where the operator is.
        prometheus_url: Asked for its health from here; None asks nothing.
        clock: This machine's clock.

    Raises:
        KubernetesError: When the API server does not answer at all.
    """
    server = await kubernetes.server_time()
    here = clock()

    async def listed(path: str, selector: str = "") -> Listed:
        try:
            return tuple(
                [item async for page in kubernetes.pages(path, label_selector=selector) for item in page["items"]]
            )
        except NotFound:
            return ()
        except KubernetesError as error:
            return Unread(str(error))

    def own(plural: str) -> Awaitable[Listed]:
        return listed(f"/apis/{GROUP}/{VERSION}/{plural}")

    def within(root: str, plural: str, place: str = namespace) -> str:
        return f"{root}/namespaces/{place}/{plural}" if place else f"{root}/{plural}"

    async def leases() -> Listed:
        path = within("/apis/coordination.k8s.io/v1", f"leases/{LEASE_NAME}", operator_namespace)
        try:
            return (await kubernetes.get(path),)
        except NotFound:
            return ()
        except KubernetesError as error:
            return Unread(str(error))

    async def installed() -> tuple[Listed, tuple[str, ...], tuple[Right, ...] | Unread]:
        operators = await listed(within("/apis/apps/v1", "deployments", operator_namespace), home)
        watched = _watched(operators)
        return operators, watched, await _lacking(kubernetes, operator_namespace, watched)

    home = f"app.kubernetes.io/name={ACCOUNT}"
    reads: dict[str, Awaitable[Listed]] = {
        "definitions": _definitions(kubernetes),
        "operator_pods": listed(within("/api/v1", "pods", operator_namespace), home),
        "leases": leases(),
        "deployments": listed(within(f"/apis/{GROUP}/{VERSION}", "modeldeployments")),
        "runtimes": own("inferenceruntimes"),
        "classes": own("acceleratorclasses"),
        "tenants": own("tenants"),
        "nodes": listed("/api/v1/nodes"),
        "children": listed(within("/apis/apps/v1", "deployments"), OWN),
        "pods": listed(within("/api/v1", "pods"), DEPLOYMENT_LABEL),
        "autoscalers": listed(within("/apis/autoscaling/v2", "horizontalpodautoscalers")),
        "scaled_objects": listed(within("/apis/keda.sh/v1alpha1", "scaledobjects")),
        "quotas": listed(within("/api/v1", "resourcequotas")),
    }
    found, (operators, watched, lacking), trouble = await asyncio.gather(
        asyncio.gather(*reads.values()), installed(), _prometheus(prometheus_url)
    )
    return Facts(
        here=here,
        server=server,
        operator_namespace=operator_namespace,
        operators=operators,
        watched=watched,
        lacking=lacking,
        prometheus=trouble,
        **dict(zip(reads, found, strict=True)),
    )


async def _definitions(kubernetes: Kubernetes) -> Listed:
    """Read the CustomResourceDefinitions one by one: the cluster may have hundreds of others."""

    async def one(plural: str) -> Json | None:
        try:
            return await kubernetes.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{GROUP}")
        except NotFound:
            return None

    try:
        found = await asyncio.gather(*(one(kind.plural) for kind in KINDS))
    except KubernetesError as error:
        return Unread(str(error))
    return tuple(item for item in found if item is not None)


def _watched(operators: Listed) -> tuple[str, ...]:
    """Return the namespaces that the operator's own arguments name."""
    for item in () if isinstance(operators, Unread) else operators:
        for container in item["spec"]["template"]["spec"]["containers"]:
            for argument in container.get("args") or ():
                if argument.startswith(WATCH_ARGUMENT):
                    return tuple(argument.removeprefix(WATCH_ARGUMENT).split(","))
    return ()


async def _lacking(
    kubernetes: Kubernetes, operator_namespace: str, watched: tuple[str, ...]
) -> tuple[Right, ...] | Unread:
    """Ask the API server for each right of the operator's account."""
    user = f"system:serviceaccount:{operator_namespace}:{ACCOUNT}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{operator_namespace}", "system:authenticated"]

    async def has(right: Right) -> bool:
        resource, _, subresource = right.resource.partition("/")
        attributes = {
            "verb": right.verb,
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
            "name": right.name,
            "namespace": right.namespace,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = await kubernetes.create(path, review, field_manager="modelfleet-cli")
        return bool(answer["status"]["allowed"])

    rights = needed(operator_namespace, watched)
    try:
        answers = await asyncio.gather(*(has(right) for right in rights))
    except Unavailable:
        raise
    except KubernetesError as error:
        return Unread(str(error))
    return tuple(right for right, allowed in zip(rights, answers, strict=True) if not allowed)


async def _prometheus(url: str | None) -> str:
    if url is None:
        return ""
    query = f"{url.rstrip('/')}/api/v1/query"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROMETHEUS_SECONDS)) as session,
            session.get(query, params={"query": "vector(1)"}) as answer,
        ):
            return "" if answer.status == 200 else f"answers {answer.status} to {query}"
    except TimeoutError:
        return f"no answer in {PROMETHEUS_SECONDS:.0f} s"
    except (aiohttp.ClientError, ValueError) as error:
        return str(error)
