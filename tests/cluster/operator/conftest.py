"""A cluster with Modelfleet on it: one a worker process, audited, the operator under its chart's own account."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sandbox.cluster import Sandbox
from sandbox.fleet import Fleet
from sandbox.nodes import NodePlan
from tests.cluster.operator.scene import Audit, Cast, Team, Watched, _credential, described


@pytest.fixture(scope="session")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    """The operator processes of a running fleet; at its end, the proof that its account was enough for everything."""
    directory = tmp_path_factory.mktemp("operator")
    with Sandbox.start(directory / "cluster", name="operator", nodes=NodePlan(h100=4), audit=True) as sandbox:
        audit = Audit(sandbox)
        with Fleet(sandbox, directory / "logs") as fleet:
            cast = Cast(fleet)
            cast.members.append(Watched(fleet.operators[0], _credential(sandbox)))
            yield cast
            forbidden = [
                described(entry)
                for entry in audit.requests()
                if entry.get("annotations", {}).get("authorization.k8s.io/decision") != "allow"
            ]
            logs = [member.operator.log for member in cast.members]
            tracebacks = [log for log in logs if "Traceback" in log.read_text()]
    assert forbidden == []
    assert tracebacks == []


@pytest.fixture
def sandbox(cast: Cast) -> Sandbox:
    """The fleet's cluster."""
    return cast.fleet.sandbox


@pytest.fixture
def operator(cast: Cast) -> Watched:
    """The one operator, leading."""
    return cast.only()


@pytest.fixture
def new_team(sandbox: Sandbox, operator: Watched) -> Iterator[Callable[..., Team]]:
    """Makes teams, with labels on their namespaces, that end with the test."""
    teams: list[Team] = []

    def create(**labels: str) -> Team:
        teams.append(Team.create(sandbox, **labels))
        return teams[-1]

    yield create
    for team in teams:
        team.end()


@pytest.fixture
def team(new_team: Callable[..., Team]) -> Team:
    """One team."""
    return new_team()
