"""Vision transformers of two blocks, in float64."""

from typing import Any

import torch

from ssl_runner.models.network import Encoder
from ssl_runner.models.vit import ViT


def small_vit(channels: int = 1, image_size: int = 16, patch_size: int = 4, seed: int = 0, **changes) -> ViT:
    """DeiT-tiny cut to two blocks, whose weights are large enough to tell things apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = ViT(channels, image_size, "tiny", patch_size, **changes)
        made.body.blocks = made.body.blocks[:2]
        for weight in made.parameters():
            if weight.requires_grad:
                weight.data += 0.05 * torch.randn_like(weight)
    return made.double()


def encoder_of(made: ViT, channels: int = 1, image_size: int = 16) -> Encoder:
    return Encoder(made, (channels, image_size, image_size), [0.4] * channels, [0.3] * channels).double()


class SmallViT(ViT):
    """The same for a config: `SSL_RUNNER_TRUSTED=small_vits`. Its arguments are those of `ViT`."""

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        size: str,
        patch_size: int,
        features: str,
        layers: int,
        positions: str,
        registers: int,
        drop_path: float,
    ) -> None:
        arguments: Any = (size, patch_size, features, layers, positions, registers, drop_path)
        super().__init__(in_channels, image_size, *arguments)
        self.body.blocks = self.body.blocks[:2]


RUN = [
    "experiment=simclr_digits",
    "dataset=digits",
    "dataset.size=16",
    "model/encoder=vit_tiny",
    "model.encoder._target_=small_vits.SmallViT",
    "model.encoder.patch_size=2",
    "algorithm=masked",
    "batching.batch_size=8",
    "eval=[]",
    "baselines=[]",
    "trainer.max_epochs=null",
    "trainer.max_steps=2",
    "trainer.precision=float32",
]
HEAD = ["model/head=dino", "model.head.hidden_features=16", "model.head.bottleneck=8", "model.head.out_features=12"]
SMALL_PREDICTOR = ["algorithm.predictor.predictor_width=24", "algorithm.predictor.heads=3"]
TEACHER = ["algorithm.product=teacher", "algorithm.momentum=0.9"]
VISIBLE_BLOCKS = ["masking=block", "masking.share=[0.8,0.8]", "masking.probability=1", "masking.inverse=true"]
IBOT = [*HEAD, "loss=patch_cross_entropy", "masking=block", "algorithm/target=prototypes", "algorithm/predictor=none"]
IBOT += ["algorithm.hidden=replaced", "loss@algorithm.image_loss=dino", *TEACHER]

# each method on the command line
METHODS = {
    "mae": ["model/head=identity", "loss=mse", "batching=labelled", "masking=random", *SMALL_PREDICTOR],
    "simmim": [
        *["model/head=identity", "loss=smooth_l1", "loss.beta=0", "batching=labelled", "masking=random"],
        *["masking.share=0.6", "masking.unit=2", "algorithm/target=pixels", "algorithm/predictor=linear"],
        "algorithm.hidden=replaced",
    ],
    "ijepa": [
        *["model/head=identity", "loss=smooth_l1", "batching=labelled", "masking=multi_block", *SMALL_PREDICTOR],
        *["algorithm/target=features", "model.encoder.features=mean", *TEACHER],
    ],
    "data2vec": [
        *["model/head=identity", "loss=mse", "batching=labelled", *VISIBLE_BLOCKS, "masking.masks=3", *TEACHER],
        *["algorithm/target=features", "algorithm.target.layers=2", "algorithm.target.normalise=instance"],
        *["algorithm/predictor=convolutional", "algorithm.predictor.predictor_width=32"],
    ],
    "ibot": [*IBOT, "batching=two_view", "algorithm.freeze_share=0.4"],
    "dinov2": [
        *[*IBOT, "batching=multi_crop", "loss.centering=sinkhorn", "algorithm.image_loss.centering=sinkhorn"],
        *["loss@algorithm.feature_loss=koleo", "model.encoder.positions=sincos", "model.encoder.registers=2"],
    ],
}
