"""Step 3b, lookback: the forecast that would have been cheapest on this deployment's own past.

No forecast fits every load. A load that wanders is followed; one that bursts for less time than a pod takes to
start is met by what is there already or not at all, and then a constant fleet is best. So several are kept and
judged: a forecast is the peak, over some time, of the load averaged over some time, times a margin. Two carry a load
that rises on by its trend: the margin that a rise needs is not held through the fall. One expects what came at this
time a week ago, or a day (season.py): until a day was seen it is like the one without. Every ten seconds each pays
for the replicas it would have asked for, and for the load that would have found too few: what it asked for serves
only once it was asked for as long as a start takes. Which part of that load would have been late is learned too
(lateness.py). The cheapest so far decides, and gives way only to one that is clearly cheaper.

The price of missed load against replicas is the one knob.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Final, Literal

from modelfleet.decide.lateness import (
    HALF_LATE_SHARE,
    LAST_PERCENT,
    PRIOR,
    RANGE_OF_PERCENT,
    SHARES,
    Lateness,
    learn,
)
from modelfleet.decide.season import NO_WEEK, Week, remember, seen_before
from modelfleet.decide.value import value

BUCKET_SECONDS: Final = 10.0
"""A queue of a few seconds is within usual limits of the first token; what is shorter needs no replica."""
MARGINS: Final[tuple[float, ...]] = (0.6, 0.8, 1.0, 1.25, 1.5, 1.9)
"""Replicas for one replica's worth of forecast load. Below 1 a peak is not worth meeting in full."""
HALF_LIFE_SECONDS: Final = 4 * 3600.0
"""By then what a forecast cost counts half."""
KEPT: Final = 0.5 ** (BUCKET_SECONDS / HALF_LIFE_SECONDS)
FADES_EVERY_BUCKETS: Final = 30
"""Costs fade in steps of five minutes."""
LEAST_BUCKETS: Final = 6
"""Before a minute has been seen the present load decides alone."""
BIRTH_STARTS: Final = 3
"""For so many starts nothing is charged: whoever is born into a load misses it until the first replicas are there, and
what would have met it, twice of everything, would be held for hours."""
TOLD_SECONDS: Final = 60.0
"""Lateness is learned while all replicas have served for so long: before, what waited for them makes requests late."""
CAUGHT_UP: Final = 0.05
"""And after that once a bucket has had no more than this part of its tokens late: then nothing waits any more..."""
MOST_CATCHING_UP: Final = 30
"""...or after so many buckets: a load may be too much for what is there."""
SURE: Final = 0.025
"""A forecast takes over when it was cheaper by this share..."""
SURE_REPLICA_SECONDS: Final = 200.0
"""...and by this much besides: a few buckets prove nothing."""
BEYOND: Final = 1.25
"""No margin asks for more than this times the highest load of a day, or of the forecast where that is more..."""
BEYOND_REPLICAS: Final = 1.0
"""...and so many replicas besides: no past can tell by how much a load will exceed all that was seen. The misses of
one step would make the largest margin the cheapest, and hold twice the new level."""
START_SHARE: Final = 0.5
"""Part of a start's replica-seconds that each replica added costs a forecast beyond the time it is held: a start
loads other things than its GPUs, and what goes up and down is hard to live with."""
ROUNDING: Final = 0.1
"""A tenth of a replica over is no replica more."""
LONGEST_BUCKETS: Final = 8_640
"""A day."""
PEAK_RESOLUTION: Final = 0.01
"""A load that falls from peak to trough for half a day has a peak a bucket: only those are kept that differ by this
share, and the higher one stands for those between."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """One way to see what comes.

    Attributes:
        averaged_buckets: The load is averaged over so many buckets.
        peak_starts: The highest such average within so many start times is taken; None within a day.
        basis: What the peak is of: the averages; or each of them carried on by as much as it rose within the last
            start; or what came within a start from then on a week or a day ago, where that was more.
    """

    averaged_buckets: int
    peak_starts: int | None
    basis: Literal["peak", "trend", "season"] = "peak"

    @property
    def name(self) -> str:
        """A word for it, as the status keeps it."""
        peak = "day" if self.peak_starts is None else f"{self.peak_starts}-starts"
        return f"{self.averaged_buckets * BUCKET_SECONDS:.0f}s-{self.basis}-{peak}"

    @property
    def level(self) -> tuple[int, str]:
        """What the peak is taken of: one of LEVELS."""
        return self.averaged_buckets, self.basis


FORECASTS: Final = (
    Forecast(1, 1),
    Forecast(1, None),
    Forecast(3, 1),
    Forecast(3, 3),
    Forecast(3, None),
    Forecast(6, 1),
    Forecast(3, 1, "trend"),
    Forecast(6, 1, "trend"),
    Forecast(3, 1, "season"),
)
LEVELS: Final = tuple(sorted({forecast.level for forecast in FORECASTS}))
LONGEST_AVERAGE: Final = max([forecast.averaged_buckets for forecast in FORECASTS])
DAY_FORECASTS: Final = tuple([forecast for forecast in FORECASTS if forecast.peak_starts is None])
PEAKS: Final = frozenset(forecast.peak_starts for forecast in FORECASTS)
LONGEST_PEAK: Final = {
    level: max(
        [forecast.peak_starts for forecast in FORECASTS if forecast.level == level],
        key=lambda starts: inf if starts is None else starts,
    )
    for level in LEVELS
}
"""For each level, how far back the forecasts that take its peak look at most."""
HIGHEST_LEVEL: Final = (1, "peak")
"""What the highest load of a day is taken of."""
SEASON_BUCKETS: Final = 3
"""What is kept of a week is the load averaged over so many."""
FIRST_CHOICE: Final[tuple[int, int]] = (FORECASTS.index(Forecast(3, 1)), len(MARGINS) - 1)
"""What decides until another is known to be cheaper: follow the last half minute, with the largest margin: what grows
from nothing has no past that could warn of it."""

Window = tuple[tuple[int, float], ...]
"""Bucket numbers and values, oldest first, of which none is dominated by a later one."""
RANGES: Final = len(SHARES)
CANDIDATES: Final = len(FORECASTS) * len(MARGINS)


@value
class Track:
    """One forecast over time.

    Attributes:
        trough: The lowest of its values within one start: what has been asked for long enough to serve.
        value: Load in replicas that it forecast when the last bucket closed.
        most: What no margin took it beyond then, in replicas; infinite until a bucket was charged: who has just begun
            has seen nothing.
        asked: For each margin, the replicas it asked for then.
        added: How many more than when the bucket before closed.
    """

    trough: Window = ()
    value: float = 0.0
    most: float = inf
    asked: tuple[int, ...] = ()
    added: tuple[int, ...] = ()


@value
class Costs:
    """What each forecast has cost so far with each margin, in replica-seconds: those of a forecast in a row.

    Attributes:
        held: What it held and added, and after a restart all that it had cost before.
        missed: Load that was late, by what is believed of lateness.
        met: For each range of SHARES, load that found replicas filled so far. What was late of it is to be believed.
        lately: The same since it was summed up: loads, and in which range each found the replicas.
    """

    held: list[float]
    missed: list[float]
    met: "array[float]"
    lately: tuple[tuple[float, bytes], ...] = ()

    def totals(self, latency_weight: float) -> list[float]:
        """Return what each cost in all."""
        # Both have CANDIDATES, and strict=True keeps mypyc from making this a loop.
        return [held + latency_weight * missed for held, missed in zip(self.held, self.missed)]  # noqa: B905

    def told(self, latency_weight: float) -> dict[str, str]:
        """Return what each cost in all, as the status keeps it: whole replica-seconds for each margin."""
        totals = [str(min(MOST_TOLD, round(cost))) for cost in self.totals(latency_weight)]
        rows = [totals[first : first + len(MARGINS)] for first in range(0, CANDIDATES, len(MARGINS))]
        return {forecast.name: " ".join(row) for forecast, row in zip(FORECASTS, rows, strict=True)}

    @classmethod
    def resumed(cls, told: Mapping[str, str]) -> "Costs":
        """Return what an earlier process told; nothing where that is not of all of today's forecasts and margins."""
        try:
            costs = [float(cost) for forecast in FORECASTS for cost in told[forecast.name].split()]
        except (KeyError, ValueError):
            return NO_COSTS
        if len(costs) != CANDIDATES:
            return NO_COSTS
        return replace(NO_COSTS, held=[min(cost, MOST_TOLD) for cost in costs])

    def summed(self) -> list[float]:
        """Return `met` with what came lately."""
        met = list(self.met)
        for load, places in self.lately:
            first = 0
            for place in places:
                met[first + place] = met[first + place] + load
                first += RANGES
        return met

    def faded(self, kept: float) -> "Costs":
        """Return them with less weight."""
        return Costs(
            [kept * cost for cost in self.held],
            [kept * cost for cost in self.missed],
            array("d", [kept * load for load in self.summed()]),
        )

    def judged(self, lateness: Lateness) -> "Costs":
        """Return them by another belief."""
        met, late = self.summed(), lateness.late_in_range
        missed = [
            sum([part * met[first + place] for place, part in enumerate(late)])
            for first in range(0, CANDIDATES * RANGES, RANGES)
        ]
        return Costs(self.held, missed, self.met, self.lately)


MOST_TOLD: Final = 2**31 - 1
NO_COSTS: Final = Costs([0.0] * CANDIDATES, [0.0] * CANDIDATES, array("d", [0.0] * (CANDIDATES * RANGES)))
"""Before the first bucket that is charged."""


@value
class Moment:
    """What one decision sees.

    Attributes:
        load: In fully used replicas, >= 0.
        tokens_per_second: Generated by the pods that tell their pace.
        late_tokens_per_second: Those of them that come late, as in Samples.
        serving: Ready replicas.
        settled: All of them have been ready for TOLD_SECONDS.
    """

    load: float
    tokens_per_second: float
    late_tokens_per_second: float
    serving: int
    settled: bool


@value
class Bucket:
    """Sums over the open bucket, each times seconds.

    Attributes:
        seconds: With a known load.
        load: In replicas.
        load_squared: Its square.
        tokens: Of the pods that tell their pace.
        late_tokens: Those that come late.
        serving: Ready replicas.
        settled: Whether they were all along.
    """

    seconds: float = 0.0
    load: float = 0.0
    load_squared: float = 0.0
    tokens: float = 0.0
    late_tokens: float = 0.0
    serving: float = 0.0
    settled: bool = True

    def with_moment(self, moment: Moment, seconds: float) -> "Bucket":
        """Add what was seen to last for so many seconds."""
        load = moment.load * seconds
        return Bucket(
            self.seconds + seconds,
            self.load + load,
            self.load_squared + load * moment.load,
            self.tokens + moment.tokens_per_second * seconds,
            self.late_tokens + moment.late_tokens_per_second * seconds,
            self.serving + moment.serving * seconds,
            self.settled and moment.settled,
        )

    @property
    def met(self) -> float:
        """The load that a request meets: more come while it is high."""
        return self.load_squared / self.load if self.load > 0.0 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What of a past outlives the process, as the status keeps it.

    Attributes:
        forecast: Name of the forecast that decides.
        margin_percent: Its margin.
        steepness_tenths: How steeply lateness grows with the load; 0 where it does not say.
        costs: What each forecast would have cost, by name: see Costs.told.
        day_peaks: For each forecast that looks back a day, by name, the highest load and when that was, in seconds
            since the epoch.
        week_slot: Until when the load of the last week is known: see Week.
        week_levels: That load: see Week.encoded.
    """

    forecast: str
    margin_percent: int
    steepness_tenths: int = 0
    costs: Mapping[str, str] = field(default_factory=dict)
    day_peaks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    week_slot: int = 0
    week_levels: str = ""


@value
class Lookback:
    """What is kept of the past.

    Attributes:
        began_at: When the open bucket began; None before the first load.
        open: The open bucket.
        lateness: Which part of the requests is late at a load.
        buckets: How many were closed.
        recent: Loads of the last closed buckets, oldest first.
        peaks: For each of LEVELS, its highest values of the longest time that a forecast looks back.
        tracks: The forecasts, as FORECASTS.
        costs: What they cost.
        choice: Numbers of the forecast and of the margin that decide.
        catching_up: Buckets in which what waited for replicas that joined may still make requests late.
        week: The load of the last week.
    """

    began_at: float | None = None
    open: Bucket = Bucket()
    lateness: Lateness = PRIOR
    buckets: int = 0
    recent: tuple[float, ...] = ()
    peaks: tuple[Window, ...] = ((),) * len(LEVELS)
    tracks: tuple[Track, ...] = (Track(),) * len(FORECASTS)
    costs: Costs = NO_COSTS
    choice: tuple[int, int] = FIRST_CHOICE
    catching_up: int = 0
    week: Week = NO_WEEK

    @classmethod
    def resumed(cls, kept: Kept, *, now: float) -> "Lookback":
        """Return what an earlier process kept of the past, as far as it is of today's forecasts."""
        forecasts = [number for number, each in enumerate(FORECASTS) if each.name == kept.forecast]
        margins = [number for number, each in enumerate(MARGINS) if round(100 * each) == kept.margin_percent]
        known = bool(forecasts and margins)
        peaks: dict[tuple[int, str], Window] = dict.fromkeys(LEVELS, ())
        for forecast in DAY_FORECASTS:
            if forecast.name in kept.day_peaks:
                load, at = kept.day_peaks[forecast.name]
                bucket = min(0, -int((now - at) // BUCKET_SECONDS))
                peaks[forecast.level] = ((bucket, load),) if bucket > -LONGEST_BUCKETS else ()
        return cls(
            lateness=Lateness.resumed(kept.steepness_tenths),
            peaks=tuple(peaks.values()),
            costs=Costs.resumed(kept.costs) if known else NO_COSTS,
            choice=(forecasts[0], margins[0]) if known else FIRST_CHOICE,
            week=Week.resumed(kept.week_slot, kept.week_levels),
        )

    def kept(self, latency_weight: float, *, now: float) -> Kept:
        """Return what of it outlives the process."""
        began_at = now if self.began_at is None else self.began_at
        peaks = dict(zip(LEVELS, self.peaks, strict=True))
        return Kept(
            forecast=self.forecast.name,
            margin_percent=round(100 * self.margin),
            steepness_tenths=self.lateness.steepness_tenths,
            costs=self.costs.told(latency_weight),
            day_peaks={
                forecast.name: (load, began_at - (self.buckets - bucket) * BUCKET_SECONDS)
                for forecast in DAY_FORECASTS
                for bucket, load in peaks[forecast.level][:1]
            },
            week_slot=self.week.slot,
            week_levels=self.week.encoded,
        )

    @property
    def load(self) -> float:
        """The chosen forecast, in fully used replicas; 0 before the first bucket closed."""
        return self.tracks[self.choice[0]].value

    @property
    def replicas(self) -> float | None:
        """What the chosen forecast asks for; None before it has seen enough to be asked."""
        return min(self.load * self.margin, self.most) if self.buckets >= LEAST_BUCKETS else None

    @property
    def most(self) -> float:
        """What no margin takes the chosen forecast beyond, in replicas."""
        return self.tracks[self.choice[0]].most

    def charged(self, start_seconds: float) -> bool:
        """Whether the last bucket that closed was paid for."""
        return _is_charged(self.buckets, _start_buckets(start_seconds))

    @property
    def forecast(self) -> Forecast:
        """The chosen forecast."""
        return FORECASTS[self.choice[0]]

    @property
    def margin(self) -> float:
        """The chosen margin."""
        return MARGINS[self.choice[1]]


NO_PAST: Final = Lookback()
"""Before the first load."""


def look_back(
    lookback: Lookback,
    moment: Moment,
    *,
    now: float,
    elapsed_seconds: float,
    start_seconds: float,
    latency_weight: float,
    min_replicas: int,
) -> Lookback:
    """Take a moment in; once a bucket is full, judge every forecast by it and choose.

    Args:
        lookback: The past.
        moment: What is seen now.
        now: Seconds since the epoch.
        elapsed_seconds: Since the last decision.
        start_seconds: From a pod's creation to ready, > 0.
        latency_weight: Replica-seconds that one replica-second of missed load is worth.
        min_replicas: Replicas that are there anyhow, at least 1.
    """
    if lookback.began_at is None:
        return replace(lookback, began_at=now)
    bucket = lookback.open.with_moment(moment, min(elapsed_seconds, BUCKET_SECONDS))
    if now - lookback.began_at < BUCKET_SECONDS or bucket.seconds <= 0.0:
        return Lookback(
            lookback.began_at,
            bucket,
            lookback.lateness,
            lookback.buckets,
            lookback.recent,
            lookback.peaks,
            lookback.tracks,
            lookback.costs,
            lookback.choice,
            lookback.catching_up,
            lookback.week,
        )
    seen, met = bucket.load / bucket.seconds, bucket.met
    start_buckets = _start_buckets(start_seconds)
    number = lookback.buckets + 1
    lateness = lookback.lateness
    late = bucket.late_tokens / bucket.tokens if bucket.tokens > 0.0 else 0.0
    if not bucket.settled:
        catching_up = MOST_CATCHING_UP
    else:
        catching_up = max(0, lookback.catching_up - 1) if late > CAUGHT_UP else 0
    share = met * bucket.seconds / bucket.serving if bucket.serving > 0.0 else inf
    if not catching_up and bucket.tokens > 0.0 and share <= HALF_LATE_SHARE:
        lateness = learn(lateness, share=share, late=late, kept=KEPT)
    recent = (*lookback.recent, seen)[-LONGEST_AVERAGE - start_buckets :]
    since = {starts: number + 1 - _span(starts, start_buckets) for starts in PEAKS}
    week = remember(lookback.week, _average(recent, SEASON_BUCKETS), now=now)
    ahead = seen_before(week, now=now, seconds=start_seconds)
    peaks = {
        level: _slide_peaks(peak, number, _level(recent, level, start_buckets, ahead), since=since[LONGEST_PEAK[level]])
        for level, peak in zip(LEVELS, lookback.peaks, strict=True)
    }
    charged = _is_charged(number, start_buckets)
    highest = peaks[HIGHEST_LEVEL][0][1] if charged else inf
    costs = lookback.costs
    if lateness.believed != lookback.lateness.believed:
        costs = costs.judged(lateness)
    if charged:
        costs = _charge(costs, lookback.tracks, seen, met, start_buckets, min_replicas, lateness)
    if number % FADES_EVERY_BUCKETS == 0:
        costs = costs.faded(KEPT**FADES_EVERY_BUCKETS)
    tracks = tuple(
        [
            _follow(
                track,
                _peak(peaks[forecast.level], since[forecast.peak_starts]),
                number,
                start_buckets,
                min_replicas,
                highest,
            )
            for forecast, track in zip(FORECASTS, lookback.tracks, strict=True)
        ]
    )
    return Lookback(
        began_at=now,
        lateness=lateness,
        buckets=number,
        recent=recent,
        peaks=tuple(peaks.values()),
        tracks=tracks,
        costs=costs,
        choice=_choose(costs, lookback.choice, latency_weight),
        catching_up=catching_up,
        week=week,
    )


NOTHING_ADDED: Final = (0,) * len(MARGINS)


def _charge(
    costs: Costs,
    tracks: tuple[Track, ...],
    seen: float,
    met: float,
    start_buckets: int,
    least: int,
    lateness: Lateness,
) -> Costs:
    """Let all pay for the bucket that closed: what they asked for, what they added, and what they left unserved."""
    held, missed, places = costs.held[:], costs.missed[:], []
    late = lateness.late_in_range
    start, load, number = START_SHARE * start_buckets * BUCKET_SECONDS, seen * BUCKET_SECONDS, 0
    for track in tracks:
        # What was asked for in each of the buckets of a start serves in this one.
        lowest = track.trough[0][1]
        serving = track.asked if lowest == track.value else _asked(lowest, track.most, least)
        # All are as long as MARGINS, and strict=True keeps mypyc from making this a loop.
        for asked, added, serves in zip(track.asked, track.added, serving):  # noqa: B905
            percent = int(100.0 * met / serves)
            place = RANGE_OF_PERCENT[percent if percent < LAST_PERCENT else LAST_PERCENT]
            places.append(place)
            # Not +=, which mypyc leaves to the interpreter here.
            held[number] = held[number] + (asked * BUCKET_SECONDS + added * start)
            missed[number] = missed[number] + late[place] * load
            number += 1
    return Costs(held, missed, costs.met, (*costs.lately, (load, bytes(places))))


def _follow(track: Track, value: float, number: int, start_buckets: int, least: int, highest: float) -> Track:
    """Bring a forecast up to date with the value that it has now."""
    trough = _slide_trough(track.trough, number, value, since=number - start_buckets + 1)
    most = BEYOND * max(value, highest) + BEYOND_REPLICAS
    if value == track.value and most == track.most and track.asked:
        return Track(trough, value, most, track.asked, NOTHING_ADDED)
    asked = _asked(value, most, least)
    if asked == track.asked or not track.asked:
        return Track(trough, value, most, asked, NOTHING_ADDED)
    added = tuple([max(0, now - before) for now, before in zip(asked, track.asked, strict=True)])
    return Track(trough, value, most, asked, added)


def _start_buckets(start_seconds: float) -> int:
    return max(1, round(start_seconds / BUCKET_SECONDS))


def _is_charged(number: int, start_buckets: int) -> bool:
    return number > BIRTH_STARTS * start_buckets


def _span(peak_starts: int | None, start_buckets: int) -> int:
    """Return over how many buckets a forecast takes its peak."""
    return LONGEST_BUCKETS if peak_starts is None else peak_starts * start_buckets


def _peak(window: Window, since: int) -> float:
    """Return the highest value since a bucket: the first that is recent enough, for later ones are lower."""
    first = 0 if window[0][0] >= since else len(window) - 1
    while first and window[first - 1][0] >= since:
        first -= 1
    return window[first][1]


def _asked(load: float, most: float, least: int) -> tuple[int, ...]:
    # min() and max() would cost as much again as the rest of a forecast.
    counts = [ceil((asked if (asked := margin * load) < most else most) - ROUNDING) for margin in MARGINS]
    return tuple([count if count > least else least for count in counts])


def _choose(costs: Costs, choice: tuple[int, int], latency_weight: float) -> tuple[int, int]:
    """Return the cheapest forecast and margin, or the present ones when it is not clearly cheaper."""
    totals = costs.totals(latency_weight)
    now = choice[0] * len(MARGINS) + choice[1]
    cheapest = now
    for number, cost in enumerate(totals):
        if cost < totals[cheapest]:
            cheapest = number
    if totals[cheapest] >= totals[now] * (1.0 - SURE) - SURE_REPLICA_SECONDS:
        return choice
    return divmod(cheapest, len(MARGINS))


def _level(recent: tuple[float, ...], level: tuple[int, str], start_buckets: int, ahead: float) -> float:
    """Return the average of the last loads; where the level says so carried on by its trend, or what came before."""
    length, basis = level
    now = _average(recent, length)
    if basis == "season":
        return max(now, ahead)
    past = recent[:-start_buckets] if basis == "trend" else ()
    return now + max(0.0, now - _average(past, length)) if past else now


def _average(recent: tuple[float, ...], length: int) -> float:
    return sum(recent[-length:]) / min(length, len(recent))


def _slide_peaks(window: Window, number: int, value: float, *, since: int) -> Window:
    """Add a value to a window of peaks; one next to a peak that is hardly higher stands for both."""
    kept = [old for old in window if old[0] >= since and old[1] > value]
    if kept and kept[-1][1] * (1.0 - PEAK_RESOLUTION) <= value:
        value = kept.pop()[1]
    return (*kept, (number, value))


def _slide_trough(window: Window, number: int, value: float, *, since: int) -> Window:
    """Add a value to a window of troughs, and drop what is too old or not below it."""
    return (*[old for old in window if old[0] >= since and old[1] < value], (number, value))
