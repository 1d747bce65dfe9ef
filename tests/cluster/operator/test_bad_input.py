"""What cannot run says why and by which field, heals by itself once it is mended, and disturbs nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION
from sandbox.cluster import CHECKOUT, RequestFailed, Sandbox
from tests.cluster.operator.scene import Team, Watched, create_class, create_runtime, same, unique, until

pytestmark = pytest.mark.xdist_group("operator-objects")


@contextmanager
def lenient_schemas(sandbox: Sandbox) -> Iterator[None]:
    """Play a cluster whose CRDs are older than the operator: without the rules that span several fields."""
    for plural in ("inferenceruntimes", "modeldeployments"):
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.modelfleet.dev"
        definition = sandbox.request("GET", path)
        _drop_rules(definition["spec"])
        sandbox.request("PUT", path, definition)
    try:
        yield
    finally:
        sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHECKOUT / "crds"))


def _drop_rules(schema: object) -> None:
    match schema:
        case dict():
            schema.pop("x-kubernetes-validations", None)
            for part in schema.values():
                _drop_rules(part)
        case list():
            for part in schema:
                _drop_rules(part)


def test_each_mistake_is_named_stalls_only_its_own_and_heals(sandbox: Sandbox, team: Team, operator: Watched) -> None:
    """Five ways to be wrong beside a good one: reason and field are told, nothing is made, mending heals."""
    runtime, accelerator, broken = unique("runtime"), unique("gpu"), unique("runtime")
    with pytest.raises(RequestFailed, match="a word in braces must be a placeholder"):
        create_runtime(sandbox, broken, "--model={modle}")
    team.deploy("no-runtime", runtime=runtime)
    team.deploy("no-class", accelerator=accelerator)
    team.deploy("too-large", gpusPerReplica=9)
    with lenient_schemas(sandbox):
        broken_path = until(lambda: _created(sandbox, broken))
        until(lambda: _deployed_with_swapped_bounds(team))
    team.deploy("bad-runtime", runtime=broken)
    team.deploy("good")
    expected = {
        "no-runtime": (
            "RuntimeNotFound",
            f"spec.runtime: InferenceRuntime {runtime!r} does not exist; "
            "choose one from `kubectl get inferenceruntimes` or have it created",
        ),
        "no-class": (
            "AcceleratorNotFound",
            f"spec.accelerator: AcceleratorClass {accelerator!r} does not exist; "
            "choose one from `kubectl get acceleratorclasses` or have it created",
        ),
        "too-large": (
            "GPUsExceedNode",
            "spec.gpusPerReplica: 9 GPUs fit no node of class 'h100': its largest has 8; "
            "lower gpusPerReplica or choose another accelerator",
        ),
        "bad-runtime": ("RuntimeInvalid", "{modle}"),
        "swapped-bounds": (
            "InvalidSpec",
            "spec.scaling: Value error, minReplicas must not be greater than maxReplicas",
        ),
    }

    for name, (reason, message) in expected.items():
        same(("False", reason), lambda name=name: team.condition("Ready", name), seconds=10)  # type: ignore[misc]
        same(("True", reason), lambda name=name: team.condition("Stalled", name), seconds=10)  # type: ignore[misc]
        assert message in team.message("Ready", name)
        assert team.status(name)["reason"] == reason
        assert team.child("Deployment", name) is None
    team.await_ready("good")

    try:
        create_runtime(sandbox, runtime, "--model={model}")
        create_class(sandbox, accelerator)
        team.change("no-class", accelerator="a100")
        team.change("too-large", gpusPerReplica=8)
        sandbox.request("PATCH", broken_path, {"spec": {"args": ["--model={model}"]}})
        team.change("swapped-bounds", scaling={"minReplicas": 1})
        for name in expected:
            # A whole node must be free for one of them, and earlier tests' pods may still be leaving.
            team.await_ready(name, seconds=90)
            assert team.condition("Stalled", name) == ("", "")
    finally:
        sandbox.request("DELETE", resource_path(API_VERSION, "AcceleratorClass", name=accelerator))
        sandbox.request("DELETE", resource_path(API_VERSION, "InferenceRuntime", name=runtime))
        sandbox.request("DELETE", broken_path)


def _created(sandbox: Sandbox, runtime: str) -> str:
    """Create a runtime with an unknown placeholder, as soon as the schema lets it pass."""
    try:
        return create_runtime(sandbox, runtime, "--model={modle}")
    except RequestFailed:
        return ""


def _deployed_with_swapped_bounds(team: Team) -> bool:
    try:
        team.deploy("swapped-bounds", scaling={"minReplicas": 5, "maxReplicas": 4})
    except RequestFailed:
        return False
    return True


def test_what_serves_goes_on_when_its_runtime_disappears(sandbox: Sandbox, team: Team, operator: Watched) -> None:
    """An administrator's mistake stops no replica: the pods stay as they are until the runtime is back."""
    path = create_runtime(sandbox, unique("runtime"), "--model={model}")
    name = path.rsplit("/", 1)[1]
    team.deploy(runtime=name, scaling={"minReplicas": 2})
    team.await_ready(replicas=2)
    pods = {pod["metadata"]["uid"] for pod in team.pods()}
    sandbox.request("DELETE", path)
    same(("False", "RuntimeNotFound"), lambda: team.condition("Ready"), seconds=10)
    operator.await_ticks(3)
    still = {pod["metadata"]["uid"] for pod in team.pods()}
    create_runtime(sandbox, name, "--model={model}")
    try:
        team.await_ready(replicas=2)
    finally:
        sandbox.request("DELETE", path)

    assert pods == still == {pod["metadata"]["uid"] for pod in team.pods()}
