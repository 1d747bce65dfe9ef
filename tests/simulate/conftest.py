"""A real Prometheus with a recorded past, for the tests that read one; they share an xdist group, and so share it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulate.recorded_past import everything
from tests.simulate.remembering import remembering


@pytest.fixture(scope="session")
def prometheus_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that remembers all of it, and scrapes nothing."""
    with remembering(tmp_path_factory.mktemp("recorded"), everything()) as url:
        yield url
