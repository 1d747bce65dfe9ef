"""The sharing of GPUs among tenants as docs/design/0003 reads, one replica at a time, everything looked at anew.

It is what decide/shares.py is tested against and timed beside. Slow on purpose: no state but lists and dictionaries,
exact fractions, every combination of victims on every node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

from modelfleet.api.meta import Key
from modelfleet.decide.allocate import Ask, Replica
from modelfleet.decide.shares import Leaving
from modelfleet.decide.snapshot import Node, Quota, Tenant

Victim = tuple[Any, Ask, Replica]
INFINITE = Fraction(10**18)


@dataclass(frozen=True)
class Outcome:
    """Replicas by deployment, and the pods that are told to go."""

    granted: dict[Key, int]
    told: set[tuple[Key, str]]


def share_obviously(
    asks: Iterable[Ask],
    nodes: Mapping[str, tuple[Node, ...]],
    tenants: Iterable[Tenant],
    *,
    leaving: Iterable[Leaving] = (),
    unbound_may_borrow: bool = True,
) -> Outcome:
    """Share every class by itself."""
    asks, tenants, leaving = list(asks), list(tenants), list(leaving)
    outcome = Outcome({}, set())
    for accelerator in {ask.accelerator for ask in asks}:
        one = _Sharing(
            [ask for ask in asks if ask.accelerator == accelerator],
            nodes.get(accelerator, ()),
            tenants,
            accelerator,
            [each for each in leaving if each.accelerator == accelerator],
            unbound_may_borrow,
        )
        one.run()
        outcome.granted.update(one.granted)
        outcome.told.update(one.told | one.preempted)
    return outcome


class _Sharing:
    def __init__(
        self,
        asks: list[Ask],
        nodes: Iterable[Node],
        tenants: list[Tenant],
        accelerator: str,
        leaving: list[Leaving],
        unbound_may_borrow: bool,
    ) -> None:
        self.asks = asks
        self.free = {node.name: node.free_gpus for node in nodes}
        self.draining = {node.name: node.draining_gpus for node in nodes}
        self.granted = {ask.key: min(ask.held, ask.asked) for ask in asks}
        self.told: set[tuple[Key, str]] = set()
        self.gives: set[str] = set()
        self.lent: set[str] = set()
        self.waiting: set[Key] = set()
        self.awaited: Counter[Key] = Counter()
        self.homeless: Counter[Key] = Counter()
        self.preempted: set[tuple[Key, str]] = set()
        self.going: set[tuple[Key, str]] = set()
        self.quota = {tenant.name: tenant.quotas.get(accelerator, Quota(0, 0, 0)) for tenant in tenants}
        self.cohort = {tenant.name: tenant.cohort for tenant in tenants} | {"": ""}
        self.quota[""] = Quota(0 if tenants else 10**15, None if unbound_may_borrow or not tenants else 0, None, 0)
        self.holds: dict[str, int] = {}
        self.stays: dict[str, int] = {}
        self.other: dict[str, int] = {}
        self.opened: dict[str, int] = {}
        used = {tenant.name: tenant.used_gpus.get(accelerator, 0) for tenant in tenants} | {"": 0}
        for name in self.quota:
            held = sum(ask.held * ask.gpus for ask in asks if ask.tenant == name)
            on_nodes = sum(each.gpus for each in leaving if each.tenant == name and each.node)
            waits = sum(each.gpus for each in leaving if each.tenant == name and not each.node and name)
            going = on_nodes + waits
            self.holds[name] = max(used[name], held + on_nodes) + waits
            self.stays[name] = self.holds[name] - going
            self.other[name] = self.holds[name] - going - held
            self.opened[name] = self.holds[name]
        for each in leaving:
            if each.told and each.node in self.draining:
                self.draining[each.node] += each.gpus
        seen = {ask.tenant for ask in asks} | {each.tenant for each in leaving}
        present = {tenant.name for tenant in tenants if accelerator in tenant.quotas or tenant.name in seen}
        if "" in seen:
            present.add("")
        self.present = present
        self.many_cohorts = len({self.cohort[name] for name in present}) > 1
        nominal = sum(self.quota[name].nominal_gpus for name in present)
        self.surplus = max(0, sum(self.free.values()) + sum(self.holds[name] for name in present) - nominal)
        for ask in asks:
            for replica in ask.replicas[: max(0, min(ask.held, ask.assured) - ask.asked)]:
                self.going.add((ask.key, replica.pod))
                self.stays[ask.tenant] -= ask.gpus
                if replica.node in self.draining:
                    self.draining[replica.node] += ask.gpus
        self.victims = self.list_victims()

    # --- quotas ---------------------------------------------------------------------------------

    def nominal(self, name: str) -> int:
        return self.quota[name].nominal_gpus

    def limit(self, name: str) -> int:
        borrowing = self.quota[name].borrowing_limit_gpus
        return 10**15 if borrowing is None else self.nominal(name) + borrowing

    def lending(self, name: str) -> int:
        lending = self.quota[name].lending_limit_gpus
        return self.nominal(name) if lending is None else lending

    def share(self, name: str, gpus: int) -> Fraction:
        borrowed = max(0, gpus - self.nominal(name))
        if name == "":
            return INFINITE if borrowed else Fraction(0)
        return Fraction(borrowed, self.quota[name].weight)

    def kept_back(self, name: str, gpus: int) -> int:
        return max(0, self.nominal(name) - self.lending(name) - gpus)

    def lendable(self, name: str, gpus: int, freed: int = 0) -> bool:
        after = {each: self.holds[each] + (gpus if each == name else 0) for each in self.present}
        kept = sum(self.kept_back(each, after[each]) for each in self.present)
        keeps = any(self.kept_back(each, self.holds[each]) for each in self.present)
        if keeps and sum(self.free.values()) + freed - gpus < kept:
            return False
        if not self.many_cohorts:
            return True
        beyond = 0
        for cohort in {self.cohort[each] for each in self.present}:
            mine = [each for each in self.present if self.cohort[each] == cohort]
            idle = sum(min(self.lending(each), max(0, self.nominal(each) - after[each])) for each in mine)
            lent = sum(max(0, after[each] - self.nominal(each)) for each in mine)
            beyond += max(0, lent - (freed if cohort == self.cohort[name] else 0) - idle)
        return beyond <= self.surplus

    # --- places ---------------------------------------------------------------------------------

    def take(self, gpus: int, free: dict[str, int] | None = None) -> bool:
        free = self.free if free is None else free
        fits = [(-have, name) for name, have in free.items() if have >= gpus]
        if not fits:
            return False
        free[min(fits)[1]] -= gpus
        return True

    def all_fit(self, wanted: list[Ask]) -> bool:
        free = dict(self.free)
        if not all(self.take(ask.gpus, free) for ask in sorted(wanted, key=lambda ask: ask.gpus)):
            return False
        self.free = free
        return True

    def in_turn(self, name: str, fits: Callable[[int], bool], planned: dict[Key, int]) -> Ask | None:
        """Return whose replica is next in a tenant."""
        mine = [
            ask
            for ask in self.asks
            if ask.tenant == name and planned[ask.key] < ask.asked and fits(self.holds[name] + ask.gpus)
        ]
        return min(
            mine,
            key=lambda ask: (planned[ask.key] >= ask.assured, -ask.priority, planned[ask.key] - ask.held, ask.key),
            default=None,
        )

    # --- the steps ------------------------------------------------------------------------------

    def run(self) -> None:
        for name in sorted(self.present):
            while self.stays[name] > self.limit(name):
                self.gives.add(name)
                mine = [victim for victim in self.left() if victim[1].tenant == name]
                if not mine:
                    break
                self.tell(mine[:1])
        self.own()
        unlendable = self.lend()
        self.preempt()
        self.even_out(unlendable)

    def own(self) -> None:
        planned = dict(self.granted)
        wants: list[tuple[Any, Ask]] = []
        for name in self.present:
            turn = 0
            while (ask := self.in_turn(name, lambda gpus, n=name: gpus <= self.nominal(n), planned)) is not None:  # type: ignore[misc]
                later = planned[ask.key] >= ask.assured
                planned[ask.key] += 1
                self.holds[name] += ask.gpus
                wants.append(((later, Fraction(self.holds[name], self.nominal(name)), name, turn), ask))
                turn += 1
        if self.all_fit([ask for _, ask in wants]):
            self.granted = planned
            return
        unplaced = []
        for order, ask in sorted(wants, key=lambda want: want[0]):
            placed = self.take(ask.gpus)
            self.granted[ask.key] += placed or not order[0]
            if not placed:
                unplaced.append((order, ask))
        for order, ask in unplaced:
            if self.wait(ask) or self.dig(ask):
                self.awaited[ask.key] += order[0]
            elif order[0]:
                self.holds[ask.tenant] -= ask.gpus
            else:
                self.homeless[ask.key] += 1

    def wait(self, ask: Ask) -> bool:
        opens = [
            (self.free[name] + draining, name)
            for name, draining in self.draining.items()
            if draining and self.free[name] + draining >= ask.gpus
        ]
        if opens:
            self.set_aside(min(opens)[1], ask.gpus)
            self.waiting.add(ask.key)
        return bool(opens)

    def set_aside(self, node: str, gpus: int) -> None:
        drained = min(self.draining[node], gpus)
        self.draining[node] -= drained
        self.free[node] -= gpus - drained

    def may_borrow(self, ask: Ask, gpus: int) -> bool:
        if gpus > self.limit(ask.tenant):
            return False
        return gpus <= self.nominal(ask.tenant) or (ask.may_borrow and ask.tenant not in self.gives)

    def lend(self) -> set[Key]:
        if not self.many_cohorts and not any(self.kept_back(name, self.holds[name]) for name in self.present):
            before, planned, wanted = dict(self.holds), dict(self.granted), []
            for name in self.present:
                while (ask := self.borrower(name, planned, set())) is not None:
                    planned[ask.key] += 1
                    self.holds[name] += ask.gpus
                    wanted.append(ask)
            if self.all_fit(wanted):
                self.granted = planned
                return set()
            self.holds = before
        out: set[Key] = set()
        unlendable: set[Key] = set()
        while any(self.free.values()):
            heads = []
            for name in self.present:
                ask = self.borrower(name, self.granted, out)
                if ask is not None:
                    later = self.granted[ask.key] >= ask.assured
                    heads.append((later, self.share(name, self.holds[name]), name, ask))
            if not heads:
                break
            _, _, name, ask = min(heads, key=lambda head: head[:3])
            if not self.lendable(name, ask.gpus):
                unlendable.add(ask.key)
                out.add(ask.key)
            elif self.take(ask.gpus):
                self.granted[ask.key] += 1
                self.holds[name] += ask.gpus
                self.lent.add(name)
            else:
                out.add(ask.key)
        return unlendable

    def borrower(self, name: str, planned: dict[Key, int], out: set[Key]) -> Ask | None:
        mine = [
            ask
            for ask in self.asks
            if ask.tenant == name
            and planned[ask.key] < ask.asked
            and ask.key not in out
            and self.may_borrow(ask, self.holds[name] + ask.gpus)
        ]
        return min(
            mine,
            key=lambda ask: (planned[ask.key] >= ask.assured, -ask.priority, planned[ask.key] - ask.held, ask.key),
            default=None,
        )

    def even_out(self, unlendable: set[Key]) -> None:
        most = max(
            (self.share(name, self.stays[name]) for name in self.present if name not in self.lent), default=Fraction(0)
        )
        short = [
            (self.share(ask.tenant, self.holds[ask.tenant] + ask.gpus), ask.tenant, ask.key, ask)
            for ask in self.asks
            if self.granted[ask.key] < ask.asked
            and ask.key not in unlendable | self.waiting | {key for key, _ in self.told | self.preempted}
            and self.may_borrow(ask, self.holds[ask.tenant] + ask.gpus)
        ]
        for share, _, _, ask in sorted(short, key=lambda each: each[:3]):
            if share < most and not self.wait(ask) and not self.preempted and self.dig(ask, share=share):
                return

    # --- priorities of one tenant ---------------------------------------------------------------

    def missing(self, ask: Ask) -> int:
        return ask.asked - self.granted[ask.key] - self.awaited[ask.key] + self.homeless[ask.key]

    def preempt(self) -> None:
        growing = [ask for ask in self.asks if ask.asked > ask.held and ask.tenant not in self.gives]
        for ask in sorted(growing, key=lambda ask: (ask.tenant, -ask.priority, ask.key)):
            while self.missing(ask) and self.preempt_one(ask):
                pass

    def preempt_one(self, ask: Ask) -> bool:
        if not any(one.replicas for one in self.asks if one.tenant == ask.tenant and one.priority < ask.priority):
            return False
        more = 0 if self.homeless[ask.key] else ask.gpus
        leaves = self.opened[ask.tenant] - self.stays[ask.tenant]
        if not (self.may_swap(ask, more, leaves) and self.wait(ask)):
            holes = [
                (max(v[1].priority for v in hole), len(hole), [v[0][1:] for v in hole], node, hole)
                for node in self.free
                if (hole := self.lower(node, ask))
            ]
            if not holes:
                return False
            *_, node, hole = min(holes, key=lambda one: one[:4])
            freed = sum(victim[1].gpus for victim in hole)
            after = self.holds[ask.tenant] + more - leaves - freed
            nominal = self.nominal(ask.tenant)
            if after > nominal and any(after - more + victim[1].gpus <= nominal for victim in hole):
                return False
            if not self.may_swap(ask, more, leaves + freed):
                return False
            for victim in hole:
                self.preempted.add((victim[1].key, victim[2].pod))
                self.stays[ask.tenant] -= victim[1].gpus
                if victim[2].node in self.draining:
                    self.draining[victim[2].node] += victim[1].gpus
            for key in {victim[1].key for victim in hole}:
                mine = next(one for one in self.asks if one.key == key)
                gone = sum(1 for each, _ in self.preempted if each == key)
                self.granted[key] = min(mine.held, mine.assured, mine.asked) - gone
            self.set_aside(node, ask.gpus)
            self.waiting.add(ask.key)
        if more:
            self.awaited[ask.key] += 1
        else:
            self.homeless[ask.key] -= 1
        self.holds[ask.tenant] += more
        return True

    def may_swap(self, ask: Ask, more: int, freed: int) -> bool:
        after = self.holds[ask.tenant] + more - freed
        if after <= self.nominal(ask.tenant):
            return True
        if after > self.limit(ask.tenant) or not ask.may_borrow:
            return False
        return self.lendable(ask.tenant, more, freed)

    def own_replicas(self, tenant: str) -> list[Victim]:
        found = [
            ((0, one.priority, r.ready, r.in_flight, one.key, r.pod), one, r)
            for one in self.asks
            if one.tenant == tenant
            for r in one.replicas
            if (one.key, r.pod) not in self.going | self.preempted
        ]
        return sorted(found, key=lambda victim: victim[0])

    def lower(self, node: str, ask: Ask) -> list[Victim]:
        """Return who of a lower priority gives a place on this node, the first that go first; nobody if none may."""
        mine = self.own_replicas(ask.tenant)
        need = ask.gpus - self.free[node] - self.draining[node]
        chosen: list[Victim] = []

        def with_unready(victims: list[Victim]) -> list[Victim]:
            ready = {victim[1].key for victim in victims if victim[2].ready}
            along = [v for v in mine if v[1].key in ready and not v[2].ready and v[2].node != node]
            return sorted([*victims, *along], key=lambda victim: victim[0])

        for victim in mine:
            if victim[2].node != node or victim[1].priority >= ask.priority or need <= 0:
                continue
            its = victim[1]
            left = min(its.held, its.assured, its.asked) - sum(1 for key, _ in self.preempted if key == its.key)
            lost = sum(1 for one in with_unready([*chosen, victim]) if one[1].key == victim[1].key)
            if left - lost >= victim[1].min_replicas:
                chosen.append(victim)
                need -= victim[1].gpus
        if need > 0:
            return []
        for victim in list(reversed(chosen))[1:]:
            if need + victim[1].gpus <= 0:
                need += victim[1].gpus
                chosen.remove(victim)
        return with_unready(chosen)

    # --- taking back ----------------------------------------------------------------------------

    def list_victims(self) -> list[Victim]:
        """List the replicas of tenants above nominal, those first that go first."""
        found = [
            (
                (-self.share(ask.tenant, self.stays[ask.tenant]), ask.priority, r.ready, r.in_flight, ask.key, r.pod),
                ask,
                r,
            )
            for ask in self.asks
            for r in ask.replicas
            if self.stays[ask.tenant] > self.nominal(ask.tenant) and (ask.key, r.pod) not in self.going
        ]
        return sorted(found, key=lambda victim: victim[0])

    def guaranteed(self, name: str) -> int:
        """Return the most GPUs that a tenant's replicas fill within nominal as wholes, the largest first."""
        filled = self.other[name]
        for size in sorted((ask.gpus for _, ask, _ in self.victims if ask.tenant == name), reverse=True):
            filled += size if filled + size <= self.nominal(name) else 0
        return filled

    def left(self) -> list[Victim]:
        return [victim for victim in self.victims if (victim[1].key, victim[2].pod) not in self.told]

    def tell(self, victims: Iterable[Victim]) -> None:
        for _, ask, replica in victims:
            self.told.add((ask.key, replica.pod))
            self.gives.add(ask.tenant)
            self.stays[ask.tenant] -= ask.gpus
            if replica.node in self.draining:
                self.draining[replica.node] += ask.gpus
            gone = sum(1 for key, _ in self.told if key == ask.key)
            self.granted[ask.key] = min(ask.held, ask.assured, ask.asked) - gone

    def dig(self, ask: Ask, *, share: Fraction | None = None) -> bool:
        """Tell the victims that cost least to go; `share` is None for a tenant that wants its own back."""
        found = []
        for node in self.free:
            for foreign in (False, True):
                hole = self.hole(node, ask, foreign, share)
                if hole is not None:
                    found.append((foreign, len(hole), [victim[0] for victim in hole], node, hole))
                    break
        if share is not None:
            found = [one for one in found if not one[0]]
        if not found:
            return False
        *_, node, hole = min(found, key=lambda one: one[:4])
        if share is not None and not self.lendable(ask.tenant, ask.gpus, sum(victim[1].gpus for victim in hole)):
            return False
        self.tell(hole)
        self.set_aside(node, ask.gpus)
        self.waiting.add(ask.key)
        return True

    def hole(self, node: str, ask: Ask, foreign: bool, share: Fraction | None) -> list[Victim] | None:
        need = ask.gpus - self.free[node] - self.draining[node]
        here = [victim for victim in self.left() if victim[2].node == node]
        if not foreign:
            here = [v for v in here if v[1].tenant == "" or self.cohort[v[1].tenant] == self.cohort[ask.tenant]]
        for count in range(1, len(here) + 1):
            for chosen in combinations(here, count):
                if sum(victim[1].gpus for victim in chosen) < need:
                    continue
                # A Deployment that shrinks gives up what is not ready first.
                along = [
                    victim
                    for victim in self.left()
                    if not victim[2].ready
                    and victim[2].node != node
                    and any(one[2].ready and one[1].key == victim[1].key for one in chosen)
                ]
                lost = sorted((*chosen, *along), key=lambda victim: victim[0])
                if self.can_lose(lost, ask, share):
                    return lost
        return None

    def can_lose(self, lost: list[Victim], ask: Ask, share: Fraction | None) -> bool:
        for name in {victim[1].tenant for victim in lost}:
            after = self.stays[name] - sum(victim[1].gpus for victim in lost if victim[1].tenant == name)
            if after < self.guaranteed(name):
                return False
            if share is not None:
                if self.cohort[name] != self.cohort[ask.tenant] or name in self.lent:
                    return False
                if name != "" and self.share(name, after) <= share:
                    return False
        return True
