"""One HTML file about one load: what each policy costs and attains, and why. It opens without a network."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from itertools import groupby, pairwise
from math import log10
from types import MappingProxyType
from typing import Final

from plotly import graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from modelfleet.simulate.frontier import Job, Knob, Outcome, Point, WhatIf, pareto, usd
from modelfleet.simulate.registry import KINDS, ORACLE, OURS, setting_text, target_number, targets
from modelfleet.simulate.score import Moment, Run, Score

MOST_POINTS: Final = 500
"""Of a line: more cannot be seen, and make the file large."""
LOAD_POINTS: Final = 120
LONG_SECONDS: Final = 4 * 3600
"""A longer run is shown in hours."""
PANELS_PER_ROW: Final = 3
HOURS_PER_MONTH: Final = 730

_RIVAL_COLOURS: Final = (
    "#e8850c",
    "#f5b700",
    "#2f9e44",
    "#9c36b5",
    "#d0a2e0",
    "#c2255c",
    "#0c8599",
    "#66c5d6",
    "#8d6e4f",
    "#c9ad8f",
    "#7a8b1f",
    "#6d7fa3",
    "#e07a9a",
    "#86c98f",
)
_RIVALS: Final = tuple(name for name in KINDS if name not in (OURS, ORACLE))
COLOURS: Final[Mapping[str, str]] = MappingProxyType(
    {
        OURS: "#1d4ed8",
        ORACLE: "#555555",
        **{name: _RIVAL_COLOURS[number % len(_RIVAL_COLOURS)] for number, name in enumerate(_RIVALS)},
    }
)
"""A policy has the same colour in every figure and every report."""


@dataclass(frozen=True, slots=True)
class Story:
    """What a report tells.

    Attributes:
        title: The load.
        facts: What else was played, by name, for people.
        ttft_seconds: Target of the time to first token.
        shown: One outcome a policy, with its run.
        points: All settings of a frontier; empty when there was none.
        what_ifs: What was changed, and what came of it.
        rival: The policy that ours is compared with, if any.
        price: USD per GPU-hour; None shows no cost.
    """

    title: str
    facts: Mapping[str, str]
    ttft_seconds: float
    shown: Sequence[Outcome]
    points: Sequence[Point]
    what_ifs: Sequence[tuple[WhatIf, Outcome]]
    rival: str | None
    price: Decimal | None


def render(story: Story) -> str:
    """Return the report as one HTML document; the same story gives the same text."""
    sections = [
        section("Cost against attainment", _frontier(story), _frontier_caption(story)),
        section("Figures", _table(story), _table_caption(story)),
        section("Over time", _over_time(story), _OVER_TIME_CAPTION),
        section("Replicas, policy by policy", _panels(story), _PANELS_CAPTION),
        section("Time to first token", _first_tokens(story), _FIRST_TOKENS_CAPTION),
    ]
    if story.what_ifs:
        sections.append(section("What if", _what_ifs(story), _WHAT_IFS_CAPTION))
    return page(story.title, story.facts, sections)


def page(title: str, facts: Mapping[str, str], sections: Sequence[str]) -> str:
    """Return the document around sections."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return _PAGE.format(title=escape(title), plotly=get_plotlyjs(), facts=listed, sections="\n".join(sections))


_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Autoscaling simulated: {title}</title>
<style>
body {{ font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1f2430; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1.5rem; }}
h1 {{ font-size: 1.6rem; margin: 0 0 1rem; }}
h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid #e3e6ec; padding-top: 1.5rem; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; }}
dt {{ color: #667; }}
dd {{ margin: 0; }}
figure {{ margin: 0; overflow-x: auto; }}
figcaption {{ color: #445; max-width: 62rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }}
th, td {{ padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e9ebf0; white-space: nowrap; }}
th {{ font-weight: 600; color: #445; vertical-align: bottom; white-space: normal; }}
th:first-child, td:first-child {{ text-align: left; }}
tr.ours td {{ background: #eef3ff; font-weight: 600; }}
tr.oracle td {{ color: #778; font-style: italic; }}
.swatch {{ display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }}
</style>
<script>{plotly}</script>
</head>
<body>
<h1>Autoscaling simulated: {title}</h1>
<dl>{facts}</dl>
{sections}
</body>
</html>
"""


def section(title: str, body: str, caption: str) -> str:
    """Return a part of the page: a heading, a figure or table, and what it shows."""
    return f"<h2>{escape(title)}</h2>\n<figure>\n{body}\n<figcaption><p>{escape(caption)}</p></figcaption>\n</figure>"


def figure_html(figure: go.Figure, name: str, *, height: int) -> str:
    """Return a figure's part of the document.

    Args:
        figure: What to show.
        name: Of its element. One of its own: plotly's is random.
        height: In pixels; the width is the page's.
    """
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
        font={"size": 13, "color": "#1f2430"},
        hoverlabel={"namelength": -1},
        legend={"tracegroupgap": 0},
    )
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False, "responsive": True}
    )
    return html


def _line(policy: str) -> dict[str, object]:
    width = 3.5 if policy == OURS else 1.8
    return {"color": COLOURS[policy], "width": width, "dash": "dot" if policy == ORACLE else "solid"}


def _named(policy: str) -> dict[str, object]:
    """Return what every line of a policy has; ours lies on top."""
    return {"name": policy, "legendgroup": policy, "zorder": 1 if policy == OURS else 0}


# --- cost against attainment ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Dot:
    policy: str
    gpu_hours: float
    attainment: float
    text: str
    tuned: bool


def _dots(story: Story) -> list[_Dot]:
    if not story.points:
        return [
            _Dot(
                each.job.policy,
                each.whole.gpu_hours,
                each.whole.attainment,
                setting_text(each.job.policy, each.job.setting),
                True,
            )
            for each in story.shown
        ]
    tuned = set(pareto(story.points))
    # In order of the first half's cost: a line that turns back shows where a choice did not hold.
    ordered = sorted(story.points, key=lambda point: (point.policy, point.first.gpu_hours))
    return [
        _Dot(
            point.policy,
            point.second.gpu_hours,
            point.second.attainment,
            setting_text(point.policy, point.setting),
            point in tuned,
        )
        for point in ordered
    ]


def _frontier(story: Story) -> str:
    dots = _dots(story)
    requests = max(each.whole.requests for each in story.shown)
    # Requests that missed, on a log axis upside down: 90 %, 99 % and 99.9 % are equally far apart. None missed is
    # drawn as half a request.
    floor = 0.5 / requests

    def missed(dot: _Dot) -> float:
        return max(1.0 - dot.attainment, floor)

    figure = go.Figure()
    for policy in (each.job.policy for each in story.shown):
        own = [dot for dot in dots if dot.policy == policy]
        tuned = [dot for dot in own if dot.tuned]
        rest = [dot for dot in own if not dot.tuned]
        hover = "%{text}<br>%{x:.2f} GPU-hours, %{customdata:.3f} % in target"
        figure.add_scatter(
            x=[dot.gpu_hours for dot in tuned],
            y=[missed(dot) for dot in tuned],
            text=[dot.text for dot in tuned],
            customdata=[100.0 * dot.attainment for dot in tuned],
            hovertemplate=hover,
            **_named(policy),
            mode="lines+markers",
            line=_line(policy),
            marker={"size": 10 if policy == OURS else 7},
        )
        figure.add_scatter(
            x=[dot.gpu_hours for dot in rest],
            y=[missed(dot) for dot in rest],
            text=[dot.text for dot in rest],
            customdata=[100.0 * dot.attainment for dot in rest],
            hovertemplate=hover,
            **_named(policy),
            showlegend=False,
            mode="markers",
            marker={"size": 5, "color": COLOURS[policy], "opacity": 0.3},
        )
    worst, best = max(map(missed, dots)), min(map(missed, dots))
    ticks = {share: f"{100.0 * (1.0 - share):.4g} %" for share in _MISSED_TICKS if share > 1.5 * floor} | {
        floor: "100 %"
    }
    figure.update_xaxes(title="GPU-hours", rangemode="tozero")
    figure.update_yaxes(
        title="requests within both targets",
        type="log",
        range=[log10(min(1.0, worst * 1.5)), log10(best / 1.5)],
        tickvals=list(ticks),
        ticktext=list(ticks.values()),
    )
    return figure_html(figure, "frontier", height=600)


_MISSED_TICKS: Final = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001, 0.00001)


def _frontier_caption(story: Story) -> str:
    axis = (
        "Up and to the left is better: more requests within their targets for fewer GPU-hours. The vertical axis "
        "stretches towards 100 %, so that 90 %, 99 % and 99.9 % are equally far apart. The oracle knows every request "
        "beforehand: it is a yardstick, and no contestant."
    )
    if not story.points:
        return f"One dot a policy, at the setting in the table, over the whole load. {axis} --frontier sweeps settings."
    return (
        "Each dot is one setting (target and minimum) of a policy, on the second half of the load. Lines join those "
        f"that were best on the first half; faint dots are the others. {axis} A line that turns back is a setting that "
        "looked good on the first half and did not hold. Click a name to hide it, double-click to see it alone."
    )


# --- figures ----------------------------------------------------------------------------------------

_TABLE_CAPTION: Final = (
    "One line a policy, at the setting shown, over the whole load, cheapest first. Violations are requests that missed "
    "a target or did not finish; reversals count how often the replica count changed direction."
)


def _table(story: Story) -> str:
    headings = ["policy", "target", "minimum", "GPU-hours", "in target, %", "violations", "TTFT p99, s"]
    headings += ["TPOT p99, ms", "reversals /h", "most replicas"]
    headings += COST_HEADINGS if story.price is not None else ()
    rows = []
    for each in sorted(story.shown, key=lambda outcome: (outcome.whole.gpu_hours, outcome.job.policy)):
        policy, whole = each.job.policy, each.whole
        cells = [
            f'<span class="swatch" style="background:{COLOURS[policy]}"></span>{escape(policy)}',
            target_number(policy, each.job.setting.target),
            f"{each.job.setting.min_replicas}",
            f"{whole.gpu_hours:,.2f}",
            f"{100.0 * whole.attainment:.2f}",
            f"{whole.violations:,}",
            number(whole.ttft_p99_s, 2),
            number(whole.tpot_p99_ms, 1),
            f"{whole.reversals_per_hour:.1f}",
            f"{whole.max_replicas}",
        ]
        if story.price is not None:
            cells += cost_cells(whole, story.price, [each.run] if each.run else ())
        kind = {OURS: ' class="ours"', ORACLE: ' class="oracle"'}.get(policy, "")
        rows.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _table_caption(story: Story) -> str:
    caption = _TABLE_CAPTION
    if counted := targets(each.job.policy for each in story.shown):
        caption += f" Targets of {'; '.join(counted)}."
    if story.price is None:
        return f"{caption} --price USD adds the cost."
    return f"{caption} {price_note(story.price)}"


COST_HEADINGS: Final = ("cost, USD", "USD per 1,000 in target", "USD a month")


def cost_cells(score: Score, price: Decimal, runs: Iterable[Run]) -> tuple[str, str, str]:
    """Return what stands below COST_HEADINGS.

    Args:
        score: GPU-hours and requests that are paid for.
        price: USD per GPU-hour.
        runs: Those that the score is of, side by side; without any, a month is unknown.
    """
    cost = usd(score.gpu_hours, price)
    met = score.requests - score.violations
    hours = max((run.seconds for run in runs), default=0.0) / 3600.0
    return (
        f"{cost:,}",
        f"{cost * 1000 / met:,.2f}" if met else "∞",
        f"{usd(score.gpu_hours * HOURS_PER_MONTH / hours, price):,}" if hours else "-",
    )


def price_note(price: Decimal) -> str:
    """Return what the costs are counted with."""
    return f"At {price} USD per GPU-hour; a month is {HOURS_PER_MONTH} hours like these."


def number(value: float | None, decimals: int) -> str:
    """Return a figure for people; None is infinite."""
    return "∞" if value is None else f"{value:,.{decimals}f}"


# --- over time --------------------------------------------------------------------------------------

_OVER_TIME_CAPTION: Final = (
    "From top to bottom: the load, the same for all; the replicas that hold GPUs, starting and draining ones included; "
    "and the requests that wait for a place in a batch. A queue that grows while replicas are flat is a start that is "
    "waited for. Click names on the right to show or hide policies, double-click one to see it alone."
)
_PANELS_CAPTION: Final = (
    "One panel a policy: solid, the replicas that hold GPUs; dotted, those that are ready to serve. The gap between "
    "them is paid and does not serve yet, or no longer. Grey is what the oracle held."
)


def _runs(story: Story) -> Iterator[tuple[str, Run]]:
    for each in story.shown:
        if each.run is not None:
            yield each.job.policy, each.run


def stretches(run: Run, most: int) -> list[Sequence[Moment]]:
    """Cut a timeline into at most so many stretches of equal length: each becomes one point of a line."""
    size = max(1, -(-len(run.timeline) // most))
    return [run.timeline[begins : begins + size] for begins in range(0, len(run.timeline), size)]


def clock(runs: Iterable[Run]) -> tuple[str, float]:
    """Return the unit of the time axis, and its seconds."""
    longest = max(run.seconds for run in runs)
    return ("hours", 3600.0) if longest > LONG_SECONDS else ("minutes", 60.0)


def _over_time(story: Story) -> str:
    figure = make_subplots(
        rows=3,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.05,
        row_heights=[0.22, 0.42, 0.36],
    )
    runs = list(_runs(story))
    unit, unit_seconds = clock(run for _, run in runs)
    whole = stretches(runs[0][1], LOAD_POINTS)
    # The first stretch may be a single moment, which is no edge twice.
    edges = list(dict.fromkeys([whole[0][0], *[stretch[-1] for stretch in whole]]))
    figure.add_scatter(
        # A stretch is drawn where it begins, as those of the replicas are.
        x=[round(moment.at_seconds / unit_seconds, 3) for moment in edges[:-1]],
        y=[
            round((after.arrived - before.arrived) / (after.at_seconds - before.at_seconds), 3)
            for before, after in pairwise(edges)
        ],
        name="load",
        showlegend=False,
        fill="tozeroy",
        line={"color": "#9aa3b2", "width": 1.5, "shape": "hv"},
        hovertemplate="%{y:.2f} requests/s",
        row=1,
        col=1,
    )
    for policy, run in runs:
        parts = stretches(run, MOST_POINTS)
        shared = {
            "x": [round(stretch[0].at_seconds / unit_seconds, 3) for stretch in parts],
            **_named(policy),
            "visible": True if policy in (OURS, ORACLE, story.rival) else "legendonly",
            "line": _line(policy) | {"shape": "hv"},
            "col": 1,
        }
        figure.add_scatter(y=[max(moment.pods for moment in stretch) for stretch in parts], row=2, **shared)
        figure.add_scatter(
            y=[max(moment.queued for moment in stretch) for stretch in parts], row=3, showlegend=False, **shared
        )
    for row, title in enumerate(("requests/s", "replicas", "waiting requests"), start=1):
        figure.update_yaxes(title=title, rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title=f"{unit} from the start", row=3, col=1)
    figure.update_layout(hovermode="x unified")
    return figure_html(figure, "over-time", height=720)


def _panels(story: Story) -> str:
    runs = dict(_runs(story))
    unit, unit_seconds = clock(runs.values())
    rows = -(-len(runs) // PANELS_PER_ROW)
    figure = make_subplots(
        rows=rows,
        cols=PANELS_PER_ROW,
        shared_xaxes=True,
        shared_yaxes=True,
        subplot_titles=list(runs),
        horizontal_spacing=0.03,
        vertical_spacing=0.28 / rows,
    )
    for number, (policy, run) in enumerate(runs.items()):
        row, col = number // PANELS_PER_ROW + 1, number % PANELS_PER_ROW + 1
        lines = [(policy, run, False), (policy, run, True)]
        if ORACLE in runs and policy != ORACLE:
            lines.insert(0, (ORACLE, runs[ORACLE], False))
        for name, its, ready in lines:
            parts = stretches(its, MOST_POINTS)
            figure.add_scatter(
                x=[round(stretch[0].at_seconds / unit_seconds, 3) for stretch in parts],
                y=[max(moment.ready if ready else moment.pods for moment in stretch) for stretch in parts],
                name=f"{name}, {'ready' if ready else 'holding GPUs'}",
                showlegend=False,
                line={
                    "shape": "hv",
                    "color": "#c9ced8" if name != policy else COLOURS[name],
                    "dash": "dot" if ready else "solid",
                    "width": 1.5,
                },
                row=row,
                col=col,
            )
    figure.update_xaxes(title=unit, row=rows)
    figure.update_yaxes(title="replicas", rangemode="tozero", col=1)
    figure.update_annotations(font_size=13)
    return figure_html(figure, "panels", height=90 + 190 * rows)


# --- time to first token ----------------------------------------------------------------------------

_FIRST_TOKENS_CAPTION: Final = (
    "For each time on the horizontal axis, the share of requests that had their first token by then, the wait for a "
    "replica included. Further left and higher is better; the dashed line is the target. A curve that ends below 100 % "
    "belongs to a policy that left requests unanswered."
)


def _first_tokens(story: Story) -> str:
    figure = go.Figure()
    for policy, run in _runs(story):
        known = sorted(each.ttft_seconds for each in run.served if each.ttft_seconds is not None)
        ranks = sorted({*range(0, len(known), max(1, len(known) // MOST_POINTS)), len(known) - 1} - {-1})
        figure.add_scatter(
            x=[max(known[rank], 1e-4) for rank in ranks],
            y=[100.0 * (rank + 1) / len(run.served) for rank in ranks],
            **_named(policy),
            line=_line(policy),
            hovertemplate="%{y:.2f} % within %{x:.3g} s",
        )
    figure.add_vline(x=story.ttft_seconds, line={"dash": "dash", "color": "#c2255c", "width": 1})
    # On a log axis an annotation is placed by the logarithm, a line is not.
    figure.add_annotation(
        x=log10(story.ttft_seconds), y=1.04, yref="paper", text=f"target {story.ttft_seconds:g} s", showarrow=False
    )
    figure.update_xaxes(title="time to first token, s", type="log", dtick=1, exponentformat="none")
    figure.update_yaxes(title="requests, %", range=[0, 101])
    return figure_html(figure, "first-tokens", height=460)


# --- what if ----------------------------------------------------------------------------------------

_WHAT_IFS_CAPTION: Final = (
    "The same load with one thing changed at a time: the fewest replicas, the most replicas, and how long a pod takes "
    "to start. Above, what is attained; below, what it costs. The dashed line is the value used in the figures above. "
    "Where a curve is flat, more of it buys nothing."
)


def _what_ifs(story: Story) -> str:
    titles = {Knob.MINIMUM: "minimum replicas", Knob.MAXIMUM: "maximum replicas", Knob.START: "start of a pod, s"}
    figure = make_subplots(
        rows=2,
        cols=len(titles),
        shared_xaxes="columns",
        shared_yaxes="rows",
        horizontal_spacing=0.04,
        vertical_spacing=0.08,
    )
    used = {each.job.policy: each.job for each in story.shown}
    for col, (knob, title) in enumerate(titles.items(), start=1):
        for policy, group in groupby(
            (each for each in story.what_ifs if each[0].knob is knob), key=lambda each: each[0].job.policy
        ):
            tried = list(group)
            shared = {
                "x": [what.value for what, _ in tried],
                **_named(policy),
                "mode": "lines+markers",
                "line": _line(policy),
                "col": col,
            }
            figure.add_scatter(
                y=[100.0 * outcome.whole.attainment for _, outcome in tried], row=1, showlegend=col == 1, **shared
            )
            figure.add_scatter(y=[outcome.whole.gpu_hours for _, outcome in tried], row=2, showlegend=False, **shared)
            figure.add_vline(
                x=_value(used[policy], knob), line={"dash": "dash", "color": "#9aa3b2", "width": 1}, col=col, row="all"
            )
        figure.update_xaxes(title=title, row=2, col=col)
    figure.update_yaxes(title="requests within<br>both targets, %", row=1, col=1)
    figure.update_yaxes(title="GPU-hours", rangemode="tozero", row=2, col=1)
    return figure_html(figure, "what-ifs", height=560)


def _value(job: Job, knob: Knob) -> float:
    match knob:
        case Knob.MINIMUM:
            return job.setting.min_replicas
        case Knob.MAXIMUM:
            return job.setting.max_replicas
        case Knob.START:
            return job.start.seconds
