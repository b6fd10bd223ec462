"""Milliseconds of a batch of episodes, beside a loop over images and what has to be done.

32 tasks of 5 ways, 1 shot and 15 queries, 80 images each, of Omniglot's 4,400 training classes (rotations are
classes), in memory, without augmentation. The loop is that which one writes first: a task, a class, an image at a
time. What has to be done is to gather bytes and to write floats. learn2learn does not build on Python 3.11 or later.
"""

import random
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from .measure import apart, checked, exponent, in_turn, median_ratio, repeated
from .row import Goal, Row, Settings

WAYS, SHOTS, QUERIES, TASKS = 5, 1, 15, 32


def ours(experiment: str, tasks: int, times: int) -> dict[str, float]:
    """Milliseconds of a batch, its parts, and the loop's, alternating."""
    dataset, batching = batches(experiment, tasks)
    naive = loop(dataset, tasks)
    calls: dict[str, Callable[[], Any]] = {"batch": counted(batching.batch), **parts(batching, tasks)}
    found = {name: 1000 * repeated(call, times) for name, call in calls.items()}
    return found | {"loop": 1000 * repeated(counted(naive), max(1, times // 10))}


def growth(experiment: str, tasks: list[int]) -> list[float]:
    """Seconds of a batch by the number of its tasks."""
    return [repeated(counted(batches(experiment, count)[1].batch), 50) for count in tasks]


def batches(experiment: str, tasks: int) -> tuple[Any, Any]:
    """Dataset and batching."""
    import torch

    from ssl_runner.config.building import build
    from ssl_runner.data.augmentation import Augmentation
    from ssl_runner.data.episodes.episode_batching import EpisodeBatching
    from ssl_runner.runtime import allocator

    allocator.keep_pages()  # as in a run
    dataset = build(checked([f"experiment={experiment}"])["dataset"], "dataset").train
    batching = EpisodeBatching(Augmentation({}), WAYS, SHOTS, QUERIES, tasks)
    batching.bind(dataset, seed=0, device=torch.device("cpu"))
    return dataset, batching


def counted(make: Callable[[int], Any]) -> Callable[[], Any]:
    """A batch of the next step at each call."""
    step = iter(range(10**9))
    return lambda: make(next(step))


def parts(batching: Any, tasks: int) -> dict[str, Callable[[], Any]]:
    """What `EpisodeBatching.batch` does one after the other, each on what the one before it made."""
    import torch

    from ssl_runner.data.batching.batching import gather, own_draws
    from ssl_runner.runtime import randomness

    sampler, augmentation, cpu = batching.sampler, batching.augmentation, torch.device("cpu")

    def draws(step: int) -> Any:
        own_draws(0, "augmentation", step, 1, tasks * WAYS * (SHOTS + QUERIES), augmentation.columns)
        return randomness.uniforms(0, "tasks", step, tasks, sampler.columns)

    table = draws(0)
    drawn = sampler(table)
    indices = torch.cat([drawn.support, drawn.query], dim=1).flatten()
    images = gather(batching.images, indices, cpu)
    none = torch.empty(len(images), 0)
    return {
        "draws": counted(draws),
        "task sampling": lambda: sampler(table),
        "gather": lambda: gather(batching.images, indices, cpu),
        "conversion to float": lambda: augmentation(images, none),
    }


def loop(dataset: Any, count: int) -> Callable[[int], tuple[Any, ...]]:
    """The naive reference: the same tasks in law, by the random module."""
    import torch

    members: dict[int, list[int]] = {}
    for place, label in enumerate(dataset.labels.tolist()):
        members.setdefault(label, []).append(place)
    classes = list(members)

    def batch(step: int) -> tuple[Any, ...]:
        generator = random.Random(step)
        tasks = []
        for _ in range(count):
            support, query, support_labels, query_labels = [], [], [], []
            for label, true in enumerate(generator.sample(classes, WAYS)):
                chosen = generator.sample(members[true], SHOTS + QUERIES)
                support += [dataset.images[place].float() / 255 for place in chosen[:SHOTS]]
                query += [dataset.images[place].float() / 255 for place in chosen[SHOTS:]]
                support_labels += [label] * SHOTS
                query_labels += [label] * QUERIES
            images = torch.stack(support), torch.stack(query)
            tasks.append((*images, torch.tensor(support_labels), torch.tensor(query_labels)))
        return tuple(torch.stack(parts) for parts in zip(*tasks, strict=True))

    return batch


def rows(settings: Settings) -> Iterator[Row]:
    """A batch beside the loop and what has to be done, its parts, and growth with the tasks."""
    given = ("protonet_digits", 2, 2) if settings.quick else ("protonet_omniglot", TASKS, 200)
    found = in_turn({"ours": lambda: apart(settings, ours, *given)}, settings.rounds)["ours"]
    batch, slow = [result["batch"] for result in found], [result["loop"] for result in found]
    needed = [result["gather"] + result["conversion to float"] for result in found]
    own = statistics.median(batch)
    yield Row(
        "batch: the loop's time / it",
        own,
        "ms",
        "loop",
        statistics.median(slow),
        median_ratio(slow, batch),
        Goal(least=10),
    )
    ratio = median_ratio(batch, needed)
    yield Row(
        "batch / what has to be done", own, "ms", "gather, floats", statistics.median(needed), ratio, Goal(most=4)
    )
    for part in ("draws", "task sampling", "gather", "conversion to float"):
        yield Row(f"- {part}", statistics.median(result[part] for result in found), "ms")
    tasks = [1, 2] if settings.quick else [1, 4, 16, 64, 256]
    slope = exponent(tasks, apart(settings, growth, given[0], tasks))
    yield Row(f"growth with tasks, {tasks[0]} to {tasks[-1]}", slope, "", goal=Goal(most=1.05))
