"""What is predicted of a patch, one patch at a time."""

import math

import pytest
import torch
from small_vits import encoder_of, small_vit

from ssl_runner.algorithms.patch_targets import Features, Frequencies, Pixels, Prototypes, Whole, cosine_transform
from ssl_runner.losses.loss import Embeddings, Patches
from ssl_runner.losses.patches import MeanSquaredError
from ssl_runner.models.heads import Prototyped
from ssl_runner.models.network import Network
from ssl_runner.models.patches import patchify, take
from ssl_runner.models.vit import ViT
from ssl_runner.runtime.step_context import StepContext

CONTEXT = StepContext(0, 10, 0, torch.device("cpu"))
PLACES = torch.tensor([[3, 0, 15, 3], [7, 8, 1, 2]])


def images(channels: int, side: int = 16) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1)).double()


def network(channels: int = 1) -> Network:
    torch.manual_seed(0)
    return Network(encoder_of(small_vit(channels), channels), Prototyped(192, None, 8, 6, 11)).double()


def student(made: Network) -> ViT:
    backbone = made.encoder.backbone
    assert isinstance(backbone, ViT)
    return backbone


def targets(target, channels: int = 1) -> tuple[torch.Tensor, Whole, ViT]:
    made = network(channels)
    vit = student(made)
    whole = Whole(images(channels), vit.tokens(images(channels), layers=target.layers), made)
    found = target(whole, PLACES, vit)
    assert found.shape == (2, 4, target.width(made, vit, channels))
    return found, whole, vit


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def patch_of(image: torch.Tensor, place: int, side: int = 4) -> torch.Tensor:
    row, column = divmod(place, image.shape[-1] // side)
    return image[:, side * row : side * row + side, side * column : side * column + side]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalised", [False, True])
def test_pixels_equal_a_loop(normalised, channels):
    found, whole, _ = targets(Pixels(normalised), channels)
    for r in range(2):
        for p in range(4):
            pixels = patch_of(whole.images[r], int(PLACES[r, p])).flatten()
            if normalised:
                mean = sum(pixels) / len(pixels)
                variance = sum((pixel - mean) ** 2 for pixel in pixels) / (len(pixels) - 1)
                pixels = (pixels - mean) / torch.sqrt(variance + 1e-6)
            close(found[r, p], pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("share", "kept"), [(1.0, 4), (0.5, 2), (0.1, 1)])
def test_frequencies_equal_sums_of_cosines(share, kept, channels):
    found, whole, _ = targets(Frequencies(share), channels)
    for r in range(2):
        for p in range(4):
            patch, expected = patch_of(whole.images[r], int(PLACES[r, p])), []
            for c in range(channels):
                for u in range(kept):
                    for v in range(kept):
                        scale = math.prod(math.sqrt(0.5 if k else 0.25) for k in (u, v))
                        total = sum(
                            patch[c, i, j]
                            * math.cos(math.pi * (i + 0.5) * u / 4)
                            * math.cos(math.pi * (j + 0.5) * v / 4)
                            for i in range(4)
                            for j in range(4)
                        )
                        expected.append(total * scale)
            close(found[r, p], torch.stack(expected))


def test_the_cosine_transform_is_orthonormal():
    for side in (1, 2, 4, 7, 16):
        rows = cosine_transform(side, torch.empty(0).double())
        close(rows @ rows.T, torch.eye(side).double())
        assert rows.dtype == torch.float64


@pytest.mark.parametrize("channels", [1, 3])
def test_all_frequencies_with_mse_are_pixels_with_mse(channels):
    """The transform keeps lengths, so a prediction and its transform have the same loss."""
    predicted = torch.randn(2, 4, channels * 16).double()
    weights = torch.full((2, 4), 0.25).double()
    pixels, _, _ = targets(Pixels(False), channels)
    frequencies, _, _ = targets(Frequencies(1.0), channels)
    transform = cosine_transform(4, predicted)
    moved = (transform @ predicted.unflatten(-1, (-1, 4, 4)) @ transform.T).flatten(-3)
    losses = [
        MeanSquaredError()(Embeddings(predicted[None], patches=Patches(one, other, weights)), CONTEXT)[0]
        for one, other in ((predicted, pixels), (moved, frequencies))
    ]
    close(*losses)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [2, 3, 4, 6, 12])
@pytest.mark.parametrize("target", [Pixels(False), Pixels(True), Frequencies(1.0)], ids=["pixels", "normalised", "all"])
def test_a_picture_of_the_target_is_the_image(target, side, channels):
    vit = small_vit(channels, 2 * side, side)
    whole = Whole(images(channels, 2 * side), None, None)
    places = torch.arange(4).expand(2, 4)
    reference = patchify(whole.images, side)
    close(target.picture(target(whole, places, vit), reference), reference)


@pytest.mark.parametrize(("channels", "side"), [(1, 6), (3, 4)])
def test_a_picture_of_low_frequencies_is_the_closest_smooth_image(channels, side):
    target, vit = Frequencies(0.5), small_vit(channels, 2 * side, side)
    whole = Whole(images(channels, 2 * side), None, None)
    reference = patchify(whole.images, side)
    shown = target.picture(target(whole, torch.arange(4).expand(2, 4), vit), reference)
    assert 0 < (shown - reference).square().mean() < reference.square().mean()
    again = target(Whole(torch.nn.functional.fold(shown.mT, 2 * side, side, stride=side), None, None), PLACES % 4, vit)
    close(again, target(whole, PLACES % 4, vit))


@pytest.mark.parametrize("normalise", ["layer", "instance", "none"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_features_equal_loops_over_blocks_and_patches(layers, normalise):
    found, whole, _ = targets(Features(layers, normalise))
    assert whole.tokens is not None
    outputs = list(whole.tokens.layers) if layers else [whole.tokens.patches]
    assert len(outputs) == max(1, layers)

    def scaled(values: torch.Tensor) -> torch.Tensor:
        mean = sum(values) / len(values)
        return (values - mean) / torch.sqrt(sum((values - mean) ** 2) / len(values) + 1e-5)

    for r in range(2):
        normed = []
        for output in outputs:
            rows = output[r]
            if normalise == "layer":
                rows = torch.stack([scaled(row) for row in rows])
            elif normalise == "instance":
                rows = torch.stack([scaled(column) for column in rows.T], dim=1)
            normed.append(rows)
        mean = sum(normed) / len(normed)
        for p in range(4):
            expected = mean[PLACES[r, p]]
            close(found[r, p], scaled(expected) if layers > 1 and normalise == "layer" else expected)


def test_prototypes_are_the_heads_scores_of_a_patch():
    found, whole, _ = targets(Prototypes())
    assert whole.tokens is not None and whole.teacher is not None
    for r in range(2):
        for p in range(4):
            close(found[r, p], whole.teacher.head(whole.tokens.patches[r, PLACES[r, p]][None])[0])


@pytest.mark.parametrize("target", [Pixels(True), Frequencies(0.5), Features(2, "instance"), Features(0, "layer")])
def test_half_precision_of_the_forward_pass_does_not_round_targets(target):
    """Their inputs may be rounded, but what is made of them is float32."""
    made = network().float()
    vit = student(made)
    whole = Whole(images(1).float(), vit.tokens(images(1).float(), layers=target.layers), made)
    full = target(whole, PLACES, vit)
    with torch.autocast("cpu", torch.bfloat16):
        low = target(whole, PLACES, vit)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Frequencies(0.0), "share=0"),
        (lambda: Frequencies(1.1), "share=1.1"),
        (lambda: Features(-1, "layer"), "layers=-1"),
        (lambda: Features(1, "batch"), "normalise='batch'"),
        (lambda: targets(Features(3, "layer")), "target.layers=3, but the encoder has 2 blocks"),
    ],
)
def test_impossible_targets_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_features_and_prototypes_need_a_teacher_and_only_pixels_can_be_shown():
    assert [one.needs_teacher for one in (Pixels, Frequencies, Features, Prototypes)] == [False, False, True, True]
    assert Features(0, "none").picture(torch.zeros(1, 1, 16), torch.zeros(1, 1, 16)) is None
    assert take(torch.arange(6.0).view(1, 3, 2), torch.tensor([[2]])).tolist() == [[[4.0, 5.0]]]
