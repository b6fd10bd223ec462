"""From a checked config to the objects of a run, in reading order; what does not fit is refused, with the reason."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ssl_runner import checkpoint, memory, randomness
from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config import ConfigError, build, config_hash
from ssl_runner.data.batches import Views
from ssl_runner.data.batching import Batching
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.evaluation.evaluator import Evaluator, evaluate
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Encoder, Network
from ssl_runner.optim.schedules import Schedule
from ssl_runner.targets import locate
from ssl_runner.trainer import Trainer

Config = dict[str, Any]

BASELINES = ("raw_pixels", "untrained")


@dataclass(frozen=True)
class Run:
    """All objects of a run."""

    seed: int
    trainer: Trainer
    splits: Splits
    batching: Batching
    algorithm: Algorithm
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    evaluators: dict[str, Evaluator]
    identity: checkpoint.Identity

    @property
    def device(self) -> torch.device:
        return self.trainer.device

    @property
    def validate(self) -> Callable[[], dict[str, float]] | None:
        """Evaluates on the validation split, where the trainer asks for it."""
        if self.trainer.evaluate_every is None:
            return None
        splits = self.splits.for_selection()
        return lambda: evaluate(self.evaluators, self.algorithm, splits, self.device)


def wire(config: Config) -> Run:
    """Build everything, cheapest first, so that a misfit is told before data is read.

    Raises:
        ConfigError: Parts do not fit each other.
        DataError: Data is missing or damaged.
    """
    unknown = [name for name in config["baselines"] if name not in BASELINES]
    if unknown:
        raise ConfigError([f"baselines: {name!r} is not one of {', '.join(BASELINES)}" for name in unknown])
    seed = config["seed"]
    randomness.check_seed(seed)
    trainer: Trainer = build(config["trainer"], "trainer")
    prepare_process(trainer)
    batching: Batching = build(
        config["batching"], "batching", augmentation=build(config["augmentation"], "augmentation")
    )
    loss: Loss | None = build(config["loss"], "loss")
    evaluators = {name: build(node, f"eval.{name}") for name, node in config["eval"].items() if node is not None}
    method: Any = locate(config["algorithm"]["_target_"])  # a class of algorithms
    refuse_misfits(method, loss, batching, trainer, config["optimizer"])

    splits: Splits = build(config["dataset"], "dataset")
    if loss is not None and "labels" in loss.needs and splits.train.labels is None:
        raise ConfigError([f"loss={type(loss).__name__} needs labels, but {splits.train.name} has none"])
    batching.bind(splits.train, seed, trainer.device)
    trainer.steps(batching)  # epochs are refused here where there are none

    torch.manual_seed(randomness.number(seed, "weights", 0))
    network = make_network(config["model"], splits.train, batching.n_outputs)
    head_outputs = getattr(network.head, "out_features", None)
    if method.head_classifies and head_outputs != batching.n_outputs:
        raise ConfigError([f"the head must have one output a class, {batching.n_outputs}; choose model/head=linear"])
    parts = {"network": network} if loss is None else {"network": network, "loss": loss}
    algorithm: Algorithm = build(config["algorithm"], "algorithm", **parts)
    algorithm.to(trainer.device)
    if trainer.channels_last:
        algorithm.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = build(config["optimizer"], "optimizer")(algorithm.parameter_groups())
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    identity = checkpoint.Identity.of_this_process(config_hash(config), splits.train.fingerprint)
    return Run(
        seed=seed,
        trainer=trainer,
        splits=splits,
        batching=batching,
        algorithm=algorithm,
        optimizer=optimizer,
        schedule=build(config["scheduler"], "scheduler"),
        evaluators=evaluators,
        identity=identity,
    )


def prepare_process(trainer: Trainer) -> None:
    """Threads and allocator, before any tensor of size is made."""
    if trainer.keep_pages:
        memory.keep_pages()
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)


def refuse_misfits(
    algorithm: type[Algorithm], loss: Loss | None, batching: Batching, trainer: Trainer, optimizer: Config
) -> None:
    """Compare what the parts declare.

    Raises:
        ConfigError: With every misfit.
    """
    problems = []
    name = algorithm.__name__
    if algorithm.batch_type is not batching.batch_type:
        wanted, got = algorithm.batch_type.__name__, batching.batch_type.__name__
        remedy = "two_view or labelled" if algorithm.batch_type is Views else "episodes_5w1s or episodes_20w5s"
        problems.append(f"algorithm {name} takes {wanted}, but batching makes {got}; choose batching={remedy}")
    if loss is not None:
        lacking = ", ".join(sorted(loss.needs - algorithm.provides - {"labels"}))
        if lacking:
            problems.append(f"loss {type(loss).__name__} needs {lacking}, which {name} does not provide")
        if loss.of_logits != algorithm.gives_logits:
            gives, takes = (("logits" if yes else "embeddings") for yes in (algorithm.gives_logits, loss.of_logits))
            remedy = "loss=cross_entropy" if algorithm.gives_logits else "another loss, or algorithm=supervised"
            problems.append(f"loss {type(loss).__name__} takes {takes}, but {name} gives {gives}; choose {remedy}")
        if batching.batch_type is Views and loss.views > batching.n_views:
            problems.append(
                f"loss {type(loss).__name__} compares {loss.views} views, but batching makes {batching.n_views}; "
                f"set batching.views={loss.views}"
            )
    if trainer.accumulate > 1 and not algorithm.divisible:
        problems.append(
            f"trainer.accumulate={trainer.accumulate}, but in {name} every image of the batch is compared with every "
            "other, so a batch cannot be cut; set it to 1"
        )
    if algorithm.surrogate:
        reason = f"{name}'s gradient is an update in itself"
        if trainer.gradient_clip is not None:
            problems.append(f"{reason} and must not be clipped; set trainer.gradient_clip=null")
        plain = not optimizer.get("momentum") and not optimizer.get("weight_decay")
        if locate(optimizer["_target_"]) is not torch.optim.SGD or not plain:
            problems.append(f"{reason}; choose optimizer=sgd optimizer.momentum=0 optimizer.weight_decay=0")
    if problems:
        raise ConfigError(problems)


def make_network(config: Config, dataset: Dataset, n_outputs: int | None) -> Network:
    """Encoder and head for the images of a dataset."""
    channels, height, width = dataset.images.shape[1:]
    encoder = make_encoder(config["encoder"], (channels, height, width), *pixel_statistics(dataset))
    return Network(encoder, build(config["head"], "model.head")(encoder.out_features, n_outputs))


def make_encoder(config: Config, input_shape: tuple[int, int, int], mean: list[float], std: list[float]) -> Encoder:
    """The encoder of a config node for images (C, H, W) with this mean and deviation a channel."""
    backbone = build(config, "model.encoder")(input_shape[0], input_shape[1])
    return Encoder(backbone, input_shape, mean, std)


def pixel_statistics(dataset: Dataset) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in [0, 1], over at most 10,000 evenly spread training images."""
    images = dataset.images[:: -(-len(dataset) // 10_000)]
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in images.split(256):  # histograms: exact, and no floats of the images' size
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.transpose(0, 1)])
    levels, shares = torch.arange(256) / 255, counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ levels.double()
    std = (shares * (levels - mean[:, None]).square()).sum(dim=1).sqrt()
    return mean.tolist(), std.clamp_min(1e-3).tolist()


def raw_pixels(run: Run) -> RawPixels:
    """The baseline that needs no encoder."""
    return RawPixels(tuple(run.splits.train.images.shape[1:])).to(run.device)


def write_config(config: Config, folder: Path) -> None:
    """Write folder/config.yaml: resolved, and enough to start the run again."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config | {"resume": None}, sort_keys=False)
    checkpoint.write_atomically(folder / "config.yaml", lambda path: path.write_text(text, encoding="utf-8"))


def resume(config: Config, folder: Path, identity: checkpoint.Identity) -> tuple[dict[str, Any] | None, list[str]]:
    """The checkpoint to go on from, if the config asks for one, and warnings.

    Raises:
        ResumeError: ``resume`` names a run without a checkpoint, or of another config or data.
    """
    if config["resume"] is None:
        if (folder / "config.yaml").exists():
            raise checkpoint.ResumeError(
                f"{folder} holds a run already; go on with it (resume=auto), or give another hydra.run.dir"
            )
        return None, []
    found = checkpoint.load(folder / "checkpoints", identity)
    if found is not None:
        return found
    if config["resume"] == "auto":
        return None, []
    raise checkpoint.ResumeError(f"{folder} has no checkpoint to go on from; start a new run without resume=")
