"""When a status whose headline still holds is written anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.shell.report import GAUGE_SECONDS, LEARNED_AT_REST_SECONDS, LEARNED_SECONDS, Gauges, outdated

CALM = Gauges(2, Limit.NONE, 0.0, 1000.0, complete=True)
IDLE = replace(CALM, output_tokens_per_second=0.0)


@pytest.mark.parametrize(
    ("before", "changes", "age_seconds", "want"),
    {
        "nothing moved": (CALM, {}, LEARNED_SECONDS - 1, False),
        "nothing moved, and half an hour of load was learned from": (CALM, {}, LEARNED_SECONDS, True),
        "nothing moved, and nothing came": (IDLE, {}, LEARNED_AT_REST_SECONDS - 1, False),
        "nothing came for hours": (IDLE, {}, LEARNED_AT_REST_SECONDS, True),
        "another forecast decides": (CALM, {"choice": (0, 0)}, GAUGE_SECONDS, True),
        "another forecast decides since a moment": (CALM, {"choice": (0, 0)}, GAUGE_SECONDS - 1, False),
        "a little more load": (CALM, {"output_tokens_per_second": 1100.0}, GAUGE_SECONDS, False),
        "more load": (CALM, {"output_tokens_per_second": 1200.0}, GAUGE_SECONDS, True),
    }.values(),
)
def test_what_merely_measures_is_written_when_it_moved(
    before: Gauges, changes: dict[str, Any], age_seconds: float, want: bool
) -> None:
    assert outdated(before, replace(before, **changes), age_seconds=age_seconds) is want
