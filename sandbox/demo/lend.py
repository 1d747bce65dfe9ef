"""The second act: two tenants with four GPUs each; one borrows at its peak, the other wakes and gets its own back."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import yaml
from rich.console import Group

from sandbox.demo.stage import (
    HISTORY,
    SAMPLE_SECONDS,
    WIDE,
    Load,
    Model,
    Seen,
    Stage,
    deployment_lines,
    deployments_table,
    draw,
    end_loads,
    framed,
    say,
    show,
    sparkline,
)

NOMINAL = 4
BORROWS = 3
ACCELERATOR = "a100"
"""Its two nodes have the eight GPUs of both tenants, and no more."""
ACT_SECONDS = 110
"""Longest act: what it takes on a quiet machine is half of it."""
PEAK_SECONDS, WAKING_SECONDS = 55, 25
PAUSE_SECONDS = 4
"""The borrower at its peak, to be looked at."""
DECIDED_SECONDS = 4.0
"""What the stated bound has beyond the drain: two decisions, one second apart, and a Deployment that follows."""
COUNTS = ("guaranteed", "used", "borrowed", "lent", "waiting")


def _model(namespace: str, name: str, *, max_replicas: int, rate: float) -> Model:
    return Model(
        namespace=namespace,
        name=name,
        model="meta-llama/Llama-3.1-8B-Instruct",
        runtime="vllm",
        accelerator=ACCELERATOR,
        gpus=1,
        max_replicas=max_replicas,
        engine={"imagePullSeconds": 1, "modelLoadSeconds": 2, "maxRunning": 8, "decodeBaseMs": 30},
        rate=rate,
        output_tokens=50,
        targets={"outputTokensPerSecond": 100, "queuedRequests": 4},
        drain_seconds=10,
    )


BORROWER = _model("search", "ranker", max_replicas=NOMINAL + BORROWS, rate=14)
LENDER = _model("chat", "assistant", max_replicas=NOMINAL, rate=8)


@dataclass
class Account:
    """What the API server says of one Tenant, and of the pods of its namespace: counts of a status may be 10 s old."""

    status: dict[str, Any] = field(default_factory=dict)
    gpus: int = 0
    history: deque[int] = field(default_factory=lambda: deque(maxlen=HISTORY))
    sampled_at: float = 0.0


@dataclass
class Act:
    """How far it is; moments are monotonic."""

    stage: Stage
    seen: dict[str, Seen]
    accounts: dict[str, Account]
    loads: list[Load]
    lent_at: float | None = None
    woken_at: float | None = None
    waiting_at: float | None = None
    granted_at: float | None = None
    unblock: str = ""

    @property
    def borrower(self) -> dict[str, Any]:
        """Status of the deployment that borrows."""
        return self.seen[BORROWER.key].status

    @property
    def lender(self) -> dict[str, Any]:
        """Status of the deployment that lends."""
        return self.seen[LENDER.key].status

    def step(self) -> bool:
        """Look, and do what comes next; return whether it is over."""
        self._observe()
        now = time.monotonic()
        if self.lent_at is None and self.borrower.get("readyReplicas", 0) == NOMINAL + BORROWS:
            self.lent_at = now
        if self.woken_at is None and self.lent_at is not None and now - self.lent_at >= PAUSE_SECONDS:
            self.woken_at = now
            self.loads.append(_load(self.stage, LENDER, WAKING_SECONDS))
        if self.waiting_at is None and self.lender.get("limitedBy") == "WaitingForReclaim":
            self.waiting_at, self.unblock = now, (self.lender.get("decision") or {}).get("unblock", "")
        if self.accounts[BORROWER.namespace].status.get("reason") == "GivingBack":
            draw(self.picture(WIDE), "-tenants")
        if self.granted_at is None and self.waiting_at and self.lender.get("desiredReplicas") == NOMINAL:
            self.granted_at = now
        return self.granted_at is not None and all(load.done for load in self.loads)

    def picture(self, width: int) -> Group:
        """Return tenants and deployments."""
        table = framed(f"Tenants of {2 * NOMINAL} GPUs", ("TENANT", *map(str.upper, COUNTS), "REASON", "GPUS NOW"))
        for name, account in self.accounts.items():
            status = account.status
            counts = (str(status.get(count, "")) for count in COUNTS)
            now = f"{account.gpus} {sparkline(account.history, top=2 * NOMINAL)}"
            table.add_row(name, *counts, status.get("reason", ""), now)
        return Group(table, deployments_table(self.seen, width))

    def lines(self) -> dict[str, str]:
        """Return one line a tenant and a deployment."""
        of_tenants = {
            f"tenant {name}": f"tenant {name:9} "
            + " ".join(f"{count} {account.status.get(count, '?')}" for count in COUNTS)
            + f" {account.status.get('reason', '')}"
            for name, account in self.accounts.items()
        }
        return of_tenants | deployment_lines(self.seen)

    def _observe(self) -> None:
        self.stage.observe(self.seen)
        for item in self.stage.list("tenants"):
            account = self.accounts[item["metadata"]["name"]]
            account.status = item.get("status", {})
            # Every pod of the namespace is a replica of one GPU; one that drains holds it until it is gone.
            pods = self.stage.sandbox.request("GET", f"/api/v1/namespaces/{item['metadata']['name']}/pods")["items"]
            account.gpus = sum("nodeName" in pod["spec"] for pod in pods)
            if time.monotonic() - account.sampled_at >= SAMPLE_SECONDS:
                account.sampled_at = time.monotonic()
                account.history.append(account.gpus)


def play(stage: Stage) -> list[str]:
    """Play it; return what did not happen."""
    say(f"second act: Tenants {BORROWER.namespace} and {LENDER.namespace} have {NOMINAL} of {2 * NOMINAL} GPUs each")
    names = (BORROWER.namespace, LENDER.namespace)
    stage.sandbox.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([_tenant(name) for name in names]))
    seen = stage.deploy((BORROWER, LENDER))
    began = time.monotonic()
    act = Act(stage, seen, {name: Account() for name in names}, [_load(stage, BORROWER, PEAK_SECONDS)])
    say(f"{BORROWER.namespace} has its peak; then {LENDER.namespace} wakes")
    try:
        show(stage, act.step, picture=act.picture, lines=act.lines, seconds=ACT_SECONDS, began=began)
        return _judge(act)
    finally:
        end_loads(act.loads)


def _tenant(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {
            "namespaces": [name],
            "quotas": [{"accelerator": ACCELERATOR, "nominalQuota": NOMINAL, "borrowingLimit": NOMINAL}],
        },
    }


def _load(stage: Stage, model: Model, seconds: int) -> Load:
    shape = ("--shape", "steady", "--rate", str(model.rate), "--duration", str(seconds))
    return stage.load(model, *shape, "--output-tokens", str(model.output_tokens), "--prompt-tokens", "50")


def _judge(act: Act) -> list[str]:
    faults = []
    if act.lent_at is None:
        return [f"{BORROWER.key} did not borrow {BORROWS} GPUs: {act.borrower}"]
    if act.waiting_at is None or act.granted_at is None:
        return [f"{LENDER.key} did not get its own back: {act.lender}"]
    waited = act.granted_at - act.waiting_at
    bound = int(match[1]) if (match := re.search(r"≤(\d+) s", act.unblock)) else 0
    say(
        f"{BORROWER.key}: replicas 1 → {act.seen[BORROWER.key].highest}, {BORROWS} of them on GPUs of "
        f"{LENDER.namespace}; {LENDER.key} wanted its own: “{act.unblock}”"
    )
    say(
        f"{LENDER.key}: {waited:.1f} s from want to grant; "
        f"the bound is {bound} s of drain and {DECIDED_SECONDS:.0f} s to decide"
    )
    if waited > bound + DECIDED_SECONDS:
        faults.append(f"{LENDER.key} waited {waited:.1f} s, longer than its bound")
    if act.borrower.get("desiredReplicas", 0) > NOMINAL or act.lender.get("readyReplicas", 0) < NOMINAL:
        faults.append(f"not everybody has its own at the end: {act.borrower}, {act.lender}")
    for load in act.loads:
        faults += load.judge()
    return faults
