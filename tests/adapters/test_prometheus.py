"""Signals from a real Prometheus, which scrapes pages of ours: every concept, its staleness, its outage."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelfleet.adapters.prometheus import Prometheus, queries
from modelfleet.adapters.source import Target
from modelfleet.api.engine import Engine
from modelfleet.decide.snapshot import Missing, PodSignals, Reading, Signal
from modelfleet.engines.dialects import DIALECTS
from sandbox import binaries
from tests.adapters.pages import PAGES, VLLM_DATA_PARALLEL
from tests.adapters.pods import inter_token_histogram, page

pytestmark = pytest.mark.xdist_group("prometheus-adapter")

BEGAN = time.time()
Page = str | Callable[[], str] | None


def _moving() -> str:
    """Return a page whose counters grow by 300 tokens and 2 requests a second."""
    seconds = time.time() - BEGAN
    return page(
        queued=3,
        running=9,
        tokens=1000 + 300 * seconds,
        finished=10 + 2 * seconds,
        intervals=(20 + 6 * seconds, 1000 + 300 * seconds),
        prompts=50 + 1200 * seconds,
    )


def _moving_ranks() -> str:
    """Return a page of two ranks: 100 tokens a second 10 ms apart, and 300 a second 50 ms apart."""
    seconds = time.time() - BEGAN
    fast, slow = 100 * (10 + seconds), 300 * (10 + seconds)
    return page() + inter_token_histogram(0.01 * fast, fast) + inter_token_histogram(0.05 * slow, slow, rank=1)


PODS: dict[str, Page] = {
    **{f"engine-{engine.value}": PAGES[engine] for engine in Engine},
    "ranks": VLLM_DATA_PARALLEL,
    "moving": _moving,
    "not-a-number": page(queued=float("nan")),
    "infinite": page(queued=float("inf")),
    "negative": page(queued=-4),
    "huge": page(queued=1e300),
    "leaping": lambda: page(tokens=1e13 * (time.time() - BEGAN)),
    "moving-ranks": _moving_ranks,
    "crawling": lambda: page(intervals=(7200 * (10 + time.time() - BEGAN), 10 + time.time() - BEGAN)),
    "other-metrics": "my_metric 1\n",
    # As an engine does that writes a metric under an old and a new name, and a hostile one under everybody's.
    "two-names": page(queued=5, tokens=70)
    + "".join(f'{name}{{engine="0"}} 5\n' for name in ("num_requests_waiting", "sglang:num_queue_reqs"))
    + "".join(f'{name}{{engine="0"}} 70\n' for name in ("generation_tokens_total", "trtllm_generation_tokens_total"))
    + "".join(f'{name}{{engine="0"}} 70\n' for dialect in DIALECTS.values() for name in dialect.prompt_tokens.names)
    + 'trtllm_generation_tokens{engine="0"} 70\n'
    + 'tgi_request_success{engine="0",finished_reason="stop"} 1\n'
    + 'tgi_request_success_total{engine="0",finished_reason="stop"} 1\n'
    + "".join(
        inter_token_histogram(2, 70, name=name)
        for dialect in DIALECTS.values()
        for name in (each.removesuffix("_sum") for each in dialect.inter_token_seconds_sum.names)
    ),
    "dies": page(queued=2),
    "elsewhere": page(queued=99),
}
NAMESPACES = {"elsewhere": "team-b"}


class Server:
    """A Prometheus and the pages that it scrapes each second."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pages = dict(PODS)
        pages = self.pages

        class Pages(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = pages.get(self.path.strip("/"))
                text = found() if callable(found) else found
                self.send_response(500 if text is None else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                return

        ip = f"127.{16 + os.getpid() % 200}.255.1"
        self.http = ThreadingHTTPServer((ip, 0), Pages)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        port = self.http.server_address[1]
        targets = [
            {
                "targets": [f"{ip}:{port}"],
                "labels": {"__metrics_path__": f"/{name}", "namespace": NAMESPACES.get(name, "team-a"), "pod": name},
            }
            for name in PODS
        ]
        # A pod of the same name in another namespace, as every tenant may have one.
        targets.append(
            {
                "targets": [f"{ip}:{port}"],
                "labels": {"__metrics_path__": "/elsewhere", "namespace": "team-b", "pod": "moving"},
            }
        )
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "pods", "static_configs": targets}],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.process = self._start()
        self.url = self._address()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            str(binaries.ensure("prometheus")["prometheus"]),
            f"--config.file={self.directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        with (self.directory / "log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _address(self) -> str:
        """Read the free port that it took from its log."""
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            for line in (self.directory / "log").read_text().splitlines():
                if 'msg="Listening on"' in line:
                    return "http://" + line.split("address=")[1].split()[0]
            time.sleep(0.05)
        raise AssertionError((self.directory / "log").read_text())

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Ask it directly."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - a loopback address
            rows: list[dict[str, Any]] = json.load(response)["data"]["result"]
            return rows

    def stop(self) -> None:
        """End the process and the pages."""
        self.process.kill()
        self.process.wait()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prometheus that has scraped every page a few times."""
    made = Server(tmp_path_factory.mktemp("prometheus"))
    try:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                counts = [float(row["value"][1]) for row in made.ask("count_over_time(up[1m])")]
            except OSError:
                counts = []
            if len(counts) == len(PODS) + 1 and min(counts) >= 4:
                break
            time.sleep(0.2)
        else:
            pytest.fail("Prometheus did not scrape every page")
        yield made
    finally:
        made.stop()


def _target(name: str, *, engine: Engine = Engine.VLLM, namespace: str = "team-a") -> Target:
    return Target(
        namespace=namespace,
        name=name,
        uid=f"{namespace}-{name}",
        ip="10.0.0.1",
        engine=engine,
        port=8000,
        path="/metrics",
        restarts=0,
    )


async def _signals(source: Prometheus, *targets: Target) -> PodSignals:
    await source.refresh(targets, time.time())
    assert source._refreshing is not None
    await source._refreshing
    return source.signals(targets[0].uid)


def _source(server: Server, *, interval: float = 1.0) -> Prometheus:
    return Prometheus(server.url, scrape_interval_seconds=interval)


def _value(reading: Reading) -> float | str:
    return reading.value if isinstance(reading, Signal) else reading.why


ABSENT = "the engine does not expose it"
GAUGES: dict[str, tuple[Engine, tuple[float, float, float | str]]] = {
    "engine-vllm": (Engine.VLLM, (7, 31, 0.8231)),
    "engine-sglang": (Engine.SGLANG, (5, 12, 0.31)),
    "engine-tgi": (Engine.TGI, (9, 24, ABSENT)),
    "engine-trtllm": (Engine.TRTLLM, (3, 6, 0.42)),
    "engine-nim": (Engine.NIM, (1, 4, 0.07)),
    "engine-llamacpp": (Engine.LLAMACPP, (2, 1, ABSENT)),
    "ranks": (Engine.VLLM, (42, 380, 0.97)),
}


@pytest.mark.parametrize("name", GAUGES)
async def test_gauges_are_what_a_scrape_gives(server: Server, name: str) -> None:
    """Six engines and the ranks of one: the same numbers as from the page itself, with the sample's own time."""
    engine, expected = GAUGES[name]
    seen = await _signals(_source(server), _target(name, engine=engine))
    assert isinstance(seen.queued_requests, Signal)
    actual = (_value(seen.queued_requests), _value(seen.running_requests), _value(seen.kv_cache_utilization))

    assert expected == actual
    assert time.time() - 5 < seen.queued_requests.sampled_at <= time.time()


async def test_live_throughput(server: Server) -> None:
    """SGLang's gauge is preferred to its counter."""
    seen = await _signals(_source(server), _target("engine-sglang", engine=Engine.SGLANG))

    assert _value(seen.output_tokens_per_second) == 1432.5


async def test_rates(server: Server) -> None:
    """Tokens and finished requests per second; Prometheus counts the window's unseen part as standing still."""
    seen = await _signals(_source(server), _target("moving"))
    tokens, finished = seen.output_tokens_per_second, seen.finished_requests_per_second
    prompts = seen.input_tokens_per_second
    assert isinstance(prompts, Signal)
    assert isinstance(tokens, Signal)
    assert isinstance(finished, Signal)

    assert 20 < tokens.value < 330
    assert tokens.value / finished.value == pytest.approx(150, rel=0.05)
    assert prompts.value / tokens.value == pytest.approx(4, rel=0.05)


async def test_time_between_tokens(server: Server) -> None:
    """The rate of the histogram's sum by that of its count, ranks weighted by their tokens."""
    source = _source(server)
    moving, ranks = _target("moving"), _target("moving-ranks")
    await _signals(source, moving, ranks)
    actual = [_value(source.signals(target.uid).inter_token_seconds) for target in (moving, ranks)]

    assert actual == [pytest.approx(0.02, rel=0.01), pytest.approx(0.04, rel=0.01)]


@pytest.mark.parametrize("engine", Engine)
async def test_no_token_is_no_time_and_no_fault(server: Server, engine: Engine) -> None:
    """Six engines whose counters stand: 0 / 0 is said as what it is."""
    seen = await _signals(_source(server), _target(f"engine-{engine.value}", engine=engine))

    assert seen.inter_token_seconds == Missing("no token in the rate window", fault=False)


async def test_a_time_between_tokens_that_is_not_on_the_page_is_no_fault(server: Server) -> None:
    """A decision does without it: an engine that does not tell is not to be mended."""
    seen = await _signals(_source(server), _target("dies"))

    assert isinstance(seen.queued_requests, Signal)
    assert seen.inter_token_seconds == Missing(
        "Prometheus has no current value of vllm:inter_token_latency_seconds_sum", fault=False
    )


async def test_a_time_between_tokens_that_no_engine_has_is_none(server: Server) -> None:
    """Two hours a token are a broken counter."""
    seen = await _signals(_source(server), _target("crawling"))

    assert seen.inter_token_seconds == Missing("7.2e+03 s is no time between two tokens")


def test_time_between_tokens_is_one_query() -> None:
    """Each half is folded by pod before the division: it would otherwise match series by their labels."""
    query = queries(30)["inter_token_seconds"]
    sums, counts = query.split(" / ")

    assert sums.startswith("sum by (namespace, pod) (rate(vllm:inter_token_latency_seconds_sum[30s]) or ")
    assert counts.startswith("sum by (namespace, pod) (rate(vllm:inter_token_latency_seconds_count[30s]) or ")
    assert len(queries(30)) == 8


async def test_a_counter_that_stands_is_zero_and_not_missing(server: Server) -> None:
    """An idle engine generates nothing, and that is known."""
    seen = await _signals(_source(server), _target("engine-vllm"))

    assert _value(seen.output_tokens_per_second) == 0
    assert _value(seen.finished_requests_per_second) == 0


async def test_a_name_is_one_namespace_s(server: Server) -> None:
    """Two tenants' pods of one name are two pods."""
    ours, theirs = _target("moving"), _target("moving", namespace="team-b")
    source = _source(server)
    await _signals(source, ours, theirs)
    actual = (_value(source.signals(ours.uid).queued_requests), _value(source.signals(theirs.uid).queued_requests))

    assert actual == (3, 99)


INSANE = ("not-a-number", "infinite", "negative", "huge")


@pytest.mark.parametrize("name", INSANE)
async def test_insane_value_is_missing(server: Server, name: str) -> None:
    """What a scrape of the pod would refuse is refused on this way too."""
    seen = await _signals(_source(server), _target(name))

    assert _value(seen.queued_requests) == "vllm:num_requests_waiting is not a sane number"
    assert _value(seen.running_requests) == 0


async def test_a_throughput_that_no_pod_has_is_none(server: Server) -> None:
    """A counter that leaps is not demand."""
    seen = await _signals(_source(server), _target("leaping"))

    assert "more than one pod can generate" in str(_value(seen.output_tokens_per_second))


async def test_a_pod_under_two_names_spoils_nobody_s_signals(server: Server) -> None:
    """PromQL refuses a rate over two names with the same labels: one pod must not do that to the fleet."""
    source = _source(server)
    double, other = _target("two-names"), _target("moving")
    seen = await _signals(source, double, other)

    assert isinstance(source.signals(other.uid).output_tokens_per_second, Signal)
    assert isinstance(source.signals(other.uid).input_tokens_per_second, Signal)
    assert isinstance(source.signals(other.uid).queued_requests, Signal)
    assert isinstance(source.signals(other.uid).inter_token_seconds, Signal)
    assert isinstance(seen.queued_requests, Signal)


NOWHERE = ("other-metrics", "no-such-pod")


@pytest.mark.parametrize("name", NOWHERE)
async def test_no_series_is_a_fault_with_a_remedy(server: Server, name: str) -> None:
    """A ready pod without series is no idle pod: most often it is not scraped at all."""
    seen = await _signals(_source(server), _target(name))
    assert isinstance(seen.queued_requests, Missing)

    assert "vllm:num_requests_waiting" in seen.queued_requests.why
    assert "PodMonitor" in seen.queued_requests.why


async def test_what_an_engine_does_not_expose(server: Server) -> None:
    """llama.cpp counts no requests: said as such, not as an outage."""
    seen = await _signals(_source(server), _target("engine-llamacpp", engine=Engine.LLAMACPP))

    assert _value(seen.finished_requests_per_second) == ABSENT


async def test_prompts_that_nobody_scrapes_are_missing(server: Server) -> None:
    """An allowance of them adds nothing then: the reason names the counter."""
    seen = await _signals(_source(server), _target("dies"))

    assert seen.input_tokens_per_second == Missing("Prometheus has no current value of vllm:prompt_tokens_total")


async def test_queries_do_not_grow_with_the_fleet(server: Server) -> None:
    """A thousand pods cost as many queries as one: at most eight."""
    source = _source(server)
    await _signals(source, *(_target(f"pod-{number}") for number in range(1000)))
    actual = source.queries_sent

    assert actual == len(queries(30)) <= 8


async def test_prometheus_is_asked_half_an_interval_apart(server: Server) -> None:
    """It knows nothing new in between; a clock that steps back is no reason to wait for it."""
    source = _source(server, interval=10.0)
    target = _target("moving")
    sent = []
    for at in (1000.0, 1001.0, 1004.9, 1005.0, 700.0, 701.0):
        await source.refresh([target], at)
        assert source._refreshing is not None
        await source._refreshing
        sent.append(source.queries_sent // len(queries(30)))

    assert sent == [1, 1, 1, 2, 3, 3]


async def test_age_is_three_intervals(server: Server) -> None:
    """Three scrapes that were lost make a sample stale, and the time of a query is granted."""
    assert _source(server, interval=15.0).max_age_seconds() == 50


async def test_a_target_that_dies_goes_missing(server: Server) -> None:
    """Prometheus marks the series stale with the first scrape that fails; the last value is not repeated."""
    source, target = _source(server), _target("dies")
    alive = await _signals(source, target)
    server.pages["dies"] = None
    seen, give_up = alive, time.monotonic() + 10
    while isinstance(seen.queued_requests, Signal) and time.monotonic() < give_up:
        await asyncio.sleep(0.5)
        seen = await _signals(source, target)
    server.pages["dies"] = PODS["dies"]

    assert _value(alive.queued_requests) == 2
    assert isinstance(seen.queued_requests, Missing)
    assert isinstance(seen.output_tokens_per_second, Missing)


async def test_an_answer_that_is_none_is_an_outage() -> None:
    """Something else at the address, or an error: every signal is missing, and the reason is said."""
    for body, status in ((b"<html>", 200), (b'{"status":"error"}', 200), (b"busy", 503), (b"[]", 200)):

        class Wrong(BaseHTTPRequestHandler):
            def do_GET(self, body: bytes = body, status: int = status) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                return

        with ThreadingHTTPServer(("127.0.0.1", 0), Wrong) as wrong:
            threading.Thread(target=wrong.serve_forever, daemon=True).start()
            source = Prometheus(f"http://127.0.0.1:{wrong.server_address[1]}", scrape_interval_seconds=1)
            seen = await _signals(source, _target("moving"))
            wrong.shutdown()
        assert isinstance(seen.queued_requests, Missing)

        assert seen.queued_requests.why.startswith("Prometheus: ")


async def test_a_server_that_hangs_does_not_stop_the_loop(server: Server) -> None:
    """A refresh waits a second for its answers and goes on with what it has; the next does not ask twice."""
    source, target = _source(server), _target("moving")
    before = await _signals(source, target)
    server.process.send_signal(signal.SIGSTOP)
    try:
        waits = []
        for _ in range(2):
            began = time.monotonic()
            await source.refresh([target], time.time() + 60)
            waits.append(time.monotonic() - began)
        sent = source.queries_sent
    finally:
        server.process.send_signal(signal.SIGCONT)
    await source.close()

    assert max(waits) < 1.5
    assert sent <= 2 * len(queries(30))
    assert isinstance(before.queued_requests, Signal)


async def test_killed_server_makes_everything_missing(server: Server) -> None:
    """Within one refresh of its end nothing is known any more. The last test of this file: it kills."""
    source = _source(server)
    target, other = _target("moving"), _target("engine-vllm")
    before = await _signals(source, target, other)
    server.process.kill()
    server.process.wait()
    await asyncio.sleep(0.6)
    await _signals(source, target, other)

    assert isinstance(before.queued_requests, Signal)
    for one in (target, other):
        seen = source.signals(one.uid)
        for reading in (seen.queued_requests, seen.running_requests, seen.output_tokens_per_second):
            assert isinstance(reading, Missing)
            assert reading.why == "Prometheus: cannot be reached; check the URL and the network policy"


def test_no_query_contains_what_a_team_wrote() -> None:
    """Queries ask for concepts over all engines: nothing of an object can reach PromQL."""
    texts = queries(30).values()

    for dialect in DIALECTS.values():
        for name in dialect.names():
            assert any(name in text for text in texts), name
    assert all("namespace=" not in text and "pod=" not in text for text in texts)
