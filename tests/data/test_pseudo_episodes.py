"""Tasks without labels: one image per class, no image with two labels, and only views of that image."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from ssl_runner.data.augmentation import Affine, Augmentation, HorizontalFlip, RandomErasing
from ssl_runner.data.batches import Episodes
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.pseudo_episodes import PseudoEpisodeBatching
from ssl_runner.data.sources.digits import digits
from ssl_runner.runtime import process_group, randomness

CPU = torch.device("cpu")
FIELDS = ("support_images", "support_labels", "query_images", "query_labels")
ERASE = Augmentation({"erase": RandomErasing(1.0, (0.1, 0.3), (0.5, 2.0), 0.0)})
TURN = Augmentation({"turn": Affine(30, 0.1, (0.8, 1.2), 5, 0.0), "flip": HorizontalFlip(0.5)})


@pytest.fixture(scope="module")
def train() -> Dataset:
    return digits("images", 0.1, 0.25, None, split_seed=0, size=None, channels=None).train


def batching(dataset: Dataset, n_way=4, k_shot=1, n_query=3, tasks=6, support=None, query=TURN, seed=0):
    made = PseudoEpisodeBatching(query, n_way, k_shot, n_query, tasks, support)
    made.bind(dataset, seed, CPU)
    return made


def same(one: Episodes, other: Episodes) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


def shuffled_places(numbers, population: int) -> list[int]:
    """The beginning of a complete Fisher-Yates shuffle."""
    places = list(range(population))
    for step, number in enumerate(numbers):
        other = step + int(float(number) * (population - step))
        places[step], places[other] = places[other], places[step]
    return places[: len(numbers)]


@pytest.mark.parametrize(("k_shot", "support"), [(1, None), (2, ERASE)])
def test_a_batch_equals_that_of_a_loop_over_tasks_classes_and_views(train, k_shot, support):
    made, step = batching(train, k_shot=k_shot, support=support, seed=5), 7
    batch = made.batch(step)
    table = randomness.uniforms(5, "pseudo-tasks", step, 6, 4)
    kinds = {
        "support": (k_shot, support, "support augmentation", batch.support_images, batch.support_labels),
        "query": (3, TURN, "augmentation", batch.query_images, batch.query_labels),
    }
    for views, augmentation, stream, images, labels in kinds.values():
        columns = 0 if augmentation is None else augmentation.columns
        draws = torch.from_numpy(randomness.uniforms(5, stream, step, 6 * 4 * views, columns))
        row = 0
        for task in range(6):
            sources = shuffled_places(table[task], len(train))
            for label, source in enumerate(sources):
                for view in range(views):
                    image = train.images[source][None].float() / 255
                    image = image if augmentation is None else augmentation(image, draws[row : row + 1])
                    torch.testing.assert_close(images[task, label * views + view], image[0])
                    assert labels[task, label * views + view] == label
                    row += 1
    assert (batch.n_way, made.n_outputs, made.images_per_step) == (4, 4, 6 * 4 * (k_shot + 3))


def test_no_image_has_two_labels_in_a_task_and_all_are_drawn_equally_often(train):
    few = replace(train, images=train.images[:12])
    made = batching(few, n_way=5, tasks=4000)
    sources = made.sources(0)
    assert all(len(set(task)) == 5 for task in sources.tolist())
    assert chisquare(sources.flatten().bincount(minlength=12).numpy()).pvalue > 0.001
    assert batching(few, n_way=12, tasks=8).sources(1).sort().values.tolist() == [list(range(12))] * 8


def test_memorising_images_only_scores_chance(train):
    sources = batching(replace(train, images=train.images[:8]), n_way=5, tasks=20_000).sources(0)
    table = torch.zeros(8, 5)
    table.index_put_((sources.flatten(), torch.arange(5).repeat(20_000)), torch.ones(1), accumulate=True)
    assert (table.amax(dim=1).sum() / table.sum()).item() == pytest.approx(0.2, abs=0.01)


def test_without_support_augmentation_the_support_is_the_image_itself(train):
    made = batching(train, query=Augmentation({"flip": HorizontalFlip(0.5)}))
    batch, sources = made.batch(3), made.sources(3)
    originals = train.images[sources].float() / 255
    assert torch.equal(batch.support_images, originals)
    queries = batch.query_images.unflatten(1, (4, 3))
    as_it_is, flipped = (
        (queries == images[:, :, None]).flatten(3).all(3) for images in (originals, originals.flip(-1))
    )
    assert (as_it_is | flipped).all() and as_it_is.any() and flipped.any()


def test_every_view_has_its_own_draws(train):
    batch = batching(train, k_shot=2, support=ERASE).batch(0)
    for images in (batch.support_images, batch.query_images):
        flat = images.flatten(0, 1).flatten(1)
        assert len(flat.unique(dim=0)) == len(flat)


def test_labels_are_never_used(train):
    expected = batching(train, seed=3).batch(2)
    assert train.labels is not None
    permuted = replace(train, labels=train.labels.roll(5))
    unlabelled = replace(train, labels=None, class_names=())
    assert same(batching(permuted, seed=3).batch(2), expected)
    assert same(batching(unlabelled, seed=3).batch(2), expected)


def test_a_step_does_not_depend_on_earlier_draws_and_differs_from_the_next(train):
    whole, resumed = batching(train), batching(train)
    drawn = [whole.batch(step) for step in range(3)]
    assert same(resumed.batch(2), drawn[2])
    assert not torch.equal(drawn[1].support_images, drawn[2].support_images)
    assert not torch.equal(batching(train, seed=1).batch(2).support_images, drawn[2].support_images)


def test_two_processes_draw_the_same_tasks_and_views_as_one(train, monkeypatch):
    made = batching(train, k_shot=2, support=ERASE)
    whole = made.batch(4)
    monkeypatch.setattr(process_group, "size", lambda: 2)
    halves = []
    for rank in range(2):
        monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
        halves.append(made.batch(4))
    for name in FIELDS:
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name)), name


def test_fewer_images_than_ways_are_reported_with_the_remedy(train):
    few = replace(train, images=train.images[:3])
    with pytest.raises(ValueError, match=r"^n_way=4, but .* digits/train has only 3; lower batching.n_way$"):
        batching(few)


@pytest.mark.parametrize("name", ["n_way", "k_shot", "n_query", "tasks_per_batch"])
def test_a_number_below_one_is_refused(name):
    numbers = {"n_way": 2, "k_shot": 1, "n_query": 1, "tasks_per_batch": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"^{name}=0; it must be at least 1$"):
        PseudoEpisodeBatching(TURN, **numbers, support_augmentation=None)


def test_unchanged_queries_and_equal_support_images_are_refused():
    with pytest.raises(ValueError, match="choose augmentation=glyph"):
        PseudoEpisodeBatching(Augmentation({}), 5, 1, 1, 1, None)
    with pytest.raises(ValueError, match="k_shot=2, but without a support_augmentation"):
        PseudoEpisodeBatching(TURN, 5, 2, 1, 1, None)
