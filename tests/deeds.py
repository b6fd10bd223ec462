"""Events that happen to a child process of a test; each function is called in the child before its work begins."""

import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Deed = Callable[[], None]


def modules_lie_in(folder: Path) -> None:
    """Modules are found in this folder, too."""
    sys.path.insert(0, str(folder))


def die() -> None:
    """Die at once, as in a power cut, a kernel crash or a kill by the out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Callable[..., bool], deed: Callable[..., Any]) -> None:
    """Call ``deed(*arguments)`` before ``owner.name(*arguments)`` if ``when(*arguments)``."""
    original = getattr(owner, name)

    def replaced(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            deed(*arguments, **named)
        return original(*arguments, **named)

    setattr(owner, name, replaced)


def vanish(folder: Path) -> None:
    """Delete a folder, even if a thread writes a file into it at the same time."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def at_step(step: int, deed: Deed) -> None:
    """Call ``deed()`` after ``step`` steps are done and logged, when the next one begins."""
    from ssl_runner.training.trainer import Trainer

    before(Trainer, "step", lambda *given, **_: given[4].step == step, lambda *_, **__: deed())


def at_call(number: int) -> Callable[..., bool]:
    """A condition that is true only in the call with this number, counted from 1."""
    calls = iter(range(1, 10**9))
    return lambda *_, **__: next(calls) == number


# the moments of a SIGKILL, in a run of 6 steps with a checkpoint every 2 and a validation every 3


def killed_before_the_first_checkpoint() -> None:
    at_step(1, die)


def killed_while_the_first_checkpoint_is_written() -> None:
    _killed_while_written(2)


def killed_while_a_checkpoint_is_written() -> None:
    _killed_while_written(4)


def _killed_while_written(step: int) -> None:
    import torch

    save = torch.save

    def half(state, path):
        buffer = io.BytesIO()
        save(state, buffer)
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        die()

    before(torch, "save", lambda state, _: state.get("step") == step, half)


def killed_between_the_two_files_of_a_checkpoint() -> None:
    def when(temporary: Path, target: Path) -> bool:
        return target.name == "last.pt" and target.with_name("previous.pt").exists()

    before(Path, "replace", when, lambda *_: die())


def killed_between_log_and_checkpoint() -> None:
    from ssl_runner.training import checkpoint

    before(checkpoint, "save", lambda folder, step, *_, **__: step == 4, lambda *_, **__: die())


def killed_while_a_line_is_written() -> None:
    from ssl_runner.runs.tracking import Tracker

    def torn(tracker: Tracker, step: int, values: dict[str, float]) -> None:
        tracker.writer.flush()
        events = max(tracker.path.parent.glob("events*"), key=lambda path: path.stat().st_mtime_ns)
        with events.open("ab") as file:
            file.write(events.read_bytes()[:100])
        line = json.dumps({"step": step, **values})
        tracker.file.write(line[: len(line) // 2])
        tracker.file.flush()
        die()

    before(Tracker, "scalars", lambda tracker, step, values: step == 5, torn)


def killed_during_validation() -> None:
    from ssl_runner.training import run

    before(run, "evaluate", at_call(2), lambda *_: die())


def killed_during_the_final_evaluation() -> None:
    from ssl_runner.training import session

    before(session, "evaluate", at_call(2), lambda *_: die())


def killed_after_the_final_evaluation() -> None:
    from ssl_runner.runs.result import Result

    before(Result, "finish", lambda *_, **__: True, lambda *_, **__: die())


# signals, and other machines


def signalled_at_step(step: int, *numbers: int) -> None:
    """Send signals to this process, one after the other, after ``step`` steps."""

    def signals() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    at_step(step, signals)


def signalled_in_the_last_checkpoint(number: int) -> None:
    from ssl_runner.training import checkpoint

    before(checkpoint, "save", lambda _, step, *__: step == 6, lambda *_: os.kill(os.getpid(), number))


def on_another_machine() -> None:
    """Use another number of threads and report another version of torch."""
    import torch

    from ssl_runner.runtime import versions

    torch.set_num_threads(2)
    true = versions.versions
    versions.versions = lambda: true() | {"torch": "9.9.9"}


# faults


def disk_fills_up(step: int, folder: Path) -> None:
    """Fill the disk after ``step`` steps."""
    at_step(step, lambda: fill(folder))


def disk_fills_up_in_checkpoint(step: int, folder: Path) -> None:
    """Fill the disk after the logs of this step were written, but before its checkpoint is."""
    from ssl_runner.training import checkpoint

    before(checkpoint, "save", lambda _, done, *__: done == step, lambda *_: fill(folder))


def fill(folder: Path) -> None:
    """Fill the folder's disk to the last byte with a file ``ballast``."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def folder_vanishes(folder: Path) -> None:
    """Delete a folder after three steps."""
    at_step(3, lambda: vanish(folder))


def folder_is_moved(folder: Path, step: int) -> None:
    """Rename a folder after ``step`` steps."""
    at_step(step, lambda: folder.rename(folder.with_name(f"{folder.name} is here now")))


def folder_vanishes_before_evaluation(folder: Path) -> None:
    """Delete a folder after training, before evaluation."""
    from ssl_runner.training import session  # which may have bound the function already

    before(session, "evaluate", at_call(1), lambda *_: vanish(folder))


def working_folder_vanishes(folder: Path, step: int | None = None) -> None:
    """Make this the working folder, and delete it after ``step`` steps, or at once."""
    folder.mkdir()
    os.chdir(folder)
    if step is None:
        folder.rmdir()
    else:
        at_step(step, lambda: vanish(folder))


def hung_up(step: int, ignored: bool) -> None:
    """Send SIGHUP after ``step`` steps, ignored as under nohup, or not."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    signalled_at_step(step, signal.SIGHUP)


# consoles


def nobody_reads(*numbers: int) -> None:
    """Redirect descriptors to a pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    _lead(writing, numbers)


def console_is_full(*numbers: int) -> None:
    """Redirect descriptors to a file on a full disk."""
    _lead(os.open("/dev/full", os.O_WRONLY), numbers)


def terminal_goes_away(*numbers: int) -> None:
    """Redirect descriptors to a terminal that is closed after two steps."""
    master, slave = os.openpty()
    _lead(slave, numbers)
    at_step(2, lambda: os.close(master))


def _lead(target: int, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        os.dup2(target, number)
    os.close(target)


def weights_are_lost(step: int) -> None:
    """Set weights to NaN after a step, as a gradient that is not finite does, while the loss is still finite."""
    import torch

    from ssl_runner.training.trainer import Trainer

    original = Trainer.step

    def replaced(self, algorithm, batch, optimizer, context, *more):
        metrics = original(self, algorithm, batch, optimizer, context, *more)
        if context.step == step:
            with torch.no_grad():
                next(algorithm.parameters()).fill_(torch.nan)
        return metrics

    Trainer.step = replaced


def memory_runs_short(step: int | None, bytes_left: int) -> None:
    """Limit further memory to ``bytes_left``, from ``step`` steps on, or from the final evaluation on."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + bytes_left
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    if step is None:
        from ssl_runner.training import session

        before(session, "evaluate", at_call(1), lambda *_: limit())
    else:
        at_step(step, limit)


def one_stops_at_step(step: int, silent: int) -> None:
    """Stop one of two processes; the other notices within seconds instead of half a minute."""
    from ssl_runner.cli import report_error
    from ssl_runner.runtime import heartbeat

    heartbeat.SILENCE, report_error.PATIENCE = 4.0, 0.0
    if os.environ["RANK"] == str(silent):
        at_step(step, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def first_is_busy() -> None:
    """Keep one process busy for longer than the timeout for a silent one."""
    from ssl_runner.runtime import heartbeat, process_group

    heartbeat.SILENCE = 5.0  # a thread on a busy machine may be late
    process_group.init(timeout=7.0)
    if os.environ["RANK"] == "0":
        time.sleep(9)
    print(process_group.any_of(os.environ["RANK"] == "0"), flush=True)
    process_group.shutdown()
