"""Accuracy after each inner step of a method that adapts, by shot."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.tasks import Tasks, TaskSampler
from ssl_runner.models.features import evaluating
from ssl_runner.runtime import randomness

SHOTS = (1, 5)
N_QUERY = 15  # the usual number of queries in 5w1s; with batch statistics, accuracy depends on it
N_TASKS = 100
TASKS_AT_ONCE = 8
PREFIX = "inner_steps"  # sorts after eval/, since TensorBoard's table of hyperparameters shows the first five tags


def tags(algorithm: Algorithm, dataset: Dataset, n_way: int) -> list[str]:
    """The curves that `log_adaptation` will write."""
    adapts = type(algorithm).trajectory is not Algorithm.trajectory
    return [f"{PREFIX}/{name}" for name, _ in fixed_tasks(dataset, n_way)] if adapts else []


def log_adaptation(
    writer: SummaryWriter, algorithm: Algorithm, dataset: Dataset, n_way: int, device: torch.device
) -> None:
    """Log ``inner_steps/5w1s`` and ``inner_steps/5w5s``: accuracy, with the number of inner steps on the x axis.

    This needs an algorithm with a `trajectory`. Step 0 is before adaptation; the last step gives the same accuracy as
    `classify`.

    Args:
        writer: The writer of the run's folder; use `events.final_writer`, so that no point is logged twice.
        algorithm: The trained algorithm.
        dataset: The dataset to draw tasks from; shots for which it has too few classes or images are left out.
        n_way: Number of classes in a task.
        device: The device of the algorithm.
    """
    for name, tasks in fixed_tasks(dataset, n_way):
        for step, value in enumerate(trajectory(algorithm, dataset, tasks, device)):
            writer.add_scalar(f"{PREFIX}/{name}", value, step)


def fixed_tasks(dataset: Dataset, n_way: int) -> Iterator[tuple[str, Tasks]]:
    """N_TASKS fixed tasks for each of SHOTS, with N_QUERY queries per class, by name (``5w1s``)."""
    for k_shot in SHOTS:
        try:
            sampler = TaskSampler(dataset, n_way, k_shot, N_QUERY)
        except ValueError:  # too few classes, or too few images in one
            continue
        name = f"{n_way}w{k_shot}s"
        yield name, sampler(randomness.uniforms(0, f"{PREFIX}/{name}", 0, N_TASKS, sampler.columns))


def trajectory(algorithm: Algorithm, dataset: Dataset, tasks: Tasks, device: torch.device) -> list[float]:
    """Mean accuracy over tasks before adaptation and after each inner step; empty if there are no inner steps."""
    right: list[Tensor] = []
    with evaluating(algorithm):
        for start in range(0, len(tasks), TASKS_AT_ONCE):
            part = tasks[start : start + TASKS_AT_ONCE]
            support, query = dataset.images[part.support].to(device), dataset.images[part.query].to(device)
            scores = algorithm.trajectory(support, part.support_labels.to(device), query, part.n_way)
            if scores is None:
                return []
            right.append((scores.argmax(dim=-1).cpu() == part.query_labels).double().mean(dim=2))  # (steps + 1, T)
    return torch.cat(right, dim=1).mean(dim=1).tolist()
