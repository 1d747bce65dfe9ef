"""Steps the pure batch in real time and hands each token to the request that waits for it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from modelfleet.simulate import batch as batching
from modelfleet.simulate.batch import Batch, Sequence
from sandbox.engine import dialects
from sandbox.engine.dialects import DIALECTS, Dialect, Rank
from sandbox.engine.faults import Fault, FaultKind, distorted, stalls, step_factor
from sandbox.engine.meters import Meters
from sandbox.engine.profile import EngineProfile

CATCH_UP_SECONDS: Final = 0.25
"""How far the modelled clock may trail the real one before the lag is dropped.

Timers fire up to a millisecond late and the process shares its cores; without catching up an 8 ms step would
take 9 and every engine would lose 10 % of its throughput to the host.
"""


class TooLong(ValueError):
    """Prompt and output exceed what the engine can ever hold."""


class Stream:
    """The tokens of one request: how many there are so far, and whether more will come."""

    def __init__(self, *, sequence_id: int, rank: int, prompt_tokens: int, output_tokens: int) -> None:
        """Wait for `output_tokens` tokens."""
        self.sequence_id = sequence_id
        self.rank = rank
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.tokens = 0
        self.cut = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Whether every token is there."""
        return self.tokens >= self.output_tokens

    def push(self) -> None:
        """Add one token."""
        self.tokens += 1
        self._wake()

    def break_off(self) -> None:
        """No further token will come."""
        self.cut = True
        self._wake()

    async def wait_beyond(self, tokens: int) -> None:
        """Return once there are more than `tokens` tokens, or there will never be."""
        while self.tokens <= tokens and not self.finished and not self.cut:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _RankRunner:
    """One rank: its batch, its counters, and the task that steps it."""

    def __init__(self, *, index: int, engine: "PodEngine") -> None:
        self.index = index
        self.batch = Batch()
        self.meters = engine.new_meters()
        self.streams: dict[int, Stream] = {}
        self._engine = engine
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def submit(self, sequence: Sequence, stream: Stream) -> None:
        self.batch = batching.submit(self.batch, sequence)
        self.meters.count_received()
        self.streams[sequence.id] = stream
        self._changed.set()

    def abandon(self, stream: Stream) -> None:
        if self.streams.pop(stream.sequence_id, None) is None:
            return
        for sequence in (*self.batch.running, *self.batch.waiting):
            if sequence.id == stream.sequence_id:
                self.meters.count_aborted(sequence)
        self.batch = batching.cancel(self.batch, (stream.sequence_id,))

    def look_again(self) -> None:
        self._changed.set()

    def snapshot(self, at_seconds: float) -> Rank:
        gauges = self.meters.gauges(self.batch, self._engine.profile, at_seconds=at_seconds)
        return Rank(index=self.index, gauges=gauges, meters=self.meters)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        clock = self._engine.clock
        at = clock()
        while True:
            if self.batch.idle or stalls(self._engine.fault):
                self._changed.clear()
                await self._changed.wait()
                at = clock()
                continue
            self.batch, step = batching.begin(self.batch, self._engine.profile, at_seconds=at)
            factor = step_factor(self._engine.fault)
            step = replace(
                step,
                duration_seconds=step.duration_seconds * factor,
                prefill_seconds=step.prefill_seconds * factor,
            )
            self.meters.count_begun(step)
            at += step.duration_seconds
            now = clock()
            # Sleeping for zero still lets every other engine and connection have its turn.
            await asyncio.sleep(max(at - now, 0.0))
            if now - at > CATCH_UP_SECONDS:
                at = now
            self.batch, tokens = batching.complete(self.batch, at_seconds=at)
            self.meters.count_completed(step, tokens, at_seconds=at)
            for token in tokens:
                stream = self.streams[token.sequence.id]
                stream.push()
                if token.finished:
                    del self.streams[token.sequence.id]


class PodEngine:
    """The simulated engine of one pod: ranks, loading, draining, faults. Lives in one event loop."""

    def __init__(
        self, *, engine: str, model: str, profile: EngineProfile, clock: Callable[[], float], now_unix: float
    ) -> None:
        """Start idle and unloaded.

        Args:
            engine: A key of `dialects.DIALECTS`.
            model: The served model's name.
            profile: How it behaves.
            clock: Monotonic seconds.
            now_unix: Wall clock at the start, for the metrics that tell it.
        """
        self.name = engine
        self.model = model
        self.profile = profile
        self.clock = clock
        self.dialect: Dialect = DIALECTS[engine]
        self.started_at_unix = now_unix
        self.fault: Fault | None = None
        self.loaded = False
        self.draining = False
        self._frozen_exposition: str | None = None
        self._next_id = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._open = 0
        self._ranks = [_RankRunner(index=index, engine=self) for index in range(profile.data_parallel)]

    def new_meters(self) -> Meters:
        """Counters at zero, with this engine's buckets."""
        return Meters(buckets=self.dialect.buckets, started_at_unix=self.started_at_unix)

    @property
    def ready(self) -> bool:
        """Whether /health answers 200."""
        return self.loaded and not self.draining

    @property
    def open_requests(self) -> int:
        """Requests accepted and not yet answered in full."""
        return self._open

    def submit(self, *, prompt_tokens: int, output_tokens: int) -> Stream:
        """Queue a request on the rank with the shortest queue.

        Raises:
            TooLong: If it could never be served.
        """
        if prompt_tokens + output_tokens > self.profile.longest_sequence_tokens:
            raise TooLong(f"{prompt_tokens} + {output_tokens} > {self.profile.longest_sequence_tokens}")
        # vLLM's data-parallel balancer weighs a waiting request as four running ones.
        rank = min(self._ranks, key=lambda r: (4 * len(r.batch.waiting) + len(r.batch.running), r.index))
        self._next_id += 1
        stream = Stream(
            sequence_id=self._next_id, rank=rank.index, prompt_tokens=prompt_tokens, output_tokens=output_tokens
        )
        sequence = Sequence(
            id=self._next_id, prompt_tokens=prompt_tokens, output_tokens=output_tokens, arrived_at=self.clock()
        )
        self._open += 1
        self._idle.clear()
        rank.submit(sequence, stream)
        return stream

    def release(self, stream: Stream) -> None:
        """The handler is done with this stream, finished or not; an unfinished one leaves the batch at once."""
        self._ranks[stream.rank].abandon(stream)
        self._open -= 1
        if self._open == 0:
            self._idle.set()

    def set_fault(self, fault: Fault | None) -> None:
        """Turn a fault on, or off with None. Setting the same one again changes nothing."""
        if fault == self.fault:
            return
        self._frozen_exposition = None
        if fault is not None and fault.kind is FaultKind.STALE:
            self._frozen_exposition = self._exposition()
        if fault is not None and fault.kind is FaultKind.COUNTER_RESET:
            for rank in self._ranks:
                rank.meters = self.new_meters()
        self.fault = fault
        for rank in self._ranks:
            rank.look_again()

    def metrics_page(self) -> str:
        """The exposition as this engine and its fault give it now."""
        if self._frozen_exposition is not None:
            return self._frozen_exposition
        return distorted(self.fault, self._exposition())

    def iteration_stats(self) -> str:
        """TensorRT-LLM's JSON statistics; an empty list while loading."""
        return dialects.render_iteration_stats(self._snapshot()) if self.loaded else "[]"

    async def drain(self, *, seconds: float) -> bool:
        """Refuse new requests and wait for those accepted, at most this long; then cut what is left.

        Returns:
            Whether everything finished.
        """
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout=max(seconds, 0.0))
        except TimeoutError:
            for rank in self._ranks:
                for stream in rank.streams.values():
                    stream.break_off()
            return False
        return True

    async def stop(self) -> None:
        """Stop stepping."""
        await asyncio.gather(*(rank.stop() for rank in self._ranks))

    def _exposition(self) -> str:
        if not self.loaded:
            return dialects.render_loading(self.started_at_unix)
        return self.dialect.render(self._snapshot())

    def _snapshot(self) -> dialects.Engine:
        at_seconds = self.clock()
        return dialects.Engine(model=self.model, ranks=tuple(rank.snapshot(at_seconds) for rank in self._ranks))
