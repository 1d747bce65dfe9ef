"""The chart as helm renders it, without a cluster: what it refuses, and what each switch adds or takes away."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.describe import generated, readme, schema, values
from modelfleet.api.kinds import KINDS
from modelfleet.api.meta import GROUP
from sandbox import binaries
from sandbox.fleet import CHART

Json = dict[str, Any]

VALUES = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(binaries.ensure("helm")["helm"])
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@cache
def rendered(*sets: str) -> tuple[Json, ...]:
    """Return the objects of a release in the namespace `fleet`."""
    words = [word for each in sets for word in ("--set", each)]
    done = helm("template", "mine", str(CHART), "--namespace", "fleet", "--kube-version", "1.36", *words)
    assert done.returncode == 0, done.stderr
    return tuple(item for item in yaml.safe_load_all(done.stdout) if item)


def names(*sets: str) -> set[str]:
    return {f"{item['kind']}/{item['metadata']['name']}" for item in rendered(*sets)}


def named(name: str, *sets: str) -> Json:
    (found,) = (item for item in rendered(*sets) if f"{item['kind']}/{item['metadata']['name']}" == name)
    return found


def pods(*sets: str) -> Iterator[Json]:
    """Yield the spec of every pod that the chart makes."""
    for item in rendered(*sets):
        if item["kind"] == "Pod":
            yield item["spec"]
        elif item["kind"] in ("Deployment", "Job"):
            yield item["spec"]["template"]["spec"]


# --- what is refused --------------------------------------------------------------------------------


def test_lint_has_nothing_to_say() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value of values.yaml that is no mapping of further keys."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, node


@pytest.mark.parametrize(
    "path", [path for path, _ in leaves(yaml.safe_load(VALUES)) if "grafana_dashboard" not in path], ids=".".join
)
def test_a_typo_in_any_key_is_refused(path: tuple[str, ...]) -> None:
    typo = f"{'.'.join(path)}X=1"
    done = helm("template", "mine", str(CHART), "--kube-version", "1.36", "--set", typo)
    assert done.returncode != 0
    assert f"'{path[-1]}X'" in done.stderr or f"{path[-1]}X" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("replicas=two", "/replicas"),
        ("replicas=6", "/replicas"),
        ("image.tag=latest", "/image/tag"),
        ("image.digest=sha256:abc", "/image/digest"),
        ("signals.source=otel", "/signals/source"),
        ("signals.source=prometheus", "/signals/prometheusUrl"),
        ("signals.prometheusUrl=prometheus:9090", "/signals/prometheusUrl"),
        ("tickSeconds=0", "/tickSeconds"),
        ("networkPolicy.apiServerPorts[0]=https", "/networkPolicy/apiServerPorts"),
        ("networkPolicy.metricsFrom[0].namespace=monitoring", "/networkPolicy/metricsFrom/0"),
        ("tolerations[0].operater=Exists", "/tolerations/0"),
        ("podMonitor.labels.release=1", "/podMonitor/labels/release"),
        ("resources.limits.memmory=1Gi", "/resources/limits"),
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong: str, said: str) -> None:
    done = helm("template", "mine", str(CHART), "--kube-version", "1.36", "--set", wrong)
    assert done.returncode != 0
    assert f"at '{said}" in done.stderr


def test_the_package_is_all_that_the_chart_needs(tmp_path: Path) -> None:
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.iterdir()
    release = ("template", "mine", "--namespace", "fleet", "--kube-version", "1.36")
    assert helm(*release, str(package)).stdout == helm(*release, str(CHART)).stdout != ""
    with tarfile.open(package) as files:
        inside = {name.removeprefix("modelfleet/") for name in files.getnames()}
    assert {"README.md", "values.schema.json", "templates/NOTES.txt"} <= inside
    assert "README.md.in" not in inside


def test_an_older_cluster_is_refused() -> None:
    done = helm("template", "mine", str(CHART), "--kube-version", "1.29")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr


def test_the_schema_leaves_nothing_open() -> None:
    def objects(node: Json, path: str) -> Iterator[tuple[str, Json]]:
        if node.get("type") == "object":
            yield path, node
        for name, child in node.get("properties", {}).items():
            yield from objects(child, f"{path}.{name}")
        if "items" in node:
            yield from objects(node["items"], f"{path}[]")

    # `global` is for charts that this one is a part of; a selector of Kubernetes is checked by Kubernetes.
    foreign = {
        ".global",
        *(f".networkPolicy.metricsFrom[].{peer}" for peer in ("namespaceSelector", "podSelector", "ipBlock")),
    }
    open_objects = {path for path, node in objects(SCHEMA, "") if "additionalProperties" not in node}
    assert open_objects == foreign


# --- what is generated ------------------------------------------------------------------------------


def test_readme_and_schema_are_what_generation_writes() -> None:
    for path, text in generated().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale, run `make chart`"


def test_a_description_reaches_table_and_schema() -> None:
    found = list(values("outer:\n  # How\n  # many.\n  inner: 3\n\n# Words.\nplain: {a: b}\n"))
    assert [tuple(each) for each in found] == [
        (("outer", "inner"), 3, "How many."),
        (("plain",), {"a": "b"}, "Words."),
    ]
    assert readme("x\n<!-- values -->\n", found).splitlines()[3:] == [
        "| `outer.inner` | `3` | How many. |",
        '| `plain` | `{"a": "b"}` | Words. |',
    ]
    text = json.dumps({"properties": {"outer": {"properties": {"inner": {}}}, "plain": {}}})
    assert json.loads(schema(text, found))["properties"]["outer"]["properties"]["inner"] == {"description": "How many."}
    with pytest.raises(ValueError, match=r"bare of values\.yaml has no comment"):
        list(values("bare: 1\n"))


def test_artifact_hub_is_told_of_every_kind() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    listed = {(each["kind"], each["name"]) for each in yaml.safe_load(annotations["artifacthub.io/crds"])}
    assert listed == {(kind.kind, f"{kind.plural}.{GROUP}") for kind in KINDS}
    for key in ("artifacthub.io/crdsExamples", "artifacthub.io/changes"):
        assert yaml.safe_load(annotations[key])


# --- what each switch does --------------------------------------------------------------------------


def test_switches_add_and_take_away_just_their_own() -> None:
    before = names()
    crds = {f"CustomResourceDefinition/{kind.plural}.{GROUP}" for kind in KINDS}
    presets = {
        f"{kind}/modelfleet-presets"
        for kind in ("ConfigMap", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job")
    }
    assert crds | presets <= before
    assert before - names("crds.install=false") == crds
    assert before - names("presets.runtimes=false", "presets.accelerators=false") == presets
    assert before - names("replicas=1") == {"PodDisruptionBudget/modelfleet"}
    for switch, kind in (
        ("networkPolicy", "NetworkPolicy"),
        ("podMonitor", "PodMonitor"),
        ("serviceMonitor", "ServiceMonitor"),
    ):
        assert names(f"{switch}.enabled=true") - before == {f"{kind}/modelfleet"}


def test_each_set_of_presets_goes_alone() -> None:
    runtimes = {f"runtimes-{file.name}" for file in (CHART / "presets/runtimes").iterdir()}
    accelerators = {f"accelerators-{file.name}" for file in (CHART / "presets/accelerators").iterdir()}
    assert set(named("ConfigMap/modelfleet-presets")["data"]) == runtimes | accelerators
    assert set(named("ConfigMap/modelfleet-presets", "presets.accelerators=false")["data"]) == runtimes
    assert set(named("ConfigMap/modelfleet-presets", "presets.runtimes=false")["data"]) == accelerators


def test_every_definition_is_kept_at_uninstall() -> None:
    found = [item for item in rendered() if item["kind"] == "CustomResourceDefinition"]
    assert {item["metadata"]["annotations"]["helm.sh/resource-policy"] for item in found} == {"keep"}


def test_every_pod_is_restricted() -> None:
    """As the Pod Security Standard `restricted` asks, and with a read-only root besides."""
    found = list(pods())
    assert len(found) == 3
    for pod in found:
        assert (
            pod["securityContext"]["runAsNonRoot"]
            and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        )
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_where_pods_go_holds_for_all_of_them() -> None:
    sets = ("nodeSelector.pool=system", "tolerations[0].key=system", "imagePullSecrets[0].name=mirror")
    for pod in pods(*sets):
        assert pod["nodeSelector"] == {"pool": "system"}
        assert pod["tolerations"] == [{"key": "system"}]
        assert pod["imagePullSecrets"] == [{"name": "mirror"}]
    assert "nodeSelector" not in next(pods())


def test_a_digest_wins_over_a_tag() -> None:
    def images(*sets: str) -> set[str]:
        return {container["image"] for pod in pods(*sets) for container in pod["containers"]}

    assert images() == {f"modelfleet:{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"}
    assert images("image.tag=1.2.3") == {"modelfleet:1.2.3"}
    digest = f"sha256:{'a' * 64}"
    assert images("image.tag=1.2.3", f"image.digest={digest}") == {f"modelfleet@{digest}"}


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("unboundMayBorrow=false", "tickSeconds=2"),
        ("signals.source=prometheus", "signals.prometheusUrl=http://prometheus.monitoring:9090"),
    ],
)
def test_the_operator_knows_every_argument(sets: tuple[str, ...]) -> None:
    """Read by the real command: it gets as far as looking for credentials."""
    (container,) = named("Deployment/modelfleet", *sets)["spec"]["template"]["spec"]["containers"]
    arguments = [argument.replace("$(POD_IP)", "127.0.0.1") for argument in container["args"]]
    command = [sys.executable, "-m", "modelfleet", *arguments, "--kubeconfig=/nonexistent", "--listen-port=0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "no Kubernetes credentials" in result.stderr


def test_selectors_find_the_operator_and_nothing_else() -> None:
    sets = ("networkPolicy.enabled=true", "podMonitor.enabled=true", "serviceMonitor.enabled=true")
    deployment = named("Deployment/modelfleet", *sets)
    selector = deployment["spec"]["selector"]["matchLabels"]
    for kind, found in {
        "Service": named("Service/modelfleet", *sets)["spec"]["selector"],
        "PodMonitor": named("PodMonitor/modelfleet", *sets)["spec"]["selector"]["matchLabels"],
        "ServiceMonitor": named("ServiceMonitor/modelfleet", *sets)["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": named("NetworkPolicy/modelfleet", *sets)["spec"]["podSelector"]["matchLabels"],
        "PodDisruptionBudget": named("PodDisruptionBudget/modelfleet", *sets)["spec"]["selector"]["matchLabels"],
    }.items():
        assert found == selector, kind
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    job = named("Job/modelfleet-presets")["spec"]["template"]["metadata"]["labels"]
    assert not selector.items() <= job.items()
    # By that label the operator finds what it made itself.
    for item in (deployment, named("Service/modelfleet", *sets)):
        assert item["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


def test_network_policy_lets_out_what_the_operator_needs() -> None:
    def ports(*sets: str) -> set[int]:
        policy = named("NetworkPolicy/modelfleet", "networkPolicy.enabled=true", *sets)
        return {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}

    source = "signals.source=prometheus"
    assert ports() == {53, 443, 6443}
    assert ports("networkPolicy.apiServerPorts={16443}") == {53, 16443}
    assert ports(source, "signals.prometheusUrl=http://10.0.0.9:9090/prom") == {53, 443, 6443, 9090}
    assert ports(source, "signals.prometheusUrl=http://10.0.0.9") == {53, 443, 6443, 80}
    assert ports(source, "signals.prometheusUrl=https://metrics.example") == {53, 443, 6443}


def test_team_roles_join_the_clusters_own() -> None:
    def aggregated(name: str, *sets: str) -> dict[str, str]:
        labels = named(f"ClusterRole/{name}", *sets)["metadata"]["labels"]
        prefix = "rbac.authorization.k8s.io/aggregate-to-"
        return {key.removeprefix(prefix): value for key, value in labels.items() if key.startswith(prefix)}

    assert aggregated("modelfleet-view") == {"view": "true", "edit": "true", "admin": "true"}
    assert aggregated("modelfleet-edit") == {"edit": "true", "admin": "true"}
    assert aggregated("modelfleet-cluster-view") == {}
    assert set(aggregated("modelfleet-edit", "rbac.aggregate=false").values()) == {"false"}
