"""Step 6, bounds: minimum, maximum, schedules, mode; after everything that damps, before everything that grants."""

from datetime import UTC, datetime, timedelta
from math import inf
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim

from modelfleet.api.conditions import Limit
from modelfleet.api.modeldeployment import Mode, Scaling, Schedule
from modelfleet.decide.value import value

NO_LIMIT: Final = Limit.NONE
"""At hand: a member of an enumeration takes as long to look up as a decision may for one of its steps."""
_HANDS_OFF: Final = {Mode.PAUSED: Limit.PAUSED, Mode.RECOMMEND: Limit.RECOMMEND}


@value
class InForce:
    """What the spec says of one deployment's replicas from a moment on, until any of it may change.

    Decisions read it here: pydantic's models take many times as long to be asked.

    Attributes:
        of: The scaling that says so.
        since: From when, in seconds since the epoch.
        until: Until when; infinite when nothing is scheduled.
        then: Name of the schedule that begins or ends then; empty when the mode does, or nothing.
        min_of: Name of the schedule whose minReplicas it is; empty for the deployment's own.
        max_of: Name of the schedule whose maxReplicas it is, likewise.
        mode_ends: When the mode ends by itself; infinite when never.
        hands_off: Why by its mode the count may not be written; Limit.NONE where it may.
        may_grow: Whether the mode lets it.
        may_shrink: Likewise.
        inter_token_seconds: Longest mean time between tokens that is wanted.
        queued_requests: Waiting requests that are tolerated per ready replica.
        output_tokens_per_second: What one replica should carry; None where that is learned.
        latency_weight: Replica-seconds that one replica-second of missed load is worth.
        tolerance: Distance from the target, as a fraction, that changes nothing.
    """

    of: Scaling
    since: float
    until: float
    then: str
    min_replicas: int
    max_replicas: int
    min_of: str
    max_of: str
    mode: Mode
    mode_ends: float
    hands_off: Limit
    may_grow: bool
    may_shrink: bool
    inter_token_seconds: float
    queued_requests: int
    output_tokens_per_second: int | None
    latency_weight: int
    tolerance: float


def in_force(scaling: Scaling, now: float, before: InForce | None = None) -> InForce:
    """Return what holds at a moment.

    Args:
        scaling: What the team asks for.
        now: Seconds since the epoch.
        before: The last answer: it is the answer again for as long as it holds.
    """
    if before is not None and before.of is scaling and before.since <= now < before.until:
        return before
    ends = inf
    if scaling.mode_until is not None and scaling.mode is not Mode.AUTO:
        ends = datetime.fromisoformat(scaling.mode_until).timestamp()
    mode = scaling.mode if now < ends else Mode.AUTO
    mode_ends = ends if now < ends else inf
    until, then = mode_ends, ""
    least: tuple[int, str] | None = None
    most: tuple[int, str] | None = None
    for schedule in scaling.schedules:
        holds, edge = _holds(schedule, now)
        if edge < until:
            until, then = edge, schedule.name
        if holds and schedule.min_replicas is not None and (least is None or schedule.min_replicas > least[0]):
            least = schedule.min_replicas, schedule.name
        if holds and schedule.max_replicas is not None and (most is None or schedule.max_replicas < most[0]):
            most = schedule.max_replicas, schedule.name
    max_replicas, max_of = most or (scaling.max_replicas, "")
    min_replicas, min_of = least or (scaling.min_replicas, "")
    if min_replicas > max_replicas:
        min_replicas, min_of = max_replicas, max_of
    targets = scaling.targets
    return InForce(
        of=scaling,
        since=now,
        until=until,
        then=then,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        min_of=min_of,
        max_of=max_of,
        mode=mode,
        mode_ends=mode_ends,
        hands_off=_HANDS_OFF.get(mode, NO_LIMIT),
        may_grow=mode is not Mode.PAUSED_SCALE_OUT,
        may_shrink=mode is not Mode.PAUSED_SCALE_IN,
        inter_token_seconds=targets.inter_token_milliseconds / 1000,
        queued_requests=targets.queued_requests,
        output_tokens_per_second=targets.output_tokens_per_second,
        latency_weight=scaling.latency_weight,
        tolerance=scaling.behavior.tolerance_percent / 100,
    )


def _holds(schedule: Schedule, now: float) -> tuple[bool, float]:
    """Return whether a schedule holds, and when that changes next.

    It holds when its last start was after its last end. KEDA asks whether the next end comes before the next start,
    which is the same only where the two take turns.
    """
    local = datetime.fromtimestamp(int(now), UTC).astimezone(ZoneInfo(schedule.time_zone))
    # The search excludes where it begins, and a start at this very second counts.
    began, ended = (
        next(CronSim(cron, local + timedelta(seconds=1), reverse=True)).timestamp()
        for cron in (schedule.start, schedule.end)
    )
    holds = began > ended
    return holds, next(CronSim(schedule.end if holds else schedule.start, local)).timestamp()


def bounds(count: int, limits: InForce) -> tuple[int, Limit]:
    """Clamp a count into what is in force and say which end bound it."""
    if count < limits.min_replicas:
        return limits.min_replicas, Limit.SCHEDULE if limits.min_of else Limit.MIN_REPLICAS
    if count > limits.max_replicas:
        return limits.max_replicas, Limit.SCHEDULE if limits.max_of else Limit.MAX_REPLICAS
    return count, NO_LIMIT


def one_way(count: int, current: int, limits: InForce) -> tuple[int, Limit]:
    """Keep a count from moving in the direction that is paused."""
    if count < current and not limits.may_shrink:
        return current, Limit.PAUSED_SCALE_IN
    if count > current and not limits.may_grow:
        return current, Limit.PAUSED_SCALE_OUT
    return count, NO_LIMIT
