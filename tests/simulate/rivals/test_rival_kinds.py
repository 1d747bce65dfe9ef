"""Every rival as a whole."""

import pytest

from modelfleet.simulate.arrivals import Lengths
from modelfleet.simulate.calibration import CALIBRATIONS, load_replica_model
from modelfleet.simulate.policy import Circumstances, Kind, Setting
from modelfleet.simulate.rivals import KINDS
from modelfleet.simulate.shapes import Shape, shape_arrivals
from modelfleet.simulate.world import Start, play

BY_NAME = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def test_names_are_unique() -> None:
    """And none is missing."""
    assert [kind.name for kind in KINDS] == [
        "hpa-inflight",
        "hpa-tokens",
        "keda",
        "knative",
        "knative-delay",
        "wva",
        "dynamo-load",
        "dynamo-throughput",
        "aibrix",
        "aibrix-max",
        "kubeai",
        "static",
    ]


@BY_NAME
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_targets_are_a_grid_from_cheap_to_costly(kind: Kind, calibration: str) -> None:
    """A dozen at most, in one direction, but of constant fleets each size; the default is within."""
    model = load_replica_model(calibration)
    targets = kind.targets(model)

    assert len(targets) >= 8
    assert len(targets) <= 12 or kind.constant
    assert len(set(targets)) == len(targets)
    assert list(targets) == sorted(targets, reverse=kind.name != "static")
    assert min(targets) <= kind.default_target(model) <= max(targets)


@BY_NAME
def test_it_plays_a_flash_crowd_the_same_way_twice(kind: Kind) -> None:
    """Ten minutes: it stays in its bounds, serves the crowd, and depends on nothing outside of the run."""
    model = load_replica_model("llama-3.1-8b-h100")
    arrivals = list(
        shape_arrivals(
            Shape.FLASH_CROWD,
            requests_per_second=40.0,
            duration_seconds=600.0,
            lengths=Lengths(prompt_tokens=1_000.0, output_tokens=100.0),
            seed=1,
        )
    )
    circumstances = Circumstances(model, 20.0, 2.0, 0.05, arrivals)
    setting = Setting(kind.targets(model)[5], 1, 12)

    runs = [
        play(
            arrivals,
            name=kind.name,
            policy=kind.build(setting, circumstances),
            setting=setting,
            circumstances=circumstances,
            start=Start.of(20.0),
            seed=1,
        )
        for _ in range(2)
    ]

    assert runs[0].scales == runs[1].scales
    assert all(1 <= moment.desired <= 12 for moment in runs[0].timeline)
    assert max(moment.desired for moment in runs[0].timeline) > 1
