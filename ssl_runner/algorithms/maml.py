"""Model-agnostic meta-learning."""

from ssl_runner.algorithms.inner_classifier import Statistics
from ssl_runner.algorithms.inner_loop import InnerLoop, refuse_rate
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext


class MAML(InnerLoop):
    """MAML (Finn et al. 2017, arXiv:1703.03400, alg. 2): learns weights that adapt to a task in a few steps.

    Every parameter adapts, including the affine parameters of batch normalisation.

    Args:
        network: See `InnerLoop`, also for loss, inner_steps, eval_inner_steps and statistics.
        inner_lr: Learning rate of the inner gradient descent, above 0.
        second_order: Whether to differentiate through the inner steps. False is first-order MAML (sec. 5.2).
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        inner_lr: float,
        inner_steps: int,
        eval_inner_steps: int,
        second_order: bool,
        statistics: Statistics,
    ) -> None:
        super().__init__(network, loss, inner_steps, eval_inner_steps, statistics)
        refuse_rate(inner_lr)
        self.inner_lr = inner_lr
        self.second_order = second_order

    def rate(self, name: str, step: int) -> float:
        return self.inner_lr

    def is_second_order(self, context: StepContext) -> bool:
        return self.second_order
