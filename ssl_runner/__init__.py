"""Contrastive self-supervised learning and meta-learning in one runner; only the Hydra config differs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_runner.models.saving import load_encoder
    from ssl_runner.wiring.loading import few_shot_classifier, load_algorithm

__all__ = ["few_shot_classifier", "load_algorithm", "load_encoder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and the command line's help needs none of it
    if name == "load_encoder":
        from ssl_runner.models.saving import load_encoder

        return load_encoder
    if name == "load_algorithm":
        from ssl_runner.wiring.loading import load_algorithm

        return load_algorithm
    if name == "few_shot_classifier":
        from ssl_runner.wiring.loading import few_shot_classifier

        return few_shot_classifier
    raise AttributeError(f"module 'ssl_runner' has no attribute {name!r}")
