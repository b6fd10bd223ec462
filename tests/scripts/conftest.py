"""Scripts are no package: they are run by path, and import what lies beside them."""

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def forgotten():
    """What scripts import from their folder is imported anew by the next one."""
    yield
    for name, module in list(sys.modules.items()):
        if SCRIPTS in Path(getattr(module, "__file__", None) or ".").parents:
            del sys.modules[name]


@pytest.fixture
def results_script(monkeypatch, forgotten):
    """Imports a script of scripts/results by its name."""
    monkeypatch.syspath_prepend(SCRIPTS / "results")
    return importlib.import_module
