"""What holds however GPUs are shared among tenants, against an implementation that is slow and obvious."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.obvious_allocation import share_obviously
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
    count = random.randint(1, 3)
    free = {f"n{number}": 8 for number in range(random.randint(0, count))}
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
                leaving.append(Leaving(tenant, CLASS, node, gpus, 30, told=told))
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
            )
        )
    for node in free:
        # Somebody else's pod, in a tenant's namespace or in none.
        if random.random() < 0.15 and free[node]:
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


def test_sharing_equals_the_obvious_one() -> None:
    """1,500 random worlds are granted, and lose, what the rule says when it is read literally, in any order."""
    random = Random("tenants")
    reclaimed = 0
    for number in range(1_500):
        made = world(random)
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
