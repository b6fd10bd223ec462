"""What masked prediction is combined with, and why the rest is refused, in a sentence each."""

import copy
import functools

import pytest
from small_vits import METHODS, RUN

from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.cli.validate import checked_config
from ssl_runner.config.schema import Config
from ssl_runner.errors import ConfigError
from ssl_runner.wiring import wire

CONF = conf_folder()
IMAGE_LOSS = ["loss@algorithm.image_loss=dino", "batching=two_view", "model/head=dino"]


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "small_vits")


@functools.cache
def composed(*words: str) -> Config:
    return checked_config(Composer(CONF), list(words))[0]


def wired(*words: str):
    return wire.wire(copy.deepcopy(composed(*words)))


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        wired(*words)
    return refused.value.problems


def over(method: str, *words: str) -> list[str]:
    """A method's words and further ones, without the values of options that these replace."""
    replaced = tuple(f"{word.partition('=')[0].replace('/', '.')}." for word in words if "@" not in word)
    return [*(word for word in METHODS[method] if not word.startswith(replaced)), *words]


REFUSED = {
    "a linear predictor and dropped patches": (
        ["mae", "algorithm/predictor=linear"],
        "hidden=dropped, but LinearPredictor reads the tokens at hidden places, which are not computed then; set "
        "algorithm.hidden=replaced, or choose algorithm/predictor=transformer",
    ),
    "blocks of different sizes and dropped patches": (
        ["mae", "masking=block"],
        "hidden=dropped needs as many visible patches in every image; give masking.share=[0.4,0.4] and "
        "masking.probability=1, or set algorithm.hidden=replaced",
    ),
    "prototypes and mse": (
        ["ibot", "loss=mse"],
        "Masked provides patch_scores, which loss MeanSquaredError does not use; choose loss=patch_cross_entropy",
    ),
    "pixels and cross-entropy": (
        ["mae", "loss=patch_cross_entropy"],
        "loss PatchCrossEntropy needs patch_scores, which Masked does not provide; choose algorithm/target=prototypes "
        "algorithm.predictor=null",
    ),
    "a predictor and prototypes": (["ibot", "algorithm/predictor=linear"], "set algorithm.predictor=null"),
    "no predictor and pixels": (
        ["simmim", "algorithm/predictor=none"],
        "predictor=null, but the head gives no Pixels of a patch; choose algorithm/predictor=transformer or linear",
    ),
    "the head and dropped patches": (["ibot", "algorithm.hidden=dropped"], "hidden=dropped, but the head reads"),
    "no masks and nothing else": (
        ["mae", "masking=none"],
        "masking=none leaves nothing to predict; choose masking=random, block or multi_block",
    ),
    "no masks and only a loss of features": (
        ["mae", "masking=none", "loss@algorithm.feature_loss=koleo"],
        "masking=none leaves nothing to predict",
    ),
    "a contrastive loss": (
        ["mae", "loss=nt_xent", "batching=two_view"],
        "Masked provides patches, which loss NTXent does not use; choose loss=mse, smooth_l1 or patch_cross_entropy",
    ),
    "a convolutional encoder": (
        ["mae", "model/encoder=conv4", "model.encoder._target_=ssl_runner.models.conv4.Conv4"],
        "Conv4 has no patches that could be hidden; choose model/encoder=vit_tiny",
    ),
    "a loss between views of one view": (
        ["mae", "loss@algorithm.image_loss=dino", "model/head=dino"],
        "algorithm.image_loss=DINO compares 2 views, but it gets 1; choose batching=two_view",
    ),
    "a loss of pairs between six views": (
        ["mae", "loss@algorithm.image_loss=nt_xent", "batching=multi_crop", "model/head=projector"],
        "algorithm.image_loss=NTXent compares 2 views, but it gets 6; choose batching=two_view",
    ),
    "several masks and a loss between views": (
        ["mae", *IMAGE_LOSS, "masking.masks=2"],
        "masking.masks=2, but a loss between views takes one mask of each; set masking.masks=1 or "
        "algorithm.image_loss=null",
    ),
    "a loss between views that needs a queue": (
        ["mae", "loss@algorithm.image_loss=nnclr", "batching=two_view", "model/head=projector"],
        "algorithm.image_loss=NNCLR needs memory_bank, which it does not get here; choose "
        "loss@algorithm.image_loss=dino",
    ),
    "a loss of patches between views": (
        ["mae", "loss@algorithm.image_loss=mse", "batching=two_view"],
        "algorithm.image_loss=MeanSquaredError needs patches, which it does not get here",
    ),
    "a loss of classes between views": (
        ["mae", "loss@algorithm.image_loss=cross_entropy", "batching=two_view", "model/head=linear"],
        "algorithm.image_loss=CrossEntropy takes scores of classes, which it does not get here",
    ),
    "a loss of features that needs a teacher": (
        ["mae", "loss@algorithm.feature_loss=dino", "batching=two_view"],
        "algorithm.feature_loss=DINO needs target, which it does not get here; choose "
        "loss@algorithm.feature_loss=koleo",
    ),
    "a loss of pairs of features of one view": (
        ["mae", "loss@algorithm.feature_loss=vicreg"],
        "algorithm.feature_loss=VICReg compares 2 views, but it gets 1; choose batching=two_view",
    ),
    "a head without prototypes": (
        ["ibot", "model/head=projector", "model.head.hidden_features=16", "algorithm.freeze_share=0"],
        "the target is scores of prototypes, but Projector has none; choose model/head=dino",
    ),
    "several layers and a loss between views": (
        ["mae", *IMAGE_LOSS, "model.encoder.layers=2"],
        "model.encoder.layers=2, but a loss between views sees the last one; set it to 1",
    ),
    "more of the teacher's blocks than there are": (
        ["ijepa", "algorithm.target.layers=3"],
        "target.layers=3, but the encoder has 2 blocks",
    ),
    "squares that do not divide the image": (["mae", "masking.unit=3"], "masking.unit=3 does not cut 8 x 8 patches"),
    "a context that no target leaves": (
        ["ijepa", "model.encoder.patch_size=4", "masking.target_scale=[0.7,0.8]"],
        "masking leaves fewer than least_context=10 of 16 patches",
    ),
    "views of another size": (
        ["mae", "augmentation=simclr", "augmentation.transforms.crop.size=12"],
        "views have 12 x 12 pixels, but the transformer is built for 16 x 16, whose patches are hidden",
    ),
    "batches in pieces": (
        ["mae", "trainer.accumulate_grad_batches=2"],
        "trainer.accumulate_grad_batches=2, but Masked compares every image",
    ),
    "one process and sharded weights": (["mae", "trainer.shard=true"], "divides the weights among processes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_the_reason_and_a_remedy(case):
    (method, *words), message = REFUSED[case]
    if "model/encoder=conv4" in words:
        kept = [word for word in RUN if not word.startswith("model")]
        found = problems(*kept, *over(method, words[0]))
    else:
        found = problems(*RUN, *over(method, *words))
    assert len(found) == 1, found
    assert message in found[0]


def test_all_that_an_algorithm_with_masks_lacks_is_told_at_once():
    found = problems("experiment=simclr_digits", "algorithm=masked")
    assert [sum(word in problem for problem in found) for word in ("loss NTXent", "Conv4", "masking=none")] == [1, 1, 1]
    assert len(found) == 3


def test_masks_for_a_method_that_predicts_no_patches_are_refused():
    found = problems("experiment=simclr_digits", "masking=random", "trainer.max_epochs=null", "trainer.max_steps=2")
    assert found == ["masking hides patches, but Contrastive predicts none; set masking=none"]


def test_mse_without_masked_prediction_is_refused():
    found = problems("experiment=simclr_digits", "loss=mse")
    assert found == ["loss MeanSquaredError needs patches, which Contrastive does not provide; choose algorithm=masked"]


BETWEEN = {
    "mae beside dino": ["mae", *IMAGE_LOSS],
    "mae beside simclr": ["mae", "loss@algorithm.image_loss=nt_xent", "batching=two_view", "model/head=projector"],
    "mae with labels between views": ["mae", "loss@algorithm.image_loss=supcon", "batching=two_view"],
    "koleo of one view": ["mae", "loss@algorithm.feature_loss=koleo"],
    "vicreg of features of two views": ["mae", "loss@algorithm.feature_loss=vicreg", "batching=multi_crop"],
    "dino alone": ["mae", "masking=none", *IMAGE_LOSS],
    "simmim of frequencies with blocks": ["simmim", "masking=block", "algorithm/target=frequencies"],
    "i-jepa of frequencies": ["ijepa", "algorithm/target=frequencies"],
    "a transformer over replaced patches": ["mae", "algorithm.hidden=replaced"],
    "convolutions over replaced patches": ["data2vec", "algorithm.hidden=replaced"],
    "prototypes of blocks as large as i-jepa's": ["ibot", "masking=multi_block"],
    "features of one block with smooth l1": ["ijepa", "masking=random", "algorithm.target.layers=1"],
}


@pytest.mark.parametrize("case", BETWEEN)
def test_what_lies_between_the_methods_takes_a_step(case):
    method, *words = BETWEEN[case]
    run = wired(*RUN, *over(method, *words))
    _, metrics = run.one_step()
    assert 0 < abs(metrics["loss"]) < 1000
