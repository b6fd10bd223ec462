"""TensorBoard's table of hyperparameters: one row per run, with its final metrics and all keys that can change them."""

import fnmatch
import math
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
    SessionEndInfo,  # pyright: ignore[reportAttributeAccessIssue]
    SessionStartInfo,  # pyright: ignore[reportAttributeAccessIssue]
)
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.config.hashing import OUTSIDE_THE_HASH, flatten

Value = bool | int | float | str


def log_hparams(writer: SummaryWriter, config: Mapping[str, Any]) -> None:
    """Begin the run's row in the table; once, in a new run, so that failed runs have a row too.

    Only the start of a session is written, never an "experiment" (the list of keys and metrics that torch's add_hparams
    writes into each run). TensorBoard would use the first experiment it finds in any run for all runs, and hide every
    key and metric that this run does not have. Without an experiment it computes both lists from all runs: every key of
    every run is a column, with keys that differ first, so a SimCLR run and a MAML run share a table. The cost is that
    every scalar tag of a run is a metric. They are sorted by name, and only the first five are shown by default, hence
    the prefix ``eval/``, which sorts first, for final metrics.

    Args:
        writer: The writer of the run's folder, which gives the row its name.
        config: The plain, resolved config.
    """
    info = SessionStartInfo(start_time_secs=time.time())
    for key, value in hyperparameters(config).items():
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, str):
            info.hparams[key].string_value = value
        else:
            info.hparams[key].number_value = value
    _log(writer, metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info), 0)


def log_final_metrics(writer: SummaryWriter, metrics: Mapping[str, float], step: int) -> None:
    """Log the scalars ``eval/...`` at the last step, and complete the run's row.

    Args:
        writer: The writer of the run's folder; use `events.final_writer`, so that nothing is logged twice.
        metrics: Metrics by name without ``eval/``; durations keep their prefix ``time/``.
        step: The run's last step.
    """
    for name, value in metrics.items():
        writer.add_scalar(name if name.startswith("time/") else f"eval/{name}", value, step)
    info = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time())
    _log(writer, metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info), step)


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Value]:
    """Dotted keys and values of everything that can change the result, and each node's class or function name.

    ``algorithm: {_target_: ssl_runner.algorithms.maml.MAML, inner_lr: 0.4}`` becomes ``algorithm`` "MAML" and
    ``algorithm.inner_lr`` 0.4. Numbers, booleans and strings are kept. Null and lists become their YAML text, since
    TensorBoard has no type for them, and so do infinite numbers, which its JSON cannot hold. (A column that is null in
    one run and a number in another is readable, but TensorBoard can neither sort nor filter by it.)

    Args:
        config: The plain, resolved config.
    """
    found: dict[str, Value] = {}
    for key, value in flatten(config).items():
        parent, _, name = key.rpartition(".")
        if name == "_target_":
            found[parent] = str(value).rpartition(".")[2]
        elif name != "_partial_" and not any(fnmatch.fnmatchcase(key, pattern) for pattern in OUTSIDE_THE_HASH):
            found[key] = _plain(value)
    return found


def _plain(value: Any) -> Value:
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{', '.join(str(_plain(item)) for item in value)}]"
    if isinstance(value, dict):  # only an empty one is a leaf
        return "{}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _log(writer: SummaryWriter, tag: str, content: HParamsPluginData, step: int) -> None:
    # with an empty tensor, since TensorBoard's fast loader skips values without one
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
    writer._get_file_writer().add_summary(Summary(value=[value]), step)
