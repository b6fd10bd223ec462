"""The shipped lists of classes: counts, that no class is in two parts, and that Tiny ImageNet's is as described."""

import numpy as np
import pytest
import torch

from ssl_runner.data.sources.class_lists import LISTS, listed_parts, read_list, without_classes
from ssl_runner.data.sources.source import PARTS, Source
from ssl_runner.data.sources.tiny_imagenet import FOLDERS, like
from ssl_runner.runtime import randomness

COUNTS = {
    "mini_imagenet": (64, 16, 20),
    "tiered_imagenet": (351, 97, 160),
    "cifar_fs": (64, 16, 20),
    "tiny_imagenet": (128, 32, 40),
}
NEAR = {"dog", "cat", "bird", "frog", "ship", "truck", "automobile", "deer"}


@pytest.mark.parametrize("name", COUNTS)
def test_a_split_has_its_published_counts_and_no_class_twice(name):
    parts = listed_parts(name)
    assert tuple(len(parts[part]) for part in PARTS) == COUNTS[name]
    classes = [line.name for line in read_list(name)]
    assert len(set(classes)) == len(classes) == sum(COUNTS[name])


def test_tiered_imagenet_has_34_categories_and_none_in_two_parts():
    lines = read_list("tiered_imagenet")
    assert len({line.rest for line in lines}) == 34
    assert len({(line.rest, line.word) for line in lines}) == 34


def kinds() -> dict[str, list[str]]:
    """Tiny ImageNet's classes of each kind in its list."""
    found: dict[str, list[str]] = {}
    for line in read_list("tiny_imagenet"):
        found.setdefault(line.rest.split()[0], []).append(line.name)
    return found


def test_tiny_imagenet_s_split_is_what_its_first_lines_say():
    """Kinds in the order of a permutation go to test, then validation, as long as they fit whole; the rest is train."""
    classes = kinds()
    names = sorted(classes)
    order = [names[place] for place in randomness.permutation(0, "tiny_imagenet/kinds", 0, len(names))]
    expected: dict[str, list[str]] = {part: [] for part in PARTS}
    for kind in order:
        part = next(
            part
            for part, most in (("test", 40), ("validation", 32), ("train", 128))
            if len(expected[part]) + len(classes[kind]) <= most
        )
        expected[part] += classes[kind]
    assert {part: sorted(names) for part, names in expected.items()} == listed_parts("tiny_imagenet")


def test_no_kind_is_in_two_parts():
    lines = read_list("tiny_imagenet")
    assert len({(line.rest.split()[0], line.word) for line in lines}) == len(kinds())


def test_the_classes_like_cifar10_s_have_kinds_of_it_and_each_has_a_reason():
    lines = read_list("tiny_imagenet_like_cifar10")
    names = {line.name: line.rest.split(maxsplit=1)[1] for line in read_list("tiny_imagenet")}
    assert {line.word for line in lines} == NEAR
    for line in lines:
        name, _, reason = line.rest.partition(": ")
        assert names[line.name] == name and reason
    assert len({line.name for line in lines}) == len(lines) == len(like("cifar10"))


def test_no_kind_of_cifar10_is_left_after_they_are_dropped():
    left = [line for line in read_list("tiny_imagenet") if line.name not in like("cifar10")]
    assert not {"dog", "bird", "boat"} & {line.rest.split()[0] for line in left}
    words = " ".join(line.rest.split(maxsplit=1)[1] for line in left).split()
    assert not {"cat", "frog", "bullfrog", "van", "limousine", "convertible", "terrier", "gazelle"} & set(words)


def test_the_lists_name_the_classes_that_the_real_folder_has(data_root):
    folder = data_root / FOLDERS / "train"
    if not folder.is_dir():
        pytest.skip(f"{FOLDERS} is not in {data_root}")
    real = sorted(path.name for path in folder.iterdir())
    assert sorted(line.name for line in read_list("tiny_imagenet")) == real
    assert set(like("cifar10")) < set(real)


def test_lists_are_beside_the_code_that_reads_them():
    assert {path.stem for path in LISTS.iterdir()} == {*COUNTS, "tiny_imagenet_like_cifar10"}


def test_classes_that_are_left_out_take_their_images_with_them_and_parts_stay_parts():
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 3])
    images = torch.arange(7, dtype=torch.uint8).view(-1, 1, 1, 1)
    official = {"train": torch.tensor([0, 1, 2, 6]), "test": torch.tensor([3, 4, 5])}
    digests = np.arange(7, dtype=np.uint8)[:, None]
    names = [f"{place}.png" for place in range(7)]
    groups = ("one", "two", "three", "four")
    source = Source("zoo", images, labels, ("ant", "bee", "cat", "dog"), groups, "x", official, (), {}, names, digests)
    left = without_classes(source, ["bee", "dog", "unicorn"], "insects")
    assert left.class_names == ("ant", "cat") and left.class_groups == ("one", "three")
    assert left.images.flatten().tolist() == [0, 1, 3, 4]
    assert left.labels.tolist() == [1, 0, 1, 0]
    assert {part: left.images[own].flatten().tolist() for part, own in left.official.items()} == {
        "train": [0, 1],
        "test": [3, 4],
    }
    assert (left.file_names, left.digests.flatten().tolist()) == (["0.png", "1.png", "3.png", "4.png"], [0, 1, 3, 4])
    assert left.content != source.content
    assert left.notes[0].value == ["bee", "dog"]
    assert without_classes(source, ["unicorn"], "insects") is source
