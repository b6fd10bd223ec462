"""The learning rate at which an algorithm adapts to tasks, chosen on tasks of the validation split."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Splits
from ssl_runner.data.episodes.tasks import Tasks, TaskSampler
from ssl_runner.data.episodes.varied_tasks import VariedTasks
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.contender import Contender
from ssl_runner.runtime import randomness


@contextmanager
def at_chosen_rate(
    algorithm: Algorithm,
    splits: Splits,
    tasks: Tasks | VariedTasks,
    seed: int,
    tasks_per_batch: int,
    device: torch.device,
) -> Iterator[float | None]:
    """Inside, `classify` uses the one of `Algorithm.candidate_rates` with the highest accuracy on validation tasks.

    They have as many ways, shots and queries as the given tasks, and are the same for every rate. Equal rates: the
    first. Without a validation split of that many classes and images, or for tasks of different sizes, nothing is
    chosen. No test image is looked at.

    Args:
        algorithm: In evaluation mode.
        splits: Whose validation split is used; None in it while a model is selected by that split.
        tasks: Those to be classified inside.
        seed: Seed of the validation tasks.
        tasks_per_batch: Number of tasks that are classified at once.
        device: The device of the algorithm.

    Yields:
        The rate, or None if there was nothing to choose.
    """
    chosen = None if len(algorithm.candidate_rates) < 2 else _like(tasks, splits, seed, algorithm.choice_tasks)
    if chosen is None or splits.validation is None:
        yield None
        return
    contender, right = Contender.of_algorithm(algorithm, splits.validation, [chosen], device), list[float]()
    for rate in algorithm.candidate_rates:
        with algorithm.at_rate(rate):
            right.append(contender.accuracies(chosen, tasks_per_batch, device)[""].mean().item())
    best = algorithm.candidate_rates[max(range(len(right)), key=right.__getitem__)]
    with algorithm.at_rate(best):
        yield best


def _like(tasks: Tasks | VariedTasks, splits: Splits, seed: int, number: int) -> Tasks | None:
    """Tasks of these sizes from the validation split, or None if it has too few classes or images."""
    if splits.validation is None or splits.validation.labels is None or isinstance(tasks, VariedTasks):
        return None
    n_way = tasks.n_way
    k_shot, n_query = tasks.support.shape[1] // n_way, tasks.query.shape[1] // n_way
    try:
        sampler = TaskSampler(splits.validation, n_way, k_shot, n_query)
    except InvalidValue:
        return None
    stream = f"chosen_rate/{n_way}w{k_shot}s{n_query}q"
    return sampler(randomness.uniforms(seed, stream, 0, number, sampler.columns))
