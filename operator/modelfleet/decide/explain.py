"""Step 9, explain: facts become words. Prose about a decision is written here and nowhere else."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Final, Literal

from modelfleet.api.conditions import Condition, ConditionType, Limit, Reason
from modelfleet.api.meta import DEPLOYMENT_LABEL
from modelfleet.api.modeldeployment import (
    DayPeakStatus,
    DecisionStatus,
    LearnedStatus,
    Mode,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    PastStatus,
    ScalingRules,
    SignalStatus,
    StepStatus,
)
from modelfleet.decide.admit import Admission, Uncounted
from modelfleet.decide.bounds import InForce
from modelfleet.decide.capacity import MIN_MEASURED_SECONDS, TARGET_UTILIZATION, CapacitySource
from modelfleet.decide.cycle import HOLD_OFF_SECONDS, scale_down_window_seconds
from modelfleet.decide.demand import Total
from modelfleet.decide.history import Memory, ScaleEvent
from modelfleet.decide.lookback import BUCKET_SECONDS
from modelfleet.decide.plan import Decision, Facts, Scale, Step, StepName
from modelfleet.decide.replicas import Measure
from modelfleet.decide.shares import Reclaim
from modelfleet.decide.snapshot import Missing, Observed, Tokens

Truth = Literal["True", "False", "Unknown"]
MOST: Final = 2**31 - 1
"""What a Count holds; an engine may report anything."""
MOST_LOAD: Final = 9_999_999.0
"""What a day's peak has room for, in replicas."""
RECENT: Final = 20
"""Changes that a status remembers: about 3 KB."""
DEMAND_SIGNAL: Final = "demandTokensPerSecond"
"""Generated tokens per second that the replicas are sized for; allowances are shared by it."""
MIX_SIGNAL: Final = "inputTokensPerOutputToken"
TARGET_SIGNAL: Final = "targetOutputTokensPerSecondPerReplica"
REPORTED_LIMITS: Final = frozenset(
    {
        Limit.MIN_REPLICAS,
        Limit.MAX_REPLICAS,
        Limit.SCHEDULE,
        Limit.SCALE_UP_RATE,
        Limit.SCALE_DOWN_RATE,
        Limit.TOKEN_ALLOWANCE,
        Limit.CAPACITY,
        Limit.TENANT_QUOTA,
        Limit.LENDING_LIMIT,
        Limit.RECLAIM,
        Limit.RECLAIMED,
        Limit.PREEMPTED,
    }
)
"""Limits that ScalingLimited names, as HPA's does; windows and modes are no limits but choices."""


LIMIT_FIELDS: Final = {
    Limit.MIN_REPLICAS: "spec.scaling.minReplicas",
    Limit.MAX_REPLICAS: "spec.scaling.maxReplicas",
    Limit.SCHEDULE: "spec.scaling.schedules",
    Limit.SCALE_UP_RATE: "spec.scaling.behavior.scaleUp.policies",
    Limit.SCALE_DOWN_RATE: "spec.scaling.behavior.scaleDown.policies",
    Limit.SCALE_UP_WINDOW: "spec.scaling.behavior.scaleUp.stabilizationWindowSeconds",
    Limit.SCALE_DOWN_WINDOW: "spec.scaling.behavior.scaleDown.stabilizationWindowSeconds",
    Limit.WARM_UP: "spec.scaling.behavior.scaleDown.stabilizationWindowSeconds",
    Limit.METRICS: "the engines' metrics",
    Limit.TOKEN_ALLOWANCE: "Tenant spec.tokensPerMinute",
    Limit.CAPACITY: "the nodes of the AcceleratorClass",
    Limit.TENANT_QUOTA: "Tenant spec.quotas",
    Limit.LENDING_LIMIT: "spec.quotas.lendingLimit of other Tenants",
    Limit.RECLAIM: "Tenants that give back",
    Limit.RECLAIMED: "Tenants that took their own back",
    Limit.PAUSED: "spec.scaling.mode",
    Limit.PAUSED_SCALE_IN: "spec.scaling.mode",
    Limit.PAUSED_SCALE_OUT: "spec.scaling.mode",
    Limit.RECOMMEND: "spec.scaling.mode",
    Limit.FOREIGN_AUTOSCALER: "the other autoscaler",
    Limit.INVALID: "the Ready condition",
}
"""Where each limit is said."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition without its times."""

    type: ConditionType
    status: Truth
    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """What must reach the status at once when it changes; the rest may wait.

    Attributes:
        blames: What keeps the operator's hands off by name: a name that is gone helps nobody.
    """

    generation: int
    desired: int
    replicas: int
    ready: int
    reason: str
    mode: str
    bounds: str
    truths: tuple[tuple[ConditionType, Truth, Reason], ...]
    blames: str


def headline(observed: Observed, decision: Decision) -> Headline:
    """Return the part of the explanation whose change is news."""
    verdicts = judge(observed, decision)
    total, ready = _counts(observed)
    return Headline(
        generation=observed.generation,
        desired=decision.desired,
        replicas=total,
        ready=ready,
        reason=_reason(observed, decision, verdicts),
        mode=mode_column(decision.in_force),
        bounds=bounds_column(decision.in_force),
        truths=tuple((verdict.type, verdict.status, verdict.reason) for verdict in verdicts),
        blames=observed.fault.message if observed.fault else observed.foreign_autoscaler,
    )


def judge(observed: Observed, decision: Decision) -> tuple[Verdict, ...]:
    """Return the conditions that the facts support, in a fixed order."""
    ready = _ready(observed, decision)
    verdicts = (ready, _scaling(observed, decision), _fresh(decision), _limited(observed, decision))
    if ready.status == "False" and ready.reason in _PERMANENT:
        return (*verdicts, Verdict(ConditionType.STALLED, "True", ready.reason, ready.message))
    return verdicts


_PERMANENT: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.RUNTIME_NOT_FOUND,
        Reason.RUNTIME_INVALID,
        Reason.ACCELERATOR_NOT_FOUND,
        Reason.ACCELERATOR_INVALID,
        Reason.TENANT_INVALID,
        Reason.INTERNAL_ERROR,
        Reason.GPUS_EXCEED_NODE,
        Reason.NAME_CONFLICT,
        Reason.START_TIMEOUT,
    }
)
"""Reasons that time alone does not mend: kstatus reports them as Failed."""


def status(
    observed: Observed,
    decision: Decision,
    memory: Memory,
    *,
    previous: ModelDeploymentStatus | None,
    now: float,
) -> ModelDeploymentStatus:
    """Write the whole status.

    Args:
        observed: What was seen.
        decision: What was decided.
        memory: What is remembered after it.
        previous: The status as it stands; transition times of unchanged conditions are kept.
        now: Seconds since the epoch.
    """
    verdicts = judge(observed, decision)
    total, ready = _counts(observed)
    at = datetime.fromtimestamp(int(now), UTC)
    measured = memory.load.measured
    known = measured.tokens_per_second is not None and measured.measured_seconds >= MIN_MEASURED_SECONDS
    reason = _reason(observed, decision, verdicts)
    change = next_change(decision, memory, now)
    return ModelDeploymentStatus(
        observed_generation=observed.generation,
        replicas=total,
        ready_replicas=ready,
        desired_replicas=decision.desired,
        wanted_replicas=decision.wanted,
        ready=f"{ready}/{total}",
        load=load_column(decision),
        limited_by=decision.limited_by.value,
        reason=reason,
        mode=mode_column(decision.in_force),
        bounds=bounds_column(decision.in_force),
        selector=f"{DEPLOYMENT_LABEL}={observed.key.name}",
        last_scale_time=_moment(memory.last_scaled_at) or (previous.last_scale_time if previous else None),
        output_tokens_per_second_per_replica=round(measured.tokens_per_second)
        if known and measured.tokens_per_second is not None
        else None,
        learned=_learned(decision, memory, now) or (previous.learned if previous else None),
        decision=DecisionStatus(
            decided_at=at,
            signals=_signals(decision, now),
            steps=tuple(
                StepStatus(
                    name=step.name.value,
                    replicas=step.replicas,
                    limited_by=step.limited_by.value or None,
                    detail=_clip(_detail(step, observed, decision), 256) or None,
                )
                for step in decision.steps
            ),
            unblock=_clip(unblock(observed, decision), 512),
            next_change_at=_moment(change[0]) if change is not None else None,
            next_change=_clip(change[1], 256) if change is not None else "",
        ),
        recent=_recent(previous, decision, reason, ready, at),
        conditions=tuple(
            condition(
                verdict.type.value,
                verdict.status,
                verdict.reason,
                verdict.message,
                generation=observed.generation,
                previous=previous.conditions if previous else (),
                at=at,
            )
            for verdict in verdicts
        ),
    )


def _recent(
    previous: ModelDeploymentStatus | None, decision: Decision, reason: str, ready: int, at: datetime
) -> tuple[PastStatus, ...]:
    """Remember this decision where desired or reason changed."""
    past = previous.recent if previous else ()
    if past and (past[-1].desired, past[-1].reason) == (decision.desired, reason):
        return past
    demand = decision.facts.demand if isinstance(decision.facts, Facts) else None
    queue = demand.queued_requests if demand is not None and demand.queued_requests.known else None
    tokens = demand.output_tokens_per_second if demand is not None and demand.output_tokens_per_second.known else None
    entry = PastStatus(
        at=at,
        queued_requests=min(round(queue.value), MOST) if queue is not None else None,
        output_tokens_per_second=min(round(tokens.value), MOST) if tokens is not None else None,
        wanted=decision.wanted,
        desired=decision.desired,
        ready=ready,
        limited_by=decision.limited_by.value,
        reason=reason,
    )
    return (*past, entry)[-RECENT:]


def mode_column(limits: InForce | None) -> str:
    """Return the MODE column: `Auto`, or `Paused until 14:05Z`."""
    if limits is None:
        return ""
    return f"{limits.mode.value}{_mode_ends(limits)}"


def _mode_ends(limits: InForce) -> str:
    return f" until {_clock(limits.mode_ends, limits)}" if isfinite(limits.mode_ends) else ""


def bounds_column(limits: InForce | None) -> str:
    """Return the BOUNDS column: `1-4`, or `5-20 (office-hours)`."""
    if limits is None:
        return ""
    names = ", ".join(dict.fromkeys(filter(None, (limits.min_of, limits.max_of))))
    return f"{limits.min_replicas}-{limits.max_replicas}" + (f" ({names})" if names else "")


def _clock(moment: float, limits: InForce) -> str:
    """Return a time of the day, and the day where it is another one than that on which the mode came into force."""
    then, day = datetime.fromtimestamp(moment, UTC), datetime.fromtimestamp(limits.since, UTC).date()
    return f"{then:%H:%MZ}" if then.date() == day else f"{then:%Y-%m-%d %H:%MZ}"


def next_change(decision: Decision, memory: Memory, now: float) -> tuple[float, str] | None:
    """Return the next moment at which time alone may change the outcome, and what happens then.

    Args:
        decision: What was decided.
        memory: What is remembered after it.
        now: Seconds since the epoch.
    """
    limits = decision.in_force
    if limits is None:
        return None
    moments = [
        change
        for change in (_damping_ends(decision, memory, limits, now), _gpus_return(decision, memory, now))
        if change
    ]
    if isfinite(limits.until):
        what = f"schedule {limits.then} begins or ends" if limits.then else f"mode {limits.mode.value} ends"
        moments.append((limits.until, what))
    return min((each for each in moments if each[0] > now), default=None)


def _damping_ends(decision: Decision, memory: Memory, limits: InForce, now: float) -> tuple[float, str] | None:
    up, down = limits.of.behavior.scale_up, limits.of.behavior.scale_down
    match decision.limited_by:
        case Limit.SCALE_DOWN_WINDOW if memory.windows.highest:
            oldest = memory.windows.highest[0]
            what = f"the call for {oldest.replicas} replicas leaves the scaleDown window"
            return oldest.at + scale_down_window_seconds(decision.facts, limits.of.behavior), what
        case Limit.SCALE_UP_WINDOW if memory.windows.lowest:
            oldest = memory.windows.lowest[0]
            what = f"the call for {oldest.replicas} replicas leaves the scaleUp window"
            return oldest.at + up.stabilization_window_seconds, what
        case Limit.WARM_UP:
            return memory.since + down.watch_seconds, "it has been watched for one scaleDown window"
        case Limit.SCALE_UP_RATE if up.enabled:
            return _rate_ends(memory.scale_events, up, "scaleUp", now)
        case Limit.SCALE_DOWN_RATE if down.enabled:
            return _rate_ends(memory.scale_events, down, "scaleDown", now)
        case _:
            return None


def _rate_ends(events: tuple[ScaleEvent, ...], rules: ScalingRules, name: str, now: float) -> tuple[float, str] | None:
    ends = [event.at + policy.period_seconds for event in events for policy in rules.policies]
    first = min((end for end in ends if end > now), default=None)
    return (first, f"a period of {name}.policies ends, and they permit more") if first is not None else None


def _gpus_return(decision: Decision, memory: Memory, now: float) -> tuple[float, str] | None:
    if decision.limited_by is Limit.RECLAIM and decision.waits:
        return now + min(wait.seconds for wait in decision.waits), "GPUs that are waited for are given back by then"
    if decision.limited_by is Limit.RECLAIMED and not decision.reclaims and memory.gave_back_at is not None:
        return memory.gave_back_at + HOLD_OFF_SECONDS, "GPUs may be borrowed again"
    return None


def load_column(decision: Decision) -> str:
    """Return the LOAD column: `queue 41/24 tok/s 9.1k`; what is unknown shows as `?`."""
    if isinstance(decision.facts, Missing):
        return "unknown"
    demand = decision.facts.demand
    output = demand.output_tokens_per_second
    tokens = compact(output.value) if output.known else "?"
    return (
        f"queue {demand.queued_requests.value:.0f}/{decision.facts.wanted.queue_tolerated * demand.ready}"
        f" tok/s {tokens}{'' if demand.complete else ' (partial)'}"
    )


def cause(decision: Decision) -> str:
    """Return the arithmetic that called for the wanted count, in one clause."""
    facts = decision.facts
    if isinstance(facts, Missing):
        return f"load unknown: {facts.why}"
    demand, wanted, capacity = facts.demand, facts.wanted, facts.capacity
    sign = ">" if wanted.replicas > decision.current else "<" if wanted.replicas < decision.current else "~"
    if wanted.measure is Measure.CAPACITY_UNKNOWN:
        return "what one replica sustains is unknown, and it is not idle"
    if wanted.measure is Measure.PARTIAL:
        return f"some signals are missing ({facts.missing or 'new pods have not reported yet'})"
    if wanted.measure is Measure.RUNNING and capacity.target_running_requests is not None:
        return (
            f"running {demand.running_requests.value:.0f} {sign} "
            f"{capacity.target_running_requests:.1f} per replica × {decision.current}"
        )
    if wanted.measure is Measure.FORECAST and wanted.planned is not None:
        return f"{_forecast(facts)} = {wanted.planned:.1f} {sign} {decision.current}"
    if wanted.measure is Measure.LATENCY and wanted.by_latency is not None:
        full = wanted.by_latency * TARGET_UTILIZATION
        return f"load {full:.1f} replicas (time between tokens) {sign} {TARGET_UTILIZATION:.0%} of {decision.current}"
    if wanted.measure in {Measure.QUEUE, Measure.QUEUE_HOLDS}:
        return f"queue {demand.queued_requests.value:.0f} {sign} {wanted.queue_tolerated} per replica × {demand.ready}"
    if capacity.target_tokens_per_second is None:
        return "idle"
    return (
        f"load {compact(facts.load.tokens_per_second)} tok/s {sign} "
        f"{compact(capacity.target_tokens_per_second)} per replica × {decision.current}"
    )


def scale_event(scale: Scale, decision: Decision) -> tuple[str, str]:
    """Return the event (reason, note) of a scale."""
    arrow = f"{scale.current}→{scale.replicas}"
    if scale.reverted_from:
        return "ReplicasReverted", (
            f"Scaled {arrow}: {scale.reverted_from} had set replicas to {scale.current}; the operator owns them. "
            "Set spec.scaling.mode to Paused to scale by hand"
        )
    limit = f"; limited by {decision.limited_by} (wanted {decision.wanted})" if decision.limited_by else ""
    reason = "ScaledUp" if scale.replicas > scale.current else "ScaledDown"
    return reason, f"Scaled {arrow}: {cause(decision)}{limit}"


def unblock(observed: Observed, decision: Decision) -> str:  # noqa: PLR0912 - one line a limit
    """Return what would let the wanted replicas exist; empty when nothing stands between."""
    spec = observed.spec
    if spec is None or observed.fault is not None:
        return observed.fault.message if observed.fault else "the spec must become valid"
    scaling, behavior = spec.scaling, spec.scaling.behavior
    match decision.limited_by:
        case Limit.SCHEDULE if decision.in_force is not None:
            return _outside_schedule(decision, decision.in_force)
        case Limit.MAX_REPLICAS:
            return f"raise spec.scaling.maxReplicas (now {scaling.max_replicas}) to {decision.wanted}"
        case Limit.MIN_REPLICAS:
            return (
                f"lower spec.scaling.minReplicas (now {scaling.min_replicas}) to {decision.wanted}"
                if decision.wanted
                else "load: nothing is running, and minReplicas keeps what there is"
            )
        case Limit.CAPACITY:
            short = max(decision.wanted, scaling.min_replicas) - decision.desired
            return (
                f"{spec.gpus_per_replica} free GPUs of class {spec.accelerator} on one node for each of "
                f"{short} more replicas: add nodes, or free GPUs"
            )
        case Limit.TENANT_QUOTA:
            return (
                f"a larger nominalQuota or borrowingLimit of class {spec.accelerator} in the Tenant: its limit has no "
                f"room for {spec.gpus_per_replica} more GPUs. Pods that no ModelDeployment owns count too"
            )
        case Limit.LENDING_LIMIT:
            return (
                f"idle GPUs of class {spec.accelerator} that its cohort lends, or a larger nominalQuota: what is idle "
                "is nominal of tenants whose lendingLimit or cohort keeps it"
            )
        case Limit.RECLAIM:
            return _returns(observed, decision)
        case Limit.RECLAIMED:
            return _given_back(decision, spec)
        case Limit.PREEMPTED:
            return (
                f"GPUs of class {spec.accelerator} that no deployment of a higher spec.priority (now {spec.priority}) "
                "wants; minReplicas is kept"
            )
        case Limit.SCALE_UP_RATE if not behavior.scale_up.enabled:
            return "set spec.scaling.behavior.scaleUp.enabled to true"
        case Limit.SCALE_UP_RATE:
            return "time: spec.scaling.behavior.scaleUp.policies permit no more now"
        case Limit.SCALE_DOWN_RATE if not behavior.scale_down.enabled:
            return "set spec.scaling.behavior.scaleDown.enabled to true"
        case Limit.SCALE_DOWN_RATE:
            return "time: spec.scaling.behavior.scaleDown.policies permit no more now"
        case Limit.SCALE_UP_WINDOW:
            return f"load that stays up for {behavior.scale_up.stabilization_window_seconds} s"
        case Limit.SCALE_DOWN_WINDOW:
            return f"load that stays down for {scale_down_window_seconds(decision.facts, behavior):.0f} s"
        case Limit.WARM_UP:
            return (
                f"{behavior.scale_down.watch_seconds} s of watching: the operator began to decide "
                "less than one scaleDown window ago"
            )
        case Limit.METRICS:
            return decision.facts.why if isinstance(decision.facts, Missing) else "complete metrics"
        case Limit.PAUSED | Limit.RECOMMEND | Limit.PAUSED_SCALE_IN | Limit.PAUSED_SCALE_OUT:
            ends = _mode_ends(decision.in_force) if decision.in_force is not None else ""
            return f"{f'time{ends}; or ' if ends else ''}set spec.scaling.mode to {Mode.AUTO.value}"
        case Limit.FOREIGN_AUTOSCALER:
            return f"delete the autoscaler {observed.foreign_autoscaler}, or set spec.scaling.mode to Paused"
        case Limit.TOKEN_ALLOWANCE:
            return _admissible(decision)
        case Limit.INVALID | Limit.NONE | Limit.SCHEDULE:
            return ""


def _outside_schedule(decision: Decision, limits: InForce) -> str:
    few = decision.desired < decision.wanted
    name, field = (limits.max_of, "maxReplicas") if few else (limits.min_of, "minReplicas")
    ends = f" at {_clock(limits.until, limits)}" if name and limits.then == name else ""
    return (
        f"the end of schedule {name}{ends}; or {'raise' if few else 'lower'} {field} of {name} in "
        f"spec.scaling.schedules to {decision.wanted}"
    )


def _admissible(decision: Decision) -> str:
    """Name the allowance that binds, or why what it counts is unknown."""
    admission = decision.admission
    if admission is None:
        return "a larger token allowance for the tenant"
    allowance = admission.allowance
    of_model = f".models[{allowance.model}]" if allowance.model else ""
    field = f"spec.tokensPerMinute{of_model}.{allowance.counts}"
    if isinstance(admission, Uncounted):
        return (
            f"known {'input' if allowance.counts is not Tokens.OUTPUT else 'output'} tokens, which {field} of the "
            f"Tenant counts: no replica is added until then ({admission.why})"
        )
    return (
        f"a larger {field} in the Tenant (now {60 * allowance.per_second:.0f} for all that share it): it admits "
        f"{60 * admission.admitted:.0f} of {60 * admission.demand:.0f} tokens a minute"
    )


def _returns(observed: Observed, decision: Decision) -> str:
    """Name who gives back what is waited for: `2 GPUs of h100: team-b returns them in ≤250 s`."""
    accelerator = observed.spec.accelerator if observed.spec is not None else ""
    named = [
        f"{wait.gpus} GPUs of {accelerator}: {wait.giver or 'a namespace without a tenant'} returns them in "
        f"≤{wait.seconds} s"
        for wait in decision.waits
    ]
    return "; ".join(named) or f"GPUs of {accelerator} on a node where pods are terminating"


def reclaim_note(reclaim: Reclaim) -> str:
    """Return the note of the event that tells a team what it gives back, and to whom."""
    if reclaim.preemptor is not None:
        return f"{reclaim.gpus} GPUs go to {reclaim.preemptor}, of a higher priority: {', '.join(reclaim.pods)} drain"
    if reclaim.taker == reclaim.tenant:
        why = f"Tenant {reclaim.tenant} has more than its limit" if reclaim.tenant else "no Tenant has this namespace"
        return f"{reclaim.gpus} GPUs are given up, for {why}: {', '.join(reclaim.pods)} drain"
    why = why_taken(of_its_own=reclaim.of_its_own)
    return f"{reclaim.gpus} borrowed GPUs go to {reclaim.taker}, which {why}: {', '.join(reclaim.pods)} drain"


def why_taken(*, of_its_own: bool) -> str:
    """Return what entitles a taker to what another had borrowed."""
    return "wants its own back" if of_its_own else "has less for its weight"


def _given_back(decision: Decision, spec: ModelDeploymentSpec) -> str:
    takers = sorted({reclaim.taker for reclaim in decision.reclaims})
    if not takers:
        return f"time: borrowed GPUs of class {spec.accelerator} were given back less than a minute ago"
    why = why_taken(of_its_own=all(reclaim.of_its_own for reclaim in decision.reclaims))
    return f"GPUs of class {spec.accelerator} that others leave idle: {', '.join(takers)} {why}"


def compact(value: float) -> str:
    """Return a count with two or three significant digits: 87, 940, 9.1k, 1.2M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 99.5 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"


def _counts(observed: Observed) -> tuple[int, int]:
    alive = [pod for pod in observed.pods if not pod.terminating]
    return len(alive), sum(1 for pod in alive if pod.ready_at is not None)


def _ready(observed: Observed, decision: Decision) -> Verdict:
    total, ready = _counts(observed)
    spec, child = observed.spec, observed.child

    def no(reason: Reason, message: str) -> Verdict:
        return Verdict(ConditionType.READY, "False", reason, _clip(message, 1024))

    if observed.fault is not None:
        return no(observed.fault.reason, observed.fault.message)
    if spec is None:
        return no(Reason.INVALID_SPEC, "the spec was not read yet")
    least = decision.in_force.min_replicas if decision.in_force is not None else spec.scaling.min_replicas
    enough = min(least, max(decision.desired, 1))
    troubled = next((pod for pod in observed.pods if pod.trouble and not pod.terminating), None)
    if ready >= enough and not (child is not None and child.rolling_out and child.progress_deadline_exceeded):
        note = f"; {troubled.name}: {troubled.trouble}" if troubled else ""
        return Verdict(
            ConditionType.READY,
            "True",
            Reason.AVAILABLE,
            _clip(f"{ready} of {total} replicas serve{note}", 1024),
        )
    if troubled is not None and troubled.finds_no_node:
        return no(
            Reason.UNSCHEDULABLE,
            f"{troubled.name} waits for a node with {spec.gpus_per_replica} free GPUs of class {spec.accelerator}: "
            f"{troubled.trouble}",
        )
    if child is not None and child.progress_deadline_exceeded:
        return no(
            Reason.START_TIMEOUT,
            f"no replica became ready within spec.startTimeoutSeconds ({spec.start_timeout_seconds} s)"
            + (f"; {troubled.name}: {troubled.trouble}" if troubled else "; read the engine's log"),
        )
    if troubled is not None:
        return no(Reason.POD_FAILED, f"{troubled.name}: {troubled.trouble}")
    if child is not None and child.rolling_out:
        return no(Reason.ROLLING_OUT, f"{ready} of {total} replicas serve; a new revision is being rolled out")
    return no(Reason.STARTING, f"{ready} of {enough} needed replicas serve; {total - ready} are starting")


def _scaling(observed: Observed, decision: Decision) -> Verdict:
    limits = {step.limited_by for step in decision.steps}

    def no(reason: Reason, message: str) -> Verdict:
        return Verdict(ConditionType.SCALING, "False", reason, message)

    if Limit.INVALID in limits:
        return no(Reason.INVALID_SPEC, "nothing is scaled until Ready names no fault")
    if Limit.FOREIGN_AUTOSCALER in limits:
        return no(
            Reason.FOREIGN_AUTOSCALER,
            f"{observed.foreign_autoscaler} scales the same replicas; the operator leaves them alone until it is "
            "deleted",
        )
    ends = _mode_ends(decision.in_force) if decision.in_force is not None else ""
    if Limit.PAUSED in limits:
        return no(Reason.PAUSED, f"spec.scaling.mode is Paused{ends}")
    if Limit.RECOMMEND in limits:
        return no(
            Reason.RECOMMENDING,
            f"spec.scaling.mode is Recommend{ends}: it would ask for {decision.granted} replicas",
        )
    if isinstance(decision.facts, Missing):
        return no(Reason.HELD, "replicas are held while the load is unknown; bounds still apply")
    one_way = _ONE_WAY.get(decision.in_force.mode) if decision.in_force is not None else None
    if one_way is not None:
        reason, may = one_way
        return Verdict(ConditionType.SCALING, "True", reason, f"spec.scaling.mode is {reason.value}{ends}: {may}")
    if not decision.facts.complete:
        return Verdict(
            ConditionType.SCALING,
            "True",
            Reason.HELD,
            "signals are partial: replicas may be added, none removed",
        )
    return Verdict(ConditionType.SCALING, "True", Reason.ABLE_TO_SCALE, "the load is known and replicas follow it")


_ONE_WAY: Final = {
    Mode.PAUSED_SCALE_IN: (Reason.PAUSED_SCALE_IN, "replicas may be added, none removed"),
    Mode.PAUSED_SCALE_OUT: (Reason.PAUSED_SCALE_OUT, "replicas may be removed, none added"),
}


def _fresh(decision: Decision) -> Verdict:
    facts = decision.facts
    missing = facts.why if isinstance(facts, Missing) else facts.missing
    if isinstance(facts, Missing) and not facts.fault:
        return Verdict(ConditionType.METRICS_FRESH, "Unknown", Reason.NO_READY_PODS, _clip(missing, 1024))
    if missing:
        return Verdict(ConditionType.METRICS_FRESH, "False", Reason.METRICS_MISSING, _clip(missing, 1024))
    return Verdict(ConditionType.METRICS_FRESH, "True", Reason.FRESH, "the ready pods report queue and throughput")


def _limited(observed: Observed, decision: Decision) -> Verdict:
    if decision.limited_by not in REPORTED_LIMITS:
        return Verdict(ConditionType.SCALING_LIMITED, "False", Reason.WITHIN_RANGE, "no limit binds")
    return Verdict(
        ConditionType.SCALING_LIMITED,
        "True",
        Reason.LIMITED,
        _clip(
            f"{decision.limited_by}: wanted {decision.wanted}, desired {decision.desired}; "
            f"to unblock: {unblock(observed, decision)}",
            1024,
        ),
    )


def _reason(observed: Observed, decision: Decision, verdicts: tuple[Verdict, ...]) -> str:
    """Return the one word that a tired reader needs first: what is broken, then what is odd, then the limit."""
    ready, scaling, fresh, limited = verdicts[:4]
    total, ready_count = _counts(observed)
    if ready.status == "False":
        return ready.reason
    if scaling.status == "False" and scaling.reason is not Reason.HELD:
        return scaling.reason
    if fresh.status == "False":
        return fresh.reason
    floor = decision.limited_by is Limit.SCHEDULE and decision.desired >= decision.wanted
    if limited.status == "True" and decision.limited_by is not Limit.MIN_REPLICAS and not floor:
        return Reason.WAITING_FOR_QUOTA if decision.limited_by is Limit.TENANT_QUOTA else decision.limited_by.value
    if observed.child is not None and observed.child.rolling_out:
        return Reason.ROLLING_OUT
    return Reason.STARTING if ready_count < total else Reason.AVAILABLE


def _detail(step: Step, observed: Observed, decision: Decision) -> str:
    spec, facts = observed.spec, decision.facts
    if spec is None:
        return ""
    match step.name:
        case StepName.REPLICAS if isinstance(facts, Facts):
            return _arithmetic(facts)
        case StepName.REPLICAS if isinstance(facts, Missing):
            return f"held at {decision.current}: {facts.why}"
        case StepName.BOUNDS if decision.in_force is not None:
            limits = decision.in_force
            least, most = (f" of schedule {name}" if name else "" for name in (limits.min_of, limits.max_of))
            return f"minReplicas {limits.min_replicas}{least}, maxReplicas {limits.max_replicas}{most}"
        case StepName.ADMIT if decision.admission is not None:
            return _admission(decision.admission)
        case StepName.ALLOCATE if decision.reclaims:
            return "; ".join(
                f"{reclaim.gpus} GPUs to {reclaim.preemptor or reclaim.taker}: {', '.join(reclaim.pods)}"
                for reclaim in decision.reclaims
            )
        case StepName.ALLOCATE if decision.waits:
            return _returns(observed, decision)
        case StepName.MODE:
            return unblock_mode(step.limited_by, observed, decision)
        case _:
            return ""


def _admission(admission: Admission | Uncounted) -> str:
    allowance = admission.allowance
    name = f"{allowance.counts} tokens" + (f" of {allowance.model}" if allowance.model else "")
    if isinstance(admission, Uncounted):
        return f"{name}: demand unknown, allowance {allowance.per_second:.0f} tok/s, none added: {admission.why}"
    return (
        f"{name}: demand {admission.demand:.0f} tok/s, allowance {allowance.per_second:.0f}, "
        f"admitted {admission.admitted:.0f}"
    )


def unblock_mode(limit: Limit, observed: Observed, decision: Decision) -> str:
    """Return why the operator keeps its hands off the replicas."""
    if limit is Limit.FOREIGN_AUTOSCALER:
        return f"{observed.foreign_autoscaler} scales the same replicas"
    return f"spec.scaling.mode {mode_column(decision.in_force)}"


def _arithmetic(facts: Facts) -> str:
    load, wanted, capacity = facts.load, facts.wanted, facts.capacity
    parts = []
    if capacity.target_tokens_per_second and wanted.by_tokens is not None:
        parts.append(
            f"tokens ({load.served:.0f} served {load.growth:+.0f} queue growth + {load.backlog:.0f} backlog)"
            f" / {capacity.target_tokens_per_second:.0f} = {wanted.by_tokens:.2f}"
        )
    elif wanted.by_latency is None:
        parts.append("tokens: capacity unknown")
    if wanted.by_latency is not None:
        full = wanted.by_latency * TARGET_UTILIZATION
        parts.append(f"time between tokens {full:.2f} / {TARGET_UTILIZATION:.1f} = {wanted.by_latency:.2f}")
    if capacity.target_running_requests is not None and wanted.by_running is not None:
        running, asking = facts.demand.running_requests.value, facts.need.asking
        text = (
            f"running ({running:.0f} {asking - running:+.0f} queue growth)"
            if asking > running
            else f"running {running:.0f}"
        )
        parts.append(_share(text, asking, capacity.target_running_requests, wanted.by_running))
    queued = facts.demand.queued_requests.value
    parts.append(_share(f"queue {queued:.0f}", queued, wanted.queue_tolerated, wanted.by_queue))
    tolerance = "; within tolerance" if wanted.within_tolerance else ""
    if wanted.planned is not None:
        planned = f"{_forecast(facts)} = {wanted.planned:.2f}"
        return f"max({planned}, {parts[-1]}){tolerance}; now {', '.join(parts[:-1])}"
    return f"max({', '.join(parts)}){tolerance}"


def _forecast(facts: Facts) -> str:
    """Return the forecast that decides and its margin: `load 5.2 (peak of 330 s, averaged over 30 s) × 1.25`."""
    forecast, start = facts.lookback.forecast, facts.capacity.start_seconds
    span = "a day" if forecast.peak_starts is None else f"{max(BUCKET_SECONDS, forecast.peak_starts * start):.0f} s"
    average = f"{forecast.averaged_buckets * BUCKET_SECONDS:.0f} s"
    of = "a week or a day ago, peak" if forecast.basis == "season" else forecast.basis
    load, margin, most = facts.lookback.load, facts.lookback.margin, facts.lookback.most
    bound = f", at most {most:.1f}" if margin * load > most else ""
    return f"load {load:.1f} ({of} of {span}, averaged over {average}) × {margin:g}{bound}"


def _share(text: str, value: float, per_replica: float, count: float) -> str:
    capped = value / per_replica > count
    return f"{text} / {per_replica:.1f}".removesuffix(".0") + (
        f", capped at {count:.0f}" if capped else f" = {count:.2f}"
    )


def _signals(decision: Decision, now: float) -> tuple[SignalStatus, ...]:
    facts = decision.facts
    if isinstance(facts, Missing):
        return (SignalStatus(name="queuedRequests", missing=_clip(facts.why, 256)),)
    demand, capacity = facts.demand, facts.capacity
    target = capacity.target_tokens_per_second
    return (
        _signal("queuedRequests", demand.queued_requests, now),
        _signal("runningRequests", demand.running_requests, now),
        _signal("outputTokensPerSecond", demand.output_tokens_per_second, now),
        _signal("inputTokensPerSecond", demand.input_tokens_per_second, now),
        *_admissible_demand(facts),
        *_pace(facts),
        SignalStatus(name="startSeconds", value=f"{capacity.start_seconds:.0f}"),
        SignalStatus(name=TARGET_SIGNAL, value=f"{target:.0f}")
        if target is not None
        else SignalStatus(
            name=TARGET_SIGNAL,
            missing="no target in the spec, no prior in the runtime, no saturation seen yet",
        ),
        SignalStatus(name="targetSource", value=_source(facts)),
    )


def _source(facts: Facts) -> str:
    """Return where the target is from, and whether the time between tokens decides in its place."""
    source = facts.capacity.source
    unused = facts.need.by_latency is not None and source is not CapacitySource.SPEC
    return f"{_SOURCES[source]}, not used" if unused else _SOURCES[source]


def _admissible_demand(facts: Facts) -> tuple[SignalStatus, ...]:
    demand = SignalStatus(name=DEMAND_SIGNAL, value=f"{max(0.0, facts.load.tokens_per_second):.1f}")
    mixed = facts.input_per_output
    return (demand,) if isinstance(mixed, Missing) else (demand, SignalStatus(name=MIX_SIGNAL, value=f"{mixed:.4g}"))


def _learned(decision: Decision, memory: Memory, now: float) -> LearnedStatus | None:
    if isinstance(decision.facts, Missing) or decision.facts.pace is None or not decision.facts.pace.known:
        return None
    if decision.in_force is None:
        return None
    kept = memory.load.lookback.kept(decision.in_force.latency_weight, now=now)
    return LearnedStatus(
        idle_inter_token_microseconds=round(decision.facts.pace.constant_seconds * 1e6),
        forecast=kept.forecast,
        margin_percent=kept.margin_percent,
        late_steepness_tenths=kept.steepness_tenths,
        forecast_costs=dict(kept.costs),
        day_peaks={
            name: DayPeakStatus(load=f"{min(load, MOST_LOAD):.2f}", at=datetime.fromtimestamp(int(at), UTC))
            for name, (load, at) in kept.day_peaks.items()
        },
        week_slot=kept.week_slot,
        week_levels=kept.week_levels,
    )


def _pace(facts: Facts) -> tuple[SignalStatus, ...]:
    pace, full = facts.pace, facts.need.full_replicas
    if pace is None or full is None:
        return ()
    load = SignalStatus(name="loadInReplicas", value=f"{full:.2f}")
    if not pace.known:
        return (load,)
    return (
        load,
        SignalStatus(name="idleInterTokenMilliseconds", value=f"{pace.constant_seconds * 1000:.1f}"),
        SignalStatus(name="shareOfReplicaFor99PercentInTime", value=f"{facts.lookback.lateness.share_in_time:.2f}"),
    )


_SOURCES: Final = {
    CapacitySource.SPEC: "spec",
    CapacitySource.MEASURED: "measured",
    CapacitySource.PRIOR: "runtime prior",
    CapacitySource.UNKNOWN: "unknown",
}


def _signal(name: str, total: Total, now: float) -> SignalStatus:
    if total.known == 0:
        return SignalStatus(name=name, missing=_clip(total.missing, 256))
    return SignalStatus(
        name=name,
        value=f"{total.value:.1f}".removesuffix(".0"),
        age_seconds=max(0, round(now - total.sampled_at)),
        missing=_clip(total.missing, 256) or None,
    )


def condition(
    kind: str,
    status: Truth,
    reason: Reason,
    message: str,
    *,
    generation: int,
    previous: Iterable[Condition],
    at: datetime,
) -> Condition:
    """Return a condition with its times: those of `previous` where its status is the same, else `at`."""
    before = next((old for old in previous if old.type == kind), None)
    return Condition(
        type=kind,
        status=status,
        reason=reason.value,
        message=message,
        last_transition_time=before.last_transition_time if before is not None and before.status == status else at,
        observed_generation=generation,
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC)


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
