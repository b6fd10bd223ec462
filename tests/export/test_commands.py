"""Help of the commands, which needs no torch, and what they say without words."""

import subprocess
import sys

import pytest

NEEDED_LATER = ("torch", "timm", "onnx", "pyarrow", "hydra", "rich")


@pytest.mark.parametrize("name", ["export", "embed"])
def test_help_shows_examples_and_exit_codes_without_heavy_imports(name):
    code = (
        f"import sys\nsys.argv = ['ssl-{name}', '--help']\nfrom ssl_runner.commands.{name} import main\n"
        f"try: main()\nexcept SystemExit as ended: assert ended.code == 0\n"
        f"assert not set({NEEDED_LATER}) & sys.modules.keys()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"\n  ssl-{name} outputs/" in ended.stdout
    for words in (f"usage: ssl-{name}", "examples:", "exit codes: 0"):
        assert words in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 120


def test_the_commands_are_installed_with_the_package():
    import tomllib
    from importlib import import_module
    from pathlib import Path

    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    for name in ("ssl-export", "ssl-embed"):
        module, _, function = scripts[name].partition(":")
        assert callable(getattr(import_module(module), function))
