"""Sinkhorn-Knopp: the sharing out that SwAV's codes and PsCo's pseudo-labels come from."""

import math

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue


@torch.no_grad()
def sinkhorn(exponents: Tensor, iterations: int) -> Tensor:
    """Logarithm of the assignment of n rows to m columns, of which all get nearly the same.

    Each iteration gives every column the same total, then every row 1 (Cuturi 2013, arXiv:1306.0895; as Caron et al.
    2020, arXiv:2006.09882, use it). On logarithms, so that a small temperature does not overflow.

    Args:
        exponents: (..., n, m), similarities over a temperature; batched over what stands before.
        iterations: At least 1.

    Returns:
        (..., n, m), of which exp sums to 1 in each row.
    """
    rows, columns = exponents.shape[-2:]
    for _ in range(iterations):
        exponents = exponents - exponents.logsumexp(dim=-2, keepdim=True) + math.log(rows / columns)
        exponents = exponents - exponents.logsumexp(dim=-1, keepdim=True)
    return exponents


def refuse_sinkhorn(epsilon: float, iterations: int) -> None:
    """Raises ValueError for a temperature that is not above 0, or less than one iteration."""
    if not epsilon > 0:
        raise InvalidValue(f"epsilon={epsilon}, but it divides scores; give a number above 0, say 0.05")
    if not iterations >= 1:
        raise InvalidValue(f"sinkhorn_iterations={iterations}; give a number of at least 1, say 3")
