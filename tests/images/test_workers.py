import numpy as np
import pytest
from PIL import Image

from ssl_runner.images import decoding, workers
from ssl_runner.images.decoding import Damage, Decoding, decode_or_damage
from ssl_runner.images.workers import Workers

GRAY = Decoding(size=8, channels=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(256, size=(12, 10 + number), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    paths[2].write_bytes(b"no image")
    return paths


@pytest.fixture(scope="module")
def one():
    made = Workers(GRAY, 1)
    made.start()
    yield made
    made.close()


def alike(found, expected) -> bool:
    if isinstance(expected, Damage):
        return found == expected
    return np.array_equal(found.pixels, expected.pixels) and found[1:] == expected[1:]


def test_a_process_finds_what_this_one_finds_in_the_same_order(files, one):
    found, expected = one.decode(files), [decode_or_damage(path, GRAY) for path in files]
    assert isinstance(expected[2], Damage) and all(map(alike, found, expected))


def test_what_a_killed_process_leaves_is_decoded_here(files, one):
    one.all[0].kill()
    one.all[0].wait()
    expected = [decode_or_damage(path, GRAY) for path in files]
    assert all(map(alike, one.decode(files), expected))


def test_an_enormous_image_is_left_to_the_process_that_asks(files, monkeypatch):
    monkeypatch.setattr(decoding, "LARGE", 0)
    assert decode_or_damage(files[0], GRAY, postpone=True) is None
    assert decode_or_damage(files[0], GRAY) is not None


def test_few_files_start_no_process(monkeypatch):
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 8)
    with workers.workers(GRAY, workers.FEWEST - 1) as none:
        assert none is None


def test_one_core_starts_no_process(monkeypatch):
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 1)
    with workers.workers(GRAY, workers.FEWEST) as none:
        assert none is None
