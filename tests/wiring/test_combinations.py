"""Every loss with every arrangement of views learns, or is refused with the reason before anything is created."""

import copy
import functools

import pytest
from combinations import ARRANGEMENTS, CONF, FITS, OF_LOGITS, OF_PATCHES, SMALL

from ssl_runner.cli.compose import Composer
from ssl_runner.cli.validate import checked_config
from ssl_runner.config.schema import Config, check_again
from ssl_runner.errors import ConfigError
from ssl_runner.training.run import Run
from ssl_runner.wiring import wire

HEAD = ["model.head.hidden_features=16", "model.head.out_features=12"]


@functools.cache
def composed(*words: str) -> Config:
    """Composed once for a loss and once for an arrangement: a composition takes longer than wiring."""
    return checked_config(Composer(CONF), ["experiment=simclr_digits", *words, *SMALL])[0]


def wired(loss: str, arrangement: str, *more: str) -> Run:
    head = [] if arrangement == "supervised" else HEAD
    own = ["loss.size=16"] if loss == "w_mse" else []
    config = composed(*ARRANGEMENTS[arrangement], *head, *more)
    return wire.wire(check_again(copy.deepcopy(config | {"loss": composed(f"loss={loss}", *own)["loss"]})))


def learns(run: Run) -> bool:
    """Whether a step changes the encoder; the loss must be finite."""
    before = [parameter.detach().clone() for parameter in run.algorithm.network.encoder.parameters()]
    _, metrics = run.one_step()
    assert abs(metrics["loss"]) < 1e6
    pairs = zip(before, run.algorithm.network.encoder.parameters(), strict=True)
    return any(not old.equal(new) for old, new in pairs)


def test_the_table_has_every_loss():
    assert set(FITS) == {path.stem for path in (CONF / "loss").glob("*.yaml")}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("loss", FITS)
def test_a_loss_learns_in_its_arrangements_and_is_refused_in_all_others(loss, arrangement):
    if arrangement in FITS[loss][0]:
        assert learns(wired(loss, arrangement))
        return
    with pytest.raises(ConfigError, match=r"choose|set ") as refused:
        wired(loss, arrangement)
    assert all("loss" in problem or "the head" in problem for problem in refused.value.problems)


@pytest.mark.parametrize("loss", sorted(FITS.keys() - OF_LOGITS - OF_PATCHES))
def test_small_crops_are_accepted_by_a_loss_of_many_views_and_refused_by_a_loss_of_two(loss):
    arrangements, many = FITS[loss]
    arrangement = sorted(arrangements)[0]
    if many:
        assert learns(wired(loss, arrangement, "batching=multi_crop"))
        return
    with pytest.raises(ConfigError, match=r"compares 2 views, but batching makes 6; choose batching=two_view"):
        wired(loss, arrangement, "batching=multi_crop")


def test_small_crops_that_a_transformer_does_not_take_are_refused_and_the_remedy_works():
    def transformer(*more: str) -> Run:
        words = ["model/encoder=vit_tiny", "loss=sigreg", "batching=multi_crop", "trainer.max_epochs=1", *more]
        return wire.wire(
            checked_config(Composer(CONF), ["experiment=simclr_digits", "batching.batch_size=4", *words])[0]
        )

    with pytest.raises(ConfigError, match="10 x 10") as refused:
        transformer()
    remedy = str(refused.value).rpartition("; set ")[2].strip().split(" and ")
    assert transformer(*remedy).batching.batch(0).crops[1].shape[-2:] == (12, 12)


def test_views_of_another_size_than_the_encoders_are_refused_where_patches_are_hidden():
    words = ["algorithm=masked", "model/encoder=vit_tiny", "model/head=identity", "batching=labelled", "masking=random"]
    words += ["loss=mse", "batching.batch_size=4", "trainer.diagnostics_every=null", "eval=[]"]
    words += ["experiment=simclr_digits", "augmentation.transforms.crop.size=16"]
    config = checked_config(Composer(CONF), words)
    with pytest.raises(ConfigError, match=r"views have 16 x 16 pixels, but the transformer is built for 20 x 20, "):
        wire.wire(config[0])
