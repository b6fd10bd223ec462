"""MAML whose output layer starts from the prototypes of the task."""

import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.algorithms.inner_classifier import Parameters
from ssl_runner.algorithms.maml import MAML

WEIGHT, BIAS = "output.weight", "output.bias"  # names that no parameter of a network has: those begin otherwise


class ProtoMAML(MAML):
    """ProtoMAML (Triantafillou et al. 2020, Meta-Dataset, arXiv:1903.03096, sec. 3): a linear layer on the network's
    outputs starts at ``W_k = 2 c_k, b_k = -|c_k|^2``, where c_k is the mean of class k in the support, and adapts with
    everything else.

    Before the first inner step, scores are therefore ProtoNet's up to a constant of each query. The meta-gradient goes
    through this start, also with ``second_order=false`` (the paper's first-order version). As the layer is made for
    each task, tasks may have any number of classes, in evaluation too. Prototypes are means of the head's outputs
    (``identity`` in the paper). The arguments are those of `MAML`.
    """

    head_classifies = False

    def start(self, support: Tensor, labels: Tensor, n_way: int) -> Parameters:
        weights = self.initial()
        embedded = functional_call(self.network, weights, (support,))
        prototypes = class_means(embedded[None], labels[None], n_way)[0]
        return weights | {WEIGHT: 2 * prototypes, BIAS: -prototypes.square().sum(dim=1)}

    def scores(self, weights: Parameters, begun: Tensor, step: int) -> Tensor:
        of_network = {name: value for name, value in weights.items() if name not in (WEIGHT, BIAS)}
        return F.linear(functional_call(self.network, of_network, (begun,)), weights[WEIGHT], weights[BIAS])
