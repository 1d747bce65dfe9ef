"""The peer of the fleet benchmark: the same kinds, watched the way kopf's documentation suggests.

An index of the pods, kept by kopf, and a timer for each ModelDeployment that reads it, computes, and patches the
status when that changed. It does less than Modelfleet: it reads no engine, scales nothing and owns no children.
Run by `kopf run --quiet`, which uses uvloop, as Modelfleet does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kopf

GROUP, VERSION, PLURAL = "modelfleet.dev", "v1alpha1", "modeldeployments"
DEPLOYMENT_LABEL = "modelfleet.dev/deployment"
INTERVAL_SECONDS = 2.0

_handled: set[tuple[str | None, str]] = set()


@kopf.on.startup()
async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Take a finalizer of its own: another kopf operator would try to remove the default one."""
    settings.persistence.finalizer = "bench.modelfleet.dev/stock"


@kopf.index("pods", labels={DEPLOYMENT_LABEL: kopf.PRESENT})
def pods_of(
    *, namespace: str | None, name: str, labels: Mapping[str, str], status: kopf.Status, **_: Any
) -> dict[tuple[str | None, str], tuple[str, bool]]:
    """Group the pods by the ModelDeployment they serve, with their readiness."""
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))
    return {(namespace, labels[DEPLOYMENT_LABEL]): (name, ready)}


@kopf.timer(GROUP, VERSION, PLURAL, interval=INTERVAL_SECONDS)
async def reconcile(
    *, namespace: str | None, name: str, spec: kopf.Spec, status: kopf.Status, patch: kopf.Patch, **indexes: Any
) -> None:
    """Compute what the status should say, and patch it if it says something else."""
    pods = list(indexes["pods_of"].get((namespace, name), ()))
    ready = sum(is_ready for _, is_ready in pods)
    desired = min(max(len(pods), spec["scaling"]["minReplicas"]), spec["scaling"]["maxReplicas"])
    wanted = {"replicas": len(pods), "readyReplicas": ready, "desiredReplicas": desired}
    if any(status.get(field) != value for field, value in wanted.items()):
        patch.status.update(wanted)
    if (namespace, name) not in _handled:
        _handled.add((namespace, name))
        print(f"handled {len(_handled)}", flush=True)
