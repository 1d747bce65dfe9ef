"""`modelfleet simulate`: what it prints where, in which order, and what it refuses."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from modelfleet.cli import simulate_load
from modelfleet.cli.main import app
from modelfleet.cli.simulate_load import KNOWN_TRACES
from modelfleet.simulate.calibration import CALIBRATIONS, load_replica_model
from modelfleet.simulate.registry import KINDS, ORACLE, OURS
from modelfleet.simulate.shapes import Shape

ROOT = Path(__file__).parents[2]
FIELDS = [
    "policy",
    "target",
    "min_replicas",
    "gpu_hours",
    "attainment",
    "violations",
    "requests",
    "ttft_p50_s",
    "ttft_p99_s",
    "tpot_p50_ms",
    "tpot_p99_ms",
    "reversals_per_hour",
    "max_replicas",
    "unfinished",
    "seed",
]
RIVAL = next(name for name, kind in KINDS.items() if name not in (OURS, ORACLE) and kind.unit)
SHAPE = ["--shape", "step", "--rate", "6", "--duration-seconds", "120", "--start-seconds", "20", "--jobs", "1"]

LONG = ["--shape", "steady", "--rate", "50", "--duration-seconds", "1000", "--policy", OURS, "--seeds", "500"]


def simulate(*arguments: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    result = CliRunner().invoke(app, ["simulate", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def rows(*arguments: str) -> list[dict[str, Any]]:
    code, out, _ = simulate(*arguments, "--json")
    assert code == 0
    decoded: list[dict[str, Any]] = json.loads(out)
    return decoded


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Ninety requests, two of them bad and one longer than any KV cache."""
    path = tmp_path / "day.csv"
    lines = ["t_s,prompt_tokens,output_tokens", *(f"{second},1000,40" for second in range(90))]
    lines[10], lines[20], lines[30] = "soon,1000,40", "19,-1,40", "29,900000,40"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# --- what it prints --------------------------------------------------------------------------------


def test_json_has_exactly_its_fields_and_nothing_stands_beside_it(trace: Path) -> None:
    code, out, err = simulate("--trace", str(trace), "--json", "--jobs", "1")

    assert code == 0
    found = json.loads(out)
    assert [list(row) for row in found] == [FIELDS] * len(KINDS)
    assert [row["policy"] for row in found] == list(KINDS)
    assert {row["requests"] for row in found} == {87}
    assert err.splitlines() == [
        f"2 of 90 rows of {trace} are left out:",
        "  line 11: 'soon' is no number",
        "  line 21: -1 tokens, where 1 to 1,000,000 can be played",
        "1 of 88 requests are longer than the KV cache of 400,000 tokens: rejected, and in no figure",
    ]


def test_rows_come_in_the_order_of_the_policies_given() -> None:
    asked = [ORACLE, RIVAL, OURS]

    assert [row["policy"] for row in rows(*SHAPE, "--policy", ",".join(asked))] == asked
    assert [row["policy"] for row in rows(*SHAPE, "--policy", f" {OURS} , {ORACLE},{OURS}")] == [OURS, ORACLE]


def test_the_same_seed_gives_the_same_text_and_another_one_another() -> None:
    asked = (*SHAPE, "--policy", f"{OURS},{RIVAL}", "--json")

    assert simulate(*asked, "--seed", "3") == simulate(*asked, "--seed", "3")
    assert simulate(*asked, "--seed", "3") != simulate(*asked, "--seed", "4")


def test_one_target_for_all_and_else_each_its_own() -> None:
    asked = (*SHAPE, "--policy", f"{RIVAL},{ORACLE}")
    model = load_replica_model("llama-3.1-8b-h100")

    assert [row["target"] for row in rows(*asked, "--target", "0.5")] == [0.5, 0.5]
    assert [row["target"] for row in rows(*asked)] == [KINDS[name].default_target(model) for name in (RIVAL, ORACLE)]


def test_a_constant_fleet_serves_from_the_first_request_on(trace: Path) -> None:
    asked = ("--trace", str(trace), "--policy", "static", "--rate-scale", "40", "--target", "4")
    (late,), (held,) = rows(*asked, "--start-seconds", "600"), rows(*asked, "--min-replicas", "4")

    # Every second but for three, spread over a second each: four replicas for as long as they come.
    assert late["gpu_hours"] == held["gpu_hours"] == pytest.approx(4 * 89.5 / 3600, rel=0.01)
    assert late["attainment"] == held["attainment"] == 1.0
    (less,) = rows(*asked[:-1], "1")
    assert less["attainment"] < 0.9


def test_the_frontier_finds_the_constant_fleet_that_is_enough(trace: Path) -> None:
    found = rows("--trace", str(trace), "--policy", "static", "--rate-scale", "40", "--max-replicas", "6", "--frontier")

    assert [row["target"] for row in found] == [row["min_replicas"] for row in found] == [1, 2, 3, 4, 5, 6]
    attained = [row["first_half"]["attainment"] for row in found]
    assert attained == sorted(attained)
    assert (attained[0] < 0.9, attained[-1]) == (True, 1.0)


def test_bounds_and_latency_targets_reach_the_run() -> None:
    asked = (*SHAPE, "--policy", OURS)
    (plain,), (wide,) = rows(*asked), rows(*asked, "--min-replicas", "3", "--max-replicas", "3")
    (strict,) = rows(*asked, "--ttft", "0.001")
    (slow_tokens,) = rows(*asked, "--tpot", "5")

    assert (wide["min_replicas"], wide["max_replicas"]) == (3, 3)
    # Three replicas for the time of the last arrival, a little less than 120 s.
    assert wide["gpu_hours"] == pytest.approx(3 * 119 / 3600, rel=0.02)
    # A step takes 7.7 ms at least: more than 5.
    assert plain["attainment"] > 0.0
    assert (strict["attainment"], slow_tokens["attainment"]) == (0.0, 0.0)


def test_a_replica_of_eight_gpus_costs_eight() -> None:
    fixed = (*SHAPE, "--policy", OURS, "--max-replicas", "1")
    (one,), (eight,) = rows(*fixed), rows(*fixed, "--calibration", "llama-2-70b-h100-tp8")

    assert eight["gpu_hours"] == pytest.approx(8 * one["gpu_hours"])


def test_the_load_is_scaled_and_cut(trace: Path) -> None:
    asked = ("--trace", str(trace), "--policy", OURS, "--jobs", "1")

    assert rows(*asked, "--rate-scale", "3")[0]["requests"] == 3 * 87
    assert rows(*asked, "--time-limit-seconds", "8")[0]["requests"] == 9
    assert rows(*SHAPE, "--policy", OURS, "--rate-scale", "2")[0]["requests"] == pytest.approx(1080, rel=0.15)


def test_an_unanswered_request_is_null_and_infinite() -> None:
    hopeless = ("--shape", "steady", "--rate", "200", "--duration-seconds", "30", "--max-replicas", "1")
    hopeless += ("--calibration", "llama-2-70b-h100-tp8", "--output-tokens", "2000", "--policy", OURS, "--jobs", "1")

    (row,) = rows(*hopeless)
    _, table, _ = simulate(*hopeless)

    assert row["unfinished"] > 0
    assert (row["tpot_p99_ms"], row["ttft_p99_s"]) == (None, None)
    assert "∞" in table


def test_seeds_give_a_row_each_and_a_table_of_median_and_worst() -> None:
    asked = (*SHAPE, "--policy", f"{OURS},{RIVAL}", "--seeds", "3", "--seed", "5", "--variation", "1")

    found = [(row["policy"], row["seed"]) for row in rows(*asked)]
    _, table, _ = simulate(*asked)

    assert found == [(name, seed) for name in (OURS, RIVAL) for seed in (5, 6, 7)]
    assert re.findall(rf"^({OURS}|{RIVAL}) +(median|worst) ", table, re.MULTILINE) in (
        [(OURS, "median"), (OURS, "worst"), (RIVAL, "median"), (RIVAL, "worst")],
        [(RIVAL, "median"), (RIVAL, "worst"), (OURS, "median"), (OURS, "worst")],
    )
    assert "seeds    5 to 7" in table


def test_each_seed_draws_the_load_anew() -> None:
    asked = (*SHAPE, "--policy", RIVAL, "--variation", "1")
    together = rows(*asked, "--seeds", "3", "--seed", "5")

    assert together == [rows(*asked, "--seed", seed)[0] for seed in ("5", "6", "7")]
    assert len({row["requests"] for row in together}) > 1
    code, table, _ = simulate(*asked, "--seeds", "3", "--seed", "5")
    fewest, most = min(row["requests"] for row in together), max(row["requests"] for row in together)
    assert (code, f"{fewest:,} to {most:,} in " in table) == (0, True)


def test_the_table_goes_by_cost_and_marks_the_best() -> None:
    asked = (*SHAPE, "--policy", f"{ORACLE},{RIVAL},{OURS}")
    by_cost = sorted(rows(*asked), key=lambda row: (round(row["gpu_hours"], 2), row["violations"], row["policy"]))

    _, out, err = simulate(*asked)
    lines = [line for line in out.splitlines() if line.split(" ")[0] in KINDS]

    assert err == ""
    assert [line.split(" ")[0] for line in lines] == [row["policy"] for row in by_cost]
    for line, row in zip(lines, by_cost, strict=True):
        assert f"{row['gpu_hours']:.2f}" in line
        assert f"{100 * row['attainment']:.2f}" in line
        assert f"{row['violations']:,}" in line
    best = min(row["gpu_hours"] for row in by_cost if row["policy"] != ORACLE)
    marked = {line.split(" ")[0] for line in lines if f"*{best:.2f} " in line}
    assert marked == {row["policy"] for row in by_cost if row["policy"] != ORACLE and row["gpu_hours"] == best}
    assert "USD" not in out
    assert f"target of {RIVAL}: {KINDS[RIVAL].unit}" in out
    # Digits stand under each other: every line ends its figures in the same column.
    assert len({len(line.rstrip()) for line in lines}) == 1


def test_one_policy_has_nothing_to_be_better_than() -> None:
    _, out, _ = simulate(*SHAPE, "--policy", OURS)

    assert not any("*" in line for line in out.splitlines() if line.startswith(OURS))


def test_a_price_shows_the_cost() -> None:
    (row,) = rows(*SHAPE, "--policy", OURS, "--min-replicas", "4", "--max-replicas", "4")
    _, out, _ = simulate(*SHAPE, "--policy", OURS, "--min-replicas", "4", "--max-replicas", "4", "--price", "100")

    (line,) = (line for line in out.splitlines() if line.startswith(OURS))
    assert f" {100 * row['gpu_hours']:.2f} " in line


# --- the frontier ----------------------------------------------------------------------------------


def test_a_frontier_has_each_half_of_every_setting() -> None:
    found = rows(*SHAPE, "--policy", f"{ORACLE},{OURS}", "--frontier")

    assert [list(row)[:-3] for row in found] == [FIELDS] * len(found)
    order = [(row["policy"] == OURS, row["target"], row["min_replicas"]) for row in found]
    assert order == sorted(order)
    assert len(set(order)) == len(order) > 2
    for row in found:
        first, second = row["first_half"], row["second_half"]
        assert first["violations"] + second["violations"] == row["violations"]
        assert first["gpu_hours"] + second["gpu_hours"] == pytest.approx(row["gpu_hours"])
        beaten = any(
            other["first_half"]["gpu_hours"] <= first["gpu_hours"]
            and other["first_half"]["attainment"] > first["attainment"]
            for other in found
            if other["policy"] == row["policy"]
        )
        assert not (row["tuned_on_first_half"] and beaten)
    assert {row["policy"] for row in found if row["tuned_on_first_half"]} == {ORACLE, OURS}


def test_a_frontier_compares_at_equal_attainment_and_at_equal_cost() -> None:
    code, out, _ = simulate(*SHAPE, "--policy", f"{OURS},{RIVAL}", "--frontier", "--goal", "0.5", "--price", "2")

    assert code == 0
    titles = [line for line in out.splitlines() if line.startswith("On the second half")]
    first = "On the second half, the cheapest setting that kept 50 % of the first in target"
    assert titles[0] == f"{first}; * of those that kept it here too"
    assert re.fullmatch(
        r"On the second half, the setting of the fewest violations for \d+\.\d\d GPU-hours on the first, "
        f"which {OURS} took above",
        titles[1],
    )
    assert len(re.findall(rf"^{OURS} ", out, re.MULTILINE)) == 2


def test_a_goal_that_nobody_reaches_is_said_so() -> None:
    _, out, _ = simulate(*SHAPE, "--policy", OURS, "--frontier", "--ttft", "0.001")

    assert re.search(rf"^{OURS} +none did", out, re.MULTILINE)
    assert f"which {OURS} took to come nearest to that" in out


# --- the report ------------------------------------------------------------------------------------


def test_a_report_is_written_beside_the_table(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    asked = (*SHAPE, "--policy", f"{OURS},{RIVAL}", "--html", str(path))

    code, out, _ = simulate(*asked)

    assert code == 0
    assert RIVAL in out
    html = path.read_text(encoding="utf-8")
    assert "<h1>Autoscaling simulated: step, up to 6 requests/s</h1>" in html
    assert "<dd>llama-3.1-8b-h100, 1 GPU</dd>" in html
    assert "<dd>1 to 16, 1 of them at the beginning, 20 s from creation to ready</dd>" in html
    assert "<dd>TTFT at most 2 s and TPOT at most 50 ms</dd>" in html
    assert escape(CALIBRATIONS["llama-3.1-8b-h100"].source) in html
    assert "One dot a policy" in html
    assert '"what-ifs"' in html
    simulate(*asked)
    assert path.read_text(encoding="utf-8") == html


def test_the_report_of_a_frontier_shows_the_settings_that_it_chose(tmp_path: Path) -> None:
    path = tmp_path / "report.html"

    simulate(*SHAPE, "--policy", OURS, "--frontier", "--goal", "0.9", "--html", str(path))

    html = path.read_text(encoding="utf-8")
    assert "Each dot is one setting" in html
    assert "<dd>cheapest with 90 % of the first half in target, else the nearest to that</dd>" in html


# --- what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "want"),
    {
        "no load": (
            "",
            f"--trace: nothing to play; give a trace, a --prometheus, or one of --shape {', '.join(Shape)}",
        ),
        "two loads": ("--trace {trace} --shape step", "--shape: there is a --trace already; drop one of them"),
        "an unknown shape": ("--shape sine", f"--shape: 'sine' is no shape; known: {', '.join(Shape)}"),
        "an unknown policy": (
            "--shape step --policy modelfleet,kpa2",
            f"--policy: 'kpa2' is no policy; known: {', '.join(KINDS)}",
        ),
        "no policy": ("--shape step --policy ,", f"--policy: '' is no policy; known: {', '.join(KINDS)}"),
        "no file": (
            "--trace {tmp}/none.csv",
            "--trace: cannot read {tmp}/none.csv: [Errno 2] No such file or directory: '{tmp}/none.csv'; "
            "give a readable file",
        ),
        "a directory": (
            "--trace {tmp}",
            "--trace: cannot read {tmp}: [Errno 21] Is a directory: '{tmp}'; give a readable file",
        ),
        "a torn archive": (
            "--trace {tmp}/torn.gz",
            "--trace: cannot read {tmp}/torn.gz: Compressed file ended before the end-of-stream marker was reached; "
            "give a readable file",
        ),
        "an unknown format": (
            "--trace {tmp}/other.csv",
            f"--trace: {{tmp}}/other.csv: no known trace has the header 'when,what'; known are {KNOWN_TRACES}",
        ),
        "no text": (
            "--trace {tmp}/bytes.csv",
            f"--trace: {{tmp}}/bytes.csv: no known trace has the header '\ufffd\ufffd\\x00'; known are {KNOWN_TRACES}",
        ),
        "nothing in it": (
            "--trace {tmp}/blank.csv",
            f"--trace: {{tmp}}/blank.csv: it is empty; known are {KNOWN_TRACES}",
        ),
        "a time of another unit": (
            "--trace {tmp}/late.csv",
            "--time-limit-seconds: the load lasts 11,574 days, and 32 can be played; cut it, or mend times that are "
            "wrong or in another unit",
        ),
        "one moment": (
            "--trace {tmp}/one.csv",
            "--rate-scale: all requests of the load come at one moment; give it more, at other times",
        ),
        "no rows": ("--trace {tmp}/empty.csv", "--trace: {tmp}/empty.csv holds no request; give one that does"),
        "nothing before the cut": (
            "--trace {trace} --rate-scale 0.000001",
            "--rate-scale: no request is left of the load; raise it",
        ),
        "too much": (
            "--shape steady --rate 100",
            "--time-limit-seconds: the load has more than 2,000 requests; cut it, or lower --rate-scale",
        ),
        "too long": (
            "--shape step --duration-seconds 60 --prompt-tokens 500000 --variation 0",
            "--calibration: every request is longer than its KV cache of 400,000 tokens; take a larger one",
        ),
        "an unknown calibration": (
            "--shape step --calibration h200",
            f"--calibration: 'h200' is no calibration ({', '.join(CALIBRATIONS)}) and no readable file: "
            "[Errno 2] No such file or directory: 'h200'",
        ),
        "a bad calibration": (
            "--shape step --calibration {tmp}/bad.yaml",
            "--calibration: {tmp}/bad.yaml: maxRunning: Input should be greater than or equal to 1",
        ),
        "min above max": (
            "--shape step --min-replicas 5 --max-replicas 4",
            "--min-replicas: 5 is above --max-replicas 4; lower the one or raise the other",
        ),
        "no replica": ("--shape step --min-replicas 0", "--min-replicas: 0 must be at least 1"),
        "no replica at all": ("--shape step --max-replicas=-3", "--max-replicas: -3 must be at least 1"),
        "half a replica": (
            "--trace {trace} --policy static --target 2.5",
            "--target: static cannot take 2.5: a count of replicas is a whole number",
        ),
        "more than there may be": (
            "--trace {trace} --policy static --target 20 --max-replicas 2",
            "--target: static cannot take 20: replicas are 1 to 2",
        ),
        "a step that takes no time": (
            "--shape step --calibration {tmp}/fast.yaml",
            "--calibration: {tmp}/fast.yaml: decodeBaseMs must be at least 0.1",
        ),
        "a report in place of the trace": (
            "--trace {trace} --html {trace}",
            "--html: {trace} is read too; give another file",
        ),
        "nothing can be written there": (
            "--trace {trace} --policy static --html /proc/report.html",
            "--html: cannot write /proc/report.html: No such file or directory; give another file",
        ),
        "too many replicas": ("--shape step --max-replicas 1001", "--max-replicas: 1001 must be at most 1000"),
        "no rate": ("--shape step --rate 0", "--rate: 0 must be above 0"),
        "not a number": ("--shape step --rate nan", "--rate: nan is no number; give a finite one"),
        "endless": ("--shape step --duration-seconds inf", "--duration-seconds: inf is no number; give a finite one"),
        "a negative price": ("--shape step --price=-1", "--price: -1 must be at least 0"),
        "a goal above 1": ("--shape step --goal 99", "--goal: 99 must be at most 1"),
        "a target in a sweep": (
            "--shape step --frontier --target 5",
            "--target: a frontier sweeps targets by itself; drop one of --target and --frontier",
        ),
        "nowhere to write": (
            "--shape step --html {tmp}/none/report.html",
            "--html: cannot write {tmp}/none/report.html; give a file in a directory that you may write to",
        ),
    }.values(),
)
def test_bad_input_is_one_line_with_option_and_remedy(
    arguments: str, want: str, tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate_load, "MAX_REQUESTS", 2_000)
    (tmp_path / "other.csv").write_text("when,what\n1,2\n", encoding="utf-8")
    (tmp_path / "empty.csv").write_text("t_s,prompt_tokens,output_tokens\n", encoding="utf-8")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"t_s,prompt_tokens,output_tokens\n" * 99)[:-12])
    (tmp_path / "bad.yaml").write_text("maxRunning: 0\n", encoding="utf-8")
    (tmp_path / "fast.yaml").write_text("decodeBaseMs: 0.01\n", encoding="utf-8")
    (tmp_path / "blank.csv").write_text("\n \n", encoding="utf-8")
    (tmp_path / "late.csv").write_text("t_s,prompt_tokens,output_tokens\n0,1,1\n1e9,1,1\n", encoding="utf-8")
    (tmp_path / "one.csv").write_text("t_s,prompt_tokens,output_tokens\n5,1,1\n", encoding="utf-8")

    code, out, err = simulate(*(part.format(tmp=tmp_path, trace=trace) for part in arguments.split()))

    assert code == 2
    # A report may fail when all was played and told; what can be seen before is refused before.
    assert not out or "/proc/" in arguments
    assert err.splitlines()[-1] == f"Error: {want.format(tmp=tmp_path, trace=trace)}"
    assert trace.read_text(encoding="utf-8").startswith("t_s,")


def test_a_report_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("modelfleet.cli.simulate.find_spec", lambda name: None)

    code, out, err = simulate(*SHAPE, "--html", str(tmp_path / "report.html"))

    assert (code, out, err) == (2, "", "Error: --html: needs plotly; pip install 'modelfleet[simulate]'\n")


# --- as a process ----------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a session of its own; nothing of it is left behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "modelfleet", "simulate", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "operator")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            yield running
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


def test_a_real_process_with_workers_gives_the_same_text(trace: Path) -> None:
    asked = ("--trace", str(trace), "--policy", f"{OURS},{ORACLE}", "--json", "--seeds", "2")

    with process(*asked, "--jobs", "2") as running:
        out, err = running.communicate(timeout=60)

    assert running.returncode == 0
    assert (0, out, err) == simulate(*asked, "--jobs", "1")


def test_a_refusal_of_a_real_process() -> None:
    with process("--shape", "step", "--policy", "none") as running:
        out, err = running.communicate(timeout=60)

    assert (running.returncode, out) == (2, "")
    assert err == f"Error: --policy: 'none' is no policy; known: {', '.join(KINDS)}\n"


@pytest.mark.parametrize(("how", "want"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_worker_outlives_the_command(how: signal.Signals, want: int) -> None:
    with process(*LONG, "--jobs", "2") as running:
        workers: list[int] = []
        until = time.monotonic() + 60.0
        while len(workers) < 2 and time.monotonic() < until:
            time.sleep(0.1)
            workers = [pid for pid in _children(running.pid) if _works(pid)]
        assert len(workers) == 2

        # As a terminal does: Ctrl-C reaches the workers too.
        (os.killpg if how is signal.SIGINT else os.kill)(running.pid, how)
        _, err = running.communicate(timeout=60)

        until = time.monotonic() + 10.0
        while any(map(_works, workers)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(_works, workers))
    assert running.returncode == want
    assert how is signal.SIGKILL or err.strip() in ("", "Aborted.", "Aborted!")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def _works(pid: int) -> bool:
    try:
        return "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
