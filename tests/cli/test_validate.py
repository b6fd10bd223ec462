"""A command line is checked before anything is created, and an experiment's values go with the option they set."""

import pytest
from small_program import Typed, made

from ssl_runner.errors import ConfigError

pytestmark = pytest.mark.usefixtures("small_program")


@pytest.fixture
def problems_of(settle):
    def problems(line):
        with pytest.raises(ConfigError) as caught:
            settle(line)
        return caught.value.problems

    return problems


# selecting a different option on top of an experiment


def test_an_experiment_keeps_its_values_while_its_options_stay(settle):
    config, dropped = settle("experiment=simclr_mnist")
    assert dropped == []
    assert config["optimizer"]["lr"] == 0.3
    assert config["eval"]["few_shot"]["inner"] == [1, 2]


def test_the_experiments_values_for_a_deselected_option_are_dropped_with_a_message(settle):
    config, dropped = settle("experiment=simclr_mnist optimizer=adam")
    assert config["optimizer"] == {"_target_": "parts.Adam", "lr": 0.001}
    assert dropped == ["optimizer=adam: dropped optimizer.lr=0.3, which experiment simclr_mnist set for optimizer=sgd"]
    assert config["trainer"]["max_steps"] == 7
    assert config["model"]["encoder"]["grid"] is None


def test_values_from_the_command_line_are_kept(settle):
    config, dropped = settle("experiment=simclr_mnist optimizer=adam optimizer.lr=0.3")
    assert config["optimizer"]["lr"] == 0.3
    assert dropped == []


def test_a_value_for_the_deselected_option_is_refused_as_if_there_were_no_experiment(problems_of):
    problems = problems_of("experiment=simclr_mnist model/encoder=resnet model.encoder.grid=3")
    assert problems == ["model.encoder.grid: there is no such key; model.encoder has depth"]


def test_a_nested_group_is_dropped_at_its_own_node(settle):
    config, dropped = settle("experiment=simclr_mnist model/encoder=resnet")
    assert config["model"] == {"encoder": {"_target_": "parts.ResNet", "depth": 18}}
    (message,) = dropped
    assert message.startswith("model/encoder=resnet: dropped model.encoder.grid=null, which experiment simclr_mnist ")
    assert message.endswith(" set for model/encoder=conv")


def test_only_the_deselected_one_of_several_options_is_removed(settle):
    config, dropped = settle("experiment=simclr_mnist eval=[knn]")
    assert config["eval"] == {"knn": {"_target_": "parts.Score", "k": 20}}
    who = "which experiment simclr_mnist set for eval=[knn,few_shot]"
    assert dropped == [
        f"eval=[knn]: dropped eval.few_shot.k=1, {who}",
        f"eval=[knn]: dropped eval.few_shot.inner=[1,2], {who}",
    ]
    assert settle("experiment=simclr_mnist eval=[]")[0]["eval"] == {}


def test_an_experiment_built_on_another_leaves_no_values_of_either_behind(settle):
    config, dropped = settle("experiment=child optimizer=sgd")
    assert config["optimizer"] == {"_target_": "parts.SGD", "lr": 0.1, "momentum": 0.9}
    (message,) = dropped
    assert message.startswith("optimizer=sgd: dropped optimizer.lr=0.3, which experiment simclr_mnist, child set ")
    assert config["trainer"] == {"_target_": "parts.Trainer", "max_steps": 7, "log_every": 1}


def test_leftovers_are_dropped_job_by_job(monkeypatch, capsys):
    typed = Typed(monkeypatch, "-m experiment=simclr_mnist optimizer=sgd,adam")
    assert [config["optimizer"]["lr"] for config, _ in typed.jobs] == [0.3, 0.001]
    assert capsys.readouterr().err.count("dropped optimizer.lr=0.3") == 1


# misspelled


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "experiment=simclr_mnits",
            "no option 'simclr_mnits' in group experiment; did you mean 'simclr_mnist'? "
            "options: child, misspelled, simclr_mnist",
        ),
        ("optimizer=zzz", "no option 'zzz' in group optimizer; options: adam, sgd"),
        ("eval=[knn,fewshot]", "no option 'fewshot' in group eval; did you mean 'few_shot'? options: few_shot, knn"),
        ("optimzer=adam", "optimzer: there is no such group; did you mean 'optimizer=adam'?"),
        ("encoder=resnet", "encoder: there is no such group; did you mean 'model/encoder=resnet'?"),
        ("model=resnet", "model: there is no such group; did you mean 'model/encoder=resnet'?"),
        ("trainer.max_step=3", "trainer.max_step: there is no such key; did you mean 'trainer.max_steps'?"),
        ("lr=0.3", "lr: there is no such group or key; did you mean 'optimizer.lr'?"),
        ("optimizer.zzz=3", "optimizer.zzz: there is no such key; optimizer has lr, momentum"),
        ("+foo=1", "foo: there is no such key"),
        ("+optimizer.foo=1", "optimizer.foo: SGD() has no such parameter; it has lr, momentum"),
        ("+optimizer.lr=1", "+optimizer.lr=1: optimizer.lr exists already; leave out the +"),
        ("seed=abc", "seed: got 'abc' (str), expected int"),
        ("trainer.max_steps=None", "trainer.max_steps: got the string 'None'; null is null in YAML: "),
        ("seed=1,2", "seed=1,2: got several values; add -m to run once for each, or write seed=[...] for a list"),
        ("optimizer=3", "optimizer=3: optimizer is a group; choose one of adam, sgd, or ~optimizer for none"),
        ("seed", "seed: cannot be read; write key=value"),
        ("seed=[1", "seed=[1: cannot be read"),
        ("~optimizer", "optimizer: it is missing; set optimizer=..."),
        ("experiment=misspelled", "optimizer.weight_decya: SGD() has no such parameter; it has lr, momentum"),
    ],
)
def test_a_mistake_is_answered_with_the_nearest_valid_spelling(problems_of, line, problem):
    problems = problems_of(line)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_all_mistakes_of_a_command_line_are_reported(problems_of):
    problems = problems_of("trainer.max_step=3 optimzer=adam eval=[kn] seed=[")
    option = "no option 'kn' in group eval; did you mean 'knn'? options"
    assert {problem.partition(":")[0] for problem in problems} == {"seed=[", option, "optimzer", "trainer.max_step"}


def test_every_job_of_a_sweep_is_checked_before_the_first_folder(monkeypatch, capsys):
    typed = Typed(monkeypatch, "-m seed=0,1,abc optimizer=sgd,adam")
    assert (typed.code, typed.jobs, made()) == (2, [], [])
    assert capsys.readouterr().err == "seed: got 'abc' (str), expected int\n"
    assert Typed(monkeypatch, "-m optimizer=sgd,adm").code == 2
    assert "did you mean 'adam'" in capsys.readouterr().err
