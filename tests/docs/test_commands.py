"""Every command of the pages is run: here, or as ELSEWHERE has it, or not at all for the reason in NOT_HERE."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import binaries
from sandbox.cluster import Sandbox
from sandbox.fleet import NAMESPACE, Fleet
from tests.docs.pages import CHECKOUT, PAGES, Command, commands, heredocs, text

pytestmark = pytest.mark.xdist_group("commands")

ELSEWHERE = {
    r"eval |make -s sandbox|make sandbox-down|export PATH=": "tests/docs/test_quickstart.py",
    r"helm (install|upgrade|rollback|uninstall|test) modelfleet(?!.* --set (prometheusRule|signals|replcas))": (
        "tests/cluster/helm/test_release.py"
    ),
    r"helm upgrade .* --set (prometheusRule|signals)": "tests/cluster/helm/test_switches.py",
    r"helm install .* --set replcas=3": "tests/chart/test_chart.py",
    r"make (test|lint|crds|chart|reference)": ".ci/run",
    r"python -m sandbox (up|down)": "tests/cluster/test_sandbox.py",
    r"python -m sandbox.load ": "tests/docs/test_quickstart.py",
    r"modelfleet simulate .": "tests/simulate/test_simulate_docs.py",
    r"modelfleet run ": "tests/cluster/helm/test_release.py",
}
"""Commands that another test runs, some with other values, by what they look like; where."""
NOT_HERE = {
    r"kubectl (.* )?(logs|port-forward)\b": "a sandbox has no kubelet",
    r"curl ": "asks what port-forward opens",
    r"kubectl .* top ": "a sandbox has no metrics server",
    r"podman ": "there is no container runtime",
    r"make (demo|install)": "the first needs minutes, the second the network",
    r"make (bench|boards|simulate)|python -m bench": "measures for minutes",
    r"(grep|head)( |$)": "reads what the command before it prints, and says by its code what was in it",
}
"""Commands that nothing runs; why."""
INCOMPLETE = frozenset(
    {
        *(
            "helm test",
            "helm upgrade",
            "kubectl apply",
            "kubectl diff",
            "kubectl diff --server-side",
            "kubectl get",
            "kubectl logs",
            "kubectl modelfleet",
        ),
        *("kubectl modelfleet COMMAND", "kubectl modelfleet explain", "kubectl -n NAMESPACE apply -f"),
        *("kubectl rollout restart", "kubectl scale", "kubectl scale deployment", "kubectl scale mdep"),
        *("modelfleet simulate", "modelfleet whatif"),
    }
)
"""What running text calls a command by, without its arguments."""
MEANT = {
    "NAMESPACE": "team-a",
    "NAME": "llama-8b",
    "TENANT": "team-a",
    "KIND": "deployment",
    "N": "1",
    "deploy/NAME": "deploy/llama-8b",
    "modelfleet.dev/deployment=NAME": "modelfleet.dev/deployment=llama-8b",
    "--replicas=N": "--replicas=1",
}
"""What stands for a reader's own names."""
PYTHONPATH = f"{CHECKOUT / 'operator'}:{CHECKOUT}"
FOREVER_SECONDS = 2.0
SETTLE_SECONDS = 60.0
OTHERS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: scaledobjects.keda.sh}
spec:
  group: keda.sh
  scope: Namespaced
  names: {kind: ScaledObject, plural: scaledobjects, singular: scaledobject}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
OLD = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: llama-old, namespace: team-a}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llama-old}, maxReplicas: 2}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: llama-old, namespace: team-a}
spec: {scaleTargetRef: {name: llama-old}}
"""


def line(command: Command) -> str:
    return " ".join(command.words)


def is_run_here(command: Command) -> bool:
    listed = any(re.match(pattern, line(command)) for pattern in (*ELSEWHERE, *NOT_HERE))
    return not listed and line(command) not in INCOMPLETE


def stdin(command: Command) -> str:
    """Return the heredocs of its page, for a command that reads from standard input."""
    return "---\n".join(heredocs(text(CHECKOUT / command.page))) if command.words[-2:] == ("-f", "-") else ""


def meant(word: str) -> str:
    """Return what stands for a reader's own name, or the word."""
    return MEANT.get(word, word)


def order(command: Command) -> int:
    """Return when it is run: what others need first, what takes that away last."""
    said = line(command)
    if said.startswith("kubectl create "):
        return 0 if " namespace " in said else 1
    if said.startswith("kubectl apply -f") and (stdin(command) or not said.endswith(" -")):
        return 2
    if " delete " not in f" {said}":
        return 3
    return 4 + bool(re.search("delete mdep ", said)) + 2 * bool(re.search("delete (crd|namespace) ", said))


COMMANDS = [command for page in PAGES for command in commands(page)]
HERE = sorted(
    {(*map(meant, each.words), stdin(each)): each for each in COMMANDS if is_run_here(each)}.values(), key=order
)


def test_every_command_is_run_or_listed() -> None:
    """What is run here is for kubectl and for us; no list names what no page has, or a test that is not there."""
    assert {command.words[0] for command in HERE} == {"kubectl", "modelfleet"}
    assert len(HERE) > 80
    lines = {line(command) for command in COMMANDS}
    for pattern in (*ELSEWHERE, *NOT_HERE):
        assert any(re.match(pattern, each) for each in lines), f"no page has {pattern}"
    assert lines >= INCOMPLETE
    assert [place for place in ELSEWHERE.values() if not (CHECKOUT / place).exists()] == []


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A cluster with Modelfleet and what others have on theirs."""
    with (
        Sandbox.start(tmp_path / "cluster", name="commands", prometheus=True) as running,
        Fleet(running, tmp_path / "logs"),
    ):
        for name in ("team-b", "team-b-batch"):
            running.kubectl("create", "namespace", name)
        running.kubectl("apply", "-f", "-", input=OTHERS)
        running.kubectl("wait", "--for=condition=Established", "crd/scaledobjects.keda.sh", "--timeout=30s")
        running.kubectl("run", "modelfleet-0", "--image=modelfleet", "-n", NAMESPACE)
        yield running


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the files that commands name."""
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    (tmp_path / "llama.yaml").write_text(heredocs(text(CHECKOUT / "README.md"))[0])
    (tmp_path / "new-tenants.yaml").write_text(heredocs(text(CHECKOUT / "docs/tenants.md"))[0])
    return tmp_path


def test_they_do_what_they_say(sandbox: Sandbox, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    reader = {
        "HOME": str(directory),
        "SHELL": "/bin/bash",
        "KUBECONFIG": str(sandbox.kubeconfig),
        "PYTHONPATH": PYTHONPATH,
    }
    failed, printed = [], [""]
    for number, command in enumerate(HERE):
        if order(command) > 2 >= order(HERE[number - 1]):
            settle(sandbox)
        words = typed(command, sandbox)
        if "report" in words:
            Path("report.zip").unlink(missing_ok=True)
        code, output = run(words, stdin(command) or printed[-1], os.environ | reader)
        printed.append(output)
        if code:
            failed.append(f"{command.page}: {line(command)}: exit code {code}: {output[-500:]}")
    assert not failed, "\n".join(failed)
    said = "\n".join(printed)
    assert "team-a/llama-8b: Available" in said
    assert "looked at: 0 errors" in said
    assert (directory / "report.zip").exists()


def settle(sandbox: Sandbox) -> None:
    """Give the namespace what a reader moves away from, and wait until its model serves."""
    sandbox.kubectl("create", "deployment", "llama-old", "--image=old", "-n", "team-a")
    sandbox.kubectl("apply", "-f", "-", input=OLD)
    for namespace in ("default", "team-a"):
        sandbox.kubectl("wait", "--for=condition=Ready", "mdep/llama-8b", "-n", namespace, "--timeout=60s")


def typed(command: Command, sandbox: Sandbox) -> list[str]:
    """Return the words with names of what is there."""
    namespace = "team-a" if "NAMESPACE" in command.words else NAMESPACE
    pods = sandbox.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    pod = next((name for each in pods if not (name := each["metadata"]["name"]).startswith("llama-old")), "")
    here = {"POD": pod, "http://localhost:9090": sandbox.prometheus_url}
    if "irt" in command.words:
        here["NAME"] = "vllm"
    return [here.get(word) or meant(word) for word in command.words]


def run(words: list[str], given: str, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command; return its exit code, 0 for one that shows without an end what happens, and what it printed."""
    ours = (
        [sys.executable, "-m", "modelfleet", *words[words.index("modelfleet") + 1 :]]
        if "modelfleet" in words[:2]
        else []
    )
    try:
        ended = subprocess.run(
            ours or [str(binaries.ensure("kubectl")["kubectl"]), *words[1:]],
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=FOREVER_SECONDS if "-w" in words else SETTLE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        return (0 if "-w" in words and error.stdout else 1), str(error)
    return ended.returncode, ended.stdout + ended.stderr
