"""What the chart makes of rules and dashboards, and that it makes nothing of them unasked."""

from __future__ import annotations

import subprocess
from typing import Any

import yaml

from sandbox import binaries
from sandbox.boards.__main__ import DASHBOARDS
from sandbox.cluster import CHECKOUT
from sandbox.fleet import KUBE_VERSION
from tests.boards.test_rules import FILE

CHART = CHECKOUT / "charts" / "modelfleet"


def rendered(*settings: str) -> list[dict[str, Any]]:
    """Return the objects of the chart with these values."""
    command = [str(binaries.ensure("helm")["helm"]), "template", "modelfleet", str(CHART), "--namespace", "ns"]
    command += ["--kube-version", KUBE_VERSION, *(f"--set={setting}" for setting in settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def dashboards(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        item
        for item in items
        if item["kind"] == "ConfigMap" and any("dash" in key for key in item["metadata"]["labels"])
    ]


def test_nothing_unasked() -> None:
    """A cluster without the Prometheus operator would refuse a PrometheusRule."""
    items = rendered()
    assert [item for item in items if item["kind"] == "PrometheusRule"] == dashboards(items) == []


def test_a_rule_object_has_the_file_s_rules_and_leads_to_where_runbooks_are() -> None:
    [rule] = [
        item
        for item in rendered(
            "prometheusRule.enabled=true",
            "prometheusRule.labels.release=kps",
            "prometheusRule.runbookBaseUrl=https://wiki.example/runbooks/",
        )
        if item["kind"] == "PrometheusRule"
    ]
    expected = FILE.read_text().replace("docs/runbooks/", "https://wiki.example/runbooks/")

    assert rule["spec"] == yaml.safe_load(expected)
    assert rule["metadata"]["labels"]["release"] == "kps"
    assert rule["metadata"]["labels"]["app.kubernetes.io/name"] == "modelfleet"


def test_a_dashboard_is_found_by_grafana_s_sidecar() -> None:
    found = dashboards(rendered("dashboards.enabled=true"))

    assert {item["metadata"]["name"] for item in found} == {path.stem for path in DASHBOARDS.glob("*.json")}
    for item in found:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        [(name, text)] = item["data"].items()
        assert text == (DASHBOARDS / name).read_text()


def test_a_dashboard_takes_other_labels() -> None:
    found = dashboards(rendered("dashboards.enabled=true", "dashboards.labels.dashboards=team"))
    assert [item["metadata"]["labels"]["dashboards"] for item in found] == ["team"] * 3
