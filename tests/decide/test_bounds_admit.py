"""Steps 6 and 7: bounds, and the allowance that caps the load that may buy replicas."""

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import Scaling
from modelfleet.decide.admit import Admission, Load, admit, share_allowance
from modelfleet.decide.bounds import bounds, in_force
from tests.builders import NOW

BOUNDS = {
    "within": (3, (3, Limit.NONE)),
    "at the floor": (2, (2, Limit.NONE)),
    "at the ceiling": (5, (5, Limit.NONE)),
    "below": (1, (2, Limit.MIN_REPLICAS)),
    "idle": (0, (2, Limit.MIN_REPLICAS)),
    "above": (9, (5, Limit.MAX_REPLICAS)),
}


@pytest.mark.parametrize("case", BOUNDS)
def test_bounds(case: str) -> None:
    """A count is clamped into 2..5, and the end that bound it is named."""
    count, expected = BOUNDS[case]
    actual = bounds(count, in_force(Scaling(min_replicas=2, max_replicas=5), NOW))

    assert expected == actual


ADMIT: dict[str, tuple[int, float | None, float | None, int, tuple[int, Limit]]] = {
    "no allowance, no cap": (9, None, 100, 1, (9, Limit.NONE)),
    "capacity unknown: tokens are no replicas": (9, 500, None, 1, (9, Limit.NONE)),
    "500 of 100 each buy five": (9, 500, 100, 1, (5, Limit.TOKEN_ALLOWANCE)),
    "501 buy six": (9, 501, 100, 1, (6, Limit.TOKEN_ALLOWANCE)),
    "asks for less than it may": (3, 500, 100, 1, (3, Limit.NONE)),
    "asks for what it may": (5, 500, 100, 1, (5, Limit.NONE)),
    "the spec's floor is not bought by load": (9, 0, 100, 2, (2, Limit.TOKEN_ALLOWANCE)),
}


@pytest.mark.parametrize("case", ADMIT)
def test_admit(case: str) -> None:
    """An allowance buys replicas above minReplicas, rounded up."""
    count, allowance, target, floor, expected = ADMIT[case]
    actual = admit(count, allowance_tokens_per_second=allowance, target_tokens_per_second=target, floor=floor)

    assert expected == actual


SHARED: dict[str, tuple[dict[str, float], float | None, dict[str, float], dict[str, float]]] = {
    "no allowance binds nobody": ({"a": 100, "b": 700}, None, {}, {}),
    "enough for all binds nobody": ({"a": 100, "b": 400}, 500, {}, {}),
    "like water: the small one gets all of its load": ({"a": 100, "b": 400, "c": 700}, 600, {}, {"b": 250, "c": 250}),
    "who floods takes nothing from the others": ({"a": 100, "b": 1e9}, 300, {}, {"b": 200}),
    "nothing is admitted of nothing": ({"a": 100}, 0, {}, {"a": 0}),
    "a model's allowance is for all its deployments": (
        {"a": 300, "a2": 300, "b": 900},
        None,
        {"m-a": 400},
        {"a": 200, "a2": 200},
    ),
    "the model's first, then the tenant's": ({"a": 900, "b": 900}, 1000, {"m-a": 100}, {"a": 100}),
    "both bind": ({"a": 900, "b": 900}, 600, {"m-a": 500}, {"a": 300, "b": 300}),
}


@pytest.mark.parametrize("case", SHARED)
def test_allowance_is_shared_by_demand(case: str) -> None:
    """Deployments of a tenant share its allowance; only those that get less than their load are bound."""
    loads, tenant, models, expected = SHARED[case]
    made = {Key("team", name): Load(f"m-{name[0]}", float(load)) for name, load in loads.items()}
    found = share_allowance(made, tenant_tokens_per_second=tenant, model_tokens_per_second=models)
    actual = {key.name: admission.admitted for key, admission in found.items()}

    assert expected == actual
    for key, admission in found.items():
        assert admission == Admission(made[key].tokens_per_second, admission.allowance, admission.admitted)


def test_order_of_deployments_does_not_matter_to_an_allowance() -> None:
    """The same loads listed backwards are admitted the same."""
    loads = {Key("team", f"m{number}"): Load("m", float(number * 37 % 11)) for number in range(9)}
    backwards = dict(reversed(loads.items()))
    shares = [
        share_allowance(each, tenant_tokens_per_second=20, model_tokens_per_second={}) for each in (loads, backwards)
    ]

    assert shares[0] == shares[1]
