"""Whether a live object still says what was rendered for it."""

from collections.abc import Mapping, Sequence
from typing import Any

LIST_KEYS = ("uid", "mountPath", "containerPort", "name")
"""Merge keys of the lists that are rendered, the most telling first: two owners of different kinds may share a
name. A list of objects without one is compared by position."""
OMITTED: tuple[Any, ...] = ("", [])
"""What the API server leaves out of an object that it was sent."""
ATOMIC = frozenset({"nodeSelector", "selector"})
"""Maps that have one owner as a whole: a key that somebody adds to a selector is an edit, and a Service with one
more selects no pod."""


def holds(live: Any, rendered: Any) -> bool:
    """Return whether every value that was rendered stands in the live object.

    What others added (defaults, status, their own fields and list items) does not count: server-side
    apply would not remove it either.
    """
    match rendered:
        case Mapping():
            return isinstance(live, Mapping) and all(
                (live[name] == value if name in ATOMIC else holds(live[name], value))
                if name in live
                else value in OMITTED
                for name, value in rendered.items()
            )
        case list() if rendered and all(isinstance(item, Mapping) for item in rendered):
            return isinstance(live, Sequence) and _items_hold(live, rendered)
        case list():
            return (live or []) == rendered
        case _:
            return bool(live == rendered)


def _items_hold(live: Sequence[Any], rendered: Sequence[Mapping[str, Any]]) -> bool:
    merge_key = next((name for name in LIST_KEYS if all(name in item for item in rendered)), None)
    if merge_key is None:
        return len(live) == len(rendered) and all(holds(a, b) for a, b in zip(live, rendered, strict=True))
    by_key = {item.get(merge_key): item for item in live if isinstance(item, Mapping)}
    return all(item[merge_key] in by_key and holds(by_key[item[merge_key]], item) for item in rendered)
