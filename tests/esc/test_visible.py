"""What people see of a model's text: all of it, and nothing in it that works on a terminal."""

import csv
import io
import subprocess
import sys

import jinja2
import pytest

from esc import sheets
from esc.paths import ROOT
from esc.visible import code, plain, visible

WILD = "a\x1b[2Jb\x9b31m\x7f\x00\r\u202ec\u2066d\ud83d"
HIDDEN = set("\x1b\x9b\x7f\x00\r\u202e\u2066\ud83d")


def test_what_steers_is_written_out_and_what_does_not_stays():
    assert visible(WILD) == r"a\x1b[2Jb\x9b31m\x7f\x00\r\u202ec\u2066d\ud83d"
    tame = "tab\tline\r\nline\nשלום \u200f(a) 你好\u3000\U0001f468\u200d\U0001f469 é"
    assert visible(tame) == tame


def in_csv(text):
    return sheets.csv_text(["a"], [{"a": text}]).replace("\r\n", "\n")


@pytest.mark.parametrize("show", [plain, code, in_csv], ids=["Markdown", "code", "CSV"])
def test_nothing_hidden_gets_into_markdown_or_a_sheet(show):
    assert not HIDDEN & set(show(WILD)) and "2Jb" in show(WILD)


def test_nothing_hidden_gets_onto_a_page_and_markup_of_our_own_stays(tmp_path):
    template = tmp_path / "page.j2"
    template.write_text('<p title="{{ text }}">{{ text }}{{ style | safe }}{{ sheet }}</p>')
    page = sheets.page(template, sheet=["1"], text=WILD + "<b>")
    assert not HIDDEN & set(page) and page.count(r"\u202ec") == 2 and "&lt;b&gt;" in page
    assert "{" in page and "&quot;" not in jinja2.Template(page).render()


def test_a_cell_of_any_length_is_read_back(tmp_path):
    path = tmp_path / "sheet.csv"
    long = "word " * 30_000
    path.write_text(sheets.csv_text(["record", "text"], [{"record": "1", "text": long}]))
    assert [row["text"] for _, row in sheets.read_csv(path, ["record"])] == [long.strip()]
    assert list(csv.reader(io.StringIO(in_csv(long).removeprefix("\ufeff"))))[1] == [long]


STEP = """
import sys
from esc import cli
sys.argv = ["x", "say"]
def say(argv):
    for number in range({lines}):
        print({text!r})
sys.modules["x.said"] = sys.modules["__main__"]
sys.exit(cli.dispatch("x", {{"say": ("said:say", "")}}))
"""


@pytest.mark.parametrize("is_read", [True, False])
def test_what_a_step_prints_steers_no_terminal_and_ends_quietly_where_nobody_reads(is_read):
    text, lines = "\x1b[2J \u202e café", 1 if is_read else 100_000
    with subprocess.Popen(
        [sys.executable, "-c", STEP.format(text=text, lines=lines)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONIOENCODING": "ascii"},
    ) as running:
        assert running.stdout.readline() == "\\x1b[2J \\u202e caf\\xe9\n"
        running.stdout.close()
        assert (running.stderr.read(), running.wait()) == ("", 0 if is_read else 141)
