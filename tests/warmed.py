"""Imported by the server of `children`: what each of its forks would import, read and parse again.

Nothing is computed here, since a fork of a process that has used threads may hang.
"""

import pytest
from shipped_conf import read_once

import ssl_runner.cli.command_line
import ssl_runner.cli.hydra_app
import ssl_runner.evaluation.baselines
import ssl_runner.report.stages
import ssl_runner.training.session  # noqa: F401
from ssl_runner.cli import compose
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.cli.validate import checked_config
from ssl_runner.config import plugins
from ssl_runner.report import adaptation

WORDS = ["dataset=digits", "model.encoder.width=4", "trainer.max_epochs=null", "eval=[knn,few_shot]", "baselines=[]"]

pytest.MonkeyPatch().setattr(compose, "Loader", read_once())  # never undone: it is the server's and its forks'
checked_config(compose.Composer(conf_folder()), WORDS)
plugins._installed.cache_clear()  # a fork may find others
adaptation.N_TASKS = 10  # with 100, MAML's curves of inner steps take most of a small run
