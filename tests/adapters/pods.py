"""Pods as the scraper meets them: HTTP servers at loopback addresses from 127.16 up, some of them hostile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

from modelfleet.adapters.source import Target
from modelfleet.api.engine import Engine

Behave = Callable[["PodServer", asyncio.StreamWriter], Awaitable[None]]
_numbers = count(1)


@dataclass
class PodServer:
    """One pod's server; every request and connection is counted.

    Attributes:
        behave: Writes the answer to one request.
        requests: Heads of the requests as they came.
    """

    behave: Behave
    ip: str
    port: int = 0
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    sent: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until the peer goes."""
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head.decode())
                await self.behave(self, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            with suppress(ConnectionError):
                writer.close()

    def target(self, name: str = "pod", *, restarts: int = 0, engine: Engine = Engine.VLLM) -> Target:
        """Return what the scraper is told of it."""
        return Target(
            namespace="team-a",
            name=name,
            uid=f"uid-{name}",
            ip=self.ip,
            engine=engine,
            port=self.port,
            path="/metrics",
            restarts=restarts,
        )


@asynccontextmanager
async def pod(behave: Behave) -> AsyncIterator[PodServer]:
    """Run a pod's server at an address of its own; the process id keeps parallel workers apart."""
    number = next(_numbers)
    ip = f"127.{16 + os.getpid() % 200}.{number // 250}.{1 + number % 250}"
    server = PodServer(behave, ip)
    listening = await asyncio.start_server(server.serve, ip, 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


def answers(page: str | bytes, *, status: str = "200 OK", headers: str = "") -> Behave:
    """Return a behaviour that answers with one page."""
    body = page.encode() if isinstance(page, str) else page

    async def behave(server: PodServer, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    return behave


def page(
    *,
    queued: float = 0,
    running: float = 0,
    tokens: float = 0,
    finished: float = 0,
    intervals: tuple[float, float] | None = None,
    prompts: float | None = None,
) -> str:
    """Return a page of vLLM with these numbers; `intervals` between tokens are their seconds and count."""
    histogram = "" if intervals is None else inter_token_histogram(*intervals)
    return (
        f'vllm:num_requests_waiting{{engine="0"}} {queued}\n'
        f'vllm:num_requests_running{{engine="0"}} {running}\n'
        f'vllm:generation_tokens_total{{engine="0"}} {tokens}\n'
        f'vllm:request_success_total{{engine="0",finished_reason="stop"}} {finished}\n'
        f'vllm:kv_cache_usage_perc{{engine="0"}} 0.5\n'
        + histogram
        + ("" if prompts is None else f'vllm:prompt_tokens_total{{engine="0"}} {prompts}\n')
    )


def inter_token_histogram(
    seconds: float, count: float, *, name: str = "vllm:inter_token_latency_seconds", rank: int = 0
) -> str:
    """Return the lines of one rank's histogram."""
    return (
        f'{name}_bucket{{engine="{rank}",le="+Inf"}} {count}\n'
        f'{name}_count{{engine="{rank}"}} {count}\n'
        f'{name}_sum{{engine="{rank}"}} {seconds}\n'
    )


async def says_nothing(server: PodServer, writer: asyncio.StreamWriter) -> None:
    """Take the request and never answer."""
    await asyncio.sleep(3600)


async def drips(server: PodServer, writer: asyncio.StreamWriter) -> None:
    """Send one byte of the head at a time, for ever: no read ever times out by itself."""
    writer.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def never_ends(server: PodServer, writer: asyncio.StreamWriter) -> None:
    """Send a body without end, in chunks."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    line = b"# a comment that nobody needs, over and over\n" * 400
    while True:
        writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        server.sent += len(line)
        await writer.drain()


async def hangs_up(server: PodServer, writer: asyncio.StreamWriter) -> None:
    """Close in the middle of the body."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nvllm:num_requests_waiting 1\n")
    await writer.drain()
    writer.close()


async def speaks_no_http(server: PodServer, writer: asyncio.StreamWriter) -> None:
    """Answer in another protocol."""
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20)
    await writer.drain()
    writer.close()
