"""Whose replicas go when a tenant needs a place that is not free.

A place is GPUs of one node, so the question is where it opens at the least loss. Victims are replicas of tenants that
use more than their nominal quota, and a tenant is never brought below the most GPUs that its replicas fill within
nominal as wholes. Of all nodes that one is chosen that loses no other cohort's replicas if any such is there, then the
fewest, then those of the borrower that has most for its weight, of the least priority, the idlest.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from modelfleet.api.meta import Key
from modelfleet.decide.allocate import Ask, Replica
from modelfleet.decide.places import Places


class Account:
    """What one tenant has of one class while it is being shared out, in GPUs.

    Attributes:
        limit: nominal and what it may borrow.
        lending: Most of nominal that others may have.
        holds: What its pods hold, and what was promised since.
        stays: What its pods hold, less those that are going.
        other: What its pods hold that are no replicas of the operator's.
        grew: Whether it was lent something just now.
        opened: What its pods held at first.
    """

    __slots__ = ("cohort", "grew", "holds", "lending", "limit", "name", "nominal", "opened", "other", "stays", "weight")

    def __init__(
        self,
        name: str,
        cohort: str,
        nominal: int,
        limit: int,
        lending: int,
        weight: int,
        holds: int,
        stays: int,
        other: int,
    ) -> None:
        """Open it as seen."""
        self.name, self.cohort, self.nominal, self.limit, self.lending = name, cohort, nominal, limit, lending
        self.weight, self.holds, self.stays, self.other, self.grew = weight, holds, stays, other, False
        self.opened = holds

    def leaves(self) -> int:
        """Return the GPUs of its pods that are going."""
        return self.opened - self.stays

    def share(self, gpus: int) -> float:
        """Return its borrowed GPUs for its weight, had it so many. Exact: distinct fractions are distinct floats."""
        borrowed = gpus - self.nominal
        if borrowed <= 0:
            return 0.0
        return borrowed / self.weight if self.weight else inf

    def kept_back(self, gpus: int) -> int:
        """Return the GPUs that it does not lend though they are idle, had it so many."""
        return max(0, self.nominal - self.lending - gpus)

    def idle(self, gpus: int) -> int:
        """Return the GPUs that it lends or could lend, had it so many."""
        return min(self.lending, max(0, self.nominal - gpus))


@dataclass(frozen=True, slots=True)
class Victim:
    """A replica that may be told to go.

    Attributes:
        rank: Who goes first; no two are alike.
        number: Its node, by number; None when it is not one of the usable ones.
    """

    rank: tuple[float, int, bool, float, Key, str]
    account: Account
    ask: Ask
    replica: Replica
    number: int | None


@dataclass(frozen=True, slots=True)
class Hole:
    """A place that opens when the victims are gone."""

    number: int
    victims: tuple[Victim, ...]


Cost = tuple[bool, int, tuple[tuple[float, int, bool, float, Key, str], ...], int]
Floor = Callable[[Account], int]


class Borrowed:
    """Every replica that may be taken back."""

    def __init__(
        self, asks: Iterable[Ask], accounts: dict[str, Account], places: Places, going: set[tuple[str, str]]
    ) -> None:
        """Look at the replicas of tenants above nominal; `going` has namespace and name of pods that go already."""
        self._places = places
        self._by_account: dict[str, list[Victim]] = {}
        self._by_node: dict[int, list[Victim]] = {}
        self._unready: dict[Key, list[Victim]] = {}
        self._gone: set[tuple[str, str]] = set()
        self._guaranteed: dict[str, int] = {}
        self._heaps: dict[tuple[int, str], list[tuple[Cost, Hole]]] = {}
        self._stale: set[int] = set()
        for ask in asks:
            account = accounts[ask.tenant]
            if account.stays <= account.nominal:
                continue
            for replica in ask.replicas:
                if (ask.key.namespace, replica.pod) in going:
                    continue
                rank = (
                    -account.share(account.stays),
                    ask.priority,
                    replica.ready,
                    replica.in_flight,
                    ask.key,
                    replica.pod,
                )
                victim = Victim(rank, account, ask, replica, places.number_of.get(replica.node))
                self._by_account.setdefault(account.name, []).append(victim)
                if victim.number is not None:
                    self._by_node.setdefault(victim.number, []).append(victim)
                if not replica.ready:
                    self._unready.setdefault(ask.key, []).append(victim)
        for victims in (*self._by_account.values(), *self._by_node.values()):
            victims.sort(key=_rank)
        for name, victims in self._by_account.items():
            self._guaranteed[name] = _filled(accounts[name], victims)

    def of(self, account: str) -> list[Victim]:
        """Return a tenant's replicas, those that go first at the front."""
        return self._by_account.get(account, [])

    def dig(self, gpus: int, *, cohort: str) -> Hole | None:
        """Return where so many GPUs of one node open for a tenant that wants its own back; None when nowhere."""
        for (size, of), known in self._heaps.items():
            for number in self._stale:
                if found := self._open(number, size, of, self._own_floor):
                    heappush(known, found)
        self._stale.clear()
        heap = self._heaps.get((gpus, cohort))
        if heap is None:
            heap = self._heaps[gpus, cohort] = [
                found for number in self._by_node if (found := self._open(number, gpus, cohort, self._own_floor))
            ]
            heapify(heap)
        while heap:
            cost, hole = heappop(heap)
            found = self._open(hole.number, gpus, cohort, self._own_floor)
            # On all other nodes a hole only becomes dearer while others are dug: the first as it was is the least.
            if found is not None and found[0] == cost:
                return found[1]
            if found is not None:
                heappush(heap, found)
        return None

    def dig_fairly(self, gpus: int, *, cohort: str, share: float) -> Hole | None:
        """Return where GPUs open for a borrower that would then have `share` for its weight.

        Source:
            Kueue, KEP-1714, rule S2-a, and stricter: the other still has more for its weight after it gave.
        """

        def floor(account: Account) -> int:
            if account.cohort != cohort or account.grew:
                return account.stays
            more = int(account.nominal + share * account.weight) + 1 if account.weight else 0
            return max(self._guaranteed[account.name], more)

        found = [
            hole
            for number in self._by_node
            if (hole := self._open(number, gpus, cohort, floor)) is not None and not hole[0][0]
        ]
        return min(found, key=_cost)[1] if found else None

    def take(self, victims: Iterable[Victim]) -> None:
        """Take the victims away: they drain where they run."""
        touched: set[int] = set()
        lighter: set[Key] = set()
        for victim in victims:
            self._gone.add((victim.ask.key.namespace, victim.replica.pod))
            victim.account.stays -= victim.ask.gpus
            if victim.number is not None:
                self._places.drain(victim.replica.node, victim.ask.gpus)
                touched.add(victim.number)
            if not victim.replica.ready:
                lighter.add(victim.ask.key)
        # Their nodes may become the cheaper ones, and those where a victim takes fewer others along.
        self._stale |= touched | {
            victim.number
            for victims in (self._by_node.values() if lighter else ())
            for victim in victims
            if victim.ask.key in lighter and victim.number is not None
        }

    def _own_floor(self, account: Account) -> int:
        return self._guaranteed[account.name]

    def _open(self, number: int, gpus: int, cohort: str, floor: Floor) -> tuple[Cost, Hole] | None:
        """Return what the place costs on one node: the fewest replicas there, then the first by rank."""
        need = gpus - self._places.free[number] - self._places.draining[number]
        here = [victim for victim in self._by_node[number] if not self._is_gone(victim)]
        ours = [victim for victim in here if victim.account.cohort == cohort or not victim.account.weight]
        for foreign, candidates in ((False, ours), (True, here)):
            if foreign and len(ours) == len(here):
                break
            sizes = sorted((victim.ask.gpus for victim in candidates), reverse=True)
            if sum(sizes) < need:
                continue
            for count in range(1, len(candidates) + 1):
                if sum(sizes[:count]) >= need:
                    chosen = self._choose(candidates, 0, count, need, {}, frozenset(), floor)
                    if chosen is not None:
                        victims = tuple(sorted(chosen, key=_rank))
                        ranks = tuple(victim.rank for victim in victims)
                        return (foreign, len(victims), ranks, number), Hole(number, victims)
        return None

    def _choose(
        self,
        candidates: list[Victim],
        start: int,
        count: int,
        need: int,
        lost: dict[str, int],
        taken_along: frozenset[Key],
        floor: Floor,
    ) -> list[Victim] | None:
        """Return the first `count` candidates by rank that free what is needed and that their tenants can lose."""
        if count == 0:
            return [] if need <= 0 else None
        if sum(sorted((one.ask.gpus for one in candidates[start:]), reverse=True)[:count]) < need:
            return None
        for index in range(start, len(candidates) - count + 1):
            victim = candidates[index]
            along = [] if victim.ask.key in taken_along else self._along(victim)
            name, size = victim.account.name, victim.ask.gpus * (1 + len(along))
            if victim.account.stays - lost.get(name, 0) - size < floor(victim.account):
                continue
            rest = self._choose(
                candidates,
                index + 1,
                count - 1,
                need - victim.ask.gpus,
                {**lost, name: lost.get(name, 0) + size},
                taken_along | {victim.ask.key} if victim.replica.ready else taken_along,
                floor,
            )
            if rest is not None:
                return [victim, *along, *rest]
        return None

    def _along(self, victim: Victim) -> list[Victim]:
        """Return what goes before it whatever is asked: replicas of its deployment elsewhere that are not ready."""
        if not victim.replica.ready:
            return []
        return [
            one
            for one in self._unready.get(victim.ask.key, ())
            if not self._is_gone(one) and one.number != victim.number
        ]

    def _is_gone(self, victim: Victim) -> bool:
        return (victim.ask.key.namespace, victim.replica.pod) in self._gone


def _filled(account: Account, victims: list[Victim]) -> int:
    """Return the most GPUs that its replicas fill within nominal as wholes, the largest first."""
    filled = account.other
    for size in sorted((victim.ask.gpus for victim in victims), reverse=True):
        if filled + size <= account.nominal:
            filled += size
    return filled


def _rank(victim: Victim) -> tuple[float, int, bool, float, Key, str]:
    return victim.rank


def _cost(found: tuple[Cost, Hole]) -> Cost:
    return found[0]
