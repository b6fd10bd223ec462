"""Masked prediction: its methods reduce to one another, and the teacher follows."""

import copy
from typing import Any

import pytest
import torch
from small_vits import METHODS, RUN, encoder_of, small_vit

from ssl_runner.algorithms.masked import Masked
from ssl_runner.algorithms.momentum import Momentum
from ssl_runner.algorithms.patch_targets import Features, Frequencies, Pixels, Prototypes
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.cli.validate import checked_config
from ssl_runner.data.batches import Views
from ssl_runner.data.masking import BlockMasking, Masks, MultiBlockMasking, RandomMasking
from ssl_runner.losses.dino import DINO
from ssl_runner.losses.koleo import KoLeo
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.patch_cross_entropy import PatchCrossEntropy
from ssl_runner.losses.patches import MeanSquaredError
from ssl_runner.models import predictors
from ssl_runner.models.heads import Prototyped
from ssl_runner.models.network import Network
from ssl_runner.models.predictors import ConvolutionalPredictor, LinearPredictor, TransformerPredictor
from ssl_runner.optim.schedules import half_cosine
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training.recording import Needs, Observed
from ssl_runner.wiring import wire

B = 4
CPU = torch.device("cpu")
TEMPERATURES = (0.1, 0.07, 0.04, 0.1, 0.9)


def context(step: int = 2, max_steps: int = 10) -> StepContext:
    return StepContext(step, max_steps, 0, CPU)


def network(prototypes: bool = True, **changes) -> Network:
    encoder = encoder_of(small_vit(**changes))
    torch.manual_seed(0)
    head = Prototyped(encoder.out_features, None, 8, 6, 11) if prototypes else torch.nn.Identity()
    return Network(encoder, head).double()


def transformer(width, out, grid):
    return TransformerPredictor(width, out, grid, 24, 1, 3)


def convolutional(width, out, grid):
    return ConvolutionalPredictor(width, out, grid, 24, 2, 3, 4)


def masked(made: Network | None = None, **changes) -> Masked:
    settings: dict[str, Any] = {"loss": MeanSquaredError(), "target": Pixels(True), "predictor": transformer}
    settings |= {"hidden": "dropped", "image_loss": None, "image_weight": 1.0, "feature_loss": None}
    settings |= {"feature_weight": 0.1, "momentum": 0.9, "final_momentum": 1.0, "freeze_share": 0.0}
    settings |= {"momentum_schedule": "cosine", "layer_decay": 1.0, "patch_embed_lr": 1.0}
    settings |= {"product": "student"} | changes
    made = made or network()
    torch.manual_seed(1)
    return Masked(made, **settings).double()


def ibot(**changes) -> Masked:
    settings: dict[str, Any] = {"loss": PatchCrossEntropy(*TEMPERATURES), "target": Prototypes(), "predictor": None}
    return masked(**settings | {"hidden": "replaced", "image_loss": DINO(*TEMPERATURES)} | changes)


def views(masking=None, n_views: int = 2, local: int = 0) -> Views:
    generator = torch.Generator().manual_seed(1)
    crops = [torch.rand(n_views, B, 1, 16, 16, generator=generator).double()]
    if local:
        crops.append(torch.rand(local, B, 1, 8, 8, generator=generator).double())
    masks = None if masking is None else masking(3, 1, n_views, B, small_vit().grid, CPU)
    if masks is not None:  # one over whole numbers, in float64
        exact = (1 / masks.weights.double()).round().reciprocal().nan_to_num(0)
        masks = Masks(masks.hidden, masks.targets, exact, masks.visible)
    return Views(tuple(crops), torch.arange(B), torch.arange(B), masks)


def blocks(masks: int = 1, share=(0.2, 0.5), probability: float = 0.5, inverse: bool = False) -> BlockMasking:
    return BlockMasking(share, probability, 0.3, 2, inverse, masks)


def gradients(algorithm: Masked | Momentum, batch: Views, of: str = "network.") -> tuple[torch.Tensor, dict]:
    algorithm.zero_grad()
    step = algorithm.training_step(batch, context())
    step.loss.backward()
    found = {name: value.grad for name, value in algorithm.named_parameters() if value.grad is not None}
    return step.loss.detach(), {name: value.clone() for name, value in found.items() if name.startswith(of)}


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def means(runs: list[tuple[torch.Tensor, dict]]) -> tuple[torch.Tensor, dict]:
    n = len(runs)
    return sum(loss for loss, _ in runs) / n, {name: sum(run[name] for _, run in runs) / n for name in runs[0][1]}


def same(one: tuple[torch.Tensor, dict], other: tuple[torch.Tensor, dict]) -> None:
    close(one[0], other[0])
    assert one[1].keys() == other[1].keys() and one[1]
    for name in one[1]:
        close(one[1][name], other[1][name])


# reductions


@pytest.mark.parametrize("local", [0, 3])
@pytest.mark.parametrize("features", ["cls", "mean"])
def test_without_masks_and_with_dinos_loss_it_is_dino(features, local):
    made = network(features=features)
    ours = masked(copy.deepcopy(made), image_loss=DINO(*TEMPERATURES))
    theirs = Momentum(copy.deepcopy(made), DINO(*TEMPERATURES), None, 0.9, 1.0, 0, 1, 0.0, 1, "student").double()
    for step in range(2):  # in the second, the center has moved
        batch = views(local=local)
        one, other = ours.training_step(batch, context(step)), theirs.training_step(batch, context(step))
        close(one.loss, other.loss)
        one.loss.backward()
        other.loss.backward()
        pairs = zip(ours.network.named_parameters(), theirs.network.parameters(), strict=True)
        for (name, mine), their in pairs:
            assert (mine.grad is None) == (their.grad is None), name
            if mine.grad is not None:
                close(mine.grad, their.grad)
        for algorithm, carry in ((ours, one.carry), (theirs, other.carry)):
            with torch.no_grad():
                for weight in algorithm.network.parameters():
                    weight.sub_(0.1 * weight.grad if weight.grad is not None else 0)
            algorithm.zero_grad()
            algorithm.after_step(context(step), carry)
        assert ours.image_loss is not None
        close(ours.image_loss.center, theirs.loss.center)
        assert ours.teacher is not None
        for mine, their in zip(ours.teacher.parameters(), theirs.teacher.parameters(), strict=True):
            close(mine, their)


@pytest.mark.parametrize("target", [Pixels(True), Features(0, "layer"), Features(2, "instance")])
@pytest.mark.parametrize("predictor", [transformer, convolutional])
def test_several_masks_are_the_mean_of_runs_with_one(target, predictor, monkeypatch):
    monkeypatch.setattr(predictors, "NOISE", 0.0)
    algorithm = masked(target=target, predictor=predictor)
    batch = views(blocks(masks=3, share=(0.7, 0.7), probability=1.0, inverse=True))
    assert batch.masks is not None
    runs = []
    for m in range(3):
        one = batch.masks.each(lambda tensor, m=m: tensor[:, m : m + 1])
        runs.append(gradients(algorithm, Views(batch.crops, batch.labels, batch.indices, one), ""))
    same(gradients(algorithm, batch, ""), means(runs))


@pytest.mark.parametrize("target", [Pixels(False), Features(0, "layer")])
def test_several_targets_are_the_mean_of_runs_with_one_group_each(target):
    """So one block of I-JEPA's is predicted as MAE predicts all hidden patches."""
    algorithm = masked(target=target)
    batch = views(MultiBlockMasking(3, (0.15, 0.3), (0.75, 1.5), (0.85, 1.0), 4, 1))
    masks, runs = batch.masks, []
    assert masks is not None
    for q in range(3):
        one = Masks(masks.hidden, masks.targets[..., q : q + 1, :], 3 * masks.weights[..., q : q + 1, :], masks.visible)
        runs.append(gradients(algorithm, Views(batch.crops, batch.labels, batch.indices, one), ""))
    same(gradients(algorithm, batch, ""), means(runs))


def test_all_frequencies_are_pixels_but_for_the_last_layer():
    """MSE of all frequencies with a predictor that gives the transform of what another gives is MSE of the pixels."""
    from ssl_runner.algorithms.patch_targets import cosine_transform

    pixels, frequencies = masked(target=Pixels(False)), masked(target=Frequencies(1.0))
    rows = cosine_transform(4, torch.empty(0).double())
    turn = torch.kron(rows, rows)  # acts on a patch's 16 numbers
    assert isinstance(pixels.predictor, TransformerPredictor) and isinstance(
        frequencies.predictor, TransformerPredictor
    )
    with torch.no_grad():
        frequencies.predictor.out.weight.copy_(turn @ pixels.predictor.out.weight)
        frequencies.predictor.out.bias.copy_(turn @ pixels.predictor.out.bias)
    batch = views(RandomMasking(0.75, 1, 1))
    same(gradients(pixels, batch), gradients(frequencies, batch))


def test_mae_equals_a_loop_over_images():
    algorithm, batch = masked(), views(RandomMasking(0.75, 1, 1), n_views=1)
    assert batch.masks is not None and batch.masks.visible is not None
    images, terms = algorithm.network.encoder.prepare(batch.crops[0][0]), []
    for b in range(B):
        visible, hidden = batch.masks.visible[0, 0, b], batch.masks.targets[0, 0, b]
        tokens = algorithm.encoder.tokens(images[b : b + 1], visible=visible[None])
        assert algorithm.predictor is not None
        predicted = algorithm.predictor(tokens, visible[None], hidden[None])[0, 0]
        for p, place in enumerate(hidden[0].tolist()):
            row, column = divmod(place, 4)
            pixels = images[b, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
            pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            terms.append((predicted[p] - pixels).square().mean())
    close(algorithm.training_step(batch, context()).loss, torch.stack(terms).mean())


def test_ibot_equals_its_two_losses_over_images_and_patches():
    algorithm, batch = ibot(image_weight=0.7), views(blocks())
    masks = batch.masks
    assert masks is not None and algorithm.teacher is not None and algorithm.mask_token is not None
    student, teacher = algorithm.network, algorithm.teacher
    student_scores, teacher_scores, patch_terms = {}, {}, []
    for v in range(2):
        for b in range(B):
            image, hidden = student.encoder.prepare(batch.crops[0][v, b][None]), masks.hidden[v, 0, b][None]
            seen = algorithm.encoder.tokens(image, hidden=hidden, mask_token=algorithm.mask_token)
            whole = teacher.encoder.backbone.tokens(image)
            student_scores[v, b] = (student.head(seen.prefix[:, 0])[0] / 0.1).log_softmax(dim=0)
            teacher_scores[v, b] = (teacher.head(whole.prefix[:, 0])[0] / 0.07).softmax(dim=0)
            places = hidden[0].nonzero()[:, 0].tolist()
            terms = [
                -((teacher.head(whole.patches[:, p])[0] / 0.07).softmax(dim=0))
                @ (student.head(seen.patches[:, p])[0] / 0.1).log_softmax(dim=0)
                for p in places
            ]
            patch_terms.append(sum(terms) / len(terms) if terms else torch.zeros(()).double())
    between = [-teacher_scores[v, b] @ student_scores[1 - v, b] for v in range(2) for b in range(B)]
    step = algorithm.training_step(batch, context())
    close(step.metrics["patch_loss"], torch.stack(patch_terms).mean().detach())
    close(step.metrics["image_loss"], torch.stack(between).mean().detach())
    close(step.loss, torch.stack(patch_terms).mean() + 0.7 * torch.stack(between).mean())


def test_koleo_sees_the_class_tokens_of_each_view_before_the_head():
    algorithm = ibot(feature_loss=KoLeo(), feature_weight=0.3)
    batch = views(blocks(), local=2)
    step = algorithm.training_step(batch, context())
    assert batch.masks is not None
    tokens = algorithm.encoder.tokens(
        algorithm.network.encoder.prepare(batch.crops[0].flatten(0, 1)),
        hidden=batch.masks.hidden.flatten(0, 2),
        mask_token=algorithm.mask_token,
    )
    from ssl_runner.losses.loss import Embeddings

    expected, _ = KoLeo()(Embeddings(tokens.prefix[:, 0].unflatten(0, (2, B))), context())
    close(step.metrics["feature_loss"], expected.detach())
    rest = step.metrics["patch_loss"] + step.metrics["image_loss"]
    close(step.loss.detach(), rest + 0.3 * expected.detach())


# the teacher


def test_the_teacher_is_a_moving_average_of_encoder_and_head_without_gradient():
    algorithm, batch = ibot(), views(blocks())
    expected = [weight.clone() for weight in algorithm.network.parameters()]
    for step in range(3):
        algorithm.zero_grad()
        made = algorithm.training_step(batch, context(step))
        made.loss.backward()
        with torch.no_grad():
            for weight in algorithm.network.parameters():
                weight.add_(0.01 * torch.randn_like(weight))
        algorithm.after_step(context(step), made.carry)
        momentum = half_cosine(0.9, 1.0, step / 10)
        pairs = zip(expected, algorithm.network.parameters(), strict=True)
        expected = [momentum * mean + (1 - momentum) * weight.detach() for mean, weight in pairs]
        assert algorithm.teacher is not None
        for mean, weight in zip(algorithm.teacher.parameters(), expected, strict=True):
            close(mean, weight)
            assert mean.grad is None and not mean.requires_grad
    trained = {id(weight) for group in algorithm.parameter_groups() for weight in group["params"]}
    assert trained == {id(weight) for weight in algorithm.parameters() if weight.requires_grad}
    assert id(algorithm.mask_token) in trained


@pytest.mark.parametrize(
    ("changes", "teacher"),
    [
        ({}, False),
        ({"target": Frequencies(0.5)}, False),
        ({"target": Features(0, "layer")}, True),
        ({"image_loss": DINO(*TEMPERATURES)}, True),
        ({"image_loss": NTXent(0.5)}, False),
    ],
)
def test_there_is_a_teacher_where_one_is_needed_and_the_product_is_whose_is_asked_for(changes, teacher):
    for product in ("student", "teacher"):
        algorithm = masked(product=product, **changes)
        assert (algorithm.teacher is not None) == teacher
        made = algorithm.teacher if teacher and product == "teacher" else algorithm.network
        assert made is not None and algorithm.eval_encoder() is made.encoder
        images = torch.rand(2, 1, 16, 16).double()
        close(algorithm.embedding(images), made(images))


def test_the_center_of_patches_is_the_mean_of_hidden_ones_and_waits_while_none_is_hidden():
    algorithm, batch = ibot(), views(blocks())
    assert batch.masks is not None and algorithm.teacher is not None
    images = algorithm.network.encoder.prepare(batch.crops[0].flatten(0, 1))
    scores = algorithm.teacher.head(algorithm.teacher.encoder.backbone.tokens(images).patches.flatten(0, 1))
    mean = scores[batch.masks.hidden.flatten()].mean(dim=0).detach()
    step = algorithm.training_step(batch, context())
    algorithm.after_step(context(), step.carry)
    close(algorithm.loss.center, 0.1 * mean)
    nothing = views(blocks(probability=0.0))
    step = algorithm.training_step(nothing, context())
    assert step.metrics["patch_loss"] == 0 and step.carry["count"].sum() == 0
    algorithm.after_step(context(), step.carry)
    close(algorithm.loss.center, 0.9 * 0.1 * mean + 0.1 * 0.1 * mean)


def test_with_sinkhorn_nobody_gathers_targets_for_a_center_that_nothing_reads():
    sinkhorn = {"centering": "sinkhorn", "sinkhorn_iterations": 3}
    losses = {"loss": PatchCrossEntropy(*TEMPERATURES, **sinkhorn), "image_loss": DINO(*TEMPERATURES, **sinkhorn)}
    batch = views(blocks())
    assert set(ibot().training_step(batch, context()).carry) == {"total", "count", "target"}
    assert ibot(**losses).training_step(batch, context()).carry == {}
    mixed = ibot(image_loss=losses["image_loss"])
    assert set(mixed.training_step(batch, context()).carry) == {"total", "count"}


def test_prototypes_keep_their_first_values_for_a_share_of_the_run():
    algorithm, batch = ibot(freeze_share=0.3), views(blocks())
    for step, frozen in ((0, True), (2, True), (3, False)):
        algorithm.zero_grad()
        algorithm.training_step(batch, context(step)).loss.backward()
        assert (algorithm.network.head.prototypes.grad is None) == frozen
        assert algorithm.network.head.layers[0].weight.grad.abs().sum() > 0


# how a step is computed


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "small_vits")
    return lambda name, *more: wire.wire(checked_config(Composer(conf_folder()), [*RUN, *METHODS[name], *more])[0])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_and_every_weight_that_is_trained_has_a_gradient(name, small):
    run = small(name)
    algorithm = run.algorithm
    step = algorithm.training_step(run.batching.batch(1), context(5))
    step.loss.backward()
    without = [name for name, weight in algorithm.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []
    before = [weight.detach().clone() for weight in algorithm.network.encoder.parameters() if weight.requires_grad]
    _, metrics = run.one_step()
    assert abs(metrics["loss"]) < 100
    after = [weight for weight in algorithm.network.encoder.parameters() if weight.requires_grad]
    assert not any(map(torch.equal, before, after))


@pytest.mark.parametrize("name", METHODS)
def test_a_step_in_half_precision_has_nearly_the_same_loss_in_float32(name, small, monkeypatch):
    monkeypatch.setattr(predictors, "NOISE", 0.0)
    run = small(name)
    batch = run.batching.batch(1)
    full = run.algorithm.training_step(batch, context())
    with torch.autocast("cpu", torch.bfloat16):
        low = run.algorithm.training_step(batch, context())
    assert low.loss.dtype == torch.float32
    assert low.loss.item() == pytest.approx(full.loss.item(), rel=0.02)
    if "total" in low.carry:
        assert low.carry["total"].dtype == torch.float32
        torch.testing.assert_close(low.carry["count"], full.carry["count"])


@pytest.mark.parametrize("name", METHODS)
def test_a_step_asks_its_context_only_for_what_a_recorded_step_can_renew(name, small):
    run, needs = small(name), Needs()
    run.algorithm.training_step(run.batching.batch(1), Observed(context(), needs))
    assert needs.position == ""
    if name != "ijepa":  # whose context changes its length from step to step
        assert len({tuple(tensor.shape for tensor in run.batching.batch(step).tensors()) for step in range(5)}) == 1


# refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masked(hidden="zeroed"), "hidden='zeroed'"),
        (lambda: masked(product="both"), "product='both'"),
        (lambda: masked(momentum=0.9, final_momentum=0.8), "final_momentum=0.8"),
        (lambda: masked(image_weight=-1.0), "image_weight=-1"),
        (lambda: masked(feature_weight=-1.0), "feature_weight=-1"),
        (lambda: masked(network(False), freeze_share=0.1), "freeze_share=0.1"),
        (lambda: ibot(freeze_share=1.0), "freeze_share=1"),
        (lambda: masked(predictor=LinearPredictor), "hidden=dropped, but LinearPredictor reads the tokens at hidden"),
        (lambda: ibot(hidden="dropped"), "hidden=dropped, but the head reads the tokens at hidden"),
        (lambda: ibot(predictor=transformer), "set algorithm.predictor=null"),
        (lambda: masked(predictor=None, hidden="replaced"), "predictor=null, but the head gives no Pixels"),
        (lambda: ibot(made=network(False)), "the target is scores of prototypes, but Identity has none"),
        (lambda: ibot(made=network(features="cls_mean")), "features=cls or mean, and layers=1"),
        (
            lambda: masked(network(layers=2), image_loss=DINO(*TEMPERATURES)),
            "model.encoder.layers=2, but a loss between",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_running_out_of_memory_is_answered_with_what_this_method_has():
    assert masked().less_memory(1) == "lower batching.batch_size, or masking.masks where there are several"
