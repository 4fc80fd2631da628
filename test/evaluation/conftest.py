"""What several tests of evaluations work on."""

from pathlib import Path

import pytest

from rssm_ros.online.session import Session
from test.bundles import tiny_bundle
from test.episodes import write_smooth


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of a package that drifts; to be read only."""
    return write_smooth(tmp_path_factory.mktemp("data"), 3)


@pytest.fixture(scope="session")
def session() -> Session:
    """Of a tiny bundle with random weights."""
    return Session(tiny_bundle(), prove=False)
