"""What losses say of their negatives: the shares of their gradients, by naive losses of similarities and distances."""

import pytest
import torch
from torch import Tensor

from ssl_runner.clock import Clock
from ssl_runner.losses.barlow_twins import BarlowTwins
from ssl_runner.losses.dcl import DCL
from ssl_runner.losses.debiased import Debiased
from ssl_runner.losses.hard_negative import HardNegative
from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.multi_similarity import MultiSimilarity
from ssl_runner.losses.negatives import Negatives
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.pairwise import Pairwise
from ssl_runner.losses.ring import Ring
from ssl_runner.losses.supcon import SupCon
from ssl_runner.losses.triplet import Triplet

N = 6  # images, of two views
CLOCK = Clock(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
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
    """(2, N, 5): two views of images that are related."""
    generator = torch.Generator().manual_seed(4)
    first, other = torch.randn(2, N, 5, dtype=torch.float64, generator=generator)
    return torch.stack([first, first + spread * other]) + 0.5


def told(name: str, online: Tensor) -> Negatives:
    found = LOSSES[name].negatives(Embeddings(online, target=online.roll(1, 2), labels=LABELS), CLOCK)
    assert found is not None
    return found


def unit(online: Tensor) -> Tensor:
    return (online / online.norm(dim=-1, keepdim=True)).flatten(0, 1)


def of_softmax(similarity: Tensor, tau_plus: float = 0.0, beta: float = 0.0, kept=None, dcl: bool = False) -> Tensor:
    """The sum over anchors of NT-Xent, DCL, debiased loss or HCL, whose importance weights are held."""
    total = similarity.new_zeros(())
    for i in range(2 * N):
        s = similarity[i] / T
        places = [k for k in range(2 * N) if k % N != i % N and (kept is None or k in kept[i])]
        importance = torch.exp(beta * s[places].detach())
        negatives = (torch.exp(s[places]) * importance).sum() / importance.mean()
        positive = torch.exp(s[(i + N) % (2 * N)])
        estimate = (negatives - tau_plus * len(places) * positive) / (1 - tau_plus)
        if tau_plus:
            estimate = torch.clamp(estimate, min=len(places) * torch.exp(torch.tensor(-1 / T)).item())
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
    """The sum of what triplets cost; distance_weighted's are those that the loss drew."""
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
    """Of ten negatives, in the order of similarity, all but the first three and the last two."""
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
    found, z = told(name, online), unit(online)
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


def test_several_targets_of_an_anchor_share_its_weight_as_the_gradient_does():
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


def test_positives_are_the_other_view_or_the_mean_over_the_class():
    online = embedded()
    z = unit(online)
    pairs = (z[:N] * z[N:]).sum(dim=1).repeat(2)
    for name in ("nt_xent", "dcl", "debiased", "hcl", "ring"):
        torch.testing.assert_close(told(name, online).positive, pairs)
    labels, similarity = LABELS.repeat(2).tolist(), z @ z.T
    mates = [[k for k in range(2 * N) if k != i and labels[k] == labels[i]] for i in range(2 * N)]
    means = torch.stack([similarity[i, places].mean() for i, places in enumerate(mates)])
    for name in ("supcon", "multi_similarity", "pairwise, all", "triplet, batch_hard"):
        torch.testing.assert_close(told(name, online).positive, means)


def test_an_anchor_at_the_floor_is_repelled_by_nothing():
    online = embedded()
    for name, loss in (("debiased", LOSSES["debiased"]), ("hcl", LOSSES["hcl"])):
        clamped = loss(Embeddings(online), CLOCK)[1]["clamped_anchors"].item()
        at_floor = (told(name, online).weight.sum(dim=1) == 0).double().mean().item()
        assert at_floor == pytest.approx(clamped) and 0 < at_floor < 1, name
    everything = Debiased(0.1, 0.1).negatives(Embeddings(torch.eye(6).expand(2, 6, 6)), CLOCK)
    assert everything is not None and everything.weight.sum() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_rows_add_up_to_1_or_0_and_nothing_is_differentiable_changed_or_drawn(name):
    online = embedded().float().requires_grad_()
    before, state = online.detach().clone(), torch.get_rng_state()
    found = told(name, online)
    total = found.weight.sum(dim=1)
    assert ((total - 1).abs().lt(1e-5) | (total == 0)).all()
    assert (found.weight >= 0).all() and not found.weight.diagonal().any()
    assert not any(tensor.requires_grad for tensor in (found.similarity, found.positive, found.weight))
    assert torch.equal(online.detach(), before) and torch.equal(torch.get_rng_state(), state)


def test_a_queue_and_a_loss_without_negatives_tell_nothing():
    online = embedded()
    assert InfoNCE(T).negatives(Embeddings(online, target=online, memory=online[0]), CLOCK) is None
    assert BarlowTwins(0.005).negatives(Embeddings(online), CLOCK) is None
