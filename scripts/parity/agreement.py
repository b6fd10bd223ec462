"""Whether our losses agree with those of the peers: largest relative difference of value and of gradient.

    PYTHONPATH=. PYTHON scripts/parity/agreement.py  # an interpreter with lightly 1.6 and pytorch-metric-learning 2.9

In float64, on random embeddings, for two batch sizes and two temperatures. The gradient's difference is the norm of the
difference over the norm of the peer's, with respect to the online embeddings. Exit status 1 where a row is above the
tolerance.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_runner.losses.alignment_uniformity import AlignmentUniformity
from ssl_runner.losses.barlow_twins import BarlowTwins
from ssl_runner.losses.dcl import DCL
from ssl_runner.losses.dino import DINO
from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.multi_similarity import MultiSimilarity
from ssl_runner.losses.negative_cosine import NegativeCosine
from ssl_runner.losses.nnclr import NNCLR
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.similarity import unit
from ssl_runner.losses.supcon import SupCon
from ssl_runner.losses.swav import SwAV
from ssl_runner.losses.triplet import Triplet
from ssl_runner.losses.vicreg import VICReg
from ssl_runner.runtime.step_context import StepContext

try:
    from lightly import loss as lightly  # pyright: ignore[reportMissingImports]
    from lightly.loss.hypersphere_loss import HypersphereLoss  # pyright: ignore[reportMissingImports]
    from lightly.models.modules import NNMemoryBankModule  # pyright: ignore[reportMissingImports]
    from pytorch_metric_learning import losses as metric_learning  # pyright: ignore[reportMissingImports]
    from pytorch_metric_learning import miners, reducers  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:  # --help needs no peers
    MISSING = error.name
else:
    MISSING = None

CLOCK = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
DIMENSIONS, ENTRIES, TOLERANCE = 16, 40, 1e-6
SIZES, TEMPERATURES = (8, 64), (0.1, 0.5)


@dataclass(frozen=True)
class Batch:
    """What both sides see: two views (2, B, D), targets (2, B, D), memory (M, D), labels (B,)."""

    online: Tensor
    target: Tensor
    memory_bank: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Row:
    """A loss of ours, a peer's, and how each is called; both get the batch and a temperature."""

    ours: str
    peer: str
    call: Callable[[Batch, float], Tensor]
    call_peer: Callable[[Batch, float], Tensor]


def value(loss: Loss, batch: Batch, **fields: Any) -> Tensor:
    """Of one of our losses, which sees the views and these fields of `Embeddings`."""
    return loss(Embeddings(batch.online, **fields), CLOCK)[0]


def with_bank(module: Any, memory_bank: Tensor) -> Any:
    """A module of lightly's whose memory bank holds these normalised entries."""
    bank = module.memory_bank if hasattr(module, "memory_bank") else module
    bank.bank = torch.nn.functional.normalize(memory_bank, dim=-1).clone()
    return module


def mean_over_directions(compare: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> Tensor:
    """Of a peer's one-sided loss: view 1 against the target of view 2, and the other way round."""
    return (compare(batch.online[0], batch.target[1]) + compare(batch.online[1], batch.target[0])) / 2


def instances(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Metric-learning's NT-Xent between two sets, the images being the classes."""
    loss = metric_learning.NTXentLoss(temperature)

    def compare(queries: Tensor, keys: Tensor) -> Tensor:
        images = torch.arange(len(queries))
        # the same labels object twice would mean that keys are queries, and leave each one's own key out
        return loss(queries, images, ref_emb=keys, ref_labels=images.clone())

    return compare


def nt_xent_of_metric_learning(batch: Batch, temperature: float) -> Tensor:
    images = torch.arange(batch.online.shape[1]).repeat(2)
    return metric_learning.NTXentLoss(temperature)(batch.online.flatten(0, 1), images)


def info_nce_of_lightly(batch: Batch, temperature: float) -> Tensor:
    def compare(queries: Tensor, keys: Tensor) -> Tensor:
        loss = with_bank(lightly.NTXentLoss(temperature, (ENTRIES, DIMENSIONS)), batch.memory_bank)
        return loss(queries, keys)

    return mean_over_directions(compare, batch)


def nnclr_of_both(batch: Batch, temperature: float) -> Tensor:
    find = with_bank(NNMemoryBankModule((ENTRIES, DIMENSIONS)), batch.memory_bank)
    compare = instances(temperature)
    return mean_over_directions(lambda predictions, z: compare(find(z), predictions), batch)


def flat(batch: Batch) -> tuple[Tensor, Tensor]:
    """All views (2 B, D) with their labels."""
    return batch.online.flatten(0, 1), batch.labels.repeat(2)


def supcon_of_metric_learning(batch: Batch, temperature: float) -> Tensor:
    return metric_learning.SupConLoss(temperature)(batch.online.flatten(0, 1), batch.labels.repeat(2))


ROWS = [
    Row(
        "nt_xent",
        "lightly NTXentLoss",
        lambda batch, t: value(NTXent(t), batch),
        lambda batch, t: lightly.NTXentLoss(t)(*batch.online),
    ),
    Row(
        "nt_xent",
        "metric-learning NTXentLoss",
        lambda batch, t: value(NTXent(t), batch),
        nt_xent_of_metric_learning,
    ),
    Row(
        "dcl",
        "lightly DCLLoss",
        lambda batch, t: value(DCL(t, None), batch),
        lambda batch, t: lightly.DCLLoss(t)(*batch.online),
    ),
    Row(
        "dclw",
        "lightly DCLWLoss",
        lambda batch, t: value(DCL(t, 0.5), batch),
        lambda batch, t: lightly.DCLWLoss(t, sigma=0.5)(*batch.online),
    ),
    Row(
        "supcon",
        "metric-learning SupConLoss",
        lambda batch, t: value(SupCon(t), batch, labels=batch.labels),
        supcon_of_metric_learning,
    ),
    Row(
        "info_nce, memory",
        "lightly NTXentLoss with a bank",
        lambda batch, t: value(InfoNCE(t), batch, target=batch.target, memory_bank=batch.memory_bank),
        info_nce_of_lightly,
    ),
    Row(
        "info_nce, batch",
        "metric-learning NTXentLoss, ref_emb",
        lambda batch, t: value(InfoNCE(t), batch, target=batch.target),
        lambda batch, t: mean_over_directions(instances(t), batch),
    ),
    Row(
        "nnclr",
        "lightly's bank, metric-learning's loss",
        lambda batch, t: value(NNCLR(t), batch, target=batch.target, memory_bank=batch.memory_bank),
        nnclr_of_both,
    ),
    Row(
        "negative_cosine",
        "lightly NegativeCosineSimilarity",
        lambda batch, _: value(NegativeCosine(), batch, target=batch.target),
        lambda batch, _: mean_over_directions(lightly.NegativeCosineSimilarity(), batch),
    ),
    Row(
        "alignment_uniformity",
        "lightly HypersphereLoss",
        lambda batch, _: value(AlignmentUniformity(1.0, 0.9, 2.0, 2.0), batch),
        lambda batch, _: HypersphereLoss(t=2.0, lam=0.9, alpha=2.0)(*batch.online),
    ),
    Row(
        "barlow_twins",
        "lightly BarlowTwinsLoss",
        lambda batch, _: value(BarlowTwins(0.005), batch),
        lambda batch, _: lightly.BarlowTwinsLoss(0.005)(*batch.online),
    ),
    Row(
        "vicreg",
        "lightly VICRegLoss",
        lambda batch, _: value(VICReg(25.0, 25.0, 1.0, 1.0, 1e-4), batch),
        lambda batch, _: lightly.VICRegLoss()(*batch.online),
    ),
    Row(
        "swav",
        "lightly SwaVLoss",
        lambda batch, t: SwAV(t, 0.05, 3)(Embeddings(unit(batch.online)), CLOCK)[0],
        lambda batch, t: lightly.SwaVLoss(temperature=t)(list(unit(batch.online)), []),
    ),
    Row(
        "dino",
        "lightly DINOLoss",
        lambda batch, t: value(DINO(t, 0.07, 0.07, 0.0, 0.9), batch, target=batch.target),
        lambda batch, t: lightly.DINOLoss(DIMENSIONS, warmup_teacher_temp=0.07, teacher_temp=0.07, student_temp=t)(
            list(batch.target), list(batch.online)
        ),
    ),
    Row(
        "triplet, batch_all",
        "metric-learning TripletMarginLoss",
        lambda batch, t: value(Triplet(t, "batch_all"), batch, labels=batch.labels),
        lambda batch, t: metric_learning.TripletMarginLoss(margin=t)(*flat(batch)),
    ),
    Row(
        "triplet, batch_hard",
        "metric-learning's with BatchHardMiner",
        lambda batch, t: value(Triplet(t, "batch_hard"), batch, labels=batch.labels),
        lambda batch, t: metric_learning.TripletMarginLoss(margin=t, reducer=reducers.MeanReducer())(
            *flat(batch), miners.BatchHardMiner()(*flat(batch))
        ),
    ),
    Row(
        "multi_similarity",
        "metric-learning's with its miner",
        lambda batch, _: value(MultiSimilarity(2.0, 50.0, 1.0, 0.1), batch, labels=batch.labels),
        lambda batch, _: metric_learning.MultiSimilarityLoss(2, 50, 1.0)(
            *flat(batch), miners.MultiSimilarityMiner(0.1)(*flat(batch))
        ),
    ),
]


def draw(size: int) -> Batch:
    """Views of an image and their targets resemble each other; labels are few enough that every image has a mate."""
    random = torch.Generator().manual_seed(size)
    images = torch.randn(size, DIMENSIONS, generator=random, dtype=torch.float64)
    views = images + 0.5 * torch.randn(4, size, DIMENSIONS, generator=random, dtype=torch.float64)
    memory = torch.randn(ENTRIES, DIMENSIONS, generator=random, dtype=torch.float64)
    return Batch(views[:2].clone().requires_grad_(), views[2:], memory, torch.arange(size) % 4)


def differences(row: Row) -> tuple[float, float]:
    """Largest relative difference of value and of gradient over sizes and temperatures."""
    of_value, of_gradient = [], []
    for size in SIZES:
        for temperature in TEMPERATURES:
            batch = draw(size)
            ours, theirs = row.call(batch, temperature), row.call_peer(batch, temperature)
            (mine,), (other,) = torch.autograd.grad(ours, batch.online), torch.autograd.grad(theirs, batch.online)
            of_value.append(abs((ours - theirs) / theirs).item())
            of_gradient.append(((mine - other).norm() / other.norm()).item())
    return max(of_value), max(of_gradient)


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if MISSING:
        sys.exit(f"{sys.executable} has no {MISSING}; give an interpreter with lightly and pytorch-metric-learning")
    apart = 0
    print(f"{'loss':<22}{'peer':<40}{'value':>10}{'gradient':>10}")
    for row in ROWS:
        found = differences(row)
        beyond = max(found) > TOLERANCE
        apart += beyond
        verdict = f"   above {TOLERANCE:g}" if beyond else ""
        print(f"{row.ours:<22}{row.peer:<40}{found[0]:>10.1e}{found[1]:>10.1e}{verdict}")
    return min(apart, 1)


if __name__ == "__main__":
    sys.exit(main())
