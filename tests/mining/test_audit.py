"""The audit sheet: who is on it, and how its answers are counted."""

import csv
import io
import re
from pathlib import Path

import pytest

from data_builders.pairs import Mining
from esc import cli, files, sheets
from esc.paths import Lineage
from esc.prompts import Message
from esc.psych_errors import PsychError
from mining import audit, stats

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
    def call(*options):
        capsys.readouterr()
        code = cli.run(audit.main, ["--work", str(bench.work), "--task", "rg", *map(str, options)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def rows_of(folder):
    text = (folder / "sheet.csv").read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def save(path, rows):
    path.write_text(sheets.csv_text([*rows[0]], rows), newline="")


def test_the_draw_takes_n_of_every_error_by_id_and_a_larger_one_holds_a_smaller_one():
    pairs = [pair(k) for k in range(50)] + [pair(k, SHIFT, 1) for k in range(3)]
    pairs.append(pair(1, PsychError.NONE, 2))
    few = stats.draw(pairs, 5)
    errors = [one["error"] for one in few]
    assert (errors.count(EMPATHY), errors.count(SHIFT), len(errors)) == (5, 3, 8)
    assert stats.draw(pairs[::-1], 5) == few != pairs[:5]
    assert all(one in stats.draw(pairs, 20) for one in few)


def test_the_sheet_has_its_pairs_and_blank_answers_and_is_marked(routed, run, bench):
    folder = routed()
    code, out, _ = run("--n", 3)
    rows, page = rows_of(folder), (folder / "sheet.html").read_text()
    assert code == 0 and "SMOKE" in out and "<strong>SMOKE</strong>" in page and len(rows) == 6
    assert {row["error"] for row in rows} == {EMPATHY.value, SHIFT.value}
    assert all(row["rejected"].startswith("sampled") and row["seeker"] for row in rows)
    assert {row["answer"] + row["comment"] for row in rows} == {""}
    assert all(f'data-record="{row["record"]}"' in page for row in rows)
    assert all(re.fullmatch(r"\d+-\d+ sample 0 \([0-9a-f]{6}\)", row["record"]) for row in rows)
    assert f"python -m mining audit --task rg --work {bench.work} --read sheet.csv" in page
    later = Mining(Path("w"), "qwen2.5-7b", "rg", Lineage("ipo", 2))
    assert audit._command(later) == (
        "python -m mining audit --task rg --variant ipo --round 2 --model qwen2.5-7b --work w"
    )


def test_text_of_a_model_is_no_formula_and_no_markup(routed, run):
    folder = routed('=1+1 </article><script>alert(1)</script><img src=x onerror="a()"> {{ 7*7 }}')
    run("--n", 2)
    rows, page = rows_of(folder), (folder / "sheet.html").read_text()
    assert all(row["rejected"].startswith("'=1+1") for row in rows)
    assert page.count("<script>") == 1 and "<img" not in page and "{{ 7*7 }}" in page


def test_a_sheet_without_answers_is_made_anew_and_no_other_is(routed, run, error_line):
    folder = routed()
    run("--n", 2)
    assert run("--n", 3)[0] == 0
    rows = rows_of(folder)
    rows[1]["comment"] = "hm"
    save(folder / "sheet.csv", rows)
    for content, told in (
        ((folder / "sheet.csv").read_bytes(), "has 1 rows with answers"),
        (b"\xff\xfe", "not UTF-8"),
    ):
        (folder / "sheet.csv").write_bytes(content)
        code, _, err = run("--n", 4)
        assert code == 2 and told in error_line(err)
        assert (folder / "sheet.csv").read_bytes() == content


def test_precision_is_yes_among_yes_and_no_and_what_is_not_on_the_sheet_is_blank(routed, run):
    folder = routed()
    run("--n", 5)
    left = {EMPATHY.value: ["yes", "YES ", "yes", "no", "unsure"], SHIFT.value: ["no", ""]}
    kept = []
    for row in rows_of(folder):
        if left[row["error"]]:
            kept.append(row | {"answer": left[row["error"]].pop(0)})
    save(folder / "sheet.csv", kept)
    code, out, _ = run("--read", folder / "sheet.csv")
    found = files.read_json(folder / "precision.json")
    assert code == 0 and "SMOKE" in out and found["smoke"] is True
    empathy, shift = found["errors"][EMPATHY.value], found["errors"][SHIFT.value]
    assert empathy["precision"] == 0.75 and empathy["n"] == 4 and empathy["unsure"] == 1
    assert (empathy["low"], empathy["high"]) == (None, None)  # of fewer than ten
    assert shift["precision"] == 0.0 and shift["blank"] == 4
    assert found["all"]["precision"] == 3 / 5 and found["all"]["n"] == 5


def test_a_sheet_that_cannot_be_counted_is_one_line_and_writes_nothing(
    bench, routed, run, error_line, tmp_path
):
    assert "make mine-rg" in error_line(run()[2])
    folder, other = routed(), tmp_path / "other.csv"
    save(other, [{"record": "9-9 sample 0 (abcdef)", "answer": ""}])
    again = f"python -m mining audit --task rg --work {bench.work} makes it"
    assert again in error_line(run("--read", other)[2])
    run("--n", 1)
    code, _, err = run("--read", other)
    assert code == 2 and f"{other}: row 2" in error_line(err) and "is not on the sheet" in err
    assert not (folder / "precision.json").exists()
