"""Whether a roll-out may start a new replica before it stops an old one."""

from collections.abc import Iterable

from modelfleet.decide.snapshot import Node

PLACED_WITHIN_SECONDS = 12.0
"""The scheduler tries a pod that found no node again after 1 s, then 2 s, up to 10 s, whatever is free by then."""


def may_surge(
    *,
    surges_now: bool | None,
    template_changes: bool,
    rolling_out: bool,
    waits_seconds: float,
    pods_refused: bool,
    gpus: int,
    nodes: Iterable[Node],
    quota_gpus: int | None,
) -> bool:
    """Return whether the Deployment's strategy should be surge 1 / unavailable 0, or the reverse.

    A surge pod that fits no node would wait for the GPUs of the pod that waits for it: a deadlock; so would
    one that a ResourceQuota refuses. So a new roll-out surges only where a place is free and the quota has
    room, and one that surges stops to when its new pod finds none. The place of a replica that still drains
    is one. A strategy that nothing calls in question stays as it is, so nothing is written.

    Args:
        surges_now: The live strategy; None before the Deployment exists.
        template_changes: Whether this apply starts a roll-out.
        rolling_out: Whether pods of an older template exist.
        waits_seconds: For how long the scheduler has found no node for a pod of the deployment, though no other drains
            on a node that can take it; 0 without one.
        pods_refused: Whether the API server refuses more pods of the deployment.
        gpus: GPUs of one replica.
        nodes: Nodes of its class, with their free GPUs.
        quota_gpus: What the namespace's ResourceQuota has room for; None without one.
    """
    if surges_now is None:
        return True
    if template_changes:
        return any(node.free_gpus >= gpus for node in nodes) and (quota_gpus is None or quota_gpus >= gpus)
    finds_none = waits_seconds > PLACED_WITHIN_SECONDS
    return surges_now and not (rolling_out and (finds_none or pods_refused))
