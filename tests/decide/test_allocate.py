"""Step 8 without tenants: growth is granted where GPUs are free on one node, and priority takes places."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from modelfleet.api.meta import Key
from modelfleet.decide.allocate import Ask, Replica
from modelfleet.decide.shares import Leaving, share_out
from tests.builders import nodes


def _ask(name: str, asked: int, **fields: Any) -> Ask:
    known: dict[str, Any] = {"accelerator": "h100", "gpus": 1, "priority": 0, "held": 0, "assured": 0, **fields}
    return Ask(key=Key("team", name), asked=asked, **known)


def _running(name: str, count: int, **fields: Any) -> Ask:
    """Ask for what runs on the first node, and may be taken."""
    replicas = tuple(Replica(f"{name}-{number}", "node-0") for number in range(count))
    return _ask(name, count, assured=count, held=count, replicas=replicas, **fields)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Asks, the free GPUs of each node, and what is granted by name."""

    asks: tuple[Ask, ...]
    free: tuple[int, ...]
    want: dict[str, int]


CASES = {
    "enough for everybody": Case(asks=(_ask("a", 2), _ask("b", 3)), free=(8,), want={"a": 2, "b": 3}),
    "nothing free, nothing granted": Case(asks=(_ask("a", 2, assured=1, held=1),), free=(0,), want={"a": 1}),
    "one each in turn, by name": Case(asks=(_ask("b", 4), _ask("a", 4)), free=(5,), want={"a": 3, "b": 2}),
    "the higher priority first": Case(asks=(_ask("a", 4), _ask("b", 4, priority=10)), free=(5,), want={"a": 1, "b": 4}),
    "eight free GPUs on eight nodes are no place for eight": Case(
        asks=(_ask("a", 1, gpus=8),), free=(1,) * 8, want={"a": 0}
    ),
    "the scheduler may put the small one on the large node": Case(
        asks=(_ask("a", 1, gpus=2), _ask("b", 1, gpus=8)), free=(8, 2), want={"a": 1, "b": 0}
    ),
    "the small one fits where the large one does not": Case(
        asks=(_ask("big", 1, gpus=8, priority=10), _ask("small", 2)), free=(2,), want={"big": 0, "small": 2}
    ),
    "assured replicas without a node hold their place": Case(
        asks=(_ask("a", 3, assured=3, held=1), _ask("b", 2)), free=(3,), want={"a": 3, "b": 1}
    ),
    "minReplicas is asked for whatever is free": Case(asks=(_ask("a", 3, assured=2),), free=(), want={"a": 2}),
    "assured replicas of a low priority come before growth of a high one": Case(
        asks=(_ask("low", 2, assured=2), _ask("high", 2, priority=10)), free=(3,), want={"low": 2, "high": 1}
    ),
    "what may not be taken stays": Case(
        asks=(_ask("a", 5, assured=5, held=5), _ask("b", 5, priority=10)), free=(), want={"a": 5, "b": 0}
    ),
    "a lower priority gives its places, down to minReplicas": Case(
        asks=(_running("a", 5, min_replicas=2), _ask("b", 5, priority=10)), free=(0,), want={"a": 2, "b": 0}
    ),
    "pods beyond the count do not make up for its minimum": Case(
        asks=(replace(_running("a", 2, min_replicas=1), assured=1, asked=5), _ask("b", 1, priority=10)),
        free=(0,),
        want={"a": 2, "b": 0},
    ),
    "only as many as are missing": Case(
        asks=(_running("a", 5), _ask("b", 3, priority=10)), free=(1,), want={"a": 3, "b": 1}
    ),
    "an equal priority keeps what it has": Case(
        asks=(_running("a", 5), _ask("b", 5)), free=(0,), want={"a": 5, "b": 0}
    ),
    "the lowest priority gives first": Case(
        asks=(_running("a", 2, priority=5), _running("b", 2), _ask("c", 3, priority=10)),
        free=(0,),
        want={"a": 1, "b": 0, "c": 0},
    ),
    "nobody gives where the place would not be large enough": Case(
        asks=(_running("a", 3), _ask("b", 1, gpus=8, priority=10)), free=(0,), want={"a": 3, "b": 0}
    ),
    "minReplicas of a higher priority that found no node take places too": Case(
        asks=(_running("a", 3), _ask("b", 2, assured=2, priority=10)), free=(0,), want={"a": 1, "b": 2}
    ),
    "a shrink is a shrink": Case(asks=(_ask("a", 2, assured=5, held=5),), free=(0,), want={"a": 2}),
    "growth into what a roll-out holds needs no free place": Case(
        asks=(_ask("a", 4, assured=3, held=4), _ask("b", 1)), free=(1,), want={"a": 4, "b": 1}
    ),
    "growth beyond it does": Case(
        asks=(_ask("a", 6, assured=3, held=4), _ask("b", 1)), free=(1,), want={"a": 5, "b": 0}
    ),
    "classes do not share": Case(
        asks=(_ask("a", 2), _ask("b", 2, accelerator="a100")), free=(8,), want={"a": 2, "b": 0}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_granted(name: str) -> None:
    """Growth goes by priority, then in turn, to where a whole replica fits."""
    case = CASES[name]
    granted = share_out(case.asks, {"h100": nodes(*case.free)}, ()).granted
    expected = case.want
    actual = {key.name: count for key, count in granted.items()}

    assert expected == actual


def test_who_gives_is_named_whatever_the_order() -> None:
    """Two deployments drain on one node: the one that waits reads the same name each time."""
    going = [Leaving(Key("team", name), "", "h100", "node-0", 1, 60, told=True) for name in ("b", "c")]
    waits = [share_out([_ask("a", 1)], {"h100": nodes(0)}, (), leaving=each).waits for each in (going, going[::-1])]

    assert waits[0] == waits[1] != {}
