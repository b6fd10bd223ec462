"""Divides weights, gradients and optimizer state among processes, by torch's `fully_shard`. This is stage 3 of ZeRO
(Rajbhandari et al. 2019, arXiv:1910.02054).

Each process holds its rows of every weight. A block's weights are gathered while it computes, forward and backward, and
its gradients are averaged into rows as soon as they are complete. Losses, batch normalisation and draws are as without
sharding, and so is the result, up to rounding.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.algorithms.inner_loop import InnerLoop
from ssl_runner.errors import InvalidValue
from ssl_runner.models.network import Encoder
from ssl_runner.runtime import process_group
from ssl_runner.runtime.collectives import is_shard, own_rows, whole

INSTEAD = "set trainer.shard=false"


def misfits(method: type[Algorithm], compile: bool | str) -> list[str]:
    """What stands against sharding, by what is known before the network is built."""
    problems = []
    if process_group.size() == 1:
        problems.append(
            "trainer.shard=true divides the weights among processes, but there is one; start several "
            f"(torchrun --nproc-per-node=2 -m ssl_runner.train ...), or {INSTEAD}"
        )
    if issubclass(method, InnerLoop):
        problems.append(
            f"trainer.shard=true, but {method.__name__} adapts copies of the weights in its inner loop, which needs "
            f"all of them; {INSTEAD}, and lower memory with trainer.accumulate_grad_batches"
        )
    if compile is True:
        problems.append("trainer.shard=true, compile=true: sharded networks are not compiled; set trainer.compile=auto")
    return problems


def refuse_weights(algorithm: Algorithm) -> None:
    """Raises ValueError for weights that cannot be divided: without rows, or shared by blocks."""
    places: dict[int, tuple[str, nn.Module | None]] = {}
    owners = {id(part): block for block in blocks(algorithm) for part in block.modules()}
    for path, part in algorithm.named_modules():
        for name, weight in part.named_parameters(path, recurse=False):
            first, owner = places.setdefault(id(weight), (name, owners.get(id(part))))
            if weight.ndim == 0:
                raise InvalidValue(f"trainer.shard=true, but {name} is one number, which has no rows; {INSTEAD}")
            if owner is not owners.get(id(part)):
                raise InvalidValue(
                    f"trainer.shard=true, but {name} is also {first}, and blocks that share a weight cannot be "
                    f"gathered one after the other; {INSTEAD}, or choose an encoder without shared weights"
                )


def blocks(algorithm: nn.Module) -> list[nn.Module]:
    """The parts of encoders whose weights are gathered together: transformer and residual blocks.

    These are the innermost elements of lists (``Sequential`` or ``ModuleList``) that consist of several modules with
    weights. What is in no block is gathered at the start of a step.
    """
    encoders = [part for part in algorithm.modules() if isinstance(part, Encoder)]
    return [block for encoder in encoders for block in _blocks(encoder.backbone)]


def _blocks(module: nn.Module) -> list[nn.Module]:
    found = []
    for part in module.children():
        inner = _blocks(part)
        is_list = isinstance(module, nn.Sequential | nn.ModuleList) and not isinstance(part, nn.ModuleList)
        weighted = sum(any(True for _ in child.parameters()) for child in part.children())
        found += inner or ([part] if is_list and weighted > 1 else [])
    return found


def shard(algorithm: Algorithm, device: torch.device, channels_last: bool) -> Algorithm:
    """A sharded copy of an algorithm, to be trained. The given one goes to the CPU's memory in process 0, which writes
    and evaluates, and loses its content in the others.

    Args:
        algorithm: Equal in all processes.
        device: Where the copy is trained.
        channels_last: Whether maps have this memory format. Weights are divided in rows, so they cannot have it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    trained = copy.deepcopy(algorithm.to("cpu")).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    if process_group.rank() > 0:
        algorithm.to("meta")
    mesh = init_device_mesh(device.type, (process_group.size(),))
    for block in blocks(trained):
        fully_shard(block, mesh=mesh)
    fully_shard(trained, mesh=mesh)
    register_fsdp_forward_method(trained, "training_step")
    for part in trained.modules():
        if isinstance(part, FSDPModule):
            part.set_custom_all_gather(_AllGather())  # pyright: ignore[reportArgumentType]
            part.set_custom_reduce_scatter(_ReduceScatter())  # pyright: ignore[reportArgumentType]
            part.set_force_sum_reduction_for_comms(True)  # gloo has no mean
        elif isinstance(part, nn.Conv2d) and channels_last:
            part.register_forward_pre_hook(_in_channels_last)
    return trained


def _in_channels_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(maps.contiguous(memory_format=torch.channels_last) for maps in inputs)


class _Buffers:
    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _AllGather(_Buffers):
    """`fully_shard`'s exchange of weights, which notices a process that is lost or does not answer."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        work = process_group.begin(dist.all_gather_into_tensor, output_tensor, input_tensor, group)
        return work if async_op else process_group.finish(work, output_tensor.is_cuda)


class _ReduceScatter(_Buffers):
    """`fully_shard`'s exchange of gradients, likewise."""

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        work = process_group.begin(dist.reduce_scatter_tensor, output_tensor, input_tensor, op, group)
        return work if async_op else process_group.finish(work, output_tensor.is_cuda)


@contextmanager
def gathered(trained: Algorithm, algorithm: Algorithm, device: torch.device) -> Iterator[None]:
    """Inside, process 0's whole algorithm has the weights of the sharded one, on the device. All processes enter."""
    gather(trained, algorithm, device)
    yield
    if process_group.rank() == 0:
        algorithm.to("cpu")


def gather(trained: Algorithm, algorithm: Algorithm, device: torch.device) -> None:
    """Give the whole algorithm the weights of the sharded one, and move it to the device; in process 0."""
    state = whole_state(trained)
    if process_group.rank() == 0:
        algorithm.to(device).load_state_dict(state)


def whole_state(part: Any) -> dict[str, Any]:
    """The ``state_dict()`` of an algorithm or optimizer, with whole tensors in process 0, and in the others without
    content. All processes call this.
    """
    kept = process_group.rank() == 0

    def gathered(value: Any) -> Any:
        if not isinstance(value, Tensor) or not is_shard(value):
            return value
        return whole(value).to("cpu" if kept else "meta")

    return tree_map(gathered, part.state_dict())


def load(algorithm: Algorithm, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give an algorithm and its optimizer the whole tensors of a checkpoint; a sharded one takes its rows."""
    own = algorithm.state_dict()
    algorithm.load_state_dict({name: _like(value, own.get(name)) for name, value in state["algorithm"].items()})
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in state["optimizer"]["param_groups"] for number in group["params"]]
    moments = dict(state["optimizer"]["state"])
    for number, weight in zip(numbers, weights, strict=False):  # torch refuses another number of them
        if number in moments:
            moments[number] = {name: _like(value, weight) for name, value in moments[number].items()}
    optimizer.load_state_dict(dict(state["optimizer"]) | {"state": moments})


def _like(value: Any, held: Any) -> Any:
    """This process's rows of a whole tensor, if the one that is held is sharded and has the same shape."""
    if not isinstance(value, Tensor) or held is None or not is_shard(held) or value.shape != held.shape:
        return value
    from torch.distributed.tensor import DTensor

    share = -(-len(value) // process_group.size())
    rows = value.contiguous()[share * process_group.rank() :][:share].to(own_rows(held).device)
    layout = held.device_mesh, held.placements  # pyright: ignore[reportAttributeAccessIssue]
    return DTensor.from_local(rows, *layout, run_check=False, shape=value.shape, stride=held.stride())
