"""Ten broken situations: `kubectl get`, `kubectl describe` or `modelfleet doctor` names the true cause of each.

The cluster is one of its own, for rights are taken from its operator and its leader is stopped.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION
from modelfleet.cli.doctor_facts import needed
from modelfleet.cli.main import app
from sandbox import binaries
from sandbox.cluster import Sandbox
from sandbox.fleet import CHART, KUBE_VERSION, NAMESPACE, SERVICE_ACCOUNT, Fleet
from sandbox.nodes import NodePlan
from tests.cluster.operator.scene import Cast, Team, Watched, _credential, create_class, gpu_class, unique, until

pytestmark = pytest.mark.xdist_group("doctor")

NAMED_SECONDS = 30.0
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/modelfleet"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    directory = tmp_path_factory.mktemp("doctor")
    with (
        Sandbox.start(directory / "cluster", name="doctor", nodes=NodePlan(h100=3, a100=1, cpu=0)) as sandbox,
        Fleet(sandbox, directory / "logs") as fleet,
    ):
        cast = Cast(fleet)
        cast.members.append(Watched(fleet.operators[0], _credential(sandbox)))
        yield cast


def run(sandbox: Sandbox, *arguments: str) -> tuple[int, str]:
    """Run the command as the administrator; return exit code and output."""
    result = CliRunner().invoke(app, [*arguments, "--kubeconfig", str(sandbox.kubeconfig)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def found(sandbox: Sandbox, *arguments: str) -> list[Json]:
    code, output = run(sandbox, "doctor", "-o", "json", *arguments)
    findings: list[Json] = json.loads(output)
    assert code == int(any(finding["severity"] == "error" for finding in findings))
    return findings


def named(sandbox: Sandbox, where: str, *texts: str, severity: str = "error") -> Json:
    """Wait until doctor has a finding about this that says all of these; return it."""

    def look() -> Json:
        return next(
            (
                finding
                for finding in found(sandbox)
                if finding["where"].startswith(where)
                and finding["severity"] == severity
                and all(text in finding["what"] + finding["remedy"] for text in texts)
            ),
            {},
        )

    return until(look, seconds=NAMED_SECONDS)


def columns(sandbox: Sandbox, team: Team, name: str = "llama") -> dict[str, str]:
    """Return what `kubectl get` shows of a deployment, by column."""
    lines = sandbox.kubectl("get", "mdep", name, "-n", team.namespace, "-o", "wide").splitlines()
    starts = [lines[0].index(title) for title in lines[0].split()]
    cells = [lines[1][start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
    return dict(zip(lines[0].split(), cells, strict=True))


def test_nothing_is_wrong_with_a_new_installation(sandbox: Sandbox, team: Team) -> None:
    """The schema in the cluster is this program's, the account has its rights, the leader renews."""
    team.deploy()
    team.await_ready()

    assert found(sandbox) == []
    assert run(sandbox, "doctor") == (0, "1 ModelDeployments looked at: 0 errors, 0 warnings\n")


def test_the_rights_that_are_asked_for_are_those_that_the_chart_grants(sandbox: Sandbox) -> None:
    granted = set()
    for kind, name in (("clusterroles", "modelfleet"), ("roles", "modelfleet-lease")):
        place = "" if kind == "clusterroles" else f"namespaces/{NAMESPACE}/"
        rules = sandbox.request("GET", f"/apis/rbac.authorization.k8s.io/v1/{place}{kind}/{name}")["rules"]
        granted |= {
            (verb, group, resource, object_name)
            for rule in rules
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for object_name in rule.get("resourceNames", [""])
        }

    assert granted == {(right.verb, right.group, right.resource, right.name) for right in needed(NAMESPACE, ())}


def test_an_install_for_named_namespaces(sandbox: Sandbox, team: Team, new_team: Callable[..., Team]) -> None:
    """It is asked for no more than the chart then grants, nor to run what is elsewhere."""
    other = new_team()
    role = sandbox.request("GET", ROLE)
    install = ["template", "modelfleet", str(CHART), "-n", NAMESPACE, "--kube-version", KUBE_VERSION]
    shown = [f"--show-only=templates/{name}.yaml" for name in ("rbac", "deployment")]
    values = ["--set", f"watchNamespaces={{{team.namespace}}}", "--set", "replicas=0"]
    helm = str(binaries.ensure("helm")["helm"])
    objects = subprocess.run([helm, *install, *shown, *values], capture_output=True, text=True, check=True).stdout
    try:
        sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=objects)
        until(lambda: found(sandbox) == [], seconds=NAMED_SECONDS)

        other.deploy()
        named(sandbox, f"ModelDeployment {other.namespace}/llama", f"for the namespaces {team.namespace} only")
        sandbox.kubectl("delete", "role", "modelfleet", "-n", team.namespace)
        finding = named(sandbox, "RBAC", f"patch deployments.apps in {team.namespace}")
        assert "nodes" not in finding["what"]
    finally:
        sandbox.kubectl("delete", "deployment", "modelfleet", "-n", NAMESPACE)
        sandbox.request("PATCH", ROLE, {"rules": role["rules"]})
        other.end()


# --- the ten ------------------------------------------------------------------------------------------


def test_a_wrong_label(sandbox: Sandbox, team: Team) -> None:
    name = unique("typo")
    create_class(sandbox, name)
    team.deploy(accelerator=name)

    finding = named(sandbox, f"AcceleratorClass {name}", f"no node has nvidia.com/gpu.product={name}")

    assert (
        "nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3 (3 nodes), nvidia.com/gpu.product=NVIDIA-A100-SXM4-80GB (1 nodes)"
        in finding["remedy"]
    )
    sandbox.request("DELETE", resource_path(API_VERSION, "AcceleratorClass", name=name))


def test_a_full_quota(sandbox: Sandbox, team: Team) -> None:
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "1"}}}
    sandbox.request("POST", f"/api/v1/namespaces/{team.namespace}/resourcequotas", quota)
    team.deploy(scaling={"minReplicas": 2})

    named(sandbox, f"Deployment {team.namespace}/llama", "exceeded quota: gpus", "limited: requests.nvidia.com/gpu=1")
    named(sandbox, f"ResourceQuota {team.namespace}/gpus", "all 1 of its nvidia.com/gpu are used", severity="warning")


def test_an_image_that_never_starts(sandbox: Sandbox, team: Team) -> None:
    """The pod is as the kubelet leaves one whose image is not there."""
    team.deploy(engine={"imagePullSeconds": 600})
    pulling = "sandbox.modelfleet.dev/image-pull-seconds"
    [pod] = until(
        lambda: [
            each
            for each in team.pods()
            if pulling in each["metadata"].get("annotations", {}) and each["status"].get("containerStatuses")
        ]
    )
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "vllm/vllm-openai:typo"'}
    container = {"name": pod["spec"]["containers"][0]["name"], "image": "", "imageID": "", "ready": False}
    path = f"/api/v1/namespaces/{team.namespace}/pods/{pod['metadata']['name']}"
    statuses = [{**container, "restartCount": 0, "state": {"waiting": waiting}}]
    # Without it the sandbox pulls no image, and so never gets any further.
    sandbox.request("PATCH", path, {"metadata": {"annotations": {pulling: None}}})
    sandbox.request("PATCH", f"{path}/status", {"status": {"phase": "Pending", "containerStatuses": statuses}})

    finding = named(sandbox, f"pod {team.namespace}/llama-", "ImagePullBackOff", "vllm-openai:typo")

    assert "correct the image of the InferenceRuntime" in finding["remedy"]
    until(lambda: columns(sandbox, team)["REASON"] == "PodFailed", seconds=NAMED_SECONDS)
    assert "ImagePullBackOff: Back-off pulling image" in team.message("Ready")


def test_a_foreign_autoscaler(sandbox: Sandbox, team: Team) -> None:
    team.deploy()
    team.await_ready()
    for number, target in enumerate(
        ({"apiVersion": "apps/v1", "kind": "Deployment"}, {"apiVersion": API_VERSION, "kind": "ModelDeployment"})
    ):
        spec = {"scaleTargetRef": {**target, "name": "llama"}, "minReplicas": 1, "maxReplicas": 9}
        path = f"/apis/autoscaling/v2/namespaces/{team.namespace}/horizontalpodautoscalers"
        sandbox.request("POST", path, {"metadata": {"name": f"hpa-{number}"}, "spec": spec})

    where = f"HorizontalPodAutoscaler {team.namespace}/hpa-"
    finding = named(sandbox, f"{where}0", f"scales Deployment {team.namespace}/llama")
    named(sandbox, f"{where}1", f"scales ModelDeployment {team.namespace}/llama", "to minReplicas has no effect")

    assert finding["remedy"] == f"kubectl delete horizontalpodautoscaler -n {team.namespace} hpa-0"
    until(lambda: columns(sandbox, team)["REASON"] == "ForeignAutoscaler", seconds=NAMED_SECONDS)
    assert f"{team.namespace}/hpa-0 scales the same replicas" in team.message("Scaling")

    # Of the one that is left it is told the truth: minReplicas, which is what it writes, moves nothing.
    sandbox.kubectl("delete", "hpa", "hpa-0", "-n", team.namespace)
    until(lambda: "hpa-1 scales the same replicas" in team.message("Scaling"))
    sandbox.kubectl("scale", "mdep", "llama", "--replicas=3", "-n", team.namespace)
    until(lambda: team.status()["observedGeneration"] == team.get()["metadata"]["generation"])
    assert team.get()["spec"]["scaling"]["minReplicas"] == 3
    assert (team.replicas(), team.status()["reason"]) == (1, "ForeignAutoscaler")


def test_a_missing_rule(sandbox: Sandbox, team: Team) -> None:
    role = sandbox.request("GET", ROLE)
    rules = [rule for rule in role["rules"] if rule["resources"] != ["poddisruptionbudgets"]]
    sandbox.request("PUT", ROLE, {**role, "rules": rules})
    try:
        finding = named(sandbox, "RBAC", "may not get poddisruptionbudgets.policy, list poddisruptionbudgets.policy")
    finally:
        sandbox.request("PATCH", ROLE, {"rules": role["rules"]})

    assert f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT} may not" in finding["what"]
    assert "deployments" not in finding["what"]
    until(lambda: found(sandbox) == [], seconds=NAMED_SECONDS)


def test_gpus_that_no_node_has(sandbox: Sandbox, team: Team) -> None:
    with gpu_class(sandbox, gpus=(4,)) as name:
        team.deploy(accelerator=name, gpusPerReplica=8)

        named(sandbox, f"ModelDeployment {team.namespace}/llama", "8 GPUs fit no node", "its largest has 4")

        assert columns(sandbox, team)["REASON"] == "GPUsExceedNode"
        described = sandbox.kubectl("describe", "mdep", "llama", "-n", team.namespace)
        assert "lower gpusPerReplica or choose another accelerator" in described
        team.end()


def test_stale_metrics(sandbox: Sandbox, team: Team) -> None:
    team.deploy()
    team.await_ready()
    team.fault("silent")

    finding = named(sandbox, "InferenceRuntime vllm", f"{team.namespace}/llama since", "no answer within 2 s")

    assert "1 deployments have no fresh metrics" in finding["what"]
    assert columns(sandbox, team)["REASON"] == "MetricsMissing"


def test_paused_and_forgotten(sandbox: Sandbox, team: Team) -> None:
    """What was paused without an end is a note at once, and a warning once it is a day old."""
    team.deploy()
    team.await_ready()
    assert run(sandbox, "pause", "llama", "-n", team.namespace) == (0, f"{team.namespace}/llama: Paused\n")

    finding = named(
        sandbox, f"ModelDeployment {team.namespace}/llama", "mode Paused since", "without an end", severity="note"
    )

    assert finding["remedy"] == f"kubectl modelfleet resume llama -n {team.namespace}"
    shown = columns(sandbox, team)
    assert (shown["REASON"], shown["MODE"]) == ("Paused", "Paused")
    conditions = team.status()["conditions"]
    long_ago = (datetime.now(UTC) - timedelta(days=2)).isoformat(timespec="seconds").replace("+00:00", "Z")
    aged = [{**each, "lastTransitionTime": long_ago} if each["type"] == "Scaling" else each for each in conditions]
    sandbox.request("PATCH", f"{team.path()}/status", {"status": {"conditions": aged}})
    named(sandbox, f"ModelDeployment {team.namespace}/llama", "mode Paused since 2d", severity="warning")


# --- these two change the operator, and so come last ----------------------------------------------------


def test_an_unreachable_prometheus(sandbox: Sandbox, cast: Cast, team: Team) -> None:
    cast.only().end()
    blind = cast.add("--source", "prometheus", "--prometheus-url", "http://127.0.0.1:9", *SHORT)
    until(blind.leads)
    team.deploy()

    finding = named(sandbox, "InferenceRuntime vllm", f"{team.namespace}/llama since", "Prometheus: cannot be reached")

    assert "--prometheus-url" in finding["remedy"]
    assert columns(sandbox, team)["REASON"] == "MetricsMissing"
    from_here = found(sandbox, "--prometheus-url", "http://127.0.0.1:9")
    assert any(each["where"] == "Prometheus" and "127.0.0.1:9" in each["what"] for each in from_here)


SHORT = ("--prometheus-scrape-interval-seconds", "1")


def test_a_stuck_leader(sandbox: Sandbox, cast: Cast, team: Team) -> None:
    leader = cast.only()
    leader.process.send_signal(signal.SIGSTOP)
    try:
        finding = named(sandbox, "operator ", "the leader is stuck", "no standby took over")
        code, output = run(sandbox, "status", "-n", team.namespace)
    finally:
        leader.process.send_signal(signal.SIGCONT)

    assert "delete pod" in finding["remedy"]
    assert code == 0
    assert "does not renew its Lease" in output
