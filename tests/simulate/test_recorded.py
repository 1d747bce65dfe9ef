"""A deployment's past out of a real Prometheus: what arrived comes back, and what was not recorded is said."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from statistics import fmean
from threading import Thread

import pytest

from modelfleet.adapters.history import (
    BadDeployment,
    History,
    NoHistory,
    PrometheusUnavailable,
    Steps,
    pod_pattern,
)
from modelfleet.api.engine import Engine
from modelfleet.simulate.arrivals import Arrival, Lengths
from modelfleet.simulate.fit import Interval, fit, intervals_of, read_intervals
from modelfleet.simulate.recorded import Counts, read_history, recorded, trace_of
from modelfleet.simulate.traces import Trace
from tests.simulate.recorded_past import (
    AWAKE,
    BEGAN,
    GAP,
    HOLEY_TRUE,
    HOUR,
    MODEL,
    RESTARTS,
    SLEEPER_TRUE,
    TRUE,
    between,
    fitted,
)

pytestmark = pytest.mark.xdist_group("recorded-history")

LENGTHS = Lengths(prompt_tokens=1.0, output_tokens=1.0)
"""Of a request whose length the record does not tell: none here."""


def drawn(trace: Trace) -> list[Arrival]:
    return list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=0))


def hour_of(url: str, deployment: str, *, begins: float = 0.0, hours: float = 1.0) -> Trace:
    return read_history(url, deployment, hours * HOUR, Engine.VLLM, BEGAN + begins + hours * HOUR)


def test_what_arrived_comes_back(prometheus_url: str) -> None:
    """Over three hours with a second pod, a restart, and a gap that is left out: within 2 %, lengths too."""
    trace = hour_of(prometheus_url, "team-a/llama", hours=3.0)

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


def test_a_gap_is_said_and_left_out(prometheus_url: str) -> None:
    trace = hour_of(prometheus_url, "team-a/llama", hours=3.0)

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


def test_a_counter_that_begins_anew_loses_nothing(prometheus_url: str) -> None:
    """But what its process had in flight, at most: half an hour around the restart, within 2 %."""
    begins, ends = RESTARTS - 900.0, RESTARTS + 900.0
    trace = hour_of(prometheus_url, "team-a/llama", begins=begins, hours=0.5)

    assert trace.bad_rows == 0
    assert len(drawn(trace)) == pytest.approx(len(between(TRUE, begins, ends)), rel=0.02)


def test_a_counter_that_is_missing_for_a_while_is_no_burst(prometheus_url: str) -> None:
    """Taken for nothing, it would come back as all that the pod ever served."""
    trace = hour_of(prometheus_url, "team-a/holey")

    got = drawn(trace)
    assert trace.bad_rows <= 3
    assert len(got) == pytest.approx(len(HOLEY_TRUE), rel=0.06)
    busiest = max(len(between(got, minute * 60.0, minute * 60.0 + 60.0)) for minute in range(60))
    assert busiest < 120


def test_no_pod_is_no_load_where_prometheus_was_there(prometheus_url: str) -> None:
    """Zero replicas are twenty minutes of a trace; the same minutes without any sample would be a gap."""
    trace = hour_of(prometheus_url, "team-a/sleeper")

    got = drawn(trace)
    assert (trace.rows, trace.bad_rows) == (60, 0)
    assert len(got) == pytest.approx(len(SLEEPER_TRUE), rel=0.02)
    assert between(got, AWAKE[0][1], AWAKE[1][0]) == []


def test_a_long_range_is_asked_in_parts(prometheus_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(hour_of(prometheus_url, "team-a/llama", hours=3.0))
    monkeypatch.setattr("modelfleet.adapters.history.POINTS_PER_QUERY", 7)
    monkeypatch.setattr("modelfleet.adapters.history.SAMPLES_PER_QUERY_SECONDS", 97)

    assert drawn(hour_of(prometheus_url, "team-a/llama", hours=3.0)) == whole
    assert read_intervals(prometheus_url, "team-a/fitted", 700.0, Engine.VLLM, BEGAN + 700.0) == engine_intervals()


def test_steps_may_be_longer(prometheus_url: str) -> None:
    trace = read_history(prometheus_url, "team-a/llama", 2.0 * HOUR, Engine.VLLM, BEGAN + 2.0 * HOUR, step_seconds=300)

    assert (trace.rows, trace.bad_rows) == (24, 0)
    assert len(drawn(trace)) == pytest.approx(len(between(TRUE, 0.0, 2.0 * HOUR)), rel=0.02)


def engine_intervals() -> list[Interval]:
    return intervals_of(fitted(), Engine.VLLM)


def test_intervals_are_those_of_the_scrapes(prometheus_url: str) -> None:
    """Every sample comes back as it was scraped, and the same service times with them."""
    got = read_intervals(prometheus_url, "team-a/fitted", HOUR, Engine.VLLM, BEGAN + HOUR)

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
def test_nothing_recorded_is_said(prometheus_url: str, deployment: str, engine: Engine, says: str) -> None:
    with pytest.raises(NoHistory, match=says):
        read_history(prometheus_url, deployment, HOUR, engine, BEGAN + HOUR)


def test_a_metric_that_a_fit_needs_is_named(prometheus_url: str) -> None:
    with pytest.raises(NoHistory, match="no series vllm:kv_cache_usage_perc of team-a/llama"):
        read_intervals(prometheus_url, "team-a/llama", HOUR, Engine.VLLM, BEGAN + HOUR)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "nonsense", "ftp://127.0.0.1"])
def test_a_prometheus_that_is_not_there_is_said(address: str) -> None:
    for read in (read_history, read_intervals):
        with pytest.raises(PrometheusUnavailable, match="Prometheus: "):
            read(address, "team-a/llama", HOUR, Engine.VLLM, BEGAN)


@pytest.mark.parametrize("page", [b"<html>log in</html>", b"[1]", b'{"status": "success"}'])
def test_what_is_no_prometheus_is_said(page: bytes) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(PrometheusUnavailable, match="what answers is none; check its URL"):
            read_history(f"http://127.0.0.1:{server.server_port}", "team-a/llama", HOUR, Engine.VLLM, BEGAN)
        server.shutdown()


def test_a_question_that_is_refused_is_said(prometheus_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelfleet.adapters.history.POINTS_PER_QUERY", 12_001)

    with pytest.raises(PrometheusUnavailable, match="exceeded maximum resolution"):
        History(prometheus_url, "team-a/llama").recorded(Steps(BEGAN, 12_000, 1))


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
