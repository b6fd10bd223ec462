"""What stands on an encoder in training: factories of (in_features, n_outputs)."""

from torch import Tensor, nn


class Projector(nn.Sequential):
    """Two-layer projection head (Chen et al. 2020, arXiv:2002.05709, sec. 4.2), normalised in between.

    Args:
        in_features: Width of the encoder's features.
        n_outputs: Classes of the task; a projector has its own width and ignores it.
        hidden_features: Width of the hidden layer.
        out_features: Width of the embedding.
    """

    def __init__(self, in_features: int, n_outputs: int | None, hidden_features: int, out_features: int) -> None:
        super().__init__(
            nn.Linear(in_features, hidden_features, bias=False),
            nn.BatchNorm1d(hidden_features),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_features, out_features, bias=False),
        )


class Linear(nn.Linear):
    """Classifier: one output a class of the task.

    Raises:
        ValueError: The batches have no classes.
    """

    def __init__(self, in_features: int, n_outputs: int | None) -> None:
        if n_outputs is None:
            raise ValueError(
                "model/head=linear makes one output a class, but these batches have no classes; "
                "use model/head=projector, or batching=labelled or episodes"
            )
        super().__init__(in_features, n_outputs)


class Identity(nn.Module):
    """The features themselves are the embedding."""

    def __init__(self, in_features: int, n_outputs: int | None) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        return features
