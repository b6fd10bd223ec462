"""In-context classification by what another run has learned: its remedy, and what fits."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batches import Views
from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.network import Encoder, Network
from ssl_runner.wiring import in_context
from ssl_runner.wiring.in_context import InContext


class Plain(Algorithm):
    batch_type = Views


class Learned(Plain):
    """Compares features in a way of its own: the last ones count double, and likes come first."""

    def embed(self, features):
        return features * torch.linspace(1, 2, features.shape[1])

    def compare(self, support, support_labels, query, n_way):
        return super().compare(support, support_labels, query, n_way) + 1


class Adapts(Learned):
    def classify(self, *task):
        return super().classify(*task)


def algorithm(kind=Learned, seed=0) -> Algorithm:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = Encoder(Conv4(1, 8, width=4, downsample="max_pool", grid=None), (1, 8, 8), [0.3], [0.4])
    return kind(Network(encoder, nn.Identity())).eval()


def encoded(made: Algorithm):
    features = torch.rand(12, made.eval_encoder().out_features, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(encoder=made.eval_encoder(), features=features, device=torch.device("cpu"))


def test_it_classifies_features_as_the_runs_algorithm_does(monkeypatch):
    run = algorithm()
    monkeypatch.setattr(in_context, "load_algorithm", lambda path: run)
    own = encoded(copy.deepcopy(run))
    found = InContext("somewhere").contender("in_context", own)
    assert torch.equal(found.values, run.embed(own.features))
    support, query, labels = found.values[None, :4], found.values[None, 4:], torch.tensor([[0, 1, 0, 1]])
    assert torch.equal(found.classify(support, labels, query, 2)[""], run.compare(support, labels, query, 2))
    assert "somewhere" in InContext("somewhere").recipe()


def test_without_a_run_it_says_how_to_get_one():
    with pytest.raises(ValueError, match=r"^it\.run=null, but it needs a trained run; give .* a run of algorithm=caml"):
        InContext(None).contender("it", encoded(algorithm()))


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^in_context\.run=.*nothing: .*does not exist"):
        InContext(str(tmp_path / "nothing")).contender("in_context", encoded(algorithm()))


@pytest.mark.parametrize("kind", [Plain, Adapts])
def test_an_algorithm_without_a_learned_comparison_of_features_is_refused(kind, monkeypatch):
    monkeypatch.setattr(in_context, "load_algorithm", lambda path: algorithm(kind))
    with pytest.raises(ValueError, match=f"{kind.__name__} has not learned to compare features"):
        InContext("somewhere").contender("in_context", encoded(algorithm()))


def test_another_encoder_is_refused(monkeypatch):
    monkeypatch.setattr(in_context, "load_algorithm", lambda path: algorithm(seed=1))
    with pytest.raises(ValueError, match="was trained on another encoder than the one evaluated"):
        InContext("somewhere").contender("in_context", encoded(algorithm()))
