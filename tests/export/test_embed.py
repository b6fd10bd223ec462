"""ssl-embed: embeddings of a folder in its order, in bounded memory, complete or not there at all."""

import csv
import os
import resource
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_runner
from ssl_runner.export import embedding, embedding_files
from ssl_runner.export.embedding import AHEAD, Batch, embed, images_below
from ssl_runner.export.neighbours import CELL, Nearest, picture

parquet = pytest.importorskip("pyarrow.parquet")

CPU = torch.device("cpu")


def table(path):
    columns = parquet.read_table(path).to_pydict()
    return columns["name"], columns["label"], np.array(columns["embedding"], dtype=np.float32)


def names_of(folder):
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"))]


def test_parquet_has_the_encoders_features_with_names_and_labels(run, photos, ssl_embed, tmp_path):
    output = tmp_path / "x.parquet"
    ended = ssl_embed(run, photos, "--output", output, "--batch-size", 7)
    assert ended.code == 0, ended.err
    names, labels, embeddings = table(output)
    assert names == names_of(photos)
    assert labels == [name.partition("/")[0] for name in names]
    encoder = ssl_runner.load_encoder(run)
    expected = encoder(encoder.read([photos / name for name in names])).numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert f"{output}: 30 images, {encoder.out_features} features" in ended.out and "images/s" in ended.out
    metadata = parquet.read_schema(output).metadata
    assert metadata[b"encoder"].decode() == str(run / "encoder.safetensors")


def test_a_transformers_features_of_several_layers_are_embedded(encoder_file, photos, ssl_embed, tmp_path):
    file = encoder_file("vit_layers")
    assert ssl_embed(file, photos, "--output", tmp_path / "x.parquet").code == 0
    names, _, embeddings = table(tmp_path / "x.parquet")
    encoder = ssl_runner.load_encoder(file)
    assert embeddings.shape == (30, 2 * 192) and encoder.out_features == 2 * 192
    expected = encoder(encoder.read([photos / name for name in names])).numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_npy_has_the_same_rows_and_a_table_of_names(run, photos, ssl_embed, tmp_path):
    for name in ("x.parquet", "x.npy"):
        assert ssl_embed(run, photos, "--output", tmp_path / name, "--batch-size", 8).code == 0
    names, labels, embeddings = table(tmp_path / "x.parquet")
    assert np.array_equal(np.load(tmp_path / "x.npy", mmap_mode="r"), embeddings)
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names and [row["label"] for row in rows] == labels


def test_the_default_output_is_named_after_the_folder(run, photos, ssl_embed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ssl_embed(run, "photos").code == 0
    assert len(table(tmp_path / "photos.parquet")[0]) == 30


def test_labels_are_class_folders_below_parts_and_missing_without_any(photos):
    folder = images_below(photos)
    assert folder.label(("cat", "1.png")) == folder.label(("cat", "left", "1.png")) == "cat"
    assert folder.label(("1.png",)) is None
    parts = photos.parent / "parts"
    for part in ("train", "test"):
        shutil.copytree(photos, parts / part)
    folder = images_below(parts)
    assert folder.label(("train", "cat", "1.png")) == "cat"
    assert folder.label(("train", "1.png")) is None


def test_images_that_cannot_be_read_are_named_left_out_and_change_the_exit_code(run, photos, ssl_embed, tmp_path):
    (photos / "digit 0" / "bad.png").write_bytes(b"nothing")
    (photos / "digit 1" / "empty.jpg").write_bytes(b"")
    (photos / "digit 2" / "link.png").symlink_to(photos / "nowhere.png")
    for name in ("x.parquet", "x.npy"):
        ended = ssl_embed(run, photos, "--output", tmp_path / name, "--batch-size", 4)
        assert ended.code == 1
        for damaged in ("digit 0/bad.png", "digit 1/empty.jpg", "digit 2/link.png"):
            assert damaged in ended.err
        assert "3 images cannot be read and were left out" in ended.err
    names, _, embeddings = table(tmp_path / "x.parquet")
    assert len(names) == 30 and not any("bad" in name for name in names)
    assert np.array_equal(np.load(tmp_path / "x.npy"), embeddings)


def test_no_readable_image_is_a_mistake_and_writes_nothing(run, tmp_path, ssl_embed):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"nothing")
    ended = ssl_embed(run, folder, "--output", tmp_path / "x.parquet")
    assert ended.code == 2
    assert "none of the 1 images" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_only_a_few_batches_are_in_memory_however_many_images_there_are(run, tmp_path, monkeypatch):
    for number in range(60):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number:02}.png")
    decoded, original = [], embedding.decode_or_damage

    def counted(path, decoding):
        decoded.append(path)
        return original(path, decoding)

    monkeypatch.setattr(embedding, "decode_or_damage", counted)
    consumed = 0
    for batch in embed(ssl_runner.load_encoder(run), images_below(tmp_path), 3, CPU):
        consumed += batch.seen
        assert len(batch.names) == 3
        assert len(decoded) - consumed <= AHEAD * 3
    assert consumed == len(decoded) == 60


def test_parquet_is_written_in_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_files, "ROWS", 10)
    rows = [np.full((4, 2), number, np.float32) for number in range(9)]
    batches = [Batch([f"{number}/{row}" for row in range(4)], [None] * 4, values) for number, values in enumerate(rows)]
    with embedding_files.written(tmp_path / "x.parquet", 2, {}) as writer:
        for batch in batches:
            writer.add(batch)
            assert sum(len(each.names) for each in writer.waiting) < 10  # type: ignore[attr-defined]
    file = parquet.ParquetFile(tmp_path / "x.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [12, 12, 12]
    names, labels, embeddings = table(tmp_path / "x.parquet")
    assert names == [name for batch in batches for name in batch.names]
    assert labels == [None] * 36
    assert embeddings[:, 0].tolist() == [number for number in range(9) for _ in range(4)]


@pytest.mark.parametrize("name", ["x.parquet", "x.npy"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_file(name, number, run, photos, ssl_embed, tmp_path, monkeypatch):
    original, calls = embedding._embedded, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        elif len(calls) > 3:
            time.sleep(0.5)  # on a busy machine, the main thread hears of it late
        return original(*arguments)

    monkeypatch.setattr(embedding, "_embedded", interrupted)
    (tmp_path / "x.csv").write_text("old")
    ended = ssl_embed(run, photos, "--output", tmp_path / name, "--batch-size", 2, "--overwrite")
    assert ended.code == 130
    assert ended.err.strip() == "interrupted; no half-written file is left"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "x.csv"]
    assert (tmp_path / "x.csv").read_text() == "old"


@pytest.mark.parametrize("name", ["x.parquet", "x.npy"])
def test_a_full_disk_is_one_message_and_leaves_nothing(name, run, photos, ssl_embed, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # a write beyond it fails like on a full disk
    try:
        ended = ssl_embed(run, photos, "--output", tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.code == 1
    assert ended.err.startswith("cannot write ") and len(ended.err.strip().splitlines()) == 1, ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_mistakes_are_one_message(run, photos, ssl_embed, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.npy").write_bytes(b"mine")
    there = tmp_path / "there.npy"
    for words, said in (
        ((run,), "required: FOLDER"),
        ((run, tmp_path / "empty"), "contains no images"),
        ((run, tmp_path / "missing"), "does not exist; give a folder of images"),
        ((run, photos, "--output", there), "it exists; give --overwrite"),
        ((run, photos, "--output", tmp_path / "x.h5"), "ends in .parquet or .npy"),
        ((run, photos, "--batch-size", "0"), "--batch-size 0: expected at least 1"),
        ((run, photos, "--batch-size", "many"), "invalid int value"),
        ((run, photos, "--device", "tpu"), "set --device auto"),
        ((run, photos, "--neighbors", there), "did you mean '--neighbours'?"),
        ((run, photos, "--neighbours", tmp_path / "no.png"), "there is no such file"),
        ((run, photos, "--neighbours", there), "cannot be decoded"),
        ((photos, photos), "is not a run folder"),
    ):
        output = () if "--output" in words else ("--output", tmp_path / "new.npy")
        ended = ssl_embed(*words, *output)
        assert ended.code == 2, (words, ended)
        assert said in ended.err and len(ended.err.strip().splitlines()) == 1, ended.err
    assert there.read_bytes() == b"mine" and not (tmp_path / "new.npy").exists()


def test_pyarrow_is_an_extra(run, photos, ssl_embed, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ended = ssl_embed(run, photos, "--output", tmp_path / "x.parquet")
    assert ended.code == 2
    assert "pip install 'ssl-runner[embed]'; or give --output NAME.npy" in ended.err
    assert ssl_embed(run, photos, "--output", tmp_path / "x.npy").code == 0


def test_nearest_images_are_those_of_a_full_sort():
    random = np.random.default_rng(0)
    rows, query = random.normal(size=(40, 5)).astype(np.float32), random.normal(size=5).astype(np.float32)
    names = [f"{number}.png" for number in range(40)]
    nearest = Nearest(query, 6, itself="3.png")
    for start in range(0, 40, 7):
        part = slice(start, start + 7)
        nearest.add(Batch(names[part], [None] * len(names[part]), rows[part]))
        assert len(nearest.found) <= 6
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    expected = [number for number in np.argsort(-cosines) if number != 3][:6]
    assert [name for _, name, _ in nearest.found] == [names[number] for number in expected]
    np.testing.assert_allclose([distance for distance, _, _ in nearest.found], 1 - cosines[expected], atol=1e-6)


def test_neighbours_are_printed_and_drawn_without_the_image_itself(run, photos, ssl_embed, tmp_path):
    shutil.copy(photos / "digit 3" / "03.png", photos / "digit 3" / "copy.png")
    output = tmp_path / "x.npy"
    ended = ssl_embed(run, photos, "--output", output, "--neighbours", photos / "digit 3" / "03.png", "--k", 4)
    assert ended.code == 0, ended.err
    found = [line.split("  ") for line in ended.out.splitlines() if line.startswith("  ")]
    assert len(found) == 4
    assert found[0][1:] == ["0.0000", "digit 3/copy.png", "(digit 3)"]
    assert not any("03.png" in line[2] for line in found)
    with Image.open(tmp_path / "x_neighbours.png") as drawn:
        assert drawn.width > 5 * CELL and drawn.height > CELL


def test_a_picture_shows_the_images(photos):
    names, label = names_of(photos)[:8], "a long name of a class that does not fit"
    nearest = Nearest(np.ones(2), 8, found=[(0.1, name, label) for name in names])
    drawn = np.asarray(picture(photos / names[0], photos, nearest))
    with Image.open(photos / names[1]) as image:
        expected = np.asarray(image.resize((CELL, 99), Image.Resampling.NEAREST))
    places = np.lib.stride_tricks.sliding_window_view(drawn[: CELL + 8], (99, CELL), axis=(0, 1))
    assert (places[:, ::8] == np.moveaxis(expected, -1, 0)).all(axis=(2, 3, 4)).sum() == 1


def test_ink_on_paper_is_inverted_on_demand(run, photos, ssl_embed, tmp_path):
    negative = tmp_path / "negative"
    for name in names_of(photos):
        (negative / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(photos / name) as image:
            Image.fromarray(255 - np.asarray(image)).save(negative / name)
    assert ssl_embed(run, photos, "--output", tmp_path / "x.npy").code == 0
    assert ssl_embed(run, negative, "--invert", "--output", tmp_path / "y.npy").code == 0
    # the gray of an inverted image may be rounded to another level
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy"), atol=0.02)
