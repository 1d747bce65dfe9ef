"""What holds for every allocation without tenants, whatever the asks and the nodes."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet.api.meta import Key
from modelfleet.decide.allocate import Ask
from modelfleet.decide.shares import share_out
from modelfleet.decide.snapshot import Node
from tests.builders import nodes

PROPERTIES = settings(settings.get_profile("properties"), max_examples=100)


def allocate(asks: list[Ask], by_class: dict[str, tuple[Node, ...]]) -> Mapping[Key, int]:
    """Share out what is one pool."""
    return share_out(asks, by_class, ()).granted


@st.composite
def asks(draw: st.DrawFn, *, gpus: st.SearchStrategy[int]) -> list[Ask]:
    """Draw up to six asks of one class."""
    rows = draw(st.lists(st.tuples(*[st.integers(0, 7)] * 3, st.integers(-1, 1), gpus), min_size=1, max_size=6))
    return [
        Ask(
            key=Key("team", f"m{number}"),
            accelerator="h100",
            gpus=size,
            priority=priority,
            held=held,
            assured=assured,
            asked=asked,
        )
        for number, (held, assured, asked, priority, size) in enumerate(rows)
    ]


free = st.lists(st.integers(0, 8), max_size=5)


def _entitled(ask: Ask) -> int:
    """Return what an ask gets whatever is free."""
    return min(max(ask.assured, ask.held), ask.asked)


@PROPERTIES
@given(made=asks(gpus=st.sampled_from((1, 2, 3, 8))), free=free)
def test_growth_never_exceeds_what_is_free(made: list[Ask], free: list[int]) -> None:
    """GPUs granted above what is assured or held are no more than the nodes have, on one node each."""
    granted = allocate(made, {"h100": nodes(*free)})
    growth = {ask.key: granted[ask.key] - _entitled(ask) for ask in made}
    used = sum(growth[ask.key] * ask.gpus for ask in made)
    pending = sum(max(0, _entitled(ask) - ask.held) for ask in made)

    assert used <= sum(free)
    assert all(count >= 0 for count in growth.values())
    for ask in made:
        assert growth[ask.key] == 0 or max(free) >= ask.gpus
    # Pending pods of one GPU take their places first.
    if all(ask.gpus == 1 for ask in made):
        assert used <= max(0, sum(free) - pending)


@PROPERTIES
@given(made=asks(gpus=st.sampled_from((1, 2, 3, 8))), free=free)
def test_everybody_gets_between_what_is_assured_and_what_is_asked(made: list[Ask], free: list[int]) -> None:
    """Nothing that exists is taken away, and nobody gets more than was asked for."""
    granted = allocate(made, {"h100": nodes(*free)})

    for ask in made:
        assert min(ask.assured, ask.asked) <= granted[ask.key] <= ask.asked


@PROPERTIES
@given(data=st.data(), size=st.sampled_from((1, 2, 4, 8)), free=free)
def test_nothing_stays_free_while_somebody_waits(data: st.DataObject, size: int, free: list[int]) -> None:
    """With replicas of one size, every place is used before anybody is refused."""
    made = data.draw(asks(gpus=st.just(size)))
    granted = allocate(made, {"h100": nodes(*free)})
    places = sum(count // size for count in free)
    pending = sum(max(0, _entitled(ask) - ask.held) for ask in made)
    wanted = sum(ask.asked - _entitled(ask) for ask in made)
    expected = min(wanted, max(0, places - pending))
    actual = sum(granted[ask.key] - _entitled(ask) for ask in made)

    assert expected == actual


@PROPERTIES
@given(data=st.data(), free=free)
def test_equals_get_equal_shares(data: st.DataObject, free: list[int]) -> None:
    """Two that start from nothing at one priority differ by one replica at most, unless one asks for less."""
    counts = data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=5))
    made = [
        Ask(key=Key("team", f"m{n}"), accelerator="h100", gpus=1, priority=0, held=0, assured=0, asked=asked)
        for n, asked in enumerate(counts)
    ]
    granted = allocate(made, {"h100": nodes(*free)})
    short = [granted[ask.key] for ask in made if granted[ask.key] < ask.asked]
    most = max(granted.values())

    assert all(count >= most - 1 for count in short)


@PROPERTIES
@given(made=asks(gpus=st.just(1)), free=free, more=st.integers(0, 8))
def test_more_free_gpus_never_give_anybody_less(made: list[Ask], free: list[int], more: int) -> None:
    """A node that is added takes nothing from anybody."""
    before = allocate(made, {"h100": nodes(*free)})
    after = allocate(made, {"h100": nodes(*free, more)})

    assert all(before[key] <= after[key] for key in before)
