"""Fixtures shared by several tests."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from shipped_conf import read_once
from small_program import settle, small_conf, small_program  # noqa: F401  fixtures

from ssl_runner.cli import compose

# Tests run on the CPU even if there is a GPU, since some compare bits; CUDA_VISIBLE_DEVICES=0 runs them on the GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# a suite in the background of a shell ignores Ctrl-C, and would hand that on to what it starts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("untimed", deadline=None)  # a busy machine must not fail a test
settings.load_profile("untimed")

# the longest files, in the order in which they start; a worker takes a second file at once if its first has one test
FIRST = (
    "test_slurm_cluster",
    "test_distributed",
    "test_signals",
    "test_ray",
    "test_runs",
    "test_recipes",
    "test_sweep",
    "test_search",
    "test_faults",
    "test_mistakes",
    "test_export",
    "test_combinations",
    "test_timm_encoder",
    "test_eval",
    "test_endings",
    "test_conf",
    "test_locale",
    "test_console",
    "test_omniglot",
    "test_imaml",
    "test_large_images",
    "test_tiny_imagenet",
    "test_python_api",
    "test_page",
    "test_seams",
    "test_examples",
    "test_verdict_runs",
    "test_longer_runs",
    "test_trainer",
    "test_old_runs",
    "test_strangers",
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no worker is left with one at the end."""
    places = {stem: place for place, stem in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory, session_environment) -> Path:
    """The folder of the real datasets: SSL_RUNNER_DATA, or unpacked from ../shared; without both, tests are skipped."""
    if "SSL_RUNNER_DATA" in os.environ:
        return Path(os.environ["SSL_RUNNER_DATA"])
    if not SHARED.is_file():
        pytest.skip("SSL_RUNNER_DATA names no folder of datasets, and ../shared/data is not there")
    root = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, str(SHARED), str(root)], check=True, capture_output=True)
    session_environment.setenv("SSL_RUNNER_DATA", str(root))  # which conf/ reads
    return root


@pytest.fixture(scope="session", autouse=True)
def session_environment(tmp_path_factory):
    """Keep decoded images only for this session, shared by its workers, and never in the user's cache."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_RUNNER_CACHE", str(cache))
        yield patch


@pytest.fixture(scope="session", autouse=True)
def shipped_conf_is_read_once():
    """Composers of the shipped conf folder share a loader, which keeps the files that it has read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "Loader", read_once())
        yield


@pytest.fixture(scope="session", autouse=True)
def operations_are_asked_for_their_shapes_once():
    """The memory estimates of all runs share what they know, which takes most of the time of wiring a small run."""
    from ssl_runner.training import memory_estimate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_estimate, "MetaResults", functools.cache(memory_estimate.MetaResults))
        yield


@pytest.fixture(autouse=True)
def signals_are_left_as_they_were():
    """A handler that stays behind is inherited by the processes that later tests start."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
