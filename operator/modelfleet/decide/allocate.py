"""Step 8, allocate: growth is granted where GPUs are free on one node. With tenants, shares.py decides instead.

A replica is indivisible: eight free GPUs on eight nodes are no place for an 8-GPU replica. What
exists is never taken away here, and what minReplicas asks for is always asked for (its pods wait in
Pending, where people and cluster autoscalers look); replicas above that are asked for only when they
fit. Deployments are served by priority, within a priority one replica each in turn, by name.
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelfleet.api.meta import Key
from modelfleet.decide.snapshot import Node


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica that holds GPUs.

    Attributes:
        node: Where it runs.
        ready: A Deployment that shrinks gives up those that are not ready first, whatever is asked of it.
        in_flight: Requests it serves or has waiting; infinite when unknown, for it may be serving.
    """

    pod: str
    node: str
    ready: bool = True
    in_flight: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What one deployment asks of one accelerator class.

    Attributes:
        gpus: GPUs of one replica, on one node.
        held: Replicas that hold GPUs already: pods that a node runs and that are neither terminating nor told to go.
        assured: Replicas asked for before, and minReplicas. Without tenants they are granted whatever is free.
        asked: Replicas after the steps before.
        tenant: Name of the tenant that owns its namespace; empty for none.
        replicas: Those that hold GPUs, in the order in which they go; empty when they may not be taken.
        may_borrow: Whether it may have what others leave idle.
        grace_seconds: Longest time from telling a replica to go until its GPUs are free.
    """

    key: Key
    accelerator: str
    gpus: int
    priority: int
    held: int
    assured: int
    asked: int
    tenant: str = ""
    replicas: tuple[Replica, ...] = ()
    may_borrow: bool = True
    grace_seconds: int = 0


def allocate(asks: Iterable[Ask], nodes: Mapping[str, tuple[Node, ...]]) -> dict[Key, int]:
    """Grant growth in the order of priority, one replica each in turn.

    Args:
        asks: One a deployment, in any order.
        nodes: Nodes with their free GPUs, by accelerator class. A class that is not there has none:
            unknown capacity grants nothing.

    Returns:
        Granted replicas for each ask.
    """
    granted: dict[Key, int] = {}
    by_class: dict[str, list[Ask]] = {}
    for ask in asks:
        # In a roll-out more replicas hold GPUs than are asked for: growth up to those needs no free ones.
        granted[ask.key] = min(max(ask.assured, ask.held), ask.asked)
        if ask.asked > ask.held:
            by_class.setdefault(ask.accelerator, []).append(ask)
    for accelerator, class_asks in by_class.items():
        _grant(class_asks, _Free(nodes.get(accelerator, ())), granted)
    return granted


def _grant(asks: list[Ask], free: "_Free", granted: dict[Key, int]) -> None:
    asks = sorted(asks, key=lambda ask: (-ask.priority, ask.key))
    # Assured replicas without a node come first: their pods exist or will, and take the free GPUs.
    for ask in asks:
        for _ in range(granted[ask.key] - ask.held):
            free.take(ask.gpus)
    for priority in dict.fromkeys(ask.priority for ask in asks):
        waiting = [ask for ask in asks if ask.priority == priority and granted[ask.key] < ask.asked]
        while waiting:
            still = []
            for ask in waiting:
                if not free.take(ask.gpus):
                    continue
                granted[ask.key] += 1
                if granted[ask.key] < ask.asked:
                    still.append(ask)
            waiting = still


class _Free:
    """Free GPUs a node, ascending. The node with the most is taken from, as kube-scheduler spreads pods by default.

    A grant that counts on a tighter fit is fragmented away, and its pod waits; one that is too cautious follows a tick
    later, when the other pods have their nodes.
    """

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self._free = sorted(node.free_gpus for node in nodes if node.free_gpus > 0)

    def take(self, gpus: int) -> bool:
        """Take GPUs from the node with the most free; False when it has too few."""
        if not self._free or self._free[-1] < gpus:
            return False
        rest = self._free.pop() - gpus
        if rest:
            insort(self._free, rest)
        return True
