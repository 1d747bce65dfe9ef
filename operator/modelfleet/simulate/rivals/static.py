"""A fleet of constant size: what everybody has before an autoscaler, and the cheapest for steady load.

Its replicas serve when the load begins, where every other policy begins with its minimum.
"""

from typing import Final

from modelfleet.simulate.policy import Circumstances, Kind, Sample, Setting

COUNTS: Final = (*(float(count) for count in range(1, 25)), *(float(round(24 * 1.08**step)) for step in range(1, 49)))
"""Every one up to 24, then steps of a twelfth, to 965: a size between two that are tried would be a rival left out."""


class Static:
    """Asks for the same count for ever."""

    sample_seconds = 60.0
    period_seconds = 10.0

    def __init__(self, setting: Setting, circumstances: Circumstances) -> None:
        """Take the count from the target."""
        if not setting.target.is_integer():
            raise ValueError("a count of replicas is a whole number")
        self._replicas = int(setting.target)

    def observe(self, sample: Sample) -> None:
        """Nothing that could be seen matters."""

    def decide(self, now: float, current: int) -> int:
        """Return the count."""
        return self._replicas


KIND: Final = Kind(
    name="static",
    title="A constant number of replicas",
    unit="replicas",
    targets=lambda model: COUNTS,
    default_target=lambda model: 4.0,
    build=Static,
    tunes_minimum=False,
    constant=True,
)
