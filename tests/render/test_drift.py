"""Whether a live object still says what was rendered: the server's additions do not count, edits do."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from modelfleet.api.acceleratorclass import AcceleratorClassSpec, Toleration
from modelfleet.api.engine import Engine
from modelfleet.api.inferenceruntime import EnvVar, InferenceRuntimeSpec
from modelfleet.api.meta import Key
from modelfleet.render.children import Manifest, children
from modelfleet.render.drift import holds
from tests.builders import LLAMA

TOLERATION = Toleration(key="nvidia.com/gpu", effect="NoSchedule")


def _rendered(*, tolerations: tuple[Toleration, ...] = (TOLERATION,)) -> dict[str, Manifest]:
    made = children(
        Key("team-a", "llama"),
        "7d3c",
        LLAMA,
        # No arguments and an empty variable: the server leaves both out.
        InferenceRuntimeSpec(engine=Engine.VLLM, image="r.example/vllm:v1", env=(EnvVar(name="EMPTY", value=""),)),
        AcceleratorClassSpec(node_selector={"gpu": "h100"}, tolerations=tolerations),
        surge=True,
    )
    return {one["kind"]: {"metadata": one["metadata"], "spec": one["spec"]} for one in made}


def _served(kind: str, **rendering: Any) -> Manifest:
    """Return a rendered object as the API server gives it back: defaulted, and without what is empty."""
    live: Manifest = _without_empty(deepcopy(_rendered(**rendering)[kind]))
    live["metadata"] |= {"uid": "live", "resourceVersion": "285", "generation": 1, "managedFields": [{"manager": "x"}]}
    live["status"] = {"observedGeneration": 1}
    if kind == "Service":
        live["spec"] |= {
            "clusterIP": "10.0.0.7",
            "clusterIPs": ["10.0.0.7"],
            "ipFamilies": ["IPv4"],
            "sessionAffinity": "None",
        }
    if kind == "Deployment":
        live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
        live["spec"]["replicas"] = 3
        pod = live["spec"]["template"]["spec"]
        pod |= {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler"}
        container = pod["containers"][0]
        container |= {"imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log"}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container[probe]["successThreshold"] = 1
            container[probe]["httpGet"]["scheme"] = "HTTP"
    return live


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty(one) for name, one in value.items() if one not in ("", [])}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value


def _container(live: Manifest) -> Manifest:
    (first, *_) = live["spec"]["template"]["spec"]["containers"]
    return first  # type: ignore[no-any-return]


Edit = Callable[[Manifest], object]

KEPT: dict[str, tuple[str, Edit]] = {
    "as the server gives it back": ("Deployment", lambda live: None),
    "a Service with its address": ("Service", lambda live: None),
    "a budget": ("PodDisruptionBudget", lambda live: None),
    "another count: it has its own writer": ("Deployment", lambda live: live["spec"].update(replicas=9)),
    "an injected sidecar": (
        "Deployment",
        lambda live: live["spec"]["template"]["spec"]["containers"].insert(0, {"name": "proxy", "image": "p:1"}),
    ),
    "an added label": ("Deployment", lambda live: live["metadata"]["labels"].update(team="a")),
    "an annotation of kubectl rollout restart": (
        "Deployment",
        lambda live: live["spec"]["template"]["metadata"]["annotations"].update(
            {"kubectl.kubernetes.io/restartedAt": "x"}
        ),
    ),
    "an added variable": ("Deployment", lambda live: _container(live)["env"].append({"name": "X", "value": "1"})),
    "variables in another order": ("Deployment", lambda live: _container(live)["env"].reverse()),
    "a second owner of the same name": (
        "Deployment",
        lambda live: live["metadata"]["ownerReferences"].append(
            {"apiVersion": "apps.example/v1", "kind": "App", "name": "llama", "uid": "other"}
        ),
    ),
    "a second owner of the same name, first": (
        "Deployment",
        lambda live: live["metadata"]["ownerReferences"].insert(
            0, {"apiVersion": "apps.example/v1", "kind": "App", "name": "llama", "uid": "other"}
        ),
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_others_add_is_no_drift(case: str) -> None:
    """Defaults, status and fields of other writers leave the object as rendered."""
    kind, edit = KEPT[case]
    live = _served(kind)
    edit(live)

    assert holds(live, _rendered()[kind])


EDITED: dict[str, tuple[str, Edit]] = {
    "another image": ("Deployment", lambda live: _container(live).update(image="r.example/vllm:v2")),
    "a variable removed": ("Deployment", lambda live: _container(live)["env"].pop(0)),
    "a variable changed": ("Deployment", lambda live: _container(live)["env"][0].update(value="/root")),
    "an empty variable filled": ("Deployment", lambda live: _container(live)["env"][2].update(value="1")),
    "arguments added": ("Deployment", lambda live: _container(live).update(args=["--trust-remote-code"])),
    "privileges": (
        "Deployment",
        lambda live: _container(live)["securityContext"].update(allowPrivilegeEscalation=True),
    ),
    "a capability kept": (
        "Deployment",
        lambda live: _container(live)["securityContext"]["capabilities"].update(drop=["NET_RAW"]),
    ),
    "a token mounted": (
        "Deployment",
        lambda live: live["spec"]["template"]["spec"].update(automountServiceAccountToken=True),
    ),
    "fewer GPUs": (
        "Deployment",
        lambda live: _container(live)["resources"]["limits"].update({"nvidia.com/gpu": "0"}),
    ),
    "another node": (
        "Deployment",
        lambda live: live["spec"]["template"]["spec"].update(nodeSelector={"gpu": "a100"}),
    ),
    "one more condition on the node": (
        "Deployment",
        lambda live: live["spec"]["template"]["spec"]["nodeSelector"].update(zone="z"),
    ),
    "a toleration removed": (
        "Deployment",
        lambda live: live["spec"]["template"]["spec"].pop("tolerations"),
    ),
    "a toleration added": (
        "Deployment",
        lambda live: live["spec"]["template"]["spec"]["tolerations"].append({"operator": "Exists"}),
    ),
    "a volume elsewhere": ("Deployment", lambda live: _container(live)["volumeMounts"][2].update(mountPath="/x")),
    "the owner removed": ("Deployment", lambda live: live["metadata"].pop("ownerReferences")),
    "a label removed": ("Deployment", lambda live: live["metadata"]["labels"].pop("modelfleet.dev/deployment")),
    "the engine's container removed": (
        "Deployment",
        lambda live: live["spec"]["template"]["spec"].update(containers=[{"name": "other"}]),
    ),
    "another port": ("Service", lambda live: live["spec"]["ports"][0].update(port=8080)),
    "one more label to select by": ("Service", lambda live: live["spec"]["selector"].update(version="2")),
    "a larger budget": ("PodDisruptionBudget", lambda live: live["spec"].update(maxUnavailable=5)),
}


@pytest.mark.parametrize("case", EDITED)
def test_an_edit_is_drift(case: str) -> None:
    """Every value that was rendered must stand as it was rendered."""
    kind, edit = EDITED[case]
    live = _served(kind)
    edit(live)

    assert not holds(live, _rendered()[kind])


def test_what_is_empty_is_left_out_by_the_server() -> None:
    """A class without tolerations, a runtime without arguments: absent is what was asked for."""
    live = _served("Deployment", tolerations=())
    expected = _rendered(tolerations=())["Deployment"]

    assert "tolerations" not in live["spec"]["template"]["spec"]
    assert holds(live, expected)


VALUES: dict[str, tuple[Any, Any, bool]] = {
    "equal": (3, 3, True),
    "unequal": (3, 4, False),
    "an object instead of a value": ({}, 4, False),
    "a value instead of an object": (4, {"a": 1}, False),
    "nothing instead of an object": (None, {"a": 1}, False),
    "an absent zero is no zero": ({}, {"maxSurge": 0}, False),
    "an absent refusal is no refusal": ({}, {"automount": False}, False),
    "an absent text that is empty": ({}, {"value": ""}, True),
    "an absent list that is empty": ({}, {"args": []}, True),
    "no list where one is empty": ({"args": None}, {"args": []}, True),
    "an object that is empty must be there: emptyDir says what a volume is": ({}, {"emptyDir": {}}, False),
    "values in another order are another list": ({"args": ["b", "a"]}, {"args": ["a", "b"]}, False),
    "a value instead of a list of objects": ({"env": "x"}, {"env": [{"name": "a"}]}, False),
    "items that are no objects": ({"env": ["x"]}, {"env": [{"name": "a"}]}, False),
}


@pytest.mark.parametrize("case", VALUES)
def test_values(case: str) -> None:
    """Comparison is by value, whatever shape a hostile or older object has."""
    live, rendered, expected = VALUES[case]
    actual = holds(live, rendered)

    assert expected == actual
