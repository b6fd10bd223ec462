"""What a run shows in TensorBoard besides its curves, before and after training."""

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.algorithms.algorithm import Algorithm, Map
from ssl_runner.algorithms.masked import Masked
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.data.episodes.pseudo_episodes import PseudoEpisodeBatching
from ssl_runner.data.episodes.tasks import Tasks, TaskSampler
from ssl_runner.data.episodes.varied_batching import VariedEpisodeBatching
from ssl_runner.evaluation.negatives import figures
from ssl_runner.models.features import evaluating, features
from ssl_runner.report import adaptation
from ssl_runner.report.board import log_config, log_layout
from ssl_runner.report.encoder_maps import log_encoder
from ssl_runner.report.hard_negatives import log_negatives
from ssl_runner.report.hparams import log_hparams
from ssl_runner.report.maps import map_picture
from ssl_runner.report.masked_images import log_errors, log_masked_images
from ssl_runner.report.pictures import episode_picture, views_picture
from ssl_runner.report.projector import log_projector
from ssl_runner.report.task_features import log_task_features
from ssl_runner.runtime import randomness
from ssl_runner.runtime.device import enough_memory
from ssl_runner.training.run import Run

N_PROJECTED, N_SHOWN, N_ERRORS = 500, 8, 256
TOO_MUCH = "diagnostics need too much; set trainer.diagnostics_every=null"


def before(writer: SummaryWriter, run: Run, config: dict[str, Any], columns: Sequence[str] | None = None) -> None:
    """Log the config, the hyperparameters, the layout of the curves, and pictures of the network's input.

    Args:
        columns: The keys that vary in the run's sweep; None for a run of its own.
    """
    log_config(writer, config)
    log_hparams(writer, config, columns)
    batch = run.batching.batch(0)
    if isinstance(batch, Views):
        writer.add_image("views", views_picture(batch), 0)
    else:
        _log_episode(writer, run, 0)
    _log_network(writer, run, 0)
    log_layout(writer, [*_tags(run), *_log_negatives(writer, run, 0)])


def after(writer: SummaryWriter, run: Run, step: int) -> None:
    """Log the embedding projector, and the same hard negatives or tasks as before, now for the trained network.

    For a method that adapts in steps, also log the accuracy after each step.
    """
    shown = shown_split(run.splits)
    if run.batching.batch_type is Episodes:
        _log_episode(writer, run, step)
    if isinstance(run.batching, EpisodeBatching | PseudoEpisodeBatching):
        adaptation.log_adaptation(writer, run.algorithm, shown, run.batching.ways[0], run.device)
    _log_network(writer, run, step)
    _log_negatives(writer, run, step)
    chosen = _chosen(shown, "projector", N_PROJECTED)
    images = shown.images[chosen]
    names = None if shown.labels is None else [shown.class_names[label] for label in shown.labels[chosen]]
    log_projector(writer, features(run.algorithm.eval_encoder(), images, run.device), images, names, step)


def _log_network(writer: SummaryWriter, run: Run, step: int) -> None:
    """Log what the network makes of fixed training images: always the same, so that its changes are visible."""
    images = run.splits.train.images[_chosen(run.splits.train, "exhibit/images", N_ERRORS)]
    log_encoder(writer, run.algorithm.eval_encoder(), images[:N_SHOWN], run.device, step)
    algorithm, masking = run.algorithm, run.batching.masking
    if isinstance(algorithm, Masked) and masking is not None:
        log_masked_images(writer, algorithm, masking, images[:N_SHOWN], run.device, step)
        if run.trainer.diagnostics_every is not None:
            with enough_memory(TOO_MUCH):
                log_errors(writer, algorithm, masking, images, run.device, step)


def _chosen(dataset: Dataset, stream: str, n: int) -> torch.Tensor:
    """Places of n images, the same in every run."""
    return torch.from_numpy(randomness.permutation(0, stream, 0, len(dataset))[:n])


def _tags(run: Run) -> list[str]:
    tags = ["train/loss", "train/lr", "train/gradient_norm", "time/images_per_second", "time/data_share"]
    diagnostics = run.diagnostics
    tags += [] if diagnostics is None else [f"train/diagnostics/{name}" for name in diagnostics.names(run.algorithm)]
    if isinstance(run.batching, EpisodeBatching):
        tags += [f"train/accuracy/{name}" for name in run.batching.domains]
    if isinstance(run.batching, EpisodeBatching | PseudoEpisodeBatching):
        tags += adaptation.tags(run.algorithm, shown_split(run.splits), run.batching.ways[0])
    return tags


def _log_negatives(writer: SummaryWriter, run: Run, step: int) -> list[str]:
    """Log pictures of the diagnostics' negatives, if there are any; returns the tags of their curves."""
    diagnostics = run.diagnostics
    if diagnostics is None:
        return []
    with enough_memory(TOO_MUCH):
        found = log_negatives(writer, diagnostics, run.algorithm, run.splits.train.class_names, step)
        return [] if found is None else [f"train/diagnostics/{name}" for name in figures(found, diagnostics.labels)]


def shown_split(splits: Splits) -> Dataset:
    """The split to show, which is not trained on: validation, or test if there is no validation split."""
    return splits.test if splits.validation is None else splits.validation


def _log_episode(writer: SummaryWriter, run: Run, step: int) -> None:
    """Log tasks with predictions, from the run's dataset and from those of its evaluators.

    With each go the features of its images and the algorithm's maps.
    """
    assert isinstance(run.batching, EpisodeBatching | PseudoEpisodeBatching | VariedEpisodeBatching)
    for tag, (episode, names) in fixed_episodes(shown_split(run.splits), run.batching).items():
        _log_task(writer, run, tag, episode, names, step)
    evaluators = run.evaluators.values()
    targets = {target.source: target for one in evaluators if (target := getattr(one, "target", None)) is not None}
    for source, target in targets.items():
        with contextlib.suppress(ValueError):  # the training tasks have more ways than this dataset has classes
            _log_task(writer, run, f"episode/{source}", *fixed_episode(target, run.batching), step)


def _log_task(writer: SummaryWriter, run: Run, tag: str, episode: Episodes, names: list[str] | None, step: int) -> None:
    scores = predicted(run.algorithm, episode, run.device)
    writer.add_image(tag, episode_picture(episode, scores, names), step)
    log_task_features(writer, f"{tag}/features", run.algorithm, episode, scores, names, run.device, step)
    for name, shown in looked_at(run.algorithm, episode, run.device).items():
        writer.add_image(f"{tag}/{name}", map_picture(shown), step)


def fixed_episodes(
    dataset: Dataset, batching: EpisodeBatching | PseudoEpisodeBatching | VariedEpisodeBatching
) -> dict[str, tuple[Episodes, list[str] | None]]:
    """Fixed tasks by tag, with their class names; a batching without labels also shows one of its pseudo-tasks.

    Tasks for which the dataset has too few images or classes, or no labels, are left out.
    """
    found = {}
    if isinstance(batching, PseudoEpisodeBatching) and len(dataset) >= batching.n_way:
        found["pseudo_episode"] = (fixed_pseudo_episode(dataset, batching), None)
    with contextlib.suppress(ValueError):
        found["episode"] = fixed_episode(dataset, batching)
    return found


def fixed_pseudo_episode(dataset: Dataset, batching: PseudoEpisodeBatching) -> Episodes:
    """A fixed task of images of a dataset, with views drawn by the batching."""
    bound = copy.copy(batching)
    bound.bind(dataset, 0, torch.device("cpu"))
    return bound.batch(0).chunk(bound.tasks_per_batch)[0]


def fixed_episode(
    dataset: Dataset, batching: EpisodeBatching | PseudoEpisodeBatching | VariedEpisodeBatching
) -> tuple[Episodes, list[str]]:
    """A fixed task with the most shots, and the most ways for which there are classes, and the class names.

    If the sizes of tasks are drawn separately, those of this task are drawn, too.

    Raises:
        ValueError: The dataset has too few classes, or too few images in them.
    """
    task = _fixed_task(dataset, batching)
    assert dataset.labels is not None
    labels = dataset.labels[task.query[0].unflatten(0, (task.n_way, -1))[:, 0]]
    support, query = (dataset.images[places].float() / 255 for places in (task.support, task.query))
    episode = Episodes(support, task.support_labels, query, task.query_labels, task.n_way)
    return episode, [dataset.class_names[label] for label in labels]


def _fixed_task(dataset: Dataset, batching: EpisodeBatching | PseudoEpisodeBatching | VariedEpisodeBatching) -> Tasks:
    if isinstance(batching, VariedEpisodeBatching):
        return batching.sampler_of(dataset)(0, "exhibit", 0)
    n_way = max(batching.ways[0], min(batching.ways[-1], dataset.n_classes))
    sampler = TaskSampler(dataset, n_way, batching.shots[-1], batching.n_query)
    return sampler(randomness.uniforms(0, "exhibit", 0, 1, sampler.columns))


def looked_at(algorithm: Algorithm, episode: Episodes, device: torch.device) -> dict[str, Map]:
    """The maps that show what happens inside the algorithm in this task."""
    there = episode.to(device)
    with evaluating(algorithm):
        return algorithm.maps(there.support_images, there.support_labels, there.query_images, there.n_way)


def predicted(algorithm: Algorithm, episode: Episodes, device: torch.device) -> torch.Tensor:
    """Scores (T, Q, n_way) of the queries."""
    there = episode.to(device)
    with evaluating(algorithm):
        return algorithm.classify(there.support_images, there.support_labels, there.query_images, there.n_way).cpu()
