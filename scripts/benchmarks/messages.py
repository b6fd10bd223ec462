"""Counts what a process puts into messages in a step, by kind, with and without sharding.

    torchrun --nproc-per-node=2 scripts/benchmarks/messages.py experiment=simclr_cifar10 dataset=digits ...

Sizes are those of the whole tensors in a collective operation. A ring all-reduce over p processes sends 2 (p - 1) / p
of them, an all-gather or a reduce-scatter (p - 1) / p.
"""

import argparse
import copy
import json
from collections import Counter
from typing import Any
from unittest import mock

import torch

from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.cli.validate import checked_config
from ssl_runner.config.schema import Config
from ssl_runner.runtime import process_group
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.wiring import wire


def counted(config: Config, shard: bool) -> dict[str, Any]:
    """Messages and bytes of the second step."""
    config = copy.deepcopy(config)
    config["trainer"]["shard"] = shard
    run = wire.wire(config)
    numbers, sizes, begin = Counter[str](), Counter[str](), process_group.begin

    def noted(collective: Any, *arguments: Any) -> Any:
        parts = arguments[0] if isinstance(arguments[0], list) else arguments[:2]
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]
        whole = sum(part.nbytes for part in tensors) if parts is arguments[0] else max(part.nbytes for part in tensors)
        kind = f"{collective.__name__} {tensors[0].dtype}".replace("torch.", "")
        numbers[kind] += 1
        sizes[kind] += whole
        return begin(collective, *arguments)

    run.trained.train()
    for step in range(2):
        context = StepContext(step, 2, 0, run.device)
        with mock.patch.object(process_group, "begin", noted if step else begin):
            run.trainer.step(run.trained, run.batching.batch(step), run.optimizer, context, measure=False)
    weights = sum(weight.numel() for weight in run.trained.parameters() if weight.requires_grad)
    messages = {kind: {"messages": numbers[kind], "bytes": sizes[kind]} for kind in sorted(numbers)}
    return {"shard": shard, "trained_parameters": weights, **messages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of the config, as on the command line")
    short = ["trainer.max_epochs=null", "trainer.max_steps=2", "eval=[]", "baselines=[]"]
    config = checked_config(Composer(conf_folder()), [*parser.parse_args().overrides, *short])[0]
    process_group.init()
    for shard in (False, True):
        found = counted(config, shard)
        if process_group.rank() == 0:
            print(json.dumps(found))
    process_group.shutdown()


if __name__ == "__main__":
    main()
