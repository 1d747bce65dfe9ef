"""From a spec to what serves it: made, made anew when something changes, left alone when nothing does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.engine import Engine
from modelfleet.api.meta import API_VERSION
from sandbox.cluster import Sandbox
from tests.cluster.operator.scene import (
    CHILD_KINDS,
    MODEL,
    Team,
    create_runtime,
    ready,
    same,
    unique,
    until,
)

pytestmark = pytest.mark.xdist_group("operator-objects")

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
FIVE_LINES = f"""
apiVersion: modelfleet.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: llama}}
spec:
  model: {{name: {MODEL}}}
  runtime: vllm
  accelerator: h100
"""


def test_five_lines_make_a_served_model(team: Team) -> None:
    """A spec with the three names that have no default becomes a ready replica behind a Service, owned throughout."""
    team.sandbox.kubectl("apply", f"--namespace={team.namespace}", "-f", "-", input=FIVE_LINES)
    team.await_ready()
    owner = {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "name": "llama",
        "uid": team.get()["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    children = {kind: team.child(kind) for kind in CHILD_KINDS}

    assert {kind: [owner] for kind in CHILD_KINDS} == {
        kind: child and child["metadata"]["ownerReferences"] for kind, child in children.items()
    }
    selectors = [
        children["Deployment"]["spec"]["selector"]["matchLabels"],  # type: ignore[index]
        children["Service"]["spec"]["selector"],  # type: ignore[index]
        children["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],  # type: ignore[index]
    ]
    assert selectors == [{"modelfleet.dev/deployment": "llama"}] * 3
    line = team.sandbox.kubectl("get", "mdep", f"--namespace={team.namespace}", "--no-headers").split()
    assert line[:3] == ["llama", "1/1", "1"]


def test_every_preset_is_admitted_where_pod_security_is_restricted(new_team: Callable[..., Team]) -> None:
    """Pods of all six runtimes, claim and token Secret included, pass the strictest Pod Security Standard and serve."""
    team = new_team(**RESTRICTED)
    runtimes = [engine.value for engine in Engine]
    for runtime in runtimes:
        team.deploy(runtime, runtime=runtime)
    team.deploy("everything", model={"name": MODEL, "cacheClaimName": "weights", "tokenSecretName": "hub"})
    for runtime in runtimes:
        team.await_ready(runtime)
    # Its claim does not exist: the pod is admitted, and waits.
    (pod,) = until(lambda: team.pods("everything"))

    assert {"persistentVolumeClaim": {"claimName": "weights"}, "name": "models"} in pod["spec"]["volumes"]


def test_a_new_spec_and_a_new_runtime_are_rolled_out(sandbox: Sandbox, team: Team) -> None:
    """A change of the spec, of the runtime's text, or of the runtime's name reaches the pods."""
    path = create_runtime(sandbox, unique("runtime"), "--model={model}", "--revision={revision}")
    runtime = path.rsplit("/", 1)[1]
    try:
        team.deploy(runtime=runtime)
        team.await_ready()
        team.change(model={"revision": "v2"})
        same([f"--model={MODEL}", "--revision=v2"], lambda: _arguments_of_ready_pods(team))
        sandbox.request("PATCH", path, {"spec": {"args": ["--model={model}", "--gpus={gpus}"]}})
        same([f"--model={MODEL}", "--gpus=1"], lambda: _arguments_of_ready_pods(team))
        team.change(runtime="vllm")
        until(lambda: "--tensor-parallel-size=1" in _arguments_of_ready_pods(team))
        team.await_ready()
    finally:
        sandbox.request("DELETE", path)


def _arguments_of_ready_pods(team: Team) -> list[str]:
    """Return the arguments, once all ready pods agree on them."""
    found = {tuple(pod["spec"]["containers"][0]["args"]) for pod in team.pods() if ready(pod)}
    return list(found.pop()) if len(found) == 1 else []


def test_a_deployment_made_anew_under_its_name_gets_children_of_its_own(team: Team) -> None:
    """Deleted and created again at once, the new object waits for the old one's children to go, then has its own."""
    team.deploy()
    team.await_ready()
    old = team.get()["metadata"]["uid"]
    team.sandbox.request("DELETE", team.path())
    team.deploy()
    new = team.get()["metadata"]["uid"]
    team.await_ready()

    assert old != new
    assert {new} == {_owner(team.child(kind)) for kind in CHILD_KINDS}


def test_gpus_that_somebody_else_holds_are_not_counted_as_free(sandbox: Sandbox, team: Team) -> None:
    """The class's status tells capacity and free GPUs as pods, whoever's they are, hold them."""
    path = resource_path(API_VERSION, "AcceleratorClass", name="a100")

    def free() -> Any:
        return sandbox.request("GET", path)["status"].get("freeGpus")

    until(lambda: free() == 8)
    container = {"name": "notebook", "image": "notebook", "resources": {"limits": {"nvidia.com/gpu": "3"}}}
    spec = {"nodeName": "a100-0", "containers": [container]}
    sandbox.request(
        "POST", f"/api/v1/namespaces/{team.namespace}/pods", {"metadata": {"name": "notebook"}, "spec": spec}
    )

    same(5, free, seconds=20)


def _owner(child: Any) -> str:
    return "" if child is None else str(child["metadata"]["ownerReferences"][0]["uid"])
