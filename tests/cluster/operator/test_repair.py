"""What the operator owns it puts back and says so; what it does not own it leaves alone and says that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sandbox.cluster import SandboxError
from tests.cluster.operator.scene import CHILD_KINDS, Cast, History, Json, Team, Watched, same, until

pytestmark = pytest.mark.xdist_group("operator-objects")

HIJACKED = {
    "name": "engine",
    "image": "registry.example/miner:1.0",
    "ports": [{"name": "http", "containerPort": 9999}],
}
EDITS: dict[str, tuple[str, Json]] = {
    "Deployment: label removed": ("Deployment", {"metadata": {"labels": {"modelfleet.dev/deployment": None}}}),
    "Deployment: label by which it is watched removed": (
        "Deployment",
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}},
    ),
    "Deployment: container edited": (
        "Deployment",
        {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1, "containers": [HIJACKED]}}}},
    ),
    "Deployment: node selector extended": (
        "Deployment",
        {"spec": {"template": {"spec": {"nodeSelector": {"no": "such"}}}}},
    ),
    "Deployment: strategy edited": (
        "Deployment",
        {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}, "progressDeadlineSeconds": 10}},
    ),
    "Service: port edited": ("Service", {"spec": {"ports": [{"name": "http", "port": 81, "targetPort": 22}]}}),
    "Service: type edited": ("Service", {"spec": {"type": "NodePort"}}),
    "Service: selector edited": ("Service", {"spec": {"selector": {"modelfleet.dev/deployment": "another"}}}),
    "Service: selector extended": ("Service", {"spec": {"selector": {"no": "such"}}}),
    "PodDisruptionBudget: widened": ("PodDisruptionBudget", {"spec": {"maxUnavailable": 100}}),
}


@pytest.fixture(scope="module")
def repaired(cast: Cast) -> Iterator[Team]:
    """One served deployment that every edit here is made to."""
    cast.only()
    team = Team.create(cast.fleet.sandbox)
    team.deploy()
    team.await_ready()
    yield team
    team.end()


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_child_is_put_back_and_told(repaired: Team, operator: Watched, edit: str) -> None:
    """Whatever was rendered and is edited by somebody else stands again within seconds, with an event."""
    kind, patch = EDITS[edit]
    before, told = _rendered(repaired, kind), len(_repairs(repaired, kind))
    repaired.sandbox.request("PATCH", repaired.child_path(kind), patch)

    same(before, lambda: _rendered(repaired, kind), seconds=10)
    until(lambda: len(_repairs(repaired, kind)) > told, seconds=10)


@pytest.mark.parametrize("kind", CHILD_KINDS)
def test_a_deleted_child_is_made_again_and_told(repaired: Team, operator: Watched, kind: str) -> None:
    """A child that somebody deletes exists again within seconds, with an event and the replicas it had."""
    repaired.change(scaling={"minReplicas": 2})
    repaired.await_ready(replicas=2)
    old, before, told = repaired.child(kind), _rendered(repaired, kind), len(_repairs(repaired, kind))
    repaired.sandbox.request("DELETE", repaired.child_path(kind))
    until(lambda: (new := repaired.child(kind)) and old and new["metadata"]["uid"] != old["metadata"]["uid"])

    same(before, lambda: _rendered(repaired, kind), seconds=10)
    until(lambda: len(_repairs(repaired, kind)) > told, seconds=10)
    repaired.await_ready(replicas=2)


def test_replicas_scaled_by_hand_are_put_back_and_told(team: Team) -> None:
    """`kubectl scale deployment` is undone, and the event names who did it and how to scale by hand."""
    team.deploy()
    team.await_ready()
    with History(team.sandbox, team.child_path("Deployment", "").rstrip("/")) as history:
        team.sandbox.kubectl("scale", "deployment/llama", "--replicas=3", f"--namespace={team.namespace}")
        (note,) = until(lambda: team.events("ReplicasReverted"), seconds=10)
        same(1, team.replicas, seconds=10)

    assert history.replicas() == [3, 1]
    assert note == (
        "Scaled 3→1: kubectl had set replicas to 3; the operator owns them. "
        "Set spec.scaling.mode to Paused to scale by hand"
    )
    team.await_ready()


def test_scaling_the_model_deployment_sets_its_floor(team: Team) -> None:
    """`kubectl scale mdep` raises minReplicas, up to maxReplicas, and the replicas follow."""
    team.deploy(scaling={"maxReplicas": 3})
    team.await_ready()
    team.sandbox.kubectl("scale", "mdep/llama", "--replicas=2", f"--namespace={team.namespace}")
    team.await_ready(replicas=2)
    with pytest.raises(SandboxError, match="minReplicas must not be greater than maxReplicas"):
        team.sandbox.kubectl("scale", "mdep/llama", "--replicas=4", f"--namespace={team.namespace}")

    assert team.get()["spec"]["scaling"]["minReplicas"] == 2


@pytest.mark.parametrize("target", ["Deployment", "ModelDeployment"])
def test_replicas_are_left_to_a_foreign_autoscaler_until_it_is_gone(team: Team, operator: Watched, target: str) -> None:
    """Two autoscalers would fight: ours steps back, names the other one, and takes over when it is deleted."""
    team.deploy()
    team.await_ready()
    path = f"/apis/autoscaling/v2/namespaces/{team.namespace}/horizontalpodautoscalers"
    version = {"Deployment": "apps/v1", "ModelDeployment": "modelfleet.dev/v1alpha1"}[target]
    reference = {"apiVersion": version, "kind": target, "name": "llama"}
    spec = {"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 3}
    team.sandbox.request("POST", path, {"metadata": {"name": "foreign"}, "spec": spec})
    same(("False", "ForeignAutoscaler"), lambda: team.condition("Scaling"), seconds=10)
    message = team.message("Scaling")
    team.sandbox.request("PATCH", team.child_path("Deployment"), {"spec": {"replicas": 3}})
    same(3, lambda: team.status().get("desiredReplicas"), seconds=10)
    operator.await_ticks(4)
    untouched = team.replicas()
    team.sandbox.request("DELETE", f"{path}/foreign")

    assert message.startswith(f"HorizontalPodAutoscaler {team.namespace}/foreign scales the same replicas")
    assert untouched == 3
    same(("True", "AbleToScale"), lambda: team.condition("Scaling"), seconds=15)
    # Idle for a window of 2 s: now they are the operator's to take away.
    same(1, team.replicas, seconds=20)


def test_what_stands_in_a_childs_way_is_named_and_left_alone(new_team: Callable[..., Team], operator: Watched) -> None:
    """Foreign objects of the same name stay as they are, a refusal is told in the server's words, and both heal."""
    team, poor = new_team(), new_team()
    quota = f"/api/v1/namespaces/{poor.namespace}/resourcequotas"
    hard = {"hard": {"count/services": "0"}}
    poor.sandbox.request("POST", quota, {"metadata": {"name": "none"}, "spec": hard})
    until(lambda: "hard" in poor.sandbox.request("GET", f"{quota}/none").get("status", {}))
    poor.deploy()
    labels = {"app": "shop"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web"}]}}
    foreign: dict[str, Json] = {
        "Deployment": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        "Service": {"selector": labels, "ports": [{"port": 80}]},
    }
    names = {kind: f"shop-{kind.lower()}" for kind in foreign}
    for kind, name in names.items():
        manifest = {"metadata": {"name": name}, "spec": foreign[kind]}
        team.sandbox.request("POST", team.child_path(kind, "").rstrip("/"), manifest)
        team.deploy(name)
    for name in names.values():
        same(("False", "NameConflict"), lambda name=name: team.condition("Ready", name), seconds=10)  # type: ignore[misc]
        same(("True", "NameConflict"), lambda name=name: team.condition("Stalled", name), seconds=10)  # type: ignore[misc]
    same(("False", "ApplyFailed"), lambda: poor.condition("Ready"), seconds=10)
    refusal = poor.message("Ready")
    messages = {kind: team.message("Ready", name) for kind, name in names.items()}
    operator.await_ticks(4)
    found = {kind: team.child(kind, name) or {} for kind, name in names.items()}
    for kind, name in names.items():
        team.sandbox.request("DELETE", team.child_path(kind, name))
    poor.sandbox.request("DELETE", f"{quota}/none")

    assert "exceeded quota: none" in refusal
    assert messages == {
        kind: f"metadata.name: a {kind} named {name!r} exists in namespace {team.namespace!r} and is not Modelfleet's; "
        "delete it or choose another name"
        for kind, name in names.items()
    }
    assert {kind: item["spec"]["selector"] for kind, item in found.items()} == {
        kind: spec["selector"] for kind, spec in foreign.items()
    }
    managers = {entry["manager"] for item in found.values() for entry in item["metadata"]["managedFields"]}
    assert not {manager for manager in managers if manager.startswith("modelfleet")}
    for name in names.values():
        team.await_ready(name)
        assert team.condition("Stalled", name) == ("", "")
    poor.await_ready()


def test_an_orphan_is_not_taken_over_either(team: Team) -> None:
    """Children left behind by `--cascade=orphan` are not silently adopted by a new object of the same name."""
    team.deploy()
    team.await_ready()
    team.sandbox.kubectl("delete", "mdep/llama", "--cascade=orphan", f"--namespace={team.namespace}")
    team.deploy()
    same(("False", "NameConflict"), lambda: team.condition("Ready"), seconds=15)

    assert team.pods()


@pytest.mark.parametrize(("mode", "reason"), [("Paused", "Paused"), ("Recommend", "Recommending")])
def test_a_mode_that_keeps_hands_off_does(team: Team, operator: Watched, mode: str, reason: str) -> None:
    """Paused and Recommend leave hand-set replicas alone; Recommend says what it would ask for; Auto acts again."""
    team.deploy(scaling={"mode": mode, "minReplicas": 2, "maxReplicas": 3})
    team.await_ready(replicas=2)
    team.sandbox.request("PATCH", team.child_path("Deployment"), {"spec": {"replicas": 1}})
    same(1, lambda: team.status().get("desiredReplicas"), seconds=10)
    operator.await_ticks(4)
    same(("False", reason), lambda: team.condition("Scaling"))
    untouched, message = team.replicas(), team.message("Scaling")
    team.change(scaling={"mode": "Auto"})

    assert untouched == 1
    assert {
        "Paused": "spec.scaling.mode is Paused",
        "Recommend": "spec.scaling.mode is Recommend: it would ask for 2 replicas",
    }[mode] == message
    team.await_ready(replicas=2)


def test_deleted_pods_come_back(team: Team) -> None:
    """Evicted or deleted pods come back without the operator's help, and the status follows."""
    team.deploy()
    team.await_ready()
    (old,) = team.pods()
    team.sandbox.request("DELETE", f"/api/v1/namespaces/{team.namespace}/pods/{old['metadata']['name']}")
    until(lambda: all(pod["metadata"]["uid"] != old["metadata"]["uid"] for pod in team.pods()))

    team.await_ready()


def _rendered(team: Team, kind: str) -> Json:
    """Return what an edit could change of a child."""
    child = team.child(kind)
    if child is None:
        return {}
    metadata, spec = child["metadata"], dict(child["spec"])
    # Whether a roll-out surges depends on free GPUs, and the hash on that: other tests are about it.
    for assigned in ("clusterIP", "clusterIPs", "replicas"):
        spec.pop(assigned, None)
    if "strategy" in spec:
        spec["strategy"] = spec["strategy"]["type"]
    annotations = {**metadata["annotations"]}
    for assigned in ("deployment.kubernetes.io/revision", "modelfleet.dev/applied-hash"):
        annotations.pop(assigned, None)
    owners = metadata["ownerReferences"]
    return {"labels": metadata["labels"], "annotations": annotations, "owners": owners, "spec": spec}


def _repairs(team: Team, kind: str) -> list[str]:
    note = f"{kind} llama had been edited or deleted; it was put back as the spec asks"
    return [seen for seen in team.events("Repaired") if seen == note]
