"""A real cluster for the tests: one per worker process, and a namespace of its own for every test that wants one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from sandbox.cluster import Sandbox

_numbers = count()


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox.start(tmp_path_factory.mktemp("cluster"), name="tests") as running:
        yield running


@pytest.fixture
def namespace(sandbox: Sandbox) -> Iterator[str]:
    """A namespace in which pods can be created at once; its deletion goes on after the test."""
    name = f"test-{next(_numbers)}"
    sandbox.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    sandbox.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    yield name
    sandbox.request("DELETE", f"/api/v1/namespaces/{name}")
