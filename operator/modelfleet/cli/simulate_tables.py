"""The tables that `modelfleet simulate` prints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from statistics import median
from typing import Any

from rich import box
from rich.table import Table

from modelfleet.simulate.frontier import Outcome, Point, usd
from modelfleet.simulate.registry import ORACLE, target_number

BEST = "*"


@dataclass(frozen=True, slots=True)
class _Column:
    """A figure of a run.

    Attributes:
        heading: With its unit.
        of: Reads it from a Score or a Half; None is infinite.
        decimals: Shown.
        better: 1 where more is better, -1 where less is, 0 where neither.
    """

    heading: str
    of: Callable[[Any], float | None]
    decimals: int
    better: int = -1

    def value(self, figures: object) -> float:
        value = self.of(figures)
        return inf if value is None else value

    def text(self, value: float) -> str:
        return "∞" if value == inf else f"{value:,.{self.decimals}f}"


def _worth(price: Decimal | None) -> list[_Column]:
    """Return the columns that a Score and a Half both have."""
    columns = [_Column("GPU-\nhours", lambda figures: figures.gpu_hours, 2)]
    if price is not None:
        columns.append(_Column("cost\nUSD", lambda figures: float(usd(figures.gpu_hours, price)), 2))
    return [
        *columns,
        _Column("in target\n%", lambda figures: 100.0 * figures.attainment, 2, better=1),
        _Column("viola-\ntions", lambda figures: figures.violations, 0),
    ]


_OF_RUNS = (
    _Column("TTFT p50\ns", lambda score: score.ttft_p50_s, 2),
    _Column("TTFT p99\ns", lambda score: score.ttft_p99_s, 2),
    _Column("TPOT p50\nms", lambda score: score.tpot_p50_ms, 1),
    _Column("TPOT p99\nms", lambda score: score.tpot_p99_ms, 1),
    _Column("reversals\nper hour", lambda score: score.reversals_per_hour, 1),
    _Column("most\nreplicas", lambda score: score.max_replicas, 0, better=0),
    _Column("unfin-\nished", lambda score: score.unfinished, 0),
)


def runs_table(outcomes: Sequence[Outcome], *, price: Decimal | None) -> Table:
    """Return one line a policy, or its median and its worst where it was played with several seeds.

    Lines go by cost, and where that looks the same by attainment. The best figure of each column is marked; the
    oracle has no part in that.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.job.policy, []).append(outcome)
    columns = (*_worth(price), *_OF_RUNS)
    folds: dict[str, Callable[[_Column, list[float]], float]] = {"": lambda column, values: values[0]}
    if len(outcomes) > len(groups):
        folds = {
            "median": lambda column, values: median(values),
            "worst": lambda column, values: min(values) if column.better > 0 else max(values),
        }
    figures = {
        fold: {
            policy: [folding(column, [column.value(each.whole) for each in group]) for column in columns]
            for policy, group in groups.items()
        }
        for fold, folding in folds.items()
    }

    def rank(policy: str) -> tuple[float, float, str]:
        scores = [each.whole for each in groups[policy]]
        cost = round(median(score.gpu_hours for score in scores), 2)
        return cost, median(score.violations for score in scores), policy

    table = _table(["policy", "seeds"] if len(folds) > 1 else ["policy"], ["target"], columns)
    for policy in sorted(groups, key=rank):
        target = target_number(policy, groups[policy][0].job.setting.target)
        for fold, rows in figures.items():
            names = (policy, fold) if len(folds) > 1 else (policy,)
            contestants = [row for name, row in rows.items() if name != ORACLE]
            table.add_row(*names, target, *_cells(rows[policy], contestants, columns))
    return table


def choices_table(chosen: Mapping[str, Point | None], *, none: str, price: Decimal | None, goal: float = 0.0) -> Table:
    """Return the second half of the settings that were chosen on the first: by cost, then by attainment.

    Args:
        chosen: By policy.
        none: Said of a policy without such a setting.
        price: USD per GPU-hour; None shows no cost.
        goal: Attainment without which nothing is the best of its column.
    """
    columns = _worth(price)
    found = [point for point in chosen.values() if point is not None]
    rows = {point.policy: [column.value(point.second) for column in columns] for point in found}
    contestants = [rows[point.policy] for point in found if point.policy != ORACLE and point.second.attainment >= goal]
    table = _table(["policy"], ["target", "minimum\nreplicas"], columns)
    for point in sorted(found, key=lambda each: (round(each.second.gpu_hours, 2), each.second.violations, each.policy)):
        target = target_number(point.policy, point.setting.target)
        cells = _cells(rows[point.policy], contestants, columns)
        table.add_row(point.policy, target, f"{point.setting.min_replicas}", *cells)
    for policy in (policy for policy, point in chosen.items() if point is None):
        table.add_row(policy, f"[dim]{none}[/]")
    return table


def _table(names: Sequence[str], settings: Sequence[str], columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    for heading in settings:
        table.add_column(heading, justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    return table


def _cells(row: Sequence[float], contestants: Sequence[Sequence[float]], columns: Sequence[_Column]) -> list[str]:
    """Return a row's figures, the best of each column marked where there is something to compare."""
    cells = []
    for number, column in enumerate(columns):
        text = column.text(row[number])
        best = (max if column.better > 0 else min)(each[number] for each in contestants) if contestants else inf
        marked = row in contestants and len(contestants) > 1 and column.better and text == column.text(best)
        # In front, where it moves no digit.
        cells.append(f"[bold green]{BEST}{text}[/]" if marked else text)
    return cells
