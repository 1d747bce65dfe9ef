"""Engines whose metrics fail in every way: replicas are held, the cause is told, the neighbours notice nothing.

All faults run side by side in one experiment, which every test here reads.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from modelfleet.api.meta import Key
from modelfleet.simulate.arrivals import Arrival
from sandbox.load.client import run_load
from tests.cluster.operator.scene import Cast, History, Json, Team, same, scale_in_after, until

pytestmark = pytest.mark.xdist_group("operator-signals")

NOTICED_SECONDS = 15.0
RECOVERED_SECONDS = 10.0
CAUSES = {
    "http500": "/metrics answered HTTP 500",
    "nan": "is not a sane number",
    "negative": "is not a sane number",
    "huge": "is not a sane number",
    "garbage": "",
    "silent": "no answer within 2 s",
    "infinite": "/metrics is larger than 1 MiB",
    "redirect": "/metrics answered HTTP 302",
}
"""Faults of the metrics, and what the condition says of each."""
UNREADY, SLOW, HEALTHY, IDLE = "never-ready", "slow", "healthy", "idle"
TRIED = (*CAUSES, UNREADY, SLOW, HEALTHY, IDLE)


@dataclass
class Experiment:
    """What happened to each deployment.

    Attributes:
        noticed_seconds: From the fault's beginning to its condition.
        recovered_seconds: From the fault's end to MetricsFresh.
        messages: MetricsFresh's message during the fault.
        during: States of each Deployment while the faults lasted and the floor was one replica.
        fresh: Values that MetricsFresh took in all states of each status.
        busy_throughout: Whether the slow deployment had load all the time.
    """

    noticed_seconds: dict[str, float] = field(default_factory=dict)
    recovered_seconds: dict[str, float] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    during: dict[str, list[int]] = field(default_factory=dict)
    fresh: dict[str, set[str]] = field(default_factory=dict)
    busy_throughout: bool = False


@pytest.fixture(scope="module")
def experiment(cast: Cast) -> Iterator[Experiment]:
    """Two replicas each; faults begin; the floor falls to one; faults end."""
    operator = cast.only()
    team = Team.create(cast.fleet.sandbox)
    result = Experiment()
    for name in TRIED:
        # A target of half of what a quick engine makes, so that two are needed for the load below.
        targets = {"outputTokensPerSecond": 100, "queuedRequests": 4}
        # Until the batch is full a slowing engine shows less work and no queue yet: 8 s outlast that.
        behavior = scale_in_after(8 if name == SLOW else 2)
        scaling = {"minReplicas": 2, "maxReplicas": 2, "targets": targets, "behavior": behavior}
        team.deploy(name, scaling=scaling)
    for name in TRIED:
        team.await_ready(name, replicas=2)
        same(("True", "Fresh"), lambda name=name: team.condition("MetricsFresh", name))  # type: ignore[misc]
    statuses = History(team.sandbox, team.path("").rstrip("/"))
    busy = threading.Thread(target=_keep_busy, args=(team,), daemon=True)
    with statuses:
        busy.start()
        began = time.monotonic()
        for name in (*CAUSES, UNREADY):
            team.fault(name, name)
        _await_each(
            result.noticed_seconds,
            {name: lambda name=name: team.condition("MetricsFresh", name)[0] == "False" for name in CAUSES}  # type: ignore[misc]
            | {UNREADY: lambda: team.condition("Ready", UNREADY)[0] == "False"},
            since=began,
        )
        result.messages = {name: team.message("MetricsFresh", name) for name in TRIED}
        until(lambda: operator.gauge("output_tokens_per_second", team, SLOW) > 100)
        team.fault(SLOW, SLOW)
        with History(team.sandbox, team.child_path("Deployment", "").rstrip("/")) as history:
            for name in TRIED:
                team.change(name, scaling={"minReplicas": 1})
            for name in (HEALTHY, IDLE):
                until(lambda name=name: team.replicas(name) == 1)  # type: ignore[misc]
            # Well past the 2 s of the scale-down window.
            operator.await_ticks(5)
            until(lambda: operator.gauge("queued_requests", team, SLOW) > 8)
            operator.await_ticks(5)
            result.during = {name: [2, *history.replicas(name)] for name in TRIED}
            result.busy_throughout = busy.is_alive()
        began = time.monotonic()
        for name in (*CAUSES, UNREADY, SLOW):
            team.fault("", name)
        _await_each(
            result.recovered_seconds,
            {name: lambda name=name: team.condition("MetricsFresh", name)[0] == "True" for name in (*CAUSES, UNREADY)},  # type: ignore[misc]
            since=began,
        )
        for name in (*CAUSES, UNREADY):
            until(lambda name=name: team.replicas(name) == 1)  # type: ignore[misc]
    for name in TRIED:
        result.fresh[name] = {_fresh(item) for item in statuses.states(name)}
    yield result
    team.end()


def _keep_busy(team: Team) -> None:
    """Send the slow deployment what two quick engines serve with ease and two slow ones do not."""
    arrivals = [Arrival(number / 2.5, 20, 50) for number in range(85)]
    asyncio.run(run_load(team.sandbox.kubeconfig, Key(team.namespace, SLOW), arrivals))


def _await_each(seconds: dict[str, float], conditions: dict[str, object], *, since: float) -> None:
    """Note for each name when its condition became true."""
    waiting = dict(conditions)
    while waiting:
        for name, holds in list(waiting.items()):
            if holds():  # type: ignore[operator]
                seconds[name] = time.monotonic() - since
                del waiting[name]
        assert time.monotonic() < since + 40, f"still waiting for {sorted(waiting)}"
        time.sleep(0.05)


def _fresh(item: Json) -> str:
    conditions = item.get("status", {}).get("conditions", [])
    return next((each["status"] for each in conditions if each["type"] == "MetricsFresh"), "")


@pytest.mark.parametrize("fault", CAUSES)
def test_a_fault_is_told_with_its_cause_and_shrinks_nothing(experiment: Experiment, fault: str) -> None:
    """Idle as it is and with a floor of one, the deployment keeps its two replicas while nobody knows its load."""
    assert experiment.noticed_seconds[fault] < NOTICED_SECONDS
    assert CAUSES[fault] in experiment.messages[fault]
    assert experiment.messages[fault].startswith(f"{fault}-")
    assert experiment.during[fault] == [2]


@pytest.mark.parametrize("fault", [*CAUSES, UNREADY])
def test_it_recovers_when_the_fault_ends(experiment: Experiment, fault: str) -> None:
    """MetricsFresh is true again soon after, and then the idle replica goes."""
    assert experiment.recovered_seconds[fault] < RECOVERED_SECONDS


def test_pods_that_are_not_ready_shrink_nothing(experiment: Experiment) -> None:
    """No ready pod is no sign of no load."""
    assert experiment.during[UNREADY] == [2]


def test_a_slow_engine_under_load_shrinks_nothing(experiment: Experiment) -> None:
    """An engine that makes fewer tokens because it is slow has no less to do."""
    assert experiment.busy_throughout
    assert experiment.during[SLOW] == [2]


def test_the_neighbours_of_hostile_deployments_notice_nothing(experiment: Experiment) -> None:
    """Beside all of that a healthy deployment keeps its signals, and shrinks when it may."""
    assert [experiment.fresh[name] for name in (HEALTHY, IDLE)] == [{"True"}, {"True"}]
    assert [experiment.during[name] for name in (HEALTHY, IDLE)] == [[2, 1], [2, 1]]
