"""What a Prometheus recorded of one deployment's pods: counters step by step, or every sample of a scrape.

Counters are read as they are, and subtracted by the reader: `increase()` extrapolates to the edges of its
window, and would not agree with the gauges of the same scrape, which the arrivals need to the request.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from pydantic import TypeAdapter, ValidationError
from urllib3.util.retry import Retry

from modelfleet.api.meta import Key, Name

QUERY_TIMEOUT_SECONDS: Final = 60
POINTS_PER_QUERY: Final = 1_440
"""A day of minutes. Prometheus refuses more than 11,000 a series, and 50 million samples of all series."""
SAMPLES_PER_QUERY_SECONDS: Final = 3_600
TOLERATED_STEPS: Final = 2
"""A sample may be this many steps after the one before, as where a scrape interval is as long as a step."""

WANTED_METRIC: Final = "modelfleet_deployment_replicas_wanted"
DEMAND_METRIC: Final = "modelfleet_deployment_demand_tokens_per_second"
MIX_METRIC: Final = "modelfleet_deployment_input_tokens_per_output_token"
TARGET_METRIC: Final = "modelfleet_deployment_target_output_tokens_per_second_per_replica"
"""As the operator exports them (shell/fleet_metrics)."""

_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
# What Kubernetes draws a pod's hash and suffix from, and where it cuts the name that the suffix is put to.
_RANDOM: Final = "bcdfghjklmnpqrstvwxz2456789"
_HASH_LENGTH: Final = 10
_SUFFIX_LENGTH: Final = 5
_STEM_LENGTH: Final = 58

Points = Mapping[int, float]
"""Value by step number."""


class HistoryError(Exception):
    """A history cannot be read; the text says why, and what to do."""


class PrometheusUnavailable(HistoryError):
    """Prometheus gave no answer, or refused the question."""


class BadDeployment(HistoryError):
    """What was given is not the namespace and name of a deployment."""


class NoHistory(HistoryError):
    """Prometheus has nothing of what was asked for."""


@dataclass(frozen=True, slots=True)
class Series:
    """One recorded series.

    Attributes:
        name: Of the metric.
        labels: All of them.
        samples: Times in seconds since the epoch, and values; in order of time.
    """

    name: str
    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """The moments at which a history is read: `count` steps from `begins_at`, both ends included.

    Attributes:
        begins_at: Seconds since the epoch; a multiple of the step.
        count: How many steps follow, at least 1.
        seconds: Length of a step; at least the scrape interval.
    """

    begins_at: int
    count: int
    seconds: int

    def at(self, number: int) -> int:
        """Return when a step ends, in seconds since the epoch; number 0 is the beginning."""
        return self.begins_at + number * self.seconds


class History:
    """Asks one Prometheus about the pods of one deployment."""

    def __init__(self, url: str, deployment: str) -> None:
        """Prepare.

        Args:
            url: Root URL of the server.
            deployment: "namespace/name".

        Raises:
            BadDeployment: If it is not that. Two RFC 1123 labels hold nothing that means anything to PromQL.
            PrometheusUnavailable: If the URL is none.
        """
        self.deployment = _key(deployment)
        with _refusals():
            self._connection = PrometheusConnect(url=url.rstrip("/"), retry=Retry(total=1))
        self._pods = f'namespace="{self.deployment.namespace}",pod=~"{pod_pattern(self.deployment.name)}"'

    def values(self, names: Iterable[str], steps: Steps) -> dict[str, Points]:
        """Return, by pod, the last value in each step that has one; what a pod ended with included.

        Args:
            names: The metric, newest name first; a pod's series of it are added up.
            steps: When.
        """
        last = self._any(names, f"last_over_time({{}}[{steps.seconds}s])")
        return self._by_pod(f"sum by (pod) ({last})", steps)

    def first_values(self, names: Iterable[str], steps: Steps) -> dict[str, Points]:
        """Return, by pod, the first value of a counter in the step in which it appears.

        A pod that was there before, and began to be scraped, has counted for long: only the rest of the step is
        known of it.
        """
        names = tuple(names)
        least = self._any(names, f"min_over_time({{}}[{steps.seconds}s])")
        silence = f"[{TOLERATED_STEPS * steps.seconds}s] offset {steps.seconds}s"
        before = self._any(names, f"last_over_time({{}}{silence})")
        return self._by_pod(f"sum by (pod) (({least}) unless ({before}))", steps)

    def recorded(self, steps: Steps) -> frozenset[int]:
        """Return the steps in which Prometheus scraped anything at all."""
        counted = self._range(f"count(last_over_time(up[{TOLERATED_STEPS * steps.seconds}s]))", steps)
        return frozenset(number for _, points in counted for number in points)

    def samples(self, names: Iterable[str], *, begins_at: float, ends_at: float) -> list[Series]:
        """Return every sample of these metrics, as it was scraped.

        Args:
            names: Of the metrics; none holds a character that means something in a regular expression.
            begins_at: Seconds since the epoch.
            ends_at: The same.
        """
        selector = f'{{__name__=~"{"|".join(names)}",{self._pods}}}'
        found: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        at = begins_at
        while at < ends_at:
            span = math.ceil(min(SAMPLES_PER_QUERY_SECONDS, ends_at - at))
            at += span
            with _refusals():
                rows: list[dict[str, Any]] = self._connection.custom_query(
                    f"{selector}[{span}s]", params={"time": at}, timeout=QUERY_TIMEOUT_SECONDS
                )
                for row in rows:
                    series = found.setdefault(tuple(sorted(row["metric"].items())), [])
                    # A span includes its beginning in Prometheus 2: that sample has been read.
                    newest = series[-1][0] if series else -math.inf
                    series.extend(each for each in _numbers(row["values"]) if each[0] > newest)
        return [
            Series(dict(labels).get("__name__", ""), dict(labels), tuple(samples)) for labels, samples in found.items()
        ]

    def _any(self, names: Iterable[str], form: str) -> str:
        # As in `prometheus`: one selector a name, joined by `or`, which takes the first that a pod has.
        return " or ".join(form.format(f"{name}{{{self._pods}}}") for name in names)

    def _by_pod(self, query: str, steps: Steps) -> dict[str, Points]:
        found: dict[str, dict[int, float]] = {}
        for labels, points in self._range(query, steps):
            found.setdefault(labels.get("pod", ""), {}).update(points)
        return dict(found)

    def _range(self, query: str, steps: Steps) -> Iterator[tuple[Mapping[str, str], Points]]:
        return _range(self._connection, query, steps)


def exported(url: str, names: Iterable[str], steps: Steps) -> dict[str, dict[Key, Points]]:
    """Return, by metric and deployment, what the operator exported last in each step that has any.

    Args:
        url: Root URL of the server.
        names: Of the operator's metrics; the first one must be there.
        steps: When.

    Raises:
        HistoryError: If the server gives no answer, or has nothing of the first.
    """
    with _refusals():
        connection = PrometheusConnect(url=url.rstrip("/"), retry=Retry(total=1))
    by_name: dict[str, dict[Key, Points]] = {}
    for name in names:
        # A scrape that does not honor labels calls the operator's own namespace so, and the team's exported_namespace.
        query = f"max by (namespace, exported_namespace, deployment) (last_over_time({name}[{steps.seconds}s]))"
        found: dict[Key, dict[int, float]] = {}
        for labels, points in _range(connection, query, steps):
            namespace = labels.get("exported_namespace") or labels.get("namespace", "")
            found.setdefault(Key(namespace, labels.get("deployment", "")), {}).update(points)
        if not found and not by_name:
            raise NoHistory(
                f"Prometheus has no {name} of that time; let it scrape /metrics of the operator, or change --since"
            )
        by_name[name] = dict(found)
    return by_name


def _range(connection: PrometheusConnect, query: str, steps: Steps) -> Iterator[tuple[Mapping[str, str], Points]]:
    for first in range(0, steps.count + 1, POINTS_PER_QUERY):
        last = min(first + POINTS_PER_QUERY - 1, steps.count)
        begins, ends = (datetime.fromtimestamp(steps.at(number), UTC) for number in (first, last))
        with _refusals():
            rows: list[dict[str, Any]] = connection.custom_query_range(
                query, begins, ends, f"{steps.seconds}s", timeout=QUERY_TIMEOUT_SECONDS
            )
            for row in rows:
                yield (
                    row["metric"],
                    {round((at - steps.begins_at) / steps.seconds): value for at, value in _numbers(row["values"])},
                )


def pod_pattern(name: str) -> str:
    """Return the regular expression of a Deployment's pod names: its name, a hash and a suffix.

    It takes no pod of another Deployment whose name begins alike, for neither has a hyphen. Of a name of more
    than 46 characters, the end of the hash is cut off, of one of 58 and more all of it.

    Args:
        name: Of the Deployment; an RFC 1123 label.

    Source:
        Kubernetes: apiserver/pkg/storage/names/generate.go, apimachinery/pkg/util/rand/rand.go.
    """
    stem = f"{name}-"
    if len(stem) + _HASH_LENGTH + 1 <= _STEM_LENGTH:
        return f"{stem}[{_RANDOM}]{{1,{_HASH_LENGTH}}}-[{_RANDOM}]{{{_SUFFIX_LENGTH}}}"
    cut = stem[:_STEM_LENGTH]
    return f"{cut}[{_RANDOM}-]{{{_SUFFIX_LENGTH},{_STEM_LENGTH + _SUFFIX_LENGTH - len(cut)}}}"


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except requests.Timeout as error:
        raise PrometheusUnavailable(f"Prometheus: no answer within {QUERY_TIMEOUT_SECONDS} s") from error
    except requests.ConnectionError as error:
        raise PrometheusUnavailable("Prometheus: cannot be reached; check its URL") from error
    except (requests.JSONDecodeError, KeyError, TypeError) as error:
        raise PrometheusUnavailable(
            "Prometheus: what answers is none; check its URL, and what stands before it"
        ) from error
    except (requests.RequestException, PrometheusApiClientException, ValueError) as error:
        raise PrometheusUnavailable(f"Prometheus: {str(error)[:300]}") from error


def _key(deployment: str) -> Key:
    namespace, _, name = deployment.partition("/")
    try:
        return Key(_NAME.validate_python(namespace), _NAME.validate_python(name))
    except ValidationError as error:
        raise BadDeployment(f"{deployment[:140]!r} is not a deployment; give it as namespace/name") from error


def _numbers(pairs: Iterable[tuple[float, str]]) -> Iterator[tuple[float, float]]:
    for at, text in pairs:
        value = float(text)
        if math.isfinite(value) and value >= 0.0:
            yield float(at), value
