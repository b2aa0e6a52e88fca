"""The audit sheet: who is on it, and how its answers are counted."""

import csv
import io
import re

import pytest

from esc import files, sheets
from esc.prompts import Message
from esc.psych_errors import PsychError
from mining import stats

EMPATHY, SHIFT = PsychError.LACK_OF_EMPATHY, PsychError.EARLY_EMOTION_SHIFT


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
        bench.mine("rg", url=server.url)
        return bench.mining("rg").folder.parent / "audit" / "rg"

    return make


def rows_of(folder):
    text = (folder / "sheet.csv").read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def save(path, rows):
    path.write_text(sheets.csv_text([*rows[0]], rows), newline="")


def test_the_draw_takes_n_of_every_error_by_id_and_a_larger_one_holds_a_smaller_one():
    def pair(number, error=EMPATHY, sample=0):
        return {"id": f"{number}-0", "sample": sample, "error": error.value}

    pairs = [pair(k) for k in range(50)] + [pair(k, SHIFT, 1) for k in range(3)]
    pairs.append(pair(1, PsychError.NONE, 2))
    few = list(stats.draw(pairs, 5))
    errors = [one["error"] for one in few]
    assert (errors.count(EMPATHY), errors.count(SHIFT), len(errors)) == (5, 3, 8)
    assert [*stats.draw(pairs[::-1], 5)] == few != pairs[:5]
    assert all(one in [*stats.draw(pairs, 20)] for one in few)


def test_the_sheet_has_its_pairs_as_plain_text_and_blank_answers_and_is_marked(routed, bench):
    folder = routed('=1+1 </article><script>alert(1)</script><img src=x onerror="a()"> {{ 7*7 }}')
    code, out, _ = bench.audit("--n", 3)
    rows, page = rows_of(folder), (folder / "sheet.html").read_text()
    assert code == 0 and "SMOKE" in out and "<strong>SMOKE</strong>" in page and len(rows) == 6
    assert {row["error"] for row in rows} == {EMPATHY.value, SHIFT.value}
    assert all(row["rejected"].startswith("'=1+1") and row["seeker"] for row in rows)
    assert page.count("<script>") == 1 and "<img" not in page and "{{ 7*7 }}" in page
    assert {row["answer"] + row["comment"] for row in rows} == {""}
    assert all(f'data-record="{row["record"]}"' in page for row in rows)
    assert all(re.fullmatch(r"\d+-\d+ sample 0 \([0-9a-f]{6}\)", row["record"]) for row in rows)
    assert f"python -m mining audit --task rg --work {bench.work} --read sheet.csv" in page


def test_a_sheet_without_answers_is_made_anew_and_no_other_is(routed, bench):
    folder = routed()
    assert bench.audit("--n", 2)[0] == bench.audit("--n", 3)[0] == 0
    rows = rows_of(folder)
    rows[1]["comment"] = "hm"
    save(folder / "sheet.csv", rows)
    for content in ((folder / "sheet.csv").read_bytes(), b"\xff\xfe"):
        (folder / "sheet.csv").write_bytes(content)
        assert bench.audit("--n", 4)[0] == 2
        assert (folder / "sheet.csv").read_bytes() == content


def test_precision_is_yes_among_yes_and_no_and_what_is_not_on_the_sheet_is_blank(routed, bench):
    folder = routed()
    bench.audit("--n", 5)
    left = {EMPATHY.value: ["yes", "YES ", "yes", "no", "unsure"], SHIFT.value: ["no", ""]}
    kept = []
    for row in rows_of(folder):
        if left[row["error"]]:
            kept.append(row | {"answer": left[row["error"]].pop(0)})
    save(folder / "sheet.csv", kept)
    code, out, _ = bench.audit("--read", folder / "sheet.csv")
    found = files.read_json(folder / "precision.json")
    assert code == 0 and "SMOKE" in out and found["smoke"] is True
    empathy, shift = found["errors"][EMPATHY.value], found["errors"][SHIFT.value]
    assert empathy["precision"] == 0.75 and empathy["n"] == 4 and empathy["unsure"] == 1
    assert (empathy["low"], empathy["high"]) == (None, None)  # of fewer than ten
    assert shift["precision"] == 0.0 and shift["blank"] == 4
    assert found["all"]["precision"] == 3 / 5 and found["all"]["n"] == 5


def test_a_sheet_that_cannot_be_counted_is_one_line_and_writes_nothing(
    bench, routed, error_line, tmp_path
):
    assert "make mine-rg" in error_line(bench.audit()[2])
    folder, other = routed(), tmp_path / "other.csv"
    save(other, [{"record": "9-9 sample 0 (abcdef)", "answer": ""}])
    assert "mining audit --task rg" in error_line(bench.audit("--read", other)[2])
    bench.audit("--n", 1)
    assert f"{other}: row 2" in error_line(bench.audit("--read", other)[2])
    assert not (folder / "precision.json").exists()
