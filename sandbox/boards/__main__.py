"""`python -m sandbox.boards write|draw`: the dashboards' JSON for the chart, and their pictures for the docs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from sandbox.boards.description import BOARDS, INTEGRAL_SECONDS, tokens_of_the_day
from sandbox.boards.grafana import dashboard
from sandbox.boards.picture import draw
from sandbox.boards.scene import CHOICES, PARTS, stage
from sandbox.cluster import CHECKOUT

DASHBOARDS = CHECKOUT / "charts" / "modelfleet" / "dashboards"
IMAGES = CHECKOUT / "docs" / "images"
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def write(directory: Annotated[Path, typer.Option(help="Where to.")] = DASHBOARDS) -> None:
    """Write the dashboards' JSON."""
    for board in BOARDS:
        (directory / f"{board.name}.json").write_text(dashboard(board))


@app.command("draw")
def draw_all(
    seconds: Annotated[float, typer.Option(help="How long the scene is played.", min=30)] = 420,
    directory: Annotated[Path, typer.Option(help="Where to.")] = IMAGES,
) -> None:
    """Play the scene on a sandbox and draw each board as its Prometheus has it."""
    with (
        tempfile.TemporaryDirectory(prefix="modelfleet-boards-") as scratch,
        stage(Path(scratch), load_seconds=8, say=_say) as played,
    ):
        begin = time.time()
        _say(f"playing {seconds:.0f} s")
        reports = played.play(seconds)
        end = begin + seconds
        for board in BOARDS:
            path = directory / f"{board.name.replace('modelfleet', 'board')}.svg"
            path.write_text(draw(board, played, CHOICES, begin=begin, end=end))
            _say(f"wrote {path}")
        time.sleep(INTEGRAL_SECONDS)  # the last step of the integral
        now = time.time()
        for part in PARTS:
            received = reports[part.key].output_tokens
            query = tokens_of_the_day(f'{{model="{part.model}"}}')
            [(_, [(_, shown)])] = played.ask(query, {}, begin=now, end=now, step=1)
            _say(f"{part.model}: {received} tokens received, {shown:.0f} on the board ({shown / received - 1:+.1%})")


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    app()
