"""Heads, which follow the encoder in training: factories of (in_features, n_outputs)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue


class Projector(nn.Sequential):
    """Projection head: linear layers with batch normalisation and ReLU in between (Chen et al. 2020, arXiv:2002.05709,
    sec. 4.2, with two layers; Barlow Twins, VICReg and SimSiam have three).

    Args:
        in_features: Width of the encoder's features.
        n_outputs: Classes of the task. Ignored, since a projector has its own width.
        hidden_features: Width of the hidden layers.
        out_features: Width of the embedding; null for ``in_features``, which a predictor needs.
        layers: Number of linear layers, at least 1.
        last_norm: Whether batch normalisation without scale and shift follows the last layer (SimSiam, MoCo v3).

    Raises:
        ValueError: A width or the number of layers is below 1.
    """

    def __init__(
        self,
        in_features: int,
        n_outputs: int | None,
        hidden_features: int,
        out_features: int | None,
        layers: int,
        last_norm: bool,
    ) -> None:
        width = in_features if out_features is None else out_features
        if min(hidden_features, width, layers) < 1:
            raise InvalidValue(f"{hidden_features=}, {out_features=}, {layers=}; all must be at least 1")
        stack: list[nn.Module] = []
        for _ in range(layers - 1):
            stack += [nn.Linear(in_features if not stack else hidden_features, hidden_features, bias=False)]
            stack += [nn.BatchNorm1d(hidden_features), nn.ReLU(inplace=True)]
        stack.append(nn.Linear(hidden_features if stack else in_features, width, bias=False))
        if last_norm:
            stack.append(nn.BatchNorm1d(width, affine=False))
        super().__init__(*stack)
        self.out_features = width


class Prototyped(nn.Module):
    """DINO's head (Caron et al. 2021, arXiv:2104.14294, app. C): three layers with GELU to an L2-normalised bottleneck,
    then cosines with prototypes of unit length. `Momentum` freezes the prototypes for a share of the run.

    Args:
        in_features: Width of the encoder's features.
        n_outputs: Ignored.
        hidden_features: Width of the hidden layers.
        bottleneck: Width of the normalised layer.
        out_features: Number of prototypes.
        batch_norm: Whether batch normalisation follows the first two layers, as in DINO's and iBOT's code on demand
            (``use_bn_in_head``, ``norm_in_head``); it speeds up the first steps. Configs of earlier versions lack it.
    """

    def __init__(
        self,
        in_features: int,
        n_outputs: int | None,
        hidden_features: int,
        bottleneck: int,
        out_features: int,
        batch_norm: bool = False,
    ) -> None:
        if min(hidden_features, bottleneck, out_features) < 1:
            raise InvalidValue(f"{hidden_features=}, {bottleneck=}, {out_features=}; all must be at least 1")
        super().__init__()
        stack: list[nn.Module] = []
        for width in (in_features, hidden_features):
            stack.append(nn.Linear(width, hidden_features))
            if batch_norm:
                stack.append(nn.BatchNorm1d(hidden_features))
            stack.append(nn.GELU())
        self.layers = nn.Sequential(*stack, nn.Linear(hidden_features, bottleneck))
        self.prototypes = nn.Parameter(torch.randn(out_features, bottleneck))
        self.out_features = out_features

    def forward(self, features: Tensor) -> Tensor:
        """Cosines (B, out_features) of features (B, in_features)."""
        return F.linear(F.normalize(self.layers(features), dim=-1), F.normalize(self.prototypes, dim=-1))


class Linear(nn.Linear):
    """Classifier with one output for each class of the task.

    Raises:
        ValueError: The batches have no classes, or their tasks have different numbers of them.
    """

    def __init__(self, in_features: int, n_outputs: int | None) -> None:
        if n_outputs is None:
            raise InvalidValue(
                "model/head=linear has one output per class, but these batches have no classes, or their tasks have "
                "different numbers of them; use another head, batching=labelled, or episodes with one batching.n_way"
            )
        super().__init__(in_features, n_outputs)


class Cosine(nn.Module):
    """Classifier of Baseline++ (Chen et al. 2019, arXiv:1904.04232, sec. 3.2): cosines with one weight vector per
    class.

    Deviation: the scale is fixed and the same for all classes; the authors' code also learns a norm for each class.

    Args:
        in_features: Width of the features, which are normalised.
        n_outputs: Number of classes.
        scale: Factor of the cosines, above 0; more classes need a larger one.

    Raises:
        ValueError: The batches have no classes, or the scale is not above 0.
    """

    def __init__(self, in_features: int, n_outputs: int | None, scale: float) -> None:
        super().__init__()
        if n_outputs is None:
            raise InvalidValue(
                "model/head=cosine has one output per class, but these batches have no classes; "
                "use model/head=projector, or batching=labelled or episodes"
            )
        if not scale > 0:
            raise InvalidValue(f"scale={scale}; it multiplies cosines, so give a number above 0, say 10")
        self.weight = nn.Parameter(torch.empty(n_outputs, in_features).uniform_(-1, 1) * in_features**-0.5)
        self.scale = scale
        self.out_features = n_outputs

    def forward(self, features: Tensor) -> Tensor:
        """Scaled cosines (B, n_outputs) of features (B, in_features)."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


class Identity(nn.Module):
    """Uses the features themselves as the embedding."""

    def __init__(self, in_features: int, n_outputs: int | None) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        return features
