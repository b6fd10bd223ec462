"""What the documentation makes of the code.

The configuration reference is made by the functions behind ``ssl-train --help GROUP=NAME`` whenever the site is built,
and is not kept. The drawing and the table of packages in design.md are kept, for readers without a site:

    python docs/generate.py
"""

import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGE = ROOT / "ssl_runner"
DESIGN, DRAWING = HERE / "design.md", HERE / "images" / "layers.svg"
REFERENCE = HERE / "reference"

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import ssl_runner  # noqa: E402
from ssl_runner.cli import docstrings, options  # noqa: E402

# pages of the reference, in the order of a run
GROUPS = {
    "experiment": "Complete recipes: each selects options, names the run, and sets budget and values.",
    "dataset": "Images and labels, and how they are split.",
    "augmentation": "What is done to images at random.",
    "batching": "What a training step sees: views of images, or few-shot tasks.",
    "masking": "Which patches of a view are hidden, for `algorithm=masked`.",
    "model/encoder": "The network that turns an image into features.",
    "model/head": "What stands on the encoder in training.",
    "algorithm": "How branches, losses and adaptation relate.",
    "algorithm/target": "What `algorithm=masked` predicts of a hidden patch.",
    "algorithm/predictor": "What `algorithm=masked` predicts it by.",
    "loss": "From embeddings, scores of classes or predicted patches, to one number.",
    "optimizer": "How weights are changed.",
    "scheduler": "The learning rate over time.",
    "trainer": "Length, device, precision, checkpoints, logs.",
    "sweep": "Ready sweeps: `sweep=seeds` runs an experiment once for each seed.",
    "hydra/launcher": "Where the jobs of a sweep run.",
    "hydra/sweeper": "How the jobs of a sweep are chosen.",
    "eval": "What is measured. Several are chosen as a list: `eval=[knn,few_shot]`.",
    "eval/classifier": "How few-shot episodes are classified: `eval.few_shot.classifier=NAME`, or several in a list.",
    "suite": "Datasets that `ssl-eval ENCODER suite=NAME` asks about, a row each.",
}


def write_reference(folder: Path = REFERENCE) -> None:
    """A page for each group of conf/, and one on Python. A page that has not changed is left for Sphinx to skip."""
    folder.mkdir(exist_ok=True)
    pages = {f"{group.replace('/', '_')}.md": reference(group) for group in GROUPS} | {"python.md": python_page()}
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")


def reference(group: str) -> str:
    """The page of a group."""
    folders = [ROOT / "conf"]
    found = [options.read(folders, group, name) for name in options.groups(folders)[group]]
    rows = options.summaries(found)
    lines = [f"# {group}", "", f"{GROUPS[group]} In the terminal: `ssl-train --help {group}`.", ""]
    lines += ["| option | |", "| --- | --- |"]
    lines += [f"| [`{_name(word)}`](#{_anchor(word)}) | {_cell(text)} |" for word, text in rows.items()]
    return "\n".join([*lines, *(line for option in found for line in _option(option))]) + "\n"


def _option(option: options.Option) -> Iterator[str]:
    yield from ["", f"## {option.word}", ""]
    if option.comment:
        yield from [markdown(option.comment), ""]
    if option.target is not None:
        yield from [f"`{option.target}`", ""]
    for paragraph in option.paragraphs:
        yield from [markdown(paragraph), ""]
    if option.selects:
        if option.target is None:
            head, parts = "Selects", [f"`{group}={name}`" for group, name in option.selects.items()]
        else:
            head, parts = "Contains", [f"`{word}` as `{place}`" for place, word in option.selects.items()]
        yield from [f"{head} {', '.join(parts)}.", ""]
    if option.keys:
        yield from ["{.options}", "| key | in conf | takes | meaning |", "| --- | --- | --- | --- |"]
        yield from (_row(key) for key in option.keys)
        yield ""
    for node in option.nodes:
        yield from [f"`{node.name}` is a `{node.target}`. {markdown(node.summary)}", ""]
    if option.also:
        yield from ["Also taken, with a + before the key: " + ", ".join(f"`{name}`" for name in option.also) + ".", ""]


def _row(key: options.Key) -> str:
    meaning = " ".join(part for part in (_cell(key.text), f"*{_cell(key.comment)}*" if key.comment else "") if part)
    value = f"`{key.value}`" if key.value else ""
    return f"| `{key.name}` | {_pipes(value)} | {key.kind} | {meaning} |"


def python_page() -> str:
    """The notebook python.ipynb as a page, and what the package offers, from the docstrings."""
    lines: list[str] = []
    for cell in json.loads((HERE / "python.ipynb").read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        lines += [text, ""] if cell["cell_type"] == "markdown" else ["```python", text, "```", ""]
    lines += ["This page is also [a notebook](../python.ipynb).", "", "## Reference", ""]
    for name in ssl_runner.__all__:
        found = docstrings.describe(f"ssl_runner.{'train.train' if name == 'train' else name}")
        lines += [f"### `{name}({', '.join(found.parameters)})`", ""]
        lines += [line for paragraph in found.paragraphs for line in (markdown(paragraph), "")]
        own = found.parameters.keys() or found.explanations.keys()
        texts = {argument: text for argument, text in found.explanations.items() if argument in own}
        lines += [f"- `{argument}`: {markdown(text)}" for argument, text in texts.items()] + [""]
    return "\n".join(lines)


def _name(word: str) -> str:
    return word.partition("=")[2]


def _anchor(word: str) -> str:
    return re.sub(r"[^\w-]", "", word.lower())


def _pipes(text: str) -> str:
    return text.replace("|", "\\|")


def _cell(text: str) -> str:
    return _pipes(markdown(text))


def markdown(text: str) -> str:
    """A docstring's or comment's text: code stays code, everything else is escaped, papers become links."""
    parts = re.split(r"(``.+?``|`.+?`)", text)
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"`{part.strip('`')}`"
        else:
            plain = re.sub(r"([\\*_<>\[\]{}$])", r"\\\1", part)
            parts[number] = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", plain)
    return "".join(parts)


def storeys() -> Sequence[set[str]]:
    """Packages by layer, the lowest first: what the test of the architecture holds."""
    source = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    found = next(
        node.value
        for node in source.body
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "STOREYS" for to in node.targets)
    )
    return ast.literal_eval(found)


def packages() -> str:
    """The table of packages, the highest layer first: what is in each, and its limits."""
    lines = ["| package | what is in it | its limits |", "| --- | --- | --- |"]
    for storey in reversed(storeys()):
        for name in sorted(storey):
            path = PACKAGE / name / "__init__.py"
            path = path if path.is_file() else PACKAGE / f"{name}.py"
            paragraphs = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")
            texts = [" ".join(paragraph.split()) for paragraph in [*paragraphs, ""][:2]]
            lines.append(f"| `{name}` | {_cell(texts[0])} | {_cell(texts[1])} |")
    return "\n".join(lines)


def drawing() -> str:
    """The layers as an SVG that needs nothing else, on a ground of its own: it is read on a dark page, too."""
    width, height, gap, left = 900, 46, 14, 120
    rows = list(reversed(storeys()))
    total = len(rows) * (height + gap) + 54
    foot = total - 62
    style = 'font-family="system-ui, sans-serif" font-size="16"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" role="img" {style}>',
        "<title>Packages of ssl_runner by layer; each imports only from lower layers</title>",
        f'<rect width="{width}" height="{total}" rx="10" fill="#f7f8fa"/>',
        f'<path d="M60 24 V{foot}" stroke="#5b6472" stroke-width="2"/>',
        f'<path d="M52 {foot - 10} L60 {foot + 2} L68 {foot - 10}" fill="none" stroke="#5b6472" stroke-width="2"/>',
        f'<text x="60" y="{total // 2}" fill="#5b6472" text-anchor="middle" '
        f'transform="rotate(-90 60 {total // 2}) translate(0 -12)">imports go downwards only</text>',
    ]
    for number, storey in enumerate(rows):
        top = 16 + number * (height + gap)
        each = (width - left - 20 - gap * (len(storey) - 1)) / len(storey)
        for place, name in enumerate(sorted(storey)):
            x = left + place * (each + gap)
            lines += [
                f'<rect x="{x:.0f}" y="{top}" width="{each:.0f}" height="{height}" rx="8" fill="#dfe9f7" '
                'stroke="#7d9cc6"/>',
                f'<text x="{x + each / 2:.0f}" y="{top + height / 2 + 6:.0f}" text-anchor="middle" '
                f'fill="#1d2733">{escape(name)}</text>',
            ]
    below = total - 20
    lines.append(
        f'<text x="{left}" y="{below}" fill="#5b6472">conf/ is checked against the constructors of these packages; '
        "nothing else names them.</text>"
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def design(text: str) -> str:
    """The page with its table of packages as it is now."""
    begin, end = "<!-- packages -->", "<!-- end of packages -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{packages()}\n{end}{after}"


def main() -> None:
    DESIGN.write_text(design(DESIGN.read_text(encoding="utf-8")), encoding="utf-8")
    DRAWING.write_text(drawing(), encoding="utf-8")


if __name__ == "__main__":
    main()
