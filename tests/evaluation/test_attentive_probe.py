"""The attentive probe compared with torch's attention over all tokens; what it learns from, names and refusals."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batches import Views
from ssl_runner.evaluation import tokens as tokens_module
from ssl_runner.evaluation.attentive_probe import AttentiveProbe, Probe, scores
from ssl_runner.evaluation.evaluator import merits
from ssl_runner.evaluation.gallery import SEED, gallery_indices
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.evaluation.tokens import FrozenTokens, tokens_of
from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.features import evaluating
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.timm_encoder import Timm
from ssl_runner.models.vit import ViT
from ssl_runner.runtime import randomness

CPU = torch.device("cpu")


class Plain(Algorithm):
    batch_type = Views


def algorithm_of(backbone) -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Plain(Network(Encoder(backbone(), (1, 8, 8), mean=[0.3], std=[0.4]), nn.Identity()))


@pytest.fixture
def conv() -> Plain:
    """A network with maps of 16 x 4 x 4."""
    return algorithm_of(lambda: Conv4(1, 8, 16, "max_pool", 4))


@pytest.fixture
def transformer() -> Plain:
    """A transformer of one block with 16 patches and two registers."""

    def made() -> ViT:
        vit = ViT(1, 8, "tiny", 2, registers=2)
        vit.body.blocks = vit.body.blocks[:1]
        return vit

    return algorithm_of(made)


def probe(heads=4, rates=(0.003, 0.03), epochs=5, batch_size=64, decay=0.01, labels=1.0, dataset=None, min_steps=1):
    return AttentiveProbe(heads, list(rates), epochs, min_steps, batch_size, decay, labels, dataset)


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_scores_and_gradients_equal_torchs_attention_over_every_token(heads):
    torch.manual_seed(heads)
    own = Probe(12, heads, 5, seed=3).double()
    nn.init.normal_(own.weight)
    nn.init.normal_(own.value_bias)
    nn.init.normal_(own.query)
    naive = nn.MultiheadAttention(12, heads, batch_first=True).double()
    with torch.no_grad():
        identity, zeros = torch.eye(12), torch.zeros(12)
        naive.in_proj_weight.copy_(torch.cat([identity, own.key.flatten(0, 1), own.value.flatten(0, 1)]))
        naive.in_proj_bias.copy_(torch.cat([zeros, zeros + 0.7, own.value_bias]))  # a bias of keys changes nothing
        naive.out_proj.weight.copy_(identity)
        naive.out_proj.bias.zero_()
    tokens = torch.randn(7, 9, 12, dtype=torch.float64)
    query = own.query.detach().clone().requires_grad_()
    expected = naive(query.expand(7, 1, 12), tokens, tokens)[0][:, 0] @ own.weight.T + own.bias
    found = scores([own], tokens)[0]
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found.square().sum(), own.query)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.square().sum(), query)[0])


def test_it_starts_as_a_classifier_that_answers_the_same_to_all_from_almost_even_attention():
    start = Probe(12, 3, 5, seed=1)
    assert (scores([start], torch.randn(4, 9, 12)) == 0).all()
    attention = (torch.randn(4, 9, 12) @ start.directions().T).softmax(dim=1)
    assert (attention - 1 / 9).abs().max() < 0.02


def by_hand(evaluator, tokens, labels, rows, rate) -> list[torch.Tensor]:
    """AdamW written out, on one probe."""
    own = Probe(tokens.shape[2], evaluator.heads, 10, randomness.number(SEED, "attentive_probe/start", 0))
    weights = list(own.parameters())
    first, second = ([torch.zeros_like(one) for one in weights] for _ in range(2))
    batches, step = -(-len(rows) // evaluator.batch_size), 0
    for epoch in range(evaluator.epochs):
        order = torch.from_numpy(randomness.permutation(SEED, "attentive_probe/order", epoch, len(rows)))
        for drawn in rows[order].tensor_split(batches):
            loss = F.cross_entropy(scores([own], tokens[drawn])[0], labels[drawn])
            lr = rate * (1 + torch.cos(torch.tensor(torch.pi * step / (batches * evaluator.epochs)))) / 2
            step += 1
            with torch.no_grad():
                for one, mean, square, slope in zip(
                    weights, first, second, torch.autograd.grad(loss, weights), strict=True
                ):
                    one.mul_(1 - lr * evaluator.weight_decay * (one.ndim > 1))
                    mean.mul_(0.9).add_(slope, alpha=0.1)
                    square.mul_(0.999).add_(slope.square(), alpha=0.001)
                    one -= lr * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    return [one.detach() for one in weights]


def test_each_rate_is_trained_as_if_alone_by_adamw_written_out(conv, by_images):
    evaluator = probe(epochs=2, decay=0.1)
    sets = gallery_indices(by_images)
    with evaluating(conv):
        tokens = FrozenTokens(conv.eval_encoder(), sets.images(), CPU)
        rows = (~sets.validation).nonzero()[:, 0]
        found = evaluator.train(tokens, sets.gallery_labels, rows, [0.003, 0.03], 10)
    whole = tokens(torch.arange(1200))
    for one, rate in zip(found, [0.003, 0.03], strict=True):
        expected = by_hand(evaluator, whole, sets.gallery_labels, rows, rate)
        for weight, other in zip(one.parameters(), expected, strict=True):
            torch.testing.assert_close(weight.detach(), other, atol=2e-3, rtol=1e-2)


def test_few_images_are_passed_over_more_often_until_there_are_enough_steps(conv, by_images, monkeypatch):
    with evaluating(conv):
        tokens = FrozenTokens(conv.eval_encoder(), gallery_indices(by_images).images(), CPU)
    taken, labels = [], gallery_indices(by_images).gallery_labels
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda one, *_: (taken.append(1), step(one))[1])
    for asked, expected in ((1, 4), (4, 4), (5, 6), (20, 20)):  # two batches an epoch, two epochs
        taken.clear()
        probe(epochs=2, min_steps=asked).train(tokens, labels, torch.arange(100), [0.01], 10)
        assert len(taken) == expected


def test_tokens_are_a_transformers_patches_and_a_maps_positions_in_reading_order(conv, transformer, digits):
    images = digits.images[:3]
    with evaluating(conv), evaluating(transformer):
        maps = conv.eval_encoder().feature_map(images)
        expected = torch.stack([maps[:, :, row, column] for row in range(4) for column in range(4)], dim=1)
        assert torch.equal(tokens_of(conv.eval_encoder(), images), expected)
        encoder = transformer.eval_encoder()
        last = encoder.backbone.body.forward_features(encoder.prepare(images))
        torch.testing.assert_close(tokens_of(encoder, images), last[:, 3:])
    arguments = {"patch_size": 2, "depth": 1}
    timms = algorithm_of(lambda: Timm(1, 8, "vit_tiny_patch16_224", False, arguments)).eval_encoder()
    with evaluating(timms):
        assert tokens_of(timms, images).shape == (3, 16, 192)


def test_tokens_are_standardised_over_images_and_places(conv, by_images):
    with evaluating(conv):
        tokens = FrozenTokens(conv.eval_encoder(), [by_images.train.images, by_images.validation.images], CPU)
        found = tokens(torch.arange(1200))
        last = tokens.of(by_images.validation.images[-1:])
    assert found.shape == (1200, 16, 16)
    assert tokens.kept is not None and tokens.kept.dtype == torch.half
    varying = found.flatten(0, 1).std(dim=0) > 0
    assert varying.sum() > 8
    torch.testing.assert_close(found.mean(dim=(0, 1)), torch.zeros(16), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        found.flatten(0, 1).std(dim=0)[varying], torch.ones(int(varying.sum())), atol=2e-3, rtol=0
    )
    torch.testing.assert_close(found[-1:], last, atol=5e-3, rtol=1e-3)


def test_tokens_that_do_not_fit_are_computed_anew_and_score_the_same(conv, by_images, monkeypatch):
    sets, every, found = gallery_indices(by_images), torch.arange(1200), []
    for limit in (16 * 16 * 2 * 1200, 16 * 16 * 2 * 1200 - 1):
        monkeypatch.setattr(tokens_module, "LIMIT", limit)
        with evaluating(conv):
            tokens = FrozenTokens(conv.eval_encoder(), sets.images(), CPU)
            probes = probe(epochs=2).train(tokens, sets.gallery_labels, every, [0.003], 10)
            found.append((tokens.kept is None, tokens(every), scores(probes, tokens(every))))
    assert [anew for anew, *_ in found] == [False, True]
    torch.testing.assert_close(found[0][1], found[1][1], atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(found[0][2], found[1][2], atol=2e-2, rtol=2e-2)
    assert all(weight.grad is None for weight in conv.parameters())


def test_it_learns_and_depends_on_nothing_that_ran_before(conv, by_images):
    before, state = copy.deepcopy(conv.state_dict()), torch.get_rng_state()
    found = probe(epochs=8)(conv, by_images, CPU)
    assert found["attentive_probe/top1"] > 0.7
    assert found["attentive_probe/learning_rate"] in (0.003, 0.03)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, conv.state_dict()[name]) for name, value in before.items())
    assert conv.training
    torch.manual_seed(7)
    assert probe(epochs=8)(conv, by_images, CPU) == found


def test_the_rate_is_chosen_on_validation_and_test_only_scores(conv, by_images):
    evaluator = probe(rates=(1e-6, 0.01), epochs=3)
    found = evaluator(conv, by_images, CPU)
    assert found["attentive_probe/learning_rate"] == 0.01
    other = replace(by_images, test=replace(by_images.test, labels=by_images.test.labels.flip(0)))
    flipped = evaluator(conv, other, CPU)
    assert flipped["attentive_probe/learning_rate"] == 0.01
    assert flipped["attentive_probe/top1"] < 0.3 < found["attentive_probe/top1"]
    # with validation labels that say nothing of train's, the rate that learns nothing ties or wins
    shuffled = replace(by_images.validation, labels=torch.full((200,), 3))
    marked = gallery_indices(replace(by_images, validation=shuffled))
    with evaluating(conv):
        tokens = FrozenTokens(conv.eval_encoder(), marked.images(), CPU)
        labels = torch.where(marked.validation, marked.gallery_labels, torch.full((1200,), 3))
        assert evaluator.choose(tokens, labels, marked.validation, 10) == 1e-6  # ties go to the lowest


def test_a_rate_that_diverges_is_not_chosen_and_alone_is_reported(conv, by_images):
    assert probe(rates=(0.003, 1e30), epochs=1)(conv, by_images, CPU)["attentive_probe/learning_rate"] == 0.003
    with pytest.raises(ValueError, match=r"diverged at learning rate 1e\+30; lower eval\.attentive_probe\.learning"):
        probe(rates=(1e30,), epochs=1)(conv, by_images, CPU)


def test_names_say_share_and_dataset(conv, by_images):
    assert probe(labels=0.1).keys() == ["attentive_probe_10pct/top1", "attentive_probe_10pct/learning_rate"]
    assert merits(probe().keys()) == ["attentive_probe/top1"]
    elsewhere = probe(labels=0.1, epochs=2, dataset=by_images)
    assert elsewhere.option == "attentive_probe_10pct_digits"
    assert list(elsewhere(conv, by_images, CPU)) == elsewhere.keys()
    assert elsewhere.keys()[0] == "digits/attentive_probe_10pct/top1"


def test_the_protocol_names_everything(by_images, by_classes):
    said = probe(heads=2, labels=0.1).protocol(by_images)
    assert json.loads(json.dumps(said)) == said
    assert "of 2 heads" in said["probe"]
    assert (said["learning_rates"], said["epochs"], said["batch_size"]) == ([0.003, 0.03], 5, 64)
    assert (said["labels"], said["seed"], said["chosen_on"]) == (0.1, 0, "validation")
    assert probe().protocol(by_classes)["classes"] == "unseen"


def test_encoders_without_a_feature_map_are_refused_in_one_sentence(small, by_images, conv):
    with pytest.raises(ValueError, match=r"eval\.attentive_probe: the encoder \(Backbone\) has no feature map"):
        probe().check(small(), by_images, CPU)
    with pytest.raises(ValueError, match=r"the encoder \(Pixels\) has no feature map"):
        probe().check(RawPixels((1, 8, 8)), by_images, CPU)
    assert probe()(RawPixels((1, 8, 8)), by_images, CPU) == {}
    with pytest.raises(ValueError, match=r"heads=6 cannot share tokens of 16 numbers evenly; set eval.*heads=2"):
        probe(heads=6).check(conv, by_images, CPU)
    probe().check(conv, by_images, CPU)
    probe().check(None, by_images, CPU)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rates": ()}, r"learning_rates=\[\]; give positive numbers"),
        ({"rates": (0.1, -1.0)}, "give positive numbers"),
        ({"heads": 0}, "heads=0; give at least 1"),
        ({"epochs": 0}, "epochs=0; give at least 1"),
        ({"min_steps": 0}, "min_steps=0; give at least 1"),
        ({"batch_size": 0}, "batch_size=0; give at least 1"),
        ({"decay": -1.0}, "weight_decay=-1.0; give at least 0"),
        ({"labels": 0.0}, "labels=0.0; give a share"),
    ],
)
def test_senseless_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        probe(**wrong)
