"""``ssl-export``: a trained encoder in the format of another program, compared with the original."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_runner.commands.command import Parser, serve
from ssl_runner.errors import ConfigError

DESCRIPTION = """\
Write the trained encoder of a run for another program, and print the lines of Python that load it.

  onnx         a file with all preprocessing inside, for onnxruntime
  torch        a torch.export file (.pt2) with all preprocessing inside; needs only torch
  timm         weights for timm.create_model, of an encoder that is timm's (model/encoder=timm, vit_tiny, vit_small)
  torchvision  weights for torchvision.models.resnet18, 34 or 50 (model/encoder=resnet18, ...)
  huggingface  a folder for the hub: config.json, model.safetensors and a model card with metrics and protocols

The lines are run on real images and compared with the original. An export that differs is removed.
"""
EXAMPLES = """\
examples:
  ssl-export outputs/simclr_digits/RUN --to onnx
  ssl-export outputs/simclr_digits/RUN --to torch --output digits.pt2

exit codes: 0 exported, 1 the disk cannot be written to, 2 a mistake or an export that differs, 130 interrupted
"""


def main() -> int:
    """The console command."""
    return serve(_export, "Free some space, or give another --output.")


def _parser() -> Parser:
    parser = Parser(prog="ssl-export", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run, or an encoder.safetensors")
    parser.add_argument("--to", metavar="FORMAT", help="onnx, torch, timm, torchvision or huggingface")
    parser.add_argument("--output", metavar="PATH", type=Path, help="file or folder to write (default: inside RUN)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at the output")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference from the original, as a share of the largest feature, or absolute if that is below 1 "
        "(default: 1e-4)",
    )
    return parser


def _export(words: Sequence[str]) -> int:
    asked = _parser().read(words)
    if asked.tolerance is not None and not asked.tolerance >= 0:
        raise ConfigError([f"--tolerance {asked.tolerance}: expected a number of at least 0"])
    # these import torch, which help does not need
    from ssl_runner.export.exporting import TOLERANCE, export
    from ssl_runner.export.formats import known
    from ssl_runner.export.source import trained

    if asked.to is None:
        raise ConfigError(["--to is missing; give a format, for example --to onnx"])
    known(asked.to)
    tolerance = TOLERANCE if asked.tolerance is None else asked.tolerance
    done = export(trained(asked.run), asked.to, asked.output, asked.overwrite, tolerance)
    found = done.difference
    print(f"{done.path}")
    print(
        f"compared on {found.n} {found.images}: largest difference {found.largest:.2g}, largest feature "
        f"{found.feature:.3g}"
    )
    print(f"preprocessing: {done.preprocessing}")
    print("\n" + "\n".join(done.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
