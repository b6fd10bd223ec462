"""What several tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real datasets; tests that need one are skipped without it."""
    if "SSL_RUNNER_DATA" not in os.environ:
        pytest.skip("SSL_RUNNER_DATA names no folder of datasets")
    return Path(os.environ["SSL_RUNNER_DATA"])


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Decoded images are kept for this session only, never in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_RUNNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
