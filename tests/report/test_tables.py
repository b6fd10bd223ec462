"""Tables of figures: upright where they fit, and turned where they would not."""

import pytest
from rich.text import Text

from ssl_runner.report.tables import Row, fitted
from ssl_runner.runtime.console import Console

COLUMNS = [f"5w{shots}s/classifier {number}" for shots in (1, 5) for number in range(4)]


def printed(columns, rows, width: int) -> list[list[str]]:
    console = Console()
    console.width = width
    with console.capture() as capture:
        console.print(fitted("accuracy", columns, rows, console))
    text = capture.get()
    assert all(len(line) <= width for line in text.splitlines())
    return [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if line[0] in "│"]


def rows_of(n: int, columns: int) -> list[Row]:
    return [Row([f"model {n}"], f"model {n}", [f"{n}{c}.00 ± 1.00" for c in range(columns)]) for n in range(n)]


@pytest.mark.parametrize(("columns", "turned"), [(2, False), (8, True)])
def test_a_table_that_does_not_fit_is_turned_and_no_figure_is_lost(columns, turned):
    found = printed(COLUMNS[:columns], rows_of(2, columns), 80)
    upright = [[f"model {n}", *(f"{n}{c}.00 ± 1.00" for c in range(columns))] for n in range(2)]
    on_its_side = [[COLUMNS[c], *(f"{n}{c}.00 ± 1.00" for n in range(2))] for c in range(columns)]
    assert found == (on_its_side if turned else upright)


def test_a_wide_console_keeps_rows():
    assert len(printed(COLUMNS, rows_of(2, 8), 250)) == 2


def test_what_would_be_wider_turned_stays():
    rows = rows_of(9, 2)
    assert len(printed(COLUMNS[:2], rows, 40)) >= 9


def test_marks_and_several_heads_are_kept():
    rows = [Row(["mnist", "A"], "mnist\nA", [Text("1.00", style="bold")]), Row(["", "B"], "mnist\nB", ["2.00"], True)]
    assert printed(["knn"], rows, 80) == [["mnist", "A", "1.00"], ["", "B", "2.00"]]
