"""Admission on the real API server: told in numbers before it is done, refused where it can never run, guarded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION, DEPLOYMENT_LABEL
from modelfleet.render.quota import QUOTA_NAME
from sandbox.cluster import RequestFailed, Sandbox
from tests.cluster.operator.people import Answer, Person
from tests.cluster.operator.scene import MODEL, Audit, Team, Watched, gpu_class, same, unique, until

pytestmark = pytest.mark.xdist_group("operator-admission")

Json = dict[str, Any]
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
APPLY = "application/apply-patch+yaml"
COLLECTED_SECONDS = 120.0
"""The garbage collector looks for new kinds every 30 s."""


@dataclass(frozen=True)
class Bound:
    """A team whose namespace is a Tenant's: nominalQuota 4, 2 more to borrow, on nodes of 4 GPUs."""

    team: Team
    tenant: str
    accelerator: str
    alice: Person

    @property
    def sandbox(self) -> Sandbox:
        return self.team.sandbox

    @property
    def tenant_path(self) -> str:
        return resource_path(API_VERSION, "Tenant", name=self.tenant)

    def manifest(self, name: str = "llama", *, accelerator: str = "", gpus: int = 1, **scaling: int) -> Json:
        return {
            "apiVersion": API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": self.team.namespace},
            "spec": {
                "model": {"name": MODEL},
                "runtime": "vllm",
                "accelerator": accelerator or self.accelerator,
                "gpusPerReplica": gpus,
                "scaling": scaling,
            },
        }

    def apply(self, manifest: Json, *, dry_run: bool = False) -> Answer:
        """Apply server-side as Alice, as `kubectl apply --server-side [--dry-run=server]` does."""
        path = self.team.path(manifest["metadata"]["name"])
        query = "?fieldManager=kubectl" + "&dryRun=All" * dry_run
        return self.alice.ask("PATCH", path + query, manifest, kind=APPLY)

    def view(self) -> Json:
        """Return the view as Alice sees it; empty while there is none."""
        path = resource_path(API_VERSION, "TenantView", namespace=self.team.namespace, name="modelfleet")
        answer = self.alice.ask("GET", path)
        return dict(answer.body) if answer.code == 200 else {}

    def row(self) -> Json:
        """Return the class in the view; empty while there is none."""
        classes = self.view().get("spec", {}).get("classes", [])
        return dict(classes[0]) if classes else {}


@pytest.fixture
def bound(sandbox: Sandbox, new_team: Callable[..., Team]) -> Iterator[Bound]:
    """A bound team whose policies judge by now, and its Alice, who has the edit role there and nothing else."""
    team, tenant = new_team(), unique("tenant")
    with gpu_class(sandbox, gpus=(4, 4)) as accelerator:
        spec = {
            "namespaces": [team.namespace],
            "quotas": [{"accelerator": accelerator, "nominalQuota": 4, "borrowingLimit": 2}],
        }
        item = {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": tenant}, "spec": spec}
        sandbox.request("POST", resource_path(API_VERSION, "Tenant"), item)
        alice = Person(sandbox, f"alice-of-{team.namespace}").grant(team.namespace, "edit")
        found = Bound(team, tenant, accelerator, alice)
        until(lambda: found.apply(found.manifest("judged", gpus=7), dry_run=True).code == 422)
        yield found
        with suppress(RequestFailed):
            sandbox.request("DELETE", found.tenant_path)


def test_every_policy_is_accepted_without_a_warning(sandbox: Sandbox, operator: Watched) -> None:
    """The API server checked every expression against its own kinds; those of CRDs it tries at run time only."""
    judges = ("what-if", "limits", "scale-what-if", "scale-limits")
    names = {f"modelfleet-{name}" for name in (*judges, "fence", "children", "replicas", "pods")}

    def checked() -> dict[str, Any]:
        found = {item["metadata"]["name"]: item.get("status", {}) for item in sandbox.request("GET", POLICIES)["items"]}
        return found if all("typeChecking" in status for status in found.values()) else {}

    assert {name: {} for name in names} == {name: status["typeChecking"] for name, status in until(checked).items()}
    bindings = sandbox.request("GET", BINDINGS)["items"]
    assert {item["spec"]["policyName"] for item in bindings} == names


def test_a_dry_run_says_in_numbers_what_cannot_be_kept(bound: Bound) -> None:
    """Nominal 4, limit 6, nodes of 4, another deployment with a minimum of 2: told, and still let through."""
    assert bound.apply(bound.manifest("other", minReplicas=2, maxReplicas=4)).warnings == ()
    same(2, lambda: bound.row().get("minimums"))
    cases: dict[str, tuple[Json, list[str]]] = {
        "what fits is let through in silence": (bound.manifest(minReplicas=2, maxReplicas=6), []),
        "a minimum beside the others' minimums": (
            bound.manifest(minReplicas=3),
            [
                f"spec.scaling.minReplicas: 3 x 1 = 3 GPUs of {bound.accelerator} cannot all be guaranteed: "
                f"nominalQuota of Tenant {bound.tenant} is 4, and the minimums of its other deployments take 2; what "
                "is beyond is borrowed and can be taken back. Lower minReplicas, or ask an administrator for "
                "nominalQuota"
            ],
        ),
        "a maximum": (
            bound.manifest(gpus=2, maxReplicas=8),
            [
                f"spec.scaling.maxReplicas: 8 x 2 = 16 GPUs of {bound.accelerator} pass the limit of Tenant "
                f"{bound.tenant}, 6 GPUs (nominalQuota + borrowingLimit): no more than 3 replicas will run"
            ],
        ),
        "a replica that no node holds": (
            bound.manifest(gpus=5, maxReplicas=1),
            [
                f"spec.scaling.minReplicas: 1 x 5 = 5 GPUs of {bound.accelerator} cannot all be guaranteed",
                f"spec.gpusPerReplica: 5 GPUs fit no node of {bound.accelerator} now: the largest has 4; replicas wait "
                "until a larger one comes",
            ],
        ),
        "its own minimum is not counted twice": (bound.manifest("other", minReplicas=4), []),
    }
    for case, (manifest, wanted) in cases.items():
        answer = bound.apply(manifest, dry_run=True)
        told = [warning.split("': ", 1)[1] for warning in answer.warnings]
        assert answer.code in (200, 201), (case, answer.message)
        assert [text[: len(start)] for text, start in zip(told, wanted, strict=True)] == wanted, case
    assert bound.team.find(f"/apis/{API_VERSION}", "modeldeployments", "llama") is None
    assert bound.team.get("other")["spec"]["scaling"]["minReplicas"] == 2


def test_what_can_never_run_is_refused_with_field_numbers_and_remedy(
    bound: Bound, new_team: Callable[..., Team]
) -> None:
    cases = {
        f"spec.accelerator: class h100 is closed to Tenant {bound.tenant}, which has quotas of: {bound.accelerator}. "
        "Choose one of these, or ask an administrator for a quota": bound.manifest(accelerator="h100"),
        f"spec.gpusPerReplica: a replica of 7 GPUs of {bound.accelerator} can never run: the limit of Tenant "
        f"{bound.tenant} is 6 GPUs (nominalQuota + borrowingLimit). Lower gpusPerReplica, or ask an administrator for "
        "a larger quota": bound.manifest(gpus=7),
        f"spec.scaling.minReplicas: 4 x 2 = 8 GPUs of {bound.accelerator} can never run: the limit of Tenant "
        f"{bound.tenant} is 6 GPUs (nominalQuota + borrowingLimit). Lower minReplicas, or ask an administrator for a "
        "larger quota": bound.manifest(gpus=2, minReplicas=4),
    }
    for message, manifest in cases.items():
        answer = bound.apply(manifest)
        assert (answer.code, answer.message.endswith(f"denied request: {message}")) == (422, True), answer.message
    unbound = new_team()
    bob = Person(bound.sandbox, "bob").grant(unbound.namespace, "edit")
    body = bound.manifest(gpus=64, minReplicas=4)
    body["metadata"]["namespace"] = unbound.namespace
    collection = resource_path(API_VERSION, "ModelDeployment", namespace=unbound.namespace)
    answer = bob.ask("POST", f"{collection}?dryRun=All", body)

    assert (answer.code, answer.warnings) == (201, ())


def test_a_scale_is_judged_as_far_as_it_says_what_it_asks_for(bound: Bound) -> None:
    """`kubectl scale` sets minReplicas: what replicas of one GPU could not have is told or refused."""
    bound.apply(bound.manifest("other", minReplicas=2, maxReplicas=2))
    bound.apply(bound.manifest(maxReplicas=20))
    same(3, lambda: bound.row().get("minimums"))

    def scaled(replicas: int) -> Answer:
        return bound.alice.ask("PATCH", f"{bound.team.path()}/scale", {"spec": {"replicas": replicas}})

    kept = scaled(2)
    same(4, lambda: bound.row().get("minimums"))
    told, refused = scaled(3), scaled(7)
    same(5, lambda: bound.row().get("minimums"))
    cut = {"spec": {"quotas": [{"accelerator": bound.accelerator, "nominalQuota": 1, "borrowingLimit": 0}]}}
    bound.sandbox.request("PATCH", bound.tenant_path, cut)
    same(1, lambda: bound.row().get("limit"))

    assert (kept.code, kept.warnings) == (200, ())
    assert (told.code, len(told.warnings)) == (200, 1)
    assert told.warnings[0].endswith(
        "spec.replicas: minReplicas of 3 cannot all be guaranteed, even with one GPU a replica: with it the minimums "
        f"of Tenant {bound.tenant} are 5 GPUs of {bound.accelerator}, of which nominalQuota is 4; what is beyond is "
        "borrowed and can be taken back. Scale to fewer, or ask an administrator for nominalQuota"
    )
    assert refused.code == 422
    assert refused.message.endswith(
        "spec.replicas: minReplicas of 7 can never run, even with one GPU a replica: the limit of Tenant "
        f"{bound.tenant} is 6 GPUs of {bound.accelerator} (nominalQuota + borrowingLimit). Scale to fewer, or ask an "
        "administrator for a larger quota"
    )
    assert [scaled(replicas).code for replicas in (4, 2)] == [422, 200]


def test_a_cut_quota_keeps_nobody_from_editing_what_was_there(bound: Bound) -> None:
    """6 GPUs were asked for when the limit was 6; now it is 1: labels, less, and the end pass, more does not."""
    bound.apply(bound.manifest(gpus=2, minReplicas=3))
    cut = {"spec": {"quotas": [{"accelerator": bound.accelerator, "nominalQuota": 1, "borrowingLimit": 0}]}}
    bound.sandbox.request("PATCH", bound.tenant_path, cut)
    same(1, lambda: bound.row().get("limit"))
    path = bound.team.path()

    def patched(body: Json) -> int:
        return bound.alice.ask("PATCH", path, body).code

    assert patched({"metadata": {"labels": {"owner": "alice"}}}) == 200
    assert patched({"spec": {"priority": 5}}) == 200
    assert patched({"spec": {"scaling": {"minReplicas": 2}}}) == 200
    assert patched({"spec": {"scaling": {"minReplicas": 3}}}) == 422
    assert patched({"spec": {"gpusPerReplica": 3}}) == 422
    none = {"spec": {"quotas": []}}
    bound.sandbox.request("PATCH", bound.tenant_path, none)
    same([], lambda: bound.view()["spec"]["classes"])
    assert patched({"spec": {"priority": 6}}) == 200
    assert bound.alice.ask("DELETE", path).code == 200


def test_a_team_reads_what_it_has_without_cluster_rights(bound: Bound, operator: Watched) -> None:
    """One table in its own namespace; put back when edited; not rewritten at rest; gone with the Tenant."""
    bound.apply(bound.manifest(minReplicas=2))
    bound.team.await_ready(replicas=2)
    same(2, lambda: bound.row().get("used"))
    sandbox, namespace = bound.sandbox, bound.team.namespace
    table = sandbox.kubectl("get", "tview", "-n", namespace, f"--as={bound.alice.user}").splitlines()
    assert table[0].split()[:5] == ["NAME", "TENANT", "USED/NOMINAL", "WAITING", "REASON"]
    assert table[1].split()[:6] == ["modelfleet", bound.tenant, bound.accelerator, "2/4", "0", "WithinNominal"]
    assert bound.row() == {
        "accelerator": bound.accelerator,
        "nominalQuota": 4,
        "limit": 6,
        "guaranteed": 2,
        "used": 2,
        "borrowed": 0,
        "lent": 0,
        "waiting": 0,
        "minimums": 2,
        "largestNodeGpus": 4,
    }
    assert bound.alice.ask("GET", bound.tenant_path).code == 403
    view = resource_path(API_VERSION, "TenantView", namespace=namespace, name="modelfleet")
    sandbox.request("PATCH", view, {"spec": {"classes": []}})
    same(4, lambda: bound.row().get("nominalQuota"))
    audit = Audit(sandbox)
    operator.await_ticks(5)
    assert [line for line in audit.writes() if f"tenantviews {namespace}/" in line] == []
    sandbox.request("DELETE", bound.tenant_path)
    until(lambda: not bound.view())
    until(lambda: bound.team.find("/api/v1", "resourcequotas", QUOTA_NAME) is None)


def test_the_view_leaves_a_namespace_that_its_tenant_leaves(bound: Bound, new_team: Callable[..., Team]) -> None:
    other = new_team()
    bound.sandbox.request("PATCH", bound.tenant_path, {"spec": {"namespaces": [other.namespace]}})
    until(lambda: other.find(f"/apis/{API_VERSION}", "tenantviews", "modelfleet"))
    until(lambda: not bound.view())


def test_guards_let_through_who_has_to_write(bound: Bound) -> None:
    """The operator, kubelets and the cluster's controllers pass; a bound namespace can still be deleted as a whole."""
    bound.apply(bound.manifest())
    bound.team.await_ready()
    sandbox, operator = bound.sandbox, Person.operator(bound.sandbox)
    pod = bound.team.pods()[0]["metadata"]["name"]
    mark = {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-1"}}}
    quota = f"/api/v1/namespaces/{bound.team.namespace}/resourcequotas/{QUOTA_NAME}?dryRun=All"
    assert operator.ask("PATCH", f"/api/v1/namespaces/{bound.team.namespace}/pods/{pod}?dryRun=All", mark).code == 200
    assert operator.ask("PATCH", quota, {"metadata": {"labels": {"x": "y"}}}).code == 200
    assert operator.ask("DELETE", quota).code == 200
    for user, groups in {
        "system:node:h100-0": ["system:nodes"],
        "system:kube-scheduler": [],
        "system:serviceaccount:kube-system:node-controller": [],
        "system:serviceaccount:kube-system:pod-garbage-collector": [],
    }.items():
        spec = {"user": user, "groups": groups}
        allowed = [
            sandbox.request(
                "POST",
                "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                {"spec": {**spec, "resourceAttributes": {"resource": "pods", "subresource": "status", "verb": verb}}},
            )["status"]["allowed"]
            for verb in ("update", "patch")
        ]
        assert any(allowed), user
    # What a team may do to its replicas: end them. They come back.
    assert bound.alice.ask("DELETE", f"/api/v1/namespaces/{bound.team.namespace}/pods/{pod}").code == 200
    until(lambda: pod not in [each["metadata"]["name"] for each in bound.team.pods()])
    bound.team.await_ready()
    sandbox.request("DELETE", f"/api/v1/namespaces/{bound.team.namespace}")
    until(lambda: bound.team.namespace not in _namespaces(sandbox), seconds=COLLECTED_SECONDS)


def test_labels_of_the_operators_are_its_own(bound: Bound) -> None:
    """Said to the team in words that name the label and the remedy."""
    container = {"name": "job", "image": "job"}
    metadata = {"name": "mine", "labels": {DEPLOYMENT_LABEL: "llama"}}
    pods = f"/api/v1/namespaces/{bound.team.namespace}/pods"
    answer = bound.alice.ask("POST", pods, {"metadata": metadata, "spec": {"containers": [container]}})

    assert answer.code == 403
    assert answer.message.endswith(
        "denied request: metadata.labels: modelfleet.dev/deployment and app.kubernetes.io/managed-by=modelfleet mark "
        "what the Modelfleet operator makes for a ModelDeployment; change the ModelDeployment, or leave these labels "
        "out"
    )


def _namespaces(sandbox: Sandbox) -> list[str]:
    return [item["metadata"]["name"] for item in sandbox.request("GET", "/api/v1/namespaces")["items"]]
