"""`modelfleet simulate --fleet`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from modelfleet.cli.main import app
from modelfleet.simulate.fleet import FLEET
from modelfleet.simulate.registry import OURS
from tests.simulate.test_report import rows
from tests.simulate.test_simulate_command import FIELDS

FILE: dict[str, Any] = {
    "nodes": [{"accelerator": "a100", "count": 2, "gpus": 2}],
    "deployments": [
        {
            "name": "chat",
            "accelerator": "a100",
            "priority": 5,
            "calibration": "llama-3-8b-a100",
            "startSeconds": 20,
            "maxReplicas": 4,
            "load": {"shape": "diurnal", "rate": 12, "durationSeconds": 200, "phase": 0.5},
        },
        {
            "name": "code",
            "accelerator": "a100",
            "calibration": {"calibration": "llama-3-8b-a100", "gpus": 2},
            "startSeconds": 20,
            "ttftSeconds": 9,
            "maxReplicas": 4,
            "load": {"trace": "day.csv", "rateScale": 2},
        },
    ],
}


def write(folder: Path, values: object) -> Path:
    lines = ["t_s,prompt_tokens,output_tokens", *(f"{second},1000,60" for second in range(200))]
    (folder / "day.csv").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "fleet.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


def simulate(path: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["simulate", "--fleet", str(path), *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_json_has_each_deployment_and_the_fleet(tmp_path: Path) -> None:
    code, out, err = simulate(
        write(tmp_path, FILE), "--policy", f"keda,{OURS}", "--json", "--jobs", "1", "--seeds", "2"
    )

    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [(row["policy"], row["deployment"], row["seed"]) for row in rows] == [
        (policy, name, seed) for policy in ("keda", OURS) for seed in (0, 1) for name in ("chat", "code", FLEET)
    ]
    own = [*FIELDS[:-1], "deployment", "gpu_hours_pending", "pending_p99_s", "seed"]
    for chat, code_, fleet in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert list(chat) == list(code_) == own
        assert list(fleet) == [*own, "worst_attainment", "gpu_utilization", "pending_pod_hours"]
        assert fleet["requests"] == chat["requests"] + code_["requests"]
        assert fleet["target"] is None
        assert fleet["worst_attainment"] == min(chat["attainment"], code_["attainment"])
    assert rows[1]["requests"] == 400


def test_the_order_in_the_file_and_the_number_of_processes_change_nothing(tmp_path: Path) -> None:
    asked = ("--policy", f"{OURS},hpa-inflight", "--json")
    first = simulate(write(tmp_path, FILE), *asked, "--jobs", "1")
    turned = FILE | {"deployments": FILE["deployments"][::-1]}

    assert simulate(write(tmp_path, turned), *asked, "--jobs", "2") == first


def test_tables_and_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    asked = ("--policy", f"{OURS},static", "--price", "2", "--jobs", "1", "--html", str(report))

    code, out, _ = simulate(write(tmp_path, FILE), *asked)

    assert code == 0
    assert "nodes     4 GPUs of a100 on 2" in out
    assert sum(line.startswith(OURS) for line in out.splitlines()) == 2
    html = report.read_text(encoding="utf-8")
    assert "GPUs by deployment" in html and '"stackgroup":"2"' in html
    assert "src=" not in html[html.index("</script>") :]
    headings, *table = rows(html)
    assert headings[-3:] == ["cost, USD", "USD per 1,000 in target", "USD a month"]
    fixed = next(row for row in table if row[0] == "static")
    hours, cost = float(fixed[headings.index("GPU-hours")]), float(fixed[-3])
    assert cost == pytest.approx(2 * hours, abs=0.02)
    # A constant fleet of three GPUs.
    assert float(fixed[-1].replace(",", "")) == pytest.approx(3 * 2 * 730, rel=0.01)
    assert "At 2.0 USD per GPU-hour" in html
    simulate(write(tmp_path, FILE), *asked)
    assert report.read_text(encoding="utf-8") == html
    simulate(write(tmp_path, FILE), "--policy", "static", "--html", str(report))
    assert "USD" not in "".join(rows(report.read_text(encoding="utf-8"))[0])


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    values = copy.deepcopy(FILE)
    place: Any = values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return values


CHAT = ("deployments", 0)


@pytest.mark.parametrize(
    ("values", "want"),
    {
        "no YAML": ("nodes: [", "is neither JSON nor YAML"),
        "no mapping": ("- a", "holds no mapping; give nodes and deployments"),
        "no nodes": (changed("nodes", to=[]), "nodes: Tuple should have at least 1 item"),
        "an unknown field": (changed(*CHAT, "gpu", to=1), "deployments.0.gpu: Extra inputs are not permitted"),
        "an unknown accelerator": (
            changed(*CHAT, "accelerator", to="h100"),
            "fleet: chat: no nodes have accelerator 'h100'; known: a100",
        ),
        "a replica that no node takes": (
            changed(*CHAT, "calibration", to="llama-2-70b-h100-tp8"),
            "fleet: chat: a replica takes 8 GPUs and no a100 node has more than 2; raise the nodes' gpus",
        ),
        "an unknown calibration": (
            changed(*CHAT, "calibration", to="h200"),
            "deployments.0.calibration.calibration: Input should be 'llama-3.1-8b-h100'",
        ),
        "two of a name": (changed(*CHAT, "name", to="code"), "fleet: two deployments are named 'code'; rename one"),
        "the total's name": (
            changed(*CHAT, "name", to=FLEET),
            "deployments.0: the name 'fleet' is the total's; take another",
        ),
        "bounds": (changed(*CHAT, "minReplicas", to=5), "minReplicas 5 is above maxReplicas 4; lower it"),
        "no load": (changed(*CHAT, "load", to={}), "deployments.0.load: give one of trace (a file) and shape (steady"),
        "a phase of a trace": (
            changed(*CHAT, "load", to={"trace": "day.csv", "phase": 0.5}),
            "deployments.0.load: phase belongs to a shape; drop it",
        ),
        "an unknown shape": (changed(*CHAT, "load", "shape", to="sine"), "deployments.0.load.shape: Input should be"),
        "no such trace": (changed(*CHAT, "load", to={"trace": "none.csv"}), "chat.load: trace: cannot read"),
        "nothing left": (
            changed("deployments", 1, "load", "rateScale", to=1e-6),
            "code.load: rate-scale: no request is left of the load; raise it",
        ),
    }.values(),
)
def test_a_bad_file_is_one_line_with_the_field_and_the_remedy(values: object, want: str, tmp_path: Path) -> None:
    path = write(tmp_path, values)

    code, out, err = simulate(path)

    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("Error: --fleet") and str(path) in line
    assert want in line


@pytest.mark.parametrize("option", ["--shape=step", "--rate=3", "--frontier", "--max-replicas=3"])
def test_options_of_a_single_deployment_are_refused(option: str, tmp_path: Path) -> None:
    code, out, err = simulate(write(tmp_path, FILE), option)

    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {option.split('=', maxsplit=1)[0]}: is of a single deployment; with --fleet drop it")
    assert err.rstrip().endswith("see --target" if option == "--frontier" else "the file says it for each")


def test_no_file(tmp_path: Path) -> None:
    code, _, err = simulate(tmp_path / "none.yaml")

    assert code == 2
    assert err.startswith(f"Error: --fleet: cannot read {tmp_path}/none.yaml")
