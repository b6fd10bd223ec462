"""Omniglot."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.tasks import TaskSampler
from ssl_runner.data.sources.omniglot import VALIDATION_ALPHABETS, omniglot, vinyals_classes, with_rotations
from ssl_runner.errors import DataError
from ssl_runner.runtime import randomness

KEYS = {
    "split": "classes",
    "class_split": "random",
    "class_counts": [1100, 100, 423],
    "validation": 0.1,
    "test": 0.25,
    "split_seed": 0,
    "rotations": True,
    "size": 28,
    "channels": None,
}


def load(root, **keys):
    return omniglot(**{"root": str(root), **KEYS, **keys})


def parts_of(splits):
    return [part for part in (splits.train, splits.validation, splits.test) if part is not None]


def characters_of(dataset):
    return {name.rpartition("/rot")[0] for name in dataset.class_names}


def write_tree(root, alphabets=(("Greek", 3), ("Latin", 3)), drawings=20):
    """A small Omniglot: black strokes at different positions on white paper."""
    for part, (alphabet, n) in zip(("images_background", "images_evaluation"), alphabets, strict=True):
        for character in range(n):
            folder = root / "omniglot-py" / part / alphabet / f"character{character + 1:02d}"
            folder.mkdir(parents=True)
            for drawing in range(drawings):
                paper = Image.new("1", (21, 21), 1)
                paper.paste(0, (character, drawing // 4, character + 9, drawing // 4 + 3))
                paper.save(folder / f"{drawing:02d}.png")
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path)


@pytest.fixture(scope="module")
def vinyals(data_root):
    return load(data_root, class_split="vinyals")


def test_vinyals_has_the_published_numbers_of_classes_with_20_drawings_each(vinyals):
    assert [part.n_classes for part in parts_of(vinyals)] == [4112, 688, 1692]
    for part in parts_of(vinyals):
        assert set(part.labels.bincount().tolist()) == {20}


def test_vinyals_test_characters_are_the_last_423_and_validation_is_five_alphabets(vinyals, data_root):
    folder = data_root / "omniglot-py"
    characters = [
        "/".join(path.parts[-2:])
        for part in ("images_background", "images_evaluation")
        for path in sorted((folder / part).glob("*/character*"))
    ]
    assert characters_of(vinyals.test) == set(characters[-423:])
    assert characters_of(vinyals.train) | characters_of(vinyals.validation) == set(characters[:-423])
    assert set(vinyals.validation.class_groups) == set(VALIDATION_ALPHABETS)
    assert not set(vinyals.train.class_groups) & set(VALIDATION_ALPHABETS)


def test_random_characters_are_1100_100_and_423_and_never_in_two_parts(data_root):
    splits = load(data_root)
    characters = [characters_of(part) for part in parts_of(splits)]
    assert [len(names) for names in characters] == [1100, 100, 423]
    assert len(set().union(*characters)) == 1623
    assert [part.n_classes for part in parts_of(splits)] == [4400, 400, 1692]
    assert not torch.equal(splits.test.images, load(data_root, split_seed=1).test.images)


def test_ink_is_bright_on_black(vinyals):
    images = vinyals.test.images
    assert images[:, :, 0].float().mean() < 15  # the edge is paper
    assert (images.amax(dim=(1, 2, 3)) > 128).float().mean() > 0.99
    assert (images == 0).float().mean() > 0.5


def test_an_image_is_its_file_inverted_and_shrunk(vinyals, data_root):
    label = vinyals.test.class_names.index("Tengwar/character07/rot0")
    folder = data_root / "omniglot-py" / "images_evaluation" / "Tengwar" / "character07"
    files = [ImageOps.invert(Image.open(path).convert("L")) for path in sorted(folder.iterdir())]
    expected = np.stack([np.asarray(file.resize((28, 28), Image.Resampling.LANCZOS)) for file in files])
    assert np.array_equal(vinyals.test.images[vinyals.test.labels == label, 0], expected)


def test_the_four_rotations_of_a_character_are_four_classes_of_one_part(vinyals):
    for part in parts_of(vinyals):
        turns = [
            {name.rpartition("/rot")[0] for name in part.class_names if name.endswith(f"/rot{angle}")}
            for angle in (0, 90, 180, 270)
        ]
        assert turns[0] == turns[1] == turns[2] == turns[3]
        assert len(set(part.class_names)) == part.n_classes == 4 * len(turns[0])
        alphabets = [name.partition("/")[0] for name in part.class_names]
        assert list(part.class_groups) == alphabets


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_rotated_images_equal_numpys_and_have_their_own_labels(n, n_classes, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 1, 5, 5), dtype=np.uint8)
    labels = rng.integers(0, n_classes, n)
    names = tuple(f"a/{label}" for label in range(n_classes))
    source = Dataset("toy", torch.from_numpy(images), torch.from_numpy(labels), names, None, "f")
    turned = with_rotations(source)
    seen = {}
    for image, label in zip(turned.images.numpy(), turned.labels.tolist(), strict=True):
        seen.setdefault(turned.class_names[label], []).append(image.tobytes())
    for label in range(n_classes):
        for turns in range(4):
            expected = [np.rot90(image[0], turns).tobytes() for image in images[labels == label]]
            assert seen.get(f"a/{label}/rot{90 * turns}", []) == expected
    domains = tuple(f"domain of {name}" for name in names)
    joined = with_rotations(replace(source, class_domains=domains))
    assert turned.class_domains is None
    assert joined.class_domains == tuple(f"domain of {name.rpartition('/')[0]}" for name in joined.class_names)


def test_by_images_the_drawings_of_every_character_are_split(tree):
    splits = load(tree, split="images", rotations=False)
    assert [set(part.labels.bincount().tolist()) for part in parts_of(splits)] == [{13}, {2}, {5}]
    turned = load(tree, split="images")
    assert [part.n_classes for part in parts_of(turned)] == [24, 24, 24]
    assert len(turned.test) == 4 * len(splits.test)
    assert splits.test.fingerprint != turned.test.fingerprint


def test_size_and_channels_are_as_configured(tree):
    assert load(tree, class_counts=[3, 0, 3], size=None).train.images.shape == (240, 1, 21, 21)
    assert load(tree, class_counts=[3, 0, 3], channels=3).train.images.shape == (240, 3, 28, 28)


def test_vinyals_needs_the_whole_of_omniglot(tree):
    with pytest.raises(DataError, match="needs all 1623 characters, but there are 6"):
        load(tree, class_split="vinyals")
    with pytest.raises(DataError, match="there are 0"):
        vinyals_classes(())


def test_an_unknown_split_of_classes_is_refused(tree):
    with pytest.raises(DataError, match=r"dataset\.class_split='lake': expected 'random' or 'vinyals'"):
        load(tree, class_split="lake")


def test_a_damaged_drawing_is_named(tree):
    path = tree / "omniglot-py" / "images_evaluation" / "Latin" / "character02" / "07.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=f"{path} cannot be decoded"):
        load(tree)


def test_a_missing_tree_is_fetched(tmp_path, monkeypatch):
    def fetch(root, background, download):
        if background:
            write_tree(Path(root))

    monkeypatch.setattr(torchvision.datasets, "Omniglot", fetch)
    assert load(tmp_path, class_counts=[3, 0, 3]).train.n_classes == 12


def test_missing_offline_names_both_folders(tmp_path, monkeypatch):
    def offline(root, background, download):
        raise OSError("offline")

    monkeypatch.setattr(torchvision.datasets, "Omniglot", offline)
    with pytest.raises(DataError, match=r"omniglot is missing.*images_background and .*images_evaluation.*offline"):
        load(tmp_path)


def test_thousands_of_tasks_never_show_a_character_of_another_part(vinyals):
    seen = {}
    for part in (vinyals.train, vinyals.validation, vinyals.test):
        sampler = TaskSampler(part, n_way=20, k_shot=1, n_query=5)
        tasks = sampler(randomness.uniforms(0, part.name, 0, 2000, sampler.columns))
        classes = part.labels[torch.cat([tasks.support, tasks.query], dim=1)].unique()
        # a rotation of a character is that character
        seen[part.name] = {part.class_names[label].rpartition("/")[0] for label in classes.tolist()}
    train, validation, test = seen.values()
    assert (len(train), len(validation), len(test)) == (1028, 172, 423)
    assert not (train & validation or train & test or validation & test)
