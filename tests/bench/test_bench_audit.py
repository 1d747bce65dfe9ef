"""Requests are counted once, by user, from the audit log as the API server writes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bench.audit import Request, parse, requests_of, summary

USER = "system:serviceaccount:modelfleet-system:modelfleet"


def entry(verb: str, stage: str, *, user: str = USER, second: int = 1, **reference: str) -> str:
    content: dict[str, Any] = {
        "verb": verb,
        "stage": stage,
        "user": {"username": user},
        "requestURI": "/version",
        "requestReceivedTimestamp": f"2026-01-01T00:00:{second:02}.500000Z",
    }
    return json.dumps(content | ({"objectRef": reference} if reference else {}), separators=(",", ":")) + "\n"


def test_each_request_counts_once_and_others_do_not() -> None:
    lines = [
        entry("watch", "ResponseStarted", resource="pods"),
        entry("watch", "ResponseComplete", resource="pods"),
        entry("patch", "ResponseComplete", resource="modeldeployments", subresource="status"),
        entry("update", "ResponseComplete", resource="leases", user="somebody"),
        entry("get", "ResponseComplete"),
        entry("patch", "ResponseComplete", resource="pods")[:40],
    ]
    found = list(parse(lines, USER))
    assert [(request.verb, request.resource, request.writes) for request in found] == [
        ("watch", "pods", False),
        ("patch", "modeldeployments/status", True),
        ("get", "/version", False),
    ]
    assert summary(found[:2]) == "1 watch pods, 1 patch modeldeployments/status"
    assert summary([]) == "none"


def test_only_the_window_counts_in_the_log_and_what_was_rotated_out_of_it(tmp_path: Path) -> None:
    lines = [entry("patch", "ResponseComplete", second=second, resource="pods") for second in range(4)]
    (tmp_path / "audit-2026-01-01T00-00-02.000.log").write_text("".join(lines[:2]))
    (tmp_path / "audit.log").write_text("".join(lines[2:]))
    began = next(parse(lines[1:], USER)).at
    for path in tmp_path.iterdir():
        os.utime(path, (began + 60, began + 60))
    found = requests_of(tmp_path, USER, since=began, until=began + 2)
    assert sorted(found, key=lambda request: request.at) == [
        Request(began, "patch", "pods"),
        Request(began + 1, "patch", "pods"),
    ]
