"""Which figures of a result are its main ones: those that an evaluator was asked for, of the trained encoder."""

from collections.abc import Sequence

from ssl_runner.config.schema import BASELINES

VALIDATION = "validation/"  # before the metrics that were computed on validation images
EPISODES = "ci95"  # last part of a key: half the interval over episodes of its metric
CHOICES = (EPISODES, "regularisation", "learning_rate")  # last parts of keys that are no figures of merit


def main_figures(keys: Sequence[str]) -> list[str]:
    """The main keys among those of a result's metrics, in their order.

    Left out are baselines, further ways to compute a figure (``few_shot/5w1s/inductive``), intervals and values that an
    evaluator chose; if nothing else is there, all figures of merit count.
    """
    merits = [key for key in keys if key.rpartition("/")[2] not in CHOICES]
    own = [key for key in merits if key.partition("/")[0] not in BASELINES and not key.startswith(VALIDATION)]
    names = {key.removesuffix("/top1") for key in own if key.endswith("/top1")}
    # few_shot/5w1s/inductive is another way to compute few_shot/5w1s
    main = [
        key
        for key in own
        if key.removesuffix("/top1") in names and key[: -len("/top1")].rpartition("/")[0] not in names
    ]
    return [key for key in main if "/verdict/" not in key] or own or merits


def shown_figures(keys: Sequence[str]) -> list[str]:
    """The keys that TensorBoard shows: the main ones, and the paired differences that a verdict rests on."""
    main = set(main_figures(keys))
    return [key for key in keys if key in main or key.endswith("/difference")]
