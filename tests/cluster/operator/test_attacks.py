"""A team's own user against everybody else: whatever it tries, another tenant's share, usage and pods stay.

Mallory has every right there is within her own namespace (the ClusterRole cluster-admin, bound there). The reading of
the victim is taken from the API server's objects alone, and counts GPUs from pods itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION, DEPLOYMENT_LABEL, MANAGED_BY, MANAGED_BY_LABEL
from modelfleet.render.quota import QUOTA_NAME
from sandbox.cluster import RequestFailed, Sandbox
from sandbox.fleet import NAMESPACE, SERVICE_ACCOUNT
from tests.cluster.operator.people import Answer, Person
from tests.cluster.operator.scene import MODEL, USER, Audit, Cast, Team, Watched, gpu_class, ready, same, unique, until

pytestmark = pytest.mark.xdist_group("operator-admission")

Json = dict[str, Any]
GPU = "nvidia.com/gpu"
LIMIT = 4
"""Mallory's nominalQuota of 2, and 2 that are nobody's to borrow."""
LABELS = {DEPLOYMENT_LABEL: "own", MANAGED_BY_LABEL: MANAGED_BY}
STRATEGIC = "application/strategic-merge-patch+json"


@dataclass
class Scene:
    """Two tenants on one node of 8 GPUs: the victim has nominalQuota 4 and uses 2; Mallory's has 2 + 2 and uses 1."""

    cast: Cast
    operator: Watched
    accelerator: str
    victim: Team
    own: Team
    mallory: Person
    tenants: dict[str, str]
    made: list[str] = field(default_factory=list)

    @property
    def sandbox(self) -> Sandbox:
        return self.own.sandbox

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = "") -> Answer:
        return self.mallory.ask(method, path, body, kind=kind)

    def make(self, path: str, body: Json) -> Answer:
        """Create an object as Mallory; it goes with the end of the attack."""
        answer = self.ask("POST", path, body)
        if answer.code == 201:
            self.made.append(f"{path}/{answer.body['metadata']['name']}")
        return answer

    def path(self, api: str, plural: str, name: str = "", *, team: Team | None = None) -> str:
        prefix = f"{api}/namespaces/{(team or self.own).namespace}/{plural}"
        return f"{prefix}/{name}" if name else prefix

    def pod(self, **metadata: Any) -> Json:
        """Return a pod of one GPU."""
        container = {"name": "job", "image": "job", "resources": {"limits": {GPU: "1"}}}
        toleration = {"key": GPU, "operator": "Exists"}
        spec = {
            "containers": [container],
            "nodeSelector": {"nvidia.com/gpu.product": self.accelerator},
            "tolerations": [toleration],
            "terminationGracePeriodSeconds": 0,
        }
        return {"metadata": {"name": unique("pod"), **metadata}, "spec": spec}

    def model_deployment(self, name: str, **spec: Any) -> Json:
        wanted = {"model": {"name": MODEL}, "runtime": "vllm", "accelerator": self.accelerator, **spec}
        return {"apiVersion": API_VERSION, "kind": "ModelDeployment", "metadata": {"name": name}, "spec": wanted}

    def replica(self) -> str:
        """Return the name of one of Mallory's replicas."""
        return str(self.own.pods("own")[0]["metadata"]["name"])

    def owner(self, item: Json, api_version: str, kind: str) -> Json:
        metadata = item["metadata"]
        names = {"name": metadata["name"], "uid": metadata["uid"]}
        return {"apiVersion": api_version, "kind": kind, **names, "controller": True}

    def replica_set(self) -> Json:
        (found,) = self.sandbox.request("GET", self.path("/apis/apps/v1", "replicasets"))["items"]
        return dict(found)

    def clean(self) -> None:
        """Remove what the attack left, as an administrator."""
        while self.made:
            path = self.made.pop()
            try:
                self.sandbox.request("DELETE", path)
            except RequestFailed as error:
                assert error.code == 404, error
        until(lambda: len(all_pods(self.own)) == 1)


def all_pods(team: Team) -> list[Json]:
    return list(team.sandbox.request("GET", f"/api/v1/namespaces/{team.namespace}/pods")["items"])


def gpus(pod: Json) -> int:
    """Return what a pod of no sidecars holds: its containers together, or more where one that starts first has more."""

    def of(group: str) -> list[int]:
        return [int(each["resources"].get("limits", {}).get(GPU, 0)) for each in pod["spec"].get(group, [])]

    return max(sum(of("containers")), *of("initContainers"), 0)


def held(team: Team) -> int:
    """Return the GPUs of a namespace's pods that have not ended, whether they found a node or not."""
    return sum(gpus(pod) for pod in all_pods(team) if pod["status"].get("phase") not in ("Succeeded", "Failed"))


def reading(scene: Scene) -> Json:
    """Return the victim as the API server has it: nothing that may change while nobody touches it."""
    team, sandbox = scene.victim, scene.sandbox
    tenant = sandbox.request("GET", resource_path(API_VERSION, "Tenant", name=scene.tenants["victim"]))
    quota = sandbox.request("GET", scene.path("/api/v1", "resourcequotas", QUOTA_NAME, team=team))
    view = sandbox.request("GET", scene.path(f"/apis/{API_VERSION}", "tenantviews", "modelfleet", team=team))
    model, deployment = team.get("llama"), team.deployment("llama")
    told = ("guaranteed", "used", "borrowed", "lent", "waiting", "reason", "classes", "namespaces")
    counted = ("replicas", "readyReplicas", "desiredReplicas", "wantedReplicas", "limitedBy", "reason")
    return {
        "pods": sorted(
            (pod["metadata"]["name"], pod["metadata"]["uid"], pod["spec"].get("nodeName"), gpus(pod), ready(pod))
            for pod in all_pods(team)
        ),
        "held": held(team),
        "quota": [quota["metadata"]["uid"], quota["spec"]["hard"], quota["status"]],
        "tenant": [tenant["metadata"]["uid"], tenant["spec"], {name: tenant["status"][name] for name in told}],
        "view": [view["metadata"]["uid"], view["spec"]],
        "model": [model["metadata"]["uid"], model["spec"], {name: model["status"].get(name) for name in counted}],
        "deployment": [deployment["metadata"]["uid"], deployment["metadata"]["generation"]],
    }


def complaints(operator: Watched) -> list[Json]:
    """Return what the operator's log says went wrong within itself."""
    return [line for line in operator.lines() if line["level"] in ("error", "critical") or "exception" in line]


@pytest.fixture(scope="module")
def scene(cast: Cast) -> Iterator[tuple[Scene, Json]]:
    """The two tenants at rest, and the reading that every attack has to leave as it is."""
    operator, sandbox = cast.only(), cast.fleet.sandbox
    victim, own = Team.create(sandbox), Team.create(sandbox)
    names = {"victim": unique("victim"), "own": unique("mallory")}
    with gpu_class(sandbox, gpus=(8,)) as accelerator:
        for name, team, quota_of in (("victim", victim, (4, 0)), ("own", own, (2, 2))):
            spec = {"accelerator": accelerator, "nominalQuota": quota_of[0], "borrowingLimit": quota_of[1]}
            item = {
                "apiVersion": API_VERSION,
                "kind": "Tenant",
                "metadata": {"name": names[name]},
                "spec": {"namespaces": [team.namespace], "quotas": [spec]},
            }
            sandbox.request("POST", resource_path(API_VERSION, "Tenant"), item)
        victim.deploy("llama", accelerator=accelerator, scaling={"minReplicas": 2, "maxReplicas": 4})
        own.deploy("own", accelerator=accelerator, scaling={"minReplicas": 1, "maxReplicas": 4}, drainSeconds=0)
        mallory = Person(sandbox, "mallory").grant(own.namespace, "cluster-admin")
        found = Scene(cast, operator, accelerator, victim, own, mallory, names)
        victim.await_ready("llama", replicas=2)
        own.await_ready("own")
        for name, used in (("victim", 2), ("own", 1)):
            path = resource_path(API_VERSION, "Tenant", name=names[name])
            same((used, used, 0), lambda path=path: counts(sandbox, path))  # type: ignore[misc]
        for team, used in ((victim, 2), (own, 1)):
            path = found.path(f"/apis/{API_VERSION}", "tenantviews", "modelfleet", team=team)
            same(used, lambda path=path: sandbox.request("GET", path)["spec"]["classes"][0]["used"])  # type: ignore[misc]
        until(lambda: closed(found))
        operator.await_ticks(3)
        yield found, reading(found)
        for name in names.values():
            sandbox.request("DELETE", resource_path(API_VERSION, "Tenant", name=name))
        victim.end()
        own.end()


def counts(sandbox: Sandbox, path: str) -> tuple[int, int, int]:
    status = sandbox.request("GET", path).get("status", {})
    return (status.get("guaranteed"), status.get("used"), status.get("waiting"))


def closed(scene: Scene) -> bool:
    """Return whether the policies with parameters judge by now: the API server looks for new kinds now and then."""
    body = scene.model_deployment("closed", gpusPerReplica=64)
    return scene.ask("POST", scene.path(f"/apis/{API_VERSION}", "modeldeployments?dryRun=All"), body).code == 422


# --- what it takes for its own --------------------------------------------------------------------


def replica_of_its_own_making(scene: Scene) -> None:
    answer = scene.make(scene.path("/api/v1", "pods"), scene.pod(labels=LABELS))
    assert (answer.code, "metadata.labels" in answer.message) == (403, True)


def replica_that_claims_the_replica_set(scene: Scene) -> None:
    owners = [scene.owner(scene.replica_set(), "apps/v1", "ReplicaSet")]
    pod = scene.pod(labels=scene.replica_set()["spec"]["template"]["metadata"]["labels"], ownerReferences=owners)
    assert scene.make(scene.path("/api/v1", "pods"), pod).code == 403


def replica_set_that_claims_the_deployment(scene: Scene) -> None:
    deployment = scene.own.deployment("own")
    template = {"metadata": {"labels": {**LABELS, "fake": "1"}}, "spec": scene.pod()["spec"]}
    metadata = {"name": "fake", "labels": LABELS, "ownerReferences": [scene.owner(deployment, "apps/v1", "Deployment")]}
    spec = {"replicas": 2, "selector": {"matchLabels": {"fake": "1"}}, "template": template}
    assert scene.make(scene.path("/apis/apps/v1", "replicasets"), {"metadata": metadata, "spec": spec}).code == 403


def deployment_that_claims_the_model(scene: Scene) -> None:
    scene.make(scene.path(f"/apis/{API_VERSION}", "modeldeployments"), scene.model_deployment("bait"))
    owners = [scene.owner(scene.own.get("bait"), API_VERSION, "ModelDeployment")]
    template = {"metadata": {"labels": LABELS}, "spec": scene.pod()["spec"]}
    body = {
        "metadata": {"name": "bait", "labels": LABELS, "ownerReferences": owners},
        "spec": {"replicas": 3, "selector": {"matchLabels": LABELS}, "template": template},
    }
    until(lambda: scene.own.child("Deployment", "bait"))
    assert scene.ask("DELETE", scene.path("/apis/apps/v1", "deployments", "bait")).code == 200
    assert scene.make(scene.path("/apis/apps/v1", "deployments"), body).code in (403, 409)


def pods_that_wear_the_labels_by_another_owner(scene: Scene) -> None:
    """Its pods are let through, for a controller makes them: they are pods of the team, and no replicas."""
    labels = {DEPLOYMENT_LABEL: "own", "fake": "2"}
    template = {"metadata": {"labels": labels}, "spec": scene.pod()["spec"]}
    body = {
        "metadata": {"name": "fake"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }
    assert scene.make(scene.path("/apis/apps/v1", "deployments"), body).code == 201
    until(lambda: len(scene.own.pods("own")) == 2)
    scene.operator.await_ticks(2)
    assert scene.own.status("own")["replicas"] == 1


def template_of_the_deployment(scene: Scene) -> None:
    miner = {"name": "miner", "image": "miner", "resources": {"limits": {GPU: "2"}}}
    patch = {"spec": {"template": {"spec": {"containers": [miner]}}}}
    path = scene.path("/apis/apps/v1", "deployments", "own")
    assert scene.ask("PATCH", path, patch, kind=STRATEGIC).code == 403


def count_of_the_deployment(scene: Scene) -> None:
    path = scene.path("/apis/apps/v1", "deployments", "own")
    assert scene.ask("PATCH", path, {"spec": {"replicas": 4}}).code == 403
    answer = scene.ask("PATCH", f"{path}/scale", {"spec": {"replicas": 4}})
    assert (answer.code, "scale the ModelDeployment" in answer.message) == (403, True)


def count_of_the_replica_set(scene: Scene) -> None:
    path = scene.path("/apis/apps/v1", "replicasets", scene.replica_set()["metadata"]["name"])
    assert scene.ask("PATCH", f"{path}/scale", {"spec": {"replicas": 4}}).code == 403


def hash_and_owner_of_the_deployment(scene: Scene) -> None:
    path = scene.path("/apis/apps/v1", "deployments", "own")
    metadata: Json = {"annotations": {"modelfleet.dev/applied-hash": "0"}, "ownerReferences": None, "labels": None}
    for name, value in metadata.items():
        assert scene.ask("PATCH", path, {"metadata": {name: value}}).code == 403


def service_that_points_elsewhere(scene: Scene) -> None:
    path = scene.path("/api/v1", "services", "own")
    spec = {"type": "ExternalName", "externalName": f"llama.{scene.victim.namespace}.svc"}
    assert scene.ask("PATCH", path, {"spec": spec}).code == 403


def budget_that_lets_nobody_go(scene: Scene) -> None:
    path = scene.path("/apis/policy/v1", "poddisruptionbudgets", "own")
    assert scene.ask("PATCH", path, {"spec": {"maxUnavailable": 0}}).code == 403


def replica_that_leaves_its_labels(scene: Scene) -> None:
    path = scene.path("/api/v1", "pods", scene.replica())
    assert scene.ask("PATCH", path, {"metadata": {"labels": {DEPLOYMENT_LABEL: None}}}).code == 403
    assert scene.ask("PATCH", path, {"metadata": {"labels": None}}).code == 403


def replica_that_will_not_be_chosen(scene: Scene) -> None:
    path = scene.path("/api/v1", "pods", scene.replica())
    cost = {"controller.kubernetes.io/pod-deletion-cost": "2147483647"}
    assert scene.ask("PATCH", path, {"metadata": {"annotations": cost}}).code == 403


def replica_that_never_goes(scene: Scene) -> None:
    path = scene.path("/api/v1", "pods", scene.replica())
    assert scene.ask("PATCH", path, {"metadata": {"finalizers": ["mallory.dev/stay"]}}).code == 403


# --- the fence and the facts ----------------------------------------------------------------------


def quota_raised(scene: Scene) -> None:
    path = scene.path("/api/v1", "resourcequotas", QUOTA_NAME)
    answer = scene.ask("PATCH", path, {"spec": {"hard": {f"requests.{GPU}": "8"}}})
    assert (answer.code, "change the Tenant" in answer.message) == (403, True)
    metadata = {"name": QUOTA_NAME, "namespace": scene.own.namespace}
    applied = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {}}}
    as_operator = f"{path}?fieldManager=modelfleet&force=true"
    assert scene.ask("PATCH", as_operator, applied, kind="application/apply-patch+yaml").code == 403


def quota_said_to_be_larger(scene: Scene) -> None:
    """Admission reads the status, so that is where a liar writes."""
    status = {"status": {"hard": {f"requests.{GPU}": "8"}, "used": {f"requests.{GPU}": "0"}}}
    assert scene.ask("PATCH", scene.path("/api/v1", "resourcequotas", f"{QUOTA_NAME}/status"), status).code == 403


def quota_deleted(scene: Scene) -> None:
    assert scene.ask("DELETE", scene.path("/api/v1", "resourcequotas", QUOTA_NAME)).code == 403
    assert scene.ask("DELETE", scene.path("/api/v1", "resourcequotas")).code == 403


def quota_under_the_operators_labels(scene: Scene) -> None:
    tenant = scene.sandbox.request("GET", resource_path(API_VERSION, "Tenant", name=scene.tenants["victim"]))
    metadata = {
        "name": "modelfleet-gpus-2",
        "labels": {MANAGED_BY_LABEL: MANAGED_BY, "app.kubernetes.io/part-of": "modelfleet"},
        "ownerReferences": [scene.owner(tenant, API_VERSION, "Tenant")],
    }
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata}
    body["spec"] = {"hard": {f"requests.{GPU}": "100", "requests.example.dev/gpu": "1k"}}
    audit = Audit(scene.sandbox)
    path = scene.path("/api/v1", "resourcequotas", "modelfleet-gpus-2")
    scene.made.append(path)
    as_operator = f"{path}?fieldManager=modelfleet"
    assert scene.ask("PATCH", as_operator, body, kind="application/apply-patch+yaml").code == 201
    scene.operator.await_ticks(2)
    quotas = [f"resourcequotas {team.namespace}/" for team in (scene.own, scene.victim)]
    assert [line for line in audit.writes() if any(each in line for each in quotas)] == []


def view_rewritten(scene: Scene) -> None:
    path = scene.path(f"/apis/{API_VERSION}", "tenantviews", "modelfleet")
    assert scene.ask("PATCH", path, {"spec": {"tenant": scene.tenants["victim"], "classes": []}}).code == 403
    assert scene.ask("DELETE", path).code == 403
    assert scene.ask("DELETE", scene.path(f"/apis/{API_VERSION}", "tenantviews")).code == 403


def view_beside_the_operators(scene: Scene) -> None:
    item = scene.sandbox.request("GET", scene.path(f"/apis/{API_VERSION}", "tenantviews", "modelfleet"))
    body = {**item, "metadata": {"name": "modelfleet-2"}}
    assert scene.make(scene.path(f"/apis/{API_VERSION}", "tenantviews"), body).code == 403


# --- whose it is ----------------------------------------------------------------------------------


def labels_of_the_namespace(scene: Scene) -> None:
    path = f"/api/v1/namespaces/{scene.own.namespace}"
    claims = {"modelfleet.dev/tenant": scene.tenants["victim"], MANAGED_BY_LABEL: MANAGED_BY}
    assert scene.ask("PATCH", path, {"metadata": {"labels": claims, "annotations": claims}}).code == 200


def tenant_written(scene: Scene) -> None:
    collection = resource_path(API_VERSION, "Tenant")
    spec = {"namespaces": [scene.own.namespace], "quotas": [{"accelerator": scene.accelerator, "nominalQuota": 8}]}
    body = {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": "a-tenant-of-mine"}, "spec": spec}
    asked = [scene.ask("POST", collection, body)]
    for name in scene.tenants.values():
        asked += [
            scene.ask("PATCH", f"{collection}/{name}", {"spec": spec}),
            scene.ask("DELETE", f"{collection}/{name}"),
        ]
        asked.append(scene.ask("PATCH", f"{collection}/{name}/status", {"status": {"namespaces": []}}))
    assert {answer.code for answer in asked} == {403}


def model_that_claims_a_tenant(scene: Scene) -> None:
    tenant = scene.sandbox.request("GET", resource_path(API_VERSION, "Tenant", name=scene.tenants["victim"]))
    body = scene.model_deployment("claims", priority=1000, scaling={"minReplicas": 1, "maxReplicas": 4})
    claim = {"modelfleet.dev/tenant": tenant["metadata"]["name"], "modelfleet.dev/namespace": scene.victim.namespace}
    body["metadata"] |= {"labels": {**claim, **LABELS}, "annotations": claim}
    body["metadata"]["ownerReferences"] = [scene.owner(tenant, API_VERSION, "Tenant")]
    assert scene.make(scene.path(f"/apis/{API_VERSION}", "modeldeployments"), body).code == 201
    until(lambda: held(scene.own) == 2)


def model_moved_to_the_victim(scene: Scene) -> None:
    item = scene.own.get("own")
    item["metadata"]["namespace"] = scene.victim.namespace
    assert scene.ask("PUT", scene.own.path("own"), item).code == 400
    body = scene.model_deployment("moved")
    assert (
        scene.ask("POST", resource_path(API_VERSION, "ModelDeployment", namespace=scene.victim.namespace), body).code
        == 403
    )
    assert scene.ask("DELETE", scene.victim.path("llama")).code == 403


def model_with_the_victims_name_and_owner(scene: Scene) -> None:
    """An owner in another namespace counts as gone: the garbage collector takes the impostor."""
    body = scene.model_deployment("llama")
    body["metadata"]["ownerReferences"] = [scene.owner(scene.victim.get("llama"), API_VERSION, "ModelDeployment")]
    assert scene.make(scene.path(f"/apis/{API_VERSION}", "modeldeployments"), body).code == 201


def pod_owned_by_the_victims_replica_set(scene: Scene) -> None:
    owner = scene.victim.pods("llama")[0]["metadata"]["ownerReferences"]
    assert scene.make(scene.path("/api/v1", "pods"), scene.pod(ownerReferences=owner)).code == 201


def service_account_of_the_operators_name(scene: Scene) -> None:
    accounts = scene.path("/api/v1", "serviceaccounts")
    assert scene.make(accounts, {"metadata": {"name": SERVICE_ACCOUNT}}).code == 201
    binding = {
        "metadata": {"name": "all-of-it"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": scene.own.namespace}],
    }
    bindings = scene.path("/apis/rbac.authorization.k8s.io/v1", "rolebindings")
    assert scene.make(bindings, binding).code == 201
    token = scene.ask("POST", f"{accounts}/{SERVICE_ACCOUNT}/token", {"spec": {}}).body["status"]["token"]
    robot = Person(scene.sandbox, "", token)
    path = scene.path("/api/v1", "resourcequotas", QUOTA_NAME)
    assert robot.ask("PATCH", path, {"spec": {"hard": {f"requests.{GPU}": "8"}}}).code == 403
    asked = robot.ask("GET", scene.path("/api/v1", "pods", team=scene.victim), **{"Impersonate-User": USER})
    assert (asked.code, "cannot impersonate" in asked.message) == (403, True)


def token_and_lease_of_the_operator(scene: Scene) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{SERVICE_ACCOUNT}/token"
    assert scene.ask("POST", path, {"spec": {}}).code == 403
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/modelfleet"
    assert scene.ask("PATCH", lease, {"spec": {"holderIdentity": "mallory"}}).code == 403
    assert scene.ask("DELETE", lease).code == 403


def role_that_reaches_beyond(scene: Scene) -> None:
    binding = {
        "metadata": {"name": "mallory-everywhere"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    }
    assert scene.ask("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).code == 403
    policy = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/modelfleet-fence"
    assert scene.ask("DELETE", policy).code == 403


# --- what it may see ------------------------------------------------------------------------------


def secrets_of_others(scene: Scene) -> None:
    asked = [
        scene.ask("GET", f"/api/v1/namespaces/{namespace}/{plural}")
        for namespace in (scene.victim.namespace, NAMESPACE, "kube-system")
        for plural in ("secrets", "configmaps", "pods")
    ]
    asked += [scene.ask("GET", "/api/v1/secrets"), scene.ask("GET", resource_path(API_VERSION, "Tenant"))]
    asked.append(scene.ask("GET", scene.path(f"/apis/{API_VERSION}", "tenantviews", team=scene.victim)))
    asked.append(scene.ask("GET", scene.path("/api/v1", "pods", "any/proxy/metrics", team=scene.victim)))
    assert {answer.code for answer in asked} == {403}


def secrets_by_way_of_the_operator(scene: Scene) -> None:
    """A reference to another namespace, a path, an address: the fields take names only."""
    for name in ("../other", f"{scene.victim.namespace}/llama", "http://127.0.0.1:1", "vllm$(SECRET)", "vllm\n"):
        for field_name in ("runtime", "accelerator"):
            body = scene.model_deployment("reach", **{field_name: name})
            assert scene.make(scene.path(f"/apis/{API_VERSION}", "modeldeployments"), body).code == 422, name


# --- names and values -----------------------------------------------------------------------------


def names_that_break_queries(scene: Scene) -> None:
    collection = scene.path(f"/apis/{API_VERSION}", "modeldeployments")
    names = ('a"} or vector(1) #', "a|.*", "../../x", "a%2Fb", "A", "ａ", "a" * 64, "0", "-a", "a.b", "{{name}}", "")
    for name in names:
        assert scene.make(collection, scene.model_deployment(name)).code == 422, name
    for name in ('m"} or vector(1) #', "../../etc/passwd", "a;rm -rf /", "$(reboot)", "{model}", "m\n--trust", "ｍ"):
        body = scene.model_deployment("query", model={"name": name})
        assert scene.make(collection, body).code == 422, name


def longest_names(scene: Scene) -> None:
    name = f"a{'-' * 61}z"
    body = scene.model_deployment(name, model={"name": "m" * 253}, scaling={"minReplicas": 1, "maxReplicas": 1})
    assert scene.make(scene.path(f"/apis/{API_VERSION}", "modeldeployments"), body).code == 201
    until(lambda: held(scene.own) == 2)


def huge_numbers(scene: Scene) -> None:
    collection = scene.path(f"/apis/{API_VERSION}", "modeldeployments")
    for spec in ({"gpusPerReplica": 10**18}, {"priority": 10**9}, {"scaling": {"minReplicas": 2**63}}):
        assert scene.make(collection, scene.model_deployment("huge", **spec)).code in (400, 422), spec
    for spec in ({"gpusPerReplica": 64}, {"scaling": {"minReplicas": 1000, "maxReplicas": 1000}}):
        answer = scene.make(collection, scene.model_deployment("huge", **spec))
        assert (answer.code, "can never run" in answer.message) == (422, True)
    large = {"priority": 1000, "drainSeconds": 3600, "scaling": {"minReplicas": 1, "maxReplicas": 1000}}
    answer = scene.make(collection, scene.model_deployment("huge", **large))
    assert answer.code == 201
    assert any("pass the limit" in warning for warning in answer.warnings), answer.warnings


def huge_annotations(scene: Scene) -> None:
    body = scene.model_deployment("wide", scaling={"minReplicas": 1, "maxReplicas": 1})
    body["metadata"]["annotations"] = {
        **{f"mallory.dev/{number}": "x" * 2_000 for number in range(100)},
        "kubectl.kubernetes.io/last-applied-configuration": "{",
    }
    assert scene.make(scene.path(f"/apis/{API_VERSION}", "modeldeployments"), body).code == 201
    until(lambda: held(scene.own) == 2)


def annotations_that_the_framework_reads(scene: Scene) -> None:
    """kopf keeps its memory in an annotation: nonsense there must not blind the operator to the object's changes."""
    nonsense = {
        f"kopf.zalando.org/{key}": "{" for key in ("last-handled-configuration", "model_deployment", "touch-dummy")
    }
    body = scene.model_deployment("blind", scaling={"minReplicas": 1, "maxReplicas": 1})
    body["metadata"]["annotations"] = nonsense
    collection = scene.path(f"/apis/{API_VERSION}", "modeldeployments")
    assert scene.make(collection, body).code == 201
    until(lambda: held(scene.own) == 2)
    assert scene.ask("DELETE", f"{collection}/blind").code == 200
    until(lambda: held(scene.own) == 1)


def flood_of_models(scene: Scene) -> None:
    """40 models that each want all: nobody gets more than the limit together."""
    collection = scene.path(f"/apis/{API_VERSION}", "modeldeployments")
    for number in range(40):
        body = scene.model_deployment(f"flood-{number}", scaling={"minReplicas": 4, "maxReplicas": 1000})
        assert scene.make(collection, body).code == 201
    until(lambda: held(scene.own) == LIMIT)
    scene.operator.await_ticks(3)


def status_that_lies(scene: Scene) -> None:
    lies: Json = {
        "desiredReplicas": 2**31 - 1,
        "replicas": 0,
        "outputTokensPerSecondPerReplica": 1,
        "selector": "a in (",
    }
    learned: list[Json] = [
        {"forecast": "no such forecast", "marginPercent": 2**31 - 1},
        {
            "forecast": "30s-peak-day",
            "marginPercent": 190,
            "forecastCosts": {"30s-peak-day": "0 0 0 0 0 " + "9" * 100},
            "dayPeaks": {"30s-peak-day": {"load": "9999999999999.99", "at": "9999-12-31T23:59:59Z"}},
            "weekSlot": 2**31 - 1,
            "weekLevels": "/" * 1344,
        },
    ]
    for lie in learned:
        told = {**lies, "learned": {"idleInterTokenMicroseconds": 1, **lie}}
        assert scene.ask("PATCH", f"{scene.own.path('own')}/status", {"status": told}).code == 200
        scene.operator.await_ticks(3)
        assert held(scene.own) == 1


# --- pods -----------------------------------------------------------------------------------------


def pods_beyond_the_limit(scene: Scene) -> None:
    pods = scene.path("/api/v1", "pods")
    answers = [scene.make(pods, scene.pod()) for _ in range(5)]
    assert [answer.code for answer in answers] == [201, 201, 201, 403, 403]
    until(lambda: held(scene.own) == LIMIT)


def pod_of_a_quintillion(scene: Scene) -> None:
    for amount in ("1E", "1e18", "4Ki", "9223372036854775807"):
        pod = scene.pod()
        pod["spec"]["containers"][0]["resources"]["limits"][GPU] = amount
        assert scene.make(scene.path("/api/v1", "pods"), pod).code == 403, amount


def gpus_in_a_container_that_starts_first(scene: Scene) -> None:
    """They are held as long as the pod is, and counted as the quota counts them."""
    pod = scene.pod()
    pod["spec"]["initContainers"] = [pod["spec"]["containers"][0] | {"name": "first"}]
    pod["spec"]["containers"][0] = {"name": "job", "image": "job"}
    assert scene.make(scene.path("/api/v1", "pods"), pod).code == 201
    path = resource_path(API_VERSION, "Tenant", name=scene.tenants["own"])
    same(2, lambda: counts(scene.sandbox, path)[1])
    assert held(scene.own) == 2


def pod_pinned_to_the_victims_node(scene: Scene) -> None:
    pod = scene.pod()
    pod["spec"]["nodeName"] = scene.victim.pods("llama")[0]["spec"]["nodeName"]
    assert scene.make(scene.path("/api/v1", "pods"), pod).code == 201


def pod_that_goes_before_everybody(scene: Scene) -> None:
    """All GPUs are taken, 5 by a pod of the same class: for 2 more the scheduler would end a replica of another's."""
    pods = scene.path("/api/v1", "pods")
    filler = scene.pod()
    filler["spec"]["containers"][0]["resources"]["limits"][GPU] = "5"
    filler["spec"]["priorityClassName"] = "system-node-critical"
    elsewhere = f"/api/v1/namespaces/{NAMESPACE}/pods"
    scene.sandbox.request("POST", elsewhere, filler)
    scene.made.append(f"{elsewhere}/{filler['metadata']['name']}")
    until(lambda: "nodeName" in scene.sandbox.request("GET", scene.made[-1])["spec"])
    body = scene.pod()
    body["spec"]["priorityClassName"] = "system-node-critical"
    body["spec"]["containers"][0]["resources"]["limits"][GPU] = "2"
    template = {"metadata": {"labels": {"fake": "3"}}, "spec": body["spec"]}
    job = {
        "metadata": {"name": "urgent"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"fake": "3"}}, "template": template},
    }
    answer = scene.make(pods, body)
    assert (answer.code, "priorityClassName" in answer.message) == (403, True)
    assert scene.make(scene.path("/apis/apps/v1", "deployments"), job).code == 201
    scene.operator.await_ticks(3)


def pod_that_says_it_has_ended(scene: Scene) -> None:
    """A pod that ended counts in no quota, while its GPUs are still held."""
    path = scene.path("/api/v1", "pods", scene.replica())
    for phase in ("Failed", "Succeeded"):
        assert scene.ask("PATCH", f"{path}/status", {"status": {"phase": phase}}).code == 403
    address = {"podIP": "169.254.169.254", "podIPs": [{"ip": "169.254.169.254"}]}
    assert scene.ask("PATCH", f"{path}/status", {"status": address}).code == 403


def autoscaler_of_its_own(scene: Scene) -> None:
    """It scales what is Mallory's, and no further than the fence."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "own"}
    spec = {"scaleTargetRef": target, "minReplicas": 50, "maxReplicas": 100}
    path = scene.path("/apis/autoscaling/v2", "horizontalpodautoscalers")
    assert scene.make(path, {"metadata": {"name": "mine"}, "spec": spec}).code == 201
    until(lambda: held(scene.own) == LIMIT, seconds=60)


ATTACKS: list[Callable[[Scene], None]] = [
    replica_of_its_own_making,
    replica_that_claims_the_replica_set,
    replica_set_that_claims_the_deployment,
    deployment_that_claims_the_model,
    pods_that_wear_the_labels_by_another_owner,
    template_of_the_deployment,
    count_of_the_deployment,
    count_of_the_replica_set,
    hash_and_owner_of_the_deployment,
    service_that_points_elsewhere,
    budget_that_lets_nobody_go,
    replica_that_leaves_its_labels,
    replica_that_will_not_be_chosen,
    replica_that_never_goes,
    quota_raised,
    quota_said_to_be_larger,
    quota_deleted,
    quota_under_the_operators_labels,
    view_rewritten,
    view_beside_the_operators,
    labels_of_the_namespace,
    tenant_written,
    model_that_claims_a_tenant,
    model_moved_to_the_victim,
    model_with_the_victims_name_and_owner,
    pod_owned_by_the_victims_replica_set,
    service_account_of_the_operators_name,
    token_and_lease_of_the_operator,
    role_that_reaches_beyond,
    secrets_of_others,
    secrets_by_way_of_the_operator,
    names_that_break_queries,
    longest_names,
    huge_numbers,
    huge_annotations,
    annotations_that_the_framework_reads,
    flood_of_models,
    status_that_lies,
    pods_beyond_the_limit,
    pod_of_a_quintillion,
    gpus_in_a_container_that_starts_first,
    pod_pinned_to_the_victims_node,
    pod_that_goes_before_everybody,
    pod_that_says_it_has_ended,
    autoscaler_of_its_own,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.replace("_", "-"))
def test_it_changes_nothing_of_another_tenants(scene: tuple[Scene, Json], attack: Callable[[Scene], None]) -> None:
    """After it: the same share, usage, pods, quota and status; no GPU beyond the limit; no complaint in the log."""
    stage, before = scene
    stage.operator = stage.cast.only()
    before_it = len(complaints(stage.operator))
    try:
        attack(stage)
        stage.operator.await_ticks(2)
        after, taken, said = reading(stage), held(stage.own), complaints(stage.operator)[before_it:]
    finally:
        stage.clean()

    assert before == after
    assert taken <= LIMIT
    assert said == []


def test_after_all_of_them_the_victim_gets_its_whole_share(scene: tuple[Scene, Json]) -> None:
    """Mallory takes all that she may have; the victim still has its 4 GPUs the moment it asks."""
    stage, _ = scene
    stage.own.change("own", scaling={"minReplicas": LIMIT})
    same(LIMIT, lambda: held(stage.own))
    stage.victim.change("llama", scaling={"minReplicas": 4})
    stage.victim.await_ready("llama", replicas=4)

    assert (held(stage.victim), held(stage.own)) == (4, LIMIT)
