"""The recipes at 224 pixels, on generated images: checked as by a dry run, and two real steps."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.report import preflight
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.wiring import wire

CHEAP = [
    "batching.batch_size=2",
    "trainer.max_epochs=null",
    "trainer.max_steps=2",
    "eval.knn.k=2",
    "trainer.device=cpu",
]
TINY = ["model.encoder.size=tiny"]  # instead of ViT-B and ViT-L, whose steps take seconds
RECIPES = {
    "simclr_imagenet": [],
    "moco_v3_imagenet": ["model.head.hidden_features=64"],
    "dino_imagenet": ["model.head.out_features=64", "batching.local_views=2"],
    "mae_imagenet": [*TINY, "algorithm.predictor.depth=1"],
    "simmim_imagenet": TINY,
    "ijepa_imagenet": [*TINY, "algorithm.predictor.depth=1"],
    "data2vec_imagenet": [*TINY, "algorithm.target.layers=2"],
    "ibot_imagenet": [*TINY, "model.head.out_features=64", "batching.local_views=2"],
    "dinov2_imagenet": [*TINY, "model.head.out_features=64", "batching.local_views=2"],
}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root, draws = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("n01", "n02"):
            (root / part / name).mkdir(parents=True)
            for number in range(3):
                small = Image.fromarray(draws.integers(0, 256, (6, 8, 3), dtype=np.uint8))
                small.resize((320, 250)).save(root / part / name / f"{number}.JPEG")
    return root


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_at_224_pixels_take_steps_from_packed_images(name, imagenet):
    words = [f"experiment={name}", f"dataset.root={imagenet}", *CHEAP, *RECIPES[name]]
    run = wire.prepare(validate.checked_config(Composer(conf_folder()), words)[0])
    assert isinstance(run.splits.train.images, StoredImages)
    assert run.splits.validation is None
    assert run.step_bytes is not None
    told = preflight.lines(run, None, 0)
    assert "packed in" in told["notes"]
    before = [weight.detach().clone() for weight in run.algorithm.network.encoder.parameters()]
    run.algorithm.train()
    for step in range(2):
        batch = run.batching.batch(step)
        assert batch.crops[0].shape[1:] == (2, 3, 224, 224)
        context = StepContext(step, 2, run.seed, run.device)
        metrics = run.trainer.step(run.algorithm, batch, run.optimizer, context, measure=True)
        assert metrics["loss"].isfinite()
    after = run.algorithm.network.encoder.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_local_views_of_dino_have_96_pixels(imagenet):
    words = ["experiment=dino_imagenet", f"dataset.root={imagenet}", *CHEAP, "model.head.out_features=64"]
    run = wire.prepare(validate.checked_config(Composer(conf_folder()), words)[0])
    assert [tuple(crops.shape) for crops in run.batching.largest().crops] == [(2, 2, 3, 224, 224), (8, 2, 3, 96, 96)]
