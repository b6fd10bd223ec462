"""The architecture: which package may import which, and that each package describes its content."""

import ast
from functools import cache
from pathlib import Path

import pytest

import ssl_runner

ROOT = Path(ssl_runner.__file__).parent

# layers, the lowest first; a package imports only from lower ones
STOREYS = (
    {"errors"},
    {"runtime", "config", "images"},
    {"models", "losses", "optim", "runs"},
    {"data", "sweeps", "comparison"},
    {"export"},
    {"algorithms", "cli"},
    {"evaluation"},
    {"training"},
    {"wiring", "report"},
    {"train", "commands"},
)


@cache
def imports() -> dict[str, set[str]]:
    """For each module, the package's modules that it imports, inside functions and for type checking too."""
    paths = {name(path): path for path in ROOT.rglob("*.py")}
    return {module: set(imported(path, paths.keys())) for module, path in paths.items()}


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, known):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield from [full] if full in known else [node.module] if node.module in known else []


def room(module: str) -> str:
    return module.split(".")[1]


def test_only_packages_and_two_modules_are_at_the_top():
    modules = {path.stem for path in ROOT.glob("*.py")}
    assert modules == {"__init__", "errors", "train"}
    assert modules | {path.parent.name for path in ROOT.glob("*/__init__.py")} == set().union(*STOREYS) | {"__init__"}


def test_no_package_imports_upwards_or_sideways():
    level = {package: number for number, storey in enumerate(STOREYS) for package in storey}
    upwards = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if "." in module and "." in other and room(module) != room(other)
        if level[room(other)] >= level[room(module)]
    ]
    assert upwards == []


def test_there_are_no_circular_imports():
    left = {module: {other for other in others if other != module} for module, others in imports().items()}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert sorted(left) == []


def test_only_the_command_line_imports_hydra():
    users = {
        name(path)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hydra")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "hydra" for alias in node.names))
    }
    assert users
    assert {room(module) for module in users} == {"cli"}


@pytest.mark.parametrize("package", sorted(ROOT.glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_each_package_describes_its_content_and_limits(package):
    lines = (ast.get_docstring(ast.parse(package.read_text())) or "").splitlines()
    assert len(lines) >= 3


def test_functions_have_fewer_than_fifty_lines_of_code():
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno - body_start(node) >= 50
    ]
    assert long == []


def body_start(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Line of the first statement: signature and docstring are no code."""
    documented = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
    return node.body[1 if documented and len(node.body) > 1 else 0].lineno
