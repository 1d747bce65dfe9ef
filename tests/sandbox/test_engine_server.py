"""The simulated engine over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

import aiohttp
import openai
import pytest

from sandbox.engine.dialects import DIALECTS
from sandbox.engine.faults import Fault, FaultKind
from tests.sandbox.engines import MODEL, Running, StartEngine

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "one two three four"}], "max_tokens": 5}


async def post(url: str, body: Any, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body) as response:
        return response.status, await response.json()


def url(running: Running) -> str:
    return running.base_url + "/v1/chat/completions"


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as response:
        return response.status, await response.text()


async def metric(running: Running, name: str) -> float:
    _, page = await get(running.base_url + running.engine.dialect.metrics_path)
    return sum(float(line.split(" ")[1]) for line in page.splitlines() if line.split("{")[0].split(" ")[0] == name)


async def metric_becomes(running: Running, name: str, want: float, *, within_seconds: float = 2.0) -> None:
    async with asyncio.timeout(within_seconds):
        while await metric(running, name) != want:  # noqa: ASYNC110  the other end is behind HTTP
            await asyncio.sleep(0.01)


async def test_a_chat_that_does_not_stream(start_engine: StartEngine) -> None:
    running = await start_engine()
    status, answer = await post(running.base_url, CHAT)
    assert status == 200
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    assert len(answer["choices"][0]["message"]["content"].split()) == 5
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_a_completion_streams_one_event_a_token(start_engine: StartEngine) -> None:
    running = await start_engine()
    body = {"model": MODEL, "prompt": "a b c", "max_tokens": 4, "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(running.base_url + "/v1/completions", json=body) as response,
    ):
        assert response.content_type == "text/event-stream"
        events = [line[6:] async for line in response.content if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]\n"
    chunks = [json.loads(event) for event in events[:-1]]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]
    assert all(chunk["choices"][0]["text"] for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)


async def test_the_openai_client_is_served(start_engine: StartEngine) -> None:
    running = await start_engine()
    async with openai.AsyncOpenAI(base_url=running.base_url + "/v1", api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a b"}], max_completion_tokens=3
        )
        assert answer.usage is not None and answer.usage.completion_tokens == 3
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": [{"type": "text", "text": "a b c"}]}],
            max_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert sum(bool(choice.delta.content) for chunk in chunks for choice in chunk.choices) == 6
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 6)
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.completions.create(model="other", prompt="a")
        with pytest.raises(openai.BadRequestError, match="n must be 1"):
            await client.completions.create(model=MODEL, prompt="a", n=2)


@pytest.mark.parametrize(
    ("body", "says"),
    {
        "no JSON": (b"{", "not JSON"),
        "no messages": (b'{"messages": []}', "messages"),
        "max_tokens": (b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": -1}', "max_tokens"),
        "too long": (b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 9999999}', "context length"),
    }.values(),
)
async def test_errors_have_openais_shape(start_engine: StartEngine, body: bytes, says: str) -> None:
    running = await start_engine()
    async with aiohttp.ClientSession() as session, session.post(url(running), data=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", DIALECTS)
async def test_every_dialect_loads_then_answers_at_its_own_paths(start_engine: StartEngine, name: str) -> None:
    running = await start_engine(name, loaded=False)
    dialect = running.engine.dialect
    health = [running.base_url + path for path in (dialect.health_path, *dialect.other_health_paths)]
    assert [(await get(url))[0] for url in health] == [503] * len(health)
    assert (await post(running.base_url, CHAT))[0] == 503
    status, page = await get(running.base_url + dialect.metrics_path)
    assert status == 200
    assert "running" not in page and "processing" not in page
    running.engine.loaded = True
    assert [(await get(url))[0] for url in health] == [200] * len(health)
    assert (await post(running.base_url, CHAT))[0] == 200
    assert "tokens" in (await get(running.base_url + dialect.metrics_path))[1]
    if dialect.json_metrics_path:
        assert json.loads((await get(running.base_url + dialect.json_metrics_path))[1])[0]["numActiveRequests"] == 0
    assert (await get(running.base_url + "/nowhere"))[0] == 404


async def test_vllm_counts_tokens_while_it_streams_and_sglang_when_it_is_done(start_engine: StartEngine) -> None:
    body = CHAT | {"max_tokens": 20}
    for name, counter, during in (
        ("vllm", "vllm:generation_tokens_total", True),
        ("sglang", "sglang:generation_tokens_total", False),
        ("llamacpp", "llamacpp:tokens_predicted_total", False),
    ):
        running = await start_engine(name, decodeBaseMs=20.0)
        answering = asyncio.create_task(post(running.base_url, body))
        await asyncio.sleep(0.2)
        assert (0 < await metric(running, counter) < 20) is during, name
        await answering
        assert await metric(running, counter) == 20


async def test_a_client_that_goes_away_frees_its_slot(start_engine: StartEngine) -> None:
    running = await start_engine(maxRunning=1, decodeBaseMs=20.0)
    async with aiohttp.ClientSession() as session:
        response = await session.post(url(running), json=CHAT | {"max_tokens": 10_000, "stream": True})
        await response.content.readline()
        waiting = asyncio.create_task(post(running.base_url, CHAT))
        await metric_becomes(running, "vllm:num_requests_waiting", 1.0)
        response.close()
        assert (await asyncio.wait_for(waiting, 2.0))[0] == 200
    # One that waits without streaming is noticed as well.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(post(running.base_url, CHAT | {"max_tokens": 10_000}), 0.1)
    await metric_becomes(running, "vllm:num_requests_running", 0.0)
    assert running.engine.open_requests == 0


async def test_a_drain_finishes_what_was_accepted_and_refuses_the_rest(start_engine: StartEngine) -> None:
    running = await start_engine(maxRunning=1, decodeBaseMs=10.0)
    accepted = [asyncio.create_task(post(running.base_url, CHAT | {"max_tokens": 15})) for _ in range(2)]
    await metric_becomes(running, "vllm:num_requests_waiting", 1.0)
    draining = asyncio.create_task(running.engine.drain(seconds=5.0))
    await asyncio.sleep(0)
    async with aiohttp.ClientSession() as session, session.post(url(running), json=CHAT) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
    assert await draining is True
    assert [status for status, _ in await asyncio.gather(*accepted)] == [200, 200]


async def test_a_drain_out_of_time_cuts_streams(start_engine: StartEngine) -> None:
    running = await start_engine(decodeBaseMs=10.0)
    body = CHAT | {"max_tokens": 10_000, "stream": True}
    async with aiohttp.ClientSession() as session, session.post(url(running), json=body) as response:
        await response.content.readline()
        assert await running.engine.drain(seconds=0.05) is False
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()


async def test_steps_take_their_modelled_time(start_engine: StartEngine) -> None:
    # 8 ms steps on millisecond timers: without catching up 100 of them would take 900 ms.
    running = await start_engine(decodeBaseMs=7.7)
    begins = time.monotonic()
    await post(running.base_url, CHAT | {"max_tokens": 100})
    assert 0.77 <= time.monotonic() - begins < 0.85


async def test_data_parallel_ranks_share_the_load(start_engine: StartEngine) -> None:
    running = await start_engine(dataParallel=2, maxRunning=1, decodeBaseMs=20.0)
    answering = [asyncio.create_task(post(running.base_url, CHAT | {"max_tokens": 20})) for _ in range(2)]
    await metric_becomes(running, "vllm:num_requests_running", 2.0)
    _, page = await get(running.base_url + "/metrics")
    assert page.count("\nvllm:num_requests_running{") == 2
    await asyncio.gather(*answering)


def fault(running: Running, kind: FaultKind, **fields: Any) -> None:
    running.engine.set_fault(Fault(kind=kind, **fields))


async def test_fault_slow(start_engine: StartEngine) -> None:
    running = await start_engine(decodeBaseMs=5.0)
    fault(running, FaultKind.SLOW, factor=10.0)
    begins = time.monotonic()
    await post(running.base_url, CHAT)
    assert time.monotonic() - begins >= 0.25


async def test_fault_hang_and_its_end(start_engine: StartEngine) -> None:
    running = await start_engine(decodeBaseMs=10.0)
    answering = asyncio.create_task(post(running.base_url, CHAT | {"max_tokens": 30}))
    await asyncio.sleep(0.1)
    fault(running, FaultKind.HANG)
    await asyncio.sleep(0.05)
    stuck_at = await metric(running, "vllm:generation_tokens_total")
    await asyncio.sleep(0.1)
    assert await metric(running, "vllm:generation_tokens_total") == stuck_at < 30
    assert await metric(running, "vllm:num_requests_running") == 1
    running.engine.set_fault(None)
    assert (await asyncio.wait_for(answering, 2.0))[0] == 200


async def test_fault_never_ready(start_engine: StartEngine) -> None:
    running = await start_engine()
    fault(running, FaultKind.NEVER_READY)
    assert (await get(running.base_url + "/health"))[0] == 503
    assert (await get(running.base_url + "/metrics"))[0] == 200


async def test_fault_http500_keeps_to_its_scope(start_engine: StartEngine) -> None:
    running = await start_engine()
    fault(running, FaultKind.HTTP500)
    assert (await get(running.base_url + "/metrics"))[0] == 500
    assert (await post(running.base_url, CHAT))[0] == 200
    fault(running, FaultKind.HTTP500, scope="all")
    assert (await post(running.base_url, CHAT))[0] == 500
    assert (await get(running.base_url + "/health"))[0] == 500


async def test_fault_redirect(start_engine: StartEngine) -> None:
    running = await start_engine()
    fault(running, FaultKind.REDIRECT, location="http://127.0.0.1:9/elsewhere")
    async with (
        aiohttp.ClientSession() as session,
        session.get(running.base_url + "/metrics", allow_redirects=False) as response,
    ):
        assert response.status == 302
        assert response.headers["Location"] == "http://127.0.0.1:9/elsewhere"


async def test_fault_silent(start_engine: StartEngine) -> None:
    running = await start_engine()
    fault(running, FaultKind.SILENT)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(get(running.base_url + "/metrics"), 0.2)
    assert (await get(running.base_url + "/health"))[0] == 200


async def test_fault_infinite(start_engine: StartEngine) -> None:
    running = await start_engine()
    fault(running, FaultKind.INFINITE)
    async with aiohttp.ClientSession() as session, session.get(running.base_url + "/metrics") as response:
        assert len(await response.content.readexactly(5 * 2**20)) == 5 * 2**20


async def test_fault_garbage(start_engine: StartEngine) -> None:
    running = await start_engine()
    fault(running, FaultKind.GARBAGE)
    async with aiohttp.ClientSession() as session, session.get(running.base_url + "/metrics") as response:
        body = await response.read()
    with pytest.raises(UnicodeDecodeError):
        body.decode()


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FaultKind.NAN, math.isnan),
        (FaultKind.NEGATIVE, lambda value: value < 0.0),
        (FaultKind.HUGE, lambda value: value == 1e308),
    ],
)
@pytest.mark.parametrize("name", DIALECTS)
async def test_faults_of_values_reach_every_sample(
    start_engine: StartEngine, name: str, kind: FaultKind, wrong: Any
) -> None:
    running = await start_engine(name)
    await post(running.base_url, CHAT)
    fault(running, kind)
    _, page = await get(running.base_url + running.engine.dialect.metrics_path)
    values = [float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if not line.startswith("#")]
    assert len(values) > 8
    assert all(wrong(value) for value in values)


async def test_fault_stale_and_its_end(start_engine: StartEngine) -> None:
    running = await start_engine()
    await post(running.base_url, CHAT)
    fault(running, FaultKind.STALE)
    await post(running.base_url, CHAT)
    assert await metric(running, "vllm:generation_tokens_total") == 5
    running.engine.set_fault(None)
    assert await metric(running, "vllm:generation_tokens_total") == 10


async def test_fault_counter_reset_resets_once(start_engine: StartEngine) -> None:
    running = await start_engine()
    await post(running.base_url, CHAT)
    fault(running, FaultKind.COUNTER_RESET)
    assert await metric(running, "vllm:generation_tokens_total") == 0
    await post(running.base_url, CHAT)
    fault(running, FaultKind.COUNTER_RESET)
    assert await metric(running, "vllm:generation_tokens_total") == 5
