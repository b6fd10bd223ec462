"""What a SLURM task does: runs a job of a sweep as a child process, and lets it save before the task ends.

It imports no torch, which the child does, so that a task takes little memory beside its job.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ssl_runner.runs import run_folder

_STOPPED = (130, 128 + signal.SIGTERM, -signal.SIGTERM)  # exit codes of a run that a signal ended


class Task:
    """Runs one job.

    submitit pickles it, and calls it on the compute node. At the time limit, and before a job with more rights takes
    the node, submitit calls `checkpoint`, and puts the task back into the queue.

    Args:
        folder: The job's, with its file; absolute.
        output: The file that takes what the job prints.
        processes: Of the job.
        threads: CPU threads of each.
    """

    def __init__(self, folder: str, output: str, processes: int, threads: int) -> None:
        self.folder, self.output, self.processes, self.threads = folder, output, processes, threads
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the job, or resume it. The task ends with the job's exit code, which SLURM shows."""
        self.child = self._start()
        code = _wait(self.child.pid)
        if code in _STOPPED and _keeps_its_node():
            # SIGTERM went to the job too: SLURM announces that the node is needed, but does not queue the task again
            signal.raise_signal(_preemption())
        if code < 0:
            with open(self.output, "a") as output:
                output.write(f"\n{_ended_by(-code)}\n")
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> Any:
        """Let the job save and end.

        Returns:
            What submitit is to run next; None if there is nothing left to do, or the job has failed.
        """
        from submitit.helpers import DelayedSubmission

        if self.child is not None:
            os.kill(self.child.pid, signal.SIGTERM)
            code = _wait(self.child.pid)
            if code not in _STOPPED and _has_ended(Path(self.folder)):
                return None
        return DelayedSubmission(Task(self.folder, self.output, self.processes, self.threads))

    def _start(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m"]
        if self.processes > 1:
            words += ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}", "-m"]
        with open(self.output, "wb") as output:
            return subprocess.Popen(
                [*words, "ssl_runner.train", "--job", self.folder],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(os.environ) | {"OMP_NUM_THREADS": str(self.threads)},
                preexec_fn=_ignore_preemption,
            )


def _preemption() -> signal.Signals:
    """The signal on which submitit saves and queues again."""
    return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]


def _ignore_preemption() -> None:
    signal.signal(_preemption(), signal.SIG_IGN)  # SLURM sends it to every process of the task, and it would end them


def _wait(child: int) -> int:
    """The exit code of a child, for a signal minus its number.

    The child is not reaped, and Popen's lock is not taken: `Task.checkpoint` waits in a signal handler, which
    interrupts this very wait.
    """
    found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _has_ended(folder: Path) -> bool:
    try:
        return run_folder.status(folder) in (run_folder.FINISHED, "failed")
    except (OSError, ValueError):
        return False


def _keeps_its_node() -> bool:
    """Whether SLURM has this task as running; after ``scancel`` or ``scontrol requeue``, it no longer has."""
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    number = os.environ.get("SLURM_JOB_ID") if array is None else f"{array}_{place}"
    if number is None or shutil.which("squeue") is None:
        return False
    asked = ["squeue", "--noheader", "--jobs", number, "--format", "%T"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.split() == ["RUNNING"]


def _ended_by(number: int) -> str:
    likely = ", perhaps for want of memory" if number == signal.SIGKILL else ""
    return f"ended by {signal.Signals(number).name}{likely}"
