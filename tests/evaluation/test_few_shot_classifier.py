"""A finished run, used again without its data: `load_algorithm` and `few_shot_classifier`."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from run_folders import MAML, PROTONET, VIEWS, settled
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import ssl_runner
from ssl_runner import train
from ssl_runner.errors import DataError
from ssl_runner.evaluation.few_shot_classifier import FewShotClassifier
from ssl_runner.models.features import evaluating
from ssl_runner.training.run import Run
from ssl_runner.wiring import wire

SHORT = ["trainer.max_steps=2", "eval=[]", "baselines=[]", "trainer.diagnostics_every=null", "model.encoder.width=4"]
DINO = ["algorithm=momentum", "algorithm.product=teacher", "loss=dino", "model/head=dino"]
DINO += ["model.head.hidden_features=16", "model.head.bottleneck=8", "model.head.out_features=12"]
VIEWS_DINO = [*(line for line in VIEWS if not line.startswith("model.head")), *DINO]
RUNS = {
    "simclr": VIEWS,
    "dino": VIEWS_DINO,  # a teacher, and a center whose width only training tells
    "supervised": ["algorithm=supervised", "loss=cross_entropy", "model/head=linear", "batching=labelled", *VIEWS[:-2]],
    "protonet": [*PROTONET, "model/head=projector", "model.head.out_features=8"],
    "maml": MAML,
    "caml": [*PROTONET, "algorithm=caml", "algorithm.label_width=16", "algorithm.depth=1"],  # on a frozen encoder
    # made for as many ways as a task may have at most
    "context": [
        *PROTONET,
        "algorithm=in_context_transformer",
        "algorithm.width=16",
        "algorithm.depth=1",
        "batching.n_way=[2,5]",
    ],
}
SIZES = [3, 1, 2, 1, 4]  # support images of each class


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[str, tuple[Path, Run]]:
    """The folder of each run, and its objects in memory after training."""
    found = {}
    for name, overrides in RUNS.items():
        folder, config = tmp_path_factory.mktemp(name), short(overrides)
        run = wire.wire(config)
        train.run(config, folder, run)
        found[name] = folder, run
    return found


@pytest.fixture(scope="session")
def digits(trained) -> tuple[Tensor, Tensor]:
    """Images of the size that the runs take, and their labels."""
    test = trained["simclr"][1].splits.test
    return test.images, test.labels


@pytest.fixture(scope="session")
def support(tmp_path_factory, digits) -> Path:
    """Class folders of unequal sizes."""
    folder, (images, labels) = tmp_path_factory.mktemp("support"), digits
    for label, size in enumerate(SIZES):
        write(images[labels == label][:size], folder / f"class {label}")
    return folder


@pytest.fixture(scope="session")
def queries(tmp_path_factory, digits) -> list[Path]:
    images, labels = digits
    return write(torch.cat([images[labels == label][10:13] for label in range(5)]), tmp_path_factory.mktemp("queries"))


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A copy of a run, to be damaged."""
    return Path(shutil.copytree(trained["protonet"][0], tmp_path / "copied"))


def short(overrides: list[str]) -> dict[str, Any]:
    return settled([line for line in overrides if not line.startswith(("eval", "baselines"))] + SHORT)


def write(images: Tensor, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:02}.png" for number in range(len(images))]
    for image, path in zip(images, files, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    return files


def pixels(files: list[Path], algorithm) -> Tensor:
    return algorithm.eval_encoder().read(files)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", RUNS)
def test_a_loaded_algorithm_is_the_complete_trained_one_in_evaluation_mode(name, trained):
    folder, run = trained[name]
    before = torch.random.get_rng_state()
    algorithm = ssl_runner.load_algorithm(folder)
    assert torch.equal(torch.random.get_rng_state(), before)  # building it drew first weights
    expected, got = run.algorithm.state_dict(), algorithm.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(value, got[key]) for key, value in expected.items())
    assert not any(module.training for module in algorithm.modules())
    product = ssl_runner.load_encoder(folder).state_dict()
    assert all(torch.equal(value, product[key]) for key, value in algorithm.eval_encoder().state_dict().items())


@pytest.mark.parametrize("name", RUNS)
def test_its_scores_are_those_of_classify_on_the_same_images(name, trained, support, queries):
    folder, run = trained[name]
    files = [path for label in range(5) for path in sorted((support / f"class {label}").iterdir())]
    labels = torch.arange(5).repeat_interleave(torch.tensor(SIZES))
    with evaluating(run.algorithm):
        images, new = pixels(files, run.algorithm), pixels(queries, run.algorithm)
        expected = run.algorithm.classify(images[None], labels[None], new[None], 5)[0]
    classify = ssl_runner.few_shot_classifier(folder, support=support)
    close = {"rtol": 1e-5, "atol": 1e-5}  # training kept its network in channels_last
    assert torch.allclose(classify.scores(queries), expected, **close)
    assert classify(iter(queries)) == [f"class {label}" for label in expected.argmax(dim=1).tolist()]
    assert classify.class_names == tuple(f"class {label}" for label in range(5))
    for batch in (new, new.float() / 255, new.double() / 255):
        assert torch.allclose(classify.scores(batch), expected, **close)


@pytest.mark.parametrize("name", ["simclr", "protonet"])
def test_classes_of_any_size_have_their_own_mean(name, trained, support, queries):
    """Compared with a loop in float64: minus the squared distance to the mean of each class, even of one image."""
    folder, run = trained[name]
    network = copy.deepcopy(run.algorithm.network).double().eval()
    with torch.no_grad():

        def embed(files: list[Path]) -> Tensor:
            features = network.encoder(pixels(files, run.algorithm))
            return F.normalize(features, dim=1) if name == "simclr" else network.head(features)

        means = [embed(sorted((support / f"class {label}").iterdir())).mean(dim=0) for label in range(5)]
        expected = [[-((query - mean) ** 2).sum() for mean in means] for query in embed(queries)]
    got = ssl_runner.few_shot_classifier(folder, support).scores(queries)
    assert torch.allclose(got.double(), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_the_checkpoint_that_the_result_names_is_loaded(copied):
    state = torch.load(copied / "checkpoints" / "last.pt", weights_only=True)["algorithm"]
    best = {key: value + 1 for key, value in state.items()}
    torch.save(best, copied / "checkpoints" / "best.pt")
    edit(copied / "result.json", lambda content: content["selected_checkpoint"].update(checkpoint="best.pt"))
    got = ssl_runner.load_algorithm(copied).state_dict()
    assert all(torch.equal(got[key], value) for key, value in best.items())


def test_neither_the_data_nor_its_folder_is_needed(tmp_path, digits, support, queries, monkeypatch):
    """Trained on RGB images in a folder that was deleted; gray files of another size are converted."""
    images, labels = digits
    for label in range(10):
        write(images[labels == label][:8], tmp_path / "data" / f"{label}")
    folder = ["dataset=image_folder", f"dataset.root={tmp_path / 'data'}", "dataset.size=20"]
    train.run(short([*RUNS["protonet"], *folder, "batching.n_query=1"]), tmp_path / "run")
    before = ssl_runner.few_shot_classifier(tmp_path / "run", support).scores(queries)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SSL_RUNNER_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("SSL_RUNNER_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path / "empty")
    classify = ssl_runner.few_shot_classifier(tmp_path / "run", support)
    assert torch.equal(classify.scores(queries), before)
    assert classify.encoder.input_shape == (3, 20, 20)
    assert not list((tmp_path / "empty").iterdir())


def test_many_images_are_classified_in_batches_of_equal_size(trained, support, queries, monkeypatch):
    whole = ssl_runner.few_shot_classifier(trained["simclr"][0], support)
    pieces = ssl_runner.few_shot_classifier(trained["simclr"][0], support, batch_size=7)
    sizes, classify = [], pieces.algorithm.classify
    monkeypatch.setattr(
        pieces.algorithm, "classify", lambda *given: sizes.append(given[2].shape[1]) or classify(*given)
    )
    assert torch.allclose(pieces.scores(queries), whole.scores(queries), atol=1e-6)
    assert sizes == [5, 5, 5]  # and not 7, 7 and 1, which alone would be normalised otherwise by MAML
    assert pieces([]) == []
    assert pieces.scores([]).shape == (0, 5)


@pytest.mark.parametrize(("statistics", "together"), [("batch", True), ("support", False), ("running", False)])
def test_only_batch_statistics_make_a_prediction_depend_on_the_other_images(
    statistics, together, trained, support, queries, tmp_path
):
    folder = Path(shutil.copytree(trained["maml"][0], tmp_path / "maml"))
    replace_text(folder / "config.yaml", "statistics: batch", f"statistics: {statistics}")
    classify = ssl_runner.few_shot_classifier(folder, support)
    alone, beside = classify.scores(queries[:1]), classify.scores(queries)[:1]
    assert torch.allclose(alone, beside, rtol=1e-4, atol=1e-4) is not together


def test_ink_on_paper_is_inverted_in_support_and_new_files(trained, support, queries, tmp_path):
    for path in [*support.rglob("*.png"), *queries]:
        target = tmp_path / path.relative_to(support.parent if support in path.parents else path.parents[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.invert(Image.open(path)).save(target)
    paper = tmp_path / support.name
    ink = [tmp_path / path.relative_to(path.parents[1]) for path in queries]
    expected = ssl_runner.few_shot_classifier(trained["protonet"][0], support).scores(queries)
    classify = ssl_runner.few_shot_classifier(trained["protonet"][0], paper, invert=True)
    assert torch.equal(classify.scores(ink), expected)
    assert not torch.equal(ssl_runner.few_shot_classifier(trained["protonet"][0], paper).scores(ink), expected)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def without_outputs(path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "n_outputs"}
    save_file(load_file(path), path, metadata)


def rekeyed(path: Path, change) -> None:
    state = torch.load(path, weights_only=True)
    change(state["algorithm"])
    torch.save(state, path)


DAMAGES = {
    "an unfinished run": (
        lambda run: edit(run / "result.json", lambda content: content.update(status="running")),
        ValueError,
        r"has the status 'killed', expected 'finished'; resume with: ssl-train resume=",
    ),
    "half a result": (lambda run: cut(run / "result.json"), ValueError, r"result\.json is damaged"),
    "no result": (
        lambda run: (run / "result.json").unlink(),
        FileNotFoundError,
        r"has no result\.json, so it is not a run",
    ),
    "no encoder": (lambda run: (run / "encoder.safetensors").unlink(), FileNotFoundError, r"encoder\.safetensors does"),
    "half an encoder": (lambda run: cut(run / "encoder.safetensors"), ValueError, r"encoder\.safetensors is damaged"),
    "an older run": (lambda run: without_outputs(run / "encoder.safetensors"), ValueError, "ssl-train reproduce="),
    "no config": (lambda run: (run / "config.yaml").unlink(), ValueError, r"config\.yaml cannot be read"),
    "no checkpoint": (
        lambda run: (run / "checkpoints/last.pt").unlink(),
        FileNotFoundError,
        r"last\.pt does not exist",
    ),
    "a flipped bit": (lambda run: flip(run / "checkpoints/last.pt"), ValueError, r"last\.pt is damaged"),
    "another checkpoint": (
        lambda run: edit(
            run / "result.json", lambda content: content["selected_checkpoint"].update(checkpoint="../../x.pt")
        ),
        ValueError,
        r"'\.\./\.\./x\.pt', expected last\.pt or best\.pt",
    ),
    "another width": (
        lambda run: replace_text(run / "config.yaml", "out_features: 8", "out_features: 9"),
        ValueError,
        r"last\.pt does not fit .*config\.yaml.*size mismatch",
    ),
    "a key too few": (
        lambda run: rekeyed(run / "checkpoints/last.pt", lambda state: state.popitem()),
        ValueError,
        r"does not fit .*Missing key",
    ),
    "a key too many": (
        lambda run: rekeyed(run / "checkpoints/last.pt", lambda state: state.update(other=torch.zeros(1))),
        ValueError,
        r"does not fit .*Unexpected key.*other",
    ),
    "code of a stranger": (
        lambda run: replace_text(run / "config.yaml", "ssl_runner.algorithms.protonet.ProtoNet", "os.system"),
        ValueError,
        r"config\.yaml: algorithm\._target_: os\.system is not trusted",
    ),
    "a key of another version": (
        lambda run: replace_text(run / "config.yaml", "last_norm:", "final_norm:"),
        ValueError,
        r"model\.head\.final_norm: Projector\(\) has no such parameter",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_unfinished_run_is_refused_with_the_reason(damage, copied):
    act, kind, message = DAMAGES[damage]
    act(copied)
    with pytest.raises(kind, match=message):
        ssl_runner.load_algorithm(copied)


def test_a_missing_run_is_reported(tmp_path, support):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give the folder of a finished run"):
        ssl_runner.few_shot_classifier(tmp_path / "nowhere", support)


def test_an_unusable_support_is_refused_with_the_reason(trained, support, tmp_path):
    def refused(folder: Path, message: str, kind=DataError, run="simclr") -> None:
        with pytest.raises(kind, match=message):
            ssl_runner.few_shot_classifier(trained[run][0], folder)

    (image, *_) = support.rglob("*.png")
    refused(tmp_path / "nowhere", "nowhere does not exist; give a folder", FileNotFoundError)
    refused(image, r"\.png is not a folder; give a folder", FileNotFoundError)
    three = tmp_path / "three"
    three.mkdir()
    refused(three, r"has 0 class folders \(none\), expected at least 2")
    (three / ".hidden").mkdir()
    shutil.copytree(support / "class 0", three / "test")
    refused(three, r"has 1 class folders \('test'\), expected at least 2")
    shutil.copytree(support / "class 1", three / "train")
    refused(three, r"'test', 'train', which are parts of a dataset, expected classes; give .*train")
    (three / "cat").mkdir()
    refused(three, "cat contains no images; expected files ending in")
    shutil.copy(image, three / "loose.PNG")
    refused(three, r"loose\.PNG is outside the class folders")
    (three / "loose.PNG").rename(three / "cat" / "1.PNG")
    six = tmp_path / "six"
    for number in range(6):
        shutil.copytree(three / "cat", six / str(number))
    refused(
        six,
        r"MAML of .* cannot distinguish the 6 classes of .*the head has 5 outputs.*a run trained",
        ValueError,
        "maml",
    )
    for run in ("simclr", "maml"):
        assert ssl_runner.few_shot_classifier(trained[run][0], three).class_names == ("cat", "test", "train")
    cut(three / "cat" / "1.PNG")
    refused(three, r"cat/1\.PNG cannot be decoded .*; replace or delete it")


def test_invalid_images_are_refused(trained, support, queries, tmp_path):
    classify = ssl_runner.few_shot_classifier(trained["simclr"][0], support)
    new = pixels(queries, classify.algorithm)
    for images, message in {
        new[..., :-1]: r"images are \(15, 1, 16, 15\), expected \(B, 1, 16, 16\)",
        new[0]: r"images are \(1, 16, 16\), expected \(B, 1, 16, 16\)",
        new.float(): r"floats in \[0, 255\], expected \[0, 1\]; divide by 255",
        new / 255 - 1: r"floats in \[-1, 0\], expected \[0, 1\]",
        new.long(): r"images are torch\.int64, expected uint8",
    }.items():
        with pytest.raises(ValueError, match=message):
            classify.scores(images)
    with pytest.raises(ValueError, match=r"got the path 'a\.png', expected a list of files; give \['a\.png'\]"):
        classify("a.png")
    with pytest.raises(DataError, match=r"gone\.png cannot be decoded"):
        classify([*queries, tmp_path / "gone.png"])
    with pytest.raises(ValueError, match=r"batch_size=0; give at least 1"):
        ssl_runner.few_shot_classifier(trained["simclr"][0], support, batch_size=0)


def test_a_classifier_of_tensors_equals_the_one_of_their_files(trained, support, queries):
    algorithm = ssl_runner.load_algorithm(trained["protonet"][0])
    files = sorted(support.rglob("*.png"))
    labels = torch.tensor([int(path.parent.name[-1]) for path in files])
    classifier = FewShotClassifier(algorithm, pixels(files, algorithm), labels, "abcde", invert=False, batch_size=9)
    expected = ssl_runner.few_shot_classifier(trained["protonet"][0], support, batch_size=9).scores(queries)
    assert torch.equal(classifier.scores(queries), expected)
    assert set(classifier(queries)) <= set("abcde")
