"""Every experiment, two steps, end to end on its real data."""

import json

import numpy as np
import pytest
import small_vits
import torch
from datasets_read_once import Known, datasets_read_once
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ssl_runner
from ssl_runner import train
from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.report import adaptation
from ssl_runner.wiring import wire

CONF = conf_folder()
# recipes for ImageNet, which is not at hand, take their steps in test_large_images
ALL = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
TINY_IMAGENET = ("simclr_tiny_imagenet", "pmf_tiny_imagenet")
MASKED = ("data2vec", "dinov2", "ibot", "ijepa", "mae", "simmim")  # need a transformer, so they run on one dataset
EXPERIMENTS = [name for name in ALL if not name.endswith("_imagenet") or name in TINY_IMAGENET]
EXPERIMENTS = [name for name in EXPERIMENTS if name.partition("_")[0] not in MASKED]
SMALL = ["trainer.max_epochs=null", "trainer.max_steps=2", "trainer.log_every=1", "trainer.progress=false"]


@pytest.fixture(autouse=True)
def few_tasks_to_show(monkeypatch):
    """Use fewer tasks for MAML's curves of inner steps: with 200 tasks per run they take minutes of the whole suite."""
    monkeypatch.setattr(adaptation, "N_TASKS", 4)


@pytest.fixture(scope="module")
def known_datasets() -> Known:
    return {}


@pytest.fixture
def each_dataset_is_read_once(known_datasets):
    """The first recipe for a dataset reads it."""
    with datasets_read_once(known_datasets):
        yield


def small(name: str) -> list[str]:
    overrides = [f"experiment={name}", *SMALL, "model/encoder=conv4", "model.encoder.width=4", "eval=[few_shot]"]
    overrides += ["eval.few_shot.episodes=4", "baselines=[]"]
    config = validate.checked_config(Composer(CONF), [f"experiment={name}"])[0]
    if "clusters" in config["dataset"]:
        overrides += ["dataset.partitions=2", "dataset.clusters=12"]
    if "eval_inner_steps" in config["algorithm"]:
        overrides += ["algorithm.eval_inner_steps=2"]
    if "fine_tune_steps" in config["algorithm"]:
        overrides += ["algorithm.fine_tune_steps=2", "algorithm.choice_tasks=2"]
    if "tasks_per_batch" in config["batching"]:
        return [*overrides, "batching.tasks_per_batch=2", "batching.n_way=5"]
    if name == "w_mse_cifar10":
        overrides += ["model.head.out_features=2", "loss.size=4"]
    return [*overrides, "batching.batch_size=16"]


def run(folder, *overrides: str) -> dict:
    return train.run(validate.checked_config(Composer(CONF), list(overrides))[0], folder)


def small_transformer(name: str) -> list[str]:
    overrides = [f"experiment={name}", *SMALL, "eval=[few_shot]", "eval.few_shot.episodes=4", "baselines=[]"]
    overrides += ["model.encoder._target_=small_vits.SmallViT"]
    overrides += ["algorithm.target.layers=2"] if name.startswith("data2vec") else []  # of 12 blocks, two are left
    return [*overrides, "batching.batch_size=4", "trainer.diagnostics_every=null"]


@pytest.mark.parametrize("name", [*EXPERIMENTS, *(f"{method}_fashion_mnist" for method in MASKED)])
@pytest.mark.usefixtures("each_dataset_is_read_once")
def test_every_experiment_runs_and_leaves_a_complete_folder(name, tmp_path, request, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "small_vits")
    if not name.endswith("digits"):
        request.getfixturevalue("data_root")
    result = run(tmp_path, *(small(name) if name in EXPERIMENTS else small_transformer(name)))
    on_disk = json.loads((tmp_path / "result.json").read_text())
    assert on_disk == result
    assert on_disk["status"] == "finished"
    assert on_disk["dataset"]["fingerprint"]
    settings = on_disk["protocols"]["few_shot"]["settings"]
    assert settings
    for setting, described in settings.items():
        domain, slash, ways = setting.rpartition("/")
        assert described["tasks"]
        assert 0 <= on_disk["metrics"][f"{domain}{slash}few_shot/{ways}/top1"] <= 1
        # 0 if all episodes are at chance because all queries get the same class
        assert 0 <= on_disk["metrics"][f"{domain}{slash}few_shot/{ways}/ci95"] < 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == ([0, 1, 2] if name in EXPERIMENTS else [1, 2])  # diagnostics are at step 0
    assert {"train/loss", "train/lr", "train/gradient_norm", "time/images_per_second", "time/data_share"} <= set(
        rows[-2]
    )
    encoder = ssl_runner.load_encoder(tmp_path)
    shape = (2, *encoder.input_shape)
    assert encoder(torch.zeros(shape, dtype=torch.uint8)).shape == (2, encoder.out_features)


def test_all_evaluators_and_baselines_are_in_the_result(tmp_path):
    metrics = run(tmp_path, *SMALL, "model.encoder.width=4", "eval.few_shot.episodes=4", "batching.batch_size=8")[
        "metrics"
    ]
    for prefix in ("", "raw_pixels/", "untrained/"):
        for name in ("knn/top1", "linear_probe/top1", "few_shot/5w1s/top1", "few_shot/5w1s/ci95"):
            assert prefix + name in metrics


def test_a_run_on_images_without_labels_is_scored_on_a_labelled_dataset(tmp_path, data_root):
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
    overrides = [*SMALL, "model.encoder.width=4", "batching.batch_size=8", "baselines=[untrained]"]
    overrides += [
        "dataset=image_folder",
        f"dataset.root={tmp_path / 'images'}",
        "dataset.size=12",
        "eval=[knn_cifar10]",
    ]
    overrides += [f"eval.knn_cifar10.dataset.{key}" for key in ("size=12", "channels=3", "validation=0")]
    result = run(tmp_path / "run", *overrides)
    assert list(result["metrics"]) == ["cifar10/knn/top1", "untrained/cifar10/knn/top1"]
    assert result["metrics"]["cifar10/knn/top1"] > 0.15  # of ten classes
    assert result["protocols"]["knn_cifar10"]["gallery"] == "cifar10/train"


def test_a_run_on_two_datasets_is_scored_on_held_out_classes_and_on_unseen_datasets(tmp_path, data_root):
    targets = ("few_shot", "few_shot_cifar10", "few_shot_omniglot")
    overrides = [
        word for word in small("protonet_mnist_fashion_to_cifar10") if word not in ("eval=[few_shot]", "baselines=[]")
    ]
    overrides.append(f"eval=[{','.join(targets)}]")
    result = run(tmp_path, *overrides, *(f"eval.{target}.episodes=4" for target in targets))
    ways = [f"{domain}/few_shot/2w{shots}s" for domain in ("mnist", "fashion_mnist") for shots in (1, 5)]
    ways += [f"{target}/few_shot/5w{shots}s" for target in ("cifar10", "omniglot") for shots in (1, 5)]
    prefixes = ("", "raw_pixels/", "untrained/")
    assert set(result["metrics"]) == {
        f"{p}{way}/{score}" for p in prefixes for way in ways for score in ("top1", "ci95")
    }
    protocols = [result["protocols"][target] for target in targets]
    assert [protocol["source"] for protocol in protocols] == [
        "mnist+fashion_mnist/test",
        "cifar10/test",
        "omniglot/test",
    ]
    assert {protocol["classes"] for protocol in protocols} == {"unseen"}
    written = {path.name for path in tmp_path.glob("tasks*.safetensors")}
    assert written == {"tasks.safetensors", "tasks_cifar10.safetensors", "tasks_omniglot.safetensors"}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any(key.startswith("train/accuracy/") for row in rows for key in row)
    events = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    tasks = {"episode/cifar10", "episode/omniglot"}  # two of its own classes are held out
    assert set(events.Tags()["images"]) == {*tasks, *(f"{task}/features" for task in tasks), "few_shot"}
    assert [image.step for image in events.Images("episode/cifar10")] == [0, 2]


def test_the_untrained_baseline_has_the_runs_initial_weights(tmp_path, monkeypatch):
    from ssl_runner.training import session

    seen = []
    evaluate = session.evaluate
    monkeypatch.setattr(session, "evaluate", lambda *given: seen.append(given[1]) or evaluate(*given))
    overrides = [
        *SMALL,
        "model.encoder.width=4",
        "batching.batch_size=8",
        "eval=[few_shot]",
        "eval.few_shot.episodes=4",
    ]
    run(tmp_path, *overrides, "baselines=[untrained]")
    trained, untrained = (algorithm.state_dict() for algorithm in seen)
    first = wire.wire(validate.checked_config(Composer(CONF), overrides)[0]).algorithm.state_dict()
    assert all(torch.equal(value, untrained[name]) for name, value in first.items())
    assert any(not torch.equal(value, trained[name]) for name, value in first.items())


def test_a_residual_network_trains_like_a_small_one(tmp_path):
    overrides = [*small("simclr_digits"), "model/encoder=resnet18", "trainer.max_steps=1"]
    overrides += ["trainer.diagnostics_every=null"]
    overrides.remove("model.encoder.width=4")
    assert run(tmp_path, *overrides)["status"] == "finished"


def test_more_ways_than_the_head_has_outputs_are_reported_before_training(tmp_path, data_root):
    with pytest.raises(ValueError, match="the head has 5 outputs"):
        run(tmp_path, *small("maml_omniglot"), "eval.few_shot.settings=[20w1s]")
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_same_command_twice_gives_the_same_numbers(tmp_path):
    overrides = [*small("simclr_digits"), "eval=[knn,few_shot]"]
    first, second = run(tmp_path / "1", *overrides), run(tmp_path / "2", *overrides)
    assert first["metrics"] == second["metrics"]
    assert first["config_hash"] == second["config_hash"]
    other = run(tmp_path / "3", *overrides, "seed=1")
    assert other["config_hash"] != first["config_hash"]


def states(folder) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    found = {f"algorithm/{name}": value for name, value in state["algorithm"].items()}
    for index, values in state["optimizer"]["state"].items():
        found |= {f"optimizer/{index}/{name}": value for name, value in values.items() if torch.is_tensor(value)}
    return found


WITH_STATE = {  # predictor, teacher, queue, shuffled groups, center, delayed prototypes, neighbours, shots
    "moco_v2_cifar10": ["algorithm.queue_size=40", "algorithm.batch_norm_groups=4"],
    "byol_cifar10": [],
    "dino_cifar10": ["algorithm.freeze_share=0.4", "loss.warmup_share=0.5"],
    "swav_cifar10": ["algorithm.queue_size=40", "algorithm.freeze_share=0.4", "algorithm.queue_share=0.4"],
    "nnclr_cifar10": ["algorithm.queue_size=40"],
    "psco_omniglot": ["algorithm.queue_size=40", "eval.few_shot.settings=[5w1s]"],
}


@pytest.mark.parametrize("name", ["simclr_digits", "maml_omniglot", "maml_pp_omniglot", *WITH_STATE])
def test_k_and_k_steps_equal_2k_bitwise(name, tmp_path, monkeypatch, request):
    if name.endswith("_omniglot") and name not in WITH_STATE:
        request.getfixturevalue("data_root")
    overrides = [*small(name), "trainer.max_steps=6", "trainer.checkpoint_every=3"]
    if name in WITH_STATE:
        overrides += ["dataset=digits", *WITH_STATE[name]]
    k_and_k_equal_2k(overrides, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["data2vec", "ibot", "dinov2"])
def test_k_and_k_steps_of_masked_prediction_equal_2k_bitwise_with_its_teacher(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "small_vits")
    overrides = [*small_vits.RUN, *small_vits.METHODS[name], "trainer.max_steps=6", "trainer.checkpoint_every=3"]
    overrides += ["trainer.diagnostics_every=null"]  # which take most of the time
    k_and_k_equal_2k(overrides, tmp_path, monkeypatch)
    assert any(key.startswith("algorithm/teacher.") for key in states(tmp_path / "cut"))


def k_and_k_equal_2k(overrides: list[str], tmp_path, monkeypatch) -> None:
    """A run that is interrupted and resumed has the bits of one that is not."""
    whole = run(tmp_path / "whole", *overrides)

    from ssl_runner.training.trainer import Trainer

    step = Trainer.step

    def crash(self, algorithm, batch, optimizer, context, *more):
        if context.step == 4:
            raise KeyboardInterrupt
        return step(self, algorithm, batch, optimizer, context, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", crash)
        run(tmp_path / "cut", *overrides)
    again = run(tmp_path / "cut", *overrides, "resume=auto")
    assert again["metrics"] == whole["metrics"]
    expected, got = states(tmp_path / "whole"), states(tmp_path / "cut")
    assert expected.keys() == got.keys()
    for key, value in expected.items():
        assert torch.equal(value, got[key]), key


def test_the_readmes_three_lines_give_features_of_image_files(tmp_path):
    run(tmp_path / "run", *small("simclr_digits"))

    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    Image.new("L", (28, 28), 3).save(tmp_path / "b.png")
    RUN, files = tmp_path / "run", [tmp_path / "a.png", tmp_path / "b.png"]
    encoder = ssl_runner.load_encoder(RUN)
    features = encoder(encoder.read(files))
    assert features.shape == (2, encoder.out_features)
    assert torch.equal(features, encoder(encoder.read(files)))


def test_a_missing_encoder_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"encoder\.safetensors"):
        ssl_runner.load_encoder(tmp_path)


@pytest.mark.parametrize(
    "override", ["algorithm.second_order=false", "algorithm.statistics=support", "trainer.accumulate_grad_batches=2"]
)
def test_mamls_options_run(override, tmp_path, data_root):
    assert run(tmp_path, *small("maml_omniglot"), override)["status"] == "finished"


@pytest.mark.parametrize("ranges", [["batching.n_way=[2,4]"], ["batching.n_way=[3,5]", "batching.k_shot=[1,3]"]])
def test_steps_of_different_ways_and_shots_train_on_digits(ranges, tmp_path):
    overrides = [*small("protonet_digits"), "trainer.max_steps=8", "augmentation=light", *ranges]
    assert run(tmp_path, *overrides)["images_per_second"] > 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(9))


@pytest.mark.parametrize("mining", ["all", "hardest", "semi_hard"])
def test_every_mining_strategy_trains_on_digits(mining, tmp_path):
    overrides = [*small("pairwise_mnist"), "dataset=digits", f"loss.mining={mining}", "trainer.max_steps=30"]
    run(tmp_path, *overrides, "batching.batch_size=64", "model.encoder.width=8")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train/positive_distance"] < rows[-1]["train/negative_distance"]
