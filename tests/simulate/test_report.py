"""The report is one file that opens anywhere, and its figures show what was played."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest

from modelfleet.simulate.frontier import Half, Job, Outcome, Point, WhatIf, what_if
from modelfleet.simulate.policy import Setting
from modelfleet.simulate.registry import KINDS, ORACLE, OURS
from modelfleet.simulate.report import COLOURS, Story, render
from modelfleet.simulate.score import Moment, Run, Served, score
from modelfleet.simulate.world import Start

RIVAL, OTHER, *_ = (name for name in KINDS if name not in (OURS, ORACLE))
START = Start.of(100.0)
SETTING = Setting(2.0, 1, 8)


def outcome(policy: str, *, pods: int = 2, slow: int = 0, unanswered: int = 0) -> Outcome:
    """A run of 600 s with these pods all along: of 10 requests so many have a late first token, so many none."""
    ttft = [None] * unanswered + [5.0] * slow + [0.5] * (10 - slow - unanswered)
    run = Run(
        policy=policy,
        setting=SETTING,
        seconds=600.0,
        gpus_per_replica=1,
        pods=[(0.0, 600.0)] * pods,
        served=[Served(60.0 * number, first, None if first is None else 0.01) for number, first in enumerate(ttft)],
        timeline=[
            Moment(60.0 * number, desired=pods, pods=pods, ready=pods - 1, queued=number, running=0, arrived=6 * number)
            for number in range(11)
        ],
        scales=[],
    )
    whole = score(run, ttft_seconds=2.0, tpot_seconds=0.05)
    return Outcome(Job(policy, SETTING, START, 0, keep_run=True), whole, whole, whole, run)


def point(policy: str, minimum: int, first: tuple[float, float], second: tuple[float, float]) -> Point:
    return Point(policy, Setting(2.0, minimum, 8), Half(*first, 0.0), Half(*second, 0.0))


OUTCOMES = (
    outcome(OURS, pods=3, slow=1),
    outcome(RIVAL, pods=6, unanswered=2),
    outcome(OTHER, pods=4, slow=5),
    outcome(ORACLE, pods=1),
)
STORY = Story(
    title="a <trace> & more",
    facts={"requests": "10 in 600 s", "replica": "<b>fast</b>"},
    ttft_seconds=2.0,
    shown=OUTCOMES,
    points=(),
    what_ifs=(),
    rival=RIVAL,
    price=None,
)
FRONTIER = replace(
    STORY,
    points=(
        point(OURS, 3, first=(3.0, 0.9), second=(3.5, 0.8)),
        point(OURS, 1, first=(1.0, 0.5), second=(1.5, 1.0)),
        point(OURS, 2, first=(4.0, 0.6), second=(2.5, 0.7)),
        point(RIVAL, 1, first=(1.0, 0.5), second=(2.0, 0.75)),
    ),
)


def figure(html: str, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the traces and the layout that the page draws in an element."""
    decoder = json.JSONDecoder()
    begins = re.search(rf'Plotly\.newPlot\(\s*"{name}",\s*', html)
    assert begins is not None, name
    traces, ends = decoder.raw_decode(html, begins.end())
    layout, _ = decoder.raw_decode(html, re.compile(r"\s*,\s*").match(html, ends).end())  # type: ignore[union-attr]
    return traces, layout


def rows(html: str) -> list[list[str]]:
    """Return the table's cells as text, its head first."""
    table = html[html.index("<table>") : html.index("</table>")]
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr.*?>(.*?)</tr>", table)
    ]


class _Page(HTMLParser):
    """Checks that elements nest, and gathers what they load and name."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.mark.parametrize("story", [STORY, FRONTIER, replace(STORY, price=Decimal("2.5"))])
def test_the_page_is_whole_and_loads_nothing(story: Story) -> None:
    html = render(story)
    page = _Page()
    page.feed(html)
    page.close()

    assert page.open == []
    assert page.loads == []
    assert "link" not in page.tags
    assert "@import" not in html[: html.index("</style>")]
    assert html.count("plotly.js v") == 1
    assert page.ids == ["frontier", "over-time", "panels", "first-tokens"]


def test_names_are_text_and_no_markup() -> None:
    html = render(STORY)

    assert "<h1>Autoscaling simulated: a &lt;trace&gt; &amp; more</h1>" in html
    assert "<dt>replica</dt><dd>&lt;b&gt;fast&lt;/b&gt;</dd>" in html


def test_the_same_story_is_the_same_page() -> None:
    assert render(STORY) == render(STORY)


def test_every_figure_has_a_caption_and_axes_with_units() -> None:
    html = render(FRONTIER)

    assert len(re.findall(r"<figcaption><p>[^<]{80,}</p></figcaption>", html)) == html.count("<figure>") == 5
    for name, titles in {
        "frontier": {"GPU-hours", "requests within both targets"},
        "over-time": {"requests/s", "replicas", "waiting requests", "minutes from the start"},
        "panels": {"replicas", "minutes"},
        "first-tokens": {"time to first token, s", "requests, %"},
    }.items():
        _, layout = figure(html, name)
        axes = [value for key, value in layout.items() if re.fullmatch(r"[xy]axis\d*", key)]
        assert titles == {axis["title"]["text"] for axis in axes if "title" in axis}


def test_without_a_frontier_a_policy_is_one_dot() -> None:
    traces, _ = figure(render(STORY), "frontier")

    dots = {trace["name"]: (trace["x"], trace["customdata"]) for trace in traces if trace["x"]}
    # Three pods for 600 s are half a GPU-hour.
    assert dots[OURS] == ([0.5], [90.0])
    assert dots[RIVAL] == ([1.0], [80.0])
    assert len(dots) == 4


def test_a_frontier_joins_the_second_halves_of_what_was_best_on_the_first() -> None:
    traces, layout = figure(render(FRONTIER), "frontier")
    line, rest = (trace for trace in traces if trace["name"] == OURS)

    # In order of the first half's cost: minimum 1, then 3. Minimum 2 lost to 3 there.
    assert (line["mode"], line["x"], line["customdata"]) == ("lines+markers", [1.5, 3.5], [100.0, 80.0])
    assert (rest["mode"], rest["x"], rest["customdata"]) == ("markers", [2.5], [70.0])
    # Ten requests: none missed is drawn as half of one.
    assert line["y"] == pytest.approx([0.05, 0.2])
    assert layout["yaxis"]["type"] == "log"
    assert layout["yaxis"]["range"][0] > layout["yaxis"]["range"][1]
    ticks = dict(zip(layout["yaxis"]["tickvals"], layout["yaxis"]["ticktext"], strict=True))
    assert (ticks[0.05], ticks[0.1], ticks[0.5]) == ("100 %", "90 %", "50 %")


def test_the_table_is_by_cost_and_shows_what_never_came_as_infinite() -> None:
    html = render(STORY)

    table = rows(html)
    assert [row[0] for row in table] == ["policy", ORACLE, OURS, OTHER, RIVAL]
    assert table[2][2:] == ["1", "0.50", "90.00", "1", "5.00", "10.0", "0.0", "3"]
    assert table[4][6:8] == ["∞", "∞"]
    assert "USD" not in "".join(table[0])
    assert '<tr class="ours">' in html
    assert '<tr class="oracle">' in html


def test_a_price_adds_the_cost() -> None:
    table = rows(render(replace(STORY, price=Decimal("2.5"))))

    assert table[0][-3:] == ["cost, USD", "USD per 1,000 in target", "USD a month"]
    # 0.5 GPU-hours; 9 of 10 requests in target; 730 hours of three GPUs.
    assert table[2][-3:] == ["1.25", "138.89", "5,475.00"]


def test_ours_the_rival_and_the_oracle_are_shown_and_the_others_a_click_away() -> None:
    traces, _ = figure(render(STORY), "over-time")

    load, *lines = traces
    # 6 requests a minute.
    assert load["y"] == pytest.approx([0.1] * 10)
    # Each stretch where it begins.
    assert load["x"] == list(range(10))
    shown = {trace["name"]: trace["visible"] for trace in lines}
    assert shown == {OURS: True, RIVAL: True, OTHER: "legendonly", ORACLE: True}
    replicas, queued = (trace for trace in lines if trace["name"] == RIVAL)
    assert replicas["y"] == [6] * 11
    assert queued["y"] == list(range(11))
    assert (replicas["legendgroup"], queued["legendgroup"]) == (RIVAL, RIVAL)
    assert [trace["name"] for trace in lines if trace.get("showlegend", True)] == [OURS, RIVAL, OTHER, ORACLE]


def test_a_long_run_is_thinned_without_losing_its_peaks() -> None:
    run = OUTCOMES[0].run
    assert run is not None
    long = replace(
        run,
        seconds=86_400.0,
        timeline=[replace(run.timeline[0], at_seconds=at * 10.0, queued=9 if at == 777 else 0) for at in range(8640)],
    )
    traces, layout = figure(render(replace(STORY, shown=(replace(OUTCOMES[0], run=long),))), "over-time")

    _, replicas, queued = traces
    assert len(replicas["x"]) <= 500
    assert max(queued["y"]) == 9
    assert queued["x"][queued["y"].index(9)] == pytest.approx(2.1, abs=0.1)
    assert layout["xaxis3"]["title"]["text"] == "hours from the start"


def test_each_policy_has_a_panel_with_the_oracle_behind_it() -> None:
    traces, layout = figure(render(STORY), "panels")

    assert [each["text"] for each in layout["annotations"]] == [OURS, RIVAL, OTHER, ORACLE]
    of_rival = [(trace["name"], trace["y"][0]) for trace in traces if trace["xaxis"] == "x2"]
    assert of_rival == [
        (f"{ORACLE}, holding GPUs", 1),
        (f"{RIVAL}, holding GPUs", 6),
        (f"{RIVAL}, ready", 5),
    ]


def test_first_tokens_that_never_came_keep_the_curve_below_100() -> None:
    traces, layout = figure(render(STORY), "first-tokens")

    curves = {trace["name"]: (trace["x"], trace["y"]) for trace in traces}
    assert curves[OURS] == ([0.5] * 9 + [5.0], [10.0 * count for count in range(1, 11)])
    assert curves[RIVAL][1][-1] == 80.0
    assert layout["xaxis"]["type"] == "log"
    assert layout["shapes"][0]["x0"] == 2.0


def test_nobody_answered_is_an_empty_curve() -> None:
    traces, _ = figure(render(replace(STORY, shown=(outcome(OURS, unanswered=10),))), "first-tokens")

    assert traces[0]["x"] == []


def test_what_ifs_show_attainment_above_cost() -> None:
    changed = what_if(OUTCOMES[0].job)
    tried: list[tuple[WhatIf, Outcome]] = [(each, replace(OUTCOMES[1], job=each.job)) for each in changed]
    html = render(replace(STORY, what_ifs=tried))

    traces, layout = figure(html, "what-ifs")
    above, below, *_ = traces
    assert (above["x"], above["y"]) == ([1, 2, 4, 6], [80.0] * 4)
    assert (below["x"], below["y"]) == ([1, 2, 4, 6], [1.0] * 4)
    assert len(traces) == 6
    # The value in use: minimum 1, maximum 8, start 100 s.
    assert sorted({shape["x0"] for shape in layout["shapes"]}) == [1, 8, 100.0]
    titles = [layout[f"xaxis{number}"]["title"]["text"] for number in (4, 5, 6)]
    assert titles == ["minimum replicas", "maximum replicas", "start of a pod, s"]
    assert html.count("<figcaption>") == 6


def test_a_policy_has_one_colour_everywhere_and_ours_stands_out() -> None:
    html = render(STORY)

    for name in ("frontier", "over-time", "first-tokens"):
        for trace in figure(html, name)[0]:
            if trace["name"] in KINDS and trace.get("mode") != "markers":
                assert trace["line"]["color"] == COLOURS[trace["name"]]
                assert trace["zorder"] == (1 if trace["name"] == OURS else 0)
                assert trace["line"]["width"] == (3.5 if trace["name"] == OURS else 1.8)
    rivals = [COLOURS[name] for name in KINDS]
    assert len(set(rivals)) == len(rivals)
