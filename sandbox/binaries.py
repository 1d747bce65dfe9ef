"""The programs a sandbox runs: from the cache, else downloaded and verified, else built from the pinned Go module.

Versions stand in one place, sandbox/controlplane/go.mod; the cache directory is named after a hash of that
module, so a changed version is a new directory and an old one is never wrong.

The download path is exercised in tests against a local server only: it was written where the publishers cannot
be reached. A download that fails in any way, checksum included, ends in a build.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

MODULE = Path(__file__).resolve().parent / "controlplane"
GOOS = platform.system().lower()
GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PLATFORM = f"{GOOS}-{GOARCH}"

# One short attempt tells whether the publishers can be reached at all; name resolution has no timeout of its own.
PROBE_URL = "https://dl.k8s.io/"
PROBE_SECONDS = 2
DOWNLOAD_TIMEOUT_SECONDS = 30
ERROR_TAIL_LINES = 15

Report = Callable[[str], None]


class BinariesError(Exception):
    """A binary can be had neither from the network nor by building it; the text says what to install."""


@dataclass(frozen=True)
class Tool:
    """Where one binary comes from.

    Attributes:
        package: The Go package to build.
        module: The module whose version in go.mod is the binary's.
        url: The publisher's file, a binary or a .tar.gz that holds it; {v} is the version without its "v".
        checksums: The publisher's SHA-256 of that file: alone, as sha256sum prints it, or as GitHub's release record.
        tags: Go build tags.
        any_version: One on the PATH will do.
    """

    package: str
    module: str
    url: str
    checksums: str
    tags: str = ""
    any_version: bool = False


def _kubernetes(name: str, *, any_version: bool = False) -> Tool:
    url = f"https://dl.k8s.io/release/v{{v}}/bin/{GOOS}/{GOARCH}/{name}"
    return Tool(f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", url, f"{url}.sha256", any_version=any_version)


def _prometheus(name: str) -> Tool:
    release = "https://github.com/prometheus/prometheus/releases/download/v{v}/"
    return Tool(
        f"github.com/prometheus/prometheus/cmd/{name}",
        "github.com/prometheus/prometheus",
        f"{release}prometheus-{{v}}.{PLATFORM}.tar.gz",
        f"{release}sha256sums.txt",
        # Every cloud's service discovery but Kubernetes' own: 2 minutes of compilation that nothing here uses.
        tags="remove_all_sd,enable_kubernetes_sd",
    )


_ETCD_RELEASE = "https://github.com/etcd-io/etcd/releases/download/v{v}/"
_HELM_ARCHIVE = f"https://get.helm.sh/helm-v{{v}}-{PLATFORM}.tar.gz"
TOOLS = {
    "etcd": Tool(
        "go.etcd.io/etcd/server/v3",
        "go.etcd.io/etcd/server/v3",
        f"{_ETCD_RELEASE}etcd-v{{v}}-{PLATFORM}.tar.gz",
        f"{_ETCD_RELEASE}SHA256SUMS",
    ),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubectl": _kubernetes("kubectl", any_version=True),
    "kwok": Tool(
        "sigs.k8s.io/kwok/cmd/kwok",
        "sigs.k8s.io/kwok",
        f"https://github.com/kubernetes-sigs/kwok/releases/download/v{{v}}/kwok-{PLATFORM}",
        "https://api.github.com/repos/kubernetes-sigs/kwok/releases/tags/v{v}",
    ),
    "helm": Tool("helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3", _HELM_ARCHIVE, f"{_HELM_ARCHIVE}.sha256sum"),
    "prometheus": _prometheus("prometheus"),
    "promtool": _prometheus("promtool"),
}


def ensure(*names: str, report: Report = lambda line: None) -> dict[str, Path]:
    """Return the path of each named binary, after getting those that are missing.

    Args:
        names: Of TOOLS.
        report: Is told of each download and build, a line at a time.

    Raises:
        BinariesError: If one can be neither downloaded nor built.
    """
    directory = cache_directory()
    found = {}
    for name in names:
        on_path = shutil.which(name) if TOOLS[name].any_version else None
        found[name] = Path(on_path) if on_path else directory / name
    missing = [name for name, path in found.items() if not path.exists()]
    if missing:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / ".lock", report):
            # Another process may have been at it while this one waited.
            _obtain([name for name in missing if not found[name].exists()], directory, report)
    return found


def cache_directory() -> Path:
    """Return where this platform's binaries of the pinned versions belong, outside every checkout."""
    content = hashlib.sha256(f"{GOOS} {GOARCH} {TOOLS} {_linker_flags('')}".encode())
    for name in ("go.mod", "go.sum"):
        content.update((MODULE / name).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "modelfleet" / "bin" / content.hexdigest()[:16]


def version(module: str) -> str:
    """Return the version, without its "v", that go.mod requires of a module."""
    match = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise BinariesError(f"{MODULE / 'go.mod'} does not require {module}")
    # Prometheus's module counts v0.313.5 where its release is called v3.13.5.
    if module == "github.com/prometheus/prometheus":
        return re.sub(r"^0\.(\d)(\d\d)\.", lambda part: f"{part[1]}.{int(part[2])}.", match[1])
    return match[1]


def _obtain(names: list[str], directory: Path, report: Report) -> None:
    online = bool(names) and _is_online()
    for name in names:
        # Within the directory, because a rename is atomic on one file system only.
        with TemporaryDirectory(dir=directory) as scratch:
            work = Path(scratch)
            binary = (download(name, TOOLS[name], work, report) if online else None) or _build(name, work, report)
            binary.chmod(0o755)
            binary.rename(directory / name)


def _is_online() -> bool:
    reached = threading.Event()

    def probe() -> None:
        with suppress(OSError):
            urllib.request.urlopen(PROBE_URL, timeout=PROBE_SECONDS).close()
            reached.set()

    threading.Thread(target=probe, daemon=True).start()
    return reached.wait(PROBE_SECONDS)


def download(name: str, tool: Tool, work: Path, report: Report) -> Path | None:
    """Fetch a release into the work directory; return the binary, or None when it must be built instead."""
    number = version(tool.module)
    url = tool.url.format(v=number)
    file_name = url.rpartition("/")[2]
    began = time.monotonic()
    try:
        expected = _published_sha256(_fetch(tool.checksums.format(v=number)).decode(), file_name)
        content = _fetch(url)
        if hashlib.sha256(content).hexdigest() != expected:
            report(f"{url} does not have the published SHA-256: building {name} instead")
            return None
        file = work / file_name
        file.write_bytes(content)
        if file_name.endswith(".tar.gz"):
            file = _extract(file, name)
    except (OSError, ValueError, KeyError, StopIteration, tarfile.TarError) as error:
        report(f"cannot download {name} ({error}): building it instead")
        return None
    report(f"downloaded {name} {number} in {time.monotonic() - began:.0f} s")
    return file


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
        return bytes(response.read())


def _published_sha256(text: str, file_name: str) -> str:
    if text.lstrip().startswith("{"):
        digest: str = next(each["digest"] for each in json.loads(text)["assets"] if each["name"] == file_name)
        return digest.removeprefix("sha256:")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return next(line[0] for line in lines if len(line) == 1 or line[1].lstrip("*") == file_name)


def _extract(archive: Path, name: str) -> Path:
    with tarfile.open(archive) as files:
        member = next(each for each in files if each.isfile() and each.name.rpartition("/")[2] == name)
        member.name = name
        files.extract(member, archive.parent, filter="data")
    return archive.parent / name


def _build(name: str, work: Path, report: Report) -> Path:
    if shutil.which("go") is None:
        raise BinariesError(
            f"{name} cannot be downloaded, and building it needs Go: install it from https://go.dev/dl or your packages"
        )
    tool = TOOLS[name]
    report(f"building {name} {version(tool.module)}; the first time takes minutes")
    began = time.monotonic()
    command = ["go", "build", "-trimpath", "-ldflags", _linker_flags(tool.module), "-o", str(work / name), tool.package]
    if tool.tags:
        command[2:2] = ["-tags", tool.tags]
    done = subprocess.run(
        command,
        cwd=MODULE,
        env=os.environ | {"CGO_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-ERROR_TAIL_LINES:])
        raise BinariesError(f"cannot build {name}; `{' '.join(command)}` in {MODULE} ended with:\n{tail}")
    report(f"built {name} in {time.monotonic() - began:.0f} s")
    return work / name


def _linker_flags(module: str) -> str:
    """Leave out symbols, and tell Kubernetes its version: it refuses to serve as v0.0.0, and helm asks for it too."""
    flags = "-s -w"
    if module != "github.com/prometheus/prometheus":
        number = version("k8s.io/kubernetes")
        major, minor, _ = number.split(".")
        prefix = "-X k8s.io/component-base/version.git"
        flags += f" {prefix}Version=v{number} {prefix}Major={major} {prefix}Minor={minor}"
    return flags


@contextmanager
def _locked(lock: Path, report: Report) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that builds the same binaries")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
