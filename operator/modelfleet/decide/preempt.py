"""Which replicas go when a deployment of a higher priority of the same tenant finds no place.

Nothing goes to or comes from anybody else: the tenant has the same before and after. So only what its team said
counts: a lower priority gives to a higher one, down to its minReplicas.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from modelfleet.api.meta import Key
from modelfleet.decide.allocate import Ask, Replica
from modelfleet.decide.places import Places

Rank = tuple[int, bool, float, Key, str]
"""Who goes first: the lowest priority, not ready before ready, then the idlest; no two are alike."""


@dataclass(frozen=True, slots=True)
class Preempted:
    """A replica that gives its place to a deployment of a higher priority."""

    rank: Rank
    ask: Ask
    replica: Replica
    number: int | None
    """Its node; None when that is not one of the usable ones."""


class LowerPriorities:
    """The replicas of one tenant, for those of a higher priority."""

    def __init__(self, asks: Iterable[Ask], places: Places, gone: set[tuple[str, str]]) -> None:
        """Look at the tenant's replicas; `gone` has namespace and name of pods that go already, and is kept up."""
        self._places, self._gone = places, gone
        self._of_deployment: dict[Key, list[Preempted]] = {}
        self._by_node: dict[int, list[Preempted]] = {}
        self._lost: Counter[Key] = Counter()
        for ask in asks:
            for replica in ask.replicas:
                rank = (ask.priority, replica.ready, replica.in_flight, ask.key, replica.pod)
                one = Preempted(rank, ask, replica, places.number_of.get(replica.node))
                self._of_deployment.setdefault(ask.key, []).append(one)
                if one.number is not None:
                    self._by_node.setdefault(one.number, []).append(one)
        for found in self._by_node.values():
            found.sort(key=_rank)

    def dig(self, gpus: int, *, priority: int) -> tuple[int, tuple[Preempted, ...]] | None:
        """Return the number of a node, and who goes there, for a replica of this priority; None when nobody may.

        Of all nodes that one where the highest priority that loses is the least, then the fewest lose, then the
        first by rank.
        """
        holes = [
            (victims[-1].rank[0], len(victims), [one.rank for one in victims], number, victims)
            for number in self._by_node
            if (victims := self._open(number, gpus, priority))
        ]
        if not holes:
            return None
        *_, number, victims = min(holes)
        return number, victims

    def take(self, victims: Iterable[Preempted]) -> None:
        """Take the victims away: they drain where they run."""
        for one in victims:
            self._gone.add((one.ask.key.namespace, one.replica.pod))
            self._lost[one.ask.key] += 1
            self._places.drain(one.replica.node, one.ask.gpus)

    def _open(self, number: int, gpus: int, priority: int) -> tuple[Preempted, ...]:
        """Return who goes from one node, in order, until the place is there; nobody when it will not be."""
        need = gpus - self._places.free[number] - self._places.draining[number]
        chosen: list[Preempted] = []
        for one in self._by_node[number]:
            if need <= 0 or one.ask.priority >= priority:
                break
            if not self._is_gone(one) and self._may_lose([*chosen, one]):
                chosen.append(one)
                need -= one.ask.gpus
        if need > 0:
            return ()
        # A large one that was needed at the end makes small ones before it needless.
        for one in reversed(chosen[:-1]):
            if need + one.ask.gpus <= 0:
                need += one.ask.gpus
                chosen.remove(one)
        return tuple(sorted((*chosen, *self._along(chosen)), key=_rank))

    def _may_lose(self, chosen: list[Preempted]) -> bool:
        """Return whether each deployment keeps its minReplicas."""
        ask = chosen[-1].ask
        lost = sum(one.ask.key == ask.key for one in (*chosen, *self._along(chosen)))
        # Pods beyond what was asked for go anyhow: they do not make up for one that is taken.
        return min(ask.held, ask.assured, ask.asked) - self._lost[ask.key] - lost >= ask.min_replicas

    def _along(self, chosen: list[Preempted]) -> list[Preempted]:
        """Return who goes first whatever is asked: replicas elsewhere of the same deployments that are not ready."""
        numbers = {one.ask.key: one.number for one in chosen if one.replica.ready}
        return [
            one
            for key, number in numbers.items()
            for one in self._of_deployment[key]
            if not one.replica.ready and one.number != number and not self._is_gone(one)
        ]

    def _is_gone(self, one: Preempted) -> bool:
        return (one.ask.key.namespace, one.replica.pod) in self._gone


def _rank(one: Preempted) -> Rank:
    return one.rank
