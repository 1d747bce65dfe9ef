"""A deployment's own past for `modelfleet simulate`: its load is played, and its service times can be fitted."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from pydantic.alias_generators import to_camel

from modelfleet.adapters.history import BadDeployment, NoHistory, PrometheusUnavailable
from modelfleet.api.engine import Engine
from modelfleet.cli.bad_input import BadInput
from modelfleet.engines.recordings import RECORDINGS
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.fit import UNKNOWNS, CannotFit, Fit, fit, read_intervals
from modelfleet.simulate.recorded import STEP_SECONDS, read_history
from modelfleet.simulate.traces import Trace

UNIT_SECONDS: Final[Mapping[str, int]] = MappingProxyType({"m": 60, "h": 3_600, "d": 86_400, "w": 604_800})
LEAST_SECONDS: Final = 2 * STEP_SECONDS
MOST_SECONDS: Final = 53 * UNIT_SECONDS["w"]
"""A year. Its minutes are 370 questions a metric."""

Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What to ask which Prometheus for.

    Attributes:
        url: Root URL of the server.
        deployment: "namespace/name".
        since: How far back, as it was given.
        since_seconds: The same.
        engine: One whose past can be read.
        now: Seconds since the epoch: where the past ends.
    """

    url: str
    deployment: str
    since: str
    since_seconds: int
    engine: Engine
    now: float

    @property
    def title(self) -> str:
        """Names it for people."""
        ends = datetime.fromtimestamp(self.now, UTC).strftime("%Y-%m-%d %H:%M")
        return f"{self.deployment}, {self.since} to {ends} UTC"

    def trace(self, warn: Warn) -> Trace:
        """Return the load.

        Args:
            warn: Told, in whole lines, about the minutes that are not known.

        Raises:
            BadInput: If Prometheus does not tell it.
        """
        with self._refusals():
            try:
                trace = read_history(self.url, self.deployment, self.since_seconds, self.engine, self.now)
            except NoHistory as error:
                raise BadInput("--deployment", f"{error}; try another --engine or --since") from error
        if trace.bad_rows:
            minutes = trace.bad_rows + trace.rows
            warn(f"{trace.bad_rows:,} of {minutes:,} minutes of {self.deployment} are not known, and are left out:")
            for sample in trace.bad_samples:
                warn(f"  {sample}")
        return trace

    def fitted(self, known: ReplicaModel, warn: Warn) -> ReplicaModel:
        """Return the replica with the service times that its engines had.

        Args:
            known: Where its limits and its GPUs come from: no metric tells them.
            warn: Told, in whole lines, what was fitted and how far it can be trusted.

        Raises:
            BadInput: If the past does not tell them.
        """
        with self._refusals():
            try:
                intervals = read_intervals(self.url, self.deployment, self.since_seconds, self.engine, self.now)
                found = fit(intervals)
                model = found.model(known)
            except (CannotFit, NoHistory) as error:
                raise BadInput("--fit", f"{error}; without --fit a --calibration is taken") from error
        for line in _lines(found, self.deployment):
            warn(line)
        return model

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except BadDeployment as error:
            raise BadInput("--deployment", error) from error
        except PrometheusUnavailable as error:
            raise BadInput("--prometheus", error) from error


def past(*, url: str, deployment: str | None, since: str, engine: str, now: float) -> Past:
    """Return what the options ask for.

    Raises:
        BadInput: If they cannot be read.
    """
    if deployment is None:
        raise BadInput("--deployment", "whose load is it? give it as namespace/name")
    if engine not in RECORDINGS:
        raise BadInput("--engine", f"{engine!r} has no past that can be read; known: {', '.join(RECORDINGS)}")
    return Past(
        url=url,
        deployment=deployment,
        since=since,
        since_seconds=seconds_of(since),
        engine=Engine(engine),
        now=now,
    )


def seconds_of(since: str) -> int:
    """Return a length of time in seconds.

    Raises:
        BadInput: If it is none, or out of bounds.
    """
    match = re.fullmatch(r"([0-9]{1,9})([mhdw])", since)
    if match is None:
        raise BadInput("--since", f"{since!r} is no length of time; give one like 30m, 12h, 7d or 2w")
    seconds = int(match[1]) * UNIT_SECONDS[match[2]]
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise BadInput("--since", f"{since} must be from {LEAST_SECONDS // 60}m to {MOST_SECONDS // 604_800}w")
    return seconds


def _lines(found: Fit, deployment: str) -> Iterator[str]:
    """Yield what was fitted, as a calibration file that can be saved."""
    yield (
        f"# fitted on {found.intervals:,} busy intervals of {found.intervals_seen:,} of {deployment}, "
        f"R2 {found.r_squared:.3f}; ± one standard error"
    )
    for name in UNKNOWNS:
        value, error = getattr(found, name), found.standard_errors[name]
        yield f"{to_camel(name)}: {value:.4g}  # ± {error:.2g}"
    yield "prefillBaseMs: 0  # not seen apart"
    yield f"kvCacheTokens: {found.kv_cache_tokens}"
