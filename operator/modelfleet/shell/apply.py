"""Writes: children are applied server-side, replicas by one patch of their own.

Every write goes through here, asks leadership first, and returns an outcome as a value: one object's
failed write never stops another's.
"""

from dataclasses import dataclass
from enum import Enum
from time import time

import structlog

from modelfleet.adapters.kubernetes import (
    Conflict,
    Json,
    Kubernetes,
    KubernetesError,
    NotFound,
    Refused,
    resource_path,
)
from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.api.conditions import Reason
from modelfleet.api.inferenceruntime import InferenceRuntimeSpec
from modelfleet.api.meta import DELETION_COST_ANNOTATION, FIELD_MANAGER, SCALE_FIELD_MANAGER, Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec
from modelfleet.decide.plan import Scale
from modelfleet.decide.snapshot import Fault
from modelfleet.render.children import applied_hash, children, replicas_patch
from modelfleet.render.drift import holds
from modelfleet.render.rollout import may_surge
from modelfleet.shell.lease import Leadership
from modelfleet.shell.mirror import Mirror, Table
from modelfleet.shell.records import ChildRecord, DeploymentRecord, controller_of

REPAIR_FIELD_MANAGER = f"{FIELD_MANAGER}-repair"
VICTIM_COST = "-1000"
"""pod-deletion-cost of the pods that should go first; pods without one cost 0."""
DISOWN_ATTEMPTS = 5

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What became of a deployment's children.

    Attributes:
        fault: Why they could not be applied as they should.
        repaired: Kinds that somebody else had changed or deleted and that were put right.
        retry: Whether to try again soon.
    """

    fault: Fault | None = None
    repaired: tuple[str, ...] = ()
    retry: bool = False


class ScaleOutcome(Enum):
    """What became of a scale."""

    WRITTEN = "written"
    OBSOLETE = "obsolete"
    FAILED = "failed"


class Writer:
    """Performs plans."""

    def __init__(self, kubernetes: Kubernetes, mirror: Mirror, leadership: Leadership) -> None:
        """Prepare."""
        self._kubernetes = kubernetes
        self._mirror = mirror
        self._leadership = leadership
        self._tables: dict[str, Table[ChildRecord]] = {
            "Deployment": mirror.deployment_children,
            "Service": mirror.services,
            "PodDisruptionBudget": mirror.budgets,
        }
        self._applied: set[tuple[str, str]] = set()
        self._drained_at: dict[Key, float] = {}

    async def scale(self, scale: Scale) -> ScaleOutcome:
        """Mark the pods that should go, then ask for the count with one patch."""
        try:
            for name in scale.victims:
                await self._mark(scale.key, name)
            await self._write_replicas(scale.key, scale.child_uid, scale.replicas)
        except (Conflict, NotFound):
            return ScaleOutcome.OBSOLETE  # the Deployment is another one by now; the next tick sees it
        except KubernetesError as error:
            log.warning("scale not written; retrying", deployment=str(scale.key), error=str(error))
            return ScaleOutcome.FAILED
        return ScaleOutcome.WRITTEN

    async def provision(self, record: DeploymentRecord, *, desired: int) -> Provisioned:
        """Apply what is missing, outdated or edited of a deployment's children."""
        spec = record.spec
        if not isinstance(spec, ModelDeploymentSpec):
            return Provisioned()
        runtime = self._mirror.runtimes.get(spec.runtime)
        accelerator = self._mirror.accelerators.get(spec.accelerator)
        if not isinstance(runtime, InferenceRuntimeSpec) or not isinstance(accelerator, AcceleratorClassSpec):
            return Provisioned()
        repaired: list[str] = []
        try:
            for manifest, before in self._rendered(record, spec, runtime, accelerator):
                if await self._apply_one(record, manifest, before, desired):
                    repaired.append(manifest["kind"])
        except _NameTaken as taken:
            return Provisioned(fault=taken.fault)
        except Refused as error:
            return Provisioned(
                fault=Fault(Reason.APPLY_FAILED, f"the API server refused a child object: {str(error)[:600]}"),
                repaired=tuple(repaired),
            )
        except KubernetesError as error:
            log.warning("children not applied; retrying", deployment=str(record.key), error=str(error))
            return Provisioned(repaired=tuple(repaired), retry=True)
        return Provisioned(repaired=tuple(repaired))

    def _rendered(
        self,
        record: DeploymentRecord,
        spec: ModelDeploymentSpec,
        runtime: InferenceRuntimeSpec,
        accelerator: AcceleratorClassSpec,
    ) -> tuple[tuple[Json, Json], ...]:
        """Render every child, and beside it with the roll-out strategy that it has now."""
        key = record.key
        live = self._mirror.children.get(("Deployment", key))
        as_it_is = children(key, record.uid, spec, runtime, accelerator, surge=live is None or live.surges)
        nodes = self._mirror.nodes_of(accelerator)
        surge = may_surge(
            surges_now=None if live is None else live.surges,
            template_changes=live is not None and applied_hash(as_it_is[0]) != live.applied_hash,
            rolling_out=live is not None and live.rolling_out,
            waits_seconds=self._waits_seconds(key, frozenset(node.name for node in nodes)),
            gpus=spec.gpus_per_replica,
            pods_refused=live is not None and live.pods_refused,
            nodes=nodes,
            quota_gpus=self._quota_room(key.namespace, accelerator.resource_name),
        )
        if live is None or surge == live.surges:
            return tuple(zip(as_it_is, as_it_is, strict=True))
        return tuple(zip(children(key, record.uid, spec, runtime, accelerator, surge=surge), as_it_is, strict=True))

    def _waits_seconds(self, key: Key, nodes: frozenset[str]) -> float:
        """Return for how long a pod of the deployment has found no node, since none of it was seen to drain on one."""
        pods, now = tuple(self._mirror.own_pods(key)), time()
        waiting = [pod.created_at for pod in pods if pod.finds_no_node]
        if not waiting:
            self._drained_at.pop(key, None)
            return 0.0
        if any(pod.terminating and pod.node in nodes for pod in pods):
            self._drained_at[key] = now
        return now - max(min(waiting), self._drained_at.get(key, 0.0))

    def _quota_room(self, namespace: str, resource: str) -> int | None:
        quota = self._mirror.quotas.get(namespace)
        hard = quota.hard.get(f"requests.{resource}") if quota is not None else None
        return None if hard is None else hard - self._mirror.requested[namespace, resource]

    async def _apply_one(self, record: DeploymentRecord, manifest: Json, before: Json, desired: int) -> bool:
        """Apply one child where it is not as rendered; return whether it had been tampered with."""
        kind = manifest["kind"]
        live = self._mirror.children.get((kind, record.key))
        outdated = live is None or live.applied_hash != applied_hash(manifest) or live.owner_uid != record.uid
        drifted = (
            live is not None
            and live.live is not None
            # An edit shows against what was applied last, even when something else is to be applied now.
            and any(
                applied_hash(was) == live.applied_hash and not holds(live.live, _body(was))
                for was in (manifest, before)
            )
        )
        if live is not None and not outdated and not drifted:
            live.live = None
            return False
        if live is None or live.owner_uid != record.uid:
            await self._refuse_foreign(record, manifest)
        try:
            answer = await self._apply(manifest, field_manager=FIELD_MANAGER)
        except Refused:
            if live is None or not drifted:
                raise
            await self._replace_lists(manifest, live.uid)
            answer = await self._apply(manifest, field_manager=FIELD_MANAGER)
        if not holds(answer, _body(manifest)):
            log.error("an applied child differs from what was rendered", kind=kind, deployment=str(record.key))
        self._tables[kind].upsert(answer)
        fresh = self._mirror.children.get((kind, record.key))
        if fresh is not None:
            fresh.live = None
        known = (kind, record.uid) in self._applied
        self._applied.add((kind, record.uid))
        if live is None and kind == "Deployment":
            # Even the default count: without an owner of the field, the server does not record who edits it.
            await self._write_replicas(record.key, answer["metadata"]["uid"], desired)
        return (live is None and known) or drifted

    async def _write_replicas(self, key: Key, uid: str, count: int) -> None:
        answer = await self._apply(replicas_patch(key, uid, count), field_manager=SCALE_FIELD_MANAGER)
        self._tables["Deployment"].upsert(answer)

    async def _replace_lists(self, manifest: Json, uid: str) -> None:
        """Put a child's lists back as a whole, where items that somebody else keeps beside ours make it invalid.

        A port that was renumbered keeps its name: applied beside it, ours would be the second of that name.
        """
        metadata = manifest["metadata"]
        path = resource_path(
            manifest["apiVersion"], manifest["kind"], namespace=metadata["namespace"], name=metadata["name"]
        )
        body = {"metadata": {"uid": uid}, "spec": manifest["spec"]}
        answer = await self._patch(path, body, field_manager=REPAIR_FIELD_MANAGER)
        await self._disown(path, answer)

    async def _disown(self, path: str, item: Json) -> None:
        """Give up what the repairing manager owns: no later apply could remove it."""
        for left in reversed(range(DISOWN_ATTEMPTS)):
            metadata = item["metadata"]
            owners = [entry for entry in metadata["managedFields"] if entry.get("manager") != REPAIR_FIELD_MANAGER]
            body = {"managedFields": owners, "resourceVersion": metadata["resourceVersion"]}
            try:
                await self._patch(path, {"metadata": body})
            except Conflict:  # a controller wrote the status meanwhile
                if not left:
                    raise
                item = await self._kubernetes.get(path)
            else:
                return

    async def _mark(self, key: Key, pod: str) -> None:
        path = resource_path("v1", "Pod", namespace=key.namespace, name=pod)
        try:
            await self._patch(path, {"metadata": {"annotations": {DELETION_COST_ANNOTATION: VICTIM_COST}}})
        except NotFound:
            return  # gone by itself

    async def _apply(self, manifest: Json, *, field_manager: str) -> Json:
        self._leadership.ask()
        return await self._kubernetes.apply(manifest, field_manager=field_manager)

    async def _patch(self, path: str, body: Json, *, field_manager: str = FIELD_MANAGER) -> Json:
        self._leadership.ask()
        return await self._kubernetes.merge_patch(path, body, field_manager=field_manager)

    async def _refuse_foreign(self, record: DeploymentRecord, manifest: Json) -> None:
        """Make sure that no object of somebody else has the name: apply would take it over."""
        kind, key = manifest["kind"], record.key
        path = resource_path(manifest["apiVersion"], kind, namespace=key.namespace, name=key.name)
        try:
            found = await self._kubernetes.get(path)
        except NotFound:
            return
        if controller_of(found["metadata"]) != record.uid:
            raise _NameTaken(
                Fault(
                    Reason.NAME_CONFLICT,
                    f"metadata.name: a {kind} named {key.name!r} exists in namespace {key.namespace!r} and is not "
                    "Modelfleet's; delete it or choose another name",
                )
            )


def _body(manifest: Json) -> Json:
    # Items of a list carry neither apiVersion nor kind; their collection says both.
    return {"metadata": manifest["metadata"], "spec": manifest["spec"]}


class _NameTaken(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault
