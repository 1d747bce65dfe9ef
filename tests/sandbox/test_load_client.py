"""The generator against engines that are slow, gone, draining or wrong: sending never waits for an answer."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import asdict

import pytest

from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.score import Served
from sandbox.engine.faults import Fault, FaultKind
from sandbox.load.client import Generator, Patience
from sandbox.load.pool import Endpoint, Pool
from sandbox.load.report import Progress, Targets
from tests.sandbox.engines import MODEL, Running, StartEngine


def pool_of(*running: Running) -> Pool:
    pool = Pool()
    for number, pod in enumerate(running):
        pool.put(f"uid-{number}", Endpoint(f"pod-{number}", pod.base_url, MODEL))
    return pool


def every(seconds: float, count: int, *, prompt: int = 7, output: int = 5) -> list[Arrival]:
    return [Arrival(seconds * n, prompt, output) for n in range(count)]


async def test_it_counts_tokens_as_the_engine_does(start_engine: StartEngine) -> None:
    running = await start_engine(decodeBaseMs=10.0)
    report = await Generator(pool_of(running)).run(every(0.01, 20))
    assert (report.requests, report.completed, report.failed) == (20, 20, 0)
    assert report.prompt_tokens == 20 * 7
    assert report.output_tokens == 20 * 5
    assert report.time_to_first_token_seconds.count == 20
    assert report.inter_token_latency_seconds.count == 20 * 4
    assert report.inter_token_latency_seconds.p50 == pytest.approx(0.010, rel=0.25)
    assert json.loads(report.to_json()) == json.loads(json.dumps(asdict(report)))


async def test_attainment_counts_each_request_by_its_first_token_and_its_mean_pace(start_engine: StartEngine) -> None:
    running = await start_engine(maxRunning=1, decodeBaseMs=20.0)
    answers: list[Served] = []
    targets = Targets(ttft_seconds=0.25, tpot_seconds=0.035)
    # One at a time, 100 ms each: the fourth begins when 300 ms have passed.
    report = await Generator(pool_of(running), targets=targets, on_answer=answers.append).run(every(0.0, 4))
    assert len(answers) == 4
    assert report.in_target == sum(answer.meets(**asdict(targets)) for answer in answers)
    assert answers[-1].ttft_seconds is not None and answers[-1].ttft_seconds > targets.ttft_seconds
    assert all(answer.tpot_seconds is not None for answer in answers)
    assert report.attainment == report.in_target / 4 < 1.0


async def test_a_request_that_nobody_serves_misses_its_targets() -> None:
    answers: list[Served] = []
    generator = Generator(Pool(), patience=Patience(hold_seconds=0.2), on_answer=answers.append)
    report = await generator.run(every(0.01, 3))
    assert answers == [Served(pytest.approx(0.01 * number), None, None) for number in range(3)]
    assert (report.in_target, report.attainment) == (0, 0.0)


@pytest.mark.parametrize(
    ("answer", "met"),
    [
        (Served(0.0, 2.0, 0.05), True),
        (Served(0.0, 2.1, 0.01), False),
        (Served(0.0, 0.1, 0.051), False),
        (Served(0.0, 0.1, 0.0), True),  # a single token has no pace
        (Served(0.0, 0.1, None), False),  # cut off after its first token
        (Served(0.0, None, None), False),
    ],
)
def test_an_answer_meets_both_targets_or_none(answer: Served, met: bool) -> None:
    assert answer.meets(**asdict(Targets())) is met


async def test_it_is_open_loop_against_a_slow_server(start_engine: StartEngine) -> None:
    running = await start_engine(maxRunning=1, decodeBaseMs=50.0)
    generator = Generator(pool_of(running))
    arrivals = every(0.02, 50, output=2)
    running_load = asyncio.create_task(generator.run(arrivals))
    most_open = 0
    while not running_load.done():
        most_open = max(most_open, running.engine.open_requests)
        await asyncio.sleep(0.01)
    # 50 are due within a second, of which the server can have answered 11. One that waits for answers has one open.
    assert most_open >= 20
    report = await running_load
    assert report.completed == 50
    slowest = report.time_to_first_token_seconds.p99
    assert slowest is not None and slowest > 3.0
    # One that waits for answers sends its last as late as they come; a busy machine may well hold one up for a moment.
    assert report.largest_send_lag_seconds < slowest / 2


async def test_the_least_loaded_pod_gets_the_next(start_engine: StartEngine) -> None:
    slow, fast = await start_engine(decodeBaseMs=1000.0), await start_engine(decodeBaseMs=1.0)
    report = await Generator(pool_of(slow, fast)).run(every(0.05, 40))
    assert report.completed == 40
    assert report.by_pod["pod-1"] > 3 * report.by_pod["pod-0"]


async def test_a_refusal_is_retried_on_another_pod(start_engine: StartEngine) -> None:
    draining, ready = await start_engine(), await start_engine()
    draining.engine.draining = True
    pool = pool_of(draining, ready)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        pool.put("uid-closed", Endpoint("closed", f"http://127.0.0.1:{closed.getsockname()[1]}", MODEL))
        report = await Generator(pool).run(every(0.01, 9))
    assert (report.completed, report.failed, report.held) == (9, 0, 0)
    assert report.retries == report.by_pod["pod-0"] + report.by_pod["closed"] > 0


async def test_after_the_first_byte_nothing_is_retried(start_engine: StartEngine) -> None:
    breaking, ready = await start_engine(decodeBaseMs=20.0), await start_engine()
    pool = pool_of(breaking)
    running_load = asyncio.create_task(Generator(pool).run([Arrival(0.0, 5, 1000)]))
    while not breaking.engine.open_requests:  # noqa: ASYNC110  the request is on its way over TCP
        await asyncio.sleep(0.01)
    pool.put("uid-ready", Endpoint("ready", ready.base_url, MODEL))
    await asyncio.sleep(0.1)
    await breaking.engine.drain(seconds=0.0)
    report = await running_load
    assert report.errors == {"disconnected": 1}
    assert "ready" not in report.by_pod


async def test_requests_are_held_while_no_pod_is_ready(start_engine: StartEngine) -> None:
    running = await start_engine()
    pool = Pool()
    running_load = asyncio.create_task(Generator(pool).run(every(0.01, 5)))
    await asyncio.sleep(0.3)
    pool.put("uid", Endpoint("late", running.base_url, MODEL))
    report = await running_load
    assert (report.completed, report.held) == (5, 5)
    assert report.time_to_first_token_seconds.p50 is not None and report.time_to_first_token_seconds.p50 > 0.2


async def test_holding_has_an_end(start_engine: StartEngine) -> None:
    report = await Generator(Pool(), patience=Patience(hold_seconds=0.2)).run(every(0.01, 3))
    assert report.errors == {"no-ready-pod": 3}
    draining = await start_engine(loaded=False)
    begins = time.monotonic()
    report = await Generator(pool_of(draining), patience=Patience(hold_seconds=0.5)).run(every(0.01, 3))
    assert report.errors == {"refused": 3}
    assert 0.4 < time.monotonic() - begins < 1.5


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(kind=FaultKind.HTTP500, scope="api"), "status-500"),
        (Fault(kind=FaultKind.REDIRECT, scope="api"), "status-302"),
        (Fault(kind=FaultKind.INFINITE, scope="api"), "garbled"),
        (Fault(kind=FaultKind.SILENT, scope="api"), "timeout"),
        (Fault(kind=FaultKind.HANG), "timeout"),
    ],
)
async def test_errors_by_kind(start_engine: StartEngine, fault: Fault, error: str) -> None:
    running = await start_engine()
    running.engine.set_fault(fault)
    report = await Generator(pool_of(running), patience=Patience(read_seconds=0.3)).run(every(0.01, 3))
    assert (report.completed, report.errors) == (0, {error: 3})


async def test_progress_is_told_while_it_runs(start_engine: StartEngine) -> None:
    running = await start_engine()
    seen: list[Progress] = []
    await Generator(pool_of(running), on_progress=seen.append).run(every(0.1, 22))
    assert len(seen) == 2
    assert seen[0].ready_pods == 1
    assert seen[0].arrivals_per_second == pytest.approx(10.0, abs=1.0)
    assert seen[0].output_tokens_per_second == pytest.approx(50.0, abs=6.0)
