import copy

import pytest
import torch
import torch.nn.functional as F
from small_readers import PIXELS, WAYS, reader, task
from small_tasks import context, episodes, gradients, network
from torch import nn

from ssl_runner.algorithms.caml import CAML, equiangular
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models.batch_norm import batch_norms
from ssl_runner.models.features import evaluating

SIZES = {"label_width": 4, "depth": 2, "heads": 2}


def caml(freeze: bool = False) -> CAML:
    return reader(CAML, freeze_encoder=freeze, **SIZES)


def with_conv4(freeze: bool) -> CAML:
    model = network()
    model.head = nn.Identity()
    return CAML(model, CrossEntropy(0.0), WAYS, freeze, **SIZES).double()


def encoder_layer(block, width: int) -> nn.TransformerEncoderLayer:
    """torch's own layer with a block's weights."""
    layer = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, norm_first=True, batch_first=True).double()
    ours, theirs = block.attention, layer.self_attn
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    layer.norm1.load_state_dict(block.attention_norm.state_dict())
    layer.norm2.load_state_dict(block.perceptron_norm.state_dict())
    layer.linear1.load_state_dict(block.perceptron[0].state_dict())
    layer.linear2.load_state_dict(block.perceptron[2].state_dict())
    return layer


@pytest.mark.parametrize(("n", "width"), [(2, 2), (3, 3), (5, 64), (20, 32)])
def test_vectors_of_classes_have_one_length_and_one_angle_the_largest_that_so_many_can_have(n, width):
    vectors = equiangular(n, width).double()
    expected = torch.full((n, n), -1 / (n - 1), dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(vectors @ vectors.T, expected, rtol=0, atol=1e-6)
    assert torch.equal(equiangular(n, width), equiangular(n, width))


def test_scores_are_those_of_a_loop_over_tasks_and_queries_with_torchs_transformer():
    algorithm = caml()
    support, labels, query = task()
    layers = [encoder_layer(block, PIXELS + 4) for block in algorithm.blocks]
    scores = algorithm.compare(support, labels, query, WAYS)
    for number in range(len(support)):
        vectors = algorithm.scale * torch.stack([algorithm.elmes[label] for label in labels[number]])
        shown = torch.cat([support[number], vectors], dim=1)
        for place, asked in enumerate(query[number]):
            # the query last: without positions, its place does not matter
            tokens = torch.cat([shown, torch.cat([asked, algorithm.unknown])[None]])[None]
            for layer in layers:
                tokens = layer(tokens)
            expected = algorithm.score.weight @ algorithm.norm(tokens[0, -1])
            torch.testing.assert_close(scores[number, place], expected, rtol=1e-9, atol=1e-10)


def test_the_support_sees_the_query():
    """Unlike in the in-context transformer, what a query finds in the support depends on the query in every block."""
    algorithm = caml()
    support, labels, query = task(tasks=1, queries=1)
    tokens = algorithm._sequences(support, algorithm.one_hot(labels, support), query)
    other = algorithm._sequences(support, algorithm.one_hot(labels, support), query + 1)
    assert torch.equal(tokens[:, 1:], other[:, 1:])
    first, second = (algorithm.blocks[0](part, part.shape[1])[:, 1:] for part in (tokens, other))
    assert ((first - second).abs().amax(dim=2) > 1e-6).all()


def test_numbers_of_classes_enter_through_their_vectors_only():
    """Classes with other numbers, whose vectors and outputs change places with them, get the same scores."""
    algorithm = caml()
    support, labels, query = task()
    before = algorithm.compare(support, labels, query, WAYS)
    number = torch.tensor([2, 0, 1])  # of each class, anew
    turned = copy.deepcopy(algorithm)
    turned.elmes[number] = algorithm.elmes
    turned.score.weight.data[number] = algorithm.score.weight.data
    after = turned.compare(support, number[labels], query, WAYS)
    torch.testing.assert_close(after[..., number], before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [1.0, 10.0])
def test_vectors_of_classes_begin_with_the_length_asked_for(length):
    algorithm = CAML(network(), CrossEntropy(0.0), WAYS, False, label_width=4, depth=1, heads=1, label_scale=length)
    support, labels, query = torch.zeros(1, 6, WAYS), torch.arange(WAYS).repeat(2)[None], torch.zeros(1, 2, WAYS)
    tokens = algorithm._sequences(support, algorithm.one_hot(labels, support), query)
    torch.testing.assert_close(tokens[:, 1:].norm(dim=2), torch.full((2, 6), length))
    assert not tokens[:, 0].any()  # of the query, whose class is unknown


def test_the_vectors_are_fixed_and_saved():
    algorithm = caml()
    assert "elmes" in algorithm.state_dict()
    assert all(value is not algorithm.elmes for value in algorithm.parameters())


def test_attention_maps_give_each_query_its_share_of_each_support_image():
    algorithm = caml()
    support, labels, query = task(tasks=2)
    shown = algorithm.looks(support, labels, query, WAYS)
    assert list(shown) == ["attention/block_1", "attention/block_2"]
    for one in shown.values():
        assert one.values.shape == (5, 6)
        assert one.values.min() > 0 and (one.values.sum(dim=1) < 1).all()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    moved = algorithm.looks(support[:, order], labels[:, order], query, WAYS)
    for name, one in moved.items():
        torch.testing.assert_close(one.values, shown[name].values[:, order])
    first = algorithm.blocks[0]
    tokens = algorithm._sequences(support, algorithm.one_hot(labels, support), query)[3]
    normed = first.attention_norm(tokens)
    asked, keys = first.attention.query(normed[0]), first.attention.key(normed)
    size = (PIXELS + 4) // 2
    heads = [F.softmax(keys[:, part] @ asked[part] / size**0.5, dim=0) for part in (slice(0, size), slice(size, None))]
    torch.testing.assert_close(shown["attention/block_1"].values[3], torch.stack(heads).mean(dim=0)[1:])


def test_a_frozen_encoder_keeps_weights_and_statistics_and_everything_else_learns():
    algorithm, batch = with_conv4(freeze=True), episodes()
    before = {name: value.clone() for name, value in algorithm.network.encoder.state_dict().items()}
    found = gradients(algorithm, batch, context())
    optimizer = torch.optim.AdamW(algorithm.parameter_groups(), lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in algorithm.network.encoder.state_dict().items())
    assert found.keys() == {name for name, _ in algorithm.named_parameters() if not name.startswith("network.encoder.")}
    held = {id(value) for group in algorithm.parameter_groups() for value in group["params"]}
    assert not held & {id(value) for value in algorithm.network.encoder.parameters()}


def test_a_frozen_encoder_gives_the_same_features_in_training_and_in_evaluation():
    frozen, batch = with_conv4(freeze=True), episodes()
    layer = batch_norms(frozen.network)[0]
    layer.running_mean += 0.3
    given = batch.support_images, batch.support_labels, batch.query_images, WAYS
    trained = frozen.train().training_step(batch, context()).loss
    assert frozen.blocks.training and not layer.training
    with evaluating(frozen):
        scores = frozen.classify(*given)
    assert frozen.blocks.training and not layer.training
    loss = F.cross_entropy(scores.flatten(0, 1), batch.query_labels.flatten())
    torch.testing.assert_close(trained, loss, rtol=1e-10, atol=1e-10)


def test_an_encoder_that_is_not_frozen_learns_with_statistics_of_the_batch():
    algorithm, batch = with_conv4(freeze=False), episodes()
    found = gradients(algorithm, batch, context())
    assert found.keys() == dict(algorithm.named_parameters()).keys()
    layer = batch_norms(algorithm.network)[0]
    assert layer.training and layer.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"depth": 0}, "depth=0"),
        ({"heads": 3}, "label_width=4, heads=3; the 4 features .* 8 is not"),
        ({"heads": 0}, "heads=0"),
        ({"label_width": 2}, "label_width=2, but 3 vectors"),
        ({"label_scale": 0}, "label_scale=0; vectors of classes need a length"),
    ],
)
def test_impossible_sizes_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        reader(CAML, freeze_encoder=False, **SIZES | changed)
