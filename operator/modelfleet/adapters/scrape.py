"""Signals straight from the pods: the default, without Prometheus.

Only the IPs of the operator's own pods are asked, at the runtime's fixed port and path: no
redirects, no proxy from the environment, 1 MiB, 2 s, a bounded number at once and a budget of
scrapes per second. A pod that is slow, hostile or dead costs itself its signals and nobody else.
"""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import time

import aiohttp

from modelfleet.adapters.counters import CounterWindow, InterTokenWindow
from modelfleet.adapters.exposition import BadExposition, fold, read
from modelfleet.adapters.source import Target, plausible_inter_token, plausible_prompts, plausible_throughput
from modelfleet.api.engine import Engine
from modelfleet.decide.snapshot import Missing, PodSignals, Reading, Signal
from modelfleet.engines.dialects import DIALECTS, Dialect, Metric

TIMEOUT_SECONDS = 2.0
MAX_BYTES = 1 << 20
CONCURRENCY = 128
ROUND_SECONDS = 0.25
"""A round waits this long for its answers; later ones count for the next decision."""

NOT_SCRAPED = PodSignals.missing("not scraped yet")


@dataclass(slots=True)
class _Pod:
    """What is kept of one pod between scrapes."""

    output_tokens: CounterWindow
    input_tokens: CounterWindow
    finished_requests: CounterWindow
    inter_token: InterTokenWindow
    due_at: float = 0.0
    busy: bool = False
    signals: PodSignals = NOT_SCRAPED


class Scraper:
    """Scrapes pods in rounds, the longest waiting first, within a budget."""

    def __init__(self, *, period_seconds: float, scrapes_per_second: float) -> None:
        """Prepare.

        Args:
            period_seconds: How often a pod is asked while the budget allows it.
            scrapes_per_second: Budget for the whole fleet; beyond it pods are asked less often.
        """
        self._period = period_seconds
        self._budget = scrapes_per_second
        self._burst = max(1.0, scrapes_per_second * period_seconds)
        self._credit = self._burst
        self._refreshed_at = float("-inf")
        self._pods: dict[str, _Pod] = {}
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._running: set[asyncio.Task[None]] = set()

    def max_age_seconds(self) -> float:
        """Return the age beyond which a sample is stale: three periods as the budget stretches them."""
        stretched = max(self._period, len(self._pods) / self._budget)
        return 3 * stretched + TIMEOUT_SECONDS

    def rate_window_seconds(self, engine: Engine) -> float:
        """Return the dialect's window: as short as the engine's counters allow."""
        return DIALECTS[engine].rate_window_seconds

    def signals(self, uid: str) -> PodSignals:
        """Return the last signals of a pod."""
        pod = self._pods.get(uid)
        return pod.signals if pod is not None else NOT_SCRAPED

    async def refresh(self, targets: Sequence[Target], now: float) -> None:
        """Start the scrapes that are due and wait shortly for their answers.

        Args:
            targets: Every ready pod of the fleet; what is kept of others is forgotten.
            now: Seconds since the epoch.
        """
        self._forget(targets)
        # Ticks come early when there is news: the budget is one of time, not of ticks.
        self._credit = min(self._burst, self._credit + self._budget * max(0.0, now - self._refreshed_at))
        self._refreshed_at = now
        due = sorted(
            (target for target in targets if self._is_due(self._pod(target), now)),
            key=lambda target: self._pod(target).due_at,
        )[: int(self._credit)]
        self._credit -= len(due)
        for target in due:
            pod = self._pod(target)
            pod.busy = True
            # Half a period early is on time: rounds tick at the period and jitter must not skip one.
            pod.due_at = now + self._period / 2
            task = asyncio.create_task(self._scrape(target, pod))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self._running:
            await asyncio.wait(self._running, timeout=ROUND_SECONDS)

    async def close(self) -> None:
        """Stop every scrape and close the connections."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _is_due(self, pod: _Pod, now: float) -> bool:
        # Further ahead than a period is a clock that was set back: waiting for it would take the last
        # samples, dated in the future, for fresh all the while.
        return not pod.busy and not now < pod.due_at <= now + self._period

    def _pod(self, target: Target) -> _Pod:
        pod = self._pods.get(target.uid)
        if pod is None:
            window = DIALECTS[target.engine].rate_window_seconds
            output, prompt, finished = (CounterWindow(window) for _ in range(3))
            pod = self._pods[target.uid] = _Pod(output, prompt, finished, InterTokenWindow(window))
        return pod

    def _forget(self, targets: Sequence[Target]) -> None:
        if len(self._pods) > len(targets):
            alive = {target.uid for target in targets}
            self._pods = {uid: pod for uid, pod in self._pods.items() if uid in alive}

    async def _scrape(self, target: Target, pod: _Pod) -> None:
        try:
            async with self._slots:
                page = await self._fetch(target)
            pod.signals = _interpret(page, target, pod, at=time())
        except (TimeoutError, aiohttp.ClientError, OSError, UnicodeDecodeError, BadExposition, ValueError) as error:
            pod.signals = PodSignals.missing(_why(error))
        finally:
            pod.busy = False

    async def _fetch(self, target: Target) -> str:
        url = f"http://{_host(target.ip)}:{target.port}{target.path}"
        async with self._client().get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise BadExposition(f"{target.path} answered HTTP {response.status}")
            body = await response.content.read(MAX_BYTES + 1)
            while len(body) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES + 1 - len(body))):
                body += more
        if len(body) > MAX_BYTES:
            raise BadExposition(f"{target.path} is larger than 1 MiB")
        return body.decode()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONCURRENCY, limit_per_host=1, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                # Nothing is decompressed, so nothing compressed may be asked for: aiohttp would, and engines
                # that serve their page with prometheus_client comply.
                headers={"Accept": "text/plain", "Accept-Encoding": "identity", "User-Agent": "modelfleet"},
            )
        return self._session


def forbidden(ip: str) -> bool:
    """Return whether an address cannot be a pod's: link-local, multicast, unspecified, or 127.0.0.0/16.

    The rest of 127.0.0.0/8 is allowed: the sandbox gives its pods loopback addresses from 127.16 up.
    """
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    own_host = address in ipaddress.ip_network("127.0.0.0/16") if address.version == 4 else address.is_loopback
    return bool(own_host or address.is_link_local or address.is_multicast or address.is_unspecified)


def _host(ip: str) -> str:
    if forbidden(ip):
        raise BadExposition(f"the pod's address {ip} is none that a pod may have")
    return f"[{ip}]" if ":" in ip else ip


def _interpret(page: str, target: Target, pod: _Pod, *, at: float) -> PodSignals:
    dialect = DIALECTS[target.engine]
    samples = read(page, dialect)
    life = (target.uid, target.restarts)
    return PodSignals(
        queued_requests=_gauge(samples, dialect.queued_requests, at),
        running_requests=_gauge(samples, dialect.running_requests, at),
        output_tokens_per_second=plausible_throughput(_output(samples, dialect, pod, at, life)),
        input_tokens_per_second=plausible_prompts(_rate(samples, dialect.prompt_tokens, pod.input_tokens, at, life)),
        finished_requests_per_second=_rate(samples, dialect.finished_requests, pod.finished_requests, at, life),
        kv_cache_utilization=_gauge(samples, dialect.kv_cache_utilization, at),
        inter_token_seconds=plausible_inter_token(_inter_token(samples, dialect, pod, at, life)),
    )


def _output(
    samples: Mapping[str, list[float]], dialect: Dialect, pod: _Pod, at: float, life: tuple[str, int]
) -> Reading:
    rate = _rate(samples, dialect.output_tokens, pod.output_tokens, at, life)
    if not dialect.output_tokens_per_second.names:
        return rate
    live = _gauge(samples, dialect.output_tokens_per_second, at)
    return live if isinstance(live, Signal) else rate


def _gauge(samples: Mapping[str, list[float]], metric: Metric, at: float) -> Reading:
    value = fold(samples, metric)
    return Missing(value) if isinstance(value, str) else Signal(value, at)


def _rate(
    samples: Mapping[str, list[float]], metric: Metric, window: CounterWindow, at: float, life: tuple[str, int]
) -> Reading:
    value = fold(samples, metric)
    if isinstance(value, str):
        return Missing(value)
    window.add(value, at=at, life=life)
    return window.rate()


def _inter_token(
    samples: Mapping[str, list[float]], dialect: Dialect, pod: _Pod, at: float, life: tuple[str, int]
) -> Reading:
    numbers: list[float] = []
    for metric in (dialect.inter_token_seconds_sum, dialect.inter_token_seconds_count):
        value = fold(samples, metric)
        if isinstance(value, str):
            # Not on the page is no fault: an option turned off, or no token since the engine started.
            return Missing(value, fault=not samples.keys().isdisjoint(metric.names))
        numbers.append(value)
    seconds, tokens = numbers
    pod.inter_token.add(seconds=seconds, tokens=tokens, at=at, life=life)
    return pod.inter_token.mean()


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:.0f} s"
    return str(error)[:200] or type(error).__name__
