"""SIGReg: the loss of LeJEPA."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class SIGReg(Loss):
    """Prediction with sketched isotropic Gaussian regularisation (LeJEPA, Balestriero, LeCun 2025, arXiv:2511.08544).

    ``(1 - weight) prediction + weight gaussianity``. Prediction is the mean squared difference between every view's
    embedding and the mean of the global views' embeddings, both with gradient. Gaussianity projects each view's batch
    onto random directions and averages the Epps-Pulley statistic over directions and views:

        B * integral over t in [-t_max, t_max] of |mean_b exp(i t x_b) - exp(-t^2 / 2)|^2 exp(-t^2 / 2)

    with the trapezoidal rule. The integrand is even, so the ``knots`` lie on [0, t_max], both ends included, as in the
    authors' later code (the paper's Algorithm 1 has 17 on [-5, 5], which is t_max=5 and knots=9). The statistic is
    close to 1.05 for a sample of the standard normal, whatever the batch size, and otherwise grows with the batch size.
    The directions are drawn from the step context: new ones at every step, the same for all views and processes.

    Args:
        weight: In [0, 1]; lambda in the paper.
        slices: Number of random directions per step, at least 1.
        knots: At least 2.
        t_max: Above 0.
    """

    views = 2

    def __init__(self, weight: float, slices: int, knots: int, t_max: float) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise InvalidValue(f"weight={weight}; it is the share of the regulariser, so give a number in [0, 1]")
        for name, value, least in (("slices", slices, 1), ("knots", knots, 2)):
            if not value >= least:
                raise InvalidValue(f"{name}={value}; it must be at least {least}")
        if not t_max > 0:
            raise InvalidValue(
                f"t_max={t_max}; it is the upper limit of an integral from 0, so give a number above 0, say 3"
            )
        self.weight, self.slices, self.knots, self.t_max = weight, slices, knots, t_max

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), unnormalised, global views first."""
        online = embeddings.online.to(torch.promote_types(embeddings.online.dtype, torch.float32))
        center = online[: embeddings.global_views].mean(dim=0)
        prediction = (online - center).square().mean()
        gaussianity = self.gaussianity(online, context)
        loss = (1 - self.weight) * prediction + self.weight * gaussianity
        with torch.no_grad():
            metrics = {
                "prediction": prediction.detach(),
                "gaussianity": gaussianity.detach(),
                "embedding_std": online.std(dim=1, correction=0).mean(),
            }
        return loss, metrics

    def gaussianity(self, points: Tensor, context: StepContext) -> Tensor:
        """Mean Epps-Pulley statistic of points (V, B, D), over a batch B in each of V views."""
        generator = context.generator("sigreg")
        directions = torch.randn(points.shape[-1], self.slices, generator=generator, device=context.device)
        directions = directions.to(points.dtype)
        projected = points @ (directions / directions.norm(dim=0))  # (V, B, slices)
        t = torch.linspace(0, self.t_max, self.knots, dtype=points.dtype, device=points.device)
        normal = (-t.square() / 2).exp()
        gap = self.t_max / (self.knots - 1)
        real, imaginary = CharacteristicFunction.apply(projected * gap, self.knots)  # (V, slices, knots)
        error = ((real - normal).square() + imaginary.square()) * normal
        return 2 * torch.trapezoid(error, dx=gap, dim=-1).mean() * points.shape[1]


class CharacteristicFunction(torch.autograd.Function):
    """Mean over a batch of exp(i k angle) for k below ``knots``: angles (V, B, M) to real and imaginary parts (V, M,
    knots).

    Each power is the previous one times exp(i angle), in both the forward and the backward pass. Keeping sines and
    cosines of every multiple for the gradient would cost several times the time and ``knots`` times the memory.
    """

    @staticmethod
    def forward(ctx: Any, angles: Tensor, knots: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(angles)
        means = [(cosine.mean(dim=1), sine.mean(dim=1)) for cosine, sine in powers(angles, knots)]
        real, imaginary = zip(*means, strict=True)
        return torch.stack(real, dim=-1), torch.stack(imaginary, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (angles,) = ctx.saved_tensors
        real, imaginary = (gradient[:, None] / angles.shape[1] for gradient in gradients)  # (V, 1, M, knots)
        slope = torch.zeros_like(angles)
        for k, (cosine, sine) in enumerate(powers(angles, real.shape[-1])):
            slope += k * imaginary[..., k] * cosine - k * real[..., k] * sine
        return slope, None


def powers(angles: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the cosine and sine of 0, 1, ..., count - 1 times the angles."""
    turn_cosine, turn_sine = angles.cos(), angles.sin()
    cosine, sine = torch.ones_like(angles), torch.zeros_like(angles)
    for _ in range(count):
        yield cosine, sine
        cosine, sine = cosine * turn_cosine - sine * turn_sine, sine * turn_cosine + cosine * turn_sine
