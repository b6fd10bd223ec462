"""Builds the objects of a run from a checked config, in reading order, and refuses parts that do not fit."""

import contextlib
from typing import Any

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.building import build
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import NotDownloaded
from ssl_runner.evaluation.evaluator import Evaluator
from ssl_runner.losses.loss import Loss
from ssl_runner.models.blocked_sums import sum_in_blocks
from ssl_runner.models.synchronised import synchronise
from ssl_runner.optim.schedules import Schedule
from ssl_runner.runtime import allocator, process_group, randomness
from ssl_runner.runtime.no_download import no_download
from ssl_runner.training import checkpoint, memory_estimate
from ssl_runner.training.run import Run
from ssl_runner.training.trainer import Trainer
from ssl_runner.wiring import components
from ssl_runner.wiring.compatibility import (
    REFUSED,
    Attempts,
    check_evaluators,
    check_selection,
    refuse_baselines,
    refuse_head,
    refuse_misfits,
    refuse_unlabelled,
)
from ssl_runner.wiring.networks import begin_network, finish_network

Config = dict[str, Any]


def prepare_all(config: Config) -> Run:
    """`prepare` in every process of a run: first in process 0, whose downloads and decoded images the others reuse."""
    process_group.init(config["trainer"].get("timeout", process_group.TIMEOUT))
    with process_group.rank_zero_first():
        return prepare(config)


def prepare(config: Config) -> Run:
    """Build everything, and report all mistakes before anything is downloaded, decoded or written.

    Raises:
        ConfigError: With every problem at once.
        DataError: Data is missing or damaged.
    """
    with no_download() as absent, contextlib.suppress(NotDownloaded):
        run = wire(config)
        if not absent:
            return run
    return wire(config)


def wire(config: Config) -> Run:
    """Build everything, in reading order; steps that need a refused part are skipped.

    Raises:
        ConfigError: With every problem at once.
        NotDownloaded: Data would have to be downloaded first, which `no_download` forbids.
    """
    attempt = Attempts()
    seed = config["seed"]
    attempt(randomness.check_seed, seed)
    attempt(components.name, config["name"])
    attempt(refuse_baselines, config["baselines"])
    trainer = attempt(components.part, config["trainer"], "trainer", Trainer)
    attempt(prepare_process, trainer)
    augmentation = attempt(components.part, config["augmentation"], "augmentation", Augmentation)
    batching = attempt(components.part, config["batching"], "batching", Batching, augmentation=augmentation)
    loss = attempt(components.part, config["loss"], "loss", Loss)
    schedule = attempt(components.part, config["scheduler"], "scheduler", Schedule)
    evaluators = {
        name: attempt(components.part, node, f"eval.{name}", Evaluator)
        for name, node in config["eval"].items()
        if node is not None
    }
    attempt(components.rates, config["optimizer"])
    method = attempt(components.method, config["algorithm"])
    takes = attempt(components.loss_for, method, loss)
    fits = attempt(refuse_misfits, method, loss, batching, trainer, config)

    splits = attempt(components.part, config["dataset"], "dataset", Splits)
    attempt(refuse_unlabelled, loss, batching, splits)
    device = torch.device("cpu") if trainer is REFUSED else trainer.device
    batching = attempt(bind, batching, splits, seed, device)
    attempt(lambda trainer, batching: trainer.steps(batching), trainer, batching)  # episodes have no epochs
    encoder = attempt(begin_network, config["model"]["encoder"], splits, seed)
    network = attempt(finish_network, encoder, config["model"]["head"], batching)
    attempt(refuse_head, method, network, batching)
    attempt(components.views, augmentation, splits, network)
    n_way = REFUSED if batching is REFUSED else batching.most_ways
    parts = attempt(components.parts_of, method, network, loss, n_way)
    fits = REFUSED if takes is REFUSED else fits
    algorithm = (
        REFUSED
        if REFUSED in (fits, parts)
        else attempt(components.part, config["algorithm"], "algorithm", Algorithm, **parts)
    )
    attempt(place, algorithm, trainer)
    attempt(check_evaluators, evaluators, None if algorithm is REFUSED else algorithm, splits, device)
    attempt(check_selection, trainer, evaluators, algorithm, splits)
    if not attempt.problems:  # torch takes seconds to build its first optimizer
        attempt(components.optimizer, config["optimizer"])
    step_bytes = None if attempt.problems else attempt(first_step_bytes, config, algorithm, batching, trainer)
    attempt.settle()
    if splits is REFUSED or REFUSED in evaluators.values():  # although there is no problem
        raise NotDownloaded(f"the data of {config['dataset']['_target_']}, or of an evaluator, is not available yet")

    optimizer = build(config["optimizer"], "optimizer")(algorithm.parameter_groups())
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    identity = checkpoint.Identity.of_this_process(config, splits.train.fingerprint)
    run = Run(seed, trainer, splits, batching, algorithm, optimizer, schedule, evaluators, identity, step_bytes)
    attempt(run.rehearse_saving, config["model"]["encoder"])
    attempt.settle()
    return run


def prepare_process(trainer: Trainer) -> None:
    """Set threads, allocator and cuDNN, before any large tensor is allocated."""
    if trainer.keep_pages:
        allocator.keep_pages()
    torch.backends.cudnn.benchmark = trainer.cudnn_benchmark
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)


def bind(batching: Batching, splits: Splits, seed: int, device: torch.device) -> Batching:
    """The batching, which now draws from the training split."""
    batching.bind(splits.train, seed, device)
    return batching


def place(algorithm: Algorithm, trainer: Trainer) -> None:
    """Move the algorithm to its device and memory format; make batch normalisation sum exactly, over all processes."""
    algorithm.to(trainer.device)
    if trainer.channels_last:
        algorithm.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    sum_in_blocks(algorithm)
    if process_group.size() > 1:
        for part in algorithm.synchronised():
            synchronise(part)


def first_step_bytes(config: Config, algorithm: Algorithm, batching: Batching, trainer: Trainer) -> int | None:
    """Memory of a step (`memory_estimate.step_memory`); this also reports what a loss refuses in its first step.

    It uses the whole batch in its largest shape, since that is what the loss sees even if several processes share it.
    """
    make_optimizer = build(config["optimizer"], "optimizer")
    with process_group.single_process():
        whole = batching.largest()
    return memory_estimate.step_memory(algorithm, whole, make_optimizer, trainer.accumulate_grad_batches)
