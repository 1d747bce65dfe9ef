"""An engine that runs in a test, and how one is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sandbox.engine.runner import PodEngine
from sandbox.engine.server import EngineServer

FAST = {"decodeBaseMs": 2.0, "decodeMsPerSequence": 0.0, "decodeMsPerKvToken": 0.0, "prefillBaseMs": 0.0}
MODEL = "tiny"


@dataclass
class Running:
    engine: PodEngine
    server: EngineServer
    base_url: str


StartEngine = Callable[..., Awaitable[Running]]
