"""ssl-export: the printed lines load what was written, and give the features of the original."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ssl_runner
from ssl_runner.errors import InvalidValue
from ssl_runner.export import exporting
from ssl_runner.export.formats import FORMATS
from ssl_runner.export.hub_encoder import HubEncoder
from ssl_runner.export.parity import real_images, run_lines
from ssl_runner.export.source import trained

HELD = [
    *[("conv4", name) for name in ("onnx", "torch", "huggingface")],
    *[("resnet", name) for name in ("onnx", "torch", "torchvision", "huggingface")],
    *[("timm", name) for name in ("onnx", "torch", "timm", "huggingface")],
    ("large_resnet", "torchvision"),
    ("vit", "timm"),
    ("vit", "huggingface"),
    ("vit_mean", "timm"),
    *[("vit_layers", name) for name in ("onnx", "torch", "huggingface")],
]


def printed_lines(out: str) -> list[str]:
    return out.split("\n\n")[1].strip().splitlines()


def given(images: torch.Tensor, name: str):
    images = images.expand(-1, 3, -1, -1).contiguous() if FORMATS[name].rgb else images
    return images.numpy() if FORMATS[name].array else images


@pytest.mark.parametrize(("encoder", "name"), HELD)
def test_the_printed_lines_give_the_originals_features(encoder, name, encoder_file, ssl_export, tmp_path):
    if name == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    file = encoder_file(encoder)
    output = tmp_path / FORMATS[name].file
    ended = ssl_export(file, "--to", name, "--output", output)
    assert ended.code == 0, ended.err
    lines = printed_lines(ended.out)
    assert len(lines) == 3 or name == "torchvision"
    source = trained(file)
    images, _ = real_images(source)
    expected = source.encoder(images)
    for number in (1, 7):  # sizes of a batch
        found = run_lines(lines, given(images[:number], name))
        torch.testing.assert_close(found, expected[:number], atol=1e-4, rtol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert "compared on 64" in ended.out and "preprocessing: " in ended.out
    if name in ("onnx", "torch"):
        assert_reads_any_picture(lines, source, name, tmp_path)


def assert_reads_any_picture(lines, source, name, folder):
    """The file does with a coloured picture of another size what `Encoder.read` does with it."""
    levels = real_images(source)[0][:3, :1].float()
    enlarged = torch.nn.functional.interpolate(levels, size=(37, 50), mode="bilinear").byte()
    colors = torch.cat([enlarged[0], enlarged[1], enlarged[2]])
    Image.fromarray(colors.permute(1, 2, 0).numpy()).save(folder / "picture.png")
    expected = source.encoder(source.encoder.read([folder / "picture.png"]))
    found = run_lines(lines, colors[None].numpy() if name == "onnx" else colors[None])
    # a pixel may be rounded to another level
    torch.testing.assert_close(found, expected, atol=1e-2 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize(
    ("encoder", "name", "able"),
    [
        ("conv4", "timm", "onnx, torch or huggingface"),
        ("conv4", "torchvision", "onnx, torch or huggingface"),
        ("resnet", "timm", "onnx, torch, torchvision or huggingface"),
        ("timm", "torchvision", "onnx, torch, timm or huggingface"),
    ],
)
def test_a_format_that_cannot_hold_an_encoder_says_so_and_names_those_that_can(
    encoder, name, able, encoder_file, ssl_export
):
    ended = ssl_export(encoder_file(encoder), "--to", name)
    assert ended.code == 2
    assert "is not a " in ended.err and ended.err.rstrip().endswith(f"give --to {able}")


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ("vit_layers", "layers=2: a model of timm gives the features of its last block"),
        ("vit_both", "features=cls_mean: a model of timm gives the class token or the mean of the patches"),
    ],
)
def test_features_that_no_model_of_timm_gives_are_refused_with_the_reason(encoder, reason, encoder_file, ssl_export):
    ended = ssl_export(encoder_file(encoder), "--to", "timm")
    assert ended.code == 2
    assert ended.err.strip() == f"--to timm: {reason}; give --to onnx, torch or huggingface"


def test_a_transformer_in_timm_has_its_registers_and_drop_path(encoder_file, tmp_path):
    done = exporting.export(trained(encoder_file("vit_mean")), "timm", tmp_path / "vit.safetensors")
    names = {"images": torch.zeros(1, 1, 16, 16)}
    exec("\n".join(done.lines), names)
    assert names["encoder"].num_prefix_tokens == 3
    assert names["encoder"].blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)


def test_images_of_the_run_are_compared_and_digits_where_they_are_gone(run, encoder_file):
    assert real_images(trained(run))[1] == "test images of digits/test"
    images, where = real_images(trained(encoder_file("resnet")))
    assert where == "digits"
    assert images.shape == (64, 3, 16, 16) and images.float().std() > 20


def test_an_export_that_differs_is_refused_and_removed(run, ssl_export, tmp_path, monkeypatch):
    def worse(source, path):
        with torch.no_grad():
            moved = trained(run)
            next(moved.encoder.parameters()).add_(0.01)
        right.write(moved, path)

    right = FORMATS["huggingface"]
    monkeypatch.setitem(FORMATS, "huggingface", replace(right, write=worse))
    ended = ssl_export(run, "--to", "huggingface", "--output", tmp_path / "hub")
    assert ended.code == 2
    assert "differs from the original by" in ended.err and "was removed" in ended.err
    assert list(tmp_path.iterdir()) == []
    ended = ssl_export(run, "--to", "huggingface", "--output", tmp_path / "hub", "--tolerance", "10")
    assert ended.code == 0


def test_a_torch_export_needs_torch_only(run, tmp_path):
    done = exporting.export(trained(run), "torch", tmp_path / "encoder.pt2")
    code = "\n".join(["import torch", "images = torch.zeros(2, 3, 20, 30, dtype=torch.uint8)", *done.lines])
    code += (
        "\nimport sys\nassert not any(name.startswith('ssl_runner') for name in sys.modules)\nprint(*features.shape)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["2", str(trained(run).encoder.out_features)]


def test_files_say_what_they_hold(encoder_file, tmp_path):
    done = exporting.export(trained(encoder_file("vit")), "timm", tmp_path / "vit.safetensors")
    with safe_open(done.path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["input_shape"]) == [1, 16, 16]
    assert "16 x 16 (Lanczos), gray" in metadata["preprocessing"]
    assert json.loads(metadata["mean"]) == pytest.approx(trained(encoder_file("vit")).encoder.mean.flatten().tolist())


def test_the_model_card_has_metrics_protocols_and_the_command(run, tmp_path):
    done = exporting.export(trained(run), "huggingface", tmp_path / "hub")
    assert sorted(path.name for path in done.path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (done.path / "README.md").read_text()
    result = json.loads((run / "result.json").read_text())
    assert card.startswith("---\nlibrary_name: ssl-runner\n")
    for name, value in result["metrics"].items():
        assert f"| {name} | {value:.4f} |" in card
    assert json.loads(card.split("```json\n")[1].split("```")[0]) == result["protocols"]
    assert result["config_hash"] in card and result["dataset"]["fingerprint"] in card


def test_a_hub_folder_runs_nothing_and_must_be_complete(run, tmp_path):
    done = exporting.export(trained(run), "huggingface", tmp_path / "hub")
    config = json.loads((done.path / "config.json").read_text())
    strange = config | {"encoder": {"_target_": "os.system", "_partial_": True, "command": "true"}}
    (done.path / "config.json").write_text(json.dumps(strange))
    with pytest.raises(InvalidValue, match="trust"):
        HubEncoder.from_pretrained(done.path)
    (done.path / "config.json").write_text(json.dumps(config))
    state = HubEncoder.from_pretrained(done.path).state_dict()
    save_file({name: value for name, value in state.items() if name != "mean"}, done.path / "model.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        HubEncoder.from_pretrained(done.path)


def test_a_hub_folder_is_saved_again_by_its_library(run, tmp_path):
    done = exporting.export(trained(run), "huggingface", tmp_path / "hub")
    HubEncoder.from_pretrained(done.path).save_pretrained(tmp_path / "again")
    first, again = (HubEncoder.from_pretrained(tmp_path / name).state_dict() for name in ("hub", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_an_output_is_replaced_only_on_demand(run, ssl_export, tmp_path):
    output = tmp_path / "hub"
    words = (run, "--to", "huggingface", "--output", output)
    assert ssl_export(*words).code == 0
    (output / "note.txt").write_text("mine")
    ended = ssl_export(*words)
    assert ended.code == 2 and "it exists; give --overwrite" in ended.err
    assert (output / "note.txt").exists()
    assert ssl_export(*words, "--overwrite").code == 0
    assert not (output / "note.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_no_run_and_no_encoder_is_overwritten(run, encoder_file, ssl_export):
    before = sorted(path.name for path in run.iterdir())
    ended = ssl_export(run, "--to", "huggingface", "--output", run, "--overwrite")
    assert ended.code == 2 and "no export wrote" in ended.err
    ended = ssl_export(run, "--to", "torch", "--output", run / "encoder.safetensors", "--overwrite")
    assert ended.code == 2 and "ends in .pt2" in ended.err
    file = encoder_file("vit")
    ended = ssl_export(file, "--to", "timm", "--output", file, "--overwrite")
    assert ended.code == 2 and "it is the encoder itself" in ended.err
    assert sorted(path.name for path in run.iterdir()) == before


def test_mistakes_are_one_message(run, ssl_export, tmp_path):
    (tmp_path / "empty").mkdir()
    half = tmp_path / "half"
    half.mkdir()
    (half / "result.json").write_text('{"status": "interrupted"}')
    (half / "config.yaml").write_text("{}")
    damaged = tmp_path / "encoder.safetensors"
    damaged.write_bytes((run / "encoder.safetensors").read_bytes()[:100])
    for words, said in (
        (("--to", "onnx"), "required: RUN"),
        ((run,), "--to is missing"),
        ((run, "--to", "onx"), "there is no such format; did you mean 'onnx'?"),
        ((run, "--to", "keras5"), "give onnx, torch, timm, torchvision or huggingface"),
        ((run, "--to", "onnx", "--outptu", "x"), "did you mean '--output'?"),
        ((run, "--to", "onnx", "--tolerance", "-1"), "at least 0"),
        ((run, "--to", "onnx", "--output", tmp_path / "none" / "x.onnx"), "does not exist; create it"),
        ((tmp_path / "nothing", "--to", "onnx"), "does not exist; give the folder of a finished run"),
        ((tmp_path / "empty", "--to", "onnx"), "is not a run folder"),
        ((run / "checkpoints", "--to", "onnx"), f"give the run's folder, {run}"),
        ((half, "--to", "onnx"), "has the status 'interrupted', expected 'finished'; resume with"),
        ((damaged, "--to", "onnx"), "is damaged"),
    ):
        ended = ssl_export(*words)
        assert ended.code == 2, words
        assert said in ended.err and len(ended.err.strip().splitlines()) == 1, ended.err
        assert ended.out == ""


@pytest.mark.parametrize("shape", [[1, 16, "16)\nopen('hacked', 'w')"], [1, 16], "1", [1, 16, 16.0]])
def test_a_strangers_metadata_is_not_executed(shape, run, ssl_export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with safe_open(run / "encoder.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = load_file(run / "encoder.safetensors")
    save_file(tensors, tmp_path / "encoder.safetensors", metadata | {"input_shape": json.dumps(shape)})
    ended = ssl_export(tmp_path / "encoder.safetensors", "--to", "huggingface", "--output", tmp_path / "hub")
    assert ended.code == 2 and "input_shape is" in ended.err
    assert os.listdir(tmp_path) == ["encoder.safetensors"]


def test_others_may_read_what_was_written(run, tmp_path):
    before = os.umask(0o022)
    try:
        done = exporting.export(trained(run), "huggingface", tmp_path / "hub")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in done.path.iterdir()] == [0o644] * 3
    assert done.path.stat().st_mode & 0o777 == 0o755


def test_a_missing_package_is_named_with_its_extra(run, ssl_export, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    ended = ssl_export(run, "--to", "onnx", "--output", tmp_path / "encoder.onnx")
    assert ended.code == 2
    assert ended.err.strip() == "--to onnx needs onnx, an extra: pip install 'ssl-runner[export]'"


@pytest.mark.parametrize("name", ["torch", "huggingface"])
def test_a_full_disk_is_one_message_and_leaves_nothing(name, run, ssl_export, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # a write beyond it fails like on a full disk
    try:
        ended = ssl_export(run, "--to", name, "--output", tmp_path / FORMATS[name].file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.code == 1
    assert ended.err.startswith("cannot write ") and "Free some space" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_the_original_and_the_process_are_left_as_they_were(run, tmp_path):
    source, draws = trained(run), torch.get_rng_state()
    before = {name: value.clone() for name, value in source.encoder.state_dict().items()}
    exporting.export(source, "torch", tmp_path / "encoder.pt2")
    assert all(torch.equal(value, before[name]) for name, value in source.encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.equal(ssl_runner.load_encoder(run).mean, source.encoder.mean)
    assert os.listdir(tmp_path) == ["encoder.pt2"]
