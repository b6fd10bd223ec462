"""A run that is interrupted at any moment resumes as if it had not been interrupted."""

import functools
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import children
import deeds
import pytest
import waiting
from children import until
from run_folders import CONTRASTIVE, MAML, VIEWS, assert_as_unbroken, checkpoint, momentum_queue, settled

UNSELECTED = [*VIEWS, "baselines=[]"]
KINDS = {
    "contrastive": lambda: settled(CONTRASTIVE),
    "maml": lambda: settled(MAML),
    "momentum_queue": momentum_queue,
    "unselected": lambda: settled(UNSELECTED),
}
# and the step from which the run resumes
MOMENTS = {
    deeds.killed_before_the_first_checkpoint: 0,
    deeds.killed_while_the_first_checkpoint_is_written: 0,
    deeds.killed_while_a_checkpoint_is_written: 2,
    deeds.killed_between_the_two_files_of_a_checkpoint: 2,
    deeds.killed_between_log_and_checkpoint: 2,
    deeds.killed_while_a_line_is_written: 4,
    deeds.killed_during_the_final_evaluation: 6,
    deeds.killed_after_the_final_evaluation: 6,
}
SOME = [
    deeds.killed_before_the_first_checkpoint,
    deeds.killed_while_a_checkpoint_is_written,
    deeds.killed_between_log_and_checkpoint,
    deeds.killed_during_the_final_evaluation,
]
CASES = [
    *(("contrastive", moment, start) for moment, start in MOMENTS.items()),
    ("contrastive", deeds.killed_during_validation, 4),
    *((kind, moment, MOMENTS[moment]) for kind in ("maml", "momentum_queue") for moment in SOME),
]
AUTO = {"resume": "auto"}


@pytest.fixture(scope="module", autouse=True)
def trusted(session_environment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_RUNNER_TRUSTED", "doubles,waiting")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of an uninterrupted run, by kind."""

    @functools.cache
    def run(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("unbroken") / kind
        ended = children.run(KINDS[kind](), folder)
        assert ended.code == 0, ended.err
        return folder

    return run


@pytest.fixture(scope="module")
def killed_at_five(tmp_path_factory) -> Path:
    """The folder of a run that was killed with step 5 half logged and checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    ended = children.run(settled(CONTRASTIVE), folder, deeds.killed_while_a_line_is_written)
    assert ended.code == -signal.SIGKILL, ended.err
    return folder


@pytest.fixture
def broken(killed_at_five, tmp_path) -> Path:
    """A copy of `killed_at_five`."""
    return Path(shutil.copytree(killed_at_five, tmp_path / "a run"))


@pytest.mark.parametrize(("kind", "moment", "start"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_killed_run_resumes_exactly(kind, moment, start, unbroken, tmp_path):
    config, folder = KINDS[kind](), tmp_path / "run"
    died = children.run(config, folder, moment)
    assert died.code == -signal.SIGKILL, died.err
    again = children.run(config | AUTO, folder)
    assert again.code == 0, again.err
    assert (f"from step {start}" in again.out) == (start > 0)
    assert_as_unbroken(folder, unbroken(kind))


def test_a_run_that_is_killed_repeatedly_resumes_exactly(unbroken, tmp_path):
    config, folder = settled(CONTRASTIVE), tmp_path / "run"
    for moment in [
        deeds.killed_before_the_first_checkpoint,
        deeds.killed_between_log_and_checkpoint,
        deeds.killed_while_a_checkpoint_is_written,
        deeds.killed_while_a_line_is_written,
        deeds.killed_after_the_final_evaluation,
    ]:
        assert children.run(config | AUTO, folder, moment).code == -signal.SIGKILL
    assert children.run(config | AUTO, folder).code == 0
    assert_as_unbroken(folder, unbroken("contrastive"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Flip one bit of the weights; the file still loads."""
    content = bytearray(path.read_bytes())
    weights = checkpoint(path.parents[1], path.name)["algorithm"]["network.head.0.weight"].numpy().tobytes()
    content[content.index(weights) + 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before_with_a_warning(damage, broken, unbroken):
    damage(broken / "checkpoints" / "last.pt")
    again = children.run(settled(CONTRASTIVE) | AUTO, broken)
    assert again.code == 0, again.err
    assert again.out.count("last.pt is damaged") == 1
    assert "resuming from the one before, step 2" in again.out
    assert_as_unbroken(broken, unbroken("contrastive"))


def test_a_damaged_checkpoint_never_replaces_an_intact_one(broken, unbroken):
    config = settled(CONTRASTIVE) | AUTO
    truncate(broken / "checkpoints" / "last.pt")
    died = children.run(config, broken, deeds.killed_between_the_two_files_of_a_checkpoint)
    assert died.code == -signal.SIGKILL, died.err
    again = children.run(config, broken)
    assert again.code == 0, again.err
    assert_as_unbroken(broken, unbroken("contrastive"))


def test_two_damaged_checkpoints_are_refused_and_nothing_is_lost(broken):
    for name in ("last.pt", "previous.pt"):
        truncate(broken / "checkpoints" / name)
    before = contents(broken)
    for _ in range(2):
        refused = children.command(broken.parent / "logs", [f"resume={broken}"])
        assert refused.code == 2
        assert "No intact checkpoint is left" in refused.err and "Traceback" not in refused.err
        assert refused.err.count("is damaged") == 2
    assert contents(broken) == before


def contents(folder: Path) -> dict[str, bytes]:
    """The content of all files except the report of the failure."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts)
    return {str(path): path.read_bytes() for path in files if path.name not in ("failure.txt", "train.log")}


@pytest.mark.parametrize("how", ["auto", "named"])
def test_another_config_is_refused_with_the_differences(how, broken):
    before = contents(broken)
    named = [f"resume={broken}"]
    auto = [*CONTRASTIVE, "resume=auto", f"hydra.run.dir='{broken}'"]
    refused = children.command(broken.parent / "logs", [*(auto if how == "auto" else named), "optimizer.lr=0.5"])
    assert refused.code == 2
    assert "optimizer.lr: 0.002 -> 0.5" in refused.err and "Traceback" not in refused.err
    assert contents(broken) == before


def test_other_data_is_refused(tmp_path):
    from PIL import Image

    for number in range(60):
        path = tmp_path / "data" / str(number % 3) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 4 * number).save(path)
    folder, overrides = tmp_path / "run", [item for item in CONTRASTIVE if "few_shot" not in item]
    overrides += ["dataset=image_folder", f"dataset.root={tmp_path / 'data'}", "dataset.size=8", "dataset.channels=1"]
    overrides = [item for item in overrides if "evaluate_every" not in item] + ["eval=[]", "baselines=[]"]
    config = settled(overrides)
    assert children.run(config, folder, deeds.killed_while_a_line_is_written).code == -signal.SIGKILL
    Image.new("L", (8, 8), 255).save(path)
    before = contents(folder)
    refused = children.command(tmp_path / "logs", [f"resume={folder}"])
    assert refused.code == 2
    assert "was trained on data" in refused.err and "the dataset is now" in refused.err
    assert "Traceback" not in refused.err
    assert contents(folder) == before


def test_other_threads_and_versions_give_a_warning(tmp_path):
    config, folder = settled([*CONTRASTIVE, "trainer.threads=null"]), tmp_path / "run"
    assert children.run(config, folder, deeds.killed_while_a_line_is_written).code == -signal.SIGKILL
    again = children.run(config | AUTO, folder, deeds.on_another_machine)
    assert again.code == 0, again.err
    assert "threads was 1, now 2" in again.out
    assert "now 9.9.9: the run continues, but may differ in the last bits" in again.out


# where a process waits for a signal, and the step of the checkpoint that it writes
WAITING = {
    "training": (["loss._target_=waiting.WaitingNTXent"], 4),
    "evaluation": (["eval.few_shot._target_=waiting.WaitingFewShot"], 6),
}


def advice(ended: children.Ended) -> str:
    """The command with which an interrupted run says it can be resumed."""
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    (line,) = [line for line in ended.err.splitlines() if "resume with: " in line]
    return line.partition("resume with: ")[2]


def fresh(arguments: list[str]) -> subprocess.Popen:
    line = [sys.executable, "-m", "ssl_runner.train", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "place"), [(signal.SIGINT, "training"), (signal.SIGTERM, "evaluation")])
def test_a_signal_to_a_real_process_ends_it_with_the_command_to_resume(number, place, unbroken, tmp_path, monkeypatch):
    folder, file = tmp_path / "a run", tmp_path / "waiting"
    overrides, step = WAITING[place]
    arguments = [*UNSELECTED, *overrides, f"hydra.run.dir='{folder}'"]
    with monkeypatch.context() as patch:
        patch.setenv(waiting.FILE, str(file))
        process = fresh(arguments)
        until(lambda: file.exists() or process.poll() is not None)
        process.send_signal(number)
        if place == "training":  # the step at hand is ended first
            file.unlink()
        out, err = process.communicate(timeout=300)
    command = advice(children.Ended(process.returncode, out, err))
    assert checkpoint(folder)["step"] == step
    ended = children.command(tmp_path / "1", shlex.split(command)[1:])
    assert ended.code == 0, ended.err
    assert_as_unbroken(folder, unbroken("unselected"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["training", "last checkpoint"])
def test_a_signal_ends_a_run_after_the_present_step(number, place, unbroken, tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.signalled_at_step, 2, number)
    if place == "last checkpoint":
        deed = functools.partial(deeds.signalled_in_the_last_checkpoint, number)
    ended = children.command(tmp_path / "1", [*CONTRASTIVE, f"hydra.run.dir={folder}"], deed)
    command = advice(ended)
    assert checkpoint(folder)["step"] == (3 if place == "training" else 6)
    assert not (folder / "encoder.safetensors").exists()
    again = children.command(tmp_path / "2", shlex.split(command)[1:])
    assert again.code == 0, again.err
    assert_as_unbroken(folder, unbroken("contrastive"))


def test_a_second_ctrl_c_ends_a_run_at_once(unbroken, tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.signalled_at_step, 3, signal.SIGINT, signal.SIGINT)
    ended = children.command(tmp_path / "1", [*CONTRASTIVE, f"hydra.run.dir={folder}"], deed)
    command = advice(ended)
    assert checkpoint(folder)["step"] == 2
    again = children.command(tmp_path / "2", shlex.split(command)[1:])
    assert again.code == 0, again.err
    assert_as_unbroken(folder, unbroken("contrastive"))
