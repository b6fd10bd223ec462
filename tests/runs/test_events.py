import itertools
import time
import tracemalloc

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.runs.events import cut_after, final_writer, resumed_writer
from ssl_runner.runs.tracking import Tracker


def write(folder, steps, **options):
    with SummaryWriter(str(folder), **options) as writer:
        for step in steps:
            writer.add_scalar("train/loss", step, step)


def steps(folder) -> list[int]:
    """Steps of all points in the folder, in the order in which TensorBoard's own reader returns them."""
    events = [event for path in folder.iterdir() for event in EventFileLoader(str(path)).Load()]
    return sorted(event.step for event in events for _ in event.summary.value)


def only_file(folder):
    (path,) = folder.iterdir()
    return path


def test_later_events_are_removed_and_all_others_stay_byte_for_byte(tmp_path):
    write(tmp_path, [1, 2])
    short = only_file(tmp_path).read_bytes()
    write(tmp_path / "longer", [1, 2, 3, 4])
    path = only_file(tmp_path / "longer")
    sizes = len(path.read_bytes()) - len(short)
    cut_after(tmp_path / "longer", 2)
    assert steps(tmp_path / "longer") == [1, 2]
    assert only_file(tmp_path / "longer") == path and len(path.read_bytes()) == len(short) and sizes > 0


def test_a_file_with_nothing_to_cut_is_not_written(tmp_path):
    write(tmp_path, [1, 2])
    before = only_file(tmp_path).stat()
    cut_after(tmp_path, 2)
    after = only_file(tmp_path).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("lost", [1, 4, 5, 30])
def test_an_incomplete_record_is_removed_and_complete_ones_before_it_stay(tmp_path, lost):
    write(tmp_path, [1, 2, 3])
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-lost])
    cut_after(tmp_path, 3)
    assert steps(tmp_path) == [1, 2]
    write(tmp_path, [3])
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("junk", [bytes(40), b"\xff" * 40])
def test_damage_from_a_lost_disk_block_is_removed(tmp_path, junk):
    write(tmp_path, [1, 2])
    path = only_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + junk)
    cut_after(tmp_path, 2)
    assert path.read_bytes() == whole


def test_a_run_that_starts_again_keeps_no_events(tmp_path):
    write(tmp_path, [0, 1])
    cut_after(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_other_files_of_the_run_folder_are_left_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}")
    write(tmp_path, [5])
    cut_after(tmp_path, 0)
    assert only_file(tmp_path).name == "metrics.jsonl"


def test_a_run_that_is_resumed_twice_has_each_step_once(tmp_path):
    for start, end in ((0, 5), (3, 8), (2, 6)):
        with resumed_writer(tmp_path, start) as writer:
            for step in range(start + 1, end + 1):
                writer.add_scalar("train/loss", 0, step)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_events_of_a_run_resumed_within_a_second_are_read_after_the_earlier_ones(tmp_path):
    write(tmp_path, [1])
    (tmp_path / only_file(tmp_path).name).rename(tmp_path / f"events.out.tfevents.{int(time.time()):010d}.z.1.0")
    with resumed_writer(tmp_path, 1) as writer:
        writer.add_scalar("train/loss", 2, 2)
    first, second = (EventFileLoader(str(path)).Load() for path in sorted(tmp_path.iterdir()))
    assert [{event.step for event in events if event.summary.value} for events in (first, second)] == [{1}, {2}]


def test_final_events_of_a_run_resumed_within_a_second_are_not_purged(tmp_path):
    resumed_writer(tmp_path, 0).close()
    resumed_writer(tmp_path, 1).close()
    last = sorted(tmp_path.iterdir())[-1]
    last.rename(tmp_path / f"events.out.tfevents.{int(time.time()):010d}.z.1.0")
    with final_writer(tmp_path) as writer:
        writer.add_scalar("eval/accuracy", 0.5, 5)
    assert [point.step for point in EventAccumulator(str(tmp_path)).Reload().Scalars("eval/accuracy")] == [5]


def test_final_events_are_replaced_and_removed_when_the_run_is_resumed(tmp_path):
    write(tmp_path, [5])
    for _ in range(2):
        with final_writer(tmp_path) as writer:
            writer.add_scalar("eval/knn/top1", 0.5, 5)
    assert steps(tmp_path) == [5, 5]  # one a tag
    cut_after(tmp_path, 5)
    assert steps(tmp_path) == [5]


def test_a_failed_cut_leaves_the_file_unchanged(tmp_path, monkeypatch):
    write(tmp_path, [1, 2, 3])
    before = only_file(tmp_path).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssl_runner.runs.events.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cut_after(tmp_path, 1)
    assert only_file(tmp_path).read_bytes() == before


def test_thousands_of_logged_steps_take_no_memory_and_equal_bytes_each(tmp_path):
    values = {"train/loss": 0.5, "train/lr": 0.1, "time/images_per_second": 100.0}
    taken = []

    def log(tracker: Tracker, first: int, last: int) -> None:
        for step in range(first, last):
            tracker.scalars(step, values)
        tracker.flush()
        files = sum(path.stat().st_size for path in tmp_path.iterdir())
        taken.append((files, tracemalloc.get_traced_memory()[0]))

    tracemalloc.start()
    try:
        with Tracker(tmp_path, 0) as tracker:
            for thousand in range(1, 5):
                log(tracker, 1000 * thousand, 1000 * (thousand + 1))
    finally:
        tracemalloc.stop()
    grown = [later[0] - earlier[0] for earlier, later in itertools.pairwise(taken)]
    assert max(grown) - min(grown) < 0.02 * grown[0]
    assert taken[-1][1] - taken[0][1] < 50_000
