"""ModelDeployment: one model that a team wants served."""

from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import Field, StringConstraints, field_validator, model_validator

from modelfleet.api.conditions import Condition
from modelfleet.api.meta import Count, Generation, Model, Name

Seconds = Annotated[int, Field(ge=0, le=86_400)]
Replicas = Annotated[int, Field(ge=1, le=1_000)]


PRE_STOP_SECONDS = 5
"""Between a pod's deletion and SIGTERM: time for every proxy to stop sending it new requests."""
GRACE_MARGIN_SECONDS = 10
"""What a pod's grace period has beyond its draining: the container still has to end."""


def pre_stop_seconds(drain_seconds: int, *, drains_on_sigterm: bool) -> int:
    """Return how long a pod's stop is delayed: where the server does not drain by itself, for the whole drain."""
    return PRE_STOP_SECONDS if drains_on_sigterm else max(1, drain_seconds)


def grace_seconds(drain_seconds: int, *, drains_on_sigterm: bool) -> int:
    """Return a pod's grace period: the longest time from its deletion until it is gone."""
    delay_seconds = pre_stop_seconds(drain_seconds, drains_on_sigterm=drains_on_sigterm)
    return delay_seconds + drain_seconds + GRACE_MARGIN_SECONDS


@cache
def longest_grace_seconds(drain_seconds: int) -> int:
    """Return the longest grace period that a pod has with this drain, whatever its engine."""
    return max(grace_seconds(drain_seconds, drains_on_sigterm=drains) for drains in (True, False))


class Mode(StrEnum):
    """What the operator may do with its own decision. The pauses are KEDA's."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    PAUSED = "Paused"
    PAUSED_SCALE_IN = "PausedScaleIn"
    PAUSED_SCALE_OUT = "PausedScaleOut"


class ServedModel(Model):
    """The model, its revision and where its weights come from."""

    name: Annotated[
        str,
        StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$"),
    ]
    """Hugging Face repository or path inside the image, for example meta-llama/Llama-3.1-8B-Instruct."""
    revision: Annotated[
        str,
        StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$"),
    ] = "main"
    """Branch, tag or commit of the repository. A commit makes replicas identical."""
    cache_claim_name: Name | None = None
    """PersistentVolumeClaim in this namespace, mounted as the model cache."""
    token_secret_name: Name | None = None
    """Secret in this namespace whose key `token` is the Hugging Face token; of a NIM, the NGC API key."""


class Targets(Model):
    """How much load one replica should carry."""

    queued_requests: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Waiting requests per ready replica that are tolerated before replicas are added. Where a forecast decides: what
    a replica works off in a second, if that is more."""
    output_tokens_per_second: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Generated tokens per second that one replica should carry. When absent: 80 % of what a replica was
    measured to sustain, or of the runtime's prior."""
    inter_token_milliseconds: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Longest mean time between two tokens of an answer that is wanted. Replicas are added before the load
    lengthens it beyond this."""


class ScalingPolicy(Model):
    """How fast replicas may change, as in HorizontalPodAutoscaler."""

    type: Literal["Pods", "Percent"]
    """Pods counts replicas; Percent is relative to the replicas at the period's start."""
    value: Annotated[int, Field(ge=1, le=10_000)]
    """Most change in one period."""
    period_seconds: Annotated[int, Field(ge=1, le=1_800)]
    """Length of the period."""


WATCH_SECONDS = 300
"""HorizontalPodAutoscaler's window of scaling down."""


class ScalingRules(Model):
    """Damping in one direction, as in HorizontalPodAutoscaler."""

    policies: Annotated[tuple[ScalingPolicy, ...], Field(min_length=1, max_length=4)]
    """Rate limits; the one that permits the most change applies."""
    enabled: bool = True
    """False forbids this direction."""


class ScaleUp(ScalingRules):
    """Damping of growth. Default: at once, at most doubling or 4 replicas in 15 s."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3_600)] = 0
    """Past recommendations considered; the lowest of them wins."""
    policies: Annotated[tuple[ScalingPolicy, ...], Field(min_length=1, max_length=4)] = (
        ScalingPolicy(type="Percent", value=100, period_seconds=15),
        ScalingPolicy(type="Pods", value=4, period_seconds=15),
    )
    """Rate limits; the one that permits the most change applies."""


class ScaleDown(ScalingRules):
    """Damping of shrinking, by default to at most half of the replicas, or by one, in 60 s."""

    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3_600)] | None = None
    """Past recommendations considered; the highest of them wins. Unset: as long as a pod takes to start (P90) where a
    forecast decides, for it holds a load's peaks itself; else 300."""
    policies: Annotated[tuple[ScalingPolicy, ...], Field(min_length=1, max_length=4)] = (
        ScalingPolicy(type="Percent", value=50, period_seconds=60),
        ScalingPolicy(type="Pods", value=1, period_seconds=60),
    )
    """Rate limits; the one that permits the most change applies."""

    @property
    def watch_seconds(self) -> int:
        """For how long the operator watches before it shrinks: the window, or 300 where it is unset."""
        return WATCH_SECONDS if self.stabilization_window_seconds is None else self.stabilization_window_seconds


class Behavior(Model):
    """Damping, in HorizontalPodAutoscaler's words."""

    scale_up: ScaleUp = ScaleUp()
    """Damping of growth."""
    scale_down: ScaleDown = ScaleDown()
    """Damping of shrinking."""
    tolerance_percent: Annotated[int, Field(ge=0, le=50)] = 10
    """Load within this distance of the target changes nothing until a minute of it was seen, and always with
    outputTokensPerSecond."""


Cron = Annotated[
    str, StringConstraints(min_length=9, max_length=64, pattern=r"^[0-9A-Za-z*,/#-]+( [0-9A-Za-z*,/#-]+){4}$")
]


# No date-time: of that format the API server takes a list too.
Moment = Annotated[
    str,
    StringConstraints(
        min_length=20,
        max_length=20,
        pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$",
    ),
]


class Schedule(Model):
    """Other bounds at certain hours, as in KEDA's cron trigger: from each time of `start` to the next of `end`."""

    name: Name
    """What the columns and the record call it."""
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")] = "UTC"
    """IANA time zone of start and end, for example Europe/Berlin. Clock changes are the zone's."""
    start: Cron
    """When the bounds begin to hold, in five cron fields: minute, hour, day of month, month, day of week."""
    end: Cron
    """When they cease to, likewise."""
    min_replicas: Replicas | None = None
    """Instead of scaling.minReplicas. When absent: that one."""
    max_replicas: Replicas | None = None
    """Instead of scaling.maxReplicas. When absent: that one."""

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"no time zone {zone!r}; name one of IANA's, for example Europe/Berlin") from error
        return zone

    @field_validator("start", "end")
    @classmethod
    def _cron_can_be_read(cls, cron: str) -> str:
        try:
            CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(f"{cron!r} is no cron expression ({error}); for example '0 8 * * mon-fri'") from error
        return cron

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.min_replicas is None and self.max_replicas is None:
            raise ValueError("minReplicas or maxReplicas must be given")
        if self.start == self.end:
            raise ValueError("start and end must differ")
        return self


class Scaling(Model):
    """Bounds, targets and damping of the replica count."""

    min_replicas: Replicas = 1
    """Fewest replicas. `kubectl scale` sets this floor."""
    max_replicas: Replicas = 4
    """Most replicas."""
    schedules: Annotated[tuple[Schedule, ...], Field(max_length=8)] = ()
    """Other bounds at certain hours. Where several hold at once, the largest minReplicas and the smallest
    maxReplicas of them do; maxReplicas wins over minReplicas."""
    targets: Targets = Targets()
    """How much load one replica should carry."""
    latency_weight: Annotated[int, Field(ge=1, le=1_000)] = 30
    """What latency is worth against GPUs: the replica-seconds worth spending to serve one replica-second of load
    in time. 10 saves GPUs, 100 keeps reserves for bursts."""
    behavior: Behavior = Behavior()
    """Damping."""
    mode: Mode = Mode.AUTO
    """Auto scales. Recommend decides and reports but does not scale. Paused leaves the replicas as they are;
    PausedScaleIn only adds, PausedScaleOut only removes."""
    mode_until: Moment | None = None
    """When the mode ends by itself and the operator goes on as with Auto: a time in UTC, for example
    2030-01-01T12:00:00Z. When absent: never."""

    @field_validator("mode_until")
    @classmethod
    def _day_exists(cls, moment: str | None) -> str | None:
        if moment is not None:
            datetime.fromisoformat(moment)
        return moment

    @model_validator(mode="after")
    def _min_within_max(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas must not be greater than maxReplicas")
        for schedule in self.schedules:
            most = schedule.max_replicas or self.max_replicas
            if schedule.min_replicas is not None and schedule.min_replicas > most:
                raise ValueError(
                    f"schedules: minReplicas of {schedule.name} must not be greater than maxReplicas {most}"
                )
        return self

    @model_validator(mode="after")
    def _each_schedule_has_its_name(self) -> Self:
        if len({schedule.name for schedule in self.schedules}) < len(self.schedules):
            raise ValueError("schedules must not have one name twice")
        return self


class ModelDeploymentSpec(Model):
    """What a team asks for."""

    model: ServedModel
    """The model to serve."""
    runtime: Name
    """Name of an InferenceRuntime."""
    accelerator: Name
    """Name of an AcceleratorClass. Fixed while replicas exist."""
    gpus_per_replica: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs of one replica, all on one node; also its tensor-parallel size."""
    scaling: Scaling = Scaling()
    """Bounds, targets and damping."""
    priority: Annotated[int, Field(ge=-1_000, le=1_000)] = 0
    """Who gets GPUs first when they are short. Lower ones of the same Tenant drain for a higher one; without Tenants,
    those of any namespace."""
    drain_seconds: Annotated[int, Field(ge=0, le=3_600)] = 120
    """Longest time a replica may take to finish its streams before it is stopped."""
    start_timeout_seconds: Annotated[int, Field(ge=30, le=14_400)] = 1_800
    """Longest time a replica may take from container start to ready, weights download included."""


class SignalStatus(Model):
    """One signal as the decision saw it: a value, or why there is none."""

    name: Annotated[str, StringConstraints(max_length=64)]
    """Name with its unit."""
    value: Annotated[str, StringConstraints(max_length=32)] | None = None
    """Its value; absent when missing."""
    age_seconds: Count | None = None
    """Age of its oldest sample."""
    missing: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Why there is no value."""


class StepStatus(Model):
    """One step of the decision: the replica count after it, and what bound it."""

    name: Annotated[str, StringConstraints(max_length=32)]
    """Step, in the order they ran."""
    replicas: Count
    """Replica count after the step."""
    limited_by: Annotated[str, StringConstraints(max_length=32)] | None = None
    """What bound it, absent when nothing did."""
    detail: Annotated[str, StringConstraints(max_length=256)] | None = None
    """The arithmetic."""


class DecisionStatus(Model):
    """The record of the last decision that changed."""

    decided_at: datetime
    """When this record was written."""
    signals: Annotated[tuple[SignalStatus, ...], Field(max_length=16)] = ()
    """What was seen."""
    steps: Annotated[tuple[StepStatus, ...], Field(max_length=16)] = ()
    """What was concluded, step by step; the last is the outcome."""
    unblock: Annotated[str, StringConstraints(max_length=512)] = ""
    """What would let the replicas that are wanted exist."""
    next_change_at: datetime | None = None
    """Next moment at which time alone may change the outcome; absent when only the load or somebody can."""
    next_change: Annotated[str, StringConstraints(max_length=256)] = ""
    """What happens then."""


class PastStatus(Model):
    """One change of the past."""

    at: datetime
    """When it was written."""
    queued_requests: Count | None = None
    """Waiting requests; absent when unknown."""
    output_tokens_per_second: Count | None = None
    """Generated tokens per second; absent when unknown."""
    wanted: Count
    """Replicas the load alone called for."""
    desired: Count
    """Replicas asked for."""
    ready: Count
    """Pods that served."""
    limited_by: Annotated[str, StringConstraints(max_length=32)] = ""
    """What kept desired from wanted."""
    reason: Annotated[str, StringConstraints(max_length=64)] = ""
    """One word for the state."""


class DayPeakStatus(Model):
    """The highest load that a forecast saw within a day."""

    load: Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+$", max_length=16)]
    """In fully used replicas."""
    at: datetime
    """When that was."""


ForecastName = Annotated[str, StringConstraints(max_length=64)]


class LearnedStatus(Model):
    """What was learned about the load, for the next process to begin with."""

    idle_inter_token_microseconds: Count
    """Time between tokens of a replica with next to nothing to do."""
    forecast: ForecastName
    """The forecast that was cheapest on this deployment's own past."""
    margin_percent: Count
    """Replicas for each 100 replicas of forecast load."""
    late_steepness_tenths: Count = 0
    """How steeply lateness grows with a replica's load, times ten: 20 for bursts of seconds, 320 for even loads."""
    forecast_costs: Annotated[
        dict[ForecastName, Annotated[str, StringConstraints(pattern=r"^[0-9]+( [0-9]+)*$", max_length=176)]],
        Field(max_length=16),
    ] = Field(default_factory=dict)
    """What each forecast would have cost with each of the margins, in replica-seconds: old costs count less."""
    day_peaks: Annotated[dict[ForecastName, DayPeakStatus], Field(max_length=16)] = Field(default_factory=dict)
    """The highest load of a day, for each forecast that remembers it."""
    week_slot: Count = 0
    """Until when the load of the last week is known, in steps of two minutes since 1970."""
    week_levels: Annotated[str, StringConstraints(max_length=6752)] = ""
    """The highest load of each two minutes of the last week, as logarithms to base 1.05, deflated, base64."""


class ModelDeploymentStatus(Model):
    """What is, what is wanted, and why they differ."""

    observed_generation: Generation = 0
    """Generation of the spec that this status describes."""
    replicas: Count = 0
    """Pods that exist and are not terminating."""
    ready_replicas: Count = 0
    """Pods that serve."""
    desired_replicas: Count = 0
    """What the operator asks the Deployment for."""
    wanted_replicas: Count = 0
    """What the load alone calls for, before any limit."""
    ready: Annotated[str, StringConstraints(max_length=16)] = ""
    """Ready and existing pods, as READY shows them."""
    load: Annotated[str, StringConstraints(max_length=64)] = ""
    """Queue against what is tolerated, and generated tokens per second."""
    limited_by: Annotated[str, StringConstraints(max_length=32)] = ""
    """What keeps desired from wanted."""
    reason: Annotated[str, StringConstraints(max_length=64)] = ""
    """One word for the state."""
    mode: Annotated[str, StringConstraints(max_length=64)] = ""
    """The mode in force, and until when."""
    bounds: Annotated[str, StringConstraints(max_length=160)] = ""
    """Fewest and most replicas in force, and the schedules that they are of."""
    selector: Annotated[str, StringConstraints(max_length=512)] = ""
    """Label selector of the pods, for the scale subresource."""
    last_scale_time: datetime | None = None
    """When the operator last changed the replica count."""
    output_tokens_per_second_per_replica: Count | None = None
    """What one replica was measured to sustain; absent until one was saturated."""
    learned: LearnedStatus | None = None
    """What was learned about the load; absent until tokens came."""
    decision: DecisionStatus | None = None
    """The arithmetic of the last decision."""
    recent: Annotated[tuple[PastStatus, ...], Field(max_length=20)] = ()
    """Times at which desired or reason changed, oldest first."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Ready, Scaling, MetricsFresh, ScalingLimited."""
