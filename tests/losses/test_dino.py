import math

import pytest
import torch

from ssl_runner.losses.dino import DINO
from ssl_runner.losses.loss import Embeddings
from ssl_runner.runtime.step_context import StepContext

PAPER = {
    "student_temperature": 0.1,
    "teacher_temperature": 0.07,
    "warmup_teacher_temperature": 0.04,
    "warmup_share": 0.1,
    "center_momentum": 0.9,
}


def context(step: int = 0, max_steps: int = 100) -> StepContext:
    return StepContext(step=step, max_steps=max_steps, seed=0, device=torch.device("cpu"))


def dino(**changes: float) -> DINO:
    return DINO(**{**PAPER, **changes})


def naive(online, target, center, student_temperature: float, teacher_temperature: float) -> torch.Tensor:
    """Equations 1 and 3, one pair of views, one image and one dimension at a time."""
    terms = []
    for g in range(len(target)):
        for v in range(len(online)):
            for b in range(online.shape[1]):
                if v != g:
                    teacher = torch.exp((target[g, b] - center) / teacher_temperature)
                    student = torch.exp(online[v, b] / student_temperature)
                    terms.append(
                        -sum(
                            teacher[k] / teacher.sum() * torch.log(student[k] / student.sum())
                            for k in range(len(student))
                        )
                    )
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("views", "global_views"), [(2, 2), (5, 2), (3, 1)])
@pytest.mark.parametrize(("step", "temperature"), [(0, 0.04), (5, 0.055), (50, 0.07)])
def test_equals_a_loop_over_views_and_images_with_its_gradient(views, global_views, step, temperature):
    torch.manual_seed(0)
    online = torch.randn(views, 4, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randn(global_views, 4, 6, dtype=torch.float64)
    loss = dino().double()
    loss.center = torch.randn(6, dtype=torch.float64)
    ours, _ = loss(Embeddings(online, target=target), context(step))
    reference = naive(online, target, loss.center, 0.1, temperature)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    (mine,) = torch.autograd.grad(ours, online)
    (theirs,) = torch.autograd.grad(reference, online)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_uniform_student_costs_the_log_of_the_dimensions():
    torch.manual_seed(0)
    loss, _ = dino()(Embeddings(torch.zeros(3, 4, 8), target=torch.randn(2, 4, 8)), context())
    assert loss.item() == pytest.approx(math.log(8), rel=1e-6)


def test_a_teacher_at_its_center_is_uniform_and_its_metrics_are_logged():
    loss, target = dino(), torch.randn(8).expand(2, 4, 8)
    loss.center = target[0, 0]
    _, metrics = loss(Embeddings(torch.zeros(2, 4, 8), target=target), context(5))
    assert metrics["teacher_entropy"].item() == pytest.approx(math.log(8), rel=1e-6)
    assert metrics["dimensions_in_use"].item() == pytest.approx(8, rel=1e-6)
    assert metrics["teacher_temperature"].item() == pytest.approx(0.055)


def test_the_metrics_show_a_teacher_with_constant_output():
    target = torch.tensor([9.0, 0.0, 0.0, 0.0]).expand(2, 4, 4)
    _, metrics = dino()(Embeddings(torch.zeros(2, 4, 4), target=target), context())
    assert metrics["dimensions_in_use"].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.1, [0.04, 0.04 + 0.03 / 10, 0.07, 0.07]), (0.0, [0.07] * 4), (1.0, [0.04, 0.0403, 0.043, 0.0697])],
)
def test_the_teachers_temperature_rises_linearly_and_then_stays_constant(share, expected):
    loss = dino(warmup_share=share)
    temperatures = [loss.teacher_temperature(context(step).progress) for step in (0, 1, 10, 99)]
    assert temperatures == pytest.approx(expected, abs=1e-12)


def test_the_center_is_a_moving_average_that_only_moves_after_the_step():
    torch.manual_seed(0)
    loss, expected = dino(), torch.zeros(6)
    for step in range(4):
        target = torch.randn(2, 5, 6)
        loss(Embeddings(torch.randn(2, 5, 6), target=target), context(step))
        torch.testing.assert_close(loss.center.expand(6), expected)
        loss.after_step(context(step), target)
        expected = 0.9 * expected + 0.1 * target.reshape(10, 6).mean(dim=0)
    torch.testing.assert_close(loss.center, expected)


def test_a_new_loss_takes_the_center_of_a_checkpoint():
    trained, fresh = dino(), dino()
    trained.after_step(context(), torch.randn(2, 5, 6))
    state = trained.state_dict()
    assert state["center"].shape == (6,)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh.center, trained.center, rtol=0, atol=0)
    assert fresh.center.data_ptr() != trained.center.data_ptr()
    wrapped = torch.nn.ModuleDict({"loss": dino()})
    wrapped.load_state_dict({"loss.center": state["center"]})
    torch.testing.assert_close(wrapped["loss"].center, trained.center, rtol=0, atol=0)


def test_a_checkpoint_without_a_center_is_refused():
    with pytest.raises(RuntimeError, match="center"):
        dino().load_state_dict({})


def test_a_center_before_the_first_step_is_restored_too():
    fresh = dino()
    fresh.load_state_dict(dino().state_dict())
    fresh.after_step(context(), torch.ones(2, 5, 6))
    torch.testing.assert_close(fresh.center, torch.full((6,), 0.1))


def test_the_target_gets_no_gradient():
    online, target = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 4, 8, requires_grad=True)
    dino()(Embeddings(online, target=target), context())[0].backward()
    assert target.grad is None
    assert online.grad.abs().sum() > 0


def test_the_global_views_may_be_swapped_and_the_images_permuted():
    torch.manual_seed(0)
    online, target, order = torch.randn(2, 9, 4).double(), torch.randn(2, 9, 4).double(), torch.randperm(9)
    expected = dino()(Embeddings(online, target=target), context())[0].item()
    swapped = dino()(Embeddings(online.flip(0), target=target.flip(0)), context())[0].item()
    permuted = dino()(Embeddings(online[:, order], target=target[:, order]), context())[0].item()
    assert [swapped, permuted] == pytest.approx([expected] * 2, abs=1e-12)


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    online, target = (20 * torch.randn(2, 2, 16, 8)).half()  # their exponentials over 0.04 overflow half precision
    low, _ = dino()(Embeddings(online, target=target), context())
    assert low.dtype == torch.float32
    assert torch.isfinite(low)
    torch.testing.assert_close(low, dino()(Embeddings(online.float(), target=target.float()), context())[0])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, 0.0) for name in PAPER if name.endswith("temperature")]
    + [("warmup_share", 1.5), ("center_momentum", -0.1), ("student_temperature", math.nan)],
)
def test_impossible_settings_are_refused(name, wrong):
    with pytest.raises(ValueError, match=name):
        dino(**{name: wrong})


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="got 1"):
        dino()(Embeddings(torch.zeros(1, 4, 8), target=torch.zeros(1, 4, 8)), context())


@pytest.mark.parametrize("iterations", [1, 3])
def test_with_sinkhorn_the_teacher_is_balanced_over_all_its_rows(iterations):
    torch.manual_seed(0)
    online, target = torch.randn(4, 5, 6).double(), torch.randn(2, 5, 6).double()
    table = torch.exp(target.reshape(10, 6) / 0.04)
    for _ in range(iterations):
        table = table / table.sum(dim=0)
        table = table / table.sum(dim=1, keepdim=True)
    teacher, student = table.view(2, 5, 6), (online / 0.1).softmax(dim=-1)
    terms = [-(teacher[g] * student[v].log()).sum(dim=-1).mean() for g in range(2) for v in range(4) if g != v]
    loss, metrics = dino(centering="sinkhorn", sinkhorn_iterations=iterations)(
        Embeddings(online, target=target), context()
    )
    assert loss.item() == pytest.approx(float(sum(terms) / len(terms)), rel=1e-9)
    assert metrics["teacher_entropy"].item() == pytest.approx(float(torch.special.entr(table).sum(dim=1).mean()))
    assert dino().centering == "center"  # as in configs of earlier versions
