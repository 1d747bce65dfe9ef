"""The loads of docs/benchmarks.md and of design 0002: what comes, what serves it, and how long a pod takes to start."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from modelfleet.simulate.arrivals import Arrival, Lengths, Replay, replayed
from modelfleet.simulate.calibration import ReplicaModel, load_replica_model
from modelfleet.simulate.shapes import Shape, shape_arrivals
from modelfleet.simulate.traces import read_trace

USUAL = Lengths(prompt_tokens=1000, output_tokens=200, variation=1.0)
CHAT = Lengths(prompt_tokens=1200, output_tokens=350, variation=1.0)
CODE = Lengths(prompt_tokens=2000, output_tokens=40, variation=1.0)
LONG_PROMPTS = Lengths(prompt_tokens=4000, output_tokens=150, variation=0.5)
LONG_ANSWERS = Lengths(prompt_tokens=500, output_tokens=1200, variation=0.7)

NOISE_SECONDS = 300.0
"""The noise of a rate is drawn anew so often, and goes from one to the next in a line."""


class Load(Protocol):
    """Something that is sent."""

    @property
    def recorded(self) -> bool:
        """Whether it is read from the traces' folder."""

    def arrivals(self, traces: Path, seed: int) -> Sequence[Arrival]:
        """Return the requests, the same ones for the same arguments."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trace.

    Attributes:
        file: Below the traces' folder.
        rate_scale: Requests sent for each one in it.
        time_scale: Its seconds in one second.
        max_seconds: Where it ends, if not before.
    """

    file: str
    rate_scale: float
    time_scale: float = 1.0
    max_seconds: float = math.inf
    recorded = True

    def arrivals(self, traces: Path, seed: int) -> Sequence[Arrival]:
        """Return the requests; lengths that the trace lacks are the usual ones."""
        drawn = read_trace(traces / self.file).arrivals(lengths=USUAL, rate_scale=self.rate_scale, seed=seed)
        return tuple(replayed(drawn, Replay(time_scale=self.time_scale, max_seconds=self.max_seconds)))


@dataclass(frozen=True, slots=True)
class Shaped:
    """A shape of the simulator, at its highest rate in requests/s, of usual lengths."""

    shape: Shape
    requests_per_second: float
    seconds: float
    recorded = False

    def arrivals(self, traces: Path, seed: int) -> Sequence[Arrival]:
        """Return the requests."""
        return tuple(
            shape_arrivals(
                self.shape,
                requests_per_second=self.requests_per_second,
                duration_seconds=self.seconds,
                lengths=USUAL,
                seed=seed,
            )
        )


@dataclass(frozen=True, slots=True)
class Bursts:
    """What comes beside a rate now and then.

    Attributes:
        gap_seconds: Least and most from one to the next, evenly at random.
        seconds: How long one lasts.
        requests_per_second: What it adds.
    """

    gap_seconds: tuple[float, float]
    seconds: int
    requests_per_second: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A rate over time.

    Attributes:
        seconds: How long.
        rate: Requests/s by the part of it that has passed, 0 to 1.
        lengths: Of the requests.
        variation: Coefficient of variation of the times between requests (Gamma); 1 is Poisson.
        noise: Coefficient of variation of the rate itself, over minutes.
        bursts: Beside it.
    """

    seconds: int
    rate: Callable[[float], float]
    lengths: Lengths = CHAT
    variation: float = 1.0
    noise: float = 0.0
    bursts: Bursts | None = None
    recorded = False

    def arrivals(self, traces: Path, seed: int) -> Sequence[Arrival]:
        """Return the requests: a renewal process on the clock that runs as fast as the rate is high."""
        dice = random.Random(f"profile/{seed}")
        passed = [0.0, *accumulate(self._rates(dice))]
        shape = self.variation**-2.0
        answer, due = [], dice.gammavariate(shape, 1.0 / shape)
        while due < passed[-1]:
            second = bisect_left(passed, due)
            before, after = passed[second - 1], passed[second]
            answer.append(Arrival(second - 1 + (due - before) / (after - before), *self.lengths.draw(dice)))
            due += dice.gammavariate(shape, 1.0 / shape)
        return tuple(answer)

    def _rates(self, dice: random.Random) -> list[float]:
        """Return the requests expected in each second."""
        sigma = math.sqrt(math.log1p(self.noise**2))
        knots = [dice.lognormvariate(-sigma * sigma / 2.0, sigma) for _ in range(int(self.seconds / NOISE_SECONDS) + 2)]
        rates = []
        for second in range(self.seconds):
            knot, part = divmod(second / NOISE_SECONDS, 1.0)
            noise = (1.0 - part) * knots[int(knot)] + part * knots[int(knot) + 1]
            rates.append(noise * self.rate(second / self.seconds))
        if self.bursts:
            begins = dice.uniform(*self.bursts.gap_seconds)
            while begins < self.seconds:
                for second in range(int(begins), min(self.seconds, int(begins) + self.bursts.seconds)):
                    rates[second] += self.bursts.requests_per_second
                begins += dice.uniform(*self.bursts.gap_seconds)
        return rates


def flat(rate: float) -> Callable[[float], float]:
    """Return one rate for all time."""
    return lambda part: rate


def waves(low: float, high: float, times: float = 1.0) -> Callable[[float], float]:
    """Return so many days from their trough on."""
    return lambda part: low + (high - low) * 0.5 * (1.0 - math.cos(2.0 * math.pi * times * part))


def two_peaks(low: float, high: float, days: int = 1) -> Callable[[float], float]:
    """Return days with a peak before noon and a lower one in the evening."""

    def rate(part: float) -> float:
        hour = 24.0 * (days * part % 1.0)
        return low + (high - low) * max(
            math.exp(-(((hour - 11.0) / 2.5) ** 2)), 0.7 * math.exp(-(((hour - 20.0) / 2.0) ** 2))
        )

    return rate


def levels(*rates: float) -> Callable[[float], float]:
    """Return one rate after the other, all for as long."""
    return lambda part: rates[min(len(rates) - 1, int(part * len(rates)))]


def teeth(low: float, high: float, times: int) -> Callable[[float], float]:
    """Return slow rises that end at once."""
    return lambda part: low + (high - low) * (times * part % 1.0)


def line(begins: float, ends: float) -> Callable[[float], float]:
    """Return a straight line."""
    return lambda part: begins + (ends - begins) * part


H8, H70, A8 = map(load_replica_model, ("llama-3.1-8b-h100", "llama-2-70b-h100-tp8", "llama-3-8b-a100"))
FULL_32 = load_replica_model(str(Path(__file__).with_name("batches-of-32.yaml")))


def _model(like: ReplicaModel, **changed: float) -> ReplicaModel:
    return ReplicaModel.model_validate(like.model_dump() | changed)


# Not measured on such hardware: published calibrations moved by about what bandwidth and peak FLOPs differ by.
FULL_48 = _model(H70, max_running=48)
A10 = _model(
    A8,
    prefill_base_ms=9,
    prefill_ms_per_token=0.21,
    decode_base_ms=29,
    decode_ms_per_kv_token=3e-4,
    kv_cache_tokens=60_000,
)
H70_ON_4 = _model(
    H70, gpus=4, prefill_ms_per_token=0.17, decode_base_ms=36, decode_ms_per_kv_token=4e-4, kv_cache_tokens=420_000
)
EXPERTS = _model(
    H8, gpus=2, prefill_ms_per_token=0.05, decode_base_ms=14, decode_ms_per_sequence=0.12, kv_cache_tokens=500_000
)
H32_ON_2 = _model(
    H70, gpus=2, prefill_ms_per_token=0.13, decode_base_ms=19, decode_ms_per_sequence=0.06, kv_cache_tokens=350_000
)
HALF_CACHED = _model(H8, cached_prompt_fraction=0.5)
B200 = _model(
    H8, prefill_ms_per_token=0.009, decode_base_ms=4.5, decode_ms_per_kv_token=3e-5, kv_cache_tokens=1_000_000
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load on a model.

    Attributes:
        load: What comes.
        model: What a replica does.
        start_seconds: From a pod's creation to ready.
    """

    load: Load
    model: ReplicaModel
    start_seconds: float


AZURE_CODE = "azure2023/AzureLLMInferenceTrace_code.csv"
AIBRIX = "aibrix/8min_up_and_down.csv"

TABLE = MappingProxyType(
    {
        "diurnal, 70B": Scenario(Shaped(Shape.DIURNAL, 20, 7200), H70, 110),
        "diurnal, 8B on A100": Scenario(Shaped(Shape.DIURNAL, 40, 3600), A8, 110),
        "diurnal, batches of 32 on A100": Scenario(Shaped(Shape.DIURNAL, 40, 3600), FULL_32, 110),
        "ramp, 70B": Scenario(Shaped(Shape.RAMP, 20, 3600), H70, 110),
        "AIBrix up and down x5, 70B": Scenario(Recorded(AIBRIX, 5), H70, 65),
        "flat, 70B": Scenario(Shaped(Shape.BURST, 10, 3600), H70, 110),
        "flash crowd, 70B": Scenario(Shaped(Shape.FLASH_CROWD, 20, 3600), H70, 110),
        "on and off, 70B": Scenario(Shaped(Shape.ON_OFF, 12, 3600), H70, 110),
        "Azure code x2, 8B": Scenario(Recorded(AZURE_CODE, 2), H8, 110),
        "Azure code x2, 8B on A100": Scenario(Recorded(AZURE_CODE, 2), A8, 65),
    }
)
"""Beside every rival."""

WANDERING = MappingProxyType(
    {
        "a noisy day in 2 h, 32B": Scenario(Profile(7200, waves(2, 20), noise=0.15), H32_ON_2, 150),
        "a noisy day in 4 h, 70B, starts of 294 s": Scenario(Profile(14_400, waves(1, 12), noise=0.1), H70, 294),
        "a day of two peaks in 4 h, A10": Scenario(Profile(14_400, two_peaks(0.3, 6), lengths=USUAL), A10, 110),
        "three days of two peaks in 4.5 h, experts": Scenario(Profile(16_200, two_peaks(3, 22, 3)), EXPERTS, 90),
        "a day of long prompts in 2 h, 8B": Scenario(Profile(7200, waves(3, 30), LONG_PROMPTS, noise=0.1), H8, 90),
        "a day of long answers in 3 h, 70B on 4": Scenario(Profile(10_800, waves(0.5, 5), LONG_ANSWERS), H70_ON_4, 180),
        "a small day in 3 h, 70B": Scenario(Profile(10_800, waves(0.5, 4)), H70, 110),
        "half of the prompt cached, a day in 2 h": Scenario(Profile(7200, waves(4, 50)), HALF_CACHED, 110),
        "a ramp, A10": Scenario(Profile(3600, line(0.5, 12), USUAL), A10, 150),
        "a ramp down, 70B": Scenario(Profile(5400, line(16, 1)), H70, 180),
        "levels of 15 min up and down, 32B": Scenario(Profile(7200, levels(4, 8, 16, 20, 16, 8, 6, 4)), H32_ON_2, 110),
        "slow waves of 40 min, 70B": Scenario(Profile(9600, waves(3, 12, 4)), H70, 180),
        "a ServeGen day in 2 h, A10": Scenario(
            Recorded("servegen/language_m-small-10min-aggregate.csv.gz", 0.003, 12, max_seconds=7200), A10, 110
        ),
    }
)
"""Forecastable: they change slower than a pod starts. Beside constant fleets and the oracle."""

BURSTY = MappingProxyType(
    {
        "Poisson, 70B, starts of 294 s": Scenario(Profile(7200, flat(9)), H70, 294),
        "Poisson, a small fleet of A10": Scenario(Profile(5400, flat(2.5), USUAL), A10, 110),
        "prompts of 9,000, 70B": Scenario(Profile(5400, flat(1.2), Lengths(9000, 300, 0.3)), H70, 110),
        "CV 2, experts": Scenario(Profile(5400, flat(16), variation=2.0), EXPERTS, 110),
        "CV 3, 8B": Scenario(Profile(5400, flat(18), variation=3.0), H8, 150),
        "code of CV 4, 70B": Scenario(Profile(5400, flat(6), CODE, variation=4.0), H70, 110),
        "CV 5, 70B": Scenario(Profile(7200, flat(8), variation=5.0), H70, 110),
        "batches of 48, CV 2, 70B": Scenario(Profile(5400, flat(8), variation=2.0), FULL_48, 110),
        "on and off twelve times, batches of 48": Scenario(Profile(7200, levels(*[12, 0] * 12)), FULL_48, 110),
        "on and off three times, A10": Scenario(Profile(7200, levels(*[4, 0.2] * 3), USUAL), A10, 150),
        "pulses of 20 s every 5 min, A100": Scenario(
            Profile(7200, flat(8), bursts=Bursts((300, 300), 20, 24)), A8, 110
        ),
        "spikes of 60 s on a day, 70B": Scenario(
            Profile(7200, waves(2, 8), bursts=Bursts((600, 1200), 60, 10)), H70, 110
        ),
        "200 at once, 32B": Scenario(Profile(9000, flat(2), bursts=Bursts((720, 1680), 1, 200)), H32_ON_2, 150),
        "teeth of 15 min, experts": Scenario(Profile(7200, teeth(4, 24, 8)), EXPERTS, 120),
        "a step, A10": Scenario(Profile(5400, levels(2, 8, 8), USUAL), A10, 110),
        "one step at half, 70B on 4": Scenario(Profile(7200, levels(4, 10)), H70_ON_4, 180),
        "a step down, 70B": Scenario(Profile(7200, levels(12, 12, 4, 4)), H70, 150),
        "steps of 15 min at random, 70B": Scenario(Profile(9000, levels(4, 9, 6, 12, 5, 8, 11, 4, 10, 7)), H70, 110),
        "chat of CV 1.3 on B200": Scenario(Profile(3600, flat(40), variation=1.3), B200, 65),
        "Azure code x4, 8B, starts of 294 s": Scenario(Recorded(AZURE_CODE, 4), H8, 294),
        "Azure code x2, 32B": Scenario(Recorded(AZURE_CODE, 2), H32_ON_2, 150),
        "Azure code x6, 8B on A100": Scenario(Recorded(AZURE_CODE, 6), A8, 110),
    }
)
"""Flat, or with changes shorter than a pod's start. Beside constant fleets and the oracle."""
