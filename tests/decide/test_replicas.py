"""Step 4: how many replicas the load calls for."""

from dataclasses import dataclass, replace

import pytest

from modelfleet.decide.capacity import Capacity, CapacitySource
from modelfleet.decide.demand import Demand
from modelfleet.decide.forecast import Load
from modelfleet.decide.replicas import MOST_REPLICAS, Measure, Need, need, replicas
from tests.builders import carries, load_of, total

A_HUNDRED = carries(100)
WITH_ROOM = carries(100, running=32)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A load, the replicas asked for, and what it calls for."""

    demand: Demand
    current: int
    want: int
    measure: Measure
    capacity: Capacity = A_HUNDRED
    backlog: float = 0.0
    queue_falls: bool = False
    within_tolerance: bool = False
    pace: float | None = None
    planned: float | None = None


CASES = {
    # --- by tokens
    "250 tokens/s at 100 each need three": Case(
        demand=load_of(tokens=250, running=9), current=1, want=3, measure=Measure.TOKENS
    ),
    "exactly three need three": Case(demand=load_of(tokens=300, running=9), current=1, want=3, measure=Measure.TOKENS),
    "one token more needs four": Case(demand=load_of(tokens=301, running=9), current=1, want=4, measure=Measure.TOKENS),
    "backlog counts like load": Case(
        demand=load_of(tokens=100, running=9), backlog=150, current=1, want=3, measure=Measure.TOKENS
    ),
    "less load, fewer replicas": Case(
        demand=load_of(ready=5, tokens=150, running=9), current=5, want=2, measure=Measure.TOKENS
    ),
    "an idle deployment wants none": Case(demand=load_of(ready=3), current=3, want=0, measure=Measure.TOKENS),
    # --- by running requests
    "full batches call for more before a queue forms": Case(
        demand=load_of(ready=2, tokens=150, running=96),
        current=2,
        capacity=carries(100, running=32),
        want=3,
        measure=Measure.RUNNING,
    ),
    "running requests are a measure where tokens are none": Case(
        demand=load_of(ready=4, tokens=150, running=30),
        current=4,
        capacity=carries(None, running=32),
        want=1,
        measure=Measure.RUNNING,
    ),
    # --- by queue
    "17 waiting at 8 tolerated need three, and two would never drain": Case(
        demand=load_of(ready=1, queue=17, running=9), current=1, want=3, measure=Measure.QUEUE
    ),
    "the queue asks for four more than serve, at most": Case(
        demand=load_of(ready=1, queue=4000, running=9), current=1, want=5, measure=Measure.QUEUE
    ),
    "or for twice what serves": Case(
        demand=load_of(ready=10, queue=4000, running=9), current=10, want=20, measure=Measure.QUEUE
    ),
    "replicas that start do not raise what the queue may ask": Case(
        demand=load_of(ready=1, queue=4000, running=9), current=5, want=5, measure=Measure.QUEUE, within_tolerance=True
    ),
    "a queue that falls says that help has come": Case(
        demand=load_of(ready=10, queue=4000, running=9),
        current=12,
        queue_falls=True,
        want=12,
        measure=Measure.QUEUE,
        within_tolerance=True,
    ),
    "so do the full batches that work it off": Case(
        demand=load_of(ready=10, queue=4000, running=320),
        current=12,
        capacity=carries(100, running=16),
        queue_falls=True,
        want=12,
        measure=Measure.RUNNING,
        within_tolerance=True,
    ),
    "tokens may still ask while the queue falls": Case(
        demand=load_of(ready=10, queue=4000, running=9, tokens=2000),
        current=12,
        queue_falls=True,
        want=20,
        measure=Measure.TOKENS,
    ),
    # --- tolerance
    "8 % more changes nothing": Case(
        demand=load_of(ready=10, tokens=1080, running=9),
        current=10,
        want=10,
        measure=Measure.TOKENS,
        within_tolerance=True,
    ),
    "12 % more does": Case(
        demand=load_of(ready=10, tokens=1120, running=9), current=10, want=12, measure=Measure.TOKENS
    ),
    "10 % less changes nothing": Case(
        demand=load_of(ready=10, tokens=900, running=9),
        current=10,
        want=10,
        measure=Measure.TOKENS,
        within_tolerance=True,
    ),
    "15 % less does": Case(demand=load_of(ready=10, tokens=850, running=9), current=10, want=9, measure=Measure.TOKENS),
    "from zero there is no tolerance": Case(
        demand=load_of(tokens=5, running=1), current=0, want=1, measure=Measure.TOKENS
    ),
    # --- what is not known takes nothing away
    "partial signals add": Case(
        demand=load_of(ready=3, known=2, tokens=800, running=9), current=3, want=8, measure=Measure.TOKENS
    ),
    "partial signals never remove": Case(
        demand=load_of(ready=5, known=4, tokens=150, running=9), current=5, want=5, measure=Measure.PARTIAL
    ),
    "partial signals that show nothing at all never remove": Case(
        demand=load_of(ready=5, known=4), current=5, want=5, measure=Measure.PARTIAL
    ),
    "a queue longer than tolerated holds a shrink": Case(
        demand=load_of(ready=3, queue=25, tokens=150, running=9), current=5, want=5, measure=Measure.QUEUE_HOLDS
    ),
    "a queue as long as tolerated does not": Case(
        demand=load_of(ready=3, queue=24, tokens=150, running=9), current=5, want=3, measure=Measure.QUEUE
    ),
    "capacity unknown and busy: hold": Case(
        demand=load_of(ready=3, tokens=9000, running=9),
        current=3,
        capacity=carries(None),
        want=3,
        measure=Measure.CAPACITY_UNKNOWN,
    ),
    "capacity unknown and one request runs: hold": Case(
        demand=load_of(ready=3, running=1), current=3, capacity=carries(None), want=3, measure=Measure.CAPACITY_UNKNOWN
    ),
    "capacity unknown and a queue: the queue says that help is late": Case(
        demand=load_of(ready=1, queue=17, running=9),
        current=1,
        capacity=carries(None),
        want=3,
        measure=Measure.QUEUE,
    ),
    "capacity unknown and idle: none are needed": Case(
        demand=load_of(ready=3), current=3, capacity=carries(None), want=0, measure=Measure.TOKENS
    ),
    "capacity unknown and partly silent: that is not idle": Case(
        demand=load_of(ready=3, known=2), current=3, capacity=carries(None), want=3, measure=Measure.CAPACITY_UNKNOWN
    ),
    # --- by the time between tokens
    "replicas filled with work for 2.4 of them need three, at 80 % each": Case(
        demand=load_of(ready=2, tokens=90, running=9), pace=2.4, current=2, want=3, measure=Measure.LATENCY
    ),
    "a pace needs no target": Case(
        demand=load_of(ready=2, tokens=90, running=9),
        capacity=carries(None),
        pace=2.5,
        current=2,
        want=4,
        measure=Measure.LATENCY,
    ),
    # --- by forecast
    "a forecast decides instead of the present load": Case(
        demand=load_of(ready=2, tokens=500, running=9),
        pace=4.0,
        planned=2.9,
        current=2,
        want=3,
        measure=Measure.FORECAST,
    ),
    "a queue that is too long still asks for help": Case(
        demand=load_of(ready=2, queue=40, running=9), pace=2.0, planned=2.9, current=2, want=5, measure=Measure.QUEUE
    ),
    "a tenth of a replica over is no replica more": Case(
        demand=load_of(ready=3, running=9),
        pace=2.0,
        planned=3.1,
        current=3,
        want=3,
        measure=Measure.FORECAST,
        within_tolerance=True,
    ),
    "one replica less needs another half of one": Case(
        demand=load_of(ready=4, running=9),
        pace=2.0,
        planned=2.6,
        current=4,
        want=4,
        measure=Measure.FORECAST,
        within_tolerance=True,
    ),
    "where there are two, another quarter": Case(
        demand=load_of(ready=2, running=3), pace=0.5, planned=0.74, current=2, want=1, measure=Measure.FORECAST
    ),
    "and no less": Case(
        demand=load_of(ready=2, running=3),
        pace=0.5,
        planned=0.76,
        current=2,
        want=2,
        measure=Measure.FORECAST,
        within_tolerance=True,
    ),
    "the last one stays": Case(
        demand=load_of(ready=1, running=0),
        pace=0.0,
        planned=0.0,
        current=1,
        want=1,
        measure=Measure.FORECAST,
        within_tolerance=True,
    ),
    "two and a half less go": Case(
        demand=load_of(ready=5, running=9), pace=2.0, planned=2.5, current=5, want=3, measure=Measure.FORECAST
    ),
    "a forecast removes nothing while signals are partial": Case(
        demand=load_of(ready=5, known=4, running=9), pace=2.0, planned=2.5, current=5, want=5, measure=Measure.PARTIAL
    ),
    # --- nonsense stays a number
    "an engine that counts 10^15 requests": Case(
        demand=load_of(tokens=1e15, running=1e15),
        current=1,
        capacity=carries(1e-9, running=1.0),
        want=MOST_REPLICAS,
        measure=Measure.TOKENS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wanted(name: str) -> None:
    """The largest measure decides; what is unknown never takes a replica away."""
    case = CASES[name]
    wanted = replicas(
        case.demand,
        need(
            case.demand,
            Load(case.demand.output_tokens_per_second.value, 0.0, case.backlog),
            case.capacity,
            load_in_replicas=case.pace,
            queue_growth_per_second=0.0,
        ),
        complete=case.demand.complete,
        planned=case.planned,
        current=case.current,
        queue_tolerated=8,
        queue_falls=case.queue_falls,
        tolerance=0.1,
    )
    expected = (case.want, case.measure, case.within_tolerance)
    actual = (wanted.replicas, wanted.measure, wanted.within_tolerance)

    assert expected == actual


def test_a_queue_in_one_engine_asks_for_one_replica_more_and_holds_no_others() -> None:
    """Requests that wait in an engine stay there: ten idle replicas beside it do not help them."""
    stuck = replace(load_of(ready=11, queue=2000, running=100), queues=(2000.0, *[0.0] * 10))
    everywhere = load_of(ready=11, queue=2000, running=100)

    assert _count(stuck, current=11) == 3
    assert _count(everywhere, current=11) == 22


def _count(demand: Demand, *, current: int) -> int:
    return replicas(
        demand,
        need(demand, Load(0.0, 0.0, 0.0), carries(None), load_in_replicas=2.0, queue_growth_per_second=0.0),
        complete=True,
        planned=2.5,
        current=current,
        queue_tolerated=8,
        queue_falls=False,
        tolerance=0.1,
    ).replicas


def test_the_facts_are_kept() -> None:
    """What an explanation prints is what the count was computed from."""
    demand = load_of(ready=2, queue=12, running=40, tokens=150)
    wanted = replicas(
        demand,
        need(
            demand, Load(150.0, 30.0, 20.0), carries(100, running=32), load_in_replicas=1.0, queue_growth_per_second=0.0
        ),
        complete=True,
        planned=None,
        current=2,
        queue_tolerated=8,
        queue_falls=False,
        tolerance=0.1,
    )
    actual = (wanted.by_tokens, wanted.by_running, wanted.by_queue, wanted.by_latency)

    assert actual == (2.0, 1.25, 1.5, 1.25)


@pytest.mark.parametrize(
    ("pace", "running", "want"),
    [
        pytest.param(3.0, 80, 3.0, id="where steps grow long first, the pace is the load"),
        pytest.param(1.0, 80, 2.0, id="where the batch fills first, its places are"),
        pytest.param(None, 80, 2.0, id="so where no token came yet"),
    ],
)
def test_the_load_is_what_binds_first(pace: float | None, running: float, want: float) -> None:
    """80 running at 32 each, target 80 % of it, are two and a half replicas to the target and two to the full."""
    assert _need(running=running, pace=pace).full_replicas == pytest.approx(want)


def test_throughput_is_no_capacity_where_the_pace_is_told() -> None:
    """900 tokens/s at a measured 100 a replica: where prompts decided what was measured, nine would be far too many."""
    measured = replace(WITH_ROOM, source=CapacitySource.MEASURED)

    assert _need(tokens=900, pace=1.0, capacity=measured).by_tokens is None
    assert _need(tokens=900, pace=1.0, capacity=measured).full_replicas == pytest.approx(2.0)
    assert _need(tokens=900, pace=None, capacity=measured).by_tokens == 9.0
    assert _need(tokens=900, pace=1.0).by_tokens == 9.0  # the spec's word stands


@pytest.mark.parametrize(
    ("growth", "finished", "want"),
    [
        pytest.param(2.0, 8.0, 100.0, id="a quarter more arrives than finishes: a quarter more places"),
        pytest.param(-2.0, 8.0, 80.0, id="a queue that shrinks takes none away"),
        pytest.param(90.0, 8.0, 160.0, id="at most as many again"),
        pytest.param(90.0, 0.0, 80.0, id="none finished yet"),
        pytest.param(2.0, None, 80.0, id="not all tell what finished"),
    ],
)
def test_what_arrives_beyond_what_finishes_asks_for_places_too(
    growth: float, finished: float | None, want: float
) -> None:
    """80 requests run; by Little's law those that find no place would run as long."""
    assert _need(growth=growth, finished=finished).asking == pytest.approx(want)


def _need(
    *,
    running: float = 80,
    tokens: float = 100,
    pace: float | None = 1.0,
    growth: float = 0.0,
    finished: float | None = 8.0,
    capacity: Capacity = WITH_ROOM,
) -> Need:
    demand = load_of(ready=4, running=running, tokens=tokens)
    told = total(8.0, of=4, known=3) if finished is None else total(finished, of=4, known=4)
    return need(
        replace(demand, finished_requests_per_second=told),
        Load(tokens, 0.0, 0.0),
        capacity,
        load_in_replicas=pace,
        queue_growth_per_second=growth,
    )
