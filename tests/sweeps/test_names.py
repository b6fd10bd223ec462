"""Folders of a sweep's jobs are readable, safe and different."""

import string

from hypothesis import given
from hypothesis import strategies as st

from ssl_runner.sweeps.names import LONGEST, job_names


def test_a_name_says_what_differs_and_nothing_else():
    jobs = [["experiment=x", f"loss.temperature={t}", f"seed={s}"] for t in (0.2, 0.5) for s in (0, 1)]
    assert job_names(jobs) == [f"temperature={t},seed={s}" for t in (0.2, 0.5) for s in (0, 1)]


def test_keys_with_the_same_end_are_told_apart():
    jobs = [[f"algorithm.lr={one}", f"optimizer.lr={other}"] for one, other in ((1, 2), (3, 4))]
    assert job_names(jobs) == ["algorithm.lr=1,optimizer.lr=2", "algorithm.lr=3,optimizer.lr=4"]


def test_options_lists_and_paths_are_safe():
    assert job_names([["model/encoder=conv4"], ["model/encoder=vit_tiny"]]) == ["encoder=conv4", "encoder=vit_tiny"]
    assert job_names([["eval=[knn,few_shot]"], ["eval=[]"]]) == ["eval=knn,few_shot", "eval="]
    first, second = job_names([["dataset.root=/data/a b"], ["dataset.root='../c'"]])
    assert "/" not in first + second and not (first + second).startswith(".")


def test_one_job_has_a_name_too():
    assert job_names([["seed=1"]]) == ["job"]


@given(st.lists(st.lists(st.text(string.printable + "äж漢", max_size=150), max_size=3), min_size=1, max_size=8))
def test_any_words_give_different_names_that_a_file_system_takes(values):
    jobs = [[f"key{n}={value}" for n, value in enumerate(job)] for job in values]
    names = job_names(jobs)
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert name and len(name.encode()) <= LONGEST + 8
        assert not set(name) & set("/\\\0\n'\" ") and not name.startswith(".")
