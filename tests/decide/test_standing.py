"""What a Tenant's status says: GPUs guaranteed, used, borrowed, lent, waited for, and the other side's reason."""

from modelfleet.api.conditions import Reason, TenantCondition
from modelfleet.decide.cycle import decide
from modelfleet.decide.plan import Plan
from modelfleet.decide.snapshot import Snapshot
from modelfleet.decide.standing import judge_tenant, standings
from tests.builders import UNDAMPED, deployment, fleet, nodes, pods, ready, tenant, watched


def _lender_wakes() -> tuple[Snapshot, Plan]:
    """B has borrowed 3 of A's 4, and A wants all of them."""
    a = deployment("llama", "team-a").behavior(UNDAMPED).pods(ready().queue(41).running(9).tokens(400))
    b = deployment("qwen", "team-b").behavior(UNDAMPED).pods(*(one.tokens(100).running(1) for one in pods(7)))
    snapshot = fleet(
        a,
        b,
        gpus={"h100": nodes(0)},
        tenants=(tenant("team-a", 4, used=1), tenant("team-b", 4, used=7), tenant("team-c", 0)),
    )
    return snapshot, decide(snapshot, {one.key: watched(one) for one in (a, b)})


def test_standings_add_up() -> None:
    """Borrowed is lent by somebody, waiting is what is asked for and not there, guaranteed is within nominal."""
    found = {name: rows[0] for name, rows in standings(*_lender_wakes()).items()}
    a, b, c = found["team-a"], found["team-b"], found["team-c"]

    assert (a.guaranteed, a.used, a.borrowed, a.lent, a.waiting) == (4, 1, 0, 3, 4)
    assert (b.guaranteed, b.used, b.borrowed, b.lent, b.waiting) == (4, 7, 3, 0, 0)
    assert (c.guaranteed, c.used, c.borrowed, c.lent, c.waiting) == (0, 0, 0, 0, 0)


def test_minimums_add_up_over_a_tenants_deployments_to_what_a_status_can_hold() -> None:
    """Beside them the largest node, which bounds one replica."""
    few = (deployment("llama", "team-a").gpus(2).bounds(2, 4), deployment("qwen", "team-a").bounds(1, 4))
    many = tuple(deployment(f"flood-{number}", "team-b").gpus(64).bounds(1000, 1000) for number in range(40))
    snapshot = fleet(
        *few, *many, gpus={"h100": nodes(4, 2, size=8)}, tenants=(tenant("team-a", 4), tenant("team-b", 4))
    )
    (a,), (b,) = standings(snapshot, decide(snapshot, {})).values()

    assert (a.minimums, a.largest_node_gpus) == (5, 8)
    assert (b.minimums, b.waiting) == (1_000_000, 1_000_000)


def test_both_sides_are_told() -> None:
    """The borrower reads who wants it back, the lender from whom it comes."""
    snapshot, plan = _lender_wakes()
    rows = standings(snapshot, plan)
    reclaims = [reclaim for decision in plan.decisions.values() for reclaim in decision.reclaims]
    told = {
        (tenant.name, verdict.type): verdict
        for tenant in snapshot.tenants
        for verdict in judge_tenant(tenant, rows[tenant.name], reclaims)
    }
    gives, takes = told["team-b", TenantCondition.BORROWING], told["team-a", TenantCondition.LENDING]

    assert (gives.holds, gives.reason) == (True, Reason.GIVING_BACK)
    assert gives.message == "3 GPUs of team-b/qwen go to team-a, which wants its own back"
    assert (takes.holds, takes.reason) == (True, Reason.TAKING_BACK)
    assert takes.message == "3 GPUs come from team-b (team-b/qwen), which had borrowed them"
    assert told["team-b", TenantCondition.WITHIN_QUOTA].reason is Reason.BORROWING
    assert told["team-a", TenantCondition.WITHIN_QUOTA].reason is Reason.WITHIN_NOMINAL
    assert told["team-c", TenantCondition.LENDING].reason is Reason.NOT_LENDING


def test_a_tenant_over_its_limit_says_so() -> None:
    """Raw pods that the operator may not end keep a tenant over a quota that was cut."""
    cut = tenant("team-a", 4, borrowing=0, used=6)
    snapshot = fleet(gpus={"h100": nodes(0)}, tenants=(cut,))
    rows = standings(snapshot, decide(snapshot, {}))
    within, *_ = judge_tenant(cut, rows["team-a"], ())

    assert (within.holds, within.reason) == (False, Reason.OVER_QUOTA)
    assert within.message.startswith("6 of 4 GPUs of h100 are used")
