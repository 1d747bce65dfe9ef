"""When a TenantView is written: when it says something new, and a count alone not at once."""

from dataclasses import replace
from typing import Any

import pytest

from modelfleet.api.meta import API_VERSION
from modelfleet.api.tenant import TenantSpec, TenantStatus
from modelfleet.api.tenantview import VIEW_NAME, TenantViewSpec
from modelfleet.decide.snapshot import Quota
from modelfleet.decide.standing import Standing
from modelfleet.shell.mirror import Mirror
from modelfleet.shell.records import TenantRecord
from modelfleet.shell.tenancy import Account
from modelfleet.shell.views import ViewReporter
from tests.builders import fleet

ROW = Standing(
    accelerator="h100",
    quota=Quota(8, 4),
    guaranteed=4,
    used=4,
    borrowed=0,
    lent=0,
    waiting=0,
    minimums=2,
    largest_node_gpus=8,
)
RECORD = TenantRecord(
    name="team",
    uid="tenant",
    version=1,
    generation=1,
    created_at=0.0,
    deleting=False,
    spec=TenantSpec(namespaces=("a", "b"), quotas=()),
    status=None,
)


def account(row: Standing = ROW, *, reason: str = "WithinNominal", namespaces: tuple[str, ...] = ("a",)) -> Account:
    """Return a tenant of one class."""
    return Account(RECORD, (row,), TenantStatus(reason=reason, namespaces=namespaces))


def view(spec: TenantViewSpec, *, owner: str = "tenant", namespace: str = "a") -> dict[str, Any]:
    """Return a view as the API server has it."""
    owners = [{"apiVersion": API_VERSION, "kind": "Tenant", "name": "team", "uid": owner, "controller": True}]
    metadata = {"name": VIEW_NAME, "namespace": namespace, "uid": namespace, "resourceVersion": "1"}
    return {"metadata": {**metadata, "ownerReferences": owners}, "spec": spec.model_dump(by_alias=True)}


class Desk:
    """A reporter, what it saw, and what it wants to write; it began long ago unless told otherwise."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.reporter = ViewReporter(None, self.mirror, None)  # type: ignore[arg-type] - nothing is written here
        list(self.due(account(), at=0.0))

    def due(self, *accounts: Account, at: float = 1_000.0) -> list[str]:
        snapshot = replace(fleet(), taken_at=at)
        return [namespace for namespace, _, _ in self.reporter.due(accounts, snapshot)]

    def says(self, one: Account, **where: str) -> None:
        """Let the API server have what one tenant would be told now."""
        empty = ViewReporter(None, Mirror(), None)  # type: ignore[arg-type]
        ((_, _, spec),) = empty.due([one], fleet())
        self.mirror.view_table.upsert(view(spec, **where))


@pytest.fixture
def desk() -> Desk:
    """A reporter whose view of namespace `a` is as it should be."""
    desk = Desk()
    desk.says(account())
    return desk


def test_what_is_there_is_not_written_again(desk: Desk) -> None:
    """And what is missing is, in each namespace of the tenant."""
    assert desk.due(account()) == []
    assert desk.due(account(namespaces=("a", "b"))) == ["b"]


@pytest.mark.parametrize(
    "new",
    {
        "a quota": replace(ROW, quota=Quota(6, 4)),
        "a limit": replace(ROW, quota=Quota(8, None)),
        "a minimum": replace(ROW, minimums=3),
        "a larger node": replace(ROW, largest_node_gpus=16),
        "a class": replace(ROW, accelerator="a100"),
    }.values(),
)
def test_what_policies_judge_by_is_written_at_once(new: Standing) -> None:
    """By a process that has just begun, too: none of it comes from signals."""
    desk = Desk()
    desk.says(account())

    assert desk.due(account(new), at=1.0) == ["a"]


def test_a_process_that_has_just_begun_leaves_counts_as_they_are(desk: Desk) -> None:
    """It may still lack the signals that they come from."""
    counted = account(replace(ROW, waiting=3))

    assert desk.due(counted, at=1.0) == []
    assert desk.due(counted, at=1_000.0) == ["a"]


def test_another_owner_or_what_cannot_be_read_is_put_right() -> None:
    """A Tenant that was made anew owns the view of the one before."""
    desk = Desk()
    desk.says(account(), owner="the one before")
    assert desk.due(account()) == ["a"]

    desk = Desk()
    desk.mirror.view_table.upsert({**view(TenantViewSpec.model_construct(), namespace="a"), "spec": {"tenant": 7}})
    assert desk.due(account()) == ["a"]


def test_a_view_goes_where_its_tenant_has_left(desk: Desk) -> None:
    """By its own record, so that another object of the name is not meant."""
    assert desk.reporter.stale([account()]) == []
    assert [record.uid for record in desk.reporter.stale([account(namespaces=("b",))])] == ["a"]
