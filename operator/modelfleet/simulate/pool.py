"""The GPUs that deployments share: nodes of accelerator classes, and which of them are free."""

from collections.abc import Mapping

from modelfleet.decide.snapshot import Node


class Pool:
    """Nodes with free GPUs. A replica takes all of its GPUs on one node."""

    def __init__(self, nodes: Mapping[str, tuple[Node, ...]]) -> None:
        """Take over the nodes as they are, by accelerator class."""
        self._allocatable = {
            accelerator: {node.name: node.allocatable_gpus for node in its} for accelerator, its in nodes.items()
        }
        self._free = {accelerator: {node.name: node.free_gpus for node in its} for accelerator, its in nodes.items()}
        self._draining = {accelerator: dict.fromkeys(its, 0) for accelerator, its in self._free.items()}

    def take(self, accelerator: str, gpus: int) -> str:
        """Take GPUs from the node that has the most free, as kube-scheduler's default profile spreads pods.

        Returns:
            The node's name, the first by name of equals; empty when none has enough.
        """
        free = self._free.get(accelerator, {})
        chosen = min(free, key=lambda name: (-free[name], name), default="")
        if not chosen or free[chosen] < gpus:
            return ""
        free[chosen] -= gpus
        return chosen

    def drain(self, accelerator: str, node: str, gpus: int) -> None:
        """Note that GPUs which were taken will be given back."""
        self._draining[accelerator][node] += gpus

    def give_back(self, accelerator: str, node: str, gpus: int) -> None:
        """Free GPUs that drained."""
        self._draining[accelerator][node] -= gpus
        self._free[accelerator][node] += gpus

    def nodes(self) -> dict[str, tuple[Node, ...]]:
        """Return the nodes with what is free of them now."""
        return {
            accelerator: tuple(
                Node(name, free, self._allocatable[accelerator][name], self._draining[accelerator][name])
                for name, free in its.items()
            )
            for accelerator, its in self._free.items()
        }
