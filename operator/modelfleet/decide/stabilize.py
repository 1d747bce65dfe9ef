"""Step 5, stabilize: windows and rates, as HorizontalPodAutoscaler's `behavior` defines them.

The windows are kept as monotone sequences: a recommendation that a later one dominates can never be
the window's extreme again, so a steady load keeps one entry instead of one a tick.
"""

from math import ceil, floor
from typing import Final

from modelfleet.api.conditions import Limit
from modelfleet.api.modeldeployment import Behavior, ScalingPolicy
from modelfleet.decide.bounds import NO_LIMIT
from modelfleet.decide.history import Recommendation, ScaleEvent

LEAST_WINDOW_SECONDS: Final = 60.0
"""Where pods start within seconds: the longest average that a forecast takes."""


def scale_down_window_seconds(behavior: Behavior, *, forecast_decides: bool, start_seconds: float) -> float:
    """Return the length of the scale-down window: the spec's, or what a forecast that holds peaks itself needs.

    That is one start, and a minute at least: what was asked for is not taken back before it could serve.

    Args:
        behavior: The deployment's.
        forecast_decides: Whether the lookback says how many replicas there should be.
        start_seconds: From a pod's creation to ready.
    """
    if behavior.scale_down.stabilization_window_seconds is None and forecast_decides:
        return max(LEAST_WINDOW_SECONDS, start_seconds)
    return behavior.scale_down.watch_seconds


def remember(
    window: tuple[Recommendation, ...], wanted: int, *, now: float, seconds: float, keep_highest: bool
) -> tuple[Recommendation, ...]:
    """Add a recommendation to a window and drop what is too old or dominated.

    Args:
        window: Oldest first; decreasing counts when `keep_highest`, increasing otherwise.
        wanted: The raw recommendation.
        now: Seconds since the epoch.
        seconds: Length of the window.
        keep_highest: Whether the window's maximum or its minimum is asked for.
    """
    since = now - seconds
    if keep_highest:
        kept = [past for past in window if past.replicas > wanted and past.at >= since]
    else:
        kept = [past for past in window if past.replicas < wanted and past.at >= since]
    return (*kept, Recommendation(now, wanted))


def stabilize(
    wanted: int,
    *,
    current: int,
    highest: tuple[Recommendation, ...],
    lowest: tuple[Recommendation, ...],
    events: tuple[ScaleEvent, ...],
    behavior: Behavior,
    deciding_since: float,
    now: float,
) -> tuple[int, Limit]:
    """Damp a recommendation.

    Args:
        wanted: What the load calls for.
        current: Replicas asked for.
        highest: The scale-down window, this recommendation included.
        lowest: The scale-up window, this recommendation included.
        events: Changes asked for, oldest first.
        behavior: The deployment's windows and rates.
        deciding_since: When this process began to decide about this deployment. Its windows are empty
            before, so it does not shrink until it has watched for one.
        now: Seconds since the epoch.

    Returns:
        The damped count and what bound it.

    Source:
        HorizontalPodAutoscaler: stabilization takes the extreme of the window that changes least;
        a rate counts from the replicas at its period's start.
    """
    if wanted > current:
        if not behavior.scale_up.enabled:
            return current, Limit.SCALE_UP_RATE
        floor_count = max(current, min([past.replicas for past in lowest]))
        limit = _up_limit(current, events, behavior.scale_up.policies, now)
        if min(floor_count, limit) == wanted:
            return wanted, NO_LIMIT
        return (floor_count, Limit.SCALE_UP_WINDOW) if floor_count <= limit else (limit, Limit.SCALE_UP_RATE)
    if wanted < current:
        if not behavior.scale_down.enabled:
            return current, Limit.SCALE_DOWN_RATE
        if now - deciding_since < behavior.scale_down.watch_seconds:
            return current, Limit.WARM_UP
        ceiling = min(current, max([past.replicas for past in highest]))
        limit = _down_limit(current, events, behavior.scale_down.policies, now)
        if max(ceiling, limit) == wanted:
            return wanted, NO_LIMIT
        return (ceiling, Limit.SCALE_DOWN_WINDOW) if ceiling >= limit else (limit, Limit.SCALE_DOWN_RATE)
    return wanted, NO_LIMIT


def remember_events(
    events: tuple[ScaleEvent, ...], change: int, *, behavior: Behavior, now: float
) -> tuple[ScaleEvent, ...]:
    """Add a change (0 adds nothing) and drop what no policy's period reaches any more."""
    if not events and not change:
        return events
    policies = (*behavior.scale_up.policies, *behavior.scale_down.policies)
    longest = max(policy.period_seconds for policy in policies)
    kept = tuple(event for event in events if event.at > now - longest)
    return (*kept, ScaleEvent(now, change)) if change else kept


def _up_limit(current: int, events: tuple[ScaleEvent, ...], policies: tuple[ScalingPolicy, ...], now: float) -> int:
    return max([current, *[_raised(policy, _period_start(current, events, policy, now)) for policy in policies]])


def _down_limit(current: int, events: tuple[ScaleEvent, ...], policies: tuple[ScalingPolicy, ...], now: float) -> int:
    return min([current, *[_lowered(policy, _period_start(current, events, policy, now)) for policy in policies]])


def _period_start(current: int, events: tuple[ScaleEvent, ...], policy: ScalingPolicy, now: float) -> int:
    since = now - policy.period_seconds
    return current - sum([event.change for event in events if event.at > since])


def _raised(policy: ScalingPolicy, start: int) -> int:
    # ceil: 100 % of 1 is one more, and 10 % of 3 must still move.
    return start + policy.value if policy.type == "Pods" else ceil(start * (1 + policy.value / 100))


def _lowered(policy: ScalingPolicy, start: int) -> int:
    return max(0, start - policy.value if policy.type == "Pods" else floor(start * (1 - policy.value / 100)))
