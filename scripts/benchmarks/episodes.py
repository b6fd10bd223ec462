"""How long a batch of episodes takes, and where the time goes.

    OMP_NUM_THREADS=2 python scripts/benchmarks/episodes.py [--batches 100] [--rounds 5]

32 tasks of 5 ways, 1 shot and 15 queries, 80 images each, of Omniglot's 4,400 training classes (rotations are classes),
in memory, without augmentation. The reference is the loop that one writes first: a task, a class, an image at a time.
Both alternate, a round each; a row is the median over all batches of all rounds. The parts are timed one by one, on the
same draws.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.building import build
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batching.batching import gather, own_draws
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.runtime import allocator, randomness

WAYS, SHOTS, QUERIES, TASKS = 5, 1, 15, 32
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100, help="of a round")
    parser.add_argument("--rounds", type=int, default=5, help="in which all take turns")
    asked = parser.parse_args()
    allocator.keep_pages()  # as in a run
    config, _ = validate.checked_config(Composer(conf_folder()), ["experiment=protonet_omniglot"])
    dataset: Dataset = build(config["dataset"], "dataset").train
    batching = EpisodeBatching(Augmentation({}), WAYS, SHOTS, QUERIES, TASKS)
    batching.bind(dataset, seed=0, device=CPU)
    kinds = {"batch": batching.batch, **parts(batching), "naive loop": loop(dataset)}
    milliseconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(asked.rounds):
        for name, make in kinds.items():
            repeats = asked.batches if name != "naive loop" else max(1, asked.batches // 10)
            milliseconds[name] += [timed(make, step) for step in range(repeats)]
    print(f"{len(dataset):,} images, {torch.get_num_threads()} threads, {asked.rounds} rounds of {asked.batches}")
    print("| what | ms, median | least |\n| --- | --- | --- |")
    for name, found in milliseconds.items():
        print(f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} |")


def parts(batching: EpisodeBatching) -> dict[str, Callable[[int], Any]]:
    """What `EpisodeBatching.batch` does one after the other, each on what the one before it made."""
    sampler, augmentation = batching.sampler, batching.augmentation

    def draws(step: int):
        images = TASKS * WAYS * (SHOTS + QUERIES)
        own_draws(0, "augmentation", step, 1, images, augmentation.columns)
        return randomness.uniforms(0, "tasks", step, TASKS, sampler.columns)

    table = draws(0)
    tasks = sampler(table)
    indices = torch.cat([tasks.support, tasks.query], dim=1).flatten()
    images = gather(batching.images, indices, CPU)
    none = torch.empty(len(images), 0)
    return {
        "- draws": draws,
        "- task sampling": lambda _: sampler(table),
        "- gather": lambda _: gather(batching.images, indices, CPU),
        "- conversion to float": lambda _: augmentation(images, none),
    }


def loop(dataset: Dataset) -> Callable[[int], tuple[Tensor, ...]]:
    """The naive reference: the same tasks in law, by the random module."""
    assert dataset.labels is not None
    members: dict[int, list[int]] = {}
    for place, label in enumerate(dataset.labels.tolist()):
        members.setdefault(label, []).append(place)
    classes = list(members)

    def batch(step: int) -> tuple[Tensor, ...]:
        generator = random.Random(step)
        tasks = []
        for _ in range(TASKS):
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


def timed(make: Callable[[int], Any], step: int) -> float:
    """Milliseconds of a call."""
    began = time.perf_counter()
    make(step)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
