"""What holds however GPUs are shared among tenants, against an implementation that is slow and obvious."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from random import Random
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.obvious_allocation import share_obviously
from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.decide.allocate import Ask, Replica
from modelfleet.decide.shares import Allocation, Leaving, share_out
from modelfleet.decide.snapshot import Node, Quota, Tenant

PROPERTIES = settings(settings.get_profile("properties"), max_examples=100)
CLASS = "h100"


class World(NamedTuple):
    """One class: asks with their replicas on nodes, the nodes, and the tenants."""

    asks: list[Ask]
    nodes: tuple[Node, ...]
    tenants: tuple[Tenant, ...]
    leaving: tuple[Leaving, ...] = ()

    def share(self) -> Allocation:
        return share_out(self.asks, {CLASS: self.nodes}, self.tenants, leaving=self.leaving)


def world(random: Random, *, sizes: tuple[int, ...] = (1, 2, 4, 8), plain: bool = False) -> World:
    """Make a world that a scheduler could have made: replicas are on nodes, and free is what they leave."""
    nodes_in_all = random.randint(1, 3)
    free = {f"n{number}": 8 for number in range(random.randint(0, nodes_in_all))}
    if random.random() < 0.2:
        free["small"] = 4
    total = dict(free)
    draining = dict.fromkeys(free, 0)
    names = [f"t{number}" for number in range(random.randint(1, 4))]
    used = dict.fromkeys(names, 0)
    asks, leaving = [], []
    for number in range(random.randint(1, 6)):
        tenant = random.choice(names) if plain else random.choice((*names, *names, ""))
        gpus = random.choice(sizes)
        key = Key(tenant or "free", f"m{number}")
        replicas = []
        for index in range(random.randint(0, 8 if gpus == 1 else 3)):
            fits = [node for node, have in free.items() if have >= gpus]
            if not fits:
                break
            node = random.choice(fits)
            free[node] -= gpus
            if tenant:
                used[tenant] += gpus
            if not plain and random.random() < 0.08:
                told = random.random() < 0.5
                draining[node] += 0 if told else gpus
                leaving.append(Leaving(key, tenant, CLASS, node, gpus, 30, told=told))
                continue
            ready = plain or random.random() < 0.85
            replicas.append(Replica(f"{key.name}-{index}", node, ready, float(random.randint(0, 3))))
        held = len(replicas)
        asked = max(0, held + random.choice((0, 0, 1, 2, 5, -1)))
        asks.append(
            Ask(
                key=key,
                accelerator=CLASS,
                gpus=gpus,
                priority=random.choice((0, 0, 5)),
                held=held,
                assured=held if plain else held + random.choice((0, 0, 0, 1)),
                asked=asked,
                tenant=tenant,
                replicas=tuple(sorted(replicas, key=lambda r: (r.ready, r.in_flight, r.pod))),
                grace_seconds=30,
                min_replicas=random.choice((0, 0, 1, 2)),
            )
        )
    for node, have in list(free.items()):
        # Somebody else's pod, in a tenant's namespace or in none.
        if random.random() < 0.15 and have:
            free[node] -= 1
            owner = random.choice((*names, ""))
            if owner:
                used[owner] += 1
    tenants = tuple(
        Tenant(
            name=name,
            namespaces=(name,),
            cohort="" if plain else random.choice(("", "", "", "x")),
            quotas={
                CLASS: Quota(
                    (nominal := random.randint(0, 12)),
                    random.choice((None, None, 0, 2, 8)),
                    None if plain or random.random() < 0.6 else random.randint(0, nominal),
                    random.choice((1, 1, 2, 3)),
                )
            }
            if random.random() < 0.95
            else {},
            used_gpus={CLASS: used[name]},
        )
        for name in names
    )
    nodes = tuple(Node(name, have, total[name], draining[name]) for name, have in free.items())
    return World(asks, nodes, tenants, tuple(leaving))


def _one_pool(made: World) -> World:
    """Return the same without tenants."""
    asks = [replace(ask, tenant="") for ask in made.asks]
    return World(asks, made.nodes, (), tuple(replace(one, tenant="") for one in made.leaving))


def test_sharing_equals_the_obvious_one() -> None:
    """1,500 random worlds are granted, and lose, what the rule says when it is read literally, in any order."""
    random = Random("tenants")
    reclaimed = 0
    for number in range(1_500):
        made = world(random)
        if random.random() < 0.2:
            made = _one_pool(made)
        borrow = random.random() < 0.9
        expected = share_obviously(
            made.asks, {CLASS: made.nodes}, made.tenants, leaving=made.leaving, unbound_may_borrow=borrow
        )
        asks, nodes, tenants = list(made.asks), list(made.nodes), list(made.tenants)
        for listed in (asks, nodes, tenants):
            random.shuffle(listed)
        actual = share_out(asks, {CLASS: tuple(nodes)}, tenants, leaving=made.leaving, unbound_may_borrow=borrow)
        told = {(reclaim.key, pod) for reclaim in actual.reclaims for pod in reclaim.pods}
        reclaimed += bool(told)

        assert expected.granted == actual.granted, number
        assert expected.told == told, number
    assert reclaimed > 100


worlds = st.integers(0, 10**9).map(lambda seed: world(Random(seed)))
plain_worlds = st.integers(0, 10**9).map(lambda seed: world(Random(seed), plain=True))
uniform_worlds = st.tuples(st.integers(0, 10**9), st.sampled_from((1, 2))).map(
    lambda drawn: world(Random(drawn[0]), sizes=(drawn[1],), plain=True)
)


def _quota(made: World, name: str) -> Quota:
    return next((t.quotas.get(CLASS, Quota(0, 0, 0)) for t in made.tenants if t.name == name), Quota(0, None, 0))


def _gpus(made: World, name: str, shared: Allocation) -> int:
    """Return what a tenant has once the grants are pods: other pods, and its replicas."""
    mine = [ask for ask in made.asks if ask.tenant == name]
    other = max(
        0,
        next((t.used_gpus.get(CLASS, 0) for t in made.tenants if t.name == name), 0)
        - sum(ask.held * ask.gpus for ask in mine)
        - sum(one.gpus for one in made.leaving if one.tenant == name),
    )
    return other + sum(shared.granted[ask.key] * ask.gpus for ask in mine)


@PROPERTIES
@given(made=worlds)
def test_growth_never_exceeds_capacity(made: World) -> None:
    """What is granted beyond what was held or asked for before fits into what is free, a replica on one node."""
    shared = made.share()
    growth = sum(max(0, shared.granted[ask.key] - max(ask.held, ask.assured)) * ask.gpus for ask in made.asks)

    assert growth <= sum(node.free_gpus for node in made.nodes)
    for ask in made.asks:
        assert shared.granted[ask.key] <= ask.asked
        if shared.granted[ask.key] > max(ask.held, ask.assured):
            assert max(node.free_gpus for node in made.nodes) >= ask.gpus


@PROPERTIES
@given(made=worlds)
def test_nobody_grows_beyond_nominal_and_borrowing(made: World) -> None:
    """A tenant that gets a replica is within its limit with it, everything counted that its pods hold."""
    shared = made.share()
    for tenant in made.tenants:
        quota = _quota(made, tenant.name)
        grown = sum(
            max(0, shared.granted[ask.key] - ask.held) * ask.gpus for ask in made.asks if ask.tenant == tenant.name
        )
        if grown and quota.borrowing_limit_gpus is not None:
            held = max(
                tenant.used_gpus.get(CLASS, 0),
                sum(ask.held * ask.gpus for ask in made.asks if ask.tenant == tenant.name)
                + sum(one.gpus for one in made.leaving if one.tenant == tenant.name),
            )
            assert held + grown <= quota.nominal_gpus + quota.borrowing_limit_gpus


@PROPERTIES
@given(made=st.integers(0, 10**9).map(lambda seed: world(Random(seed), sizes=(1,), plain=True)))
def test_each_has_or_awaits_its_guarantee(made: World) -> None:
    """Where the nominals fit what there is, min(demand, nominal) is there or on its way."""
    shared = made.share()
    capacity = sum(node.free_gpus for node in made.nodes)
    promised = 0
    other = {}
    for tenant in made.tenants:
        held = sum(ask.held for ask in made.asks if ask.tenant == tenant.name)
        capacity += max(held, tenant.used_gpus[CLASS])
        other[tenant.name] = max(0, tenant.used_gpus[CLASS] - held)
        promised += max(_quota(made, tenant.name).nominal_gpus, other[tenant.name])
    if promised > capacity:
        return
    for tenant in made.tenants:
        mine = [ask for ask in made.asks if ask.tenant == tenant.name]
        demand = other[tenant.name] + sum(ask.asked for ask in mine)
        awaited = sum(wait.gpus for ask in mine for wait in shared.waits.get(ask.key, ()))
        # What it gives up itself, it holds until it is gone.
        awaited += sum(max(0, ask.held - ask.asked) for ask in mine)

        assert _gpus(made, tenant.name, shared) + awaited >= min(demand, _quota(made, tenant.name).nominal_gpus)


@PROPERTIES
@given(made=worlds)
def test_nobody_within_nominal_loses_a_replica(made: World) -> None:
    """Who gives had more than nominal, and keeps what its replicas fill within nominal as wholes."""
    shared = made.share()
    taken = [reclaim for reclaim in shared.reclaims if reclaim.preemptor is None]
    for name in {reclaim.tenant for reclaim in taken}:
        mine = [ask for ask in made.asks if ask.tenant == name]
        quota = _quota(made, name)
        lost = sum(reclaim.gpus for reclaim in taken if reclaim.tenant == name)
        going = sum(max(0, min(ask.held, ask.assured) - ask.asked) * ask.gpus for ask in mine)
        held = sum(ask.held * ask.gpus for ask in mine)
        used = next((t.used_gpus.get(CLASS, 0) for t in made.tenants if t.name == name), 0)
        leaves = sum(one.gpus for one in made.leaving if one.tenant == name)
        stays = max(used, held + leaves) - leaves - going
        largest = max(ask.gpus for ask in mine)

        assert stays > quota.nominal_gpus
        assert stays - lost > quota.nominal_gpus - largest


@PROPERTIES
@given(made=worlds)
def test_priority_takes_only_from_the_lower_ones_of_its_tenant(made: World) -> None:
    """Who gives a place has a lower priority, the same tenant, and keeps its minReplicas."""
    shared = made.share()
    asks = {ask.key: ask for ask in made.asks}
    for reclaim in shared.reclaims:
        if reclaim.preemptor is not None:
            giver, taker = asks[reclaim.key], asks[reclaim.preemptor]

            assert giver.tenant == taker.tenant == reclaim.taker
            assert giver.priority < taker.priority
            assert shared.granted[giver.key] >= giver.min_replicas
            assert taker.gpus <= max((node.allocatable_gpus for node in made.nodes), default=0)


@PROPERTIES
@given(made=plain_worlds)
def test_no_hole_stays_while_somebody_may_have_it(made: World) -> None:
    """Where nothing is kept back or opened, no node has room for a replica that its tenant may have."""
    shared = made.share()
    if shared.reclaims or Limit.RECLAIM in shared.limits.values():
        return
    growth = sum(max(0, shared.granted[ask.key] - ask.held) * ask.gpus for ask in made.asks)
    free = sum(node.free_gpus for node in made.nodes) - growth
    for ask in made.asks:
        if shared.granted[ask.key] < ask.asked and shared.limits.get(ask.key, Limit.CAPACITY) is Limit.CAPACITY:
            # With replicas of one GPU a place is a free GPU; larger ones need it on one node.
            assert ask.gpus > 1 or free == 0


@PROPERTIES
@given(made=uniform_worlds, data=st.data())
def test_more_nominal_never_gives_less(made: World, data: st.DataObject) -> None:
    """A tenant whose nominal is raised has, or awaits, at least as much as before."""
    chosen = data.draw(st.sampled_from([tenant.name for tenant in made.tenants]))
    more = data.draw(st.integers(1, 8))

    def has(tenants: tuple[Tenant, ...]) -> int:
        shared = made._replace(tenants=tenants).share()
        waits = sum(
            sum(wait.gpus for wait in shared.waits.get(ask.key, ())) for ask in made.asks if ask.tenant == chosen
        )
        return _gpus(made, chosen, shared) + waits

    raised = tuple(
        replace(
            tenant,
            quotas={name: replace(one, nominal_gpus=one.nominal_gpus + more) for name, one in tenant.quotas.items()},
        )
        if tenant.name == chosen
        else tenant
        for tenant in made.tenants
    )
    assert has(made.tenants) <= has(raised)


def _applied(made: World, shared: Allocation) -> World:
    """Let a decision become true: what was granted is where a scheduler that spreads puts it, then who goes is gone."""
    free = {node.name: node.free_gpus for node in made.nodes}
    used = {tenant.name: tenant.used_gpus.get(CLASS, 0) for tenant in made.tenants}
    told = {(reclaim.key, pod) for reclaim in shared.reclaims for pod in reclaim.pods}
    kept: dict[Key, list[Replica]] = {}
    for ask in made.asks:
        going = max(0, ask.held - len({pod for key, pod in told if key == ask.key}) - shared.granted[ask.key])
        kept[ask.key] = [replica for replica in ask.replicas if (ask.key, replica.pod) not in told][going:]
    for ask in sorted(made.asks, key=lambda ask: -ask.gpus):
        taken = {replica.pod for replica in ask.replicas}
        names = (f"{ask.key.name}-{number}" for number in count() if f"{ask.key.name}-{number}" not in taken)
        for _ in range(shared.granted[ask.key] - len(kept[ask.key])):
            fits = sorted((-have, node) for node, have in free.items() if have >= ask.gpus)
            if fits:
                free[fits[0][1]] -= ask.gpus
                kept[ask.key].append(Replica(next(names), fits[0][1]))
                if ask.tenant:
                    used[ask.tenant] += ask.gpus
    for node in made.nodes:
        free[node.name] += node.draining_gpus
    for ask in made.asks:
        for replica in set(ask.replicas) - set(kept[ask.key]):
            if replica.node in free:
                free[replica.node] += ask.gpus
            if ask.tenant:
                used[ask.tenant] -= ask.gpus
    asks = [
        replace(
            ask,
            held=len(kept[ask.key]),
            assured=shared.granted[ask.key],
            replicas=tuple(sorted(kept[ask.key], key=lambda r: (r.ready, r.in_flight, r.pod))),
        )
        for ask in made.asks
    ]
    nodes = tuple(replace(node, free_gpus=free[node.name], draining_gpus=0) for node in made.nodes)
    tenants = tuple(replace(tenant, used_gpus={CLASS: used[tenant.name]}) for tenant in made.tenants)
    return World(asks, nodes, tenants)


@PROPERTIES
@given(made=plain_worlds)
def test_decisions_come_to_rest(made: World) -> None:
    """Decide and apply until nothing changes: soon, and never the same question twice."""
    for _ in range(12):
        shared = made.share()
        if not shared.reclaims and all(shared.granted[ask.key] == ask.assured for ask in made.asks):
            return
        made = _applied(made, shared)
    raise AssertionError("still changing")


def test_noise_does_not_thrash() -> None:
    """Two borrowers whose demands wander by a replica around more than there is: nobody is told to go, 1,000 times."""
    random = Random("noise")
    nodes = tuple(Node(f"n{number}", 8, 8) for number in range(4))
    tenants = tuple(
        Tenant(name=name, namespaces=(name,), quotas={CLASS: Quota(4, None, None, weight)})
        for name, weight in (("a", 1), ("b", 2), ("c", 1))
    )
    asks = [
        Ask(key=Key(t.name, "m"), accelerator=CLASS, gpus=1, priority=0, held=0, assured=0, asked=20, tenant=t.name)
        for t in tenants
    ]
    made = _applied(World(asks, nodes, tenants), World(asks, nodes, tenants).share())
    settled = {ask.key: ask.held for ask in made.asks}
    assert settled == {Key("a", "m"): 9, Key("b", "m"): 14, Key("c", "m"): 9}
    for _ in range(1_000):
        asks = [replace(ask, asked=max(0, settled[ask.key] + random.choice((0, 1, 2)))) for ask in made.asks]
        made = made._replace(asks=asks)
        shared = made.share()
        assert not shared.reclaims
        made = _applied(made, shared)
        assert {ask.key: ask.held for ask in made.asks} == settled
