"""A baseline that trains a new network on each support set, to show what the support alone can give."""

from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.data.dataset import Images
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.fine_tuning import zero_head
from ssl_runner.evaluation.timing import now
from ssl_runner.models.initialisation import initialised_anew
from ssl_runner.models.network import Encoder
from ssl_runner.runtime import progress, randomness


class FromScratch:
    """Trains encoder and linear classifier on the support of each task by Adam, with the whole support in each step.

    Tasks are trained one after the other. Trained together under `torch.func.vmap`, with separate weights for each
    task, conv4 took 1.5 to 3 times as long on a CPU, and torch's own batch normalisation could not be trained. New
    weights are drawn for each task, and the classifier starts from zeros. Queries are normalised by running averages
    over the steps, so a prediction does not depend on the other queries.

    Args:
        steps: Number of steps in each task, at least 1.
        lr: Adam's learning rate, above 0.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(self, steps: int, lr: float) -> None:
        if steps < 1 or not lr > 0:
            raise InvalidValue(f"scratch_steps={steps}, scratch_lr={lr}; give at least 1 step, and a rate above 0")
        self.steps, self.lr = steps, lr

    def recipe(self) -> str:
        """A description for the protocol."""
        return (
            "the architecture with new weights for each task and a linear classifier, trained on its support: "
            f"{self.steps} steps of Adam on the whole support, learning rate {self.lr:g}; queries are normalised by "
            "running averages"
        )

    def accuracies(
        self, encoder: Encoder, images: Images, tasks: Tasks, seed: int, device: torch.device
    ) -> tuple[Tensor, float]:
        """The accuracy of each task, float64 (T,), and the median time of a task in milliseconds.

        This seeds torch's generators.

        Args:
            encoder: An encoder of the architecture to train; it is not changed.
            images: The images that the tasks' indices refer to, (N, C, H, W).
            tasks: T tasks.
            seed: Seed of the initial weights.
            device: The device to train on.
        """
        found, took = [], []
        for task in range(len(tasks)):
            one = tasks[task : task + 1]
            support, query = (images[indices[0].to(images.device)].to(device) for indices in (one.support, one.query))
            labels, began = one.support_labels[0].to(device), now(device)
            first = randomness.number(seed, "verdict/from_scratch", task)
            scores = self.classify(initialised_anew(encoder, first), support, labels, query, one.n_way)
            took.append(1000 * (now(device) - began))
            found.append((scores.argmax(dim=1).cpu() == one.query_labels[0]).double().mean())
            progress.at(task + 1, len(tasks), "tasks")
        return torch.stack(found), median(took)

    def classify(self, encoder: Encoder, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Scores (Q, n_way) of the queries (Q, C, H, W), after training on the support (S, C, H, W).

        Args:
            encoder: The encoder to train, in place.
            support: Images of one task.
            labels: int64 (S,).
            query: Images to classify.
            n_way: Number of classes.
        """
        encoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        head = zero_head(encoder.out_features, n_way, support.device)
        network = nn.Sequential(encoder, nn.Flatten(), head).train()
        optimizer = torch.optim.Adam(network.parameters(), self.lr)
        with torch.enable_grad():
            for _ in range(self.steps):
                loss = F.cross_entropy(network(support), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            return network.eval()(query)
