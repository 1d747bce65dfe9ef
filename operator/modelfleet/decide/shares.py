"""Step 8 with tenants: who gets GPUs, who waits for them, and who gives them back (docs/design/0003).

Class by class, in this order:

1. a tenant over its limit gives up what is too much;
2. each tenant gets what it asks for within its nominal quota. What finds no free place waits for draining GPUs,
   and where those do not suffice, borrowed replicas are told to go (reclaim.py);
3. what is left is lent, one replica at a time, to the tenant whose borrowed GPUs are fewest for its weight;
4. within each tenant, a lower priority gives places to a higher one that finds none (preempt.py);
5. one borrower that has too much for its weight gives a place to one that has too little.

Within a tenant, replicas that were asked for before come first, then the higher priority, then one each in turn.
Without any Tenant all GPUs are one pool: everything is nominal of the namespaces without a tenant.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush, heapreplace
from operator import itemgetter
from typing import Final

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.decide.allocate import Ask
from modelfleet.decide.places import Places
from modelfleet.decide.preempt import LowerPriorities, Preempted
from modelfleet.decide.reclaim import Account, Borrowed, Victim
from modelfleet.decide.snapshot import Node, Quota, Tenant
from modelfleet.decide.value import value

UNLIMITED: Final = 1 << 60
CLOSED: Final = Quota(0, 0, 0)
"""Quota of a class that a tenant does not list."""
UNBOUND: Final = ""
"""Name of the account of all namespaces without a tenant."""
_TENANT_QUOTA: Final = Limit.TENANT_QUOTA
"""Looked up once: a member of an enumeration takes as long as three look-ups in a dictionary."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A replica that is going: it holds its GPUs until it is gone.

    Attributes:
        tenant: Who holds it.
        node: Where it is; empty while it waits for a node, and may still get one.
        seconds: Longest time until it is gone.
        told: Whether it was told and does not terminate yet, so that no node's draining GPUs count it.
    """

    key: Key
    tenant: str
    accelerator: str
    node: str
    gpus: int
    seconds: int
    told: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """GPUs that somebody gives back.

    Attributes:
        giver: The tenant's name, empty for namespaces without one; of the same tenant, the deployment.
        seconds: Longest time until they are free.
    """

    giver: str | Key
    gpus: int
    seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reclaim:
    """Replicas that one deployment gives up.

    Attributes:
        key: The deployment, and `tenant` whose it is.
        pods: The replicas to drain.
        gpus: GPUs of all of them.
        taker: The tenant that gets them; the tenant itself when it is over its own limit, or by priority.
        of_its_own: Whether the taker takes back its own, and does not merely share what is idle.
        preemptor: Its deployment of a higher priority that gets them.
    """

    key: Key
    tenant: str
    pods: tuple[str, ...]
    gpus: int
    taker: str
    of_its_own: bool
    preemptor: Key | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """Replicas of every ask, and why some are fewer than asked for.

    Attributes:
        granted: Replicas to ask for.
        limits: What keeps an ask from what it asked for, where that is not the lack of a free place.
        waits: Who gives back the GPUs that an ask waits for.
        reclaims: Who gives up which replicas, and for whom.
    """

    granted: Mapping[Key, int]
    limits: Mapping[Key, Limit] = field(default_factory=dict)
    waits: Mapping[Key, tuple[Wait, ...]] = field(default_factory=dict)
    reclaims: tuple[Reclaim, ...] = ()


def share_out(
    asks: Iterable[Ask],
    nodes: Mapping[str, tuple[Node, ...]],
    tenants: Iterable[Tenant],
    *,
    leaving: Iterable[Leaving] = (),
    unbound_may_borrow: bool = True,
) -> Allocation:
    """Share the GPUs of every class among the tenants.

    Args:
        asks: One a deployment, in any order, each with its tenant.
        nodes: Usable nodes by accelerator class. A class that is not there has none.
        tenants: Quotas and what is used.
        leaving: The operator's own replicas that terminate or were told to go.
        unbound_may_borrow: Whether asks without a tenant get what all tenants leave idle, or nothing.
    """
    by_class: dict[str, list[Ask]] = {}
    for ask in asks:
        by_class.setdefault(ask.accelerator, []).append(ask)
    going: dict[str, list[Leaving]] = {}
    for one in leaving:
        going.setdefault(one.accelerator, []).append(one)
    tenants = tuple(tenants)
    granted: dict[Key, int] = {}
    limits: dict[Key, Limit] = {}
    waits: dict[Key, tuple[Wait, ...]] = {}
    reclaims: list[Reclaim] = []
    for accelerator, mine in by_class.items():
        one_class = _Class(
            mine,
            Places(nodes.get(accelerator, ())),
            tenants,
            accelerator=accelerator,
            leaving=going.get(accelerator, ()),
            unbound_may_borrow=unbound_may_borrow,
            granted=granted,
        )
        one_class.share_out()
        limits |= one_class.limits
        waits |= {key: _by_giver(found) for key, found in one_class.waits.items()}
        reclaims += one_class.reclaims()
    return Allocation(
        granted=granted,
        limits=limits,
        waits=waits,
        reclaims=tuple(sorted(reclaims, key=lambda reclaim: (reclaim.key, reclaim.taker, reclaim.pods))),
    )


def _by_giver(waits: list[Wait]) -> tuple[Wait, ...]:
    gpus, seconds = Counter[str | Key](), dict[str | Key, int]()
    for wait in waits:
        gpus[wait.giver] += wait.gpus
        seconds[wait.giver] = max(wait.seconds, seconds.get(wait.giver, 0))
    return tuple(Wait(giver, gpus[giver], seconds[giver]) for giver in sorted(gpus, key=str))


Turn = tuple[bool, int, int, Key, Ask]
"""An ask's next replica among its tenant's: assured ones first, then the priority, then one each in turn."""
Borrower = tuple[str, Account, Ask, list[Turn] | None]
"""A tenant that would borrow, by name: its only ask, or the queue of several."""
Lead = tuple[bool, float]
"""Who borrows before whom: those that wait for an assured replica, then who has borrowed least for its weight."""
Want = tuple[bool, float, str, int, Ask]
"""One replica within nominal: assured ones first, then the least part of nominal in use; ties by name, then turn."""


@value
class _Going:
    """GPUs of a replica that is going, by node."""

    tenant: str
    key: Key
    gpus: int
    seconds: int


@value
class _Why:
    """For whom a replica goes."""

    taker: str
    of_its_own: bool
    preemptor: Key | None


_first = itemgetter(0)


class _Class:
    """The sharing of one accelerator class; `share_out` is called once."""

    def __init__(
        self,
        asks: list[Ask],
        places: Places,
        tenants: tuple[Tenant, ...],
        *,
        accelerator: str,
        leaving: Iterable[Leaving],
        unbound_may_borrow: bool,
        granted: dict[Key, int],
    ) -> None:
        self.granted = granted
        self.limits: dict[Key, Limit] = {}
        self.waits: dict[Key, list[Wait]] = {}
        self._asks = asks
        self._places = places
        self._growing: dict[str, list[Ask]] = {}
        self._shrinking: list[Ask] = []
        self._told: dict[str, list[_Going]] = {}
        self._taken: dict[Key, list[tuple[str, _Why]]] = {}
        self._waiting: Counter[Key] = Counter()
        """Replicas that are not granted and wait for a place that opens."""
        self._homeless: Counter[Key] = Counter()
        """Replicas that are granted whatever is free, and have neither."""
        self._preempted = False
        self._gives: set[str] = set()
        self._borrowed: Borrowed | None = None
        held: dict[str, int] = {}
        for ask in asks:
            name, has, asked = ask.tenant, ask.held, ask.asked
            held[name] = held.get(name, 0) + has * ask.gpus
            if asked > has:
                granted[ask.key] = has
                self._growing.setdefault(name, []).append(ask)
            else:
                granted[ask.key] = asked
                if asked < has:
                    self._shrinking.append(ask)
        going = self._note_leaving(leaving)
        self._accounts = self._open(tenants, accelerator, held, going, unbound_may_borrow=unbound_may_borrow)
        self._note_shrinking()

    # --- what is there --------------------------------------------------------------------------

    def _note_leaving(self, leaving: Iterable[Leaving]) -> Mapping[str, int]:
        going: Counter[str] = Counter()
        self._unplaced: Counter[str] = Counter()
        for one in leaving:
            if not one.node:
                self._unplaced[one.tenant] += one.gpus
                continue
            going[one.tenant] += one.gpus
            self._told.setdefault(one.node, []).append(_Going(one.tenant, one.key, one.gpus, one.seconds))
            if one.told:
                self._places.drain(one.node, one.gpus)
        return going

    def _open(
        self,
        tenants: tuple[Tenant, ...],
        accelerator: str,
        held: Mapping[str, int],
        going: Mapping[str, int],
        *,
        unbound_may_borrow: bool,
    ) -> dict[str, Account]:
        """Open the accounts, and sum up what the lending limits and the cohorts need to know."""
        accounts: dict[str, Account] = {}
        nominal_in_all = in_use = 0
        cohorts: set[str] = set()
        for tenant in tenants:
            name = tenant.name
            quota = tenant.quotas.get(accelerator)
            if quota is None:
                if name not in held and name not in going:
                    continue
                quota = CLOSED
            mine, leaves = held.get(name, 0), 0
            holds = tenant.used_gpus.get(accelerator, 0)
            if name in going:
                leaves = going[name]
            if holds < mine + leaves:  # noqa: PLR1730 - half the time of max(), 20,000 times
                holds = mine + leaves
            if name in self._unplaced:
                leaves += self._unplaced[name]
                holds += self._unplaced[name]
            nominal, borrowing, lending = quota.nominal_gpus, quota.borrowing_limit_gpus, quota.lending_limit_gpus
            accounts[name] = Account(
                name,
                tenant.cohort,
                nominal,
                UNLIMITED if borrowing is None else nominal + borrowing,
                nominal if lending is None else lending,
                quota.weight,
                holds,
                holds - leaves,
                holds - leaves - mine,
            )
            nominal_in_all += nominal
            in_use += holds
            if tenant.cohort not in cohorts:
                cohorts.add(tenant.cohort)
        if UNBOUND in held or UNBOUND in going:
            mine, leaves = held.get(UNBOUND, 0), going.get(UNBOUND, 0)
            limit = UNLIMITED if unbound_may_borrow or not tenants else 0
            nominal = 0 if tenants else UNLIMITED
            accounts[UNBOUND] = Account(UNBOUND, "", nominal, limit, nominal, 0, mine + leaves, mine, 0)
            in_use += mine + leaves
            cohorts.add("")
        self._many_cohorts = len(cohorts) > 1
        self._surplus = max(0, self._places.total_free + in_use - nominal_in_all)
        return accounts

    def _note_shrinking(self) -> None:
        """Let what a lower count gives up drain where it runs: it frees GPUs before anybody is asked for any."""
        for ask in self._shrinking:
            for replica in ask.replicas[: _shrinks(ask)]:
                self._accounts[ask.tenant].stays -= ask.gpus
                self._told.setdefault(replica.node, []).append(_Going(ask.tenant, ask.key, ask.gpus, ask.grace_seconds))
                self._places.drain(replica.node, ask.gpus)

    # --- the five steps -------------------------------------------------------------------------

    def share_out(self) -> None:
        """Take the five steps."""
        self._end_excess()
        self._give_own()
        self._lend()
        self._preempt()
        self._even_out()

    def _end_excess(self) -> None:
        """Let tenants over their limit give up the replicas of least priority, the idlest first."""
        over = [account for account in self._accounts.values() if account.stays > account.limit]
        for account in sorted(over, key=_name):
            self._gives.add(account.name)
            for victim in self._reclaimable().of(account.name):
                if account.stays <= account.limit:
                    break
                self._take_back((victim,), taker=account.name, of_its_own=True)

    def _give_own(self) -> None:
        """Grant what is asked for within nominal."""
        granted = self.granted
        sizes: dict[int, int] = {}
        for name, asks in self._growing.items():
            account = self._accounts[name]
            if account.holds >= account.nominal:
                continue
            for ask, more in _fill(asks, account, account.nominal, granted):
                account.holds += more * ask.gpus
                granted[ask.key] += more
                sizes[ask.gpus] = sizes.get(ask.gpus, 0) + more
        if not self._all_fit(sizes):
            self._place_own()

    def _all_fit(self, sizes: Mapping[int, int]) -> bool:
        """Take a place for each replica; leave all as it was when one finds none.

        The smallest first: nobody knows in which order the scheduler comes to them, and this leaves the least room.
        """
        if sum(size * count for size, count in sizes.items()) > self._places.total_free:
            return False
        kept = self._places.copy()
        for size in sorted(sizes):
            if self._places.take(size, sizes[size]) < sizes[size]:
                self._places.restore(kept)
                return False
        return True

    def _place_own(self) -> None:
        """Place replica by replica what does not fit as a whole; open places for the rest."""
        granted, places = self.granted, self._places
        wants: list[Want] = []
        for name, asks in self._growing.items():
            if name in self._gives:
                continue
            account = self._accounts[name]
            mine = [(ask, granted[ask.key] - ask.held) for ask in asks]
            holds = account.holds - sum([ask.gpus * more for ask, more in mine])
            for turn, (later, ask) in enumerate(_in_order(mine)):
                holds += ask.gpus
                wants.append((later, holds / account.nominal, name, turn, ask))
            for ask in asks:
                granted[ask.key] = ask.held
        wants.sort(key=_in_turn)
        unplaced = []
        for later, _, _, _, ask in wants:
            placed = places.total_free >= ask.gpus and places.take(ask.gpus)
            if placed or not later:
                granted[ask.key] += 1
            if not placed:
                unplaced.append((ask, later))
        hopeless = UNLIMITED
        for ask, later in unplaced:
            if ask.gpus < hopeless and not self._wait_for_own(ask):
                # What frees a place only shrinks: where this one finds none, no larger one will.
                hopeless = ask.gpus
            if ask.gpus < hopeless:
                self._waiting[ask.key] += later
            elif later:
                # It will have no place: what it would have had of nominal is for the tenant's other replicas.
                self._accounts[ask.tenant].holds -= ask.gpus
            else:
                self._homeless[ask.key] += 1

    def _wait_for_own(self, ask: Ask) -> bool:
        """Set a place aside that opens, or open one; return whether there is one."""
        number = self._places.draining_place(ask.gpus)
        if number is None:
            hole = self._reclaimable().dig(ask.gpus, cohort=self._accounts[ask.tenant].cohort)
            if hole is None:
                return False
            self._take_back(hole.victims, taker=ask.tenant, of_its_own=True)
            number = hole.number
        self._wait_at(number, ask)
        return True

    def _lend(self) -> None:
        """Lend what is left, one replica at a time, to the tenant whose borrowed GPUs are fewest for its weight."""
        self._sum_up()
        if not self._guarded and self._lend_all():
            return
        leads = self._borrowers()
        order = list(leads)
        heapify(order)
        while order and self._places.total_free:
            lead = heappop(order)
            for borrower in sorted(leads.pop(lead), key=_first):
                after = self._lend_to(borrower, lead)
                if after is not None:
                    if after in leads:
                        leads[after].append(borrower)
                    else:
                        leads[after] = [borrower]
                        heappush(order, after)

    def _borrowers(self) -> dict[Lead, list[Borrower]]:
        """Return who may borrow, by what they have for their weight: a few distinct fractions, each a queue."""
        granted, accounts = self.granted, self._accounts
        leads: dict[Lead, list[Borrower]] = {}
        for name, asks in self._growing.items():
            account, ask = accounts[name], asks[0]
            queue: list[Turn] | None = None
            have = granted[ask.key]
            if len(asks) > 1:
                queue = [_turn(ask, granted[ask.key]) for ask in asks if granted[ask.key] < ask.asked]
                heapify(queue)
                if not self._may_lead(account, queue):
                    continue
                later = queue[0][0]
            else:
                if have >= ask.asked or account.holds + ask.gpus > self._bound(account, ask):
                    continue
                later = have >= ask.assured
            lead = later, account.share(account.holds)
            if lead in leads:
                leads[lead].append((name, account, ask, queue))
            else:
                leads[lead] = [(name, account, ask, queue)]
        return leads

    def _lend_to(self, borrower: Borrower, lead: Lead) -> Lead | None:
        """Lend while nobody else is before the borrower; return where it stands then, None when it gets no more."""
        _, account, ask, queue = borrower
        if queue is None:
            bound = self._bound(account, ask)
            while self._lend_one(account, ask) and account.holds + ask.gpus <= bound:
                have = self.granted[ask.key]
                if have >= ask.asked:
                    return None
                after = have >= ask.assured, account.share(account.holds)
                if after != lead:
                    return after
            return None
        while queue:
            ask = queue[0][4]
            if self._lend_one(account, ask) and self.granted[ask.key] < ask.asked:
                heapreplace(queue, _turn(ask, self.granted[ask.key]))
            else:
                heappop(queue)
            if not self._may_lead(account, queue):
                return None
            after = queue[0][0], account.share(account.holds)
            if after != lead:
                return after
        return None

    def _lend_one(self, account: Account, ask: Ask) -> bool:
        """Lend a place for one replica; return whether there was one that the tenant may have."""
        gpus, places = ask.gpus, self._places
        if self._guarded and not self._lendable(account, gpus):
            if places.total_free:
                self.limits[ask.key] = Limit.LENDING_LIMIT
            return False
        if not places.take(gpus):
            return False
        self.granted[ask.key] += 1
        if self._guarded:
            self._note_lent(account, gpus)
        account.holds += gpus
        account.grew = True
        return True

    def _lend_all(self) -> bool:
        """Lend everybody what is asked for within the limits, if all of it fits; else leave all as it was."""
        sizes: dict[int, int] = {}
        left = self._places.total_free
        for name, asks in self._growing.items():
            account = self._accounts[name]
            for ask, more in _fill(asks, account, self._bound(account, asks[0]), self.granted):
                left -= more * ask.gpus
                sizes[ask.gpus] = sizes.get(ask.gpus, 0) + more
            if left < 0:
                return False
        if not self._all_fit(sizes):
            return False
        for name, asks in self._growing.items():
            account = self._accounts[name]
            for ask, more in _fill(asks, account, self._bound(account, asks[0]), self.granted):
                account.holds += more * ask.gpus
                self.granted[ask.key] += more
        return True

    def _bound(self, account: Account, ask: Ask) -> int:
        """Return the most GPUs that a tenant may hold."""
        return account.limit if ask.may_borrow and account.name not in self._gives else account.nominal

    def _may_lead(self, account: Account, queue: list[Turn]) -> bool:
        """Drop asks from the front that may have no more; return whether one is left."""
        while queue:
            ask = queue[0][4]
            gpus = account.holds + ask.gpus
            if gpus <= account.nominal:
                return True
            if gpus <= account.limit and ask.may_borrow and account.name not in self._gives:
                return True
            heappop(queue)
        return False

    def _preempt(self) -> None:
        """Let the lower priorities of each tenant give places to the higher ones that found none."""
        if len({ask.priority for ask in self._asks}) == 1:
            return
        for name, asks in sorted(self._growing.items()):
            mine = [ask for ask in self._asks if ask.tenant == name] if any(map(self._missing, asks)) else []
            lowest = min([ask.priority for ask in mine if ask.replicas], default=None)
            if lowest is None or name in self._gives:
                continue
            short = [ask for ask in asks if ask.priority > lowest and self._missing(ask)]
            lower = LowerPriorities(mine, self._places, self._going())
            for ask in sorted(short, key=_by_priority):
                while self._missing(ask) and self._preempt_for(ask, self._accounts[name], lower):
                    pass

    def _preempt_for(self, ask: Ask, account: Account, lower: LowerPriorities) -> bool:
        """Let one replica wait for a place that drains already, else for one that lower priorities give.

        Returns:
            Whether it waits. What goes counts for the tenant until it is gone: its limit holds for what is then.
        """
        more = 0 if self._homeless[ask.key] else ask.gpus
        number = self._places.draining_place(ask.gpus)
        if number is None or not self._may_have(account, ask, more, freed=account.leaves()):
            hole = lower.dig(ask.gpus, priority=ask.priority)
            if hole is None:
                return False
            number, victims = hole
            freed = sum([victim.ask.gpus for victim in victims])
            after = account.holds + more - account.leaves() - freed
            smallest = min([victim.ask.gpus for victim in victims])
            if after > account.nominal and after - more + smallest <= account.nominal:
                return False  # what is within nominal is not given for what would be borrowed
            if not self._may_have(account, ask, more, freed=account.leaves() + freed):
                return False
            lower.take(victims)
            account.stays -= freed
            self._preempted = True
            for victim in victims:
                self._note_taken(victim, Limit.PREEMPTED, taker=ask.tenant, preemptor=ask.key)
        if more:
            self._waiting[ask.key] += 1
        else:
            self._homeless[ask.key] -= 1
        account.holds += more
        self._wait_at(number, ask)
        return True

    def _may_have(self, account: Account, ask: Ask, more: int, *, freed: int) -> bool:
        """Return whether a tenant may hold so many more GPUs once those that go are gone."""
        after = account.holds + more - freed
        if after > self._bound(account, ask):
            return False
        return after <= account.nominal or not self._guarded or self._lendable(account, more, freed=freed)

    def _missing(self, ask: Ask) -> int:
        """Return the replicas that neither have a place nor wait for one that opens."""
        return ask.asked - self.granted[ask.key] - self._waiting[ask.key] + self._homeless[ask.key]

    def _even_out(self) -> None:
        """Let one borrower with too much for its weight give a place to one with too little; note who is limited."""
        most = max([account.share(account.stays) for account in self._accounts.values() if not account.grew], default=0)
        short: list[tuple[float, str, Key, Ask]] = []
        granted, limits = self.granted, self.limits
        for name, asks in self._growing.items():
            account = self._accounts[name]
            for ask in asks:
                if granted[ask.key] >= ask.asked or ask.key in limits:
                    continue
                gpus = account.holds + ask.gpus
                if gpus > account.limit:
                    limits[ask.key] = _TENANT_QUOTA
                elif gpus > account.nominal and (not ask.may_borrow or name in self._gives):
                    limits[ask.key] = Limit.RECLAIMED
                elif most and (share := account.share(gpus)) < most:
                    short.append((share, name, ask.key, ask))
        hopeless: dict[str, int] = {}
        for share, name, _, ask in sorted(short, key=_of_borrower):
            account = self._accounts[name]
            number = self._places.draining_place(ask.gpus)
            if number is not None:
                self._wait_at(number, ask)
            elif ask.gpus < hopeless.get(account.cohort, UNLIMITED) and not self._preempted:
                hole = self._reclaimable().dig_fairly(ask.gpus, cohort=account.cohort, share=share)
                if hole is None:
                    # Who comes later has more already, and may take less from the others.
                    hopeless[account.cohort] = ask.gpus
                elif self._lendable(account, ask.gpus, freed=sum(victim.ask.gpus for victim in hole.victims)):
                    self._take_back(hole.victims, taker=name, of_its_own=False)
                    self._wait_at(hole.number, ask)
                    return

    # --- lending limits and cohorts -------------------------------------------------------------

    def _sum_up(self) -> None:
        accounts = self._accounts.values()
        self._kept_back = sum(
            [account.kept_back(account.holds) for account in accounts if account.lending != account.nominal]
        )
        self._guarded = bool(self._kept_back) or self._many_cohorts
        self._idle: Counter[str] = Counter()
        self._lent: Counter[str] = Counter()
        if self._many_cohorts:
            for account in accounts:
                self._idle[account.cohort] += account.idle(account.holds)
                self._lent[account.cohort] += max(0, account.holds - account.nominal)

    def _lendable(self, account: Account, gpus: int, *, freed: int = 0) -> bool:
        """Return whether a tenant may have so many more: of what its cohort leaves idle, or what is nobody's."""
        after = account.holds + gpus
        if self._kept_back:
            kept = self._kept_back + account.kept_back(after) - account.kept_back(account.holds)
            if self._places.total_free + freed - gpus < kept:
                return False
        if not self._many_cohorts:
            return True
        beyond = {cohort: max(0, self._lent[cohort] - self._idle[cohort]) for cohort in self._idle}
        idle = self._idle[account.cohort] - account.idle(account.holds) + account.idle(after)
        lent = self._lent[account.cohort] - freed
        lent += max(0, after - account.nominal) - max(0, account.holds - account.nominal)
        beyond[account.cohort] = max(0, lent - idle)
        return sum(beyond.values()) <= self._surplus

    def _note_lent(self, account: Account, gpus: int) -> None:
        """Note what so many GPUs more for a tenant leave to be lent."""
        after = account.holds + gpus
        self._kept_back += account.kept_back(after) - account.kept_back(account.holds)
        self._idle[account.cohort] += account.idle(after) - account.idle(account.holds)
        self._lent[account.cohort] += max(0, after - account.nominal) - max(0, account.holds - account.nominal)

    # --- taking back ----------------------------------------------------------------------------

    def _reclaimable(self) -> Borrowed:
        if self._borrowed is None:
            self._borrowed = Borrowed(self._asks, self._accounts, self._places, self._going())
        return self._borrowed

    def _going(self) -> set[tuple[str, str]]:
        """Return namespace and name of the pods that a lower count gives up."""
        return {
            (ask.key.namespace, replica.pod) for ask in self._shrinking for replica in ask.replicas[: _shrinks(ask)]
        }

    def _take_back(self, victims: tuple[Victim, ...], *, taker: str, of_its_own: bool) -> None:
        self._reclaimable().take(victims)
        for victim in victims:
            self._gives.add(victim.ask.tenant)
            limit = Limit.TENANT_QUOTA if taker == victim.ask.tenant else Limit.RECLAIMED
            self._note_taken(victim, limit, taker=taker, of_its_own=of_its_own)

    def _note_taken(
        self,
        victim: Victim | Preempted,
        limit: Limit,
        *,
        taker: str,
        of_its_own: bool = False,
        preemptor: Key | None = None,
    ) -> None:
        ask = victim.ask
        taken = self._taken.setdefault(ask.key, [])
        taken.append((victim.replica.pod, _Why(taker, of_its_own, preemptor)))
        self.granted[ask.key] = min(ask.held, ask.assured, ask.asked) - len(taken)
        self.limits[ask.key] = limit
        self._told.setdefault(victim.replica.node, []).append(_Going(ask.tenant, ask.key, ask.gpus, ask.grace_seconds))

    def _wait_at(self, number: int, ask: Ask) -> None:
        """Set the place aside, and note who gives it back."""
        self.limits[ask.key] = Limit.RECLAIM
        drained = self._places.wait_at(number, ask.gpus)
        told, waits = self._told.get(self._places.nodes[number].name, []), self.waits.setdefault(ask.key, [])
        # Names who gives, whatever the order of the asks.
        told.sort(key=lambda going: (going.tenant, going.key, going.gpus, going.seconds), reverse=True)
        while drained > 0 and told:
            going = told.pop()
            gpus = min(drained, going.gpus)
            waits.append(Wait(going.key if going.tenant == ask.tenant else going.tenant, gpus, going.seconds))
            if going.gpus > gpus:
                told.append(replace(going, gpus=going.gpus - gpus))
            drained -= gpus

    def reclaims(self) -> Iterator[Reclaim]:
        """Yield what each deployment gives up, and for whom."""
        asks = {ask.key: ask for ask in self._asks if ask.key in self._taken}
        for key, taken in self._taken.items():
            for why in sorted({why for _, why in taken}, key=str):
                pods = sorted(pod for pod, its in taken if its == why)
                yield Reclaim(
                    key=key,
                    tenant=asks[key].tenant,
                    pods=tuple(pods),
                    gpus=len(pods) * asks[key].gpus,
                    taker=why.taker,
                    of_its_own=why.of_its_own,
                    preemptor=why.preemptor,
                )


def _fill(asks: list[Ask], account: Account, bound: int, granted: Mapping[Key, int]) -> Sequence[tuple[Ask, int]]:
    """Fill a tenant up to a bound with its asks in their order; return how many replicas more of each."""
    if len(asks) == 1:
        [ask] = asks
        more = min((bound - account.holds) // ask.gpus, ask.asked - granted[ask.key])
        return ((ask, more),) if more > 0 else ()
    holds = account.holds
    whole = [(ask, ask.asked - granted[ask.key]) for ask in asks if granted[ask.key] < ask.asked]
    if holds + sum([more * ask.gpus for ask, more in whole]) <= bound:
        return whole
    queue = [_turn(ask, granted[ask.key]) for ask, _ in whole]
    heapify(queue)
    more_of: dict[Key, tuple[Ask, int]] = {}
    while queue:
        _, _, turn, key, ask = heappop(queue)
        if holds + ask.gpus > bound:
            # No further replica of it will fit: the tenant only fills.
            continue
        holds += ask.gpus
        more_of[key] = ask, more_of.get(key, (ask, 0))[1] + 1
        if ask.held + turn + 1 < ask.asked:
            heappush(queue, _turn(ask, ask.held + turn + 1))
    return tuple(more_of.values())


def _turn(ask: Ask, replicas: int) -> Turn:
    """Return the turn of an ask that has so many replicas."""
    return replicas >= ask.assured, -ask.priority, replicas - ask.held, ask.key, ask


def _in_order(mine: list[tuple[Ask, int]]) -> list[tuple[bool, Ask]]:
    """Return one tenant's replicas one by one in their order, each with whether it was not asked for before."""
    if len(mine) == 1:
        [(ask, more)] = mine
        return [(ask.held + turn >= ask.assured, ask) for turn in range(more)]
    turns = [_turn(ask, ask.held + turn) for ask, more in mine for turn in range(more)]
    return [(later, ask) for later, _, _, _, ask in sorted(turns, key=_before_others)]


def _before_others(turn: Turn) -> tuple[bool, int, int, Key]:
    return turn[:4]


def _shrinks(ask: Ask) -> int:
    """Return how many of its replicas go by themselves: pods beyond what was asked for belong to a roll-out."""
    return max(0, min(ask.held, ask.assured) - ask.asked)


def _in_turn(want: Want) -> tuple[bool, float, str, int]:
    return want[:4]


def _of_borrower(short: tuple[float, str, Key, Ask]) -> tuple[float, str, Key]:
    return short[:3]


def _by_priority(ask: Ask) -> tuple[int, Key]:
    return -ask.priority, ask.key


def _name(account: Account) -> str:
    return account.name
