"""What ``ssl-train --help`` says, read from the conf folder: always true, and quick, for Hydra is not imported."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ssl_runner.cli import options
from ssl_runner.cli.layout import first_sentence, table, wrapped
from ssl_runner.config.schema import BASELINES

_PURPOSE = """\
ssl-train trains an encoder, a network that turns an image into a vector, with few labels or none, and measures what
the vectors are good for. There are three ways to train one:

  contrastive self-supervision  It learns to give two random views of an image similar vectors, and other images others.
                                Labels only score the result. SimCLR, MoCo, BYOL, DINO and more.
  masked prediction             It learns to predict hidden parts of an image, their pixels or what a teacher makes of
                                them. MAE, SimMIM, I-JEPA, data2vec, iBOT, DINOv2.
  meta-learning                 It learns from many small tasks, each with new classes and a few labelled images of
                                each, so that the next task needs only as few. MAML, ProtoNet, SNAIL and more.

Begin with:
  ssl-train                                         SimCLR on small digits: no download, about a minute on a CPU
  ssl-train experiment=simclr_mnist                 another recipe, of those below; downloads what is missing
  ssl-train experiment=simclr_mnist dry_run=true    what it would do and how long that would take
  ssl-train dataset=image_folder dataset.root=PATH dataset.size=64 augmentation=simclr        your own images
  tensorboard --logdir outputs                      curves, images and features of your runs

A run ends with a table of test accuracies in percent: of the trained encoder, the untrained one, and raw pixels.
  kNN           an image gets the class that its nearest labelled neighbours vote for
  linear probe  a linear classifier on the frozen vectors
  5w1s          five classes ("ways") with one labelled image ("shot") of each, the mean over many such tasks

Usage: ssl-train [experiment=NAME] [group=option ...] [key=value ...] [-m]
A run is an experiment (a complete recipe) or a choice of one option per group. Any value can be set on the command
line, and all are checked before anything starts.
"""

_ROOT = {
    "name": "folder of the run's kind under outputs/",
    "seed": "of every draw",
    "baselines": f"what the encoder is compared with: {', '.join(sorted(BASELINES))}",
    "init": "what the encoder begins from: folder of a run, file, timm:NAME; init.freeze=true keeps it",
    "dry_run": "whether to stop after saying what would be done, and one step of it",
    "reproduce": "folder of a run to run again and compare with",
    "resume": "folder of a run to go on with; auto: whatever is in hydra.run.dir",
}

_WIDEST = 55  # of names in braces

_FLAGS = """\
Flags:
  -m, --multirun    run once for each combination of values: loss.temperature=0.1,0.2 seed=0,1,2
  --cfg job         show the composed config and stop
  --help GROUP      the options of a group: ssl-train --help loss
  --help GROUP=NAME an option, with each of its keys explained: ssl-train --help loss=hard_negative
  --version         show the version
  -sc install=bash  completion for the shell: eval "$(ssl-train -sc install=bash)"; also zsh, fish
  --hydra-help      Hydra's other flags (--info, --config-dir, ...)

Runs go to outputs/NAME/RUN (SSL_RUNNER_OUTPUTS=FOLDER: elsewhere). Data is looked for in data/ (SSL_RUNNER_DATA).
SSL_RUNNER_TRUSTED=PACKAGE,... lets configs name classes of your own packages.
"""


def page(folder: Path, *more: Path) -> str:
    """The help page for a conf folder, and for those of plugins and the user."""
    root = _read(folder / "config.yaml")
    chosen = _defaults(root)
    groups = options.groups([folder, *more])
    experiments = groups.pop(options.EXPERIMENT, [])
    groups.pop(options.SUITE, None)  # of ssl-eval
    sections = [
        _PURPOSE,
        "Experiments (experiment=NAME; of {a,b} one, simclr_mnist; * the default):",
        *_experiments([folder, *more], experiments, groups.get("dataset", []), chosen.get("experiment")),
        "",
        "Groups (group=option, * without an experiment; [a,b] chooses several; --help group=option explains one):",
        *table({group: _marked(options, chosen.get(group)) for group, options in groups.items()}),
        "",
        "Root keys:",
        *table(_root_keys(root)),
        "",
        "Trainer keys (trainer.KEY=value):",
        *wrapped(_values(folder / "trainer", chosen.get("trainer"))),
        "",
        _FLAGS,
    ]
    return "\n".join(sections)


def _experiments(folders: Sequence[Path], names: Sequence[str], datasets: Sequence[str], chosen: Any) -> list[str]:
    """A line for each method: first those with recipes for several datasets, each with its first recipe's sentence."""
    data = "|".join(re.escape(name) for name in sorted([*datasets, "imagenet"], key=len, reverse=True))
    ending = re.compile(rf"(.+?)_((?:vit_|\w+_to_)?)(?:{data})")
    methods: dict[str, list[tuple[bool, str]]] = {}
    for name in names:
        method, special = found.groups() if (found := ending.fullmatch(name)) else (name, "")
        methods.setdefault(method, []).append((special != "", name))
    several, single = dict[str, str](), dict[str, str]()
    for method, recipes in methods.items():
        ordered = [name for _, name in sorted(recipes)]  # another encoder, or data that are not its own, last
        words = ",".join(_mark(name, chosen)[len(method) + 1 :] for name in ordered)
        rows, first = (several, f"{method}_{{{words}}}") if len(recipes) > 1 else (single, _mark(ordered[0], chosen))
        rows[first] = _comment(folders, ordered[0])
    return [*table(several, widest=_WIDEST), *table(single)]


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {} if path.is_file() else {}


def _defaults(root: dict[str, Any]) -> dict[str, Any]:
    entries = [entry for entry in root.get("defaults", []) if isinstance(entry, dict)]
    return {key.removeprefix("optional "): option for entry in entries for key, option in entry.items()}


def _mark(option: str, chosen: Any) -> str:
    return f"{option}*" if option == chosen or (isinstance(chosen, list) and option in chosen) else option


def _marked(options: list[str], chosen: Any) -> str:
    return " ".join(_mark(option, chosen) for option in options)


def _comment(folders: Sequence[Path], name: str) -> str:
    """The first sentence of an experiment's comment, whose lines that are for Hydra do not count."""
    path = options.file(folders, f"{options.EXPERIMENT}/{name}.yaml")
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return first_sentence(" ".join(comment for comment in comments if not comment.startswith("@package")))


def _root_keys(root: dict[str, Any]) -> dict[str, str]:
    root = root | ({"init": root["init"]["weights"]} if "init" in root else {})
    keys = [key for key in root if key not in ("defaults", "hydra") and not isinstance(root[key], dict)]
    show = {key: yaml.safe_dump(root[key], default_flow_style=True).splitlines()[0] for key in keys}
    return {key: f"{_ROOT[key]} (now {show[key]})" if key in _ROOT else f"now {show[key]}" for key in keys}


def _values(folder: Path, option: Any) -> str:
    values = _read(folder / f"{option}.yaml")
    return "  ".join(f"{key}={json.dumps(value)}" for key, value in values.items() if key[0] != "_").replace('"', "")
