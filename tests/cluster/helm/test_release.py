"""The life of a release on a real API server: installed, tested, upgraded, rolled back, removed, with models alive."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelfleet.api.kinds import KINDS
from modelfleet.api.meta import API_VERSION, GROUP, VERSION
from sandbox.cluster import CHECKOUT, RequestFailed, Sandbox
from sandbox.fleet import CHART, NAMESPACE
from tests.cluster.helm.client import Helm, HelmFailed
from tests.cluster.helm.kubelet import Kubelet
from tests.cluster.operator.scene import USER, WRITING_VERBS, Audit, Team, described, same, until

pytestmark = pytest.mark.xdist_group("helm")

Json = dict[str, Any]

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modeldeployments.modelfleet.dev"
RUNTIMES = f"/apis/{API_VERSION}/inferenceruntimes"
OLD_IMAGE = "vllm/vllm-openai:v0.1.0"
RBAC = "rbac.authorization.k8s.io"
DECISION = "authorization.k8s.io/decision"
WAIT = ("--wait", "--timeout", "60s")


def everything(sandbox: Sandbox) -> set[str]:
    """Return every object of the cluster, but what passes by itself and what Kubernetes keeps for itself."""
    kinds = sandbox.kubectl("api-resources", "--verbs=list", "-o", "name", "--cached=false").split()
    passing = {"events", "events.events.k8s.io", "pods", "componentstatuses", "ipaddresses.networking.k8s.io"}
    wanted = [kind for kind in kinds if kind not in passing]
    listed = json.loads(sandbox.kubectl("get", ",".join(wanted), "-A", "-o", "json"))["items"]
    return {
        f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
        for item in listed
        if not item["metadata"].get("namespace", "").startswith("kube-")
    }


def operators(sandbox: Sandbox) -> list[Json]:
    """Return the operator's pods that stay."""
    selector = "app.kubernetes.io%2Fcomponent%3Doperator"
    found = sandbox.request("GET", f"{PODS}?labelSelector={selector}")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def ready(pods: list[Json]) -> list[bool]:
    """Return which of the pods are ready."""
    return [pod["status"]["conditions"][-1] == {**pod["status"]["conditions"][-1], "status": "True"} for pod in pods]


def arguments(pods: list[Json]) -> set[str]:
    """Return the arguments of the pods' containers."""
    return set(chain.from_iterable(pod["spec"]["containers"][0]["args"] for pod in pods))


def model(team: Team) -> tuple[Any, ...]:
    """Return what an upgrade must not touch: identity, spec and pods of the model and of what belongs to it."""
    item, children = team.get(), [team.child(kind) for kind in ("Deployment", "Service", "PodDisruptionBudget")]
    return (
        *((each["metadata"]["uid"], each["metadata"].get("generation"), each["spec"]) for each in (item, *children)),
        sorted(pod["metadata"]["uid"] for pod in team.pods()),
    )


def fields(sandbox: Sandbox) -> set[str]:
    """Return the fields of a ModelDeployment's spec.model as the API server knows them."""
    (version,) = sandbox.request("GET", CRD)["spec"]["versions"]
    return set(version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["model"]["properties"])


def images(sandbox: Sandbox) -> dict[str, str]:
    """Return the image of each InferenceRuntime."""
    items = sandbox.request("GET", RUNTIMES)["items"]
    return {item["metadata"]["name"]: item["spec"]["image"] for item in items}


def may(sandbox: Sandbox, user: str, verb: str, resource: str, *, namespace: str = "", group: str = GROUP) -> bool:
    """Return what the API server's authorizer says."""
    name, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": subresource}
    review = {"spec": {"user": user, "resourceAttributes": attributes}}
    answer = sandbox.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def people(sandbox: Sandbox, namespace: str) -> dict[str, set[str]]:
    """Bind the cluster's own roles in a namespace, and return what each of them may do with the kinds there."""
    found = {}
    for role in ("view", "edit", "admin"):
        binding = {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": f"{role}er"}],
        }
        with suppress(RequestFailed):  # it is there
            sandbox.request("POST", f"/apis/{RBAC}/v1/namespaces/{namespace}/rolebindings", binding)
        asked = {
            f"{verb} {resource}"
            for resource in (
                "modeldeployments",
                "modeldeployments/scale",
                "modeldeployments/status",
                "tenantviews",
                "tenants",
            )
            for verb in ("get", "list", "create", "patch", "delete")
        }
        found[role] = {each for each in asked if may(sandbox, f"{role}er", *each.split(), namespace=namespace)}
    return found


def earlier(chart: Callable[..., Path]) -> Path:
    """Make the chart as an earlier version could have had it: one field less, an older engine, one preset less."""

    def without_a_field(crd: Json) -> None:
        del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["model"][
            "properties"
        ]["tokenSecretName"]

    def older_image(runtime: Json) -> None:
        runtime["spec"]["image"] = OLD_IMAGE

    copy = chart(
        "0.1.99",
        {
            "files/crds/modelfleet.dev_modeldeployments.yaml": without_a_field,
            "presets/runtimes/vllm.yaml": older_image,
        },
    )
    (copy / "presets/runtimes/sglang.yaml").unlink()
    return copy


def test_a_release_from_install_to_uninstall(
    sandbox: Sandbox, kubelet: Kubelet, helm: Helm, changed_chart: Callable[..., Path]
) -> None:
    before = everything(sandbox)
    audit = Audit(sandbox, "modelfleet", "modelfleet-presets")

    # Where the API server itself refuses a pod that asks for more than the restricted standard allows.
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    sandbox.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})

    # Install. When --wait returns both pods could lead, one does, and a model can name a preset.
    helm("install", "modelfleet", str(earlier(changed_chart)), *WAIT)
    assert ready(operators(sandbox)) == [True, True]
    assert kubelet.log("modelfleet-").count('"event": "leading"') == 1
    assert images(sandbox)["vllm"] == OLD_IMAGE
    assert "sglang" not in images(sandbox)
    assert "tokenSecretName" not in fields(sandbox)
    team = Team.create(sandbox)
    team.deploy()
    team.await_ready()
    helm("test", "modelfleet")
    assert kubelet.log("modelfleet-test").splitlines() == ["CRDs: all served", "operator: ok"]

    # Teams have the kinds through the cluster's own roles: their models, and nothing of the administrators'.
    reads = {f"{verb} {resource}" for verb in ("get", "list") for resource in ("modeldeployments", "tenantviews")}
    reads |= {"get modeldeployments/status", "list modeldeployments/status", "get modeldeployments/scale"}
    writes = {f"{verb} modeldeployments" for verb in ("create", "patch", "delete")} | {"patch modeldeployments/scale"}
    expected = {"view": reads, "edit": reads | writes, "admin": reads | writes}
    same(expected, lambda: people(sandbox, team.namespace))

    # Upgrade, with other values. The CRDs come along, and presets that are new; the model notices nothing.
    serving = model(team)
    helm("upgrade", "modelfleet", str(CHART), "--set", "tickSeconds=2,unboundMayBorrow=false", *WAIT)
    pods = operators(sandbox)
    assert ready(pods) == [True, True]
    assert {"--tick-seconds=2", "--no-unbound-may-borrow"} <= arguments(pods)
    assert "tokenSecretName" in fields(sandbox)
    assert images(sandbox)["vllm"] == OLD_IMAGE
    assert "sglang" in images(sandbox)
    assert "InferenceRuntime/vllm: is there already, left as it is" in kubelet.log("modelfleet-presets")
    until(lambda: any('"event": "deciding"' in kubelet.log(pod["metadata"]["name"]) for pod in pods))
    assert model(team) == serving

    # Nobody but helm wrote what a GitOps tool would compare.
    manifest = helm("get", "manifest", "modelfleet")
    live = json.loads(sandbox.kubectl("get", "--show-managed-fields", "-f", "-", "-o", "json", input=manifest))["items"]
    writers = {
        f"{item['kind']} {entry['manager']}"
        for item in live
        for entry in item["metadata"]["managedFields"]
        if entry.get("subresource") != "status" and entry["manager"] != "helm"
    }
    assert len(live) > 10
    assert writers == set()

    # Rollback: the values and the CRDs of then.
    helm("rollback", "modelfleet", "1", *WAIT)
    pods = operators(sandbox)
    assert ready(pods) == [True, True]
    assert "--tick-seconds=1" in arguments(pods)
    assert "tokenSecretName" not in fields(sandbox)
    assert model(team) == serving

    # The accounts that the chart made were enough for all of it.
    assert len(audit.requests()) > 100
    refused = [entry for entry in audit.requests() if entry["annotations"].get(DECISION) != "allow"]
    assert [described(entry) for entry in refused] == []

    # Uninstall: what stays is what NOTES say, and the model still serves.
    notes = helm("get", "notes", "modelfleet")
    assert "keeps the CRDs, every object of theirs" in notes and "the Lease modelfleet" in notes
    helm("uninstall", "modelfleet", *WAIT)
    until(lambda: operators(sandbox) == [])
    left = everything(sandbox) - before
    presets = [yaml.safe_load(file.read_text()) for file in sorted((CHART / "presets").glob("*/*.yaml"))]
    said = {
        *(f"CustomResourceDefinition /{kind.plural}.{GROUP}" for kind in KINDS),
        f"APIService /{VERSION}.{GROUP}",
        *(f"{preset['kind']} /{preset['metadata']['name']}" for preset in presets),
        f"Lease {NAMESPACE}/modelfleet",
    }
    # What Kubernetes puts into every namespace, and the team's own.
    namespace = {
        f"Namespace /{NAMESPACE}",
        f"ServiceAccount {NAMESPACE}/default",
        f"ConfigMap {NAMESPACE}/kube-root-ca.crt",
    }
    of_team = {each for each in left if each.partition(" ")[2].startswith((f"{team.namespace}/", f"/{team.namespace}"))}
    assert left - of_team == said | namespace
    assert f"ModelDeployment {team.namespace}/llama" in of_team
    assert model(team) == serving

    # Install again, now for that team alone: the kept CRDs are taken over, other namespaces are read and not written.
    other = Team.create(sandbox)
    other.deploy()
    audit = Audit(sandbox, "modelfleet")
    helm("install", "modelfleet", str(CHART), "--set", f"watchNamespaces={{{team.namespace}}}", *WAIT)
    assert "tokenSecretName" in fields(sandbox)
    assert f"namespace: {team.namespace}}}" in helm("get", "notes", "modelfleet")
    until(lambda: any('"event": "deciding"' in kubelet.log(pod["metadata"]["name"]) for pod in operators(sandbox)))
    assert model(team) == serving
    team.change(scaling={"minReplicas": 2})
    team.await_ready(replicas=2)
    assert (other.child(), other.status()) == (None, {})
    assert {
        entry["objectRef"].get("namespace", "") for entry in audit.requests() if entry["verb"] in WRITING_VERBS
    } == {
        "",
        NAMESPACE,
        team.namespace,
    }
    for resource, group in (("modeldeployments/status", GROUP), ("deployments", "apps"), ("pods", "")):
        rights = [
            may(sandbox, USER, "patch", resource, namespace=n, group=group) for n in (team.namespace, other.namespace)
        ]
        assert rights == [True, False], resource
    helm("uninstall", "modelfleet", *WAIT)
    team.end()
    other.end()


def test_wait_fails_while_no_pod_could_lead(
    sandbox: Sandbox, kubelet: Kubelet, helm: Helm, changed_chart: Callable[..., Path]
) -> None:
    """Every process runs and is alive, but none may write the Lease: not ready, and helm says so."""
    chart = changed_chart("0.2.1", {})
    rbac = (chart / "templates/rbac.yaml").read_text()
    broken = rbac.replace("verbs: [get, list, watch, update]", "verbs: [list, watch]")
    assert broken != rbac
    (chart / "templates/rbac.yaml").write_text(broken)
    try:
        with pytest.raises(HelmFailed, match="deadline exceeded"):
            helm("install", "modelfleet", str(chart), "--create-namespace", "--wait", "--timeout", "12s")
        # However slow this machine: both get as far as the Lease, and no further.
        for pod in operators(sandbox):
            name = pod["metadata"]["name"]
            until(lambda name=name: "the lease cannot be read or written" in kubelet.log(name))  # type: ignore[misc]
        pods = operators(sandbox)
        assert [pod["status"]["phase"] for pod in pods] == ["Running", "Running"]
        assert ready(pods) == [False, False]
    finally:
        helm("uninstall", "modelfleet", *WAIT)


def test_definitions_of_kubectl_are_taken_over_when_asked(sandbox: Sandbox, helm: Helm) -> None:
    sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHECKOUT / "crds"))
    owner = [f"meta.helm.sh/release-{part}-" for part in ("name", "namespace")]
    sandbox.kubectl("annotate", *(f"crd/{kind.plural}.{GROUP}" for kind in KINDS), *owner)
    small = ("--create-namespace", "--set", "replicas=0,presets.runtimes=false,presets.accelerators=false")
    with pytest.raises(HelmFailed, match="invalid ownership metadata"):
        helm("install", "modelfleet", str(CHART), *small)
    helm("install", "modelfleet", str(CHART), *small, "--set", "crds.install=false")
    helm("uninstall", "modelfleet", *WAIT)
    helm("install", "modelfleet", str(CHART), *small, "--take-ownership")
    assert sandbox.request("GET", CRD)["metadata"]["annotations"]["meta.helm.sh/release-name"] == "modelfleet"
    helm("uninstall", "modelfleet", *WAIT)
