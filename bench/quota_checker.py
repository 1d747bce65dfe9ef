"""An independent witness of tenants' quotas: it watches, counts GPUs and reads Tenants for itself.

Nothing of the operator's decisions is used. Everything that happened to pods, nodes, Tenants and ModelDeployments is
put in the order of its resource version, which is the API server's own, and judged state by state:

- *over*: the GPUs that a tenant's pods request, Pending and terminating ones too, are more than nominal + borrowing. A
  limit that was lowered counts from `CUT_SECONDS` later; what is over then may only become less.
- *passed*: the same, but it would not be so without pods that were more than the ResourceQuota in force in their own
  namespace allowed when they were made. That is the API server's: it counts what is used anew, from a cache, after each
  deletion, and may so forget a pod that it admitted a moment ago.
- *late*: a tenant that has less than min(demand, nominal) on nodes, its own draining pods included, waits longer than
  the longest grace period of a pod, and the time to decide. Demand is its pods that nothing controls and minReplicas of
  its ModelDeployments. It is promised only while the nominals fit the usable nodes, less what uncontrolled pods hold
  beyond nominal.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic, sleep
from typing import Any

from sandbox import supervisor
from sandbox.cluster import Sandbox

Json = dict[str, Any]

RESOURCE = "nvidia.com/gpu"
CUT_SECONDS = 15.0
"""From an edit of a Tenant to its limit in force: a takeover of the lease and a decision."""
PATHS = {
    "pod": "/api/v1/pods",
    "node": "/api/v1/nodes",
    "quota": "/api/v1/resourcequotas",
    "tenant": "/apis/modelfleet.dev/v1alpha1/tenants",
    "deployment": "/apis/modelfleet.dev/v1alpha1/modeldeployments",
}
RELIST_SECONDS = 0.1
CATCH_UP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Event:
    """A state of one object, or its end; `at` is the monotonic moment at which it was heard of."""

    version: int
    at: float
    kind: str
    uid: str
    item: Json | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A moment at which a promise was broken."""

    at: float
    tenant: str
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was seen.

    Attributes:
        states: How many states of the cluster were judged.
        over: Moments in which a tenant got more than its limit.
        passed: Of a tenant's moments over its limit, those in which the API server passed a ResourceQuota in force.
        late: Waits that were longer than the bound.
        waits: How long each GPU within nominal was waited for, as (seconds, bound in seconds).
        full: States in which some tenant had all of its limit: without any nothing was put to the test.
    """

    states: int
    over: tuple[Finding, ...]
    passed: tuple[Finding, ...]
    late: tuple[Finding, ...]
    waits: tuple[tuple[float, float], ...]
    full: int


class Witness:
    """Watches from now on until its block ends."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Prepare; the watches begin with the block."""
        self._sandbox = sandbox
        self._opener = supervisor.https_opener(sandbox.directory / "pki" / "ca.crt")
        self._stopped = threading.Event()
        self._heard: dict[str, int] = {}
        self._threads = [threading.Thread(target=self._follow, args=(kind,), daemon=True) for kind in PATHS]
        self.events: list[Event] = []

    def __enter__(self) -> Witness:
        """Begin."""
        for thread in self._threads:
            thread.start()
        self._await(dict.fromkeys(PATHS, 0))
        return self

    def __exit__(self, *_: object) -> None:
        """Hear what happened until now, and end."""
        self.catch_up()
        self._stopped.set()

    def catch_up(self) -> None:
        """Wait until everything that happened before the call was heard of.

        Raises:
            TimeoutError: If a watch does not get there.
        """
        newest = {}
        for kind, path in PATHS.items():
            items = self._sandbox.request("GET", path)["items"]
            newest[kind] = max((int(item["metadata"]["resourceVersion"]) for item in items), default=0)
        self._await(newest)

    def judge(self, *, reaction_seconds: float) -> Verdict:
        """Judge every state so far, as `judge` does."""
        return judge(self.events, reaction_seconds=reaction_seconds)

    def _await(self, versions: Mapping[str, int]) -> None:
        give_up = monotonic() + CATCH_UP_SECONDS
        while any(self._heard.get(kind, -1) < version for kind, version in versions.items()):
            if monotonic() > give_up:
                raise TimeoutError(f"watches at {self._heard}, not yet at {versions}")
            sleep(0.05)

    def _follow(self, kind: str) -> None:
        known: set[str] = set()
        while not self._stopped.is_set():
            with suppress(OSError, ValueError):
                listed = self._sandbox.request("GET", PATHS[kind])
                version = listed["metadata"]["resourceVersion"]
                for item in listed["items"]:
                    self._take(kind, "ADDED", item)
                alive = {item["metadata"]["uid"] for item in listed["items"]}
                for uid in known - alive:
                    self.events.append(Event(int(version), monotonic(), kind, uid, None))
                known = alive
                self._heard[kind] = int(version)
                for change, item in self._watch(PATHS[kind], version):
                    self._take(kind, change, item)
                    (known.discard if change == "DELETED" else known.add)(item["metadata"]["uid"])
                    self._heard[kind] = int(item["metadata"]["resourceVersion"])
            self._stopped.wait(RELIST_SECONDS)

    def _watch(self, path: str, version: str) -> Iterator[tuple[str, Json]]:
        while not self._stopped.is_set():
            url = f"{self._sandbox.server}{path}?watch=true&resourceVersion={version}&timeoutSeconds=60"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._sandbox.token}"})
            with self._opener.open(request, timeout=90) as stream:
                for line in stream:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return
                    version = event["object"]["metadata"]["resourceVersion"]
                    yield event["type"], event["object"]
                    if self._stopped.is_set():
                        return

    def _take(self, kind: str, change: str, item: Json) -> None:
        metadata = item["metadata"]
        slim = None if change == "DELETED" else {part: item.get(part) or {} for part in ("metadata", "spec", "status")}
        self.events.append(Event(int(metadata["resourceVersion"]), monotonic(), kind, metadata["uid"], slim))


def judge(events: Iterable[Event], *, reaction_seconds: float) -> Verdict:
    """Judge every state that events lead to.

    Args:
        events: In any order.
        reaction_seconds: Time to decide twice, and for a Deployment to follow: what the bound has beyond a drain.
    """
    return _Judge(reaction_seconds).judge(sorted(events, key=lambda event: event.version))


def pod_gpus(spec: Json) -> int:
    """Return the GPUs that a pod requests, as the scheduler adds them up.

    Source:
        Kubernetes, "Resource sharing within containers": containers and restartable init containers at once, or the
        most that one other init container needs beside the restartable ones before it.
    """

    def of(container: Json) -> int:
        resources = container.get("resources") or {}
        amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        return int(amounts.get(RESOURCE, 0))

    beside = most = 0
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            beside += of(container)
            most = max(most, beside)
        else:
            most = max(most, beside + of(container))
    return max(most, beside + sum(of(container) for container in spec["containers"]))


@dataclass(frozen=True, slots=True)
class _Pod:
    namespace: str
    gpus: int
    on_node: bool
    controlled: bool
    grace_seconds: int


@dataclass(frozen=True, slots=True)
class _Quota:
    nominal: int
    limit: int | None


@dataclass(slots=True)
class _Wait:
    since: float
    bound_seconds: float
    told: bool = False


@dataclass(slots=True)
class _Account:
    """What is remembered of one tenant from state to state.

    Attributes:
        limits: What its limit was, each until a moment.
        had: GPUs of the state before.
        allowed: What it might have had then; None before its first.
        owed: The GPUs that it is entitled to and has not, the oldest first.
        entitled: min(demand, nominal) of the state before.
    """

    limits: list[tuple[float, int | None]] = field(default_factory=list)
    had: int = 0
    allowed: int | None = None
    owed: deque[_Wait] = field(default_factory=deque)
    entitled: int = 0


class _Judge:
    def __init__(self, reaction_seconds: float) -> None:
        self._reaction_seconds = reaction_seconds
        self._pods: dict[str, _Pod] = {}
        self._nodes: dict[str, int] = {}
        self._tenants: dict[str, Json] = {}
        self._demands: dict[str, tuple[str, int, int]] = {}
        self._accounts: dict[str, _Account] = {}
        self._quotas: dict[str, _Quota] = {}
        self._owner: dict[str, str] = {}
        self._hard: dict[str, tuple[str, int]] = {}
        self._beyond: dict[str, int] = {}
        self._seen: set[str] = set()
        self._over: list[Finding] = []
        self._passed: list[Finding] = []
        self._late: list[Finding] = []
        self._waits: list[tuple[float, float]] = []
        self._full = 0

    def judge(self, events: list[Event]) -> Verdict:
        at = 0.0
        for event in events:
            at = max(at, event.at)
            self._take(event, at)
            if event.kind == "pod":
                self._note_passed(event)
            self._judge_limits(at)
            self._judge_waits(at)
        return Verdict(
            states=len(events),
            over=tuple(self._over),
            passed=tuple(self._passed),
            late=tuple(self._late),
            waits=tuple(self._waits),
            full=self._full,
        )

    # --- the cluster ----------------------------------------------------------------------------

    def _take(self, event: Event, at: float) -> None:
        match event.kind:
            case "pod":
                self._put(self._pods, event, _pod)
            case "quota":
                self._put(self._hard, event, _hard)
            case "node":
                self._put(self._nodes, event, _usable_gpus)
            case "deployment":
                self._put(self._demands, event, _demand)
            case _:
                self._put(self._tenants, event, lambda item: item)
                self._read_tenants(at)

    @staticmethod
    def _put(rows: dict[str, Any], event: Event, read: Any) -> None:
        row = None if event.item is None else read(event.item)
        if row is None:
            rows.pop(event.uid, None)
        else:
            rows[event.uid] = row

    def _read_tenants(self, at: float) -> None:
        def age(item: Json) -> tuple[datetime, str]:
            metadata = item["metadata"]
            return datetime.fromisoformat(metadata["creationTimestamp"]), metadata["name"]

        self._owner, self._quotas = {}, {}
        for item in sorted(self._tenants.values(), key=age):
            name, quotas = item["metadata"]["name"], item["spec"]["quotas"]
            for namespace in item["spec"]["namespaces"]:
                self._owner.setdefault(namespace, name)
            limited = all("borrowingLimit" in quota for quota in quotas)
            nominal = sum(quota["nominalQuota"] for quota in quotas)
            limit = nominal + sum(quota["borrowingLimit"] for quota in quotas) if limited else None
            self._quotas[name] = _Quota(nominal, limit)
            account = self._accounts.setdefault(name, _Account())
            if not account.limits or account.limits[-1][1] != limit:
                account.limits = [(min(until, at + CUT_SECONDS), most) for until, most in account.limits]
                account.limits.append((float("inf"), limit))
        for name in self._accounts.keys() - self._quotas.keys():
            del self._accounts[name]

    # --- the promises ---------------------------------------------------------------------------

    def _judge_limits(self, at: float) -> None:
        has = dict.fromkeys(self._quotas, 0)
        for pod in self._pods.values():
            owner = self._owner.get(pod.namespace)
            if owner is not None:
                has[owner] += pod.gpus
        self._full += any(gpus == self._quotas[name].limit for name, gpus in has.items())
        for name, gpus in has.items():
            account = self._accounts[name]
            account.limits = [(until, most) for until, most in account.limits if until >= at]
            in_force = [most for _, most in account.limits]
            if None in in_force or account.allowed is None:
                # Without a limit, or just made: what it has now it may keep.
                account.allowed = account.had = gpus
                continue
            permitted = max(*(most for most in in_force if most is not None), min(account.allowed, account.had))
            if gpus > permitted and gpus > account.had:
                passed = sum(more for namespace, more in self._beyond.items() if self._owner.get(namespace) == name)
                found = self._passed if gpus - passed <= permitted else self._over
                found.append(Finding(at, name, f"{gpus} GPUs, {permitted} allowed; {self._fences(name)}"))
            account.had, account.allowed = gpus, permitted

    def _note_passed(self, event: Event) -> None:
        """Note how many GPUs of each namespace were let through beyond the ResourceQuota in force."""
        pod = self._pods.get(event.uid)
        new = pod is not None and event.uid not in self._seen
        self._seen.add(event.uid)
        for namespace in {*self._beyond, *([pod.namespace] if pod is not None and new else ())}:
            hard = min((hard for where, hard in self._hard.values() if where == namespace), default=None)
            excess = 0 if hard is None else max(0, self._requested(namespace) - hard)
            before = self._beyond.get(namespace, 0)
            came = pod.gpus if pod is not None and new and pod.namespace == namespace else 0
            # What is beyond a limit that was lowered meanwhile was let through by nobody.
            self._beyond[namespace] = min(excess, before + came)

    def _requested(self, namespace: str) -> int:
        return sum(pod.gpus for pod in self._pods.values() if pod.namespace == namespace)

    def _fences(self, name: str) -> str:
        fences = {namespace: hard for namespace, hard in self._hard.values() if self._owner.get(namespace) == name}
        return ", ".join(
            f"{namespace} {self._requested(namespace)} of {fences[namespace]}" for namespace in sorted(fences)
        )

    def _judge_waits(self, at: float) -> None:
        bound = max((pod.grace_seconds for pod in self._pods.values() if pod.on_node), default=0)
        bound_seconds = bound + self._reaction_seconds
        has, raw = dict.fromkeys(self._quotas, 0), dict.fromkeys((*self._quotas, ""), 0)
        for pod in self._pods.values():
            owner = self._owner.get(pod.namespace, "")
            if not pod.controlled and pod.on_node:
                raw[owner] += pod.gpus
            if owner and pod.on_node:
                has[owner] += pod.gpus
        nominal = sum(quota.nominal for quota in self._quotas.values())
        beyond = raw[""] + sum(max(0, raw[name] - quota.nominal) for name, quota in self._quotas.items())
        promised = nominal + beyond <= sum(self._nodes.values())
        for name, quota in self._quotas.items():
            account = self._accounts[name]
            entitled = self._entitled(name, quota.nominal, raw[name])
            if not promised:
                account.owed.clear()
                account.entitled = entitled
                continue
            missing = max(0, entitled - has[name])
            for _ in range(min(len(account.owed) - missing, account.entitled - entitled)):
                account.owed.pop()  # nobody wants it any more
            for wait in account.owed:
                if at - wait.since > wait.bound_seconds and not wait.told:
                    wait.told = True
                    self._late.append(Finding(at, name, f"a GPU is waited for longer than {wait.bound_seconds:.0f} s"))
            while len(account.owed) > missing:
                wait = account.owed.popleft()
                self._waits.append((at - wait.since, wait.bound_seconds))
            account.owed.extend(_Wait(at, bound_seconds) for _ in range(missing - len(account.owed)))
            account.entitled = entitled

    def _entitled(self, name: str, nominal: int, raw: int) -> int:
        """Return what a tenant may count on: whole replicas within nominal."""
        left, entitled = nominal - raw, min(raw, nominal)
        for namespace, replicas, gpus in sorted(self._demands.values(), key=lambda demand: -demand[2]):
            if self._owner.get(namespace) == name and left > 0:
                fill = min(replicas, left // gpus) * gpus
                left, entitled = left - fill, entitled + fill
        return entitled


def _pod(item: Json) -> _Pod | None:
    metadata, spec = item["metadata"], item["spec"]
    gpus = pod_gpus(spec)
    if not gpus or item["status"].get("phase") in {"Succeeded", "Failed"}:
        return None
    return _Pod(
        metadata["namespace"],
        gpus,
        bool(spec.get("nodeName")),
        any(owner.get("controller") for owner in metadata.get("ownerReferences") or ()),
        int(spec.get("terminationGracePeriodSeconds", 0)),
    )


def _hard(item: Json) -> tuple[str, int] | None:
    """Return what the API server goes by: the controller copies spec to status, and admission looks there."""
    hard = (item["status"].get("hard") or {}).get(f"requests.{RESOURCE}")
    return None if hard is None else (item["metadata"]["namespace"], int(hard))


def _usable_gpus(item: Json) -> int | None:
    conditions = item["status"].get("conditions") or ()
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    if not ready or item["spec"].get("unschedulable"):
        return None
    return int((item["status"].get("allocatable") or {}).get(RESOURCE, 0))


def _demand(item: Json) -> tuple[str, int, int]:
    spec = item["spec"]
    return item["metadata"]["namespace"], spec["scaling"].get("minReplicas", 1), spec.get("gpusPerReplica", 1)
