"""kNN compared with a naive loop, scikit-learn and known accuracies."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from ssl_runner.evaluation import knn
from ssl_runner.evaluation.features import gallery_and_queries
from ssl_runner.evaluation.knn import KNN, nearest
from ssl_runner.evaluation.raw_pixels import RawPixels

CPU = torch.device("cpu")


def random_case(seed: int = 0, n: int = 60, m: int = 23, n_classes: int = 4):
    generator = torch.Generator().manual_seed(seed)
    gallery, queries = torch.randn(n, 5, generator=generator), torch.randn(m, 5, generator=generator)
    return gallery, torch.randint(0, n_classes, (n,), generator=generator), queries


def naive(gallery, labels, queries, n_classes, k, temperature) -> list[int]:
    found = []
    for query in queries.double():
        similarities = [F.cosine_similarity(query, row, dim=0).item() for row in gallery.double()]
        votes = [0.0] * n_classes
        for place in sorted(range(len(gallery)), key=lambda place: -similarities[place])[:k]:
            votes[labels[place]] += math.exp(similarities[place] / temperature)
        found.append(max(range(n_classes), key=votes.__getitem__))
    return found


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (7, 0.03), (7, 10.0), (59, 0.5), (60, 0.5)])
def test_predictions_equal_a_naive_loop(k, temperature):
    gallery, labels, queries = random_case()
    expected = naive(gallery, labels, queries, 4, k, temperature)
    assert KNN(k, temperature).predict(gallery, labels, queries, 4).tolist() == expected


def test_predictions_equal_those_of_scikit_learn(digits):
    rows = digits.images.flatten(1).float()
    classifier = KNeighborsClassifier(
        20, weights=lambda distance: np.exp((1 - distance) / 0.1), algorithm="brute", metric="cosine"
    )
    expected = classifier.fit(rows[:1200].double(), digits.labels[:1200]).predict(rows[1200:].double())
    found = KNN(20, 0.1).predict(rows[:1200], digits.labels[:1200], rows[1200:], 10)
    assert (found.numpy() == expected).all()


def test_the_size_of_a_chunk_changes_nothing(monkeypatch):
    gallery, labels, queries = random_case()
    whole = KNN(5, 0.1).predict(gallery, labels, queries, 4)
    monkeypatch.setattr(knn, "CHUNK", 60 * 4)
    assert torch.equal(KNN(5, 0.1).predict(gallery, labels, queries, 4), whole)


def test_with_k_above_the_gallery_size_the_whole_gallery_votes():
    gallery, labels, queries = random_case()
    capped = KNN(1000, 0.1).predict(gallery, labels, queries, 4)
    assert torch.equal(capped, KNN(60, 0.1).predict(gallery, labels, queries, 4))


def test_ties_between_neighbours_go_to_the_first_in_the_gallery():
    similarity = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    found = [sorted(row) for row in nearest(similarity, 3).tolist()]
    assert found == [[0, 1, 2], [0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(("columns", "k"), [(1000, 3), (1001, 7), (1015, 14)])
@pytest.mark.parametrize("levels", [None, 5, 200])  # with few levels, nearly all similarities tie
def test_many_columns_are_searched_by_groups_as_if_sorted(columns, k, levels):
    similarity = torch.rand(20, columns, generator=torch.Generator().manual_seed(k))
    if levels:
        similarity = (similarity * levels).floor()
    assert columns // knn.GROUP >= 4 * (k + 1)  # groups are looked at
    assert torch.equal(knn.largest(similarity, k)[0], similarity.sort(dim=1, descending=True).values[:, :k])
    expected = similarity.sort(dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(nearest(similarity, k).sort(dim=1).values, expected.sort(dim=1).values)


def test_ties_between_classes_go_to_the_lowest_class():
    gallery = torch.eye(4)
    found = KNN(4, 0.1).predict(gallery, torch.tensor([3, 2, 3, 2]), torch.ones(1, 4), 4)
    assert found.tolist() == [2]


def test_collapsed_features_vote_by_gallery_order():
    found = KNN(3, 0.1).predict(torch.ones(9, 2), torch.tensor([1, 1, 0, 0, 0, 0, 0, 0, 0]), torch.ones(5, 2), 2)
    assert found.tolist() == [1] * 5


def test_a_low_temperature_does_not_overflow():
    gallery, labels, queries = random_case()
    nearest_only = KNN(1, 0.1).predict(gallery, labels, queries, 4)
    assert torch.equal(KNN(20, 1e-5).predict(gallery, labels, queries, 4), nearest_only)


def test_raw_pixels_give_the_known_figures_on_digits(by_images):
    few = KNN(20, 0.1)(RawPixels((1, 8, 8)), by_images, CPU)["knn/top1"]
    many = KNN(200, 0.1)(RawPixels((1, 8, 8)), by_images, CPU)["knn/top1"]
    assert few == pytest.approx(0.972, abs=0.015)
    assert many == pytest.approx(0.944, abs=0.02)


def test_the_protocol_names_k_and_the_gallery(by_images, by_classes):
    found = KNN(20, 0.1).protocol(by_images)
    assert (found["k"], found["gallery_size"]) == (20, 1200)
    assert found["gallery"] == "digits/train and digits/validation"
    assert found["classes"] == "seen"
    assert KNN(200, 0.1).protocol(by_classes)["classes"] == "unseen"


@pytest.mark.parametrize("arguments", [(0, 0.1), (5, 0.0), (5, -1.0)])
def test_senseless_settings_are_refused(arguments):
    with pytest.raises(ValueError, match=r"eval\.knn needs k >= 1 and temperature > 0"):
        KNN(*arguments)


def test_with_a_share_of_the_labels_only_these_images_vote(by_images):
    few = KNN(20, 0.1, labels=0.1)
    scores = few(RawPixels((1, 8, 8)), by_images, CPU)
    assert list(scores) == few.keys() == ["knn_10pct/top1"]
    sets = gallery_and_queries(RawPixels((1, 8, 8)).eval_encoder(), by_images, CPU, 0.1)
    assert 100 < len(sets.gallery) < 140
    found = few.predict(sets.gallery, sets.gallery_labels, sets.queries, 10)
    assert scores["knn_10pct/top1"] == (found == sets.query_labels).float().mean().item()
    assert few.protocol(by_images)["labels"] == 0.1
    with pytest.raises(ValueError, match=r"there are only 1[12][0-9] images"):
        KNN(200, 0.1, labels=0.1).check(None, by_images, CPU)
