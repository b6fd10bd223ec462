"""Short names of dotted config keys, for names of runs and for tables."""

import re
from collections.abc import Sequence


def key_labels(keys: Sequence[str]) -> dict[str, str]:
    """The end of each key, as much of it as tells it from the others: ``lr`` for ``optimizer.lr``."""
    labels = {}
    for key in keys:
        parts = re.split(r"[./]", key)
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        others = [re.split(r"[./]", other) for other in keys if other != key]
        labels[key] = next(
            (end for end in ends if not any(".".join(other).endswith(end) for other in others)), ".".join(parts)
        )
    return labels
