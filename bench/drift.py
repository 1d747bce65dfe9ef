"""Whether a GitOps tool that applied ModelDeployments and Tenants sees drift while the operator scales them.

It is judged three ways, none of which uses the operator's words: `kubectl diff --server-side` of what was applied, as a
GitOps tool compares; a watch of its own, in which every change beyond status counts; and the API server's audit log.
TenantViews are not part of it: the operator makes them, nobody applies them.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic, time
from typing import Any

import yaml

from bench import audit, product
from bench.cluster import Cluster, cluster, say
from bench.figures import Against, Figure
from bench.product import ACCOUNT, Operator
from bench.product import NAMESPACE as OPERATOR_NAMESPACE
from bench.reaction import SCALING, STEP
from modelfleet.api.meta import API_VERSION, Key
from sandbox import binaries, fleet
from sandbox.engine.reflect import Change, follow

MANAGER = "argocd"
DIFF_SECONDS = 5.0
SYNC_SECONDS = 120.0
"""How often everything is applied again, as Argo CD does by default."""
RESTART_SECONDS = 600.0
"""How often the operator is replaced by a new process: one that starts sees every object as new."""
LOAD_SECONDS = 20.0
READY_SECONDS = 90.0
HEARD_SECONDS = 5.0
"""Plenty for a watch to tell of an edit."""
TEAMS = {"team-a": 4, "team-b": 3}
"""ModelDeployments by namespace; each namespace is its own Tenant's."""
NAME = "gitops"
"""Of the runtime and the class that are applied too; a class no node of which is there."""
PRESETS = ("runtimes/vllm.yaml", "accelerators/a100.yaml")
RESOURCES = ("modeldeployments", "tenants", "inferenceruntimes", "acceleratorclasses", "namespaces")
PATHS = {
    **{resource: f"/apis/{API_VERSION}/{resource}" for resource in RESOURCES[:-1]},
    "namespaces": "/api/v1/namespaces",
}
NOT_DECLARED = frozenset({"resourceVersion", "managedFields"})
"""Of metadata: what every write changes, also one of status."""


@dataclass
class Witness:
    """Counts the changes of the applied objects that are not of their status.

    Attributes:
        applied: Kind and name (namespace/name) of what counts.
        found: A line for each such change.
    """

    applied: frozenset[tuple[str, str]]
    found: list[str] = field(default_factory=list)
    seen: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def take(self, kind: str, change: Change, item: Mapping[str, Any]) -> None:
        """Hear of a state of an object."""
        metadata = item["metadata"]
        identity = (kind, _name(metadata))
        if identity not in self.applied:
            return
        if change is Change.DELETED:
            self.found.append(f"{identity}: deleted")
            return
        for owner in foreign_owners(item):
            self.found.append(f"{identity}: {owner} owns fields beyond status")
        before, now = self.seen.get(identity), declared(item)
        if before is not None and before != now:
            self.found.append(f"{identity}: was {json.dumps(before)}, is {json.dumps(now)}")
        self.seen[identity] = now


def declared(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an object is not status, without the fields that every write changes."""
    metadata = {name: value for name, value in item["metadata"].items() if name not in NOT_DECLARED}
    return {**{name: value for name, value in item.items() if name != "status"}, "metadata": metadata}


def foreign_owners(item: Mapping[str, Any]) -> list[str]:
    """Return who else than the GitOps tool owns fields that are not of a subresource."""
    entries = item["metadata"].get("managedFields") or []
    return [entry["manager"] for entry in entries if not entry.get("subresource") and entry["manager"] != MANAGER]


def _name(metadata: Mapping[str, Any]) -> str:
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


async def measure(*, minutes: float) -> list[Figure]:
    """Scale for so long under what a GitOps tool has applied.

    Raises:
        RuntimeError: If the operator ended, or if an edit by hand, made at the end, was not found.
    """
    manifests = list(_manifests(minutes))
    applied = frozenset((_resource(item), _name(item["metadata"])) for item in manifests)
    keys = [Key(namespace, f"model-{number}") for namespace, models in TEAMS.items() for number in range(models)]
    async with cluster("drift", h100_nodes=2) as here:
        run = _Run(here, json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}), Witness(applied))
        listed = [asyncio.Event() for _ in RESOURCES]
        watching = asyncio.gather(*map(run.watch, RESOURCES, listed))
        try:
            for each in listed:
                await each.wait()
            await run.apply()
            figures = await run.measure(keys, minutes)
            await run.prove()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    return figures


@dataclass
class _Run:
    here: Cluster
    manifests: str
    witness: Witness
    diffs: int = 0
    differing: int = 0
    conflicts: int = 0

    async def watch(self, resource: str, listed: asyncio.Event) -> None:
        await follow(
            self.here.api,
            PATHS[resource],
            on_change=lambda change, item: self.witness.take(resource, change, item),
            on_synced=listed.set,
        )

    async def measure(self, keys: list[Key], minutes: float) -> list[Figure]:
        names = count()
        operator = Operator(self.here.sandbox, self.here.account, f"drift-{next(names)}")
        chance = random.Random(0)
        try:
            await self.here.settled(keys, seconds=READY_SECONDS)
            say(f"drift: {len(keys)} deployments are ready, {minutes:g} min")
            began, began_at, scales = monotonic(), time(), len(self.here.observer.scales)
            until, sync_at, load_at, restart_at = (
                began + each for each in (60 * minutes, SYNC_SECONDS, 0.0, RESTART_SECONDS)
            )
            while monotonic() < until:
                operator.check()
                if monotonic() >= load_at:
                    load_at += LOAD_SECONDS
                    self.here.engines.set_queue(chance.choice(keys), chance.choice((0, 0, STEP, 2 * STEP)))
                if monotonic() >= sync_at:
                    sync_at += SYNC_SECONDS
                    await self.apply()
                if monotonic() >= restart_at:
                    restart_at += RESTART_SECONDS
                    await asyncio.to_thread(operator.stop)
                    operator = Operator(self.here.sandbox, self.here.account, f"drift-{next(names)}")
                    say(f"drift: {(monotonic() - began) / 60:.0f} min, {self._told()}; new operator")
                await self.diff()
                await asyncio.sleep(DIFF_SECONDS)
        finally:
            await asyncio.to_thread(operator.stop)
        scales = len(self.here.observer.scales) - scales
        requests = audit.requests_of(
            self.here.sandbox.directory / "logs",
            f"system:serviceaccount:{OPERATOR_NAMESPACE}:{ACCOUNT}",
            since=0.0,  # its first sight of an object counts too
            until=time(),
        )
        writes = [request for request in requests if request.writes and request.resource in RESOURCES]
        statuses = [
            request
            for request in requests
            if request.writes and request.at >= began_at and request.resource.removesuffix("/status") in RESOURCES
        ]
        say(f"drift: {self._told()}; beyond status: {audit.summary(writes)}; {audit.summary(statuses)}")
        for line in self.witness.found:
            say(f"drift: {line}")
        none = Against("target", 0)
        return [
            Figure(f"comparisons that differ, of {self.diffs} in {minutes:g} min", self.differing, "diffs", none),
            Figure("changes of applied objects beyond status, watched", len(self.witness.found), "changes", none),
            Figure("the operator's writes of applied kinds beyond status, audited", len(writes), "writes", none),
            Figure("conflicts with what applies", self.conflicts, "conflicts", none),
            Figure("scale writes meanwhile", scales, "writes"),
            Figure(f"status writes a minute, {len(keys)} deployments", len(statuses) / minutes, "writes/min"),
        ]

    async def apply(self) -> None:
        done = await self._kubectl("apply", "--server-side", f"--field-manager={MANAGER}", "-f", "-")
        self._conflict(done)
        if done.returncode and not self.conflicts:
            raise RuntimeError(done.stderr)

    async def diff(self) -> bool:
        """Compare as a GitOps tool does; return whether what is there differs from what is applied."""
        done = await self._kubectl("diff", "--server-side", f"--field-manager={MANAGER}", "-f", "-")
        self.diffs += 1
        if self._conflict(done):
            return True
        if done.returncode > 1:
            raise RuntimeError(done.stderr)
        if done.returncode:
            self.differing += 1
            say(f"drift:\n{done.stdout}")
        return done.returncode == 1

    async def prove(self) -> None:
        """Edit an object by hand: a diff and the watch must both tell."""
        before = len(self.witness.found)
        path = f"/apis/{API_VERSION}/namespaces/team-a/modeldeployments/model-0"
        await asyncio.to_thread(self.here.sandbox.request, "PATCH", path, {"spec": {"scaling": {"maxReplicas": 2}}})
        await asyncio.sleep(HEARD_SECONDS)
        if not await self.diff() or len(self.witness.found) == before:
            raise RuntimeError("an edit by hand was not found: the figures are worth nothing")

    def _told(self) -> str:
        return f"{self.diffs} diffs, {self.differing} differ, {len(self.witness.found)} changes beyond status"

    def _conflict(self, done: subprocess.CompletedProcess[str]) -> bool:
        conflicts = done.returncode != 0 and "conflict" in done.stderr
        self.conflicts += conflicts
        if conflicts:
            say(f"drift: {done.stderr}")
        return conflicts

    async def _kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kubectl = str(binaries.ensure("kubectl")["kubectl"])
        return await asyncio.to_thread(
            subprocess.run,
            [kubectl, f"--kubeconfig={self.here.sandbox.kubeconfig}", *arguments],
            input=self.manifests,
            capture_output=True,
            text=True,
            check=False,
        )


def _resource(item: Mapping[str, Any]) -> str:
    kind: str = item["kind"]
    return kind.lower() + ("es" if kind.endswith("s") else "s")


def _manifests(minutes: float) -> Iterable[dict[str, Any]]:
    """Yield what a repository would hold: one deployment with a mode that ends by itself, one with a schedule."""
    for preset in PRESETS:
        made = yaml.safe_load((fleet.CHART / "presets" / preset).read_text(encoding="utf-8"))
        yield {**made, "metadata": {"name": NAME}}
    for team, models in TEAMS.items():
        # With a field of its own: of one without, the API server itself makes "before-first-apply" the owner.
        labels = {"app.kubernetes.io/part-of": NAME}
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team, "labels": labels}}
        yield {
            "apiVersion": API_VERSION,
            "kind": "Tenant",
            "metadata": {"name": team},
            "spec": {
                "namespaces": [team],
                "quotas": [{"accelerator": "h100", "nominalQuota": 8, "borrowingLimit": 4}],
            },
        }
        for number in range(models):
            made = product.model_deployment(Key(team, f"model-{number}"), scaling=SCALING)
            made["spec"]["runtime"] = NAME
            made["metadata"]["labels"] = labels
            made["metadata"]["annotations"] = {"argocd.argoproj.io/tracking-id": f"{NAME}:{team}/model-{number}"}
            if number == 1:
                until = datetime.now(UTC) + timedelta(minutes=minutes / 2)
                made["spec"]["scaling"] |= {"mode": "Recommend", "modeUntil": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
            if number == 2:
                made["spec"]["scaling"]["schedules"] = [
                    {"name": "odd", "start": "1-59/2 * * * *", "end": "*/2 * * * *", "minReplicas": 2}
                ]
            yield made
