"""Step 3c: which part of the requests is late at a load."""

from itertools import pairwise

import pytest

from modelfleet.decide.lateness import CLEARLY, HALF_LATE_SHARE, PRIOR, STEEPNESS, Lateness, late_share, learn


@pytest.mark.parametrize("steepness", STEEPNESS)
def test_what_an_earlier_process_believed_is_taken_up(steepness: float) -> None:
    """The status keeps tenths."""
    resumed = Lateness.resumed(round(10 * steepness))

    assert STEEPNESS[resumed.believed] == steepness
    assert resumed.steepness_tenths == round(10 * steepness)


@pytest.mark.parametrize("tenths", [0, 1, 75, 2**31 - 1])
def test_a_steepness_of_another_version_is_the_prior(tenths: int) -> None:
    """A status of an older version says nothing, a damaged one nothing that could be used."""
    assert Lateness.resumed(tenths) == PRIOR


@pytest.mark.parametrize("steepness", STEEPNESS)
def test_more_load_never_makes_fewer_late(steepness: float) -> None:
    """Each curve rises, through a half a bit beyond a full replica."""
    curve = [0.0, *Lateness.expected(steepness).late_in_range]

    assert all(less <= more for less, more in pairwise(curve))
    assert late_share(HALF_LATE_SHARE, steepness) == pytest.approx(0.5)


def test_a_steeper_curve_has_fewer_late_below_the_half_and_more_above() -> None:
    """That is all that tells the curves apart."""
    for flatter, steeper in pairwise(STEEPNESS):
        assert late_share(0.7, flatter) > late_share(0.7, steeper)
        assert late_share(1.3, flatter) < late_share(1.3, steeper)


def test_another_curve_is_believed_only_when_it_is_clearly_better() -> None:
    """Two that foretell alike must not take turns: each turn is a write of the status."""
    losses = [9.0] * len(STEEPNESS)
    losses[4] = 0.0
    for behind, believed in ((0.9 * CLEARLY, 3), (1.1 * CLEARLY, 4)):
        losses[3] = behind
        # A bucket without load teaches nothing.
        after = learn(Lateness(tuple(losses), 3), share=0.0, late=0.0, kept=1.0)
        assert after.believed == believed


def test_what_comes_late_on_half_empty_replicas_says_little() -> None:
    """It waited for something else. On nearly full ones it says what the load is."""
    idle, full = (learn(PRIOR, share=share, late=1.0, kept=1.0) for share in (0.3, 0.9))

    assert idle.believed == PRIOR.believed
    assert STEEPNESS[full.believed] < STEEPNESS[PRIOR.believed]
