"""The one face of every source of signals: pods scraped directly, or Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from modelfleet.api.engine import Engine
from modelfleet.decide.snapshot import Missing, PodSignals, Reading, Signal

PLAUSIBLE_TOKENS_PER_SECOND = 1e6
"""Per pod. The fastest published single-node throughput is below a tenth of this."""
PLAUSIBLE_INPUT_TOKENS_PER_SECOND = 1e8
"""Per pod. What a prefix cache holds is not computed: a hundred times what can be generated."""
PLAUSIBLE_INTER_TOKEN_SECONDS = 3600.0
"""No client waits an hour for the next token."""


def plausible_throughput(reading: Reading) -> Reading:
    """Return the reading, or why no pod can generate as much."""
    if isinstance(reading, Signal) and reading.value > PLAUSIBLE_TOKENS_PER_SECOND:
        return Missing(f"{reading.value:.3g} tokens/s is more than one pod can generate")
    return reading


def plausible_prompts(reading: Reading) -> Reading:
    """Return the reading, or why no pod can read as much."""
    if isinstance(reading, Signal) and reading.value > PLAUSIBLE_INPUT_TOKENS_PER_SECOND:
        return Missing(f"{reading.value:.3g} prompt tokens/s is more than one pod can read")
    return reading


def plausible_inter_token(reading: Reading) -> Reading:
    """Return the reading, or why it is no time between tokens."""
    if isinstance(reading, Signal) and not 0 <= reading.value <= PLAUSIBLE_INTER_TOKEN_SECONDS:
        return Missing(f"{reading.value:.3g} s is no time between two tokens")
    return reading


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One ready pod of the operator's own.

    Attributes:
        restarts: Restarts of its engine container; with the UID, one life of the process.
        port: The runtime's port, never one that the pod names.
    """

    namespace: str
    name: str
    uid: str
    ip: str
    engine: Engine
    port: int
    path: str
    restarts: int


class SignalSource(Protocol):
    """Where signals come from."""

    def max_age_seconds(self) -> float:
        """Return the age beyond which a sample is stale."""

    def rate_window_seconds(self, engine: Engine) -> float:
        """Return the span over which an engine's counter rates are taken."""

    def signals(self, uid: str) -> PodSignals:
        """Return the last signals of a pod."""

    async def refresh(self, targets: Sequence[Target], now: float) -> None:
        """Bring the signals up to date; never raises for a pod's or a server's fault."""

    async def close(self) -> None:
        """Release every connection."""
