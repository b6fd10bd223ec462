"""Pictures of masked prediction: what is hidden, what the algorithm puts in its place, and where it errs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.algorithms.masked import Masked
from ssl_runner.data.masking import Masking
from ssl_runner.data.masking.masking import Masks
from ssl_runner.models.features import evaluating
from ssl_runner.models.patches import Grid, patchify, take, unpatchify
from ssl_runner.models.vit import ViT
from ssl_runner.report.maps import heat_picture
from ssl_runner.report.pictures import GRAY, gallery
from ssl_runner.runtime import process_group
from ssl_runner.runtime.step_context import StepContext

SEED = 0
PIECE = 64  # images whose masks are drawn, and predicted, together


def log_masked_images(
    writer: SummaryWriter, algorithm: Masked, masking: Masking, images: Tensor, device: torch.device, step: int
) -> None:
    """Log images with what is hidden, and what is predicted there if it has pixels.

    Args:
        images: uint8 (N, C, H, W). Their masks are the same at every step.
    """
    there = images.to(device).float() / 255
    masks = fixed_masks(masking, 0, len(images), algorithm.encoder.grid, device)
    rows = {"original": there} | hidden_parts(there, masks, algorithm.encoder)
    if (found := reconstructed(algorithm, there, masks)) is not None:
        rows["reconstruction"] = found
    writer.add_image("masked_images", gallery(rows), step)


def log_errors(
    writer: SummaryWriter, algorithm: Masked, masking: Masking, images: Tensor, device: torch.device, step: int
) -> None:
    """Log the mean loss of a patch at each place, over images uint8 (N, C, H, W)."""
    errors = errors_by_place(algorithm, masking, images, device).cpu()
    known = errors[errors.isfinite()]
    if not len(known):
        return
    least, greatest = float(known.min()), float(known.max())
    notes = [
        "mean loss of a hidden patch, by place",
        f"{len(images)} images, mean {float(known.mean()):.3g}",
        f"dark: {least:.3g}, bright: {greatest:.3g}",
        "gray: never hidden",
    ]
    shares = (errors - least) / max(greatest - least, 1e-12)
    writer.add_image("error_by_place", heat_picture(shares, notes[: 3 + bool(errors.isnan().any())]), step)


def fixed_masks(masking: Masking, number: int, images: int, grid: Grid, device: torch.device) -> Masks:
    """The first mask of each of so many images of one view, always the same for a number."""
    with process_group.single_process():  # process 0 alone draws pictures
        masks = masking(SEED, number, 1, images, grid, device)
    return masks.each(lambda tensor: tensor[:, :1])


def hidden_parts(images: Tensor, masks: Masks, encoder: ViT) -> dict[str, Tensor]:
    """Images (B, C, H, W) with what the student sees, and of several groups of targets also each group; the rest gray.

    Args:
        masks: Of one view, one each.
        encoder: The student's.
    """
    targets = masks.targets[0, 0]  # (B, Q, P)
    seen = {"hidden": ~masks.hidden[0, 0]}
    if targets.shape[1] > 1:
        seen = {"context": ~masks.hidden[0, 0]}
        for group in range(targets.shape[1]):
            seen[f"target {group + 1}"] = torch.zeros_like(masks.hidden[0, 0]).scatter_(1, targets[:, group], True)
    return {name: torch.where(pixels_of(patches, encoder), images, GRAY / 255) for name, patches in seen.items()}


def reconstructed(algorithm: Masked, images: Tensor, masks: Masks) -> Tensor | None:
    """Images (B, C, H, W) in [0, 1] with predictions at the hidden places that are predicted; None if these have no
    pixels. Hidden places that are not predicted are gray.
    """
    network, encoder = algorithm.network.encoder, algorithm.encoder
    places = masks.targets[0, 0].flatten(1)
    with _at_rest(algorithm, images.device):
        patches = algorithm.hidden_patches(images[None], masks).patches
        assert patches is not None
        true = patchify(network.prepare(images), encoder.patch_size)
        made = algorithm.target.picture(patches.predicted.float(), take(true, places))
    if made is None:
        return None
    whole = true.scatter(1, places[..., None].expand_as(made), made.to(true.dtype))
    normalised = unpatchify(whole, encoder.patch_size, (images.shape[2], images.shape[3]))
    hidden = masks.hidden[0, 0]  # targets that only fill up a group are visible
    predicted = hidden & torch.zeros_like(hidden).scatter_(1, places, True)
    seen = torch.where(pixels_of(hidden, encoder), GRAY / 255, images)
    return torch.where(pixels_of(predicted, encoder), normalised * network.std + network.mean, seen)


def errors_by_place(algorithm: Masked, masking: Masking, images: Tensor, device: torch.device) -> Tensor:
    """The mean loss (h, w) of a hidden patch at each place, nan where none was, over images uint8 (N, C, H, W)."""
    grid = algorithm.encoder.grid
    total, count = torch.zeros(2, grid.patches, device=device)
    context = StepContext(0, 1, SEED, device)
    with _at_rest(algorithm, device):
        for number, part in enumerate(images.split(PIECE)):
            masks = fixed_masks(masking, number, len(part), grid, device)
            seen = algorithm.hidden_patches(part.to(device)[None].float() / 255, masks)
            assert seen.patches is not None
            # a loss is the mean of its patches by their weights, so its gradient by a weight is the loss of the patch
            weights = seen.patches.weights.clone().requires_grad_()
            with torch.enable_grad():
                loss, _ = algorithm.loss(replace(seen, patches=replace(seen.patches, weights=weights)), context)
                (told,) = torch.autograd.grad(loss * len(weights), weights)
            counted = seen.patches.weights > 0
            places = masks.targets[0, 0].flatten(1)[counted]
            total.index_add_(0, places, told[counted].float())
            count.index_add_(0, places, torch.ones_like(places, dtype=total.dtype))
    return (total / count).view(grid)


def pixels_of(patches: Tensor, encoder: ViT) -> Tensor:
    """bool (B, 1, H, W), of patches bool (B, N)."""
    squares = patches.unflatten(1, encoder.grid)[:, None]
    return squares.repeat_interleave(encoder.patch_size, 2).repeat_interleave(encoder.patch_size, 3)


@contextmanager
def _at_rest(algorithm: Masked, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradient; a predictor's noise is always the same, and training's own draws go on."""
    with evaluating(algorithm), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        yield
