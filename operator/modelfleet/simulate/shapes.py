"""Synthetic load: rates over time under names, and the arrivals drawn from them."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from modelfleet.simulate.arrivals import Arrival, Lengths

BURST_SHAPE: Final = 0.25
"""Gamma shape of the burst's inter-arrival times: a coefficient of variation of 2."""
TROUGH: Final = 0.1
"""The diurnal trough, as a part of the peak: what ServeGen's fleets show (peak to trough 10 to 12)."""


class Shape(StrEnum):
    """Every named shape. `rate` is the highest rate that it holds; burst's is its mean."""

    STEADY = "steady"
    """The rate all along."""
    RAMP = "ramp"
    """From zero to the rate, in a line."""
    DIURNAL = "diurnal"
    """One day squeezed into the duration: trough, peak in the middle, trough."""
    BURST = "burst"
    """The rate on average, in clumps (Gamma inter-arrivals)."""
    FLASH_CROWD = "flash-crowd"
    """A tenth of the rate; at a third of the duration all of it at once; from two thirds a slow decay."""
    ON_OFF = "on-off"
    """Three times on and three times off, in equal parts: sends a model to zero and wakes it."""
    STEP = "step"
    """A quarter of the rate, and from a third of the duration all of it."""
    RISE_BURST_FALL = "rise-burst-fall"
    """Rise to half (30 %), hold (15 %), burst at the rate (25 %), fall (20 %), quiet (10 %)."""


def _diurnal(part: float) -> float:
    return TROUGH + (1.0 - TROUGH) * 0.5 * (1.0 - math.cos(2.0 * math.pi * part))


def _flash_crowd(part: float) -> float:
    if part < 1 / 3:
        return 0.1
    return 1.0 if part < 2 / 3 else 0.1 + 0.9 * math.exp(-(part - 2 / 3) * 12.0)


def _rise_burst_fall(part: float) -> float:
    if part < 0.30:
        return 0.05 + 0.45 * part / 0.30
    if part < 0.45:
        return 0.5
    if part < 0.70:
        return 1.0
    return max(0.0, 0.5 * (0.90 - part) / 0.20)


_RATES: Final[Mapping[Shape, Callable[[float], float]]] = MappingProxyType(
    {
        Shape.STEADY: lambda part: 1.0,
        Shape.RAMP: lambda part: part,
        Shape.DIURNAL: _diurnal,
        Shape.BURST: lambda part: 1.0,
        Shape.FLASH_CROWD: _flash_crowd,
        Shape.ON_OFF: lambda part: 1.0 if int(part * 6.0) % 2 == 0 else 0.0,
        Shape.STEP: lambda part: 0.25 if part < 1 / 3 else 1.0,
        Shape.RISE_BURST_FALL: _rise_burst_fall,
    }
)
"""Part of the rate, never above 1, by the part of the duration that has passed."""


def rate_at(shape: Shape, *, part: float) -> float:
    """Return the rate at this part of the duration (0 to 1), as a part of the shape's rate."""
    return _RATES[shape](part)


def shape_arrivals(
    shape: Shape,
    *,
    requests_per_second: float,
    duration_seconds: float,
    lengths: Lengths,
    seed: int,
    phase: float = 0.0,
) -> Iterator[Arrival]:
    """Yield the arrivals of a shape, the same ones for the same arguments.

    Args:
        shape: Which.
        requests_per_second: Its rate, above zero.
        duration_seconds: How long, above zero.
        lengths: Of the requests.
        seed: Of the random draws.
        phase: Part of the shape, 0 to 1, at which it begins; what was skipped comes last.
    """
    dice = random.Random(f"{shape}/{seed}")
    at_seconds = 0.0
    while True:
        if shape is Shape.STEADY:
            at_seconds += 1.0 / requests_per_second
        elif shape is Shape.BURST:
            at_seconds += dice.gammavariate(BURST_SHAPE, 1.0 / (requests_per_second * BURST_SHAPE))
        else:
            at_seconds += dice.expovariate(requests_per_second)
        if at_seconds > duration_seconds:
            return
        # Thinning: candidates come at the full rate, and each is kept with the part that holds at its time.
        part = at_seconds / duration_seconds
        if dice.random() < rate_at(shape, part=(part + phase) % 1.0 if phase else part):
            yield Arrival(at_seconds, *lengths.draw(dice))
