"""One HTML file about a fleet: who held the GPUs when, and what came of it. It opens without a network."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Final

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from modelfleet.simulate.fleet import FLEET, FleetOutcome
from modelfleet.simulate.registry import OURS
from modelfleet.simulate.report import (
    COLOURS,
    COST_HEADINGS,
    MOST_POINTS,
    clock,
    cost_cells,
    figure_html,
    number,
    page,
    price_note,
    section,
    stretches,
)

_DEPLOYMENT_COLOURS: Final = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b", "#9d755d")


def render_fleet(
    title: str, facts: Mapping[str, str], outcomes: Sequence[FleetOutcome], *, gpus: int, price: Decimal | None
) -> str:
    """Return the report as one HTML document; the same outcomes give the same text.

    Args:
        title: Of the fleet.
        facts: What else was played, by name, for people.
        outcomes: One a policy, with its runs.
        gpus: Of the pool.
        price: USD per GPU-hour; None shows no cost.
    """
    return page(
        title,
        facts,
        [
            section("The fleet", _table(outcomes, price), _table_caption(price)),
            section("GPUs by deployment", _stacks(outcomes, gpus), _STACKS_CAPTION),
            section("Attainment by deployment", _attained(outcomes), _ATTAINED_CAPTION),
        ],
    )


_TABLE_CAPTION: Final = (
    "One line a policy, highest attainment first. Worst is the attainment of the deployment that has the least; "
    "pending are GPU-hours that pods waited for; utilization is the part of the pool's GPU-hours that pods held."
)
_STACKS_CAPTION: Final = (
    "One panel a policy: the GPUs that each deployment's pods hold, starting and draining ones included, on top of "
    "each other. The dashed line is the pool. Click a name to hide a deployment everywhere."
)
_ATTAINED_CAPTION: Final = (
    "For each deployment, the share of its requests within both of its latency targets, a bar a policy. A policy that "
    "serves one deployment at the cost of another shows here and not in the total."
)


def _table_caption(price: Decimal | None) -> str:
    return _TABLE_CAPTION if price is None else f"{_TABLE_CAPTION} {price_note(price)}"


def _table(outcomes: Sequence[FleetOutcome], price: Decimal | None) -> str:
    headings = (
        "policy",
        "in target, %",
        "worst, %",
        "GPU-hours",
        "utilization, %",
        "pending GPU-hours",
        "pending p99, s",
        *(COST_HEADINGS if price is not None else ()),
    )
    rows = []
    for each in sorted(outcomes, key=lambda each: (-each.scores[FLEET].attainment, each.job.policy)):
        score, waited, policy = each.scores[FLEET], each.waited[FLEET], each.job.policy
        cells = (
            f'<span class="swatch" style="background:{COLOURS[policy]}"></span>{escape(policy)}',
            f"{100.0 * score.attainment:.2f}",
            f"{100.0 * each.total.worst_attainment:.2f}",
            f"{score.gpu_hours:,.2f}",
            f"{100.0 * each.total.gpu_utilization:.1f}",
            f"{waited.gpu_hours_pending:,.2f}",
            number(waited.pending_p99_s, 0),
            *(cost_cells(score, price, (each.runs or {}).values()) if price is not None else ()),
        )
        kind = ' class="ours"' if policy == OURS else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _stacks(outcomes: Sequence[FleetOutcome], gpus: int) -> str:
    figure = make_subplots(
        rows=len(outcomes),
        cols=1,
        shared_xaxes=True,
        subplot_titles=[each.job.policy for each in outcomes],
        vertical_spacing=0.25 / len(outcomes),
    )
    unit, unit_seconds = clock(run for each in outcomes for run in (each.runs or {}).values())
    for row, outcome in enumerate(outcomes, start=1):
        for place, (name, run) in enumerate((outcome.runs or {}).items()):
            parts = stretches(run, MOST_POINTS)
            figure.add_scatter(
                x=[round(part[0].at_seconds / unit_seconds, 3) for part in parts],
                # The mean: peaks of different moments on top of each other would pass the pool.
                y=[round(sum(each.pods for each in part) * run.gpus_per_replica / len(part), 2) for part in parts],
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                stackgroup=f"{row}",
                line={
                    "shape": "hv",
                    "width": 0.5,
                    "color": _DEPLOYMENT_COLOURS[place % len(_DEPLOYMENT_COLOURS)],
                },
                row=row,
                col=1,
            )
        figure.add_hline(y=gpus, line={"dash": "dash", "color": "#c2255c", "width": 1}, row=row, col=1)
    figure.update_xaxes(title=f"{unit} from the start", row=len(outcomes), col=1)
    figure.update_yaxes(title="GPUs", range=[0, 1.08 * gpus])
    return figure_html(figure, "gpus", height=90 + 210 * len(outcomes))


def _attained(outcomes: Sequence[FleetOutcome]) -> str:
    figure = go.Figure()
    for outcome in outcomes:
        figure.add_bar(
            x=list(outcome.scores),
            y=[round(100.0 * score.attainment, 3) for score in outcome.scores.values()],
            name=outcome.job.policy,
            marker={"color": COLOURS[outcome.job.policy]},
            hovertemplate="%{y:.2f} % in target",
        )
    figure.update_yaxes(title="requests within both targets, %", range=[0, 101])
    figure.update_layout(barmode="group")
    return figure_html(figure, "attained", height=460)
