"""ONNX and torch.export: files that hold the whole computation, preprocessing included."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ssl_runner.errors import InvalidValue
from ssl_runner.export.source import Trained
from ssl_runner.export.standalone import Standalone

INPUT = "uint8 (B, 3, H, W), RGB, any size"
_NEEDED = "--to onnx needs {}, an extra: pip install 'ssl-runner[export]'"


def preprocessing(source: Trained) -> str:
    """What the file does with images itself."""
    channels, height, width = source.encoder.input_shape
    gray = "gray values (ITU-R 601), " if channels == 1 else ""
    return (
        f"inside the file: {gray}center crop, resizing to {height} x {width} (Lanczos), scaling and normalisation; "
        f"images are {INPUT}"
    )


def write_onnx(source: Trained, path: Path) -> None:
    """Write an ONNX file whose input ``images`` is uint8 (B, 3, H, W) and whose output ``features`` is (B, D).

    Raises:
        ValueError: A package is missing, or the encoder cannot be exported.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError:
            raise InvalidValue(_NEEDED.format(package)) from None
    shapes = {"images": {0: "batch", 2: "height", 3: "width"}}
    with _quiet("onnx"):
        program = torch.onnx.export(
            Standalone(source.encoder).eval(),
            (_example(source),),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["images"],
            output_names=["features"],
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(about(source))
    program.save(str(path), external_data=False)


def onnx_lines(source: Trained, path: Path) -> list[str]:
    return [
        "import onnxruntime",
        f"session = onnxruntime.InferenceSession({str(path)!r})",
        f'features = session.run(None, {{"images": images}})[0]  # images: array {INPUT}',
    ]


def write_torch(source: Trained, path: Path) -> None:
    """Write a torch.export file (.pt2) of a module that takes images uint8 (B, 3, H, W).

    Raises:
        ValueError: The encoder cannot be exported.
    """
    dynamic = torch.export.Dim.DYNAMIC
    with _quiet("torch"):
        shapes = {"images": {0: dynamic, 2: dynamic, 3: dynamic}}
        program = torch.export.export(Standalone(source.encoder).eval(), (_example(source),), dynamic_shapes=shapes)
    content = io.BytesIO()  # on a full disk, torch's own writer ends the process
    torch.export.save(program, content, extra_files={"encoder.json": json.dumps(about(source), indent=2)})
    path.write_bytes(content.getbuffer())


def torch_lines(source: Trained, path: Path) -> list[str]:
    return [
        "import torch",
        f"encoder = torch.export.load({str(path)!r}).module()",
        f"features = encoder(images)  # images: tensor {INPUT}",
    ]


def about(source: Trained) -> dict[str, str]:
    """What is stored in a file about its encoder."""
    stored = {"encoder": json.dumps(source.node), "input_shape": json.dumps(source.encoder.input_shape)}
    stored |= {"mean": json.dumps(source.encoder.mean.flatten().tolist())}
    stored |= {"std": json.dumps(source.encoder.std.flatten().tolist())}
    for key in ("config_hash", "command", "seed"):
        if key in source.result:
            stored[key] = str(source.result[key])
    return stored


def _example(source: Trained) -> torch.Tensor:
    # no size that the network has inside, and none twice: torch.export would take equal ones for the same
    _, height, width = source.encoder.input_shape
    return torch.zeros(3, 3, height + 5, width + 9, dtype=torch.uint8)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Inside, exporters print nothing, and what an encoder does that cannot be exported is one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, OSError):
        raise
    except Exception as error:  # tracing runs the encoder's own code, which may raise anything
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InvalidValue(
            f"--to {name}: the exporter refuses this encoder ({first}); choose another format"
        ) from error
    finally:
        logging.disable(before)
