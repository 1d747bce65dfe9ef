"""The commands against a running fleet: what they print is what the cluster says, and docs/cli.md tells the truth."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from modelfleet.api.meta import API_VERSION
from modelfleet.cli.explain import explanation
from modelfleet.cli.main import app
from sandbox import binaries
from sandbox.cluster import CHECKOUT, RequestFailed, Sandbox
from tests.cluster.operator.scene import Team, Watched, same, until

pytestmark = pytest.mark.xdist_group("operator-cli")

Json = dict[str, Any]
DOCUMENTS = {name: (CHECKOUT / "docs" / f"{name}.md").read_text() for name in ("cli", "modes-and-schedules")}


def run(sandbox: Sandbox, *arguments: str) -> tuple[int, str]:
    """Run a command as the administrator; return exit code and output."""
    result = CliRunner().invoke(app, [*arguments, "--kubeconfig", str(sandbox.kubeconfig)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def answered(sandbox: Sandbox, *arguments: str) -> Any:
    code, output = run(sandbox, *arguments, "-o", "json")
    assert code == 0, output
    return json.loads(output)


@pytest.fixture
def plugin(sandbox: Sandbox, tmp_path: Path) -> Callable[..., str]:
    """Runs kubectl with the console scripts on its PATH, as an installation has them."""
    shims = {
        "kubectl-modelfleet": "from modelfleet.cli.main import app; app()",
        "kubectl_complete-modelfleet": "from modelfleet.cli.completion import complete; complete()",
    }
    for name, code in shims.items():
        shim = tmp_path / name
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)

    def kubectl(*arguments: str) -> str:
        environment = {"KUBECONFIG": str(sandbox.kubeconfig), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        program = str(binaries.ensure("kubectl")["kubectl"])
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, timeout=60, env=os.environ | environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return kubectl


def test_kubectl_finds_it_and_completes_it(plugin: Callable[..., str], team: Team) -> None:
    team.deploy("alpha")
    team.deploy("beta")
    team.await_ready("alpha")

    assert f"{team.namespace}/alpha: Available" in plugin("modelfleet", "explain", "alpha", "-n", team.namespace)
    commands = plugin("__complete", "modelfleet", "").splitlines()
    names = plugin("__complete", "modelfleet", "explain", "--namespace", team.namespace, "").splitlines()
    assert {"explain", "status", "history", "doctor", "report", "pause", "resume", "recommend"} <= set(commands)
    assert set(names) >= {"alpha", "beta"}


@pytest.mark.parametrize(
    ("command", "scaling", "said"),
    [
        (("apply",), {}, "default"),
        (("apply",), {"maxReplicas": 4}, "kubectl-client-side-apply"),
        (("apply",), {"maxReplicas": 5}, "kubectl-client-side-apply"),
        (("apply", "--server-side", "--field-manager=argocd"), {}, "default"),
        (("apply", "--server-side", "--field-manager=argocd"), {"maxReplicas": 4}, "argocd"),
        (("create",), {}, "kubectl-create, or default"),
        (("create",), {"maxReplicas": 5}, "kubectl-create"),
    ],
)
def test_explain_tells_a_default_from_what_somebody_set(
    sandbox: Sandbox, operator: Watched, command: tuple[str, ...], scaling: Json, said: str
) -> None:
    """As the API server records it: whoever creates an object is the manager of its defaults too."""
    spec = {"model": {"name": "a/b"}, "runtime": "vllm", "accelerator": "h100", "scaling": scaling}
    manifest = {"apiVersion": API_VERSION, "kind": "ModelDeployment", "metadata": {"name": "default"}, "spec": spec}
    arguments = (*command, "--dry-run=server", "-o", "json", "--show-managed-fields", "-f", "-")
    item = json.loads(sandbox.kubectl(*arguments, input=json.dumps(manifest)))

    assert explanation({**item, "status": {"limitedBy": "MaxReplicas"}})["setBy"] == said


def test_explain_shows_the_record_of_the_status(sandbox: Sandbox, team: Team) -> None:
    team.deploy(scaling={"minReplicas": 2})
    team.await_ready(replicas=2)
    until(lambda: team.status()["limitedBy"] == "MinReplicas")

    value = answered(sandbox, "explain", "llama", "-n", team.namespace)
    _, text = run(sandbox, "explain", "llama", "-n", team.namespace)

    status = team.status()
    assert value["decision"]["unblock"] == status["decision"]["unblock"]
    assert [step["name"] for step in value["decision"]["steps"]] == [
        "replicas",
        "stabilize",
        "bounds",
        "admit",
        "allocate",
    ]
    assert (value["limitedBy"], value["limitField"]) == ("MinReplicas", "spec.scaling.minReplicas")
    assert value["setBy"] in text
    for word in (
        "SIGNAL",
        "queuedRequests",
        "bounds 2-4",
        "mode Auto",
        "ARITHMETIC",
        "set by",
        "to unblock: ",
        "next: ",
    ):
        assert word in text
    assert status["decision"]["unblock"] in text
    assert yaml.safe_load(run(sandbox, "explain", "llama", "-n", team.namespace, "-o", "yaml")[1])["name"] == "llama"


def test_what_is_not_there_is_one_line_with_a_remedy(sandbox: Sandbox, team: Team, tmp_path: Path) -> None:
    refused = {
        (
            "explain",
            "nothing",
        ): f"Error: NAME: no ModelDeployment nothing in namespace {team.namespace}; kubectl",
        ("pause", "nothing"): "Error: NAME: no ModelDeployment nothing",
        ("pause", "nothing", "--for", "soon"): "Error: --for: 'soon' is no length of time; give one like 30m",
        ("explain", "llama", "--context", "other"): "Error: no Kubernetes credentials: ",
    }
    for arguments, expected in refused.items():
        code, output = run(sandbox, *arguments, "-n", team.namespace)
        assert (code, output.count("\n")) == (2, 1), output
        assert output.startswith(expected)
    away = tmp_path / "kubeconfig"
    away.write_text(re.sub(r"https://[^\"\s]+", "https://127.0.0.1:9", sandbox.kubeconfig.read_text()))
    result = CliRunner().invoke(app, ["doctor", "--kubeconfig", str(away)])
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output


def test_a_person_without_rights_is_told_which(sandbox: Sandbox, team: Team) -> None:
    """A namespace's default account may read nothing: each check that cannot be made is named with its right."""
    kubeconfig = sandbox.service_account_kubeconfig(team.namespace, "default")
    result = CliRunner().invoke(app, ["doctor", "-o", "json", "--kubeconfig", str(kubeconfig)])
    notes = json.loads(result.output)

    assert result.exit_code == 0
    assert {note["severity"] for note in notes} == {"note"}
    assert len(notes) == 15
    assert any('cannot list resource "nodes" in API group ""' in note["what"] for note in notes)
    refused = CliRunner().invoke(app, ["status", "--kubeconfig", str(kubeconfig)])
    assert refused.exit_code == 2
    assert 'cannot list resource "modeldeployments"' in refused.output


def test_status_adds_up(sandbox: Sandbox, team: Team, operator: Watched) -> None:
    team.deploy("alpha", scaling={"minReplicas": 2})
    team.deploy("beta", scaling={"mode": "Paused"})
    team.await_ready("alpha", replicas=2)
    same("Paused", lambda: team.status("beta").get("reason"))

    value = answered(sandbox, "status", "-n", team.namespace)
    _, text = run(sandbox, "status", "-A")

    fleet = value["fleet"]
    assert (fleet["deployments"], fleet["notAuto"]) == (2, 1)
    assert fleet["desired"] == 2 + team.status("beta")["desiredReplicas"]
    assert value["operator"]["leads"]
    assert value["operator"]["renewedSecondsAgo"] < 20
    h100 = next(each for each in value["classes"] if each["name"] == "h100")
    assert h100["capacityGpus"] == 32 == h100["usedGpus"] + h100["freeGpus"]
    assert [each["name"] for each in value["deployments"]] == ["alpha", "beta"]
    assert "leads, Lease renewed" in text
    assert team.namespace in text


def test_status_watches_until_interrupted(sandbox: Sandbox, team: Team) -> None:
    team.deploy()
    team.await_ready()
    # Whoever runs the tests in the background has interrupts ignored, and children inherit that.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "modelfleet", "status", "-n", team.namespace]
    command += ["--watch", "--kubeconfig"]
    process = subprocess.Popen([*command, str(sandbox.kubeconfig)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        seen = ""
        while seen.count("deployments:") < 1:
            seen += process.stdout.readline()
        assert process.poll() is None
    finally:
        process.send_signal(2)
        rest, _ = process.communicate(timeout=20)
    assert "1 deployments" in seen
    assert "Traceback" not in rest
    assert process.returncode == 0


def test_pause_ends_by_itself_and_nobody_writes_the_spec(sandbox: Sandbox, team: Team) -> None:
    """A minimum that rises is not followed while Paused, and is once the time is over: by the clock alone."""
    team.deploy()
    team.await_ready()
    until_then = datetime.now(UTC) + timedelta(seconds=12)
    text = f"{until_then:%Y-%m-%dT%H:%M:%SZ}"
    team.change(scaling={"mode": "Paused", "modeUntil": text, "minReplicas": 2})
    same("Paused", lambda: team.status().get("reason"))
    generation = team.get()["metadata"]["generation"]
    held = team.status()
    shown = sandbox.kubectl("get", "mdep", "llama", "-n", team.namespace)

    team.await_ready(replicas=2)

    item = team.get()
    assert held["mode"].startswith("Paused until ")
    assert held["mode"] in shown
    assert held["desiredReplicas"] == 1
    assert held["decision"]["nextChange"] == "mode Paused ends"
    assert held["decision"]["nextChangeAt"] == text
    assert datetime.now(UTC) >= until_then - timedelta(seconds=1)
    assert item["metadata"]["generation"] == generation
    assert item["spec"]["scaling"]["mode"] == "Paused"
    assert item["status"]["mode"] == "Auto"
    assert [entry["reason"] for entry in item["status"]["recent"]].count("Paused") == 1


def test_the_commands_set_modes_and_undo_them(sandbox: Sandbox, team: Team) -> None:
    team.deploy()
    team.await_ready()
    place = ("-n", team.namespace)
    modes = {
        ("pause", "llama"): "Paused",
        ("pause", "llama", "--only", "in"): "PausedScaleIn",
        ("pause", "llama", "--only", "out", "--for", "2h"): "PausedScaleOut until",
        ("recommend", "llama", "--for", "1d"): "Recommend until",
        ("resume", "llama"): "Auto",
    }
    for arguments, mode in modes.items():
        code, output = run(sandbox, *arguments, *place)
        assert code == 0
        assert output.startswith(f"{team.namespace}/llama: {mode}")
        until(lambda mode=mode: team.status()["mode"].startswith(mode))  # type: ignore[misc]
    item = team.get()

    assert item["spec"]["scaling"]["mode"] == "Auto"
    assert "modeUntil" not in item["spec"]["scaling"]
    managers = {entry["manager"] for entry in item["metadata"]["managedFields"]}
    assert "modelfleet-cli" in managers
    manifest = yaml.safe_dump(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "llama", "namespace": team.namespace},
            "spec": {"scaling": {"mode": "Auto"}},
        }
    )
    sandbox.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=flux", "-f", "-", input=manifest)
    assert "flux applies spec.scaling.mode and may put it back" in run(sandbox, "pause", "llama", *place)[1]


def test_a_schedule_binds_and_is_shown(sandbox: Sandbox, team: Team) -> None:
    """One that holds all day long raises the floor to 2; its replicas go when it is taken out."""
    all_day = {"name": "all-day", "start": "0 0 * * *", "end": "59 23 31 12 *", "minReplicas": 2}
    team.deploy(scaling={"schedules": [all_day]})
    team.await_ready(replicas=2)
    until(lambda: team.status()["limitedBy"] == "Schedule")
    wide = sandbox.kubectl("get", "mdep", "llama", "-n", team.namespace, "-o", "wide")
    status = team.status()
    team.change(scaling={"schedules": []})
    team.await_ready(replicas=1)

    assert "2-4 (all-day)" in wide
    assert status["decision"]["unblock"].startswith("the end of schedule all-day at ")
    assert status["decision"]["nextChange"] == "schedule all-day begins or ends"
    assert status["reason"] == "Available"


def test_a_schedule_that_cannot_be_read_is_named(sandbox: Sandbox, team: Team) -> None:
    """The API server refuses what its schema can tell; the operator names the rest, and leaves replicas alone."""
    team.deploy()
    team.await_ready()
    good = {"name": "day", "start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 2}
    for changes, message in (
        ({"start": "at eight"}, "spec.scaling.schedules[0].start"),
        ({"minReplicas": 9}, "minReplicas of a schedule must not be greater"),
        ({"minReplicas": None}, "minReplicas or maxReplicas must be given"),
        ({"end": "0 8 * * *"}, "start and end must differ"),
    ):
        with pytest.raises(RequestFailed) as refused:
            team.change(scaling={"schedules": [{name: value for name, value in {**good, **changes}.items() if value}]})
        assert message in str(refused.value)
    team.change(scaling={"schedules": [{**good, "timeZone": "Europe/Berln"}]})
    same(("False", "InvalidSpec"), lambda: team.condition("Ready"))
    assert "spec.scaling.schedules.0.timeZone: Value error, no time zone 'Europe/Berln'" in team.message("Ready")
    assert team.replicas() == 1
    team.change(scaling={"schedules": [{**good, "start": "61 8 * * *"}]})
    until(lambda: "spec.scaling.schedules.0.start: Value error, '61 8 * * *' is no cron" in team.message("Ready"))


def test_history_outlives_the_operator(sandbox: Sandbox, team: Team, operator: Watched) -> None:
    team.deploy()
    team.await_ready()
    for replicas in (2, 3):
        team.change(scaling={"minReplicas": replicas})
        team.await_ready(replicas=replicas)
    before = answered(sandbox, "history", "llama", "-n", team.namespace)
    operator.end()
    _, text = run(sandbox, "history", "llama", "-n", team.namespace)

    assert [entry["desired"] for entry in before][-1] == 3
    assert {1, 2, 3} <= {entry["desired"] for entry in before}
    assert answered(sandbox, "history", "llama", "-n", team.namespace) == before
    assert len(text.splitlines()) == 6 + 1 + len(before)
    assert re.search(r"desired [ ▁-█]{60} 3 \(most 3\)", text)


def test_a_report_has_no_secret(sandbox: Sandbox, team: Team, tmp_path: Path) -> None:
    secret = "hf_9aGxQ2"
    for kind, body in (
        ("secrets", {"metadata": {"name": "hf-token"}, "stringData": {"token": secret}}),
        (
            "pods",
            {
                "metadata": {
                    "name": "other",
                    "labels": {"modelfleet.dev/deployment": "llama"},
                    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": f'{{"env":"{secret}"}}'},
                },
                "spec": {
                    "containers": [
                        {
                            "name": "engine",
                            "image": "engine:1",
                            "env": [{"name": "HF_TOKEN", "value": secret}],
                            "args": [
                                "--api-key",
                                secret,
                                f"--token={secret}",
                                f"http://me:{secret}@here/",
                                "--port=80",
                            ],
                        }
                    ]
                },
            },
        ),
    ):
        sandbox.request("POST", f"/api/v1/namespaces/{team.namespace}/{kind}", body)
    team.deploy(model={"name": "a/b", "tokenSecretName": "hf-token"})
    same(True, lambda: bool(team.status()))
    target = tmp_path / "report.zip"

    code, output = run(sandbox, "report", str(target), "-n", team.namespace)

    assert code == 0, output
    with zipfile.ZipFile(target) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert not [name for name, text in files.items() if secret in text]
    assert "--port=80" in files["pods.yaml"]
    assert "HF_TOKEN" in files["pods.yaml"]
    assert {
        "findings.json",
        "deployments.yaml",
        "nodes.yaml",
        "events.yaml",
        "leases.yaml",
        "clocks.json",
    } <= files.keys()
    [deployment] = yaml.safe_load_all(files["deployments.yaml"])
    assert deployment["status"]["decision"]["steps"]
    assert run(sandbox, "report", str(target))[0] == 2


# --- the documents ------------------------------------------------------------------------------------


def test_the_manifest_of_the_document_is_accepted(sandbox: Sandbox, team: Team) -> None:
    (manifest,) = re.findall(r"^```yaml\n(.+?)^```", DOCUMENTS["modes-and-schedules"], re.MULTILINE | re.DOTALL)
    sandbox.kubectl("apply", "-n", team.namespace, "-f", "-", input=manifest)
    until(lambda: team.status("llama-8b").get("bounds"))

    assert re.match(r"^[12]-[248]( \((office-hours|nights)(, nights)?\))?$", team.status("llama-8b")["bounds"])


def test_every_option_that_is_named_is_one() -> None:
    command = typer.main.get_command(app)
    options = {
        option
        for each in (command, *command.commands.values())  # type: ignore[attr-defined]
        for parameter in each.params
        for option in parameter.opts
    }
    named = {option for document in DOCUMENTS.values() for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", document)}

    assert named <= options
