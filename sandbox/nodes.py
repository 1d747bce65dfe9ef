"""The pretend nodes: GPU machines labelled as NVIDIA's GPU feature discovery labels real ones, and CPU machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NodePlan:
    """How many nodes of each kind a sandbox has."""

    h100: int = 2
    a100: int = 2
    cpu: int = 1


@dataclass(frozen=True)
class GpuModel:
    """What feature discovery says of one GPU product, and of the machine that carries it."""

    product: str
    family: str
    compute_major: int
    compute_minor: int
    memory_mib: int
    gpus_per_node: int
    machine: str
    instance_type: str
    cpus: int
    memory: str


H100 = GpuModel(
    product="NVIDIA-H100-80GB-HBM3",
    family="hopper",
    compute_major=9,
    compute_minor=0,
    memory_mib=81559,
    gpus_per_node=8,
    machine="DGXH100",
    instance_type="gpu-h100-8",
    cpus=224,
    memory="2Ti",
)
A100 = GpuModel(
    product="NVIDIA-A100-SXM4-80GB",
    family="ampere",
    compute_major=8,
    compute_minor=0,
    memory_mib=81920,
    gpus_per_node=4,
    machine="DGXA100",
    instance_type="gpu-a100-4",
    cpus=128,
    memory="1Ti",
)
GPU_RESOURCE = "nvidia.com/gpu"
PODS_PER_GPU_NODE = 250
# The CPU nodes carry whatever is not an inference pod, benchmarks' fillers included.
CPU_NODE_CAPACITY = {"cpu": "512", "memory": "4Ti", "pods": "10000", "ephemeral-storage": "10Ti"}


def manifests(plan: NodePlan) -> Iterator[dict[str, Any]]:
    """Yield the Node objects of the plan: h100-0, h100-1, ..., a100-0, ..., cpu-0, ..."""
    for prefix, model, count in (("h100", H100, plan.h100), ("a100", A100, plan.a100)):
        capacity = {
            "cpu": str(model.cpus),
            "memory": model.memory,
            "pods": str(PODS_PER_GPU_NODE),
            "ephemeral-storage": "10Ti",
            GPU_RESOURCE: str(model.gpus_per_node),
        }
        taint = {"key": GPU_RESOURCE, "value": "present", "effect": "NoSchedule"}
        labels = {"node.kubernetes.io/instance-type": model.instance_type, **gpu_labels(model)}
        for index in range(count):
            yield _node(f"{prefix}-{index}", labels, capacity, [taint])
    for index in range(plan.cpu):
        yield _node(f"cpu-{index}", {"node.kubernetes.io/instance-type": "cpu"}, CPU_NODE_CAPACITY, [])


def gpu_labels(model: GpuModel) -> dict[str, str]:
    """Return the labels that GPU feature discovery writes for an unshared, unpartitioned GPU with driver 570."""
    return {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": model.product,
        "nvidia.com/gpu.count": str(model.gpus_per_node),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": "none",
        "nvidia.com/gpu.memory": str(model.memory_mib),
        "nvidia.com/gpu.machine": model.machine,
        "nvidia.com/gpu.family": model.family,
        "nvidia.com/gpu.mode": "compute",
        "nvidia.com/gpu.compute.major": str(model.compute_major),
        "nvidia.com/gpu.compute.minor": str(model.compute_minor),
        "nvidia.com/mig.capable": "true",
        "nvidia.com/mig.strategy": "single",
        "nvidia.com/mps.capable": "false",
        "nvidia.com/cuda.driver.major": "570",
        "nvidia.com/cuda.driver.minor": "133",
        "nvidia.com/cuda.driver.rev": "20",
        "nvidia.com/cuda.driver-version.full": "570.133.20",
        "nvidia.com/cuda.driver-version.major": "570",
        "nvidia.com/cuda.driver-version.minor": "133",
        "nvidia.com/cuda.driver-version.revision": "20",
        "nvidia.com/cuda.runtime.major": "12",
        "nvidia.com/cuda.runtime.minor": "8",
        "nvidia.com/cuda.runtime-version.full": "12.8",
        "nvidia.com/cuda.runtime-version.major": "12",
        "nvidia.com/cuda.runtime-version.minor": "8",
    }


def _node(name: str, labels: dict[str, str], capacity: dict[str, str], taints: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "type": "kwok",
                **labels,
            },
        },
        "spec": {"providerID": f"kwok://{name}", "taints": taints},
        "status": {"capacity": capacity, "allocatable": capacity},
    }
