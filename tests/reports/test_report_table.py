import io

import pytest
from rich.console import Console

from thalweg.reports import formats, table
from thalweg.reports.run import read_run


def printed(folder, width=100) -> str:
    console = Console(file=io.StringIO(), width=width)
    table.print_table(read_run(folder).results, console)
    return console.file.getvalue()


def test_the_rows_say_what_results_json_says(run_folder):
    rows = {row[0]: row[1:] for row in table.rows(read_run(run_folder).results)}
    assert list(rows) == ["base", "implicit", "bptt", "split-20"]
    assert rows["split-20"] == (
        "31 / 40 (62–88 %)", "1.67", "1.17", "173", "820", "498", "0 / 40", "463 / 480"
    )  # fmt: skip
    assert rows["bptt"][5:] == ("655", "2 / 40", "463 / 480")
    assert rows["implicit"][3:5] == ("4.1", "610")


def test_what_was_not_measured_is_a_dash_and_never_zero(edited, run_folder):
    assert next(iter(table.rows(read_run(run_folder).results)))[4:] == ("–", "–", "–", "0 / 40", "–")
    folder = edited(lambda r: r.update(arms=[{"name": "base", "basins_total": 40}]))
    assert table.rows(read_run(folder).results) == [("base", *["–"] * 8)]


def test_a_measured_zero_is_zero(edited):
    def change(results):
        results["arms"] = [{"name": "a", "basins_right": 0, "basins_total": 4, "seconds": 0.0, "saved_bytes": 0}]

    (row,) = table.rows(read_run(edited(change)).results)
    assert row == ("a", "0 / 4", "–", "–", "0.0", "–", "0.0", "–", "–")


def test_the_console_shows_every_cell_and_fits_eighty_columns(run_folder):
    text = printed(run_folder, width=80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for row in table.rows(read_run(run_folder).results):
        for cell in row:
            assert cell in text
    assert "…" not in text


def test_a_narrow_console_cuts_no_number(run_folder):
    text = printed(run_folder, width=40)
    assert all(cell in text for row in table.rows(read_run(run_folder).results) for cell in row)
    assert "…" not in text


def test_names_are_not_read_as_markup(edited):
    folder = edited(lambda r: r["arms"][1].update(name="[red]x[-]"))
    assert "[red]x[-]" in printed(folder)


def test_html_holds_the_same_cells_in_the_same_order(run_folder):
    results = read_run(run_folder).results
    html = table.html_table(results, dict.fromkeys(["base", "implicit", "bptt", "split-20"], "#000000"))
    cells = [c.split("</td>")[0] for c in html.split("<td>")[1:]]
    assert cells == [cell for row in table.rows(results) for cell in row[1:]]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.0"), (4.14e6, "4.1"), (9.96e6, "10"), (1.3104e9, "1,310")],
)
def test_bytes_are_written_in_millions(value, text):
    assert formats.megabytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (8.25, "8.2 s"), (119.0, "119 s"), (655.0, "11 min"), (7300.0, "2.0 h")]
)
def test_durations_take_the_fitting_unit(value, text):
    assert formats.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0002, "< 0.001"), (0.0042, "0.004"), (0.049, "0.05"), (1.0, "1.00")]
)
def test_probabilities_are_never_written_as_zero(value, text):
    assert formats.probability(value) == text
