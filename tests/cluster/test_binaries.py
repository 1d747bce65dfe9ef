"""Binaries come from the cache, from a publisher whose checksum holds, or from the compiler, and from nowhere twice."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sandbox import binaries
from sandbox.binaries import TOOLS, BinariesError, Tool
from sandbox.cluster import CHECKOUT

PROGRAM = b"#!/bin/sh\necho hello\n"
# It stands in for the compiler: it notes that it ran, takes its time, and writes the file named after -o.
FAKE_GO = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/ran"
sleep 0.3
while [ "$1" != -o ]; do shift; done
echo program > "$2"
"""


def archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as files:
        member = tarfile.TarInfo(f"release-1.0/{name}")
        member.size = len(content)
        files.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@dataclass
class Publisher:
    """A release server on loopback; `files` maps a path to what it answers, anything else is 404."""

    url: str
    files: dict[str, bytes]


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the base class names it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Publisher(f"http://127.0.0.1:{server.server_port}", files)
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a machine that is offline, and the fake compiler; returns the compiler's directory."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "go").write_text(FAKE_GO)
    (tools / "go").chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(binaries, "_is_online", lambda: False)
    return tools


def test_every_version_stands_in_the_module() -> None:
    versions = {name: binaries.version(tool.module) for name, tool in TOOLS.items()}
    assert all(version[0].isdigit() for version in versions.values())
    assert versions["kubectl"] == versions["kube-apiserver"]
    # v0.313.5 as a module, 3.13.5 as a release
    assert versions["prometheus"].startswith("3.")


def tool_at(publisher: Publisher, url: str, checksums: str) -> Tool:
    return replace(TOOLS["etcd"], url=f"{publisher.url}/{url}", checksums=f"{publisher.url}/{checksums}")


@pytest.mark.parametrize(
    ("file_name", "content", "checksum_text"),
    [
        pytest.param("etcd", PROGRAM, "{sha}", id="a bare checksum of a bare binary"),
        pytest.param("etcd.tar.gz", archive("etcd", PROGRAM), "{sha}  etcd.tar.gz\n", id="an archive"),
        pytest.param(
            "etcd.tar.gz",
            archive("etcd", PROGRAM),
            "0000  other.tar.gz\n{sha} *etcd.tar.gz\n",
            id="one of many checksums",
        ),
        pytest.param(
            "etcd",
            PROGRAM,
            json.dumps({"assets": [{"name": "etcd", "digest": "sha256:SHA"}]}),
            id="a release record",
        ),
    ],
)
def test_download_accepts_what_the_publisher_signs_for(
    publisher: Publisher, tmp_path: Path, file_name: str, content: bytes, checksum_text: str
) -> None:
    digest = hashlib.sha256(content).hexdigest()
    publisher.files[f"/{file_name}"] = content
    publisher.files["/sums"] = checksum_text.replace("{sha}", digest).replace("SHA", digest).encode()
    lines: list[str] = []
    got = binaries.download("etcd", tool_at(publisher, file_name, "sums"), tmp_path, lines.append)
    assert got is not None
    assert got.read_bytes() == PROGRAM
    assert lines[0].startswith("downloaded etcd")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        pytest.param({"/etcd": PROGRAM, "/sums": b"f" * 64}, "does not have the published SHA-256", id="another file"),
        pytest.param({"/etcd": PROGRAM}, "cannot download etcd", id="no checksum"),
        pytest.param({"/etcd": PROGRAM, "/sums": b"0000  other\n"}, "cannot download etcd", id="not in the list"),
        pytest.param({"/sums": b"f" * 64}, "cannot download etcd", id="no file"),
    ],
)
def test_download_refuses_what_cannot_be_verified(
    publisher: Publisher, tmp_path: Path, files: dict[str, bytes], complaint: str
) -> None:
    publisher.files.update(files)
    lines: list[str] = []
    assert binaries.download("etcd", tool_at(publisher, "etcd", "sums"), tmp_path, lines.append) is None
    assert complaint in lines[0]


def test_machine_whose_packets_vanish_is_offline_within_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(binaries, "PROBE_URL", f"https://127.0.0.1:{silent.getsockname()[1]}/")
        began = time.monotonic()
        assert not binaries._is_online()
    assert time.monotonic() - began < 3


def test_build_happens_once_per_binary_and_only_for_those_asked_for(cache: Path) -> None:
    lines: list[str] = []
    for _ in range(2):
        found = binaries.ensure("etcd", "prometheus", report=lines.append)
    assert found["etcd"].read_text() == "program\n"
    assert found["etcd"].stat().st_mode & 0o111
    commands = (cache / "ran").read_text().splitlines()
    assert [command.split()[-1] for command in commands] == [TOOLS["etcd"].package, TOOLS["prometheus"].package]
    assert "gitVersion=v" in commands[0]
    assert "-tags remove_all_sd,enable_kubernetes_sd" in commands[1]
    assert [line.split()[0] for line in lines] == ["building", "built"] * 2
    assert sorted(path.name for path in binaries.cache_directory().iterdir()) == [".lock", "etcd", "prometheus"]


def test_two_processes_build_once(cache: Path) -> None:
    script = "from sandbox import binaries; binaries._is_online = lambda: False; binaries.ensure('etcd')"
    starts = [subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT) for _ in range(2)]
    assert [process.wait() for process in starts] == [0, 0]
    assert len((cache / "ran").read_text().splitlines()) == 1


def test_failed_build_shows_what_the_compiler_said(cache: Path) -> None:
    (cache / "go").write_text("#!/bin/sh\necho missing go.sum entry >&2\nexit 1\n")
    with pytest.raises(BinariesError, match=r"cannot build etcd(.|\n)*missing go.sum entry"):
        binaries.ensure("etcd")
    assert [path.name for path in binaries.cache_directory().iterdir()] == [".lock"]


def test_without_compiler_the_error_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BinariesError, match="needs Go"):
        binaries.ensure("etcd")
