"""What makes a deployment impossible to run: found before anything is written, with the field and the remedy."""

from typing import Any

import pytest

from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.api.conditions import Reason
from modelfleet.api.engine import Engine
from modelfleet.api.inferenceruntime import InferenceRuntimeSpec
from modelfleet.decide.faults import find_fault
from modelfleet.decide.snapshot import Fault
from tests.builders import deployment

RUNTIME = InferenceRuntimeSpec(engine=Engine.VLLM, image="registry.example/vllm:v1")
H100 = AcceleratorClassSpec(node_selector={"gpu": "h100"})
BAD = Fault(Reason.INVALID_SPEC, "spec.image: Field required")

CASES: dict[str, tuple[dict[str, Any], tuple[Reason, str] | None]] = {
    "all is well": ({}, None),
    "no nodes yet: they may be on their way": ({"largest": 0, "gpus": 64}, None),
    "as many GPUs as the largest node": ({"gpus": 8}, None),
    "the runtime is missing": ({"runtime": None}, (Reason.RUNTIME_NOT_FOUND, "kubectl get inferenceruntimes")),
    "the runtime cannot be read": ({"runtime": BAD}, (Reason.RUNTIME_INVALID, "spec.image: Field required")),
    "the class is missing": ({"accelerator": None}, (Reason.ACCELERATOR_NOT_FOUND, "kubectl get acceleratorclasses")),
    "the class cannot be read": ({"accelerator": BAD}, (Reason.ACCELERATOR_INVALID, "spec.image: Field required")),
    "more GPUs than any node has": ({"gpus": 9}, (Reason.GPUS_EXCEED_NODE, "its largest has 8")),
    "both are missing: the runtime first": (
        {"runtime": None, "accelerator": None},
        (Reason.RUNTIME_NOT_FOUND, "spec.runtime"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_fault(case: str) -> None:
    """The first thing to mend is named with its field."""
    changes, expected = CASES[case]
    world: dict[str, Any] = {"runtime": RUNTIME, "accelerator": H100, "largest": 8, "gpus": 1, **changes}
    found = find_fault(
        deployment().gpus(world["gpus"]).spec,
        runtime=world["runtime"],
        accelerator=world["accelerator"],
        largest_node_gpus=world["largest"],
    )

    assert (expected is None) == (found is None)
    if expected is not None and found is not None:
        assert expected[0] is found.reason
        assert expected[1] in found.message
        assert found.message.startswith("spec.")
