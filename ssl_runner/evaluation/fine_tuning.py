"""Fine-tuning of the encoder on all labels or a few of them."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.data.batching.batching import on_device
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.answers import keep
from ssl_runner.evaluation.gallery import SEED, GalleryIndices, by_share, gallery_indices, images_at, rows_of
from ssl_runner.evaluation.labelled import Labelled
from ssl_runner.evaluation.layer_rates import layer_rates, parameter_groups
from ssl_runner.models.depths import depths
from ssl_runner.models.features import features
from ssl_runner.models.network import Encoder
from ssl_runner.optim.schedules import WarmupCosine
from ssl_runner.runtime import progress, randomness

MOMENTUM = 0.9


class FineTuning(Labelled):
    """Accuracy of a copy of the encoder with a linear classifier, both trained on labelled images.

    It follows SimCLR with 1% and 10% of the labels (Chen et al. 2020, arXiv:2002.05709, app. B.5): SGD with Nesterov
    momentum 0.9 trains all weights, random crops are the only augmentation, no setting is chosen by a score, and the
    test split is scored once, after the last epoch. The classifier starts from zeros (as in SimCLR's code) on the raw
    features, so it does not depend on a random draw. Batch normalisation is in training mode and updates the encoder's
    running averages.

    Deviations: the learning rate falls to 0 along half a cosine (SimCLR's code; the paper names no schedule). The crop
    moves by whole pixels, without resizing or flip unless configured. Weight decay does not apply to vectors.
    ``head_lr_factor`` gives the classifier its own rate (SwAV, arXiv:2006.09882: 20 with 10% of the labels, 250 with
    1%; SimCLR: 1).

    An epoch uses every image once, in ceil(N / batch_size) batches whose sizes differ by at most one. So none is
    dropped, and no tiny batch disturbs batch normalisation. Its precision is its own, whatever the training's is.
    If the encoder has no weights (the baseline ``raw_pixels``), only the classifier is trained: logistic regression by
    SGD.

    Vision transformers are usually fine-tuned by AdamW with warm-up, layer decay and mixup (BEiT, arXiv:2106.08254;
    MAE, arXiv:2111.06377, table 9): see the last four arguments, which are off unless set.

    Args:
        labels: Share of the gallery's labels in (0, 1]: random within each class, at least one image per class, the
            same in every run. A smaller share is a subset of a larger one.
        epochs: Passes over the labelled images.
        batch_size: Largest number of images in a batch; if it is at least 3, no batch has a single image.
        lr: Learning rate of the first step, or after a warm-up; not scaled by the batch size.
        head_lr_factor: The classifier's learning rate divided by the encoder's.
        weight_decay: Weight decay of matrices and kernels.
        augmentation: Augmentation of the labelled images; it must keep their size.
        dataset: A dataset other than the run's, see `Labelled`.
        optimizer: ``sgd``, with Nesterov momentum 0.9, or ``adamw``.
        layer_decay: Factor of the learning rate from one layer to the one before it, in (0, 1]: the rate of layer l is
            ``lr`` times layer_decay^(L - l), where the classifier is layer L (`ssl_runner.models.depths`). 1 for none.
        mixup: alpha of the Beta distribution of which each batch draws the share of its images in mixtures with others
            of the batch (Zhang et al. 2017, arXiv:1710.09412); 0 for none.
        warmup_share: Share of the steps in which the learning rate rises in a straight line, in [0, 1).
        precision: ``bfloat16`` runs the forward passes, also those on test, under autocast; weights and loss stay in
            ``float32``.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        labels: float,
        epochs: int,
        batch_size: int,
        lr: float,
        head_lr_factor: float,
        weight_decay: float,
        augmentation: Augmentation,
        dataset: Splits | None = None,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        layer_decay: float = 1.0,
        mixup: float = 0.0,
        warmup_share: float = 0.0,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__(by_share("fine_tuning", labels), dataset, labels)
        if epochs < 1:
            raise InvalidValue(f"epochs={epochs}; give at least 1, say 30")
        if batch_size < 3:
            raise InvalidValue(f"batch_size={batch_size}; give at least 3, so that no batch has a single image, say 64")
        for name, value in {"lr": lr, "head_lr_factor": head_lr_factor}.items():
            if not 0 < value < math.inf:
                raise InvalidValue(f"{name}={value}; give a number above 0")
        if not 0 <= weight_decay < math.inf:
            raise InvalidValue(f"weight_decay={weight_decay}; give at least 0; 0 turns it off")
        if optimizer not in ("sgd", "adamw"):
            raise InvalidValue(f"optimizer={optimizer!r} is not one of sgd, adamw")
        if not 0 < layer_decay <= 1:
            raise InvalidValue(f"layer_decay={layer_decay}; give a factor in (0, 1]; 1 turns it off")
        if not 0 <= mixup < math.inf or not 0 <= warmup_share < 1:
            raise InvalidValue(f"mixup={mixup}, warmup_share={warmup_share}; give at least 0, and a share in [0, 1)")
        if precision not in ("float32", "bfloat16"):
            raise InvalidValue(f"precision={precision!r} is not one of float32, bfloat16")
        if not isinstance(augmentation, Augmentation):
            raise InvalidValue(
                f"augmentation is a {type(augmentation).__name__}, expected an Augmentation; without transforms, "
                "{_target_: ssl_runner.data.augmentation.Augmentation, transforms: {}} changes nothing"
            )
        self.epochs, self.batch_size = epochs, batch_size
        self.lr, self.head_lr_factor, self.weight_decay = lr, head_lr_factor, weight_decay
        self.augmentation, self.precision = augmentation, precision
        self.solver, self.layer_decay, self.mixup, self.warmup_share = optimizer, layer_decay, mixup, warmup_share

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """``fine_tuning/top1``; with 1% of the labels, ``fine_tuning_1pct/top1``; for its own dataset, ``cifar10/...``.

        Raises:
            ValueError: If a split has no labels, or training diverged.
        """
        judged = self.judged(splits)
        sets, test = gallery_indices(judged, self.labels), judged.test
        with own_generators(device):
            encoder, head = self.train(algorithm.eval_encoder(), sets, test.n_classes, device)
        with torch.no_grad(), self._autocast(device):
            scores = head(features(encoder, images_at(test.images, sets.queries), device)).float()
        self._check_finite(scores.sum(), "last")
        right = scores.argmax(dim=1).cpu() == sets.query_labels
        keep(self.key("top1"), right)
        return {self.key("top1"): right.float().mean().item()}

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """``fine_tuning/top1``."""
        return [self.key("top1")]

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Refuse everything that `Labelled.checked` refuses, an encoder without weights, and changes of the image size.

        A share is never too small, since every class keeps at least one image.

        Raises:
            ValueError: Something does not fit; the message gives the remedy.
        """
        sets = self.checked(algorithm, splits)
        image = sets.parts[0].images[:1]
        view = self.augmentation(image, torch.zeros(1, self.augmentation.columns))
        if view.shape != image.shape:
            got, expected = ("x".join(map(str, images.shape[1:])) for images in (view, image))
            raise InvalidValue(
                f"eval.{self.option}.augmentation turns images of {expected} into {got}, but queries keep their size; "
                "set the crop's size to null"
            )
        if algorithm is None:
            return
        if not list(algorithm.eval_encoder().parameters()):
            raise InvalidValue(
                f"eval.{self.option} trains the encoder, but this one has no weights; leave it out of eval="
            )
        if self.layer_decay < 1:
            depths(algorithm.eval_encoder())

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """Labels, solver, epochs, batches, augmentation, gallery and queries."""
        n = len(gallery_indices(self.judged(splits), self.labels).gallery)
        batches = self._batches(n)
        decay = f"weight decay {self.weight_decay:g} (vectors: none)" if self.weight_decay else "no weight decay"
        head = "" if self.head_lr_factor == 1 else f" (classifier {self.head_lr_factor:g} times that)"
        transforms = self.augmentation.transforms.values()
        solver = f"SGD, Nesterov momentum {MOMENTUM}" if self.solver == "sgd" else "AdamW"
        further: dict[str, tuple[Any, Any]] = {
            "layer_decay": (self.layer_decay, 1),
            "mixup": (self.mixup, 0),
            "warmup": (self.warmup_share, 0),
            "precision": (self.precision, "float32"),
        }
        return {
            **self.described(splits),
            "labels": self.labels,
            "labelled_images": n,
            "validation": "none: no setting is chosen, and the last epoch is scored",
            "trained": "all weights of encoder and linear classifier; for raw pixels, only the classifier",
            "solver": f"{solver}, learning rate {self.lr:g}{head}, cosine to 0, {decay}",
            **{name: value for name, (value, none) in further.items() if value != none},
            "epochs": self.epochs,
            "batch_size": -(-n // batches),
            "steps": self.epochs * batches,
            "augmentation": [f"{type(one).__name__}({_settings(one)})" for one in transforms],
            "batch_normalisation": "training mode",
        }

    def train(
        self, encoder: Encoder, sets: GalleryIndices, n_classes: int, device: torch.device
    ) -> tuple[nn.Module, nn.Linear]:
        """A trained copy of the encoder, and its classifier.

        This seeds torch's generators, which dropout uses.

        Raises:
            ValueError: If training diverged.
        """
        encoder, head = _copy(encoder), zero_head(encoder.out_features, n_classes, device)
        network = nn.Sequential(encoder, nn.Flatten(), head).train()
        optimizer = self.optimizer(encoder, head)
        images = [on_device(part, device) for part in sets.images()]
        labels = sets.gallery_labels.to(device)
        batches, step = self._batches(len(labels)), 0
        schedule = WarmupCosine(round(self.warmup_share * self.epochs * batches), final=0.0)
        for epoch in range(self.epochs):
            order = torch.from_numpy(randomness.permutation(SEED, "fine_tuning/order", epoch, len(labels)))
            for rows in order.tensor_split(batches):
                views = self._views(rows_of(images, rows, device), step)
                torch.manual_seed(randomness.number(SEED, "fine_tuning/network", step))
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * schedule(step, self.epochs * batches)
                with torch.enable_grad():
                    loss = self._loss(network, views, labels[to_device(rows, device)], step)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                optimizer.step()
                step += 1
                progress.at(step, self.epochs * batches, "steps")
            self._check_finite(
                loss.detach(), f"{epoch + 1} of {self.epochs}"
            )  # once per epoch, since it waits for the device
        return encoder, head

    def optimizer(self, encoder: Encoder, head: nn.Module) -> torch.optim.Optimizer:
        """SGD or AdamW on all weights, with ``initial_lr`` in each group."""
        parts = [
            *layer_rates(encoder, self.lr, self.layer_decay),
            (list(head.parameters()), self.lr * self.head_lr_factor),
        ]
        groups = parameter_groups(parts, self.weight_decay)
        if self.solver == "adamw":
            return torch.optim.AdamW(groups, lr=self.lr)
        return torch.optim.SGD(groups, lr=self.lr, momentum=MOMENTUM, nesterov=True)

    def _loss(self, network: nn.Module, views: Tensor, labels: Tensor, step: int) -> Tensor:
        """Cross-entropy of the views, or of mixtures of them."""
        if not self.mixup:
            return F.cross_entropy(self._scores(network, views), labels)
        draw = np.random.default_rng(randomness.number(SEED, "fine_tuning/mixup", step))
        share = draw.beta(self.mixup, self.mixup)
        others = to_device(torch.from_numpy(draw.permutation(len(labels))), views.device)
        scores = self._scores(network, share * views + (1 - share) * views[others])
        return share * F.cross_entropy(scores, labels) + (1 - share) * F.cross_entropy(scores, labels[others])

    def _scores(self, network: nn.Module, views: Tensor) -> Tensor:
        with self._autocast(views.device):
            scores: Tensor = network(views)
        return scores.float()

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _batches(self, n: int) -> int:
        return -(-n // self.batch_size)

    def _views(self, images: Tensor, step: int) -> Tensor:
        columns = self.augmentation.columns
        draws = randomness.uniforms(SEED, "fine_tuning/augmentation", step, len(images), columns)
        return self.augmentation(images, torch.from_numpy(draws))

    def _check_finite(self, value: Tensor, epoch: str) -> None:
        if not value.isfinite():
            raise InvalidValue(
                f"fine-tuning diverged: its values are not finite after epoch {epoch}; "
                f"lower eval.{self.option}.lr={self.lr:g}"
            )


@contextmanager
def own_generators(device: torch.device) -> Iterator[None]:
    """Restores torch's global generators on exit."""
    before = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
            yield
    finally:
        if before is not None:
            torch.mps.set_rng_state(before)


def _copy(encoder: Encoder) -> Encoder:
    """A copy with all weights trainable, on the encoder's device and in its memory format, without its gradients."""
    copied = copy.deepcopy(encoder).requires_grad_(True)
    copied.zero_grad(set_to_none=True)
    return copied


def zero_head(in_features: int, n_classes: int, device: torch.device) -> nn.Linear:
    """A linear classifier that starts from zeros, so that it does not depend on a random draw."""
    head = nn.Linear(in_features, n_classes, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _settings(transform: object) -> str:
    return ", ".join(f"{name}={value}" for name, value in vars(transform).items())
