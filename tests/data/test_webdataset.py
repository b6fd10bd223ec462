"""Tar shards of images."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_runner.data.augmentation import Augmentation, RandomResizedCrop
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.sources.webdataset import webdataset
from ssl_runner.data.stores import shard_index
from ssl_runner.data.stores.shard_files import Shard, ShardFiles, expanded
from ssl_runner.errors import DataError, NotDownloaded
from ssl_runner.images.decoding import Decoding, decode
from ssl_runner.runtime.no_download import no_download

KEYS = {"validation_shards": None, "test_shards": None, "split": "images", "class_counts": None, "validation": 0.1}
KEYS |= {"test": 0.2, "split_seed": 0, "size": 16, "channels": 3, "background": 128, "label_key": "label"}
KEYS |= {"damaged": "refuse", "max_megapixels": 179, "duplicates": "warn", "cache_gb": 1}


def load(*shards, **keys):
    return webdataset(**{"shards": [str(shard) for shard in shards], **KEYS, **keys})


def picture(seed: int) -> bytes:
    draws, file = np.random.default_rng(seed), io.BytesIO()
    height, width = draws.integers(20, 60, 2).tolist()
    small = Image.fromarray(draws.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def write(path, files: dict[str, bytes]):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(numbers, label=lambda number: {"cls": str(number % 3).encode()}):
    return {
        f"images/{number:04d}.{suffix}": content
        for number in numbers
        for suffix, content in {"jpg": picture(number), **label(number)}.items()
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shards(tmp_path):
    return [
        write(tmp_path / f"train-{shard:03d}.tar", samples(range(10 * shard, 10 * shard + 10))) for shard in range(3)
    ]


def parts_of(splits):
    return [splits.train, splits.validation, splits.test]


def test_every_image_of_every_shard_has_its_own_pixels_and_label(shards, tmp_path):
    parts = parts_of(load(*shards))
    assert sum(map(len, parts)) == 30
    for part in parts:
        for place in range(len(part)):
            number = int(part.images.store.index.text(int(part.images.rows[place])).split(b"\0")[0][-4:])
            (tmp_path / "one.jpg").write_bytes(picture(number))
            assert np.array_equal(part.images[place].numpy(), decode(tmp_path / "one.jpg", Decoding(16, 3)))
            assert part.class_names[part.labels[place]] == str(number % 3)


def test_batches_are_shuffled_over_all_shards_and_resume_exactly(shards):
    dataset = load(*shards, validation=0).train
    crop = RandomResizedCrop(size=None, scale=[0.2, 1.0], ratio=[0.75, 1.3333])

    def bound():
        batching = ViewBatching(Augmentation({"crop": crop}), 8, 2)
        batching.bind(dataset, 0, torch.device("cpu"))
        return batching

    unbroken = bound()
    steps = [unbroken.batch(step) for step in range(6)]
    files = dataset.images.store.index.records["file"][dataset.images.rows[steps[0].indices.numpy()]]
    assert set(files.tolist()) == {0, 1, 2}
    resumed = bound().batch(5)
    assert torch.equal(resumed.crops[0], steps[5].crops[0])


def test_parts_may_have_their_own_shards(shards):
    splits = load(*shards[:2], test_shards=[str(shards[2])], validation=0)
    assert (len(splits.train), len(splits.test)) == (20, 10)


def test_labels_of_json_files_are_names_and_a_cls_file_goes_first(tmp_path):
    named = samples(range(6), lambda number: {"json": json.dumps({"species": "ab"[number % 2]}).encode()})
    assert load(write(tmp_path / "named.tar", named), label_key="species").train.class_names == ("a", "b")
    both = samples(range(6), lambda number: {"json": b'{"label": "x"}', "cls": str(number % 2).encode()})
    (tmp_path / "other").mkdir()
    assert load(write(tmp_path / "other" / "both.tar", both)).train.class_names == ("0", "1")


def test_numbers_of_classes_are_in_numeric_order(tmp_path):
    numbers = samples(range(12), lambda number: {"cls": str(number).encode()})
    assert load(write(tmp_path / "a.tar", numbers), split="classes").train.n_classes > 0
    names = [name for part in parts_of(load(tmp_path / "a.tar", split="classes")) for name in part.class_names]
    assert sorted(names, key=int) == [str(number) for number in range(12)]


def test_without_labels_there_are_no_classes(tmp_path):
    path = write(tmp_path / "bare.tar", samples(range(6), lambda number: {}))
    assert load(path).train.labels is None


def test_some_images_without_labels_are_refused_and_named(tmp_path):
    some = samples(range(6), lambda number: {} if number == 4 else {"cls": b"1"})
    with pytest.raises(DataError, match=r"some\.tar/images/0004 has no label.*1 of 6"):
        load(write(tmp_path / "some.tar", some))


def test_a_second_start_reads_no_shard_and_new_shards_are_appended(shards, tmp_path, monkeypatch):
    first = load(*shards)
    read, original = [], shard_index.read_samples

    def noted(file, url, key):
        read.append(url)
        return original(file, url, key)

    monkeypatch.setattr(shard_index, "read_samples", noted)
    with no_download() as absent:
        assert load(*shards).train.fingerprint == first.train.fingerprint
    assert (absent, read) == ([], [])
    more = write(tmp_path / "train-003.tar", samples(range(30, 40)))
    assert sum(map(len, parts_of(load(*shards, more)))) == 40
    assert read == [str(more)]


def test_a_check_of_a_config_reads_no_shard(shards, cache):
    with no_download(), pytest.raises(NotDownloaded):
        load(*shards)
    assert not cache.exists()


def test_a_shard_that_was_written_anew_is_read_again(shards):
    load(*shards)
    write(shards[1], samples(range(50, 53)))
    assert sum(map(len, parts_of(load(*shards)))) == 23


@pytest.mark.parametrize("keep", [0.4, 0.9])
def test_a_truncated_shard_is_named(shards, keep):
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=r"train-001\.tar is truncated; copy it again"):
        load(*shards)


def test_a_shard_that_ends_between_two_files_is_truncated_too(shards):
    with tarfile.open(shards[0]) as archive:
        end = archive.getmembers()[4].offset
    shards[0].write_bytes(shards[0].read_bytes()[:end])
    with pytest.raises(DataError, match=r"train-000\.tar is truncated"):
        load(*shards)


def test_what_is_no_archive_and_what_is_missing_is_named(tmp_path):
    (tmp_path / "text.tar").write_text("no archive" * 100)
    with pytest.raises(DataError, match=r"text\.tar is not a tar archive"):
        load(tmp_path / "text.tar")
    with pytest.raises(DataError, match=r"absent\.tar cannot be opened"):
        load(tmp_path / "absent.tar")
    with pytest.raises(DataError, match=r"no shard fits .*none-\*\.tar"):
        load(tmp_path / "none-*.tar")


def test_a_damaged_image_is_named_or_skipped(tmp_path):
    files = samples(range(8)) | {"images/0003.jpg": picture(3)[:200]}
    path = write(tmp_path / "train.tar", files)
    with pytest.raises(DataError, match=r"train\.tar/images/0003 cannot be decoded.*damaged=skip"):
        load(path)
    splits = load(path, damaged="skip", validation=0)
    assert len(splits.train) + len(splits.test) == 7
    assert any(note.key == "damaged" and note.warning for note in splits.notes)


def test_patterns_are_expanded_as_in_a_shell(shards, tmp_path):
    assert expanded(["a-{08..11}.tar", "b.tar"]) == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar", "b.tar"]
    assert expanded([f"{tmp_path}/train-*.tar"]) == [str(shard) for shard in shards]
    assert sum(map(len, parts_of(load(f"{tmp_path}/train-{{000..002}}.tar")))) == 30


def test_a_single_pattern_needs_no_list(shards, tmp_path):
    one = load(shards=str(tmp_path / "train-{000..002}.tar"))
    assert [part.fingerprint for part in parts_of(one)] == [part.fingerprint for part in parts_of(load(*shards))]


def test_shards_behind_a_url_give_the_same_images(shards, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for shard in shards:
        memory.pipe(f"/bucket/{shard.name}", shard.read_bytes())
    local = load(*shards).train.images[:]
    assert torch.equal(load("memory://bucket/train-{000..002}.tar").train.images[:], local)
    assert torch.equal(load("memory://bucket/train-*.tar", cache_gb=0).train.images[:], local)


def test_copies_of_remote_shards_never_exceed_the_cache(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory, shards = fsspec.filesystem("memory"), []
    for number in range(5):
        memory.pipe(f"/many/{number}.tar", bytes([number]) * 1000)
        shards.append(Shard(f"memory://many/{number}.tar", 1000, ""))
    files = ShardFiles(shards, tmp_path / "copies", limit=2500)
    for number in (0, 1, 2, 3, 4, 0, 3):
        assert files(number, 10, 20) == bytes([number]) * 20
    assert len(list((tmp_path / "copies").iterdir())) == 2
