"""Fine-tuning compared with handwritten SGD; only the labels in its share affect it."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.augmentation import Augmentation, PadCrop, RandomResizedCrop
from ssl_runner.data.batches import Views
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.evaluation.fine_tuning import FineTuning
from ssl_runner.evaluation.gallery import SEED, gallery_indices
from ssl_runner.evaluation.linear_probe import LinearProbe
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.depths import depths
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.resnet import ResNet
from ssl_runner.models.timm_encoder import Timm
from ssl_runner.models.vit import ViT
from ssl_runner.runtime import randomness

CPU = torch.device("cpu")


def fine_tuning(
    labels=0.1, epochs=2, batch_size=32, lr=0.05, factor=1.0, decay=0.0, transforms=None, **further
) -> FineTuning:
    return FineTuning(labels, epochs, batch_size, lr, factor, decay, Augmentation(transforms or {}), **further)


def trained(evaluator: FineTuning, algorithm: Algorithm, splits: Splits) -> list[torch.Tensor]:
    """All parameters and buffers of encoder and classifier after training."""
    sets = gallery_indices(splits, evaluator.labels)
    encoder, head = evaluator.train(algorithm.eval_encoder(), sets, splits.test.n_classes, CPU)
    return [value.detach() for value in (*encoder.state_dict().values(), *head.state_dict().values())]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


class Smooth(nn.Sequential):
    """Convolution, batch normalisation and tanh; nothing random."""

    out_features = 64

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Identity()
        )


class Plain(Algorithm):
    batch_type = Views


@pytest.fixture
def smooth() -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(Smooth(), (1, 8, 8), mean=[0.3], std=[0.4])
    return Plain(Network(encoder, nn.Identity()))


def by_hand(algorithm, splits, evaluator, epochs) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The same training, written out: Nesterov momentum on every weight, decay on matrices, a cosine to 0."""
    sets = gallery_indices(splits, evaluator.labels)
    images = torch.cat([part.images for part in sets.parts])[sets.gallery]
    encoder = copy.deepcopy(algorithm.eval_encoder()).train()
    weight, bias = torch.zeros(10, 64, requires_grad=True), torch.zeros(10, requires_grad=True)
    weights = [*encoder.parameters(), weight, bias]
    rates = [1.0] * (len(weights) - 2) + [evaluator.head_lr_factor] * 2
    velocities = [torch.zeros_like(one) for one in weights]
    batches = -(-len(images) // evaluator.batch_size)
    step = 0
    for epoch in range(epochs):
        order = torch.from_numpy(randomness.permutation(SEED, "fine_tuning/order", epoch, len(images)))
        for rows in order.tensor_split(batches):
            table = randomness.uniforms(SEED, "fine_tuning/augmentation", step, len(rows), 2)
            views = PadCrop(2)(images[rows].float() / 255, torch.from_numpy(table))
            logs = F.log_softmax(encoder(views) @ weight.T + bias, dim=1)
            loss = -logs[torch.arange(len(rows)), sets.gallery_labels[rows]].mean()
            rate = evaluator.lr * (1 + np.cos(np.pi * step / (epochs * batches))) / 2
            for one, velocity, factor, slope in zip(
                weights, velocities, rates, torch.autograd.grad(loss, weights), strict=True
            ):
                slope = slope + (evaluator.weight_decay * one.detach() if one.ndim > 1 else 0)
                velocity.mul_(0.9).add_(slope)
                one.data -= rate * factor * (slope + 0.9 * velocity)
            step += 1
    return encoder, weight, bias


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 1000), (3, 50)])
def test_it_equals_sgd_written_out(smooth, by_images, epochs, batch_size):
    evaluator = fine_tuning(0.1, epochs, batch_size, 0.05, 3.0, 0.01, {"crop": PadCrop(2)})
    encoder, weight, bias = by_hand(smooth, by_images, evaluator, epochs)
    found = trained(evaluator, smooth, by_images)
    expected = [*encoder.state_dict().values(), weight, bias]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-4)
    before = smooth.eval_encoder().state_dict()
    assert not torch.equal(before["backbone.1.running_mean"], encoder.state_dict()["backbone.1.running_mean"])
    assert int(encoder.state_dict()["backbone.1.num_batches_tracked"]) == epochs * -(-118 // batch_size)


def encoder_of(backbone: nn.Module) -> Plain:
    return Plain(Network(Encoder(backbone, (1, 8, 8), mean=[0.3], std=[0.4]), nn.Identity()))


def small_vit() -> ViT:
    """A transformer of three blocks."""
    vit = ViT(1, 8, "tiny", 4, registers=1)
    vit.body.blocks = vit.body.blocks[:3]
    return vit


def test_the_layers_of_a_transformer_are_those_of_beit_and_mae():
    found, last = depths(encoder_of(small_vit()).eval_encoder())
    assert last == 4  # stem, three blocks with the last layer norm, and the classifier
    for name, depth in found.items():
        part = name.removeprefix("backbone.body.")
        if part.startswith("blocks."):
            assert depth == int(part.split(".")[1]) + 1
        else:
            assert depth == (3 if part.startswith("norm.") else 0), name


def test_the_layers_of_convolutional_networks_are_stages_and_blocks():
    found, last = depths(encoder_of(ResNet(1, 8, 18)).eval_encoder())
    stages = {"0": 0, "1": 0, "4": 1, "5": 2, "6": 3, "7": 4}
    assert last == 5
    assert all(depth == stages[name.split(".")[2]] for name, depth in found.items())
    found, last = depths(encoder_of(Conv4(1, 8, 4, "max_pool", 1)).eval_encoder())
    assert (last, set(found.values())) == (4, {0, 1, 2, 3})
    found, last = depths(encoder_of(Timm(1, 32, "resnet10t", False, {})).eval_encoder())
    assert found["backbone.body.conv1.0.weight"] == 0
    assert last == 1 + max(found.values()) == 1 + found["backbone.body.layer4.0.conv1.weight"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("backbone", [small_vit, lambda: ResNet(1, 8, 18), lambda: Conv4(1, 8, 4, "max_pool", 1)])
def test_every_weight_has_the_rate_of_its_layer_once(backbone, optimizer):
    encoder = encoder_of(backbone()).eval_encoder()
    head, evaluator = nn.Linear(4, 2), fine_tuning(lr=0.1, decay=0.3, factor=2.0, layer_decay=0.5, optimizer=optimizer)
    by_name, last = depths(encoder)
    expected = {id(weight): 0.1 * 0.5 ** (last - by_name[name]) for name, weight in encoder.named_parameters()}
    expected |= {id(weight): 0.2 for weight in head.parameters()}
    seen = []
    for group in evaluator.optimizer(encoder, head).param_groups:
        for weight in group["params"]:
            seen.append(id(weight))
            assert group["initial_lr"] == pytest.approx(expected[id(weight)])
            assert group["weight_decay"] == (0.3 if weight.ndim > 1 else 0)
    assert sorted(seen) == sorted(expected)


def test_without_layer_decay_mixup_warm_up_and_autocast_nothing_changes_bit_for_bit(small, by_images):
    before = trained(fine_tuning(), small(), by_images)
    off = {"optimizer": "sgd", "layer_decay": 1.0, "mixup": 0.0, "warmup_share": 0.0, "precision": "float32"}
    assert same(trained(fine_tuning(**off), small(), by_images), before)
    assert fine_tuning(**off).protocol(by_images) == fine_tuning().protocol(by_images)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_layer_decay_and_mixup_equal_steps_written_out(by_images, optimizer):
    """One step of plain rates: all images in one batch, warm-up of the only step at the full rate."""
    torch.manual_seed(0)
    algorithm = encoder_of(Conv4(1, 8, 4, "max_pool", 1))
    evaluator = fine_tuning(0.1, 1, 1000, 0.01, layer_decay=0.5, mixup=0.8, optimizer=optimizer)
    found = trained(evaluator, algorithm, by_images)
    sets = gallery_indices(by_images, 0.1)
    order = torch.from_numpy(randomness.permutation(SEED, "fine_tuning/order", 0, 118))
    images = torch.cat([part.images for part in sets.parts])[sets.gallery][order].float() / 255
    labels = F.one_hot(sets.gallery_labels[order], 10).float()
    draw = np.random.default_rng(randomness.number(SEED, "fine_tuning/mixup", 0))
    share, others = draw.beta(0.8, 0.8), torch.from_numpy(draw.permutation(118))
    assert 0 < share < 1
    encoder, head = copy.deepcopy(algorithm.eval_encoder()).train(), nn.Linear(4, 10)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    mixed = torch.stack([share * images[i] + (1 - share) * images[others[i]] for i in range(118)])
    targets = torch.stack([share * labels[i] + (1 - share) * labels[others[i]] for i in range(118)])
    loss = -(F.log_softmax(head(encoder(mixed)), dim=1) * targets).sum(dim=1).mean()
    weights = dict(encoder.named_parameters()) | {f"head.{name}": one for name, one in head.named_parameters()}
    slopes = torch.autograd.grad(loss, list(weights.values()))
    for (name, weight), slope in zip(weights.items(), slopes, strict=True):
        rate = 0.01 * 0.5 ** (4 - int(name.split(".")[2])) if name.startswith("backbone.") else 0.01
        # the first steps of Nesterov's momentum, and of AdamW
        step = 1.9 * slope if optimizer == "sgd" else slope / (slope.abs() + 1e-8)
        weight.data -= rate * step
    expected = [*encoder.state_dict().values(), *head.state_dict().values()]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-3)


def test_in_half_precision_products_are_in_bfloat16_and_weights_and_loss_in_float32(by_images):
    seen, algorithm = [], encoder_of(small_vit())
    for module in algorithm.eval_encoder().modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    half = trained(fine_tuning(0.1, 1, 30, 0.01, precision="bfloat16"), algorithm, by_images)
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in half} == {torch.float32}
    whole = trained(fine_tuning(0.1, 1, 30, 0.01), algorithm, by_images)
    assert not same(half, whole)
    for one, other in zip(half, whole, strict=True):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=5e-2)


def test_mixed_images_are_the_same_in_every_run_and_new_in_every_step(small, by_images):
    seen, algorithm = [], small()
    algorithm.eval_encoder().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    first = trained(fine_tuning(mixup=1.0, batch_size=200), algorithm, by_images)
    again = trained(fine_tuning(mixup=1.0, batch_size=200), algorithm, by_images)
    assert same(first, again)
    assert not torch.equal(seen[0].sort(dim=0).values, seen[1].sort(dim=0).values)


def test_the_rate_rises_in_the_warm_up(smooth, by_images, monkeypatch):
    rates, evaluator = [], fine_tuning(0.1, 5, 59, 0.1, warmup_share=0.4)
    made = evaluator.optimizer

    def watched(*arguments):
        optimizer = made(*arguments)
        optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(evaluator, "optimizer", watched)
    trained(evaluator, smooth, by_images)
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert len(rates) == 10
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_an_encoder_of_unknown_layers_is_refused_only_with_layer_decay(small, by_images):
    with pytest.raises(ValueError, match="Backbone does not say which layers it has; set layer_decay=1"):
        fine_tuning(layer_decay=0.7).check(small(), by_images, CPU)
    fine_tuning(layer_decay=1.0).check(small(), by_images, CPU)
    fine_tuning(layer_decay=0.7).check(encoder_of(small_vit()), by_images, CPU)
    assert fine_tuning(layer_decay=0.7)(RawPixels((1, 8, 8)), by_images, CPU)["fine_tuning_10pct/top1"] > 0


def test_without_an_encoder_it_reaches_the_known_optimum():
    # Two pixels, one on: the two classes of 3 to 1 have a finite optimum, logit difference = log 3 and -log 3.
    images = torch.zeros(80, 1, 1, 2, dtype=torch.uint8)
    images[:40, 0, 0, 0] = images[40:, 0, 0, 1] = 255
    labels = torch.tensor([0, 0, 0, 1] * 10 + [1, 1, 1, 0] * 10)
    part = Dataset("toy/train", images, labels, ("a", "b"), None, "toy")
    splits = Splits(part, None, replace(part, name="toy/test"), "images")
    evaluator = fine_tuning(1.0, 200, 80, 0.5)
    weight, bias = trained(evaluator, RawPixels((1, 1, 2)), splits)[-2:]
    logits = torch.eye(2) @ weight.T + bias
    expected = torch.tensor([np.log(3), -np.log(3)], dtype=torch.float32)
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], expected, atol=1e-3, rtol=0)
    assert evaluator(RawPixels((1, 1, 2)), splits, CPU) == {"fine_tuning/top1": 0.75}


def test_fine_tuning_beats_a_linear_probe_of_the_untrained_encoder(small, by_images):
    probe = LinearProbe([0.1, 0.01, 0.001], 500, 0.1)(small(), by_images, CPU)["linear_probe_10pct/top1"]
    tuned = fine_tuning(0.1, 40, 32, 0.05)(small(), by_images, CPU)["fine_tuning_10pct/top1"]
    assert tuned > probe + 0.02
    few = fine_tuning(0.01, 40, 32, 0.05)(small(), by_images, CPU)["fine_tuning_1pct/top1"]
    assert 0.2 < few < tuned


def test_nothing_depends_on_the_global_generators_or_on_what_ran_before(small, by_images):
    evaluator, algorithm = fine_tuning(transforms={"crop": PadCrop(1)}), small()
    torch.manual_seed(1)
    first = trained(evaluator, algorithm, by_images)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002
    fine_tuning(0.5, 1)(algorithm, by_images, CPU)
    algorithm.eval()
    assert same(trained(evaluator, algorithm, by_images), first)
    with torch.no_grad():
        assert same(trained(evaluator, algorithm, by_images), first)


def test_dropout_is_active_and_drawn_again_in_each_step(small, by_images):
    algorithm, without = small(), small()
    without.network.encoder.backbone[3] = nn.Identity()
    seen = []
    algorithm.eval_encoder().backbone[3].register_forward_hook(lambda _m, _i, output: seen.append(output == 0))
    assert not same(trained(fine_tuning(), algorithm, by_images), trained(fine_tuning(), without, by_images))
    assert not torch.equal(seen[0], seen[1])


def test_frozen_teachers_are_trained_and_the_original_keeps_gradients_flags_and_hooks(small, by_images):
    algorithm = small()
    algorithm.requires_grad_(False)
    weight = algorithm.network.encoder.backbone[0].weight
    weight.grad = torch.ones_like(weight)
    before = copy.deepcopy(algorithm.state_dict())
    found = trained(fine_tuning(), algorithm, by_images)
    names = list(algorithm.network.encoder.state_dict())
    kept = {
        name for name, one in zip(names, found, strict=False) if torch.equal(one, before[f"network.encoder.{name}"])
    }
    assert kept == {"mean", "std", "backbone.0.bias"}, "batch normalisation takes a bias before it out again"
    assert not any(parameter.requires_grad for parameter in algorithm.parameters())
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(torch.equal(value, before[name]) for name, value in algorithm.state_dict().items())


def test_images_and_labels_outside_the_share_change_nothing(small, by_images):
    evaluator, algorithm = fine_tuning(0.1), small()
    first = trained(evaluator, algorithm, by_images)
    drawn = torch.zeros(1200, dtype=torch.bool)
    drawn[gallery_indices(by_images, 0.1).gallery] = True
    # A share is the first of each class in a fixed order: behind the last of them, labels may be permuted.
    order = torch.from_numpy(randomness.permutation(SEED, "labels", 0, 1200))
    free = order[int(drawn[order].nonzero().max()) + 1 :]
    assert len(free) > 800
    labels = torch.cat([by_images.train.labels, by_images.validation.labels])
    images = torch.cat([by_images.train.images, by_images.validation.images])
    labels[free] = labels[free.flip(0)]
    images[~drawn] = 255 - images[~drawn]
    other = replace(
        by_images,
        train=replace(by_images.train, images=images[:1000], labels=labels[:1000]),
        validation=replace(by_images.validation, images=images[1000:], labels=labels[1000:]),
    )
    assert same(trained(evaluator, algorithm, other), first)
    inside = replace(by_images, train=replace(by_images.train, images=255 - by_images.train.images))
    assert not same(trained(evaluator, algorithm, inside), first)


def test_test_data_affects_nothing_but_the_score(small, by_images):
    evaluator, algorithm = fine_tuning(1.0, 3, 64), small()
    other = replace(by_images, test=replace(by_images.test, labels=by_images.test.labels.flip(0)))
    assert same(trained(evaluator, algorithm, other), trained(evaluator, algorithm, by_images))
    assert evaluator(algorithm, other, CPU)["fine_tuning/top1"] < 0.3
    assert evaluator(algorithm, by_images, CPU)["fine_tuning/top1"] > 0.7


def test_held_out_classes_are_learned_from_one_half_and_scored_on_the_other(small, by_classes):
    assert fine_tuning(1.0, 10)(small(), by_classes, CPU)["fine_tuning/top1"] > 0.9
    said = fine_tuning(0.1).protocol(by_classes)
    assert said["classes"] == "unseen"
    assert said["labelled_images"] == len(gallery_indices(by_classes, 0.1).gallery)


def test_every_image_is_seen_once_per_epoch_in_batches_of_almost_equal_size(small, by_images):
    seen, algorithm = [], small()
    algorithm.eval_encoder().register_forward_pre_hook(lambda module, inputs: seen.append((module.training, inputs[0])))
    trained(fine_tuning(0.1, 2, 50), algorithm, by_images)
    assert [len(images) for _, images in seen] == [40, 39, 39] * 2
    assert all(training for training, _ in seen)
    sets = gallery_indices(by_images, 0.1)
    expected = torch.cat(sets.images()).flatten(1).float().div(255)
    for epoch in (seen[:3], seen[3:]):
        views = torch.cat([images for _, images in epoch]).flatten(1)
        assert torch.equal(views[views.sum(1).argsort(stable=True)].sum(1), expected.sum(1).sort().values)
    assert not torch.equal(seen[0][1], seen[3][1])


@pytest.mark.parametrize("labels", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("batch_size", [3, 7, 64, 4096])
def test_a_batch_is_never_larger_than_asked_nor_a_single_image(by_images, labels, batch_size):
    n = len(gallery_indices(by_images, labels).gallery)
    sizes = {len(part) for part in torch.arange(n).tensor_split(fine_tuning(batch_size=batch_size)._batches(n))}
    assert 2 <= min(sizes) <= max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_weights_keep_their_memory_format(small, by_images):
    algorithm = small().to(memory_format=torch.channels_last)
    algorithm.network.encoder.backbone[0] = nn.Conv2d(1, 8, 3, 2, 1).to(memory_format=torch.channels_last)
    before = algorithm.network.encoder.backbone[0].weight.stride()
    encoder, _ = fine_tuning().train(algorithm.eval_encoder(), gallery_indices(by_images, 0.1), 10, CPU)
    assert encoder.backbone[0].weight.stride() == before


def test_divergence_is_reported_with_a_remedy(smooth, by_images):
    with pytest.raises(ValueError, match=r"diverged.*not finite.*lower eval\.fine_tuning_10pct\.lr=1e\+30"):
        fine_tuning(lr=1e30)(smooth, by_images, CPU)


def test_for_raw_pixels_only_the_classifier_is_trained(by_images):
    pixels = RawPixels((1, 8, 8))
    assert len(trained(fine_tuning(1.0), pixels, by_images)) == 4  # mean and std, weight and bias
    assert 0.85 < fine_tuning(1.0, 10, 100, 0.1)(pixels, by_images, CPU)["fine_tuning/top1"] < 0.97


def test_an_encoder_without_weights_is_refused(by_images, small):
    with pytest.raises(ValueError, match="this one has no weights; leave it out"):
        fine_tuning().check(RawPixels((1, 8, 8)), by_images, CPU)
    fine_tuning().check(small(), by_images, CPU)
    fine_tuning().check(None, by_images, CPU)


def test_problems_that_would_appear_after_training_are_refused_before(by_images, small):
    unlabelled = replace(by_images, validation=replace(by_images.validation, labels=None))
    with pytest.raises(ValueError, match="digits/validation has no labels"):
        fine_tuning().check(small(), unlabelled, CPU)
    crop = {"crop": RandomResizedCrop(6, [0.5, 1.0], [0.8, 1.2])}
    with pytest.raises(ValueError, match=r"turns images of 1x8x8 into 1x6x6.*set the crop's size to null"):
        fine_tuning(transforms=crop).check(small(), by_images, CPU)
    one = Dataset("toy/train", torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4).long(), ("a",), None, "toy")
    with pytest.raises(ValueError, match=r"toy/train has one class \('a'\)"):
        fine_tuning(0.01).check(small(), Splits(one, None, one, "images"), CPU)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"labels": 0.0}, r"labels=0.0; give a share of the labels in \(0, 1\]"),
        ({"labels": 1.5}, "labels=1.5"),
        ({"epochs": 0}, "epochs=0; give at least 1"),
        ({"batch_size": 2}, "batch_size=2; give at least 3"),
        ({"lr": 0.0}, "lr=0.0; give a number above 0"),
        ({"factor": -1.0}, "head_lr_factor=-1.0"),
        ({"decay": -0.1}, "weight_decay=-0.1"),
        ({"optimizer": "adam"}, "optimizer='adam' is not one of sgd, adamw"),
        ({"layer_decay": 0.0}, r"layer_decay=0.0; give a factor in \(0, 1\]"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"mixup": -0.1}, "mixup=-0.1"),
        ({"warmup_share": 1.0}, "warmup_share=1.0"),
        ({"precision": "half"}, "precision='half' is not one of float32, bfloat16"),
    ],
)
def test_senseless_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        fine_tuning(**wrong)


def test_an_object_that_is_not_an_augmentation_is_refused():
    with pytest.raises(ValueError, match="augmentation is a PadCrop, expected an Augmentation"):
        FineTuning(0.1, 1, 32, 0.1, 1.0, 0.0, PadCrop(2))


def test_the_protocol_names_everything(by_images):
    said = fine_tuning(0.01, 60, 64, 0.02, 10.0, 1e-4, {"crop": PadCrop(2)}).protocol(by_images)
    assert json.loads(json.dumps(said)) == said
    assert (said["labels"], said["labelled_images"], said["gallery_size"], said["seed"]) == (0.01, 10, 1200, 0)
    assert (said["epochs"], said["batch_size"], said["steps"]) == (60, 10, 60)
    assert said["drawn"].startswith("at random within each class, at least one image per class")
    assert said["augmentation"] == ["PadCrop(padding=2)"]
    assert "learning rate 0.02 (classifier 10 times that), cosine to 0, weight decay 0.0001" in said["solver"]
    assert said["validation"].startswith("none")
    assert not {"layer_decay", "mixup", "warmup", "precision"} & said.keys()
    given = {"layer_decay": 0.75, "mixup": 0.8, "warmup_share": 0.05, "precision": "bfloat16"}
    tuned = fine_tuning(optimizer="adamw", **given).protocol(by_images)
    assert tuned["solver"].startswith("AdamW, learning rate")
    assert (tuned["layer_decay"], tuned["mixup"], tuned["warmup"]) == (0.75, 0.8, 0.05)
    assert tuned["precision"] == "bfloat16"
    whole = fine_tuning(1.0).protocol(by_images)
    assert (whole["labels"], whole["labelled_images"]) == (1.0, 1200)
