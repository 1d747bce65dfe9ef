"""What `modelfleet whatif` foretells on a real cluster is what the operator then does; it reads, and writes nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from modelfleet.adapters.history import DEMAND_METRIC, MIX_METRIC, TARGET_METRIC, WANTED_METRIC, Series
from modelfleet.adapters.kubernetes import resource_path
from modelfleet.api.meta import API_VERSION
from modelfleet.cli.main import app
from sandbox.cluster import Sandbox
from sandbox.fleet import NAMESPACE
from tests.cluster.operator.scene import WRITING_VERBS, Team, Watched, gpu_class, same, unique, until
from tests.simulate.remembering import remembering

pytestmark = pytest.mark.xdist_group("operator-objects")

READER = "whatif-reader"
READABLE = {
    "": ["nodes", "pods", "resourcequotas"],
    "apps": ["deployments", "replicasets"],
    "autoscaling": ["horizontalpodautoscalers"],
    "modelfleet.dev": ["acceleratorclasses", "inferenceruntimes", "modeldeployments", "tenants"],
}
TENANT_COUNTS = ("guaranteed", "used", "borrowed", "lent", "waiting")


@pytest.fixture(scope="module")
def reader(cast: Any) -> Path:
    """The kubeconfig of somebody who may list what is needed, and nothing else."""
    sandbox = cast.fleet.sandbox
    rules = [{"apiGroups": [group], "resources": names, "verbs": ["list"]} for group, names in READABLE.items()]
    subject = {"kind": "ServiceAccount", "name": READER, "namespace": NAMESPACE}
    about = {"metadata": {"name": READER}}
    sandbox.request("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", about)
    roles = "/apis/rbac.authorization.k8s.io/v1"
    sandbox.request("POST", f"{roles}/clusterroles", {**about, "rules": rules})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": READER}
    sandbox.request("POST", f"{roles}/clusterrolebindings", {**about, "roleRef": reference, "subjects": [subject]})
    return Path(sandbox.service_account_kubeconfig(NAMESPACE, READER))


@pytest.fixture
def tenants(sandbox: Sandbox, operator: Watched) -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes manifests of Tenants; those that were applied end with the test."""
    made: set[str] = set()

    def create(name: str, accelerator: str, *namespaces: str, **quota: int) -> dict[str, Any]:
        made.add(name)
        quotas = [{"accelerator": accelerator, **quota}]
        spec = {"namespaces": list(namespaces), "quotas": quotas}
        return {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": name}, "spec": spec}

    yield create
    for name in made:
        sandbox.kubectl("delete", "tenant", name, "--ignore-not-found")


def whatif(kubeconfig: Path, *arguments: str, given: str = "") -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    result = CliRunner().invoke(app, ["whatif", "--kubeconfig", str(kubeconfig), *arguments], input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def answer(kubeconfig: Path, *arguments: str, given: str = "") -> dict[str, Any]:
    code, out, err = whatif(kubeconfig, *arguments, "-o", "json", given=given)
    assert code == 0, err
    return dict(json.loads(out))


def asked_of_the_api_server(sandbox: Sandbox, user: str) -> list[str]:
    """Return the verbs of all requests of an account, in the audit log."""
    entries = (sandbox.directory / "logs" / "audit.log").read_text().splitlines()
    return [json.loads(line)["verb"] for line in entries if f":{user}" in line]


def test_what_is_foretold_is_what_the_operator_does(
    sandbox: Sandbox,
    new_team: Callable[..., Team],
    tenants: Callable[..., dict[str, Any]],
    reader: Path,
    tmp_path: Path,
) -> None:
    """Ten GPUs are wanted and six are there: a new tenant and two smaller quotas move replicas as it was told."""
    teams = {name: new_team() for name in ("a", "b", "c")}
    names = {name: unique(f"whatif-{name}") for name in teams}
    with gpu_class(sandbox, gpus=(4, 2)) as accelerator:
        first = [
            tenants(names["a"], accelerator, teams["a"].namespace, nominalQuota=2),
            tenants(names["b"], accelerator, teams["b"].namespace, nominalQuota=4),
        ]
        sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(first))
        for name, wanted in (("a", 4), ("b", 4), ("c", 2)):
            teams[name].deploy(
                accelerator=accelerator, drainSeconds=5, scaling={"minReplicas": wanted, "maxReplicas": wanted}
            )
        for name, replicas in (("a", 2), ("b", 4)):
            teams[name].await_ready(replicas=replicas)
        same(0, lambda: teams["c"].status().get("desiredReplicas"))
        file = tmp_path / "new-tenants.yaml"
        file.write_text(
            yaml.safe_dump_all(
                [
                    tenants(names["a"], accelerator, teams["a"].namespace, nominalQuota=1),
                    tenants(names["b"], accelerator, teams["b"].namespace, nominalQuota=3, borrowingLimit=0),
                    tenants(names["c"], accelerator, teams["c"].namespace, nominalQuota=2),
                ]
            )
        )
        foretold = answer(reader, "-f", str(file))
        code, table, _ = whatif(reader, "-f", str(file))
        gone = answer(reader, "--delete", names["a"])
        verbs = asked_of_the_api_server(sandbox, READER)
        before = {team.namespace: team.replicas() for team in teams.values()}

        sandbox.kubectl("apply", "-f", str(file))
        rows = {row["namespace"]: row for row in foretold["deployments"]}
        for team in teams.values():
            row = rows[team.namespace]
            same(row["whatIf"], team.replicas)
            # Who gave back borrows nothing for a minute, and is told so for as long.
            limits = {row["limitedBy"], "Reclaimed"} if row["drains"] else {row["limitedBy"]}
            until(lambda team=team, limits=limits: team.status().get("limitedBy") in limits)  # type: ignore[misc]
        until(lambda: all(len(team.pods()) == rows[team.namespace]["whatIf"] for team in teams.values()))
        for row in foretold["tenants"]:
            if row["name"] in names.values():
                expected = [row["whatIf"][count] for count in TENANT_COUNTS]
                same(expected, lambda name=row["name"]: tenant_counts(sandbox, name))  # type: ignore[misc]

    assert {row["namespace"]: (row["now"], row["asIs"]) for row in rows.values() if row["namespace"] in before} == {
        namespace: (count, count) for namespace, count in before.items()
    }
    assert [rows[teams[name].namespace]["change"] for name in "abc"] == [-1, -1, 2]
    assert [rows[teams[name].namespace]["tenant"] for name in "abc"] == [names[name] for name in "abc"]
    assert any("borrowed GPUs go to" in note for note in rows[teams["a"].namespace]["drains"])
    assert [row["whatIf"] for row in gone["tenants"] if row["name"] == names["a"]] == [None]
    assert code == 0
    assert re.search(rf"{teams['c'].namespace}/llama +{names['c']} +\d+ +0 +0 +2 +\+2", table), table
    assert verbs
    assert not WRITING_VERBS.intersection(verbs)


def tenant_counts(sandbox: Sandbox, name: str) -> list[int]:
    status = sandbox.request("GET", resource_path(API_VERSION, "Tenant", name=name)).get("status", {})
    return [status.get(count, -1) for count in TENANT_COUNTS]


def test_a_claim_is_refused_as_the_operator_would_and_a_new_model_finds_its_place(
    sandbox: Sandbox, team: Team, tenants: Callable[..., dict[str, Any]], reader: Path
) -> None:
    """From standard input: a Tenant that claims another's namespace, and a ModelDeployment that is not there yet."""
    name = unique("whatif-owner")
    with gpu_class(sandbox, gpus=(4,)) as accelerator:
        team.deploy(accelerator=accelerator)
        team.await_ready()
        owner = tenants(name, accelerator, team.namespace, nominalQuota=4)
        sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump(owner))
        claim = tenants(f"{name}-2", accelerator, team.namespace, "elsewhere", nominalQuota=1)
        model = {**team.get(), "metadata": {"name": "qwen", "namespace": team.namespace}}
        model["spec"] |= {"gpusPerReplica": 2, "scaling": {"minReplicas": 2, "maxReplicas": 2}}
        answered = answer(reader, "-f", "-", given=yaml.safe_dump_all([claim, model]))
        found = {row["name"]: row for row in answered["deployments"] if row["namespace"] == team.namespace}

    assert answered["refused"] == [
        f"Tenant {name}-2: namespace {team.namespace} is Tenant {name}'s, which is older: "
        "take it out of spec.namespaces of one of the two"
    ]
    assert (found["qwen"]["now"], found["qwen"]["asIs"], found["qwen"]["whatIf"]) == (0, 0, 1)
    assert (found["llama"]["whatIf"], found["llama"]["tenant"]) == (1, name)
    assert found["qwen"]["limitedBy"] == "Capacity"


def test_a_recorded_day_is_played_both_ways(
    sandbox: Sandbox,
    new_team: Callable[..., Team],
    tenants: Callable[..., dict[str, Any]],
    reader: Path,
    tmp_path: Path,
) -> None:
    """Six hours: A wants 1, then 4; B wants 6 all the time. With a larger quota of A's, B gives more of it back.

    With an allowance of 600 tokens/s of both kinds, B's 600 generated ones, each with 2 prompt tokens, buy 2 replicas.
    """
    a, b = new_team(), new_team()
    names = unique("whatif-day"), unique("whatif-day")
    now = int(time.time())
    began = now - 6 * 3600 - 120
    with gpu_class(sandbox, gpus=(6,)) as accelerator:
        first = [
            tenants(names[0], accelerator, a.namespace, nominalQuota=2, borrowingLimit=0),
            tenants(names[1], accelerator, b.namespace, nominalQuota=4),
        ]
        sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(first))
        for team in (a, b):
            team.deploy(accelerator=accelerator, drainSeconds=60, scaling={"maxReplicas": 8})
            team.await_ready()

        def told_by(name: str, labels: dict[str, str], value: Callable[[int], int]) -> Series:
            samples = tuple((float(at), float(value(at))) for at in range(began, now, 30))
            return Series(name, {"deployment": "llama", **labels}, samples)

        half = began + (now - began) // 2
        past = [
            told_by(WANTED_METRIC, {"namespace": a.namespace}, lambda at: 1 if at < half else 4),
            # As a scrape has it that does not honor labels.
            *(
                told_by(name, {"namespace": "modelfleet-system", "exported_namespace": b.namespace}, lambda _, v=v: v)
                for name, v in {WANTED_METRIC: 6, DEMAND_METRIC: 600, MIX_METRIC: 2, TARGET_METRIC: 100}.items()
            ),
            told_by(WANTED_METRIC, {"namespace": "gone"}, lambda _: 3),
        ]
        changed = yaml.safe_dump_all(
            [
                tenants(names[0], accelerator, a.namespace, nominalQuota=4, borrowingLimit=0),
                tenants(names[1], accelerator, b.namespace, nominalQuota=2),
            ]
        )
        asked = ("-f", "-", "--since", "6h")
        with remembering(tmp_path, past) as url:
            told = answer(reader, *asked, "--prometheus", url, given=changed)["past"]
            code, table, err = whatif(reader, *asked, "--prometheus", url, given=changed)
            allowances = [manifest["spec"] | {"tokensPerMinute": {"total": 36_000}} for manifest in first]
            allowed = yaml.safe_dump_all([{**m, "spec": spec} for m, spec in zip(first, allowances, strict=True)])
            admitted = answer(reader, *asked, "--prometheus", url, given=allowed)["past"]
        silent = whatif(reader, *asked, "--prometheus", url, given=changed)
        of = {row["namespace"]: row for row in told["deployments"]}
        of_tenant = {row["name"]: row for row in told["tenants"]}

    near = 0.35
    assert of[a.namespace]["asIs"]["usedGpuHours"] == pytest.approx(3 * 1 + 3 * 2, abs=near)
    assert of[a.namespace]["whatIf"]["usedGpuHours"] == pytest.approx(3 * 1 + 3 * 4, abs=near)
    assert of[a.namespace]["asIs"]["waitingGpuHours"] == pytest.approx(3 * 2, abs=near)
    assert of[a.namespace]["whatIf"]["waitingGpuHours"] == pytest.approx(0, abs=near)
    assert of[b.namespace]["asIs"]["usedGpuHours"] == pytest.approx(3 * 5 + 3 * 4, abs=near)
    assert of[b.namespace]["whatIf"]["usedGpuHours"] == pytest.approx(3 * 5 + 3 * 2, abs=near)
    assert (of[b.namespace]["asIs"]["drains"], of[b.namespace]["whatIf"]["drains"]) == (1, 3)
    assert of_tenant[names[1]]["asIs"]["borrowedGpuHours"] == pytest.approx(3 * 1, abs=near)
    assert "in the record, and not in the cluster: gone/llama; left out" in told["notes"]
    under = {row["namespace"]: row["whatIf"] for row in admitted["deployments"]}
    assert under[b.namespace]["usedGpuHours"] == pytest.approx(6 * 2, abs=near)
    assert under[b.namespace]["waitingGpuHours"] == pytest.approx(0, abs=near)
    assert under[a.namespace]["usedGpuHours"] == pytest.approx(3 * 1 + 3 * 2, abs=near)
    without = f"recorded minutes have no {DEMAND_METRIC}: it takes no part in token allowances then"
    assert [note for note in admitted["notes"] if without in note and note.startswith(f"{a.namespace}/llama: ")]
    assert not [note for note in admitted["notes"] if without in note and b.namespace in note]
    assert not [note for note in told["notes"] if without in note]
    assert (code, err) == (0, "")
    assert "GPU-hours from" in table
    assert silent[0] == 2
    assert silent[2] == "Error: Prometheus: cannot be reached; check its URL\n"


BAD: dict[str, tuple[str, str]] = {
    "no YAML": ("a: [", "-f: standard input is no YAML"),
    "a field of the second document": (
        "{doc}\n---\n"
        "{apiVersion: modelfleet.dev/v1alpha1, kind: Tenant, metadata: {name: t}, "
        "spec: {namespaces: [n], quotas: [{accelerator: h100, nominalQuota: -1}]}}",
        "-f: standard input, document 2 (Tenant t): spec.quotas.0.nominalQuota: Input should be greater than or equal",
    ),
    "an unknown field": (
        "{apiVersion: modelfleet.dev/v1alpha1, kind: Tenant, metadata: {name: t}, spec: {namespaces: [n], quota: []}}",
        "document 1 (Tenant t): spec.quotas: Field required (and 1 more); correct it",
    ),
    "another kind": (
        "{apiVersion: modelfleet.dev/v1alpha1, kind: AcceleratorClass, metadata: {name: t}}",
        "document 1: kind: 'AcceleratorClass' is none that is played; give Tenant or ModelDeployment",
    ),
    "another version": ("{apiVersion: v1, kind: Pod}", "apiVersion: 'v1' is not known; give modelfleet.dev/v1alpha1"),
    "no name": ("{apiVersion: modelfleet.dev/v1alpha1, kind: Tenant}", "document 1 (Tenant): metadata.name: missing"),
    "no namespace": (
        "{apiVersion: modelfleet.dev/v1alpha1, kind: ModelDeployment, metadata: {name: m}}",
        "(ModelDeployment m): metadata.namespace: missing; give one",
    ),
    "twice": ("{doc}\n---\n{doc}", "document 2: Tenant good is in standard input, document 1 too; drop one"),
    "nothing": ("", "-f: nothing would change; give a file with a Tenant, or --delete one"),
    "a word": ("word", "document 1: not a mapping; give a manifest"),
}
GOOD = (
    "{apiVersion: modelfleet.dev/v1alpha1, kind: Tenant, metadata: {name: good}, "
    "spec: {namespaces: [n], quotas: [{accelerator: h100, nominalQuota: 1}]}}"
)


def test_bad_input_is_refused_in_one_line(sandbox: Sandbox, reader: Path, tmp_path: Path) -> None:
    """File, document, field and remedy; 2 for what was given and for what does not answer."""
    for case, (given, expected) in BAD.items():
        code, out, err = whatif(reader, "-f", "-", given=given.replace("{doc}", GOOD))
        assert (code, out) == (2, ""), case
        assert err.startswith("Error: -f: "), (case, err)
        assert expected in err, case
        assert err.count("\n") == 1, (case, err)

    nowhere = tmp_path / "kubeconfig"
    nowhere.write_text(re.sub(r"https://[^\"',\s]+", "https://127.0.0.1:1", reader.read_text()))
    unreachable = whatif(nowhere, "-f", "-", given=GOOD)
    nobody = sandbox.service_account_kubeconfig(NAMESPACE, "default")
    both = whatif(Path(f"{reader}:{nowhere}"), "-f", "-", "-o", "yaml", given=GOOD)
    forbidden = whatif(nobody, "-f", "-", given=GOOD)
    absent = whatif(tmp_path / "none", "-f", "-", given=GOOD)
    elsewhere = whatif(reader, "-f", "-", "--context", "elsewhere", given=GOOD)

    assert "cannot read /" in whatif(reader, "-f", "/no/such/file")[2]
    assert whatif(reader, "--delete", "nobody")[2].startswith("Error: --delete: there is no Tenant nobody; there are:")
    assert whatif(reader, "-f", "-", "--since", "1y", given=GOOD)[0] == 2
    assert (both[0], both[2]) == (0, "")
    assert "good" in {row["name"] for row in yaml.safe_load(both[1])["tenants"]}
    assert "cannot list resource" in forbidden[2]
    assert "elsewhere" in elsewhere[2]
    for code, out, err in (unreachable, absent, forbidden, elsewhere):
        assert code == 2
        assert out == ""
        assert err.startswith("Error: ")
        assert err.count("\n") == 1, err
