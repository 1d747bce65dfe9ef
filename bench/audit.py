"""Who asked the API server for what, from its own audit log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it was received (Unix seconds), its verb and its resource, with the subresource."""

    at: float
    verb: str
    resource: str

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.verb in WRITES


def requests_of(directory: Path, user: str, *, since: float, until: float) -> list[Request]:
    """Return the requests of one user that were received within a time.

    Args:
        directory: Of the audit log and what was rotated out of it.
        user: As audited, for example system:serviceaccount:NAMESPACE:NAME.
        since: Unix seconds; the first moment that counts.
        until: Unix seconds; the first moment that does not.
    """
    found = []
    for path in directory.glob("audit*.log"):
        if path.stat().st_mtime >= since:
            with path.open() as lines:
                found += [request for request in parse(lines, user) if since <= request.at < until]
    return found


def parse(lines: Iterable[str], user: str) -> Iterator[Request]:
    """Yield each request of a user once, whatever stages of it were logged."""
    quoted = json.dumps(user)
    for line in lines:
        if quoted not in line:  # far cheaper than to parse every line of a cluster
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the last line, being written
        # A watch is logged when it begins and when it ends; everything else when it is complete.
        stage = "ResponseStarted" if entry["verb"] == "watch" else "ResponseComplete"
        if entry["user"]["username"] != user or entry["stage"] != stage:
            continue
        target = entry.get("objectRef") or {}
        resource = "/".join(filter(None, (target.get("resource", entry["requestURI"]), target.get("subresource"))))
        yield Request(datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp(), entry["verb"], resource)


def summary(requests: Iterable[Request]) -> str:
    """Return the requests counted by verb and resource, for people."""
    counts = Counter(f"{request.verb} {request.resource}" for request in requests)
    return ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "none"
