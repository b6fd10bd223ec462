"""Batch normalisation over the batch of all processes. torch's own version refuses tensors on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_runner.errors import InvalidValue
from ssl_runner.models.blocked_sums import Blocked, Blocked1d, Blocked2d, BlockedPlain2d, sum_in_blocks
from ssl_runner.runtime import collectives, process_group


class _Synchronised(Blocked):
    """In training, uses the mean and variance of the rows of all processes, also in the gradients.

    All processes have equally many rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        within_a_task = getattr(self, "statistics", "module") != "module"
        if process_group.size() == 1 or not self.training or within_a_task:
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        n = process_group.size() * input.numel() // input.shape[1]
        kind = torch.promote_types(input.dtype, torch.float32)
        wide = input.to(kind)
        own_variance, own_mean = (part.double() for part in torch.var_mean(wide, axes, correction=0))
        # one message; in float64, because the mean square minus the squared mean cancels
        moments = torch.stack([own_mean, own_variance + own_mean.square()])
        mean, square = collectives.total(moments) / process_group.size()
        variance = (square - mean.square()).clamp_min(0)
        self.remember(mean.detach(), variance.detach() * (n / (n - 1)))
        shape = [1, -1, *[1] * (input.ndim - 2)]
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        normalised = wide * scale.to(kind).view(shape) + shift.to(kind).view(shape)
        return normalised.to(input.dtype)


class _Synchronised1d(_Synchronised, Blocked1d):
    pass


class _Synchronised2d(_Synchronised, Blocked2d):
    pass


class _SynchronisedPlain2d(_Synchronised, BlockedPlain2d):
    pass


KINDS = {Blocked1d: _Synchronised1d, Blocked2d: _Synchronised2d, BlockedPlain2d: _SynchronisedPlain2d}


def synchronise(module: nn.Module) -> None:
    """Makes every batch normalisation in a module use the batch of all processes. State and parameter names stay the
    same.

    Raises:
        ValueError: A layer is of a class that does more than normalise.
    """
    sum_in_blocks(module)
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, _Synchronised):
            if type(part) not in KINDS:
                raise InvalidValue(
                    f"{name} is a {type(part).__name__}, whose statistics cannot span several processes; "
                    "choose an encoder without it, or one process"
                )
            part.__class__ = KINDS[type(part)]


@contextmanager
def in_turn(module: nn.Module) -> Iterator[None]:
    """Lets each process normalise its own pieces of the batch inside the block.

    Afterwards, running averages are those of a single process that saw the pieces of all processes in order.
    """
    processes = process_group.size()
    layers = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if processes == 1 or not module.training or not layers:
        yield
        return
    averages = [average for layer in layers for average in (layer.running_mean, layer.running_var)]
    counts = [layer.num_batches_tracked for layer in layers]
    before = torch.cat(averages).clone()  # pyright: ignore[reportArgumentType]
    counted = [count.clone() for count in counts]  # pyright: ignore[reportOptionalMemberAccess]
    yield
    kept = []  # the share of the earlier average that is left after this process's pieces, per channel
    for layer, earlier in zip(layers, counted, strict=True):
        seen = layer.num_batches_tracked - earlier  # pyright: ignore[reportOptionalOperand]
        share = (1 - (layer.momentum or 0.0)) ** seen.to(before.dtype)
        kept.append(share.expand(2 * layer.num_features))
        layer.num_batches_tracked.add_((processes - 1) * seen)  # pyright: ignore[reportOptionalMemberAccess]
    share = torch.cat(kept)
    result = before
    for own in collectives.gather(torch.cat(averages)[None]):  # pyright: ignore[reportArgumentType]
        result = share * result + (own - share * before)
    for average, value in zip(averages, result.split([len(average) for average in averages]), strict=True):  # pyright: ignore
        assert average is not None
        average.data.copy_(value)  # autograd saved it for the backward pass, which does not read it
