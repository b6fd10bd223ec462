"""One of two processes, which takes the same step as one process with the whole batch and writes the differences.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python worker.py OUT [CASE ...]
"""

import copy
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from combinations import ARRANGEMENTS, CONF, FITS, SMALL
from small_vits import METHODS, RUN
from torch import Tensor, distributed

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.validate import checked_config
from ssl_runner.config.schema import Config
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.models import predictors
from ssl_runner.models.synchronised import synchronise
from ssl_runner.runtime import collectives, process_group
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.wiring import wire

VIEWS = ["experiment=simclr_digits", *SMALL]
HEAD = ["model.head.hidden_features=16", "model.head.out_features=12"]
TASKS = ["experiment=protonet_digits", "model.encoder.width=4", "eval=[]", "baselines=[]", "batching=episodes_5w1s"]
TASKS += ["batching.tasks_per_batch=4", "batching.n_query=2", "trainer.max_steps=2"]
SGD = ["optimizer=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0"]  # surrogates take no other
RESNET = ["model/encoder=resnet18", "batching.batch_size=4"]


def cases() -> dict[str, list[str]]:
    """Overrides of every loss in each of its arrangements, and of the other methods."""
    found = {}
    for loss, (arrangements, _) in FITS.items():
        for arrangement in sorted(arrangements):
            own = ["loss.size=16"] if loss == "w_mse" else []
            head = [] if arrangement == "supervised" else HEAD
            found[f"{loss}, {arrangement}"] = [*VIEWS, f"loss={loss}", *ARRANGEMENTS[arrangement], *head, *own]
    momentum = [*VIEWS, *HEAD, "algorithm=momentum", "loss=info_nce", "algorithm.queue_size=64"]
    predictor = "{_target_: ssl_runner.models.heads.Projector, _partial_: true, hidden_features: 16, "
    predictor += "out_features: null, layers: 2, last_norm: true}"
    found["pieces of batch normalisation"] = [*momentum, "algorithm.batch_norm_groups=4"]
    found["pieces and a predictor"] = [*found["pieces of batch normalisation"], f"algorithm.predictor={predictor}"]
    for arrangement, loss in {
        "contrastive": "nt_xent",
        "stop_gradient": "negative_cosine",
        "prototypes": "swav",
    }.items():
        chunks = [f"loss={loss}", f"algorithm={arrangement}", "algorithm.encode_chunks=4"]
        found[f"chunks, {arrangement}"] = [*VIEWS, *HEAD, *chunks]
    found["chunks, momentum"] = [*momentum, "algorithm.encode_chunks=4"]
    found["small crops"] = [*VIEWS, *HEAD, "loss=sigreg", "batching=multi_crop"]
    head = [*VIEWS, "algorithm=momentum", "loss=dino", "model/head=dino", "model.head.bottleneck=8"]
    found["dino's head"] = head
    found["dino's head, normalised"] = [*head, "model.head.batch_norm=true"]
    found["protonet"] = TASKS
    pseudo = ["batching=pseudo_episodes" if word == "batching=episodes_5w1s" else word for word in TASKS]
    found["protonet, pseudo-tasks"] = pseudo
    found["matchingnet"] = [*TASKS, "algorithm=matchingnet"]
    found["matchingnet, full context"] = [*TASKS, "algorithm=matchingnet", "algorithm.read_steps=2"]
    found["relationnet"] = [*TASKS, "algorithm=relationnet", "loss=relation_mse", "algorithm.width=4"]
    for method in ("r2d2", "cnp", "attentive_cnp", "in_context_transformer", "caml", "snail", "mann"):
        found[method] = [*TASKS, f"algorithm={method}"]
    found["caml, trained encoder"] = [*found["caml"], "algorithm.freeze_encoder=false"]
    found["feat"] = [*TASKS, "algorithm=feat", "algorithm.dropout=0"]  # whose draws depend on the process
    found["protomaml"] = [*TASKS, "algorithm=protomaml"]
    found["baseline_pp"] = [*VIEWS, "algorithm=baseline_pp", "loss=cross_entropy", "batching=labelled"]
    found["baseline_pp"] += ["model/head=cosine"]
    maml = ["algorithm=maml", "model/head=linear"]
    found["maml"] = [*TASKS, *maml]
    found["maml, first order"] = [*TASKS, *maml, "algorithm.second_order=false", "algorithm.inner_steps=2"]
    for method in ("anil", "boil", "meta_sgd", "maml_pp", "imaml"):
        found[method] = [*TASKS, f"algorithm={method}", "model/head=linear"]
    found["reptile"] = [*TASKS, *SGD, "algorithm=reptile", "model/head=linear", "batching.k_shot=4"]
    for method, words in METHODS.items():
        found[f"masked, {method}"] = [*RUN, *words]
    return found


def double(batch: Views | Episodes) -> Views | Episodes:
    if isinstance(batch, Views):
        return replace(batch, crops=tuple(part.double() for part in batch.crops))
    return replace(batch, support_images=batch.support_images.double(), query_images=batch.query_images.double())


def take(algorithm: Algorithm, batch: Views | Episodes, context: StepContext) -> dict[str, Tensor]:
    """The gradients of a step, and the state after it."""
    step = algorithm.train().training_step(batch, context)
    with collectives.averaged_gradients(algorithm.parameters()):
        step.loss.backward()
    algorithm.after_step(context, {name: collectives.gather(value) for name, value in step.carry.items()})
    gradients = {f"gradient of {name}": value.grad for name, value in algorithm.named_parameters()}
    found = {name: value for name, value in gradients.items() if value is not None}
    found |= {name: value for name, value in algorithm.state_dict().items() if value.is_floating_point()}
    return found | {f"metric {name}": value for name, value in collectives.average(step.metrics).items()}


def apart(config: Config) -> dict[str, float]:
    """Largest difference of gradients, of state and of metrics, each relative to the largest value of its kind.

    Not of its own tensor: a bias before batch normalisation has a gradient of 0 but for rounding. Only process 0 takes
    the whole batch's step and has the result.
    """
    with process_group.single_process():
        run = wire.wire(config)
        whole = double(run.batching.batch(3))
    context = StepContext(1, 2, 0, torch.device("cpu"))
    one = run.algorithm.double()
    two = copy.deepcopy(one)
    for part in two.synchronised():
        synchronise(part)
    expected = {}
    if process_group.rank() == 0:
        with process_group.single_process():
            expected = take(one, whole, context)
    found = take(two, double(run.batching.batch(3)), context)
    if process_group.rank() > 0:
        return {}
    assert expected.keys() == found.keys()
    differences, sizes = {}, {}
    for name, value in expected.items():
        kind = name.partition(" ")[0] if name.startswith(("gradient ", "metric ")) else "state"
        differences[kind] = max(differences.get(kind, 0.0), (value - found[name]).abs().max().item())
        sizes[kind] = max(sizes.get(kind, 0.0), value.abs().max().item())
    return {kind: difference / sizes[kind] if sizes[kind] else difference for kind, difference in differences.items()}


def composed(names: Sequence[str], known: Mapping[str, list[str]]) -> dict[str, Config]:
    """The configs of some cases. The processes share this work, which takes longer than the steps."""
    composer = Composer(CONF)
    mine = {name: checked_config(composer, known[name])[0] for name in names[process_group.rank() :: 2]}
    both: list[Any] = [None, None]
    distributed.all_gather_object(both, mine)
    return both[0] | both[1]


def measure(out: Path, *names: str) -> None:
    """Write the differences of some cases, or of all; each process runs this."""
    process_group.init()
    torch.set_num_threads(1)
    os.environ["SSL_RUNNER_TRUSTED"] = "small_vits"
    vars(predictors)["NOISE"] = 0.0  # which, like dropout, depends on the number of processes
    collectives.MESSAGE = 500  # bytes, so that the gradients of these small networks leave in several messages
    vars(wire)["first_step_bytes"] = lambda *_: None  # a rehearsal of the step on the meta device
    found = {name: apart(config) for name, config in composed(names or [*cases()], cases()).items()}
    if process_group.rank() == 0:
        out.write_text(json.dumps(found, indent=1))
    process_group.shutdown()


if __name__ == "__main__":
    measure(Path(sys.argv[1]), *sys.argv[2:])
