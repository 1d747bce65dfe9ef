"""Step 8: growth is granted where GPUs are free on one node."""

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from modelfleet.api.meta import Key
from modelfleet.decide.allocate import Ask, allocate
from tests.builders import nodes


def _ask(name: str, asked: int, **fields: Any) -> Ask:
    known: dict[str, Any] = {"accelerator": "h100", "gpus": 1, "priority": 0, "held": 0, "assured": 0, **fields}
    return Ask(key=Key("team", name), asked=asked, **known)


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
    "what exists is never taken away": Case(
        asks=(_ask("a", 5, assured=5, held=5), _ask("b", 5, priority=10)), free=(), want={"a": 5, "b": 0}
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
    granted = allocate(case.asks, {"h100": nodes(*case.free)})
    expected = case.want
    actual = {key.name: count for key, count in granted.items()}

    assert expected == actual


# --- the reference ------------------------------------------------------------------------------


def _reference(asks: list[Ask], free_by_class: dict[str, list[int]]) -> dict[Key, int]:
    """Allocate as the rule reads, one replica at a time, scanning everything every time."""
    granted = {ask.key: min(max(ask.assured, ask.held), ask.asked) for ask in asks}
    for accelerator, all_free in free_by_class.items():
        free = list(all_free)

        def take(gpus: int, free: list[int] = free) -> bool:
            fits = [number for number, have in enumerate(free) if have >= gpus]
            if not fits:
                return False
            free[max(fits, key=lambda number: free[number])] -= gpus
            return True

        mine = [ask for ask in asks if ask.accelerator == accelerator]
        for ask in sorted(mine, key=lambda ask: (-ask.priority, ask.key)):
            for _ in range(max(0, granted[ask.key] - ask.held)):
                take(ask.gpus)
        for priority in sorted({ask.priority for ask in mine}, reverse=True):
            progress = True
            while progress:
                progress = False
                for ask in sorted((ask for ask in mine if ask.priority == priority), key=lambda ask: ask.key):
                    if granted[ask.key] < ask.asked and take(ask.gpus):
                        granted[ask.key] += 1
                        progress = True
    return granted


def _random_asks(random: Random) -> list[Ask]:
    asks = []
    for number in range(random.randint(1, 7)):
        held = random.randint(0, 4)
        assured = random.randint(0, 5)
        asks.append(
            Ask(
                key=Key(random.choice("xy"), f"m{number}"),
                accelerator=random.choice(("h100", "h100", "a100")),
                gpus=random.choice((1, 1, 2, 4, 8)),
                priority=random.choice((-1, 0, 0, 5)),
                held=held,
                assured=assured,
                asked=random.randint(0, 9),
            )
        )
    return asks


def test_allocation_equals_the_slow_rule() -> None:
    """2,000 random fleets are granted what the rule grants when it is read literally, in any order of asks."""
    random = Random("allocate")
    for number in range(2_000):
        asks = _random_asks(random)
        free = {name: [random.randint(0, 8) for _ in range(random.randint(0, 5))] for name in ("h100", "a100")}
        expected = _reference(asks, free)
        random.shuffle(asks)
        actual = allocate(asks, {name: nodes(*gpus) for name, gpus in free.items()})

        assert expected == actual, number
