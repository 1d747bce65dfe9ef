"""When a status whose headline still holds is written anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.decide.explain import status
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.report import (
    GAUGE_SECONDS,
    LEARNED_AT_REST_SECONDS,
    LEARNED_SECONDS,
    Gauges,
    Reporter,
    StatusOutcome,
    outdated,
)
from tests.builders import deployment, fleet
from tests.decide.story import Story

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


async def test_a_restart_does_not_put_off_what_is_to_be_kept() -> None:
    """The age of a status that still holds counts from when it was decided, not from when it was found."""
    story = Story(deployment(), replicas=2)
    story.play(300, requests_per_second=2)
    observed = story.made.build(story.now)
    key = observed.key
    assert story.plan is not None and story.decision is not None
    memory = story.plan.history[key]
    told = status(observed, story.decision, memory, previous=None, now=story.now)
    mirror = Mirror()
    metadata = {"name": key.name, "namespace": key.namespace, "uid": observed.uid, "resourceVersion": "1"}
    spec = {"model": {"name": "m/m"}, "runtime": "vllm", "accelerator": "h100"}
    mirror.model_deployment(
        None, {"metadata": metadata, "spec": spec, "status": told.model_dump(mode="json", by_alias=True)}
    )
    reporter = Reporter(cast("Any", None), mirror, cast("Any", _Leads()))
    later = fleet(story.made, now=story.now + 1500.0)
    (found,) = reporter.due(later, story.plan)
    assert await reporter.write(found, now=later.taken_at) == StatusOutcome()

    assert reporter.due(fleet(story.made, now=story.now + LEARNED_SECONDS - 2), story.plan) == []
    assert len(reporter.due(fleet(story.made, now=story.now + LEARNED_SECONDS + 2), story.plan)) == 1


class _Leads:
    def held(self) -> bool:
        return True
