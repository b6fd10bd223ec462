"""Wrong command lines are refused with a remedy, before a folder, a file or a download exists."""

import contextlib
import copy
import functools
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from ssl_runner import train
from ssl_runner.cli import command_line, validate
from ssl_runner.cli.app import App
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config import schema
from ssl_runner.data.sources import download
from ssl_runner.errors import ConfigError
from ssl_runner.runtime import no_download
from ssl_runner.wiring import wire

CONF = conf_folder()


class Answer:
    """The real program's answer to a command line in an empty folder, without any data."""

    def __init__(self, monkeypatch, capsys, place: Path, line: str) -> None:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["ssl-train", *shlex.split(line)])
        before = files(place)

        def run(config, folder, prepared):
            raise AssertionError("it ran")

        try:
            self.code = command_line.main(App(train.prepare, run, train.rehearse))
        except SystemExit as done:
            self.code = done.code
        self.out, self.text = capsys.readouterr()
        self.made = files(place) - before

    def refused(self, *words: str) -> None:
        """Check the exit code and the words, and that there is no traceback and no new file."""
        assert self.code == 2, self.text
        assert "Traceback" not in self.text
        assert self.out == ""
        for word in words:
            assert word in self.text
        assert self.made == set()


def files(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*")}


@pytest.fixture
def answer(monkeypatch, capsys, tmp_path):
    """Runs command lines; fails if one even begins a download."""
    downloads = []

    @contextlib.contextmanager
    def begun(path, **_):
        downloads.append(path)
        raise OSError("a download was begun")
        yield

    monkeypatch.setattr(download, "locked", begun)
    monkeypatch.setattr(validate, "SECONDS_OF_PREPARING", float("inf"))  # a slow machine leaves no job out
    monkeypatch.delenv("SSL_RUNNER_OUTPUTS", raising=False)
    monkeypatch.delenv("SSL_RUNNER_TRUSTED", raising=False)
    monkeypatch.setenv("SSL_RUNNER_DATA", str(tmp_path / "data"))
    yield lambda line: Answer(monkeypatch, capsys, tmp_path, line)
    assert downloads == []


SPELLING = [
    # options, groups
    (
        "experiment=simclr_minst optimizer=adm eval=[knn,linear_prob]",
        ["'simclr_minst' in group experiment; did you mean 'simclr_mnist'?", "mean 'adam'?", "mean 'linear_probe'?"],
    ),
    (
        "optimzer=adam encoder=resnet18 ~optimzr",
        [
            "optimzer: there is no such group; did you mean 'optimizer=adam'?",
            "did you mean 'model/encoder=resnet18'?",
            "~optimzr: there is nothing to remove; did you mean 'optimizer'?",
        ],
    ),
    (
        "experiment=maml_digits",
        ["no option 'maml_digits' in group experiment; write experiment=maml_omniglot dataset=digits;"],
    ),
    ("optimizer=", ["no option '' in group optimizer; options: adam, adamw"]),
    ("model=5 trainer=5", ["model is a group; choose a group inside it", "trainer is a group; choose one of default"]),
    # keys
    (
        "trainer.max_epoch=3 sed=3 lr=0.1 ~trainer.log_evry hydra.run.dri=here",
        [
            "did you mean 'trainer.max_epochs'?",
            "did you mean 'seed'?",
            "did you mean 'optimizer.lr'?",
            "did you mean 'trainer.log_every'?",
            "hydra.run.dri: there is no such key; did you mean 'hydra.run.dir'?",
        ],
    ),
    (
        "+optimizer.weight_decya=1 ++optimizer.lrr=1 +seeed=1 +optimzer=sgd ~loss.temperature",
        [
            "optimizer.weight_decya: Adam() has no such parameter; did you mean 'weight_decay'?",
            "optimizer.lrr: Adam() has no such parameter; did you mean 'lr'?",
            "seeed: there is no such key; did you mean 'seed'?",
            "optimzer: there is no such key; did you mean 'optimizer'?",
            "loss.temperature: NTXent() needs it; set loss.temperature=...",
        ],
    ),
    ("+seed=1 name", ["seed exists already; leave out the +", "write key=value"]),
    ("~loss", ["algorithm Contrastive needs a loss, but none is set; choose loss=nt_xent or another"]),
    ("loss.temperature=[", ["cannot be read"]),
    ("seed=0,1", ["add -m to run once for each"]),
    # flags and other runs
    ("--config-dir nowhere", ["nowhere is not a folder"]),
    ("resume=nowhere", ["nowhere does not exist; give outputs/NAME/RUN"]),
    ("resume=.", ["has no config.yaml, so it is not a run folder"]),
    ("resume=", ["resume= names no run"]),
    ("reproduce=nowhere", ["nowhere does not exist; give outputs/NAME/RUN"]),
    ("reproduce=auto", ["does not exist"]),
    ("resume=auto reproduce=nowhere", ["give only one of them"]),
]

VALUES = [
    # types
    (
        "seed=abc name=null dry_run=maybe baselines=raw_pixels trainer.log_every=null trainer.channels_last=1 "
        "optimizer.lr=true batching.batch_size=64.0 dataset.class_counts=5 eval.knn=5",
        [
            "seed: got 'abc' (str), expected int",
            "name: got None (null), expected str",
            "dry_run: got 'maybe' (str), expected bool",
            "baselines: got 'raw_pixels' (str)",
            "trainer.log_every: got None (null), expected int",
            "trainer.channels_last: got 1 (int), expected bool",
            "optimizer.lr: got True (bool)",
            "batching.batch_size: got 64.0 (float), expected int; write 64",
            "dataset.class_counts: got 5 (int)",
            "eval.knn: got 5 (int), expected a node with a _target_ or null",
        ],
    ),
    (
        "seed=null trainer.gradient_clip_norm=None optimizer.lr=nan loss.temperature=inf +optimizer.betas=[0.9] "
        "+optimizer.params=[] +optimizer.foreach=5 eval.few_shot.settings=5w1s",
        [
            "seed: got None (null)",
            "null is null in YAML: trainer.gradient_clip_norm=null",
            "optimizer.lr: got nan, expected a finite number",
            "loss.temperature: got inf, expected a finite number",
            "optimizer.betas: got [0.9] (list)",
            "optimizer.params: the runner supplies it to Adam()",
            "optimizer.foreach: got 5 (int)",
            "eval.few_shot.settings: got '5w1s' (str)",
        ],
    ),
    (
        "optimizer.lr=[1,2] optimizer._partial_=false",
        ["optimizer.lr: got [1, 2] (list)", "_target_ and _partial_: true"],
    ),
    # what cannot be
    (
        "optimizer.lr=0 loss.temperature=0 batching.batch_size=5000 model.encoder.width=0 eval.knn.k=0 "
        "baselines=[raw_pixel] name=../elsewhere",
        [
            "optimizer.lr=0; give a number above 0",
            "loss: temperature=0",
            "batch_size=5000, but translated_digits/train has",
            "width=0",
            "eval.knn needs k >= 1",
            "'raw_pixel' is not one of raw_pixels, untrained",
            "name='../elsewhere': expected the name of a folder below outputs/",
        ],
    ),
    (
        "seed=-1 +optimizer.betas=[2,0.9] trainer.device=gpu eval.few_shot.settings=[5w1] dataset.size=1000000",
        [
            "seed=-1; give a number in [0, 2**63)",
            "optimizer.betas=[2, 0.9]; give two numbers in [0, 1)",
            "device='gpu' is not available here, expected one of cpu",
            "'5w1'; expected ways and shots, as in 5w1s",
            "GiB of memory; lower it",
        ],
    ),
    (
        "optimizer=sgd optimizer.momentum=1 model.encoder.grid=100 eval.few_shot.settings=[11w1s] trainer.max_steps=5",
        [
            "optimizer.momentum=1; give a number in [0, 1)",
            "grid=100, but images are only 20 pixels wide; give 1 to 20, or null",
            "n_way=11, but split 'test' of translated_digits has 10 classes; lower",
            "max_steps=5, max_epochs=60; give exactly one and set the other to null",
        ],
    ),
    (
        "augmentation.transforms.crop.size=8 model.encoder.grid=null eval.few_shot.settings=[5w500s] "
        "trainer.max_epochs=null",
        [
            "it turns images of 1 x 20 x 20 into 1 x 8 x 8",
            "k_shot=500",
            "max_steps=None, max_epochs=None; give exactly one",
        ],
    ),
    (
        "model/encoder=vit_tiny batching=multi_crop loss=sigreg",
        [
            "local views: the network cannot take images of 1 x 10 x 10",
            "set batching.local_pool=1 and batching.local_augmentation.transforms.crop.size=12",
        ],
    ),
    (
        "dataset.validation=0.9 dataset.test=0.9 trainer.select=knn/top1",
        ["dataset.validation=0.9 of translated_digits leaves no train images", "selection needs both"],
    ),
    ("trainer.select=knn/top trainer.evaluate_every=5", ["evaluation has no such metric; did you mean 'knn/top1'?"]),
    ("trainer.device=cpu:first", ["device='cpu:first' is not a device"]),
    ("-m loss.temperature=0.5,-1 optimizer.lr=0.1,0", ["loss: temperature=-1", "optimizer.lr=0;"]),
    ("-m seed=0,abc optimizer.lr=1,fast", ["seed: got 'abc'", "optimizer.lr: got 'fast'"]),
]

EPISODES = "batching=episodes_5w1s loss=cross_entropy trainer.max_epochs=null trainer.max_steps=5 dataset.split=classes"
MISFITS = [
    ("algorithm=maml", ["MAML takes Episodes, but batching makes Views; choose batching=episodes_5w1s"]),
    ("batching=episodes_5w1s", ["Contrastive takes Views, but batching makes Episodes; choose batching=two_view"]),
    (f"algorithm=maml {EPISODES} loss=nt_xent", ["loss NTXent takes embeddings, but MAML gives logits"]),
    (f"algorithm=maml {EPISODES}", ["the head must have one output per class, 5; choose model/head=linear"]),
    (
        f"algorithm=maml {EPISODES} model/head=linear batching.n_way=3 eval=[few_shot]",
        ["the head has 3 outputs, so MAML classifies at most 3 ways, got 5"],
    ),
    (
        f"algorithm=protonet {EPISODES} batching.n_way=6",
        ["n_way=6, but split 'train' of translated_digits has 5 classes; lower"],
    ),
    (f"algorithm=protonet {EPISODES} batching.k_shot=300", ["k_shot=300", "lower batching.k_shot"]),
    (
        f"algorithm=protonet {EPISODES} batching.n_way=[2,6]",
        ["n_way=6, but split 'train' of translated_digits has 5 classes"],
    ),
    (f"algorithm=protonet {EPISODES} batching.n_way=[5,2]", ["n_way=[5, 2] is a reversed range"]),
    (
        f"algorithm=protonet {EPISODES} batching.ways_grow_every=0",
        ["ways_grow_every=0; give at least 1 step, or null"],
    ),
    (
        f"algorithm=protonet {EPISODES} batching.n_way=[2,x] batching.k_shot=1.5",
        ["n_way: got [2, 'x'] (list), expected int or list[int]", "k_shot: got 1.5 (float), expected int or list[int]"],
    ),
    (
        f"algorithm=maml {EPISODES} batching.n_way=[2,5] model/head=linear",
        ["or their tasks have different numbers of them; use another head", "episodes with one batching.n_way"],
    ),
    (
        f"algorithm=maml {EPISODES} batching.n_way=[2,5] model/head=identity",
        ["MAML classifies with its head, with one output per class, but", "give one batching.n_way instead of a range"],
    ),
    (f"algorithm=protonet {EPISODES} trainer.max_steps=null trainer.max_epochs=5", ["set trainer.max_steps"]),
    (
        "loss=cross_entropy dataset.split=classes dataset.class_counts=[9,0,9]",
        ["loss CrossEntropy takes logits, but Contrastive gives embeddings", "in total at most its 10 classes"],
    ),
    ("batching.views=1", ["loss NTXent compares 2 views, but batching makes 1; set batching.views=2"]),
    (
        "batching.views=3 batching.batch_size=1 trainer.accumulate_grad_batches=2",
        [
            "loss NTXent compares 2 views, but batching makes 3; set batching.views=2",
            "batching.batch_size=1, but Contrastive compares images within a batch",
            "a batch cannot be cut; set it to 1",
        ],
    ),
]

TARGETS = [
    (
        "optimizer._target_=os.system loss._target_=torch.nn.functional.torch.load trainer._target_=5 "
        "algorithm._target_=ssl_runner.algorithms.contrastive.Contrastiv scheduler._target_=ssl_runner.losses "
        "batching._target_=ssl_runner.data.bathcing.ViewBatching",
        [
            "optimizer._target_: os.system is not trusted",
            "loss._target_: torch.nn.functional.torch.load is actually torch.",
            "trainer._target_: _target_=5 is not a dotted name",
            "Contrastiv does not exist; did you mean 'Contrastive'?",
            "ssl_runner.losses is not a class or function",
            "ssl_runner.data.bathcing does not exist; did you mean 'batching'?",
        ],
    ),
]

# the sizes of absent data are known: nothing is downloaded before the command line makes sense
ABSENT = [
    ("dataset=mnist batching.batch_size=60000 optimizer.lr=0", ["batch_size=60000, but mnist/train has 55000", "lr=0"]),
    ("experiment=simclr_cifar10 model/encoder=conv4 dataset.channels=2", ["dataset.channels=2: expected 1 (gray), 3"]),
    ("dataset=fashion_mnist dataset.size=-3", ["dataset.size=-3: expected a number of pixels"]),
    ("dataset=torchvision dataset.name=CIFAR", ["dataset.name='CIFAR': expected one of CIFAR10, CIFAR100"]),
    ("dataset=torchvision", ["dataset.name: it has no value; set dataset.name=..."]),
    ("dataset=image_folder dataset.root=nowhere", ["nowhere is missing or not a folder; set dataset.root"]),
    ("experiment=maml_omniglot batching.n_way=5000", ["n_way=5000, but split 'train' of omniglot has 4400 classes"]),
    ("experiment=maml_omniglot batching.k_shot=20", ["need 21 images per class"]),
    (
        "dataset=mixture dataset.held_out=10 eval=[]",
        ["dataset.held_out=10: mnist has 10 classes, and at least one must be trained on; give a number in [0, 9]"],
    ),
    ("dataset=mixture dataset.datasets.mnist.size=-3 eval=[]", ["dataset.datasets.mnist.size=-3: expected a number"]),
    (
        "dataset=mixture dataset.weights={mnits:3} eval=[]",
        ["dataset.weights.mnits: there is no such dataset; did you mean 'mnist'?"],
    ),
    ("dataset=mixture dataset.weights={mnist:much} eval=[]", ["dataset.weights.mnist: got 'much' (str), expected"]),
    (
        "dataset=four_sources dataset.held_out=0 eval=[]",
        ["dataset.held_out=0: all classes of mnist are trained on, but other sources are split by classes"],
    ),
    (
        "experiment=protonet_four_sources_to_cifar10 batching.n_way=20",
        ["n_way=20, but domain 'mnist' of split 'train' of mnist+fashion_mnist+omniglot+tiny_imagenet has 8 classes"],
    ),
    (
        "dataset=mixture dataset.datasets.mnist=5 augmentation.transforms.crop=no",
        [
            "dataset.datasets.mnist: got 5 (int), expected Splits or null",
            "augmentation.transforms.crop: got 'no' (str), expected Transform or null",
        ],
    ),
    (
        "dataset=mixture dataset.datasets.mnist.chanels=3 dataset.channels=2",
        ["dataset.datasets.mnist.chanels: there is no such key; did you mean 'dataset.datasets.mnist.channels'?"],
    ),
    (
        "dataset=mixture dataset.size=32 dataset.datasets.mnist.size=28 eval=[few_shot_omniglot]",
        [
            "dataset.datasets.mnist has images of 1 x 28 x 28, expected 1 x 32 x 32 in every dataset",
            "set dataset.datasets.mnist.size=32 dataset.datasets.mnist.channels=1",
        ],
    ),
    (
        "experiment=protonet_mnist_fashion_to_cifar10 batching.n_way=9 eval.few_shot.settings=[5w1s] "
        "eval.few_shot_omniglot.dataset.size=32",
        [
            "n_way=9, but domain 'mnist' of split 'train' of mnist+fashion_mnist has 8 classes; lower batching.n_way",
            "n_way=5, but domain 'fashion_mnist' of split 'test' of mnist+fashion_mnist has 2 classes",
            "set eval.few_shot.settings=[2w1s]",
            "eval.few_shot_omniglot.dataset makes images of 1 x 32 x 32, but the encoder takes 1 x 28 x 28; set "
            "eval.few_shot_omniglot.dataset.size=28 eval.few_shot_omniglot.dataset.channels=1",
        ],
    ),
    (
        "experiment=maml_mnist_fashion_to_cifar10 batching.task_augmentation.colorization=1.0 "
        "eval.few_shot_omniglot.dataset.size=-1",
        [
            "task_augmentation.colorization=1.0, but images of mnist+fashion_mnist/train are gray; set "
            "batching.task_augmentation.colorization=0 or dataset.channels=3",
            "eval.few_shot_omniglot.dataset.size=-1: expected a number of pixels",
        ],
    ),
    (
        "experiment=simclr_mnist eval=[few_shot_cifar10] trainer.evaluate_every=5 "
        "trainer.select=cifar10/few_shot/5w1s/top1",
        ["evaluation has no such metric"],
    ),
]

# reported together although found at different times: words, then types, then construction, then fit
TOGETHER = [
    (
        "trainer.max_epoch=3 loss.temperature=abc batching.batch_size=-1 eval.few_shot.settings=[5w]",
        ["did you mean 'trainer.max_epochs'?", "loss.temperature: got 'abc'", "batch_size=-1", "'5w'; expected"],
    ),
    ("optimzer=adam seed=abc +loss.temp=1", ["did you mean 'optimizer=adam'?", "seed: got 'abc'", "loss.temp"]),
    (
        "+experiment.x=1 dataset=mnist dataset.root=nowhere seed=x batching.batch_size=70000",
        ["experiment", "seed: got 'x'", "batch_size=70000"],
    ),
]
# a constructor reports its first wrong value; the others appear once that one is removed
TOGETHER += [
    (
        "experiment=maml_omniglot algorithm.inner_lr=-1 algorithm.inner_steps=0 batching.n_way=0 batching.k_shot=0",
        ["inner_lr=-1", "inner_steps=0", "n_way=0", "k_shot=0"],
    ),
    (
        "trainer.max_steps=0 trainer.max_epochs=null trainer.log_every=0 loss.temperature=-2",
        ["max_steps=0", "log_every=0", "temperature=-2"],
    ),
]


@pytest.mark.parametrize(("line", "words"), SPELLING + VALUES + MISFITS + TARGETS + ABSENT + TOGETHER)
def test_a_mistake_is_reported_with_its_remedy_before_anything_is_created(answer, line, words):
    answer(line).refused(*words)


def test_removing_a_wrong_word_causes_no_further_problems(answer):
    said = answer("trainer.max_steps=abc trainer.max_epochs=null seed=x")
    said.refused("trainer.max_steps: got 'abc'", "seed: got 'x'")
    assert said.text.count("\n") == 2
    said = answer("algorithm=maml batching=episodes_5w1 seed=x")
    said.refused("did you mean 'episodes_5w1s'?", "seed: got 'x'")
    assert "takes Episodes" not in said.text


OWN = """\
# @package _global_
optimizer: {weight_decya: 1}
trainer: {gradient_clip_norm: None, max_epoch: 3}
batching: {batch_size: sixty}
los: {temperature: 1}
"""


def test_a_typo_in_the_users_own_experiment_is_found(answer, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(OWN)
    answer("--config-dir mine experiment=own").refused(
        "optimizer.weight_decya: SGD() has no such parameter; did you mean 'weight_decay'?",
        "trainer.gradient_clip_norm: got the string 'None'; null is null in YAML",
        "trainer.max_epoch: Trainer() has no such parameter; did you mean 'max_epochs'?",
        "batching.batch_size: got 'sixty' (str), expected int",
        "los: there is no such key; did you mean 'loss'?",
    )
    (tmp_path / "mine" / "experiment" / "lossless.yaml").write_text("# @package _global_\nloss: null\n")
    answer("--config-dir mine experiment=lossless").refused("Contrastive needs a loss")


ROLES = {
    "loss": (
        "_target_: torch.nn.ReLU",
        "loss._target_: torch.nn.ReLU makes a ReLU, expected a Loss (ssl_runner.losses",
    ),
    "algorithm": ("_target_: torch.nn.ReLU", "algorithm._target_: torch.nn.ReLU is not an algorithm"),
    "batching": (
        "_target_: ssl_runner.optim.schedules.Constant",
        "batching._target_: ssl_runner.optim.schedules.Constant takes no augmentation",
    ),
    "scheduler": ("_target_: ssl_runner.data.batching.batching.on_device", "scheduler.images: on_device() needs it"),
    "optimizer": ("{_target_: torch.optim.LBFGS, _partial_: true}", "optimizer: LBFGS cannot be used here"),
    "model/encoder": (
        "{_target_: torch.nn.ReLU, _partial_: true}",
        "model.encoder._target_: torch.nn.ReLU cannot be called with (in_channels, image_size)",
    ),
    "model/head": (
        "{_target_: torch.nn.ReLU, _partial_: true}",
        "model.head._target_: torch.nn.ReLU cannot be called with (in_features, n_outputs)",
    ),
    "augmentation": (
        "_target_: torch.nn.ReLU",
        "augmentation._target_: torch.nn.ReLU makes a ReLU, expected a Augmentation",
    ),
    "eval": (
        "# @package eval.own\n_target_: torch.nn.ReLU",
        "eval.own._target_: torch.nn.ReLU makes a ReLU, expected a",
    ),
}


def test_a_class_that_cannot_play_its_part_is_refused(answer, tmp_path):
    for group, (text, words) in ROLES.items():
        file = tmp_path / "mine" / group / "own.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        choice = "eval=[own]" if group == "eval" else f"{group}=own"
        answer(f"--config-dir mine ~experiment {choice}").refused(words)


def test_a_leftover_value_is_dropped_with_a_message_and_a_typed_one_is_refused(answer):
    answer("optimizer=sgd optimizer.betas=[0.9,0.9]").refused("optimizer.betas: there is no such key", "momentum")
    said = answer("optimizer=sgd optimizer.lr=0")
    said.refused("optimizer.lr=0")
    said = answer("experiment=simclr_mnist optimizer=sgd seed=-1")
    said.refused("optimizer=sgd: dropped optimizer.lr=0.002, which experiment simclr_mnist set", "seed=-1")


def test_missing_data_is_one_message_and_leaves_nothing(monkeypatch, capsys, tmp_path):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.delenv("SSL_RUNNER_OUTPUTS", raising=False)
    monkeypatch.delenv("SSL_RUNNER_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    for line, place in {
        "experiment=simclr_mnist": "data/MNIST/raw",
        "experiment=simclr_mnist dataset.root=empty": "empty/MNIST/raw",
        "experiment=simclr_cifar10 model/encoder=conv4 dataset.root=a/b": "a/b/cifar-10-batches-py",
    }.items():
        said = Answer(monkeypatch, capsys, tmp_path, line)
        said.refused(
            "is missing: looked for", place, "no route to host", "Set SSL_RUNNER_DATA (or dataset.root=FOLDER)"
        )
        assert said.text.count("\n") == 1


def numbers(value) -> bool:
    """Whether a value in a YAML file consists of numbers."""
    if isinstance(value, list):
        return bool(value) and all(map(numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def knobs(content, path=()):
    """Paths of all keys with numbers, and -7 in the shape of their values."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from knobs(value, (*path, key))
        elif numbers(value):
            yield (*path, key), [-7] * len(value) if isinstance(value, list) else -7


NODES = {
    path.relative_to(CONF).with_suffix("").as_posix(): yaml.safe_load(path.read_text()) or {}
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent != CONF and path.relative_to(CONF).parts[0] not in ("experiment", "sweep", "hydra")
}
OPTIONS = {option: list(knobs(node)) for option, node in NODES.items()}


def targets(content) -> list[str]:
    """Every class that a node names."""
    inside = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    own = [content["_target_"]] if isinstance(content, dict) and "_target_" in content else []
    return own + [target for value in inside for target in targets(value)]


def distinct() -> list[str]:
    """The options with numbers, and of those of the same classes with the same keys, such as all sizes of ViT, one."""
    found = {str([targets(NODES[option]), nonsense]): option for option, nonsense in OPTIONS.items() if nonsense}
    return list(found.values())


FORWARD_LEARNERS = (
    "protonet",
    "matchingnet",
    "r2d2",
    "relationnet",
    "cnp",
    "attentive_cnp",
    "in_context_transformer",
    "caml",
    "feat",
    "snail",
    "mann",
    "pmf",
)
# what an option needs beside it to make a valid run; the data is tiny or absent
HIDING = ["algorithm=masked", "model/encoder=vit_tiny", "model/head=identity", "batching=labelled", "masking=random"]
WITH = {
    **{f"eval/{name}": [] for name in ("few_shot", "few_shot_cifar10", "few_shot_omniglot")},
    **{
        f"algorithm/{option}": [*HIDING, "loss=mse", "eval=[]"]
        for option in ("predictor/transformer", "predictor/convolutional", "target/features", "target/frequencies")
    },
    "dataset/webdataset": ["dataset.shards=[train.tar]"],
    **{
        f"algorithm/{name}": [*EPISODES.split(), "model/head=linear", "eval=[]"]
        for name in ("maml", "anil", "boil", "meta_sgd", "maml_pp", "imaml")
    },
    **{
        f"algorithm/{name}": [*EPISODES.split(), "model/head=identity", "eval=[]"]
        for name in (*FORWARD_LEARNERS, "protomaml")
    },
    "algorithm/baseline_pp": ["batching=labelled", "loss=cross_entropy", "model/head=cosine"],
    "algorithm/reptile": [
        *EPISODES.split(),
        "model/head=linear",
        "eval=[]",
        "optimizer=sgd",
        "optimizer.momentum=0",
        "optimizer.weight_decay=0",
    ],
    "algorithm/momentum": ["loss=info_nce"],
    "algorithm/stop_gradient": ["loss=info_nce"],
    "algorithm/prototypes": ["loss=swav"],
    "batching/episodes_5w1s": [*EPISODES.split(), "algorithm=protonet"],
    "batching/episodes_20w5s": [*EPISODES.split(), "algorithm=protonet", "batching=episodes_20w5s"],
    "batching/episodes_5w1s_augmented": [
        *EPISODES.split(),
        "algorithm=protonet",
        "batching=episodes_5w1s_augmented",
    ],
    "batching/episodes_varied": [*EPISODES.split(), "algorithm=protonet", "batching=episodes_varied"],
    "batching/labelled": ["loss=pairwise"],
    "dataset/mixture": ["eval=[]"],
    "dataset/four_sources": ["eval=[]"],
    "dataset/image_folder": ["dataset.root=."],
    "dataset/torchvision": ["dataset.name=USPS"],
    "dataset/meta_album": ["dataset.name=BRD_Mini"],
    "dataset/omniglot": ["eval=[few_shot]"],
    "dataset/clustered": ["eval=[few_shot]"],
    "loss/cross_entropy": ["algorithm=supervised", "batching=labelled", "model/head=linear"],
}
# these are ignored unless this split is used
UNUSED = {"class_counts": "classes", "validation": "images", "test": "images"}


@pytest.fixture(scope="module")
def default():
    return validate.checked_config(Composer(CONF), [])[0]


def pack(folder: Path) -> None:
    """Put the images of class folders into a shard, each with its label beside it."""
    with tarfile.open(folder / "train.tar", "w") as shard:
        for path in sorted(folder.rglob("*.png")):
            label = path.with_suffix(".cls")
            label.write_text(path.parent.name)
            shard.add(path, path.name)
            shard.add(label, label.name)


@pytest.mark.parametrize("option", distinct())
def test_no_key_accepts_a_number_that_makes_no_sense(option, default, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_RUNNER_DATA", str(tmp_path / "data"))
    for number in range(4 if option in ("dataset/image_folder", "dataset/webdataset") else 0):
        (tmp_path / f"class{number % 2}").mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / f"class{number % 2}" / f"{number}.png")
    if option == "dataset/webdataset":
        pack(tmp_path)
    before = files(tmp_path)
    group, _, name = option.rpartition("/")
    *parents, place = [*group.split("/"), *([name] if group == "eval" else [])]
    if option in WITH:
        plain, _ = validate.checked_config(Composer(CONF), [f"{group}={name}", *WITH[option]])
    else:  # composing would take as long as everything else
        plain = copy.deepcopy(default)
        content = OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml"), resolve=True)
        functools.reduce(dict.__getitem__, parents, plain)[place] = content
    for path, nonsense in OPTIONS[option]:
        config = copy.deepcopy(plain)
        node = functools.reduce(dict.__getitem__, [*parents, place, *path[:-1]], config)
        node[path[-1]] = nonsense
        if path[-1] in UNUSED and "dataset" in (group, *path[:-1]):
            node["split"] = UNUSED[path[-1]]
            if path[-1] == "class_counts" and "class_split" in node:
                node["class_split"] = "random"
        with pytest.raises(ConfigError) as caught, contextlib.nullcontext() if before else no_download.no_download():
            wire.wire(schema.check(OmegaConf.create(config)))
        assert any(path[-1] in problem for problem in caught.value.problems), (path, caught.value.problems)
    assert files(tmp_path) == before


# speed: commands that do not need torch do not import it

PROGRAM = """
import os, sys
from ssl_runner import train
for line in {lines}:
    sys.argv = ["ssl-train", *line]
    try:
        train.main()
    except SystemExit as done:
        print("code", done.code)
heavy = ("torch", "torchvision", "sklearn", "scipy", "rich", "tensorboard", "numpy", "timm")
print([name for name in heavy if name in sys.modules], os.listdir())
"""
QUICK = [
    ["--help"],
    ["--version"],
    ["trainer.max_epoch=3"],
    ["experiment=simclr_mnist", "trainer.max_epoch=3"],
    ["experiment=simclr_minst"],
    ["optimzer=adam"],
    ["-m", "optimizer=adm,sgd"],
    ["resume=nowhere"],
]


def quick(lines, tmp_path, **environment):
    root = str(Path(command_line.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{lines}", repr(lines))],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_help_and_misspelled_words_are_answered_without_torch(tmp_path):
    lines = quick(QUICK, tmp_path)
    assert [line for line in lines if line.startswith("code")] == ["code 0"] * 2 + ["code 2"] * 6
    assert lines[-1] == "[] []"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("experiment=simclr_m", "experiment=simclr_mnist"),
        ("opti", "optimizer="),
        ("trainer.max_e", "trainer.max_epochs="),
        ("model/encoder=res", "model/encoder=resnet18"),
    ],
)
def test_the_shell_completes_groups_options_and_keys_without_torch(tmp_path, typed, offered):
    line = f"ssl-train {typed}"
    lines = quick([["-sc", "query=bash"]], tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert offered in " ".join(lines[:-1]).split()
    assert lines[-1] == "[] []"
