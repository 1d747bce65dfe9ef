"""Whether a roll-out may start a new replica before it stops an old one."""

from typing import Any

import pytest

from modelfleet.render.rollout import may_surge
from tests.builders import nodes

CALM: dict[str, Any] = {
    "surges_now": True,
    "template_changes": False,
    "rolling_out": False,
    "waits_seconds": 0.0,
    "pods_refused": False,
    "quota_gpus": None,
}

CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], bool]] = {
    "a new Deployment": ({"surges_now": None}, (), True),
    "a new Deployment where nothing is free": ({"surges_now": None, "template_changes": True}, (0,), True),
    "nothing happens: as it is": ({}, (), True),
    "nothing happens: as it is, the other way": ({"surges_now": False}, (8,), False),
    "a new template and a free place": ({"template_changes": True}, (2,), True),
    "a new template and a free place, after one without": ({"surges_now": False, "template_changes": True}, (2,), True),
    "a new template and no place": ({"template_changes": True}, (1, 1, 0), False),
    "two halves on two nodes are no place": ({"template_changes": True}, (1, 1), False),
    "a new template and no nodes": ({"template_changes": True}, (), False),
    "the new pod waits for the old one's GPUs": ({"rolling_out": True, "waits_seconds": 12.1}, (), False),
    "it waits, though a place is free: somebody else's, by the time it is tried": (
        {"rolling_out": True, "waits_seconds": 12.1},
        (2,),
        False,
    ),
    "the scheduler may not have tried again yet": ({"rolling_out": True, "waits_seconds": 12.0}, (2,), True),
    "a free place, and a quota without room": ({"template_changes": True, "quota_gpus": 1}, (2,), False),
    "a free place and room in the quota": ({"template_changes": True, "quota_gpus": 2}, (2,), True),
    "room in the quota and no place": ({"template_changes": True, "quota_gpus": 2}, (1,), False),
    "the new pod is refused": ({"rolling_out": True, "pods_refused": True}, (2,), False),
    "a pod is refused without a roll-out": ({"pods_refused": True}, (), True),
    "the quota is full while a roll-out goes well": ({"rolling_out": True, "quota_gpus": 0}, (), True),
    "a pod waits without a roll-out": ({"waits_seconds": 12.1}, (), True),
    "a roll-out that goes well": ({"rolling_out": True}, (), True),
    "one that stopped surging does not begin again midway": ({"surges_now": False, "rolling_out": True}, (8,), False),
}


@pytest.mark.parametrize("case", CASES)
def test_may_surge(case: str) -> None:
    """Replicas of two GPUs: surge only where a whole place is free, and stop where the new pod finds none."""
    changes, free, expected = CASES[case]
    actual = may_surge(**{**CALM, **changes}, gpus=2, nodes=nodes(*free))

    assert expected == actual
