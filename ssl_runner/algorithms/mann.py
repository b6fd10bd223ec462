"""A network with an external memory that it reads and writes as it goes through a task."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Map, Step, by_domain, encode_tasks
from ssl_runner.algorithms.forward_learner import QUERIES
from ssl_runner.algorithms.label_reader import SequenceReader
from ssl_runner.data.batches import Episodes
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime import process_group
from ssl_runner.runtime.step_context import StepContext

# For initialisation. Without these, 5-way accuracy stays at chance for thousands of steps.
LABELS = 10  # factor on the weights of the label inputs, which are few beside the image's features
FORGETTING = 1  # added to the forget gate's bias, to keep the gate open
STRENGTH = 10  # initial bias of the keys' strength

INSTANCES = {1: "1st", 2: "2nd", 5: "5th"}


class State(NamedTuple):
    """State of B sequences: the controller's hidden and cell (B, hidden), memory (B, M, W), usage (B, M), read weights
    (B, heads, M) and the vectors read (B, heads * W)."""

    hidden: Tensor
    cell: Tensor
    memory: Tensor
    usage: Tensor
    read_weights: Tensor
    read: Tensor


class MANN(SequenceReader):
    """Memory-Augmented Neural Network (Santoro et al. 2016, arXiv:1605.06065, sec. 3; eq. 2-8).

    An LSTM sees each image together with the label of the image before it, so it has to remember an image until it
    sees its label. With Least Recently Used Access, a key is written either to the row that was last read or over the
    least used row, which is cleared first. Memory is read by cosine similarity with the key. Training shuffles the
    support and query images of a task together and predicts every one of them, as the paper does. In evaluation each
    query is the next image after the support, so queries do not see each other.

    Deviations: memory is read before it is written, because otherwise a key would find itself. The key has a learned
    strength, as in the Neural Turing Machine (arXiv:1410.5401, eq. 5), because otherwise the softmax of the cosines
    would be nearly uniform. If there are several heads, each writes to a row of its own. Images go through the run's
    encoder.

    Args:
        network: Encoder and head. The head's outputs together with the labels are the sequence.
        loss: Loss of the scores; in training, of those of all images.
        n_way: See `LabelReader`.
        hidden_features: Width of the controller (200 in the paper), at least 1.
        rows: Rows of the memory (128 in the paper), at least ``heads``.
        row_width: Width of a row (40 in the paper), at least 1.
        heads: Number of heads that read and write (4 in the paper), at least 1.
        usage_decay: Gamma of eq. 5, in [0, 1).

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        n_way: int,
        hidden_features: int,
        rows: int,
        row_width: int,
        heads: int,
        usage_decay: float,
    ) -> None:
        super().__init__(network, loss, n_way)
        if min(hidden_features, row_width, heads) < 1 or rows < heads:
            raise InvalidValue(
                f"hidden_features={hidden_features}, row_width={row_width}, heads={heads}, rows={rows}; all must be at "
                "least 1, and rows must be at least heads"
            )
        if not 0 <= usage_decay < 1:
            raise InvalidValue(f"usage_decay={usage_decay}; give a share in [0, 1), say 0.95")
        self.hidden_features, self.rows, self.row_width, self.heads = hidden_features, rows, row_width, heads
        self.usage_decay = usage_decay
        self.controller = nn.LSTMCell(self.in_features + n_way + heads * row_width, hidden_features)
        self.key = nn.Linear(hidden_features, heads * row_width)
        self.strength = nn.Linear(hidden_features, heads)
        self.gate = nn.Linear(hidden_features, heads)
        self.score = nn.Linear(hidden_features + heads * row_width, n_way)
        with torch.no_grad():  # so that it can distinguish rows and labels, and remember an image for a step
            self.controller.weight_ih[:, self.in_features : self.in_features + n_way] *= LABELS
            self.controller.bias_hh[hidden_features : 2 * hidden_features] += FORGETTING
            self.strength.bias.fill_(STRENGTH)

    def training_step(self, batch: Episodes, context: StepContext) -> Step:
        embedded = encode_tasks(self.represent, torch.cat([batch.support_images, batch.query_images], dim=1))
        labels = torch.cat([batch.support_labels, batch.query_labels], dim=1)
        whole = (len(labels) * process_group.size(), labels.shape[1])
        draws = torch.rand(whole, generator=context.generator("support order"), device=context.device)
        order = draws[process_group.rows(whole[0], "batching.tasks_per_batch")].argsort(dim=1)
        labels = labels.gather(1, order)
        shown = embedded.gather(1, order[..., None].expand_as(embedded))
        given = self.one_hot(labels, shown)
        scores = torch.stack([self.scores(state) for state in self.walk(shown, given)], dim=1)[..., : batch.n_way]
        loss, metrics = self.loss(Embeddings(online=scores.flatten(0, 1)[None], labels=labels.flatten()), context)
        return Step(loss, metrics | by_domain(batch, scores, labels) | _by_instance(scores, labels, given, batch.n_way))

    def read(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        after = self._queried(self.walk(support, labels)[-1], labels, query)
        return self.scores(after).unflatten(0, query.shape[:2])

    def scores(self, state: State) -> Tensor:
        """Scores (B, `n_way`) of the last image."""
        return self.score(torch.cat([state.hidden, state.read], dim=1))

    def _queried(self, state: State, labels: Tensor, query: Tensor) -> State:
        """The state (of T * Q sequences) after each query (T, Q, E), where every query comes next in its sequence."""
        queries = query.shape[1]
        copies = State(*(part.repeat_interleave(queries, dim=0) for part in state))
        last = labels[:, -1:].expand(-1, queries, -1)
        return self.step(torch.cat([query, last], dim=2).flatten(0, 1), copies)

    def looks(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> dict[str, Map]:
        """Usage of each row over the support, and where the queries read, averaged over heads."""
        order = self.order(support)
        labels = self.one_hot(support_labels[:, order], support)
        states = self.walk(support[:, order], labels)
        usage = torch.stack([state.usage[0] for state in states], dim=1)
        read = self._queried(states[-1], labels, query).read_weights.mean(dim=1)
        return {
            "memory/usage": Map(usage, "rows of the memory", "support images, as they were read"),
            "memory/read": Map(read[: query.shape[1]], QUERIES, "rows of the memory"),
        }

    def walk(self, support: Tensor, labels: Tensor) -> list[State]:
        """The states after each image of the support (T, S, E). The state after image t has not seen label t."""
        before = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], dim=1)
        state, states = self._empty(support), []
        for inputs in torch.cat([support, before], dim=2).unbind(dim=1):
            state = self.step(inputs, state)
            states.append(state)
        return states

    def step(self, inputs: Tensor, state: State) -> State:
        """The state after one image with the label before it, (B, E + `n_way`)."""
        hidden, cell = self.controller(torch.cat([inputs, state.read], dim=1), (state.hidden, state.cell))
        keys = self.key(hidden).tanh().unflatten(1, (self.heads, self.row_width))
        gate = self.gate(hidden).sigmoid()[..., None]
        cosines = F.normalize(keys, dim=2) @ F.normalize(state.memory, dim=2).transpose(1, 2)  # eq. 2
        strength = 1 + F.softplus(self.strength(hidden))[..., None]
        weights = (strength * cosines).softmax(dim=2)  # eq. 3
        read = (weights @ state.memory).flatten(1)  # eq. 4
        # eq. 6: the least used rows, the first of them for the first head
        least = F.one_hot(state.usage.argsort(dim=1, stable=True)[:, : self.heads], self.rows).to(inputs.dtype)
        write = gate * state.read_weights + (1 - gate) * least  # eq. 7
        emptied = state.memory * (1 - least.sum(dim=1))[..., None]
        memory = emptied + write.transpose(1, 2) @ keys  # eq. 8
        usage = self.usage_decay * state.usage + weights.sum(dim=1) + write.sum(dim=1)  # eq. 5
        return State(hidden, cell, memory, usage.detach(), weights, read)

    def _empty(self, support: Tensor) -> State:
        tasks = len(support)
        return State(
            hidden=support.new_zeros(tasks, self.hidden_features),
            cell=support.new_zeros(tasks, self.hidden_features),
            memory=support.new_zeros(tasks, self.rows, self.row_width),
            usage=support.new_zeros(tasks, self.rows),
            read_weights=support.new_zeros(tasks, self.heads, self.rows),
            read=support.new_zeros(tasks, self.heads * self.row_width),
        )


def _by_instance(scores: Tensor, labels: Tensor, given: Tensor, n_way: int) -> dict[str, Tensor]:
    """Accuracy on the 1st, 2nd and 5th image of a class, as in the paper's table 1. The 1st can only be guessed.

    Args:
        scores: (T, L, outputs).
        labels: (T, L).
        given: (T, L, outputs), the labels as one-hot vectors.
        n_way: Number of classes.
    """
    right = (scores.detach().argmax(dim=2) == labels).float()
    instance = given.cumsum(dim=1).gather(2, labels[..., None])[..., 0]
    named = {number: name for number, name in INSTANCES.items() if number * n_way <= labels.shape[1]}
    shown = {name: (instance == number).float() for number, name in named.items()}
    # a class may have fewer images than the others
    return {f"accuracy/{name}": (right * chosen).sum() / chosen.sum().clamp_min(1) for name, chosen in shown.items()}
