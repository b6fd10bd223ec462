"""Fine-tuning on the support, compared with a handwritten loop; what it trains, and what it must not touch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_runner.data.augmentation import Augmentation, PadCrop, RandomResizedCrop
from ssl_runner.data.episodes.tasks import TaskSampler
from ssl_runner.evaluation.classifiers.centroid import Centroid
from ssl_runner.evaluation.classifiers.encoded import Encoded
from ssl_runner.evaluation.classifiers.fine_tuning import SupportFineTuning
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.gallery import SEED
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.network import Encoder
from ssl_runner.runtime import randomness

CPU = torch.device("cpu")
NONE = Augmentation({})
SHIFT = Augmentation({"crop": PadCrop(1)})


@pytest.fixture
def encoder(by_images) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Encoder(Conv4(1, 8, width=8, downsample="max_pool", grid=None), (1, 8, 8), [0.3], [0.4])
    with torch.no_grad():  # running averages
        for images in by_images.train.images.split(50):
            made.train()(images)
    return made.eval()


@pytest.fixture(scope="module")
def tasks(by_images):
    sampler = TaskSampler(by_images.test, 3, 2, 4)
    drawn = sampler(randomness.uniforms(0, "few_shot", 0, 3, sampler.columns))
    images = by_images.test.images
    return images[drawn.support], drawn.support_labels, images[drawn.query], 3


def test_it_is_adam_on_augmented_support_images_from_class_means_on(encoder, tasks):
    steps, lr = 4, 0.01
    support, labels, query, _ = tasks
    found = SupportFineTuning(steps, lr, None, SHIFT).classify(encoder, *tasks)
    for task in range(3):
        tuned = copy.deepcopy(encoder)
        with torch.no_grad():
            features = tuned(support[task])
        means = torch.stack([features[labels[task] == label].mean(0) for label in range(3)])
        head = nn.Linear(features.shape[1], 3)
        head.weight.data, head.bias.data = means / means.norm(dim=1, keepdim=True), torch.zeros(3)
        optimizer = torch.optim.Adam([*tuned.parameters(), *head.parameters()], lr=lr)
        for step in range(steps):
            draws = torch.from_numpy(randomness.uniforms(SEED, "few_shot/fine_tuning", step, 6, 2))
            embedded = tuned(SHIFT(support[task], draws))
            loss = F.cross_entropy(head(embedded / embedded.norm(dim=1, keepdim=True)), labels[task])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            embedded = tuned(query[task])
            expected = head(embedded / embedded.norm(dim=1, keepdim=True))
        torch.testing.assert_close(found[task], expected, rtol=1e-4, atol=1e-5)


def test_before_the_first_step_it_is_the_nearest_class_mean_by_cosine(encoder, tasks):
    support, labels, query, _ = tasks
    found = SupportFineTuning(1, 1e-12, None, NONE).classify(encoder, *tasks)
    with torch.no_grad():
        means = [[encoder(s[y == label]).mean(0) for label in range(3)] for s, y in zip(support, labels, strict=True)]
        expected = [F.normalize(encoder(q)) @ F.normalize(torch.stack(m)).T for q, m in zip(query, means, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_a_prediction_depends_on_no_other_query_and_no_other_task(encoder, tasks):
    classifier = SupportFineTuning(3, 0.01, None, SHIFT)
    support, labels, query, n_way = tasks
    together = classifier.classify(encoder, *tasks)
    alone = classifier.classify(encoder, support[1:2], labels[1:2], query[1:2, :3], n_way)
    torch.testing.assert_close(alone[0], together[1, :3], rtol=1e-4, atol=1e-5)
    order = torch.tensor([3, 0, 2, 1, *range(4, 12)])
    permuted = classifier.classify(encoder, support, labels, query[:, order], n_way)
    torch.testing.assert_close(permuted, together[:, order], rtol=1e-4, atol=1e-5)


def test_the_encoder_keeps_its_weights_buffers_modes_and_gradients(encoder, tasks):
    before = copy.deepcopy(encoder.state_dict())
    with torch.no_grad():
        SupportFineTuning(2, 0.1, None, SHIFT).classify(encoder, *tasks)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(one.grad is None and one.requires_grad for one in encoder.parameters())
    assert not any(part.training for part in encoder.modules())


def test_only_the_last_layers_are_trained_if_asked(encoder):
    def trained(layers):
        copied, weights = SupportFineTuning(1, 0.1, layers, NONE)._copy(encoder)
        names = {id(weight): name for name, weight in copied.named_parameters()}
        assert {id(one) for one in copied.parameters() if one.requires_grad} == {id(weight) for weight in weights}
        return {names[id(weight)] for weight in weights}

    every = {name for name, _ in encoder.named_parameters()}
    assert trained(None) == every == trained(4)
    assert trained(0) == set()
    assert trained(1) < trained(2) < every
    assert {name.split(".")[2] for name in trained(1)} == {"3"}


def test_fewer_trained_layers_give_other_scores(encoder, tasks):
    found = [SupportFineTuning(5, 0.01, layers, NONE).classify(encoder, *tasks) for layers in (None, 2, 0)]
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[1], found[2])


class Unknown(nn.Module):
    out_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, images):
        return self.linear(images.flatten(1))


def test_an_encoder_that_does_not_know_its_layers_is_refused_with_a_remedy(by_images, tasks):
    unknown = Encoder(Unknown(), (1, 8, 8), [0.0], [1.0])
    encoded = Encoded(unknown, by_images.test, [], by_images.train.images, CPU)
    with pytest.raises(ValueError, match=r"^it\.layers=1, but Unknown does not say which layers it has; give null"):
        SupportFineTuning(1, 0.1, 1, NONE).contender("it", encoded)
    assert SupportFineTuning(1, 0.1, None, NONE).classify(unknown, *tasks).shape == (3, 12, 3)


def test_raw_pixels_have_no_weights_and_only_the_classifier_is_trained(by_images):
    def few_shot(one):
        return FewShot(["5w1s"], 4, 10, 0, 4, classifier="it", classifiers={"it": one})

    tuned = few_shot(SupportFineTuning(20, 0.01, 1, NONE))(RawPixels((1, 8, 8)), by_images, CPU)
    means = few_shot(Centroid())(RawPixels((1, 8, 8)), by_images, CPU)
    assert tuned["few_shot/5w1s/it/top1"] == pytest.approx(means["few_shot/5w1s/it/top1"], abs=0.2)


def test_what_cannot_work_is_refused(encoder, tasks):
    larger = Augmentation({"crop": RandomResizedCrop(6, [0.5, 1.0], [1.0, 1.0])})
    with pytest.raises(ValueError, match=r"augmentation of .* turns images of 1x8x8 into 1x6x6"):
        SupportFineTuning(1, 0.1, None, larger).classify(encoder, *tasks)
    with pytest.raises(ValueError, match=r"diverged; lower its lr=1e\+30"):
        SupportFineTuning(3, 1e30, None, NONE).classify(encoder, *tasks)
    for values, message in {
        (0, 0.1, None): "steps=0; give at least 1",
        (1, 0.0, None): r"lr=0\.0; give a number above 0",
        (1, 0.1, -1): "layers=-1; give at least 0, or null",
    }.items():
        with pytest.raises(ValueError, match=message):
            SupportFineTuning(*values, NONE)
    with pytest.raises(ValueError, match="augmentation is a PadCrop, expected an Augmentation"):
        SupportFineTuning(1, 0.1, None, PadCrop(1))  # pyright: ignore[reportArgumentType]


def test_a_check_takes_one_step():
    short = SupportFineTuning(25, 0.1, 2, SHIFT).shortened()
    assert (short.steps, short.layers, short.augmentation) == (1, 2, SHIFT)
