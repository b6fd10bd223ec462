"""The user's mistakes get one clear message, other errors a traceback."""

import errno
import threading

import pytest
from small_program import Typed, fail

from ssl_runner.cli.app import FAILURE
from ssl_runner.cli.report_error import of_a_thread
from ssl_runner.config.targets import locate
from ssl_runner.errors import ConfigError

pytestmark = pytest.mark.usefixtures("small_program")


def test_a_mistake_found_while_wiring_is_reported_without_a_traceback(monkeypatch, capsys):
    typed = Typed(monkeypatch, "", fail(ConfigError(["loss: does not fit", "batching: nor this"])))
    assert typed.code == 2
    assert capsys.readouterr().err == "loss: does not fit\nbatching: nor this\n"
    assert "Traceback" in (typed.folders[0] / FAILURE).read_text()


def test_an_invalid_value_is_a_mistake_and_a_plain_value_error_is_a_bug(monkeypatch, capsys):
    assert Typed(monkeypatch, "", lambda config, folder: locate("os.system")).code == 2
    err = capsys.readouterr().err
    assert err.startswith("os.system is not trusted")
    assert err.count("\n") == 1
    assert Typed(monkeypatch, "", lambda config, folder: int("abc")).code == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_keeps_its_traceback(monkeypatch, capsys):
    typed = Typed(monkeypatch, "", fail(ZeroDivisionError("why")))
    err = capsys.readouterr().err
    assert typed.code == 1
    assert err.startswith("Traceback")
    assert err.count("ZeroDivisionError: why") == 1
    assert "in work" in err


def test_a_full_disk_is_reported_in_one_line_that_says_how_to_go_on(monkeypatch, capsys):
    typed = Typed(monkeypatch, "", fail(OSError(errno.ENOSPC, "No space left on device", "run/last.pt")))
    assert typed.code == 1
    err = capsys.readouterr().err
    assert err.startswith("cannot write run/last.pt: No space left on device.")
    assert err.endswith("free some space, then start again.\n")
    assert err.count("\n") == 1


def test_a_thread_is_silent_about_a_full_disk_and_reports_any_other_error(capsys):
    full = OSError(errno.ENOSPC, "No space left on device")
    for error, reported in ((full, False), (RuntimeError("unforeseen"), True)):

        def fail(error=error):
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", of_a_thread)
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
        assert ("unforeseen" in capsys.readouterr().err) is reported
