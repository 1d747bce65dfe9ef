"""A fleet in which nothing happens costs the API server nothing, a restart of the operator included."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.cluster.operator.scene import Audit, Cast, Team, Watched, described, gpus_taken, same, teams, until

pytestmark = pytest.mark.xdist_group("operator-objects")

IDLE_DEPLOYMENTS = 10
MINUTE_SECONDS = 60.0
RENEWALS = "update leases modelfleet-system/modelfleet"


def test_a_restart_and_a_minute_of_ten_idle_deployments_write_nothing(
    cast: Cast, team: Team, operator: Watched
) -> None:
    """The next process adopts what it finds; then it renews its Lease, and asks and writes nothing else."""
    # What earlier tests left behind is still being deleted, and the operator reports its end.
    same([team.namespace], lambda: teams(team.sandbox), seconds=120)
    names = [f"model-{number}" for number in range(IDLE_DEPLOYMENTS)]
    for name in names:
        team.deploy(name)
    for name in names:
        team.await_ready(name)
        same(("True", "Fresh"), lambda name=name: team.condition("MetricsFresh", name))  # type: ignore[misc]
    # The class is reported once in 10 s; what a process had no time to report its successor would write.
    same(IDLE_DEPLOYMENTS, lambda: gpus_taken(team.sandbox, "h100"))
    operator.await_ticks(3)
    before, everything, began = team.versions(), Audit(team.sandbox), time.monotonic()
    assert operator.end() == 0
    successor = cast.only()
    # Longer than the 10 s for which a process that has just begun may lack a signal.
    successor.await_ticks(12)
    adopted, later, settled = team.versions(), Audit(team.sandbox), time.monotonic()
    until(lambda: time.monotonic() > began + MINUTE_SECONDS, seconds=2 * MINUTE_SECONDS)
    seconds = time.monotonic() - settled
    asked = Counter(described(entry) for entry in later.requests(by=successor) if entry["verb"] != "watch")

    assert adopted == before
    assert everything.writes(by=successor) == []
    assert list(asked) == [RENEWALS]
    assert asked.total() / seconds < 0.5
    assert team.versions() == before
