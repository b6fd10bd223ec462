"""Doubles that wait at a known place while a test does something, and a loss that collapses."""

import os
import time
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.runtime.step_context import StepContext

FILE = "WAITING_FILE"


def wait() -> None:
    """Create the file that an environment variable names, and wait until it is deleted."""
    if FILE in os.environ:
        path = Path(os.environ[FILE])
        path.touch()
        while path.exists():
            time.sleep(0.01)


class WaitingNTXent(NTXent):
    """NT-Xent that waits after three steps."""

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        if context.step == 3:
            wait()
        return super().forward(embeddings, context)


class WaitingFewShot(FewShot):
    """Few-shot evaluation that waits before it begins."""

    def __call__(self, algorithm, splits, device) -> dict[str, float]:
        wait()
        return super().__call__(algorithm, splits, device)


class PullTogether(Loss):
    """Squared distance of two views on the unit sphere, without anything that pushes images apart."""

    views = 2

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = F.normalize(embeddings.online, dim=-1)
        return (first - second).square().sum(dim=-1).mean(), {}
