"""Alerts and recording rules: promtool reads them, each is unit-tested, each alert has a page with what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox import binaries
from sandbox.cluster import CHECKOUT
from tests.boards.exported import METRIC, names, page

FILE = CHECKOUT / "charts" / "modelfleet" / "rules" / "modelfleet.yaml"
RUNBOOKS = CHECKOUT / "docs" / "runbooks"
UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
RULES: list[dict[str, Any]] = [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
CASES = [case for file in UNIT_TESTS for case in yaml.safe_load(file.read_text())["tests"]]


def promtool(*arguments: str, stdin: str = "") -> None:
    """Run promtool; its words are the failure's."""
    command = [str(binaries.ensure("promtool")["promtool"]), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_can_be_loaded() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(FILE))


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_rules_do_what_their_unit_tests_say(file: Path) -> None:
    promtool("test", "rules", str(file))


def test_metrics_are_named_as_prometheus_asks() -> None:
    ours = "".join(f"{line}\n" for line in page().splitlines() if METRIC.search(line))
    promtool("check", "metrics", stdin=ours)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_what_is_exported_and_is_unit_tested(rule: dict[str, Any]) -> None:
    recorded = {each["record"] for each in RULES if "record" in each}
    asked = rule["expr"]
    for record in recorded:
        asked = asked.replace(record, "")
    assert set(METRIC.findall(asked)) <= names()
    if "record" in rule:
        assert any(rule["record"] in each["expr"] for case in CASES for each in case.get("promql_expr_test", ()))
        return
    fired = [each for case in CASES for each in case.get("alert_rule_test", ()) if each["alertname"] == rule["alert"]]
    assert any(each["exp_alerts"] for each in fired)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule.keys() >= {"for", "annotations"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    runbook = CHECKOUT / rule["annotations"]["runbook_url"]
    assert runbook == RUNBOOKS / f"{rule['alert']}.md"
    headings = [line for line in runbook.read_text().splitlines() if line.startswith("#")]
    assert headings == [f"# {rule['alert']}", "## Look at", "## Do"]


def test_no_runbook_is_left_behind() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {rule["alert"] for rule in ALERTS}
