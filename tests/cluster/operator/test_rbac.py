"""What the operator's account may do is a short, closed list; what a team's people may do is within their own."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox import supervisor
from sandbox.cluster import Sandbox
from sandbox.fleet import NAMESPACE, SERVICE_ACCOUNT
from tests.cluster.operator.people import Person
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
    ("modelfleet.dev", "tenantviews"): {"list", "watch"},
    ("", "resourcequotas"): {"list", "watch"},
    ("policy", "poddisruptionbudgets"): READ | {"create", "patch"},
}
"""(group, resource) to verbs, in every namespace."""
BY_NAME = {
    ("", "resourcequotas", "modelfleet-gpus"): {"create", "patch", "delete"},
    ("modelfleet.dev", "tenantviews", "modelfleet"): {"create", "patch", "delete"},
}
"""(group, resource, object name) to verbs, in every namespace."""
AT_HOME = {
    ("coordination.k8s.io", "leases", "modelfleet"): READ | {"update"},
    ("coordination.k8s.io", "leases", ""): {"create"},
}
"""(group, resource, object name) to verbs, in the operator's own namespace besides."""
# Everybody who is logged in may ask who they are and what they may do.
SELF_REVIEWS = {"selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"}

MATRIX = Path(__file__).with_name("rbac.txt")
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
LETTERS = "glwcupdD"
RESOURCES = (
    "modeldeployments.modelfleet.dev",
    "modeldeployments.modelfleet.dev/status",
    "modeldeployments.modelfleet.dev/scale",
    "tenantviews.modelfleet.dev",
    "tenantviews.modelfleet.dev modelfleet",
    "tenants.modelfleet.dev",
    "tenants.modelfleet.dev/status",
    "acceleratorclasses.modelfleet.dev",
    "acceleratorclasses.modelfleet.dev/status",
    "inferenceruntimes.modelfleet.dev",
    "pods",
    "pods/status",
    "pods/exec",
    "pods/eviction",
    "pods/binding",
    "services",
    "secrets",
    "configmaps",
    "resourcequotas",
    "resourcequotas modelfleet-gpus",
    "resourcequotas/status",
    "limitranges",
    "namespaces",
    "nodes",
    "serviceaccounts/token",
    "deployments.apps",
    "deployments.apps/scale",
    "replicasets.apps",
    "daemonsets.apps",
    "poddisruptionbudgets.policy",
    "horizontalpodautoscalers.autoscaling",
    "events.events.k8s.io",
    "leases.coordination.k8s.io",
    "leases.coordination.k8s.io modelfleet",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "priorityclasses.scheduling.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
)
"""Plural, group, subresource and name, as `plural.group/subresource name`."""


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


@contextmanager
def _authorizer(sandbox: Sandbox) -> Iterator[Callable[[str, str, str, str], bool]]:
    """Yield what asks the authorizer about a user, a namespace, a resource and a verb, all over one connection."""
    address = urllib.parse.urlsplit(sandbox.server)
    trust = ssl.create_default_context(cafile=sandbox.directory / "pki" / "ca.crt")
    connection = http.client.HTTPSConnection(str(address.hostname), address.port, context=trust, timeout=30)
    headers = {"Authorization": f"Bearer {sandbox.token}", "Content-Type": "application/json"}

    def may(user: str, namespace: str, resource: str, verb: str) -> bool:
        plural, _, name = resource.partition(" ")
        plural, _, subresource = plural.partition("/")
        plural, _, group = plural.partition(".")
        what = {"group": group, "resource": plural, "subresource": subresource, "name": name, "verb": verb}
        review = {"spec": {"user": user, "resourceAttributes": {"namespace": namespace, **what}}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        connection.request("POST", path, json.dumps(review), headers)
        return bool(json.load(connection.getresponse())["status"]["allowed"])

    with closing(connection):
        yield may


def test_who_may_do_what_is_the_committed_matrix(sandbox: Sandbox, team: Team, new_team: Callable[..., Team]) -> None:
    """The operator in a team's namespace and at home; a team's people with edit and with view, and beyond their own."""
    other = new_team()
    people = {
        role: Person(sandbox, f"{team.namespace}-{role}").grant(team.namespace, role) for role in ("edit", "view")
    }
    columns = {
        "operator": (USER, team.namespace),
        "at home": (USER, NAMESPACE),
        "edit": (people["edit"].user, team.namespace),
        "view": (people["view"].user, team.namespace),
        "beyond": (people["edit"].user, other.namespace),
    }
    lines = [f"{'':{WIDTH}}" + "".join(f"{column:10}" for column in columns)]
    with _authorizer(sandbox) as may:
        for resource in RESOURCES:
            cells = [
                "".join(
                    letter if may(*column, resource, verb) else "-" for verb, letter in zip(VERBS, LETTERS, strict=True)
                )
                for column in columns.values()
            ]
            lines.append(f"{resource:{WIDTH}}" + "".join(f"{cell:10}" for cell in cells))
    found = "".join(f"{line.rstrip()}\n" for line in lines)

    assert MATRIX.read_text() == HEADING + found, f"the matrix is now:\n{HEADING}{found}"


HEADING = f"""\
{", ".join(f"{letter} {verb}" for letter, verb in zip(LETTERS, VERBS, strict=True))}
operator: its ServiceAccount in a team's namespace; at home: in its own. edit, view: a team's people with that
ClusterRole in the team's namespace; beyond: those with edit, in another team's.

"""
WIDTH = max(map(len, RESOURCES)) + 2
