"""What is asked of step 8.

A replica is indivisible: eight free GPUs on eight nodes are no place for an 8-GPU replica. What minReplicas asks for is
asked for whatever is free (its pods wait in Pending, where people and cluster autoscalers look); replicas above that
only when they fit.
"""

from modelfleet.api.meta import Key
from modelfleet.decide.value import value


@value
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


@value
class Ask:
    """What one deployment asks of one accelerator class.

    Attributes:
        gpus: GPUs of one replica, on one node.
        held: Replicas that hold GPUs already: pods that a node runs and that are neither terminating nor told to go.
        assured: Replicas asked for before, and minReplicas. Within nominal they are granted whatever is free.
        asked: Replicas after the steps before.
        tenant: Name of the tenant that owns its namespace; empty for none.
        replicas: Those that hold GPUs, in the order in which they go; empty when they may not be taken.
        may_borrow: Whether it may have what others leave idle.
        grace_seconds: Longest time from telling a replica to go until its GPUs are free.
        min_replicas: Fewest that a higher priority of its tenant leaves it.
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
    min_replicas: int = 0
