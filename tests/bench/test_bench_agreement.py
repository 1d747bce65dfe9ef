"""From what was watched of a sandbox to the simulator's own record of a run."""

from __future__ import annotations

from math import inf

import pytest

from bench.agreement import Load, _peak, loads, run_of
from bench.observer import PodSeen, ScaleSeen
from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.score import Served, score

BEGAN = 1_000.0
LOAD = Load(
    name="model",
    arrivals=(Arrival(0.0, 10, 10), Arrival(40.0, 10, 10), Arrival(100.0, 10, 10)),
    service={"calibration": "llama-2-70b-h100-tp8"},
    image_seconds=1.0,
    load_seconds=2.0,
    gpus=8,
    max_replicas=4,
)


def replica_hours(*pods: PodSeen) -> float:
    run = run_of(LOAD, BEGAN, pods, (), ())
    return score(run, ttft_seconds=2.0, tpot_seconds=0.05).gpu_hours / LOAD.gpus


@pytest.mark.parametrize(
    ("pod", "seconds"),
    [
        pytest.param(PodSeen(BEGAN + 20.0, BEGAN + 50.0), 80.0, id="from its creation, not its readiness, to the end"),
        pytest.param(PodSeen(BEGAN - 30.0, BEGAN - 1.0), 100.0, id="not before the first request"),
        pytest.param(PodSeen(BEGAN + 20.0, BEGAN + 50.0, BEGAN + 70.0), 50.0, id="until it is gone"),
        pytest.param(PodSeen(BEGAN + 20.0, None, BEGAN + 25.0), 5.0, id="one that never was ready"),
        pytest.param(PodSeen(BEGAN + 20.0, BEGAN + 50.0, BEGAN + 170.0), 80.0, id="not after the last request"),
        pytest.param(PodSeen(BEGAN + 110.0), 0.0, id="none that came after it"),
        pytest.param(PodSeen(BEGAN - 60.0, BEGAN - 30.0, BEGAN - 5.0), 0.0, id="none that was gone before"),
    ],
)
def test_a_pod_counts_while_it_exists_and_the_load_lasts(pod: PodSeen, seconds: float) -> None:
    assert replica_hours(pod) * 3600.0 == pytest.approx(seconds)


def test_pods_add_up() -> None:
    both = replica_hours(PodSeen(BEGAN - 9.0, BEGAN - 3.0), PodSeen(BEGAN + 50.0, BEGAN + 60.0, BEGAN + 75.0))
    assert both * 3600.0 == pytest.approx(100.0 + 25.0)


def test_attainment_counts_what_failed_as_missed_whenever_its_answer_came() -> None:
    answers = [
        Served(100.0, 0.5, None),  # cut off after its first token
        Served(40.0, None, None),
        Served(0.0, 2.0, 0.05),
    ]
    run = run_of(LOAD, BEGAN, (), (), answers)
    judged = score(run, ttft_seconds=2.0, tpot_seconds=0.05)
    assert [each.at_seconds for each in run.served] == [0.0, 40.0, 100.0]
    assert (judged.requests, judged.violations, judged.unfinished) == (3, 2, 2)


def test_scales_become_changes_from_the_first_request_on() -> None:
    scales = [ScaleSeen(BEGAN + at, LOAD.key, replicas) for at, replicas in ((-5.0, 1), (10.0, 3), (90.0, 2))]
    run = run_of(LOAD, BEGAN, (), [*scales, ScaleSeen(BEGAN + 130.0, LOAD.key, 4)], ())
    assert run.scales == [(10.0, 2), (90.0, -1), (130.0, 2)]
    assert _peak(run) == 3


def test_a_pod_that_stays_holds_its_gpus_beyond_the_run() -> None:
    assert run_of(LOAD, BEGAN, [PodSeen(BEGAN + 1.0)], (), ()).pods == [(1.0, inf)]


def test_the_loads_differ_in_kind_and_a_short_run_is_the_beginning_of_the_long_one() -> None:
    whole, short = loads(seconds=inf), loads(seconds=100.0)
    for long, brief in zip(whole, short, strict=True):
        assert 600.0 <= long.arrivals[-1].at_seconds <= 1200.0
        assert brief.arrivals == long.arrivals[: len(brief.arrivals)]
        assert brief.arrivals[-1].at_seconds <= 100.0 < long.arrivals[len(brief.arrivals)].at_seconds
        assert list(long.arrivals) == sorted(long.arrivals, key=lambda arrival: arrival.at_seconds)


def test_the_deployment_has_the_engine_that_is_simulated() -> None:
    manifest = LOAD.manifest()
    annotation = manifest["metadata"]["annotations"]["sandbox.modelfleet.dev/engine"]
    assert annotation == '{"calibration": "llama-2-70b-h100-tp8", "imagePullSeconds": 1.0, "modelLoadSeconds": 2.0}'
    assert manifest["spec"]["gpusPerReplica"] == 8
    assert manifest["spec"]["scaling"] == {"minReplicas": 1, "maxReplicas": 4}
    assert "drainSeconds" not in manifest["spec"]
