"""The progress bar in a notebook."""

from types import SimpleNamespace

import IPython.display
import pytest

from ssl_runner.runs import notebook_bar
from ssl_runner.runs.notebook_bar import NotebookBar


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """What the notebook shows, from the first to the last, with a clock that moves a second each time it is read."""
    pages: list[str] = []

    class Handle:
        def update(self, one) -> None:
            pages.append(one._repr_html_())

    def display(one, display_id: bool):
        assert display_id, "else nothing can replace it"
        pages.append(one._repr_html_())
        return Handle()

    seconds = iter(range(10_000))
    monkeypatch.setattr(notebook_bar, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(IPython.display, "display", display)
    return pages


def play(bar: NotebookBar, first: int, steps: int) -> None:
    with bar as progress:
        task = progress.add_task("training", total=steps, completed=first, figures="")
        for step in range(first, steps):
            progress.update(task, completed=step + 1)
            progress.update(task, figures=f"loss <{step + 1}>")


def test_it_begins_where_a_resumed_run_does_and_ends_complete(shown):
    play(NotebookBar(), 3, 6)
    assert 'value="3" max="6"' in shown[0] and 'value="6" max="6"' in shown[-1]
    assert "6/6 steps" in shown[-1] and "loss &lt;6&gt;" in shown[-1] and "left" not in shown[-1]
    assert "4/6 steps" in shown[1] and "left" in shown[1]


def test_it_is_drawn_no_more_often_than_a_person_can_see(shown, monkeypatch):
    monkeypatch.setattr(notebook_bar, "PAUSE", 1e9)
    play(NotebookBar(), 0, 50)
    assert len(shown) == 2, "at the beginning and at the end"


def test_a_bar_that_is_not_asked_for_is_not_shown(shown):
    play(NotebookBar(disable=True), 0, 5)
    assert shown == []
