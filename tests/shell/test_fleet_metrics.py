"""What Prometheus is told of the fleet: the last plan, and nothing that is not known."""

from collections.abc import Callable
from typing import Any

import pytest

from modelfleet.api.acceleratorclass import AcceleratorClassSpec
from modelfleet.decide.cycle import decide
from modelfleet.shell.fleet_metrics import FleetMetrics
from tests.builders import UNDAMPED, DeploymentBuilder, deployment, fleet, nodes, pods, ready, starting, tenant, watched

CLASSES = {
    "h100": AcceleratorClassSpec(node_selector={"gpu": "h100"}, usd_per_gpu_hour="2.50"),
    "a100": AcceleratorClassSpec(node_selector={"gpu": "a100"}),
}


def shown(*made: DeploymentBuilder, metrics: FleetMetrics | None = None, **told: Any) -> Callable[..., float | None]:
    """Show a decision about these; return a function from a family and its labels to its value, None for none."""
    metrics = metrics or FleetMetrics()
    snapshot = fleet(*made, **told)
    metrics.show(snapshot, decide(snapshot, {one.key: watched(one) for one in made}), CLASSES)
    samples = {
        (sample.name.removeprefix("modelfleet_"), frozenset(sample.labels.items())): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }
    return lambda name, **labels: samples.get((name, frozenset(labels.items())))


def lender_and_borrower() -> tuple[DeploymentBuilder, DeploymentBuilder]:
    """A has 1 of its 4 GPUs and wants all of them; B has borrowed 3 of them, and 4 are its own."""
    a = deployment("llama", "team-a").behavior(UNDAMPED).pods(ready().queue(41).running(9).tokens(400))
    b = deployment("qwen", "team-b").behavior(UNDAMPED).pods(*(one.tokens(100).running(1) for one in pods(7)))
    return a, b


TENANTS = (tenant("team-a", 4, used=1), tenant("team-b", 4, borrowing=6, used=7))


def test_before_the_first_plan_there_is_nothing() -> None:
    """A standby does not know the fleet, and zero replicas would be a lie."""
    assert list(FleetMetrics().collect()) == []


def test_a_deployment_is_told_with_its_tenant_its_limit_and_who_can_lift_it() -> None:
    a, b = lender_and_borrower()
    value = shown(a, b, gpus={"h100": nodes(0)}, tenants=TENANTS)
    llama = {"namespace": "team-a", "deployment": "llama"}

    assert value("deployment_output_tokens_per_second", **llama) == 400
    assert value("deployment_demand_tokens_per_second", **llama) == 400
    assert value("deployment_input_tokens_per_output_token", **llama) == 0
    assert value("deployment_target_output_tokens_per_second_per_replica", **llama) == 100
    assert value("deployment_replicas_max", **llama) == 8
    assert value("deployment_gpus", **llama) == 1
    assert value("deployment_signals_missing", **llama) == 0
    assert value("deployment_limited", limit="WaitingForReclaim", owner="other tenants", **llama) == 1
    assert value("deployment_reason", reason="WaitingForReclaim", **llama) == 1
    what = {"tenant": "team-a", "accelerator": "h100", "runtime": "vllm", "mode": "Auto"}
    assert value("deployment_info", model="meta-llama/Llama-3.1-8B-Instruct", **what, **llama) == 1


def test_a_tenant_and_a_class_are_told_in_gpus() -> None:
    a, b = lender_and_borrower()
    value = shown(a, b, gpus={"h100": nodes(0), "a100": ()}, tenants=TENANTS)
    names = ("nominal", "limit", "guaranteed", "used", "borrowed", "lent", "waiting")

    def of(name: str) -> list[float | None]:
        return [value(f"tenant_{count}_gpus", tenant=name, accelerator="h100") for count in names]

    assert of("team-a") == [4, None, 4, 1, 0, 3, 4]
    assert of("team-b") == [4, 10, 4, 7, 3, 0, 0]
    assert value("accelerator_capacity_gpus", accelerator="h100") == 8
    assert value("accelerator_free_gpus", accelerator="h100") == 0
    assert value("accelerator_usd_per_gpu_hour", accelerator="h100") == 2.5
    assert value("accelerator_capacity_gpus", accelerator="a100") == 0
    assert value("accelerator_usd_per_gpu_hour", accelerator="a100") is None


def test_unknown_is_not_zero() -> None:
    """No pod tells, one signal is lost, nobody is ready: three ways not to know."""
    silent = deployment("silent").pods(ready("a").lost())
    halved = deployment("halved").pods(ready("b").queue(3).lost("tokens"))
    asleep = deployment("asleep").pods(starting("c"), starting("d").unscheduled())
    value = shown(silent, halved, asleep)

    def of(name: str, family: str) -> float | None:
        return value(f"deployment_{family}", namespace="team-a", deployment=name)

    assert [of("silent", name) for name in ("queued_requests", "output_tokens_per_second", "load_replicas")] == [
        None
    ] * 3
    assert [of("halved", name) for name in ("queued_requests", "output_tokens_per_second")] == [3, None]
    assert [of(name, "signals_missing") for name in ("silent", "halved", "asleep")] == [1, 1, None]
    assert [of("asleep", f"replicas{name}") for name in ("", "_ready", "_starting", "_unscheduled")] == [2, 0, 1, 1]
    assert of("silent", "start_seconds") is None
    assert of("halved", "inter_token_seconds") is None


def test_time_between_tokens_is_weighted_by_them() -> None:
    """A pod that answers one user slowly says little about a pod that answers thirty."""
    slow = ready("a").tokens(10).inter_token(0.1)
    value = shown(deployment().pods(slow, ready("b").tokens(90).inter_token(0.02), slow.stale(60)))

    assert value("deployment_inter_token_seconds", namespace="team-a", deployment="llama") == pytest.approx(0.028)


def test_a_wait_is_counted_from_its_beginning_or_the_last_grant() -> None:
    """The bound is on one wait, not on a load that grows for an hour."""
    a, b = lender_and_borrower()
    metrics = FleetMetrics()
    llama = {"namespace": "team-a", "deployment": "llama"}

    def wait(at: float, free: int) -> tuple[float | None, float | None]:
        value = shown(a, b, metrics=metrics, gpus={"h100": nodes(free)}, tenants=TENANTS, now=1_000_000 + at)
        names = ("reclaim_wait_seconds", "reclaim_wait_bound_seconds")
        seconds, bound = (value(f"deployment_{name}", **llama) for name in names)
        return seconds, bound

    assert wait(0, free=0) == (0, 250)
    assert wait(90, free=0) == (90, 250)
    assert wait(100, free=1) == (0, 250)
    assert wait(130, free=0) == (30, 250)
    assert wait(140, free=8) == (None, None)
