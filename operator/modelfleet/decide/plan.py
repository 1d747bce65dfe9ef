"""What was decided, as values: facts for the explanation, and the writes that follow."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum

from modelfleet.api.conditions import Limit
from modelfleet.api.meta import Key
from modelfleet.decide.admit import Admission, Uncounted
from modelfleet.decide.bounds import InForce
from modelfleet.decide.capacity import Capacity
from modelfleet.decide.demand import Demand
from modelfleet.decide.forecast import Load, input_per_output
from modelfleet.decide.history import Memory, TokenMix
from modelfleet.decide.lookback import Lookback
from modelfleet.decide.pace import Filled
from modelfleet.decide.replicas import Need, Wanted
from modelfleet.decide.shares import Reclaim, Wait
from modelfleet.decide.snapshot import Missing
from modelfleet.decide.value import value


class StepName(StrEnum):
    """The steps that change a replica count, in order."""

    REPLICAS = "replicas"
    STABILIZE = "stabilize"
    BOUNDS = "bounds"
    ADMIT = "admit"
    ALLOCATE = "allocate"
    MODE = "mode"


@value
class Step:
    """The replica count after one step, and what bound it there."""

    name: StepName
    replicas: int
    limited_by: Limit = Limit.NONE


@value
class Facts:
    """What the recommendation was computed from.

    Attributes:
        complete: Whether every ready pod told all of it; else the sums are lower bounds and nothing shrinks.
        token_mix: Prompt and generated tokens of the last minutes.
    """

    demand: Demand
    complete: bool
    capacity: Capacity
    load: Load
    pace: Filled | None
    need: Need
    lookback: Lookback
    wanted: Wanted
    token_mix: TokenMix

    @property
    def input_per_output(self) -> float | Missing:
        """Prompt tokens that come with one generated token, or why that is unknown."""
        return input_per_output(self.token_mix, self.demand)

    @property
    def missing(self) -> str:
        """Why a pod that should report does not; empty when all do."""
        return self.demand.missing or (self.pace.missing if self.pace else "")


@value
class Decision:
    """The outcome for one ModelDeployment, with every fact an explanation needs.

    Attributes:
        current: Replicas asked for before.
        wanted: Replicas the load alone calls for; equals current when the load is unknown.
        desired: Replicas to ask for.
        limited_by: What keeps desired from wanted; Limit.NONE when they are equal.
        steps: Counts after each step.
        facts: What wanted was computed from; Missing when the load is unknown.
        granted: Replicas after the allocation, before the mode: what Auto would ask for.
        admission: What the tenant's token allowance left of its load, or that it is not to be counted; None where no
            allowance binds it.
        waits: Tenants that give back the GPUs it waits for.
        reclaims: What it gives up itself, and for whom.
        in_force: Bounds and mode that it obeyed; None without a spec.
    """

    key: Key
    current: int
    wanted: int
    desired: int
    granted: int
    limited_by: Limit
    steps: tuple[Step, ...]
    facts: Facts | Missing
    admission: Admission | Uncounted | None = None
    waits: tuple[Wait, ...] = ()
    reclaims: tuple[Reclaim, ...] = ()
    in_force: InForce | None = None


@value
class Scale:
    """Ask for another replica count.

    Attributes:
        child_uid: Deployment that this was decided for; another one of the same name is left alone.
        current: Its replicas now.
        replicas: Replicas to ask for.
        victims: Pods that should go first when shrinking, idlest first.
        reverted_from: Field manager whose edit is put back; empty for the operator's own decision.
    """

    _: KW_ONLY
    key: Key
    child_uid: str
    current: int
    replicas: int
    victims: tuple[str, ...] = ()
    reverted_from: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All decisions of one tick, the writes they ask for, and what to remember.

    Attributes:
        scales: In the order to write: what shrinks first, for it frees what others grow into.
    """

    decisions: Mapping[Key, Decision]
    scales: tuple[Scale, ...]
    history: Mapping[Key, Memory]
