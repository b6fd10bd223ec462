"""Which keys of a sweep vary, and which of its jobs repeat a setting with another seed."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ssl_runner.config.hashing import flatten
from ssl_runner.sweeps.columns import columns, settings
from ssl_runner.sweeps.manifest import Manifest

NT_XENT = {"_target_": "ssl_runner.losses.nt_xent.NTXent", "temperature": 0.5}
HARD = {"_target_": "ssl_runner.losses.hard_negative.HardNegative", "temperature": 0.5, "beta": 1.0}


def config(seed: int = 0, **values) -> dict:
    return {"loss": NT_XENT, "dataset": {"size": 28, "seed": seed}, "name": "run", "seed": seed} | values


def jobs(overrides: list[list[str]], configs: list[dict]):
    return Manifest.of("", None, overrides, configs, [None] * len(configs)).jobs


def test_columns_are_the_keys_that_vary_and_none_that_follow_from_the_seed():
    made = [
        config(seed, loss=NT_XENT | {"temperature": temperature})
        for temperature, seed in itertools.product((0.1, 0.5), (0, 1))
    ]
    assert columns(made) == ["loss.temperature", "seed"]
    assert columns(made[:2]) == ["seed"]
    assert columns(made[::2]) == ["loss.temperature"]
    assert columns(made[:1]) == columns([]) == []


def test_a_key_of_one_option_is_a_column_only_if_it_varies_by_itself():
    assert columns([config(loss=NT_XENT), config(loss=HARD)]) == ["loss"]
    betas = [config(loss=HARD | {"beta": beta}) for beta in (1.0, 2.0)]
    assert columns([config(loss=NT_XENT), *betas]) == ["loss", "loss.beta"]


def test_what_cannot_change_a_result_is_no_column():
    assert columns([config(name=name, sweep={"again": again}) for name, again in (("a", True), ("b", False))]) == []


@given(st.lists(st.fixed_dictionaries({key: st.integers(0, 1) for key in "abc"}), min_size=1, max_size=6))
def test_columns_equal_those_of_a_loop_over_all_keys(values):
    made = [{"one": {"a": one["a"], "b": one["b"], "same": 1}, "c": one["c"]} for one in values]
    flat = [flatten(one) for one in made]
    assert columns(made) == [key for key in flat[0] if len({one[key] for one in flat}) > 1]


def test_settings_are_the_jobs_that_differ_only_in_their_seed():
    pairs = list(itertools.product((0.1, 0.5), (0, 1, 2)))
    made = [config(seed, loss=NT_XENT | {"temperature": temperature}) for temperature, seed in pairs]
    words = [["experiment=x", f"loss.temperature={temperature}", f"seed={seed}"] for temperature, seed in pairs]
    assert settings(jobs(words, made)) == {"temperature=0.1": [0, 1, 2], "temperature=0.5": [3, 4, 5]}
    assert settings(jobs(words[:3], made[:3])) == {"": [0, 1, 2]}
    assert settings([]) == {}


def test_settings_differ_in_name_even_where_no_word_says_what_differs():
    made = [config(seed, loss=loss) for loss in (NT_XENT, HARD) for seed in (0, 1)]
    assert list(settings(jobs([[f"seed={n}"] for n in range(4)], made)).values()) == [[0, 1], [2, 3]]
