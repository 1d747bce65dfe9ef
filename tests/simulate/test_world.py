"""The simulated world where a sandbox shows how the real one behaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from modelfleet.decide.snapshot import Signal
from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.ours import PRIOR_OUTPUT_TOKENS_PER_SECOND_PER_GPU, WINDOW_SECONDS, Modelfleet
from modelfleet.simulate.policy import Circumstances, PodSample, Sample, Setting
from modelfleet.simulate.world import Start, play

CHECKOUT = Path(__file__).resolve().parent.parent.parent
SETTING = Setting(30.0, min_replicas=2, max_replicas=2)


class Onlooker:
    """Keeps the count and what it saw last."""

    sample_seconds = period_seconds = 1.0

    def __init__(self) -> None:
        self.pods: tuple[PodSample, ...] = ()

    def observe(self, sample: Sample) -> None:
        self.pods = sample.pods

    def decide(self, now: float, current: int) -> int:
        return current


def circumstances(*arrivals: Arrival, gpus: int = 1) -> Circumstances:
    return Circumstances(ReplicaModel(gpus=gpus), 30.0, 2.0, 0.05, arrivals)


def test_of_idle_pods_the_one_that_was_sent_the_fewest_gets_the_next() -> None:
    arrivals = [Arrival(float(second), 100, 5) for second in range(20)]
    policy = Onlooker()
    play(
        arrivals,
        name="onlooker",
        policy=policy,
        setting=SETTING,
        circumstances=circumstances(*arrivals),
        start=Start(0.0, 10.0, 20.0),
        seed=0,
    )
    # The last look came before the last answer.
    assert [pod.finished_requests for pod in policy.pods] == [10, 9]


def test_the_prior_is_the_presets() -> None:
    preset = yaml.safe_load((CHECKOUT / "charts/modelfleet/presets/runtimes/vllm.yaml").read_text())
    assert preset["spec"]["capacity"]["outputTokensPerSecondPerGpu"] == PRIOR_OUTPUT_TOKENS_PER_SECOND_PER_GPU


def test_the_operator_has_looked_on_before_the_first_request_so_its_rates_are_over_whole_windows() -> None:
    policy = Modelfleet(SETTING, circumstances())
    busy = PodSample("pod-0", -30.0, 0.0, 4, 6, 600, 0.1, 400, 600, 10, 0, 1.0, 6, 0.4, 4)
    policy.observe(Sample(0.5, (busy,), 10, 1000, 10, 0))
    (watched,) = policy._fleet._watched.values()
    signals = watched.pods[0].signals
    assert signals.output_tokens_per_second == Signal(10 / WINDOW_SECONDS, 0.5)
    assert signals.inter_token_seconds == Signal(pytest.approx(0.1), 0.5)
