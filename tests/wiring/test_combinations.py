"""Every loss with every arrangement of views: it learns, or is refused with the reason before anything is made."""

from pathlib import Path

import pytest

from ssl_runner.cli.compose import Composer, settle
from ssl_runner.config.schema import check
from ssl_runner.errors import ConfigError
from ssl_runner.training.run import Run
from ssl_runner.wiring import wire

CONF = Path(__file__).parents[2] / "conf"

ARRANGEMENTS = {
    "contrastive": ["algorithm=contrastive"],
    "predictive": ["algorithm=predictive"],
    "predictive, queue": ["algorithm=predictive", "algorithm.queue_size=64"],
    "momentum": ["algorithm=momentum"],
    "momentum, queue": ["algorithm=momentum", "algorithm.queue_size=64"],
    "prototypes": ["algorithm=prototypes", "algorithm.prototypes=20"],
    "prototypes, queue": ["algorithm=prototypes", "algorithm.prototypes=20", "algorithm.queue_size=64"],
    "supervised": ["algorithm=supervised", "batching=labelled", "model/head=linear"],
}
PAIRS = {"contrastive"}
BRANCHES = {"predictive", "momentum"}
WITH_QUEUE = {"predictive, queue", "momentum, queue"}

# loss: the arrangements that it learns in, and whether it takes more than two views
FITS: dict[str, tuple[set[str], bool]] = {
    "nt_xent": (PAIRS, False),
    "debiased": (PAIRS, False),
    "hard_negative": (PAIRS, False),
    "ring": (PAIRS, False),
    "dcl": (PAIRS, False),
    "dclw": (PAIRS, False),
    "supcon": (PAIRS, True),
    "triplet": (PAIRS, True),
    "pairwise": (PAIRS, True),
    "multi_similarity": (PAIRS, True),
    "barlow_twins": (PAIRS, False),
    "vicreg": (PAIRS, False),
    "w_mse": (PAIRS, False),
    "sigreg": (PAIRS, True),
    "alignment_uniformity": (PAIRS, True),
    "info_nce": (BRANCHES | WITH_QUEUE, True),
    "negative_cosine": (BRANCHES, True),
    "dino": (BRANCHES, True),
    "nnclr": (WITH_QUEUE, True),
    "mochi": (WITH_QUEUE, True),
    "psco": (WITH_QUEUE, True),
    "swav": ({"prototypes", "prototypes, queue"}, True),
    "cross_entropy": ({"supervised"}, False),
    "relation_mse": ({"supervised"}, False),
}
OF_LOGITS = {"cross_entropy", "relation_mse"}

SMALL = [
    "model.encoder.width=4",
    "dataset=digits",
    "dataset.size=16",
    "batching.batch_size=32",
    "eval=[]",
    "baselines=[]",
    "trainer.max_epochs=null",
    "trainer.max_steps=2",
    "trainer.precision=float32",
]
HEAD = ["model.head.hidden_features=16", "model.head.out_features=12"]


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(CONF)


def wired(composer: Composer, loss: str, arrangement: str, *more: str) -> Run:
    overrides = ["experiment=simclr_digits", f"loss={loss}", *ARRANGEMENTS[arrangement], *more, *SMALL]
    if loss == "w_mse":
        overrides.append("loss.size=16")
    if arrangement != "supervised":
        overrides += HEAD
    config, _ = settle(composer, overrides)
    return wire.wire(check(config))


def learns(run: Run) -> bool:
    """Whether a step moves the encoder, with a loss that is a number."""
    before = [parameter.detach().clone() for parameter in run.algorithm.network.encoder.parameters()]
    _, metrics = run.one_step()
    assert abs(metrics["loss"]) < 1e6
    pairs = zip(before, run.algorithm.network.encoder.parameters(), strict=True)
    return any(not old.equal(new) for old, new in pairs)


def test_the_table_has_every_loss():
    assert set(FITS) == {path.stem for path in (CONF / "loss").glob("*.yaml")}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("loss", FITS)
def test_a_loss_learns_in_its_arrangements_and_is_refused_in_all_others(composer, loss, arrangement):
    if arrangement in FITS[loss][0]:
        assert learns(wired(composer, loss, arrangement))
        return
    with pytest.raises(ConfigError, match=r"choose|set ") as refused:
        wired(composer, loss, arrangement)
    assert all("loss" in problem or "the head" in problem for problem in refused.value.problems)


@pytest.mark.parametrize("loss", sorted(FITS.keys() - OF_LOGITS))
def test_small_crops_are_taken_by_a_loss_of_many_views_and_refused_by_one_of_two(composer, loss):
    arrangements, many = FITS[loss]
    arrangement = sorted(arrangements)[0]
    if many:
        assert learns(wired(composer, loss, arrangement, "batching=multi_crop"))
        return
    with pytest.raises(ConfigError, match=r"compares 2 views, but batching makes 6; choose batching=two_view"):
        wired(composer, loss, arrangement, "batching=multi_crop")
