"""How long adaptation takes. Nothing that compares runs may look at it."""

import time
from statistics import median

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.episodes.tasks import Tasks


def now(device: torch.device) -> float:
    """Seconds of a context, when the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def adaptation_ms(algorithm: Algorithm, images: Tensor, tasks: Tasks, device: torch.device) -> float:
    """Milliseconds to adapt to one task and to classify its queries, from their pixels, one task at a time: the median.

    Args:
        algorithm: In evaluation mode.
        images: What the tasks' indices point into, (N, C, H, W).
        tasks: At least one; it is asked once beforehand, unmeasured.
        device: Where the algorithm is.
    """
    took = []
    for task in (0, *range(len(tasks))):
        one = tasks[task : task + 1]
        support, query = (images[indices.to(images.device)].to(device) for indices in (one.support, one.query))
        labels, began = one.support_labels.to(device), now(device)
        algorithm.classify(support, labels, query, one.n_way)
        took.append(1000 * (now(device) - began))
    return median(took[1:])
