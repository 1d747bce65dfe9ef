"""What the operator's account may do is a short, closed list; every test here runs under it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from sandbox import supervisor
from sandbox.cluster import Sandbox
from sandbox.fleet import NAMESPACE, SERVICE_ACCOUNT
from tests.cluster.operator.scene import USER, Team

pytestmark = pytest.mark.xdist_group("operator-objects")

READ = frozenset({"get", "list", "watch"})
EVERYWHERE = {
    ("", "nodes"): {"list", "watch"},
    ("", "pods"): READ | {"patch"},
    ("", "services"): READ | {"create", "patch"},
    ("apps", "deployments"): READ | {"create", "patch"},
    ("apps", "replicasets"): {"list", "watch"},
    ("autoscaling", "horizontalpodautoscalers"): {"list", "watch"},
    ("events.k8s.io", "events"): {"create", "patch"},
    ("modelfleet.dev", "acceleratorclasses"): READ,
    ("modelfleet.dev", "acceleratorclasses/status"): {"patch"},
    ("modelfleet.dev", "inferenceruntimes"): READ,
    ("modelfleet.dev", "modeldeployments"): READ,
    ("modelfleet.dev", "modeldeployments/status"): {"patch"},
    ("modelfleet.dev", "tenants"): READ,
    ("modelfleet.dev", "tenants/status"): {"patch"},
    ("", "resourcequotas"): {"list", "watch"},
    ("policy", "poddisruptionbudgets"): READ | {"create", "patch"},
}
"""(group, resource) to verbs, in every namespace."""
BY_NAME = {("", "resourcequotas", "modelfleet-gpus"): {"create", "patch", "delete"}}
"""(group, resource, object name) to verbs, in every namespace."""
AT_HOME = {
    ("coordination.k8s.io", "leases", "modelfleet"): READ | {"update"},
    ("coordination.k8s.io", "leases", ""): {"create"},
}
"""(group, resource, object name) to verbs, in the operator's own namespace besides."""
# Everybody who is logged in may ask who they are and what they may do.
SELF_REVIEWS = {"selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"}

FORBIDDEN = [
    *((verb, "", "secrets") for verb in ("get", "list", "watch", "create", "update", "patch", "delete")),
    *((verb, "", "configmaps") for verb in ("get", "list", "create", "update")),
    *(("delete", group, resource) for group, resource in EVERYWHERE),
    *(("deletecollection", group, resource) for group, resource in EVERYWHERE),
    ("create", "", "pods"),
    ("create", "", "pods/exec"),
    ("create", "", "pods/eviction"),
    ("create", "", "serviceaccounts/token"),
    ("patch", "", "nodes"),
    ("patch", "", "namespaces"),
    ("update", "apps", "deployments"),
    ("patch", "apps", "deployments/scale"),
    ("create", "apps", "daemonsets"),
    ("patch", "modelfleet.dev", "modeldeployments"),
    ("update", "modelfleet.dev", "modeldeployments"),
    ("patch", "modelfleet.dev", "inferenceruntimes"),
    ("patch", "modelfleet.dev", "tenants"),
    ("patch", "", "resourcequotas"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    ("impersonate", "", "users"),
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions"),
    ("create", "admissionregistration.k8s.io", "validatingwebhookconfigurations"),
]


def _rules(sandbox: Sandbox, namespace: str) -> dict[tuple[str, str, str], set[str]]:
    """Return what `kubectl auth can-i --list` shows the operator in a namespace."""
    kubeconfig = json.loads(sandbox.service_account_kubeconfig(NAMESPACE, SERVICE_ACCOUNT).read_text())
    request = urllib.request.Request(  # noqa: S310 - the sandbox's own server
        f"{sandbox.server}/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        method="POST",
        data=json.dumps({"spec": {"namespace": namespace}}).encode(),
        headers={
            "Authorization": f"Bearer {kubeconfig['users'][0]['user']['token']}",
            "Content-Type": "application/json",
        },
    )
    with supervisor.https_opener(sandbox.directory / "pki" / "ca.crt").open(request, timeout=10) as answer:
        status: dict[str, Any] = json.load(answer)["status"]
    assert not status["incomplete"]
    found: dict[tuple[str, str, str], set[str]] = {}
    for rule in status["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [""]):
                    if resource not in SELF_REVIEWS:
                        found.setdefault((group, resource, name), set()).update(rule["verbs"])
    return found


def test_the_account_may_do_this_and_nothing_else(sandbox: Sandbox, team: Team) -> None:
    """The golden matrix: no wildcard, delete for its own quotas only, no Secret, no write to a spec; Lease at home."""
    everywhere = {(group, resource, ""): set(verbs) for (group, resource), verbs in EVERYWHERE.items()} | BY_NAME

    assert everywhere == _rules(sandbox, team.namespace)
    assert {**everywhere, **AT_HOME} == _rules(sandbox, NAMESPACE)


def test_the_authorizer_refuses_what_would_be_an_escalation(sandbox: Sandbox, team: Team) -> None:
    """Asked one by one, in a team's namespace and in its own: whatever an attacker would want is refused."""
    allowed = []
    for namespace in (team.namespace, NAMESPACE):
        for verb, group, resource in FORBIDDEN:
            name, _, subresource = resource.partition("/")
            attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name}
            review = {"user": USER, "resourceAttributes": {**attributes, "subresource": subresource}}
            path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
            if sandbox.request("POST", path, {"spec": review})["status"]["allowed"]:
                allowed.append((namespace, verb, group, resource))

    assert allowed == []
