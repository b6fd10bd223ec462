"""The tiled form compared with the plain one, whose closed forms and naive references are in the tests of each loss."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_runner.losses import similarity, tiled
from ssl_runner.losses.dcl import DCL
from ssl_runner.losses.debiased import Debiased
from ssl_runner.losses.hard_negative import HardNegative
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.similarity import plain_comparison, unit
from ssl_runner.losses.supcon import SupCon
from ssl_runner.losses.tiled import tiled_comparison
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
LOSSES: dict[str, Callable[[float], Loss]] = {
    "nt_xent": NTXent,
    "debiased": lambda temperature: Debiased(temperature, 0.1),
    "hcl": lambda temperature: HardNegative(temperature, 0.1, 1.0),
    "hcl, beta 0": lambda temperature: HardNegative(temperature, 0.0, 0.0),
    "dcl": lambda temperature: DCL(temperature, None),
    "dclw": lambda temperature: DCL(temperature, 0.5),
    "supcon": SupCon,
}
# 1 / 0.04 and 1 / 0.02 are on different sides of STEEP, and so are HCL's two scales at 0.04
TEMPERATURES = [1.0, 0.2, 0.04, 0.02]


@pytest.fixture
def form(monkeypatch):
    """Sets the form of the losses, with tiles of 5 rows."""
    monkeypatch.setattr(tiled, "EDGE", 5)
    return lambda name: monkeypatch.setattr(similarity, "TILED_FROM", {"plain": math.inf, "tiled": 0}[name])


def batch(n: int = 13, d: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(0)
    first = torch.randn(n, d, dtype=dtype)
    return torch.stack([first, first + torch.randn(n, d, dtype=dtype)])


def results(loss: Loss, online: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Value, gradient and metrics."""
    leaf = online.detach().requires_grad_()
    labels = torch.arange(online.shape[1]) % 4 if labels is None else labels
    value, metrics = loss(Embeddings(leaf, labels=labels), CLOCK)
    return value.detach(), torch.autograd.grad(value, leaf)[0], metrics


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor created."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [value.numel() for value in tree_leaves(made) if isinstance(value, Tensor)]
        self.numel = max([self.numel, *sizes])
        return made


@pytest.mark.parametrize("n", [2, 3, 5, 13])  # partners in one tile, in two, and tiles that are not full
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_gradient_and_metrics_equal_those_of_the_plain_form(form, name, temperature, n):
    found = {}
    for kind in ("plain", "tiled"):
        form(kind)
        found[kind] = results(LOSSES[name](temperature), batch(n))
    torch.testing.assert_close(found["tiled"][0], found["plain"][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["tiled"][1], found["plain"][1], rtol=1e-12, atol=1e-12)
    assert found["tiled"][2].keys() == found["plain"][2].keys()
    for metric, value in found["plain"][2].items():
        torch.testing.assert_close(found["tiled"][2][metric], value, rtol=1e-12, atol=1e-12, msg=metric)


@pytest.mark.parametrize("temperature", [*TEMPERATURES, 0.002])
@pytest.mark.parametrize("name", LOSSES)
def test_float32_stays_close_to_float64_even_if_e_to_the_scale_would_overflow(form, name, temperature):
    form("tiled")
    exact, exact_gradient, _ = results(LOSSES[name](temperature), batch())
    value, gradient, metrics = results(LOSSES[name](temperature), batch().float())
    assert value.dtype == gradient.dtype == torch.float32
    assert all(torch.isfinite(metric) for metric in metrics.values())
    # a cosine's rounding is multiplied by 1 / temperature
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6 / temperature)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-4, atol=1e-6 / temperature)


@pytest.mark.parametrize("views", [1, 3])
def test_labels_that_occur_once_are_treated_as_in_the_plain_form(form, views):
    torch.manual_seed(0)
    online, labels = torch.randn(views, 9, 4, dtype=torch.float64), torch.tensor([7, -1, 7, 2, 5, 2, 2, 9, 0])
    found = {}
    for kind in ("plain", "tiled"):
        form(kind)
        found[kind] = results(SupCon(0.1), online, labels)
    assert found["tiled"][2]["anchors_without_positive"].item() == pytest.approx(4 / 9 if views == 1 else 0)
    torch.testing.assert_close(found["tiled"], found["plain"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scales", [(3.0,), (0.0, 2.0), (30.0, 60.0)])
@pytest.mark.parametrize("apart", [None, 7])
def test_the_gradient_is_the_limit_of_differences(form, scales, apart):
    form("tiled")
    rows = unit(batch(7, 3)).flatten(0, 1).requires_grad_()
    upstream = torch.randn(len(scales), 14, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: (tiled_comparison(z, scales, apart, None, True).log_sums * upstream).sum(), rows
    )


@pytest.mark.parametrize("scale", [2.0, 50.0])
def test_rows_need_not_be_contiguous_in_memory(form, scale):
    form("tiled")
    rows = unit(batch(8, 4)).flatten(0, 1).T.contiguous().T
    assert not rows.is_contiguous()
    strided, dense = rows.detach().requires_grad_(), rows.contiguous().requires_grad_()
    for leaf in (strided, dense):
        tiled_comparison(leaf, (scale,), 8, None, False).log_sums.sum().backward()
    assert strided.grad is not None
    torch.testing.assert_close(strided.grad, dense.grad, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equal_embeddings_give_the_log_of_all_others(form, temperature):
    form("tiled")
    online = torch.ones(2, 13, 4, dtype=torch.float64)
    for name in ("nt_xent", "debiased", "hcl", "supcon"):
        assert results(LOSSES[name](temperature), online)[0].item() == pytest.approx(math.log(25), abs=1e-12)
    assert results(DCL(temperature, None), online)[0].item() == pytest.approx(math.log(24), abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_grows_with_the_square_of_the_batch(form, monkeypatch, name):
    form("tiled")
    monkeypatch.setattr(tiled, "EDGE", 24)
    for n in (50, 100):
        with Largest() as largest:
            results(LOSSES[name](0.1), batch(n))
        assert largest.numel == 2 * n * 6, "the embeddings themselves, (2, n, 6)"


@pytest.mark.parametrize(("rows", "largest"), [(63, 63 * 63), (64, 64 * 4)])
def test_few_rows_use_the_plain_form_and_many_rows_the_tiled_one(form, monkeypatch, rows, largest):
    monkeypatch.setattr(similarity, "TILED_FROM", 64)
    with Largest() as seen:
        similarity.compare_all(unit(torch.ones(rows, 4)), (1.0,))
    assert seen.numel == largest


def test_a_step_can_be_rehearsed_without_numbers(form):
    form("tiled")
    for make in LOSSES.values():
        online = torch.empty(2, 13, 4, device="meta", requires_grad=True)
        loss, _ = make(0.02)(Embeddings(online, labels=torch.empty(13, dtype=torch.long, device="meta")), CLOCK)
        loss.backward()
        assert online.grad is not None and online.grad.shape == online.shape


def test_a_backward_pass_under_autocast_keeps_its_precision(form):
    form("tiled")
    gradients = []
    for half in (False, True):
        leaf = batch().float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            NTXent(0.1)(Embeddings(leaf), CLOCK)[0].backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_a_second_derivative_is_refused_in_tiles_but_exists_in_the_plain_form(form):
    leaf = batch(4).requires_grad_()
    form("plain")
    (gradient,) = torch.autograd.grad(NTXent(0.5)(Embeddings(leaf), CLOCK)[0], leaf, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), leaf)[0].abs().sum() > 0
    form("tiled")
    (gradient,) = torch.autograd.grad(NTXent(0.5)(Embeddings(leaf), CLOCK)[0], leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


def test_only_sums_have_a_gradient():
    for compare in (plain_comparison, tiled_comparison):
        found = compare(unit(torch.randn(6, 3)).requires_grad_(), (1.0,), 3, torch.arange(6) % 2, True)
        assert [value.requires_grad for value in found] == [True, False, False, False]
