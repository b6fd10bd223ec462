"""The command ssl-report: what it prints, writes and refuses."""

import json
import subprocess
import sys

import made_runs
import pytest

from ssl_runner.commands import report as report_command
from ssl_runner.runtime.file_lock import locked


def report(capfd, *words):
    """Exit code, stdout and stderr of ``ssl-report WORDS``."""
    code = report_command.main([str(word) for word in words])
    return code, *capfd.readouterr()


@pytest.fixture
def runs(tmp_path):
    return made_runs.sweep(tmp_path / "outputs", {0.1: {0: 0.8, 1: 0.82}, 0.2: {0: 0.7, 1: 0.71}})


def test_it_prints_a_table(runs, capfd):
    code, out, err = report(capfd, runs)
    assert (code, err) == (0, "")
    assert "4 runs of 2 settings" in out
    assert "81.00 ± 12.71" in out


def test_runs_below_outputs_are_the_default(runs, capfd, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(runs))
    assert "4 runs" in report(capfd)[1]
    monkeypatch.delenv("SSL_RUNNER_OUTPUTS")
    monkeypatch.chdir(runs.parent)
    assert "4 runs" in report(capfd)[1]


def test_a_format_goes_to_stdout_or_into_a_file(runs, tmp_path, capfd):
    _, out, _ = report(capfd, runs, "--json")
    assert len(json.loads(out)["rows"]) == 2
    assert report(capfd, runs, "--json", "--output", tmp_path / "report.json") == (0, "", "")
    assert (tmp_path / "report.json").read_text() == out


def test_a_page_is_written(runs, tmp_path, capfd):
    assert report(capfd, runs, "--html", tmp_path / "page.html") == (0, "", f"{tmp_path / 'page.html'}\n")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "2 settings, 4 runs" in text and "data-refresh" not in text.split("<script")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.csv"], "--output: it needs a format; add --csv, --markdown, --latex or --json"),
        (["--csv", "--json"], "not allowed with argument"),
        (["--mertic", "x"], "unrecognized arguments"),
        (["--csv", "--output", "no/where.csv"], "there is no folder no"),
        (["--csv", "--output", "."], "is a folder"),
        (["--html", "no/where.html"], "there is no folder no"),
        (["--watch", "0"], "give a number of seconds above 0"),
        (["--metric", "knn/top5"], "did you mean 'knn/top1'?"),
        (["--baseline", "temperature=3"], "give one of: temperature=0.1; temperature=0.2"),
        (["nowhere"], "nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(runs, capfd, words, message):
    code, out, err = report(capfd, runs, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_without_a_result_the_exit_code_is_2(tmp_path, capfd):
    made_runs.make(tmp_path / "run", {}, status="interrupted", step=3)
    code, out, err = report(capfd, tmp_path)
    assert (code, out) == (2, "")
    assert "interrupted after step 3" in err and len(err.splitlines()) == 1


def test_a_full_report_names_what_it_left_out(runs, capfd):
    made_runs.make(runs / "bad", {}, 9, status="failed", reason="loss is NaN")
    (runs / "torn").mkdir()
    (runs / "torn" / "result.json").write_text('{"status": "fin')
    code, out, _ = report(capfd, runs)
    assert code == 0
    assert "2 folders left out" in out
    assert "bad: failed: loss is NaN" in out and "torn: result.json is damaged" in out


def test_watching_ends_when_nothing_runs_any_more(runs, capfd, monkeypatch):
    busy = made_runs.make(runs / "busy", {}, 9, status="running")
    rounds = []

    def end(seconds):
        rounds.append(seconds)
        held.__exit__(None, None, None)

    held = locked(busy / ".lock")
    held.__enter__()
    monkeypatch.setattr("time.sleep", end)
    assert report(capfd, runs, "--watch", "3")[0] == 0
    assert rounds == [3]


def test_watching_waits_for_the_first_results_and_for_the_baseline(tmp_path, capfd, monkeypatch):
    busy = made_runs.make(tmp_path / "busy", {}, status="running")
    held = locked(busy / ".lock")
    held.__enter__()
    finished = iter(({0.1: {0: 0.8, 1: 0.82}}, {0.5: {0: 0.7, 1: 0.71}}))

    def finish(seconds):
        made_runs.sweep(tmp_path, next(finished))
        if len(list(tmp_path.iterdir())) > 3:
            held.__exit__(None, None, None)

    monkeypatch.setattr("time.sleep", finish)
    code, out, err = report(capfd, tmp_path, "--watch", "--baseline", "temperature=0.5")
    assert code == 0
    assert "has a result" in err and "--baseline" in err
    assert out.count("Compared with temperature=0.5") == 1


def test_a_watched_page_renews_itself_until_the_last_run_has_ended(runs, tmp_path, capfd, monkeypatch):
    busy, pages = made_runs.make(runs / "busy", {}, 9, status="running"), []

    def end(_):
        pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
        held.__exit__(None, None, None)

    held = locked(busy / ".lock")
    held.__enter__()
    monkeypatch.setattr("time.sleep", end)
    assert report(capfd, runs, "--html", tmp_path / "page.html", "--watch", "3")[0] == 0
    pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert ['<body data-refresh="3.0">' in text for text in pages] == [True, False]


def test_it_needs_no_torch_and_no_hydra(runs):
    program = (
        "import sys; from ssl_runner.commands.report import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'hydra', 'sklearn', 'tensorboard'} & set(sys.modules); assert not heavy, heavy; "
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", program, str(runs), "--baseline", "temperature=0.1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_page_needs_no_torch(runs, tmp_path):
    program = (
        "import sys; from ssl_runner.commands.report import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'tensorflow', 'hydra', 'sklearn'} & set(sys.modules); assert not heavy, heavy; "
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", program, str(runs), "--html", str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_names_every_option(capfd):
    with pytest.raises(SystemExit) as ended:
        report_command.main(["--help"])
    assert ended.value.code == 0
    out = capfd.readouterr().out
    for option in (
        "--metric",
        "--baseline",
        "--csv",
        "--markdown",
        "--latex",
        "--json",
        "--output",
        "--html",
        "--watch",
    ):
        assert option in out
