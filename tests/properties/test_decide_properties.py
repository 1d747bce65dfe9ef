"""What holds for every fleet, whatever its load, its faults and its past."""

from dataclasses import replace
from random import Random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modelfleet.api.modeldeployment import Mode
from modelfleet.decide.cycle import decide
from modelfleet.decide.explain import judge, status
from tests.builders import MAX_AGE_SECONDS, NOW, DeploymentBuilder, PodBuilder, fleet
from tests.properties.fleets import World, apply, decide_on, deployments, fleets, memories

PROPERTIES = settings(settings.get_profile("properties"))
WIDER = settings(PROPERTIES, max_examples=100)


def _silent(pod: PodBuilder) -> bool:
    needed = ("queued", "running", "tokens")
    return (
        pod.ready_at is not None
        and not pod.terminating
        and (pod.age > MAX_AGE_SECONDS or any(pod.values[name] is None for name in needed))
    )


@PROPERTIES
@given(world=fleets(), seed=st.integers(0, 1_000))
def test_the_order_of_deployments_changes_nothing(world: World, seed: int) -> None:
    """The same fleet gives the same plan, writes in the same order, however it is listed."""
    made, gpus, history = world
    shuffled = list(made)
    Random(seed).shuffle(shuffled)
    expected = decide_on(made, gpus, history)
    actual = decide_on(shuffled, gpus, history)

    assert expected == actual


@PROPERTIES
@given(world=fleets())
def test_arguments_are_not_touched(world: World) -> None:
    """A decision leaves the snapshot and the history as they were, and is the same the second time."""
    made, gpus, history = world
    snapshot = fleet(*made, gpus=gpus)
    before = repr((snapshot, history))
    first = decide(snapshot, history)
    second = decide(snapshot, history)

    assert before == repr((snapshot, history))
    assert first == second


@WIDER
@given(world=fleets())
def test_auto_stays_within_its_bounds(world: World) -> None:
    """Never below minReplicas, never above maxReplicas, in Auto with a spec that can be run."""
    made, gpus, history = world
    plan = decide_on(made, gpus, history)
    for one in made:
        scaling = one.spec.scaling
        if scaling.mode is Mode.AUTO and "fault" not in one.rest and "foreign_autoscaler" not in one.rest:
            assert scaling.min_replicas <= plan.decisions[one.key].desired <= scaling.max_replicas


@WIDER
@given(world=fleets())
def test_hands_off_means_no_write(world: World) -> None:
    """Paused, Recommend, a fault or a foreign autoscaler: nothing is written, and what exists is what is asked for."""
    made, gpus, history = world
    plan = decide_on(made, gpus, history)
    scaled = {scale.key for scale in plan.scales}
    for one in made:
        off = one.spec.scaling.mode in {Mode.PAUSED, Mode.RECOMMEND}
        if off or "fault" in one.rest or "foreign_autoscaler" in one.rest:
            assert one.key not in scaled
            assert one.child is None or plan.decisions[one.key].desired == one.child.replicas


@WIDER
@given(world=fleets())
def test_what_is_paused_in_one_direction_does_not_go_there(world: World) -> None:
    """PausedScaleIn takes no replica away, whatever bounds and load say; PausedScaleOut adds none."""
    made, gpus, history = world
    plan = decide_on(made, gpus, history)
    for one in made:
        decision = plan.decisions[one.key]
        if one.spec.scaling.mode is Mode.PAUSED_SCALE_IN:
            assert decision.desired >= decision.current
        if one.spec.scaling.mode is Mode.PAUSED_SCALE_OUT:
            assert decision.desired <= decision.current


@WIDER
@given(world=fleets())
def test_no_scale_in_while_a_ready_pod_is_silent(world: World) -> None:
    """What is not known takes nothing away; only a bound may."""
    made, gpus, history = world
    plan = decide_on(made, gpus, history)
    for one in made:
        decision = plan.decisions[one.key]
        if any(_silent(pod) for pod in one.made):
            assert decision.desired >= min(decision.current, one.spec.scaling.max_replicas)


@WIDER
@given(world=fleets())
def test_who_does_not_scale_changes_nothing_for_who_does(world: World) -> None:
    """A Recommend deployment is advice: the others are decided about as if it asked for what it has."""
    made, gpus, history = world
    advised = [one for one in made if one.spec.scaling.mode is Mode.RECOMMEND]
    paused = [one.mode(Mode.PAUSED) if one in advised else one for one in made]
    calm = [
        replace(one, made=tuple(pod.queue(0).running(0).tokens(0) for pod in one.made)) if one in advised else one
        for one in paused
    ]
    expected = decide_on(made, gpus, history)
    actual = decide_on(calm, gpus, history)

    for one in made:
        if one not in advised:
            assert expected.decisions[one.key] == actual.decisions[one.key]


@WIDER
@given(data=st.data(), longer=st.integers(1, 500))
def test_a_longer_queue_never_gives_fewer_replicas(data: st.DataObject, longer: int) -> None:
    """Of two moments that differ in one pod's queue, the longer queue asks for at least as many.

    The target is the spec's and no time has passed, so that neither moment teaches what a replica can do:
    a queue in front of fast replicas may well teach that fewer are needed.
    """
    made = data.draw(deployments("a", auto=True).filter(lambda one: any(pod.ready_at for pod in one.made)))
    made = made.targets(queue=made.spec.scaling.targets.queued_requests, tokens=100)
    memory = data.draw(memories(made).filter(lambda one: one.load.measured.running_requests is not None))
    history = {made.key: replace(memory, last_decided_at=NOW)}
    number = data.draw(st.sampled_from([n for n, pod in enumerate(made.made) if pod.ready_at]))
    pod = made.made[number]
    more = pod.queue((pod.values["queued"] or 0) + longer) if pod.values["queued"] is not None else pod
    longer_queue = replace(made, made=(*made.made[:number], more, *made.made[number + 1 :]))
    gpus = fleet().nodes
    before = decide_on([made], gpus, history).decisions[made.key]
    after = decide_on([longer_queue], gpus, history).decisions[made.key]

    assert before.wanted <= after.wanted
    assert before.desired <= after.desired


@WIDER
@given(world=fleets())
def test_decide_apply_decide_is_empty(world: World) -> None:
    """Once a plan is written, the same moment asks for nothing more.

    Tokens per request are settled, and the GPUs of a replica are one: which of two mixed sizes fits a node
    depends on the order in which they came, as it does in the scheduler. Where a priority takes places, what the lower
    one had asked for beside them is free a decision later, and a pod beyond its count that the lower one took over is
    given then; test_tenant_properties.py has that this comes to rest.
    """
    made, gpus, history = world
    made = [_settled(one) for one in made]
    history = {
        key: replace(memory, load=replace(memory.load, tokens_per_request=200.0)) for key, memory in history.items()
    }
    first = decide_on(made, gpus, history)
    second = decide_on(apply(made, first), gpus, first.history)
    assume(not any(one.reclaims for one in (*first.decisions.values(), *second.decisions.values())))

    assert second.scales == ()
    assert {key: one.desired for key, one in first.decisions.items()} == {
        key: one.desired for key, one in second.decisions.items()
    }


@PROPERTIES
@given(world=fleets())
def test_every_decision_can_be_told(world: World) -> None:
    """Whatever is decided has conditions and a status that the schema takes, and a limit where counts differ."""
    made, gpus, history = world
    snapshot = fleet(*made, gpus=gpus)
    plan = decide(snapshot, history)
    for observed in snapshot.deployments:
        decision = plan.decisions[observed.key]
        written = status(observed, decision, plan.history[observed.key], previous=None, now=NOW)

        assert len(judge(observed, decision)) >= 4
        assert written.desired_replicas == decision.desired
        assert bool(decision.limited_by) == (decision.desired != decision.wanted)


def _settled(made: DeploymentBuilder) -> DeploymentBuilder:
    settled = tuple(pod.finished((pod.values["tokens"] or 0) / 200) for pod in made.made)
    return replace(made.gpus(1), made=settled)
