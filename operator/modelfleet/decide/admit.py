"""Step 7, admit: a token allowance caps the load that may buy replicas."""

from math import ceil

from modelfleet.api.conditions import Limit


def admit(
    count: int,
    *,
    allowance_tokens_per_second: float | None,
    target_tokens_per_second: float | None,
    floor: int,
) -> tuple[int, Limit]:
    """Return at most the replicas that the allowed load needs.

    Args:
        count: Replicas after bounds.
        allowance_tokens_per_second: Generated tokens/s that may buy replicas; None means no cap.
        target_tokens_per_second: What one replica should carry; None when unknown, and then tokens
            cannot be turned into replicas and the cap does not apply.
        floor: minReplicas: replicas that are bought by the spec, not by load.
    """
    if allowance_tokens_per_second is None or target_tokens_per_second is None:
        return count, Limit.NONE
    allowed = max(floor, ceil(allowance_tokens_per_second / target_tokens_per_second))
    return (allowed, Limit.TOKEN_ALLOWANCE) if allowed < count else (count, Limit.NONE)
