"""The loads of bench/simulations.py: rates, clumps and bursts are what they say, and every seed is one load."""

from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev

import pytest
import typer

from bench.loads import Bursts, Profile, flat, levels
from bench.simulations import main
from modelfleet.simulate.arrivals import Arrival


def arrivals(profile: Profile, seed: int = 0) -> list[Arrival]:
    return list(profile.arrivals(Path(), seed))


def test_a_profile_follows_its_rate() -> None:
    sent = arrivals(Profile(4000, levels(2, 10)))
    first = [each for each in sent if each.at_seconds < 2000]
    assert len(first) / 2000 == pytest.approx(2, rel=0.05)
    assert (len(sent) - len(first)) / 2000 == pytest.approx(10, rel=0.05)
    assert sent == sorted(sent, key=lambda each: each.at_seconds)


@pytest.mark.parametrize("variation", [1.0, 3.0])
def test_gaps_vary_as_asked(variation: float) -> None:
    gaps = [
        after.at_seconds - before.at_seconds
        for before, after in pairwise(arrivals(Profile(4000, flat(20), variation=variation)))
    ]
    assert pstdev(gaps) / mean(gaps) == pytest.approx(variation, rel=0.1)


def test_noise_changes_minutes_and_not_the_mean() -> None:
    sent = arrivals(Profile(60_000, flat(5), noise=0.3))
    per_window = [0] * 200
    for each in sent:
        per_window[int(each.at_seconds / 300)] += 1
    assert mean(per_window) == pytest.approx(1500, rel=0.05)
    assert 0.15 < pstdev(per_window) / mean(per_window) < 0.35


def test_bursts_come_beside_the_rate() -> None:
    sent = arrivals(Profile(1000, flat(1), bursts=Bursts((300, 300), 10, 30)))
    for begins in (300, 600, 900):
        assert sum(begins <= each.at_seconds < begins + 10 for each in sent) == pytest.approx(310, rel=0.2)
    assert sum(each.at_seconds < 290 for each in sent) == pytest.approx(290, rel=0.25)


def test_a_seed_is_a_load() -> None:
    profile = Profile(600, flat(3), noise=0.2, bursts=Bursts((100, 200), 5, 10))
    assert arrivals(profile, 1) == arrivals(profile, 1) != arrivals(profile, 2)


def test_an_unknown_load_is_named() -> None:
    with pytest.raises(typer.BadParameter, match="'noon' is no load; known: diurnal, 70B; "):
        main(only=["noon"])
