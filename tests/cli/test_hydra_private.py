"""This version of Hydra has every undocumented part that is used, and its messages are recognised."""

import ast
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf

import ssl_runner
from ssl_runner.cli import hydra_private
from ssl_runner.cli.hydra_private import Loader

DOCUMENTED = {"hydra.errors", "hydra.types", "hydra.core.hydra_config"}

MINE = {
    "open": "defaults: [optimizer: '???', _self_]",
    "choose": "defaults: [experiment: choose]",
    "experiment/choose": "# @package _global_\ndefaults: [/optimizer: '???']",
    "experiment/second": "# @package _global_\ndefaults: [/optimizer: adam]",
    "experiment/lost": "# @package _global_\ndefaults: [override /optimizer: adm]",
    "experiment/stray": "# @package _global_\ndefaults: [override /optimzer: adam]",
    "number": "5",
    "list": "[1, 2]",
    "header": "# @package [x\nseed: 1",
    "follow": "defaults: [optimizer: adam, second: '${optimizer}', _self_]",
    "second/adam": "lr: 2",
    "second/sgd": "lr: 3",
}


@pytest.fixture
def loader(small_conf, tmp_path):
    """A loader of a small conf folder, and of a folder in which every file is wrong in some way."""
    for name, text in MINE.items():
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Loader(small_conf, tmp_path / "mine")


def complaint(loader: Loader, line: str, name: str = "config") -> Exception:
    """The error that Hydra raises for a command line."""
    with pytest.raises((HydraException, ValueError)) as raised:
        loader.compose(name, line.split(), RunMode.RUN)
    return raised.value


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return whole | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_no_other_module_uses_undocumented_parts_of_hydra():
    root = Path(ssl_runner.__file__).parent
    others = [path for path in root.rglob("*.py") if path != Path(hydra_private.__file__)]
    found = {(path.name, module) for path in others for module in imported(path) - DOCUMENTED}
    assert [one for one in found if one[1].split(".")[0] == "hydra" or one[1].startswith("omegaconf._")] == []
    assert [path for path in others if "HydraConfig.instance" in path.read_text()] == []


MESSAGES = [
    ("seed=1,2", hydra_private.SEVERAL_VALUES, {"seed=1,2"}),
    ("seed=range(1,3)", hydra_private.SEVERAL_VALUES, {"seed=range(1,3)"}),
    ("++optimizer=adam", hydra_private.SELECTED_TWICE, {"++optimizer=adam"}),
    ("sed=3", hydra_private.NO_SUCH_KEY, {"sed"}),
    ("optimizer.lrr=1", hydra_private.NO_SUCH_KEY, {"optimizer.lrr"}),
    ("optimzer=adam", hydra_private.NO_SUCH_KEY, {"optimzer"}),
    ("optimizer@there=adam", hydra_private.NO_SUCH_KEY, {"optimizer@there"}),
    ("~optimzer", hydra_private.NOTHING_TO_DELETE, {"optimzer"}),
    ("~seed=4", hydra_private.NOTHING_TO_DELETE, {"seed"}),
    ("+seed=1", hydra_private.ALREADY_THERE, {"seed"}),
    ("optimizer=5", hydra_private.NO_OPTION, set()),
    ("~optimizer=5", hydra_private.NO_OPTION, set()),
]


@pytest.mark.parametrize(("line", "pattern", "names"), MESSAGES)
def test_a_message_is_recognised_by_its_own_pattern_only_and_names_the_word_at_fault(loader, line, pattern, names):
    text = str(complaint(loader, line))
    patterns = {pattern for _, pattern, _ in MESSAGES} | {hydra_private.LEFT_OPEN, hydra_private.IN_A_FILE}
    assert [one for one in patterns if one.search(text)] == [pattern]
    assert names <= hydra_private.names_in(text)


@pytest.mark.parametrize(
    ("line", "pattern", "group"),
    [
        ("+optimizer=adam", hydra_private.SELECTED_TWICE, "optimizer"),
        ("experiment=second", hydra_private.SELECTED_TWICE, "optimizer"),
        ("+model/encoder=conv", hydra_private.SELECTED_TWICE, "model/encoder"),
        ("++optimizer=adam", hydra_private.SELECTED_TWICE, None),
        ("~eval=knn", hydra_private.NOTHING_TO_DELETE, "eval"),
        ("~optimzer", hydra_private.NOTHING_TO_DELETE, None),
    ],
)
def test_a_message_gives_its_group(loader, line, pattern, group):
    found = pattern.search(str(complaint(loader, line)))
    assert found is not None
    assert hydra_private.group_in(found) == group


@pytest.mark.parametrize("name", ["open", "choose"])
def test_an_option_left_open_is_recognised_in_any_file(loader, name):
    assert hydra_private.LEFT_OPEN.search(str(complaint(loader, "", name)))


def test_a_value_of_the_wrong_type_names_its_override(loader):
    assert "hydra.mode=x" in hydra_private.names_in(str(complaint(loader, "hydra.mode=x")))


def test_a_missing_option_is_named_with_the_existing_ones_and_without_the_search_path(loader):
    error = complaint(loader, "optimizer=adm")
    assert isinstance(error, MissingConfigException)
    assert error.missing_cfg_file == "optimizer/adm"
    assert error.options == ["adam", "sgd"]
    text = hydra_private.without_search_path(str(error))
    assert "optimizer/adm" in text
    assert text != str(error)
    assert "provider=" not in text


@pytest.mark.parametrize("option", ["lost", "stray"])
def test_a_mistake_in_a_file_is_distinguished_from_one_on_the_command_line(loader, option):
    found = hydra_private.IN_A_FILE.search(str(complaint(loader, f"experiment={option}")))
    assert found is not None
    assert found[0] in ("In 'config'", f"In 'experiment/{option}'")


def test_an_override_that_cannot_be_parsed_is_named(loader):
    for parse in (loader.parse, hydra_private.parse):
        with pytest.raises(OverrideParseException) as raised:
            parse(["seed=1", "optimizer.lr=["])
        assert raised.value.override == "optimizer.lr=["


@pytest.mark.parametrize("name", ["number", "list", "header"])
def test_a_file_that_is_not_a_mapping_or_has_a_broken_header_is_a_mistake_and_not_a_failure_of_hydra(loader, name):
    with pytest.raises(ConfigCompositionException):
        loader.compose(name, [], RunMode.RUN)


def test_a_config_comes_with_hydras_node_and_leaves_no_global_state(loader):
    config = loader.compose("config", ["optimizer=adam", "seed=3"], RunMode.RUN)
    assert (config.optimizer.lr, config.seed) == (0.001, 3)
    assert config.hydra.overrides.task == ["optimizer=adam", "seed=3"]
    assert loader.compose("config", ["seed=1,2"], RunMode.MULTIRUN).hydra.sweep.dir
    assert not GlobalHydra.instance().is_initialized()


def test_the_defaults_list_says_what_selects_each_option(loader):
    chosen, single = loader.defaults("config", ["experiment=child"])
    mine = {one.path: (one.package, one.key) for one in chosen if not one.path.startswith("hydra")}
    assert mine["optimizer/adam"] == ("optimizer", "optimizer")
    assert mine["model/encoder/conv"] == ("model.encoder", "model/encoder")
    assert mine["eval/knn"] == ("eval.knn", None)  # one of a list
    assert mine["experiment/child"] == ("", None)  # it has a defaults list of its own
    assert mine["experiment/simclr_mnist"] == ("", None)
    assert {"optimizer", "experiment", "model/encoder"} <= single
    assert "eval" not in single


@pytest.mark.parametrize(("words", "rates"), [([], (0.001, 2)), (["optimizer=sgd"], (0.1, 3))])
def test_a_defaults_list_follows_the_choices_that_it_interpolates(loader, words, rates):
    config = loader.compose("follow", words, RunMode.RUN)
    assert (config.optimizer.lr, config.second.lr) == rates


def test_groups_options_and_files_are_found_in_both_folders(loader):
    assert loader.options("optimizer") == ["adam", "sgd"]
    assert {"child", "second"} <= set(loader.options("experiment"))
    assert loader.group_exists("model")
    assert not loader.group_exists("seed")
    assert loader.content("experiment/child")["defaults"][0] == "simclr_mnist"
    assert "defaults" in loader.content("experiment/second")
    assert loader.content("experiment/nothing") == {}


def test_a_parsed_override_says_what_it_does(loader):
    add, delete, sweep, mine = hydra_private.parse(["+a.b=1", "~c=d", "e=f,g", "hydra.run.dir=here"])
    assert (add.is_add(), add.key_or_group, add.get_key_element(), add.value()) == (True, "a.b", "+a.b", 1)
    assert (delete.is_delete(), delete.key_or_group, delete.input_line) == (True, "c", "~c=d")
    assert (sweep.is_sweep_override(), list(sweep.sweep_string_iterator())) == (True, ["f", "g"])
    assert (mine.is_hydra_override(), sweep.is_hydra_override()) == (True, False)
    assert hydra_private.parse(["optimizer@node=adam"])[0].package == "node"
    assert list(loader.parse(["optimizer=glob(*)"])[0].sweep_string_iterator()) == ["adam", "sgd"]


def test_the_jobs_of_hydras_own_sweeper_are_known(loader):
    assert hydra_private.has_basic_sweeper(loader.compose("config", [], RunMode.MULTIRUN))
    other = OmegaConf.create({"hydra": {"sweeper": {"_target_": "hydra_plugins.other.Sweeper"}}})
    assert not hydra_private.has_basic_sweeper(other)
    jobs = hydra_private.split(loader.parse(["seed=1,2", "optimizer=adam,sgd"]))
    assert jobs[:2] == [["seed=1", "optimizer=adam"], ["seed=1", "optimizer=sgd"]]
    assert len(jobs) == 4


def test_hydras_interpolations_refer_to_the_current_config(loader):
    outer, inner = (loader.compose("config", [f"hydra.job.name={name}"], RunMode.RUN) for name in ("outer", "inner"))
    name = OmegaConf.create({"job": "${hydra:job.name}"})
    with hydra_private.hydra_config(outer):
        with hydra_private.hydra_config(inner):
            assert (name.job, HydraConfig.get().job.name) == ("inner", "inner")
        assert name.job == "outer"


@pytest.mark.parametrize("place", ["command line", "file"])
def test_jobs_have_their_own_folder_and_the_given_name_and_nothing_warns(small_conf, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", "own"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    seen = []

    def job(_):
        mine = HydraConfig.get()
        seen.append(SimpleNamespace(name=mine.job.name, mode=mine.mode, folder=Path(mine.runtime.output_dir)))

    asked = ["optimizer.lr=1,2"] if place == "command line" else ["+sweep=rates"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Loader(small_conf, None)
        hydra_private.register_resolver("test_place", lambda: "here")
        hydra_private.serve(
            job, "some.module", small_conf, "config", ["--multirun", *asked, "hydra.sweep.dir=${test_place:}"]
        )
    assert [one.name for one in seen] == ["module", "module"]
    assert {one.mode for one in seen} == {RunMode.MULTIRUN}
    assert [one.folder for one in seen] == [tmp_path / "here" / "0", tmp_path / "here" / "1"]
    assert sys.argv == ["program", "own"]


@pytest.mark.parametrize("words", [[], ["hydra.mode=RUN"]])
def test_a_run_is_composed_once(words, small_conf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Loader(small_conf, None)  # registers what the config interpolates
    composed, modes, compose = [], [], ConfigLoaderImpl._load_configuration_impl
    monkeypatch.setattr(
        ConfigLoaderImpl,
        "_load_configuration_impl",
        lambda self, *given, **named: composed.append(1) or compose(self, *given, **named),
    )
    hydra_private.serve(
        lambda _: modes.append(HydraConfig.get().mode), "some.module", small_conf, "config", [*words, "optimizer.lr=2"]
    )
    assert (len(composed), modes) == (1, [RunMode.RUN])


def test_an_error_in_a_job_reaches_the_caller(small_conf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def job(_):
        raise ZeroDivisionError("why")

    with pytest.raises(ZeroDivisionError, match="why"):
        hydra_private.serve(job, "some.module", small_conf, "config", ["hydra.run.dir=here"])


def test_a_resolver_gives_one_value_for_each_config():
    values = iter("abc")
    hydra_private.register_resolver("test_letter", lambda: next(values))
    first, second = (OmegaConf.create({"x": "${test_letter:}", "y": "${test_letter:}"}) for _ in range(2))
    assert (first.x, first.y, second.x) == ("a", "a", "b")
