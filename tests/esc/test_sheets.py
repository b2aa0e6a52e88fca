"""A sheet's table: whatever a spreadsheet splits it at, no cell of it is a formula."""

import csv
import io

import pytest

from esc import sheets

WILD = (
    "hello;=HYPERLINK(1)",
    "=1+1",
    "so\t@SUM(A1)",
    "- one\n- two\n+3;-4",
    'she said "no";=1;',
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_cell_is_a_formula_at_any_delimiter(delimiter):
    text = sheets.csv_text(
        ["id", "text", "more"], [dict.fromkeys(("id", "text", "more"), w) for w in WILD]
    )
    stream = io.StringIO(text.removeprefix("\ufeff"), newline="")
    cells = [cell for row in csv.reader(stream, delimiter=delimiter) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_every_cell_is_quoted():
    assert sheets.csv_text(["a", "b"], [{"a": "x", "b": ""}]) == '\ufeff"a","b"\r\n"x",""\r\n'


def test_what_no_spreadsheet_takes_for_a_formula_stays_as_it_is():
    for text in ("fine ;-) really", "a-b; c=d", "1 + 1"):
        assert sheets.guarded(text) == text
