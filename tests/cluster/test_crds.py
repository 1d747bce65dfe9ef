"""The committed CRDs on a real API server: taken, explained, defaulted, printed, scaled, and refused with reasons."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.api.inferenceruntime import InferenceRuntimeSpec
from modelfleet.api.kinds import KINDS, Kind
from modelfleet.api.meta import API_VERSION, GROUP, Model
from modelfleet.api.modeldeployment import ModelDeploymentSpec
from modelfleet.api.tenant import TenantSpec
from modelfleet.api.tenantview import TenantViewSpec
from sandbox.cluster import RequestFailed, Sandbox, SandboxError
from tests.api.structural import CRDS

ESTABLISH_SECONDS = 20

MINIMAL = f"""\
apiVersion: {API_VERSION}
kind: ModelDeployment
metadata: {{name: small}}
spec:
  model: {{name: meta-llama/Llama-3.1-8B-Instruct}}
  runtime: vllm
  accelerator: h100
"""
VIEW = {"tenant": "team-a", "used": "h100 0/8", "waiting": 0, "reason": "WithinNominal", "message": ""}

pytestmark = pytest.mark.xdist_group("crds")


@pytest.fixture(scope="module", autouse=True)
def installed(sandbox: Sandbox) -> None:
    install_crds(sandbox)


def install_crds(sandbox: Sandbox) -> None:
    """Apply the committed CRDs and return once kubectl knows every kind."""
    sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    # Discovery and OpenAPI know the kinds a moment after they are established. (`kubectl wait` fails at once on a
    # definition that has no conditions yet.)
    for kind in KINDS:
        await_explained(sandbox, kind)


def await_explained(sandbox: Sandbox, kind: Kind) -> None:
    give_up = time.monotonic() + ESTABLISH_SECONDS
    while True:
        try:
            sandbox.kubectl("explain", kind.short_names[0])
            return
        except SandboxError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)


def path_of(namespace: str, name: str = "") -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/modeldeployments" + (f"/{name}" if name else "")


def minimal(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load(MINIMAL)
    manifest["metadata"]["name"] = name
    return manifest


@pytest.fixture
def deployment(sandbox: Sandbox, namespace: str) -> Iterator[str]:
    """The path of a ModelDeployment with the fewest fields, in a namespace of its own."""
    sandbox.request("POST", path_of(namespace), minimal("small"))
    yield path_of(namespace, "small")
    sandbox.request("DELETE", path_of(namespace, "small"))


def refusal(sandbox: Sandbox, method: str, path: str, body: Any) -> list[tuple[str, str]]:
    """Return the field and the message of every cause for which the server refuses."""
    with pytest.raises(RequestFailed) as caught:
        sandbox.request(method, path, body)
    assert caught.value.code == 422, caught.value
    answer = json.loads(str(caught.value).split(": ", 1)[1])
    return [(cause["field"], cause["message"]) for cause in answer["details"]["causes"]]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_accepted_without_complaint(sandbox: Sandbox, kind: Kind) -> None:
    manifest = sandbox.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.{GROUP}")
    conditions = {condition["type"]: condition["status"] for condition in manifest["status"]["conditions"]}
    # NonStructuralSchema and KubernetesAPIApprovalPolicyConformant appear only as complaints.
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    assert manifest["status"]["acceptedNames"]["categories"] == ["modelfleet"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_stored_as_written(sandbox: Sandbox, kind: Kind) -> None:
    committed = yaml.safe_load((CRDS / f"{GROUP}_{kind.plural}.yaml").read_text())
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.{GROUP}"
    stored = sandbox.request("GET", path)["spec"]
    assert stored.pop("conversion") == {"strategy": "None"}
    assert stored == committed["spec"]


@pytest.mark.parametrize(
    ("field", "words"),
    {
        "mdep": ["What a team asks for.", "What is, what is wanted"],
        "mdep.spec.scaling": [
            "Bounds, targets and damping.",
            "minReplicas\t<integer>",
            "Fewest replicas. `kubectl scale` sets this floor.",
            "How much load one replica should carry.",
            "enum: Auto, Recommend, Paused",
        ],
        "mdep.spec.scaling.behavior.scaleUp.policies": ["Pods counts replicas", "-required-"],
        "mdep.status.decision.steps": ["The arithmetic."],
        "accel.spec.nodeSelector": ["Node labels that select this class"],
        "irt.spec.image": ["Pin a digest in production"],
        "tn.spec": ["A class that is not listed is closed to the tenant", "A namespace that an older Tenant names"],
        "tn.status.classes": ["GPUs of nominalQuota that others use"],
        "tview.spec.classes": ["Sum of minReplicas x gpusPerReplica", "When absent: all that is idle"],
    }.items(),
)
def test_explain_reads_well(sandbox: Sandbox, field: str, words: list[str]) -> None:
    text = sandbox.kubectl("explain", field)
    assert not [word for word in words if word not in " ".join(text.split("\n    "))], text


@pytest.mark.parametrize(
    ("path", "model", "manifest", "wanted"),
    [
        (
            "namespaces/default/modeldeployments",
            ModelDeploymentSpec,
            minimal("defaults"),
            {
                "model": {"name": "meta-llama/Llama-3.1-8B-Instruct", "revision": "main"},
                "runtime": "vllm",
                "accelerator": "h100",
                "gpusPerReplica": 1,
                "scaling": {
                    "minReplicas": 1,
                    "maxReplicas": 4,
                    "targets": {"queuedRequests": 8, "interTokenMilliseconds": 50},
                    "latencyWeight": 30,
                    "behavior": {
                        "scaleUp": {
                            "stabilizationWindowSeconds": 0,
                            "policies": [
                                {"type": "Percent", "value": 100, "periodSeconds": 15},
                                {"type": "Pods", "value": 4, "periodSeconds": 15},
                            ],
                            "enabled": True,
                        },
                        "scaleDown": {
                            "policies": [
                                {"type": "Percent", "value": 50, "periodSeconds": 60},
                                {"type": "Pods", "value": 1, "periodSeconds": 60},
                            ],
                            "enabled": True,
                        },
                        "tolerancePercent": 10,
                    },
                    "mode": "Auto",
                },
                "priority": 0,
                "drainSeconds": 120,
                "startTimeoutSeconds": 1800,
            },
        ),
        (
            "acceleratorclasses",
            AcceleratorClassSpec,
            {
                "apiVersion": API_VERSION,
                "kind": "AcceleratorClass",
                "metadata": {"name": "defaults"},
                "spec": {"nodeSelector": {"nvidia.com/gpu.product": "H100"}, "tolerations": [{}]},
            },
            {
                "resourceName": "nvidia.com/gpu",
                "nodeSelector": {"nvidia.com/gpu.product": "H100"},
                "tolerations": [{"key": "", "operator": "Exists", "value": "", "effect": ""}],
            },
        ),
        (
            "inferenceruntimes",
            InferenceRuntimeSpec,
            {
                "apiVersion": API_VERSION,
                "kind": "InferenceRuntime",
                "metadata": {"name": "defaults"},
                "spec": {"engine": "vllm", "image": "vllm/vllm-openai:v0.11.0"},
            },
            {
                "engine": "vllm",
                "image": "vllm/vllm-openai:v0.11.0",
                "cacheMountPath": "/models",
                "resources": {"cpu": "4", "memory": "16Gi", "sharedMemory": "8Gi"},
            },
        ),
        (
            "tenants",
            TenantSpec,
            {
                "apiVersion": API_VERSION,
                "kind": "Tenant",
                "metadata": {"name": "defaults"},
                "spec": {"namespaces": ["team-a"], "quotas": [{"accelerator": "h100", "nominalQuota": 8}]},
            },
            {"namespaces": ["team-a"], "quotas": [{"accelerator": "h100", "nominalQuota": 8, "weight": 1}]},
        ),
        (
            "namespaces/default/tenantviews",
            TenantViewSpec,
            {
                "apiVersion": API_VERSION,
                "kind": "TenantView",
                "metadata": {"name": "defaults"},
                "spec": {
                    **VIEW,
                    "classes": [{"accelerator": "h100", "nominalQuota": 8, "minimums": 0, "largestNodeGpus": 8}],
                },
            },
            {
                **VIEW,
                "classes": [
                    {
                        "accelerator": "h100",
                        "nominalQuota": 8,
                        "minimums": 0,
                        "largestNodeGpus": 8,
                        **dict.fromkeys(("guaranteed", "used", "borrowed", "lent", "waiting"), 0),
                    }
                ],
            },
        ),
    ],
    ids=[kind.kind for kind in KINDS],
)
def test_fewest_fields_get_every_default(
    sandbox: Sandbox, path: str, model: type[Model], manifest: dict[str, Any], wanted: dict[str, Any]
) -> None:
    stored = sandbox.request("POST", f"/apis/{API_VERSION}/{path}?dryRun=All", manifest)
    assert stored["spec"] == wanted
    assert model.model_validate(stored["spec"]) == model.model_validate(manifest["spec"])


def test_partly_given_scaling_gets_the_other_defaults(sandbox: Sandbox, namespace: str) -> None:
    manifest = minimal("partly")
    manifest["spec"]["scaling"] = {"maxReplicas": 9, "behavior": {"scaleUp": {"enabled": False}}}
    scaling = sandbox.request("POST", f"{path_of(namespace)}?dryRun=All", manifest)["spec"]["scaling"]
    assert (scaling["minReplicas"], scaling["maxReplicas"], scaling["mode"]) == (1, 9, "Auto")
    assert scaling["behavior"]["scaleUp"]["enabled"] is False
    assert len(scaling["behavior"]["scaleUp"]["policies"]) == 2
    assert scaling["behavior"]["tolerancePercent"] == 10


def test_columns(sandbox: Sandbox, namespace: str, deployment: str) -> None:
    status = {
        "ready": "4/4",
        "desiredReplicas": 5,
        "wantedReplicas": 9,
        "load": "queue 41/24 tok/s 9.1k",
        "limitedBy": "MaxReplicas",
        "reason": "Limited",
        "mode": "Auto",
        "bounds": "1-5",
    }
    sandbox.request("PATCH", f"{deployment}/status", {"status": status})
    header, row = sandbox.kubectl("get", "mdep", f"--namespace={namespace}").splitlines()
    assert header.split() == ["NAME", "READY", "DESIRED", "WANTED", "LOAD", "LIMITED-BY", "REASON", "MODE", "AGE"]
    assert row.split()[:5] == ["small", "4/4", "5", "9", "queue"]
    assert row.split()[5:-1] == ["41/24", "tok/s", "9.1k", "MaxReplicas", "Limited", "Auto"]
    wide, row = sandbox.kubectl("get", "mdep", f"--namespace={namespace}", "-o", "wide").splitlines()
    assert wide.split()[7:] == ["MODE", "AGE", "MODEL", "RUNTIME", "ACCELERATOR", "BOUNDS"]
    assert row.split()[-4:] == ["meta-llama/Llama-3.1-8B-Instruct", "vllm", "h100", "1-5"]


def test_columns_of_a_tenant(sandbox: Sandbox) -> None:
    sandbox.request("POST", f"/apis/{API_VERSION}/tenants", {**tenant(), "metadata": {"name": "columns"}})
    try:
        status = {"guaranteed": 8, "used": 10, "borrowed": 2, "lent": 0, "waiting": 4, "reason": "Borrowing"}
        sandbox.request("PATCH", f"/apis/{API_VERSION}/tenants/columns/status", {"status": status})
        header, row = sandbox.kubectl("get", "tn", "columns").splitlines()
    finally:
        sandbox.request("DELETE", f"/apis/{API_VERSION}/tenants/columns")
    assert header.split() == ["NAME", "GUARANTEED", "USED", "BORROWED", "LENT", "WAITING", "REASON", "AGE"]
    assert row.split()[:-1] == ["columns", "8", "10", "2", "0", "4", "Borrowing"]


def test_kubectl_scale_moves_the_floor(sandbox: Sandbox, namespace: str, deployment: str) -> None:
    sandbox.request("PATCH", f"{deployment}/status", {"status": {"replicas": 2, "selector": "a=b"}})
    sandbox.kubectl("scale", "mdep/small", "--replicas=3", f"--namespace={namespace}")
    assert sandbox.request("GET", deployment)["spec"]["scaling"]["minReplicas"] == 3
    scale = sandbox.request("GET", f"{deployment}/scale")
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "a=b"}
    with pytest.raises(SandboxError, match=r"spec\.scaling\.minReplicas.*raise maxReplicas"):
        sandbox.kubectl("scale", "mdep/small", "--replicas=5", f"--namespace={namespace}")
    with pytest.raises(SandboxError, match=r"spec\.scaling\.minReplicas.*greater than or equal to 1"):
        sandbox.kubectl("scale", "mdep/small", "--replicas=0", f"--namespace={namespace}")
    assert sandbox.request("GET", deployment)["spec"]["scaling"]["minReplicas"] == 3


def test_short_names_and_category(sandbox: Sandbox, namespace: str, deployment: str) -> None:
    for kind in KINDS:
        for short in kind.short_names:
            sandbox.kubectl("get", short)
    listed = sandbox.kubectl("get", "modelfleet", f"--namespace={namespace}", "-o", "name")
    assert "modeldeployment.modelfleet.dev/small" in listed.split()
    in_category = sandbox.kubectl("api-resources", "--categories=modelfleet", "-o", "name").split()
    assert set(in_category) == {f"{kind.plural}.{GROUP}" for kind in KINDS}


def test_status_is_written_through_its_subresource_only(sandbox: Sandbox, deployment: str) -> None:
    before = sandbox.request("GET", deployment)
    sandbox.request("PATCH", deployment, {"status": {"replicas": 7}})
    assert "status" not in sandbox.request("GET", deployment)
    sandbox.request("PATCH", f"{deployment}/status", {"status": {"replicas": 7}, "spec": {"priority": 9}})
    after = sandbox.request("GET", deployment)
    assert after["status"] == {"replicas": 7}
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_status_has_no_defaults_of_its_own(sandbox: Sandbox, deployment: str) -> None:
    condition = {"type": "Ready", "status": "True", "reason": "Available", "lastTransitionTime": "2026-01-02T03:04:05Z"}
    sandbox.request("PATCH", f"{deployment}/status", {"status": {"conditions": [condition]}})
    assert sandbox.request("GET", deployment)["status"] == {"conditions": [condition]}
    twice = {"status": {"conditions": [condition, {**condition, "status": "False"}]}}
    assert ("status.conditions[1]", 'Duplicate value: {"type":"Ready"}') in refusal(
        sandbox, "PATCH", f"{deployment}/status", twice
    )


def test_accelerator_is_fixed_while_replicas_exist(sandbox: Sandbox, deployment: str) -> None:
    change = {"spec": {"accelerator": "a100"}}
    message = "accelerator cannot change while replicas exist; create a second ModelDeployment instead"

    # Nothing ran yet: no status, then a status without a count, then a count of none.
    sandbox.request("PATCH", f"{deployment}?dryRun=All", change)
    sandbox.request("PATCH", f"{deployment}/status", {"status": {"reason": "Starting"}})
    sandbox.request("PATCH", f"{deployment}?dryRun=All", change)
    sandbox.request("PATCH", f"{deployment}/status", {"status": {"replicas": 0}})
    sandbox.request("PATCH", f"{deployment}?dryRun=All", change)

    sandbox.request("PATCH", f"{deployment}/status", {"status": {"replicas": 1}})
    causes = refusal(sandbox, "PATCH", deployment, change)
    assert causes == [("spec.accelerator", f"Invalid value: {message}")]
    # The rule does not stand in the way of other changes, nor of the operator's own writes.
    sandbox.request("PATCH", deployment, {"spec": {"priority": 3}})
    sandbox.request("PATCH", f"{deployment}/status", {"status": {"replicas": 0}})
    assert sandbox.request("PATCH", deployment, change)["spec"]["accelerator"] == "a100"


def cluster_scoped(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "refused"}, "spec": spec}


def scaled(**scaling: Any) -> dict[str, Any]:
    manifest = minimal("refused")
    manifest["spec"]["scaling"] = scaling
    return manifest


def accelerator(**spec: Any) -> dict[str, Any]:
    return cluster_scoped("AcceleratorClass", {"nodeSelector": {"gpu": "h100"}, **spec})


def runtime(**spec: Any) -> dict[str, Any]:
    return cluster_scoped("InferenceRuntime", {"engine": "vllm", "image": "vllm:v1", **spec})


def tenant(**spec: Any) -> dict[str, Any]:
    quotas = [{"accelerator": "h100", "nominalQuota": 8}]
    return cluster_scoped("Tenant", {"namespaces": ["team-a"], "quotas": quotas, **spec})


PLACEHOLDERS = "a word in braces must be a placeholder; known are {drainSeconds}, {gpus}, {model}, {port}, {revision}"

REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "min above max": (
        scaled(minReplicas=5, maxReplicas=4),
        "spec.scaling.minReplicas",
        "minReplicas must not be greater than maxReplicas; raise maxReplicas or lower minReplicas",
    ),
    "min above the default max": (
        scaled(minReplicas=5),
        "spec.scaling.minReplicas",
        "minReplicas must not be greater than maxReplicas; raise maxReplicas or lower minReplicas",
    ),
    "name with a dot": (
        minimal("a.b"),
        "metadata.name",
        "name must be a DNS label: lower-case letters, digits and '-', and no dots",
    ),
    "name that starts with a digit": (
        minimal("7b"),
        "metadata.name",
        "name must start with a letter: the Service takes it, and Kubernetes before 1.35 asks so",
    ),
    "image latest": (
        runtime(image="vllm/vllm-openai:latest"),
        "spec.image",
        "image must not use the tag latest; pin a digest or a release tag",
    ),
    "image latest behind a port": (
        runtime(image="registry.local:5000/vllm:latest"),
        "spec.image",
        "image must not use the tag latest; pin a digest or a release tag",
    ),
    "cache over the shared memory": (
        runtime(cacheMountPath="/dev/shm"),  # noqa: S108 - a path in the replica
        "spec.cacheMountPath",
        "cacheMountPath must not be /dev/shm, which holds the shared memory; use another directory",
    ),
    "unknown placeholder in an argument": (runtime(args=["{model}", "--x={nope}"]), "spec.args[1]", PLACEHOLDERS),
    "unknown placeholder in the command": (runtime(command=["{nope}"]), "spec.command[0]", PLACEHOLDERS),
    "unknown placeholder in the environment": (
        runtime(env=[{"name": "A", "value": "{nope}"}]),
        "spec.env[0].value",
        PLACEHOLDERS,
    ),
    "toleration value with Exists": (
        accelerator(tolerations=[{"key": "gpu", "value": "x"}]),
        "spec.tolerations[0].value",
        "value must be empty when operator is Exists; use operator Equal or drop the value",
    ),
    "toleration of no key with Equal": (
        accelerator(tolerations=[{"operator": "Equal"}]),
        "spec.tolerations[0].key",
        "key must not be empty when operator is Equal; name the taint or use operator Exists",
    ),
    "resource as a quota writes it": (
        accelerator(resourceName="requests.nvidia.com/gpu"),
        "spec.resourceName",
        "resourceName must not start with requests. as in a ResourceQuota; drop that prefix",
    ),
    "namespace named twice": (
        tenant(namespaces=["team-a", "team-b", "team-a"]),
        "spec.namespaces",
        "namespaces must not name one twice; drop the second",
    ),
    "lends more than it has": (
        tenant(quotas=[{"accelerator": "h100", "nominalQuota": 8, "lendingLimit": 9}]),
        "spec.quotas[0].lendingLimit",
        "lendingLimit must not be greater than nominalQuota; lower it, or raise nominalQuota",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_names_the_field_and_the_remedy(sandbox: Sandbox, name: str) -> None:
    manifest, field, message = REFUSALS[name]
    [(refused, text)] = refusal(sandbox, "POST", collection(manifest), manifest)
    assert refused == field
    # The server puts a string's value before the message, an object's not.
    assert text.startswith("Invalid value: ") and text.endswith(message)


def collection(manifest: dict[str, Any]) -> str:
    [kind] = [kind for kind in KINDS if kind.kind == manifest["kind"]]
    scope = "namespaces/default/" if kind.scope == "Namespaced" else ""
    return f"/apis/{API_VERSION}/{scope}{kind.plural}?dryRun=All"


TAKEN: dict[str, dict[str, Any]] = {
    "min equal to max": scaled(minReplicas=4, maxReplicas=4),
    "longest name": minimal("a" * 63),
    "image by digest": runtime(image=f"vllm@sha256:{'0' * 64}"),
    "tag that begins with latest": runtime(image="vllm:latest-v1"),
    "braces that hold no word": runtime(args=['--override={"a": {"b": 1}}', "{model}{gpus}{}"]),
    "tolerations": accelerator(tolerations=[{"key": "gpu", "operator": "Equal", "value": "x"}, {"key": "gpu"}, {}]),
    "lends all it has": tenant(quotas=[{"accelerator": "h100", "nominalQuota": 8, "lendingLimit": 8}]),
    "most namespaces": tenant(namespaces=[f"team-{number}" for number in range(64)]),
    "slice of a GPU": accelerator(resourceName="nvidia.com/mig-1g.10gb"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_the_nearest_neighbour_of_a_refusal_is_taken(sandbox: Sandbox, name: str) -> None:
    sandbox.request("POST", collection(TAKEN[name]), TAKEN[name])
