"""A fleet of constant size: what everybody has before an autoscaler, and the cheapest bound for steady load."""

from typing import Final

from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting


class Static:
    """Asks for the same count for ever."""

    sample_seconds = 60.0
    period_seconds = 10.0

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Take the count from the target."""
        self._replicas = round(setting.target)

    def observe(self, sample: Sample) -> None:
        """Nothing that could be seen matters."""

    def decide(self, now: float, current: int) -> int:
        """Return the count."""
        return self._replicas


KIND: Final = Kind(
    name="static",
    title="A constant number of replicas",
    unit="replicas",
    targets=lambda model: (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0),
    default_target=lambda model: 4.0,
    build=Static,
    tunes_minimum=False,
)
