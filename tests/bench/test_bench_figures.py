"""What a benchmark prints: measured percentiles, ratios, and lines that a program can read."""

from __future__ import annotations

import json

import pytest

from bench.figures import Against, Figure, percentile, spread, table


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(0, 1.0), (1, 1.0), (50, 5.0), (51, 6.0), (99, 10.0), (100, 10.0)],
)
def test_percentile_is_a_number_that_was_measured(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(10, 0, -1)], percent) == expected


def test_percentile_of_nothing_is_no_number() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_line_has_the_five_keys_and_three_digits() -> None:
    line = Figure("load step to scale write, p50", 0.61234, "s", Against("HorizontalPodAutoscaler", 9.4321)).line()
    assert json.loads(line) == {
        "figure": "load step to scale write, p50",
        "value": 0.612,
        "unit": "s",
        "against": "HorizontalPodAutoscaler 9.43",
        "ratio": 0.0649,
    }
    assert "\n" not in line


@pytest.mark.parametrize("against", [None, Against("target", 0.0)])
def test_nothing_to_divide_by_gives_no_ratio(against: Against | None) -> None:
    assert json.loads(Figure("writes", 0, "writes", against).line())["ratio"] is None


def test_counts_stay_whole() -> None:
    assert json.loads(Figure("writes", 123456, "writes").line())["value"] == 123456


def test_spread_holds_each_percentile_against_its_target_and_the_peers_same_percentile() -> None:
    figures = spread("x", [1.0, 2.0, 3.0], "s", targets={"p50": 4.0}, peer=("peer", [10.0, 20.0, 30.0]))
    assert [(each.figure, each.value, each.against) for each in figures] == [
        ("x, p50", 2.0, Against("target", 4.0)),
        ("x, p50", 2.0, Against("peer", 20.0)),
        ("x, p99", 3.0, Against("peer", 30.0)),
        ("x, max", 3.0, Against("peer", 30.0)),
    ]
    assert [each.against for each in spread("x", [1.0], "s")] == [None, None, None]


def test_table_has_a_row_for_each_figure() -> None:
    assert table([Figure("a", 1, "s"), Figure("b", 2, "s", Against("target", 4))]).row_count == 2
