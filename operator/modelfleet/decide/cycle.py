"""The composition of the nine steps. Nothing else composes them.

`decide` looks at each deployment by itself through step 7, grants GPUs to all of them together in
step 8, and closes each decision with what its mode permits. Step 9, the explanation, is read from
the decision when somebody has to be told (explain.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import Behavior, ModelDeploymentSpec, longest_grace_seconds
from modelfleet.decide import stabilize as damping
from modelfleet.decide.admit import Admission, Load, Uncounted, admit, share_allowances
from modelfleet.decide.allocate import Ask, Replica
from modelfleet.decide.bounds import NO_LIMIT, InForce, bounds, in_force, one_way
from modelfleet.decide.capacity import (
    AVERAGING_SECONDS,
    START_SAMPLES,
    Capacity,
    capacity,
    measure,
    settled,
)
from modelfleet.decide.demand import Demand, demand
from modelfleet.decide.forecast import (
    MIN_GROWTH_SPAN_SECONDS,
    forecast,
    growth,
    learn_token_mix,
    learn_tokens_per_request,
    remember_queue,
)
from modelfleet.decide.history import LoadMemory, Measured, Memory, Windows
from modelfleet.decide.lookback import NO_PAST, TOLD_SECONDS, Lookback, Moment, look_back
from modelfleet.decide.pace import NO_PACE, Pace, learn_pace, load_in_replicas, sample
from modelfleet.decide.plan import Decision, Facts, Plan, Scale, Step, StepName
from modelfleet.decide.replicas import MOST_REPLICAS, need, replicas
from modelfleet.decide.shares import Allocation, Leaving, Reclaim, share_out
from modelfleet.decide.snapshot import Missing, Observed, Pod, Signal, Snapshot, Tenant
from modelfleet.decide.value import value

_REPLICAS: Final = StepName.REPLICAS
_STABILIZE: Final = StepName.STABILIZE
_BOUNDS: Final = StepName.BOUNDS
_ADMIT: Final = StepName.ADMIT
_ALLOCATE: Final = StepName.ALLOCATE
_MODE: Final = StepName.MODE

HOLD_OFF_SECONDS: Final = 60.0
"""After what it had borrowed has drained, a tenant borrows nothing of that class for so long: a lender whose load comes
and goes costs its borrowers one drain a minute at most. What gave a place to a higher priority does not grow for as
long, nor before its pods are gone: it would take the place that it gives."""
ASSUMED: Final = Missing("its demand is given, not seen", fault=False)


def decide(snapshot: Snapshot, history: Mapping[Key, Memory]) -> Plan:
    """Decide the replicas of the whole fleet.

    Args:
        snapshot: What was seen, once, for everybody.
        history: What earlier decisions left; empty after a restart, and then nothing shrinks until
            one scale-down window has filled.

    Returns:
        A decision for every deployment in the snapshot, the writes they ask for, and the history for
        the next call. The same arguments give the same plan, in whatever order deployments are listed.
    """
    drafts = [_draft(observed, history.get(observed.key), snapshot) for observed in snapshot.deployments]
    tenants = {namespace: tenant for tenant in snapshot.tenants for namespace in tenant.namespaces}
    drafts = [_go_one_way(draft) for draft in _admit_to_tenants(drafts, snapshot, tenants)]
    allocation = _grant(drafts, snapshot, tenants)
    reclaimed = _by_key(allocation.reclaims)
    closed = [_close(draft, allocation, reclaimed.get(draft.observed.key, ()), snapshot.taken_at) for draft in drafts]
    scales = [scale for _, scale, _ in closed if scale is not None]
    return Plan(
        decisions={decision.key: decision for decision, _, _ in closed},
        scales=tuple(sorted(scales, key=lambda scale: (scale.replicas > scale.current, scale.key))),
        history={decision.key: memory for decision, _, memory in closed},
    )


@value
class _Draft:
    """A deployment's decision before GPUs are granted.

    Attributes:
        spec: None where it cannot be decided by.
        hands_off: Why the count may not be written; Limit.NONE where it may.
        memory: As it was, but for what concerns neither load nor count.
        load: What it is to be of the load.
        windows: What it is to be of recommendations.
    """

    observed: Observed
    spec: ModelDeploymentSpec | None
    hands_off: Limit
    memory: Memory
    load: LoadMemory
    windows: Windows
    current: int
    wanted: int
    asked: int
    steps: tuple[Step, ...]
    facts: Facts | Missing
    in_force: InForce | None = None
    admission: Admission | Uncounted | None = None


def _draft(observed: Observed, remembered: Memory | None, snapshot: Snapshot) -> _Draft:
    now = snapshot.taken_at
    if remembered is None or remembered.uid != observed.uid:
        remembered = _first_memory(observed, now)
    memory = _note_starts(remembered, observed.pods)
    spec = observed.spec
    limits = in_force(spec.scaling, now, memory.in_force) if spec is not None else None
    if limits is not memory.in_force:
        memory = replace(memory, in_force=limits)
    current = _current(observed, memory, limits)
    if spec is None or limits is None or observed.fault is not None:
        why = observed.fault.message if observed.fault else "the spec was not read yet"
        return _Draft(
            observed,
            None,
            Limit.INVALID,
            memory,
            memory.load,
            memory.windows,
            current,
            wanted=current,
            asked=current,
            steps=(Step(_REPLICAS, current, Limit.INVALID),),
            facts=Missing(why, fault=False),
            in_force=limits,
        )
    facts: Facts | Missing
    if observed.assumed is not None:
        facts, wanted = ASSUMED, observed.assumed.replicas
        load = memory.load
        windows, damped, limit = _damp(memory, spec, facts, wanted, current, now)
        steps: tuple[Step, ...] = (Step(_REPLICAS, wanted), Step(_STABILIZE, damped, limit))
    elif isinstance(seen := demand(observed.pods, now=now, max_age_seconds=snapshot.metrics_max_age_seconds), Missing):
        load, windows, damped, steps = _hold(memory, spec, current, now)
        facts, wanted = seen, current
    else:
        load, facts = _recommend(
            seen, observed, limits, memory, current, now, max_age_seconds=snapshot.metrics_max_age_seconds
        )
        wanted = facts.wanted.replicas
        windows, damped, limit = _damp(memory, spec, facts, wanted, current, now)
        steps = (Step(_REPLICAS, wanted), Step(_STABILIZE, damped, limit))
    bounded, bound = bounds(damped, limits)
    steps = (*steps, Step(_BOUNDS, bounded, bound), Step(_ADMIT, bounded))
    hands_off = _hands_off(observed, limits)
    return _Draft(observed, spec, hands_off, memory, load, windows, current, wanted, bounded, steps, facts, limits)


def _hold(
    memory: Memory, spec: ModelDeploymentSpec, current: int, now: float
) -> tuple[LoadMemory, Windows, int, tuple[Step, ...]]:
    """Keep the count while the load is unknown, and let the time count as a call for that count."""
    highest = damping.remember(
        memory.windows.highest,
        current,
        now=now,
        seconds=spec.scaling.behavior.scale_down.watch_seconds,
        keep_highest=True,
    )
    steps = (Step(_REPLICAS, current, Limit.METRICS), Step(_STABILIZE, current))
    load = replace(memory.load, queue=(), measured=replace(memory.load.measured, saturated_since=None))
    return load, replace(memory.windows, highest=highest), current, steps


def _recommend(
    seen: Demand,
    observed: Observed,
    limits: InForce,
    memory: Memory,
    current: int,
    now: float,
    *,
    max_age_seconds: float,
) -> tuple[LoadMemory, Facts]:
    """Run steps 2 to 4 on a load that is known."""
    known = memory.load
    elapsed_seconds = now - memory.last_decided_at if memory.last_decided_at is not None else 0.0
    measured = measure(
        known.measured,
        seen,
        observed.pods,
        rate_window_seconds=observed.rate_window_seconds,
        now=now,
        elapsed_seconds=elapsed_seconds,
    )
    finished = seen.finished_requests_per_second
    limit_seconds, target = limits.inter_token_seconds, limits.output_tokens_per_second
    queue_tolerated = known.pace.queue_tolerated(limits.queued_requests, limit_seconds)
    samples = sample(
        observed.pods,
        limit_seconds=limit_seconds,
        queue_tolerated=queue_tolerated,
        now=now,
        max_age_seconds=max_age_seconds,
    )
    pace = learn_pace(
        known.pace,
        samples,
        finished_per_second=finished.value if finished.known == seen.ready else 0.0,
        running_requests=seen.running_requests.value if seen.complete else known.pace.running,
        limit_seconds=limit_seconds,
        now=now,
    )
    queue = remember_queue(known.queue, seen, now=now)
    tokens_per_request = learn_tokens_per_request(known.tokens_per_request, seen)
    token_mix = learn_token_mix(known.token_mix, seen, elapsed_seconds=elapsed_seconds)
    supply: Capacity = capacity(
        spec_target=target,
        measured=measured,
        prior_tokens_per_second=observed.prior_output_tokens_per_second,
        start_seconds=memory.start_seconds,
    )
    requests = growth(queue)
    load = forecast(
        seen,
        queue_growth_per_second=requests.queued,
        tokens_per_request=tokens_per_request,
        queue_tolerated=float(limits.queued_requests * seen.ready),
        start_seconds=supply.start_seconds,
    )
    filled = load_in_replicas(
        pace,
        samples,
        growth(queue, since=now - max(observed.rate_window_seconds, MIN_GROWTH_SPAN_SECONDS)),
        limit_seconds=limit_seconds,
        ready=seen.ready,
        cold=known.lookback.replicas is None,
    )
    needed = need(
        seen,
        load,
        supply,
        load_in_replicas=None if filled is None else filled.replicas,
        queue_growth_per_second=requests.queued,
    )
    lookback = known.lookback
    # Without the pace, throughput that was bounded by the replicas of its time would pass for the load of its time;
    # and a load that rests on a guess would be remembered for a day.
    full = needed.full_replicas if filled is not None and filled.known else None
    complete = seen.complete and (filled is None or not filled.missing)
    if full is not None and complete:
        lookback = look_back(
            lookback,
            Moment(
                min(full, MOST_REPLICAS),
                samples.tokens_per_second,
                samples.late_tokens_per_second,
                seen.ready,
                settled(observed.pods, now=now, seconds=TOLD_SECONDS),
            ),
            now=now,
            elapsed_seconds=elapsed_seconds,
            start_seconds=supply.start_seconds,
            latency_weight=limits.latency_weight,
            min_replicas=limits.min_replicas,
        )
    # Who sets the target of a replica has chosen the margin too.
    planned = lookback.replicas if full is not None and target is None else None
    wanted = replicas(
        seen,
        needed,
        complete=complete,
        planned=planned,
        current=current,
        # Before forecasts pay for what they miss, a queue is all that tells of it.
        queue_tolerated=queue_tolerated
        if planned is not None and lookback.charged(supply.start_seconds)
        else limits.queued_requests,
        queue_falls=requests.queued < 0,
        tolerance=limits.tolerance,
    )
    learned = LoadMemory(queue, measured, pace, lookback, tokens_per_request, token_mix)
    return learned, Facts(seen, complete, supply, load, filled, needed, lookback, wanted, token_mix)


def _damp(
    memory: Memory, spec: ModelDeploymentSpec, facts: Facts | Missing, wanted: int, current: int, now: float
) -> tuple[Windows, int, Limit]:
    """Add what is wanted to the two windows, and keep to them and to the rates."""
    behavior = spec.scaling.behavior
    highest = damping.remember(
        memory.windows.highest,
        wanted,
        now=now,
        seconds=scale_down_window_seconds(facts, behavior),
        keep_highest=True,
    )
    lowest = damping.remember(
        memory.windows.lowest,
        wanted,
        now=now,
        seconds=behavior.scale_up.stabilization_window_seconds,
        keep_highest=False,
    )
    damped, limit = damping.stabilize(
        wanted,
        current=current,
        highest=highest,
        lowest=lowest,
        events=memory.scale_events,
        behavior=behavior,
        deciding_since=memory.since,
        now=now,
    )
    return Windows(highest, lowest), damped, limit


def scale_down_window_seconds(facts: Facts | Missing, behavior: Behavior) -> float:
    """Return the length of the scale-down window in a decision."""
    if isinstance(facts, Missing):
        return behavior.scale_down.watch_seconds
    return damping.scale_down_window_seconds(
        behavior, forecast_decides=facts.wanted.planned is not None, start_seconds=facts.capacity.start_seconds
    )


def _go_one_way(draft: _Draft) -> _Draft:
    """Pause one direction, before GPUs are granted: what may not grow leaves them to others."""
    if draft.spec is None or draft.in_force is None or draft.observed.foreign_autoscaler:
        return draft
    count, limit = one_way(draft.asked, draft.current, draft.in_force)
    if not limit:
        return draft
    return replace(draft, asked=count, steps=(*draft.steps, Step(_MODE, count, limit)))


def _admit_to_tenants(drafts: list[_Draft], snapshot: Snapshot, tenants: Mapping[str, Tenant]) -> list[_Draft]:
    """Share each tenant's token allowances among its deployments; a load that is unknown takes no part."""
    if not any(tenant.allowances for tenant in snapshot.tenants):
        return drafts
    loads: dict[str, dict[Key, Load]] = {}
    for draft in drafts:
        tenant = tenants.get(draft.observed.key.namespace)
        if tenant is not None and tenant.allowances and (load := _load(draft)) is not None:
            loads.setdefault(tenant.name, {})[draft.observed.key] = load
    admissions: dict[Key, Admission] = {}
    uncounted: dict[Key, Uncounted] = {}
    for tenant in snapshot.tenants:
        if tenant.name in loads:
            bound, unknown = share_allowances(loads[tenant.name], tenant.allowances)
            admissions |= bound
            uncounted |= unknown
    return [
        _admit_less(_admit_less(draft, admissions.get(draft.observed.key)), uncounted.get(draft.observed.key))
        for draft in drafts
    ]


def _load(draft: _Draft) -> Load | None:
    """Return the load that allowances are shared by; None where it is unknown."""
    if draft.spec is None:
        return None
    assumed, facts = draft.observed.assumed, draft.facts
    if assumed is not None:
        output = assumed.output_tokens_per_second
        return None if output is None else Load(draft.spec.model.name, output, assumed.input_per_output)
    if isinstance(facts, Missing):
        return None
    return Load(draft.spec.model.name, max(0.0, facts.load.tokens_per_second), facts.input_per_output)


def _target(draft: _Draft) -> float | None:
    """Return what one replica should carry, in generated tokens per second; None where it is unknown."""
    if draft.observed.assumed is not None:
        return draft.observed.assumed.target_tokens_per_second
    return draft.facts.capacity.target_tokens_per_second if isinstance(draft.facts, Facts) else None


def _admit_less(draft: _Draft, admission: Admission | Uncounted | None) -> _Draft:
    if admission is None:
        return draft
    assert draft.in_force is not None  # noqa: S101 - only these were shared among
    admitted, cap = admit(
        draft.asked,
        allowance_tokens_per_second=admission.admitted_output if isinstance(admission, Admission) else None,
        target_tokens_per_second=_target(draft),
        floor=draft.in_force.min_replicas,
        current=draft.current,
    )
    if draft.admission is not None and not cap:
        return draft
    step = Step(StepName.ADMIT, admitted, cap or draft.steps[-1].limited_by)
    return replace(draft, asked=admitted, steps=(*draft.steps[:-1], step), admission=admission)


def _grant(drafts: list[_Draft], snapshot: Snapshot, tenants: Mapping[str, Tenant]) -> Allocation:
    """Share the GPUs; to those that are not scaled, tell what they would get if they all were."""
    now = snapshot.taken_at
    resting = set()
    for draft in drafts:
        at, spec = draft.memory.gave_back_at, draft.observed.spec
        if at is not None and spec is not None and now - at < HOLD_OFF_SECONDS:
            resting.add((_tenant_of(draft, tenants), spec.accelerator))
    # In one pool nobody gives where nobody grows, and nobody takes where all are equals.
    open_classes = None if snapshot.tenants else _growing_classes(drafts, now)
    asks, leaving = [], []
    for draft in drafts:
        spec = draft.observed.spec
        if spec is not None and (open_classes is None or spec.accelerator in open_classes):
            tenant, asked = _tenant_of(draft, tenants), _asked(draft, now)
            # In one pool growth takes over pods that are there. Under a quota it may not count on it: those that were
            # told to go a moment ago go, and hold their GPUs beside the new ones.
            surplus = _surplus(draft, draft.current if snapshot.tenants or draft.hands_off else asked)
            ask = _ask(
                draft,
                spec,
                tenant,
                surplus,
                asked,
                may_borrow=(tenant, spec.accelerator) not in resting,
                may_give=open_classes is None or len(open_classes[spec.accelerator]) > 1,
            )
            asks.append(ask)
            leaving += _leaving(draft, ask, surplus)

    def share(asks: list[Ask]) -> Allocation:
        return share_out(
            asks, snapshot.nodes, snapshot.tenants, leaving=leaving, unbound_may_borrow=snapshot.unbound_may_borrow
        )

    stays = {draft.observed.key: draft for draft in drafts if draft.hands_off}
    real = share([_as_it_stays(ask, stays[ask.key]) if ask.key in stays else ask for ask in asks])
    if snapshot.tenants:
        real = _down_before_up(real, drafts, asks)
    yielding = [draft.observed.key for draft in drafts if _yields(draft, now)]
    if yielding:
        real = replace(real, limits={**dict.fromkeys(yielding, Limit.PREEMPTED), **real.limits})
    if not stays:
        return real
    gives = {reclaim.key for reclaim in real.reclaims}
    would = share(asks)
    return replace(
        real,
        granted={key: would.granted[key] if key in stays.keys() - gives else real.granted[key] for key in real.granted},
        limits={
            key: limit
            for key in real.granted
            if (limit := (would if key in stays.keys() - gives else real).limits.get(key)) is not None
        },
    )


def _growing_classes(drafts: list[_Draft], now: float) -> dict[str, set[int]]:
    """Return the accelerator classes in which somebody wants GPUs that it does not hold, with all their priorities."""
    priorities: dict[str, set[int]] = {}
    growing: set[str] = set()
    for draft in drafts:
        observed = draft.observed
        spec = observed.spec
        if spec is None:
            continue
        accelerator, priority = spec.accelerator, spec.priority
        if accelerator in priorities:
            priorities[accelerator].add(priority)
        else:
            priorities[accelerator] = {priority}
        if accelerator not in growing:
            held = len([pod for pod in observed.pods if pod.node and not pod.terminating])
            if draft.asked > held or _yields(draft, now):
                growing.add(accelerator)
    return {accelerator: priorities[accelerator] for accelerator in growing}


def _down_before_up(allocation: Allocation, drafts: list[_Draft], asks: list[Ask]) -> Allocation:
    """Let no deployment of a tenant grow while another gives up pods that wait for a node: they may still get one."""
    waiting = {
        draft.observed.key: sum(1 for pod in draft.observed.pods if not pod.node and not pod.terminating)
        for draft in drafts
    }
    granted = allocation.granted
    down = {
        ask.tenant
        for ask in asks
        if ask.tenant and waiting[ask.key] and granted[ask.key] < min(ask.held + waiting[ask.key], ask.assured)
    }
    if not down:
        return allocation
    current = {draft.observed.key: draft.current for draft in drafts}
    later = {ask.key for ask in asks if ask.tenant in down and granted[ask.key] > current[ask.key]}
    return replace(
        allocation,
        granted={key: current[key] if key in later else count for key, count in granted.items()},
        limits={**dict.fromkeys(later, Limit.TENANT_QUOTA), **allocation.limits},
    )


def _tenant_of(draft: _Draft, tenants: Mapping[str, Tenant]) -> str:
    tenant = tenants.get(draft.observed.key.namespace)
    return tenant.name if tenant is not None else ""


def _as_it_stays(ask: Ask, draft: _Draft) -> Ask:
    """Ask for what exists. A team's mode keeps it from its own priorities, and not what is borrowed; what another
    autoscaler scales would be put back."""
    return replace(
        ask,
        assured=draft.current,
        asked=draft.current,
        min_replicas=ask.held,
        replicas=() if draft.observed.foreign_autoscaler else ask.replicas,
    )


def _asked(draft: _Draft, now: float) -> int:
    """Return what it asks for: one that grows while it is told to shrink would be told to shrink by less."""
    if not draft.memory.leaving and draft.memory.yielded_at is None:
        return draft.asked
    alive = [pod for pod in draft.observed.pods if not pod.terminating]
    told = len(alive) > draft.current and any(pod.name in draft.memory.leaving for pod in alive)
    return min(draft.asked, draft.current) if told or _yields(draft, now) else draft.asked


def _surplus(draft: _Draft, asked: int) -> tuple[Pod, ...]:
    """Return the pods beyond what was asked for and is: told to go and not terminating yet, or of a roll-out."""
    most = max(draft.current, asked)
    if len(draft.observed.pods) <= most:
        return ()
    alive = [pod for pod in draft.observed.pods if not pod.terminating]
    beyond = len(alive) - most
    if beyond <= 0:
        return ()
    going = [pod for pod in _in_order_of_going(alive) if pod.name not in draft.memory.leaving]
    return (*(pod for pod in alive if pod.name in draft.memory.leaving), *going)[:beyond]


def _yields(draft: _Draft, now: float) -> bool:
    """Return whether it gives places to a higher priority: until its pods are gone, and for a while."""
    at = draft.memory.yielded_at
    if at is None:
        return False
    return now - at < HOLD_OFF_SECONDS or any(pod.terminating for pod in draft.observed.pods)


def _ask(
    draft: _Draft,
    spec: ModelDeploymentSpec,
    tenant: str,
    surplus: tuple[Pod, ...],
    asked: int,
    *,
    may_borrow: bool,
    may_give: bool,
) -> Ask:
    stay = [pod for pod in draft.observed.pods if pod.node and not pod.terminating and pod not in surplus]
    return Ask(
        key=draft.observed.key,
        accelerator=spec.accelerator,
        gpus=spec.gpus_per_replica,
        priority=spec.priority,
        held=len(stay),
        assured=_assured(draft),
        asked=asked,
        tenant=tenant,
        replicas=tuple(
            Replica(pod.name, pod.node, pod.ready_at is not None, _in_flight(pod)) for pod in _in_order_of_going(stay)
        )
        if may_give
        else (),
        may_borrow=may_borrow,
        # What may not shrink, or is not known to be idle, gives nothing to a priority.
        min_replicas=draft.in_force.min_replicas if draft.in_force and _may_shrink(draft) else len(stay),
        grace_seconds=longest_grace_seconds(spec.drain_seconds),
    )


def _may_shrink(draft: _Draft) -> bool:
    if draft.in_force is None or not draft.in_force.may_shrink:
        return False
    if draft.observed.assumed is not None:
        return True
    return not isinstance(draft.facts, Missing) and draft.facts.complete


def _leaving(draft: _Draft, ask: Ask, surplus: tuple[Pod, ...]) -> list[Leaving]:
    child = draft.observed.child
    rolling_out = child is not None and child.rolling_out
    if not surplus and not [pod for pod in draft.observed.pods if pod.terminating]:
        return []
    return [
        Leaving(
            ask.key,
            ask.tenant,
            ask.accelerator,
            pod.node,
            ask.gpus,
            ask.grace_seconds,
            # A roll-out's pod goes when the roll-out ends, and nobody knows when that is.
            told=not pod.terminating and (pod.name in draft.memory.leaving or not rolling_out),
        )
        for pod in draft.observed.pods
        if (pod.terminating and pod.node) or pod in surplus
    ]


def _by_key(reclaims: tuple[Reclaim, ...]) -> dict[Key, tuple[Reclaim, ...]]:
    found: dict[Key, tuple[Reclaim, ...]] = {}
    for reclaim in reclaims:
        found[reclaim.key] = (*found.get(reclaim.key, ()), reclaim)
    return found


def _assured(draft: _Draft) -> int:
    """Return the replicas that it has a right to before anybody's growth: what it has, and its minimum."""
    if draft.spec is None or draft.in_force is None:
        return draft.current
    return max(draft.current, min(draft.in_force.min_replicas, draft.asked))


def _close(
    draft: _Draft, allocation: Allocation, reclaims: tuple[Reclaim, ...], now: float
) -> tuple[Decision, Scale | None, Memory]:
    """Apply the grant and the mode, and turn a difference into a write."""
    observed, memory = draft.observed, draft.memory
    key, current, wanted = observed.key, draft.current, draft.wanted
    count = allocation.granted.get(key, draft.asked)
    limit = allocation.limits.get(key, Limit.CAPACITY) if count < draft.asked else NO_LIMIT
    steps = (*draft.steps, Step(_ALLOCATE, count, limit))
    # What others have a right to goes whatever the mode.
    hands_off = NO_LIMIT if reclaims else draft.hands_off
    desired = current if hands_off else count
    if hands_off:
        steps = (*steps, Step(_MODE, desired, hands_off))
    decision = Decision(
        key,
        current,
        wanted,
        desired,
        count,
        _binding(wanted, desired, steps, draft.in_force if draft.spec is not None else None),
        steps,
        draft.facts,
        draft.admission,
        allocation.waits.get(key, ()),
        reclaims,
        draft.in_force,
    )
    told = tuple(pod for reclaim in reclaims for pod in reclaim.pods) if reclaims else ()
    if told or memory.leaving:
        memory = _note_leaving(memory, observed, reclaims, now)
    gave_back_at = memory.gave_back_at
    if (
        gave_back_at is not None
        and now - gave_back_at < HOLD_OFF_SECONDS
        and any(pod.terminating and pod.node for pod in observed.pods)
    ):
        # Until it drained nobody has it, and who gave it would be the first to borrow it again.
        memory = replace(memory, gave_back_at=now)
    change = desired - current
    memory = Memory(
        uid=memory.uid,
        since=memory.since,
        desired=desired,
        windows=draft.windows,
        scale_events=damping.remember_events(memory.scale_events, change, behavior=draft.spec.scaling.behavior, now=now)
        if draft.spec is not None
        else memory.scale_events,
        load=draft.load,
        start_seconds=memory.start_seconds,
        ready_pods=memory.ready_pods,
        last_decided_at=now,
        last_scaled_at=now if change else memory.last_scaled_at,
        leaving=memory.leaving,
        gave_back_at=memory.gave_back_at,
        yielded_at=memory.yielded_at,
        in_force=memory.in_force,
    )
    child = observed.child
    if child is None or hands_off or child.replicas == desired:
        return decision, None, memory
    return (
        decision,
        Scale(
            key=key,
            child_uid=child.uid,
            current=child.replicas,
            replicas=desired,
            victims=_idlest(observed.pods, child.replicas - desired, first=told),
            # Somebody else's count that equals what was asked for needs no putting back.
            reverted_from=child.scaled_by_other if child.replicas != current else "",
        ),
        memory,
    )


def _hands_off(observed: Observed, limits: InForce) -> Limit:
    """Return why the count may not be written, or Limit.NONE."""
    if observed.foreign_autoscaler:
        return Limit.FOREIGN_AUTOSCALER
    return limits.hands_off


def _binding(wanted: int, desired: int, steps: tuple[Step, ...], limits: InForce | None) -> Limit:
    """Return what keeps desired from wanted: the bound it stands at, else the last limit that moved it.

    Below minReplicas, which a quota alone can keep it, that is what people ask about, whatever the load calls for.
    """
    hands_off = steps[-1].name is _MODE
    if limits is not None and not hands_off and desired < limits.min_replicas and steps[-1].limited_by:
        return steps[-1].limited_by
    if desired == wanted:
        return NO_LIMIT
    if limits is not None and not hands_off:
        if desired > wanted and desired == limits.min_replicas:
            return Limit.SCHEDULE if limits.min_of else Limit.MIN_REPLICAS
        if desired < wanted and desired == limits.max_replicas:
            return Limit.SCHEDULE if limits.max_of else Limit.MAX_REPLICAS
    before = wanted
    binding = NO_LIMIT
    for step in steps:
        if step.limited_by and (step.replicas < before if desired < wanted else step.replicas > before):
            binding = step.limited_by
        before = step.replicas
    return binding


def _first_memory(observed: Observed, now: float) -> Memory:
    known = observed.measured_output_tokens_per_second
    # What an earlier process measured counts as seen long enough.
    measured = Measured(tokens_per_second=known, measured_seconds=AVERAGING_SECONDS) if known else Measured()
    learned = observed.learned
    return Memory(
        uid=observed.uid,
        since=now,
        load=LoadMemory(
            measured=measured,
            pace=Pace.resumed(learned.idle_inter_token_seconds) if learned else NO_PACE,
            lookback=Lookback.resumed(learned.lookback, now=now) if learned else NO_PAST,
        ),
    )


def _current(observed: Observed, memory: Memory, limits: InForce | None) -> int:
    """Return the count this decision starts from.

    Where the operator keeps its hands off, what exists is the truth; else its own last word is, and a
    hand edit is a difference to put back. After a restart the Deployment speaks for the last word,
    unless somebody else owns the field: then the status does.
    """
    child = observed.child
    floor = limits.min_replicas if limits is not None else 0
    auto = limits is not None and not limits.hands_off
    if child is not None and (not auto or observed.fault is not None or observed.foreign_autoscaler):
        return child.replicas
    if memory.desired is not None and memory.last_decided_at is not None:
        return memory.desired
    if child is not None and not child.scaled_by_other:
        return child.replicas
    if observed.recorded_desired:
        return observed.recorded_desired
    return child.replicas if child is not None else floor


def _note_starts(memory: Memory, pods: tuple[Pod, ...]) -> Memory:
    """Remember how long each pod took from created to ready, once a pod."""
    if memory.ready_pods == {pod.uid for pod in pods if pod.ready_at is not None}:
        return memory
    ready = {pod.uid: pod for pod in pods if pod.ready_at is not None}
    new = sorted(
        (pod.ready_at, pod.uid, pod.ready_at - pod.created_at)
        for uid, pod in ready.items()
        if uid not in memory.ready_pods and pod.ready_at is not None and pod.ready_at >= pod.created_at
    )
    # A pod that is gone may go from the set; one that lost readiness stays, for its start is counted.
    alive = memory.ready_pods & {pod.uid for pod in pods}
    return replace(
        memory,
        start_seconds=(*memory.start_seconds, *(seconds for _, _, seconds in new))[-START_SAMPLES:],
        ready_pods=alive.union(ready),
    )


def _note_leaving(memory: Memory, observed: Observed, reclaims: tuple[Reclaim, ...], now: float) -> Memory:
    alive = {pod.name for pod in observed.pods if not pod.terminating}
    told = [pod for reclaim in reclaims for pod in reclaim.pods]
    return replace(
        memory,
        leaving=tuple(name for name in dict.fromkeys((*memory.leaving, *told)) if name in alive),
        gave_back_at=now if any(each.taker != each.tenant for each in reclaims) else memory.gave_back_at,
        yielded_at=now if any(each.preemptor for each in reclaims) else memory.yielded_at,
    )


def _idlest(pods: tuple[Pod, ...], count: int, *, first: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the names of the pods to give up: those told to go, then in the order of going."""
    if count <= 0:
        return ()
    names = (*first, *(pod.name for pod in _in_order_of_going(pods) if pod.name not in first))
    return names[:count]


def _in_order_of_going(pods: Iterable[Pod]) -> list[Pod]:
    """Return the pods that do not terminate: not scheduled, not ready, then the least busy, newest first."""
    return sorted(
        (pod for pod in pods if not pod.terminating),
        key=lambda pod: (
            bool(pod.node),
            pod.ready_at is not None,
            _in_flight(pod),
            -pod.created_at,
            pod.name,
        ),
    )


def _in_flight(pod: Pod) -> float:
    readings = (pod.signals.queued_requests, pod.signals.running_requests)
    # A pod whose load is unknown counts as the busiest: it may be serving.
    return sum(reading.value if isinstance(reading, Signal) else float("inf") for reading in readings)
