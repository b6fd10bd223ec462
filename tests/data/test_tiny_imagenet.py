"""Tiny ImageNet, in both layouts and for real."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_runner.data.sources.class_lists import listed_parts, read_list
from ssl_runner.data.sources.tiny_imagenet import FOLDERS, PUBLISHED, like, tiny_imagenet
from ssl_runner.errors import DataError
from ssl_runner.runtime.no_download import no_download

NAMES = ("n01", "n02", "n03")


def load(root, **keys):
    given = {"split": "images", "validation": 3, "class_counts": [1, 1, 1], "split_seed": 0, "size": None}
    return tiny_imagenet(**{"root": str(root), "channels": None, **given, **keys})


def paint(path, label, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (80 * label, number, 0)).save(path, "PNG")  # lossless, whatever the suffix says


@pytest.fixture
def published(tmp_path):
    root = tmp_path / PUBLISHED
    lines = []
    for label, name in enumerate(NAMES):
        for number in range(5):
            paint(root / "train" / name / "images" / f"{name}_{number}.JPEG", label, number)
            paint(root / "val" / "images" / f"val_{label}_{number}.JPEG", label, 100 + number)
            lines.append(f"val_{label}_{number}.JPEG\t{name}\t0\t0\t63\t63")
        paint(root / "test" / "images" / f"test_{label}.JPEG", label, 200)
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return tmp_path


def labelled(part):
    """Label and number of each image, from its pixels."""
    return [(red // 80, green) for red, green in part.images[:, :2, 0, 0].tolist()]


def test_the_published_validation_part_is_the_test_part_with_its_table_of_labels(published):
    splits = load(published)
    assert splits.test.class_names == NAMES
    assert [label for label, _ in labelled(splits.test)] == splits.test.labels.tolist()
    assert sorted(number for _, number in labelled(splits.test)) == sorted([*range(100, 105)] * 3)
    assert [label for label, _ in labelled(splits.train)] == splits.train.labels.tolist()
    assert (len(splits.train), len(splits.validation)) == (12, 3)
    assert all(number < 200 for part in (splits.train, splits.test) for _, number in labelled(part))


def test_folders_of_classes_are_read_too(tmp_path):
    for label, name in enumerate(NAMES):
        for part, numbers in (("train", range(5)), ("test", range(100, 102))):
            for number in numbers:
                paint(tmp_path / FOLDERS / part / name / f"{number}.jpg", label, number)
    splits = load(tmp_path)
    assert sorted(number for _, number in labelled(splits.test)) == [100] * 3 + [101] * 3
    assert [label for label, _ in labelled(splits.test)] == splits.test.labels.tolist()


def test_an_image_without_a_line_in_the_table_is_named(published):
    table = published / PUBLISHED / "val" / "val_annotations.txt"
    table.write_text("\n".join(table.read_text().splitlines()[1:]))
    with pytest.raises(DataError, match=r"has no line for val_0_0\.JPEG"):
        load(published)


def test_a_missing_dataset_is_told_with_its_address_but_can_be_checked(tmp_path):
    with pytest.raises(DataError, match=r"tiny-imagenet-200.*tiny-imagenet-200\.zip"):
        load(tmp_path)
    with no_download() as absent:
        splits = load(tmp_path, class_counts=[128, 32, 40])
    assert absent == ["tiny_imagenet"]
    assert splits.train.images.shape[1:] == (3, 64, 64)


def test_the_real_images_have_200_classes_of_64_pixels(data_root):
    if not (data_root / PUBLISHED).is_dir() and not (data_root / FOLDERS).is_dir():
        pytest.skip(f"neither {PUBLISHED} nor {FOLDERS} is in {data_root}")
    splits = load(data_root, validation=2000)
    assert splits.train.n_classes == 200
    assert splits.train.images.shape[1:] == (3, 64, 64)
    assert len(splits.test) == 10_000
    assert torch.equal(splits.test.labels.bincount(), torch.full((200,), 50))
    assert len(splits.train) + len(splits.validation) in (50_000, 100_000)
    assert 0.3 < np.mean(splits.train.images[::500].numpy()) / 255 < 0.6


@pytest.fixture(scope="module")
def all_classes(tmp_path_factory):
    """Two training images and one test image of each of the 200 classes, whose color is the class."""
    root = tmp_path_factory.mktemp("tiny")
    for label, line in enumerate(sorted(read_list("tiny_imagenet"))):
        for part, numbers in (("train", (0, 1)), ("test", (2,))):
            for number in numbers:
                path = root / FOLDERS / part / line.name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), (label, number, 0)).save(path)
    return root


def assert_classes(part, names):
    everything = sorted(line.name for line in read_list("tiny_imagenet"))
    assert list(part.class_names) == sorted(names)
    true = [everything[red] for red in part.images[:, 0, 0, 0].tolist()]
    assert true == [part.class_names[label] for label in part.labels.tolist()]
    assert part.labels.bincount().tolist() == [3] * len(names)


def test_the_fixed_split_is_the_list_and_takes_whole_classes(all_classes):
    splits = load(all_classes, split="classes", class_split="fixed", split_seed=7)
    for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        assert_classes(part, listed_parts("tiny_imagenet")[name])


def test_earlier_configs_draw_their_classes_as_before(all_classes):
    old = load(all_classes, split="classes", class_counts=[128, 32, 40])
    drawn = load(all_classes, split="classes", class_counts=[128, 32, 40], class_split="random", without=None)
    assert old.test.class_names == drawn.test.class_names
    assert old.test.fingerprint == drawn.test.fingerprint
    assert sorted(old.test.class_names) != listed_parts("tiny_imagenet")["test"]


def test_the_classes_like_cifar10_s_are_left_out_of_every_part(all_classes):
    unwanted = set(like("cifar10"))
    fixed = load(all_classes, split="classes", class_split="fixed", without="cifar10")
    for name, part in (("train", fixed.train), ("validation", fixed.validation), ("test", fixed.test)):
        assert_classes(part, [each for each in listed_parts("tiny_imagenet")[name] if each not in unwanted])
    by_images = load(all_classes, validation=0, without="cifar10")
    assert (by_images.train.n_classes, len(by_images.train), len(by_images.test)) == (176, 352, 176)
    assert not unwanted & set(by_images.train.class_names)
    (note,) = [note for note in by_images.notes if note.key == "left_out_classes"]
    assert set(note.value) == unwanted
    assert by_images.train.fingerprint != load(all_classes, validation=0).train.fingerprint


def test_a_split_or_a_list_that_does_not_exist_and_lacking_classes_are_refused(all_classes, published):
    with pytest.raises(DataError, match=r"dataset\.class_split='vinyals': expected 'fixed' or 'random'"):
        load(all_classes, split="classes", class_split="vinyals")
    with pytest.raises(DataError, match=r"dataset\.without='cifar100': expected 'cifar10', or null"):
        load(all_classes, without="cifar100")
    with pytest.raises(
        DataError, match=r"tiny_imagenet is not complete: of the 200 classes of .*=fixed, 200 are missing"
    ):
        load(published, split="classes", class_split="fixed")


def test_a_config_without_classes_can_be_checked_before_the_data_are_there(tmp_path):
    with no_download():
        splits = load(tmp_path, split="classes", class_split="fixed", without="cifar10")
    assert splits.train.n_classes + splits.validation.n_classes + splits.test.n_classes == 176
