"""The cluster as last heard of: tables of slim records, fed by watches.

Every change of something that children are rendered from marks its ModelDeployment dirty, so that a
steady fleet costs nothing to keep provisioned.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import structlog

from modelfleet.api.acceleratorclass import AcceleratorClassSpec, readable_resource
from modelfleet.api.inferenceruntime import InferenceRuntimeSpec
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec
from modelfleet.api.tenant import TenantSpec
from modelfleet.decide.snapshot import Fault, Node
from modelfleet.shell.records import (
    AutoscalerRecord,
    ChildRecord,
    DeploymentRecord,
    Json,
    NodeRecord,
    PodRecord,
    QuotaRecord,
    TenantRecord,
    ViewRecord,
    controller_of,
    parse_autoscaler,
    parse_child,
    parse_deployment,
    parse_node,
    parse_pod,
    parse_quota,
    parse_spec,
    parse_tenant,
    parse_view,
)

log = structlog.get_logger()


class Versioned(Protocol):
    """A record that knows how new it is."""

    @property
    def version(self) -> int:
        """Resource version, ordered."""


Record = TypeVar("Record", bound=Versioned)
Changed = Callable[[Record | None, Record | None], None]


class Table(Generic[Record]):
    """The records of one kind by UID, with a callback for each change.

    What a write returned and what a watch brings later meet here; the newer version wins.
    """

    def __init__(self, parse: Callable[[Json], Record | None], changed: "Changed[Record]") -> None:
        """Prepare an empty table; `parse` returns None for objects that are not worth a record."""
        self._parse = parse
        self._changed = changed
        self.rows: dict[str, Record] = {}

    def replace(self, objects: Iterable[Json]) -> None:
        """Take the complete list; what is not in it is gone."""
        alive = set()
        for item in objects:
            alive.add(item["metadata"]["uid"])
            self.upsert(item)
        for uid in self.rows.keys() - alive:
            self._changed(self.rows.pop(uid), None)

    def upsert(self, item: Json) -> None:
        """Take an object that is new or changed."""
        uid = item["metadata"]["uid"]
        before = self.rows.get(uid)
        try:
            after = self._parse(item)
        except Exception:
            # An object that nobody foresaw must not end the watch of all others.
            log.exception("an object cannot be read; it is ignored", uid=uid, name=item["metadata"].get("name"))
            return
        if after is None:
            self.remove(item)
            return
        if before is not None and after.version < before.version:
            return
        self.rows[uid] = after
        self._changed(before, after)

    def remove(self, item: Json) -> None:
        """Forget an object."""
        before = self.rows.pop(item["metadata"]["uid"], None)
        if before is not None:
            self._changed(before, None)


class Mirror:
    """Everything the operator knows about the cluster."""

    def __init__(self, watched: Iterable[str] = ()) -> None:
        """Start empty; nothing may be decided before every watch has listed once.

        Args:
            watched: The namespaces that are the operator's to act in; all when none is named. Elsewhere pods hold
                GPUs, ModelDeployments are not seen, and no Tenant has a claim.
        """
        self._watched = frozenset(watched)
        self.deployments: dict[Key, DeploymentRecord] = {}
        self.runtimes: dict[str, InferenceRuntimeSpec | Fault] = {}
        self.accelerators: dict[str, AcceleratorClassSpec | Fault] = {}
        self.accelerator_objects: dict[str, Json] = {}
        self.tenants: dict[str, TenantRecord] = {}
        self.quotas: dict[str, QuotaRecord] = {}
        """The operator's ResourceQuotas by namespace."""
        self.views: dict[str, ViewRecord] = {}
        """The operator's TenantViews by namespace."""
        self.children: dict[tuple[str, Key], ChildRecord] = {}
        self.pods_of: defaultdict[Key, dict[str, PodRecord]] = defaultdict(dict)
        self.dirty: set[Key] = set()
        self.news = asyncio.Event()
        """Set when the fleet loop should not wait for its next tick."""
        self.requested: Counter[tuple[str, str]] = Counter()
        """What pods that are not finished request, on a node or not, by namespace and resource."""
        self._used: Counter[tuple[str, str]] = Counter()
        self._draining: Counter[tuple[str, str]] = Counter()
        self._held: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self._deployment_of_replica_set: dict[str, str] = {}
        self._scalers: dict[tuple[str, str, str], str] = {}

        self.pods: Table[PodRecord] = Table(parse_pod, self._pod_changed)
        self.nodes: Table[NodeRecord] = Table(parse_node, _ignore)
        self.autoscalers: Table[AutoscalerRecord] = Table(parse_autoscaler, self._autoscaler_changed)
        self.replica_sets = ReplicaSets(self._deployment_of_replica_set)
        self.deployment_children = self._child_table("Deployment")
        self.services = self._child_table("Service")
        self.budgets = self._child_table("PodDisruptionBudget")
        self.quota_table: Table[QuotaRecord] = Table(parse_quota, self._quota_changed)
        self.view_table: Table[ViewRecord] = Table(parse_view, self._view_changed)

    # --- the operator's kinds, fed by kopf ------------------------------------------------------

    def model_deployment(self, event_type: str | None, item: Json) -> None:
        """Take an event of a ModelDeployment; None is an object of the first list."""
        record = parse_deployment(item)
        if not self._watches(record.key.namespace):
            return
        if event_type == "DELETED":
            self.deployments.pop(record.key, None)
            self.dirty.discard(record.key)
            return
        before = self.deployments.get(record.key)
        if before is not None and before.uid == record.uid and record.version < before.version:
            return
        self.deployments[record.key] = record
        if before is None or (before.uid, before.generation) != (record.uid, record.generation):
            self._touch(record.key)

    def forget_deployments_except(self, alive: set[str]) -> None:
        """Forget every ModelDeployment whose UID is not in a complete list."""
        for key in [key for key, record in self.deployments.items() if record.uid not in alive]:
            del self.deployments[key]
            self.dirty.discard(key)

    def inference_runtime(self, event_type: str | None, item: Json) -> None:
        """Take an event of an InferenceRuntime."""
        name = item["metadata"]["name"]
        if event_type == "DELETED":
            self.runtimes.pop(name, None)
        else:
            self.runtimes[name] = parse_spec(item, InferenceRuntimeSpec)
        self._touch_users(lambda spec: spec.runtime == name)

    def accelerator_class(self, event_type: str | None, item: Json) -> None:
        """Take an event of an AcceleratorClass."""
        name = item["metadata"]["name"]
        before = self.accelerators.get(name)
        if event_type == "DELETED":
            self.accelerators.pop(name, None)
            self.accelerator_objects.pop(name, None)
        else:
            self.accelerators[name] = parse_spec(item, AcceleratorClassSpec)
            self.accelerator_objects[name] = {
                "generation": item["metadata"].get("generation", 0),
                "status": item.get("status") or {},
                "resourceName": (item.get("spec") or {}).get("resourceName"),
            }
        if before != self.accelerators.get(name):
            self._touch_users(lambda spec: spec.accelerator == name)

    def tenant(self, event_type: str | None, item: Json) -> None:
        """Take an event of a Tenant."""
        record = self._narrowed(parse_tenant(item))
        before = self.tenants.get(record.name)
        if event_type == "DELETED":
            self.tenants.pop(record.name, None)
        elif before is not None and before.uid == record.uid and record.version < before.version:
            return
        else:
            self.tenants[record.name] = record
            if isinstance(record.spec, Fault) and (before is None or before.generation != record.generation):
                log.error(
                    "a Tenant cannot be read; its fence stays as it is", tenant=record.name, error=record.spec.message
                )
        if event_type == "DELETED" or before is None or before.spec != record.spec:
            self.news.set()

    def forget_tenants_except(self, alive: set[str]) -> None:
        """Forget every Tenant whose UID is not in a complete list."""
        for name in [name for name, record in self.tenants.items() if record.uid not in alive]:
            del self.tenants[name]

    # --- what a tick reads ----------------------------------------------------------------------

    def classes(self) -> dict[str, AcceleratorClassSpec]:
        """Return the AcceleratorClasses that can be read, by name."""
        return {name: spec for name, spec in self.accelerators.items() if isinstance(spec, AcceleratorClassSpec)}

    def resource_names(self) -> dict[str, str]:
        """Return the resource of every AcceleratorClass, of those too that cannot be read: their fence stays.

        But for names that no pod can ask for: no quota may have one, and the fences of all others would stand still.
        """
        found = {}
        for name, spec in self.accelerators.items():
            if isinstance(spec, AcceleratorClassSpec):
                found[name] = spec.resource_name
            elif (resource := readable_resource(self.accelerator_objects[name]["resourceName"])) is not None:
                found[name] = resource
        return found

    def own_pods(self, key: Key) -> Iterator[PodRecord]:
        """Yield the pods that the deployment's own Deployment controls, whatever labels others carry."""
        child = self.children.get(("Deployment", key))
        if child is None:
            return
        for pod in self.pods_of.get(key, {}).values():
            if self._deployment_of_replica_set.get(pod.replica_set_uid) == child.uid:
                yield pod

    def nodes_of(self, accelerator: AcceleratorClassSpec) -> tuple[Node, ...]:
        """Return the usable nodes of a class with their free GPUs, by name."""
        found = []
        for node in self._nodes_with(accelerator):
            total = dict(node.allocatable).get(accelerator.resource_name, 0)
            if not node.usable or not total:
                continue
            used = self._used[node.name, accelerator.resource_name]
            draining = self._draining[node.name, accelerator.resource_name]
            found.append(Node(node.name, max(0, total - used), total, draining))
        return tuple(sorted(found, key=lambda node: node.name))

    def node_names_of(self, accelerator: AcceleratorClassSpec) -> frozenset[str]:
        """Return the nodes that have the labels of a class, usable or not."""
        return frozenset(node.name for node in self._nodes_with(accelerator))

    def held_by(self, namespaces: Iterable[str], resource: str, nodes: frozenset[str]) -> int:
        """Return how much of a resource all pods of some namespaces hold on some nodes."""
        return sum(
            count
            for namespace in namespaces
            for (node, name), count in self._held.get(namespace, {}).items()
            if name == resource and node in nodes
        )

    def _nodes_with(self, accelerator: AcceleratorClassSpec) -> Iterator[NodeRecord]:
        wanted = accelerator.node_selector.items()
        return (node for node in self.nodes.rows.values() if wanted <= node.labels.items())

    def foreign_autoscaler(self, key: Key) -> str:
        """Return the autoscaler that scales the same replicas, by either handle; empty when none does."""
        for kind in ("Deployment", "ModelDeployment"):
            name = self._scalers.get((key.namespace, kind, key.name))
            if name:
                return f"HorizontalPodAutoscaler {key.namespace}/{name}"
        return ""

    # --- changes --------------------------------------------------------------------------------

    def _watches(self, namespace: str) -> bool:
        return not self._watched or namespace in self._watched

    def _narrowed(self, record: TenantRecord) -> TenantRecord:
        if not self._watched or not isinstance(record.spec, TenantSpec):
            return record
        namespaces = tuple(filter(self._watches, record.spec.namespaces))
        return replace(record, spec=record.spec.model_copy(update={"namespaces": namespaces}))

    def _touch(self, key: Key) -> None:
        self.dirty.add(key)
        self.news.set()

    def _touch_users(self, uses: Callable[[ModelDeploymentSpec], bool]) -> None:
        for record in self.deployments.values():
            if isinstance(record.spec, ModelDeploymentSpec) and uses(record.spec):
                self._touch(record.key)

    def _child_table(self, kind: str) -> Table[ChildRecord]:
        return Table(lambda item: parse_child(item, kind), self._child_changed)

    def _child_changed(self, before: ChildRecord | None, after: ChildRecord | None) -> None:
        if after is not None:
            self.children[after.kind, after.key] = after
        elif before is not None and self.children.get((before.kind, before.key)) is before:
            del self.children[before.kind, before.key]
        key = (after or before).key  # type: ignore[union-attr]
        if key in self.deployments:
            self.dirty.add(key)
            if after is None or after.scaled_by_other:
                self.news.set()

    def _pod_changed(self, before: PodRecord | None, after: PodRecord | None) -> None:
        for record, sign in ((before, -1), (after, 1)):
            if record is None:
                continue
            for resource, count in record.resources:
                self.requested[record.key.namespace, resource] += sign * count
                if record.node:
                    self._used[record.node, resource] += sign * count
                    self._held[record.key.namespace][record.node, resource] += sign * count
                    self._draining[record.node, resource] += sign * count * record.terminating
        if before is not None and before.deployment:
            self.pods_of[Key(before.key.namespace, before.deployment)].pop(before.uid, None)
        if after is not None and after.deployment:
            self.pods_of[Key(after.key.namespace, after.deployment)][after.uid] = after
        elif before is not None and not self.pods_of[Key(before.key.namespace, before.deployment)]:
            del self.pods_of[Key(before.key.namespace, before.deployment)]

    def _quota_changed(self, before: QuotaRecord | None, after: QuotaRecord | None) -> None:
        if after is not None and self._watches(after.key.namespace):
            self.quotas[after.key.namespace] = after
        elif before is not None and self.quotas.get(before.key.namespace) is before:
            del self.quotas[before.key.namespace]

    def _view_changed(self, before: ViewRecord | None, after: ViewRecord | None) -> None:
        if after is not None and self._watches(after.key.namespace):
            self.views[after.key.namespace] = after
        elif before is not None and self.views.get(before.key.namespace) is before:
            del self.views[before.key.namespace]

    def _autoscaler_changed(self, before: AutoscalerRecord | None, after: AutoscalerRecord | None) -> None:
        if before is not None:
            self._scalers.pop((before.key.namespace, before.target_kind, before.target_name), None)
        if after is not None:
            self._scalers[after.key.namespace, after.target_kind, after.target_name] = after.key.name


class ReplicaSets:
    """Which Deployment a ReplicaSet belongs to, by UIDs; pods name only their ReplicaSet."""

    def __init__(self, owners: dict[str, str]) -> None:
        """Fill the given dictionary of ReplicaSet UID to Deployment UID."""
        self._owners = owners

    def replace(self, objects: Iterable[Json]) -> None:
        """Take the complete list."""
        self._owners.clear()
        for item in objects:
            self.upsert(item)

    def upsert(self, item: Json) -> None:
        """Take a new or changed ReplicaSet."""
        self._owners[item["metadata"]["uid"]] = controller_of(item["metadata"])

    def remove(self, item: Json) -> None:
        """Forget a ReplicaSet."""
        self._owners.pop(item["metadata"]["uid"], None)


def _ignore(before: NodeRecord | None, after: NodeRecord | None) -> None:
    """Nodes are read at every tick; a change needs no other reaction."""
