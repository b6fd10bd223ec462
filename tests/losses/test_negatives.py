"""The negatives that losses report: their shares of the gradient, compared with naive losses of similarities and
distances.
"""

import pytest
import torch
from torch import Tensor

from ssl_runner.losses.barlow_twins import BarlowTwins
from ssl_runner.losses.dcl import DCL
from ssl_runner.losses.debiased import Debiased
from ssl_runner.losses.hard_negative import HardNegative
from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.mochi import MoCHi
from ssl_runner.losses.multi_similarity import MultiSimilarity
from ssl_runner.losses.negatives import Negatives
from ssl_runner.losses.nnclr import NNCLR
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.pairwise import Pairwise
from ssl_runner.losses.ring import Ring
from ssl_runner.losses.supcon import SupCon
from ssl_runner.losses.triplet import Triplet
from ssl_runner.runtime.step_context import StepContext

N = 6  # images, of two views
CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
LABELS = torch.tensor([0, 0, 1, 1, 1, 2])
T = 0.4
LOSSES = {
    "nt_xent": NTXent(T),
    "dcl": DCL(T, None),
    "dclw": DCL(T, 0.5),
    "debiased": Debiased(T, 0.3),
    "hcl": HardNegative(T, 0.4, 1.5),
    "ring": Ring(T, 0.3, 0.8),
    "supcon": SupCon(T),
    "info_nce": InfoNCE(T),
    "multi_similarity": MultiSimilarity(2.0, 7.0, 0.5, 0.1),
    "pairwise, all": Pairwise(1.2, "all"),
    "pairwise, hardest": Pairwise(1.2, "hardest"),
    "pairwise, semi_hard": Pairwise(1.2, "semi_hard"),
    "triplet, batch_all": Triplet(0.2, "batch_all"),
    "triplet, batch_hard": Triplet(0.2, "batch_hard"),
    "triplet, semi_hard": Triplet(0.2, "semi_hard"),
    "triplet, distance_weighted": Triplet(0.2, "distance_weighted"),
}


def embedded(spread: float = 0.7) -> Tensor:
    """Two views of each image, (2, N, 5), which are related."""
    generator = torch.Generator().manual_seed(4)
    first, other = torch.randn(2, N, 5, dtype=torch.float64, generator=generator)
    return torch.stack([first, first + spread * other]) + 0.5


def reported(name: str, online: Tensor) -> Negatives:
    found = LOSSES[name].negatives(Embeddings(online, target=online.roll(1, 2), labels=LABELS), CLOCK)
    assert found is not None
    return found


def unit(online: Tensor) -> Tensor:
    return (online / online.norm(dim=-1, keepdim=True)).flatten(0, 1)


def of_softmax(similarity: Tensor, tau_plus: float = 0.0, beta: float = 0.0, kept=None, dcl: bool = False) -> Tensor:
    """The sum over anchors of NT-Xent, DCL, the debiased loss or HCL with constant importance weights."""
    total = similarity.new_zeros(())
    for i in range(2 * N):
        s = similarity[i] / T
        indices = [k for k in range(2 * N) if k % N != i % N and (kept is None or k in kept[i])]
        importance = torch.exp(beta * s[indices].detach())
        negatives = (torch.exp(s[indices]) * importance).sum() / importance.mean()
        positive = torch.exp(s[(i + N) % (2 * N)])
        estimate = (negatives - tau_plus * len(indices) * positive) / (1 - tau_plus)
        if tau_plus:
            estimate = torch.clamp(estimate, min=len(indices) * torch.exp(torch.tensor(-1 / T)).item())
        total = total + torch.log(estimate if dcl else positive + estimate) - s[(i + N) % (2 * N)]
    return total


def of_supcon(similarity: Tensor) -> Tensor:
    labels, total = LABELS.repeat(2).tolist(), similarity.new_zeros(())
    for i in range(2 * N):
        others = [k for k in range(2 * N) if k != i]
        mates = [k for k in others if labels[k] == labels[i]]
        total = total + torch.exp(similarity[i, others] / T).sum().log() - similarity[i, mates].mean() / T
    return total


def of_triplets(distance: Tensor, mining: str) -> Tensor:
    """The sum of the triplets' losses; for distance_weighted, of the triplets that the loss drew."""
    labels, total = LABELS.repeat(2), distance.new_zeros(())
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(2 * N, dtype=torch.bool)
    chosen, mined = LOSSES[f"triplet, {mining}"].mine(distance.detach(), same & ~itself, ~same, 5, CLOCK)
    for a in range(2 * N):
        for p in range(2 * N):
            if p == a or labels[p] != labels[a]:
                continue
            others = [n for n in range(2 * N) if labels[n] != labels[a]]
            if mining == "distance_weighted":
                others = [int(chosen[a, p])] if mined[a, p] else []
            elif mining == "batch_hard":
                mates = [k for k in range(2 * N) if k != a and labels[k] == labels[a]]
                others = [min(others, key=lambda n: float(distance.detach()[a, n]))]
                others = others if p == max(mates, key=lambda k: float(distance.detach()[a, k])) else []
            elif mining == "semi_hard":
                farther = [n for n in others if distance[a, n] > distance[a, p]]
                others = [min(farther, key=lambda n: float(distance.detach()[a, n]))] if farther else []
            for n in others:
                total = total + (0.2 + distance[a, p] - distance[a, n]).clamp_min(0)
    return total


def of_pairs(distance: Tensor, mining: str) -> Tensor:
    labels, total = LABELS.repeat(2), distance.new_zeros(())
    for a in range(2 * N):
        others = [n for n in range(2 * N) if labels[n] != labels[a]]
        chosen = others
        if mining == "hardest":
            chosen = [min(others, key=lambda n: float(distance.detach()[a, n]))]
        elif mining == "semi_hard":
            chosen = []
            for p in (k for k in range(2 * N) if k != a and labels[k] == labels[a]):
                farther = [n for n in others if distance[a, n] > distance[a, p]]
                chosen += [min(farther, key=lambda n: float(distance.detach()[a, n]))] if farther else []
        for n in chosen:
            total = total + (1.2 - distance[a, n]).clamp_min(0) ** 2
    return total


def of_multi_similarity(similarity: Tensor) -> Tensor:
    labels, total = LABELS.repeat(2).tolist(), similarity.new_zeros(())
    for a in range(2 * N):
        mates = [k for k in range(2 * N) if k != a and labels[k] == labels[a]]
        least = similarity[a, mates].min().item()
        kept = [k for k in range(2 * N) if labels[k] != labels[a] and similarity[a, k].item() > least - 0.1]
        if kept:
            total = total + torch.log(1 + torch.exp(7.0 * (similarity[a, kept] - 0.5)).sum()) / 7.0
    return total


def kept_by_ring(similarity: Tensor) -> list[set[int]]:
    """All of ten negatives, sorted by similarity, except the first three and the last two."""
    kept = []
    for i, row in enumerate(similarity.tolist()):
        others = [k for k in range(2 * N) if k % N != i % N]
        kept.append(set(sorted(others, key=row.__getitem__)[3:8]))
    return kept


NAIVE = {
    "nt_xent": of_softmax,
    "dcl": lambda s: of_softmax(s, dcl=True),
    "dclw": lambda s: of_softmax(s, dcl=True),
    "debiased": lambda s: of_softmax(s, tau_plus=0.3),
    "hcl": lambda s: of_softmax(s, tau_plus=0.4, beta=1.5),
    "ring": lambda s: of_softmax(s, kept=kept_by_ring(s.detach())),
    "supcon": of_supcon,
    "multi_similarity": of_multi_similarity,
}


def shares_of_gradient(naive, matrix: Tensor, negative: Tensor) -> Tensor:
    matrix = matrix.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(naive(matrix), matrix)
    gradient = gradient.abs() * negative
    total = gradient.sum(dim=1, keepdim=True)
    return gradient / total.where(total > 0, 1.0)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_are_the_shares_of_the_gradient_that_repels_an_anchor(name):
    online = embedded()
    found, z = reported(name, online), unit(online)
    similarity, labels = z @ z.T, LABELS.repeat(2)
    loss = LOSSES[name]
    negative = labels[:, None] != labels[None, :]
    if "labels" not in loss.needs:
        image = torch.arange(N).repeat(2)
        negative = image[:, None] != image[None, :]
    if name == "info_nce":
        similarity = z @ unit(online.roll(1, 2)).T
        view = torch.arange(2).repeat_interleave(N)
        negative = negative & (view[:, None] != view[None, :])
        expected = shares_of_gradient(of_info_nce, similarity, negative)
    elif name in NAIVE:
        expected = shares_of_gradient(NAIVE[name], similarity, negative)
    else:
        kind, mining = name.split(", ")
        naive = {"triplet": of_triplets, "pairwise": of_pairs}[kind]
        expected = shares_of_gradient(lambda d: naive(d, mining), torch.cdist(z, z), negative)
    torch.testing.assert_close(found.weight, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.similarity, similarity)
    assert (found.weight > 0).any()


def of_info_nce(similarity: Tensor) -> Tensor:
    """Each view against the targets of the other."""
    total = similarity.new_zeros(())
    for i in range(2 * N):
        columns = range(N, 2 * N) if i < N else range(N)
        s = similarity[i] / T
        total = total + torch.exp(s[list(columns)]).sum().log() - s[(i + N) % (2 * N)]
    return total


def test_several_targets_of_an_anchor_share_its_weight_like_its_gradient():
    generator = torch.Generator().manual_seed(0)
    online, target = (torch.randn(v, 4, 3, dtype=torch.float64, generator=generator) for v in (3, 2))
    found = InfoNCE(T).negatives(Embeddings(online, target=target), CLOCK)
    assert found is not None
    similarity = (unit(online) @ unit(target).T).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(12):
        for j in range(2):
            if row // 4 != j:
                s = similarity[row, 4 * j : 4 * j + 4] / T
                total = total + torch.logsumexp(s, 0) - s[row % 4]
    (gradient,) = torch.autograd.grad(total, similarity)
    gradient = gradient.clamp_min(0)  # only the positives' is negative
    torch.testing.assert_close(found.weight, gradient / gradient.sum(dim=1, keepdim=True))
    pair = similarity.detach()
    assert found.positive[8].item() == pytest.approx((pair[8, 0] + pair[8, 4]).item() / 2)  # both targets
    assert found.positive[0].item() == pytest.approx(pair[0, 4].item())


def test_the_positive_is_the_other_view_or_the_mean_over_the_class():
    online = embedded()
    z = unit(online)
    pairs = (z[:N] * z[N:]).sum(dim=1).repeat(2)
    for name in ("nt_xent", "dcl", "debiased", "hcl", "ring"):
        torch.testing.assert_close(reported(name, online).positive, pairs)
    labels, similarity = LABELS.repeat(2).tolist(), z @ z.T
    mates = [[k for k in range(2 * N) if k != i and labels[k] == labels[i]] for i in range(2 * N)]
    means = torch.stack([similarity[i, indices].mean() for i, indices in enumerate(mates)])
    for name in ("supcon", "multi_similarity", "pairwise, all", "triplet, batch_hard"):
        torch.testing.assert_close(reported(name, online).positive, means)


def test_nothing_repels_an_anchor_at_the_floor():
    online = embedded()
    for name, loss in (("debiased", LOSSES["debiased"]), ("hcl", LOSSES["hcl"])):
        clamped = loss(Embeddings(online), CLOCK)[1]["clamped_anchors"].item()
        at_floor = (reported(name, online).weight.sum(dim=1) == 0).double().mean().item()
        assert at_floor == pytest.approx(clamped) and 0 < at_floor < 1, name
    everything = Debiased(0.1, 0.1).negatives(Embeddings(torch.eye(6).expand(2, 6, 6)), CLOCK)
    assert everything is not None and everything.weight.sum() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_rows_sum_to_1_or_0_without_gradients_changes_or_draws(name):
    online = embedded().float().requires_grad_()
    before, state = online.detach().clone(), torch.get_rng_state()
    found = reported(name, online)
    total = found.weight.sum(dim=1)
    assert ((total - 1).abs().lt(1e-5) | (total == 0)).all()
    assert (found.weight >= 0).all() and not found.weight.diagonal().any()
    assert not any(tensor.requires_grad for tensor in (found.similarity, found.positive, found.weight))
    assert torch.equal(online.detach(), before) and torch.equal(torch.get_rng_state(), state)


def test_a_loss_without_negatives_reports_none():
    assert BarlowTwins(0.005).negatives(Embeddings(embedded()), CLOCK) is None


REMEMBERING = {"info_nce": InfoNCE(T), "mochi": MoCHi(T, 4, 3, 2), "mochi, no mixtures": MoCHi(T, 4, 0, 0)}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def of_rows(similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The sum of InfoNCE over anchors, one at a time, from cosines, some of which are negatives."""
    total = similarity.new_zeros(())
    for row, pair, counted in zip(similarity, positive, negative, strict=True):
        terms = torch.exp(pair / T) + sum(torch.exp(s / T) for s in row[counted])
        total = total - torch.log(torch.exp(pair / T) / terms)
    return total


@pytest.mark.parametrize("name", [*REMEMBERING, "nnclr"])
def test_with_a_queue_the_reported_negatives_reproduce_the_loss_and_its_gradient(name):
    loss = NNCLR(T) if name == "nnclr" else REMEMBERING[name]
    seen = Embeddings(drawn(2, N, 5), target=drawn(2, N, 5) + drawn(N, 5), memory_bank=drawn(9, 5))
    found = loss.negatives(seen, CLOCK)
    assert found is not None
    negative = found.weight > 0
    value = of_rows(found.similarity, found.positive, negative) / (2 * N)
    torch.testing.assert_close(value, loss(seen, CLOCK)[0])
    naive = lambda s: of_rows(s, found.positive, negative)  # noqa: E731
    torch.testing.assert_close(found.weight, shares_of_gradient(naive, found.similarity, negative))


def test_entries_of_a_queue_are_columns_and_mixtures_of_each_pair_follow():
    online, target, memory_bank = drawn(2, N, 5), drawn(2, N, 5), drawn(9, 5)
    seen = Embeddings(online, target=target, memory_bank=memory_bank)
    cosines = unit(online) @ (memory_bank / memory_bank.norm(dim=1, keepdim=True)).T
    pairs = (unit(online) * unit(target).roll(N, 0)).sum(dim=1)
    widths = {"info_nce": 9, "mochi": 9 + 2 * 5, "mochi, no mixtures": 9}
    for name, loss in REMEMBERING.items():
        found = loss.negatives(seen, CLOCK)
        assert found is not None
        assert found.similarity.shape == found.weight.shape == (2 * N, widths[name])
        assert found.remembered == widths[name] and found.pictured().weight.shape == (2 * N, 0)
        torch.testing.assert_close(found.similarity[:, :9], cosines)
        torch.testing.assert_close(found.positive, pairs)
    mixed = REMEMBERING["mochi"].negatives(seen, CLOCK)
    assert mixed is not None
    assert (mixed.weight[:N, 9:14] > 0).all() and not mixed.weight[:N, 14:].any()
    assert (mixed.weight[N:, 14:] > 0).all() and not mixed.weight[N:, 9:14].any()


@pytest.mark.parametrize("name", REMEMBERING)
def test_several_targets_of_an_anchor_share_the_weight_of_a_queue_like_its_gradient(name):
    loss, memory_bank = REMEMBERING[name], drawn(9, 5)
    online, target = drawn(3, 4, 5), drawn(2, 4, 5)
    found = loss.negatives(Embeddings(online, target=target, memory_bank=memory_bank), CLOCK)
    assert found is not None
    similarity = found.similarity.clone().requires_grad_()
    positive = (unit(online) @ unit(target).T).view(3, 4, 2, 4)
    mixtures = (similarity.shape[1] - 9) // 4  # for the four pairs of different views
    total = torch.zeros((), dtype=torch.float64)
    for number, (i, j) in enumerate([(0, 1), (1, 0), (2, 0), (2, 1)]):
        columns = [*range(9), *range(9 + number * mixtures, 9 + (number + 1) * mixtures)]
        for b in range(4):
            own = positive[i, b, j, b] / T
            total = total + torch.logsumexp(torch.cat([own[None], similarity[4 * i + b, columns] / T]), 0) - own
    (gradient,) = torch.autograd.grad(total, similarity)
    torch.testing.assert_close(found.weight, gradient / gradient.sum(dim=1, keepdim=True))
    assert found.positive[9].item() == pytest.approx(float(positive[2, 1, 0, 1] + positive[2, 1, 1, 1]) / 2)


def test_an_empty_queue_repels_nothing_and_nnclr_still_has_the_images_of_the_batch():
    online, target = drawn(2, N, 5), drawn(2, N, 5)
    seen = Embeddings(online, target=target, memory_bank=drawn(0, 5))
    for loss in REMEMBERING.values():
        found = loss.negatives(seen, CLOCK)
        assert found is not None and found.weight.shape == (2 * N, 0)
    found = NNCLR(T).negatives(seen, CLOCK)
    exchanged = InfoNCE(T).negatives(Embeddings(target, target=online), CLOCK)
    assert found is not None and exchanged is not None and found.remembered == 0
    assert torch.equal(found.weight, exchanged.weight)


def test_the_negatives_of_a_queue_have_no_gradient_and_draw_nothing_from_torch():
    seen = Embeddings(drawn(2, N, 5).requires_grad_(), target=drawn(2, N, 5), memory_bank=drawn(9, 5))
    state = torch.get_rng_state()
    for loss in (*REMEMBERING.values(), NNCLR(T)):
        one, other = loss.negatives(seen, CLOCK), loss.negatives(seen, CLOCK)
        assert one is not None and other is not None and torch.equal(one.weight, other.weight)
        assert not any(tensor.requires_grad for tensor in (one.similarity, one.positive, one.weight))
    assert torch.equal(torch.get_rng_state(), state)
