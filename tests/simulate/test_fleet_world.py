"""Deployments on shared GPUs: who holds which when, who waits, and that one alone plays as it always did."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from modelfleet.decide.snapshot import Node
from modelfleet.simulate import world
from modelfleet.simulate.arrivals import Arrival, Lengths
from modelfleet.simulate.calibration import ReplicaModel, load_replica_model
from modelfleet.simulate.fleet import FLEET, Deployed, Fleet, FleetJob, FleetOutcome, partition, play_fleet_job
from modelfleet.simulate.ours import Governed, ModelfleetFleet
from modelfleet.simulate.policy import Asked, Circumstances, Policy, Sample, Setting
from modelfleet.simulate.pool import Pool
from modelfleet.simulate.registry import KINDS, OURS
from modelfleet.simulate.score import Run
from modelfleet.simulate.shapes import Shape, shape_arrivals
from modelfleet.simulate.world import Member, Start, play, play_fleet

MODEL = load_replica_model("llama-3-8b-a100")
START = replace(Start.of(20.0), spread=0.0)
STEADY = tuple(Arrival(second / 2.0, 500, 50) for second in range(600))


def pool(*gpus: int, accelerator: str = "a100") -> dict[str, tuple[Node, ...]]:
    return {accelerator: tuple(Node(f"node-{number}", count, count) for number, count in enumerate(gpus))}


def circumstances(arrivals: Sequence[Arrival] = STEADY, model: ReplicaModel = MODEL) -> Circumstances:
    return Circumstances(model, START.seconds, 2.0, 0.05, arrivals)


def member(name: str, *, priority: int = 0, least: int = 1, gpus: int = 1) -> Member:
    model = MODEL.model_copy(update={"gpus": gpus})
    return Member(name, Setting(1.0, least, 20), circumstances(model=model), START, 1, "a100", priority)


class Script:
    """Asks for counts at times, each in one write, and keeps what it sees."""

    sample_seconds = 1.0
    period_seconds = 1.0

    def __init__(self, *steps: tuple[float, dict[str, int]]) -> None:
        self._steps = list(steps)
        self.placed: list[tuple[float, dict[str, int]]] = []

    def observe(self, samples: Mapping[str, Sample], nodes: Mapping[str, tuple[Node, ...]]) -> None:
        at = next(iter(samples.values())).at
        self.placed.append((at, {name: sum(bool(pod.node) for pod in each.pods) for name, each in samples.items()}))

    def decide(self, now: float, current: Mapping[str, int]) -> Mapping[str, Asked]:
        counts = self._steps.pop(0)[1] if self._steps and self._steps[0][0] <= now else {}
        return {name: Asked(count) for name, count in counts.items()}


def at_once(run: Run) -> list[tuple[float, float]]:
    """Return the pods that were made after the beginning: when each was placed, and for how long it had waited."""
    return sorted((placed, placed - made) for made, placed in run.waits if made > 0.0)


# --- one alone ---------------------------------------------------------------------------------------


def test_one_alone_plays_as_before_there_were_fleets() -> None:
    """Digests of the runs of the world that knew one deployment only; no logarithm made the load."""
    arrivals = [Arrival(second / 8.0, 400 + second * 37 % 3000, 1 + second * 53 % 300) for second in range(6000)]
    jittery = MODEL.model_copy(update={"service_jitter": 0.1, "cached_prompt_fraction": 0.25})
    here = Circumstances(jittery, 60.0, 2.0, 0.05, arrivals)
    digest = hashlib.sha256()
    for name, target in (("static", 4.0), ("keda", 6.0), ("hpa-inflight", 6.0), ("knative", 6.0)):
        setting = Setting(target, 1, 9)
        run = play(
            arrivals,
            name=name,
            policy=KINDS[name].build(setting, here),
            setting=setting,
            circumstances=here,
            start=Start.of(60.0),
            seed=3,
        )
        assert len(run.scales) >= 1
        figures = [
            [*run.pods],
            [(each.ttft_seconds, each.tpot_seconds) for each in run.served],
            [
                (each.at_seconds, each.desired, each.pods, each.ready, each.queued, each.running)
                for each in run.timeline
            ],
            [*run.scales],
        ]
        digest.update(repr(figures).encode())

    assert digest.hexdigest() == "0c8d058559f31446ff8b0c3b33ad8803806d68fc37bf96c9a95c60a6f8b847af"


@pytest.mark.parametrize("name", [OURS, "hpa-inflight"])
def test_a_fleet_of_one_equals_play(name: str) -> None:
    arrivals = tuple(
        shape_arrivals(
            Shape.FLASH_CROWD, requests_per_second=15.0, duration_seconds=400.0, lengths=Lengths(1000, 100, 0.5), seed=1
        )
    )
    setting = Setting(KINDS[name].default_target(MODEL) if name == OURS else 8.0, 1, 6)
    here = circumstances(arrivals)
    policies: Mapping[str, Policy] | ModelfleetFleet = (
        ModelfleetFleet({"only": Governed(setting, here, "a100", 7)})
        if name == OURS
        else {"only": KINDS[name].build(setting, here)}
    )

    alone = play(
        arrivals,
        name=name,
        policy=KINDS[name].build(setting, here),
        setting=setting,
        circumstances=here,
        start=START,
        seed=5,
    )
    fleet = play_fleet(
        [Member("only", setting, here, START, 5, "a100")], nodes=pool(8, 8, 8), name=name, policies=policies
    )

    assert alone.scales
    assert fleet == {"only": alone}


# --- who gets GPUs ---------------------------------------------------------------------------------


def test_a_pod_that_waits_starts_when_a_draining_one_is_gone() -> None:
    script = Script((50.0, {"b": 3}), (100.0, {"a": 1}))
    runs = play_fleet([member("a", least=1), member("b")], nodes=pool(3), name="script", policies=script)
    # a holds 1 and b 1 of 3: of b's two more, one waits for nobody until the end.
    ((_, first), (second_placed, _)) = at_once(runs["b"])
    assert (first, second_placed) == (0.0, float("inf"))

    script = Script((10.0, {"a": 2}), (50.0, {"b": 2}), (100.0, {"a": 1}))
    # 1,500 tokens take 18 s and more: so long does a's pod finish what it has begun.
    long = circumstances(tuple(Arrival(float(second), 500, 1500) for second in range(300)))
    runs = play_fleet(
        [replace(member("a"), circumstances=long), member("b")], nodes=pool(3), name="script", policies=script
    )
    ((placed, waited),) = at_once(runs["b"])
    gone = next(gone for made, gone in runs["a"].pods if gone < 200.0)
    assert placed == gone > 110.0
    assert waited == pytest.approx(placed - 50.0, abs=1.0)
    # It holds GPUs from then on, and is ready one start later.
    assert (placed, float("inf")) in runs["b"].pods
    ready = next(moment.at_seconds for moment in runs["b"].timeline if moment.ready == 2)
    assert placed + 20.0 <= ready <= placed + 25.0
    assert max(moment.pending for moment in runs["b"].timeline) == 1


def test_a_pod_that_was_scaled_away_while_it_waited_held_nothing() -> None:
    runs = play_fleet(
        [member("a", least=2)], nodes=pool(2), name="script", policies=Script((50.0, {"a": 4}), (80.0, {"a": 2}))
    )

    assert runs["a"].pods == [(0.0, float("inf"))] * 2
    assert [placed - made for made, placed in runs["a"].waits if made > 0.0] == pytest.approx([30.0, 30.0])


def test_the_higher_priority_is_placed_first_then_the_older() -> None:
    script = Script(
        (10.0, {"full": 3}),
        (30.0, {"low": 2}),
        (40.0, {"mid": 2}),
        (50.0, {"high": 2}),
        (60.0, {"mid": 3}),
        (99.0, {"full": 1}),
    )
    members = [
        member("full"), member("low", priority=-5), member("mid"), member("high", priority=5)
    ]  # fmt: skip
    runs = play_fleet(members, nodes=pool(6), name="script", policies=script)

    # Two GPUs come free: high takes one, the elder of mid the other, low none.
    (high,), (mid, younger), (low,) = (at_once(runs[name]) for name in ("high", "mid", "low"))
    assert high[0] < 110.0 and mid[0] < 110.0
    assert low[0] == younger[0] == float("inf")


def test_a_replica_is_not_split_over_nodes_and_holds_up_nobody() -> None:
    runs = play_fleet(
        [member("big", gpus=4, priority=9), member("small")],
        nodes=pool(4, 3),
        name="script",
        policies=Script((20.0, {"big": 2, "small": 3})),
    )

    assert at_once(runs["big"]) == [(float("inf"), float("inf"))]
    assert [waited for _, waited in at_once(runs["small"])] == [0.0, 0.0]


# --- a fleet under every kind of policy --------------------------------------------------------------


def deployed(phase: float, *, priority: int, gpus: int = 1, seed: int = 0) -> Deployed:
    arrivals = tuple(
        shape_arrivals(
            Shape.DIURNAL,
            requests_per_second=12.0,
            duration_seconds=600.0,
            lengths=Lengths(1500, 150, 0.5),
            seed=seed,
            phase=phase,
        )
    )
    model = MODEL.model_copy(update={"gpus": gpus})
    return Deployed(Circumstances(model, 20.0, 2.0, 0.05, arrivals), "a100", priority, 1, 6)


SCARCE = Fleet(
    pool(4, 4),
    {
        "a": deployed(0.0, priority=1, seed=1),
        "b": deployed(0.5, priority=0, seed=2),
        "c": deployed(0.2, priority=0, gpus=2, seed=3),
    },
)


def played(policy: str, fleet: Fleet = SCARCE, *, target: float | None = None) -> FleetOutcome:
    return play_fleet_job(FleetJob(policy, target, 4, keep_runs=True), fleet)


class Checked(Pool):
    """Says at every event whether a node gave more than it has, or got back more than it gave."""

    most = 0

    def take(self, accelerator: str, gpus: int) -> str:
        node = super().take(accelerator, gpus)
        self._check()
        return node

    def give_back(self, accelerator: str, node: str, gpus: int) -> None:
        super().give_back(accelerator, node, gpus)
        self._check()

    def _check(self) -> None:
        nodes = [node for its in self.nodes().values() for node in its]
        assert all(0 <= node.free_gpus <= node.allocatable_gpus for node in nodes)
        Checked.most = max(Checked.most, sum(node.allocatable_gpus - node.free_gpus for node in nodes))


@pytest.mark.parametrize(("policy", "target"), [(OURS, None), ("hpa-inflight", 3.0), ("keda", 2.0), ("static", None)])
def test_no_gpu_is_held_twice_and_no_request_is_lost(
    policy: str, target: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "Pool", Checked)
    Checked.most = 0
    outcome = played(policy, target=target)

    # All of the pool was wanted, or nothing was checked.
    assert 6 <= Checked.most <= SCARCE.gpus
    assert outcome.runs is not None
    holds = [(hold, run.gpus_per_replica) for run in outcome.runs.values() for hold in run.pods]
    for (begins, _), _ in holds:
        assert sum(gpus for (made, gone), gpus in holds if made <= begins < gone) <= SCARCE.gpus
    for name, each in SCARCE.deployments.items():
        assert outcome.scores[name].requests == len(each.circumstances.arrivals)
        assert [served.at_seconds for served in outcome.runs[name].served] == [
            arrival.at_seconds for arrival in each.circumstances.arrivals
        ]
    total = outcome.scores[FLEET]
    assert total.requests == sum(len(each.circumstances.arrivals) for each in SCARCE.deployments.values())
    parts = [score for name, score in outcome.scores.items() if name != FLEET]
    assert total.violations == sum(each.violations for each in parts)
    assert total.gpu_hours == pytest.approx(sum(each.gpu_hours for each in parts))
    assert outcome.total.worst_attainment == min(each.attainment for each in parts)
    assert 0.0 < outcome.total.gpu_utilization <= 1.0


@pytest.mark.parametrize("policy", [OURS, "keda"])
def test_the_same_seed_is_the_same_run_and_the_order_of_deployments_is_none(policy: str) -> None:
    turned = Fleet(SCARCE.nodes, dict(reversed(SCARCE.deployments.items())))

    first, again, other = played(policy), played(policy), played(policy, turned)

    assert first == again == other
    assert first.runs != play_fleet_job(FleetJob(policy, None, 5, keep_runs=True), SCARCE).runs


def test_rivals_ask_for_gpus_that_are_not_there_and_ours_does_not() -> None:
    assert played("keda", target=2.0).waited[FLEET].gpu_hours_pending > 0.05
    assert played(OURS).waited[FLEET].gpu_hours_pending < 0.01


def test_a_partition_fills_the_pool_by_need_and_fits() -> None:
    parts = partition(SCARCE)
    held = sum(parts[name] * each.circumstances.model.gpus for name, each in SCARCE.deployments.items())

    assert all(parts[name] >= 1 for name in SCARCE.deployments)
    assert held in (7, 8)
    assert played("static").waited[FLEET].pending_pod_hours == 0.0
