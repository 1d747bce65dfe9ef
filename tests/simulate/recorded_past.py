"""A past that a Prometheus could have recorded, of engines whose every request is known."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from modelfleet.adapters.history import Series
from modelfleet.simulate.arrivals import Arrival
from modelfleet.simulate.calibration import ReplicaModel
from modelfleet.simulate.replica import Replica, Request
from tests.simulate.played import play, poisson, series

BEGAN = 1_760_000_400
"""When the recorded past begins; a whole number of minutes, long ago: no clock is read."""
SCRAPE_SECONDS = 15
HOUR = 3600
MODEL = ReplicaModel(calibration="llama-2-70b-h100-tp8")


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


# --- team-a/holey: an hour; one counter is missing for two minutes while all else is there ---------

HOLE = (1500.0, 1640.0)
HOLEY_TRUE = load(0.0, HOUR, rate=1.0, prompt=300, output=30, seed=30)


def holey() -> list[Series]:
    pod = Pod("team-a", "holey-5f6d-kkkkk")
    pod.serve(HOLEY_TRUE, begins=0.0, ends=HOUR)
    return [
        replace(each, samples=tuple(at for at in each.samples if not HOLE[0] <= at[0] - BEGAN < HOLE[1]))
        if each.name == "vllm:request_success_total"
        else each
        for each in pod.series()
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


def idle() -> list[Series]:
    """Return team-a/idle: 20 minutes of a pod that nobody asks for anything."""
    pod = Pod("team-a", "idle-7d4b-bbbbb")
    pod.serve([], begins=0.0, ends=1200.0)
    return pod.series()


def everything() -> list[Series]:
    return [
        *llama(),
        *decoys(),
        *sleeper(),
        *holey(),
        *fitted(),
        *idle(),
        others_up(0.0, GAP[0]),
        others_up(GAP[1], 3.0 * HOUR),
    ]
