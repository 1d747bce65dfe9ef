"""Where a replica fits: the free GPUs of each node of one accelerator class."""

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from heapq import heappop, heappush

from modelfleet.decide.snapshot import Node


class Places:
    """Free and draining GPUs by node.

    Nodes are numbered in the order of their names, so that every answer is the same however they are listed.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Take the nodes of one class."""
        self.nodes = sorted(nodes, key=lambda node: node.name)
        self.free = [node.free_gpus for node in self.nodes]
        self.draining = Counter(
            {number: node.draining_gpus for number, node in enumerate(self.nodes) if node.draining_gpus}
        )
        self.total_free = sum(self.free)
        # Numbers of nodes by free GPUs. What has moved on since is skipped when it comes up: free GPUs only shrink.
        self._with_free: list[list[int]] = [[] for _ in range(max(self.free, default=0) + 1)]
        for number, free in enumerate(self.free):
            self._with_free[free].append(number)
        self._top = len(self._with_free) - 1

    @cached_property
    def number_of(self) -> dict[str, int]:
        """Numbers of the nodes by name."""
        return {node.name: number for number, node in enumerate(self.nodes)}

    def drain(self, node: str, gpus: int) -> None:
        """Note that GPUs of a node will be free; a node that is not usable makes no place."""
        number = self.number_of.get(node)
        if number is not None:
            self.draining[number] += gpus

    def take(self, gpus: int, count: int = 1) -> int:
        """Take GPUs for so many replicas, each of the node with the most free; return for how many.

        As kube-scheduler spreads pods by default. A grant that counts on a tighter fit is fragmented away, and its pod
        waits; one that is too cautious follows a decision later, when the other pods have their nodes.
        """
        free, left, top = self.free, count, self._top
        while left and top >= gpus:
            numbers = self._with_free[top]
            while left and numbers:
                number = heappop(numbers)
                if free[number] == top:
                    free[number] = rest = top - gpus
                    if rest:
                        heappush(self._with_free[rest], number)
                    left -= 1
            if not numbers:
                top -= 1
        self._top = top
        self.total_free -= gpus * (count - left)
        return count - left

    def take_at(self, number: int, gpus: int) -> None:
        """Take GPUs that are free on one node."""
        rest = self.free[number] = self.free[number] - gpus
        self.total_free -= gpus
        if rest:
            heappush(self._with_free[rest], number)

    def draining_place(self, gpus: int) -> int | None:
        """Return the node where a place opens by itself, the tightest one; None when there is none."""
        found = [
            (self.free[number] + draining, number)
            for number, draining in self.draining.items()
            if draining and self.free[number] + draining >= gpus
        ]
        return min(found)[1] if found else None

    def copy(self) -> "Places":
        """Return a copy that can be spent."""
        twin = Places(())
        twin.nodes, twin.free, twin.draining = self.nodes, list(self.free), self.draining.copy()
        twin.total_free, twin._with_free = self.total_free, [list(numbers) for numbers in self._with_free]
        twin._top = self._top
        return twin

    def restore(self, kept: "Places") -> None:
        """Go back to what a copy has kept."""
        self.free, self.total_free = kept.free, kept.total_free
        self._with_free, self._top = kept._with_free, kept._top

    def wait_at(self, number: int, gpus: int) -> int:
        """Set GPUs of one node aside for a replica that will start there; return how many of them drain.

        Those that drain are taken first, then free ones.
        """
        drained = min(self.draining[number], gpus)
        self.draining[number] -= drained
        if gpus > drained:
            self.take_at(number, gpus - drained)
        return drained
