"""SimCLR on CIFAR-10 as a tutorial would write it, to compare experiment=simclr_cifar10 with: plain PyTorch and PIL.

    python scripts/parity/reference_simclr.py --epochs 12 --workers 13

Only the images and their split are ssl_runner's. The rest is torchvision's transforms in a DataLoader and its
ResNet-18, NT-Xent as a cross-entropy over the whole matrix, SGD, and kNN (k = 200, T = 0.1) of the test images.
"""

import argparse
import math
import os
import time

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

from ssl_runner.data.sources.cifar10 import cifar10

BATCH, RATE, WARM_UP, TEMPERATURE = 512, 0.24, 50, 0.5
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
VIEW = transforms.Compose(
    [
        transforms.RandomResizedCrop(32, (0.08, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        transforms.RandomGrayscale(0.2),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)


class Pairs(Dataset):
    """Two views of each image, (3, 32, 32) each."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.images[index])
        return VIEW(image), VIEW(image)  # type: ignore[return-value]


def train(images: Tensor, epochs: int, workers: int, device: str) -> nn.Module:
    """The encoder (B, 3, 32, 32) to (B, 512)."""
    encoder = models.resnet18()
    encoder.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    encoder.maxpool = encoder.fc = nn.Identity()  # type: ignore[assignment]
    head = nn.Sequential(
        nn.Linear(512, 512, bias=False),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Linear(512, 128, bias=False),
        nn.BatchNorm1d(128, affine=False),
    )
    network = nn.Sequential(encoder, head).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = DataLoader(
        Pairs(images), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim < 2]  # which do not decay
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9)
    step, steps, began = 0, epochs * len(loader), time.perf_counter()
    target = torch.arange(2 * BATCH, device=device).roll(BATCH)
    for epoch in range(epochs):
        for views in loader:
            cosine = 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))
            for group in optimizer.param_groups:
                group["lr"] = RATE * ((step + 1) / WARM_UP if step < WARM_UP else cosine)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                embedded = network(torch.cat(views).to(device, memory_format=torch.channels_last))
            unit = F.normalize(embedded.float(), dim=1)
            logits = (unit @ unit.T / TEMPERATURE).fill_diagonal_(-torch.inf)
            loss = F.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        right = (logits.argmax(dim=1) == target).float().mean()
        print(
            f"epoch {epoch + 1}, {time.perf_counter() - began:.0f} s: loss {loss:.3f}, accuracy {right:.3f}", flush=True
        )
    return encoder.eval()


@torch.no_grad()
def features(encoder: nn.Module, images: Tensor, device: str) -> Tensor:
    """(M, 512), of length 1, of uint8 images (M, 3, 32, 32)."""
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (MEAN, STD))
    parts = (encoder((part.to(device).float() / 255 - mean) / std) for part in images.split(1000))
    return torch.cat([F.normalize(part, dim=1) for part in parts])


def nearest(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Classes (Q,) of queries (Q, D) by a vote of their 200 nearest, weighted by e^(cosine / 0.1)."""
    found = []
    for part in queries.split(1000):
        cosines, places = (part @ bank.T).topk(200, dim=1)
        votes = torch.zeros(len(part), 10, device=part.device)
        found.append(votes.scatter_add_(1, labels[places], (cosines / 0.1).exp()).argmax(dim=1))
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12, help="of training")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the DataLoader")
    parser.add_argument("--data", default=os.environ.get("SSL_RUNNER_DATA", "data"), help="folder of the datasets")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    splits = cifar10(given.data, "images", 5000, [5, 0, 5], 0, None, None)
    known = [splits.train, splits.validation]
    assert isinstance(splits.train.images, torch.Tensor) and isinstance(splits.test.images, torch.Tensor)
    encoder = train(splits.train.images, given.epochs, given.workers, device)
    bank = torch.cat([features(encoder, part.images, device) for part in known])  # type: ignore[arg-type]
    labels = torch.cat([part.labels for part in known]).to(device)  # type: ignore[arg-type]
    told = nearest(bank, labels, features(encoder, splits.test.images, device))
    print(f"kNN {(told == splits.test.labels.to(device)).float().mean():.2%}")  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
