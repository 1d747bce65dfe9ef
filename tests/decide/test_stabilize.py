"""Step 5: windows and rates, against tables and against a slow reading of HorizontalPodAutoscaler."""

from dataclasses import dataclass
from math import ceil
from random import Random

import pytest

from modelfleet.api.conditions import Limit
from modelfleet.api.modeldeployment import Behavior, ScalingPolicy
from modelfleet.decide.history import Recommendation, ScaleEvent
from modelfleet.decide.stabilize import remember, remember_events, scale_down_window_seconds, stabilize
from tests.builders import NOW, behavior

DEFAULT = behavior()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recommendation and what is left of it.

    Attributes:
        highest: Scale-down window before this recommendation, as (seconds ago, replicas).
        lowest: Scale-up window, likewise.
        events: Changes asked for, as (seconds ago, change).
    """

    wanted: int
    current: int
    want: int
    limit: Limit = Limit.NONE
    behavior: Behavior = DEFAULT
    highest: tuple[tuple[float, int], ...] = ()
    lowest: tuple[tuple[float, int], ...] = ()
    events: tuple[tuple[float, int], ...] = ()
    decided_for: float = 3600.0


CASES = {
    "as asked for": Case(wanted=3, current=3, want=3),
    # --- rates up
    "one may become five at once": Case(wanted=5, current=1, want=5),
    "one may not become six": Case(wanted=6, current=1, want=5, limit=Limit.SCALE_UP_RATE),
    "ten may double": Case(wanted=40, current=10, want=20, limit=Limit.SCALE_UP_RATE),
    "four were added five seconds ago": Case(wanted=9, current=5, want=5, limit=Limit.SCALE_UP_RATE, events=((5, 4),)),
    "four were added fifteen seconds ago": Case(wanted=9, current=5, want=9, events=((15, 4),)),
    "three were added, one is left": Case(wanted=9, current=4, want=5, limit=Limit.SCALE_UP_RATE, events=((5, 3),)),
    "what was taken in the period may be given back besides": Case(
        wanted=20, current=5, want=12, limit=Limit.SCALE_UP_RATE, events=((5, -1),)
    ),
    "a tenth of three must still move": Case(
        wanted=9, current=3, want=4, limit=Limit.SCALE_UP_RATE, behavior=behavior(up=("10 Percent / 60 s",))
    ),
    "growth is forbidden": Case(
        wanted=9, current=3, want=3, limit=Limit.SCALE_UP_RATE, behavior=behavior(up_enabled=False)
    ),
    # --- rates down
    "half in a minute": Case(wanted=1, current=10, want=5, limit=Limit.SCALE_DOWN_RATE),
    "one at least": Case(wanted=0, current=1, want=0),
    "half of five, rounded down": Case(wanted=0, current=5, want=2, limit=Limit.SCALE_DOWN_RATE),
    "half went already": Case(wanted=1, current=5, want=5, limit=Limit.SCALE_DOWN_RATE, events=((30, -5),)),
    "half went a minute ago": Case(wanted=1, current=5, want=2, limit=Limit.SCALE_DOWN_RATE, events=((60, -5),)),
    "shrinking is forbidden": Case(
        wanted=1, current=5, want=5, limit=Limit.SCALE_DOWN_RATE, behavior=behavior(down_enabled=False)
    ),
    "more than all of them is none": Case(
        wanted=0, current=5, want=0, behavior=behavior(down=("10000 Percent / 60 s",))
    ),
    # --- windows
    "five were wanted four minutes ago": Case(
        wanted=2, current=6, want=5, limit=Limit.SCALE_DOWN_WINDOW, highest=((240, 5),)
    ),
    "more than there are were wanted": Case(
        wanted=2, current=6, want=6, limit=Limit.SCALE_DOWN_WINDOW, highest=((240, 9),)
    ),
    "the window allows what the rate does not": Case(
        wanted=1, current=10, want=5, limit=Limit.SCALE_DOWN_RATE, highest=((240, 2),)
    ),
    "the highest of the window counts": Case(
        wanted=2, current=8, want=7, limit=Limit.SCALE_DOWN_WINDOW, highest=((240, 7), (100, 5), (20, 3))
    ),
    "a scale-up window takes the lowest": Case(
        wanted=6,
        current=2,
        want=3,
        limit=Limit.SCALE_UP_WINDOW,
        behavior=behavior(up_window=60),
        lowest=((50, 3), (10, 5)),
    ),
    "a scale-up window never shrinks": Case(
        wanted=6,
        current=2,
        want=2,
        limit=Limit.SCALE_UP_WINDOW,
        behavior=behavior(up_window=60),
        lowest=((50, 1),),
    ),
    # --- warm-up
    "no shrink before the window has filled once": Case(
        wanted=1, current=5, want=5, limit=Limit.WARM_UP, decided_for=299
    ),
    "growth needs no warm-up": Case(wanted=5, current=1, want=5, decided_for=0),
    "a shrink after it": Case(wanted=4, current=5, want=4, decided_for=300),
    "no window, no warm-up": Case(wanted=4, current=5, want=4, decided_for=0, behavior=behavior(down_window=0)),
    "a clock that stepped back is a warm-up": Case(wanted=1, current=5, want=5, limit=Limit.WARM_UP, decided_for=-600),
}


@pytest.mark.parametrize("name", CASES)
def test_damped(name: str) -> None:
    """Damping returns the count and the one limit that bound it."""
    case = CASES[name]
    own = Recommendation(NOW, case.wanted)
    expected = (case.want, case.limit)
    actual = stabilize(
        case.wanted,
        current=case.current,
        highest=(*(Recommendation(NOW - ago, count) for ago, count in case.highest), own),
        lowest=(*(Recommendation(NOW - ago, count) for ago, count in case.lowest), own),
        events=tuple(ScaleEvent(NOW - ago, change) for ago, change in case.events),
        behavior=case.behavior,
        deciding_since=NOW - case.decided_for,
        now=NOW,
    )

    assert expected == actual


def test_a_steady_load_keeps_one_entry() -> None:
    """A window of 300 s costs one entry while nothing changes, not 300."""
    window: tuple[Recommendation, ...] = ()
    for second in range(1000):
        window = remember(window, 5, now=NOW + second, seconds=300, keep_highest=True)
    expected = (Recommendation(NOW + 999, 5),)
    actual = window

    assert expected == actual


def test_events_outlive_the_longest_period() -> None:
    """A change is remembered as long as a policy can ask for it, and nothing is no change."""
    events = (ScaleEvent(NOW - 60, 1), ScaleEvent(NOW - 59, 2))
    kept = remember_events(events, 0, behavior=DEFAULT, now=NOW)
    added = remember_events(events, -3, behavior=DEFAULT, now=NOW)

    assert kept == (ScaleEvent(NOW - 59, 2),)
    assert added == (ScaleEvent(NOW - 59, 2), ScaleEvent(NOW, -3))


# --- the reference ------------------------------------------------------------------------------


class Hpa:
    """HorizontalPodAutoscaler's damping, read from its source: remembers everything, forgets nothing.

    Every tick looks at every recommendation and every scale event there ever was.
    """

    def __init__(self, rules: Behavior) -> None:
        self.rules = rules
        self.recommendations: list[tuple[float, int]] = []
        self.events: list[tuple[float, int]] = []

    def tick(self, wanted: int, current: int, now: float) -> int:
        """Return the damped count: stabilizeRecommendationWithBehaviors, then the rate."""
        up, down = self.rules.scale_up, self.rules.scale_down
        self.recommendations.append((now, wanted))
        lowest = min(n for at, n in self.recommendations if at > now - up.stabilization_window_seconds or at == now)
        highest = max(n for at, n in self.recommendations if at > now - down.watch_seconds or at == now)
        count = min(max(current, lowest), highest)
        if count > current:
            limits = [self._raised(policy, current, now) for policy in up.policies] if up.enabled else [current]
            count = min(count, max(current, *limits))
        elif count < current:
            limits = [self._lowered(policy, current, now) for policy in down.policies] if down.enabled else [current]
            count = max(count, min(current, *limits))
        if count != current:
            self.events.append((now, count - current))
        return count

    def _start(self, policy: ScalingPolicy, current: int, now: float) -> int:
        since = now - policy.period_seconds
        added = sum(change for at, change in self.events if at > since and change > 0)
        deleted = -sum(change for at, change in self.events if at > since and change < 0)
        return current - added + deleted

    def _raised(self, policy: ScalingPolicy, current: int, now: float) -> int:
        start = self._start(policy, current, now)
        return start + policy.value if policy.type == "Pods" else ceil(start * (1 + policy.value / 100))

    def _lowered(self, policy: ScalingPolicy, current: int, now: float) -> int:
        start = self._start(policy, current, now)
        return start - policy.value if policy.type == "Pods" else int(start * (1 - policy.value / 100))


BEHAVIORS = {
    "default": behavior(),
    "both windows": behavior(up_window=45, down_window=90),
    "no window": behavior(down_window=0),
    "one at a time": behavior(up=("1 Pods / 20 s",), down=("1 Pods / 30 s",), down_window=20),
    "percents": behavior(up=("10 Percent / 7 s",), down=("10 Percent / 11 s",), down_window=30),
    "three policies": behavior(
        up=("50 Percent / 10 s", "2 Pods / 5 s", "300 Percent / 60 s"), down=("30 Percent / 15 s", "7 Pods / 120 s")
    ),
    "up only": behavior(down_enabled=False),
    "down only": behavior(up_enabled=False, down_window=15),
}


@pytest.mark.parametrize(
    ("given", "forecast_decides", "start_seconds", "expected"),
    [(None, True, 110.0, 110.0), (None, True, 3.0, 60.0), (None, False, 110.0, 300.0), (20, True, 110.0, 20.0)],
)
def test_the_scale_down_window_is_a_start_where_a_forecast_decides(
    given: int | None, forecast_decides: bool, start_seconds: float, expected: float
) -> None:
    """A minute at least, and HorizontalPodAutoscaler's 300 s elsewhere; what the spec says holds everywhere."""
    window = scale_down_window_seconds(
        behavior(down_window=given), forecast_decides=forecast_decides, start_seconds=start_seconds
    )

    assert window == expected


@pytest.mark.parametrize("name", BEHAVIORS)
def test_damping_is_horizontal_pod_autoscaler_s(name: str) -> None:
    """Over 20 random days of 200 decisions, the monotone windows give what the full record would."""
    rules = BEHAVIORS[name]
    for seed in range(20):
        random = Random(f"{name} {seed}")
        hpa, current, now = Hpa(rules), 5, NOW
        highest: tuple[Recommendation, ...] = ()
        lowest: tuple[Recommendation, ...] = ()
        events: tuple[ScaleEvent, ...] = ()
        wanted = 5
        for _ in range(200):
            # Odd fractions: HPA's windows exclude their very edge, ours include it.
            now += random.choice((0.37, 1.13, 2.41, 17.93))
            if random.random() < 0.4:
                wanted = max(0, min(60, wanted + random.randint(-12, 12)))
            highest = remember(highest, wanted, now=now, seconds=rules.scale_down.watch_seconds, keep_highest=True)
            lowest = remember(
                lowest, wanted, now=now, seconds=rules.scale_up.stabilization_window_seconds, keep_highest=False
            )
            actual, limit = stabilize(
                wanted,
                current=current,
                highest=highest,
                lowest=lowest,
                events=events,
                behavior=rules,
                deciding_since=NOW - 3600,
                now=now,
            )
            expected = hpa.tick(wanted, current, now)

            assert expected == actual, (seed, now - NOW)
            assert (limit is Limit.NONE) == (actual == wanted)
            events = remember_events(events, actual - current, behavior=rules, now=now)
            current = actual
