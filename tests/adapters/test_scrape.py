"""Pods scraped over real HTTP: what is read, what is refused, and what a hostile one costs the others."""

import asyncio
import gzip
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from modelfleet.adapters import scrape
from modelfleet.adapters.scrape import MAX_BYTES, Scraper, forbidden
from modelfleet.adapters.source import Target
from modelfleet.api.engine import Engine
from modelfleet.decide.snapshot import Missing, PodSignals, Reading, Signal
from modelfleet.engines.dialects import DIALECTS
from tests.adapters.pages import PAGES
from tests.adapters.pods import (
    Behave,
    PodServer,
    answers,
    drips,
    hangs_up,
    inter_token_histogram,
    never_ends,
    page,
    pod,
    says_nothing,
    speaks_no_http,
)


@pytest.fixture
async def scraper() -> AsyncIterator[Scraper]:
    """A scraper that asks every pod each second."""
    made = Scraper(period_seconds=1.0, scrapes_per_second=500.0)
    yield made
    await made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after 0.4 s instead of 2 s: the tests have other things to do."""
    monkeypatch.setattr(scrape, "TIMEOUT_SECONDS", 0.4)


async def _ask(scraper: Scraper, *targets: Target, at: float | None = None) -> PodSignals:
    """Ask and wait until every answer is in; return the first target's signals."""
    await scraper.refresh(targets, time.time() if at is None else at)
    for _ in range(200):
        if not scraper._running:
            break
        await asyncio.sleep(0.02)
    return scraper.signals(targets[0].uid)


def _value(reading: Reading) -> float | str:
    return reading.value if isinstance(reading, Signal) else reading.why


# --- what is read -------------------------------------------------------------------------------


async def test_gauges_of_the_first_scrape(scraper: Scraper) -> None:
    """One scrape gives the gauges, with the time it was made; a rate needs two."""
    async with pod(answers(page(queued=7, running=31, tokens=900))) as server:
        began = time.time()
        seen = await _ask(scraper, server.target())
        assert isinstance(seen.queued_requests, Signal)

        assert (_value(seen.queued_requests), _value(seen.running_requests)) == (7, 31)
        assert began <= seen.queued_requests.sampled_at <= time.time()
        assert isinstance(seen.output_tokens_per_second, Missing)
        assert server.requests[0].startswith("GET /metrics HTTP/1.1\r\n")


@pytest.mark.parametrize("engine", Engine)
async def test_every_engine_is_read(scraper: Scraper, engine: Engine) -> None:
    """Six dialects through the same pipe."""
    async with pod(answers(PAGES[engine])) as server:
        seen = await _ask(scraper, server.target(engine=engine))

        assert isinstance(seen.queued_requests, Signal)
        assert isinstance(seen.running_requests, Signal)


async def test_live_throughput_needs_no_second_scrape(scraper: Scraper) -> None:
    """SGLang tells its throughput itself."""
    async with pod(answers(PAGES[Engine.SGLANG])) as server:
        seen = await _ask(scraper, server.target(engine=Engine.SGLANG))

        assert _value(seen.output_tokens_per_second) == 1432.5


async def test_rates_from_counters(scraper: Scraper) -> None:
    """Two scrapes give tokens of both kinds and finished requests per second of the time between them."""
    async with pod(answers(page(tokens=1000, finished=10, prompts=50))) as server:
        target = server.target()
        await _ask(scraper, target, at=1.0)
        await asyncio.sleep(0.6)
        server.behave = answers(page(tokens=1600, finished=16, prompts=3050))
        seen = await _ask(scraper, target, at=2.0)
        rates = (
            _value(seen.output_tokens_per_second),
            _value(seen.finished_requests_per_second),
            _value(seen.input_tokens_per_second),
        )

        assert rates == (pytest.approx(1000, rel=0.2), pytest.approx(10, rel=0.2), pytest.approx(5000, rel=0.2))
        # Kept alive: the second scrape needs no connection of its own.
        assert server.connections == 1


async def test_prompts_that_an_engine_does_not_count_are_missing_and_nothing_else_is(scraper: Scraper) -> None:
    """The counter's name says what to look for; no pod reads a billion tokens a second."""
    async with pod(answers(page(tokens=1000))) as server:
        target = server.target()
        await _ask(scraper, target, at=1.0)
        await asyncio.sleep(0.6)
        silent = await _ask(scraper, target, at=2.0)
        server.behave = answers(page(tokens=1000, prompts=0))
        await _ask(scraper, target, at=3.0)
        await asyncio.sleep(0.6)
        server.behave = answers(page(tokens=1000, prompts=1e9))
        leaping = await _ask(scraper, target, at=4.0)

        assert silent.input_tokens_per_second == Missing("vllm:prompt_tokens_total is not on the metrics page")
        assert isinstance(silent.output_tokens_per_second, Signal)
        assert "more than one pod can read" in str(_value(leaping.input_tokens_per_second))


@pytest.mark.parametrize("engine", Engine)
async def test_every_engine_s_prompts_are_read(scraper: Scraper, engine: Engine) -> None:
    """The counter of each dialect, as the simulated engines write it."""
    name = DIALECTS[engine].prompt_tokens.names[0]
    async with pod(answers(PAGES[engine] + f"{name} 100\n")) as server:
        target = server.target(engine=engine)
        await _ask(scraper, target, at=1.0)
        await asyncio.sleep(0.6)
        server.behave = answers(PAGES[engine] + f"{name} 400\n")
        seen = await _ask(scraper, target, at=2.0)

        assert _value(seen.input_tokens_per_second) == pytest.approx(500, rel=0.2)


async def test_a_restarted_container_has_no_rate_yet(scraper: Scraper) -> None:
    """Counters of another life are not compared, also when they are higher."""
    async with pod(answers(page(tokens=1000))) as server:
        await _ask(scraper, server.target(), at=1.0)
        await asyncio.sleep(0.6)
        server.behave = answers(page(tokens=900_000))
        seen = await _ask(scraper, server.target(restarts=1), at=2.0)

        assert isinstance(seen.output_tokens_per_second, Missing)


async def test_a_throughput_that_no_pod_has_is_none(scraper: Scraper) -> None:
    """A counter that leaps is not demand: a single pod would buy the whole cluster."""
    async with pod(answers(page(tokens=0))) as server:
        await _ask(scraper, server.target(), at=1.0)
        await asyncio.sleep(0.6)
        server.behave = answers(page(tokens=1e12))
        seen = await _ask(scraper, server.target(), at=2.0)

        assert "more than one pod can generate" in str(_value(seen.output_tokens_per_second))


NAME = "vllm:inter_token_latency_seconds"
NO_TOKEN = Missing("no token in the rate window", fault=False)
ABSENT = Missing(f"{NAME}_sum is not on the metrics page", fault=False)
ONE = Missing("one sample of the counter so far; a rate needs two")

# Pages by the second they are scraped at, the container's restarts with them.
INTER_TOKEN: dict[str, tuple[tuple[tuple[float, str, int], ...], Reading]] = {
    "one scrape": (((0, page(intervals=(40, 1000)), 0),), ONE),
    "the increase of the sum by that of the count": (
        ((0, page(intervals=(40, 1000)), 0), (2, page(intervals=(46, 1200)), 0)),
        Signal(0.03, 2),
    ),
    # Five seconds are the window: what came before has no part in it.
    "the window and not the day": (
        (
            (0, page(intervals=(0, 0)), 0),
            (1, page(intervals=(900, 1000)), 0),
            (6, page(intervals=(904, 1200)), 0),
        ),
        Signal(0.02, 6),
    ),
    "ranks add up by their tokens": (
        (
            (0, page() + inter_token_histogram(1, 100) + inter_token_histogram(9, 100, rank=1), 0),
            (2, page() + inter_token_histogram(2, 200) + inter_token_histogram(24, 400, rank=1), 0),
        ),
        Signal(0.04, 2),
    ),
    "no token came": (((0, page(intervals=(40, 1000)), 0), (2, page(intervals=(40, 1000)), 0)), NO_TOKEN),
    "counters of another life are not compared": (
        ((0, page(intervals=(40, 1000)), 0), (2, page(intervals=(90, 9000)), 1)),
        ONE,
    ),
    "nor those of a process that restarted alone": (
        ((0, page(intervals=(40, 1000)), 0), (2, page(intervals=(41, 30)), 0)),
        ONE,
    ),
    "and they count from there": (
        (
            (0, page(intervals=(40, 1000)), 0),
            (2, page(intervals=(41, 30)), 0),
            (4, page(intervals=(43, 130)), 0),
        ),
        Signal(0.02, 4),
    ),
    "an engine that does not tell": (((0, page(), 0), (2, page(), 0)), ABSENT),
    "half a histogram": (
        ((0, page() + f"{NAME}_sum 1\n", 0), (2, page() + f"{NAME}_sum 2\n", 0)),
        Missing(f"{NAME}_count is not on the metrics page", fault=False),
    ),
    "not a number": (((0, page(intervals=(float("nan"), 1000)), 0),), Missing(f"{NAME}_sum is not a sane number")),
    "negative": (((0, page(intervals=(40, -1)), 0),), Missing(f"{NAME}_count is not a sane number")),
    "an hour and more": (
        ((0, page(intervals=(0, 0)), 0), (2, page(intervals=(7202, 2)), 0)),
        Missing("3.6e+03 s is no time between two tokens"),
    ),
    "an hour is the most": (((0, page(intervals=(0, 0)), 0), (2, page(intervals=(7200, 2)), 0)), Signal(3600, 2)),
}


@pytest.mark.parametrize("case", INTER_TOKEN)
async def test_time_between_tokens(scraper: Scraper, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two counters of a page become a mean over the dialect's window, and nothing that it lacks is a fault."""
    pages, expected = INTER_TOKEN[case]
    seen = scrape.NOT_SCRAPED
    async with pod(answers("")) as server:
        for second, text, restarts in pages:
            server.behave = answers(text)
            monkeypatch.setattr(scrape, "time", lambda at=second: at)
            seen = await _ask(scraper, server.target(restarts=restarts), at=second)
    actual = seen.inter_token_seconds
    rounded = Signal(round(actual.value, 9), actual.sampled_at) if isinstance(actual, Signal) else actual

    assert expected == rounded
    assert isinstance(seen.queued_requests, Signal)


@pytest.mark.parametrize("engine", Engine)
async def test_every_engine_s_time_between_tokens_is_read(scraper: Scraper, engine: Engine) -> None:
    """Six pages that stand still: known, and without a token in the window."""
    async with pod(answers(PAGES[engine])) as server:
        await _ask(scraper, server.target(engine=engine), at=1.0)
        await asyncio.sleep(0.6)
        seen = await _ask(scraper, server.target(engine=engine), at=2.0)

        assert seen.inter_token_seconds == NO_TOKEN


# --- what is refused ----------------------------------------------------------------------------

HOSTILE: dict[str, tuple[Behave, str]] = {
    "an error": (answers("oops", status="500 Internal Server Error"), "/metrics answered HTTP 500"),
    "no such page": (answers("", status="404 Not Found"), "/metrics answered HTTP 404"),
    "nothing to say": (answers("", status="204 No Content"), "/metrics answered HTTP 204"),
    "a page of something else": (answers("<html></html>"), "vllm:num_requests_waiting is not on the metrics page"),
    "an empty page": (answers(""), "vllm:num_requests_waiting is not on the metrics page"),
    "bytes that are no text": (answers(b"\xff\xfe\x00\x01" * 100), "'utf-8' codec can't decode byte 0xff"),
    "not a number": (answers(page(queued=float("nan"))), "vllm:num_requests_waiting is not a sane number"),
    "infinite": (answers(page(queued=float("inf"))), "vllm:num_requests_waiting is not a sane number"),
    "negative": (answers(page(queued=-5)), "vllm:num_requests_waiting is not a sane number"),
    "huge": (answers(page(queued=1e300)), "vllm:num_requests_waiting is not a sane number"),
    "half a line": (answers("vllm:num_requests_waiting{"), "a metrics line does not parse"),
    "too many series": (
        answers("".join(f'vllm:num_requests_waiting{{engine="{n}"}} 1\n' for n in range(6000))),
        "more than 5000 series",
    ),
    "too large a page": (answers("#" * (MAX_BYTES + 1)), "/metrics is larger than 1 MiB"),
    "a body without end": (never_ends, "/metrics is larger than 1 MiB"),
    "a head without end": (answers("", headers="X: " + "x" * 100_000 + "\r\n"), "400"),
    "half a body": (hangs_up, ""),
    "another protocol": (speaks_no_http, ""),
    "silence": (says_nothing, "no answer within"),
    "a byte now and then": (drips, "no answer within"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.usefixtures("impatient")
async def test_hostile_pod_is_missing(scraper: Scraper, case: str) -> None:
    """Whatever a pod answers costs it its own signals, soon, with a reason that fits a condition."""
    behave, expected = HOSTILE[case]
    async with pod(behave) as server:
        began = time.monotonic()
        seen = await _ask(scraper, server.target())
        took = time.monotonic() - began
        assert isinstance(seen.queued_requests, Missing)

        assert expected in seen.queued_requests.why
        assert 0 < len(seen.queued_requests.why) <= 200
        assert took < 2.0
        # 1 MiB is read, what sockets buffer besides is not: the rest is never asked for.
        assert server.sent < 16 * MAX_BYTES


async def test_redirect_is_not_followed(scraper: Scraper) -> None:
    """A pod cannot make the operator ask somebody else, the cloud's metadata service for one."""
    async with pod(answers(page(queued=1))) as canary:
        for status in ("301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
            location = f"Location: http://{canary.ip}:{canary.port}/latest/meta-data\r\n"
            async with pod(answers("", status=status, headers=location)) as server:
                seen = await _ask(scraper, server.target(status[:3]))

                assert _value(seen.queued_requests) == f"/metrics answered HTTP {status[:3]}"
        assert canary.requests == []


async def test_proxy_of_the_environment_is_not_used(scraper: Scraper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods are asked directly, whatever proxy the operator's environment names."""
    async with pod(answers(page(queued=1))) as canary, pod(answers(page(queued=2))) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{canary.ip}:{canary.port}")
        seen = await _ask(scraper, server.target())

        assert _value(seen.queued_requests) == 2
        assert canary.requests == []


async def test_page_of_prometheus_client_is_read(scraper: Scraper) -> None:
    """vLLM and others serve their page with prometheus_client, which compresses it for whoever asks for that."""
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_waiting", "Waiting", ["engine"], registry=registry).labels("0").set(7)
    Gauge("vllm:num_requests_running", "Running", ["engine"], registry=registry).labels("0").set(3)
    async with pod(answers("")) as nobody:
        server, thread = start_http_server(0, nobody.ip, registry=registry)
        try:
            seen = await _ask(scraper, replace(nobody.target(), port=server.server_port))
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    assert (_value(seen.queued_requests), _value(seen.running_requests)) == (7, 3)


async def test_gzip_bomb_is_not_unpacked(scraper: Scraper) -> None:
    """What is compressed unasked stays as it came: neither a bomb nor a decent page is unpacked."""
    bomb = gzip.compress(b"\0" * (32 << 20), compresslevel=9)
    for body in (bomb, gzip.compress(page(queued=1).encode())):
        async with pod(answers(body, headers="Content-Encoding: gzip\r\n")) as server:
            tracemalloc.start()
            seen = await _ask(scraper, server.target(str(len(body))))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()

            assert "codec can't decode byte 0x8b" in str(_value(seen.queued_requests))
            assert "Accept-Encoding: identity" in server.requests[0]
            assert peak < 8 * MAX_BYTES


async def test_cookies_are_not_kept(scraper: Scraper) -> None:
    """A pod leaves nothing behind in the operator."""
    async with pod(answers(page(), headers="Set-Cookie: a=b\r\n")) as server:
        await _ask(scraper, server.target(), at=1.0)
        await _ask(scraper, server.target(), at=2.0)

        assert len(server.requests) == 2
        assert "Cookie" not in server.requests[1]


async def test_pod_that_refuses_connections(scraper: Scraper) -> None:
    """A pod that is ready and does not listen is missing."""
    async with pod(answers(page())) as server:
        target = server.target()
    seen = await _ask(scraper, target)

    assert isinstance(seen.queued_requests, Missing)
    assert seen.queued_requests.why


@pytest.mark.parametrize("ip", ["", "not-an-address", "127.0.0.1", "169.254.169.254"])
async def test_address_that_no_pod_has_is_not_asked(scraper: Scraper, ip: str) -> None:
    """The address is looked at before a connection is made."""
    async with pod(answers(page())) as server:
        seen = await _ask(scraper, replace(server.target(), ip=ip))

        assert isinstance(seen.queued_requests, Missing)
        assert server.connections == 0


FORBIDDEN = {
    "10.0.0.7": False,
    "192.168.1.1": False,
    "100.64.0.9": False,
    "127.16.0.1": False,
    "127.255.0.1": False,
    "fd00:10::7": False,
    "2001:db8::1": False,
    "127.0.0.1": True,
    "127.0.255.254": True,
    "0.0.0.0": True,  # noqa: S104 - the address as a value
    "169.254.169.254": True,
    "224.0.0.1": True,
    "::1": True,
    "::": True,
    "fe80::1": True,
    "ff02::1": True,
    "::ffff:127.0.0.1": True,
    "::ffff:169.254.169.254": True,
    "::ffff:10.0.0.7": False,
}


@pytest.mark.parametrize("ip", FORBIDDEN)
def test_forbidden(ip: str) -> None:
    """The operator's own host, link-local services and groups are no pods, in either notation."""
    assert FORBIDDEN[ip] == forbidden(ip)


# --- what a hostile one costs the others --------------------------------------------------------


@pytest.mark.parametrize("hostile", [says_nothing, drips, never_ends])
async def test_one_hostile_pod_delays_nobody_beyond_a_round(
    scraper: Scraper, hostile: Behave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other pod's signals are there while the hostile one is still waited for, and the round ends in time."""
    # Longer than any busy machine needs for twenty honest answers; a round that waited for all would show.
    monkeypatch.setattr(scrape, "TIMEOUT_SECONDS", 30.0)
    async with AsyncExitStack() as stack:
        bad = await stack.enter_async_context(pod(hostile))
        good = [await stack.enter_async_context(pod(answers(page(queued=n)))) for n in range(20)]
        targets = [bad.target("bad"), *(server.target(f"good-{n}") for n, server in enumerate(good))]
        for at in (1.0, 2.0, 3.0):
            began = time.monotonic()
            await scraper.refresh(targets, at)
            took = time.monotonic() - began
            for _ in range(500):
                if len(scraper._running) <= 1:
                    break
                await asyncio.sleep(0.02)
            actual = [_value(scraper.signals(target.uid).queued_requests) for target in targets[1:]]

            assert took < 10
            assert actual == list(range(20))
        # A pod that has not answered yet is not asked again.
        assert hostile is never_ends or len(bad.requests) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_pod_that_recovers_is_believed_again(scraper: Scraper) -> None:
    """Missing lasts as long as its cause."""
    async with pod(says_nothing) as server:
        target = server.target()
        lost = await _ask(scraper, target, at=1.0)
        server.behave = answers(page(queued=3))
        found = await _ask(scraper, target, at=2.0)

        assert isinstance(lost.queued_requests, Missing)
        assert _value(found.queued_requests) == 3


async def test_a_lost_scrape_is_not_the_last_value(scraper: Scraper) -> None:
    """The last good value is not repeated in the place of an error."""
    async with pod(answers(page(queued=3))) as server:
        await _ask(scraper, server.target(), at=1.0)
        server.behave = answers("", status="503 Service Unavailable")
        seen = await _ask(scraper, server.target(), at=2.0)

        assert isinstance(seen.queued_requests, Missing)
        assert seen.inter_token_seconds == seen.queued_requests


# --- rounds and budget --------------------------------------------------------------------------


async def _count(scraper: Scraper, server: PodServer, targets: list[Target], at: float) -> int:
    before = len(server.requests)
    await _ask(scraper, *targets, at=at)
    return len(server.requests) - before


def _many(server: PodServer, count: int) -> list[Target]:
    return [server.target(f"p{number:03d}") for number in range(count)]


async def test_a_pod_is_asked_once_a_period(scraper: Scraper) -> None:
    """A tick that comes early, because of news, asks nobody again; jitter skips nobody."""
    async with pod(answers(page())) as server:
        targets = _many(server, 1)
        actual = [await _count(scraper, server, targets, at) for at in (10.0, 10.2, 10.4, 10.95, 11.9)]

        assert actual == [1, 0, 0, 1, 1]


async def test_budget_is_kept_a_second_and_not_a_tick() -> None:
    """Ten scrapes per second stay ten, however often news makes the loop tick; the longest waiting come first."""
    scraper = Scraper(period_seconds=1.0, scrapes_per_second=10.0)
    async with pod(answers(page())) as server:
        targets = _many(server, 40)
        rounds = [await _count(scraper, server, targets, 100.0 + number * 0.1) for number in range(41)]
        asked = [target for target in targets if scraper.signals(target.uid) is not scrape.NOT_SCRAPED]
        await scraper.close()

    # The first second's worth at once, then one each tenth of a second.
    assert sum(rounds) <= 10 + 41
    assert sum(rounds) >= 40
    assert len(asked) == 40


async def test_age_grows_with_what_the_budget_stretches() -> None:
    """4,000 pods at 500 a second are asked every 8 s: three of those periods make a sample stale."""
    scraper = Scraper(period_seconds=1.0, scrapes_per_second=500.0)
    alone = scraper.max_age_seconds()
    nowhere = Target(namespace="n", name="x", uid="x", ip="", engine=Engine.VLLM, port=1, path="/metrics", restarts=0)
    await scraper.refresh([replace(nowhere, uid=f"x{number}") for number in range(4000)], 1.0)
    crowded = scraper.max_age_seconds()
    await scraper.close()

    assert alone == 5
    assert crowded == 26


async def test_a_clock_that_steps_back_stops_nothing(scraper: Scraper) -> None:
    """Five minutes back must not be five minutes without a scrape, with the last samples taken for fresh."""
    async with pod(answers(page(queued=1))) as server:
        targets = _many(server, 1)
        await _count(scraper, server, targets, 1000.0)
        actual = [await _count(scraper, server, targets, at) for at in (700.0, 701.0)]

        assert actual == [1, 1]


async def test_who_is_gone_is_forgotten(scraper: Scraper) -> None:
    """Signals of pods that are no targets any more are not kept."""
    async with pod(answers(page(queued=1))) as server:
        one, two = _many(server, 2)
        await _ask(scraper, one, two, at=1.0)
        await _ask(scraper, two, at=2.0)

        assert _value(scraper.signals(one.uid).queued_requests) == "not scraped yet"
        assert _value(scraper.signals(two.uid).queued_requests) == 1


async def test_close_leaves_nothing_running() -> None:
    """A scraper that is closed in the middle of a round ends its scrapes and connections."""
    scraper = Scraper(period_seconds=1.0, scrapes_per_second=500.0)
    async with pod(says_nothing) as server:
        await scraper.refresh([server.target()], 1.0)
        await scraper.close()
        await asyncio.sleep(0.05)

        assert not scraper._running
        assert [task for task in asyncio.all_tasks() if "Scraper" in repr(task.get_coro())] == []
