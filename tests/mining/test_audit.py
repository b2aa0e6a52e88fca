"""The audit sheet: who is on it, that nothing on it is more than text, and how it is counted."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from esc import cli, files
from esc.exceptions import EscError
from esc.paths import Lineage
from esc.prompts import Message
from esc.psych_errors import PsychError
from mining import audit
from mining.sample import Mining

EMPATHY, SHIFT = PsychError.LACK_OF_EMPATHY, PsychError.EARLY_EMOTION_SHIFT


def pair(number, error=EMPATHY, sample=0):
    return {"id": f"{number}-0", "sample": sample, "error": error.value}


@pytest.fixture
def routed(bench, server, planted):
    """RG pairs of every turn, of two errors by turns; replies begin as told."""

    def make(begins="sampled"):
        heard = Message("user", begins).wire()["content"]
        planted.plan = {
            f"{heard} {turn.id}": (EMPATHY, SHIFT)[place % 2]
            for place, turn in enumerate(bench.turns())
        }
        bench.sample("rg", lambda turn, _: f"{begins} {turn.id}")
        assert bench.judge("rg", "--force", url=server.url)[0] == 0
        assert bench.route("rg")[0] == 0
        return bench.mining("rg").folder.parent / "audit" / "rg"

    return make


@pytest.fixture
def run(bench, capsys):
    def call(*options, task="rg"):
        capsys.readouterr()
        code = cli.run(audit.main, ["--work", str(bench.work), "--task", task, *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def rows_of(folder):
    text = (folder / "sheet.csv").read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def save(path, rows, *, delimiter=",", encoding="utf-8-sig"):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(stream.getvalue(), encoding=encoding)


def test_n_are_drawn_of_every_error_or_all_where_there_are_fewer():
    pairs = [pair(k) for k in range(50)] + [pair(k, SHIFT, 1) for k in range(3)]
    drawn = [one["error"] for one in audit.draw(pairs, 5)]
    assert (drawn.count(EMPATHY), drawn.count(SHIFT)) == (5, 3)


def test_the_draw_is_by_id_and_a_larger_one_holds_a_smaller_one():
    pairs = [pair(k) for k in range(50)]
    few = [one["id"] for one in audit.draw(pairs, 5)]
    assert [one["id"] for one in audit.draw(pairs[::-1], 5)] == few
    assert {*few} < {one["id"] for one in audit.draw(pairs, 20)}
    assert few != [f"{k}-0" for k in range(5)]


def test_a_pair_without_an_error_in_its_reply_is_not_on_the_sheet():
    assert audit.draw([pair(1, PsychError.NONE)], 5) == []


def test_the_sheet_has_its_pairs_and_blank_answers(routed, run):
    folder = routed()
    code, out, _ = run("--n", "3")
    rows = rows_of(folder)
    assert code == 0 and "SMOKE" in out and len(rows) == 6
    assert {row["error"] for row in rows} == {EMPATHY.value, SHIFT.value}
    assert all(row["rejected"].startswith("sampled") and row["seeker"] for row in rows)
    assert {row["answer"] + row["comment"] for row in rows} == {""}


@pytest.mark.parametrize("begins", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_is_a_formula_and_the_sheet_reads_back(routed, run, begins):
    folder = routed(f"{begins}")
    run("--n", "2")
    rows = rows_of(folder)
    cells = [cell for row in rows for cell in row.values()]
    assert any(cell.startswith(f"'{begins}") for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    save(folder / "sheet.csv", [row | {"answer": "yes"} for row in rows])
    code, _, _ = run("--read", str(folder / "sheet.csv"))
    assert code == 0 and files.read_json(folder / "precision.json")["all"]["yes"] == 4


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def page_of(folder):
    page = Page()
    page.feed((folder / "sheet.html").read_text())
    return page


def test_text_of_a_model_changes_nothing_of_the_page(routed, run):
    folder = routed()
    run("--n", "2")
    tame = page_of(folder)
    routed = routed('</article><script>alert(1)</script><img src=x onerror="a()"> {{ 7*7 }}')
    run("--n", "2")
    wild = page_of(routed)
    assert wild.tags == tame.tags and wild.attributes == tame.attributes
    assert "{{ 7*7 }}" in (routed / "sheet.html").read_text()


def test_the_page_needs_nothing_else_and_runs_its_own_script_alone(routed, run):
    folder = routed()
    run()
    text = (folder / "sheet.html").read_text()
    assert not re.findall(r"""(?:src|href)=|url\(|@import|https?://""", text)
    assert page_of(folder).tags.count("script") == 1
    assert re.search(r"default-src &#39;none&#39;; .*script-src &#39;sha256-[\w+/]+=&#39;", text)


def test_the_page_says_that_it_is_research_and_smoke(routed, run):
    folder = routed()
    run()
    text = (folder / "sheet.html").read_text()
    assert "Research software." in text and "<strong>SMOKE</strong>" in text


def test_a_sheet_without_answers_is_made_anew_and_one_with_any_is_not(routed, run, error_line):
    folder = routed()
    run("--n", "2")
    assert run("--n", "3")[0] == 0
    rows = rows_of(folder)
    rows[1]["comment"] = "hm"
    save(folder / "sheet.csv", rows)
    before = (folder / "sheet.csv").read_bytes()
    code, _, err = run("--n", "4")
    assert code == 2 and "has 1 rows with answers" in error_line(err)
    assert (folder / "sheet.csv").read_bytes() == before


def test_a_sheet_that_cannot_be_read_is_not_overwritten(routed, run, error_line):
    folder = routed()
    run("--n", "2")
    (folder / "sheet.csv").write_bytes(b"\xff\xfe")
    code, _, err = run("--n", "2")
    assert code == 2 and "not UTF-8" in error_line(err)
    assert (folder / "sheet.csv").read_bytes() == b"\xff\xfe"


def test_precision_is_yes_among_yes_and_no(routed, run):
    folder = routed()
    run("--n", "5")
    rows = rows_of(folder)
    left = {
        EMPATHY.value: ["yes", "YES ", "yes", "no", "unsure"],
        SHIFT.value: ["no", "", "", "", ""],
    }
    save(folder / "sheet.csv", [row | {"answer": left[row["error"]].pop(0)} for row in rows])
    code, out, _ = run("--read", str(folder / "sheet.csv"))
    found = files.read_json(folder / "precision.json")
    assert code == 0 and "SMOKE" in out and found["smoke"] is True
    empathy, shift = found["errors"][EMPATHY.value], found["errors"][SHIFT.value]
    assert empathy["precision"] == 0.75 and empathy["n"] == 4 and empathy["unsure"] == 1
    assert (empathy["low"], empathy["high"]) == (None, None)  # of fewer than ten
    assert shift["precision"] == 0.0 and shift["blank"] == 4
    assert found["all"]["precision"] == 3 / 5 and found["all"]["n"] == 5


def test_a_blank_sheet_has_no_precision(routed, run):
    folder = routed()
    run("--n", "1")
    code, out, _ = run("--read", str(folder / "sheet.csv"))
    assert code == 0 and files.read_json(folder / "precision.json")["all"]["precision"] is None
    assert "2 blank" in out


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheets_other_delimiters_are_read(routed, run, delimiter):
    folder = routed()
    run("--n", "1")
    rows = [row | {"answer": "no"} for row in rows_of(folder)]
    save(folder / "other.csv", rows, delimiter=delimiter)
    assert run("--read", str(folder / "other.csv"))[0] == 0
    assert files.read_json(folder / "precision.json")["all"]["no"] == 2


def test_what_the_page_saves_is_read(routed, run):
    folder = routed()
    run("--n", "1")
    first, second = (row["record"] for row in rows_of(folder))
    sheet = re.search(r'data-sheet="(\w+)"', (folder / "sheet.html").read_text())[1]
    saved = (
        f'\ufeffrecord,answer,comment,sheet\r\n"{first}","yes","","{sheet}"\r\n'
        f'"{second}","","\'=1+1, ""x""","{sheet}"\r\n'
    )
    (folder / "saved.csv").write_text(saved, newline="")
    assert run("--read", str(folder / "saved.csv"))[0] == 0
    assert files.read_json(folder / "precision.json")["all"] | {"low": 0, "high": 0} == {
        **{"precision": 1.0, "low": 0, "high": 0, "n": 1},
        **{"yes": 1, "no": 0, "unsure": 0, "blank": 1},
    }


def test_the_page_saves_the_sheet_it_is_of_in_every_row(routed, run):
    folder = routed()
    run("--n", "1")
    text = (folder / "sheet.html").read_text()
    assert 'names = ["record", ...columns, "sheet"]' in text
    assert "sheet: form.dataset.sheet" in text
    assert {row["sheet"] for row in rows_of(folder)} == {re.search(r'data-sheet="(\w+)"', text)[1]}


@pytest.mark.parametrize("other", ["of another audit", "without a mark"])
def test_a_sheet_of_another_audit_is_refused(routed, run, error_line, other):
    folder = routed()
    run("--n", "1")
    rows = [row | {"answer": "yes"} for row in rows_of(folder)]
    if other == "of another audit":
        run("--n", "2")
    else:
        rows = [{"record": row["record"], "answer": row["answer"]} for row in rows]
    save(folder / "other.csv", rows)
    code, _, err = run("--read", str(folder / "other.csv"))
    assert code == 2 and "row 2: it is of another sheet" in error_line(err)
    assert not (folder / "precision.json").exists()


def test_a_command_that_is_told_names_the_whole_mining(bench, routed, run):
    folder = routed()
    run("--n", "1")
    shown = f"python -m mining audit --task rg --work {bench.work} --read sheet.csv"
    assert shown in (folder / "sheet.html").read_text()
    later = Mining(Path("w"), "qwen2.5-7b", "rg", Lineage("ipo", 2))
    assert later.step("audit") == (
        "python -m mining audit --task rg --variant ipo --round 2 --model qwen2.5-7b --work w"
    )


def ticked(*rows, head="record,answer"):
    head, *rows = (
        f"{row},{mark}" for row, mark in zip((head, *rows), ("sheet", "S", "S"), strict=False)
    )
    return "\n".join([head, *rows]).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (ticked("9-9 sample 0,yes"), "row 2: record '9-9 sample 0' is not on the sheet"),
        (ticked("A,yes", "A,no"), "row 3: record 'A' is there twice"),
        (ticked("A,", "B,perhaps"), "row 3 (B): answer 'perhaps' is none of yes, no, unsure"),
        (ticked("A,yes", head="record,tick"), "no column 'answer'"),
        (b"", "no column 'record'"),
        (ticked("A,yes,caf\xe9").replace("é".encode(), b"\xe9"), "is not UTF-8 text"),
        (ticked('"A,yes'), "is no CSV file"),
    ],
)
def test_a_bad_sheet_is_one_line_with_the_row(tmp_path, content, told):
    path = tmp_path / "sheet.csv"
    path.write_bytes(content)
    with pytest.raises(EscError) as raised:
        audit.precision(audit.answers(path), {"A": EMPATHY.value, "B": EMPATHY.value}, "S")
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_a_bad_row_is_told_with_its_file_and_writes_nothing(routed, run, error_line):
    folder = routed()
    run("--n", "1")
    save(folder / "bad.csv", [rows_of(folder)[0] | {"record": "9-9 sample 0"}])
    code, _, err = run("--read", str(folder / "bad.csv"))
    assert code == 2 and f"{folder / 'bad.csv'}: row 2" in error_line(err)
    assert not (folder / "precision.json").exists()


def test_reading_before_a_sheet_is_made_names_the_command(bench, routed, run, tmp_path, error_line):
    routed()
    save(tmp_path / "x.csv", [{"record": "1", "answer": ""}])
    code, _, err = run("--read", str(tmp_path / "x.csv"))
    again = f"python -m mining audit --task rg --work {bench.work} makes it"
    assert code == 2 and again in error_line(err)


def test_a_mining_without_routes_is_one_line(bench, run, error_line):
    code, _, err = run()
    assert code == 2 and "make mine-rg" in error_line(err)
