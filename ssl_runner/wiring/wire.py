"""Builds the objects of a run from a checked config, in reading order, and refuses parts that do not fit."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.building import build
from ssl_runner.config.schema import Config
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Splits
from ssl_runner.data.masking import Masking
from ssl_runner.errors import NotDownloaded
from ssl_runner.evaluation.evaluator import Evaluator
from ssl_runner.losses.loss import Loss
from ssl_runner.models.attention_in_products import attend_in_products
from ssl_runner.models.blocked_sums import sum_in_blocks
from ssl_runner.models.synchronised import synchronise
from ssl_runner.optim import rates
from ssl_runner.optim.schedules import Schedule
from ssl_runner.runtime import process_group, randomness
from ssl_runner.runtime.compiler_aside import leave_compiler_out
from ssl_runner.runtime.no_download import no_download
from ssl_runner.training import checkpoint, memory_estimate, sharding
from ssl_runner.training.begun import Begun
from ssl_runner.training.run import Run
from ssl_runner.training.trainer import Trainer
from ssl_runner.wiring import components
from ssl_runner.wiring.compatibility import (
    REFUSED,
    Attempts,
    check_evaluators,
    check_selection,
    refuse_baselines,
    refuse_decoder,
    refuse_head,
    refuse_misfits,
    refuse_unlabelled,
    refuse_untrainable,
)
from ssl_runner.wiring.initial import begin, cautions, encoder_node, freeze
from ssl_runner.wiring.masking import mask, refuse_unmaskable
from ssl_runner.wiring.networks import FirstWeights, begin_network, finish_network


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


@dataclass
class Parts:
    """The parts built so far from a config; a part with a problem is REFUSED or left out."""

    trainer: Any = REFUSED
    augmentation: Any = REFUSED
    batching: Any = REFUSED
    masking: Any = None
    loss: Any = REFUSED
    schedule: Any = REFUSED
    evaluators: dict[str, Any] = field(default_factory=dict)
    method: Any = REFUSED
    fit: Any = REFUSED
    splits: Any = REFUSED
    begun: Any = None
    network: Any = REFUSED
    algorithm: Any = REFUSED

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is REFUSED else self.trainer.device


def wire(config: Config) -> Run:
    """Build everything, in reading order; steps that need a refused part are skipped.

    Raises:
        ConfigError: With every problem at once.
        NotDownloaded: Data would have to be downloaded first, which `no_download` forbids.
    """
    leave_compiler_out()
    attempt = Attempts()
    seed = 0 if attempt(randomness.check_seed, config["seed"]) is REFUSED else config["seed"]
    attempt(components.name, config["name"])
    parts, weights = _settings(config, attempt), FirstWeights(seed)
    _data_and_network(parts, config, weights, attempt)
    _algorithm(parts, config, weights, attempt)
    complete = not attempt.problems and parts.algorithm is not REFUSED
    step_bytes = attempt(first_step_bytes, parts, config) if complete else None
    attempt.settle()
    if parts.splits is REFUSED or REFUSED in parts.evaluators.values():  # although there is no problem
        raise NotDownloaded(f"the data of {config['dataset']['_target_']}, or of an evaluator, is not available yet")
    run = _assemble(parts, config, step_bytes)
    if process_group.rank() == 0:  # which saves
        attempt(run.rehearse_saving, config["model"]["encoder"])
    attempt.settle()
    return run


def _settings(config: Config, attempt: Attempts) -> Parts:
    """Build the parts that need no data."""
    parts, make = Parts(), components.part
    attempt(refuse_baselines, config["baselines"])
    parts.trainer = attempt(make, config["trainer"], "trainer", Trainer)
    parts.augmentation = attempt(make, config["augmentation"], "augmentation", Augmentation)
    parts.batching = attempt(make, config["batching"], "batching", Batching, augmentation=parts.augmentation)
    parts.masking = attempt(make, config["masking"], "masking", Masking)
    parts.loss = attempt(make, config["loss"], "loss", Loss)
    parts.schedule = attempt(make, config["scheduler"], "scheduler", Schedule)
    for name, node in config["eval"].items():
        if node is not None:
            parts.evaluators[name] = attempt(make, node, f"eval.{name}", Evaluator)
    attempt(components.rates, config["optimizer"])
    attempt(components.decay, config["optimizer"], parts.schedule)
    parts.method = attempt(components.method, config["algorithm"])
    takes = attempt(components.loss_for, parts.method, parts.loss)
    fit = attempt(refuse_misfits, parts.method, parts.loss, parts.batching, parts.trainer, config)
    maskable = attempt(refuse_unmaskable, parts.method, parts.masking, config)
    parts.fit = REFUSED if REFUSED in (takes, maskable) else fit
    return parts


def _data_and_network(parts: Parts, config: Config, weights: FirstWeights, attempt: Attempts) -> None:
    """Build the dataset, its batches, and a network for its images."""
    attempt(refuse_decoder, config["dataset"], parts.trainer)
    parts.splits = attempt(refuse_untrainable, attempt(components.part, config["dataset"], "dataset", Splits))
    attempt(refuse_unlabelled, parts.loss, parts.batching, parts.splits)
    parts.batching = attempt(bind, parts.batching, parts.splits, config["seed"], parts.device)
    attempt(lambda trainer, batching: trainer.steps(batching), parts.trainer, parts.batching)  # episodes have no epochs
    encoder = attempt(begin_network, attempt(encoder_node, config), parts.splits, weights)
    parts.begun = attempt(begin, encoder, config)
    if isinstance(parts.begun, Begun):
        parts.splits = parts.begun.known(parts.splits)
    fitted = attempt(lambda encoder, _: encoder, encoder, parts.begun)
    parts.network = attempt(finish_network, fitted, config["model"]["head"], parts.batching, weights)
    attempt(refuse_head, parts.method, parts.network, parts.batching)
    attempt(components.views, parts.augmentation, parts.splits, parts.network)
    attempt(components.smaller_views, parts.batching, parts.splits, parts.network)


def _algorithm(parts: Parts, config: Config, weights: FirstWeights, attempt: Attempts) -> None:
    """Build the algorithm, and check that evaluators and the optimizer work with it."""
    n_way = REFUSED if parts.batching is REFUSED else parts.batching.most_ways
    given = attempt(components.parts_of, parts.method, parts.network, parts.loss, n_way)
    if REFUSED not in (parts.fit, given):
        with weights.drawn():
            parts.algorithm = attempt(components.part, config["algorithm"], "algorithm", Algorithm, **given)
    attempt(freeze, parts.algorithm, config["init"]["freeze"])
    attempt(mask, parts.batching, parts.masking, parts.algorithm, parts.augmentation, parts.splits)
    if not attempt.problems and parts.trainer.shard:
        attempt(sharding.refuse_weights, parts.algorithm)
    attempt(place, parts.algorithm, parts.trainer)
    judged = None if parts.algorithm is REFUSED else parts.algorithm
    attempt(check_evaluators, parts.evaluators, judged, parts.splits, parts.device)
    attempt(check_selection, parts.trainer, parts.evaluators, parts.algorithm, parts.splits)
    if not attempt.problems:  # torch takes seconds to build its first optimizer
        attempt(components.optimizer, config["optimizer"])


def _assemble(parts: Parts, config: Config, step_bytes: int | None) -> Run:
    trainer, algorithm = parts.trainer, parts.algorithm
    sharded = sharding.shard(algorithm, parts.device, trainer.channels_last) if trainer.shard else None
    trained = algorithm if sharded is None else sharded
    optimizer = components.optimizer_of(config["optimizer"], trained.parameter_groups(), parts.device)
    rates.begin(optimizer)
    identity = checkpoint.Identity.of(config, parts.splits.train.fingerprint, parts.trainer.used_threads)
    return Run(
        config["seed"],
        parts.trainer,
        parts.splits,
        parts.batching,
        parts.algorithm,
        optimizer,
        parts.schedule,
        parts.evaluators,
        identity,
        step_bytes,
        sharded,
        parts.begun,
        cautions(parts.begun, parts.method, parts.splits),
    )


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
    if trainer.halves and trainer.device.type == "cpu":
        attend_in_products(algorithm)
    if process_group.size() > 1:
        for part in algorithm.synchronised():
            synchronise(part)


def first_step_bytes(parts: Parts, config: Config) -> int | None:
    """Memory of a step (`memory_estimate.step_memory`); this also reports what a loss refuses in its first step.

    It uses the whole batch in its largest shape, since that is what the loss sees even if several processes share it.
    """
    make_optimizer = build(config["optimizer"], "optimizer")
    with process_group.single_process():
        whole = parts.batching.largest()
    pieces = parts.trainer.accumulate_grad_batches
    return memory_estimate.step_memory(parts.algorithm, whole, make_optimizer, pieces)
