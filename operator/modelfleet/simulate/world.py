"""One deployment's world: requests, a gateway, pods that start slowly and drain, and an autoscaler that looks on."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.policy import Circumstances, Policy, Setting
from modelfleet.simulate.score import Run


@dataclass(frozen=True, slots=True)
class Start:
    """How long a pod takes from creation to ready, phase by phase, in seconds.

    Attributes:
        schedule_seconds: Scheduler, sandbox, volumes.
        image_seconds: Image pull.
        load_seconds: Weights, compilation, graph capture.
        spread: Each pod draws one factor for the whole from [1 - spread, 1 + spread].
    """

    schedule_seconds: float = 2.0
    image_seconds: float = 18.0
    load_seconds: float = 90.0
    spread: float = 0.1

    @property
    def seconds(self) -> float:
        """The sum at the median."""
        return self.schedule_seconds + self.image_seconds + self.load_seconds

    @classmethod
    def of(cls, seconds: float) -> "Start":
        """Split a whole start into phases as a warm cache does: 2 %, 16 %, 82 %."""
        return cls(seconds * 0.02, seconds * 0.16, seconds * 0.82)


def play(
    arrivals: Sequence[Arrival],
    *,
    name: str,
    policy: Policy,
    setting: Setting,
    circumstances: Circumstances,
    start: Start,
    seed: int,
    drain_seconds: float = 120.0,
) -> Run:
    """Play requests against an autoscaled deployment.

    Args:
        arrivals: In order of time.
        name: Of the policy, for the record.
        policy: Decides; its state belongs to this run.
        setting: Bounds that the world enforces, and the target for the record.
        circumstances: The replica model and the latency targets.
        start: How pods start.
        seed: Of every random phase and spread: the same arguments give the same run.
        drain_seconds: Longest time a pod that was scaled away may take to finish what it has begun.
    """
    raise NotImplementedError
