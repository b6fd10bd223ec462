"""TensorBoard's table of hyperparameters: what goes into a run's row, and the columns of a table, as its messages."""

import fnmatch
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_BOOL,  # pyright: ignore[reportAttributeAccessIssue]
    DATA_TYPE_FLOAT64,  # pyright: ignore[reportAttributeAccessIssue]
    DATA_TYPE_STRING,  # pyright: ignore[reportAttributeAccessIssue]
    STATUS_FAILURE,  # pyright: ignore[reportAttributeAccessIssue]
    STATUS_SUCCESS,  # pyright: ignore[reportAttributeAccessIssue]
    Experiment,  # pyright: ignore[reportAttributeAccessIssue]
    HParamInfo,  # pyright: ignore[reportAttributeAccessIssue]
    MetricInfo,  # pyright: ignore[reportAttributeAccessIssue]
    MetricName,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
    SessionEndInfo,  # pyright: ignore[reportAttributeAccessIssue]
    SessionStartInfo,  # pyright: ignore[reportAttributeAccessIssue]
)

from ssl_runner.config.hashing import OUTSIDE_THE_HASH, flatten

Value = bool | int | float | str

ABSENT = "-"  # in a column of a sweep, for a run whose config has no such key

# of a run that belongs to no sweep, patterns: what was chosen, and the numbers that people change first
USUAL = (
    "algorithm",
    "algorithm.*",
    "loss",
    "loss.*",
    "model.encoder",
    "model.encoder.width",
    "dataset",
    "batching.batch_size",
    "batching.tasks_per_batch",
    "batching.n_way",
    "batching.k_shot",
    "optimizer",
    "optimizer.lr",
    "optimizer.weight_decay",
    "trainer.max_steps",
    "trainer.max_epochs",
    "seed",
)


def hyperparameters(config: Mapping[str, Any], columns: Sequence[str] | None = None) -> dict[str, Value]:
    """Keys and values of a run's row: dotted keys, and each node's class or function name.

    ``algorithm: {_target_: ssl_runner.algorithms.maml.MAML, inner_lr: 0.4}`` becomes ``algorithm`` "MAML" and
    ``algorithm.inner_lr`` 0.4. Numbers, booleans and strings are kept. Null and lists become their YAML text, since
    TensorBoard has no type for them, and so do infinite numbers, which its JSON cannot hold. (A column that is null in
    one run and a number in another is readable, but TensorBoard can neither sort nor filter by it.)

    Args:
        config: The plain, resolved config.
        columns: The keys, ABSENT where the config has none; by default those of USUAL that are not null.
    """
    found: dict[str, Value] = {}
    for key, value in flatten(config).items():
        parent, _, name = key.rpartition(".")
        if name == "_target_":
            found[parent] = str(value).rpartition(".")[2]
        elif name != "_partial_" and not any(fnmatch.fnmatchcase(key, pattern) for pattern in OUTSIDE_THE_HASH):
            found[key] = _plain(value)
    if columns is not None:
        return {key: found.get(key, ABSENT) for key in columns}
    return {key: value for key, value in found.items() if value != "null" and _is_usual(key)}


def _is_usual(key: str) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) and key.count(".") <= pattern.count(".") for pattern in USUAL)


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


def session_start(values: Mapping[str, Value]) -> Any:
    """The summary that begins a run's row."""
    info = SessionStartInfo(start_time_secs=time.time())
    for key, value in values.items():
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, str):
            info.hparams[key].string_value = value
        else:
            info.hparams[key].number_value = value
    return _summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def session_end(failed: bool) -> Any:
    """The summary that completes a run's row."""
    status = STATUS_FAILURE if failed else STATUS_SUCCESS
    info = SessionEndInfo(status=status, end_time_secs=time.time())
    return _summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def experiment(rows: Sequence[Mapping[str, Value]], metrics: Sequence[str]) -> Any:
    """The summary that lists the columns of a table, which hides all others.

    Args:
        rows: Of each run, all with the same keys.
        metrics: Tags of scalars.
    """
    content = Experiment(
        hparam_infos=[_column(key, [row[key] for row in rows]) for key in rows[0]],
        metric_infos=[MetricInfo(name=MetricName(tag=tag)) for tag in metrics],
    )
    return _summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=content))


def _column(key: str, values: Sequence[Value]) -> Any:
    """With its type and the values to choose from; a column of several types is one of texts, as in TensorBoard."""
    info = HParamInfo(name=key, differs=len(set(values)) > 1)
    if all(isinstance(value, bool) for value in values):
        info.type = DATA_TYPE_BOOL
        info.domain_discrete.extend(sorted(set(values)))
    elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        info.type = DATA_TYPE_FLOAT64
        numbers = [float(value) for value in values]
        info.domain_interval.min_value, info.domain_interval.max_value = min(numbers), max(numbers)
    else:
        info.type = DATA_TYPE_STRING
        info.domain_discrete.extend(sorted({_text(value) for value in values}))
    return info


def _text(value: Value) -> str:
    """As TensorBoard writes it, which keeps all numbers as floats."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(float(value))


def _summary(tag: str, content: Any) -> Any:
    # with an empty tensor, since TensorBoard's fast loader skips values without one
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
