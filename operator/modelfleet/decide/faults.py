"""What makes a ModelDeployment impossible to run as it stands, found before anything is written.

The schema refuses what it can; this is the rest: references to other objects and to the cluster's
hardware. Each fault names the field and the remedy.
"""

from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.api.conditions import Reason
from modelfleet.api.inferenceruntime import InferenceRuntimeSpec
from modelfleet.api.modeldeployment import ModelDeploymentSpec
from modelfleet.decide.snapshot import Fault


def find_fault(
    spec: ModelDeploymentSpec,
    *,
    runtime: InferenceRuntimeSpec | Fault | None,
    accelerator: AcceleratorClassSpec | Fault | None,
    largest_node_gpus: int,
) -> Fault | None:
    """Return the first thing that must be mended, or None.

    Args:
        spec: The deployment's own spec, already valid by its schema.
        runtime: The runtime it names; None when there is none, a Fault when it cannot be read.
        accelerator: The class it names, likewise.
        largest_node_gpus: GPUs of the largest node of that class. 0, no node at all, is no fault: they may be
            on their way.
    """
    match runtime:
        case None:
            return Fault(
                Reason.RUNTIME_NOT_FOUND,
                f"spec.runtime: InferenceRuntime {spec.runtime!r} does not exist; "
                "choose one from `kubectl get inferenceruntimes` or have it created",
            )
        case Fault(message=message):
            return Fault(Reason.RUNTIME_INVALID, f"spec.runtime: InferenceRuntime {spec.runtime!r}: {message}")
    match accelerator:
        case None:
            return Fault(
                Reason.ACCELERATOR_NOT_FOUND,
                f"spec.accelerator: AcceleratorClass {spec.accelerator!r} does not exist; "
                "choose one from `kubectl get acceleratorclasses` or have it created",
            )
        case Fault(message=message):
            return Fault(
                Reason.ACCELERATOR_INVALID,
                f"spec.accelerator: AcceleratorClass {spec.accelerator!r}: {message}",
            )
    if 0 < largest_node_gpus < spec.gpus_per_replica:
        return Fault(
            Reason.GPUS_EXCEED_NODE,
            f"spec.gpusPerReplica: {spec.gpus_per_replica} GPUs fit no node of class {spec.accelerator!r}: its largest "
            f"has {largest_node_gpus}; lower gpusPerReplica or choose another accelerator",
        )
    return None
