"""The command ``ssl-eval``: help, flags, what is asked, and a clear message for a mistake. It starts without torch."""

import sys
import warnings
from collections.abc import Callable, Sequence

from ssl_runner.cli import home_folder, option_help, search_path
from ssl_runner.cli.command_line import installed_version
from ssl_runner.cli.report_error import GONE, report_error, working_folder_is_gone
from ssl_runner.commands import eval_config, eval_words
from ssl_runner.commands.eval_config import Row
from ssl_runner.commands.eval_words import Words
from ssl_runner.errors import ConfigError
from ssl_runner.runtime import launch_environment
from ssl_runner.runtime.streams import guarded

HELP = """\
ssl-eval evaluates trained encoders: on the data that they were made for, or on any other, and tells them apart.

Usage: ssl-eval ENCODER... [eval=[NAME,...]] [dataset=NAME] [suite=NAME] [key=value ...] [--again] [--json]

An ENCODER is one of
  outputs/NAME/RUN              a finished run
  FILE.safetensors              an encoder that a run has written
  timm:NAME                     a model of timm with its published weights, e.g. timm:resnet18
  torchvision:NAME              a model of torchvision with its published weights
  timm:NAME@FILE                the same with weights from a file; torchvision:NAME@FILE too
  raw_pixels                    the pixels themselves, which every encoder has to beat

Examples:
  ssl-eval outputs/simclr_digits/RUN                            what the run was scored on, with the same figures
  ssl-eval RUN eval=[linear_probe_1pct]                         another evaluator
  ssl-eval RUN dataset=mnist                                    another dataset
  ssl-eval RUN OTHER_RUN raw_pixels dataset=mnist               several, on the same images and episodes
  ssl-eval RUN timm:resnet18 suite=transfer                     every dataset that is on this machine

Without overrides, dataset and evaluators are those of the run. Evaluators that it had keep its values (eval.knn.k).
What may be set: dataset..., eval..., trainer.device, trainer.threads, experiment=NAME (its dataset and evaluators).
Results are kept in RUN/evaluations, or outputs/evaluations for encoders without a run, and are read the next time.

Flags:
  --again             compute what is there already once more
  --json              print everything as JSON
  --config-dir PATH   a folder with further options and suites: suite/NAME.yaml
  --help GROUP        the options of a group: ssl-eval --help eval; --help eval=knn explains one
  --version           show the version

Suites: {suites}
"""

Work = Callable[[Words, Sequence[Row]], None]


def main(work: Work) -> int:
    """Run the command in ``sys.argv``.

    Args:
        work: Evaluates and prints.

    Returns:
        Exit code: 0, 1 for a failure, 2 for a mistake of the user, 130 when interrupted.
    """
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    home_folder.settle_environment()
    with guarded():
        try:
            return _main(work, sys.argv[1:])
        except KeyboardInterrupt:
            print("interrupted; evaluations that were finished are kept", file=sys.stderr)
            return 130
        except Exception as error:  # report_error keeps the traceback of everything but a user's mistake
            return report_error(error)


def _main(work: Work, arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(_help([word for word in arguments if word not in ("--help", "-h")]), end="")
        return 0
    if "--version" in arguments:
        print(f"ssl-runner {installed_version()}")
        return 0
    if working_folder_is_gone():
        raise ConfigError([GONE])
    refuse_several_processes()
    words = eval_words.read(arguments)
    work(words, eval_config.rows(words.encoders, words.overrides, words.suite, words.config_dir))
    return 0


def refuse_several_processes() -> None:
    """Raises ConfigError under torchrun."""
    if launch_environment.size() > 1:
        raise ConfigError(["ssl-eval: it runs in one process; start it without torchrun"])


def _help(words: list[str]) -> str:
    folders = [search_path.conf_folder(), *search_path.plugin_folders()]
    overrides = eval_words.read(words).overrides or eval_words.read(words).encoders
    if overrides:
        return option_help.page(folders, overrides)
    suites = sorted({path.stem for folder in folders for path in (folder / "suite").glob("*.yaml")})
    return HELP.format(suites=", ".join(suites))
