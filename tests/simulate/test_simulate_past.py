"""`modelfleet simulate` on a recorded past: a real Prometheus in, the command's own output out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from modelfleet.cli.main import app
from modelfleet.simulate import fit as fitting
from modelfleet.simulate.calibration import load_replica_model
from modelfleet.simulate.registry import OURS
from tests.simulate.recorded_past import BEGAN, GAP, HOUR, MODEL, TRUE, between

pytestmark = pytest.mark.xdist_group("recorded-history")

NOBODY = "http://127.0.0.1:1"
FITTED = ("--deployment", "team-a/fitted", "--since", "3h", "--policy", "static", "--jobs", "1")
LLAMA = ("--deployment", "team-a/llama", "--since", "3h", "--policy", OURS, "--jobs", "1")


def simulate(*arguments: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    result = CliRunner().invoke(app, ["simulate", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def three_hours_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reads the clock where the recorded past ends."""
    monkeypatch.setattr("modelfleet.cli.simulate.time", lambda: BEGAN + 3.0 * HOUR)


def row(*arguments: str) -> dict[str, Any]:
    code, out, err = simulate(*arguments, "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    return dict(found)


# --- what it plays ---------------------------------------------------------------------------------


def test_what_was_recorded_is_played_and_gaps_are_said(prometheus_url: str) -> None:
    code, out, err = simulate("--prometheus", prometheus_url, *LLAMA)

    assert code == 0
    assert out.startswith("load     team-a/llama, 3h to 2025-10-09 12:00 UTC (prometheus)\n")
    assert err.splitlines() == [
        "14 of 180 minutes of team-a/llama are not known, and are left out:",
        "  2025-10-09T11:20+00:00 to 2025-10-09T11:34+00:00: "
        "no samples of pod llama-6c8f9d7b5-x7k2p (14 steps, left out)",
    ]
    known = [*between(TRUE, 0.0, GAP[0]), *between(TRUE, GAP[1] + 60.0, 3.0 * HOUR)]
    requests = int(re.search(r"^requests ([\d,]+) in", out, re.MULTILINE)[1].replace(",", ""))  # type: ignore[index]
    assert requests == pytest.approx(len(known), rel=0.02)


def test_the_same_past_gives_the_same_text(prometheus_url: str) -> None:
    asked = ("--prometheus", f"{prometheus_url}/", *LLAMA, "--json")

    assert simulate(*asked) == simulate(*asked)


def test_a_past_is_scaled_cut_and_varied_as_a_rate_trace_is(prometheus_url: str) -> None:
    asked = ("--prometheus", prometheus_url, *LLAMA)
    plain, twice = row(*asked), row(*asked, "--rate-scale", "2")

    assert twice["requests"] == pytest.approx(2 * plain["requests"], rel=0.01)
    assert row(*asked, "--time-limit-seconds", "1200")["requests"] == pytest.approx(0.8 * 1200, rel=0.1)
    assert row(*asked, "--variation", "0")["ttft_p99_s"] < row(*asked, "--variation", "2")["ttft_p99_s"]


@pytest.mark.parametrize(("since", "begins"), [("30m", 9000.0), ("1h", 7200.0)])
def test_how_far_back(prometheus_url: str, since: str, begins: float) -> None:
    recent = ("--prometheus", prometheus_url, *LLAMA, "--since", since)

    known = between(TRUE, max(begins, GAP[1] + 60.0), 3.0 * HOUR)
    if begins < GAP[0]:
        known += between(TRUE, begins, GAP[0])
    assert row(*recent)["requests"] == pytest.approx(len(known), rel=0.06)


# --- the fit ---------------------------------------------------------------------------------------


def test_fitted_service_times_are_told_and_played(prometheus_url: str, tmp_path: Path) -> None:
    """What is told is a calibration file: with the same limits it plays the same."""
    limits = tmp_path / "limits.yaml"
    limits.write_text("gpus: 8\nmaxRunning: 200\n", encoding="utf-8")
    asked = ("--prometheus", prometheus_url, *FITTED)

    code, out, err = simulate(*asked, "--fit", "--calibration", str(limits))

    assert code == 0
    assert f"replica  fitted to team-a/fitted, limits of {limits}, 8 GPUs\n" in out
    lines = err.splitlines()[:7]
    assert re.fullmatch(
        r"# fitted on \d+ busy intervals of \d+ of team-a/fitted, R2 0\.99\d; ± one standard error", lines[0]
    )
    assert all(re.search(r"^\w+: [\d.e-]+  # ± [\d.e-]+$", line) for line in lines[1:5])
    told = yaml.safe_load("\n".join(lines))
    assert told["decodeBaseMs"] == pytest.approx(MODEL.decode_base_ms, rel=0.02)
    assert told["prefillMsPerToken"] == pytest.approx(MODEL.prefill_ms_per_token, rel=0.1)
    assert told["kvCacheTokens"] == MODEL.kv_cache_tokens
    saved = tmp_path / "saved.yaml"
    saved.write_text("\n".join([*lines, "gpus: 8", "maxRunning: 200"]), encoding="utf-8")
    assert load_replica_model(str(saved)).max_running == 200
    fitted, again = row(*asked, "--fit", "--calibration", str(limits)), row(*asked, "--calibration", str(saved))
    assert again["gpu_hours"] == pytest.approx(fitted["gpu_hours"], rel=1e-3)
    # What is told is rounded, and a request that ends a step later sends the next one elsewhere.
    assert again["tpot_p50_ms"] == pytest.approx(fitted["tpot_p50_ms"], rel=5e-3)


def test_a_report_of_fitted_times_names_no_published_source(prometheus_url: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"

    assert simulate("--prometheus", prometheus_url, *FITTED, "--fit", "--html", str(path))[0] == 0

    html = path.read_text(encoding="utf-8")
    assert "<dd>fitted to team-a/fitted, limits of llama-3.1-8b-h100, 1 GPU</dd>" in html
    assert "BLIS" not in html


def test_a_fit_that_no_replica_can_have_is_refused(prometheus_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_least_squares", lambda rows, wanted: ([1e9, 0.0, 0.0, 0.0], 0.0))

    code, out, err = simulate("--prometheus", prometheus_url, *FITTED, "--fit")

    assert (code, out) == (2, "")
    assert re.fullmatch(
        r"Error: --fit: decode_base_ms is [\d.]+: Input should be less than or equal to 60000; "
        r"without --fit a --calibration is taken\n",
        err,
    )


# --- what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "want"),
    {
        "two loads": ("--shape step --deployment a/b", "--prometheus: there is a --shape already; drop one of them"),
        "another two": (
            "--trace none.csv --deployment a/b",
            "--prometheus: there is a --trace already; drop one of them",
        ),
        "nobody": ("", "--deployment: whose load is it? give it as namespace/name"),
        "no namespace": (
            "--deployment llama",
            "--deployment: 'llama' is not a deployment; give it as namespace/name",
        ),
        "a hostile name": (
            '--deployment team-a/llama"}',
            "--deployment: 'team-a/llama\"}' is not a deployment; give it as namespace/name",
        ),
        "an engine without a record": (
            "--deployment a/b --engine tgi",
            "--engine: 'tgi' has no past that can be read; known: vllm, sglang",
        ),
        "an unknown engine": (
            "--deployment a/b --engine none",
            "--engine: 'none' has no past that can be read; known: vllm, sglang",
        ),
        "no unit": (
            "--deployment a/b --since 30",
            "--since: '30' is no length of time; give one like 30m, 12h, 7d or 2w",
        ),
        "a fraction": (
            "--deployment a/b --since 1.5h",
            "--since: '1.5h' is no length of time; give one like 30m, 12h, 7d or 2w",
        ),
        "other digits": (
            "--deployment a/b --since ٣d",
            "--since: '٣d' is no length of time; give one like 30m, 12h, 7d or 2w",
        ),
        "no time": ("--deployment a/b --since 0d", "--since: 0d must be from 2m to 53w"),
        "less than two steps": ("--deployment a/b --since 1m", "--since: 1m must be from 2m to 53w"),
        "all time": ("--deployment a/b --since 999999999w", "--since: 999999999w must be from 2m to 53w"),
        "not there": ("--deployment a/b", "--prometheus: Prometheus: cannot be reached; check its URL"),
        "not there to fit": ("--deployment a/b --fit", "--prometheus: Prometheus: cannot be reached; check its URL"),
        "a bad calibration, before anything is asked": (
            "--deployment a/b --fit --calibration /none",
            "--calibration: '/none' is no calibration (llama-3.1-8b-h100, llama-2-70b-h100-tp8, llama-3-8b-a100) and "
            "no readable file: [Errno 2] No such file or directory: '/none'",
        ),
    }.values(),
)
def test_bad_input_is_one_line(arguments: str, want: str) -> None:
    assert simulate("--prometheus", NOBODY, *arguments.split()) == (2, "", f"Error: {want}\n")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "--prometheus: Prometheus: "),
        ("http://[", "--prometheus: Prometheus: Invalid IPv6 URL"),
        ("nonsense", "--prometheus: Prometheus: "),
        ("ftp://127.0.0.1", "--prometheus: Prometheus: "),
    ],
)
def test_a_url_that_is_none_is_one_line(url: str, says: str) -> None:
    code, out, err = simulate("--prometheus", url, "--deployment", "a/b")

    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {says}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (
            "--shape step --deployment a/b",
            "--deployment: its load is read from a Prometheus; give a --prometheus too",
        ),
        (
            "--shape step --fit",
            "--fit: service times are fitted to what a Prometheus recorded; give a --prometheus too",
        ),
    ],
)
def test_what_needs_a_prometheus_says_so(arguments: str, want: str) -> None:
    assert simulate(*arguments.split()) == (2, "", f"Error: {want}\n")


@pytest.mark.parametrize(
    ("arguments", "want"),
    {
        "a deployment without series": (
            "--deployment team-a/nobody",
            "--deployment: Prometheus has no series vllm:num_requests_running with namespace and pod labels of "
            "team-a/nobody: check its name, the PodMonitor, and how long Prometheus keeps its data; "
            "try another --engine or --since",
        ),
        "another engine": (
            "--deployment team-a/llama --engine sglang",
            "--deployment: Prometheus has no series sglang:num_running_reqs with namespace and pod labels of "
            "team-a/llama: check its name, the PodMonitor, and how long Prometheus keeps its data; "
            "try another --engine or --since",
        ),
        "nobody asked it anything": (
            "--deployment team-a/idle",
            "--since: no request is left of the load; raise it",
        ),
        "scaled to nothing": (
            "--deployment team-a/llama --rate-scale 0.00000001",
            "--rate-scale: no request is left of the load; raise it",
        ),
        "no series to fit to": (
            "--deployment team-a/llama --fit",
            "--fit: Prometheus has no series vllm:kv_cache_usage_perc of team-a/llama; "
            "without --fit a --calibration is taken",
        ),
        "too little to fit to": (
            "--deployment team-a/fitted --since 172m --fit",
            "--fit: 14 of 14 intervals were busy all along, and 20 are needed: look further back, or at a time of more "
            "load; without --fit a --calibration is taken",
        ),
    }.values(),
)
def test_what_prometheus_does_not_tell_is_one_line(prometheus_url: str, arguments: str, want: str) -> None:
    code, out, err = simulate("--prometheus", prometheus_url, "--since", "3h", *arguments.split())

    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"Error: {want}"
