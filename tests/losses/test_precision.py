"""Every loss in half precision."""

import pytest
import torch

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.building import build
from ssl_runner.losses.loss import Embeddings, Patches
from ssl_runner.runtime.step_context import StepContext

CONF = conf_folder()
NAMES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_autocast_does_not_reach_into_a_loss(name):
    node = validate.checked_config(Composer(CONF), [f"loss={name}"])[0]["loss"]
    if name == "w_mse":
        node["size"] = 32
    generator = torch.Generator().manual_seed(0)
    online, target, memory_bank = (torch.randn(n, 64, 16, generator=generator) for n in (2, 2, 1))
    views = 1 if name in ("cross_entropy", "relation_mse") else 2
    patches = Patches(online.transpose(0, 1), target.transpose(0, 1), torch.full((64, 2), 0.5))
    labels = torch.arange(64) % 8
    given = Embeddings(online[:views], target, memory_bank[0], labels, labels, patches=patches)
    values = []
    for half in (False, True):
        loss = build(node)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value, metrics = loss(given, StepContext(0, 10, 0, torch.device("cpu")))
        assert value.dtype == torch.float32
        assert not any(metric.requires_grad for metric in metrics.values())
        values.append(value)
    assert torch.equal(*values)
