"""Queue, predictor, momentum teacher and prototypes: what each branch sees, and what is kept between steps."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_runner.algorithms.contrastive import Contrastive
from ssl_runner.algorithms.momentum import Momentum
from ssl_runner.algorithms.prototypes import Prototypes
from ssl_runner.algorithms.queue import Queue
from ssl_runner.algorithms.stop_gradient import StopGradient
from ssl_runner.data.batches import Views
from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Loss
from ssl_runner.losses.negative_cosine import NegativeCosine
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.swav import SwAV
from ssl_runner.models.heads import Projector, Prototyped
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext

B, WIDTH = 8, 6


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 10), nn.BatchNorm1d(10))
        self.out_features = 10

    def forward(self, images):
        return self.layers(images)


def network() -> Network:
    torch.manual_seed(0)
    return Network(Encoder(Flat(), (1, 8, 8), [0.5], [0.3]), Projector(10, None, 12, WIDTH, 2, False)).double()


def predictor(in_features, n_outputs):
    return nn.Linear(in_features, in_features, bias=False).double()


def context(step: int = 0, max_steps: int = 10) -> StepContext:
    return StepContext(step, max_steps, 0, torch.device("cpu"))


def views(local: int = 0, n: int = B) -> Views:
    generator = torch.Generator().manual_seed(1)
    crops = [torch.rand(2, n, 1, 8, 8, generator=generator, dtype=torch.float64)]
    if local:
        crops.append(torch.rand(local, n, 1, 4, 4, generator=generator, dtype=torch.float64))
    return Views(tuple(crops), torch.arange(n) % 3, torch.arange(n))


class Seeing(Loss):
    """A loss that records its inputs."""

    def forward(self, embeddings, context):
        self.seen = embeddings
        return embeddings.online.square().mean(), {}

    def after_step(self, context, target):
        self.target = target


def momentum(loss=None, **changes) -> Momentum:
    settings = {"predictor": None, "momentum": 0.9, "final_momentum": 0.9, "queue_size": 0}
    settings |= {"batch_norm_groups": 1, "freeze_share": 0.0, "encode_chunks": 1, "product": "student"}
    settings |= changes
    torch.manual_seed(2)
    return Momentum(network(), loss or Seeing(), **settings).double()


# queue


def test_a_queue_replaces_the_oldest_rows_by_the_last_ones_pushed():
    queue = Queue(5, 2)
    assert torch.allclose(queue.items.norm(dim=1), torch.ones(5))
    rows = torch.arange(16.0).view(8, 2)
    queue.push(rows[:3])
    queue.push(rows[3:6])
    assert {tuple(row) for row in queue.items.tolist()} == {tuple(row) for row in rows[1:6].tolist()}
    queue.push(torch.cat([rows, rows + 100]))  # more rows than the queue has
    assert {tuple(row) for row in queue.items.tolist()} == {tuple(row) for row in (rows[3:] + 100).tolist()}


def test_pointer_and_content_of_a_queue_are_saved():
    one, two = Queue(5, 2), Queue(5, 2)
    one.push(torch.ones(3, 2))
    two.load_state_dict(one.state_dict())
    for queue in (one, two):
        queue.push(torch.zeros(3, 2))
    assert torch.equal(one.items, two.items)
    assert one.pointer == two.pointer == 1


# predictor


def test_no_gradient_reaches_the_target_branch():
    algorithm = StopGradient(network(), NegativeCosine(), predictor, True, 0, 1)
    batch = views()
    step = algorithm.training_step(batch, context())
    step.loss.backward()
    projected = algorithm.network(batch.crops[0].flatten(0, 1)).unflatten(0, (2, B))
    target = projected.detach()
    online = F.normalize(algorithm.predictor(projected), dim=-1)
    by_hand = -(online * F.normalize(target, dim=-1).flip(0)).sum(-1).mean()
    expected = torch.autograd.grad(by_hand, list(algorithm.network.parameters()))
    assert step.loss.item() == pytest.approx(by_hand.item(), rel=1e-12)
    for parameter, gradient in zip(algorithm.network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-8, atol=1e-12)


def test_the_predictors_rate_can_be_constant_and_every_parameter_has_one_group():
    for constant in (False, True):
        algorithm = StopGradient(network(), NegativeCosine(), predictor, constant, 0, 1)
        groups = algorithm.parameter_groups()
        places = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(places) == sorted(id(parameter) for parameter in algorithm.parameters())
        own = [group for group in groups if group.get("constant_lr")]
        assert len(own) == constant
        assert all(parameter is algorithm.predictor.weight for group in own for parameter in group["params"])


def test_a_predictor_with_a_queue_remembers_projections_of_the_first_view():
    loss = Seeing()
    algorithm = StopGradient(network(), loss, predictor, True, 20, 1)
    step = algorithm.training_step(views(), context())
    assert torch.equal(loss.seen.memory_bank, algorithm.queue.items)
    algorithm.after_step(context(), step.carry)
    assert torch.allclose(algorithm.queue.items[:B].double(), loss.seen.target[0], atol=1e-6)
    assert "memory_bank" in StopGradient.provided({"queue_size": 20})
    assert "memory_bank" not in StopGradient.provided({"queue_size": 0})


# momentum


def test_the_teacher_is_the_average_of_the_student_and_gets_no_gradient():
    algorithm = momentum()
    with torch.no_grad():
        for parameter in algorithm.network.parameters():
            parameter.add_(1)
    before = [parameter.clone() for parameter in algorithm.teacher.parameters()]
    step = algorithm.training_step(views(), context())
    step.loss.backward()
    algorithm.after_step(context(), step.carry)
    pairs = zip(algorithm.teacher.parameters(), before, algorithm.network.parameters(), strict=True)
    for teacher, old, student in pairs:
        assert teacher.grad is None
        assert torch.allclose(teacher, 0.9 * old + 0.1 * student)
    assert not any(
        parameter is group for parameter in algorithm.teacher.parameters() for group in all_trained(algorithm)
    )


def all_trained(algorithm):
    return [parameter for group in algorithm.parameter_groups() for parameter in group["params"]]


def test_momentum_goes_from_its_first_value_to_the_final_one_on_half_a_cosine():
    algorithm = momentum(momentum=0.99, final_momentum=1.0)
    for step in (0, 25, 50, 99):
        expected = 1 - (1 - 0.99) * (1 + math.cos(math.pi * step / 100)) / 2  # BYOL, sec. 3.2
        assert algorithm.momentum_at(context(step, 100)) == pytest.approx(expected, abs=1e-15)
    assert momentum().momentum_at(context(3)) == pytest.approx(0.9)


def test_the_teacher_sees_global_views_only_and_its_last_ones_fill_the_queue():
    loss = Seeing()
    algorithm = momentum(loss, queue_size=20)
    step = algorithm.training_step(views(local=3), context())
    assert loss.seen.online.shape == (5, B, WIDTH)
    assert loss.seen.target.shape == (2, B, WIDTH)
    assert loss.seen.global_views == 2
    algorithm.after_step(context(), step.carry)
    assert torch.allclose(algorithm.queue.items[:B].double(), loss.seen.target[1], atol=1e-6)
    assert torch.equal(loss.target, loss.seen.target)


def test_groups_are_normalised_separately_and_the_teachers_keys_come_back_in_order():
    algorithm, loss = momentum(batch_norm_groups=2), None
    algorithm.training_step(views(), context())
    loss = algorithm.loss
    crops = views().crops[0]
    halves = [
        algorithm.network(crops[:, part].flatten(0, 1)).unflatten(0, (2, B // 2)) for part in (slice(4), slice(4, 8))
    ]
    assert torch.allclose(loss.seen.online, torch.cat(halves, dim=1))
    order = torch.randperm(B, generator=context().generator("shuffle"))
    expected = torch.empty_like(loss.seen.target)
    for part in order.chunk(2):
        expected[:, part] = algorithm.teacher(crops[:, part].flatten(0, 1)).unflatten(0, (2, B // 2))
    assert torch.allclose(loss.seen.target, expected)
    whole = momentum()
    whole.training_step(views(), context())
    assert not torch.allclose(whole.loss.seen.target, expected)


def test_moco_contrasts_with_the_queue_and_the_exported_encoder_can_be_chosen():
    algorithm = momentum(InfoNCE(0.2), queue_size=16)
    assert math.isfinite(algorithm.training_step(views(), context()).loss.item())
    assert algorithm.eval_encoder() is algorithm.network.encoder
    assert momentum(product="teacher").eval_encoder() is not algorithm.network.encoder


# prototypes


def test_scores_are_cosines_and_prototypes_have_unit_length_after_each_step():
    loss = Seeing()
    algorithm = Prototypes(network(), loss, 7, 0.0, 0, 0.0, 1).double()
    step = algorithm.training_step(views(local=2), context())
    embedded = F.normalize(algorithm.network(views().crops[0].flatten(0, 1)), dim=1).unflatten(0, (2, B))
    assert torch.allclose(loss.seen.online[:2], embedded @ algorithm.prototypes.T)
    assert loss.seen.online.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        algorithm.prototypes.mul_(3)
    algorithm.after_step(context(), step.carry)
    assert torch.allclose(algorithm.prototypes.norm(dim=1), torch.ones(7, dtype=torch.float64))


def test_frozen_prototypes_have_no_gradient_and_the_queue_waits():
    loss = Seeing()
    algorithm = Prototypes(network(), loss, 7, 0.2, 12, 0.5, 1).double()
    for step, frozen, remembered in ((1, True, False), (3, False, False), (5, False, True)):
        algorithm.zero_grad()
        algorithm.training_step(views(), context(step)).loss.backward()
        assert (algorithm.prototypes.grad is None) == frozen
        assert (loss.seen.memory_bank is not None) == remembered
    assert loss.seen.memory_bank.shape == (12, 7)


def test_the_prototypes_of_dinos_head_are_frozen_for_a_share_of_the_run_and_then_learn():
    made = network()
    made.head = Prototyped(made.encoder.out_features, None, 8, 5, 7)
    algorithm = Momentum(made, Seeing(), None, 0.9, 0.9, 0, 1, 0.2, 1, "student").double()
    optimizer = torch.optim.SGD(algorithm.parameter_groups(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step, frozen in ((0, True), (1, True), (2, False)):
        optimizer.zero_grad()
        before = [value.clone() for value in (made.head.prototypes, made.head.layers[0].weight)]
        algorithm.training_step(views(), context(step)).loss.backward()
        optimizer.step()
        assert torch.equal(before[0], made.head.prototypes) == frozen
        assert not torch.equal(before[1], made.head.layers[0].weight)


def test_swav_learns_from_its_scores():
    algorithm = Prototypes(network(), SwAV(0.1, 0.05, 3), 7, 0.0, 0, 0.0, 1).double()
    algorithm.training_step(views(local=2), context()).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in algorithm.network.head.parameters())


# all


def test_one_resolution_is_one_forward_pass_for_all_views():
    calls = []
    made = network()
    made.register_forward_hook(lambda *_: calls.append(1))
    Contrastive(made, NTXent(0.5), 1).training_step(views(), context())
    assert len(calls) == 1
    Contrastive(made, Seeing(), 1).training_step(views(local=2), context())
    assert len(calls) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: momentum(momentum=1.1),
        lambda: momentum(momentum=0.9, final_momentum=0.8),
        lambda: momentum(batch_norm_groups=0),
        lambda: momentum(encode_chunks=0),
        lambda: momentum(encode_chunks=2, batch_norm_groups=4),
        lambda: Contrastive(network(), NTXent(0.5), 0),
        lambda: momentum(queue_size=-1),
        lambda: momentum(freeze_share=1.0),
        lambda: momentum(freeze_share=0.1),
        lambda: Prototypes(network(), Seeing(), 1, 0.0, 0, 0.0, 1),
        lambda: Prototypes(network(), Seeing(), 7, 1.0, 0, 0.0, 1),
        lambda: Queue(0, 2),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(ValueError, match="give"):
        make()
