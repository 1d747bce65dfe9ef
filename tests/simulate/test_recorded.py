"""A deployment's past out of a real Prometheus: what arrived comes back, and what was not recorded is said."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cache
from itertools import pairwise
from statistics import fmean

import pytest

from modelfleet.adapters.history import (
    BadDeployment,
    History,
    NoHistory,
    PrometheusUnavailable,
    Series,
    Steps,
    pod_pattern,
)
from modelfleet.api.engine import Engine
from modelfleet.simulate.arrivals import Arrival, Lengths
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.fit import Interval, fit, intervals_of, read_intervals
from modelfleet.simulate.recorded import Counts, read_history, recorded, trace_of
from modelfleet.simulate.replica import Replica, Request
from modelfleet.simulate.traces import Trace
from sandbox import binaries
from sandbox.fleet import end, spawn
from tests.simulate.played import play, poisson, series

pytestmark = pytest.mark.xdist_group("recorded-history")

BEGAN = 1_760_000_400
"""When the recorded past begins; a whole number of minutes, long ago: no clock is read."""
SCRAPE_SECONDS = 15
HOUR = 3600
MODEL = ReplicaModel(calibration="llama-2-70b-h100-tp8")
LENGTHS = Lengths(prompt_tokens=1.0, output_tokens=1.0)
"""Of a request whose length the record does not tell: none here."""


class Pod:
    """A pod's life: what its metrics page said at each scrape of it."""

    def __init__(self, namespace: str, name: str) -> None:
        self.labels = {"namespace": namespace, "pod": name, "model_name": "llama"}
        self.samples: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def serve(
        self, arrivals: Iterable[Arrival], *, begins: float, ends: float, unseen: tuple[float, float] = (0, 0)
    ) -> None:
        """Run a new engine process for this long; between two moments nobody scrapes it."""
        replica = Replica(MODEL, at_seconds=begins)
        requests = [Request(n, a.at_seconds, a.prompt_tokens, a.output_tokens) for n, a in enumerate(arrivals)]
        waiting = requests[::-1]
        # The first scrape of a process finds it anywhere in the interval.
        at = begins + 4.0
        while at < ends:
            while waiting and waiting[-1].at_seconds <= at:
                replica.submit(waiting[-1], now=max(begins, waiting.pop().at_seconds))
            replica.advance(at)
            if not unseen[0] <= at < unseen[1]:
                self._scrape(at, replica, [r for r in requests if r.finished_at is not None and r.finished_at <= at])
            at += SCRAPE_SECONDS

    def _scrape(self, at: float, replica: Replica, finished: list[Request]) -> None:
        for name, reason, value in (
            ("vllm:num_requests_running", "", replica.running),
            ("vllm:num_requests_waiting", "", replica.queued),
            ("vllm:request_success_total", "stop", sum(r.number % 3 > 0 for r in finished)),
            ("vllm:request_success_total", "length", sum(r.number % 3 == 0 for r in finished)),
            ("vllm:request_prompt_tokens_sum", "", sum(r.prompt for r in finished)),
            ("vllm:request_generation_tokens_sum", "", sum(r.output for r in finished)),
        ):
            self.samples.setdefault((name, reason), []).append((BEGAN + at, float(value)))

    def series(self) -> list[Series]:
        """Return what a Prometheus keeps of it."""
        return [
            Series(name, self.labels | ({"finished_reason": reason} if reason else {}), tuple(samples))
            for (name, reason), samples in self.samples.items()
        ]


def open_metrics(all_series: Iterable[Series]) -> str:
    """Return the text that promtool makes blocks of."""
    lines: list[str] = []
    # One metric after the other, as the format demands.
    for each in sorted(all_series, key=lambda each: each.name):
        labels = ",".join(f'{key}="{value}"' for key, value in each.labels.items() if key != "__name__")
        lines += [f"{each.name}{{{labels}}} {value} {at:.3f}" for at, value in each.samples]
    return "\n".join([*lines, "# EOF", ""])


def split(arrivals: Iterable[Arrival], ways: int, seed: int) -> list[list[Arrival]]:
    """Deal arrivals to pods at random."""
    dice = random.Random(seed)
    hands: list[list[Arrival]] = [[] for _ in range(ways)]
    for arrival in arrivals:
        hands[dice.randrange(ways)].append(arrival)
    return hands


def between(arrivals: Iterable[Arrival], begins: float, ends: float) -> list[Arrival]:
    return [each for each in arrivals if begins <= each.at_seconds < ends]


def load(begins: float, ends: float, *, rate: float, prompt: float, output: float, seed: int) -> list[Arrival]:
    drawn = poisson(requests_per_second=rate, seconds=ends - begins, prompt=prompt, output=output, seed=seed)
    return [Arrival(begins + each.at_seconds, each.prompt_tokens, each.output_tokens) for each in drawn]


# --- team-a/llama: three hours ------------------------------------------------------------------
# 0:00 one pod; 0:40 two; 1:30 the first one's process dies and begins anew 40 s later; 2:10 the second one is gone;
# 2:20 to 2:33 Prometheus is.

SECOND_BEGINS, SECOND_ENDS, RESTARTS = 2400.0, 7800.0, 5400.0
GAP = (8400.0, 9180.0)
TRUE = [
    *load(0.0, SECOND_BEGINS, rate=0.8, prompt=700, output=60, seed=1),
    *load(SECOND_BEGINS, SECOND_ENDS, rate=2.2, prompt=500, output=90, seed=2),
    *load(SECOND_ENDS, 3.0 * HOUR, rate=0.6, prompt=900, output=40, seed=3),
]


def llama() -> list[Series]:
    both = split(between(TRUE, SECOND_BEGINS, SECOND_ENDS), 2, seed=4)
    first, second = Pod("team-a", "llama-6c8f9d7b5-x7k2p"), Pod("team-a", "llama-6c8f9d7b5-q9zzt")
    of_first = [*between(TRUE, 0.0, SECOND_BEGINS), *both[0], *between(TRUE, SECOND_ENDS, 3.0 * HOUR)]
    first.serve(between(of_first, 0.0, RESTARTS), begins=0.0, ends=RESTARTS)
    # What comes while it starts waits for it.
    first.serve(between(of_first, RESTARTS, 3.0 * HOUR), begins=RESTARTS + 40.0, ends=3.0 * HOUR, unseen=GAP)
    # The last requests of the second pod are served before it is gone.
    second.serve(both[1], begins=SECOND_BEGINS, ends=SECOND_ENDS + 60.0)
    return first.series() + second.series()


def decoys() -> list[Series]:
    """Return pods whose names begin alike, or that are somebody else's: as busy as can be."""
    found: list[Series] = []
    for namespace, name in (
        ("team-a", "llama-big-6c8f9d7b5-x7k2p"),
        ("team-a", "my-llama-6c8f9d7b5-x7k2p"),
        ("team-a", "llama-debug-shell"),
        ("team-b", "llama-6c8f9d7b5-x7k2p"),
    ):
        pod = Pod(namespace, name)
        pod.serve(load(0.0, 600.0, rate=5.0, prompt=50, output=5, seed=9), begins=0.0, ends=600.0)
        found += pod.series()
    return found


# --- team-a/sleeper: an hour; zero replicas from 0:20 to 0:40, while others are scraped -----------

AWAKE = ((0.0, 1200.0), (2400.0, 3600.0))
SLEEPER_TRUE = [
    each
    for n, (begins, ends) in enumerate(AWAKE)
    for each in load(begins, ends - 30.0, rate=1.0, prompt=300, output=30, seed=20 + n)
]


def sleeper() -> list[Series]:
    found = []
    for (begins, ends), suffix in zip(AWAKE, ("bbbbb", "ccccc"), strict=True):
        pod = Pod("team-a", f"sleeper-7d4b-{suffix}")
        pod.serve(between(SLEEPER_TRUE, begins, ends), begins=begins, ends=ends)
        found += pod.series()
    return found


def others_up(begins: float, ends: float) -> Series:
    times = range(int(begins), int(ends), SCRAPE_SECONDS)
    return Series("up", {"job": "node"}, tuple((float(BEGAN + at), 1.0) for at in times))


@cache
def fitted() -> list[Series]:
    """Return two pods of team-a/fitted, 10 minutes of a busy and of a less busy engine, step by step."""
    found: list[Series] = []
    for suffix, rate, prompt in (("bbbbb", 1.0, 800), ("ccccc", 3.0, 400)):
        arrivals = poisson(requests_per_second=rate, seconds=600.0, prompt=prompt, output=200, seed=int(rate))
        scraped = play(MODEL, arrivals, seconds=600.0, scrape_seconds=SCRAPE_SECONDS)
        found += series(scraped, MODEL, pod=f"fitted-7d4b-{suffix}", begins_at=BEGAN)
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that remembers all of it, and scrapes nothing."""
    directory = tmp_path_factory.mktemp("recorded")
    tools = binaries.ensure("prometheus", "promtool")
    (directory / "prometheus.yaml").write_text("global: {}\n")
    everything = [*llama(), *decoys(), *sleeper(), *fitted(), others_up(0.0, GAP[0]), others_up(GAP[1], 3.0 * HOUR)]
    (directory / "past.txt").write_text(open_metrics(everything))
    subprocess.run(
        [str(tools["promtool"]), "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = spawn(
        [
            str(tools["prometheus"]),
            f"--config.file={directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address={address}",
        ],
        directory / "log",
    )
    try:
        give_up = time.monotonic() + 30
        while not ready(address):
            assert process.poll() is None and time.monotonic() < give_up, (directory / "log").read_text()
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        end([process])
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", int(address.split(":")[1]))) != 0, "its port is free again"


def ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def drawn(trace: Trace) -> list[Arrival]:
    return list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=0))


def hour_of(url: str, deployment: str, *, begins: float = 0.0, hours: float = 1.0) -> Trace:
    return read_history(url, deployment, hours * HOUR, Engine.VLLM, BEGAN + begins + hours * HOUR)


def test_what_arrived_comes_back(url: str) -> None:
    """Over three hours with a second pod, a restart, and a gap that is left out: within 2 %, lengths too."""
    trace = hour_of(url, "team-a/llama", hours=3.0)

    known = [*between(TRUE, 0.0, GAP[0]), *between(TRUE, GAP[1] + 60.0, 3.0 * HOUR)]
    got = drawn(trace)
    assert trace.format == "prometheus"
    assert len(got) == pytest.approx(len(known), rel=0.02)
    assert fmean(a.prompt_tokens for a in got) == pytest.approx(fmean(a.prompt_tokens for a in known), rel=0.02)
    assert fmean(a.output_tokens for a in got) == pytest.approx(fmean(a.output_tokens for a in known), rel=0.02)
    # And when: ten minutes of each load; the second pod comes, the first one dies, the second one goes.
    for begins in (600.0, 2100.0, 3000.0, 5100.0, 7500.0):
        ends = begins + 600.0
        assert len(between(got, begins, ends)) == pytest.approx(len(between(TRUE, begins, ends)), rel=0.06)


def test_a_gap_is_said_and_left_out(url: str) -> None:
    trace = hour_of(url, "team-a/llama", hours=3.0)

    # 13 minutes without samples, and the first minute after them, whose beginning is not known.
    assert (trace.rows, trace.bad_rows) == (180 - 14, 14)
    assert trace.bad_samples == (
        "2025-10-09T11:20+00:00 to 2025-10-09T11:34+00:00: "
        "no samples of pod llama-6c8f9d7b5-x7k2p (14 steps, left out)",
    )
    last = drawn(trace)[-1].at_seconds
    assert 3.0 * HOUR - 14 * 60 - 30 < last < 3.0 * HOUR - 14 * 60
    longest = max(b.at_seconds - a.at_seconds for a, b in pairwise(drawn(trace)))
    assert longest < 60.0


def test_a_counter_that_begins_anew_loses_nothing(url: str) -> None:
    """But what its process had in flight, at most: half an hour around the restart, within 2 %."""
    begins, ends = RESTARTS - 900.0, RESTARTS + 900.0
    trace = hour_of(url, "team-a/llama", begins=begins, hours=0.5)

    assert trace.bad_rows == 0
    assert len(drawn(trace)) == pytest.approx(len(between(TRUE, begins, ends)), rel=0.02)


def test_no_pod_is_no_load_where_prometheus_was_there(url: str) -> None:
    """Zero replicas are twenty minutes of a trace; the same minutes without any sample would be a gap."""
    trace = hour_of(url, "team-a/sleeper")

    got = drawn(trace)
    assert (trace.rows, trace.bad_rows) == (60, 0)
    assert len(got) == pytest.approx(len(SLEEPER_TRUE), rel=0.02)
    assert between(got, AWAKE[0][1], AWAKE[1][0]) == []


def test_a_long_range_is_asked_in_parts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(hour_of(url, "team-a/llama", hours=3.0))
    monkeypatch.setattr("modelfleet.adapters.history.POINTS_PER_QUERY", 7)
    monkeypatch.setattr("modelfleet.adapters.history.SAMPLES_PER_QUERY_SECONDS", 97)

    assert drawn(hour_of(url, "team-a/llama", hours=3.0)) == whole
    assert read_intervals(url, "team-a/fitted", 700.0, Engine.VLLM, BEGAN + 700.0) == engine_intervals()


def test_steps_may_be_longer(url: str) -> None:
    trace = read_history(url, "team-a/llama", 2.0 * HOUR, Engine.VLLM, BEGAN + 2.0 * HOUR, step_seconds=300)

    assert (trace.rows, trace.bad_rows) == (24, 0)
    assert len(drawn(trace)) == pytest.approx(len(between(TRUE, 0.0, 2.0 * HOUR)), rel=0.02)


def engine_intervals() -> list[Interval]:
    return intervals_of(fitted(), Engine.VLLM)


def test_intervals_are_those_of_the_scrapes(url: str) -> None:
    """Every sample comes back as it was scraped, and the same service times with them."""
    got = read_intervals(url, "team-a/fitted", HOUR, Engine.VLLM, BEGAN + HOUR)

    assert got == engine_intervals()
    assert fit(got).decode_base_ms == pytest.approx(MODEL.decode_base_ms, rel=0.02)


@pytest.mark.parametrize(
    "deployment",
    [
        "llama",
        "team-a/",
        "/llama",
        "team-a/llama/x",
        'team-a/llama"} or vector(1) or up{x="',
        'team-a"} or {pod=~".+/llama',
        "team-a/.*",
        "team-a/llama|.*",
        "team-a/llama\\d",
        "team-a/llama\n",
        "team-a/LLAMA",
        "team-a/" + "a" * 64,
        "",
    ],
)
def test_a_hostile_name_is_refused_before_anything_is_asked(deployment: str) -> None:
    for read in (read_history, read_intervals):
        with pytest.raises(BadDeployment, match="give it as namespace/name"):
            read("http://127.0.0.1:1", deployment, HOUR, Engine.VLLM, BEGAN)


@pytest.mark.parametrize(
    ("deployment", "engine", "says"),
    [
        ("team-a/nobody", Engine.VLLM, "no series vllm:num_requests_running with namespace and pod labels"),
        ("team-a/lla", Engine.VLLM, "no series vllm:num_requests_running"),
        ("team-a/llama", Engine.SGLANG, "no series sglang:num_running_reqs"),
        ("team-a/llama", Engine.TGI, "of Engine.VLLM, Engine.SGLANG|of vllm, sglang"),
    ],
)
def test_nothing_recorded_is_said(url: str, deployment: str, engine: Engine, says: str) -> None:
    with pytest.raises(NoHistory, match=says):
        read_history(url, deployment, HOUR, engine, BEGAN + HOUR)


def test_a_metric_that_a_fit_needs_is_named(url: str) -> None:
    with pytest.raises(NoHistory, match="no series vllm:kv_cache_usage_perc of team-a/llama"):
        read_intervals(url, "team-a/llama", HOUR, Engine.VLLM, BEGAN + HOUR)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "nonsense", "ftp://127.0.0.1"])
def test_a_prometheus_that_is_not_there_is_said(address: str) -> None:
    for read in (read_history, read_intervals):
        with pytest.raises(PrometheusUnavailable, match="Prometheus: "):
            read(address, "team-a/llama", HOUR, Engine.VLLM, BEGAN)


def test_a_question_that_is_refused_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelfleet.adapters.history.POINTS_PER_QUERY", 12_001)

    with pytest.raises(PrometheusUnavailable, match="exceeded maximum resolution"):
        History(url, "team-a/llama").recorded(Steps(BEGAN, 12_000, 1))


@pytest.mark.parametrize(
    ("name", "pod", "is_its"),
    [
        ("llama", "llama-6c8f9d7b5-x7k2p", True),
        ("llama", "llama-6c8f9d7b5c-x7k2p", True),
        ("llama", "llama-6c8f9d7b5c4-x7k2p", False),
        ("llama", "llama-6c8f9d7b5-x7k2", False),
        ("llama", "llama-x7k2p", False),
        ("llama", "llama-0", False),
        ("llama", "llama-big-6c8f9d7b5-x7k2p", False),
        ("big", "llama-big-6c8f9d7b5-x7k2p", False),
        ("llama", "llama-debug-shell", False),
        # 46 characters are the last that leave all of the hash; the rest of a longer name's hash is cut off.
        ("a" * 46, "a" * 46 + "-6c8f9d7b5c-x7k2p", True),
        ("a" * 50, "a" * 50 + "-6c8f9d7x7k2p", True),
        ("a" * 57, "a" * 57 + "-x7k2p", True),
        ("a" * 63, "a" * 58 + "x7k2p", True),
        ("a" * 63, "b" * 58 + "x7k2p", False),
    ],
)
def test_pods_are_told_by_their_names(name: str, pod: str, is_its: bool) -> None:
    assert bool(re.fullmatch(pod_pattern(name), pod)) == is_its


def counts(finished: float, in_flight: float = 0.0) -> Counts:
    return Counts(finished, 100.0 * finished, 10.0 * finished, in_flight)


ALL = frozenset(range(6))
RECORDS: dict[
    str, tuple[dict[str, dict[int, Counts]], dict[str, dict[int, Counts]], frozenset[int], list[float | None]]
] = {
    # Pods' counters and births by step, the steps that were recorded; requests that arrived in steps 1 to 5.
    "one pod": ({"a": {0: counts(9), 1: counts(12, 2), 2: counts(14, 1)}}, {}, ALL, [5, 1, 0, 0, 0]),
    "a late sample is shared out": ({"a": {0: counts(0), 1: counts(2), 3: counts(8)}}, {}, ALL, [2, 3, 3, 0, 0]),
    "a silent pod is a gap": (
        {"a": {0: counts(0), 1: counts(2), 4: counts(8), 5: counts(9)}},
        {},
        ALL,
        [2, None, None, None, 1],
    ),
    "a restart counts from nothing": (
        {"a": {0: counts(90, 5), 1: counts(92, 5), 2: counts(3, 1)}},
        {},
        ALL,
        [2, 4, 0, 0, 0],
    ),
    "a restart after a silence is none": (
        {"a": {0: counts(90), 1: counts(92), 5: counts(3, 1)}},
        {"a": {5: counts(1)}},
        ALL,
        [2, 0, 0, 0, 3],
    ),
    "a new pod": ({"a": {3: counts(4, 2), 4: counts(5)}}, {"a": {3: counts(0)}}, ALL, [0, 0, 6, 0, 0]),
    "an old pod that is new to Prometheus": (
        {"a": {3: counts(1_000_004, 2)}},
        {"a": {3: counts(1_000_000)}},
        ALL,
        [0, 0, 6, 0, 0],
    ),
    "a pod that goes": ({"a": {0: counts(1, 1), 1: counts(2, 3)}}, {}, ALL, [3, 0, 0, 0, 0]),
    "no Prometheus, and another pod after it": (
        {"a": {0: counts(1), 1: counts(2)}, "b": {4: counts(3), 5: counts(9)}},
        {"b": {4: counts(3)}},
        frozenset({0, 1, 4, 5}),
        [1, None, None, None, 6],
    ),
    "what a gauge takes back is owed": (
        {"a": {0: counts(0), 1: counts(0, 3), 2: counts(3, 3), 3: counts(3, 0), 4: counts(5, 0)}},
        {},
        ALL,
        [3, 3, 0, 0, 0],
    ),
}


@pytest.mark.parametrize(("pods", "births", "there", "arrived"), RECORDS.values(), ids=RECORDS)
def test_arrivals_of_a_step(
    pods: dict[str, dict[int, Counts]],
    births: dict[str, dict[int, Counts]],
    there: frozenset[int],
    arrived: list[float | None],
) -> None:
    record = recorded(pods, {name: births.get(name, {}) for name in pods}, there, count=5)

    trace = trace_of(record, Steps(BEGAN, 5, 60))

    known = [number for number in arrived if number is not None]
    got = drawn(trace)
    assert [len(between(got, 60.0 * n, 60.0 * (n + 1))) for n in range(len(known))] == known
    assert (trace.rows, trace.bad_rows) == (len(known), 5 - len(known))
    assert {(a.prompt_tokens, a.output_tokens) for a in got} <= {(100, 10)}


def test_a_record_of_nothing_is_no_trace() -> None:
    with pytest.raises(NoHistory, match=r"none of 5 steps of 60 s is known: .* no samples"):
        trace_of(recorded({}, {}, frozenset(), count=5), Steps(BEGAN, 5, 60))
