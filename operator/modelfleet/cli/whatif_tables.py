"""The tables that `modelfleet whatif` prints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = Mapping[str, Any]

PRINT_COLUMNS = 200
"""Wider than any table: in a narrow terminal lines then wrap, where rich would cut off digits."""


def show(answer: Mapping[str, Any]) -> None:
    """Print the answer for people."""
    console = Console(width=PRINT_COLUMNS, highlight=False)
    for text in answer["refused"]:
        console.print(f"[bold red]refused[/]  {escape(text)}")
    console.print("[bold]Replicas, if demand stays as it is now[/]")
    console.print(_deployments(answer["deployments"]))
    console.print(_reasons(answer["deployments"]), end="")
    console.print("\n[bold]GPUs at rest, as it is → what if[/]")
    console.print(_tenants(answer["tenants"]))
    _notes(console, answer["notes"])
    past = answer.get("past")
    if past is None:
        return
    console.print(f"\n[bold]GPU-hours from {past['begins']} to {past['ends']}, as it is → what if[/]")
    console.print(_totals("deployment", past["deployments"], ("used", "waiting")))
    console.print("")
    console.print(_totals("tenant", past["tenants"], ("used", "borrowed", "lent", "waiting")))
    _notes(console, past["notes"])


def _notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"[dim]{escape(note)}[/]")


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        of_text = heading in {"deployment", "tenant", "class", "limited by"}
        table.add_column(heading, justify="left" if of_text else "right", no_wrap=True)
    return table


def _deployments(rows: Sequence[Row]) -> Table:
    table = _table("deployment", "tenant", "wanted", "now", "as is", "what if", "change", "limited by")
    for row in rows:
        numbers = (str(row[name]) for name in ("wanted", "now", "asIs", "whatIf"))
        table.add_row(_key(row), row["tenant"] or "-", *numbers, _change(row["change"]), row["limitedBy"])
    return table


def _reasons(rows: Sequence[Row]) -> str:
    """Return why each that changes does, and what would let it have what it wants."""
    lines = []
    for row in rows:
        if row["change"]:
            why = [*row["drains"], *([f"for more: {row['unblock']}"] if row["unblock"] else [])]
            lines += [f"[dim]{escape(_key(row))}: {escape(text)}[/]\n" for text in why]
    return "".join(lines)


def _tenants(rows: Sequence[Row]) -> Table:
    figures = ("nominal", "guaranteed", "used", "borrowed", "lent", "waiting")
    table = _table("tenant", "class", *figures)
    for row in rows:
        table.add_row(row["name"], row["accelerator"], *_both(row, figures, "{:,}"))
    return table


def _totals(of: str, rows: Sequence[Row], figures: Sequence[str]) -> Table:
    table = _table(of, *figures, "drains")
    for row in rows:
        hours = _both(row, [f"{figure}GpuHours" for figure in figures], "{:,.1f}")
        table.add_row(_key(row), *hours, *_both(row, ["drains"], "{:,}"))
    return table


def _both(row: Row, names: Sequence[str], form: str) -> Iterator[str]:
    """Yield each figure as it is and as it would be, once where they are alike."""
    for name in names:
        was, after = ("-" if row[world] is None else form.format(row[world][name]) for world in ("asIs", "whatIf"))
        yield was if was == after else f"{was} → [bold]{after}[/]"


def _key(row: Row) -> str:
    return f"{row['namespace']}/{row['name']}" if "namespace" in row else str(row["name"])


def _change(count: int) -> str:
    if not count:
        return "0"
    return f"[bold green]+{count}[/]" if count > 0 else f"[bold red]{count}[/]"
