"""From the description to Grafana's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from sandbox.boards.description import Board, Kind, Panel, Row, Unit, Variable

SCHEMA_VERSION = 39
"""Grafana 10.4; a later one migrates it when it loads."""
COLUMNS = 24
HEIGHTS = {Kind.STAT: 4, Kind.LINES: 8, Kind.AREAS: 8, Kind.STATES: 6, Kind.TABLE: 6}


class Place(NamedTuple):
    """Where a panel is, in Grafana's grid."""

    x: int
    y: int
    w: int
    h: int


DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(board: Board) -> str:
    """Return the JSON of one dashboard."""
    return (
        json.dumps(
            {
                "uid": board.name,
                "title": board.title,
                "description": board.description,
                "tags": ["modelfleet"],
                "schemaVersion": SCHEMA_VERSION,
                "editable": True,
                "graphTooltip": 1,
                "time": {"from": "now-6h", "to": "now"},
                "refresh": "30s",
                "links": [
                    {
                        "type": "dashboards",
                        "tags": ["modelfleet"],
                        "title": "Modelfleet",
                        "asDropdown": True,
                        "keepTime": True,
                        "includeVars": True,
                    }
                ],
                "templating": {"list": [_datasource(), *map(_variable, board.variables)]},
                "panels": list(_panels(board)),
            },
            indent=1,
        )
        + "\n"
    )


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.metric}, {variable.name})"
    return {
        "name": variable.name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "definition": query,
        # 2: with the time range, so that a deployment that is gone can still be looked at.
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
    }


def grid(board: Board) -> Iterator[tuple[Row | Panel, Place]]:
    """Lay out headings and panels, left to right and then down; what stands beside a figure is as low as that."""
    y = 0
    for row in board.rows:
        yield row, Place(0, y, COLUMNS, 1)
        y += 1
        for line in _lines(row.panels):
            height = (min if any(panel.kind is Kind.STAT for panel in line) else max)(
                HEIGHTS[panel.kind] for panel in line
            )
            x = 0
            for panel in line:
                yield panel, Place(x, y, panel.width, height)
                x += panel.width
            y += height


def _lines(panels: tuple[Panel, ...]) -> Iterator[list[Panel]]:
    line: list[Panel] = []
    for panel in panels:
        if sum(each.width for each in line) + panel.width > COLUMNS:
            yield line
            line = []
        line.append(panel)
    yield line


def _panels(board: Board) -> Iterator[dict[str, Any]]:
    for number, (each, place) in enumerate(grid(board), start=1):
        common = {"id": number, "title": each.title, "gridPos": place._asdict()}
        yield common | ({"type": "row", "collapsed": False, "panels": []} if isinstance(each, Row) else _panel(each))


def _panel(panel: Panel) -> dict[str, Any]:
    instant = panel.kind in {Kind.STAT, Kind.TABLE}
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if panel.kind in {Kind.LINES, Kind.AREAS}:
        stacked = panel.kind is Kind.AREAS
        custom = {
            "lineWidth": 1 if stacked else 2,
            "fillOpacity": 60 if stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        }
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif panel.kind is Kind.STAT:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "none", "colorMode": "none"}
    elif panel.kind is Kind.STATES:
        options = {"showValue": "never", "mergeValues": True, "rowHeight": 0.9, "legend": {"showLegend": False}}
        custom = {"fillOpacity": 70, "lineWidth": 0}
    else:
        more = {"transformations": _one_row_a_deployment(panel)}
    return {
        "type": "timeseries" if panel.kind is Kind.AREAS else panel.kind.value,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": instant,
                "range": not instant,
                **({"format": "table"} if panel.kind is Kind.TABLE else {}),
            }
            for number, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit.value,
                "color": {"mode": "thresholds" if instant else "palette-classic"},
                "custom": custom,
                **_decimals(panel.unit),
            },
            "overrides": [],
        },
        "options": options,
        **more,
    }


def _decimals(unit: Unit) -> dict[str, int]:
    return {"decimals": 0} if unit in {Unit.GPUS, Unit.TOKENS, Unit.TOKENS_PER_SECOND} else {}


def _one_row_a_deployment(panel: Panel) -> list[dict[str, Any]]:
    """Join the queries on their labels; those that say it by a label need no value."""
    said = {"REASON": "reason", "LIMITED-BY": "limit"}
    letters = {query.legend: chr(ord("A") + number) for number, query in enumerate(panel.queries)}
    names = {f"Value #{letter}": legend for legend, letter in letters.items() if legend not in said}
    hidden = {"Time": True, **{f"Value #{letters[legend]}": True for legend in said}}
    order = ["namespace", "deployment", "reason", "limit", "owner", *names]
    return [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": hidden,
                "indexByName": {name: number for number, name in enumerate(order)},
                "renameByName": names | {label: legend for legend, label in said.items()},
            },
        },
    ]
