"""The provenance of a result."""

import shlex
import subprocess
import sys

from ssl_runner.runs import provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_patch_turns_the_commit_into_the_changed_checkout(tmp_path, monkeypatch):
    checkout, again, run = (tmp_path / name for name in ("checkout", "again", "run"))
    (checkout / "ssl_runner").mkdir(parents=True)
    (checkout / "conf").mkdir()
    run.mkdir()
    module = checkout / "ssl_runner" / "__init__.py"
    module.write_text("first = 1\n\n\n")
    (checkout / "conf" / "a.yaml").write_text("a: 1\n")
    (checkout / "README").write_text("not of the result\n")
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "PACKAGE", module.parent)
    provenance.write_diff(run)
    assert not list(run.iterdir())
    assert provenance.git() == {"commit": git(checkout, "rev-parse", "HEAD").strip(), "dirty": False}

    module.write_text("first = 2\n\n \n")
    (checkout / "conf" / "b.yaml").write_text("b: 1\n")
    (checkout / "README").write_text("changed\n")
    assert provenance.git()["dirty"]
    provenance.write_diff(run)
    git(tmp_path, "clone", "-q", str(checkout), str(again))
    git(again, "apply", "--whitespace=nowarn", str(run / "changes.patch"))
    for name in ("ssl_runner/__init__.py", "conf/b.yaml"):
        assert (again / name).read_text() == (checkout / name).read_text()
    assert (again / "README").read_text() == "not of the result\n"


def test_the_command_can_be_run_again(monkeypatch):
    line = ["/bin/ssl-train", "dataset.root=a b", "loss={a: 1}"]
    monkeypatch.setattr(sys, "argv", line)
    assert shlex.split(provenance.command()) == ["ssl-train", *line[1:]]
