"""The composition: where a decision starts from, who bound it, which pods go, what is remembered."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from modelfleet.api.conditions import Limit, Reason
from modelfleet.api.modeldeployment import Mode
from modelfleet.decide.cycle import decide
from modelfleet.decide.history import Measured, Memory, Recommendation
from modelfleet.decide.plan import Decision, Facts, Plan, StepName
from modelfleet.decide.snapshot import Allowance, Tokens
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


def _decide(made: DeploymentBuilder, memory: Memory | None = None, **world: Any) -> tuple[Decision, Plan]:
    plan = decide(fleet(made, **world), {} if memory is None else {made.key: memory})
    return plan.decisions[made.key], plan


# --- what the load is counted from ---------------------------------------------------------------


def _six_seconds(*, more_waiting: float = 0.0, more_running: float = 0.0) -> Facts:
    """Return the facts of the last of six decisions on one replica whose steps take four times the limit."""
    made, history = deployment().having(prior_output_tokens_per_second=None), {}
    for second in range(6):
        pod = ready().inter_token(0.2).tokens(100).finished(4)
        pod = pod.queue(more_waiting * second).running(20 + more_running * second)
        plan = decide(fleet(replace(made, made=(pod,)), now=NOW + second), history)
        history = dict(plan.history)
    facts = plan.decisions[made.key].facts
    assert isinstance(facts, Facts) and facts.pace is not None
    return facts


def test_what_a_full_batch_takes_in_is_load_that_arrives() -> None:
    """0.9 s of each second are work, of 0.6 that the limit leaves. When 5 more a second run that is not all."""
    still, growing = _six_seconds().pace, _six_seconds(more_running=5).pace
    assert still is not None and growing is not None

    assert still.replicas == pytest.approx(0.9 / 0.6)
    assert growing.replicas > 1.5 * still.replicas


def test_a_growing_queue_asks_for_places() -> None:
    """Four finish a second, and one more waits: a quarter more places than are taken."""
    assert _six_seconds().need.asking == 20
    assert _six_seconds(more_waiting=1).need.asking == 25


# --- where a decision starts --------------------------------------------------------------------

HELD = deployment().bounds(2, 8)

STARTS: dict[str, tuple[DeploymentBuilder, int | None, int]] = {
    "what it asked for itself, not what somebody made of it": (HELD.asks(7, scaled_by="kubectl"), 4, 4),
    "after a restart, the Deployment": (HELD.asks(5), None, 5),
    "after a restart and a hand edit, the status": (
        HELD.asks(7, scaled_by="kubectl").having(recorded_desired=4),
        None,
        4,
    ),
    "after a restart and a hand edit, without a status, the hand edit": (HELD.asks(7, scaled_by="kubectl"), None, 7),
    "the Deployment was deleted": (HELD.childless(), 4, 4),
    "the Deployment was deleted while nobody looked": (HELD.childless().having(recorded_desired=4), None, 4),
    "a new object": (HELD.childless(), None, 2),
    "a status that says zero is no last word": (HELD.childless().having(recorded_desired=0), None, 2),
    "Paused: what exists": (HELD.mode(Mode.PAUSED).asks(7, scaled_by="kubectl"), 4, 7),
    "Recommend: what exists": (HELD.mode(Mode.RECOMMEND).asks(7, scaled_by="kubectl"), 4, 7),
    "a foreign autoscaler: what exists": (HELD.having(foreign_autoscaler="hpa").asks(7, scaled_by="hpa"), 4, 7),
    "a fault: what exists": (HELD.fault(Reason.RUNTIME_NOT_FOUND).asks(7, scaled_by="kubectl"), 4, 7),
    "a spec that cannot be read: what exists": (HELD.having(spec=None).asks(7), 4, 7),
}


@pytest.mark.parametrize("case", STARTS)
def test_current(case: str) -> None:
    """In Auto the operator's last word counts, elsewhere what exists; after a restart the best witness of the two."""
    made, remembered, expected = STARTS[case]
    memory = None if remembered is None else watched(made, desired=remembered)
    actual = _decide(made, memory)[0].current

    assert expected == actual


def test_a_new_object_of_an_old_name_starts_afresh() -> None:
    """What was remembered of a deleted object is not the new one's."""
    made = deployment().childless().having(uid="another")
    memory = watched(deployment(), desired=7, measured=measured(500))
    decision, plan = _decide(made, memory)

    assert decision.desired == 1
    assert plan.history[made.key].load.measured == Measured()


# --- who bound it -------------------------------------------------------------------------------

BUSY = ready("a").queue(200).running(9).tokens(900)
CALM = ready("a").tokens(100).running(3)


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A deployment, and its counts and limit."""

    made: DeploymentBuilder
    want: tuple[int, int, Limit]
    desired: int | None = None
    memory: tuple[tuple[str, Any], ...] = ()
    free: tuple[int, ...] = (8, 8)
    allowances: tuple[Allowance, ...] = ()


FREE = deployment().behavior(UNDAMPED).bounds(1, 8)
DAMPED = deployment().bounds(1, 30)

_ALLOWANCE = Limit.TOKEN_ALLOWANCE
BOUNDS = {
    "nothing between": Bound(made=FREE.bounds(1, 30).pods(BUSY), want=(9, 9, Limit.NONE)),
    "maxReplicas": Bound(made=FREE.pods(BUSY), want=(9, 8, Limit.MAX_REPLICAS)),
    "minReplicas": Bound(made=FREE.bounds(3, 8).pods(CALM), want=(1, 3, Limit.MIN_REPLICAS)),
    "the rate": Bound(made=DAMPED.pods(BUSY), want=(9, 5, Limit.SCALE_UP_RATE)),
    "the maximum, where the rate would have bound above it": Bound(
        made=DAMPED.bounds(1, 4).pods(BUSY), want=(9, 4, Limit.MAX_REPLICAS)
    ),
    "the window": Bound(
        made=DAMPED.pods(CALM).asks(6),
        memory=(("highest", (Recommendation(NOW - 100, 6),)),),
        want=(1, 6, Limit.SCALE_DOWN_WINDOW),
    ),
    "the warm-up": Bound(made=DAMPED.pods(CALM).asks(6), memory=(("since", NOW - 10),), want=(1, 6, Limit.WARM_UP)),
    "free GPUs": Bound(made=FREE.pods(BUSY), free=(2,), want=(9, 3, Limit.CAPACITY)),
    "a token allowance": Bound(
        made=FREE.pods(BUSY), allowances=(Allowance(Tokens.OUTPUT, 250.0),), want=(9, 3, Limit.TOKEN_ALLOWANCE)
    ),
    "an allowance of prompts, of which 4 come with one generated token": Bound(
        made=FREE.pods(BUSY.prompts(3600)), allowances=(Allowance(Tokens.INPUT, 800.0),), want=(9, 2, _ALLOWANCE)
    ),
    "the tightest of three": Bound(
        made=FREE.pods(BUSY.prompts(3600)),
        allowances=(Allowance(Tokens.INPUT, 4000.0), Allowance(Tokens.OUTPUT, 500.0), Allowance(Tokens.TOTAL, 1500.0)),
        want=(9, 3, _ALLOWANCE),
    ),
    "an allowance of prompts that the engine does not tell": Bound(
        made=FREE.pods(BUSY.lost("prompts")).asks(2),
        allowances=(Allowance(Tokens.INPUT, 1e9),),
        want=(9, 2, _ALLOWANCE),
    ),
    "the same where generated tokens alone are counted": Bound(
        made=FREE.pods(BUSY.lost("prompts")).asks(2),
        allowances=(Allowance(Tokens.OUTPUT, 1e9),),
        want=(9, 8, Limit.MAX_REPLICAS),
    ),
    "Paused": Bound(made=FREE.pods(BUSY).mode(Mode.PAUSED), want=(9, 1, Limit.PAUSED)),
    "Recommend": Bound(made=FREE.pods(BUSY).mode(Mode.RECOMMEND), want=(9, 1, Limit.RECOMMEND)),
    "a foreign autoscaler": Bound(
        made=FREE.pods(BUSY).having(foreign_autoscaler="hpa"), want=(9, 1, Limit.FOREIGN_AUTOSCALER)
    ),
    "unknown load wants what there is": Bound(made=FREE.pods(BUSY.lost()).asks(3), want=(3, 3, Limit.NONE)),
    "unknown load and a lower maximum": Bound(
        made=FREE.bounds(1, 2).pods(BUSY.lost()).asks(3), want=(3, 2, Limit.MAX_REPLICAS)
    ),
    "a fault": Bound(made=FREE.pods(BUSY).fault(Reason.RUNTIME_NOT_FOUND), want=(1, 1, Limit.NONE)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_limited_by(name: str) -> None:
    """Wanted, desired, and the one limit that stands between them."""
    case = BOUNDS[name]
    memory = watched(case.made, **dict(case.memory))
    tenants = (tenant("team-a", 99, allowances=case.allowances),) if case.allowances else ()
    decision, _ = _decide(case.made, memory, gpus={"h100": nodes(*case.free)}, tenants=tenants)
    expected = case.want
    actual = (decision.wanted, decision.desired, decision.limited_by)

    assert expected == actual


def test_the_steps_tell_the_whole_way() -> None:
    """Each step's count stands in the decision, in order, down to the mode."""
    made = DAMPED.bounds(1, 4).mode(Mode.RECOMMEND).pods(BUSY)
    decision, _ = _decide(made, watched(made), gpus={"h100": nodes(2)})
    expected = [
        (StepName.REPLICAS, 9, Limit.NONE),
        (StepName.STABILIZE, 5, Limit.SCALE_UP_RATE),
        (StepName.BOUNDS, 4, Limit.MAX_REPLICAS),
        (StepName.ADMIT, 4, Limit.NONE),
        (StepName.ALLOCATE, 3, Limit.CAPACITY),
        (StepName.MODE, 1, Limit.RECOMMEND),
    ]
    actual = [(step.name, step.replicas, step.limited_by) for step in decision.steps]

    assert expected == actual
    assert decision.granted == 3


# --- who gets the GPUs --------------------------------------------------------------------------


def test_what_does_not_scale_takes_no_gpu_from_what_does() -> None:
    """A Recommend deployment of a high priority is told what it would get; the other one gets it."""
    advised = FREE.mode(Mode.RECOMMEND).priority(100).pods(BUSY)
    scaled = replace(FREE, name="mistral").pods(replace(BUSY, name="b"))
    plan = decide(fleet(advised, scaled, gpus={"h100": nodes(3)}), {one.key: watched(one) for one in (advised, scaled)})
    told, given = plan.decisions[advised.key], plan.decisions[scaled.key]

    assert given.desired == 4
    assert (told.desired, told.granted) == (1, 4)


def test_paused_pods_without_a_node_still_hold_their_place() -> None:
    """Pods that exist wait for GPUs whatever the mode: others must not be granted the same ones."""
    paused = FREE.mode(Mode.PAUSED).pods(CALM, starting("p").unscheduled(), starting("q").unscheduled())
    scaled = replace(FREE, name="mistral").pods(replace(BUSY, name="b"))
    plan = decide(fleet(paused, scaled, gpus={"h100": nodes(3)}), {one.key: watched(one) for one in (paused, scaled)})
    actual = plan.decisions[scaled.key].desired

    assert actual == 2


def test_a_fault_stops_nobody_else() -> None:
    """One object that cannot be run is left as it is; the others are decided about."""
    broken = replace(FREE, name="broken").pods(BUSY).fault(Reason.INVALID_SPEC).having(spec=None)
    fine = FREE.pods(replace(BUSY, name="b"))
    plan = decide(fleet(broken, fine), {fine.key: watched(fine)})

    assert plan.decisions[broken.key].desired == 1
    assert plan.decisions[fine.key].desired == 8
    assert [scale.key for scale in plan.scales] == [fine.key]


# --- writes -------------------------------------------------------------------------------------


def test_scale_down_before_up() -> None:
    """What shrinks frees the GPUs and the quota that what grows needs, whatever their names."""
    grows = replace(FREE, name="a-grows").pods(BUSY)
    shrinks = replace(FREE, name="z-shrinks").pods(*(replace(pod, name=f"z{pod.name}") for pod in pods(4)))
    plan = decide(fleet(grows, shrinks), {one.key: watched(one) for one in (grows, shrinks)})
    actual = [scale.key.name for scale in plan.scales]

    assert actual == ["z-shrinks", "a-grows"]


REVERTED: dict[str, tuple[DeploymentBuilder, str]] = {
    "the operator's own scale": (FREE.pods(BUSY).asks(1), ""),
    "another count than it asked for": (FREE.pods(BUSY).asks(2, scaled_by="kubectl"), "kubectl"),
    "by another hand, but the count it asked for": (FREE.pods(BUSY).asks(1, scaled_by="kubectl"), ""),
}


@pytest.mark.parametrize("case", REVERTED)
def test_reverted_from(case: str) -> None:
    """Only an edit that changed something is said to be put back."""
    made, expected = REVERTED[case]
    (scale,) = _decide(made, watched(made, desired=1))[1].scales
    actual = scale.reverted_from

    assert expected == actual


def test_no_deployment_no_write() -> None:
    """Without a Deployment there is nothing to scale; provisioning will create it with the count decided here."""
    made = FREE.childless()
    decision, plan = _decide(made, watched(made, desired=3))

    assert decision.desired == 3
    assert plan.scales == ()


VICTIMS: dict[str, tuple[tuple[PodBuilder, ...], list[str]]] = {
    "the idlest first": ((ready("a").running(9), ready("b").running(1), ready("c").running(4)), ["b", "c", "a"]),
    "waiting requests are work too": ((ready("a").queue(9), ready("b").running(8)), ["b", "a"]),
    "one that was never scheduled before one that starts": (
        (ready("a"), starting("b"), starting("c").unscheduled()),
        ["c", "b", "a"],
    ),
    "one that starts before one that serves nobody": ((ready("a"), starting("b")), ["b", "a"]),
    "one whose load is unknown may be serving": ((ready("a").lost(), ready("b").running(50)), ["b", "a"]),
    "of two equals the newer": ((ready("a").born(NOW - 900), ready("b").born(NOW - 30)), ["b", "a"]),
    "then by name": ((ready("b"), ready("a")), ["a", "b"]),
    "one that goes already is no victim": ((ready("a").running(9), ready("b").dying()), ["a"]),
}


@pytest.mark.parametrize("case", VICTIMS)
def test_victims(case: str) -> None:
    """A shrink names the pods that hurt least, in order."""
    made_pods, expected = VICTIMS[case]
    # A lower maximum shrinks whatever is known; one replica stays.
    made = FREE.bounds(1, 1).pods(*made_pods).asks(len(made_pods) + 1)
    (scale,) = _decide(made, watched(made))[1].scales
    actual = list(scale.victims)

    assert expected == actual
    assert scale.replicas == 1


def test_growth_names_no_victims() -> None:
    """Nobody goes when replicas are added."""
    made = FREE.pods(BUSY)
    (scale,) = _decide(made, watched(made))[1].scales

    assert scale.replicas == 8
    assert scale.victims == ()


# --- what is remembered -------------------------------------------------------------------------


def test_starts_are_learned_once_a_pod() -> None:
    """Created-to-ready counts once, also when a pod loses readiness and finds it again."""
    made = deployment().pods(ready("a").born(NOW - 3570))
    _, plan = _decide(made)
    flapped = made.pods(replace(made.made[0], ready_at=None))
    plan = decide(fleet(flapped, now=NOW + 1), plan.history)
    back = made.pods(replace(made.made[0], ready_at=NOW + 2))
    plan = decide(fleet(back, now=NOW + 2), plan.history)
    actual = plan.history[made.key].start_seconds

    assert actual == (70.0,)


def test_only_the_last_twenty_starts_count() -> None:
    """A model that was made faster to start is known as such after twenty starts."""
    made = deployment().bounds(1, 30).pods(*(replace(p, created_at=p.ready_at - 40) for p in pods(25) if p.ready_at))
    memory = watched(made, ready_pods=frozenset(), start_seconds=(600.0,) * 20)
    _, plan = _decide(made, memory)
    actual = plan.history[made.key].start_seconds

    assert actual == (40.0,) * 20


def test_measurement_survives_a_restart_through_the_status() -> None:
    """What an earlier process measured is not learned anew."""
    made = deployment().targets().pods(ready("a").tokens(300).running(3)).having(measured_output_tokens_per_second=500)
    decision, _ = _decide(made)

    assert decision.wanted == 1
    assert decision.facts.capacity.target_tokens_per_second == 400  # type: ignore[union-attr]


def test_a_measurement_of_zero_in_the_status_is_none() -> None:
    """A replica that was slower than half a token per second is recorded as 0: no load can be divided by that."""
    made = deployment().targets().pods(BUSY).having(measured_output_tokens_per_second=0)
    decision, _ = _decide(made)

    assert decision.facts.capacity.target_tokens_per_second is None  # type: ignore[union-attr]


def test_an_outage_ends_what_saturation_was_being_timed() -> None:
    """Nobody saw whether the replicas stayed full: throughput is measured from a saturation that is seen."""
    made = deployment().pods(BUSY.lost())
    memory = watched(made, measured=Measured(saturated_since=NOW - 60))
    _, plan = _decide(made, memory)
    actual = plan.history[made.key].load.measured

    assert actual == Measured()


def test_holding_fills_the_scale_down_window() -> None:
    """The count that was held is what the window knows of an outage."""
    made = deployment().pods(BUSY.lost()).asks(6)
    memory = watched(made, highest=(Recommendation(NOW - 10, 2),))
    _, plan = _decide(made, memory)
    actual = plan.history[made.key].windows.highest

    assert actual == (Recommendation(NOW, 6),)


def test_a_bound_that_moves_the_count_counts_for_the_rate() -> None:
    """Four that a lower maximum took are a change like another."""
    made = deployment().behavior(behavior()).bounds(1, 4).pods(*pods(8))
    _, plan = _decide(made, watched(made))
    actual = [event.change for event in plan.history[made.key].scale_events]

    assert actual == [-4]


def test_what_is_gone_is_forgotten() -> None:
    """History holds the snapshot's deployments and nobody else."""
    made = deployment()
    gone = deployment("gone")
    plan = decide(fleet(made), {made.key: watched(made), gone.key: watched(gone)})

    assert list(plan.history) == [made.key]
