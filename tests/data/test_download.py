"""Downloads, and the message when they fail."""

import socket
from pathlib import Path
from urllib.error import URLError

import pytest

from ssl_runner.data.sources.download import download
from ssl_runner.errors import DataError


def bring(*names):
    def fetch(root):
        for name in names:
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("fetched")

    return fetch


def visible(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.startswith("."))


def test_wanted_files_are_moved_to_their_place_and_the_rest_is_discarded(tmp_path):
    download(
        "toy", tmp_path, [tmp_path / "toy" / "raw", tmp_path / "b"], bring("toy/raw/1", "toy/raw/2", "b", "toy.zip")
    )
    assert visible(tmp_path) == ["b", "toy", "toy/raw", "toy/raw/1", "toy/raw/2"]
    assert not (tmp_path / ".ssl_runner.unfinished").exists()


def test_existing_files_are_left_alone(tmp_path):
    (tmp_path / "a").write_text("mine")
    download("toy", tmp_path, [tmp_path / "a", tmp_path / "b"], bring("a", "b"))
    assert (tmp_path / "a").read_text() == "mine"
    assert (tmp_path / "b").read_text() == "fetched"


def test_nothing_is_fetched_if_another_process_has_done_it_meanwhile(tmp_path):
    (tmp_path / "a").write_text("by another")

    def fetch(root):
        raise AssertionError("fetched twice")

    download("toy", tmp_path, [tmp_path / "a"], fetch)
    assert (tmp_path / "a").read_text() == "by another"


def test_a_failed_download_is_one_error_with_places_and_remedy_and_leaves_nothing(tmp_path):
    def fetch(root):
        bring("half")(root)
        raise URLError("no route to host")

    with pytest.raises(DataError) as caught:
        download("toy", tmp_path, [tmp_path / "a", tmp_path / "b"], fetch)
    message = str(caught.value)
    for part in (
        "toy is missing",
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "no route",
        "SSL_RUNNER_DATA",
        "dataset.root",
    ):
        assert part in message
    assert caught.value.__suppress_context__  # one error, no chain
    assert visible(tmp_path) == []


def test_a_root_that_cannot_be_written_is_the_same_error(tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(DataError, match="toy is missing"):
        download("toy", tmp_path / "root", [tmp_path / "root" / "a"], bring("a"))


def test_connections_time_out_during_a_download_and_not_after(tmp_path):
    seen = []
    download(
        "toy", tmp_path, [tmp_path / "a"], lambda root: (seen.append(socket.getdefaulttimeout()), bring("a")(root))
    )
    assert seen == [20]
    assert socket.getdefaulttimeout() is None
