"""The one face of every source of signals: pods scraped directly, or Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from modelfleet.api.engine import Engine
from modelfleet.decide.snapshot import PodSignals


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

    def signals(self, uid: str) -> PodSignals:
        """Return the last signals of a pod."""

    async def refresh(self, targets: Sequence[Target], now: float) -> None:
        """Bring the signals up to date; never raises for a pod's or a server's fault."""

    async def close(self) -> None:
        """Release every connection."""
