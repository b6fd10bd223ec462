"""Scanning folders."""

import pytest

from ssl_runner.errors import DataError, printable
from ssl_runner.images.files import LITTER, scan


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_images_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/deep/er/3.jpeg", "0.webp"):
        put(tmp_path / name)
    assert ["/".join(file.path) for file in scan(tmp_path).files] == [
        "0.webp",
        "a/deep/er/3.jpeg",
        "b/1.JPG",
        "b/2.png",
    ]


def test_hidden_and_other_files_are_left_out(tmp_path):
    for name in ("a.png", ".hidden.png", ".cache/b.png", "README.md", "labels.csv", "Thumbs.db"):
        put(tmp_path / name)
    assert [file.path for file in scan(tmp_path).files] == [("a.png",)]


def test_linked_folders_are_read_and_a_link_upwards_is_not_followed(tmp_path):
    put(tmp_path / "store" / "1.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "class").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "up").symlink_to(tmp_path / "root")
    assert [file.path for file in scan(tmp_path / "root").files] == [("class", "1.png")]


def test_a_missing_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere is missing"):
        scan(tmp_path / "nowhere")
    put(tmp_path / "empty" / "notes.txt")
    with pytest.raises(DataError, match=f"{tmp_path}/empty contains no images"):
        scan(tmp_path / "empty")


def test_broken_links_to_files_and_folders_are_reported(tmp_path):
    put(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "class").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    found = scan(tmp_path)
    assert [file.path for file in found.files] == [("a", "1.png")]
    reasons = {"/".join(path): reason for path, reason in found.broken}
    assert reasons == {
        "a/gone.png": f"a link to {tmp_path}/nowhere.png, which does not exist",
        "class": f"a link to {tmp_path}/nowhere, which does not exist",
        "loop": "a link that leads back to itself",
    }


def test_files_that_pillow_reads_are_images_and_the_rest_is_counted(tmp_path):
    for name in (
        "1.jfif",
        "2.AVIF",
        "3.jp2",
        "4.jpe",
        "5.tga",
        "a.svg",
        "b.heic",
        "c.TXT",
        "d.txt",
        "noending",
        "e.eps",
    ):
        put(tmp_path / name)
    found = scan(tmp_path)
    assert [file.path[0][0] for file in found.files] == ["1", "2", "3", "4", "5"]
    assert found.others == {".svg": 1, ".heic": 1, ".txt": 2, "": 1, ".eps": 1}


@pytest.mark.parametrize("litter", LITTER)
def test_thumbnails_and_recycle_bins_of_file_servers_are_skipped(tmp_path, litter):
    put(tmp_path / "class" / "1.png")
    put(tmp_path / "class" / litter / "1.png" / "SYNOPHOTO_THUMB_M.jpg")
    found = scan(tmp_path)
    assert [file.path for file in found.files] == [("class", "1.png")]
    assert not found.others


def test_a_name_is_shown_as_utf8_in_any_locale():
    assert printable("caf\u00e9") == "caf\u00e9"
    assert printable("two\nlines \x1b[31mred \u202eleft") == r"two\nlines \x1b[31mred \u202eleft"
    assert printable(b"caf\xe9".decode("utf-8", "surrogateescape")) == "caf\\xe9"
    assert printable("\u043a\u043e\u0442".encode().decode("ascii", "surrogateescape")) == "\u043a\u043e\u0442"
