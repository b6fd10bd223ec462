"""A config is checked against the constructors that it names, reports all problems and builds nothing untrusted."""

import pickle
import sys
from collections.abc import Mapping

import pytest
from omegaconf import OmegaConf

from ssl_runner.config.building import build
from ssl_runner.config.checking import check_config
from ssl_runner.config.hashing import config_difference, config_hash
from ssl_runner.config.signatures import Node, accepts, check_value
from ssl_runner.config.targets import locate
from ssl_runner.errors import ConfigError, DataError
from ssl_runner.runtime.no_download import no_download

PARTS = """
from collections.abc import Sequence
from dataclasses import dataclass
from os import system
from typing import Literal

from ssl_runner.errors import InvalidValue


@dataclass
class Data:
    size: int


class Model:
    made = 0

    def __init__(self, width: int, kind: Literal["plain", "wide"], scales: Sequence[float], depth: int | None = None):
        Model.made += 1
        if width < 1:
            raise InvalidValue(f"width={width}; give at least 1")
        self.width, self.kind, self.scales, self.depth = width, kind, scales, depth


class Pair:
    def __init__(self, first, second: Model | None, data: Data):
        self.first, self.second, self.data = first, second, data


class Optimizer:
    def __init__(self, params, lr: float, betas: tuple[float, float] = (0.9, 0.9), nesterov: bool = False):
        if lr < 0:
            raise InvalidValue(f"Invalid learning rate: {lr}")
        self.params, self.lr, self.betas = params, lr, betas


def anything(**kwargs):
    return kwargs
"""
MODEL = {"_target_": "parts.Model", "width": 3, "kind": "plain", "scales": [0.5, 1]}
OPTIMIZER = {"_target_": "parts.Optimizer", "_partial_": True, "lr": 0.1}


@pytest.fixture(autouse=True)
def parts(tmp_path, monkeypatch):
    (tmp_path / "parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "others:parts, more")
    sys.modules.pop("parts", None)
    import parts

    yield parts
    sys.modules.pop("parts", None)


def problems(config, root_keys=None, **keywords):
    config = OmegaConf.create(config)
    with pytest.raises(ConfigError) as caught:
        check_config(config, root_keys or list(config), **keywords)
    return caught.value.problems


def model(**changes):
    return {"model": MODEL | changes}


def test_a_valid_config_is_returned_plain_and_resolved():
    config = OmegaConf.create({"seed": 3, "model": MODEL | {"depth": "${seed}"}})
    plain = check_config(config, {"seed": int, "model": Node})
    assert plain == {"seed": 3, "model": MODEL | {"depth": 3}}
    assert [type(plain["model"]), type(plain["model"]["scales"])] == [dict, list]


def test_a_misspelled_parameter_is_reported_with_the_nearest_valid_one():
    config = {"optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "weight_decya": 0.1}}
    reported = problems(config)
    assert reported == ["optimizer.weight_decya: SGD() has no such parameter; did you mean 'weight_decay'?"]


def test_all_problems_are_reported_at_once_each_with_its_dotted_key():
    reported = problems(
        {
            "seed": "abc",
            "sead": 1,
            "model": {"encoder": MODEL | {"width": "3", "with": 1}, "missing": "???"},
            "lost": "${nowhere.at_all}",
        },
        {"seed": int, "model.encoder": Node, "model.missing": Node, "lost": str, "absent": Node},
    )
    keys = {problem.partition(":")[0] for problem in reported}
    assert keys == {"seed", "sead", "model.encoder.width", "model.encoder.with", "model.missing", "lost", "absent"}


def test_str_of_the_error_has_a_line_for_each_problem_and_it_survives_pickling():
    error = ConfigError(["a: one", "b: two"])
    assert str(error) == "a: one\nb: two"
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"width": 2.0}, "model.width: got 2.0 (float), expected int; write 2"),
        ({"width": True}, "model.width: got True (bool), expected int"),
        ({"width": "3"}, "model.width: got '3' (str), expected int; write it without quotes"),
        ({"width": None}, "model.width: got None (null), expected int"),
        ({"depth": "None"}, "model.depth: got the string 'None'; null is null in YAML: model.depth=null"),
        ({"width": "None"}, "model.width: got the string 'None'; expected int"),
        ({"kind": "plian"}, "model.kind: got 'plian' (str), expected 'plain' or 'wide'; did you mean 'plain'?"),
        ({"scales": [1, "a"]}, "model.scales: got [1, 'a'] (list), expected Sequence[float]"),
        ({"scales": "ab"}, "model.scales: got 'ab' (str), expected Sequence[float]"),
    ],
)
def test_a_value_of_the_wrong_type_is_reported_with_a_remedy(change, reported):
    assert problems(model(**change)) == [reported]


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (float, [1, 0.5], [True, "1", None]),
        (bool, [True], [1, "true"]),
        (str, ["a"], [1, None, ["a"]]),
        (int | None, [1, None], [0.5, "1"]),
        (tuple[float, float], [[1, 0.5]], [[1], [1, 2, 3], ["a", 1], 1]),
        (tuple[int, ...], [[], [1, 2, 3]], [[1, 0.5]]),
        (list[list[int]], [[[1], []]], [[1]]),
        (int | list[int], [5, [5, 20]], ["5", 5.0, True, None, [5, 0.5], [5, "a"]]),
        (dict[str, float], [{"a": 1}], [{"a": "b"}, [1]]),
        (object, [1, "a", [1]], []),
        ("a forward reference", [1, "a", None], []),
    ],
)
def test_annotations_are_read_as_python_reads_them(annotation, right, wrong):
    assert [accepts(annotation, value) for value in right] == [True] * len(right)
    assert [accepts(annotation, value) for value in wrong] == [False] * len(wrong)


def test_a_string_is_not_accepted_as_a_number_or_a_tensor():
    torch = pytest.importorskip("torch")
    assert accepts(float | torch.Tensor, 0.1)
    assert not accepts(float | torch.Tensor, "abc")


def test_missing_arguments_are_reported_unless_code_supplies_them():
    reported = problems({"model": {"_target_": "parts.Model", "kind": "plain"}}, supplied={"model": {"scales"}})
    assert reported == ["model.width: Model() needs it; set model.width=..."]
    check_config(OmegaConf.create({"optimizer": OPTIMIZER}), ["optimizer"])  # _partial_: params come later


def test_an_argument_that_code_supplies_is_refused_in_the_config():
    reported = problems(model(), supplied={"mod*": {"width"}})
    assert reported == ["model.width: the runner supplies it to Model(); remove it"]


def test_a_target_with_keyword_arguments_takes_any_key_except_special_ones():
    check_config(OmegaConf.create({"a": {"_target_": "parts.anything", "b": 1}}), ["a"])
    assert problems({"a": {"_target_": "parts.anything", "_recursive_": False}})[0].startswith("a._recursive_: ")


def test_nodes_within_lists_and_mappings_are_checked():
    config = {"steps": [{"_target_": "parts.anything", "inner": MODEL | {"widht": 1}}]}
    assert problems(config) == ["steps[0].inner.widht: Model() has no such parameter; did you mean 'width'?"]


@pytest.mark.parametrize("annotation", [Mapping[str, float], Mapping[str, float] | None])
def test_values_of_a_mapping_are_checked_whether_or_not_it_may_be_null(annotation):
    assert check_value("weights", {"a": 1, "b": 0.5}, annotation) == []
    (problem,) = check_value("weights", {"a": 1, "b": "much"}, annotation)
    assert problem.startswith("weights.b: got 'much' (str), expected ")


def test_an_added_key_is_refused_where_only_nodes_are_allowed():
    reported = problems({"eval": {"knn": MODEL, "foo": 1}}, {"eval.*": Node | None})
    assert reported == ["eval.foo: got 1 (int), expected a node with a _target_ or null"]
    reported = problems({"model": {"encoder": MODEL, "encodre": MODEL}}, {"model.encoder": Node})
    assert reported == ["model.encodre: there is no such key; did you mean 'model.encoder'?"]


def test_a_group_without_any_selected_option_is_an_empty_mapping():
    assert check_config(OmegaConf.create({}), {"eval.*": Node | None}) == {"eval": {}}


def test_an_interpolation_of_a_whole_node_is_refused_because_it_would_be_built_twice():
    reported = problems({"model": MODEL, "again": "${model}"})
    assert reported == ["again: it points at a node with a _target_, which would be built a second time; copy its keys"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "torch.nn.functional.torch.load",
        "torch.nn.modules.os.system",
        "torch.nn.modules.module.functools.partial",
        "ssl_runner.config.importlib.import_module",
        "ssl_runner.cli.hydra_app.os.system",
        "ssl_runner.runs.provenance.subprocess.run",
        "ssl_runner.runs.provenance._git",  # private: it runs whatever arguments it is given
        "torch.nn.Linear.__init__.__globals__",
        "torch.nn.functional",
        "parts.system",
        "timm.models.load_checkpoint",
        "torch..nn",
        "",
        "builtins.eval",
    ],
)
def test_a_config_from_a_stranger_cannot_reach_untrusted_code(target):
    with pytest.raises(ValueError, match=r"_target_|not trusted|not a class|does not exist"):
        locate(target)
    assert any("_target_" in reported for reported in problems({"model": {"_target_": target}}))
    with pytest.raises(ConfigError):
        build({"_target_": target}, "model")


@pytest.mark.parametrize(
    "target",
    ["torch.nn.Linear", "torch.optim.AdamW", "parts.Model", "ssl_runner.config.schema.check"],
)
def test_trusted_targets_can_be_named(target):
    assert locate(target).__name__ == target.rpartition(".")[2]


def test_the_environment_variable_trusts_whole_package_names_only(monkeypatch, tmp_path):
    (tmp_path / "parts_evil.py").write_text("def f(): pass")
    with pytest.raises(ValueError, match="not trusted"):
        locate("parts_evil.f")
    monkeypatch.delenv("SSL_RUNNER_TRUSTED")
    with pytest.raises(ValueError, match="SSL_RUNNER_TRUSTED=PACKAGE"):
        locate("parts.Model")


def test_a_target_that_does_not_exist_is_reported_with_the_nearest_name():
    reported = problems({"optimizer": {"_target_": "parts.Optimzer"}})
    assert reported == ["optimizer._target_: parts.Optimzer does not exist; did you mean 'Optimizer'?"]


def test_build_returns_objects_with_plain_values(parts):
    data = parts.Data(3)
    built = build({"_target_": "parts.Pair", "first": [1, {"a": MODEL}], "second": MODEL}, "pair", data=data)
    assert [type(built.second), type(built.first[1]["a"])] == [parts.Model, parts.Model]
    assert [type(built.first), type(built.second.scales)] == [list, list]  # not ListConfig
    assert built.data is data  # handed over, not copied or taken for a config
    assert build(None) is None


def test_a_partial_node_is_a_factory(parts):
    factory = build(OPTIMIZER | {"betas": [0.5, 0.9]}, "optimizer")
    assert factory([1, 2]).params == [1, 2]
    assert factory([1], lr=3).lr == 3


def test_a_value_that_a_constructor_refuses_is_reported_with_its_node():
    with pytest.raises(ConfigError) as caught:
        build({"_target_": "parts.anything", "list": [MODEL | {"width": 0}]}, "model")
    assert caught.value.problems == ["model.list[0]: width=0; give at least 1"]
    with pytest.raises(ConfigError, match="optimizer: Invalid learning rate: -1"):
        build(OPTIMIZER | {"lr": -1}, "optimizer")([])


@pytest.mark.parametrize("path", ["dataset", "dataset.datasets.mnist", "eval.few_shot.dataset"])
def test_a_dataset_reports_its_keys_with_their_path_in_the_config(path, tmp_path):
    node = {"_target_": "ssl_runner.data.sources.mnist.mnist", "root": str(tmp_path / "dataset.old"), "split": "images"}
    node |= {"validation": 0, "class_counts": None, "split_seed": 0, "size": -3, "channels": None}
    with no_download(), pytest.raises(DataError, match=rf"^{path}\.size=-3: expected a number of pixels"):
        build(node, path)
    (tmp_path / "dataset.old").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=rf"looked for {tmp_path}/dataset\.old/MNIST.*\(or {path}\.root=FOLDER\)"):
        build(node | {"size": None}, path)


def test_nothing_is_built_when_any_target_is_untrusted(parts):
    with pytest.raises(ConfigError, match=r"x\.b\._target_"):
        build({"_target_": "parts.anything", "a": MODEL, "b": {"_target_": "os.system"}}, "x")
    assert parts.Model.made == 0


RUN = {
    "seed": 0,
    "name": "a",
    "resume": None,
    "dataset": {"_target_": "d", "root": "/here", "size": 28},
    "optimizer": {"lr": 1.0, "betas": [0.9, 1]},
    "trainer": {"max_steps": 10, "log_every": 5, "checkpoint_every": 5, "progress": True, "keep_pages": True},
    "eval": {"knn": {"k": 20}},
}


def changed(key, value):
    config = OmegaConf.create(RUN)
    OmegaConf.update(config, key, value, force_add=True)
    return OmegaConf.to_container(config)


NESTED_ROOTS = ["dataset.datasets.a.root", "eval.a.dataset.root", "eval.a.dataset.datasets.b.root"]


@pytest.mark.parametrize(
    "key",
    [
        *("resume", "name", "dataset.root", "trainer.log_every", "trainer.checkpoint_every", "trainer.progress"),
        *NESTED_ROOTS,
    ],
)
def test_the_hash_ignores_keys_that_cannot_change_a_result(key):
    assert config_hash(changed(key, "other")) == config_hash(RUN)
    assert config_difference(RUN, changed(key, "other")) == []


@pytest.mark.parametrize("key", ["seed", "optimizer.lr", "trainer.max_steps", "eval.knn.k", "dataset.size", "new"])
def test_the_hash_and_the_difference_include_all_other_keys(key):
    assert config_hash(changed(key, 7)) != config_hash(RUN)
    assert [line.partition(":")[0] for line in config_difference(RUN, changed(key, 7))] == [key]


@pytest.mark.parametrize("key", ["masking", "scheduler.final_weight_decay", "dataset.weights"])
def test_a_key_that_earlier_versions_lack_is_in_the_hash_unless_it_is_null(key):
    assert config_hash(changed(key, None)) == config_hash(RUN)
    assert config_difference(RUN, changed(key, None)) == []
    assert config_hash(changed(key, 0.4)) != config_hash(RUN)


@pytest.mark.parametrize("place", ["", "dataset.", "datasets.tiny."])
def test_a_class_split_of_tiny_imagenet_that_is_not_read_or_is_that_of_earlier_versions_is_no_part_of_the_hash(place):
    target = "ssl_runner.data.sources.tiny_imagenet.tiny_imagenet"
    old = changed(f"dataset.{place}_target_", target)

    def hashed(split, **keys):
        config = OmegaConf.create(old)
        for key, value in {"split": split, **keys}.items():
            OmegaConf.update(config, f"dataset.{place}{key}", value, force_add=True)
        return config_hash(OmegaConf.to_container(config))

    assert hashed("images") == hashed("images", class_split="fixed", without=None)
    assert hashed("classes") == hashed("classes", class_split="random", without=None)
    assert hashed("classes") != hashed("classes", class_split="fixed")
    assert hashed("images") != hashed("images", without="cifar10")
    omniglot = changed("dataset._target_", "ssl_runner.data.sources.omniglot.omniglot")
    assert config_hash(omniglot) != config_hash(omniglot | {"dataset": omniglot["dataset"] | {"class_split": "random"}})


@pytest.mark.parametrize("key", ["dataset.decoder", "dataset.dataset.decoder", "eval.a.dataset.decoder"])
def test_the_decoder_of_images_is_in_the_hash_unless_it_is_the_one_of_earlier_versions(key):
    assert config_hash(changed(key, "pillow")) == config_hash(RUN)
    assert config_hash(changed(key, "nvjpeg")) != config_hash(RUN)


def test_the_difference_shows_both_values():
    assert config_difference(RUN, changed("optimizer.lr", 0.2)) == ["optimizer.lr: 1 -> 0.2"]
    assert config_difference(changed("a.b", 1), RUN) == ["a.b: 1 -> (absent)"]


def test_the_hash_does_not_depend_on_order_or_on_how_a_number_is_written():
    other = {key: RUN[key] for key in reversed(RUN)} | {"optimizer": {"betas": [0.9, 1.0], "lr": 1}}
    assert config_hash(other) == config_hash(RUN)
    assert len(config_hash(RUN)) == 16


def test_a_protonet_has_the_hash_that_it_had_before_it_had_a_temperature():
    before = {"algorithm": {"_target_": "ssl_runner.algorithms.protonet.ProtoNet"}}
    now, sharp = ({"algorithm": {**before["algorithm"], "temperature": value}} for value in (1.0, 2.0))
    assert config_hash(now) == config_hash(before) != config_hash(sharp)
    other = {"algorithm": {"_target_": "ssl_runner.algorithms.matchingnet.MatchingNet"}}
    assert config_hash(other) != config_hash({"algorithm": {**other["algorithm"], "temperature": 1.0}})
