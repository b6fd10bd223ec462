"""The jobs of a sweep: which words each of them gets."""

import pytest
from omegaconf import OmegaConf

from ssl_runner.cli.compose import Composer
from ssl_runner.cli.jobs import for_jobs, jobs
from ssl_runner.cli.search_path import conf_folder

CONF = conf_folder()


@pytest.mark.parametrize(
    ("words", "key", "found"),
    [
        (
            ["experiment=mae_fashion_mnist,ibot_fashion_mnist", "dataset.root=/else where"],
            "dataset.root",
            "/else where",
        ),
        (["sweep=masked", "seed=0", "dataset.root=/elsewhere"], "dataset.root", "/elsewhere"),
        (
            [
                "experiment=mae_fashion_mnist,simmim_fashion_mnist",
                "algorithm/target=frequencies",
                "algorithm.target.share=1",
            ],
            "algorithm.target.share",
            1,
        ),
        (["dataset=omniglot,fashion_mnist", "dataset.root=[a,b]"], "dataset.root", ["a", "b"]),
        (["algorithm=maml,anil", "algorithm.inner_steps=3", "loss.temperature=0.3"], "algorithm.inner_steps", 3),
    ],
)
def test_a_value_may_belong_to_options_that_only_the_jobs_choose(words, key, found):
    composer = Composer(CONF)
    settled = for_jobs(composer, words, True)
    each = [OmegaConf.to_container(composer.compose(job)) for job in jobs(composer, settled, True)]
    assert len(each) > 1
    for config in each:
        for part in key.split("."):
            config = config[part]
        assert config == found
    assert f"{key}=choice" in [word.partition("(")[0] for word in settled if word not in words]


@pytest.mark.parametrize(
    "words",
    [
        ["loss.temperature=0.1,0.2", "loss.temprature=0.3"],  # no option differs between jobs
        ["experiment=mae_fashion_mnist,ibot_fashion_mnist", "trainer.max_steps=3"],  # every config has the key
        ["experiment=mae_fashion_mnist,ibot_fashion_mnist", "+dataset.more=3"],
        ["experiment=mae_fashion_mnist,nothing", "dataset.root="],
        ["experiment=mae_fashion_mnist,ibot_fashion_mnist", "dataset.root=null"],  # Hydra has no choice of null
    ],
)
def test_other_words_of_a_sweep_stay_as_they_are(words):
    assert for_jobs(Composer(CONF), words, True) == words


def test_a_run_is_left_as_it_is():
    words = ["experiment=mae_fashion_mnist", "dataset.rot=/elsewhere"]
    assert for_jobs(Composer(CONF), words, False) == words
