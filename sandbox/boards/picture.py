"""A board as an SVG: the description's panels with what Prometheus answers, close to what Grafana draws of them."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle, pairwise

from modelfleet.decide.explain import compact
from sandbox.boards.description import Board, Kind, Panel, Query, Row, Unit
from sandbox.boards.grafana import COLUMNS, Place, grid
from sandbox.boards.scene import Stage

COLUMN, LINE, GAP, MARGIN = 50, 30, 8, 16
"""Pixels of a column and a line of Grafana's grid, between panels, and around all."""
LEFT, TOP, BOTTOM = 46, 34, 54
"""Pixels of a chart that its scale, its title and its legend take."""
POINTS = 200
"""Values along a line."""
COLORS = ("#3b7dd8", "#e0752d", "#4aa564", "#c44e8f", "#8064c7", "#b59b1f", "#2fa6a6", "#8a6d5a")
STYLE = """
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:#24292f}
.t{font-weight:600;font-size:13px}.h{font-weight:600;font-size:15px}.b{font-size:20px;font-weight:600}
.s{fill:#6a737d;font-size:11px}.v{font-size:26px;font-weight:600;fill:#1f5fae}.c{font-weight:600;font-size:10px;fill:#6a737d}.r{font-size:11px}
.p{fill:#fff;stroke:#d8dee4}.g{stroke:#eaeef2}.l{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
"""
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One line of a chart, its values at their times."""

    name: str
    labels: dict[str, str]
    points: Points

    @property
    def last(self) -> float:
        """Its last value."""
        return self.points[-1][1]


@dataclass(frozen=True)
class Frame:
    """Where and over which time a board is drawn."""

    stage: Stage
    choices: dict[str, str]
    begin: float
    end: float

    def series(self, query: Query, *, instant: bool) -> list[Series]:
        """Ask Prometheus; at the end only where `instant`."""
        step = max(1.0, (self.end - self.begin) / POINTS)
        found = self.stage.ask(
            query.expr, self.choices, begin=self.end if instant else self.begin, end=self.end, step=step
        )
        return [Series(_legend(query.legend, labels), labels, points) for labels, points in found]


def draw(board: Board, stage: Stage, choices: dict[str, str], *, begin: float, end: float) -> str:
    """Return the SVG of a board.

    Args:
        board: The board.
        stage: Whose Prometheus answers.
        choices: Value of each variable.
        begin: First moment drawn, seconds since the epoch; `end` the last.
    """
    frame = Frame(stage, choices, begin, end)
    width = 2 * MARGIN + COLUMNS * COLUMN
    head = [f"{variable.name}: {choices[variable.name]}" for variable in board.variables]
    said = "  ".join([*head, f"{end - begin:.0f} s on the sandbox"])
    parts = [
        f'<text class="b" x="{MARGIN}" y="{MARGIN + 18}">{escape(board.title)}</text>',
        f'<text class="s" x="{MARGIN}" y="{MARGIN + 38}">{escape(said)}</text>',
    ]
    top, bottom = MARGIN + 48, 0.0
    for each, place in grid(board):
        x, y = MARGIN + place.x * COLUMN, top + place.y * LINE
        bottom = max(bottom, y + place.h * LINE)
        if isinstance(each, Row):
            parts.append(f'<text class="h" x="{x}" y="{y + 20}">{escape(each.title)}</text>')
        else:
            parts += [f'<g transform="translate({x},{y})">', *_panel(each, place, frame), "</g>"]
    height = bottom + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#f6f8fa"/>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def _panel(panel: Panel, place: Place, frame: Frame) -> Iterator[str]:
    width, height = place.w * COLUMN - GAP, place.h * LINE - GAP
    yield f'<rect class="p" width="{width}" height="{height}" rx="4"/>'
    yield f'<text class="t" x="10" y="20">{escape(panel.title)}</text>'
    match panel.kind:
        case Kind.STAT:
            for query in panel.queries:
                for series in frame.series(query, instant=True):
                    yield f'<text class="v" x="10" y="{height / 2 + 24:.0f}">{_words(series.last, panel.unit)}</text>'
        case Kind.TABLE:
            yield from _table(panel, width, frame)
        case Kind.STATES:
            yield from _states(panel, width, height, frame)
        case Kind.LINES | Kind.AREAS:
            yield from _chart(panel, width, height, frame)


def _chart(panel: Panel, width: float, height: float, frame: Frame) -> Iterator[str]:
    series = [one for query in panel.queries for one in frame.series(query, instant=False)]
    stacked = panel.kind is Kind.AREAS
    if stacked:
        series = _stack(series)
    values = [value for one in series for _, value in one.points]
    low, high, step = _scale(min([0.0, *values]), max([0.0, *values]))
    right, floor = width - 10, height - BOTTOM

    def at(moment: float, value: float) -> str:
        x = LEFT + (moment - frame.begin) / (frame.end - frame.begin) * (right - LEFT)
        y = floor - (value - low) / (high - low) * (floor - TOP)
        return f"{x:.1f},{y:.1f}"

    value = low
    while value <= high + step / 2:
        y = float(at(frame.begin, value).split(",")[1])
        words = _words(value, panel.unit, axis=True)
        yield f'<path class="g" d="M{LEFT},{y:.1f}H{right}"/>'
        yield f'<text class="s" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
        value += step
    yield from _times(frame, right, floor)
    below = {moment: 0.0 for one in series for moment, _ in one.points}
    for color, one in zip(cycle(COLORS), series, strict=False):
        for run in _runs(one.points, frame):
            line = " ".join(at(*point) for point in run)
            if stacked:
                back = " ".join(at(moment, below[moment]) for moment, _ in reversed(run))
                yield f'<polygon points="{line} {back}" fill="{color}" fill-opacity="0.55" stroke="{color}"/>'
            else:
                yield f'<polyline class="l" points="{line}" stroke="{color}"/>'
        below |= dict(one.points) if stacked else {}
    yield from _legends([one.name for one in series], width, height - 8)


def _stack(series: list[Series]) -> list[Series]:
    """Add up from below; Grafana does the same."""
    sums: dict[float, float] = {}
    stacked = []
    for one in series:
        points = []
        for moment, value in one.points:
            sums[moment] = sums.get(moment, 0.0) + value
            points.append((moment, sums[moment]))
        stacked.append(Series(one.name, one.labels, points))
    return stacked


def _states(panel: Panel, width: float, height: float, frame: Frame) -> Iterator[str]:
    series = [one for query in panel.queries for one in frame.series(query, instant=False)]
    left, right, floor = 215, width - 10, height - 24
    lane = min(26.0, (floor - TOP) / max(1, len(series)))
    scale = (right - left) / (frame.end - frame.begin)
    step = max(1.0, (frame.end - frame.begin) / POINTS)
    for number, (color, one) in enumerate(zip(cycle(COLORS), series, strict=False)):
        y = TOP + number * lane
        yield f'<text class="s" x="{left - 8}" y="{y + lane / 2 + 4:.1f}" text-anchor="end">{escape(one.name)}</text>'
        for run in _runs(one.points, frame):
            begin, end = run[0][0], min(frame.end, run[-1][0] + step)
            yield (
                f'<rect x="{left + (begin - frame.begin) * scale:.1f}" y="{y + 3:.1f}" '
                f'width="{max(1.0, (end - begin) * scale):.1f}" height="{lane - 6:.1f}" fill="{color}"/>'
            )
    yield from _times(frame, right, floor, left=left)


def _table(panel: Panel, width: float, frame: Frame) -> Iterator[str]:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for query in panel.queries:
        for one in frame.series(query, instant=True):
            row = rows.setdefault((one.labels["namespace"], one.labels["deployment"]), {})
            said = {"REASON": "reason", "LIMITED-BY": "limit"}.get(query.legend)
            row[query.legend] = one.labels[said] if said else _words(one.last, panel.unit)
    columns = ["NAMESPACE", "DEPLOYMENT", *(query.legend for query in panel.queries)]
    shares = [1.2, 1.3, 1.7, 1.8, *[0.9] * (len(columns) - 4)]
    starts = [10 + (width - 20) * sum(shares[:number]) / sum(shares) for number in range(len(columns))]
    for x, column in zip(starts, columns, strict=True):
        yield f'<text class="c" x="{x:.0f}" y="44">{column}</text>'
    for number, ((namespace, name), row) in enumerate(sorted(rows.items())):
        for x, column in zip(starts, columns, strict=True):
            text = {"NAMESPACE": namespace, "DEPLOYMENT": name}.get(column) or row.get(column, "")
            yield f'<text class="r" x="{x:.0f}" y="{64 + 20 * number}">{escape(text)}</text>'


def _times(frame: Frame, right: float, floor: float, *, left: float = LEFT) -> Iterator[str]:
    span = frame.end - frame.begin
    parts = 4 if right - left > 300 else 2
    for number in range(parts + 1):
        x = left + (right - left) * number / parts
        anchor = ("start", "middle", "end")[(number > 0) + (number == parts)]
        moment = time.strftime("%M:%S", time.gmtime(span * number / parts))
        yield f'<text class="s" x="{x:.0f}" y="{floor + 15:.0f}" text-anchor="{anchor}">{moment}</text>'


def _legends(names: Sequence[str], width: float, y: float) -> Iterator[str]:
    """Draw names on two lines at most; `y` is the second's. More has no room, as in Grafana."""
    x, y = 12.0, y - 14
    lines = 1
    for color, name in zip(cycle(COLORS), names, strict=False):
        room = 26 + 6.6 * len(name)
        if x + room > width and x > 12:
            x, y, lines = 12.0, y + 14, lines + 1
        if lines > 2:
            return
        yield f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="10" height="10" rx="2" fill="{color}"/>'
        yield f'<text class="s" x="{x + 14:.0f}" y="{y:.0f}">{escape(name)}</text>'
        x += room


def _runs(points: Points, frame: Frame) -> Iterator[Points]:
    """Split where there is no value: a gap is drawn as one."""
    longest = 1.5 * max(1.0, (frame.end - frame.begin) / POINTS)
    run = points[:1]
    for before, after in pairwise(points):
        if after[0] - before[0] > longest:
            yield run
            run = []
        run.append(after)
    yield run


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Return a scale that ends at round numbers, and its step."""
    span = (high - low) or 1.0
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def _words(value: float, unit: Unit, *, axis: bool = False) -> str:
    match unit:
        case Unit.SHARE:
            return f"{value:.0%}"
        case Unit.SECONDS:
            return f"{value * 1000:.0f} ms" if abs(value) < 1 and value else f"{value:.3g} s"
        case Unit.USD:
            return f"${value:g}" if axis else f"${value:.2f}"
        case Unit.USD_PER_HOUR:
            return f"{value:g}" if axis else f"{value:.2f} $/h"
        case Unit.BYTES:
            return f"{value / 2**20:.0f} MiB"
        case Unit.TOKENS | Unit.TOKENS_PER_SECOND if abs(value) >= 1000:
            return compact(value) if axis else f"{value:,.0f}"
        case _:
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _legend(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda part: labels.get(part[1], ""), legend).strip() or "no tenant"
