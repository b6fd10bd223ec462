"""One of two processes, which trains sharded and unsharded and writes how far apart they end.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python sharded.py OUT [CASE ...]
"""

import copy
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from small_vits import METHODS, RUN
from torch import Tensor
from worker import HEAD, RESNET, TASKS, VIEWS, composed, double

from ssl_runner.config.schema import Config
from ssl_runner.runtime import collectives, process_group
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training import sharding
from ssl_runner.training.run import Run
from ssl_runner.wiring import wire

STEPS = 4
VIT = ["model/encoder=timm", "model.encoder.name=vit_tiny_patch16_224"]
SIZES = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3, "dynamic_img_size": "true"}
VIT += [f"+model.encoder.arguments.{name}={value}" for name, value in SIZES.items()]
PREDICTOR = "{_target_: ssl_runner.models.heads.Projector, _partial_: true, hidden_features: 16, "
PREDICTOR += "out_features: null, layers: 2, last_norm: true}"
DINO = ["algorithm=momentum", "loss=dino", "model/head=dino", "model.head.bottleneck=8", "model.head.out_features=15"]
VIEW = [word for word in VIEWS if "encoder.width" not in word]

CASES = {
    "SimCLR, ResNet and LARS": [*VIEW, *HEAD, *RESNET, "optimizer=lars"],
    "SimCLR, ResNet and SGD": [*VIEW, *HEAD, *RESNET, "optimizer=sgd"],
    "SimCLR in checkpointed chunks": [*VIEWS, *HEAD, "algorithm.encode_chunks=4"],
    "BYOL, ViT, AdamW and clipping": [
        *[*VIEW, *HEAD, *VIT, "algorithm=momentum", "loss=negative_cosine", f"algorithm.predictor={PREDICTOR}"],
        *["optimizer=adamw", "trainer.gradient_clip_norm=0.1"],
    ],
    "DINO, ViT, frozen prototypes and LARS": [
        *[*VIEW, *DINO, *VIT, "algorithm.freeze_share=0.5", "batching=multi_crop", "optimizer=lars"],
    ],
    "MAE, ViT": [*RUN, *METHODS["mae"], "model.encoder.positions=sincos"],
    "DINOv2, ViT, frozen prototypes and AdamW": [
        *RUN,
        *METHODS["dinov2"],
        "algorithm.freeze_share=0.5",
        "optimizer=adamw",
    ],
    "SwAV": [*VIEWS, *HEAD, "loss=swav", "algorithm=prototypes", "algorithm.prototypes=21"],
    "ProtoNet in accumulated pieces": [*TASKS, "trainer.accumulate_grad_batches=2"],
    "RelationNet, which reads maps": [*TASKS, "algorithm=relationnet", "loss=relation_mse", "algorithm.width=4"],
}


@contextmanager
def doubled(yes: bool) -> Iterator[None]:
    """Inside, algorithms are wired in float64 if ``yes``."""
    place = wire.place

    def placed(algorithm: Any, trainer: Any) -> None:
        place(algorithm, trainer)
        algorithm.double()

    vars(wire)["place"] = placed if yes else place
    try:
        yield
    finally:
        vars(wire)["place"] = place


def wired(config: Config, shard: bool, wide: bool) -> Run:
    """In float32 without ``channels_last``, which a sharded weight cannot have: other kernels round otherwise, and
    values near a kink then part.
    """
    config = copy.deepcopy(config)
    config["trainer"] |= {"shard": shard, "channels_last": wide}
    with doubled(wide):
        return wire.wire(config)


def train(run: Run, wide: bool, steps: range) -> list[float]:
    """Take steps as the loop does, and return the norms of their gradients."""
    norms = []
    run.trained.train()
    for step in steps:
        batch = double(run.batching.batch(step)) if wide else run.batching.batch(step)
        context = StepContext(step, STEPS, 0, torch.device("cpu"))
        metrics = run.trainer.step(run.trained, batch, run.optimizer, context, measure=True)
        norms.append(float(metrics["gradient_norm"]))
    return norms


def states(run: Run) -> dict[str, Any]:
    parts = {"algorithm": run.trained, "optimizer": run.optimizer}
    return copy.deepcopy({name: sharding.whole_state(part) for name, part in parts.items()})


def tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    found = {name: value for name, value in state["algorithm"].items() if value.is_floating_point()}
    for number, moments in state["optimizer"]["state"].items():
        found |= {f"{name} of {number}": value for name, value in moments.items() if isinstance(value, Tensor)}
    return found


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of two states, relative to the largest value of its tensor.

    Or to 1e-4, since a gradient may be 0 but for rounding.
    """
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    return max(
        ((value - second[name]).abs().max() / value.abs().max().clamp_min(1e-4)).item()
        for name, value in first.items()
        if value.numel()
    )


def held(run: Run) -> float:
    """The share of all weights, and of the optimizer's moments, that this process holds; the larger of the two."""
    weights = list(run.trained.parameters())
    moments = [value for state in run.optimizer.state.values() for value in state.values() if value.ndim]
    shares = [
        sum(collectives.own_rows(value.detach()).numel() for value in values) / sum(value.numel() for value in values)
        for values in (weights, moments)
        if values
    ]
    return max(shares)


def written(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a checkpoint gives it to all processes."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return process_group.broadcast(torch.load(file, weights_only=True))


def exchanged(config: Config, wide: bool) -> dict[str, bool]:
    """Whether a sharded checkpoint is the same in an unsharded run, and the reverse."""
    found = {}
    for shard in (True, False):
        run = wired(config, shard, wide)
        train(run, wide, range(2))
        before = written(states(run))
        other = wired(config, not shard, wide)
        sharding.load(other.trained, other.optimizer, before)
        after = written(states(other))
        pairs = tensors(before), tensors(after)
        same = pairs[0].keys() == pairs[1].keys() and all(map(torch.equal, *(side.values() for side in pairs)))
        found["sharded to unsharded" if shard else "unsharded to sharded"] = same
    return found


def compared(config: Config, wide: bool) -> dict[str, Any]:
    runs = [wired(config, shard, wide) for shard in (False, True)]
    norms = [train(run, wide, range(STEPS)) for run in runs]
    whole, shards = (states(run) for run in runs)
    share = torch.tensor(held(runs[1]))
    process_group.together(torch.distributed.all_reduce, share, torch.distributed.ReduceOp.MAX)
    found = {"held": float(share), "blocks": len(sharding.blocks(runs[1].trained))}
    if process_group.rank() > 0:
        return found
    found["norm"] = max(abs(a - b) / a for a, b in zip(*norms, strict=True))
    return found | {"state": apart(whole, shards)}


def measure(out: Path, *names: str) -> None:
    """Write the differences of some cases, or of all; each process runs this."""
    process_group.init()
    torch.set_num_threads(1)
    os.environ["SSL_RUNNER_TRUSTED"] = "small_vits"
    vars(wire)["first_step_bytes"] = lambda *_: None
    found = {}
    for name, config in composed(names or [*CASES], CASES).items():
        found[name] = {"double": compared(config, True)} if "SGD" not in name else {}
        if "LARS" not in name:
            found[name]["single"] = compared(config, False)
        if "ViT" in name:
            found[name] |= exchanged(config, False)
    if process_group.rank() == 0:
        out.write_text(json.dumps(found, indent=1))
    process_group.shutdown()


if __name__ == "__main__":
    measure(Path(sys.argv[1]), *sys.argv[2:])
