"""The witness of quotas finds what is wrong, and nothing else."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from bench.quota_checker import CUT_SECONDS, RESOURCE, Event, Verdict, judge, pod_gpus

CREATED = "2026-01-01T00:00:00Z"
GRACE_SECONDS, REACTION_SECONDS = 20, 5.0
BOUND_SECONDS = GRACE_SECONDS + REACTION_SECONDS


class Story:
    """What a witness heard, told moment by moment: tenants a (2 + 1 GPUs) and b (2), on 4 GPUs."""

    def __init__(self) -> None:
        self._versions = count(1)
        self.at = 0.0
        self.events: list[Event] = []
        self._put("node", "x", {"spec": {}, "status": _ready_node(4)})
        self.tenant("a", 2, 1)
        self.tenant("b", 2, 0)

    def tenant(self, name: str, nominal: int, borrowing: int) -> None:
        quota = {"accelerator": "h100", "nominalQuota": nominal, "borrowingLimit": borrowing}
        self._put("tenant", name, {"spec": {"namespaces": [f"{name}-1", f"{name}-2"], "quotas": [quota]}})

    def wants(self, name: str, replicas: int) -> None:
        self._put("deployment", name, {"spec": {"scaling": {"minReplicas": replicas}}}, namespace=f"{name}-1")

    def pod(self, name: str, namespace: str, *, node: str = "x", owned: bool = True) -> None:
        container = {"resources": {"limits": {RESOURCE: "1"}}}
        spec = {"containers": [container], "nodeName": node, "terminationGracePeriodSeconds": GRACE_SECONDS}
        self._put("pod", name, {"spec": spec, "status": {}}, namespace=namespace, owned=owned)

    def gone(self, name: str) -> None:
        self.events.append(Event(next(self._versions), self.at, "pod", name, None))

    def fence(self, namespace: str, gpus: int) -> None:
        hard = {f"requests.{RESOURCE}": str(gpus)}
        self._put("quota", f"q-{namespace}", {"spec": {}, "status": {"hard": hard}}, namespace=namespace)

    def verdict(self) -> Verdict:
        return judge(reversed(self.events), reaction_seconds=REACTION_SECONDS)

    def _put(self, kind: str, name: str, item: dict[str, Any], *, namespace: str = "", owned: bool = False) -> None:
        metadata: dict[str, Any] = {"name": name, "namespace": namespace, "creationTimestamp": CREATED}
        if owned:
            metadata["ownerReferences"] = [{"controller": True}]
        made = {"status": {}, **item, "metadata": metadata}
        self.events.append(Event(next(self._versions), self.at, kind, name, made))


def _ready_node(gpus: int) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {RESOURCE: str(gpus)}}


@pytest.fixture
def story() -> Story:
    return Story()


def test_one_pod_too_many_is_found(story: Story) -> None:
    """3 of 3 is full, 4 is over, whether it has a node or not; the same pod seen again is the same moment."""
    for number in range(3):
        story.pod(f"p{number}", f"a-{1 + number % 2}")
    full = story.verdict()
    story.pod("p3", "a-1", node="")
    story.pod("p3", "a-1")

    assert (full.over, full.full) == ((), 1)
    assert [finding.tenant for finding in story.verdict().over] == ["a"]


def test_a_pod_that_its_own_quota_forbids_is_the_api_servers(story: Story) -> None:
    """2 + 1 is the limit: a second pod where 1 is allowed was let through; where 2 are allowed, the split is wrong."""
    story.fence("a-1", 2)
    story.fence("a-2", 1)
    for name, namespace in (("p0", "a-1"), ("p1", "a-1"), ("p2", "a-2"), ("p3", "a-2")):
        story.pod(name, namespace)
    passed = story.verdict()
    story.gone("p3")
    story.fence("a-2", 2)
    story.pod("p4", "a-2")

    assert (len(passed.passed), len(passed.over)) == (1, 0)
    assert (len(story.verdict().passed), len(story.verdict().over)) == (1, 1)


def test_a_pod_that_was_let_through_before_is_the_api_servers_too(story: Story) -> None:
    """A second pod came where 1 is allowed, with room in all; what another namespace may have makes it too many."""
    story.fence("a-1", 2)
    story.fence("a-2", 1)
    for name, namespace in (("p0", "a-2"), ("p1", "a-2"), ("p2", "a-1"), ("p3", "a-1")):
        story.pod(name, namespace)

    assert (len(story.verdict().passed), len(story.verdict().over)) == (1, 0)


def test_a_limit_that_was_lowered_below_its_pods_is_the_splits(story: Story) -> None:
    """Both pods of a-1 were allowed when they came: giving away what they hold is wrong."""
    story.fence("a-1", 2)
    story.fence("a-2", 1)
    for name in ("p0", "p1"):
        story.pod(name, "a-1")
    story.fence("a-1", 1)
    story.fence("a-2", 2)
    for name in ("p2", "p3"):
        story.pod(name, "a-2")

    assert (len(story.verdict().passed), len(story.verdict().over)) == (0, 1)


@pytest.mark.parametrize(
    ("seconds", "grows", "wrong"),
    [(CUT_SECONDS - 1, True, 0), (CUT_SECONDS + 1, True, 1), (CUT_SECONDS + 1, False, 0)],
)
def test_a_cut_counts_a_little_later_and_its_excess_only_shrinks(
    story: Story, seconds: float, grows: bool, wrong: int
) -> None:
    """3 pods, the limit becomes 1: nobody is wrong who has them, and who gets one more after a while is."""
    for number in range(3):
        story.pod(f"p{number}", "a-1")
    story.tenant("a", 1, 0)
    story.at += seconds
    story.gone("p0")
    if grows:
        story.pod("p3", "a-1")

    assert len(story.verdict().over) == wrong


@pytest.mark.parametrize(("seconds", "late"), [(BOUND_SECONDS - 1, 0), (BOUND_SECONDS + 1, 1)])
def test_a_wait_within_nominal_is_measured(story: Story, seconds: float, late: int) -> None:
    """B wants 2, has 1 while A borrows its other."""
    for number in range(3):
        story.pod(f"a{number}", "a-1")
    story.pod("b0", "b-1")
    story.wants("b", 2)
    story.at += seconds
    story.gone("a0")
    story.pod("b1", "b-1")
    verdict = story.verdict()

    assert len(verdict.late) == late
    # The first GPU came when there was nobody to wait for.
    assert verdict.waits[-1] == (seconds, BOUND_SECONDS)


def test_a_wait_that_never_ends_is_found(story: Story) -> None:
    """However it goes on: the next thing that happens tells."""
    story.pod("a0", "a-1")
    story.wants("b", 1)
    story.at += BOUND_SECONDS + 1
    story.gone("a0")

    assert len(story.verdict().late) == 1


def test_what_is_not_promised_is_not_waited_for(story: Story) -> None:
    """A third of A's pods is nobody's to end: while it holds a GPU of B's, B waits without a bound."""
    for number in range(3):
        story.pod(f"a{number}", "a-1", owned=False)
    story.pod("b0", "b-1")
    story.wants("b", 2)
    story.at += 10 * BOUND_SECONDS
    story.gone("b0")
    story.pod("b1", "b-1")

    assert story.verdict().late == ()


def test_gpus_of_init_containers_count() -> None:
    """As the scheduler adds them up: one beside sidecars before the others, or all at once."""

    def of(gpus: int, **more: str) -> dict[str, Any]:
        return {"resources": {"limits": {RESOURCE: str(gpus)}}, **more}

    assert pod_gpus({"containers": [of(1), of(1)], "initContainers": [of(4)]}) == 4
    assert pod_gpus({"containers": [of(3)], "initContainers": [of(1, restartPolicy="Always"), of(1)]}) == 4
