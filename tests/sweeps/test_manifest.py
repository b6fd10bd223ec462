"""What is written before a sweep runs, and read again."""

import json

import pytest

from ssl_runner.errors import InvalidValue
from ssl_runner.sweeps import manifest
from ssl_runner.sweeps.manifest import Manifest


def made(n: int = 4) -> Manifest:
    words = [["experiment=x", f"seed={seed}"] for seed in range(n)]
    configs = [{"seed": seed, "name": "run", "loss": {"temperature": 0.5}} for seed in range(n)]
    return Manifest.of("ssl-train -m seed=...", {"commit": "abc", "dirty": False}, words, configs, ["data"] * n)


def test_it_is_read_as_it_was_written(tmp_path):
    made().write(tmp_path)
    assert manifest.read(tmp_path) == made()
    assert [job.name for job in manifest.read(tmp_path).jobs] == [f"seed={seed}" for seed in range(4)]


def test_its_content_depends_on_what_jobs_compute_and_not_on_their_order_or_on_paths():
    one = made()
    assert Manifest(one.command, None, "later", one.jobs[::-1]).content == one.content
    assert made(3).content != one.content


def test_jobs_of_equal_content_are_kept_once():
    configs = [{"seed": 1, "name": name} for name in ("a", "b")]  # a name changes no result
    assert len(Manifest.of("", None, [["name=a"], ["name=b"]], configs, [None, None]).jobs) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "jobs": [{}]}'])
def test_a_damaged_one_is_reported_with_what_to_do(text, tmp_path):
    (tmp_path / manifest.FILE).write_text(text)
    with pytest.raises(InvalidValue, match=r"is damaged .*; delete it and give the command again"):
        manifest.read(tmp_path)


def test_one_of_another_version_is_refused(tmp_path):
    made().write(tmp_path)
    content = json.loads((tmp_path / manifest.FILE).read_text())
    (tmp_path / manifest.FILE).write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(InvalidValue, match=r"is of version 9, expected 1"):
        manifest.read(tmp_path)
