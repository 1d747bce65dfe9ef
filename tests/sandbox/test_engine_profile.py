"""The engine profile: calibrations fill what is left out, everything else is refused or honoured."""

from __future__ import annotations

import json

import pytest

from modelfleet.simulate.calibration import CALIBRATIONS, noise
from sandbox.engine.faults import Fault, FaultError, FaultKind, parse_fault
from sandbox.engine.profile import EngineProfile, ProfileError, parse_profile


def test_no_annotation_is_the_default_calibration() -> None:
    profile = parse_profile(None)
    assert profile == parse_profile("  ") == EngineProfile()
    assert profile.decode_base_ms == CALIBRATIONS["llama-3.1-8b-h100"].decode_base_ms
    assert profile.kv_cache_tokens == 400_000


def test_a_field_given_wins_over_its_calibration() -> None:
    profile = parse_profile('{"calibration": "llama-2-70b-h100-tp8", "decodeBaseMs": 12.5}')
    assert profile.decode_base_ms == 12.5
    assert profile.decode_ms_per_sequence == CALIBRATIONS["llama-2-70b-h100-tp8"].decode_ms_per_sequence


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_every_calibration_makes_a_profile_and_names_its_source(name: str) -> None:
    assert parse_profile(json.dumps({"calibration": name})).calibration == name
    assert CALIBRATIONS[name].source


@pytest.mark.parametrize(
    ("annotation", "says"),
    {
        "not JSON": ("{", "not JSON"),
        "not an object": ("[1]", "profile"),
        "unknown field": ('{"gpus": 8}', "gpus"),
        "unknown calibration": ('{"calibration": "gpt-5"}', "calibration"),
        "out of bounds": ('{"maxRunning": 0}', "maxRunning"),
        "not finite": ('{"modelLoadSeconds": Infinity}', "modelLoadSeconds"),
        "a step without time": ('{"decodeBaseMs": 0}', "decodeBaseMs"),
    }.values(),
)
def test_a_bad_profile_is_refused_with_the_field(annotation: str, says: str) -> None:
    with pytest.raises(ProfileError, match=says):
        parse_profile(annotation)


def test_jitter_differs_between_pods_and_repeats_for_one() -> None:
    profile = parse_profile('{"modelLoadSeconds": 100, "startJitter": 0.2, "seed": 7}')
    loads = [profile.load_seconds(f"pod-{n}") for n in range(200)]
    assert loads == [profile.load_seconds(f"pod-{n}") for n in range(200)]
    assert 80.0 <= min(loads) < 90.0
    assert 110.0 < max(loads) <= 120.0
    assert all(-1.0 <= noise(0, n) <= 1.0 for n in range(1000))


def test_faults_are_a_word_or_an_object() -> None:
    assert parse_fault(None) is parse_fault(" ") is None
    assert parse_fault("nan") == Fault(kind=FaultKind.NAN)
    assert parse_fault('{"kind": "slow", "factor": 3}') == Fault(kind=FaultKind.SLOW, factor=3.0)
    for bad in ("sloow", '{"kind": "slow", "factor": 0}', '{"kind": "nan", "more": 1}', "{"):
        with pytest.raises(FaultError):
            parse_fault(bad)
