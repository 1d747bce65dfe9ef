"""The dashboards: their JSON is the description's, asks for what is exported, and no panel hides another."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest

from sandbox.boards.__main__ import DASHBOARDS
from sandbox.boards.description import BOARDS, Board
from sandbox.boards.grafana import COLUMNS, dashboard
from tests.boards.exported import METRIC, names
from tests.boards.test_rules import RULES

BUILT_IN = {"__rate_interval"}
each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


def panels(board: Board) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard(board))["panels"]
    return found


def test_committed_dashboards_are_those_of_the_description() -> None:
    """Mend it with `python -m sandbox.boards write`."""
    committed = {path.stem: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert committed == {board.name: dashboard(board) for board in BOARDS}


@each_board
def test_a_board_asks_for_what_is_exported(board: Board) -> None:
    expressions = " ".join(target["expr"] for panel in panels(board) for target in panel.get("targets", ()))
    for rule in RULES:
        expressions = expressions.replace(rule.get("record", "\0"), "")
    assert set(METRIC.findall(expressions)) <= names()


@each_board
def test_a_board_uses_the_variables_that_it_has(board: Board) -> None:
    model = json.loads(dashboard(board))
    defined = {variable["name"] for variable in model["templating"]["list"]}
    text = json.dumps([model["panels"], model["templating"]])
    used = set(re.findall(r"\$\{?(\w+)", text)) - BUILT_IN - {"__all"}
    assert used == defined


@each_board
def test_panels_lie_side_by_side(board: Board) -> None:
    found = panels(board)
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS
    for one, other in combinations((panel["gridPos"] for panel in found), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


@each_board
def test_every_panel_says_what_it_shows(board: Board) -> None:
    assert [panel["title"] for panel in panels(board) if panel["type"] != "row" and not panel["description"]] == []
