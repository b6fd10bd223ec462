"""A folder for the Hugging Face hub: config.json, model.safetensors and a model card."""

import json
from pathlib import Path
from typing import Any

from ssl_runner.export.source import Trained
from ssl_runner.export.weights import write_tensors

CARD = "README.md"


def preprocessing(source: Trained) -> str:
    """What the loaded encoder does with images itself."""
    channels, height, width = source.encoder.input_shape
    return (
        f"scaling and normalisation are inside the encoder; images are uint8 (B, {channels}, {height}, {width}), "
        "and encoder.read(FILES) makes them of image files: gray or RGB, center crop, Lanczos' filter"
    )


def write(source: Trained, path: Path) -> None:
    """Write the folder that `HubEncoder.from_pretrained` reads."""
    path.mkdir()
    config = {
        "encoder": source.node,
        "input_shape": list(source.encoder.input_shape),
        "decoding": source.encoder.decoding,
        "library_name": "ssl-runner",
    }
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(source.encoder.state_dict(), {"format": "pt"}, path / "model.safetensors")
    (path / CARD).write_text(card(source), encoding="utf-8")


def lines(source: Trained, path: Path) -> list[str]:
    channels, height, width = source.encoder.input_shape
    return [
        "from ssl_runner.export.hub_encoder import HubEncoder",
        f"encoder = HubEncoder.from_pretrained({str(path)!r})",
        f"features = encoder(images)  # images: tensor uint8 (B, {channels}, {height}, {width})",
    ]


def card(source: Trained) -> str:
    """The model card: what the encoder is, how it is loaded, how it was trained, its metrics and their protocols."""
    result, encoder = source.result, source.encoder
    channels, height, width = encoder.input_shape
    loading = "\n".join(lines(source, Path("FOLDER")))
    parts = [
        "---\nlibrary_name: ssl-runner\npipeline_tag: image-feature-extraction\n"
        "tags: [ssl-runner, self-supervised-learning]\n---",
        f"# {_title(source)}",
        f"{source.architecture}: {encoder.out_features} features of images of {height} x {width} pixels, "
        f"{'gray' if channels == 1 else 'RGB'}.",
        f"## Use\n\n```python\n{loading}\n```\n\n{_sentence(preprocessing(source))} FOLDER is this folder, or its name "
        "on the hub. The class comes from the package ssl-runner; nothing in this folder is executed.",
    ]
    if result:
        parts += [_training(result), _metrics(result)]
    return "\n\n".join(parts) + "\n"


def _title(source: Trained) -> str:
    kind = source.node["_target_"].rpartition(".")[2]
    data = source.result.get("dataset", {}).get("name")
    return f"{kind} trained on {data}" if data else kind


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _training(result: dict[str, Any]) -> str:
    data, git = result.get("dataset", {}), result.get("git") or {}
    images = ", ".join(f"{number:,} {part}" for part, number in (data.get("images") or {}).items())
    facts = {
        "command": f"`{result.get('command', '')}`",
        "dataset": f"{data.get('name', '')} (fingerprint `{data.get('fingerprint', '')}`), split by "
        f"{data.get('split_by', '?')}: {images}",
        "steps": result.get("steps"),
        "seed": result.get("seed"),
        "config hash": f"`{result.get('config_hash', '')}`",
        "commit": f"`{git.get('commit')}`{', with changes' if git.get('dirty') else ''}" if git.get("commit") else None,
        "versions": ", ".join(f"{name} {number}" for name, number in (result.get("versions") or {}).items()),
    }
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["## Training\n", "| | |", "| --- | --- |", *rows])


def _metrics(result: dict[str, Any]) -> str:
    metrics = result.get("metrics") or {}
    rows = [f"| {_cell(name)} | {value:.4f} |" for name, value in metrics.items() if isinstance(value, int | float)]
    protocols = json.dumps(result.get("protocols", {}), indent=2)
    table = ["| metric | value |", "| --- | --- |", *rows] if rows else ["Not evaluated."]
    return "\n".join(["## Evaluation\n", *table, "", "How each was measured:", "", "```json", protocols, "```"])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
