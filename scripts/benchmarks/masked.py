"""Milliseconds of a masked step beside the same encoder's with nothing hidden.

MAE's forward and backward pass, ViT-tiny with patches of 4 pixels of 32 x 32 images, 75% hidden, the decoder of
`algorithm/predictor=transformer`, normalised pixels and their mean squared error. Beside it: forward and backward of
the encoder alone, with all patches, in float32 as well.
"""

from collections.abc import Callable, Iterator
from typing import Any

from .measure import apart, exponent, in_turn, median_ratio, medians, repeated
from .row import Goal, Row, Settings

SIDE, PATCH, SHARE = 32, 4, 0.75


def passes(blocks: int, images: int, times: int) -> dict[str, float]:
    """Milliseconds of the masked and the unmasked pass, in turn."""
    calls = step(blocks, images)
    return {name: 1000 * repeated(call, times) for name, call in calls.items()}


def step(blocks: int, images: int) -> dict[str, Callable[[], Any]]:
    """The masked and the unmasked forward and backward pass."""
    import torch

    from ssl_runner.algorithms.masked import Masked
    from ssl_runner.algorithms.patch_targets import Pixels
    from ssl_runner.config.building import build
    from ssl_runner.data.batches import Views
    from ssl_runner.data.masking import RandomMasking
    from ssl_runner.losses.patches import MeanSquaredError
    from ssl_runner.models.network import Encoder, Network
    from ssl_runner.models.vit import ViT
    from ssl_runner.runtime import allocator
    from ssl_runner.runtime.step_context import StepContext

    from .measure import checked

    allocator.keep_pages()  # as in a run
    node = checked(["experiment=mae_cifar10"])["algorithm"]
    vit = ViT(3, SIDE, "tiny", PATCH)
    vit.body.blocks = vit.body.blocks[:blocks]
    encoder = Encoder(vit, (3, SIDE, SIDE), [0.5] * 3, [0.25] * 3)
    given = {"target": Pixels(normalised=True), "predictor": build(node["predictor"], "algorithm.predictor")}
    plain = {key: value for key, value in node.items() if key not in ("_target_", *given)}
    algorithm = Masked(Network(encoder, torch.nn.Identity()), MeanSquaredError(), **given, **plain)
    views, cpu = torch.rand(1, images, 3, SIDE, SIDE), torch.device("cpu")
    masks = RandomMasking(SHARE, 1, 1)(0, 0, 1, images, vit.grid, cpu)
    batch = Views((views,), None, torch.arange(images), masks)

    def masked() -> None:
        algorithm.zero_grad()
        algorithm.training_step(batch, StepContext(0, 10, 0, cpu)).loss.backward()

    def unmasked() -> None:
        algorithm.zero_grad()
        encoder(views[0]).square().mean().backward()

    return {"masked": masked, "unmasked": unmasked}


def rows(settings: Settings) -> Iterator[Row]:
    """The ratio, and how the masked pass grows with the batch."""
    blocks, images, times = (1, 4, 1) if settings.quick else (12, 64, 3)
    rounds = in_turn({"both": lambda: apart(settings, passes, blocks, images, times)}, settings.rounds)["both"]
    found = medians(rounds)
    ratio = median_ratio(*([each[name] for each in rounds] for name in ("masked", "unmasked")))
    whole = "forward and backward of the encoder, nothing hidden"
    yield Row(
        "MAE, 75% hidden, with its decoder", found["masked"], "ms", whole, found["unmasked"], ratio, Goal(most=0.45)
    )
    sizes = [2, 4] if settings.quick else [16, 32, 64, 128]
    costs = [apart(settings, passes, blocks, size, times)["masked"] for size in sizes]
    yield Row(f"growth with the batch, {sizes[0]} to {sizes[-1]}", exponent(sizes, costs), "", goal=Goal(most=1.1))
