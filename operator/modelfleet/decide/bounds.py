"""Step 6, bounds: minimum and maximum, after everything that damps and before everything that grants."""

from modelfleet.api.conditions import Limit


def bounds(count: int, *, min_replicas: int, max_replicas: int) -> tuple[int, Limit]:
    """Clamp a count into [min_replicas, max_replicas] and say which end bound it."""
    if count < min_replicas:
        return min_replicas, Limit.MIN_REPLICAS
    if count > max_replicas:
        return max_replicas, Limit.MAX_REPLICAS
    return count, Limit.NONE
