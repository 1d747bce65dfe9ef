"""A cluster with nothing on it, a node on which pods are processes, and the real helm."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.cluster import Sandbox
from sandbox.fleet import CHART, end, start_engines
from sandbox.nodes import NodePlan
from tests.cluster.helm.client import Helm
from tests.cluster.helm.kubelet import Kubelet


@pytest.fixture(scope="session")
def kubelet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """The node of a running, audited cluster."""
    directory = tmp_path_factory.mktemp("helm")
    # No CPU node of kwok's: whatever needs no GPU runs as a process.
    plan = NodePlan(h100=1, a100=0, cpu=0)
    with Sandbox.start(directory / "cluster", name="helm", nodes=plan, audit=True) as sandbox:
        engines = start_engines(sandbox, directory / "engines.log")
        try:
            with Kubelet(sandbox, directory / "pods") as kubelet:
                yield kubelet
        finally:
            end([engines])


@pytest.fixture(scope="session")
def sandbox(kubelet: Kubelet) -> Sandbox:
    """The cluster."""
    return kubelet.sandbox


@pytest.fixture(scope="session")
def helm(kubelet: Kubelet) -> Helm:
    """The real helm."""
    return Helm(kubelet.directory.parent / "helm-home", kubelet.sandbox.kubeconfig)


@pytest.fixture
def changed_chart(tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the chart, at another version, with some YAML files changed."""

    def make(version: str, changes: dict[str, Callable[[Any], None]]) -> Path:
        copy = shutil.copytree(CHART, tmp_path / version)
        for name, change in {"Chart.yaml": lambda chart: chart.update(version=version), **changes}.items():
            content = yaml.safe_load((copy / name).read_text())
            change(content)
            (copy / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return copy

    return make
