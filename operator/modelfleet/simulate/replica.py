"""One replica, as exact as `batch` and a hundred times faster: it jumps from event to event.

Between two events (a request comes, one leaves the batch, the KV cache is full) every step has the same batch
and holds one KV token a sequence more than the step before. n such steps take

    n (base + B per_sequence + KV per_token) + per_token B n (n - 1) / 2

so that any number of them costs one evaluation, and the step that is under way at a moment is found by
solving for n. What each sequence has generated is the number of steps since it was admitted.
"""

from collections import deque
from heapq import heappop, heappush
from math import inf, sqrt

from modelfleet.simulate.calibration import ReplicaModel, noise


class Request:
    """One request on its way. Times are in seconds since the start of the run.

    Attributes:
        number: Its place in the order of arrival.
        at_seconds: When it reached the gateway: its time to first token counts from here.
        first_token_at: None until it had one.
        finished_at: None until it had its last.
        generated: Tokens generated when it last left the batch.
    """

    __slots__ = (
        "at_seconds",
        "finished_at",
        "first_token_at",
        "generated",
        "last_token_at",
        "number",
        "output",
        "prompt",
    )

    def __init__(self, number: int, at_seconds: float, prompt: int, output: int) -> None:
        """Make one that has not been served."""
        self.number = number
        self.at_seconds = at_seconds
        self.prompt = prompt
        self.output = output
        self.first_token_at: float | None = None
        self.last_token_at = 0.0
        self.finished_at: float | None = None
        self.generated = 0


class Replica:
    """The engine of one pod: a queue, a batch, and counters as its metrics page has them."""

    __slots__ = (
        "_admitted",
        "_base",
        "_cached",
        "_clock",
        "_ends",
        "_finishing",
        "_jitter",
        "_kv",
        "_max_batched",
        "_max_running",
        "_per_kv",
        "_per_prompt",
        "_per_sequence",
        "_prefill_base",
        "_room",
        "_running",
        "_seed",
        "_steps",
        "_waiting",
        "finished_requests",
        "first_tokens",
        "generated_tokens",
        "inter_token_seconds_sum",
        "inter_tokens",
        "next_finish_at",
        "prompt_tokens",
        "queued_prompt_tokens",
        "ttft_seconds_sum",
    )

    def __init__(self, model: ReplicaModel, *, at_seconds: float) -> None:
        """Start with nothing to do."""
        self._base = model.decode_base_ms / 1000.0
        self._per_sequence = model.decode_ms_per_sequence / 1000.0
        self._per_kv = model.decode_ms_per_kv_token / 1000.0
        self._prefill_base = model.prefill_base_ms / 1000.0
        self._per_prompt = model.prefill_ms_per_token / 1000.0
        self._cached = model.cached_prompt_fraction
        self._room = model.kv_cache_tokens
        self._max_running = model.max_running
        self._max_batched = model.max_batched_tokens
        self._jitter = model.service_jitter
        self._seed = model.seed
        self._clock = at_seconds
        """When the last step ended, or work came after a rest: the next step begins here."""
        self._ends: float | None = None
        """When the step under way ends; None between two steps."""
        self._steps = 0
        self._admitted: list[Request] = []
        """Those that the step under way admitted."""
        self._waiting: deque[Request] = deque()
        self._running: dict[int, tuple[Request, int]] = {}
        """In order of admission; with the step count at which each would have generated nothing."""
        self._finishing: list[tuple[int, int]] = []
        """Heap of (step count at which it finishes, request number); entries of preempted ones are stale."""
        self._kv = 0
        self.next_finish_at = inf
        """No request leaves before this, unless one more comes."""
        self.queued_prompt_tokens = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.finished_requests = 0
        self.ttft_seconds_sum = 0.0
        self.first_tokens = 0
        self.inter_token_seconds_sum = 0.0
        self.inter_tokens = 0

    @property
    def queued(self) -> int:
        """Requests that wait for a place in the batch."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def in_flight(self) -> int:
        """All requests here."""
        return len(self._waiting) + len(self._running)

    @property
    def kv_tokens(self) -> int:
        """KV tokens held."""
        return self._kv

    def unfinished(self) -> list[Request]:
        """Return every request here."""
        return [*self._waiting, *(request for request, _ in self._running.values())]

    def submit(self, request: Request, *, now: float) -> None:
        """Take a request; every step that begins from now on may admit it."""
        self.advance(now)
        if self._ends is None and not self._running and not self._waiting:
            self._clock = now
        self._waiting.append(request)
        self.queued_prompt_tokens += request.prompt
        self._look_ahead()

    def advance(self, until: float) -> None:
        """Play every step that ends by this time; the one under way then keeps its batch."""
        while True:
            if self._ends is not None:
                if self._ends > until:
                    break
                self._complete(1, self._ends)
            if not self._running and not self._waiting:
                break
            if self._clock >= until:
                break
            self._begin(until)
        self._look_ahead()

    def _begin(self, until: float) -> None:
        """Begin the step at the clock: play plain ones in one go, else leave one under way."""
        batch = len(self._running)
        if batch > 1 and self._kv + batch > self._room:
            self._preempt()
            self._start_step(0)
            return
        prefill = self._admit()
        if self._admitted or self._jitter:
            self._start_step(prefill)
            return
        first = self._base + self._per_sequence * batch + self._per_kv * self._kv
        growth = self._per_kv * batch
        most = self._steps_to_finish()
        if batch > 1:
            # A step may begin while kv + batch still fits.
            most = min(most, (self._room - self._kv) // batch)
        done = _steps_within(until - self._clock, first, growth, most)
        if done:
            self._complete(done, self._clock + done * first + growth * done * (done - 1) / 2.0)
        if done < most:
            self._start_step(0)

    def _start_step(self, prefill_tokens: int) -> None:
        batch = len(self._running)
        seconds = self._base + self._per_sequence * batch + self._per_kv * self._kv
        if self._admitted:
            seconds += self._prefill_base + self._per_prompt * prefill_tokens
        if self._jitter:
            seconds *= 1.0 + self._jitter * noise(self._seed, "step", self._steps + 1)
        self._ends = self._clock + seconds

    def _admit(self) -> int:
        """Admit from the queue's head what fits; return the prompt tokens to prefill."""
        waiting, running = self._waiting, self._running
        prefill = 0
        while waiting and len(running) < self._max_running:
            request = waiting[0]
            held = request.prompt + request.generated
            # Each running sequence, the new ones included, takes one token more at the end of this step.
            if self._kv + len(running) + held + 1 > self._room:
                break
            computed = held - int(held * self._cached)
            if self._admitted and prefill + computed > self._max_batched:
                break
            waiting.popleft()
            self.queued_prompt_tokens -= request.prompt
            prefill += computed
            self._kv += held
            self._admitted.append(request)
            started = self._steps - request.generated
            running[request.number] = (request, started)
            heappush(self._finishing, (started + request.output, request.number))
        self.prompt_tokens += prefill
        return prefill

    def _preempt(self) -> None:
        """Put the newest back into the queue until all others can grow; they prefill again later."""
        while len(self._running) > 1 and self._kv + len(self._running) > self._room:
            number, (request, started) = self._running.popitem()
            request.generated = self._steps - started
            request.last_token_at = self._clock
            self._kv -= request.prompt + request.generated
            self._waiting.appendleft(request)
            self.queued_prompt_tokens += request.prompt
            self._finishing = [entry for entry in self._finishing if entry[1] != number]
        self._finishing.sort()

    def _steps_to_finish(self) -> int:
        return self._finishing[0][0] - self._steps

    def _complete(self, steps: int, at: float) -> None:
        """End this many steps of the same batch, the last one at this time."""
        batch, admitted = len(self._running), self._admitted
        self._steps += steps
        self._kv += batch * steps
        self.generated_tokens += batch * steps
        old = batch - len(admitted)
        self.inter_tokens += old * steps
        self.inter_token_seconds_sum += old * (at - self._clock)
        for request in admitted:
            if request.first_token_at is None:
                request.first_token_at = at
                self.ttft_seconds_sum += at - request.at_seconds
                self.first_tokens += 1
            else:
                self.inter_tokens += 1
                self.inter_token_seconds_sum += at - request.last_token_at
        if admitted:
            admitted.clear()
        self._clock, self._ends = at, None
        finishing, running = self._finishing, self._running
        while finishing and finishing[0][0] <= self._steps:
            _, number = heappop(finishing)
            request, _ = running.pop(number)
            request.finished_at = at
            request.generated = request.output
            self._kv -= request.prompt + request.output
            self.finished_requests += 1

    def _look_ahead(self) -> None:
        """Bound from below when the next request leaves."""
        if self._ends is not None and (self._waiting or self._jitter or self._finishing[0][0] - self._steps == 1):
            # Who waits now may be admitted after the step under way, and need one step.
            self.next_finish_at = self._ends
        elif self._waiting or self._jitter:
            self.next_finish_at = self._clock
        elif self._running:
            steps, batch = self._steps_to_finish(), len(self._running)
            first = self._base + self._per_sequence * batch + self._per_kv * self._kv
            self.next_finish_at = self._clock + steps * first + self._per_kv * batch * steps * (steps - 1) / 2.0
        else:
            self.next_finish_at = inf


def _steps_within(seconds: float, first: float, growth: float, most: int) -> int:
    """Return how many steps end within a time: the first takes `first`, each later one `growth` more.

    Args:
        seconds: The time, >= 0.
        first: Length of the first step, > 0.
        growth: By which each step is longer than the one before, >= 0.
        most: At most this many.
    """
    if most * first + growth * most * (most - 1) / 2.0 <= seconds:
        return most
    # n first + growth n (n - 1) / 2 = seconds
    half = growth / 2.0
    linear = first - half
    root = seconds / first if half == 0.0 else (sqrt(linear * linear + 4.0 * half * seconds) - linear) / (2.0 * half)
    steps = max(0, min(int(root), most))
    # The root is rounded: step to the exact count.
    while steps < most and (steps + 1) * first + growth * (steps + 1) * steps / 2.0 <= seconds:
        steps += 1
    while steps > 0 and steps * first + growth * steps * (steps - 1) / 2.0 > seconds:
        steps -= 1
    return steps
