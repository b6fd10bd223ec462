"""A run's row in TensorBoard's table of hyperparameters, and its final metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.runs.figures import shown_figures
from ssl_runner.runs.hyperparameters import hyperparameters, session_end, session_start


def log_hparams(writer: SummaryWriter, config: Mapping[str, Any], columns: Sequence[str] | None = None) -> None:
    """Begin the run's row in the table; once, in a new run, so that failed runs have a row too.

    A run writes only the start of a session, never an "experiment" (the list of keys and metrics that torch's
    add_hparams writes into each run). TensorBoard would use the first experiment it finds in any run for all runs, and
    hide every key and metric that this run does not have. Without an experiment it computes both lists from all runs,
    so a SimCLR run and a MAML run share a table. When a sweep ends, it writes the one of its own
    (`ssl_runner.sweeps.board`).

    Args:
        writer: The writer of the run's folder, which gives the row its name.
        config: The plain, resolved config.
        columns: The keys that vary in the run's sweep; None for a run of its own, which has the usual ones.
    """
    writer._get_file_writer().add_summary(session_start(hyperparameters(config, columns)), 0)


def log_final_metrics(writer: SummaryWriter, metrics: Mapping[str, float], step: int) -> None:
    """Log the main figures as scalars ``eval/...`` at the last step, and complete the run's row.

    Baselines, intervals and further ways to compute a figure are in result.json only: as curves of one point they say
    nothing, and the table would have a column for each.

    Args:
        writer: The writer of the run's folder; use `events.final_writer`, so that nothing is logged twice.
        metrics: All metrics by name, without ``eval/``.
        step: The run's last step.
    """
    for name in shown_figures(list(metrics)):
        writer.add_scalar(f"eval/{name}", metrics[name], step)
    writer._get_file_writer().add_summary(session_end(failed=False), step)
