"""Where arrivals come from: every trace format on a handmade file, and every shape."""

from __future__ import annotations

import gzip
import itertools
import math
import statistics
from pathlib import Path

import pytest

from modelfleet.simulate.arrivals import Arrival, Lengths, Replay, replayed, scaled
from modelfleet.simulate.shapes import Shape, rate_at, shape_arrivals
from modelfleet.simulate.traces import UnknownFormat, parse_trace, read_trace
from sandbox.load.latency import Percentiles, Sketch

LENGTHS = Lengths(prompt_tokens=100, output_tokens=10)

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:03.5799600,110,27
2023-11-16 18:17:04.9799600,3180,8
yesterday,1,1
2023-11-16 18:17:05.9799600,-4,8
2023-11-16 18:17:06.9799600,12
"""
AIBRIX = "t_ms,prompt_tokens,output_tokens\n1021,909,22\n1521,557,21\n1600,x,1\n"
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,GPT-4,1087,230,1317,Conversation log
50,GPT-4,300,0,300,API log
"""
MOONCAKE = """{"timestamp": 3000, "input_length": 6955, "output_length": 52, "hash_ids": [1, 2]}
{"timestamp": 0, "input_length": 12, "output_length": 4, "hash_ids": []}
{"timestamp": 6000, "input_length": 12}
{"timestamp": nonsense
[1]
"""
PLAIN_CSV = "t_s,prompt_tokens,output_tokens,comment\n2.5,10,20,a\n3.0,11,21,b\ninf,1,1,c\n"
PLAIN_JSONL = (
    '{"t_s": 1, "prompt_tokens": 10, "output_tokens": 20}\n\n{"t_s": 1.5, "prompt_tokens": 11, "output_tokens": 21}\n'
)


@pytest.mark.parametrize(
    ("text", "format_name", "bad_rows", "want"),
    {
        "azure": (AZURE, "azure", 3, [(0.0, 110, 27), (0.4, 4808, 10), (1.4, 3180, 8)]),
        "aibrix": (AIBRIX, "aibrix", 1, [(0.0, 909, 22), (0.5, 557, 21)]),
        "burstgpt": (BURSTGPT, "burstgpt", 1, [(0.0, 472, 18), (40.5, 1087, 230)]),
        "mooncake": (MOONCAKE, "mooncake", 3, [(0.0, 12, 4), (3.0, 6955, 52)]),
        "plain csv": (PLAIN_CSV, "plain", 1, [(0.0, 10, 20), (0.5, 11, 21)]),
        "plain jsonl": (PLAIN_JSONL, "plain", 0, [(0.0, 10, 20), (0.5, 11, 21)]),
    }.values(),
    ids=["azure", "aibrix", "burstgpt", "mooncake", "plain csv", "plain jsonl"],
)
def test_request_traces(text: str, format_name: str, bad_rows: int, want: list[tuple[float, int, int]]) -> None:
    trace = parse_trace(text)
    assert (trace.format, trace.rows, trace.bad_rows) == (format_name, len(want), bad_rows)
    assert len(trace.bad_samples) == bad_rows
    assert all("line " in sample for sample in trace.bad_samples)
    got = list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=0))
    assert [(round(a.at_seconds, 6), a.prompt_tokens, a.output_tokens) for a in got] == want


@pytest.mark.parametrize(
    ("text", "bad_samples", "want"),
    {
        "a quote that is never closed": (
            't_s,prompt_tokens,output_tokens\n0,1,2\n9,"100,5\n2,3,4\n',
            ["line 3: unexpected end of data"],
            [(0.0, 1, 2), (2.0, 3, 4)],
        ),
        "a quoted header after blank lines": (
            '\n\n"t_s","prompt_tokens","output_tokens"\n"0","1","2"\n\n2,3\n',
            ["line 6: no 'output_tokens'"],
            [(0.0, 1, 2)],
        ),
        "whole numbers as floats": (
            "t_s,prompt_tokens,output_tokens\n0,1.0,2e1\n1,1.5,2\n2,nan,2\n",
            [
                "line 3: 1.5 tokens, where 1 to 1,000,000 can be played",
                "line 4: nan tokens, where 1 to 1,000,000 can be played",
            ],
            [(0.0, 1, 20)],
        ),
        "a first line of JSON that is torn": (
            '{"t_s": 0, "prompt\n{"t_s": 0}\n{"t_s": 1, "prompt_tokens": 2, "output_tokens": 3}\n'
            '{"t_s": 1, "prompt_tokens": true, "output_tokens": 3}\n',
            [
                "line 1: Unterminated string starting at: line 1 column 12 (char 11)",
                "line 2: no 'prompt_tokens'",
                "line 4: True is no number",
            ],
            [(0.0, 2, 3)],
        ),
        "a field of 200 kB": (
            f"t_s,prompt_tokens,output_tokens\n0,{'1' * 200_000},1\n1,2,3\n",
            ["line 2: "],
            [(0.0, 2, 3)],
        ),
        "a failed request": (
            "Timestamp,Request tokens,Response tokens\n0,10,0\n1,2,3\n",
            ["line 2: a failed request, with no response token"],
            [(0.0, 2, 3)],
        ),
    }.values(),
)
def test_a_bad_row_spoils_no_other(text: str, bad_samples: list[str], want: list[tuple[float, int, int]]) -> None:
    trace = parse_trace(text)

    assert trace.bad_rows == len(bad_samples)
    assert all(got.startswith(sample) for got, sample in zip(trace.bad_samples, bad_samples, strict=True))
    got = list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=0))
    assert [(a.at_seconds, a.prompt_tokens, a.output_tokens) for a in got] == want


def test_bytes_that_are_no_text_spoil_their_row(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(b"t_s,prompt_tokens,output_tokens,who\n0,1,2,Andr\xe9\n\xe9,1,2,x\n1,3,4,y\n")

    trace = read_trace(path)

    assert (trace.rows, trace.bad_rows) == (2, 1)


CLIENTS = """client,t_s,rate_rps,iat_cv,dist,p1,p2
0,0,2.0,1.0,Gamma,0.75,0.04
1,0,1.0,7.4,Weibull,0.6,0.009
0,600,0.0,,Gamma,0.75,0.04
1,600,4.0,1.0,Gamma,1.0,0.04
1,1200,4.0,1.0,Pareto,1.0,0.04
1,1800,many,1.0,Gamma,1.0,0.04
"""
AGGREGATE = """t_s,rate_rps,active_clients,mean_in_tok,mean_out_tok,len_coverage
0,5.0,20,137.9,19.8,0.358
600,0.0,0,,,
1200,2.0,3,,,
1800,-1,3,,,
2400,1,3,nan,10,
2400,1,3,100,-5,
2400,1,3,0,10,
"""


def test_servegen_clients_give_their_windows_rates(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv.gz"
    path.write_bytes(gzip.compress(CLIENTS.encode()))
    trace = read_trace(path)
    assert (trace.format, trace.rows, trace.bad_rows) == ("servegen-clients", 4, 2)
    got = list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=3))
    assert got == sorted(got)
    assert got == list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=3))
    assert got != list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=4))
    first = sum(a.at_seconds < 600 for a in got)
    assert (first, len(got) - first) == (3 * 600, 4 * 600)
    tenth = list(trace.arrivals(lengths=LENGTHS, rate_scale=0.1, seed=3))
    assert len(tenth) == pytest.approx(len(got) / 10, rel=0.2)


def test_a_window_too_bursty_to_fill_ends_all_the_same() -> None:
    # Seen in the public set. Nearly every request of the window comes at one instant.
    trace = parse_trace("client,t_s,rate_rps,iat_cv,dist,p1,p2\n0,600,2.0,364,Weibull,0.01,1e-9\n")
    got = list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=0))
    assert len(got) == 1200
    assert all(600.0 <= a.at_seconds <= 1200.0 for a in got)


def test_servegen_aggregate_takes_its_windows_lengths_where_it_has_them() -> None:
    trace = parse_trace(AGGREGATE)
    assert (trace.format, trace.rows, trace.bad_rows) == ("servegen-aggregate", 3, 4)
    got = list(trace.arrivals(lengths=LENGTHS, rate_scale=1.0, seed=0))
    assert {(a.prompt_tokens, a.output_tokens) for a in got if a.at_seconds < 600} == {(138, 20)}
    assert not [a for a in got if 600 <= a.at_seconds < 1200]
    assert {(a.prompt_tokens, a.output_tokens) for a in got if a.at_seconds >= 1200} == {(100, 10)}


@pytest.mark.parametrize("text", ["a,b,c\n1,2,3\n", '{"x": 1}\n', "", "just words"])
def test_an_unknown_header_is_refused(text: str) -> None:
    with pytest.raises(UnknownFormat):
        parse_trace(text)


def test_rate_scale_thins_and_copies_in_order() -> None:
    source = [Arrival(float(n), n + 1, 1) for n in range(2000)]
    thinned = list(scaled(source, rate_scale=0.25, seed=1))
    assert len(thinned) == pytest.approx(500, rel=0.1)
    assert set(thinned) <= set(source)
    copied = list(scaled(source, rate_scale=2.5, seed=1))
    assert len(copied) == pytest.approx(5000, rel=0.02)
    assert [a.at_seconds for a in copied] == sorted(a.at_seconds for a in copied)
    assert {a.prompt_tokens for a in copied} == {a.prompt_tokens for a in source}


def test_replay_scales_time_and_cuts() -> None:
    source = [Arrival(10.0 * n, 500, 3) for n in range(10)]
    got = list(replayed(source, Replay(time_scale=10.0, max_seconds=4.0, max_tokens_cap=100)))
    assert got == [Arrival(float(n), 100, 3) for n in range(5)]
    with pytest.raises(ValueError, match="time_scale"):
        Replay(time_scale=0.0)


@pytest.mark.parametrize("shape", Shape)
def test_a_shape_repeats_by_its_seed_and_keeps_to_its_rate(shape: Shape) -> None:
    def draw(seed: int) -> list[Arrival]:
        return list(shape_arrivals(shape, requests_per_second=50.0, duration_seconds=100.0, lengths=LENGTHS, seed=seed))

    got = draw(1)
    assert got == draw(1)
    assert shape is Shape.STEADY or got != draw(2)
    times = [a.at_seconds for a in got]
    assert times == sorted(times) and times[-1] <= 100.0
    mean = statistics.fmean(rate_at(shape, part=n / 1000) for n in range(1000))
    assert len(got) == pytest.approx(50.0 * 100.0 * mean, rel=0.1)
    assert all(0.0 <= rate_at(shape, part=n / 100) <= 1.0 for n in range(101))


def test_the_burst_shape_is_bursty_and_steady_is_not() -> None:
    def variation(shape: Shape) -> float:
        got = shape_arrivals(shape, requests_per_second=50.0, duration_seconds=200.0, lengths=LENGTHS, seed=5)
        gaps = [b.at_seconds - a.at_seconds for a, b in itertools.pairwise(got)]
        return statistics.stdev(gaps) / statistics.fmean(gaps)

    assert variation(Shape.STEADY) < 1e-6
    assert variation(Shape.BURST) == pytest.approx(2.0, rel=0.15)


def test_lengths_vary_as_asked() -> None:
    source = shape_arrivals(
        Shape.STEADY,
        requests_per_second=100.0,
        duration_seconds=100.0,
        lengths=Lengths(prompt_tokens=400, output_tokens=50, variation=0.5),
        seed=2,
    )
    prompts = [a.prompt_tokens for a in source]
    assert statistics.fmean(prompts) == pytest.approx(400, rel=0.03)
    assert statistics.stdev(prompts) / statistics.fmean(prompts) == pytest.approx(0.5, rel=0.05)


def test_percentiles_are_within_one_percent_and_missing_is_not_zero() -> None:
    sketch = Sketch()
    assert sketch.percentiles() == Percentiles(p50=None, p95=None, p99=None, mean=None, count=0)
    samples = [math.exp(n / 100.0) / 1000.0 for n in range(1000)]
    for sample in samples:
        sketch.add(sample)
    got = sketch.percentiles()
    assert got.p50 == pytest.approx(samples[499], rel=0.011)
    assert got.p95 == pytest.approx(samples[949], rel=0.011)
    assert got.p99 == pytest.approx(samples[989], rel=0.011)
    assert got.count == 1000
