"""Checks that the parts of a run fit each other, and reports all misfits at once, each with the reason."""

from collections.abc import Callable
from typing import Any

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.hashing import flatten
from ssl_runner.config.schema import BASELINES
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.config.targets import locate
from ssl_runner.data.batches import Views
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import ConfigError, NotDownloaded, UserError
from ssl_runner.evaluation.evaluator import Evaluator, merits, selecting
from ssl_runner.images import nvjpeg
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network
from ssl_runner.training import sharding
from ssl_runner.training.trainer import Trainer

# which options provide a field that a loss may need
PROVIDERS = {
    "target": "algorithm=momentum or stop_gradient",
    "memory_bank": "algorithm.queue_size=4096 (of momentum or stop_gradient)",
    "prototypes": "algorithm=prototypes",
    "patches": "algorithm=masked",
    "patch_scores": "algorithm/target=prototypes algorithm.predictor=null",
}
# which options use a field that an algorithm provides
READERS = {
    "target": "loss=info_nce, negative_cosine or dino, or algorithm=contrastive",
    "memory_bank": "algorithm.queue_size=0",
    "prototypes": "loss=swav, or algorithm=contrastive",
    "patches": "loss=mse, smooth_l1 or patch_cross_entropy",
    "patch_scores": "loss=patch_cross_entropy",
}
REFUSED: Any = object()  # stands for an object that could not be built


class Attempts:
    """Makes calls that may fail and collects their problems; a call with a refused argument is skipped."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def __call__(self, make: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The value that ``make`` returns, or REFUSED."""
        if any(value is REFUSED for value in (*arguments, *named.values())):
            return REFUSED
        try:
            return make(*arguments, **named)
        except NotDownloaded:
            return REFUSED
        except UserError as error:
            self.problems += error.problems if isinstance(error, ConfigError) else [str(error)]
            return REFUSED

    def settle(self) -> None:
        """Raises ConfigError with all problems, if there are any."""
        if self.problems:
            raise ConfigError(dict.fromkeys(self.problems))


def refuse_baselines(names: list[str]) -> None:
    """Raises ConfigError for an unknown baseline."""
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ConfigError([f"baselines: {name!r} is not one of {', '.join(sorted(BASELINES))}" for name in unknown])


def refuse_decoder(dataset: dict[str, Any], trainer: Trainer) -> None:
    """Raises InvalidValue if a dataset is to be decoded by nvJPEG, and the run's device cannot."""
    chosen = [value for key, value in flatten(dataset).items() if key.rpartition(".")[2] == "decoder"]
    if "nvjpeg" in chosen:
        nvjpeg.refuse_without(trainer.device)


def refuse_unlabelled(loss: Loss | None, batching: Batching, splits: Splits) -> None:
    """Raises ConfigError if the loss needs labels and the data has none."""
    if loss is None or "labels" not in loss.needs or batching.makes_labels:
        return
    if splits.train.labels is None:
        raise ConfigError([f"loss={type(loss).__name__} needs labels, but {splits.train.name} has none"])


def refuse_untrainable(splits: Splits) -> Splits:
    """The splits; raises ConfigError if there is no image to train on."""
    if not len(splits.train):
        named = splits.test.source
        raise ConfigError(
            [
                f"dataset: {named} has no training images, because a benchmark judges on all of it; choose another "
                f"dataset, and judge on this one by eval=[few_shot_{named}]"
            ]
        )
    return splits


def refuse_head(algorithm: type[Algorithm], network: Network, batching: Batching) -> None:
    """Raises ConfigError if the head classifies and its width is not the number of classes."""
    if not algorithm.head_classifies:
        return
    if batching.n_outputs is None:
        reason = "with one output per class, but these batches have no fixed number of classes"
        remedy = "give one batching.n_way instead of a range, or a labelled dataset"
        raise ConfigError([f"{algorithm.__name__} classifies with its head, {reason}; {remedy}"])
    if getattr(network.head, "out_features", None) != batching.n_outputs:
        raise ConfigError([f"the head must have one output per class, {batching.n_outputs}; choose model/head=linear"])


def check_evaluators(
    evaluators: dict[str, Any], algorithm: Algorithm | None, splits: Splits, device: torch.device
) -> None:
    """Check the evaluators that could be built for anything that evaluation would refuse after training.

    Args:
        algorithm: The algorithm, or None if it could not be built.

    Raises:
        ConfigError: With every problem.
    """
    attempt, given = Attempts(), dict[str, str]()
    for name, evaluator in evaluators.items():
        attempt(lambda evaluator: evaluator.check(algorithm, splits, device), evaluator)
        for key in [] if evaluator is REFUSED else evaluator.keys(algorithm):
            if (first := given.setdefault(key, name)) != name:
                problem = f"eval.{name} and eval.{first} both return {key}; leave one of them out of eval=[...]"
                attempt.problems.append(problem)
                break
    attempt.settle()


def check_selection(trainer: Trainer, evaluators: dict[str, Any], algorithm: Algorithm, splits: Splits) -> None:
    """Check evaluation during training: the evaluators on the validation split, and the metric that selects.

    Raises:
        ConfigError: With every problem.
    """
    if trainer.evaluate_every is None:
        return
    on_test = {name: one for name, one in evaluators.items() if name not in selecting(evaluators)}
    tested = [key for one in on_test.values() if one is not REFUSED for key in one.keys(algorithm)]
    evaluators = selecting(evaluators)
    built: dict[str, Evaluator] = {name: one for name, one in evaluators.items() if one is not REFUSED}
    keys = merits(key for evaluator in built.values() for key in evaluator.keys(algorithm))
    if REFUSED not in evaluators.values() and trainer.select not in keys:
        hint = did_you_mean(str(trainer.select), keys) or f"; choose one of {', '.join(keys)}"
        hint = hint if keys else "; choose an evaluator with eval=[...]"
        if trainer.select in tested:
            hint = f" of validation images: that one is measured on test images, and nothing may be chosen by it{hint}"
        raise ConfigError([f"trainer.select={trainer.select}: evaluation has no such metric{hint}"])
    check_evaluators(built, algorithm, splits.for_selection(), trainer.device)


def refuse_misfits(
    algorithm: type[Algorithm], loss: Loss | None, batching: Batching, trainer: Trainer, config: dict[str, Any]
) -> None:
    """Compare what the parts declare about themselves.

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
        problems += _loss_misfits(algorithm, loss, batching, config)
    if (
        batching.batch_type is Views
        and not algorithm.supports_accumulation
        and batching.images_per_step <= batching.n_views
    ):
        problems.append(
            f"batching.batch_size=1, but {name} compares images within a batch; give at least 2, better 128"
        )
    if trainer.accumulate_grad_batches > 1 and not algorithm.supports_accumulation:
        problems.append(
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}, but {name} compares every image "
            "of the batch with every other, so a batch cannot be cut; set it to 1"
        )
    if trainer.shard:
        problems += sharding.misfits(algorithm, trainer.compile)
    if algorithm.surrogate:
        reason = f"{name}'s gradient is itself the update"
        if trainer.gradient_clip_norm is not None:
            problems.append(f"{reason} and must not be clipped; set trainer.gradient_clip_norm=null")
        optimizer = config["optimizer"]
        plain = not optimizer.get("momentum") and not optimizer.get("weight_decay")
        if locate(optimizer["_target_"]) is not torch.optim.SGD or not plain:
            problems.append(f"{reason}; choose optimizer=sgd optimizer.momentum=0 optimizer.weight_decay=0")
    if problems:
        raise ConfigError(problems)


def _loss_misfits(algorithm: type[Algorithm], loss: Loss, batching: Batching, config: dict[str, Any]) -> list[str]:
    """Problems with the fields that a loss lacks or would not use, and with what it cannot take."""
    problems = []
    name, loss_name = algorithm.__name__, type(loss).__name__
    provided = algorithm.provided(config["algorithm"])
    lacking = sorted(loss.needs - provided - {"labels"})
    unread = sorted(provided - loss.needs - loss.uses)
    if lacking:
        remedy = " and ".join(PROVIDERS[field] for field in lacking if field in PROVIDERS) or "another loss"
        problems.append(f"loss {loss_name} needs {', '.join(lacking)}, which {name} does not provide; choose {remedy}")
    elif unread:  # after the problem above, this one would repeat it
        remedy = " and ".join(READERS[field] for field in unread)
        problems.append(f"{name} provides {' and '.join(unread)}, which loss {loss_name} does not use; choose {remedy}")
    if loss.of_logits != algorithm.gives_logits:
        gives, takes = (("logits" if logits else "embeddings") for logits in (algorithm.gives_logits, loss.of_logits))
        remedy = "loss=cross_entropy" if algorithm.gives_logits else "another loss, or algorithm=supervised"
        problems.append(f"loss {loss_name} takes {takes}, but {name} gives {gives}; choose {remedy}")
    most = batching.n_views if loss.most_views is None else loss.most_views
    if batching.batch_type is Views and not loss.views <= batching.n_views <= most:
        remedy = f"set batching.views={loss.views}" if "views" in config["batching"] else "choose batching=two_view"
        problems.append(
            f"loss {loss_name} compares {loss.views} views, but batching makes {batching.n_views}; {remedy}"
        )
    return problems
