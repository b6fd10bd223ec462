import pytest
import torch
import torch.nn.functional as F
from small_tasks import context, episodes, gradients, network
from torch.func import functional_call

from ssl_runner.algorithms.imaml import IMAML, conjugate_gradients
from ssl_runner.losses.cross_entropy import CrossEntropy


def imaml(steps: int = 3, proximal: float = 2.0, conjugate: int = 4, lr: float = 0.1) -> IMAML:
    return IMAML(network(smooth=True), CrossEntropy(0.0), lr, steps, steps, proximal, conjugate, "batch")


def test_conjugate_gradients_need_as_many_steps_as_there_are_unknowns():
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(6)
    target = {"a": torch.randn(2, dtype=torch.float64), "b": torch.randn(2, 2, dtype=torch.float64)}

    def flat(parts):
        return torch.cat([part.flatten() for part in parts.values()])

    def product(parts):
        image = matrix @ flat(parts)
        return {"a": image[:2], "b": image[2:].view(2, 2)}

    found = conjugate_gradients(product, target, 6)
    torch.testing.assert_close(flat(found), torch.linalg.solve(matrix, flat(target)), rtol=1e-8, atol=1e-8)
    nothing = conjugate_gradients(product, {name: torch.zeros_like(part) for name, part in target.items()}, 3)
    assert not flat(nothing).any()


def task_by_loop(algorithm: IMAML, batch, task: int) -> list[torch.Tensor]:
    """Meta-gradient of one task through torch.autograd, with the linear system solved by plain conjugate gradients."""
    start = dict(algorithm.network.named_parameters())
    weights = {name: value.detach().requires_grad_() for name, value in start.items()}
    images, labels = batch.support_images[task], batch.support_labels[task]

    def support_loss(weights):
        return F.cross_entropy(functional_call(algorithm.network, weights, (images,)), labels)

    for _ in range(algorithm.inner_steps):
        slopes = torch.autograd.grad(support_loss(weights), list(weights.values()))
        weights = {
            name: (value - algorithm.inner_lr * (slope + algorithm.proximal * (value - start[name])))
            .detach()
            .requires_grad_()
            for (name, value), slope in zip(weights.items(), slopes, strict=True)
        }
    logits = functional_call(algorithm.network, weights, (batch.query_images[task],))
    target = torch.autograd.grad(F.cross_entropy(logits, batch.query_labels[task]), list(weights.values()))
    sizes = [value.numel() for value in target]
    target = torch.cat([value.flatten() for value in target])

    def product(vector):
        slopes = torch.autograd.grad(support_loss(weights), list(weights.values()), create_graph=True)
        along = torch.cat([slope.flatten() for slope in slopes]) @ vector
        curved = torch.autograd.grad(along, list(weights.values()))
        return vector + torch.cat([value.flatten() for value in curved]) / algorithm.proximal

    found, residual, direction = torch.zeros_like(target), target, target
    for _ in range(algorithm.conjugate_steps):
        image = product(direction)
        share = residual @ residual / (direction @ image)
        found, after = found + share * direction, residual - share * image
        direction = after + (after @ after) / (residual @ residual) * direction
        residual = after
    return list(found.split(sizes))


def test_meta_gradient_equals_that_of_the_loop_over_tasks():
    algorithm, batch = imaml(), episodes(tasks=3)
    found = gradients(algorithm, batch, context())
    by_task = [task_by_loop(algorithm, batch, task) for task in range(len(batch))]
    for place, (name, value) in enumerate(algorithm.network.named_parameters()):
        expected = torch.stack([one[place] for one in by_task]).mean(0).view(value.shape)
        torch.testing.assert_close(found[f"network.{name}"], expected, rtol=1e-7, atol=1e-9)


def test_meta_gradient_equals_finite_differences_at_the_solution():
    """Eq. 6 is exact if the inner problem is solved, so it equals the numerical derivative of the solution."""
    algorithm, batch = imaml(steps=300, proximal=20.0, conjugate=40, lr=0.02), episodes(tasks=1)
    found = gradients(algorithm, batch, context())
    for name in ("head.weight", "encoder.backbone.blocks.0.0.weight"):
        parameter = dict(algorithm.network.named_parameters())[name]
        torch.manual_seed(2)
        direction, losses = torch.randn_like(parameter), []
        for sign in (1, -1):
            parameter.data += sign * 1e-4 * direction
            losses.append(algorithm.training_step(batch, context()).metrics["loss"].item())
            parameter.data -= sign * 1e-4 * direction
        slope = (losses[0] - losses[1]) / 2e-4
        assert (found[f"network.{name}"] * direction).sum().item() == pytest.approx(slope, rel=1e-4), name


def test_with_a_large_proximal_term_the_meta_gradient_is_the_query_gradient_at_the_common_weights():
    algorithm, batch = imaml(proximal=2.0), episodes(tasks=2)
    algorithm.proximal, algorithm.inner_lr = 1e9, 1e-10
    found = gradients(algorithm, batch, context())
    weights = dict(algorithm.network.named_parameters())
    losses = [
        F.cross_entropy(functional_call(algorithm.network, weights, (images,)), labels)
        for images, labels in zip(batch.query_images, batch.query_labels, strict=True)
    ]
    for (name, _), value in zip(
        weights.items(), torch.autograd.grad(torch.stack(losses).mean(), list(weights.values())), strict=True
    ):
        torch.testing.assert_close(found[f"network.{name}"], value, rtol=1e-5, atol=1e-7)


def test_a_rate_that_overshoots_the_common_weights_is_refused():
    with pytest.raises(ValueError, match="product must be below 1"):
        IMAML(network(), CrossEntropy(0.0), 0.5, 1, 1, 2.0, 1, "batch")
