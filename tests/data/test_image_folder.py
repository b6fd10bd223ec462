"""Folders of a user's own images."""

import json

import numpy as np
import pytest
from PIL import Image

from ssl_runner.data.sources.image_folder import image_folder
from ssl_runner.errors import DataError

KEYS = {
    "split": "images",
    "class_split": None,
    "class_counts": None,
    "validation": 0.1,
    "test": 0.2,
    "split_seed": 0,
    "size": 4,
    "channels": 3,
}
CLASSES = {"ant": 10, "bee": 20, "cat": 30, "dog": 40}  # with the shade of their images


def load(root, **keys):
    return image_folder(**{"root": str(root), **KEYS, **keys})


def paint(folder, shade, n, stem=""):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        Image.new("RGB", (5 + number % 3, 6), (shade, shade, number)).save(folder / f"{stem}{number:02d}.png")


def parts_of(splits):
    return [part for part in (splits.train, splits.validation, splits.test) if part is not None]


def assert_shades_fit_labels(splits):
    for part in parts_of(splits):
        expected = [CLASSES[part.class_names[label]] for label in part.labels.tolist()]
        assert part.images[:, 0, 0, 0].tolist() == expected


@pytest.fixture
def classes(tmp_path):
    for name, shade in CLASSES.items():
        paint(tmp_path / "zoo" / name, shade, 10)
    return tmp_path / "zoo"


@pytest.fixture
def parts(tmp_path):
    for part, n in (("train", 8), ("val", 2), ("test", 3)):
        for name, shade in CLASSES.items():
            paint(tmp_path / "zoo" / part / name, shade, n)
    return tmp_path / "zoo"


def test_folders_of_classes_are_split_evenly(classes):
    splits = load(classes)
    assert [part.labels.bincount().tolist() for part in parts_of(splits)] == [[7] * 4, [1] * 4, [2] * 4]
    assert splits.train.class_names == tuple(CLASSES)
    assert splits.train.images.shape == (28, 3, 4, 4)
    assert_shades_fit_labels(splits)


def test_folders_of_parts_are_kept(parts):
    splits = load(parts)
    assert [part.labels.bincount().tolist() for part in parts_of(splits)] == [[8] * 4, [2] * 4, [3] * 4]
    assert_shades_fit_labels(splits)


@pytest.mark.parametrize("name", ["validation", "valid"])
def test_validation_has_several_names(parts, name):
    (parts / "val").rename(parts / name)
    assert len(load(parts).validation) == 8


def test_without_a_test_folder_val_is_the_test_part_and_validation_is_drawn(parts):
    (parts / "test").rename(parts / "notes")
    splits = load(parts, validation=4)
    assert [len(part) for part in parts_of(splits)] == [28, 4, 8]
    assert splits.test.labels.bincount().tolist() == [2] * 4


def test_images_directly_in_the_folder_have_no_labels(tmp_path):
    paint(tmp_path / "flat", 50, 10)
    splits = load(tmp_path / "flat")
    assert [len(part) for part in parts_of(splits)] == [7, 1, 2]
    assert splits.train.labels is None
    assert splits.train.class_names == ()
    with pytest.raises(DataError, match=r"dataset\.class_counts"):
        load(tmp_path / "flat", split="classes", class_counts=[1, 0, 1])


def test_parts_may_be_without_labels_too(tmp_path):
    for part, n in (("train", 6), ("test", 2)):
        paint(tmp_path / part, 50, n)
    splits = load(tmp_path, validation=0)
    assert (len(splits.train), len(splits.test), splits.test.labels) == (6, 2, None)


def test_gray_and_the_files_own_size(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (6, 7), (number, number, number)).save(tmp_path / name / f"{number}.png")
    assert load(tmp_path, channels=1, size=None, validation=0).train.images.shape[1:] == (1, 7, 6)


def test_by_classes_they_are_drawn_and_disjoint(classes):
    splits = load(classes, split="classes", class_counts=[2, 1, 1])
    assert sorted(name for part in parts_of(splits) for name in part.class_names) == list(CLASSES)
    assert [len(part) for part in parts_of(splits)] == [20, 10, 10]
    assert_shades_fit_labels(splits)


def test_by_classes_images_of_all_parts_are_pooled(parts):
    splits = load(parts, split="classes", class_counts=[2, 1, 1])
    assert [len(part) for part in parts_of(splits)] == [26, 13, 13]


def test_parts_that_share_no_class_are_the_split_by_classes(tmp_path):
    for part, names in (("train", ["cat", "ant"]), ("val", ["dog"]), ("test", ["bee"])):
        for name in names:
            paint(tmp_path / part / name, CLASSES[name], 3)
    splits = load(tmp_path, split="classes")
    assert [part.class_names for part in parts_of(splits)] == [("ant", "cat"), ("dog",), ("bee",)]
    assert_shades_fit_labels(splits)
    with pytest.raises(DataError, match=r"has no images in train.*dataset\.split=classes"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_of_lists_says_which_class_goes_where(classes, tmp_path, suffix):
    lists = {"train": ["dog", "ant"], "validation": ["cat"], "test": ["bee"]}
    (tmp_path / f"split.{suffix}").write_text(json.dumps(lists))  # JSON is YAML
    splits = load(classes, split="classes", class_split=str(tmp_path / f"split.{suffix}"))
    assert [list(part.class_names) for part in parts_of(splits)] == list(lists.values())
    assert_shades_fit_labels(splits)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{train: [ant], test: [bird]}", "names 1 classes that the folder does not have, 'bird'"),
        ("{train: [ant, bee], test: [ant]}", "'ant' of zoo occurs twice"),
        ("{train: [ant]}", "expected the keys train"),
        ("{train: [ant], test: [bee], val: [cat]}", "expected the keys train"),
        ("[ant", "cannot be read"),
    ],
)
def test_a_file_of_lists_that_does_not_fit_is_refused(classes, tmp_path, content, message):
    (tmp_path / "split.yaml").write_text(content)
    with pytest.raises(DataError, match=message):
        load(classes, split="classes", class_split=str(tmp_path / "split.yaml"))


def write_tables(folder, tables):
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        lines = [f"{filename},{label}\n" for filename, label in rows]
        (folder / f"{name}.csv").write_text("filename,label\n" + "".join(lines))
    return str(folder)


def test_tables_label_a_flat_folder_like_miniimagenets(tmp_path):
    for name, shade in CLASSES.items():
        paint(tmp_path / "mini" / "images", shade, 3, stem=name)
    rows = {name: [(f"{name}{number:02d}.png", name) for number in range(3)] for name in CLASSES}
    rows["dog"] = rows["dog"][:2]  # files that no table names are left out
    tables = {"train": rows["cat"] + rows["ant"], "val": rows["dog"], "test": rows["bee"]}
    splits = load(tmp_path / "mini", split="classes", class_split=write_tables(tmp_path / "tables", tables))
    assert [part.class_names for part in parts_of(splits)] == [("ant", "cat"), ("dog",), ("bee",)]
    assert [len(part) for part in parts_of(splits)] == [6, 2, 3]
    assert_shades_fit_labels(splits)


def test_tables_find_files_by_path_and_in_the_folder_of_their_class(classes, tmp_path):
    tables = {"train": [("ant/00.png", "ant")], "test": [("03.png", "bee"), ("04.png", "bee")]}
    splits = load(classes, split="classes", class_split=write_tables(tmp_path / "tables", tables))
    assert (len(splits.train), splits.validation, len(splits.test)) == (1, None, 2)
    assert_shades_fit_labels(splits)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"train": [("ant/00.png", "ant")]}, r"test\.csv cannot be read"),
        ({"train": [("ant/99.png", "ant")], "test": []}, "'ant/99.png' of 'ant', which is not among the 40"),
        ({"train": [("00.png", "insect")], "test": []}, "'00.png' of 'insect', which is not among the 40"),
        ({"train": [("ant/00.png", "ant")], "test": []}, r"test\.csv is empty"),
        ({"train": [("ant/00.png", "ant")], "test": [("ant/00.png", "bee")]}, "is already in a table"),
        ({"train": [("ant/00.png", "ant")], "test": [("ant/01.png", "ant")]}, "'ant' of zoo occurs twice"),
    ],
)
def test_tables_that_do_not_fit_are_refused(classes, tmp_path, tables, message):
    with pytest.raises(DataError, match=message):
        load(classes, split="classes", class_split=write_tables(tmp_path / "tables", tables))


def test_a_split_of_classes_by_images_is_refused(classes):
    with pytest.raises(DataError, match=r"class_split=x needs dataset\.split=classes"):
        load(classes, class_split="x")


def test_an_image_next_to_folders_of_classes_is_refused_by_name(classes):
    paint(classes, 50, 1, stem="stray")
    with pytest.raises(DataError, match=r"stray00\.png is next to folders"):
        load(classes)


def test_a_missing_an_empty_and_a_damaged_folder_are_named(classes, tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere is missing"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/empty contains no images"):
        load(tmp_path / "empty")
    (classes / "bee" / "03.png").write_bytes(b"")
    with pytest.raises(DataError, match=f"{classes}/bee/03.png cannot be decoded"):
        load(classes)


def test_a_second_load_is_the_same_and_a_changed_image_changes_the_fingerprint(classes):
    first, second = load(classes), load(classes)
    assert np.array_equal(first.train.images, second.train.images)
    assert [part.fingerprint for part in parts_of(first)] == [part.fingerprint for part in parts_of(second)]
    Image.new("RGB", (9, 9), (1, 2, 3)).save(classes / "ant" / "00.png")
    assert load(classes).train.fingerprint != first.train.fingerprint


def test_a_file_that_is_not_an_image_changes_nothing(classes):
    before = load(classes).train.fingerprint
    (classes / "ant" / "notes.txt").write_text("hello")
    (classes / ".hidden.png").write_text("hello")
    assert load(classes).train.fingerprint == before


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Training", "Testing"), (8, None, 8)),
        (("TRAIN", "Val", "Test"), (8, 8, 8)),
        (("train", "dev", "test"), (8, 8, 8)),
        (("train", "eval"), (8, None, 8)),
        (("train", "evaluation", "testing"), (8, 8, 8)),
    ],
)
def test_parts_are_recognised_by_all_their_names(tmp_path, names, expected):
    for number, part in enumerate(names):
        for name, shade in CLASSES.items():
            paint(tmp_path / part / name, shade + number, 2)
    splits = load(tmp_path, validation=0, size=6)
    assert splits.train.class_names == tuple(CLASSES)
    sizes = (len(splits.train), splits.validation and len(splits.validation), len(splits.test))
    assert sizes == expected


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "car", "train"):
        paint(tmp_path / name, 50, 10)
    splits = load(tmp_path)
    assert splits.train.class_names == ("bus", "car", "train")
    assert sum(map(len, parts_of(splits))) == 30


def test_folders_next_to_the_parts_are_left_out_and_counted(parts):
    paint(parts / "extra", 5, 7)
    paint(parts, 5, 1, stem="logo")
    splits = load(parts)
    assert [part.labels.bincount().tolist() for part in parts_of(splits)] == [[8] * 4, [2] * 4, [3] * 4]
    note = next(note for note in splits.notes if note.key == "beside_the_parts")
    assert note.value == {"extra": 7, "logo00.png": 1}
    assert note.warning
    assert "extra (7 images)" in note.text


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "bus"), "has train with folders of classes in it, next to bus .*part or a class"),
        (("train", "test", "bus"), "has the folders test, train, which look like parts .* next to bus"),
        (("val/a", "test/a"), "has the parts test, val, but no training part"),
        (("train/a", "Training/a", "test/a"), "folders Training and train, which are both the train part"),
        (("train/a", "val/a", "dev/a", "test/a"), "folders dev and val, which are both the validation part"),
        (("train/a", "val/a", "dev/a", "extra"), "folders dev and val, which are both the validation part"),
        (("inner/train/a", "inner/test/a"), r"only contains the folder inner.*set dataset\.root=.*/inner"),
    ],
)
def test_folders_that_may_be_parts_or_classes_are_refused(tmp_path, folders, message):
    for folder in folders:
        paint(tmp_path / folder, 50, 3)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_each_class_keeps_an_image_to_learn_from(tmp_path):
    for number in range(20):
        paint(tmp_path / f"class{number:02}", number, 1 if number < 10 else 3)
    splits = load(tmp_path, test=0.3, validation=0.1)
    assert splits.train.labels.bincount(minlength=20).min() == 1
    assert (len(splits.test), len(splits.validation)) == (12, 4)
    assert min(splits.test.labels.tolist()) >= 10  # classes with more than one image
    for number in range(10, 20):
        for path in sorted((tmp_path / f"class{number:02}").iterdir())[1:]:
            path.unlink()
    with pytest.raises(DataError, match="it has 20 images, one per class, and each class keeps one in train"):
        load(tmp_path)


def test_parts_that_share_a_class_are_refused_by_classes(tmp_path):
    for folder in ("train/a", "train/b", "train/c", "test/c", "test/d"):
        paint(tmp_path / "zoo" / folder, 50, 3)
    with pytest.raises(DataError, match="class 'c' of zoo occurs in train and in test"):
        load(tmp_path / "zoo", split="classes")


@pytest.mark.parametrize("damaged", ["refuse", "skip"])
def test_links_and_damaged_files_are_refused_or_skipped_and_reported(classes, damaged):
    (classes / "bee" / "03.png").write_bytes(b"")
    (classes / "eel").symlink_to(classes / "nowhere")
    if damaged == "refuse":
        with pytest.raises(DataError, match=r"(?s)2 of 41 image files.*bee/03\.png: the file is empty.*eel: a link to"):
            load(classes)
        return
    splits = load(classes, damaged="skip")
    note = next(note for note in splits.notes if note.key == "skipped")
    assert note.value["files"] == 2
    assert set(note.value["first"]) == {"bee/03.png", "eel"}
    assert sum(map(len, parts_of(splits))) == 39
    assert_shades_fit_labels(splits)
    (classes / "bee" / "03.png").unlink()
    (classes / "eel").unlink()
    assert load(classes).train.fingerprint != splits.train.fingerprint


def test_files_that_are_not_images_are_counted(classes):
    for name in ("a.svg", "b.svg", "c.txt"):
        (classes / "ant" / name).write_text("hello")
    (note,) = [note for note in load(classes).notes if note.key == "no_images"]
    assert note.value == {".svg": 2, ".txt": 1}
    assert "left out, not images that Pillow reads: 2 .svg, 1 .txt" in note.text


def test_nearly_black_sets_and_several_frames_are_reported(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(8):
            frames = [Image.fromarray(np.full((4, 4), number + frame, np.uint8)) for frame in (0, 3)]
            frames[0].save(tmp_path / name / f"{number}.tif", save_all=True, append_images=frames[1:])
    notes = {note.key: note for note in load(tmp_path).notes}
    assert notes["several_frames"].value == 16
    assert notes["greatest_value"].value == 7
    assert "dataset.value_range=[0,7]" in notes["greatest_value"].text
    scaled = load(tmp_path, value_range=[0, 7])
    assert max(int(part.images.max()) for part in parts_of(scaled)) == 255
    assert "greatest_value" not in {note.key for note in scaled.notes}


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    paint(tmp_path / "plain", 50, 8)
    (tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")).mkdir()
    paint(tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape"), 60, 8)
    splits = load(tmp_path)
    assert splits.train.class_names == (r"caf\xe9", "plain")
    json.dumps(splits.train.class_names).encode()


SPREADSHEETS = {
    "byte-order mark": ("\ufefffilename,label\n{}/00.png,{}\n", "utf-8"),
    "semicolons": ("filename;label\n{}/00.png;{}\n", "utf-8"),
    "tabs": ("filename\tlabel\n{}/00.png\t{}\n", "utf-8"),
    "utf-16": ("filename,label\n{}/00.png,{}\n", "utf-16"),
    "windows": ("filename,label\r\n{}\\00.png,{}\r\n\r\n", "utf-8"),
    "spaces and capitals": ("Filename , Label\n ./{}/00.png , {} \n", "utf-8"),
    "quotes": ('"filename","label","comment"\n"{}/00.png","{}","a, b"\n', "utf-8-sig"),
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_tables_are_read_as_spreadsheets_write_them(classes, tmp_path, kind):
    form, encoding = SPREADSHEETS[kind]
    (tmp_path / "tables").mkdir()
    for part, name in (("train", "ant"), ("test", "bee")):
        (tmp_path / "tables" / f"{part}.csv").write_bytes(form.format(name, name).encode(encoding))
    splits = load(classes, split="classes", class_split=str(tmp_path / "tables"))
    assert [part.class_names for part in parts_of(splits)] == [("ant",), ("bee",)]


def test_a_backslash_may_be_part_of_a_name(tmp_path):
    paint(tmp_path / "root" / "a\\b", 10, 1)
    paint(tmp_path / "root" / "c", 20, 1)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.csv").write_text("filename,label\na\\b/00.png,a\\b\n")
    (tmp_path / "tables" / "test.csv").write_text("filename,label\nc/00.png,c\n")
    splits = load(tmp_path / "root", split="classes", class_split=str(tmp_path / "tables"))
    assert splits.train.class_names == ("a\\b",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,class\nant/00.png,ant\n", "begins with 'name,class'; expected lines of filename,label"),
        ("filename,label\nant/00.png,\u00e4nt\n".encode("latin-1"), "is not encoded in UTF-8 .*save it as UTF-8"),
        (b"", "begins with ''"),
    ],
)
def test_tables_of_another_kind_are_refused_with_what_is_expected(classes, tmp_path, content, message):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(classes, split="classes", class_split=str(tmp_path / "tables"))


def test_names_in_a_list_of_classes_are_strings(tmp_path):
    names = ["yes", "no", "01", "1e3", "null", "2026-11-27", "~", "0x10"]
    for name in names:
        paint(tmp_path / "root" / name, 50, 2)
    (tmp_path / "split.yaml").write_bytes(
        "\ufefftrain: [yes, no, 01, 1e3]\ntest: [null, 2026-11-27, ~, 0x10]\n".encode()
    )
    splits = load(tmp_path / "root", split="classes", class_split=str(tmp_path / "split.yaml"))
    assert splits.train.class_names == tuple(names[:4])
    assert splits.test.class_names == tuple(names[4:])
    (tmp_path / "split.json").write_text('{"train": ["yes", 10], "test": ["no"]}')
    paint(tmp_path / "root" / "10", 50, 2)
    splits = load(tmp_path / "root", split="classes", class_split=str(tmp_path / "split.json"))
    assert splits.train.class_names == ("yes", "10")
