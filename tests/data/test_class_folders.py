"""miniImageNet, tieredImageNet and CUB on small folders in their layouts."""

import numpy as np
import pytest
from PIL import Image

from ssl_runner.data.sources.class_folders import chen_split, cub, mini_imagenet, tiered_imagenet
from ssl_runner.data.sources.class_lists import listed_parts
from ssl_runner.data.sources.source import PARTS
from ssl_runner.errors import DataError
from ssl_runner.evaluation.unseen import shares_images

KEYS = {
    "split": "classes",
    "class_split": "published",
    "class_counts": None,
    "validation": 0.1,
    "test": 0.2,
    "split_seed": 0,
    "size": 2,
    "channels": 3,
    "duplicates": "warn",
    "storage": "memory",
}


def load(kind, root, **keys):
    return kind(**{"root": str(root), **KEYS, **keys})


def classes_of(benchmark):
    return [name for names in listed_parts(benchmark).values() for name in names]


def paint(folder, name, shades, each=2):
    """Images whose color is the number of their class."""
    folder.mkdir(parents=True, exist_ok=True)
    shade = shades.setdefault(name, len(shades))
    for number in range(each):
        pixels = np.full((3, 4, 3), (shade % 256, shade // 256, number), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{number:08d}.png")


def assert_published(splits, parts, shades):
    assert splits.by == "classes"
    for name, part in zip(PARTS, (splits.train, splits.validation, splits.test), strict=True):
        assert list(part.class_names) == sorted(parts[name])
        expected = [shades[part.class_names[label]] for label in part.labels.tolist()]
        red, green = part.images[:, 0, 0, 0].int(), part.images[:, 1, 0, 0].int()
        assert (red + 256 * green).tolist() == expected


FOLDERS = {"train": "train", "validation": "val", "test": "test"}


@pytest.mark.parametrize("layout", ["classes", "parts"])
@pytest.mark.parametrize(("name", "kind"), [("mini_imagenet", mini_imagenet), ("tiered_imagenet", tiered_imagenet)])
def test_folders_of_classes_are_split_as_published_whatever_part_they_lie_in(tmp_path, layout, name, kind):
    parts, shades = listed_parts(name), {}
    root = tmp_path / name
    for part, classes in parts.items():
        for each in classes:
            paint(root / each if layout == "classes" else root / FOLDERS[part] / each, each, shades, each=1)
    splits = load(kind, tmp_path)
    assert_published(splits, parts, shades)
    assert splits.train.name == f"{name}/train"
    assert "imagenet" in splits.test.seen and name in splits.test.seen


def test_further_classes_of_imagenet_are_passed_over(tmp_path):
    parts, shades = listed_parts("mini_imagenet"), {}
    for each in [*classes_of("mini_imagenet"), "n00000001"]:
        paint(tmp_path / "mini_imagenet" / each, each, shades)
    splits = load(mini_imagenet, tmp_path)
    assert_published(splits, parts, shades)
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 200
    (note,) = [note for note in splits.notes if note.key == "images_per_class"]
    assert note.warning and "2 to 2 images; the published dataset has 600" in note.text


def test_the_published_tables_choose_the_images_and_give_their_classes(tmp_path):
    parts, shades = listed_parts("mini_imagenet"), {}
    root = tmp_path / "mini_imagenet"
    for part, classes in parts.items():
        rows = ["filename,label"]
        for each in classes:
            paint(root / "images", each, shades, each=3)
            rows += [f"{each}{number:08d}.png,{each}" for number in (0, 2)]
        (root / f"{FOLDERS[part]}.csv").write_text("\n".join(rows))
    splits = load(mini_imagenet, tmp_path)
    assert_published(splits, parts, shades)
    assert sorted(splits.test.images[:, 2, 0, 0].unique().tolist()) == [0, 2]


def test_other_splits_of_the_same_classes(tmp_path):
    for each in classes_of("mini_imagenet"):
        paint(tmp_path / "mini_imagenet" / each, each, {}, each=5)
    drawn = load(mini_imagenet, tmp_path, class_split="random", class_counts=[10, 5, 7], duplicates="warn")
    assert [part.n_classes for part in (drawn.train, drawn.validation, drawn.test)] == [10, 5, 7]
    by_images = load(mini_imagenet, tmp_path, split="images", validation=0)
    assert (by_images.by, by_images.train.n_classes, by_images.test.n_classes) == ("images", 100, 100)
    assert shares_images(drawn.test, by_images.train)
    with pytest.raises(DataError, match=r"dataset\.class_split='vinyals': expected 'published' or 'random'"):
        load(mini_imagenet, tmp_path, class_split="vinyals")


def test_a_missing_class_is_named(tmp_path):
    for each in classes_of("mini_imagenet")[1:]:
        paint(tmp_path / "mini_imagenet" / each, each, {})
    with pytest.raises(
        DataError, match=r"mini_imagenet is not complete: of the 100 classes .* 1 are missing, first 'n01532829'"
    ):
        load(mini_imagenet, tmp_path)


@pytest.mark.parametrize(
    ("kind", "place", "source"),
    [
        (mini_imagenet, "mini_imagenet", "github.com/twitter-research/meta-learning-lstm"),
        (tiered_imagenet, "tiered_imagenet", "link ImageNet's folder"),
        (cub, "CUB_200_2011/images", r"CUB_200_2011\.tgz \(https://www\.vision\.caltech\.edu"),
    ],
)
def test_a_missing_dataset_is_told_with_its_place_and_where_to_get_it(tmp_path, kind, place, source):
    with pytest.raises(
        DataError, match=rf"{kind.__name__} is missing: looked for {tmp_path}/{place}; .*{source}.*SSL_RUNNER"
    ):
        load(kind, tmp_path)


def test_images_of_other_classes_or_of_none_are_refused(tmp_path):
    paint(tmp_path / "mini_imagenet" / "cat", "cat", {})
    with pytest.raises(
        DataError, match=r"has no class of mini_imagenet, but for example 'cat'; expected .*'n01532829'"
    ):
        load(mini_imagenet, tmp_path)
    paint(tmp_path / "flat" / "tiered_imagenet", "cat", {})
    with pytest.raises(DataError, match=r"has images without folders of classes; expected CLASS/\*"):
        load(tiered_imagenet, tmp_path / "flat")


def test_cub_is_split_by_the_place_of_its_sorted_classes(tmp_path):
    names = [f"{number:03d}.Bird_{number}" for number in range(1, 201)]
    shades = {}
    for name in names:
        paint(tmp_path / "CUB_200_2011" / "images" / name, name, shades, each=1)
    splits = load(cub, tmp_path)
    # as in the authors' script, with places that count from 0: even, 1 mod 4 and 3 mod 4
    parts = {
        "train": [name for place, name in enumerate(names) if place % 2 == 0],
        "validation": [name for place, name in enumerate(names) if place % 4 == 1],
        "test": [name for place, name in enumerate(names) if place % 4 == 3],
    }
    assert chen_split(names) == parts
    assert_published(splits, parts, shades)
    assert [splits.train.n_classes, splits.validation.n_classes, splits.test.n_classes] == [100, 50, 50]
    for path in (tmp_path / "CUB_200_2011" / "images" / names[7]).iterdir():
        path.unlink()
    with pytest.raises(
        DataError, match=r"cub is not complete: class_split=published needs all 200 classes, but .* 199"
    ):
        load(cub, tmp_path)
