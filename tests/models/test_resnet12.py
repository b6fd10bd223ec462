import pytest
import torch
from small_tasks import WAYS, context
from torch import nn

from ssl_runner.algorithms.maml import MAML
from ssl_runner.algorithms.reference_loop import meta_loss_by_loop
from ssl_runner.data.batches import Episodes
from ssl_runner.losses.cross_entropy import CrossEntropy
from ssl_runner.models import resnet12
from ssl_runner.models.batch_norm import batch_norms
from ssl_runner.models.depths import depths
from ssl_runner.models.dropblock import DropBlock
from ssl_runner.models.heads import Linear
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.resnet12 import ResNet12


def made(channels: int = 3, size: int = 32, drop_rate: float = 0.0, drop_warmup: int | None = None) -> ResNet12:
    torch.manual_seed(0)
    return ResNet12(channels, size, drop_rate, block_size=5, drop_warmup=drop_warmup)


@pytest.fixture
def narrow(monkeypatch):
    """Blocks of few channels, so that float64 is fast."""
    monkeypatch.setattr(resnet12, "WIDTHS", (4, 5, 6, 7))


def test_it_has_the_published_number_of_parameters():
    kernels = 9 * (3 * 64 + 64 * 160 + 160 * 320 + 320 * 640 + 2 * (64**2 + 160**2 + 320**2 + 640**2))
    shortcuts = 3 * 64 + 64 * 160 + 160 * 320 + 320 * 640
    norms = 4 * 2 * (64 + 160 + 320 + 640)
    assert sum(value.numel() for value in made().parameters()) == kernels + shortcuts + norms == 12_424_320


@pytest.mark.parametrize(("size", "side"), [(1, 1), (8, 1), (28, 1), (32, 2), (64, 4), (84, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_size_have_640_features(size, side, channels, monkeypatch):
    monkeypatch.setattr(resnet12, "WIDTHS", (4, 5, 6, 640))
    model = made(channels, size).eval()
    images = torch.rand(2, channels, size, size)
    maps = model.feature_map(images)
    assert maps.shape == (2, 640, side, side)
    torch.testing.assert_close(model(images), maps.mean(dim=(2, 3)))
    assert model.out_features == 640


def test_a_block_is_three_convolutions_beside_one(narrow):
    model = made().double().eval()
    block = model.blocks[0]
    for layer in batch_norms(model):
        layer.running_mean += 0.1
        layer.weight.data += 0.2 * torch.randn_like(layer.weight)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    leaky = lambda maps: torch.where(maps > 0, maps, 0.1 * maps)  # noqa: E731
    one, two, three = (block.convolutions[place : place + 2] for place in (0, 3, 6))
    added = three(leaky(two(leaky(one(images))))) + block.shortcut(images)
    expected = leaky(added).unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    torch.testing.assert_close(block(images), expected)


def test_maps_stay_in_channels_last(narrow):
    model = made(drop_rate=0.2).train().to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    assert model.feature_map(images).is_contiguous(memory_format=torch.channels_last)


def test_it_says_how_deep_its_parameters_lie():
    found, last = depths(Encoder(made(), (3, 32, 32), [0.5] * 3, [0.3] * 3))
    assert set(found.values()) == {0, 1, 2, 3} and last == 4
    assert found["backbone.blocks.2.shortcut.0.weight"] == 2


def test_the_first_two_blocks_drop_values_and_the_last_two_squares(narrow):
    drops = [part for part in made(drop_rate=0.1).modules() if isinstance(part, DropBlock)]
    assert [(drop.drop_rate, drop.block_size) for drop in drops] == [(0.1, 1), (0.1, 1), (0.1, 5), (0.1, 5)]


def test_nothing_is_dropped_in_evaluation(narrow):
    model = made(drop_rate=0.5).eval()
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(model(images), model(images))
    assert torch.equal(model(images), made().eval()(images))


def lost(model: ResNet12, images: torch.Tensor) -> float:
    """Share of the first block's output that is dropped."""
    with torch.no_grad():
        return (model.blocks[0](images) == 0).double().mean().item()


def test_the_rate_rises_over_passes_in_training_and_goes_on_where_a_checkpoint_was_saved(narrow):
    model, images = made(drop_rate=0.4, drop_warmup=4).train(), torch.rand(64, 3, 32, 32)
    shares = [lost(model, images) for _ in range(6)]
    for share, expected in zip(shares, (0.1, 0.2, 0.3, 0.4, 0.4, 0.4), strict=True):
        assert share == pytest.approx(expected, abs=0.02)
    resumed = made(drop_rate=0.4, drop_warmup=40).train()
    state = model.state_dict() | {"blocks.0.shortcut.1.num_batches_tracked": torch.tensor(19)}
    resumed.load_state_dict(state)
    assert lost(resumed, images) == pytest.approx(0.2, abs=0.02)
    assert lost(made(drop_rate=0.4).train(), images) == pytest.approx(0.4, abs=0.02)


def test_first_weights_have_the_spread_of_leaky_relus():
    for layer in made().modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx((2 / 1.01 / fan_out) ** 0.5, rel=0.02)


def maml(drop_rate: float = 0.0, drop_warmup: int | None = None) -> MAML:
    backbone = made(1, 16, drop_rate, drop_warmup)
    model = Network(Encoder(backbone, (1, 16, 16), [0.4], [0.3]), Linear(backbone.out_features, WAYS)).double()
    return MAML(model, CrossEntropy(0.0), 0.1, 2, 2, True, "batch").train()


def tasks() -> Episodes:
    torch.manual_seed(1)
    labels = [torch.arange(WAYS).repeat_interleave(n).expand(2, -1) for n in (2, 3)]
    images = [torch.rand(2, WAYS * n, 1, 16, 16, dtype=torch.float64) for n in (2, 3)]
    return Episodes(images[0], labels[0], images[1], labels[1], n_way=WAYS)


def test_its_second_order_gradients_in_a_vectorised_inner_loop_are_those_of_a_loop_over_tasks(narrow):
    algorithm, batch = maml(), tasks()
    algorithm.training_step(batch, context()).loss.backward()
    parameters = dict(algorithm.network.named_parameters())
    reference = torch.autograd.grad(meta_loss_by_loop(algorithm, batch), list(parameters.values()))
    for (name, parameter), expected in zip(parameters.items(), reference, strict=True):
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_an_inner_loop_drops_with_the_full_rate(narrow):
    algorithm, batch = maml(0.3, drop_warmup=1000), tasks()
    losses = set()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.add(algorithm.training_step(batch, context()).loss.item())
    assert len(losses) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [((1.0, 5, None), "drop_rate=1.0"), ((0.1, 0, None), "block_size=0"), ((0.1, 5, 0), "drop_warmup=0")],
)
def test_impossible_numbers_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ResNet12(3, 32, *given)
