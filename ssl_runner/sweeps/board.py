"""What a sweep adds to TensorBoard when it ends: means over seeds, the columns of the table, and what has failed.

Everything is written anew each time, from the run folders, so that it never stands there twice or out of date.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.types_pb2 import DT_STRING  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.runs import run_folder
from ssl_runner.runs.events import FINAL, final_writer, new_writer
from ssl_runner.runs.figures import shown_figures
from ssl_runner.runs.hyperparameters import experiment, hyperparameters, session_end
from ssl_runner.sweeps.columns import settings
from ssl_runner.sweeps.seed_means import Band, bands, titles
from ssl_runner.sweeps.sweep import Sweep

# TensorBoard shows layouts in the order of runs; a capital comes before the names of jobs
FOLDER = "Mean_over_seeds"
CATEGORY = "Mean over seeds, 95% interval"
COLUMNS = ".columns"  # ends the name of the file with the columns of the table
_EVENTS = "events.out.tfevents.*"


def renew(sweep: Sweep, first: Sequence[str] = ()) -> None:
    """Write what TensorBoard shows of the sweep as a whole; what an earlier call wrote is removed.

    Args:
        sweep: None of its jobs is at work.
        first: Further tags for the table, before the main figures of the evaluators.

    Raises:
        OSError: The folder cannot be written to.
    """
    _write_means(sweep)
    _write_columns(sweep, first)
    _mark_failures(sweep)


def _write_means(sweep: Sweep) -> None:
    """A run for each setting with several finished seeds, and a chart for each curve with all of them."""
    folder = sweep.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, dict[str, Band]] = {}
    for name, members in settings(sweep.jobs).items():
        finished = [sweep.states[number].folder for number in members if sweep.states[number].finished]
        if len(finished) > 1 and (curves := bands(finished)):
            found[",".join(part for part in (name, f"seeds={len(finished)}") if part)] = curves
    tags = list(dict.fromkeys(tag for curves in found.values() for tag in curves))
    charts = titles(tags)
    for place, (name, curves) in enumerate(found.items()):
        with new_writer(folder / name) as writer:
            if place == 0:
                writer._get_file_writer().add_summary(_layout(charts), 0)
            for tag in charts.values():
                if tag in curves:
                    _log_band(writer, tag, curves[tag])


def band_tags(tag: str) -> tuple[str, str, str]:
    """Tags of the mean and of the ends of the interval. No run has them: a chart would miss its band there."""
    return f"mean/{tag}", f"mean/{tag}/lower", f"mean/{tag}/upper"


def _log_band(writer: SummaryWriter, tag: str, band: Band) -> None:
    for name, values in zip(band_tags(tag), (band.mean, band.lower, band.upper), strict=True):
        for step, value in zip(band.steps, values, strict=True):
            writer.add_scalar(name, value, step)


def _layout(charts: dict[str, str]) -> Any:
    """The page "Custom Scalars". In a chart, TensorBoard colors by run, so each setting is a run of its own."""
    shown = [
        layout_pb2.Chart(  # pyright: ignore[reportAttributeAccessIssue]
            title=title,
            margin=layout_pb2.MarginChartContent(  # pyright: ignore[reportAttributeAccessIssue]
                series=[dict(zip(("value", "lower", "upper"), band_tags(tag), strict=True))]
            ),
        )
        for title, tag in charts.items()
    ]
    layout = layout_pb2.Layout(  # pyright: ignore[reportAttributeAccessIssue]
        category=[layout_pb2.Category(title=CATEGORY, chart=shown)]  # pyright: ignore[reportAttributeAccessIssue]
    )
    content = make_tensor_proto(layout.SerializeToString(), dtype=DT_STRING)
    about = metadata.create_summary_metadata()
    return Summary(value=[Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=about, tensor=content)])


def _write_columns(sweep: Sweep, first: Sequence[str]) -> None:
    """Into one run, since TensorBoard takes the first list that it finds for all: what varies, and the main figures."""
    folders = [sweep.folder_of(number) for number in range(len(sweep.jobs))]
    for path in (path for folder in folders for path in folder.glob(f"{_EVENTS}{COLUMNS}")):
        path.unlink()
    home = next((folder for folder in folders if any(folder.glob(_EVENTS))), None)
    metrics = [*first, *(f"eval/{name}" for name in _figures(sweep))]
    if home is None or not metrics or not sweep.columns:
        return
    values = [hyperparameters(job.config, sweep.columns) for job in sweep.jobs]
    with SummaryWriter(str(home), filename_suffix=COLUMNS) as writer:
        writer._get_file_writer().add_summary(experiment(values, metrics), 0)


def _figures(sweep: Sweep) -> list[str]:
    """Those that TensorBoard shows of any finished job."""
    found: dict[str, None] = {}
    for state in (state for state in sweep.states if state.finished):
        content = json.loads((state.folder / run_folder.RESULT).read_text(encoding="utf-8"))
        found |= dict.fromkeys(shown_figures(list(content.get("metrics", {}))))
    return list(found)


def _mark_failures(sweep: Sweep) -> None:
    """In the table, a job that failed says so; resuming it removes the mark."""
    for number, state in enumerate(sweep.states):
        folder: Path = sweep.folder_of(number)
        if state.status == "failed" and any(folder.glob(_EVENTS)) and not any(folder.glob(f"{_EVENTS}{FINAL}")):
            with final_writer(folder) as writer:
                writer._get_file_writer().add_summary(session_end(failed=True), 0)
