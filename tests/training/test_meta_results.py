"""Answers from memory are those of torch."""

import pytest
import small_vits
import torch
import torch.nn.functional as F
from run_folders import MAML, VIEWS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ssl_runner
from ssl_runner.training.meta_results import MetaResults
from ssl_runner.wiring import wire


class Remembering(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.results = MetaResults()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.results.of(func, args, kwargs or {})


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def forms(value) -> list[tuple]:
    """Shape, stride, type and size in memory of each tensor."""
    values = value if isinstance(value, tuple | list) else [value]
    return [(one.shape, one.stride(), one.dtype, one.untyped_storage().nbytes()) for one in values]


IMAGES, WHOLE = meta(4, 3, 8, 8), meta(5, dtype=torch.int64)
OPERATIONS = {
    "a linear layer": lambda: F.linear(meta(7, 3), meta(5, 3), meta(5)),
    "a convolution": lambda: F.conv2d(IMAGES, meta(6, 3, 3, 3), stride=2),
    "in channels last": lambda: F.conv2d(IMAGES.to(memory_format=torch.channels_last), meta(6, 3, 3, 3)),
    "another layout in the next": lambda: F.conv2d(IMAGES, meta(6, 3, 3, 3)),
    "several results": lambda: torch.native_batch_norm(IMAGES, meta(3), meta(3), None, None, True, 0.1, 1e-5),
    "a whole number": lambda: WHOLE + 1,
    "a number that is none": lambda: WHOLE + 1.0,
    "a truth value": lambda: WHOLE + True,
    "a wider type": lambda: WHOLE + meta(5, dtype=torch.float16),
    "a type that was asked for": lambda: meta(5, 3).sum(0, dtype=torch.float64),
    "a tensor that is not on the device": lambda: WHOLE + torch.tensor(2.5),
    "complex numbers": lambda: torch.fft.rfft2(IMAGES).abs(),
    "a transposed argument": lambda: torch.relu(meta(3, 5).T),
    "an expanded argument": lambda: torch.relu(meta(3, 1).expand(3, 5)),
    "a list": lambda: torch.cat([meta(2, 3), meta(4, 3)]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_second_answer_is_the_first_in_storage_of_its_own(name):
    expected = OPERATIONS[name]()
    with Remembering():
        found = [OPERATIONS[name]() for _ in range(3)]
    assert [forms(one) for one in found] == [forms(expected)] * 3
    tensors = [tensor for one in found for tensor in (one if isinstance(one, tuple) else [one])]
    assert len({tensor.untyped_storage()._cdata for tensor in tensors}) == len(tensors)


def test_operations_that_differ_in_one_argument_are_told_apart():
    expected = [forms(operation()) for operation in OPERATIONS.values()]
    with Remembering():
        for _ in range(2):
            assert [forms(operation()) for operation in OPERATIONS.values()] == expected


def test_a_view_is_one_of_its_argument_and_what_is_written_is_returned():
    with Remembering():
        for _ in range(3):
            value = meta(4, 6)
            assert value.view(3, 8).untyped_storage()._cdata == value.untyped_storage()._cdata
            assert value.add_(1) is value
            assert value.unsqueeze_(0).shape == (1, 4, 6)
            other = meta(1, 4, 6)
            torch.ops.aten.set_.source_Tensor(value, other)
            assert value.untyped_storage()._cdata == other.untyped_storage()._cdata


RUNS = {
    "simclr": VIEWS,
    "moco": [*VIEWS, "algorithm=momentum", "loss=info_nce", "algorithm.queue_size=64", "algorithm.encode_chunks=2"],
    "maml": MAML,
    **{name: [*small_vits.RUN, *words] for name, words in small_vits.METHODS.items()},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_memory_of_a_step_is_what_it_is_without_any_memory_of_results(name, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "small_vits")
    found = wire.wire(ssl_runner.compose(RUNS[name])).step_bytes
    monkeypatch.setattr(MetaResults, "of", lambda _, operation, args, kwargs: operation(*args, **kwargs))
    assert found == wire.wire(ssl_runner.compose(RUNS[name])).step_bytes
    assert found is not None
