"""Features of a vision transformer's tokens: naive readings, names that stand side by side, refusals."""

import pytest
import timm
import torch
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batches import Views
from ssl_runner.evaluation.evaluator import evaluate
from ssl_runner.evaluation.features import dataset_features, remembered
from ssl_runner.evaluation.knn import KNN
from ssl_runner.evaluation.linear_probe import LinearProbe
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.evaluation.reading import Reading
from ssl_runner.models.features import evaluating, features
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.vit import ViT

CPU = torch.device("cpu")


class Plain(Algorithm):
    batch_type = Views


def transformer(**arguments) -> Plain:
    """A transformer of three blocks for digits in 2 x 2 patches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = ViT(1, 8, "tiny", 4, **arguments)
        vit.body.blocks = vit.body.blocks[:3]
        return Plain(Network(Encoder(vit, (1, 8, 8), mean=[0.3], std=[0.4]), nn.Identity()))


@pytest.mark.parametrize("arguments", [{}, {"registers": 2}, {"features": "mean"}])
def test_features_equal_those_of_a_loop_over_blocks_and_images(arguments, digits):
    encoder = transformer(**arguments).eval_encoder()
    body, images = encoder.backbone.body, digits.images[:5]
    with evaluating(encoder):
        sequence, blocks = body._pos_embed(body.patch_embed(encoder.prepare(images))), []
        for block in body.blocks:
            sequence = block(sequence)
            blocks.append(body.norm(sequence))
        first = 1 + arguments.get("registers", 0)
        for layers in (None, 1, 3):
            seen = blocks[-(layers or 1) :]
            cls = torch.cat([one[:, 0] for one in seen], dim=1)
            mean = torch.cat([torch.stack([tokens[first:].mean(dim=0) for tokens in one]) for one in seen], dim=1)
            torch.testing.assert_close(Reading("cls", layers).of(encoder)(images), cls)
            torch.testing.assert_close(Reading("mean", layers).of(encoder)(images), mean)
        both = Reading("cls_mean", 2).of(encoder)
        expected = [part for one in blocks[1:] for part in (one[:, 0], one[:, first:].mean(dim=1))]
        torch.testing.assert_close(both(images), torch.cat(expected, dim=1))
        assert both.out_features == 4 * 192


@pytest.mark.parametrize("own", ["cls", "mean", "cls_mean"])
def test_the_encoders_own_features_are_one_of_these_readings_to_the_last_bit(own, digits):
    encoder = transformer(features=own).eval_encoder()
    found = features(Reading(own).of(encoder), digits.images[:20], CPU)
    assert torch.equal(found, features(encoder, digits.images[:20], CPU))
    assert Reading().of(encoder) is encoder


def test_scores_of_several_readings_stand_side_by_side_and_differ(by_images):
    algorithm = transformer()
    asked = {
        "knn": KNN(20, 0.1),
        "knn_patches": KNN(20, 0.1, features="mean"),
        "knn_cls": KNN(20, 0.1, features="cls"),
        "knn_cls_patches_2_layers": KNN(20, 0.1, features="cls_mean", layers=2),
    }
    for name, evaluator in asked.items():
        assert evaluator.option == name
        assert evaluator.keys(algorithm) == [f"{name}/top1"]
        evaluator.check(algorithm, by_images, CPU)
    scores = evaluate(asked, algorithm, by_images, CPU)
    assert list(scores) == [f"{name}/top1" for name in asked]
    assert scores["knn/top1"] == scores["knn_cls/top1"] != scores["knn_patches/top1"]
    assert (
        asked["knn_patches"].protocol(by_images)["represented_by"] == "mean of the patches' tokens, of the last block"
    )
    assert "represented_by" not in asked["knn"].protocol(by_images)


def test_a_probe_names_reading_and_share_of_the_labels(by_images):
    probe = LinearProbe([0.1], 50, 0.1, features="mean", layers=3)
    assert list(probe(transformer(), by_images, CPU)) == probe.keys()
    assert probe.keys()[0] == "linear_probe_patches_3_layers_10pct/top1"
    assert "of the last 3 blocks" in probe.protocol(by_images)["represented_by"]


def test_a_reading_is_computed_once_and_not_taken_for_another(by_images):
    encoder, passes = transformer().eval_encoder(), []
    encoder.backbone.body.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    with remembered():
        found = [
            dataset_features(encoder, by_images.validation, CPU, reading)
            for reading in (Reading(), Reading("mean"), Reading("mean"), Reading())
        ]
    assert len(passes) == 2
    assert torch.equal(found[0], found[3])
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


def test_timms_own_transformers_can_be_read(digits):
    class Around(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

    arguments = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 0, "depth": 2}
    body = timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **arguments)
    encoder = Encoder(Around(body), (1, 8, 8), [0.0], [1.0])
    with evaluating(encoder):
        found = Reading("mean").of(encoder)(digits.images[:3])
        torch.testing.assert_close(found, body.forward_features(encoder.prepare(digits.images[:3])).mean(dim=1))
    with pytest.raises(ValueError, match="this transformer has no class token; set features=mean"):
        Reading("cls").of(encoder)


def test_what_cannot_be_read_is_refused_in_one_sentence(small, by_images):
    sentence = r"eval\.knn_patches\.features=mean is for vision transformers, but the encoder is a Backbone; set feat"
    with pytest.raises(ValueError, match=sentence):
        KNN(20, 0.1, features="mean").check(small(), by_images, CPU)
    with pytest.raises(ValueError, match=r"eval\.linear_probe_cls\.features=cls is for vision transformers"):
        LinearProbe([0.1], 50, 1.0, features="cls").check(RawPixels((1, 8, 8)), by_images, CPU)
    with pytest.raises(ValueError, match=r"layers=4, but the transformer has 3 blocks"):
        KNN(20, 0.1, features="mean", layers=4).check(transformer(), by_images, CPU)
    with pytest.raises(ValueError, match="features='patches' is not one of cls, mean, cls_mean"):
        KNN(20, 0.1, features="patches")
    with pytest.raises(ValueError, match=r"layers=2, features=None; give at least 1 block, and features="):
        LinearProbe([0.1], 50, 1.0, layers=2)


def test_the_baseline_of_raw_pixels_has_no_such_score(by_images):
    assert KNN(20, 0.1, features="mean")(RawPixels((1, 8, 8)), by_images, CPU) == {}
    assert LinearProbe([0.1], 50, 1.0, features="cls")(RawPixels((1, 8, 8)), by_images, CPU) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "class token, of the last block"),
        ({"features": "mean", "layers": 2}, "mean of the patches' tokens, of the last 2 blocks"),
    ],
)
def test_an_encoder_says_what_its_own_features_are(arguments, words, small):
    assert transformer(**arguments).eval_encoder().represented_by == words
    assert small().eval_encoder().represented_by is None
