"""Checks of constructor arguments."""

from collections.abc import Sequence

from ssl_runner.errors import InvalidValue


def check_probability(name: str, value: float) -> float:
    """Returns the value if it is in [0, 1].

    Raises:
        ValueError: Otherwise.
    """
    if not 0 <= value <= 1:
        raise InvalidValue(f"{name}={value}, expected a probability in [0, 1]; 0 never applies it and 1 always does.")
    return float(value)


def check_amount(name: str, value: float, most: float = float("inf")) -> float:
    """Returns the value if it is in [0, most].

    Raises:
        ValueError: Otherwise.
    """
    if not 0 <= value <= most:
        raise InvalidValue(f"{name}={value}, expected a number in [0, {most:g}]; 0 switches it off.")
    return float(value)


def check_range(name: str, value: Sequence[float], least: float, most: float = float("inf")) -> tuple[float, float]:
    """Returns the pair if least <= low <= high <= most and low is positive.

    Raises:
        ValueError: Otherwise.
    """
    if len(value) != 2 or not (least <= value[0] <= value[1] <= most and value[0] > 0):
        above = "above 0" if least == 0 else f"from {least:g}"
        below = "" if most == float("inf") else f" to {most:g}"
        raise InvalidValue(f"{name}={list(value)}, expected [low, high] with low <= high, {above}{below}; reorder it.")
    return float(value[0]), float(value[1])
