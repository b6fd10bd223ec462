"""Reports of runs that were made up: rows, columns, comparisons, notes."""

import json
import os

import made_runs
import pytest

from ssl_runner.comparison.build import build
from ssl_runner.errors import ConfigError
from ssl_runner.runs import evaluations

SCORE = {"knn/top1": 0.9}
HARD = {"_target_": "ssl_runner.losses.hard_negative.HardNegative", "temperature": 0.5, "beta": 1.0}


def means(report, column=0):
    return [round(row.figures[column].mean, 6) if column in row.figures else None for row in report.rows]


def titles(report):
    return [column.title for column in report.columns]


def noted(report, words):
    return [note for note in report.notes if words in note]


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path):
    made_runs.sweep(tmp_path, {0.5: {0: 0.7, 1: 0.72}, 0.1: {2: 0.9, 0: 0.8, 1: 0.82}})
    report = build([tmp_path])
    assert report.varying == ["loss.temperature"]
    assert [row.setting for row in report.rows] == [{"loss.temperature": 0.1}, {"loss.temperature": 0.5}]
    assert [[run.seed for run in row.runs] for row in report.rows] == [[0, 1, 2], [0, 1]]
    assert report.rows[0].figures[0].values == [0.8, 0.82, 0.9]
    assert means(report) == [0.84, 0.71]


def test_keys_that_cannot_change_the_result_make_no_rows(tmp_path):
    outside = [{"name": "x"}, {"dataset.root": "/elsewhere"}, {"trainer.log_every": 1}, {"sweep": {"again": True}}]
    outside += [{"baselines": ["untrained"]}, {"eval.linear_probe": {"_target_": "ssl_runner.evaluation.linear_probe"}}]
    for seed, values in enumerate(outside):
        made_runs.make(tmp_path / str(seed), SCORE, seed, values)
    report = build([tmp_path])
    assert (report.varying, len(report.rows)) == ([], 1)


def test_keys_that_follow_from_the_seed_make_no_rows(tmp_path):
    for seed in range(3):
        made_runs.make(tmp_path / str(seed), SCORE, seed, {"loss.draws": seed})
    assert build([tmp_path]).varying == []


def test_an_option_is_one_key_with_the_name_that_is_typed(tmp_path):
    for seed in range(2):
        made_runs.make(tmp_path / f"a{seed}", SCORE, seed)
        made_runs.make(tmp_path / f"b{seed}", SCORE, seed, {"loss": HARD})
    report = build([tmp_path], baseline="loss=nt_xent")
    assert [row.setting for row in report.rows] == [{"loss": "hard_negative"}, {"loss": "nt_xent"}]
    assert report.baseline == 1
    assert build([tmp_path], baseline="loss=NTXent").baseline == 1


def test_a_key_of_an_option_is_shown_if_it_varies_within_the_option(tmp_path):
    for number, values in enumerate(({}, {"loss": HARD}, {"loss": HARD | {"beta": 2.0}})):
        made_runs.make(tmp_path / str(number), SCORE, 0, values)
    assert build([tmp_path]).varying == ["loss", "loss.beta"]
    assert [row.setting["loss.beta"] for row in build([tmp_path]).rows] == [1.0, 2.0, ""]


def test_recipes_that_differ_in_much_are_rows_by_their_names_and_what_varies_within_one_is_shown(tmp_path):
    other = {"name": "other", "loss": HARD, "optimizer.lr": 0.5}
    for seed in range(2):
        made_runs.make(tmp_path / f"a{seed}", SCORE, seed, {"name": "one"})
        made_runs.make(tmp_path / f"b{seed}", SCORE, seed, other)
    assert [row.setting for row in build([tmp_path]).rows] == [{"name": "one"}, {"name": "other"}]
    made_runs.make(tmp_path / "c", SCORE, 0, other | {"trainer.max_steps": 7})
    assert build([tmp_path]).varying == ["name", "trainer.max_steps"]
    assert build([tmp_path], baseline="name=other,trainer.max_steps=7").baseline is not None


def test_a_row_without_any_of_the_main_figures_is_explained(tmp_path):
    made_runs.make(tmp_path / "a", {"few_shot/5w1s/top1": 0.4}, 0, {"loss.temperature": 0.1})
    scores = {"few_shot/5w1s/centroid/top1": 0.5, "few_shot/5w1s/tim_transductive/top1": 0.6}
    made_runs.make(tmp_path / "b", scores, 0, {"loss.temperature": 0.2})
    report = build([tmp_path])
    assert titles(report) == ["few shot 5w1s"]
    (note,) = noted(report, "none of these figures")
    assert "(temperature=0.2), but for example few_shot/5w1s/centroid/top1" in note
    assert not noted(build([tmp_path], metrics=["few_shot/*"]), "none of these figures")


def test_of_many_options_those_that_follow_from_another_make_no_rows(tmp_path):
    """Runs of one name: what tells them apart is found by itself."""
    methods = {
        "a": {"algorithm": {"_target_": "ssl_runner.algorithms.a.A"}, "optimizer": {"_target_": "torch.optim.SGD"}},
        "b": {"algorithm": {"_target_": "ssl_runner.algorithms.b.B"}, "loss": HARD, "trainer.max_steps": 7},
        "c": {"algorithm": {"_target_": "ssl_runner.algorithms.c.C"}, "loss": HARD, "dataset.split": "classes"},
    }
    for name, values in methods.items():
        for rate in (0.1, 0.2):
            extra = {"optimizer.lr": rate, "loss.draws": {"a": 1, "b": 2, "c": 3}[name], "trainer.log_steps": name}
            made_runs.make(tmp_path / f"{name}{rate}", SCORE, 0, values | extra)
    report = build([tmp_path])
    assert report.varying == ["algorithm", "optimizer.lr"]
    assert [row.setting["algorithm"] for row in report.rows] == ["a", "a", "b", "b", "c", "c"]


def test_recipes_of_one_name_or_that_differ_in_one_key_are_rows_by_that_key(tmp_path):
    made_runs.make(tmp_path / "a", SCORE, 0, {"name": "one"})
    made_runs.make(tmp_path / "b", SCORE, 0, {"name": "other", "optimizer.lr": 0.5})
    assert build([tmp_path]).varying == ["optimizer.lr"]
    made_runs.make(tmp_path / "c", SCORE, 0, {"name": "one", "optimizer.lr": 0.7, "trainer.max_steps": 7})
    assert "name" not in build([tmp_path]).varying


def test_one_and_one_point_zero_are_one_setting(tmp_path):
    made_runs.make(tmp_path / "a", SCORE, 0, {"optimizer.lr": 1})
    made_runs.make(tmp_path / "b", SCORE, 1, {"optimizer.lr": 1.0})
    assert len(build([tmp_path]).rows) == 1


def test_of_equal_runs_the_newest_counts(tmp_path):
    new = made_runs.make(tmp_path / "a", {"knn/top1": 0.9})
    old = made_runs.make(tmp_path / "b", {"knn/top1": 0.1})
    os.utime(old / "result.json", (1, 1))
    report = build([tmp_path])
    assert report.rows[0].figures[0].values == [0.9]
    assert [run.folder for run in report.rows[0].runs] == [new]
    assert noted(report, "repeated by a newer one") and str(old) in noted(report, "repeated")[0]


def test_a_seed_counts_once_in_a_column_though_two_runs_of_it_evaluated_differently(tmp_path):
    more = {"eval.linear_probe": {"_target_": "ssl_runner.evaluation.linear_probe.LinearProbe"}}
    old = made_runs.make(tmp_path / "a", {"knn/top1": 0.1})
    made_runs.make(tmp_path / "b", {"knn/top1": 0.9, "linear_probe/top1": 0.8}, values=more)
    os.utime(old / "result.json", (1, 1))
    report = build([tmp_path])
    assert [figure.values for figure in report.rows[0].figures.values()] == [[0.9], [0.8]]
    assert noted(report, "count once")


@pytest.mark.parametrize(
    ("protocol", "dataset", "title"),
    [
        ({"knn": made_runs.KNN | {"k": 200}}, {}, "k 200"),
        ({"knn": made_runs.KNN | {"queries": "mnist/validation"}}, {}, "queries mnist/validation"),
        ({"knn": made_runs.KNN | {"classes": "unseen"}}, {}, "unseen"),
        ({}, {"fingerprint": "ffff"}, "fingerprint ffff"),
        ({}, {"split_by": "classes"}, "by classes"),
        ({}, {"name": "digits", "fingerprint": "ffff"}, "digits"),
        ({}, {"images": {"train": 9, "test": 2}}, "test images 2"),
    ],
)
def test_figures_that_were_measured_differently_stand_apart(tmp_path, protocol, dataset, title):
    made_runs.make(tmp_path / "a", {"knn/top1": 0.9}, 0)
    made_runs.make(tmp_path / "b", {"knn/top1": 0.5}, 1, {}, protocol, dataset)
    report = build([tmp_path])
    assert len(report.columns) == 2
    assert titles(report)[1] == f"knn ({title})"
    assert [figure.values for figure in report.rows[0].figures.values()] == [[0.9], [0.5]]
    assert len(noted(report, "cannot be compared")) == 1


def test_few_shot_figures_on_other_tasks_stand_apart(tmp_path):
    settings = made_runs.FEW_SHOT["settings"]
    other = made_runs.FEW_SHOT | {"settings": settings | {"5w1s": settings["5w1s"] | {"tasks": "cccc"}}}
    scores = {"few_shot/5w1s/top1": 0.5, "few_shot/5w5s/top1": 0.6}
    made_runs.make(tmp_path / "a", scores)
    made_runs.make(tmp_path / "b", scores, 1, protocols={"few_shot": other})
    assert titles(build([tmp_path])) == [
        "few shot 5w1s (tasks aaaaaaaa)",
        "few shot 5w1s (tasks cccc)",
        "few shot 5w5s",
    ]


def test_queries_that_were_normalised_together_stand_apart(tmp_path):
    made_runs.make(tmp_path / "a", {"few_shot/5w1s/top1": 0.5})
    made_runs.make(tmp_path / "b", {"few_shot/5w1s/top1": 0.6}, 1, protocols={"algorithm": {"transductive": True}})
    assert titles(build([tmp_path])) == ["few shot 5w1s (inductive)", "few shot 5w1s (transductive)"]


def test_names_of_version_0_1_in_protocols_do_not_keep_runs_apart(tmp_path):
    old = {{"gallery": "bank"}.get(key, key): value for key, value in made_runs.KNN.items()}
    made_runs.make(tmp_path / "a", SCORE)
    made_runs.make(tmp_path / "b", SCORE, 1, protocols={"knn": old})
    assert titles(build([tmp_path])) == ["knn"]


def test_validation_figures_never_share_a_column_with_test_figures(tmp_path):
    for seed in range(2):
        folder = made_runs.make(tmp_path / str(seed), SCORE, seed)
        (folder / "metrics.jsonl").write_text('{"step": 5, "eval/validation/knn/top1": 0.5}\n')
    assert titles(build([tmp_path])) == ["knn"]
    report = build([tmp_path], ["*knn/top1", "validation/*"])
    assert means(report, 0) == [0.9]
    both = build([tmp_path], ["validation/*", "knn/top1"])
    assert titles(both) == ["validation knn", "knn"]
    assert means(both, 0) == [0.5] and means(both, 1) == [0.9]
    assert noted(both, "validation images stand in columns of their own")


def test_intervals_over_episodes_are_no_metric_and_stand_with_a_single_seed_only(tmp_path):
    scores = {"few_shot/5w1s/top1": 0.5, "few_shot/5w1s/ci95": 0.01, "linear_probe/regularisation": 0.1}
    made_runs.make(tmp_path / "a", scores)
    report = build([tmp_path])
    figure = report.rows[0].figures[0]
    assert [column.metric for column in report.columns] == ["few_shot/5w1s/top1"]
    assert (figure.episodes, figure.low, figure.high) == (0.01, None, None)
    assert noted(report, "a single seed")
    made_runs.make(tmp_path / "b", scores, 1)
    figure = build([tmp_path]).rows[0].figures[0]
    assert figure.episodes is None and figure.low is not None
    with pytest.raises(ConfigError, match="interval over episodes"):
        build([tmp_path], ["few_shot/5w1s/ci95"])


def test_the_main_metrics_are_those_of_the_trained_encoder(tmp_path):
    names = [
        "knn/top1",
        "few_shot/5w1s/top1",
        "few_shot/5w1s/inductive/top1",
        "untrained/knn/top1",
        "raw_pixels/knn/top1",
    ]
    made_runs.make(tmp_path / "a", dict.fromkeys(names, 0.5))
    report = build([tmp_path])
    assert [column.metric for column in report.columns] == ["knn/top1", "few_shot/5w1s/top1"]
    assert noted(report, "--metric 'raw_pixels/*'")
    chosen = build([tmp_path], ["untrained/*", "few_shot/5w1s/*"])
    assert [column.metric for column in chosen.columns] == ["untrained/knn/top1", names[1], names[2]]
    with pytest.raises(ConfigError, match=r"did you mean 'knn/top1'.*there are: knn/top1"):
        build([tmp_path], ["knn/top"])


def test_the_best_is_marked_and_what_cannot_be_told_apart(tmp_path):
    made_runs.sweep(
        tmp_path,
        {
            0.1: dict(enumerate([0.90, 0.91, 0.92, 0.93, 0.91])),
            0.2: dict(enumerate([0.91, 0.90, 0.93, 0.92, 0.90])),
            0.5: dict(enumerate([0.50, 0.51, 0.52, 0.53, 0.505])),
        },
    )
    report = build([tmp_path])
    assert [row.figures[0].best for row in report.rows] == [True, False, False]
    assert [row.figures[0].tied for row in report.rows] == [False, True, False]
    assert noted(report, "paired t-tests")


def test_differences_to_a_baseline_say_what_three_seeds_cannot_show(tmp_path):
    made_runs.sweep(tmp_path, {0.1: {0: 0.9, 1: 0.92, 2: 0.91}, 0.2: {0: 0.8, 1: 0.81, 2: 0.82}, 0.5: {2: 0.5, 9: 0.1}})
    report = build([tmp_path], baseline="temperature=0.1")
    first, second = report.differences
    assert (first.row, first.column, first.pairs) == (1, 0, 3)
    assert first.mean == pytest.approx(-0.1)
    assert first.low < first.mean < first.high < 0
    assert (first.p, first.p_holm) == (0.25, 0.25)
    assert first.note == "3 pairs cannot give p < .25"
    assert (second.pairs, second.mean, second.p, second.p_holm) == (1, pytest.approx(-0.41), None, None)
    assert second.note == "1 pair has no interval and no test"
    assert noted(report, "So few seeds can show nothing by this test: with 1 comparison, p < .05 needs 6 common seeds.")


def test_differences_are_corrected_for_the_comparisons_of_their_column(tmp_path):
    seeds = range(8)
    figures = {0.1: {n: 0.9 + n / 1000 for n in seeds}, 0.2: dict.fromkeys(seeds, 0.8), 0.5: dict.fromkeys(seeds, 0.7)}
    report = build([made_runs.sweep(tmp_path, figures)], baseline="loss.temperature=0.1")
    assert [one.p for one in report.differences] == pytest.approx([2 / 2**8] * 2)
    assert [one.p_holm for one in report.differences] == pytest.approx([4 / 2**8] * 2)
    assert [one.note for one in report.differences] == ["", ""]
    assert not noted(report, "can show nothing")


def test_rows_without_common_seeds_have_no_pairs(tmp_path):
    made_runs.sweep(tmp_path, {0.1: {0: 0.9, 1: 0.91}, 0.2: {2: 0.8, 3: 0.81}})
    (one,) = build([tmp_path], baseline="temperature=0.1").differences
    assert (one.pairs, one.p, one.low) == (0, None, None)
    assert "no common seeds" in one.note


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("lr=0.1", r"expected KEY=VALUE with a key that varies \(temperature\)"),
        ("temperature", "expected KEY=VALUE"),
        ("temperature=0.3", "fits no settings; give one of: temperature=0.1; temperature=0.2"),
    ],
)
def test_a_baseline_that_is_none_names_the_choices(tmp_path, baseline, message):
    made_runs.sweep(tmp_path, {0.1: {0: 0.9}, 0.2: {0: 0.8}})
    with pytest.raises(ConfigError, match=message):
        build([tmp_path], baseline=baseline)


def test_a_baseline_of_two_keys(tmp_path):
    for number, (temperature, lr) in enumerate(((0.1, 1), (0.1, 2), (0.2, 1))):
        made_runs.make(tmp_path / str(number), SCORE, 0, {"loss.temperature": temperature, "optimizer.lr": lr})
    assert build([tmp_path], baseline="temperature=.1,lr=2").baseline == 1
    with pytest.raises(ConfigError, match=r"fits 2 settings; give one of: temperature=0.1,lr=1; temperature=0.1,lr=2"):
        build([tmp_path], baseline="temperature=0.1")


def test_several_datasets_are_columns_with_an_interquartile_mean(tmp_path):
    digits = {"name": "digits", "fingerprint": "ffff"}
    node = {"_target_": "ssl_runner.data.sources.digits.digits", "root": "data", "split": "images"}
    for temperature in (0.1, 0.2):
        for seed in range(3):
            values, where = {"loss.temperature": temperature}, tmp_path / f"{temperature}_{seed}"
            made_runs.make(where / "mnist", {"knn/top1": 0.9 + seed / 100}, seed, values)
            made_runs.make(
                where / "digits", {"knn/top1": 0.5 + seed / 100}, seed, values | {"dataset": node}, {}, digits
            )
    report = build([tmp_path])
    assert report.varying == ["loss.temperature"]
    assert sorted(titles(report)) == ["knn (digits)", "knn (mnist)"]
    assert len(report.rows) == 2
    aggregate = report.aggregates[0]
    assert aggregate.mean == pytest.approx((0.51 + 0.52 + 0.9 + 0.91) / 4)  # six figures, one cut at either end
    assert aggregate.low < aggregate.mean < aggregate.high
    assert noted(report, "Agarwal et al. 2021")


def test_one_task_measured_in_two_ways_has_no_interquartile_mean(tmp_path):
    for seed in range(2):
        made_runs.make(tmp_path / f"a{seed}", SCORE, seed)
        made_runs.make(tmp_path / f"b{seed}", SCORE, seed, {"eval.knn.k": 200}, {"knn": made_runs.KNN | {"k": 200}})
    report = build([tmp_path])
    assert (len(report.columns), report.aggregates) == (2, {})


def test_without_any_result_there_is_one_message(tmp_path):
    with pytest.raises(ConfigError, match=r"no run below .* has a result"):
        build([tmp_path])
    made_runs.make(tmp_path / "run", {}, status="failed", reason="no memory")
    with pytest.raises(ConfigError, match="failed: no memory") as caught:
        build([tmp_path])
    assert len(caught.value.problems) == 1


def test_states_of_the_code_are_named_where_they_differ(tmp_path):
    made_runs.make(tmp_path / "a", SCORE)
    assert not noted(build([tmp_path]), "states of the code")
    made_runs.make(tmp_path / "b", SCORE, 1, git={"commit": "1" * 40, "dirty": False})
    assert noted(build([tmp_path]), "2 states of the code: 000000000 (1), 111111111 (1)")


def test_what_ssl_eval_has_kept_is_a_column_of_its_own_unless_it_was_measured_alike(tmp_path):
    asked = {"knn": {"k": 20}}
    for seed in (0, 1):
        for loss, score in (("a", 0.8), ("b", 0.9)):
            folder = made_runs.make(tmp_path / f"{loss}{seed}", {"knn/top1": score}, seed, {"optimizer.lr": score})
            result = json.loads((folder / "result.json").read_text())
            same = {"metrics": {"knn/top1": score}, "protocols": result["protocols"], "dataset": result["dataset"]}
            other = {
                "metrics": {"knn/top1": score / 2},
                "protocols": asked,
                "dataset": made_runs.DATA | {"name": "usps", "fingerprint": "other"},
            }
            for name, content in (("same", same), ("other", other)):
                evaluations.write(folder / "evaluations" / f"{name}.json", content, {})
    (tmp_path / "a0" / "evaluations" / "cut.json").write_text('{"met')
    report = build([tmp_path])
    assert [len(row.runs) for row in report.rows] == [6, 6]
    assert [column.metric for column in report.columns] == ["knn/top1", "knn/top1"]
    assert "usps" in report.columns[1].title
    means = [[row.figures[number].mean for number in (0, 1)] for row in report.rows]
    assert means == [[pytest.approx(0.8), pytest.approx(0.4)], [pytest.approx(0.9), pytest.approx(0.45)]]
    assert all(len(figure.values) == 2 for row in report.rows for figure in row.figures.values())
    assert [path.name for path, _ in report.unfinished] == ["cut.json"]


def test_encoders_without_a_run_have_rows_of_their_own_in_the_columns_of_what_was_asked_alike(tmp_path):
    runs = [
        made_runs.make(tmp_path / f"run_{rate}_{seed}", {"knn/top1": 0.8}, seed, {"optimizer.lr": rate})
        for rate in (0.1, 0.2)
        for seed in (0, 1)
    ]
    result = json.loads((runs[0] / "result.json").read_text())
    for name, score in (("timm:resnet18", 0.7), ("raw_pixels", 0.6)):
        content = {
            "encoder": {"name": name},
            "metrics": {"knn/top1": score},
            "protocols": result["protocols"],
            "dataset": result["dataset"],
        }
        evaluations.write(tmp_path / "evaluations" / name.replace(":", "_") / "asked.json", content, {})
    report = build([tmp_path])
    assert report.varying == ["encoder", "optimizer.lr"]
    means = {(row.setting["encoder"], row.setting["optimizer.lr"]): row.figures[0].mean for row in report.rows}
    assert means == {("", 0.1): 0.8, ("", 0.2): 0.8, ("timm:resnet18", ""): 0.7, ("raw_pixels", ""): 0.6}
    assert len(report.columns) == 1 and not report.unfinished
    alone = build([tmp_path / "evaluations"])
    assert alone.varying == ["encoder"] and len(alone.rows) == 2
