"""Stored images whose JPEGs a device decodes. The CPU stands for CUDA, with libjpeg in the place of nvJPEG."""

import io
import tarfile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.data.augmentation import Augmentation, HorizontalFlip, RandomResizedCrop
from ssl_runner.data.batching.multi_crop import MultiCropBatching
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.sources.image_folder import image_folder
from ssl_runner.data.sources.webdataset import webdataset
from ssl_runner.data.stores import pending
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import ConfigError, DataError
from ssl_runner.images import nvjpeg
from ssl_runner.runtime import process_group
from ssl_runner.train import train
from ssl_runner.wiring import wire

CPU = torch.device("cpu")
KEYS = {"split": "images", "class_counts": None, "validation": 0, "test": 6, "split_seed": 0, "size": 16}
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def picture(seed: int) -> tuple[str, bytes]:
    """An image of random size and its suffix. Of six, three are for a device: color, gray, and one on its side."""
    draws, file = np.random.default_rng(seed), io.BytesIO()
    height, width = draws.integers(20, 60, 2).tolist()
    small = Image.fromarray(draws.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    image, exif = small.resize((width, height), Image.Resampling.BICUBIC), Image.Exif()
    exif[0x0112] = 6
    kind = seed % 6
    if kind == 3:
        image.save(file, "PNG")
    elif kind == 4:
        image.convert("CMYK").save(file, "JPEG")
    elif kind == 5:
        image.save(file, "WEBP")
    else:
        (image.convert("L") if kind == 1 else image).save(
            file, "JPEG", quality=95, **({"exif": exif} if kind == 2 else {})
        )
    return {3: "png", 5: "webp"}.get(kind, "jpg"), file.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def zoo(tmp_path):
    for number in range(30):
        suffix, content = picture(number)
        path = tmp_path / "zoo" / ("ant", "bee")[number % 2] / f"{number:02d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "zoo"


def load(root, decoder: Any = "nvjpeg", **keys):
    return image_folder(
        str(root), class_split=None, **{"channels": 3, "storage": "packed", **KEYS, **keys}, decoder=decoder
    )


def augmentation(size=None):
    crop = RandomResizedCrop(size=size, scale=[0.2, 1.0], ratio=[0.75, 1.3333])
    return Augmentation({"crop": crop, "flip": HorizontalFlip(0.5)})


def bound(batching, splits, device=CPU):
    batching.bind(splits.train, 0, device)
    return batching


def two_views(splits, device=CPU, **keys):
    return bound(ViewBatching(augmentation(), 8, 2, **keys), splits, device)


def left_of(splits):
    images = splits.train.images
    assert isinstance(images, StoredImages) and images.left is not None
    return images.left


def differences(one, other):
    assert torch.equal(one.indices.cpu(), other.indices)
    assert [crops.shape for crops in one.crops] == [crops.shape for crops in other.crops]
    return torch.cat([(a.cpu() - b).abs().flatten() for a, b in zip(one.crops, other.crops, strict=True)])


def test_views_are_those_of_pillow_by_the_same_draws(zoo):
    """Of JPEGs, PNGs and CMYK in one batch, all in other sizes, and one on its side."""
    splits = load(zoo)
    one, other = two_views(splits), two_views(load(zoo, "pillow"))
    for step in range(4):  # beyond an epoch
        assert differences(one.batch(step), other.batch(step)).max() <= 1.01 / 255  # rounded in another place
    left = left_of(splits).counts()
    assert left["refused"] == 0
    assert 8 <= left["no_jpeg"] <= 15  # half of the 24, and not those for a test


def test_gray_views_are_those_of_pillow_but_for_the_rounding_of_luma(zoo):
    one, other = two_views(load(zoo, channels=1)), two_views(load(zoo, "pillow", channels=1))
    found = differences(one.batch(0), other.batch(0))
    assert found.mean() < 0.5 / 255
    assert found.max() < 6 / 255


def test_local_views_and_whole_images_are_in_one_batch(zoo):
    for make in (
        lambda: MultiCropBatching(augmentation(), 6, augmentation(size=8), 3, None, local_pool=1),
        lambda: ViewBatching(augmentation(), 6, 2, second_augmentation=Augmentation({})),
    ):
        one, other = bound(make(), load(zoo)), bound(make(), load(zoo, "pillow"))
        assert differences(one.batch(1), other.batch(1)).max() <= 1.01 / 255


def test_views_without_random_crops_and_evaluation_are_exactly_those_of_pillow(zoo):
    splits, other = load(zoo), load(zoo, "pillow")
    plain = [bound(ViewBatching(Augmentation({}), 6, 2), one).batch(0) for one in (splits, other)]
    assert torch.equal(plain[0].crops[0], plain[1].crops[0])
    assert torch.equal(splits.test.images[:], other.test.images[:])
    assert splits.train.fingerprint == other.train.fingerprint
    assert not left_of(splits).why.any()


def test_a_resumed_run_gets_the_same_views(zoo, monkeypatch):
    unbroken, resumed = two_views(load(zoo)), two_views(load(zoo))
    steps = [unbroken.batch(step) for step in range(7)]
    monkeypatch.setattr(pending, "PIXELS", 1)  # and at any number of images at once
    for step in (5, 6, 2, 2):
        assert torch.equal(resumed.batch(step).crops[0], steps[step].crops[0])


def test_two_processes_make_the_views_that_one_would(zoo, monkeypatch):
    splits, parts = load(zoo), []
    whole = two_views(splits).batch(1)
    monkeypatch.setattr(process_group, "size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
        parts.append(two_views(splits).batch(1))
    assert torch.equal(torch.cat([part.crops[0] for part in parts], dim=1), whole.crops[0])


@pytest.mark.parametrize("how", ["refused", "of another size"])
def test_what_the_device_refuses_is_exactly_pillows_and_not_tried_again(zoo, how, monkeypatch):
    def decode(files, channels, device):
        asked.append(len(files))
        return [None if how == "refused" else torch.zeros(3, 7, 7, dtype=torch.uint8) for _ in files]

    asked, splits = [], load(zoo)
    monkeypatch.setattr(nvjpeg, "decode", decode)
    one, other = two_views(splits), two_views(load(zoo, "pillow"))
    for step in range(6):  # two epochs
        assert differences(one.batch(step), other.batch(step)).max() <= 1.01 / 255
    counts = left_of(splits).counts()
    assert sum(counts.values()) == 24
    again = load(zoo)
    left_of(again).why[:] = left_of(splits).why
    asked.clear()
    two_views(again).batch(0)
    assert asked == []


def test_the_run_says_once_that_some_are_left_to_pillow(zoo, capsys):
    batching = two_views(load(zoo))
    for step in range(3):
        batching.batch(step)
    told = capsys.readouterr().err
    assert told.count("Pillow decoded") == 1
    assert "no JPEGs" in told


def test_a_file_that_was_damaged_since_it_was_packed_is_named(zoo, cache):
    splits = load(zoo)
    data = next(cache.glob("packed-*/00000.images"))
    content = bytearray(data.read_bytes())
    for place in range(100, len(content), 200):
        content[place] ^= 1
    data.write_bytes(content)
    with pytest.raises(DataError, match=r"\d\d\.\w+ is damaged: its checksum is wrong; delete"):
        two_views(splits).batch(0)


def test_shards_are_decoded_so_too(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for number in range(30):
            suffix, content = picture(number)
            for name, part in {suffix: content, "cls": b"0"}.items():
                member = tarfile.TarInfo(f"{number:04d}.{name}")
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
    keys = {**KEYS, "validation_shards": None, "test_shards": None, "background": 128, "label_key": "label"}
    keys |= {"channels": 3, "damaged": "refuse", "max_megapixels": 179, "duplicates": "warn", "cache_gb": 1}
    one, other = (
        two_views(webdataset(str(tmp_path / "train.tar"), **keys, decoder=name)) for name in ("nvjpeg", "pillow")
    )
    assert differences(one.batch(0), other.batch(0)).max() <= 1.01 / 255


def test_settings_that_nvjpeg_does_not_read_are_refused_or_told(zoo):
    with pytest.raises(DataError, match=r"decoder=nvjpeg, but with .*storage=memory.*storage=packed or .*pillow"):
        load(zoo, storage="memory")
    with pytest.raises(DataError, match=r"dataset\.value_range=\[0, 100\]; set one.*decoder=pillow"):
        load(zoo, value_range=[0, 100])
    with pytest.raises(DataError, match=r"dataset\.decoder='gpu': expected 'pillow' or 'nvjpeg'"):
        load(zoo, "gpu")
    notes = [note.text for note in load(zoo, storage="auto").notes if note.key == "storage"]
    assert "decoder=nvjpeg is not used" in notes[0]


WORDS = [
    "experiment=simclr_mnist",
    "dataset=image_folder",
    "dataset.storage=packed",
    "dataset.size=16",
    "dataset.test=6",
    "dataset.validation=0",
    "dataset.decoder=nvjpeg",
    "batching.batch_size=8",
    "eval=[]",
    "baselines=[]",
    "trainer.device=cpu",
    "trainer.max_steps=2",
    "trainer.max_epochs=null",
    "trainer.evaluate_every=null",
    "trainer.diagnostics_every=null",
    "trainer.progress=false",
]


def test_without_cuda_it_is_refused_before_anything_is_packed(zoo, cache):
    config = validate.checked_config(Composer(conf_folder()), [*WORDS, f"dataset.root={zoo}"])[0]
    with pytest.raises(ConfigError) as caught:
        wire.prepare(config)
    assert len(caught.value.problems) == 1
    assert "dataset.decoder=nvjpeg needs a CUDA device" in caught.value.problems[0]
    assert not cache.exists()


def test_the_result_counts_what_pillow_decoded(zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(nvjpeg, "refuse_without", lambda device: None)
    result = train([*WORDS, f"dataset.root={zoo}"], tmp_path / "run").result
    assert result["dataset"]["decoded_by_pillow"]["no_jpeg"] > 0
    assert result["dataset"]["decoded_by_pillow"]["refused"] == 0
    assert "Pillow decoded" in capsys.readouterr().out


@on_gpu
def test_views_of_nvjpeg_are_nearly_those_of_pillow(zoo):
    device = torch.device("cuda")
    splits = load(zoo)
    one, other = two_views(splits, device), two_views(load(zoo, "pillow"))
    for step in range(4):
        batch = one.batch(step)
        assert batch.crops[0].device.type == "cuda"
        assert differences(batch, other.batch(step)).mean() < 2 / 255
    assert left_of(splits).counts()["refused"] == 0
    again = two_views(load(zoo), device).batch(2)
    assert torch.equal(again.crops[0], two_views(splits, device).batch(2).crops[0])
