"""Step 9: every fact has a word, every word fits the status, and the arithmetic is the decision's own."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from modelfleet.api.conditions import Condition, ConditionType, Limit, Reason
from modelfleet.api.modeldeployment import Mode, ModelDeploymentStatus, Schedule
from modelfleet.decide.cycle import decide
from modelfleet.decide.explain import (
    cause,
    compact,
    headline,
    judge,
    load_column,
    scale_event,
    status,
    unblock,
)
from modelfleet.decide.history import Memory, QueueSample, Recommendation
from modelfleet.decide.plan import Decision, Plan, Step, StepName
from modelfleet.decide.replicas import Measure
from modelfleet.decide.snapshot import Allowance, Fault, Observed, Tokens
from tests.builders import (
    NOW,
    UNDAMPED,
    DeploymentBuilder,
    PodBuilder,
    behavior,
    deployment,
    fleet,
    measured,
    nodes,
    pods,
    ready,
    starting,
    tenant,
    watched,
)


@dataclass(frozen=True)
class Told:
    """One decision and everything an explanation is made from."""

    observed: Observed
    decision: Decision
    memory: Memory
    plan: Plan

    def status(self, previous: ModelDeploymentStatus | None = None, now: float = NOW) -> ModelDeploymentStatus:
        """Return the status that is written."""
        return status(self.observed, self.decision, self.memory, previous=previous, now=now)

    def condition(self, kind: ConditionType) -> Condition:
        """Return one condition of it."""
        return next(one for one in self.status().conditions if one.type == kind.value)


def _tell(made: DeploymentBuilder, memory: Memory | None = None, **world: Any) -> Told:
    snapshot = fleet(made, **world)
    plan = decide(snapshot, {made.key: watched(made) if memory is None else memory})
    return Told(snapshot.deployments[0], plan.decisions[made.key], plan.history[made.key], plan)


def _tell_with(made: DeploymentBuilder, other: DeploymentBuilder, **world: Any) -> Told:
    """Decide about a deployment beside another team's."""
    snapshot = fleet(made, other, **world)
    plan = decide(snapshot, {one.key: watched(one) for one in (made, other)})
    return Told(snapshot.deployments[0], plan.decisions[made.key], plan.history[made.key], plan)


FREE = deployment().behavior(UNDAMPED)
BUSY = ready("a").queue(41).running(9).tokens(900).finished(3)
THREE = (
    ready("a").queue(14).running(9).tokens(3000),
    ready("b").queue(14).running(9).tokens(3000),
    ready("c").queue(13).running(9).tokens(3100),
)

# --- words for everything -----------------------------------------------------------------------

AFTERNOON = Schedule(name="afternoon", start="0 13 * * *", end="30 15 * * *", max_replicas=5)
"""NOW is 13:46:40 UTC, a Monday."""

LIMITS: dict[Limit, Told] = {
    Limit.NONE: _tell(FREE.pods(ready().running(5).tokens(95))),
    Limit.MIN_REPLICAS: _tell(FREE.bounds(3, 8).pods(*pods(3), ready("d").running(1).tokens(10))),
    Limit.MAX_REPLICAS: _tell(FREE.pods(BUSY)),
    Limit.SCALE_UP_RATE: _tell(deployment().bounds(1, 30).pods(BUSY)),
    Limit.SCALE_DOWN_RATE: _tell(deployment().pods(*pods(8))),
    Limit.SCALE_UP_WINDOW: _tell(
        FREE.behavior(behavior(up_window=60)).pods(BUSY),
        watched(FREE.pods(BUSY), lowest=(Recommendation(NOW - 5, 1),)),
    ),
    Limit.SCALE_DOWN_WINDOW: _tell(
        deployment().pods(*pods(8)), watched(deployment().pods(*pods(8)), highest=(Recommendation(NOW - 5, 8),))
    ),
    Limit.WARM_UP: _tell(deployment().pods(*pods(8)), watched(deployment().pods(*pods(8)), seconds=5)),
    Limit.TOKEN_ALLOWANCE: _tell(
        FREE.pods(BUSY), tenants=(tenant("team-a", 64, allowances=(Allowance(Tokens.OUTPUT, 200.0),)),)
    ),
    Limit.CAPACITY: _tell(FREE.pods(BUSY), gpus={"h100": nodes(1)}),
    Limit.PAUSED: _tell(FREE.mode(Mode.PAUSED).pods(BUSY)),
    Limit.RECOMMEND: _tell(FREE.mode(Mode.RECOMMEND).pods(BUSY)),
    Limit.PAUSED_SCALE_IN: _tell(
        FREE.mode(Mode.PAUSED_SCALE_IN, until=datetime.fromtimestamp(NOW + 600, UTC)).pods(*pods(8))
    ),
    Limit.PAUSED_SCALE_OUT: _tell(FREE.mode(Mode.PAUSED_SCALE_OUT).pods(BUSY)),
    Limit.SCHEDULE: _tell(FREE.schedules(AFTERNOON).pods(BUSY)),
    Limit.FOREIGN_AUTOSCALER: _tell(FREE.pods(BUSY).having(foreign_autoscaler="HorizontalPodAutoscaler team-a/hpa")),
    Limit.TENANT_QUOTA: _tell(FREE.pods(BUSY), tenants=(tenant("team-a", 1, borrowing=1, used=1),)),
    Limit.LENDING_LIMIT: _tell(
        FREE.pods(BUSY),
        gpus={"h100": nodes(7)},
        tenants=(tenant("team-a", 1, used=1), tenant("team-b", 7, lending=2)),
    ),
    Limit.RECLAIM: _tell_with(
        FREE.pods(BUSY),
        deployment("qwen", "team-b").behavior(UNDAMPED).pods(*(one.tokens(100).running(1) for one in pods(7))),
        gpus={"h100": nodes(0)},
        tenants=(tenant("team-a", 4, used=1), tenant("team-b", 4, used=7)),
    ),
    Limit.RECLAIMED: _tell_with(
        FREE.pods(*(one.tokens(100).running(1) for one in pods(7))),
        deployment("qwen", "team-b").behavior(UNDAMPED).pods(BUSY),
        gpus={"h100": nodes(0)},
        tenants=(tenant("team-a", 4, used=7), tenant("team-b", 4, used=1)),
    ),
}
"""A decision that each limit binds. METRICS and INVALID hold the count that is wanted then, and so bind none."""

UNBLOCK = {
    Limit.NONE: "",
    Limit.MIN_REPLICAS: "lower spec.scaling.minReplicas (now 3) to 1",
    Limit.MAX_REPLICAS: "raise spec.scaling.maxReplicas (now 8) to 10",
    Limit.SCALE_UP_RATE: "time: spec.scaling.behavior.scaleUp.policies permit no more now",
    Limit.SCALE_DOWN_RATE: "time: spec.scaling.behavior.scaleDown.policies permit no more now",
    Limit.SCALE_UP_WINDOW: "load that stays up for 60 s",
    Limit.SCALE_DOWN_WINDOW: "load that stays down for 300 s",
    Limit.WARM_UP: "300 s of watching: the operator began to decide less than one scaleDown window ago",
    Limit.TOKEN_ALLOWANCE: (
        "a larger spec.tokensPerMinute.output in the Tenant (now 12000 for all that share it): "
        "it admits 12000 of 58950 tokens a minute"
    ),
    Limit.CAPACITY: "1 free GPUs of class h100 on one node for each of 8 more replicas: add nodes, or free GPUs",
    Limit.PAUSED: "set spec.scaling.mode to Auto",
    Limit.RECOMMEND: "set spec.scaling.mode to Auto",
    Limit.PAUSED_SCALE_IN: "time until 13:56Z; or set spec.scaling.mode to Auto",
    Limit.PAUSED_SCALE_OUT: "set spec.scaling.mode to Auto",
    Limit.SCHEDULE: (
        "the end of schedule afternoon at 15:30Z; or raise maxReplicas of afternoon in spec.scaling.schedules to 10"
    ),
    Limit.FOREIGN_AUTOSCALER: (
        "delete the autoscaler HorizontalPodAutoscaler team-a/hpa, or set spec.scaling.mode to Paused"
    ),
    Limit.TENANT_QUOTA: (
        "a larger nominalQuota or borrowingLimit of class h100 in the Tenant: its limit has no room for 1 more GPUs. "
        "Pods that no ModelDeployment owns count too"
    ),
    Limit.LENDING_LIMIT: (
        "idle GPUs of class h100 that its cohort lends, or a larger nominalQuota: what is idle is nominal of tenants "
        "whose lendingLimit or cohort keeps it"
    ),
    Limit.RECLAIM: "3 GPUs of h100: team-b returns them in ≤250 s",
    Limit.RECLAIMED: "GPUs of class h100 that others leave idle: team-b wants its own back",
}


@pytest.mark.parametrize("limit", LIMITS)
def test_every_limit_says_what_would_unblock_it(limit: Limit) -> None:
    """A decision that a limit binds names the limit, and what would let the wanted replicas exist."""
    told = LIMITS[limit]
    written = told.status()
    assert written.decision is not None
    expected = (limit.value, UNBLOCK[limit])
    actual = (written.limited_by, written.decision.unblock)

    assert expected == actual


@pytest.mark.parametrize("limit", Limit)
def test_no_limit_is_without_words(limit: Limit) -> None:
    """A limit that is added to the vocabulary must be explained before it can bind."""
    told = LIMITS[Limit.NONE]
    decision = replace(told.decision, limited_by=limit)
    text = unblock(told.observed, decision)

    assert bool(text) == (limit not in {Limit.NONE, Limit.INVALID})


@pytest.mark.parametrize(
    ("damping", "told", "expected"),
    [
        (behavior(up_enabled=False), BUSY, "set spec.scaling.behavior.scaleUp.enabled to true"),
        (behavior(down_enabled=False), ready(), "set spec.scaling.behavior.scaleDown.enabled to true"),
    ],
)
def test_a_forbidden_direction_is_no_matter_of_time(damping: Any, told: PodBuilder, expected: str) -> None:
    """Who forbade a direction is told how to permit it, not to wait."""
    made = deployment().behavior(damping).pods(told).asks(2)
    one = _tell(made)
    actual = unblock(one.observed, one.decision)

    assert expected == actual


def test_idle_at_the_floor_asks_for_nothing_impossible() -> None:
    """The API refuses minReplicas 0: nobody is told to set it."""
    one = _tell(FREE.pods(ready()).asks(1))
    actual = unblock(one.observed, replace(one.decision, wanted=0, limited_by=Limit.MIN_REPLICAS))

    assert "to 0" not in actual
    assert actual


# --- conditions ---------------------------------------------------------------------------------

READY, SCALING, FRESH, LIMITED, STALLED = ConditionType

CONDITIONS: dict[str, tuple[Told, ConditionType, tuple[str, Reason, str]]] = {
    "serves": (_tell(FREE.pods(ready())), READY, ("True", Reason.AVAILABLE, "1 of 1 replicas serve")),
    "serves, and one pod has a problem": (
        _tell(FREE.pods(ready(), starting("s").trouble("ImagePullBackOff: no such image"))),
        READY,
        ("True", Reason.AVAILABLE, "1 of 2 replicas serve; s: ImagePullBackOff: no such image"),
    ),
    "starts": (
        _tell(FREE.pods(starting("s"))),
        READY,
        ("False", Reason.STARTING, "0 of 1 needed replicas serve; 1 are starting"),
    ),
    "fewer than minReplicas serve": (
        _tell(FREE.bounds(2, 4).pods(ready(), starting("s"))),
        READY,
        ("False", Reason.STARTING, "1 of 2 needed replicas serve; 1 are starting"),
    ),
    "waits for a node": (
        _tell(FREE.pods(starting("s").unscheduled().trouble("0/3 nodes are available"))),
        READY,
        (
            "False",
            Reason.UNSCHEDULABLE,
            "s waits for a node with 1 free GPUs of class h100: 0/3 nodes are available",
        ),
    ),
    "crashes": (
        _tell(FREE.pods(starting("s").trouble("CrashLoopBackOff: exit 1"))),
        READY,
        ("False", Reason.POD_FAILED, "s: CrashLoopBackOff: exit 1"),
    ),
    "never became ready": (
        _tell(FREE.pods(starting("s")).overdue()),
        READY,
        (
            "False",
            Reason.START_TIMEOUT,
            "no replica became ready within spec.startTimeoutSeconds (1800 s); read the engine's log",
        ),
    ),
    "rolls out": (
        _tell(FREE.bounds(2, 4).pods(ready(), starting("s")).rolling_out()),
        READY,
        ("False", Reason.ROLLING_OUT, "1 of 2 replicas serve; a new revision is being rolled out"),
    ),
    "a roll-out that does not come to an end is told while the old revision serves": (
        _tell(FREE.pods(ready(), starting("s")).rolling_out(overdue=True)),
        READY,
        (
            "False",
            Reason.START_TIMEOUT,
            "no replica became ready within spec.startTimeoutSeconds (1800 s); read the engine's log",
        ),
    ),
    "cannot be run": (
        _tell(FREE.fault(Reason.RUNTIME_NOT_FOUND, "spec.runtime: InferenceRuntime 'x' does not exist")),
        READY,
        ("False", Reason.RUNTIME_NOT_FOUND, "spec.runtime: InferenceRuntime 'x' does not exist"),
    ),
    "cannot be run, and waiting will not help": (
        _tell(FREE.fault(Reason.ACCELERATOR_INVALID, "spec.accelerator: no such label")),
        STALLED,
        ("True", Reason.ACCELERATOR_INVALID, "spec.accelerator: no such label"),
    ),
    "scales": (
        _tell(FREE.pods(ready())),
        SCALING,
        ("True", Reason.ABLE_TO_SCALE, "the load is known and replicas follow it"),
    ),
    "scales up only": (
        _tell(FREE.pods(ready(), ready("b").lost("tokens"))),
        SCALING,
        ("True", Reason.HELD, "signals are partial: replicas may be added, none removed"),
    ),
    "holds": (
        _tell(FREE.pods(ready().lost())),
        SCALING,
        ("False", Reason.HELD, "replicas are held while the load is unknown; bounds still apply"),
    ),
    "is paused": (_tell(FREE.mode(Mode.PAUSED)), SCALING, ("False", Reason.PAUSED, "spec.scaling.mode is Paused")),
    "recommends": (
        LIMITS[Limit.RECOMMEND],
        SCALING,
        ("False", Reason.RECOMMENDING, "spec.scaling.mode is Recommend: it would ask for 8 replicas"),
    ),
    "is another's": (
        LIMITS[Limit.FOREIGN_AUTOSCALER],
        SCALING,
        (
            "False",
            Reason.FOREIGN_AUTOSCALER,
            "HorizontalPodAutoscaler team-a/hpa scales the same replicas; the operator leaves them alone until it is "
            "deleted",
        ),
    ),
    "nothing to scale": (
        _tell(FREE.fault(Reason.NAME_CONFLICT)),
        SCALING,
        ("False", Reason.INVALID_SPEC, "nothing is scaled until Ready names no fault"),
    ),
    "metrics are fresh": (
        _tell(FREE.pods(ready())),
        FRESH,
        ("True", Reason.FRESH, "the ready pods report queue and throughput"),
    ),
    "the time between tokens is nothing that must be fresh": (
        _tell(FREE.pods(ready().lost("inter_token"))),
        FRESH,
        ("True", Reason.FRESH, "the ready pods report queue and throughput"),
    ),
    "a pod that has just become ready is no metrics fault": (
        _tell(FREE.pods(ready(), ready("b").aged(2).lost())),
        FRESH,
        ("True", Reason.FRESH, "the ready pods report queue and throughput"),
    ),
    "a signal is missing": (
        _tell(FREE.pods(ready(), ready("b").lost("tokens"))),
        FRESH,
        ("False", Reason.METRICS_MISSING, "b: connection refused"),
    ),
    "every sample is old": (
        _tell(FREE.pods(ready().stale(90))),
        FRESH,
        ("False", Reason.METRICS_MISSING, "a: last sample is 90 s old"),
    ),
    "nobody to ask": (
        _tell(FREE.pods(starting("s"))),
        FRESH,
        ("Unknown", Reason.NO_READY_PODS, "no pod is ready"),
    ),
    "limited": (
        LIMITS[Limit.MAX_REPLICAS],
        LIMITED,
        (
            "True",
            Reason.LIMITED,
            "MaxReplicas: wanted 10, desired 8; to unblock: raise spec.scaling.maxReplicas (now 8) to 10",
        ),
    ),
    "a window is no limit but a choice": (
        LIMITS[Limit.SCALE_DOWN_WINDOW],
        LIMITED,
        ("False", Reason.WITHIN_RANGE, "no limit binds"),
    ),
    "a pause is no limit but a choice": (
        LIMITS[Limit.PAUSED],
        LIMITED,
        ("False", Reason.WITHIN_RANGE, "no limit binds"),
    ),
}


@pytest.mark.parametrize("case", CONDITIONS)
def test_condition(case: str) -> None:
    """Each condition says whether, why in one word, and what happened."""
    told, kind, expected = CONDITIONS[case]
    verdict = next(one for one in judge(told.observed, told.decision) if one.type is kind)
    actual = (verdict.status, verdict.reason, verdict.message)

    assert expected == actual


PERMANENT = {
    Reason.INVALID_SPEC: True,
    Reason.RUNTIME_NOT_FOUND: True,
    Reason.RUNTIME_INVALID: True,
    Reason.ACCELERATOR_NOT_FOUND: True,
    Reason.ACCELERATOR_INVALID: True,
    Reason.GPUS_EXCEED_NODE: True,
    Reason.NAME_CONFLICT: True,
    Reason.INTERNAL_ERROR: True,
    Reason.APPLY_FAILED: False,
}


@pytest.mark.parametrize("reason", PERMANENT)
def test_stalled_is_there_only_while_waiting_does_not_help(reason: Reason) -> None:
    """kstatus reads Stalled as failed: a refusal that is tried again is not."""
    told = _tell(FREE.fault(reason))
    expected = PERMANENT[reason]
    actual = STALLED in {verdict.type for verdict in judge(told.observed, told.decision)}

    assert expected == actual


def test_transition_times_move_with_the_status_only() -> None:
    """A reason that changes keeps the time since when the condition holds; a status that changes does not."""
    starts = _tell(FREE.bounds(2, 4).pods(ready(), starting("s"))).status(now=NOW)
    rolls = _tell(FREE.bounds(2, 4).pods(ready(), starting("s")).rolling_out()).status(starts, NOW + 60)
    serves = _tell(FREE.bounds(2, 4).pods(ready(), ready("b"))).status(rolls, NOW + 120)
    expected = [NOW, NOW, NOW + 120]
    actual = [one.conditions[0].last_transition_time.timestamp() for one in (starts, rolls, serves)]

    assert expected == actual


REASONS: dict[str, tuple[Told, str]] = {
    "available": (_tell(FREE.pods(ready().running(5).tokens(60))), "Available"),
    "what is broken comes first": (
        _tell(FREE.mode(Mode.PAUSED).fault(Reason.RUNTIME_NOT_FOUND).pods(ready().lost())),
        "RuntimeNotFound",
    ),
    "then what is odd": (_tell(FREE.mode(Mode.PAUSED).pods(ready().lost())), "Paused"),
    "then what is not known": (_tell(FREE.pods(ready().lost()).rolling_out()), "MetricsMissing"),
    "then the limit": (LIMITS[Limit.MAX_REPLICAS], "MaxReplicas"),
    "an idle model at its floor is just available": (_tell(FREE.bounds(2, 4).pods(ready(), ready("b"))), "Available"),
    "then a roll-out": (_tell(FREE.pods(ready().running(5).tokens(60), starting("s")).rolling_out()), "RollingOut"),
    "then a start": (_tell(deployment().pods(ready().tokens(190).running(5), starting("s"))), "Starting"),
}


@pytest.mark.parametrize("case", REASONS)
def test_reason_column(case: str) -> None:
    """One word for a tired reader: what is broken, then what is odd, then the limit."""
    told, expected = REASONS[case]
    actual = told.status().reason

    assert expected == actual
    assert headline(told.observed, told.decision).reason == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"foreign_autoscaler": "HPA a/one"},
            {"foreign_autoscaler": "HPA a/two"},
        ),
        ({"fault": Fault(Reason.GPUS_EXCEED_NODE, "has 4")}, {"fault": Fault(Reason.GPUS_EXCEED_NODE, "has 6")}),
    ],
    ids=["another autoscaler", "another largest node"],
)
def test_another_culprit_is_news(before: dict[str, Any], after: dict[str, Any]) -> None:
    """The reason stays the same, and the status would go on to name what is gone."""
    was, now = (_tell(FREE.pods(BUSY).having(**each)) for each in (before, after))

    assert was.status().reason == now.status().reason
    assert headline(was.observed, was.decision) != headline(now.observed, now.decision)


# --- columns and events -------------------------------------------------------------------------

LOADS: dict[str, tuple[DeploymentBuilder, str]] = {
    "the example of the design": (FREE.pods(*THREE), "queue 41/24 tok/s 9.1k"),
    "idle": (FREE.pods(ready()), "queue 0/8 tok/s 0"),
    "partial": (
        FREE.pods(ready("a").queue(4).tokens(80), ready("b").lost()),
        "queue 4/16 tok/s 80 (partial)",
    ),
    "throughput unknown": (FREE.pods(ready().queue(4).lost("tokens")), "queue 4/8 tok/s ? (partial)"),
    "nothing known": (FREE.pods(ready().lost()), "unknown"),
    "nothing serves": (FREE.pods(starting()), "unknown"),
}


@pytest.mark.parametrize("case", LOADS)
def test_load_column(case: str) -> None:
    """LOAD shows the queue against what is tolerated and the throughput; what is unknown is no number."""
    made, expected = LOADS[case]
    told = _tell(made)
    actual = load_column(told.decision)

    assert expected == actual


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (87.4, "87"),
        (940, "940"),
        (999.4, "999"),
        (999.5, "1.0k"),
        (9_100, "9.1k"),
        (99_400, "99.4k"),
        (99_600, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (1_234_567, "1.2M"),
    ],
)
def test_compact(value: float, expected: str) -> None:
    """Two or three digits are what a column has room for."""
    actual = compact(value)

    assert expected == actual


EVENTS: dict[str, tuple[Told, tuple[str, str]]] = {
    "the queue": (
        _tell(FREE.targets(queue=8, tokens=10_000).pods(*THREE)),
        ("ScaledUp", "Scaled 3→6: queue 41 > 8 per replica × 3"),
    ),
    "the queue, up to a limit": (
        _tell(FREE.targets(queue=8, tokens=10_000).bounds(1, 5).pods(*THREE)),
        ("ScaledUp", "Scaled 3→5: queue 41 > 8 per replica × 3; limited by MaxReplicas (wanted 6)"),
    ),
    "the tokens": (
        _tell(FREE.targets(queue=100, tokens=1300).pods(*THREE)),
        ("ScaledUp", "Scaled 3→7: load 9.1k tok/s > 1.3k per replica × 3"),
    ),
    "less load": (
        _tell(FREE.pods(ready("a").tokens(120).running(2), *pods(3))),
        ("ScaledDown", "Scaled 4→2: load 120 tok/s < 100 per replica × 4"),
    ),
    "running requests": (
        _tell(
            FREE.targets(tokens=10_000).pods(ready("a").running(60).tokens(9)),
            watched(FREE.pods(ready("a")), measured=measured(running=32)),
        ),
        ("ScaledUp", "Scaled 1→3: running 60 > 25.6 per replica × 1"),
    ),
    "idle, and nobody knows what a replica can do": (
        _tell(FREE.targets().pods(*pods(2))),
        ("ScaledDown", "Scaled 2→1: idle; limited by MinReplicas (wanted 0)"),
    ),
    "a lower maximum while nothing is known": (
        _tell(FREE.bounds(1, 2).pods(ready().lost()).asks(3)),
        ("ScaledDown", "Scaled 3→2: load unknown: a: connection refused; limited by MaxReplicas (wanted 3)"),
    ),
    "a hand edit": (
        _tell(FREE.pods(ready().tokens(95).running(2)).asks(6, scaled_by="kubectl"), watched(FREE)),
        (
            "ReplicasReverted",
            "Scaled 6→1: kubectl had set replicas to 6; the operator owns them. Set spec.scaling.mode to Paused to "
            "scale by hand",
        ),
    ),
}


@pytest.mark.parametrize("case", EVENTS)
def test_scale_event(case: str) -> None:
    """An event's arithmetic is what the count was computed from."""
    told, expected = EVENTS[case]
    (scale,) = told.plan.scales
    actual = scale_event(scale, told.decision)

    assert expected == actual


CAUSES: dict[Measure, tuple[DeploymentBuilder, str]] = {
    Measure.CAPACITY_UNKNOWN: (
        FREE.targets().pods(ready().running(5).tokens(60)),
        "what one replica sustains is unknown, and it is not idle",
    ),
    Measure.PARTIAL: (
        FREE.pods(ready("a"), ready("b").lost("tokens")),
        "some signals are missing (b: connection refused)",
    ),
    Measure.QUEUE_HOLDS: (
        FREE.pods(ready("a").queue(9)).asks(4),
        "queue 9 ~ 8 per replica × 1",
    ),
}


@pytest.mark.parametrize("measure", CAUSES)
def test_cause_of_no_change(measure: Measure) -> None:
    """What holds a count is said as plainly as what moves it."""
    made, expected = CAUSES[measure]
    told = _tell(made)
    actual = cause(told.decision)

    assert expected == actual


def test_partial_signals_of_a_new_pod_are_named_as_such() -> None:
    """A pod that has not reported yet is no metrics fault in words either."""
    told = _tell(FREE.pods(ready("a"), ready("b").aged(1).lost()))
    actual = cause(told.decision)

    assert actual == "some signals are missing (new pods have not reported yet)"


GROWS = FREE.pods(ready().queue(5).running(20).tokens(800).finished(4))


def _remembering(made: DeploymentBuilder, *queue: QueueSample) -> Memory:
    memory = watched(made, measured=measured(running=32), tokens_per_request=200.0)
    return replace(memory, load=replace(memory.load, queue=queue))


DETAILS: dict[str, tuple[Told, str]] = {
    "all three measures": (
        _tell(FREE.pods(*THREE), watched(FREE.pods(*THREE), measured=measured(running=32), tokens_per_request=200.0)),
        "max(tokens (9100 served +0 queue growth + 28 backlog) / 100 = 91.28, running 27 / 25.6 = 1.05, "
        "queue 41 / 8 = 5.12)",
    ),
    "a queue that grows": (
        _tell(GROWS, _remembering(GROWS, QueueSample(NOW - 4, 1, 21))),
        "max(tokens (800 served +200 queue growth + 0 backlog) / 100 = 10.00, "
        "running (20 +5 queue growth) / 25.6 = 0.98, queue 5 / 8 = 0.62)",
    ),
    "a queue that is longer than it may ask for": (
        _tell(FREE.pods(ready().queue(4000))),
        "max(tokens (0 served +0 queue growth + 0 backlog) / 100 = 0.00, queue 4000 / 8, capped at 5)",
    ),
    "capacity unknown": (
        _tell(FREE.targets().pods(ready().queue(4))),
        "max(tokens: capacity unknown, queue 4 / 8 = 0.50)",
    ),
    "within tolerance": (
        _tell(deployment().pods(ready().tokens(105))),
        "max(tokens (105 served +0 queue growth + 0 backlog) / 100 = 1.05, queue 0 / 8 = 0.00); within tolerance",
    ),
    "held": (_tell(FREE.pods(ready().lost()).asks(3)), "held at 3: a: connection refused"),
}


@pytest.mark.parametrize("case", DETAILS)
def test_arithmetic_of_the_first_step(case: str) -> None:
    """The record of the decision can be computed after with a pencil."""
    told, expected = DETAILS[case]
    written = told.status()
    assert written.decision is not None
    actual = written.decision.steps[0].detail

    assert expected == actual


def test_signals_of_the_record() -> None:
    """What was seen stands beside what was concluded, with its age and its source."""
    made = FREE.targets().pods(BUSY.stale(3), ready("b").lost("tokens")).having(prior_output_tokens_per_second=1000.0)
    written = _tell(made).status()
    assert written.decision is not None
    expected = {
        "queuedRequests": ("41", 3, None),
        "runningRequests": ("9", 3, None),
        "outputTokensPerSecond": ("900", 3, "b: connection refused"),
        "inputTokensPerSecond": ("0", 3, None),
        "demandTokensPerSecond": ("900.0", None, None),
        "startSeconds": ("120", None, None),
        "targetOutputTokensPerSecondPerReplica": ("800", None, None),
        "targetSource": ("runtime prior", None, None),
    }
    actual = {one.name: (one.value, one.age_seconds, one.missing) for one in written.decision.signals}

    assert expected == actual


def test_status_of_a_serving_deployment() -> None:
    """The columns of `kubectl get`."""
    made = FREE.targets(queue=8, tokens=10_000).bounds(1, 5).pods(*THREE, starting("s"), ready("t").dying())
    written = _tell(made, watched(made, measured=measured(1234.6), last_scaled_at=NOW - 60)).status()
    expected = (1, 4, 3, 5, 6, "3/4", "queue 41/24 tok/s 9.1k", "MaxReplicas", "modelfleet.dev/deployment=llama", 1235)
    actual = (
        written.observed_generation,
        written.replicas,
        written.ready_replicas,
        written.desired_replicas,
        written.wanted_replicas,
        written.ready,
        written.load,
        written.limited_by,
        written.selector,
        written.output_tokens_per_second_per_replica,
    )

    assert expected == actual
    assert written.last_scale_time == datetime.fromtimestamp(NOW - 60, UTC)


def test_last_scale_time_survives_a_restart() -> None:
    """A process that has not scaled yet keeps what the status says."""
    told = _tell(FREE.pods(ready()))
    previous = told.status().model_copy(update={"last_scale_time": datetime.fromtimestamp(NOW - 9, UTC)})
    actual = told.status(previous).last_scale_time

    assert actual == datetime.fromtimestamp(NOW - 9, UTC)


# --- bounds of the API --------------------------------------------------------------------------

LONG = "x" * 5000
EXTREMES: dict[str, Told] = {
    "a kubelet that writes novels": _tell(FREE.pods(starting("s").trouble(LONG))),
    "a scheduler that writes novels": _tell(FREE.pods(starting("s").unscheduled().trouble(LONG))),
    "a fault with a long message": _tell(FREE.fault(Reason.APPLY_FAILED, LONG)),
    "a long name": _tell(FREE.having(foreign_autoscaler=f"HorizontalPodAutoscaler {'n' * 63}/{'h' * 253}")),
    "an engine that counts 10^18 of everything": _tell(
        FREE.targets()
        .pods(*(replace(ready("a"), name=f"p{n}").queue(5e18).running(5e18).tokens(1e6) for n in range(50)))
        .having(prior_output_tokens_per_second=0.001),
        watched(FREE, desired=8, tokens_per_request=131_072.0, ready_pods=frozenset()),
    ),
    "an engine that counts fractions": _tell(FREE.pods(ready().queue(1 / 3).tokens(1e-9).running(1e-9))),
    "a thousand replicas": _tell(FREE.bounds(1, 1000).pods(*pods(1000))),
    "no spec": _tell(FREE.having(spec=None)),
    "no Deployment": _tell(FREE.childless()),
}


@pytest.mark.parametrize("case", EXTREMES)
def test_status_fits_the_schema(case: str) -> None:
    """No fact is long or large enough for the API server to refuse the status."""
    told = EXTREMES[case]
    written = told.status()
    wire = written.model_dump(mode="json", by_alias=True)
    actual = ModelDeploymentStatus.model_validate(wire)

    assert written == actual


@pytest.mark.parametrize("reason", Reason)
def test_every_word_fits_the_schema(reason: Reason) -> None:
    """Any reason with any limit gives a status that the API server takes."""
    told = _tell(FREE.pods(BUSY).fault(reason))
    for limit in Limit:
        steps = (*told.decision.steps, Step(StepName.MODE, 1, limit))
        decision = replace(told.decision, limited_by=limit, steps=steps)
        written = status(told.observed, decision, told.memory, previous=None, now=NOW)

        assert written.limited_by == limit.value
        assert written.reason


def test_an_allowance_that_counts_what_is_unknown_says_so() -> None:
    """An engine without prompt tokens under an allowance of all tokens: which field counts them, and why they lack."""
    tenants = (tenant("team-a", 64, allowances=(Allowance(Tokens.TOTAL, 200.0, "m"), Allowance(Tokens.TOTAL, 9e9))),)
    told = _tell(FREE.pods(BUSY.lost("prompts")), tenants=tenants)
    written = status(told.observed, told.decision, told.memory, previous=None, now=NOW)
    step = next(step for step in written.decision.steps if step.name == "admit")  # type: ignore[union-attr]
    limited = next(one for one in written.conditions if one.type == "ScalingLimited")

    assert step.limited_by == "TokenAllowance"
    assert step.detail == (
        "total tokens: demand unknown, allowance 9000000000 tok/s, none added: a: connection refused"
    )
    assert "known input tokens, which spec.tokensPerMinute.total of the Tenant counts" in limited.message


def test_the_record_names_the_allowance_that_binds() -> None:
    """What is counted, of which model, what is asked for, allowed and admitted."""
    model = deployment().build().spec.model.name  # type: ignore[union-attr]
    tenants = (tenant("team-a", 64, allowances=(Allowance(Tokens.INPUT, 450.0, model), Allowance(Tokens.TOTAL, 9e9))),)
    told = _tell(FREE.pods(BUSY.prompts(1800)), tenants=tenants)
    written = status(told.observed, told.decision, told.memory, previous=None, now=NOW)
    step = next(step for step in written.decision.steps if step.name == "admit")  # type: ignore[union-attr]
    signals = {one.name: one.value for one in written.decision.signals}  # type: ignore[union-attr]

    assert step.detail == f"input tokens of {model}: demand 1965 tok/s, allowance 450, admitted 450"
    assert f"a larger spec.tokensPerMinute.models[{model}].input in the Tenant" in written.decision.unblock  # type: ignore[union-attr]
    assert signals["inputTokensPerSecond"] == "1800"
    assert signals["inputTokensPerOutputToken"] == "2"
    assert signals["demandTokensPerSecond"] == "982.5"
