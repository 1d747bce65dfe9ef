"""What a decision costs, without a cluster: `decide` over a fleet, and the sharing of GPUs among many."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from statistics import mean
from subprocess import PIPE, CalledProcessError, Popen
from time import process_time

from bench.compiled import compiled
from bench.figures import Against, Figure, percentile
from bench.obvious_allocation import share_obviously
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import ModelDeploymentSpec, Scaling, ServedModel
from modelfleet.decide.allocate import Ask
from modelfleet.decide.cycle import decide
from modelfleet.decide.history import Memory
from modelfleet.decide.shares import share_out
from modelfleet.decide.snapshot import (
    Child,
    Missing,
    Node,
    Observed,
    Pod,
    PodSignals,
    Quota,
    Signal,
    Snapshot,
    Tenant,
)
from modelfleet.shell.process import GC_THRESHOLD
from sandbox.cluster import CHECKOUT

DEPLOYMENTS = 1_000
PODS_EACH = 4
ASKS = 10_000
TENANTS, FEW_TENANTS = 10_000, 60
GPUS_A_NODE = 8
WARM_TICKS, TIMED_TICKS = 40, 40
WARM_TICK_SECONDS = 10.0
"""Forecasts are charged after three starts, of 100 s here; the fleet is older than that when it is measured."""
TARGET_MICROSECONDS = 50.0
TARGET_FLEET_MILLISECONDS = 60.0
TARGET_ALLOCATE_MILLISECONDS = 50.0
START = 1_000_000.0
NO_TOKEN = Missing("no token in the rate window", fault=False)


def measure() -> Iterator[Figure]:
    """Yield what decisions and allocations cost, as the image has them and as plain Python."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(compiled()), str(CHECKOUT)])}
    command = [sys.executable, "-m", "bench.decide_cost"]
    with Popen(command, env=environment, cwd=CHECKOUT, stdout=PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            found = json.loads(line)
            against = Against(**found["against"]) if found["against"] else None
            yield Figure(f"{found['figure']}; compiled", found["value"], found["unit"], against)
    if child.returncode:
        raise CalledProcessError(child.returncode, command)
    for figure in measure_here():
        yield replace(figure, figure=f"{figure.figure}; plain Python")
    yield share_both_ways()


def measure_here() -> Iterator[Figure]:
    """Yield the CPU time of one decision in a fleet of 1,000, and of one allocation of 10,000 asks."""
    # As the operator does.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    cost = _cost_of_a_decision() * 1e6
    yield Figure(
        f"decide: one decision of {DEPLOYMENTS:,}, {PODS_EACH} pods each",
        cost,
        "us",
        Against("target", TARGET_MICROSECONDS),
    )
    yield Figure(
        f"decide: all of {DEPLOYMENTS:,}",
        cost * DEPLOYMENTS / 1e3,
        "ms",
        Against("target", TARGET_FLEET_MILLISECONDS),
    )
    asks, nodes = crowd()
    yield Figure(
        f"allocate: {ASKS:,} asks, GPUs for half of the growth",
        _milliseconds(lambda: share_out(asks, nodes, ())),
        "ms",
        Against("target", TARGET_ALLOCATE_MILLISECONDS),
    )
    asks, nodes, tenants = teams(TENANTS)
    yield Figure(
        f"allocate: {TENANTS:,} tenants x 2 classes, GPUs for half of the growth",
        _milliseconds(lambda: share_out(asks, nodes, tenants)),
        "ms",
        Against("target", TARGET_ALLOCATE_MILLISECONDS),
    )


def _cost_of_a_decision() -> float:
    """Return the CPU seconds of one decision in the fleet, which is forgotten again."""
    history: dict[Key, Memory] = {}
    seconds = []
    at = START
    for tick in range(WARM_TICKS + TIMED_TICKS):
        at += WARM_TICK_SECONDS if tick < WARM_TICKS else 1.0
        snapshot = fleet(at, tick)
        began = process_time()
        plan = decide(snapshot, history)
        seconds.append(process_time() - began)
        history = dict(plan.history)
    # The mean: every tenth tick, the one in which the lookback closes its buckets, costs more.
    return mean(seconds[WARM_TICKS:]) / DEPLOYMENTS


def share_both_ways() -> Figure:
    """Return the CPU time of sharing among few tenants, beside that of the obvious way."""
    asks, nodes, tenants = teams(FEW_TENANTS)
    began = process_time()
    fast = share_out(asks, nodes, tenants)
    fast_seconds = process_time() - began
    began = process_time()
    obvious = share_obviously(asks, nodes, tenants)
    seconds = process_time() - began
    assert fast.granted == obvious.granted
    return Figure(
        f"allocate: {FEW_TENANTS} tenants x 2 classes; plain Python",
        fast_seconds * 1e3,
        "ms",
        Against("the obvious implementation", seconds * 1e3),
    )


def _milliseconds(work: Callable[[], object]) -> float:
    """Return the CPU time of a call, the median of nine."""
    rounds = []
    for _ in range(9):
        began = process_time()
        work()
        rounds.append(process_time() - began)
    return percentile(rounds, 50) * 1e3


def teams(count: int) -> tuple[list[Ask], dict[str, tuple[Node, ...]], list[Tenant]]:
    """Return tenants with a deployment of each class, and free GPUs for about half of the growth they ask for."""
    asks, tenants = [], []
    for number in range(count):
        name = f"team-{number:05}"
        for index, accelerator in enumerate(("a100", "h100")):
            held, gpus = 2, (1, 2)[(number + index) % 2]
            asks.append(
                Ask(
                    key=Key(name, accelerator),
                    accelerator=accelerator,
                    gpus=gpus,
                    priority=0,
                    held=held,
                    assured=held,
                    asked=held + (number + index) % 4,
                    tenant=name,
                )
            )
        quota = Quota(2 + number % 3, 2 + number % 5 if number % 2 else None, None, 1 + number % 3)
        used = {ask.accelerator: ask.held * ask.gpus for ask in asks[-2:]}
        tenants.append(Tenant(name=name, namespaces=(name,), quotas={"a100": quota, "h100": quota}, used_gpus=used))
    nodes = {}
    for accelerator in ("a100", "h100"):
        wanted = sum((ask.asked - ask.held) * ask.gpus for ask in asks if ask.accelerator == accelerator)
        nodes[accelerator] = tuple(
            Node(f"node-{index:05}", GPUS_A_NODE, GPUS_A_NODE) for index in range(wanted // 2 // GPUS_A_NODE)
        )
    return asks, nodes, tenants


@cache
def specs() -> list[ModelDeploymentSpec]:
    """Return what the deployments ask for: each its own object, the same one at every decision, as the operator has."""
    return [
        ModelDeploymentSpec(
            model=ServedModel(name="bench/model"),
            runtime="vllm",
            accelerator="h100",
            scaling=Scaling(min_replicas=1, max_replicas=16),
        )
        for _ in range(DEPLOYMENTS)
    ]


def fleet(at: float, tick: int) -> Snapshot:
    """Return a fleet whose loads differ and move, so that every step of the decision has work."""
    deployments = []
    for number in range(DEPLOYMENTS):
        key = Key("bench", f"model-{number:04}")
        # A load that wanders over a minute: some deployments want more, some less, most nothing.
        wave = (number * 7 + tick) % 60
        pods = tuple(_pod(key, index, at, queued=float(max(0, wave - 50)), tokens=10.0 * wave) for index in range(4))
        deployments.append(
            Observed(
                key=key,
                uid=key.name,
                generation=1,
                spec=specs()[number],
                child=Child(uid=key.name, replicas=PODS_EACH),
                pods=pods,
                recorded_desired=PODS_EACH,
                prior_output_tokens_per_second=1200.0,
            )
        )
    nodes = tuple(Node(f"node-{index}", index % 3, GPUS_A_NODE) for index in range(DEPLOYMENTS * PODS_EACH // 8))
    return Snapshot(taken_at=at, metrics_max_age_seconds=5.0, deployments=tuple(deployments), nodes={"h100": nodes})


def crowd() -> tuple[list[Ask], dict[str, tuple[Node, ...]]]:
    """Return asks of three priorities and sizes, and free GPUs for about half of the growth they ask for."""
    asks = [
        Ask(
            key=Key("bench", f"model-{number:05}"),
            accelerator="h100",
            gpus=(1, 2, 4)[number % 3],
            priority=number % 5 % 3,
            held=2,
            assured=2,
            asked=2 + number % 4,
        )
        for number in range(ASKS)
    ]
    wanted = sum((ask.asked - ask.held) * ask.gpus for ask in asks)
    nodes = tuple(Node(f"node-{index}", GPUS_A_NODE, GPUS_A_NODE) for index in range(wanted // 2 // GPUS_A_NODE))
    return asks, {"h100": nodes}


def _pod(key: Key, index: int, at: float, *, queued: float, tokens: float) -> Pod:
    name = f"{key.name}-{index}"
    return Pod(
        name=name,
        uid=name,
        created_at=START - 3_000,
        ready_at=START - 2_900,
        node=f"node-{index}",
        signals=PodSignals(
            queued_requests=Signal(queued, at),
            running_requests=Signal(4.0, at),
            output_tokens_per_second=Signal(tokens, at),
            finished_requests_per_second=Signal(tokens / 100, at),
            kv_cache_utilization=Missing("not needed"),
            inter_token_seconds=Signal(0.010 + tokens / 20_000, at) if tokens else NO_TOKEN,
            input_tokens_per_second=Signal(4.0 * tokens, at),
        ),
    )


if __name__ == "__main__":
    for found in measure_here():
        print(json.dumps(asdict(found)), flush=True)
