"""The cache of decoded images."""

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_runner.data.sources import cache, decode_folder
from ssl_runner.errors import DataError
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.files import scan

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SSL_RUNNER_CACHE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "pictures").mkdir()
    for shade in range(6):
        paint(tmp_path / "pictures" / f"{shade}.png", shade)
    return tmp_path / "pictures"


def paint(path, shade):
    Image.new("L", (4, 4), shade).save(path)


def load(folder, damaged=None, **how):
    return cache.load_images("toy", folder, scan(folder), Decoding(**{"size": None, "channels": 1, **how}), damaged)


def pixels(folder):
    loaded = load(folder)
    return loaded.images, loaded.content


def shades(folder):
    return load(folder).images[:, 0, 0, 0].tolist()


def entries(store):
    return [path for path in store.iterdir() if path.is_dir()]


def refuse(*arguments):
    raise AssertionError("decoded again")


def test_a_second_load_decodes_nothing_and_equals_the_first(folder, store, monkeypatch):
    images, content = pixels(folder)
    monkeypatch.setattr(decode_folder, "decode_all", refuse)
    again, content_again = pixels(folder)
    assert torch.equal(images, again)
    assert content == content_again
    assert images.dtype == torch.uint8
    assert images.shape == (6, 1, 4, 4)


def test_loaded_images_can_be_used_like_any_tensor(folder, store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns about memory that cannot be written
        images = load(folder).images
    images[0] = 99  # private to this process
    assert shades(folder) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("change", ["changed", "added", "removed", "renamed"])
def test_a_change_in_the_folder_is_noticed_and_the_old_entry_deleted(folder, store, change):
    load(folder)
    if change == "changed":
        paint(folder / "3.png", 77)
    elif change == "added":
        paint(folder / "35.png", 77)
    elif change == "removed":
        (folder / "3.png").unlink()
    else:
        (folder / "3.png").rename(folder / "9.png")
    expected = {"changed": [0, 1, 2, 77, 4, 5], "added": [0, 1, 2, 3, 77, 4, 5], "removed": [0, 1, 2, 4, 5]}
    assert shades(folder) == expected.get(change, [0, 1, 2, 4, 5, 3])
    assert len(entries(store)) == 1


def test_a_rewrite_of_equal_length_is_noticed_by_its_time(folder, store):
    before = load(folder).content
    content = (folder / "4.png").read_bytes()
    paint(folder / "3.png", 4)
    assert len(content) == (folder / "3.png").stat().st_size
    assert load(folder).content != before


def test_a_rewrite_that_keeps_its_time_is_noticed_by_its_length(folder, store):
    times = (folder / "3.png").stat()
    load(folder)
    Image.new("L", (4, 4), 77).save(folder / "3.png", compress_level=0)
    os.utime(folder / "3.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert shades(folder) == [0, 1, 2, 77, 4, 5]


def test_other_decodings_and_other_folders_have_their_own_entries(folder, store, tmp_path):
    load(folder)
    load(folder, size=2)
    load(folder, channels=3)
    load(folder, invert=True)
    folder.rename(tmp_path / "moved")
    load(tmp_path / "moved")
    assert len(entries(store)) == 5


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("images.npy", "gone"),
        ("images.npy", "empty"),
        ("images.npy", "cut"),
        ("findings.json", "gone"),
        ("findings.json", "cut"),
        ("digests.npy", "gone"),
        ("digests.npy", "cut"),
    ],
)
def test_a_broken_entry_is_replaced(folder, store, file, damage):
    load(folder)
    path = entries(store)[0] / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) - 1 if damage == "cut" else 0])
    assert shades(folder) == [0, 1, 2, 3, 4, 5]
    assert path.read_bytes() == content


def test_a_cache_that_is_not_a_folder_causes_a_warning_not_a_failure(folder, store):
    store.write_text("in the way")
    with pytest.warns(RuntimeWarning, match=r"toy are not cached.*SSL_RUNNER_CACHE"):
        images, content = pixels(folder)
    store.unlink()
    kept, kept_content = pixels(folder)
    assert torch.equal(images, kept)
    assert content == kept_content


def test_a_full_disk_causes_a_warning_and_leaves_nothing_behind(folder, store, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert shades(folder) == [0, 1, 2, 3, 4, 5]
    assert entries(store) == []


def test_a_read_only_cache_still_serves_its_entries(folder, store, monkeypatch):
    load(folder)

    def read_only(*arguments):
        raise PermissionError("read-only")

    monkeypatch.setattr(cache, "locked", read_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shades(folder) == [0, 1, 2, 3, 4, 5]


def test_a_damaged_image_is_reported_again_without_decoding(folder, store, monkeypatch):
    (folder / "3.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"3\.png cannot be decoded"):
        load(folder)
    monkeypatch.setattr(decode_folder, "decode_all", refuse)
    with pytest.raises(DataError, match=r"3\.png cannot be decoded"):
        load(folder)
    skipping = load(folder, "skip")
    assert skipping.images[:, 0, 0, 0].tolist() == [0, 1, 2, 4, 5]
    assert [file.path for file in skipping.files] == [(f"{shade}.png",) for shade in (0, 1, 2, 4, 5)]


def test_skipped_files_change_the_content_hash(folder, store):
    (folder / "3.png").write_bytes(b"broken")
    skipping = load(folder, "skip").content
    (folder / "3.png").unlink()
    assert load(folder).content != skipping


def test_twenty_damaged_files_are_named_at_once_and_the_others_counted(folder, store):
    for number in range(30):
        (folder / f"broken{number:02}.png").write_bytes(b"")
    with pytest.raises(DataError) as raised:
        load(folder, "refuse")
    message = str(raised.value)
    assert "30 of 36 image files cannot be decoded" in message
    assert sum(f"broken{number:02}.png: the file is empty" in message for number in range(30)) == 20
    assert "and 10 more" in message
    assert "dataset.damaged=skip" in message


@pytest.mark.parametrize("damaged", ["refuse", "skip"])
def test_a_folder_of_only_damaged_files_is_refused(folder, store, damaged):
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="6 of 6 image files cannot be decoded"):
        load(folder, damaged)


def test_sixteen_bit_files_are_read_with_the_bits_that_all_of_them_need(folder, store):
    for path, greatest in zip(sorted(folder.iterdir()), (255, 4095, 255, 255, 255, 255), strict=True):
        Image.fromarray(np.full((4, 4), greatest, np.uint16)).save(path)
    loaded = load(folder)
    assert loaded.images[:, 0, 0, 0].tolist() == [15, 255, 15, 15, 15, 15]
    assert (loaded.findings.bits, loaded.findings.deepest) == (12, 4095)
    assert load(folder, value_range=[0, 255]).images[:, 0, 0, 0].tolist() == [255] * 6


def test_if_processes_start_at_once_one_decodes_and_all_get_the_images(folder, store, tmp_path, monkeypatch):
    decode_all, log, barrier, results = decode_folder.decode_all, tmp_path / "log", FORK.Barrier(4), FORK.SimpleQueue()

    def logged(files, how, findings):
        with log.open("a") as file:
            file.write("decoding\n")
        time.sleep(0.2)
        return decode_all(files, how, findings)

    def start():
        barrier.wait()
        results.put(shades(folder))

    monkeypatch.setattr(decode_folder, "decode_all", logged)
    processes = [FORK.Process(target=start) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [results.get() for _ in processes] == [[0, 1, 2, 3, 4, 5]] * 4
    assert log.read_text() == "decoding\n"


def test_a_killed_writer_blocks_no_one_and_leaves_nothing_broken(folder, store, monkeypatch):
    decode_all, begun = decode_folder.decode_all, FORK.Event()

    def endless(files, how, findings):
        yield np.zeros((1, 1, 4, 4), np.uint8)
        begun.set()
        time.sleep(60)

    monkeypatch.setattr(decode_folder, "decode_all", endless)
    writer = FORK.Process(target=load, args=(folder,))
    writer.start()
    assert begun.wait(30)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert len(entries(store)) == 1  # the one that it left
    monkeypatch.setattr(decode_folder, "decode_all", decode_all)
    assert shades(folder) == [0, 1, 2, 3, 4, 5]
    assert len(entries(store)) == 1


def test_the_folder_is_the_given_one_or_else_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_RUNNER_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("SSL_RUNNER_CACHE")
    assert cache.cache_folder() == tmp_path / "b" / "ssl_runner"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == tmp_path / "c" / ".cache" / "ssl_runner"
