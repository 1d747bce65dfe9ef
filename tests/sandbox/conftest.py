"""Engines on loopback, for the tests of the engine and of the load generator."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandbox.engine.profile import EngineProfile
from sandbox.engine.runner import PodEngine
from sandbox.engine.server import EngineServer
from tests.sandbox.engines import FAST, MODEL, Running, StartEngine


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Starts engines; the keywords are profile fields, FAST unless they say otherwise."""
    started: list[Running] = []

    async def start(name: str = "vllm", *, loaded: bool = True, **fields: Any) -> Running:
        engine = PodEngine(
            engine=name,
            model=MODEL,
            profile=EngineProfile.model_validate(FAST | fields),
            clock=time.monotonic,
            now_unix=time.time(),
        )
        engine.loaded = loaded
        server = EngineServer(engine)
        await server.start("127.0.0.1", 0)
        started.append(Running(engine, server, f"http://127.0.0.1:{server.port}"))
        return started[-1]

    yield start
    for running in started:
        await running.server.stop()
        await running.engine.stop()
