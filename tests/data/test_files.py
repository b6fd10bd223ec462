"""Scanning folders."""

import pytest

from ssl_runner.data.files import scan
from ssl_runner.data.roots import DataError


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_images_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/deep/er/3.jpeg", "0.webp"):
        put(tmp_path / name)
    assert ["/".join(file.path) for file in scan(tmp_path)] == ["0.webp", "a/deep/er/3.jpeg", "b/1.JPG", "b/2.png"]


def test_hidden_and_other_files_are_left_out(tmp_path):
    for name in ("a.png", ".hidden.png", ".cache/b.png", "README.md", "labels.csv", "Thumbs.db"):
        put(tmp_path / name)
    assert [file.path for file in scan(tmp_path)] == [("a.png",)]


def test_linked_folders_are_read_and_a_link_upwards_ends(tmp_path):
    put(tmp_path / "store" / "1.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "class").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "up").symlink_to(tmp_path / "root")
    assert [file.path for file in scan(tmp_path / "root")] == [("class", "1.png")]


def test_a_missing_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere is missing"):
        scan(tmp_path / "nowhere")
    put(tmp_path / "empty" / "notes.txt")
    with pytest.raises(DataError, match=f"{tmp_path}/empty holds no images"):
        scan(tmp_path / "empty")


def test_a_dangling_link_is_named(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png"):
        scan(tmp_path)
