"""What a benchmark says: one figure a line as JSON, and all of them as a table at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Against:
    """What a figure is held against: a target, or a peer measured in the same run."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        figure: What was measured.
        unit: Of `value`, and of what it is held against.
        against: Target or peer; None for a number that stands by itself.
    """

    figure: str
    value: float
    unit: str
    against: Against | None = None

    @property
    def ratio(self) -> float | None:
        """Value over what it is held against; None without that, or when that is zero."""
        if self.against is None or self.against.value == 0:
            return None
        return self.value / self.against.value

    def line(self) -> str:
        """Return the figure as one line of JSON."""
        return json.dumps(
            {
                "figure": self.figure,
                "value": _rounded(self.value),
                "unit": self.unit,
                "against": "" if self.against is None else f"{self.against.name} {_number(self.against.value)}",
                "ratio": None if self.ratio is None else _rounded(self.ratio),
            }
        )


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a number that was measured, never one between two.

    Raises:
        ValueError: If there are no samples: nothing measured is not zero.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]


def spread(
    name: str,
    samples: Sequence[float],
    unit: str,
    *,
    targets: dict[str, float] | None = None,
    peer: tuple[str, Sequence[float]] | None = None,
) -> list[Figure]:
    """Return p50, p99 and max of a series, each held against its target and its peer.

    Args:
        name: What was measured.
        samples: The series; not empty.
        unit: Of the samples.
        targets: Target by "p50", "p99" or "max".
        peer: Name and series of a peer in the same run.
    """
    figures = []
    for label, percent in (("p50", 50.0), ("p99", 99.0), ("max", 100.0)):
        value = percentile(samples, percent)
        rivals: list[Against | None] = []
        if targets and label in targets:
            rivals.append(Against("target", targets[label]))
        if peer is not None:
            rivals.append(Against(peer[0], percentile(peer[1], percent)))
        figures += [Figure(f"{name}, {label}", value, unit, rival) for rival in rivals or [None]]
    return figures


def table(figures: Sequence[Figure]) -> Table:
    """Return every figure as a table for people."""
    shown = Table("figure", "value", "unit", "against", "ratio")
    for column in (1, 4):
        shown.columns[column].justify = "right"
    for each in figures:
        against = "" if each.against is None else f"{each.against.name} {_number(each.against.value)}"
        shown.add_row(
            each.figure, _number(each.value), each.unit, against, "" if each.ratio is None else f"{each.ratio:.3g}"
        )
    return shown


def _number(value: float) -> str:
    return f"{_rounded(value):g}"


def _rounded(value: float) -> float:
    # Three digits are more than any of these repeats to; counts stay whole.
    return value if value == int(value) else float(f"{value:.3g}")
