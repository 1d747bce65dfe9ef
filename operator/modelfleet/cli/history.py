"""`modelfleet history NAME`: the last changes, and a small chart of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from modelfleet.adapters.kubernetes import Json
from modelfleet.cli.cluster import (
    Context,
    Kubeconfig,
    Namespace,
    OutputOption,
    ago,
    clock,
    emit,
    moment,
    printer,
    read_deployment,
    span,
)
from modelfleet.cli.names import deployment_names

WIDTH: Final = 60
BARS: Final = "▁▂▃▄▅▆▇█"
ROWS: Final = (
    ("queue", "queuedRequests"),
    ("tok/s", "outputTokensPerSecond"),
    ("wanted", "wanted"),
    ("desired", "desired"),
    ("ready", "ready"),
)


def history(
    name: Annotated[str, typer.Argument(help="Of a ModelDeployment.", autocompletion=deployment_names)],
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: OutputOption = None,
) -> None:
    """Show when desired or reason last changed (up to 20 times), with load, wanted, desired and ready."""
    item = read_deployment(name, kubeconfig=kubeconfig, context=context, namespace=namespace)
    recent: list[Json] = (item.get("status") or {}).get("recent") or []
    if output is not None:
        emit(recent, output)
        return
    now, console = clock(), printer()
    if not recent:
        console.print("nothing was decided yet")
        return
    for line in chart(recent, now):
        console.print(Text(line))
    console.print(table(recent, now))


def chart(recent: Sequence[Mapping[str, Any]], now: datetime) -> list[str]:
    """Return one line of bars for each quantity, from the first change to now, and the time they span."""
    times = [moment(entry["at"]) for entry in recent]
    seconds = max(1.0, (now - times[0]).total_seconds())
    places = [
        sum((at - times[0]).total_seconds() <= seconds * column / (WIDTH - 1) for at in times) - 1
        for column in range(WIDTH)
    ]
    lines = []
    # Replicas share a scale, so that wanted, desired and ready can be compared.
    most_replicas = max(entry[field] for entry in recent for _, field in ROWS[2:])
    for title, field in ROWS:
        values = [entry.get(field) for entry in recent]
        known = [value for value in values if value is not None]
        most = most_replicas if field in {"wanted", "desired", "ready"} else max(known, default=0)
        bars = "".join(_bar(values[place], most) for place in places)
        lines.append(f"{title:>7} {bars} {'?' if values[-1] is None else values[-1]} (most {max(known, default='?')})")
    return [*lines, f"{'':>7} {span(seconds) + ' ago':<{WIDTH - 3}}now"]


def _bar(value: int | None, most: int) -> str:
    """Return a bar; what is unknown is no bar, and zero is the lowest."""
    if value is None:
        return " "
    return BARS[round((len(BARS) - 1) * value / most)] if most else BARS[0]


def table(recent: Sequence[Mapping[str, Any]], now: datetime) -> Table:
    """Return the changes, newest last."""
    found = Table(
        "TIME", "AGO", "QUEUE", "TOK/S", "WANTED", "DESIRED", "READY", "LIMITED-BY", "REASON", box=None, pad_edge=False
    )
    for entry in recent:
        queue, tokens = (str(entry.get(field, "?")) for field in ("queuedRequests", "outputTokensPerSecond"))
        found.add_row(
            f"{moment(entry['at']):%m-%d %H:%M:%SZ}",
            ago(entry["at"], now),
            queue,
            tokens,
            *(str(entry[field]) for field in ("wanted", "desired", "ready")),
            entry.get("limitedBy", ""),
            entry.get("reason", ""),
        )
    return found
