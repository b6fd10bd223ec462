"""One process at a time holds a lock, and nothing is left behind if it is not kept."""

import threading

import pytest

from ssl_runner.runtime.file_lock import locked


def test_a_second_holder_waits_or_is_refused(tmp_path):
    path = tmp_path / "lock"
    with locked(path), pytest.raises(BlockingIOError), locked(path, wait=False):
        raise AssertionError("two at once")
    with locked(path, wait=False):
        assert path.exists()


@pytest.mark.parametrize("fails", [False, True])
def test_a_lock_that_is_not_kept_is_deleted_with_the_empty_folders_made_for_it(tmp_path, fails):
    def hold(path, content=None):
        with locked(path, keep=False):
            if content is not None:
                (path.parent / content).touch()
            if fails:
                raise ZeroDivisionError

    def left():
        return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))

    for path, content, expected in (
        (tmp_path / "a" / "b" / "lock", None, []),
        (tmp_path / "lock", None, []),
        (tmp_path / "a" / "b" / "lock", "data", ["a", "a/b", "a/b/data"]),
    ):
        try:
            hold(path, content)
        except ZeroDivisionError:
            assert fails
        assert left() == expected


def test_after_waiting_for_a_deleted_lock_a_process_holds_the_new_one(tmp_path):
    path, taken, done = tmp_path / "made" / "lock", threading.Event(), threading.Event()

    def second():
        with locked(path, keep=False):
            taken.set()
            done.wait(30)

    waiting = threading.Thread(target=second)
    with locked(path, keep=False):
        waiting.start()
        assert not taken.wait(0.2)
    assert taken.wait(30)
    with pytest.raises(BlockingIOError), locked(path, wait=False):
        raise AssertionError("two at once")
    done.set()
    waiting.join(30)
    assert list(tmp_path.iterdir()) == []
