"""Sinkhorn-Knopp: the balanced assignment behind SwAV's codes and PsCo's pseudo-labels."""

import math

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue


@torch.no_grad()
def sinkhorn(exponents: Tensor, iterations: int, counted: Tensor | None = None) -> Tensor:
    """Log of the assignment of n rows to m columns in which all columns get nearly the same total.

    Each iteration gives every column the same total and then every row a total of 1 (Cuturi 2013, arXiv:1306.0895; as
    used by Caron et al. 2020, arXiv:2006.09882). It runs in log space, so that a small temperature does not overflow.

    Args:
        exponents: Similarities divided by a temperature (..., n, m), batched over the leading dimensions.
        iterations: At least 1.
        counted: bool (n,), rows that take part; the others get their own softmax under the same column factors. None
            for all.

    Returns:
        (..., n, m), whose exp sums to 1 in each row.
    """
    rows, columns = exponents.shape[-2:]
    for _ in range(iterations):
        if counted is None:
            exponents = exponents - exponents.logsumexp(dim=-2, keepdim=True) + math.log(rows / columns)
        else:
            own = exponents.masked_fill(~counted[:, None], -torch.inf).logsumexp(dim=-2, keepdim=True)
            share = (counted.sum().clamp_min(1) / columns).log()
            exponents = exponents - own.masked_fill(~counted.any(), 0) + share
        exponents = exponents - exponents.logsumexp(dim=-1, keepdim=True)
    return exponents


def refuse_sinkhorn(epsilon: float, iterations: int) -> None:
    """Raises ValueError if epsilon is not above 0, or if there is less than one iteration."""
    if not epsilon > 0:
        raise InvalidValue(f"epsilon={epsilon}; it divides scores, so give a number above 0, say 0.05")
    if not iterations >= 1:
        raise InvalidValue(f"sinkhorn_iterations={iterations}; give a number of at least 1, say 3")
