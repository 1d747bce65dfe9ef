"""The fence: how a tenant's limit is split over its namespaces, and that no order of writes passes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet.decide.snapshot import Quota, Tenant
from modelfleet.render.quota import hard_limits, lowered, raised

GPU = "nvidia.com/gpu"
H100 = {"h100": GPU}
KEY = f"requests.{GPU}"
counts = st.integers(0, 20)
namespaces = ("a", "b", "c")
by_namespace = st.fixed_dictionaries(dict.fromkeys(namespaces, counts))


def split(limit: Quota, *, held: dict[str, int], missing: dict[str, int] | None = None) -> dict[str, int]:
    """Return the hard limits of namespaces that hold, and still miss, so many GPUs."""
    tenant = Tenant(name="team", namespaces=tuple(held), quotas={"h100": limit})
    needed = {(name, GPU): gpus + (missing or {}).get(name, 0) for name, gpus in held.items()}
    found = hard_limits(tenant, resources=H100, held={(n, GPU): gpus for n, gpus in held.items()}, needed=needed)
    return {name: hard[KEY] for name, hard in found.items()}


@pytest.mark.parametrize(
    ("limit", "held", "missing", "expected"),
    [
        (Quota(8, 4), {"a": 3}, {}, {"a": 12}),
        (Quota(8, 4), {"a": 14}, {}, {"a": 12}),
        (Quota(8, 0), {"b": 3, "a": 2}, {}, {"a": 5, "b": 3}),
        (Quota(8, 0), {"a": 2, "b": 3}, {"b": 3}, {"a": 2, "b": 6}),
        (Quota(8, 0), {"a": 2, "b": 3}, {"a": 9, "b": 3}, {"a": 5, "b": 3}),
        (Quota(8, 0), {"a": 6, "b": 6}, {}, {"a": 2, "b": 2}),
        (Quota(8, None), {"a": 6, "b": 6}, {"b": 1}, {"a": 6, "b": 7}),
        (Quota(8, None), {"a": 1, "b": 2}, {}, {"a": 6, "b": 2}),
        (Quota(0, 0), {"a": 0}, {}, {"a": 0}),
    ],
)
def test_the_split(limit: Quota, held: dict[str, int], missing: dict[str, int], expected: dict[str, int]) -> None:
    """One namespace has the limit; of many each has what it holds and was granted, and the first what is left."""
    assert split(limit, held=held, missing=missing) == expected


def test_classes_are_told_apart_by_resource_and_closed_where_they_are_not_listed() -> None:
    """Two classes of one resource are added up; a resource of which the tenant lists no class is 0."""
    quotas = {"h100": Quota(4, 1), "a100": Quota(8, 0), "gone": Quota(9, 0)}
    tenant = Tenant(name="team", namespaces=("a",), quotas=quotas)
    resources = {"h100": GPU, "a100": GPU, "l4": GPU, "mi300": "amd.com/gpu"}

    found = hard_limits(tenant, resources=resources, held={}, needed={})
    assert found == {"a": {KEY: 13, "requests.amd.com/gpu": 0}}


@given(st.integers(0, 30), by_namespace, by_namespace)
def test_the_limits_added_up_are_the_limit(limit: int, held: dict[str, int], missing: dict[str, int]) -> None:
    """Whatever pods hold and replicas need; what is too much may not even be replaced, wherever one ends."""
    hard = split(Quota(limit, 0), held=held, missing=missing)
    too_much = sum(held.values()) - limit
    if too_much <= 0:
        assert limit == sum(hard.values())
    else:
        assert sum(hard.values()) <= limit
        assert all(hard[name] <= max(0, held[name] - too_much) for name in held)


@given(st.integers(0, 30), by_namespace, by_namespace, by_namespace, by_namespace)
def test_no_step_of_a_move_passes_the_limit(
    limit: int, before: dict[str, int], after: dict[str, int], missing: dict[str, int], used: dict[str, int]
) -> None:
    """From one split to the next the limits never add up to more, nor with pods that came while they were lowered."""
    old, new = (
        {name: {KEY: hard} for name, hard in split(Quota(limit, 0), held=held, missing=missing).items()}
        for held in (before, after)
    )
    low = lowered(old, new)
    high = raised(low, new, {name: {KEY: gpus} for name, gpus in used.items()})
    reach = {name: max(low[name][KEY], used[name]) for name in namespaces}

    assert all(low[name][KEY] <= min(old[name][KEY], new[name][KEY]) for name in namespaces)
    assert all(low[name][KEY] <= high[name][KEY] <= new[name][KEY] for name in namespaces)
    # What was too much before a move stays too much, and nothing is added to it.
    assert sum(max(high[name][KEY], used[name]) for name in namespaces) <= max(limit, sum(reach.values()))
    if all(used[name] <= low[name][KEY] for name in namespaces):
        assert high == new


def test_pods_that_came_meanwhile_count() -> None:
    """A was to have 1 of 3 and has got 3 before its limit was lowered: B may not have the 2 that were meant for it."""
    low, wanted = {"a": {KEY: 1}, "b": {KEY: 0}}, {"a": {KEY: 1}, "b": {KEY: 2}}

    assert raised(low, wanted, {"a": {KEY: 3}}) == {"a": {KEY: 1}, "b": {KEY: 0}}
    assert raised(low, wanted, {"a": {KEY: 2}}) == {"a": {KEY: 1}, "b": {KEY: 1}}


def test_a_namespace_that_is_not_in_the_split_yet_has_nothing() -> None:
    """What it gets has to be taken from another first."""
    assert lowered({"a": {KEY: 3}}, {"a": {KEY: 1}, "b": {KEY: 2}}) == {"a": {KEY: 1}, "b": {KEY: 0}}
