"""A fleet in which nothing happens costs the API server nothing."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.cluster.operator.scene import WRITING_VERBS, Audit, Team, Watched, described, until

pytestmark = pytest.mark.xdist_group("operator-signals")

IDLE_DEPLOYMENTS = 10
SETTLED_SECONDS = 31.0
"""Measurements that moved while the replicas started are brought up to date once, at most 30 s later."""
MINUTE_SECONDS = 60.0


def test_ten_idle_deployments_are_written_nothing_in_a_minute(team: Team, operator: Watched) -> None:
    """No write but the renewals of the Lease, no read at all but watches that end and go on."""
    names = [f"model-{number}" for number in range(IDLE_DEPLOYMENTS)]
    for name in names:
        team.deploy(name)
    for name in names:
        team.await_ready(name)
    settled = time.monotonic() + SETTLED_SECONDS
    until(lambda: time.monotonic() > settled, seconds=2 * SETTLED_SECONDS)
    before, audit, began = team.versions(), Audit(team.sandbox), time.monotonic()
    until(lambda: time.monotonic() > began + MINUTE_SECONDS, seconds=2 * MINUTE_SECONDS)
    requests, seconds = audit.requests(by=operator), time.monotonic() - began
    asked = Counter(described(entry) for entry in requests if entry["verb"] != "watch")

    assert list(asked) == ["update leases modelfleet-system/modelfleet"]
    assert asked.total() / seconds < 0.5
    assert [
        entry for entry in requests if entry["verb"] in WRITING_VERBS and entry["responseStatus"]["code"] > 299
    ] == []
    assert team.versions() == before
