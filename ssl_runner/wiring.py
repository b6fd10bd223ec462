"""From a checked config to the objects of a run, in reading order; what does not fit is refused, with the reason."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from ssl_runner import checkpoint, estimate, memory, randomness, roles
from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.clock import Clock
from ssl_runner.config import build, config_difference, config_hash
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batching import Batching
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.lock import locked
from ssl_runner.data.roots import NotAtHand, at_hand_only
from ssl_runner.evaluation.evaluator import Evaluator, evaluate
from ssl_runner.evaluation.panel import Panel
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.interruption import FolderInUse, how_to_go_on
from ssl_runner.losses.loss import Loss
from ssl_runner.misfits import (
    REFUSED,
    Attempts,
    check_evaluators,
    check_selection,
    refuse_baselines,
    refuse_head,
    refuse_misfits,
    refuse_unlabelled,
)
from ssl_runner.models.network import Encoder, Network
from ssl_runner.optim.schedules import Schedule
from ssl_runner.trainer import Trainer

if TYPE_CHECKING:
    from ssl_runner.tracking import Tracker

Config = dict[str, Any]


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
    step_bytes: int | None

    @property
    def device(self) -> torch.device:
        return self.trainer.device

    def fit(self, folder: Path, tracker: "Tracker", resumed: dict[str, Any] | None) -> dict[str, Any]:
        """Train to the last step; see `Trainer.fit`."""
        return self.trainer.fit(
            self.algorithm,
            self.batching,
            self.optimizer,
            self.schedule,
            self.seed,
            folder,
            self.identity,
            self.validate,
            self.watch,
            tracker,
            resumed,
        )

    def one_step(self) -> tuple[float, dict[str, float]]:
        """Take the first step; gives its seconds and its metrics."""
        clock = Clock(0, self.trainer.steps(self.batching), self.seed, self.device)
        began = time.perf_counter()
        self.algorithm.train()
        metrics = self.trainer.step(self.algorithm, self.batching.batch(0), self.optimizer, clock, measure=True)
        figures = {name: float(value) for name, value in metrics.items()}
        return time.perf_counter() - began, figures

    @property
    def validate(self) -> Callable[[], dict[str, float]] | None:
        """Evaluates on the validation split, where the trainer asks for it."""
        if self.trainer.evaluate_every is None:
            return None
        splits = self.splits.for_selection()
        return lambda: evaluate(self.evaluators, self.algorithm, splits, self.device)

    @property
    def watch(self) -> Callable[[], dict[str, float]] | None:
        """Figures of the panel, where the trainer asks for them."""
        panel = self.panel
        return None if panel is None else functools.partial(panel, self.algorithm)

    @property
    def panel(self) -> Panel | None:
        """Figures to follow while training."""
        if self.trainer.panel_every is None:
            return None
        return Panel.of(self.splits, self.batching, self.device)


def prepare(config: Config) -> Run:
    """Everything built, all mistakes told before anything is downloaded, decoded or written.

    Raises:
        ConfigError: With every problem at once.
        DataError: Data is missing or damaged.
    """
    with at_hand_only() as absent, contextlib.suppress(NotAtHand):
        run = wire(config)
        if not absent:
            return run
    return wire(config)


def wire(config: Config) -> Run:
    """Build everything, in reading order; what needs a part that was refused is left out.

    Raises:
        ConfigError: With every problem at once.
        NotAtHand: Data would have to be fetched first, which `at_hand_only` forbids.
    """
    attempt = Attempts()
    seed = config["seed"]
    attempt(randomness.check_seed, seed)
    attempt(roles.name, config["name"])
    attempt(refuse_baselines, config["baselines"])
    trainer = attempt(roles.part, config["trainer"], "trainer", Trainer)
    attempt(prepare_process, trainer)
    augmentation = attempt(roles.part, config["augmentation"], "augmentation", Augmentation)
    batching = attempt(roles.part, config["batching"], "batching", Batching, augmentation=augmentation)
    loss = attempt(roles.part, config["loss"], "loss", Loss)
    schedule = attempt(roles.part, config["scheduler"], "scheduler", Schedule)
    evaluators = {
        name: attempt(roles.part, node, f"eval.{name}", Evaluator)
        for name, node in config["eval"].items()
        if node is not None
    }
    attempt(roles.rates, config["optimizer"])
    method = attempt(roles.method, config["algorithm"])
    takes = attempt(roles.loss_for, method, loss)
    fits = attempt(refuse_misfits, method, loss, batching, trainer, config)

    splits = attempt(roles.part, config["dataset"], "dataset", Splits)
    attempt(refuse_unlabelled, loss, splits)
    device = torch.device("cpu") if trainer is REFUSED else trainer.device
    batching = attempt(bind, batching, splits, seed, device)
    attempt(lambda trainer, batching: trainer.steps(batching), trainer, batching)  # no epochs of episodes
    encoder = attempt(begin_network, config["model"]["encoder"], splits, seed)
    network = attempt(finish_network, encoder, config["model"]["head"], batching)
    attempt(refuse_head, method, network, batching)
    attempt(roles.views, augmentation, splits, network)
    parts = {"network": network} if loss is None else {"network": network, "loss": loss}
    fits = REFUSED if takes is REFUSED else fits
    algorithm = (
        REFUSED if fits is REFUSED else attempt(roles.part, config["algorithm"], "algorithm", Algorithm, **parts)
    )
    attempt(place, algorithm, trainer)
    attempt(check_evaluators, evaluators, None if algorithm is REFUSED else algorithm, splits, device)
    attempt(check_selection, trainer, evaluators, algorithm, splits)
    if not attempt.problems:  # torch takes seconds to make its first one
        attempt(roles.optimizer, config["optimizer"])
    step_bytes = None if attempt.problems else attempt(first_step_bytes, config, algorithm, batching, trainer)
    attempt.settle()
    if splits is REFUSED:
        raise NotAtHand(f"{config['dataset']['_target_']} is not at hand")

    optimizer = build(config["optimizer"], "optimizer")(algorithm.parameter_groups())
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    identity = checkpoint.Identity.of_this_process(config_hash(config), splits.train.fingerprint)
    return Run(seed, trainer, splits, batching, algorithm, optimizer, schedule, evaluators, identity, step_bytes)


def first_step_bytes(config: Config, algorithm: Algorithm, batching: Batching, trainer: Trainer) -> int | None:
    """Memory of a step (`estimate.step_memory`), and what a loss refuses at its first step is told here."""
    make_optimizer = build(config["optimizer"], "optimizer")
    return estimate.step_memory(algorithm, batching.batch(0), make_optimizer, trainer.accumulate)


def bind(batching: Batching, splits: Splits, seed: int, device: torch.device) -> Batching:
    """The batching, which from now on draws from the training split."""
    batching.bind(splits.train, seed, device)
    return batching


def place(algorithm: Algorithm, trainer: Trainer) -> None:
    """On the device, in its memory format."""
    algorithm.to(trainer.device)
    if trainer.channels_last:
        algorithm.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the run folder, made if missing.

    Raises:
        FolderInUse: Another process is at work in it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError:
            raise FolderInUse(
                f"{folder} is in use by another process; wait for it, or give another hydra.run.dir"
            ) from None
        yield


def prepare_process(trainer: Trainer) -> None:
    """Threads and allocator, before any tensor of size is made."""
    if trainer.keep_pages:
        memory.keep_pages()
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)


def begin_network(config: Config, splits: Splits, seed: int) -> Encoder:
    """The encoder for the images of a dataset; its weights and the head's, made next, are the seed's."""
    roles.takes(config, "model.encoder", "in_channels", "image_size")
    torch.manual_seed(randomness.number(seed, "weights", 0))
    channels, height, width = splits.train.images.shape[1:]
    return make_encoder(config, (channels, height, width), *pixel_statistics(splits.train))


def finish_network(encoder: Encoder, config: Config, batching: Batching) -> Network:
    """A head on top."""
    roles.takes(config, "model.head", "in_features", "n_outputs")
    return Network(encoder, build(config, "model.head")(encoder.out_features, batching.n_outputs))


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
    text = yaml.safe_dump(config | {"resume": None, "reproduce": None, "dry_run": False}, sort_keys=False)
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
    if (folder / "config.yaml").exists():
        changes = config_difference(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), config)
        if changes:
            raise checkpoint.ResumeError(
                "\n".join([f"{folder} is a run of another config:", *changes])
                + f"\n{how_to_go_on(folder)}, or start a new run in another folder"
            )
    found = checkpoint.load(folder / "checkpoints", identity)
    if found is not None:
        return found
    if config["resume"] == "auto":
        return None, []
    raise checkpoint.ResumeError(f"{folder} has no checkpoint to go on from; start a new run without resume=")
