"""TensorBoard's text and layout: the config, and a page with the most important curves."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.types_pb2 import DT_STRING  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard.writer import SummaryWriter

CHARTS = {
    "Is it learning?": {
        "alignment: distance of an image's views": "train/diagnostics/alignment",
        "uniformity: lower is more spread": "train/diagnostics/uniformity",
        "RankMe: dimensions in use": "train/diagnostics/rankme",
        "standard deviation of embeddings": "train/diagnostics/embedding_std",
        "standard deviation of features": "train/diagnostics/feature_std",
        "LiDAR: dimensions that tell images apart": "train/diagnostics/lidar",
        "standard deviation of the student's embeddings": "train/diagnostics/student_std",
        "standard deviation of the teacher's embeddings": "train/diagnostics/teacher_std",
        "online kNN": "train/diagnostics/online_knn",
    },
    "Hard negatives": {
        "effective number of negatives": "train/diagnostics/effective_negatives",
        "similarity of the hardest negative": "train/diagnostics/hardest_negative_similarity",
        "similarity of the positive": "train/diagnostics/positive_similarity",
        "negatives more similar than the positive": "train/diagnostics/negatives_above_positive",
        "false negatives: share of the weight": "train/diagnostics/false_negative_rate",
        "false negatives among all images": "train/diagnostics/false_negative_base_rate",
    },
    "Adaptation": {"accuracy after inner steps, by shot": "inner_steps/"},
    "Loss": {"loss": "train/loss", "training accuracy of each dataset": "train/accuracy/"},
    "Optimisation": {"learning rate": "train/lr", "norm of the gradient": "train/gradient_norm"},
    "Speed": {"images a second": "time/images_per_second", "share of time waiting for data": "time/data_share"},
}


def log_config(writer: SummaryWriter, config: Mapping[str, Any]) -> None:
    """Log the resolved config as a block of YAML, with tag ``config`` and step 0.

    Call it once, in a new run; a resumed run keeps the text that is already there.

    Args:
        writer: The writer of the run's folder.
        config: Plain values.
    """
    text = f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)}```"
    # torch's add_text would change the tag to config/text_summary
    value = Summary.Value(
        tag="config",
        metadata=create_summary_metadata("config", ""),
        tensor=make_tensor_proto(text.encode(), dtype=DT_STRING),
    )
    writer._get_file_writer().add_summary(Summary(value=[value]), 0)


def log_layout(writer: SummaryWriter, tags: Iterable[str]) -> None:
    """Log the page "Custom Scalars", with the charts of CHARTS that this run will have, at step 0; once, in a new run.

    Each chart has one tag. TensorBoard merges the layouts of all runs and drops only identical charts, so this shows
    every chart once and never mixes units on one axis. A tag that ends with a slash stands for all tags below it, which
    have the same unit; the chart is then identical whatever the settings of a run.

    Args:
        writer: The writer of the run's folder.
        tags: All scalar tags that the run will write.
    """
    written = list(tags)
    charts = {
        category: {title: ["Multiline", [_pattern(tag)]] for title, tag in titles.items() if _among(written, tag)}
        for category, titles in CHARTS.items()
    }
    writer.add_custom_scalars({category: titles for category, titles in charts.items() if titles})


def _pattern(tag: str) -> str:
    """The pattern for a tag; TensorBoard reads it as a regular expression that must match the beginning."""
    return tag if tag.endswith("/") else f"{tag}$"


def _among(written: list[str], tag: str) -> bool:
    return any(name == tag or (tag.endswith("/") and name.startswith(tag)) for name in written)
