"""Whatever the values, the API server takes every object: strictly, so a field that it does not know is an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.cluster import Sandbox
from sandbox.fleet import CHART, NAMESPACE
from tests.cluster.helm.client import Helm

pytestmark = pytest.mark.xdist_group("helm")

Schema = dict[str, Any]

SWITCHES = {
    "defaults": [],
    "everything on": [
        "networkPolicy.enabled=true",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=sre",
        "podMonitor.enabled=true",
        "serviceMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "dashboards.enabled=true",
        "signals.source=prometheus",
        "signals.prometheusUrl=https://prometheus.example/select/0",
        "podMonitor.labels.release=stack",
        "priorityClassName=system-cluster-critical",
        "imagePullSecrets[0].name=mirror",
        "nodeSelector.pool=system",
        "tolerations[0].key=system,tolerations[0].operator=Exists",
        f"image.digest=sha256:{'0' * 64}",
    ],
    "everything off": [
        "replicas=1",
        "crds.install=false",
        "presets.runtimes=false",
        "presets.accelerators=false",
        "rbac.aggregate=false",
        "admissionPolicies.enabled=false",
        "unboundMayBorrow=false",
    ],
    "stopped": ["replicas=0"],
}


def _string() -> Schema:
    return {"type": "string"}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _labels() -> Schema:
    return {"type": "object", "additionalProperties": _string()}


_ENDPOINTS = _list(_object(port=_string(), path=_string(), interval=_string(), honorLabels={"type": "boolean"}))
_SELECTOR = _object(matchLabels=_labels())
_RULE = _object(
    alert=_string(),
    record=_string(),
    expr={"x-kubernetes-int-or-string": True},
    labels=_labels(),
    annotations=_labels(),
    keep_firing_for=_string(),
    **{"for": _string()},
)
# What the chart may use of the Prometheus Operator's kinds, as their own definitions have it.
MONITORING = {
    "PodMonitor": _object(selector=_SELECTOR, podMetricsEndpoints=_ENDPOINTS),
    "ServiceMonitor": _object(selector=_SELECTOR, endpoints=_ENDPOINTS),
    "PrometheusRule": _object(groups=_list(_object(name=_string(), interval=_string(), rules=_list(_RULE)))),
}


@pytest.fixture(scope="module", autouse=True)
def monitoring(sandbox: Sandbox) -> Iterator[None]:
    """Serve the kinds of the Prometheus Operator, and have the operator's namespace."""
    for kind, spec in MONITORING.items():
        names = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower(), "listKind": f"{kind}List"}
        schema = {"openAPIV3Schema": _object(spec=spec)}
        version = {"name": "v1", "served": True, "storage": True, "schema": schema}
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{names['plural']}.monitoring.coreos.com"},
            "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]},
        }
        sandbox.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    sandbox.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    if f"namespace/{NAMESPACE}" not in sandbox.kubectl("get", "namespaces", "-o", "name").split():
        sandbox.kubectl("create", "namespace", NAMESPACE)
    yield
    for kind in MONITORING:
        sandbox.kubectl("delete", "crd", f"{kind.lower()}s.monitoring.coreos.com")


@pytest.mark.parametrize("name", SWITCHES)
def test_every_object_is_taken(sandbox: Sandbox, helm: Helm, name: str) -> None:
    sets = [word for each in SWITCHES[name] for word in ("--set", each)]
    manifests = helm("template", "modelfleet", str(CHART), "--kube-version", "1.36", *sets)
    answer = sandbox.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts"),
        *("-f", "-"),
        input=manifests,
    )
    assert answer.count("(server dry run)") == manifests.count("\nkind: ")
