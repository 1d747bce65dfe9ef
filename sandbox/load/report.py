"""What a run measured, as values."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox.load.latency import Percentiles, Sketch


@dataclass(frozen=True)
class Progress:
    """A run so far, for a live view. Rates are over the last interval."""

    elapsed_seconds: float
    ready_pods: int
    in_flight: int
    holding: int
    sent: int
    completed: int
    failed: int
    arrivals_per_second: float
    output_tokens_per_second: float
    time_to_first_token: Percentiles


@dataclass(frozen=True)
class Targets:
    """What attainment is counted against, as `modelfleet simulate` does. In seconds.

    Attributes:
        ttft_seconds: Longest time to first token.
        tpot_seconds: Longest mean time between tokens.
    """

    ttft_seconds: float = 2.0
    tpot_seconds: float = 0.05


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        duration_seconds: From the first arrival's clock to the last answer.
        requests: Arrivals that were due.
        completed: Answered in full.
        failed: Not; `errors` says why.
        errors: By kind: no-ready-pod, refused, status-N, disconnected, timeout, short (fewer tokens than asked).
        held: Requests that waited because no pod was ready, or every ready one refused.
        retries: Attempts on another pod after a refusal before the first byte.
        prompt_tokens: Of completed requests, as the engine counted them.
        output_tokens: Received, of all requests.
        output_tokens_per_second: Over the whole duration.
        time_to_first_token_seconds: From the arrival's due time, holding included: what a user feels.
        inter_token_latency_seconds: Between tokens of a stream.
        request_latency_seconds: From due time to the last token.
        in_target: Requests whose time to first token and mean time between tokens met their targets.
        largest_send_lag_seconds: How late the generator itself was; an open loop keeps this near zero.
        by_pod: Requests sent to each pod.
    """

    duration_seconds: float
    requests: int
    completed: int
    failed: int
    errors: Mapping[str, int]
    held: int
    retries: int
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_second: float
    time_to_first_token_seconds: Percentiles
    inter_token_latency_seconds: Percentiles
    request_latency_seconds: Percentiles
    in_target: int
    largest_send_lag_seconds: float
    by_pod: Mapping[str, int]

    @property
    def attainment(self) -> float:
        """Share of the requests that met both latency targets; 1 when there were none."""
        return self.in_target / self.requests if self.requests else 1.0

    def to_json(self) -> str:
        """The report as indented JSON; its keys are the attributes' names."""
        return json.dumps(dataclasses.asdict(self), indent=2)


@dataclass
class Tally:
    """Counts while a run goes on."""

    requests: int = 0
    completed: int = 0
    failed: int = 0
    held: int = 0
    holding: int = 0
    in_flight: int = 0
    retries: int = 0
    in_target: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    largest_send_lag_seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    by_pod: Counter[str] = field(default_factory=Counter)
    time_to_first_token: Sketch = field(default_factory=Sketch)
    inter_token_latency: Sketch = field(default_factory=Sketch)
    request_latency: Sketch = field(default_factory=Sketch)

    def fail(self, kind: str) -> None:
        """Count a failed request."""
        self.failed += 1
        self.errors[kind] += 1

    def report(self, *, duration_seconds: float) -> Report:
        """Return the run's report."""
        return Report(
            duration_seconds=duration_seconds,
            requests=self.requests,
            completed=self.completed,
            failed=self.failed,
            errors=dict(sorted(self.errors.items())),
            held=self.held,
            retries=self.retries,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            output_tokens_per_second=self.output_tokens / duration_seconds if duration_seconds > 0 else 0.0,
            time_to_first_token_seconds=self.time_to_first_token.percentiles(),
            inter_token_latency_seconds=self.inter_token_latency.percentiles(),
            request_latency_seconds=self.request_latency.percentiles(),
            in_target=self.in_target,
            largest_send_lag_seconds=self.largest_send_lag_seconds,
            by_pod=dict(sorted(self.by_pod.items())),
        )
