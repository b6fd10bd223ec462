"""P > M > F: cosines with class means, and fine-tuning in each task, against a loop over tasks with torch's Adam."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_tasks import WAYS, episodes, inputs, network
from torch import nn

from ssl_runner.algorithms.pmf import FROZEN, PMF
from ssl_runner.algorithms.protonet import ProtoNet
from ssl_runner.data.augmentation import Augmentation, HorizontalFlip, PadCrop, RandomResizedCrop
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.batch_norm import batch_norms
from ssl_runner.models.features import evaluating
from ssl_runner.models.network import Network
from ssl_runner.runtime import randomness
from ssl_runner.runtime.step_context import StepContext

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
TEMPERATURE = 0.25  # whose log is exact enough in float32 for float64 comparisons


def augmentation() -> Augmentation:
    return Augmentation({"crop": PadCrop(2), "flip": HorizontalFlip(0.5)})


def pmf(**changes) -> PMF:
    arguments = {"temperature": TEMPERATURE, "fine_tune_steps": 4, "fine_tune_lr": 0.01, "candidate_lrs": []}
    made = PMF(
        network(), CrossEntropy(0.0), **arguments | {"choice_tasks": 3, "augmentation": augmentation()} | changes
    )
    made.double().train()
    for layer in batch_norms(made.network):  # running statistics at their initial 0 and 1 would hide mistakes
        layer.momentum = 1.0
    with torch.no_grad():
        made.network(episodes().support_images.flatten(0, 1))
    return made.eval()


def scores_of(model: Network, support, labels, query) -> torch.Tensor:
    """One task's cosines with class means, one query and class at a time."""
    features, queries = model(support), model(query)
    means = [
        torch.stack([f for f, own in zip(features, labels, strict=True) if own == label]).mean(0)
        for label in range(WAYS)
    ]
    rows = [torch.stack([(q @ mean) / (q.norm() * mean.norm()) for mean in means]) for q in queries]
    return torch.stack(rows) / TEMPERATURE


def fine_tuned_alone(algorithm: PMF, support, labels, query) -> torch.Tensor:
    model = copy.deepcopy(algorithm.network).eval()
    optimizer = torch.optim.Adam(model.encoder.parameters(), algorithm.fine_tune_lr)
    for step in range(algorithm.fine_tune_steps):
        draws = torch.from_numpy(randomness.uniforms(0, "pmf", step, len(support), algorithm.augmentation.columns))
        pseudo = algorithm.augmentation(support, draws)
        optimizer.zero_grad()
        F.cross_entropy(scores_of(model, support, labels, pseudo), labels).backward()
        optimizer.step()
    with torch.no_grad():
        return scores_of(model, support, labels, query)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("looped", [(), ("cpu",)], ids=["at once", "one by one"])
def test_fine_tuning_of_a_batch_of_tasks_equals_torchs_adam_on_each(looped, steps, monkeypatch):
    monkeypatch.setattr("ssl_runner.algorithms.pmf.LOOPED", looped)
    algorithm, batch = pmf(fine_tune_steps=steps), episodes()
    with torch.no_grad():
        found = algorithm.classify(*inputs(batch))
    tasks = zip(batch.support_images, batch.support_labels, batch.query_images, strict=True)
    expected = torch.stack([fine_tuned_alone(algorithm, *task) for task in tasks])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert (found - pmf(fine_tune_steps=0).classify(*inputs(batch))).abs().max() > 1e-2


def test_both_ways_are_reported_and_without_steps_or_rate_they_are_protonet_with_cosines():
    batch = episodes()
    tasks = zip(batch.support_images, batch.support_labels, batch.query_images, strict=True)
    plain = torch.stack([scores_of(pmf().network, *task) for task in tasks])
    assert pmf().classifiers == (FROZEN,)
    with torch.no_grad():
        both = pmf().classify_by_all(*inputs(batch))
        torch.testing.assert_close(both[FROZEN], plain, rtol=1e-6, atol=1e-6)
        assert torch.equal(both[""], pmf().classify(*inputs(batch)))
        assert not torch.allclose(both[""], plain)
        for changes in ({"fine_tune_steps": 0}, {"fine_tune_lr": 0.0}):
            none = pmf(**changes).classify_by_all(*inputs(batch))
            assert torch.equal(none[""], none[FROZEN])
            assert torch.equal(none[""], both[FROZEN])


def test_on_features_of_length_one_it_ranks_as_protonet_does():
    algorithm, batch = pmf(fine_tune_steps=0), episodes(shots=1)
    other = ProtoNet(algorithm.network, CrossEntropy(0.0)).eval()
    with torch.no_grad():
        support, query = (F.normalize(torch.rand(4, n, 5, dtype=torch.float64), dim=2) for n in (WAYS, 9))
        ours, theirs = (one.compare(support, batch.support_labels, query, WAYS) for one in (algorithm, other))
    # the squared distance of vectors of length one is 2 - 2 cosines
    torch.testing.assert_close(ours * 2 * TEMPERATURE - 2, theirs, rtol=1e-6, atol=1e-6)


def test_training_is_cross_entropy_of_the_cosines_and_learns_the_temperature():
    algorithm, batch = pmf().train(), episodes()
    with evaluating(algorithm), torch.enable_grad():
        loss = algorithm.training_step(batch, CLOCK).loss
        tasks = zip(batch.support_images, batch.support_labels, batch.query_images, strict=True)
        scores = torch.cat([scores_of(algorithm.network, *task) for task in tasks])
        torch.testing.assert_close(loss, F.cross_entropy(scores, batch.query_labels.flatten()), rtol=1e-6, atol=1e-6)
        loss.backward()
    assert algorithm.log_temperature.grad.abs() > 1e-4
    assert algorithm.figures()["temperature"].item() == pytest.approx(TEMPERATURE)


def test_a_tasks_scores_depend_only_on_the_task_and_a_querys_not_on_other_queries():
    algorithm, batch = pmf(), episodes()
    support, labels, query, ways = inputs(batch)
    with torch.no_grad():
        together = algorithm.classify(support, labels, query, ways)
        alone = algorithm.classify(support[2:3], labels[2:3], query[2:3, :2], ways)
    torch.testing.assert_close(alone, together[2:3, :2], rtol=1e-9, atol=1e-9)


def test_it_changes_nothing_and_draws_from_no_generator():
    algorithm, batch = pmf(), episodes()
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in algorithm.state_dict().items()}
    with torch.no_grad():
        first, second = (algorithm.classify(*inputs(batch)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in algorithm.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in algorithm.parameters())


def test_images_of_whole_numbers_give_the_scores_of_the_same_fractions():
    algorithm, batch = pmf().float(), episodes()
    whole = [(images * 255).round().to(torch.uint8) for images in (batch.support_images, batch.query_images)]
    with torch.no_grad():
        found = algorithm.classify(whole[0], batch.support_labels, whole[1], WAYS)
        same = algorithm.classify(whole[0].float() / 255, batch.support_labels, whole[1].float() / 255, WAYS)
    torch.testing.assert_close(found, same)


def test_a_frozen_encoder_is_fine_tuned_in_tasks_all_the_same():
    algorithm, frozen, batch = pmf(), pmf(), episodes()
    frozen.freeze()
    with torch.no_grad():
        assert torch.equal(frozen.classify(*inputs(batch)), algorithm.classify(*inputs(batch)))
    kept = {name for name, value in frozen.named_parameters() if value.requires_grad}
    assert kept == {"log_temperature", "network.head.weight", "network.head.bias"}


def test_transformers_are_fine_tuned_too():
    class Tokens(nn.Module):
        out_features = 6

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 6))

        def forward(self, images):
            return self.body(images)

    algorithm, batch = pmf(), episodes()
    torch.manual_seed(0)
    algorithm.network.encoder.backbone = Tokens().double()
    algorithm.network.head = nn.Identity()
    with torch.no_grad():
        found = algorithm.classify(*inputs(batch))
    tasks = zip(batch.support_images, batch.support_labels, batch.query_images, strict=True)
    expected = torch.stack([fine_tuned_alone(algorithm, *task) for task in tasks])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"fine_tune_steps": -1}, "fine_tune_steps=-1"),
        ({"fine_tune_lr": -0.1}, "fine_tune_lr=-0.1"),
        ({"candidate_lrs": [0.1, -0.1]}, r"candidate_lrs=\[0.1, -0.1\]"),
        ({"choice_tasks": 0}, "choice_tasks=0"),
        (
            {"augmentation": Augmentation({"crop": RandomResizedCrop(8, [0.2, 1], [1, 1])})},
            "turns images of 12 x 12 into 8 x 8",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pmf(**changes)
