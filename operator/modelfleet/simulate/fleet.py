"""Deployments that share one pool of GPUs: who gets them, judged as scaling is.

Ours decides for all of them at once. Every rival runs once a deployment and knows nothing of the others; kube-scheduler
then decides. `static` becomes a partition: each deployment holds its part of the pool for good.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from modelfleet.decide.snapshot import Node
from modelfleet.simulate.oracle import needed
from modelfleet.simulate.ours import Governed, ModelfleetFleet
from modelfleet.simulate.policy import Circumstances, FleetPolicy, Policy, Setting
from modelfleet.simulate.pool import Pool
from modelfleet.simulate.registry import KINDS, ORACLE, OURS, kind_named
from modelfleet.simulate.rivals import static
from modelfleet.simulate.score import Run, Score, percentile, score
from modelfleet.simulate.world import Member, Start, play_fleet

FLEET: Final = "fleet"
"""Names the total: no deployment may have this name."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """One deployment of a fleet, before a policy is chosen.

    Attributes:
        circumstances: With its requests; at least one.
        accelerator: Class of its nodes.
        priority: Who gets free GPUs first; higher wins.
        min_replicas: Fewest replicas.
        max_replicas: Most replicas.
    """

    circumstances: Circumstances
    accelerator: str
    priority: int
    min_replicas: int
    max_replicas: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """Nodes by accelerator class, all of them free, and deployments by name."""

    nodes: Mapping[str, tuple[Node, ...]]
    deployments: Mapping[str, Deployed]

    @property
    def gpus(self) -> int:
        """All GPUs of the pool."""
        return sum(node.allocatable_gpus for nodes in self.nodes.values() for node in nodes)


@dataclass(frozen=True, slots=True)
class FleetJob:
    """A run to make.

    Attributes:
        policy: Name of its kind.
        target: For all deployments; None is each one's default.
        seed: Of the run.
        keep_runs: Whether the runs come back too, for pictures; they are large.
    """

    policy: str
    target: float | None
    seed: int
    keep_runs: bool = False


@dataclass(frozen=True, slots=True)
class Waited:
    """How long pods waited for GPUs.

    Attributes:
        gpu_hours_pending: GPUs that were waited for, times hours.
        pending_pod_hours: Pods that waited, times hours.
        pending_p99_s: Time until a pod had its GPUs; one that waited to the end counts until then.
    """

    gpu_hours_pending: float
    pending_pod_hours: float
    pending_p99_s: float | None


@dataclass(frozen=True, slots=True)
class Total:
    """The fleet as a whole.

    Attributes:
        worst_attainment: Attainment of the deployment that has the least.
        gpu_utilization: Share of the pool's GPU-hours that pods held.
    """

    worst_attainment: float
    gpu_utilization: float


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """What came of a job.

    Attributes:
        scores: By deployment, and of all requests together under FLEET.
        waited: The same of waiting for GPUs.
        total: What only the fleet has.
        runs: By deployment, if they were to be kept.
    """

    job: FleetJob
    scores: Mapping[str, Score]
    waited: Mapping[str, Waited]
    total: Total
    runs: Mapping[str, Run] | None


def own_seed(seed: int, name: str) -> int:
    """Return a seed of this deployment's own: equal loads of two must not arrive together."""
    return zlib.crc32(f"{seed}/{name}".encode())


def settings(fleet: Fleet, job: FleetJob) -> dict[str, Setting]:
    """Return how a job tunes each deployment."""
    if job.policy == static.KIND.name and job.target is None:
        return {
            name: static.KIND.setting(
                float(replicas), min_replicas=1, max_replicas=fleet.deployments[name].max_replicas
            )
            for name, replicas in partition(fleet).items()
        }
    kind = kind_named(job.policy)
    return {
        name: kind.setting(
            kind.default_target(each.circumstances.model) if job.target is None else job.target,
            min_replicas=each.min_replicas,
            max_replicas=each.max_replicas,
        )
        for name, each in fleet.deployments.items()
    }


def partition(fleet: Fleet) -> dict[str, int]:
    """Divide the pool for good: the next replica goes to who has the smallest part of what its peak needs.

    The peaks are known in hindsight, which favours it.

    Returns:
        Replicas of each deployment, all of which fit the nodes, unless the minimums do not.
    """
    peaks = {
        name: max(
            needed(
                each.circumstances.arrivals,
                each.circumstances.model,
                target=KINDS[ORACLE].default_target(each.circumstances.model),
                tpot_seconds=each.circumstances.tpot_seconds,
                most=each.max_replicas,
            )
        )
        for name, each in fleet.deployments.items()
    }
    parts = {name: each.min_replicas for name, each in sorted(fleet.deployments.items())}
    growing = set(parts)
    while growing:
        name = min(growing, key=lambda name: (parts[name] / max(1, peaks[name]), name))
        more = parts | {name: parts[name] + 1}
        if more[name] <= fleet.deployments[name].max_replicas and _fits(fleet, more):
            parts = more
        else:
            growing.discard(name)
    return parts


def _fits(fleet: Fleet, parts: Mapping[str, int]) -> bool:
    """Return whether the scheduler places all of them, in the order in which it would."""
    pool = Pool(fleet.nodes)
    order = sorted(parts, key=lambda name: (-fleet.deployments[name].priority, name))
    return all(
        pool.take(each.accelerator, each.circumstances.model.gpus)
        for each, count in ((fleet.deployments[name], parts[name]) for name in order)
        for _ in range(count)
    )


def play_fleet_job(job: FleetJob, fleet: Fleet) -> FleetOutcome:
    """Play one policy on the fleet and judge it."""
    tuned = settings(fleet, job)
    policies: Mapping[str, Policy] | FleetPolicy
    if job.policy == OURS:
        policies = ModelfleetFleet(
            {
                name: Governed(tuned[name], each.circumstances, each.accelerator, each.priority)
                for name, each in fleet.deployments.items()
            }
        )
    else:
        build = kind_named(job.policy).build
        policies = {name: build(tuned[name], each.circumstances) for name, each in fleet.deployments.items()}
    runs = play_fleet(
        [
            Member(
                name=name,
                setting=tuned[name],
                circumstances=each.circumstances,
                start=Start.of(each.circumstances.start_seconds),
                seed=own_seed(job.seed, name),
                accelerator=each.accelerator,
                priority=each.priority,
            )
            for name, each in fleet.deployments.items()
        ],
        nodes=fleet.nodes,
        name=job.policy,
        policies=policies,
    )
    return judge(job, fleet, runs)


def judge(job: FleetJob, fleet: Fleet, runs: Mapping[str, Run]) -> FleetOutcome:
    """Judge the runs of a fleet, each deployment by its own latency targets."""
    scores = {
        name: score(
            runs[name],
            ttft_seconds=each.circumstances.ttft_seconds,
            tpot_seconds=each.circumstances.tpot_seconds,
        )
        for name, each in sorted(fleet.deployments.items())
    }
    total = _total(scores, runs)
    seconds = max(run.seconds for run in runs.values())
    waits = {name: _waits(run) for name, run in runs.items()}
    return FleetOutcome(
        job=job,
        scores=scores | {FLEET: total},
        waited={name: _waited([(wait, runs[name].gpus_per_replica) for wait in its]) for name, its in waits.items()}
        | {FLEET: _waited([(wait, runs[name].gpus_per_replica) for name, its in waits.items() for wait in its])},
        total=Total(
            worst_attainment=min(each.attainment for each in scores.values()),
            gpu_utilization=total.gpu_hours * 3600.0 / (fleet.gpus * seconds) if seconds else 0.0,
        ),
        runs=runs if job.keep_runs else None,
    )


def _total(scores: Mapping[str, Score], runs: Mapping[str, Run]) -> Score:
    """Return the score of all requests together; its target and minimum are nobody's."""
    served = [each for run in runs.values() for each in run.served]
    tpot = [None if each.tpot_seconds is None else each.tpot_seconds * 1000.0 for each in served]
    violations = sum(each.violations for each in scores.values())
    moments = zip(*(run.timeline for run in runs.values()), strict=True)
    return replace(
        next(iter(scores.values())),
        target=0.0,
        min_replicas=sum(each.min_replicas for each in scores.values()),
        gpu_hours=sum(each.gpu_hours for each in scores.values()),
        attainment=1.0 - violations / len(served),
        violations=violations,
        requests=len(served),
        ttft_p50_s=percentile([each.ttft_seconds for each in served], 0.50),
        ttft_p99_s=percentile([each.ttft_seconds for each in served], 0.99),
        tpot_p50_ms=percentile(tpot, 0.50),
        tpot_p99_ms=percentile(tpot, 0.99),
        reversals_per_hour=sum(each.reversals_per_hour for each in scores.values()),
        max_replicas=max((sum(moment.pods for moment in each) for each in moments), default=0),
        unfinished=sum(each.unfinished for each in scores.values()),
    )


def _waits(run: Run) -> list[float]:
    """Return how long each pod waited within the run."""
    return [max(0.0, min(placed, run.seconds) - made) for made, placed in run.waits if made <= run.seconds]


def _waited(waits: Sequence[tuple[float, int]]) -> Waited:
    """Fold the seconds that pods waited, and the GPUs of each."""
    return Waited(
        gpu_hours_pending=sum(seconds * gpus for seconds, gpus in waits) / 3600.0,
        pending_pod_hours=sum(seconds for seconds, _ in waits) / 3600.0,
        pending_p99_s=percentile([seconds for seconds, _ in waits], 0.99),
    )
