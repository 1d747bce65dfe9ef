"""What the drift benchmark's watch counts, and what it does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bench.drift import MANAGER, Witness
from sandbox.engine.reflect import Change

APPLIED: dict[str, Any] = {
    "metadata": {
        "name": "model",
        "namespace": "team",
        "generation": 1,
        "resourceVersion": "1",
        "managedFields": [{"manager": MANAGER}],
    },
    "spec": {"scaling": {"maxReplicas": 4}},
}


def after(**metadata: Any) -> dict[str, Any]:
    changed = copy.deepcopy(APPLIED)
    changed["metadata"] |= metadata
    return changed


def found(*states: dict[str, Any]) -> list[str]:
    witness = Witness(frozenset({("modeldeployments", "team/model")}))
    for state in states:
        witness.take("modeldeployments", Change.UPSERTED, state)
    return witness.found


def test_a_write_of_status_is_no_change() -> None:
    operator = {"manager": "modelfleet", "subresource": "status"}
    written = after(resourceVersion="2", managedFields=[{"manager": MANAGER}, operator])
    assert found(APPLIED, {**written, "status": {"replicas": 2}}) == []


@pytest.mark.parametrize(
    "state",
    [
        after(labels={"a": "b"}),
        after(annotations={"a": "b"}),
        after(finalizers=["modelfleet.dev/x"]),
        after(generation=2),
        {**APPLIED, "spec": {"scaling": {"maxReplicas": 5}}},
    ],
)
def test_every_other_change_is_found(state: dict[str, Any]) -> None:
    assert len(found(APPLIED, state)) == 1


def test_a_second_owner_is_found_at_first_sight() -> None:
    assert found(after(managedFields=[{"manager": MANAGER}, {"manager": "modelfleet"}]))


def test_what_nobody_applied_does_not_count() -> None:
    assert found(APPLIED, after(name="other", labels={"a": "b"})) == []
