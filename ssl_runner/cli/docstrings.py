"""What a class or function says about itself, read from its source: nothing is imported, so torch stays out.

Docstrings are Google's: paragraphs, then ``Args:`` with an entry for each argument. Where a docstring leaves an
argument to another one, by inheritance or by naming it, the other one is read too.
"""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Yields:", "Example:", "Examples:")
_ENTRY = re.compile(r"^\*{0,2}(\w+(?:, \w+)*): *(.*)$")
_ELSEWHERE = re.compile(r"^See (`(\w+)`|above)")
_NAMED = re.compile(r"(?<!`)`([\w.]+)`(?!`)")
_SCALARS = {"int": "integer", "float": "number", "str": "text", "bool": "true or false", "None": "null"}
_LISTS = {"list", "tuple", "Sequence", "Iterable", "set", "frozenset"}
_MAPPINGS = {"dict", "Mapping"}

Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Parameter:
    """An argument of a constructor.

    Attributes:
        kind: The values that it takes, in words, or nothing where its annotation does not say.
        default: Source of its default, or None.
    """

    kind: str
    default: str | None


@dataclass(frozen=True)
class Found:
    """What the source of a target says.

    Attributes:
        paragraphs: The docstring without its sections; each item of a list is one, with its dash.
        explanations: Of the arguments, by their names.
        parameters: Of the constructor, or of the function.
    """

    paragraphs: list[str] = field(default_factory=list)
    explanations: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


def describe(target: str) -> Found:
    """What a dotted name's source says; nothing where there is no such source."""
    place = _find(target)
    if place is None:
        return Found()
    path, definition = place
    paragraphs, explanations = _parts(definition)
    for name, text in _inherited(path, definition).items():
        explanations.setdefault(name, text)
    return Found(paragraphs, explanations, _parameters(path, definition))


def _find(target: str) -> tuple[Path, Definition] | None:
    module, _, name = target.rpartition(".")
    path = _source(module)
    return None if path is None else _defined(path, name)


def _source(module: str) -> Path | None:
    """The file of a module. Only its top package is looked up, as Python would import the parents of others."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    if not rest:
        return Path(spec.origin)
    place = Path(spec.origin).parent.joinpath(*rest)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _statements(path: Path) -> Iterator[ast.stmt]:
    """Of a module, those under ``if TYPE_CHECKING`` too."""
    for node in _tree(path).body:
        yield from node.body if isinstance(node, ast.If) else [node]


def _defined(path: Path, name: str) -> tuple[Path, Definition] | None:
    """Where a name of a module is defined: there, or in the module that it is imported from."""
    for node in _statements(path):
        if isinstance(node, Definition) and node.name == name:
            return path, node
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(f"{node.module}.{alias.name}")
    return None


def _parts(definition: Definition) -> tuple[list[str], dict[str, str]]:
    """Paragraphs before the sections, and the entries of ``Args:`` and ``Attributes:``."""
    paragraphs, explanations, section = [""], {}, ""
    names: list[str] = []
    for line in inspect.cleandoc(ast.get_docstring(definition) or "").splitlines():
        if line in _SECTIONS:
            section = line
        elif not section:
            if not line or line.startswith("- "):
                paragraphs = [*paragraphs, ""]
            paragraphs = [*paragraphs[:-1], f"{paragraphs[-1]} {line.strip()}".strip()]
        elif section in ("Args:", "Attributes:") and line.strip():
            entry = _ENTRY.match(line[4:]) if not line.startswith(" " * 5) else None
            if entry is not None:
                text = entry[2] if entry[2] != "Likewise." else explanations.get(names[-1], "") if names else ""
                names = entry[1].split(", ")
                explanations |= dict.fromkeys(names, text)
            else:
                explanations |= {name: f"{explanations[name]} {line.strip()}".strip() for name in names}
    return [paragraph for paragraph in paragraphs if paragraph], explanations


def _inherited(path: Path, definition: Definition) -> dict[str, str]:
    """Explanations that a definition leaves to others: its bases, and what its docstring names."""
    found: dict[str, str] = {}
    for name in _others(definition):
        place = _defined(path, name)
        if place is not None and place[1] is not definition:
            _, explanations = _parts(place[1])
            further = _inherited(*place) if isinstance(place[1], ast.ClassDef) else {}
            found = further | explanations | found
    _, own = _parts(definition)
    return found | {name: text for name, text in own.items() if not _ELSEWHERE.match(text)}


def _others(definition: Definition) -> Iterator[str]:
    if isinstance(definition, ast.ClassDef):
        yield from (base.id for base in definition.bases if isinstance(base, ast.Name))
    yield from _NAMED.findall(ast.get_docstring(definition) or "")


def _parameters(path: Path, definition: Definition) -> dict[str, Parameter]:
    if isinstance(definition, ast.FunctionDef):
        function, given = definition, definition.args.args
    else:
        made = [node for node in definition.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        if not made:
            bases = [_defined(path, base.id) for base in definition.bases if isinstance(base, ast.Name)]
            return next((_parameters(*base) for base in bases if base is not None), {})
        function, given = made[0], made[0].args.args[1:]
    values = [None] * (len(given) - len(function.args.defaults)) + list(function.args.defaults)
    pairs = [*zip(given, values[-len(given) :] if given else [], strict=True)]
    pairs += zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {
        argument.arg: Parameter(_words(path, argument.annotation), None if value is None else ast.unparse(value))
        for argument, value in pairs
    }


def _words(path: Path, annotation: ast.expr | None) -> str:
    """An annotation in words; a class of the package or of torch is a node."""
    match annotation:
        case None:
            return ""
        case ast.Constant(value=str() as text):
            return _words(path, ast.parse(text, mode="eval").body)
        case ast.Constant(value=value):
            return _SCALARS.get(str(value), str(value))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return " or ".join(dict.fromkeys([_words(path, left), _words(path, right)]))
        case ast.Name(id=name):
            return _named(path, name)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=options):
            values = options.elts if isinstance(options, ast.Tuple) else [options]
            return " or ".join(str(ast.literal_eval(value)) for value in values)
        case ast.Subscript(value=ast.Name(id=name), slice=item) if name in _LISTS:
            items = item.elts if isinstance(item, ast.Tuple) else [item]
            return f"list of {' or '.join(dict.fromkeys(_plural(_words(path, each)) for each in items if _real(each)))}"
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Tuple(elts=[_, item])) if name in _MAPPINGS:
            return f"mapping to {_plural(_words(path, item))}"
    return "a node"


def _real(item: ast.expr) -> bool:
    return not (isinstance(item, ast.Constant) and item.value is Ellipsis)


def _plural(words: str) -> str:
    singular = {"integer": "integers", "number": "numbers", "a node": "nodes", "path": "paths"}
    return " or ".join(singular.get(word, word) for word in words.split(" or ")) if "true" not in words else words


def _named(path: Path, name: str) -> str:
    if name == "PathText":
        return "path"
    if name in _SCALARS:
        return _SCALARS[name]
    if name == "Any":
        return "anything"
    alias = _alias(path, name)
    return "a node" if alias is None else _words(*alias)


def _alias(path: Path, name: str) -> tuple[Path, ast.expr] | None:
    """The type that a name of a module stands for, where it is an alias such as ``Mining = Literal[...]``."""
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return path, node.value
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            for imported in node.names:
                if (imported.asname or imported.name) == name:
                    source = _source(node.module)
                    return None if source is None else _alias(source, imported.name)
    return None
