"""`python -m sandbox.engine`: engines for every inference pod of a sandbox cluster."""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from sandbox.engine import kubelet

# Locals would show the cluster's token in a traceback.
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    kubeconfig: Annotated[Path, typer.Option(help="Cluster to serve.", exists=True, dir_okay=False)],
    verbose: Annotated[bool, typer.Option(help="Log every drain.")] = False,
) -> None:
    """Give every inference pod of the cluster a simulated (or real) engine, until interrupted."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    uvloop.run(_until_signalled(kubeconfig))


async def _until_signalled(kubeconfig: Path) -> None:
    serving = asyncio.create_task(kubelet.run(kubeconfig))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    app()
