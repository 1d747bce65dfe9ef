"""Sends arrivals as streaming chat completions and measures the answers. Arrivals never wait for answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from modelfleet.api.meta import Key
from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.score import Served
from sandbox.engine.reflect import KubeApi
from sandbox.load.pool import Endpoint, Pool, follow_deployment
from sandbox.load.report import Progress, Report, Tally, Targets

PROGRESS_SECONDS: Final = 1.0
REFUSED_PAUSE_SECONDS: Final = 0.2
"""After every ready pod has refused: about the time in which readiness changes."""

OnProgress = Callable[[Progress], None]
OnAnswer = Callable[[Served], None]


@dataclass(frozen=True)
class Patience:
    """How long a request waits. All in seconds.

    Attributes:
        hold_seconds: For a ready pod that takes it.
        connect_seconds: For the TCP connection.
        read_seconds: For the next byte, the first one included.
        answer_seconds: For a whole answer, from when it was sent.
    """

    hold_seconds: float = 600.0
    connect_seconds: float = 2.0
    read_seconds: float = 600.0
    answer_seconds: float = 1800.0


class _Refused(Exception):
    """The pod did not take the request: nothing was answered, so another pod may have it."""


class _Failed(Exception):
    """The request failed for good; the text is the kind."""


class Generator:
    """One run against the pods of a pool."""

    def __init__(
        self,
        pool: Pool,
        *,
        model: str = "",
        patience: Patience | None = None,
        targets: Targets | None = None,
        on_progress: OnProgress | None = None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            pool: Where requests go. Somebody else keeps it current.
            model: Sent with every request; empty takes each pod's own.
            patience: Timeouts.
            targets: What attainment is counted against.
            on_progress: Called about once a second, from the event loop.
            on_answer: Called with each request's end, failed ones included.
        """
        self._pool = pool
        self._model = model
        self._patience = patience or Patience()
        self._targets = targets or Targets()
        self._on_progress = on_progress
        self._on_answer = on_answer
        self._tally = Tally()
        # Not the loop's own clock: uvloop's stands still within an iteration and has whole milliseconds.
        self._clock: Callable[[], float] = time.monotonic
        self._session: aiohttp.ClientSession

    async def run(self, arrivals: Iterable[Arrival]) -> Report:
        """Send every arrival at its time, wait for the answers, and return the report.

        When cancelled, requests under way are dropped and uncounted.
        """
        timeout = aiohttp.ClientTimeout(
            total=self._patience.answer_seconds,
            sock_connect=self._patience.connect_seconds,
            sock_read=self._patience.read_seconds,
        )
        # limit=0: a bounded pool of connections would make the loop a closed one.
        connector = aiohttp.TCPConnector(limit=0, force_close=False, keepalive_timeout=30.0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as self._session:
            begins = self._clock()
            progress = asyncio.create_task(self._report_progress(begins))
            try:
                async with asyncio.TaskGroup() as group:
                    for arrival in arrivals:
                        due = begins + arrival.at_seconds
                        await self._sleep_until(due)
                        self._tally.requests += 1
                        group.create_task(self._request(arrival, due))
            finally:
                progress.cancel()
                await asyncio.gather(progress, return_exceptions=True)
            return self._tally.report(duration_seconds=self._clock() - begins)

    async def _sleep_until(self, due: float) -> None:
        delay = due - self._clock()
        if delay > 0.0:
            await asyncio.sleep(delay)
        elif self._tally.requests % 64 == 0:
            # Behind its schedule, the generator still lets answers be read.
            await asyncio.sleep(0)
        self._tally.largest_send_lag_seconds = max(self._tally.largest_send_lag_seconds, self._clock() - due)

    async def _request(self, arrival: Arrival, due: float) -> None:
        tally = self._tally
        tally.in_flight += 1
        answer = _Answer(tally, self._clock, due)
        finished = False
        try:
            await self._send_somewhere(arrival, due, answer)
            tally.completed += 1
            finished = True
        except _Failed as failure:
            tally.fail(str(failure))
        finally:
            tally.in_flight -= 1
        became = Served(arrival.at_seconds, answer.ttft_seconds, answer.tpot_seconds if finished else None)
        tally.in_target += became.meets(
            ttft_seconds=self._targets.ttft_seconds, tpot_seconds=self._targets.tpot_seconds
        )
        if self._on_answer is not None:
            self._on_answer(became)

    async def _send_somewhere(self, arrival: Arrival, due: float, answer: _Answer) -> None:
        """Try ready pods until one takes the request, as a gateway would."""
        give_up = due + self._patience.hold_seconds
        refused: frozenset[str] = frozenset()
        was_held = False
        while True:
            endpoint = self._pool.pick(excluding=refused)
            if endpoint is None:
                if not was_held:
                    was_held = True
                    self._tally.held += 1
                await self._hold(give_up, all_refused=bool(refused))
                refused = frozenset()
                continue
            try:
                await self._send(endpoint, arrival, answer)
                return
            except _Refused:
                refused |= {endpoint.name}
                self._tally.retries += 1

    async def _hold(self, give_up: float, *, all_refused: bool) -> None:
        """Wait for a pod to become ready, or a moment when those that are have just refused."""
        self._tally.holding += 1
        try:
            async with asyncio.timeout(max(give_up - self._clock(), 0.0)):
                if all_refused:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._pool.changed(), REFUSED_PAUSE_SECONDS)
                else:
                    await self._pool.changed()
        except TimeoutError:
            raise _Failed("refused" if all_refused else "no-ready-pod") from None
        finally:
            self._tally.holding -= 1
        if self._clock() >= give_up:
            raise _Failed("refused")

    async def _send(self, endpoint: Endpoint, arrival: Arrival, answer: _Answer) -> None:
        endpoint.in_flight += 1
        endpoint.sent += 1
        self._tally.by_pod[endpoint.name] += 1
        answered = False
        try:
            async with self._session.post(
                f"{endpoint.base_url}/v1/chat/completions",
                data=_body(arrival, self._model or endpoint.model),
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                answered = True
                if response.status == 503:
                    raise _Refused
                if response.status != 200:
                    raise _Failed(f"status-{response.status}")
                if response.content_type != "text/event-stream":
                    raise _Failed("garbled")
                async for line in response.content:
                    answer.read(line)
        except TimeoutError as error:
            raise _Failed("timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            # Kept-alive connections of a pod that left die before a byte is answered: another pod may have it.
            raise (_Failed("disconnected") if answered else _Refused) from error
        except ValueError as error:
            raise _Failed("garbled") from error
        finally:
            endpoint.in_flight -= 1
        answer.finish(arrival)

    async def _report_progress(self, begins: float) -> None:
        before_requests = before_tokens = 0
        while self._on_progress is not None:
            await asyncio.sleep(PROGRESS_SECONDS)
            tally = self._tally
            self._on_progress(
                Progress(
                    elapsed_seconds=self._clock() - begins,
                    ready_pods=len(self._pool),
                    in_flight=tally.in_flight,
                    holding=tally.holding,
                    sent=tally.requests,
                    completed=tally.completed,
                    failed=tally.failed,
                    arrivals_per_second=(tally.requests - before_requests) / PROGRESS_SECONDS,
                    output_tokens_per_second=(tally.output_tokens - before_tokens) / PROGRESS_SECONDS,
                    time_to_first_token=tally.time_to_first_token.percentiles(),
                )
            )
            before_requests, before_tokens = tally.requests, tally.output_tokens


class _Answer:
    """Reads the lines of one streamed answer; a pod that refused has sent none."""

    def __init__(self, tally: Tally, clock: Callable[[], float], due: float) -> None:
        self._tally = tally
        self._clock = clock
        self._due = due
        self._tokens = 0
        self._first_token_at: float | None = None
        self._last_token_at: float | None = None
        self._usage: dict[str, Any] | None = None

    @property
    def ttft_seconds(self) -> float | None:
        """From when it was due to its first token; None before that."""
        return None if self._first_token_at is None else self._first_token_at - self._due

    @property
    def tpot_seconds(self) -> float | None:
        """Mean time between the tokens so far; None before the first, 0 at it."""
        if self._first_token_at is None or self._last_token_at is None:
            return None
        return (self._last_token_at - self._first_token_at) / max(1, self._tokens - 1)

    def read(self, line: bytes) -> None:
        """Take one line; measures the tokens in it.

        Raises:
            ValueError: If an event is not JSON.
        """
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            return
        event = json.loads(line[6:])
        if not isinstance(event, dict):
            raise ValueError("an event must be an object")
        if usage := event.get("usage"):
            self._usage = usage
        # The opening chunk of a chat has a role and no text: it is no token.
        for choice in event.get("choices", ()):
            if (choice.get("delta") or {}).get("content"):
                self._count_token()

    def _count_token(self) -> None:
        now = self._clock()
        self._tally.output_tokens += 1
        self._tokens += 1
        if self._last_token_at is None:
            self._first_token_at = now
            self._tally.time_to_first_token.add(now - self._due)
        else:
            self._tally.inter_token_latency.add(now - self._last_token_at)
        self._last_token_at = now

    def finish(self, arrival: Arrival) -> None:
        """Count a whole answer.

        Raises:
            _Failed: If the engine ended the stream before the usage it owes.
        """
        if self._usage is None:
            raise _Failed("short")
        self._tally.prompt_tokens += int(self._usage.get("prompt_tokens", 0))
        self._tally.request_latency.add((self._last_token_at or self._clock()) - self._due)


def _body(arrival: Arrival, model: str) -> bytes:
    """A chat of exactly `prompt_tokens` one-letter words: one token each to the simulated tokenizer."""
    request = {
        "model": model,
        "messages": [{"role": "user", "content": ("a " * arrival.prompt_tokens).rstrip()}],
        "max_tokens": arrival.output_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(request).encode()


async def run_load(
    kubeconfig: Path,
    deployment: Key,
    arrivals: Iterable[Arrival],
    *,
    model: str = "",
    patience: Patience | None = None,
    targets: Targets | None = None,
    on_progress: OnProgress | None = None,
    on_answer: OnAnswer | None = None,
) -> Report:
    """Send the arrivals to the ready pods of a ModelDeployment.

    Args:
        kubeconfig: Of the cluster.
        deployment: Namespace and name.
        arrivals: In order of time.
        model: Sent with every request; empty takes what each pod says it serves.
        patience: Timeouts.
        targets: What attainment is counted against.
        on_progress: Called about once a second.
        on_answer: Called with each request's end, failed ones included.
    """
    api = await KubeApi.from_kubeconfig(kubeconfig)
    pool = Pool()
    following = asyncio.create_task(follow_deployment(api, deployment, pool))
    try:
        generator = Generator(
            pool, model=model, patience=patience, targets=targets, on_progress=on_progress, on_answer=on_answer
        )
        return await generator.run(arrivals)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await api.close()
