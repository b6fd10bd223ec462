"""The process of a sweep's job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB = """
import os, time
from pathlib import Path
from ssl_runner.cli.app import App, serve_job

def prepare(config):
    Path("pid.new").write_text(str(os.getpid()))
    os.rename("pid.new", "pid")
    time.sleep(100)

Path("job.json").write_text('{"overrides": [], "config": {}}')
serve_job(App(prepare, None, None), Path())
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_a_job_ends_with_the_process_that_started_it(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, JOB], cwd=tmp_path, env=environment)
    while not (tmp_path / "pid").exists():
        assert parent.poll() is None
        time.sleep(0.01)
    job = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    try:
        deadline = time.monotonic() + 30
        while lives(job):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        if lives(job):
            os.kill(job, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether a process runs; False for one that has ended, even if nobody has taken note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
