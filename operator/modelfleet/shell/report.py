"""Status and events, written on change only.

A change of the headline (desired, ready, conditions) is written at once. What merely measures (load,
wanted, the record of the decision) is written when it moved noticeably, at most every 30 s, and under
load every half hour. At rest four writes a day say what the hours were like.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from modelfleet.adapters.kubernetes import Conflict, Json, Kubernetes, KubernetesError, NotFound, Refused
from modelfleet.api.conditions import ConditionType, Limit
from modelfleet.api.meta import API_VERSION, FIELD_MANAGER, Key
from modelfleet.api.modeldeployment import ModelDeploymentStatus
from modelfleet.decide.explain import Headline, headline, judge, status, unblock
from modelfleet.decide.history import Memory
from modelfleet.decide.lookback import FIRST_CHOICE
from modelfleet.decide.plan import Decision, Facts, Plan
from modelfleet.decide.snapshot import Observed, Snapshot
from modelfleet.shell import telemetry
from modelfleet.shell.events import Event
from modelfleet.shell.lease import Leadership
from modelfleet.shell.mirror import Mirror

GAUGE_SECONDS = 30.0
"""Shortest time between two writes that only bring measurements up to date."""
NOTICEABLE = 0.15
"""A measurement that moved by less than this fraction is not worth a write."""
LEARNED_SECONDS = 1800.0
"""Under load a status is written at least this often: what was learned since is what a restart would forget..."""
LEARNED_AT_REST_SECONDS = 6 * 3600.0
"""...and this often at rest: that a weekend was quiet is worth knowing too."""
WRITES_A_ROUND = 200
"""Status writes started in one tick; the rest follow in the next ones, oldest news first."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gauges:
    """What a status write measures; compared with tolerance."""

    wanted: int
    limited_by: Limit
    queued_requests: float
    output_tokens_per_second: float
    complete: bool
    choice: tuple[int, int] = FIRST_CHOICE


@dataclass(frozen=True, slots=True)
class Written:
    """What the status says."""

    uid: str
    headline: Headline
    gauges: Gauges
    at: float


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """One status to write."""

    observed: Observed
    decision: Decision
    memory: Memory
    headline: Headline
    gauges: Gauges


@dataclass(frozen=True, slots=True)
class StatusOutcome:
    """What became of a status write: the events that go with it, or that it should be tried again."""

    events: tuple[Event, ...] = ()
    retry: bool = False


class Reporter:
    """Knows what every status says and what has to be said anew."""

    def __init__(self, kubernetes: Kubernetes, mirror: Mirror, leadership: Leadership) -> None:
        """Prepare."""
        self._kubernetes = kubernetes
        self._mirror = mirror
        self._leadership = leadership
        self._written: dict[Key, Written] = {}

    def due(self, snapshot: Snapshot, plan: Plan) -> list[StatusWrite]:
        """Return the statuses that have to be written now."""
        alive = {observed.key for observed in snapshot.deployments}
        for key in self._written.keys() - alive:
            del self._written[key]
        return [write for _, write in zip(range(WRITES_A_ROUND), self._stale(snapshot, plan), strict=False)]

    def _stale(self, snapshot: Snapshot, plan: Plan) -> Iterator[StatusWrite]:
        for observed in snapshot.deployments:
            decision = plan.decisions[observed.key]
            news, gauges = headline(observed, decision), _gauges(decision)
            written = self._written.get(observed.key)
            if written is not None and written.uid == observed.uid and written.headline == news:
                if not outdated(written.gauges, gauges, age_seconds=snapshot.taken_at - written.at):
                    continue
            elif written is None and _may_still_hold(observed, decision, plan.history[observed.key], snapshot):
                continue
            yield StatusWrite(observed, decision, plan.history[observed.key], news, gauges)

    async def write(self, item: StatusWrite, *, now: float) -> StatusOutcome:
        """Write one status where it says something new."""
        observed = item.observed
        record = self._mirror.deployments.get(observed.key)
        if record is None or record.uid != observed.uid or not self._leadership.held():
            return StatusOutcome()
        previous = record.status()
        told = self._written.get(observed.key)
        new = status(observed, item.decision, item.memory, previous=previous, now=now)
        if told is None and previous is not None and _says_the_same(previous, new):
            # After a restart: the status that an earlier process wrote still holds.
            decided_at = previous.decision.decided_at.timestamp() if previous.decision is not None else now
            self._remember(item, min(now, decided_at))
            return StatusOutcome()
        manifest: Json = {
            "apiVersion": API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": observed.key.name, "namespace": observed.key.namespace, "uid": observed.uid},
            "status": new.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        try:
            answer = await self._kubernetes.apply(manifest, field_manager=FIELD_MANAGER, subresource="status")
        except (NotFound, Conflict):
            return StatusOutcome()  # deleted, or made anew, meanwhile
        except Refused as error:
            log.error("the API server refused a status", deployment=str(observed.key), error=str(error))
            self._remember(item, now)
            return StatusOutcome()
        except KubernetesError as error:
            log.warning("status not written; retrying", deployment=str(observed.key), error=str(error))
            return StatusOutcome(retry=True)
        telemetry.STATUS_WRITES.inc()
        self._mirror.model_deployment("MODIFIED", answer)
        self._remember(item, now)
        events = _events(observed, item.decision, told.headline if told else None)
        waits = Limit.RECLAIM == item.gauges.limited_by != (told.gauges.limited_by if told else Limit.NONE)
        return StatusOutcome((*events, *((_waits(observed, item.decision),) if waits else ())))

    def _remember(self, item: StatusWrite, now: float) -> None:
        self._written[item.observed.key] = Written(item.observed.uid, item.headline, item.gauges, now)


def _events(observed: Observed, decision: Decision, before: Headline | None) -> Iterator[Event]:
    """Yield an event for each condition that turned for the worse, or back."""
    if before is None:
        return
    old = {type_: truth for type_, truth, _ in before.truths}
    for verdict in judge(observed, decision):
        was = old.get(verdict.type)
        if was == verdict.status or verdict.type not in {ConditionType.READY, ConditionType.METRICS_FRESH}:
            continue
        bad = verdict.status == "False"
        if not bad and was != "False":
            continue
        yield Event(
            key=observed.key,
            uid=observed.uid,
            type="Warning" if bad and verdict.reason not in {"Starting", "RollingOut"} else "Normal",
            reason=verdict.reason.value,
            action="Observe",
            note=f"{verdict.type}={verdict.status}: {verdict.message}",
        )


def _waits(observed: Observed, decision: Decision) -> Event:
    """Return the event that tells a team whose GPUs others give back by when."""
    note = f"{decision.desired} of {decision.wanted} replicas; waiting for {unblock(observed, decision)}"
    return Event(observed.key, observed.uid, "Normal", Limit.RECLAIM.value, "Allocate", note)


def _gauges(decision: Decision) -> Gauges:
    facts = decision.facts
    if not isinstance(facts, Facts):
        return Gauges(decision.wanted, decision.limited_by, -1.0, -1.0, complete=False)
    demand = facts.demand
    return Gauges(
        decision.wanted,
        decision.limited_by,
        demand.queued_requests.value,
        demand.output_tokens_per_second.value,
        demand.complete,
        facts.lookback.choice,
    )


def _may_still_hold(observed: Observed, decision: Decision, memory: Memory, snapshot: Snapshot) -> bool:
    """Return whether an earlier process's status may still be right, for all that is known by now.

    Rates need two samples. Until the signals could have come, a status written from less than all of
    them would say that metrics are missing, and one tick later that they are not.
    """
    known = isinstance(decision.facts, Facts) and decision.facts.demand.complete
    new_here = snapshot.taken_at - memory.since < snapshot.metrics_max_age_seconds
    return observed.recorded_desired is not None and observed.fault is None and not known and new_here


def outdated(old: Gauges, new: Gauges, *, age_seconds: float) -> bool:
    """Return whether a status that is so old, and whose headline still holds, is worth writing anew."""
    if age_seconds < GAUGE_SECONDS:
        return False
    idle = new.output_tokens_per_second <= 0.0
    return _noticeably_different(old, new) or age_seconds >= (LEARNED_AT_REST_SECONDS if idle else LEARNED_SECONDS)


def _noticeably_different(old: Gauges, new: Gauges) -> bool:
    if (old.wanted, old.limited_by, old.complete, old.choice) != (
        new.wanted,
        new.limited_by,
        new.complete,
        new.choice,
    ):
        return True
    return _moved(old.queued_requests, new.queued_requests, 2.0) or _moved(
        old.output_tokens_per_second, new.output_tokens_per_second, 5.0
    )


def _moved(old: float, new: float, least: float) -> bool:
    return abs(new - old) > max(least, NOTICEABLE * abs(old))


def _says_the_same(old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> bool:
    def gist(value: ModelDeploymentStatus) -> tuple[object, ...]:
        return (
            value.observed_generation,
            value.replicas,
            value.ready_replicas,
            value.desired_replicas,
            value.reason,
            tuple((c.type, c.status, c.reason, c.observed_generation) for c in value.conditions),
        )

    return gist(old) == gist(new)
