"""Percentiles of many samples in little memory."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

RELATIVE_ERROR: Final = 0.01
_LOG_GAMMA: Final = math.log((1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR))
_FLOOR_SECONDS: Final = 1e-6


@dataclass(frozen=True)
class Percentiles:
    """In seconds; None when nothing was measured, which is not zero."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    mean: float | None = None
    count: int = 0


class Sketch:
    """Counts samples in buckets that grow geometrically, so every percentile is within 1 % of the truth."""

    def __init__(self) -> None:
        """Start empty."""
        self._buckets: Counter[int] = Counter()
        self._count = 0
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one sample. Below a microsecond all are the same."""
        self._buckets[math.ceil(math.log(max(seconds, _FLOOR_SECONDS)) / _LOG_GAMMA)] += 1
        self._count += 1
        self._sum += seconds

    def percentiles(self) -> Percentiles:
        """Return what was seen so far."""
        if not self._count:
            return Percentiles()
        p50, p95, p99 = (self._quantile(part) for part in (0.50, 0.95, 0.99))
        return Percentiles(p50=p50, p95=p95, p99=p99, mean=self._sum / self._count, count=self._count)

    def _quantile(self, part: float) -> float:
        rank = max(1, math.ceil(part * self._count))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                # The middle of the bucket, in relative terms.
                return 2.0 * math.exp(bucket * _LOG_GAMMA) / (math.exp(_LOG_GAMMA) + 1.0)
        raise AssertionError("the buckets hold every sample")
