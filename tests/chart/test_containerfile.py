"""The image's recipe, followed as far as a machine without containers can: every step but the base image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sandbox.cluster import CHECKOUT
from sandbox.fleet import CHART

TEXT = (CHECKOUT / "Containerfile").read_text()
STEPS = [
    (word, rest.strip())
    for line in TEXT.replace("\\\n", "").splitlines()
    if line and not line.startswith("#")
    for word, _, rest in [line.partition(" ")]
]
NETWORK_SECONDS = 280
APT = "apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev"
"""Signed by Debian, of the base image's release, and gone with its stage."""


def values(word: str) -> list[str]:
    """Return what follows each step of one kind."""
    return [rest for step, rest in STEPS if step == word]


def test_everything_from_outside_is_held_by_a_hash() -> None:
    (base,) = values("ARG")
    assert re.fullmatch(r"PYTHON=[a-z./]+/python:3\.\d+-slim@sha256:[0-9a-f]{64}", base)
    assert values("FROM") == ["${PYTHON} AS build", "${PYTHON}"]
    assert not values("ADD")
    fetching = [
        step
        for step in values("RUN")
        if re.search(r"install|curl|wget|apt|git ", step) and "uninstall" not in step and step != APT
    ]
    assert [("--require-hashes" in step, "--only-binary=:all:" in step) for step in fetching] == [(True, True)] * 2
    for name, least in (("requirements.lock", 20), ("requirements-compile.lock", 4)):
        lock = (CHECKOUT / name).read_text()
        pinned = re.findall(r"^\S+==\S+(?:.*\\\n\s+--hash=sha256:[0-9a-f]{64})", lock, re.MULTILINE)
        assert len(pinned) == len(re.findall(r"^[a-z]", lock, re.MULTILINE)) > least


def test_it_runs_as_the_user_that_the_chart_asks_for() -> None:
    helpers = (CHART / "templates/_helpers.tpl").read_text()
    user, group = (re.search(rf"runAs{who}: (\d+)", helpers)[1] for who in ("User", "Group"))  # type: ignore[index]
    assert values("USER") == [f"{user}:{group}"]


def test_nothing_but_the_product_goes_in() -> None:
    for name in (".containerignore", ".dockerignore"):
        lines = (CHECKOUT / name).read_text().split()
        assert lines[0] == "*"
        kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
        product = {"operator/modelfleet", "operator/compile_decide.py"}
        assert kept == {"LICENSE", "requirements.lock", "requirements-compile.lock"} | product


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the RUN and COPY steps of the build put the product, with only the paths changed."""
    source, target = (tmp_path_factory.mktemp("image") / name for name in ("src", "modelfleet"))
    source.mkdir()
    inside_build = False
    here = source
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for word, rest in STEPS:
        if word == "FROM":
            inside_build = rest.endswith(" AS build")
        elif word == "WORKDIR" and inside_build:
            here = Path(rest.replace("/src", str(source), 1))
        elif word == "ENV" and inside_build:
            clean |= dict(setting.split("=", 1) for setting in rest.split())
        elif word == "COPY" and inside_build:
            name, destination = rest.split()
            copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
            copy(CHECKOUT / name, here / destination / ("" if destination == "./" else "."))
        elif word == "RUN" and rest != APT:
            command = rest.replace("/opt/modelfleet", str(target)).replace("/opt/compile", str(source / "compile"))
            done = subprocess.run(
                ["/bin/sh", "-ec", command], cwd=here, env=clean, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{rest}\n{done.stdout}\n{done.stderr}"
    return target


@pytest.mark.xdist_group("image")
@pytest.mark.timeout(NETWORK_SECONDS)
def test_the_build_makes_an_operator(built: Path) -> None:
    """The entrypoint runs without the checkout."""
    (entrypoint,) = (json.loads(rest) for rest in values("ENTRYPOINT"))
    outside = {"PATH": f"{built}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*entrypoint, *arguments], cwd="/", env=outside, capture_output=True, text=True, check=False
        )

    crds = run("crds")
    assert crds.returncode == 0, crds.stderr
    committed = [yaml.safe_load(file.read_text()) for file in sorted((CHECKOUT / "crds").glob("*.yaml"))]
    by_name = {item["metadata"]["name"]: item for item in yaml.safe_load_all(crds.stdout)}
    assert by_name == {item["metadata"]["name"]: item for item in committed}
    # Far enough to say that it is nowhere: every import of the operator is there.
    lost = run("run", "--kubeconfig", "/nonexistent", "--listen-address=127.0.0.1", "--listen-port=0")
    assert lost.returncode == 1
    assert "no Kubernetes credentials" in lost.stdout + lost.stderr
    assert not (built / "bin" / "pip3").exists() and shutil.which("pip", path=str(built / "bin")) is None


@pytest.mark.xdist_group("image")
@pytest.mark.timeout(NETWORK_SECONDS)
def test_compiled_it_decides_as_its_source_does(built: Path, tmp_path: Path) -> None:
    """Stories and properties of decide/, run again on the image's machine code."""
    (site,) = built.glob("lib/python3.*/site-packages")
    used = subprocess.check_output(
        [built / "bin/python", "-c", "from modelfleet.decide import cycle; print(cycle.__file__)"], cwd="/", text=True
    )
    assert used.strip().endswith(".so")
    for each in (site / "modelfleet", *site.glob("*__mypyc.*.so")):
        (tmp_path / each.name).symlink_to(each)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"),
            *("-o", f"pythonpath={tmp_path} {CHECKOUT}", "tests/properties/test_decide_properties.py"),
            *map(str, sorted(CHECKOUT.glob("tests/decide/test_*stories.py"))),
        ],
        cwd=CHECKOUT,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
