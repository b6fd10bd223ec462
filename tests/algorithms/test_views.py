"""Encoding in checkpointed pieces: the gradient of the big batch, one piece's activations at a time."""

import copy

import pytest
import torch
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.algorithms.contrastive import Contrastive
from ssl_runner.algorithms.momentum import Momentum
from ssl_runner.algorithms.prototypes import Prototypes
from ssl_runner.algorithms.stop_gradient import StopGradient
from ssl_runner.algorithms.views import embed_views
from ssl_runner.data.batches import Views
from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.negative_cosine import NegativeCosine
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.sigreg import SIGReg
from ssl_runner.losses.swav import SwAV
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training.memory_estimate import step_memory

B = 12
CLOCK = StepContext(3, 10, 0, torch.device("cpu"))


class Maps(nn.Module):
    """Convolutions with a normalisation in between, dropout, and a mean over positions."""

    def __init__(self, normalisation: nn.Module, dropout: float = 0.0, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.normalisation, self.dropout = normalisation, nn.Dropout(dropout)
        self.out_features = width

    def forward(self, images):
        maps = self.second(self.dropout(self.normalisation(self.first(images)).relu())).relu()
        return maps.mean(dim=(2, 3))


def network(normalisation: nn.Module, dropout: float = 0.0) -> Network:
    torch.manual_seed(0)
    return Network(Encoder(Maps(normalisation, dropout), (1, 8, 8), [0.5], [0.3]), nn.Linear(8, 6))


def predictor(in_features, n_outputs):
    return nn.Sequential(nn.Linear(in_features, 9), nn.BatchNorm1d(9), nn.Linear(9, in_features))


ARRANGEMENTS = {
    "contrastive": lambda made, chunks: Contrastive(made, NTXent(0.5), chunks),
    "stop_gradient": lambda made, chunks: StopGradient(made, NegativeCosine(), predictor, True, 0, chunks),
    "momentum": lambda made, chunks: Momentum(made, InfoNCE(0.2), None, 0.9, 0.9, 24, 1, 0.0, chunks, "student"),
    "prototypes": lambda made, chunks: Prototypes(made, SwAV(0.1, 0.05, 3), 7, 0.0, 0, 0.0, chunks),
}


def made(arrangement: str, normalisation: nn.Module, chunks: int, dropout: float = 0.0) -> Algorithm:
    algorithm = ARRANGEMENTS[arrangement](network(normalisation, dropout), chunks)
    return algorithm.double().train()


def views(small: int = 0, n: int = B) -> Views:
    generator = torch.Generator().manual_seed(1)
    crops = [torch.rand(2, n, 1, 8, 8, generator=generator, dtype=torch.float64)]
    if small:
        crops.append(torch.rand(small, n, 1, 4, 4, generator=generator, dtype=torch.float64))
    return Views(tuple(crops), torch.arange(n) % 3, torch.arange(n))


def outcome(algorithm: Algorithm, batch: Views) -> dict[str, torch.Tensor]:
    """Loss, gradients and state of one step."""
    torch.manual_seed(7)  # for dropout
    step = algorithm.training_step(batch, CLOCK)
    step.loss.backward()
    found = {name: value.grad for name, value in algorithm.named_parameters() if value.grad is not None}
    assert found and all(value.abs().sum() > 0 for value in found.values())
    found |= {f"buffer {name}": value.clone() for name, value in algorithm.named_buffers()}
    return found | {"loss": step.loss.detach()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-13, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("chunks", [2, 3, 12])
def test_without_batch_statistics_loss_and_gradients_equal_those_of_the_whole_batch(arrangement, chunks):
    expected = outcome(made(arrangement, nn.GroupNorm(2, 8), 1), views())
    same(outcome(made(arrangement, nn.GroupNorm(2, 8), chunks), views()), expected)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_batch_statistics_are_those_of_a_chunk_and_running_ones_are_updated_once(arrangement, monkeypatch):
    with monkeypatch.context() as patch:  # in pieces, but without recomputation
        held = lambda network, crops, pieces, checkpointed: embed_views(network, crops, pieces)  # noqa: E731
        patch.setattr(f"ssl_runner.algorithms.{arrangement}.embed_views", held)
        expected = outcome(made(arrangement, nn.BatchNorm2d(8), 3, dropout=0.4), views())
    found = outcome(made(arrangement, nn.BatchNorm2d(8), 3, dropout=0.4), views())
    same(found, expected)
    assert found["buffer network.encoder.backbone.normalisation.num_batches_tracked"] == 3
    whole = outcome(made(arrangement, nn.BatchNorm2d(8), 1), views())
    assert not torch.allclose(whole["loss"], found["loss"], rtol=1e-6)


def test_small_crops_are_split_with_their_images():
    one, four = (Contrastive(network(nn.GroupNorm(2, 8)), SIGReg(0.1, 8, 5, 3.0), n).double() for n in (1, 4))
    same(outcome(four, views(small=3)), outcome(one, views(small=3)))


def test_a_piece_equals_a_naive_pass_of_its_images():
    module = made("contrastive", nn.BatchNorm2d(8), 1).network
    crops = views(small=1).crops
    found = embed_views(module, crops, 4, checkpointed=True)
    for first in range(0, B, 3):
        for view, images in enumerate([*crops[0], *crops[1]]):
            if view < 2:  # normalised with the other view
                expected = module(crops[0][:, first : first + 3].flatten(0, 1)).unflatten(0, (2, 3))[view]
            else:
                expected = module(images[first : first + 3])
            torch.testing.assert_close(found[view, first : first + 3], expected)


def test_only_one_chunk_is_held_at_a_time():
    def peak(chunks: int) -> int:
        encoder = Encoder(Maps(nn.BatchNorm2d(64), width=64), (1, 8, 8), [0.5], [0.3])
        algorithm = Contrastive(Network(encoder, nn.Linear(64, 6)), NTXent(0.5), chunks).double()
        found = step_memory(algorithm, views(n=240), lambda groups: torch.optim.SGD(groups, lr=0.1), 1)
        assert found is not None
        return found

    one, eight = peak(1), peak(8)
    assert eight < one / 4
    assert peak(24) < eight


def test_evaluation_and_copies_are_unaffected():
    algorithm = made("contrastive", nn.BatchNorm2d(8), 3)
    algorithm.training_step(views(), CLOCK).loss.backward()
    state = copy.deepcopy(algorithm.state_dict())
    algorithm.load_state_dict(state)
    algorithm.eval()
    with torch.no_grad():
        whole = embed_views(algorithm.network, views().crops)
        assert torch.allclose(embed_views(algorithm.network, views().crops, 3, checkpointed=True), whole)
    assert all(torch.equal(value, state[name]) for name, value in algorithm.state_dict().items())


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_batch_that_cannot_be_cut_evenly_is_refused(arrangement):
    with pytest.raises(ValueError, match="12 images cannot be cut into 5 equal pieces"):
        made(arrangement, nn.BatchNorm2d(8), 5).training_step(views(), CLOCK)
