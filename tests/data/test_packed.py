"""Folders of images in a pack."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_runner.data.augmentation import Augmentation, HorizontalFlip, RandomResizedCrop
from ssl_runner.data.batching.batching import own_draws
from ssl_runner.data.batching.multi_crop import MultiCropBatching
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.sources.image_folder import image_folder
from ssl_runner.data.stores import packing, threads
from ssl_runner.data.stores.index import read_index
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import DataError, NotDownloaded
from ssl_runner.images.decoding import Decoding, decode
from ssl_runner.runtime import process_group
from ssl_runner.runtime.no_download import no_download

CPU = torch.device("cpu")
CLASSES = ("ant", "bee", "cat")


def load(root, storage="packed", **keys):
    given = {"split": "images", "class_split": None, "class_counts": None, "validation": 0.1, "test": 0.2}
    given |= {"split_seed": 0, "size": 16, "channels": 3, "storage": storage}
    return image_folder(str(root), **{**given, **keys})


def paint(path, seed):
    """A picture of random size whose pixels are smooth, as JPEG."""
    draws = np.random.default_rng(seed)
    height, width = draws.integers(20, 60, 2).tolist()
    small = Image.fromarray(draws.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def zoo(tmp_path, cache):
    for number in range(30):
        paint(tmp_path / "zoo" / CLASSES[number % 3] / f"{number:02d}.jpg", number)
    return tmp_path / "zoo"


def pack_of(cache):
    return next(path for path in cache.iterdir() if path.is_dir())


def crop(**keys):
    return RandomResizedCrop(**{"size": None, "scale": [0.2, 1.0], "ratio": [0.75, 1.3333], **keys})


def augmentation(**keys):
    return Augmentation({"crop": crop(**keys), "flip": HorizontalFlip(0.5)})


def bound(batching, dataset, seed=0):
    batching.bind(dataset, seed, CPU)
    return batching


def two_views(dataset, **keys):
    return bound(ViewBatching(augmentation(), 6, 2, **keys), dataset)


def note(splits, key):
    return next((note for note in splits.notes if note.key == key), None)


def test_evaluation_sees_exactly_the_images_and_labels_that_memory_holds(zoo):
    packed, held = load(zoo), load(zoo, "memory")
    for one, other in ((packed.train, held.train), (packed.validation, held.validation), (packed.test, held.test)):
        assert isinstance(one.images, StoredImages)
        assert one.images.shape == other.images.shape
        assert torch.equal(one.images[:], other.images)
        assert torch.equal(torch.cat(list(one.images.split(4))), other.images)
        assert torch.equal(one.labels, other.labels)
    few = torch.tensor([[3, 1], [0, 3]])
    assert torch.equal(packed.train.images[few], held.train.images[few])


def test_views_are_cut_from_the_original_pixels_by_the_same_draws(zoo):
    """Against a naive loop: decode the file, crop, resize, flip, image after image."""
    dataset, made = load(zoo).train, augmentation()
    batch = two_views(dataset).batch(0)
    draws = own_draws(0, "augmentation", 0, 2, 6, made.columns).unflatten(0, (2, 6))
    for view in range(2):
        for place, index in enumerate(batch.indices.tolist()):
            path = dataset.images.store.name(int(dataset.images.rows[index]))
            pixels = torch.from_numpy(decode(path, Decoding(None, 3)))
            row = draws[view, place : place + 1]
            top, left, height, width = crop().parameters(row[:, : crop().columns], *pixels.shape[1:])[0].tolist()
            part = pixels[None, :, top : top + height, left : left + width]
            expected = torch.nn.functional.interpolate(part, (16, 16), mode="bilinear", antialias=True)[0] / 255
            expected = expected.flip(-1) if row[0, -1] < 0.5 else expected
            # the layout in memory decides which of torch's two 8-bit kernels is used: they round differently
            assert (batch.crops[0][view, place] - expected).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("workers", [1, 3])
def test_a_resumed_run_gets_the_same_views_at_any_number_of_threads(zoo, workers, monkeypatch):
    dataset = load(zoo).train
    unbroken = two_views(dataset)
    steps = [unbroken.batch(step) for step in range(9)]  # three epochs
    monkeypatch.setattr(threads, "_pool", None)
    monkeypatch.setattr(threads, "decoding_threads", lambda: workers)
    resumed = two_views(dataset)
    for step in (5, 6, 2, 8):
        assert torch.equal(resumed.batch(step).crops[0], steps[step].crops[0])
        assert torch.equal(resumed.batch(step).indices, steps[step].indices)


def test_two_processes_make_the_views_that_one_would(zoo, monkeypatch):
    dataset = load(zoo).train
    whole, parts = two_views(dataset).batch(4), []
    monkeypatch.setattr(process_group, "size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
        parts.append(two_views(dataset).batch(4))
    assert torch.equal(torch.cat([part.crops[0] for part in parts], dim=1), whole.crops[0])
    assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)


def test_local_views_have_the_size_of_their_own_crop(zoo):
    made = MultiCropBatching(augmentation(), 6, augmentation(size=8, scale=[0.05, 0.3]), 3, None, local_pool=1)
    batch = bound(made, load(zoo).train).batch(0)
    assert [crops.shape for crops in batch.crops] == [(2, 6, 3, 16, 16), (3, 6, 3, 8, 8)]
    assert not torch.equal(batch.crops[1][0], batch.crops[1][1])


def test_augmentations_without_a_random_crop_begin_with_the_middle_of_the_image(zoo):
    dataset = load(zoo).train
    plain = bound(ViewBatching(Augmentation({}), 6, 2), dataset).batch(0)
    for view in plain.crops[0]:
        assert torch.equal(view, dataset.images[plain.indices] / 255)


def test_the_largest_batch_is_known_without_decoding(zoo, monkeypatch):
    batching = two_views(load(zoo).train, second_augmentation=augmentation(size=16))
    monkeypatch.setattr(StoredImages, "begin", None)
    largest = batching.largest()
    assert largest.crops[0].shape == (2, 6, 3, 16, 16)
    assert largest.crops[0].device.type == "meta"


def test_only_a_few_batches_ahead_are_held(zoo):
    batching = two_views(load(zoo).train)
    for step in (0, 1, 7, 2, 3):
        batching.batch(step)
        assert len(batching.cropping._ahead) <= 3


def test_statistics_of_pixels_are_those_of_the_original_files(zoo):
    images = load(zoo).train.images
    files = [decode(images.store.name(int(row)), Decoding(None, 3)) / 255 for row in images.rows]
    means = np.mean([file.mean(axis=(1, 2)) for file in files], axis=0)
    squares = np.mean([(file**2).mean(axis=(1, 2)) for file in files], axis=0)
    mean, std = images.mean_and_std()
    assert mean == pytest.approx(means, abs=1e-5)
    assert std == pytest.approx(np.sqrt(squares - means**2), abs=1e-5)


def test_a_second_start_reads_no_file(zoo, monkeypatch):
    first = load(zoo)
    monkeypatch.setattr(packing, "inspect", None)
    with no_download() as absent:
        assert load(zoo, size=8).train.images.shape[-1] == 8  # another size uses the same pack
    assert absent == []
    assert load(zoo).train.fingerprint == first.train.fingerprint


def test_a_check_of_a_config_packs_nothing(zoo, cache):
    with no_download(), pytest.raises(NotDownloaded):
        load(zoo)
    assert not cache.exists()


def test_new_and_changed_files_are_appended_and_told(zoo, cache):
    load(zoo)
    before = json.loads((pack_of(cache) / "state.json").read_text())["extra"]["data"][0]
    paint(zoo / "ant" / "new.jpg", 100)
    paint(zoo / "bee" / "01.jpg", 101)
    splits = load(zoo)
    after = json.loads((pack_of(cache) / "state.json").read_text())["extra"]["data"][0]
    added = sum((zoo / name).stat().st_size for name in ("ant/new.jpg", "bee/01.jpg"))
    assert after - before == added
    assert "1 files have changed" in note(splits, "repacked").text
    assert torch.equal(splits.train.images[:], load(zoo, "memory").train.images)


def test_a_file_whose_time_alone_has_changed_is_packed_again(zoo):
    load(zoo)
    os.utime(zoo / "bee" / "01.jpg", ns=(1, 1))
    assert note(load(zoo), "repacked").value == 1


def test_a_pack_made_from_other_files_is_told_with_what_to_delete(zoo, cache):
    load(zoo)
    for number, path in enumerate(sorted(zoo.rglob("*.jpg"))):
        path.unlink()
        paint(path.with_name(f"other{number}.jpg"), 200 + number)
    found = note(load(zoo), "unused_in_pack")
    assert found.value == 30
    assert str(pack_of(cache)) in found.text and found.warning


def test_packing_goes_on_where_a_killed_process_stopped(zoo, cache, monkeypatch):
    whole = load(zoo).train.images[:]
    content = (pack_of(cache) / "00000.images").read_bytes()
    for path in pack_of(cache).iterdir():
        path.unlink()
    monkeypatch.setattr(packing, "AT_ONCE", 4)
    monkeypatch.setattr(packing, "COMMIT", 1)
    looked, original = [], packing.inspect

    def dies(data, decoding):
        if len(looked) == 17:
            raise SystemExit
        looked.append(data)
        return original(data, decoding)

    monkeypatch.setattr(packing, "inspect", dies)
    with pytest.raises(SystemExit):
        load(zoo)
    kept = len(read_index(pack_of(cache)))
    with (pack_of(cache) / "00000.images").open("ab") as file:
        file.write(b"never committed")
    again = []
    monkeypatch.setattr(packing, "inspect", lambda data, decoding: (again.append(data), original(data, decoding))[1])
    splits = load(zoo)
    assert kept > 0
    assert len(again) == 30 - kept
    assert (pack_of(cache) / "00000.images").read_bytes() == content
    assert torch.equal(splits.train.images[:], whole)


def test_large_packs_have_several_files(zoo, cache, monkeypatch):
    monkeypatch.setattr(packing, "LARGEST", 3000)
    images = load(zoo).train.images
    assert len(list(pack_of(cache).glob("*.images"))) > 3
    assert torch.equal(images[:], load(zoo, "memory").train.images)


def test_a_damaged_file_is_named_or_skipped(zoo):
    (zoo / "cat" / "02.jpg").write_bytes((zoo / "cat" / "02.jpg").read_bytes()[:200])
    with pytest.raises(DataError, match=r"02\.jpg cannot be decoded .*dataset\.damaged=skip"):
        load(zoo)
    splits, held = load(zoo, damaged="skip"), load(zoo, "memory", damaged="skip")
    assert torch.equal(splits.train.images[:], held.train.images)
    with no_download() as absent:
        load(zoo, damaged="skip")
    assert absent == []  # known from the pack


def test_a_flipped_bit_in_the_pack_is_noticed(zoo, cache):
    images = load(zoo).train.images
    content = bytearray((pack_of(cache) / "00000.images").read_bytes())
    content[len(content) // 2] ^= 1
    (pack_of(cache) / "00000.images").write_bytes(content)
    with pytest.raises(DataError, match=r"jpg is damaged: its checksum is wrong; delete .*packed-"):
        [load(zoo).train.images[:], load(zoo).test.images[:], load(zoo).validation.images[:], images]


def test_a_pack_that_was_cut_short_is_told(zoo, cache):
    load(zoo)
    with (pack_of(cache) / "00000.images").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(DataError, match=r"is cut short.*delete"):
        load(zoo).train.images[:]


@pytest.mark.parametrize("name", ["records", "texts"])
def test_a_damaged_index_is_told(zoo, cache, name):
    load(zoo)
    content = bytearray((pack_of(cache) / name).read_bytes())
    content[7] ^= 1
    (pack_of(cache) / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} is damaged.*delete"):
        load(zoo)


def test_a_disk_without_space_is_told_before_packing(zoo, monkeypatch):
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"packing 30 images takes .* GiB left.*SSL_RUNNER_CACHE"):
        load(zoo)


def test_a_disk_that_fills_up_keeps_what_was_packed(zoo, cache, monkeypatch):
    original, written = packing._Writer._write, []

    def full(writer, data, record, text):
        if len(written) == 20:
            raise OSError(28, "No space left on device")
        written.append(text)
        original(writer, data, record, text)

    monkeypatch.setattr(packing._Writer, "_write", full)
    with pytest.raises(DataError, match=r"is full .*goes on from there.*SSL_RUNNER_CACHE"):
        load(zoo)
    assert json.loads((pack_of(cache) / "state.json").read_text())["texts"]["bytes"] == sum(map(len, written))


def test_auto_holds_what_fits_and_packs_the_rest(zoo, monkeypatch):
    held = load(zoo, "auto")
    assert isinstance(held.train.images, torch.Tensor)
    assert "memory" in note(held, "storage").text
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    packed = load(zoo, "auto")
    assert isinstance(packed.train.images, StoredImages)
    assert "packed in" in note(packed, "storage").text


def test_copies_are_found_by_their_files(zoo):
    train, test = zoo / "train", zoo / "test"
    train.mkdir()
    for name in CLASSES:
        (zoo / name).rename(train / name)
        paint(test / name / "own.jpg", 300)
    (test / "ant" / "copy.jpg").write_bytes((train / "ant" / "00.jpg").read_bytes())
    found = note(load(zoo, validation=0), "duplicates")
    assert found.value == {"test in train": 1}


def test_a_pack_without_a_size_is_refused(zoo):
    with pytest.raises(DataError, match=r"storage=packed needs dataset\.size"):
        load(zoo, size=None)
