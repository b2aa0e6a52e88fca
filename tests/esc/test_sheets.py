"""A sheet: no cell of it is a formula, its page is whole, and its answers are read strictly."""

import csv
import io
import re

import pytest

from esc import sheets
from esc.files import EscError

WILD = ("hello;=HYPERLINK(1)", "=1+1", "so\t@SUM(A1)", "- one\n- two\n+3;-4", 'she "no";=1;')
HEAD = "record,answer\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_no_cell_is_a_formula_at_any_delimiter(delimiter):
    text = sheets.csv_text(["id", "text"], [dict.fromkeys(("id", "text"), w) for w in WILD])
    stream = io.StringIO(text.removeprefix("\ufeff"), newline="")
    cells = [cell for row in csv.reader(stream, delimiter=delimiter) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_what_no_spreadsheet_takes_for_a_formula_stays_as_it_is():
    for text in ("fine ;-) really", "a-b; c=d", "1 + 1"):
        assert sheets.guarded(text) == text
    assert sheets.csv_text(["a", "b"], [{"a": "x"}]) == '\ufeff"a","b"\r\n"x",""\r\n'


def test_a_page_needs_nothing_else_and_runs_its_own_script_alone(tmp_path):
    template = tmp_path / "page.j2"
    template.write_text("<p>{{ policy }}<style>{{ style | safe }}</style><b>{{ text }}</b>")
    text = sheets.page(template, sheet=["a"], text="<script>alert(1)</script> {{ 7*7 }}")
    assert not re.findall(r"""(?:src|href)=|url\(|@import|https?://|<script""", text)
    assert re.search(r"default-src &#39;none&#39;; .*script-src &#39;sha256-[\w+/]+=&#39;", text)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_a_spreadsheet_saves_is_read(tmp_path, delimiter):
    path = tmp_path / "sheet.csv"
    lines = ['Record,ANSWER,x\n"A"', " Yes ,\n\n,,\nB,,\n"]
    path.write_text("\ufeff" + ",".join(lines).replace(",", delimiter))
    read = sheets.answers(path, ["answer"], ["yes", "no"], {"A", "B"})
    assert read == {"A": {"answer": "yes"}, "B": {"answer": ""}}
    with pytest.raises(EscError, match="has 1 rows with answers"):
        sheets.check_blank(path, ["answer"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (HEAD + "9-9,yes", "row 2: record '9-9' is not on the sheet"),
        (HEAD + "A,yes\nA,no", "row 3: record 'A' is there twice"),
        (HEAD + "A,\nB,perhaps", "row 3 (B): answer 'perhaps' is none of yes, no"),
        ("record,tick\nA,yes", "no column 'answer'"),
        ("", "no column 'record'"),
        (HEAD + "A,caf\xe9", "is not UTF-8 text"),
        (HEAD + '"A,yes', "is no CSV file"),
    ],
)
def test_a_bad_sheet_is_one_line_with_file_and_row(tmp_path, content, told):
    path = tmp_path / "sheet.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(EscError) as raised:
        sheets.answers(path, ["answer"], ["yes", "no"], {"A", "B"})
    assert str(raised.value).startswith(str(path)) and told in str(raised.value)
