"""Signals from Prometheus: eight vector queries a refresh, whatever the fleet's size.

All PromQL of the operator is in this file. No query contains a name that a team wrote: each asks for
a concept over all engines at once, and the answer is joined to live pods by namespace and pod name.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any

import requests
import structlog
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from urllib3.util.retry import Retry

from modelfleet.adapters.counters import NO_TOKEN
from modelfleet.adapters.exposition import PLAUSIBLE
from modelfleet.adapters.source import Target, plausible_inter_token, plausible_prompts, plausible_throughput
from modelfleet.api.engine import Engine
from modelfleet.decide.snapshot import Missing, PodSignals, Reading, Signal
from modelfleet.engines.dialects import DIALECTS, Dialect, Metric

QUERY_TIMEOUT_SECONDS = 5
Vector = Mapping[tuple[str, ...], float]
"""Value by namespace and pod; where an answer holds several concepts, by these and the concept."""

log = structlog.get_logger()


def _any(concept: str, form: str = "{}") -> str:
    # One selector a name, joined by `or`, never one over all names: PromQL drops the name in rate() and
    # timestamp() and then refuses the whole query where one pod has two names with the same labels. `or`
    # takes the first of them, as a scrape does.
    metrics: list[Metric] = [getattr(dialect, concept) for dialect in DIALECTS.values()]
    names = dict.fromkeys(name for metric in metrics for name in metric.names)
    return " or ".join(form.format(name) for name in names)


def queries(rate_window_seconds: int) -> dict[str, str]:
    """Return the PromQL of every concept, by concept.

    Args:
        rate_window_seconds: Span of counter rates; at least four scrape intervals, so that one lost
            scrape leaves a rate.
    """

    def gauge(concept: str, fold: str) -> str:
        return f"{fold} by (namespace, pod) ({_any(concept)})"

    def rate(concept: str) -> str:
        return f"sum by (namespace, pod) ({_any(concept, f'rate({{}}[{rate_window_seconds}s])')})"

    def named(concept: str) -> str:
        return f'label_replace({rate(concept)}, "concept", "{concept}", "", "")'

    return {
        "queued_requests": gauge("queued_requests", "sum"),
        "running_requests": gauge("running_requests", "sum"),
        # Two concepts in one answer: the number of queries is bounded.
        "tokens": f"{named('output_tokens')} or {named('prompt_tokens')}",
        "output_tokens_per_second": gauge("output_tokens_per_second", "sum"),
        "finished_requests": rate("finished_requests"),
        "kv_cache_utilization": gauge("kv_cache_utilization", "max"),
        "inter_token_seconds": f"{rate('inter_token_seconds_sum')} / {rate('inter_token_seconds_count')}",
        "sampled_at": f"min by (namespace, pod) ({_any('queued_requests', 'timestamp({})')})",
    }


class Prometheus:
    """Reads the whole fleet's signals from one Prometheus server."""

    def __init__(self, url: str, *, scrape_interval_seconds: float) -> None:
        """Prepare.

        Args:
            url: Root URL of the server, from the operator's configuration.
            scrape_interval_seconds: How often that server scrapes the pods.
        """
        # The next refresh is the retry: a slow server must not be asked three times at once.
        self._connection = PrometheusConnect(url=url, retry=Retry(total=0))
        self._interval = scrape_interval_seconds
        self._rate_window_seconds = max(30, round(4 * scrape_interval_seconds))
        self._queries = queries(self._rate_window_seconds)
        self._signals: dict[str, PodSignals] = {}
        self._asked_at = float("-inf")
        self._failing = False
        self._refreshing: asyncio.Task[None] | None = None
        self.queries_sent = 0

    def max_age_seconds(self) -> float:
        """Return three scrape intervals and what a query may take."""
        return 3 * self._interval + QUERY_TIMEOUT_SECONDS

    def rate_window_seconds(self, engine: Engine) -> float:
        """Return the window of every rate that is asked for, whatever the engine."""
        return float(self._rate_window_seconds)

    def signals(self, uid: str) -> PodSignals:
        """Return the last signals of a pod."""
        return self._signals.get(uid, _UNKNOWN)

    async def refresh(self, targets: Sequence[Target], now: float) -> None:
        """Ask every query once, concurrently; an unreachable server makes every signal missing.

        Prometheus knows nothing new between its scrapes: it is asked half a scrape interval apart.
        A server that hangs is waited for in the background; decisions go on with what ages meanwhile.
        """
        # A clock that was set back is no reason to wait until it is where it was.
        due = abs(now - self._asked_at) >= self._interval / 2
        if due and (self._refreshing is None or self._refreshing.done()):
            self._asked_at = now
            self._refreshing = asyncio.create_task(self._ask(tuple(targets)))
        if self._refreshing is not None:
            await asyncio.wait({self._refreshing}, timeout=1.0)

    async def close(self) -> None:
        """Wait for what is under way; connections are closed with their requests."""
        if self._refreshing is not None:
            await asyncio.wait({self._refreshing}, timeout=QUERY_TIMEOUT_SECONDS)

    async def _ask(self, targets: Sequence[Target]) -> None:
        try:
            answers = await asyncio.gather(*(asyncio.to_thread(self._query, query) for query in self._queries.values()))
        except (requests.RequestException, PrometheusApiClientException, ValueError, KeyError, TypeError) as error:
            why = f"Prometheus: {_short(error)}"
            if not self._failing:
                log.warning("Prometheus does not answer; replicas are held", error=why)
            self._failing = True
            self._signals = {target.uid: PodSignals.missing(why) for target in targets}
            return
        if self._failing:
            log.info("Prometheus answers again")
        self._failing = False
        vectors = dict(zip(self._queries, answers, strict=True))
        self._signals = {target.uid: _signals(target, vectors) for target in targets}

    def _query(self, query: str) -> Vector:
        self.queries_sent += 1
        rows: list[dict[str, Any]] = self._connection.custom_query(query, timeout=QUERY_TIMEOUT_SECONDS)
        return {_labels(row["metric"]): float(row["value"][1]) for row in rows}


def _labels(metric: Mapping[str, str]) -> tuple[str, ...]:
    pod = metric.get("namespace", ""), metric.get("pod", "")
    return (*pod, metric["concept"]) if "concept" in metric else pod


_UNKNOWN = PodSignals.missing("not asked yet")


def _signals(target: Target, vectors: Mapping[str, Vector]) -> PodSignals:
    dialect = DIALECTS[target.engine]
    pod = (target.namespace, target.name)
    sampled_at = vectors["sampled_at"].get(pod)
    if sampled_at is None:
        return PodSignals.missing(
            f"Prometheus has no series {dialect.queued_requests.names[0]} with namespace and pod labels for it: "
            "check the PodMonitor"
        )

    def read(concept: str) -> Reading:
        vector = vectors.get(concept)
        value = vectors["tokens"].get((*pod, concept)) if vector is None else vector.get(pod)
        return _reading(concept, dialect, value, sampled_at)

    live = read("output_tokens_per_second")
    return PodSignals(
        queued_requests=read("queued_requests"),
        running_requests=read("running_requests"),
        output_tokens_per_second=plausible_throughput(live if isinstance(live, Signal) else read("output_tokens")),
        input_tokens_per_second=plausible_prompts(read("prompt_tokens")),
        finished_requests_per_second=read("finished_requests"),
        kv_cache_utilization=read("kv_cache_utilization"),
        inter_token_seconds=_inter_token(dialect, vectors["inter_token_seconds"].get(pod), sampled_at),
    )


def _reading(concept: str, dialect: Dialect, value: float | None, sampled_at: float) -> Reading:
    metric: Metric = getattr(dialect, concept)
    if not metric.names:
        return Missing("the engine does not expose it")
    if value is None:
        return Missing(f"Prometheus has no current value of {metric.names[0]}")
    if not 0 <= value <= PLAUSIBLE:
        return Missing(f"{metric.names[0]} is not a sane number")
    return Signal(value, sampled_at)


def _inter_token(dialect: Dialect, value: float | None, sampled_at: float) -> Reading:
    if value is not None and isnan(value):
        # Neither counter moved: 0 / 0.
        return NO_TOKEN
    reading = _reading("inter_token_seconds_sum", dialect, value, sampled_at)
    if isinstance(reading, Missing) and value is None:
        return replace(reading, fault=False)
    return plausible_inter_token(reading)


def _short(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer within {QUERY_TIMEOUT_SECONDS} s"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached; check the URL and the network policy"
    return str(error)[:200]
