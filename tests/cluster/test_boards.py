"""Boards and rules on a real Prometheus: no panel is empty, no number is not one, no rule fails."""

from __future__ import annotations

import json
import math
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.boards.__main__ import DASHBOARDS
from sandbox.boards.scene import CHOICES, PARTS, Stage, stage

pytestmark = pytest.mark.xdist_group("boards")

PLAY_SECONDS = 40.0
EVERYTHING = dict.fromkeys(CHOICES, ".*")
each_choice = pytest.mark.parametrize("choices", [CHOICES, EVERYTHING], ids=["one", "all"])


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, float, float]]:
    """A scene in which a tenant borrows and gives back; from when to when it was played."""
    with stage(tmp_path_factory.mktemp("boards"), load_seconds=1) as ready:
        begin = time.time()
        reports = ready.play(PLAY_SECONDS)
        assert sum(report.failed for report in reports.values()) == 0
        yield ready, begin, time.time()


@pytest.mark.parametrize("file", sorted(DASHBOARDS.glob("*.json")), ids=lambda file: file.stem)
@each_choice
def test_no_panel_is_empty(played: tuple[Stage, float, float], file: Path, choices: dict[str, str]) -> None:
    """Each query of each panel has an answer, with one value chosen at the top of the board and with all."""
    scene, begin, end = played
    empty = []
    for panel in json.loads(file.read_text())["panels"]:
        for target in panel.get("targets", ()):
            # A figure is of now; a line, and who was limited, of the whole time.
            since = end if panel["type"] == "stat" else begin
            found = scene.ask(target["expr"], choices, begin=since, end=end, step=1)
            values = [value for _, points in found for _, value in points]
            if not values or not all(map(math.isfinite, values)):
                empty.append((panel["title"], target["legendFormat"], values[:3]))

    assert empty == []


def test_tokens_and_money_are_those_of_the_scene(played: tuple[Stage, float, float]) -> None:
    """Eight GPUs of 2.50 and four of 1.50 an hour; every model made tokens; who may borrow did, within its limit."""
    scene, begin, end = played

    def ask(expr: str) -> dict[tuple[str, ...], list[float]]:
        found = scene.ask(expr, {}, begin=begin, end=end, step=1)
        return {tuple(sorted(labels.values())): [value for _, value in points] for labels, points in found}

    gpus, price = (
        f"max by (accelerator) (modelfleet_accelerator_{each})" for each in ("capacity_gpus", "usd_per_gpu_hour")
    )
    assert set(ask(f"sum({gpus} * {price})")[()]) == {26.0}
    tokens = ask("sum by (model) (tenant_model:modelfleet_output_tokens_per_second:sum)")
    assert {model: max(values) > 0 for model, values in tokens.items()} == {(part.model,): True for part in PARTS}
    borrowed = ask("max by (tenant) (modelfleet_tenant_borrowed_gpus)")
    assert 1 <= max(borrowed["team-b",]) <= 3
    assert max(borrowed["team-a",]) == 0


def test_no_rule_fails(played: tuple[Stage, float, float]) -> None:
    """A rule that finds two of one reports nothing, and Prometheus alone knows."""
    scene, *_ = played
    with urllib.request.urlopen(f"{scene.sandbox.prometheus_url}/api/v1/rules") as answer:  # noqa: S310 - loopback
        groups = json.load(answer)["data"]["groups"]
    sick = {
        rule["name"]: rule.get("lastError") for group in groups for rule in group["rules"] if rule["health"] != "ok"
    }

    assert [group["name"] for group in groups] != []
    assert sick == {}
