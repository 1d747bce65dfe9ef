"""Events of the events.k8s.io/v1 kind, aggregated: a repetition counts up instead of adding one."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Literal
from uuid import uuid4

import structlog

from modelfleet.adapters.kubernetes import Kubernetes, KubernetesError, resource_path
from modelfleet.api.meta import API_VERSION, FIELD_MANAGER, GROUP, Key

REPEAT_SECONDS = 600.0
"""The same note about the same object within this time is a repetition."""
REMEMBERED = 2_000
NOTE_LENGTH = 1_000

log = structlog.get_logger()


EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling the owner of a ModelDeployment."""

    key: Key
    uid: str
    type: EventType
    reason: str
    action: str
    note: str


@dataclass(slots=True)
class _Sent:
    name: str
    count: int
    at: float


class Recorder:
    """Writes events; a failed one is logged and forgotten, for events are best effort."""

    def __init__(self, kubernetes: Kubernetes, *, identity: str) -> None:
        """Prepare."""
        self._kubernetes = kubernetes
        self._identity = identity
        self._sent: OrderedDict[Event, _Sent] = OrderedDict()

    async def record(self, event: Event) -> None:
        """Write an event, or count up the one that said the same."""
        now = monotonic()
        sent = self._sent.get(event)
        collection = resource_path("events.k8s.io/v1", "Event", namespace=event.key.namespace)
        at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        try:
            if sent is not None and now - sent.at < REPEAT_SECONDS:
                sent.count += 1
                sent.at = now
                series = {"count": sent.count, "lastObservedTime": at}
                await self._kubernetes.merge_patch(f"{collection}/{sent.name}", {"series": series})
                return
            name = f"{event.key.name[:200]}.{uuid4().hex[:12]}"
            self._remember(event, _Sent(name, 1, now))
            await self._kubernetes.create(
                collection,
                {
                    "apiVersion": "events.k8s.io/v1",
                    "kind": "Event",
                    "metadata": {"name": name, "namespace": event.key.namespace},
                    "eventTime": at,
                    "reportingController": f"{GROUP}/operator",
                    "reportingInstance": self._identity[:128],
                    "type": event.type,
                    "reason": event.reason,
                    "action": event.action,
                    "note": event.note[:NOTE_LENGTH],
                    "regarding": {
                        "apiVersion": API_VERSION,
                        "kind": "ModelDeployment",
                        "namespace": event.key.namespace,
                        "name": event.key.name,
                        "uid": event.uid,
                    },
                },
                field_manager=FIELD_MANAGER,
            )
        except KubernetesError as error:
            self._sent.pop(event, None)
            log.warning("event not written", deployment=str(event.key), reason=event.reason, error=str(error))

    def _remember(self, event: Event, sent: _Sent) -> None:
        self._sent[event] = sent
        self._sent.move_to_end(event)
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
