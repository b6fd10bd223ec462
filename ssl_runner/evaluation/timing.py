"""Measures how long adaptation takes. Comparisons of runs must ignore it."""

import time
from statistics import median

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Images
from ssl_runner.data.episodes.tasks import Tasks


def now(device: torch.device) -> float:
    """A time in seconds, taken after the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def adaptation_ms(algorithm: Algorithm, images: Images, tasks: Tasks, device: torch.device) -> float:
    """Median milliseconds to adapt to one task and classify its queries from pixels, one task at a time.

    Args:
        algorithm: In evaluation mode.
        images: The images that the tasks' indices refer to, (N, C, H, W).
        tasks: At least one task; the first is run once beforehand without being measured.
        device: The device of the algorithm.
    """
    took = []
    for task in (0, *range(len(tasks))):
        one = tasks[task : task + 1]
        support, query = (images[indices.to(images.device)].to(device) for indices in (one.support, one.query))
        labels, began = one.support_labels.to(device), now(device)
        algorithm.classify(support, labels, query, one.n_way)
        took.append(1000 * (now(device) - began))
    return median(took[1:])
