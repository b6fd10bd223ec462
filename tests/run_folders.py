"""Small configs of several kinds, and comparisons of two run folders."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder

SMALL = [
    "dataset=digits",
    "dataset.size=16",
    "model.encoder.width=8",
    "trainer.max_epochs=null",
    "trainer.max_steps=6",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "trainer.diagnostics_every=2",
    "trainer.progress=false",
    "trainer.device=cpu",
    "trainer.threads=1",
    "scheduler.warmup_steps=2",
    "eval=[few_shot]",
    "eval.few_shot.episodes=10",
    "baselines=[untrained]",
]
VIEWS = [*SMALL, "batching.batch_size=32", "model.head.hidden_features=16", "model.head.out_features=8"]
CONTRASTIVE = [*VIEWS, "trainer.evaluate_every=3", "trainer.select=few_shot/5w1s/top1"]
EPISODES = [
    *SMALL,
    "dataset.split=classes",
    "batching=episodes_5w1s",
    "batching.tasks_per_batch=2",
    "batching.n_query=2",
    "loss=cross_entropy",
]
# a job of a sweep, which is done in a second
TINY = [
    "model.encoder.width=4",
    "batching.batch_size=32",
    "trainer.max_epochs=null",
    "trainer.max_steps=6",
    "trainer.checkpoint_every=2",
    "trainer.progress=false",
    "eval=[knn]",
    "baselines=[]",
]
MAML = [*EPISODES, "algorithm=maml", "model/head=linear"]
PROTONET = [*EPISODES, "algorithm=protonet", "model/head=identity"]
PAIRWISE = [*VIEWS, "batching=labelled", "loss=pairwise"]


def settled(overrides: list[str]) -> dict[str, Any]:
    """The config of a command line."""
    return validate.checked_config(Composer(conf_folder()), overrides)[0]


def momentum_queue() -> dict[str, Any]:
    """A run with a momentum teacher and a queue; needs SSL_RUNNER_TRUSTED=doubles."""
    config = settled(VIEWS)
    config["algorithm"] = {"_target_": "doubles.MomentumQueue", "momentum": 0.9, "size": 80}
    return config | {"loss": {"_target_": "doubles.QueueLoss"}}


def checkpoint(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def rows(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without durations; an incomplete line is an error."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{tag: value for tag, value in row.items() if not tag.startswith("time/")} for row in read]


def points(folder: Path) -> dict[str, list]:
    """Everything that TensorBoard finds in a run folder, by tag, without durations."""
    everything = {"scalars": 0, "images": 0, "tensors": 0}
    found = EventAccumulator(str(folder), size_guidance=everything)
    found.Reload()
    tags = found.Tags()
    points = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags["scalars"]}
    points |= {tag: [(event.step, event.encoded_image_string) for event in found.Images(tag)] for tag in tags["images"]}
    points |= {tag: [(event.step, None) for event in found.Tensors(tag)] for tag in tags["tensors"]}
    return {tag: values for tag, values in points.items() if not tag.startswith("time/")}


def assert_as_unbroken(folder: Path, whole: Path) -> None:
    """Assert that an interrupted run left exactly the same files as an uninterrupted one."""
    state, expected = checkpoint(folder), checkpoint(whole)
    for key in ("step", "best"):
        assert state[key] == expected[key]
    assert_equal(state["algorithm"], expected["algorithm"], "algorithm")
    assert_equal(state["optimizer"], expected["optimizer"], "optimizer")
    encoder = "encoder.safetensors"
    assert_equal(load_file(folder / encoder), load_file(whole / encoder), encoder)

    assert rows(folder) == rows(whole)
    assert [row["step"] for row in rows(folder)] == list(range(7))
    result, other = (json.loads((path / "result.json").read_text()) for path in (folder, whole))
    for key in ("status", "metrics", "selected_checkpoint", "steps"):
        assert result[key] == other[key]
    assert result["status"] == "finished"

    seen, expected = points(folder), points(whole)
    assert {"train/loss", "train/diagnostics/rankme", "eval/few_shot/5w1s/top1", "config"} <= seen.keys()
    assert seen == expected
    stored = [event for path in folder.glob("events*") for event in EventFileLoader(str(path)).Load()]
    places = [(value.tag, event.step) for event in stored for value in event.summary.value]
    assert len(places) == len(set(places))  # in the files, too: TensorBoard's readers differ in what they purge
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names <= {"last.pt", "previous.pt", "best.pt", "damaged.pt"}  # nothing half-written stays


def assert_equal(value: Any, expected: Any, where: str) -> None:
    """Assert bitwise equality, at any depth."""
    if isinstance(expected, torch.Tensor):
        assert value.dtype == expected.dtype and torch.equal(value, expected), where
    elif isinstance(expected, dict):
        assert value.keys() == expected.keys(), where
        for key, item in expected.items():
            assert_equal(value[key], item, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(value) == len(expected), where
        for number, item in enumerate(expected):
            assert_equal(value[number], item, f"{where}/{number}")
    else:
        assert value == expected, where
