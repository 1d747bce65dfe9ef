"""docs/simulate.md tells the truth: its calibration loads, its tables name what there is; every page's commands run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from pydantic.alias_generators import to_camel
from typer.testing import CliRunner

from modelfleet.cli.main import app
from modelfleet.simulate.calibration import CALIBRATIONS, ReplicaModel, load_replica_model
from modelfleet.simulate.registry import KINDS
from modelfleet.simulate.shapes import Shape
from modelfleet.simulate.traces import parse_trace
from tests.docs.pages import PAGES, commands
from tests.simulate.recorded_past import BEGAN, HOUR

DOCUMENT = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text(encoding="utf-8")
FOUND = [each.words for page in PAGES for each in commands(page) if each.words[:2] == ("modelfleet", "simulate")]
COMMANDS = sorted({shlex.join(words[1:]) for words in FOUND if len(words) > 2})
HERE = [command for command in COMMANDS if "--prometheus" not in command]
YAML = re.findall(r"^```yaml\n(.+?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
SHORT = ("--time-limit-seconds", "60", "--jobs", "1")


def section(title: str) -> str:
    return DOCUMENT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def run(command: str, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*shlex.split(command), *more])
    return result.exit_code, result.output


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the commands name."""
    lines = [f"{second / 2},1000,100" for second in range(400)]
    (tmp_path / "requests.csv").write_text("\n".join(["t_s,prompt_tokens,output_tokens", *lines]), encoding="utf-8")
    (tmp_path / "replica.yaml").write_text(YAML[0], encoding="utf-8")
    (tmp_path / "fleet.yaml").write_text(YAML[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_is_found() -> None:
    assert {command for command in COMMANDS if command in DOCUMENT} < set(COMMANDS)
    assert DOCUMENT.count("\n    modelfleet ") == 6
    assert len(HERE) == 6
    assert len(COMMANDS) == 8
    assert len(YAML) == 2


@pytest.mark.parametrize("command", HERE)
def test_a_command_runs(command: str, files: Path) -> None:
    code, output = run(command, *SHORT)

    assert code == 0, output
    assert (files / "report.html").exists() == ("--html" in command)


@pytest.mark.xdist_group("recorded-history")
@pytest.mark.parametrize("command", sorted(set(COMMANDS) - set(HERE)))
def test_a_command_for_prometheus_runs(command: str, prometheus_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelfleet.cli.simulate.time", lambda: BEGAN + 3.0 * HOUR)
    here = re.sub(r"team-a/llama-\w+", "team-a/fitted", command.replace("http://localhost:9090", prometheus_url))
    assert prometheus_url in here and "team-a/fitted" in here

    code, output = run(here, *SHORT)

    assert code == 0, output
    assert "fitted to team-a/fitted" in output


def test_every_option_that_is_named_is_one() -> None:
    command = typer.main.get_command(app)
    options = {option for each in command.commands["simulate"].params for option in each.opts}  # type: ignore[attr-defined]

    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", DOCUMENT)) - {"--max-num-seqs"}

    assert named <= options


def test_the_calibration_has_every_field_and_loads(files: Path) -> None:
    assert set(yaml.safe_load(YAML[0])) == {to_camel(name) for name in ReplicaModel.model_fields}
    model = load_replica_model(str(files / "replica.yaml"))
    assert model.service_jitter == 0.05
    assert model.decode_ms_per_kv_token == CALIBRATIONS["llama-3.1-8b-h100"].decode_ms_per_kv_token
    assert all(f"`{name}`" in DOCUMENT for name in CALIBRATIONS)


def test_a_trace_with_these_columns_is_told() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \((.+?)\) \| `(.+?)` \|", section("Trace columns"), re.MULTILINE)

    assert len(rows) == 7
    for name, kinds, columns in rows:
        if "CSV" in kinds:
            assert parse_trace(f"{columns}\n").format == name
        if "JSONL" in kinds:
            assert parse_trace(json.dumps(dict.fromkeys(columns.split(","), 1))).format == name


def test_every_policy_and_shape_is_there() -> None:
    names = re.findall(r"^\| (`.+?) \|", section("Policies"), re.MULTILINE)
    assert [name.strip("` ") for row in names for name in row.split(",")] == list(KINDS)
    assert f"`{' '.join(Shape)}`" in DOCUMENT


def test_it_is_short() -> None:
    """The lines between cells and before items are no words."""
    assert sum(bool(re.search(r"\w", word)) for word in DOCUMENT.split()) < 1200
