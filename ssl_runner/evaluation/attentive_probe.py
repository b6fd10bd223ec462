"""A classifier that attends to the tokens of frozen feature maps."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.answers import keep
from ssl_runner.evaluation.gallery import SEED, by_share, gallery_indices, images_at
from ssl_runner.evaluation.labelled import Labelled
from ssl_runner.evaluation.layer_rates import parameter_groups
from ssl_runner.evaluation.tokens import LIMIT, N_STATISTICS, FrozenTokens, refusal, tokens_of
from ssl_runner.models.features import BATCH_SIZE, evaluating
from ssl_runner.optim.schedules import WarmupCosine
from ssl_runner.runtime import progress, randomness

COSINE = WarmupCosine(warmup_steps=0, final=0.0)


class AttentiveProbe(Labelled):
    """Accuracy of a linear classifier on what a learned query attends to in the encoder's feature map.

    The query attends by multi-head cross-attention over the frozen tokens: a vision transformer's patches, without its
    class token, or the positions of a convolutional network's last map. This is the cross-attention of V-JEPA's
    attentive probe (Bardes et al. 2024, arXiv:2404.08471), without the residual perceptron and layer norms around it;
    CAPI (Darcet et al. 2025, arXiv:2502.08769) is judged by such a probe, too. Deviations: tokens are standardised,
    images are not augmented, so that tokens are computed once, the attention has no output projection of its own, since
    the classifier follows, and the recipe is ours: AdamW, the rate falling along half a cosine to 0, weight decay on
    matrices alone.

    The learning rate with the best validation accuracy (the lowest, for ties) is used again on train and validation
    together, and the result is scored once on test. All rates see the same batches from the same start.

    With a share of the labels, only images of the share are used, and a fifth of each class of the share is validation.
    If no class has an image to spare for that, the lowest rate is used.

    Args:
        heads: Heads of the attention, which share the width of the tokens evenly.
        learning_rates: Rates of the first step to choose from.
        epochs: Passes over the labelled images, or more:
        min_steps: Fewest steps; with few images there are as many more epochs.
        batch_size: Largest number of images in a batch.
        weight_decay: AdamW's, of matrices.
        labels: Share of the labels of train and validation together, in (0, 1]: the same images as for the linear probe
            and fine-tuning.
        dataset: A dataset other than the run's, see `Labelled`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        heads: int,
        learning_rates: Sequence[float],
        epochs: int,
        min_steps: int,
        batch_size: int,
        weight_decay: float,
        labels: float,
        dataset: Splits | None = None,
    ) -> None:
        super().__init__(by_share("attentive_probe", labels), dataset, labels)
        where = f"eval.{self.option}"
        if not learning_rates or not all(0 < rate < math.inf for rate in learning_rates):
            raise InvalidValue(f"{where}.learning_rates={list(learning_rates)}; give positive numbers")
        for name, value in {"heads": heads, "epochs": epochs, "min_steps": min_steps, "batch_size": batch_size}.items():
            if value < 1:
                raise InvalidValue(f"{where}.{name}={value}; give at least 1")
        if not 0 <= weight_decay < math.inf:
            raise InvalidValue(f"{where}.weight_decay={weight_decay}; give at least 0; 0 turns it off")
        self.heads, self.learning_rates = heads, sorted(learning_rates)
        self.epochs, self.min_steps = epochs, min_steps
        self.batch_size, self.weight_decay = batch_size, weight_decay

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """``attentive_probe/top1`` and the chosen ``attentive_probe/learning_rate``.

        With 1% of the labels, ``attentive_probe_1pct/...``; for its own dataset, ``cifar10/attentive_probe/...``.
        Nothing for an encoder without a feature map, as a run's baseline ``raw_pixels``.

        Raises:
            ValueError: If a split has no labels, or training diverged.
        """
        judged, encoder = self.judged(splits), algorithm.eval_encoder()
        if refusal(encoder) is not None:
            return {}
        sets = gallery_indices(judged, self.labels)
        with evaluating(encoder):
            tokens = FrozenTokens(encoder, sets.images(), device)
            labels, n_classes = sets.gallery_labels.to(device), judged.test.n_classes
            chosen = self.choose(tokens, labels, sets.validation, n_classes)
            probe = self.train(tokens, labels, torch.arange(len(labels)), [chosen], n_classes)
            batches = images_at(judged.test.images, sets.queries).split(BATCH_SIZE)
            found = torch.cat([scores(probe, tokens.of(images))[0] for images in batches])
        if not found.isfinite().all():
            raise InvalidValue(
                f"the attentive probe diverged at learning rate {chosen:g}; lower eval.{self.option}.learning_rates"
            )
        right = found.argmax(dim=1).cpu() == sets.query_labels
        keep(self.key("top1"), right)
        return {self.key("top1"): right.float().mean().item(), self.key("learning_rate"): chosen}

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """``attentive_probe/top1`` and ``attentive_probe/learning_rate``."""
        return [self.key("top1"), self.key("learning_rate")]

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Refuse what `Labelled.checked` refuses, an encoder without a feature map, and heads that do not fit it.

        Raises:
            ValueError: Something does not fit; the message gives the remedy.
        """
        self.checked(algorithm, splits)
        if algorithm is None:
            return
        encoder = algorithm.eval_encoder()
        if (reason := refusal(encoder)) is not None:
            raise InvalidValue(f"eval.{self.option}: {reason}; leave it out of eval=[...]")
        with evaluating(encoder):
            width = tokens_of(encoder, torch.zeros(1, *encoder.input_shape, device=device)).shape[2]
        if width % self.heads:
            raise InvalidValue(
                f"eval.{self.option}.heads={self.heads} cannot share tokens of {width} numbers evenly; "
                f"set eval.{self.option}.heads={math.gcd(width, self.heads)}"
            )

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """Probe, solver, grid, gallery, validation and queries."""
        return {
            "probe": f"learned query, cross-attention of {self.heads} heads over the feature map, linear classifier",
            "tokens": f"standardised by those of at most {N_STATISTICS:,} images of the gallery; half precision up to "
            f"{LIMIT / 2**30:g} GiB, else computed anew",
            "solver": f"AdamW, cosine to 0, weight decay {self.weight_decay:g} (vectors: none)",
            "epochs": self.epochs,
            "min_steps": self.min_steps,
            "batch_size": self.batch_size,
            "learning_rates": self.learning_rates,
            "chosen_on": "validation",
            "augmentation": "none",
            **self.described(splits),
        }

    def choose(self, tokens: FrozenTokens, labels: Tensor, validation: Tensor, n_classes: int) -> float:
        """The learning rate that is best on the rows marked by validation, bool (N,) on the CPU."""
        if len(self.learning_rates) == 1 or not validation.any():
            return self.learning_rates[0]
        probes = self.train(tokens, labels, (~validation).nonzero()[:, 0], self.learning_rates, n_classes)
        right = labels.new_zeros(len(probes))
        for rows in validation.nonzero()[:, 0].split(BATCH_SIZE):
            found = scores(probes, tokens(rows))
            answered = (found.argmax(dim=2) == labels[rows.to(labels.device)]) & found.isfinite().all(dim=2)
            right += answered.sum(dim=1)
        return self.learning_rates[int(right.argmax())]

    def train(
        self, tokens: FrozenTokens, labels: Tensor, rows: Tensor, rates: Sequence[float], n_classes: int
    ) -> list["Probe"]:
        """Probes trained on rows of the tokens, int64 (M,), at each of the rates."""
        width, seed = tokens.shape[-1], randomness.number(SEED, "attentive_probe/start", 0)
        probes = [Probe(width, self.heads, n_classes, seed).to(labels.device) for _ in rates]
        parts = [(list(probe.parameters()), rate) for probe, rate in zip(probes, rates, strict=True)]
        optimizer = torch.optim.AdamW(parameter_groups(parts, self.weight_decay))
        batches, step = -(-len(rows) // self.batch_size), 0
        epochs = max(self.epochs, -(-self.min_steps // batches))
        for epoch in range(epochs):
            order = torch.from_numpy(randomness.permutation(SEED, "attentive_probe/order", epoch, len(rows)))
            for drawn in rows[order].tensor_split(batches):
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * COSINE(step, epochs * batches)
                with torch.enable_grad():
                    found = scores(probes, tokens(drawn))
                    told = labels[drawn.to(labels.device)].expand(len(probes), -1)
                    # a sum over probes, whose gradients do not touch each other
                    loss = F.cross_entropy(found.flatten(0, 1), told.flatten(), reduction="sum") / len(drawn)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                step += 1
                progress.at(step, epochs * batches, "steps")
        return probes


class Probe(nn.Module):
    """Multi-head cross-attention of one learned query, then a linear classifier, which starts from zeros.

    Args:
        width: Of the tokens, D.
        heads: A divisor of the width.
        n_classes: Number of classes.
        seed: Of the weights.
    """

    def __init__(self, width: int, heads: int, n_classes: int, seed: int) -> None:
        super().__init__()
        generator, size = torch.Generator().manual_seed(seed), width // heads
        self.query = nn.Parameter(torch.empty(heads * size).normal_(std=0.02, generator=generator))
        self.key = nn.Parameter(torch.empty(heads, size, width))
        self.value = nn.Parameter(torch.empty(heads, size, width))
        for weight in (self.key, self.value):
            nn.init.xavier_uniform_(weight.data.flatten(0, 1), generator=generator)
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.weight, self.bias = nn.Parameter(torch.zeros(n_classes, width)), nn.Parameter(torch.zeros(n_classes))

    def directions(self) -> Tensor:
        """For each head, the direction (heads, D) whose product with a token is its score before the softmax.

        A single query's product with every key is one with the tokens themselves; a bias of the keys would cancel.
        """
        query = self.query.view(len(self.key), -1)
        return torch.einsum("hs,hsd->hd", query, self.key) * query.shape[1] ** -0.5

    def classified(self, attended: Tensor) -> Tensor:
        """Class scores (B, K) of the mean token (B, heads, D) by each head's attention."""
        values = torch.einsum("bhd,hsd->bhs", attended, self.value).flatten(1)
        return F.linear(values + self.value_bias, self.weight, self.bias)


def scores(probes: Sequence[Probe], tokens: Tensor) -> Tensor:
    """Class scores (P, B, K) of tokens (B, N, D) by each probe.

    Values are computed of each head's mean token, not of all tokens: the same numbers for a fraction of the work.
    """
    directions = torch.cat([probe.directions() for probe in probes])
    attention = (tokens @ directions.T).softmax(dim=1)  # (B, N, P * heads)
    attended = attention.transpose(1, 2) @ tokens
    return torch.stack(
        [probe.classified(part) for probe, part in zip(probes, attended.chunk(len(probes), dim=1), strict=True)]
    )
