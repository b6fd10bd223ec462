"""Pictures of masked prediction show what is hidden, what is predicted there, and where the loss is large."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ssl_runner.algorithms.masked import Masked
from ssl_runner.algorithms.patch_targets import Features, Frequencies, Pixels, Prototypes
from ssl_runner.data.masking import BlockMasking, MultiBlockMasking, RandomMasking
from ssl_runner.losses.patch_cross_entropy import PatchCrossEntropy
from ssl_runner.losses.patches import MeanSquaredError, SmoothL1
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.predictors import ConvolutionalPredictor, LinearPredictor, TransformerPredictor
from ssl_runner.models.vit import ViT
from ssl_runner.report import masked_images
from ssl_runner.report.pictures import GRAY

CPU = torch.device("cpu")
MEAN, STD = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]
SIZE, PATCH, SIDE = 16, 4, 4  # pixels, pixels, patches
RANDOM = RandomMasking(share=0.5, unit=1, masks=2)
BLOCKS = BlockMasking(share=[0.2, 0.5], probability=0.5, aspect=0.3, smallest=1, inverse=False, masks=1)
SEVERAL = MultiBlockMasking(
    targets=3, target_scale=[0.1, 0.2], target_aspect=[0.7, 1.4], context_scale=[0.9, 1.0], least_context=2, masks=1
)


class Head(nn.Linear):
    """Scores of 7 prototypes."""

    @property
    def prototypes(self) -> torch.Tensor:
        return self.weight


def transformer(width, outputs, grid):
    return TransformerPredictor(width, outputs, grid, predictor_width=16, depth=1, heads=2)


def with_noise(width, outputs, grid):
    return ConvolutionalPredictor(width, outputs, grid, predictor_width=8, depth=1, kernel_size=3, groups=1)


def masked(target, loss=None, predictor=transformer, hidden="dropped") -> Masked:
    torch.manual_seed(1)
    backbone = ViT(3, SIZE, "tiny", PATCH)
    backbone.body.blocks = backbone.body.blocks[:1]
    head = Head(192, 7) if isinstance(target, Prototypes) else nn.Identity()
    network = Network(Encoder(backbone, (3, SIZE, SIZE), MEAN, STD), head)
    arrangement = {"image_loss": None, "image_weight": 1.0, "feature_loss": None, "feature_weight": 1.0}
    teacher = {"momentum": 0.9, "final_momentum": 1.0, "freeze_share": 0.0, "product": "student"}
    teacher |= {"momentum_schedule": "cosine", "layer_decay": 1.0, "patch_embed_lr": 1.0}
    return Masked(network, loss or MeanSquaredError(), target, predictor, hidden, **arrangement, **teacher)


def photos(n: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def square(patch: int) -> tuple[slice, slice]:
    row, column = divmod(patch, SIDE)
    return slice(row * PATCH, (row + 1) * PATCH), slice(column * PATCH, (column + 1) * PATCH)


@pytest.mark.parametrize("masking", [RANDOM, BLOCKS], ids=["random", "block"])
def test_hidden_patches_are_gray_and_visible_ones_are_the_image(masking):
    algorithm, images = masked(Pixels(False), predictor=LinearPredictor, hidden="replaced"), photos().float() / 255
    masks = masked_images.fixed_masks(masking, 0, 5, algorithm.encoder.grid, CPU)
    assert masks.hidden.shape == (1, 1, 5, SIDE**2) and masks.hidden.any()
    (found,) = masked_images.hidden_parts(images, masks, algorithm.encoder).values()
    for image in range(5):
        for patch in range(SIDE**2):
            rows, columns = square(patch)
            expected = torch.full((3, PATCH, PATCH), GRAY / 255)
            if not masks.hidden[0, 0, image, patch]:
                expected = images[image, :, rows, columns]
            assert torch.equal(found[image, :, rows, columns], expected)


def test_several_groups_of_targets_are_a_row_each_beside_their_context():
    algorithm, images = masked(Features(0, "layer")), photos().float() / 255
    masks = masked_images.fixed_masks(SEVERAL, 0, 5, algorithm.encoder.grid, CPU)
    found = masked_images.hidden_parts(images, masks, algorithm.encoder)
    assert list(found) == ["context", "target 1", "target 2", "target 3"]
    for image in range(5):
        for group in range(3):
            shown = set(masks.targets[0, 0, image, group].tolist())
            for patch in range(SIDE**2):
                rows, columns = square(patch)
                expected = images[image, :, rows, columns] if patch in shown else torch.tensor(GRAY / 255)
                assert (found[f"target {group + 1}"][image, :, rows, columns] == expected).all()
    assert masked_images.reconstructed(algorithm, images, masks) is None


@pytest.mark.parametrize("target", [Pixels(False), Pixels(True), Frequencies(1.0)], ids=["pixels", "mae", "dct"])
@pytest.mark.parametrize("masking", [RANDOM, BLOCKS], ids=["random", "block"])
def test_perfect_predictions_reconstruct_the_image(target, masking, monkeypatch):
    algorithm = masked(target, predictor=LinearPredictor, hidden="replaced")
    images = photos().float() / 255
    masks = masked_images.fixed_masks(masking, 0, 5, algorithm.encoder.grid, CPU)
    worse = masked_images.reconstructed(algorithm, images, masks)
    assert (worse - images).abs().max() > 0.2
    seen = Masked.hidden_patches

    def perfect(self, views, masks):
        found = seen(self, views, masks)
        return replace(found, patches=replace(found.patches, predicted=found.patches.target))

    monkeypatch.setattr(Masked, "hidden_patches", perfect)
    found = masked_images.reconstructed(algorithm, images, masks)
    torch.testing.assert_close(found, images, atol=1e-5, rtol=0)
    for image, patch in (~masks.hidden[0, 0]).nonzero().tolist():
        rows, columns = square(patch)
        assert torch.equal(worse[image, :, rows, columns], images[image, :, rows, columns])


def test_a_prediction_of_zero_is_the_mean_color_where_patches_are_hidden():
    algorithm, images = masked(Pixels(False), predictor=LinearPredictor, hidden="replaced"), photos().float() / 255
    nn.init.zeros_(algorithm.predictor.layer.weight)
    nn.init.zeros_(algorithm.predictor.layer.bias)
    masks = masked_images.fixed_masks(RANDOM, 0, 5, algorithm.encoder.grid, CPU)
    found = masked_images.reconstructed(algorithm, images, masks)
    for image, patch in masks.hidden[0, 0].nonzero().tolist():
        rows, columns = square(patch)
        expected = torch.tensor(MEAN).view(3, 1, 1).expand(3, PATCH, PATCH)
        torch.testing.assert_close(found[image, :, rows, columns], expected)


def entropy(predicted, target):
    return float(-((target / 0.05).softmax(0) * (predicted / 0.2).log_softmax(0)).sum())


CROSS = PatchCrossEntropy(
    student_temperature=0.2,
    teacher_temperature=0.05,
    warmup_teacher_temperature=0.05,
    warmup_share=0.0,
    center_momentum=0.9,
)


@pytest.mark.parametrize(
    ("target", "loss", "predictor", "masking", "told"),
    [
        (Pixels(True), MeanSquaredError(), transformer, RANDOM, lambda p, t: float((p - t).square().mean())),
        (Features(0, "layer"), SmoothL1(0.0), transformer, SEVERAL, lambda p, t: float((p - t).abs().mean())),
        (Prototypes(), CROSS, None, BLOCKS, entropy),
    ],
    ids=["mae", "ijepa", "ibot"],
)
def test_the_error_of_a_place_is_the_mean_over_its_hidden_patches(target, loss, predictor, masking, told, monkeypatch):
    monkeypatch.setattr(masked_images, "PIECE", 3)
    algorithm = masked(target, loss, predictor, "replaced" if predictor is None else "dropped")
    images, errors = photos(7), {patch: [] for patch in range(SIDE**2)}
    for number, part in enumerate(images.split(3)):
        masks = masked_images.fixed_masks(masking, number, len(part), algorithm.encoder.grid, CPU)
        algorithm.eval()
        with torch.no_grad():
            patches = algorithm.hidden_patches(part[None].float() / 255, masks).patches
        for image, places in enumerate(masks.targets[0, 0].flatten(1).tolist()):
            for column, patch in enumerate(places):
                if masks.hidden[0, 0, image, patch]:
                    errors[patch].append(told(patches.predicted[image, column], patches.target[image, column]))
    algorithm.train()
    found = masked_images.errors_by_place(algorithm, masking, images, CPU)
    expected = [sum(values) / len(values) if values else math.nan for values in errors.values()]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert found.shape == (SIDE, SIDE) and found.isfinite().any()
    assert algorithm.training


def test_pictures_repeat_themselves_and_leave_the_draws_of_training_alone():
    algorithm = masked(Pixels(True), predictor=with_noise)
    state = torch.get_rng_state()
    first, again = (masked_images.errors_by_place(algorithm, RANDOM, photos(40), CPU) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in algorithm.parameters())
