"""Steps 6 and 7: bounds, and the allowance that caps the load that may buy replicas."""

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.api.modeldeployment import Scaling
from modelfleet.decide.admit import Admission, Load, Uncounted, admit, share_allowances
from modelfleet.decide.bounds import bounds, in_force
from modelfleet.decide.snapshot import Allowance, Missing, Tokens
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


INPUT, OUTPUT, TOTAL = Tokens
UNKNOWN = Missing("pod-x: vllm:prompt_tokens_total is not on the metrics page")

ADMIT: dict[str, tuple[int, float | None, float | None, int, tuple[int, Limit]]] = {
    "500 of 100 each buy five": (9, 500, 100, 1, (5, Limit.TOKEN_ALLOWANCE)),
    "501 buy six": (9, 501, 100, 1, (6, Limit.TOKEN_ALLOWANCE)),
    "asks for less than it may": (3, 500, 100, 1, (3, Limit.NONE)),
    "asks for what it may": (5, 500, 100, 1, (5, Limit.NONE)),
    "the spec's floor is not bought by load": (9, 0, 100, 2, (2, Limit.TOKEN_ALLOWANCE)),
    "capacity unknown: what there is stays, none is added": (9, 500, None, 1, (4, Limit.TOKEN_ALLOWANCE)),
    "tokens unknown: the same": (9, None, 100, 1, (4, Limit.TOKEN_ALLOWANCE)),
    "tokens unknown: what goes by itself goes": (2, None, 100, 1, (2, Limit.NONE)),
    "tokens unknown: the spec's floor is bought": (9, None, 100, 6, (6, Limit.TOKEN_ALLOWANCE)),
}


@pytest.mark.parametrize("case", ADMIT)
def test_admit(case: str) -> None:
    """Beside 4 replicas an allowance buys those above minReplicas, rounded up; what is unknown buys none."""
    count, allowance, target, floor, expected = ADMIT[case]
    actual = admit(
        count, allowance_tokens_per_second=allowance, target_tokens_per_second=target, floor=floor, current=4
    )

    assert expected == actual


def of_tenant(per_second: float) -> Allowance:
    return Allowance(OUTPUT, per_second)


SHARED: dict[str, tuple[dict[str, float], tuple[Allowance, ...], dict[str, float]]] = {
    "no allowance binds nobody": ({"a": 100, "b": 700}, (), {}),
    "enough for all binds nobody": ({"a": 100, "b": 400}, (of_tenant(500),), {}),
    "like water: the small one gets all of its load": (
        {"a": 100, "b": 400, "c": 700},
        (of_tenant(600),),
        {"b": 250, "c": 250},
    ),
    "who floods takes nothing from the others": ({"a": 100, "b": 1e9}, (of_tenant(300),), {"b": 200}),
    "nothing is admitted of nothing": ({"a": 100}, (of_tenant(0),), {"a": 0}),
    "a model's allowance is for all its deployments": (
        {"a": 300, "a2": 300, "b": 900},
        (Allowance(OUTPUT, 400, "m-a"),),
        {"a": 200, "a2": 200},
    ),
    "the model's first, then the tenant's": (
        {"a": 900, "b": 900},
        (Allowance(OUTPUT, 100, "m-a"), of_tenant(1000)),
        {"a": 100},
    ),
    "both bind": ({"a": 900, "b": 900}, (Allowance(OUTPUT, 500, "m-a"), of_tenant(600)), {"a": 300, "b": 300}),
}


@pytest.mark.parametrize("case", SHARED)
def test_allowance_is_shared_by_demand(case: str) -> None:
    """Deployments of a tenant share its allowance; only those that get less than their load are bound."""
    loads, allowances, expected = SHARED[case]
    made = {Key("team", name): Load(f"m-{name[0]}", float(load)) for name, load in loads.items()}
    found, uncounted = share_allowances(made, allowances)
    actual = {key.name: admission.admitted for key, admission in found.items()}

    assert uncounted == {}
    assert expected == actual
    for key, admission in found.items():
        assert admission == Admission(
            admission.allowance, made[key].output, admission.admitted, admission.admitted_output
        )
        assert admission.admitted == admission.admitted_output


TIGHTEST: dict[str, tuple[tuple[Allowance, ...], tuple[Allowance, float, float, float] | None]] = {
    "none binds": ((Allowance(INPUT, 3000), Allowance(OUTPUT, 100), Allowance(TOTAL, 3100)), None),
    "input": (
        (Allowance(INPUT, 1500), Allowance(OUTPUT, 60), Allowance(TOTAL, 1900)),
        (Allowance(INPUT, 1500), 3000, 1500, 50),
    ),
    "output": (
        (Allowance(INPUT, 1500), Allowance(OUTPUT, 40), Allowance(TOTAL, 1900)),
        (Allowance(OUTPUT, 40), 100, 40, 40),
    ),
    "total": (
        (Allowance(INPUT, 1500), Allowance(OUTPUT, 60), Allowance(TOTAL, 620)),
        (Allowance(TOTAL, 620), 3100, 620, 20),
    ),
}


@pytest.mark.parametrize("case", TIGHTEST)
def test_the_tightest_of_the_three_binds(case: str) -> None:
    """100 generated tokens/s of which each comes with 30 of prompts: 3,000 in, 3,100 in all."""
    allowances, expected = TIGHTEST[case]
    key = Key("team", "rag")
    found, _ = share_allowances({key: Load("m", 100.0, 30.0)}, allowances)

    assert found.get(key) == (None if expected is None else Admission(*expected))


def test_input_is_shared_by_input() -> None:
    """Of 1,000 prompt tokens/s a chat gets its 100; what is left goes to the one with long prompts."""
    chat, rag = Key("team", "chat"), Key("team", "rag")
    loads = {chat: Load("m", 100.0, 1.0), rag: Load("m", 100.0, 50.0)}
    found, _ = share_allowances(loads, (Allowance(INPUT, 1000),))

    assert found == {rag: Admission(Allowance(INPUT, 1000), 5000.0, 900.0, 18.0)}


def test_who_does_not_tell_its_prompts_takes_no_part() -> None:
    """The others share the allowance of input without it; its output is shared as ever."""
    silent, other = Key("team", "silent"), Key("team", "other")
    loads = {silent: Load("m", 100.0, UNKNOWN), other: Load("m", 100.0, 10.0)}
    bound, uncounted = share_allowances(loads, (Allowance(INPUT, 1000), Allowance(OUTPUT, 60)))

    assert uncounted == {silent: Uncounted(Allowance(INPUT, 1000), UNKNOWN.why)}
    assert {key.name: admission.admitted_output for key, admission in bound.items()} == {"silent": 30.0, "other": 30.0}


def test_order_of_deployments_does_not_matter_to_an_allowance() -> None:
    """The same loads listed backwards are admitted the same."""
    loads = {Key("team", f"m{number}"): Load("m", float(number * 37 % 11), number % 3) for number in range(9)}
    backwards = dict(reversed(loads.items()))
    allowances = (Allowance(INPUT, 15), Allowance(TOTAL, 30))
    shares = [share_allowances(each, allowances) for each in (loads, backwards)]

    assert shares[0][0]
    assert shares[0] == shares[1]
