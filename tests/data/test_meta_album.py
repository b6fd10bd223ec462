"""Meta-Album's layout: a table of file names and categories beside a folder of images."""

import numpy as np
import pytest
from PIL import Image

from ssl_runner.data.sources.meta_album import meta_album
from ssl_runner.errors import DataError

KEYS = {
    "split": "classes",
    "class_counts": [3, 1, 2],
    "validation": 0.1,
    "test": 0.2,
    "split_seed": 0,
    "size": None,
    "channels": 3,
    "duplicates": "warn",
    "storage": "memory",
}
CATEGORIES = ("ant", "bee", "cat", "dog", "eel", "fox")
ABOVE = {"ant": "insect", "bee": "insect", "cat": "mammal", "dog": "mammal", "eel": "fish", "fox": "mammal"}


def write(root, heading="FILE_NAME,CATEGORY,SUPER_CATEGORY", folder="images", above=ABOVE.get, separator=","):
    """Four images of each category, whose color is the category."""
    place = root / "meta_album" / "ZOO_Mini"
    (place / folder).mkdir(parents=True)
    rows = [heading.replace(",", separator)]
    for number in range(4):  # not class by class
        for shade, category in enumerate(CATEGORIES):
            name = f"{number}_{shade}.png"
            Image.fromarray(np.full((8, 8, 3), (shade, number, 0), dtype=np.uint8)).save(place / folder / name)
            rows.append(separator.join([name, category, *([above(category)] if above else [])]))
    (place / "labels.csv").write_text("\n".join(rows))
    return place


def load(root, **keys):
    return meta_album(**{"name": "ZOO_Mini", "root": str(root), **KEYS, **keys})


def assert_right(splits):
    for part in (splits.train, splits.validation, splits.test):
        expected = [CATEGORIES.index(part.class_names[label]) for label in part.labels.tolist()]
        assert part.images[:, 0, 0, 0].tolist() == expected
        assert part.labels.bincount().tolist() == [4] * part.n_classes


def test_images_have_the_categories_of_the_table_and_super_categories_are_groups(tmp_path):
    write(tmp_path)
    splits = load(tmp_path)
    assert_right(splits)
    assert [part.n_classes for part in (splits.train, splits.validation, splits.test)] == [3, 1, 2]
    for part in (splits.train, splits.test):
        assert part.class_groups == tuple(ABOVE[name] for name in part.class_names)
    assert splits.train.name == "ZOO_Mini/train"


@pytest.mark.parametrize(
    ("heading", "above"), [("FILE_NAME,CATEGORY", None), ("FILE_NAME,CATEGORY,SUPER_CATEGORY", lambda name: "NAN")]
)
def test_super_categories_may_be_missing(tmp_path, heading, above):
    write(tmp_path, heading, above=above)
    splits = load(tmp_path)
    assert_right(splits)
    assert splits.train.class_groups is None


def test_images_may_lie_beside_the_table_and_its_columns_may_have_other_names_and_separators(tmp_path):
    place = write(tmp_path, "FILE,KIND,GENUS", folder="", separator="\t")
    (place / "info.json").write_text(
        '{"image_column_name": "FILE", "category_column_name": "KIND", "super_category_column_name": "GENUS"}'
    )
    splits = load(tmp_path)
    assert_right(splits)
    assert splits.train.class_groups is not None


def test_images_that_the_table_does_not_name_are_not_read(tmp_path):
    place = write(tmp_path)
    Image.new("RGB", (8, 8)).save(place / "images" / "stray.png")
    splits = load(tmp_path, split="images", validation=0)
    assert len(splits.train) + len(splits.test) == 24


def test_missing_images_and_tables_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"meta_album ZOO_Mini is missing: looked for .*labels\.csv; .*meta-album\.github\.io"
    ):
        load(tmp_path)
    place = write(tmp_path)
    (place / "images" / "2_3.png").unlink()
    with pytest.raises(DataError, match=r"labels\.csv names '2_3\.png', which is not in .*images"):
        load(tmp_path)


def test_a_table_without_the_columns_and_an_image_of_two_categories_are_refused(tmp_path):
    place = write(tmp_path, "NAME,LABEL,GROUP")
    with pytest.raises(DataError, match=r"begins with 'NAME,LABEL,GROUP'; expected lines of file_name,category"):
        load(tmp_path)
    (place / "labels.csv").write_text("FILE_NAME,CATEGORY\n0_0.png,x\n0_0.png,y")
    with pytest.raises(DataError, match=r"has '0_0\.png' in 'x' and in 'y'; an image has one category"):
        load(tmp_path)
