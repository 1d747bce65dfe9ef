"""A real Prometheus with a past that it did not scrape."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from modelfleet.adapters.history import Series
from sandbox import binaries
from sandbox.fleet import end, spawn
from tests.simulate.recorded_past import open_metrics


@contextmanager
def remembering(directory: Path, past: Iterable[Series]) -> Iterator[str]:
    """Run a Prometheus that remembers all of it, and scrapes nothing; yield its URL."""
    tools = binaries.ensure("prometheus", "promtool")
    (directory / "prometheus.yaml").write_text("global: {}\n")
    (directory / "past.txt").write_text(open_metrics(past))
    subprocess.run(
        [str(tools["promtool"]), "tsdb", "create-blocks-from", "openmetrics", "past.txt", "data"],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = spawn(
        [
            str(tools["prometheus"]),
            f"--config.file={directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address={address}",
        ],
        directory / "log",
    )
    try:
        give_up = time.monotonic() + 30
        while not ready(address):
            assert process.poll() is None and time.monotonic() < give_up, (directory / "log").read_text()
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        end([process])
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", int(address.split(":")[1]))) != 0, "its port is free again"


def ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False
