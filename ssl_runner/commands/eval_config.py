"""What an evaluation asks: a run's own dataset and evaluators, or those of the command line, checked as in training."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ssl_runner.cli import home_folder, search_path
from ssl_runner.cli.resume import override_values
from ssl_runner.commands import eval_words
from ssl_runner.commands.eval_words import key_of
from ssl_runner.config.hashing import config_difference
from ssl_runner.config.renamed import current_words
from ssl_runner.config.schema import Config, check
from ssl_runner.config.stored import as_written, read_config
from ssl_runner.errors import ConfigError, InvalidValue
from ssl_runner.runs import encoder_names

NODES = ("dataset", "eval")


@dataclass(frozen=True)
class Row:
    """A dataset that the encoders are asked about.

    Attributes:
        name: Of the row; empty without a suite.
        config: The nodes ``dataset`` and ``eval``.
        trainers: For each encoder, a config with the node ``trainer``.
        fetch: Whether missing data may be downloaded.
    """

    name: str
    config: Config
    trainers: list[Config]
    fetch: bool


def rows(encoders: Sequence[str], overrides: Sequence[str], suite: str | None, config_dir: Path | None) -> list[Row]:
    """What a command line asks.

    Raises:
        ConfigError: With every problem of the words, or because runs have different evaluations of their own.
    """
    if not encoders:
        raise ConfigError(
            ["no encoder is given; write ssl-eval RUN, with a run folder or timm:NAME; see ssl-eval --help"]
        )
    extra = None if config_dir is None else config_dir.expanduser().absolute()
    if extra is not None and not extra.is_dir():
        raise ConfigError([f"--config-dir: {extra} is not a folder; give one that holds files like suite/NAME.yaml"])
    if problems := [problem for word in encoders if (problem := _refused(word)) is not None]:
        raise ConfigError(problems)
    words = current_words(home_folder.with_homes(overrides))[0]
    eval_words.refuse_others(words)
    if suite is None:
        return [_row("", encoders, words, extra, fetch=True)]
    named = [word for word in words if key_of(word) in ("dataset", "experiment")]
    if named:
        raise ConfigError(
            [f"{word} and suite={suite}: a suite has datasets of its own; leave one out" for word in named]
        )
    found = eval_words.rows_of(suite, extra)
    return [_row(name, encoders, eval_words.over(own, words), extra, fetch=False) for name, own in found.items()]


def _refused(encoder: str) -> str | None:
    try:
        encoder_names.parse(encoder)
    except InvalidValue as error:
        return str(error)
    return None


def _row(name: str, encoders: Sequence[str], words: list[str], extra: Path | None, fetch: bool) -> Row:
    runs = {word: Path(word).expanduser() for word in encoders}
    configs = {
        word: _config_of_run(folder, words, extra)
        for word, folder in runs.items()
        if (folder / "config.yaml").is_file()
    }
    if not configs or len(configs) < len(encoders):
        other = next(iter(configs.values())) if configs else None
        without = _config_without_run(
            words, extra, other, next(word for word in [*encoders, ""] if word not in configs)
        )
        configs |= {word: without for word in encoders if word not in configs}
    first = configs[encoders[0]]
    for word in encoders[1:]:
        _refuse_unlike(encoders[0], first, word, configs[word])
    return Row(name, {node: first[node] for node in NODES}, [configs[word] for word in encoders], fetch)


def _refuse_unlike(one: str, first: Config, other: str, second: Config) -> None:
    """Raises ConfigError if two encoders would not be asked the same."""
    asked = [f"eval=[{','.join(name for name, node in config['eval'].items() if node)}]" for config in (first, second)]
    parts = {node for node in NODES if config_difference({node: first[node]}, {node: second[node]})}
    if not parts:
        return
    before, after = ({node: config[node] for node in parts} for config in (first, second))
    changes = config_difference(before, after)
    shown = asked if asked[0] != asked[1] else [change for change in changes if "(absent)" not in change][:3]
    remedy = " ".join("dataset=NAME" if part == "dataset" else "eval=[...]" for part in NODES if part in parts)
    if parts == {"eval"} and asked[0] == asked[1]:  # the same evaluators: a run keeps its values until others are given
        remedy = " ".join(f"{change.partition(':')[0]}=..." for change in changes)
    raise ConfigError(
        [f"{one} and {other} have different evaluations of their own ({'; '.join(shown)}); give for both: {remedy}"]
    )


def _config_without_run(words: list[str], extra: Path | None, other: Config | None, encoder: str) -> Config:
    """The config for an encoder that has none: the words over the options' own values, or that of a run beside it."""
    if other is not None:
        trainer = _composed([word for word in words if word.startswith("trainer.")], extra)["trainer"]
        return other | {"trainer": trainer}
    if not any(key_of(word) in ("dataset", "experiment") for word in words):
        raise ConfigError([f"{encoder} has no dataset of its own; give dataset=NAME, or suite=transfer"])
    return _composed(words, extra)


def _composed(words: Sequence[str], extra: Path | None) -> Config:
    """A checked config of Hydra's, without the values of an experiment that was not asked for."""
    from ssl_runner.cli.validate import checked_config  # Hydra is not needed for a run's own evaluation

    own = [] if any(key_of(word) == "experiment" for word in words) else ["~experiment"]
    return checked_config(_composer(extra), [*own, *words])[0]


@functools.cache
def _composer(extra: Path | None) -> Any:
    from ssl_runner.cli.compose import Composer

    return Composer(search_path.conf_folder(), extra)


def _config_of_run(folder: Path, words: list[str], extra: Path | None) -> Config:
    """The run's config with another dataset or evaluators, if given; an evaluator that it had keeps its values."""
    who = str(folder)
    config: Any = read_config(folder / "config.yaml", who)
    if not words:
        return check(config)
    if chosen := [word for word in words if key_of(word) == "experiment"]:
        raise ConfigError([f"{chosen[0]}: a run has its own dataset and evaluators; give dataset=NAME or eval=[...]"])
    selected = {key_of(word).partition(".")[0].partition("@")[0] for word in words if _selects(word)}
    fresh = [word for word in words if key_of(word).partition(".")[0].partition("@")[0] in selected]
    values = [word for word in words if word not in fresh]
    if fresh:
        composed = _composed(fresh, extra)
        _replace(config, {node: composed[node] for node in NODES if node in selected})
        values += [word for word in fresh if "." in key_of(word) and key_of(word).split(".")[0] == "eval"]
    override_values(config, values, who)
    return check(config)


def _replace(config: DictConfig, nodes: Config) -> None:
    """Put composed nodes in the place of a run's; an evaluator that the run had keeps its values.

    One that had no few-shot classifiers yet, since an older version made the run, gets today's.
    """
    whole: Any = OmegaConf.to_container(config)
    had = whole.get("eval") or {}
    if "eval" in nodes:
        nodes = nodes | {"eval": {name: _kept(had.get(name), node) for name, node in nodes["eval"].items()}}
    with open_dict(config):
        for name, node in as_written(nodes).items():
            config[name] = node


def _kept(had: Config | None, node: Any) -> Any:
    if not had:
        return node
    return {key: node[key] for key in ("classifier", "classifiers") if node and key in node} | had


def _selects(word: str) -> bool:
    """Whether a word selects an option: ``dataset=mnist``, ``dataset@dataset.dataset=mnist``."""
    key = key_of(word)
    return key in NODES or "@" in key
