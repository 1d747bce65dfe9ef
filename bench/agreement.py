"""The same requests through the sandbox and through the simulator: do replica-hours and attainment agree?

In the sandbox everything is real but the GPUs: API server, scheduler, controllers, HTTP, and the operator's own
process, in real time. The simulator plays the same arrivals, service times, start and bounds with `decide` alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import inf
from statistics import fmean, median
from time import monotonic
from typing import Any

from bench import procfs, product
from bench.cluster import NAMESPACE, Bare, bare, say
from bench.figures import Against, Figure
from bench.observer import PodSeen, ScaleSeen
from bench.product import Operator
from modelfleet.api.meta import Key
from modelfleet.simulate.arrivals import Arrival, Lengths
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.ours import KIND
from modelfleet.simulate.policy import Circumstances, Setting
from modelfleet.simulate.score import Run, Score, Served, score
from modelfleet.simulate.shapes import Shape, shape_arrivals
from modelfleet.simulate.world import Start, play
from sandbox.engine.profile import PROFILE_ANNOTATION
from sandbox.fleet import end, start_engines
from sandbox.load.client import run_load
from sandbox.load.report import Report

TTFT_SECONDS, TPOT_SECONDS = 2.0, 0.05
"""What attainment is counted against: `modelfleet simulate`'s defaults."""
REPLICA_HOURS_TARGET_PERCENT, ATTAINMENT_TARGET_POINTS = 10.0, 3.0
SEEDS = 20
"""Of the simulator: each draws another phase of the operator's loop, which a sandbox has one of."""
READY_SECONDS = 180.0
QUICK_SECONDS = 150.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests for one deployment, and its engine.

    Attributes:
        name: For the figures, and the deployment's.
        arrivals: In order of time, seconds from the start.
        service: Limits and service times, as the engine annotation and a calibration file both name them.
        image_seconds, load_seconds: The cold start's phases.
        gpus: Of one replica.
        max_replicas: Bound; the minimum is 1.
    """

    name: str
    arrivals: tuple[Arrival, ...]
    service: dict[str, Any]
    image_seconds: float
    load_seconds: float
    gpus: int
    max_replicas: int

    @property
    def key(self) -> Key:
        """The deployment that serves it."""
        return Key(NAMESPACE, self.name)

    @property
    def setting(self) -> Setting:
        """Bounds, and latencyWeight as it is by default."""
        model = ReplicaModel.model_validate(self.service)
        return Setting(KIND.default_target(model), min_replicas=1, max_replicas=self.max_replicas)

    def manifest(self) -> dict[str, Any]:
        """Return its ModelDeployment, everything at its default but the bounds."""
        manifest = product.model_deployment(self.key, scaling={"minReplicas": 1, "maxReplicas": self.max_replicas})
        start = {"imagePullSeconds": self.image_seconds, "modelLoadSeconds": self.load_seconds}
        manifest["metadata"]["annotations"] = {PROFILE_ANNOTATION: json.dumps(self.service | start)}
        manifest["spec"]["gpusPerReplica"] = self.gpus
        del manifest["spec"]["drainSeconds"]
        return manifest


def loads(*, seconds: float) -> tuple[Load, ...]:
    """Return loads that differ in kind, cut off after this long.

    The first fills batches before its steps grow long; long prompts make the second's steps long before its batches
    are full. The third comes all at once, to an engine as fast as published; the fourth runs out of KV cache and
    comes and goes. Service times are slow where two cores would not keep up with the tokens.
    """
    smooth = shape_arrivals(
        Shape.RISE_BURST_FALL,
        requests_per_second=12.0,
        duration_seconds=1200.0,
        lengths=Lengths(200.0, 64.0, 0.5),
        seed=1,
    )
    clumped = _stretches(
        (240.0, 5.0), (480.0, 0.7), (180.0, 4.0), (60.0, 1.0), lengths=Lengths(2000.0, 80.0, 0.5), seed=2
    )
    crowd = shape_arrivals(
        Shape.FLASH_CROWD,
        requests_per_second=10.0,
        duration_seconds=900.0,
        lengths=Lengths(1000.0, 250.0, 0.7),
        seed=3,
    )
    turns = shape_arrivals(
        Shape.ON_OFF, requests_per_second=6.0, duration_seconds=1100.0, lengths=Lengths(600.0, 120.0, 1.0), seed=11
    )

    def first(arrivals: Iterable[Arrival]) -> tuple[Arrival, ...]:
        return tuple(takewhile(lambda arrival: arrival.at_seconds <= seconds, arrivals))

    return (
        Load(
            name="rise-burst-fall-8b",
            arrivals=first(smooth),
            service={"calibration": "llama-3.1-8b-h100", "maxRunning": 12, "decodeBaseMs": 20.0}
            | {"decodeMsPerSequence": 2.0, "prefillMsPerToken": 0.1},
            image_seconds=5.0,
            load_seconds=25.0,
            gpus=1,
            max_replicas=6,
        ),
        Load(
            name="bursts-70b",
            arrivals=first(clumped),
            service={"calibration": "llama-2-70b-h100-tp8"},
            image_seconds=5.0,
            load_seconds=35.0,
            gpus=8,
            max_replicas=6,
        ),
        Load(
            name="flash-crowd-8b",
            arrivals=first(crowd),
            service={"calibration": "llama-3.1-8b-h100", "maxRunning": 32},
            image_seconds=5.0,
            load_seconds=35.0,
            gpus=1,
            max_replicas=6,
        ),
        Load(
            name="on-off-small-kv",
            arrivals=first(turns),
            service={"calibration": "llama-2-70b-h100-tp8", "kvCacheTokens": 20_000, "serviceJitter": 0.2},
            image_seconds=10.0,
            load_seconds=30.0,
            gpus=1,
            max_replicas=5,
        ),
    )


def _stretches(*stretches: tuple[float, float], lengths: Lengths, seed: int) -> Iterator[Arrival]:
    """Yield clumped arrivals (Gamma) at rates that change: (seconds, requests a second) in turn."""
    begins = 0.0
    for number, (seconds, rate) in enumerate(stretches):
        for each in shape_arrivals(
            Shape.BURST, requests_per_second=rate, duration_seconds=seconds, lengths=lengths, seed=seed + number
        ):
            yield Arrival(begins + each.at_seconds, each.prompt_tokens, each.output_tokens)
        begins += seconds


@dataclass(frozen=True, slots=True)
class Played:
    """One load as the sandbox played it.

    Attributes:
        run: In the simulator's terms.
        start_seconds: Of each pod, from the event of its creation to that of its readiness.
        report: The load client's.
    """

    run: Run
    start_seconds: tuple[float, ...]
    report: Report


async def measure(*, quick: bool) -> list[Figure]:
    """Play the loads in one sandbox at the same time, then in the simulator, and return what both say."""
    chosen = loads(seconds=QUICK_SECONDS if quick else inf)
    # Twice the most: what drains still holds its GPUs.
    nodes = sum(-(-2 * load.max_replicas * load.gpus // 8) for load in chosen)
    async with bare("agreement", h100_nodes=nodes) as here:
        operator = Operator(here.sandbox, here.account, "agreement")
        engines = start_engines(here.sandbox, here.sandbox.directory / "logs" / "engines.log")
        try:
            for load in chosen:
                await asyncio.to_thread(product.create, here.sandbox, load.manifest())
            await here.settled([load.key for load in chosen], seconds=READY_SECONDS)
            longest = max(load.arrivals[-1].at_seconds for load in chosen)
            say(f"agreement: {len(chosen)} loads of up to {longest:.0f} s")
            began, busy, cpu = monotonic(), procfs.machine_busy_seconds(), procfs.cpu_seconds(engines.pid)
            played = await asyncio.gather(*(played_in_sandbox(here, load) for load in chosen))
            seconds = monotonic() - began
            busy = (procfs.machine_busy_seconds() - busy) / seconds
            cpu = (procfs.cpu_seconds(engines.pid) - cpu) / seconds
            operator.check()
        finally:
            operator.stop()
            end([engines])
    figures = [
        Figure("processors busy, of all that ran on the machine", busy, "cores"),
        Figure("the engines' process", cpu, "cores"),
    ]
    for load, each in zip(chosen, played, strict=True):
        figures += compare(load, each)
    return figures


async def played_in_sandbox(here: Bare, load: Load) -> Played:
    """Send a load to its ready deployment and return what came of it."""
    answers: list[Served] = []
    began = monotonic()
    report = await run_load(here.sandbox.kubeconfig, load.key, load.arrivals, on_answer=answers.append)
    pods = (*here.observer.gone.get(load.key, ()), *here.observer.pods[load.key].values())
    scales = [seen for seen in here.observer.scales if seen.key == load.key]
    return Played(
        run=run_of(load, began, pods, scales, answers),
        start_seconds=tuple(pod.ready_at - pod.first_seen_at for pod in pods if pod.ready_at is not None),
        report=report,
    )


def run_of(
    load: Load, began: float, pods: Sequence[PodSeen], scales: Sequence[ScaleSeen], answers: Sequence[Served]
) -> Run:
    """Return what was watched as the simulator's record of a run, which is then judged as any other.

    Args:
        load: What was played.
        began: The moment of its time zero.
        pods: Of its deployment, those that are gone too.
        scales: Writes of its replica count.
        answers: Of all its requests, in any order.
    """
    desired, changes = load.setting.min_replicas, []
    for seen in scales:
        if seen.at >= began:
            changes.append((seen.at - began, seen.replicas - desired))
            desired = seen.replicas
    return Run(
        policy="sandbox",
        setting=load.setting,
        seconds=load.arrivals[-1].at_seconds,
        gpus_per_replica=load.gpus,
        pods=[(pod.first_seen_at - began, inf if pod.gone_at is None else pod.gone_at - began) for pod in pods],
        served=sorted(answers, key=lambda each: each.at_seconds),
        timeline=(),
        scales=changes,
    )


def simulated(load: Load) -> list[Run]:
    """Play the load in the simulator, once a seed."""
    model = ReplicaModel.model_validate(load.service | {"gpus": load.gpus})
    start = Start(0.0, load.image_seconds, load.load_seconds, spread=0.0)
    circumstances = Circumstances(model, start.seconds, TTFT_SECONDS, TPOT_SECONDS, load.arrivals)
    return [
        play(
            load.arrivals,
            name=KIND.name,
            policy=KIND.build(load.setting, circumstances),
            setting=load.setting,
            circumstances=circumstances,
            start=start,
            seed=seed,
        )
        for seed in range(SEEDS)
    ]


def compare(load: Load, played: Played) -> Iterator[Figure]:
    """Judge both and hold one against the other."""
    runs = simulated(load)
    real, drawn = _judged(played.run), [_judged(run) for run in runs]

    def hours(each: Score) -> float:
        return each.gpu_hours / load.gpus

    def both(what: str, value: float, others: Sequence[float], unit: str) -> Figure:
        return Figure(f"{load.name}: {what}", value, unit, Against("simulator", fmean(others)))

    def spread(what: str, others: Sequence[float], unit: str) -> Iterator[Figure]:
        for label, other in (("least", min(others)), ("most", max(others))):
            yield Figure(f"{load.name}: {what}, {label} of {len(others)} seeds", other, unit)

    apart = abs(100.0 * (fmean(hours(each) for each in drawn) / hours(real) - 1.0))
    points = abs(100.0 * (fmean(each.attainment for each in drawn) - real.attainment))
    yield Figure(f"{load.name}: requests", real.requests, "requests")
    yield both("replica-hours", hours(real), [hours(each) for each in drawn], "h")
    yield from spread("replica-hours", [hours(each) for each in drawn], "h")
    yield Figure(f"{load.name}: replica-hours apart", apart, "%", Against("target", REPLICA_HOURS_TARGET_PERCENT))
    attained = [100.0 * each.attainment for each in drawn]
    yield both("in target", 100.0 * real.attainment, attained, "%")
    yield from spread("in target", attained, "%")
    yield Figure(f"{load.name}: attainment apart", points, "points", Against("target", ATTAINMENT_TARGET_POINTS))
    near = [
        abs(hours(each) / hours(real) - 1.0) * 100.0 <= REPLICA_HOURS_TARGET_PERCENT
        and abs(each.attainment - real.attainment) * 100.0 <= ATTAINMENT_TARGET_POINTS
        for each in drawn
    ]
    yield Figure(f"{load.name}: seeds within both targets", sum(near), "seeds", Against("of", len(near)))
    yield both("most replicas", _peak(played.run), [_peak(run) for run in runs], "replicas")
    reversals = [each.reversals_per_hour * run.seconds / 3600.0 for each, run in zip(drawn, runs, strict=True)]
    yield both("reversals", real.reversals_per_hour * played.run.seconds / 3600.0, reversals, "turns")
    for label in ("ttft_p50_s", "ttft_p99_s"):
        others = [getattr(each, label) for each in drawn]
        if getattr(real, label) is not None and None not in others:
            yield both(f"TTFT {label[5:8]}", getattr(real, label), others, "s")
    nominal = Against("annotation", load.image_seconds + load.load_seconds)
    yield Figure(f"{load.name}: start of a pod, median", median(played.start_seconds), "s", nominal)
    yield Figure(f"{load.name}: failed requests", played.report.failed, "requests")
    yield Figure(f"{load.name}: the load client's own lag, most", played.report.largest_send_lag_seconds, "s")


def _judged(run: Run) -> Score:
    return score(run, ttft_seconds=TTFT_SECONDS, tpot_seconds=TPOT_SECONDS)


def _peak(run: Run) -> int:
    """Return the most replicas asked for before the last request."""
    most = count = run.setting.min_replicas
    for at, change in run.scales:
        count += change
        if at < run.seconds:
            most = max(most, count)
    return most
