"""The sheet for people: blind, and its votes counted by hand."""

import csv
import io
import re
import shutil

import pytest
from predicted import error, row, rows, save

from esc import cli, files
from eval import human
from eval.human import ASKED
from eval.judge import Dimension


@pytest.fixture
def out(tmp_path):
    return tmp_path / "human"


@pytest.fixture
def run(out, capsys):
    def call(*options):
        capsys.readouterr()
        code = cli.run(human.main, ["--out", str(out), *map(str, options)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def make(run, tmp_path):
    """Make a sheet of two systems, whose replies begin as told."""

    def call(n, *options, a="first", b="second"):
        paths = []
        for name, begins in (("decoupled_dpo", a), ("vanilla_dpo", b)):
            records = [one | {"predicted_response": f"{begins} {one['id']}"} for one in rows()]
            paths.append(save(tmp_path / name / "predictions.jsonl", records))
        return run("--a", paths[0], "--b", paths[1], "--n", n, *options)

    return call


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def write(path, records):
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, records[0].keys())
        writer.writeheader()
        writer.writerows(records)
    return path


def voted(out, name, wishes):
    """An annotator's file: per record the system wished for on all dimensions, or tie, or blank."""
    sides = files.read_json(out / "key.json")["records"]
    records = []
    for record, wish in zip(sides, wishes, strict=True):
        side = {system: side for side, system in sides[record].items()}.get(wish, wish)
        records.append({"record": record, **dict.fromkeys(ASKED, side)})
    return write(out.parent / f"votes_{name}.csv", records)


def test_the_sheet_holds_both_replies_and_only_the_key_says_whose_they_are(make, out):
    assert make(40)[0] == 0
    sheet, key = rows_of(out / "sheet.csv"), files.read_json(out / "key.json")
    assert len(sheet) == len(key["records"]) == key["n"] == 40
    begins = {"a": "first", "b": "second"}
    for one in sheet:
        sides = key["records"][one["record"]]
        assert {side: one[side].split()[0] for side in "AB"} == {s: begins[sides[s]] for s in "AB"}
        assert {one[name] for name in (*ASKED, "comment")} == {""}
    page = (out / "sheet.html").read_text()
    assert "Research software" in page and page.count("<input") == 40 * (4 * 3 + 1)
    for text in ((out / "sheet.csv").read_text(), page):
        assert not re.search(r"decoupled|vanilla|\bdpo\b|gold \d|SMOKE", text)
    # Sides are shuffled, by the turn alone.
    assert 10 < sum(one["A"] == "a" for one in key["records"].values()) < 30
    shutil.rmtree(out)
    make(7)
    assert files.read_json(out / "key.json")["records"].items() <= key["records"].items()


def test_votes_are_turned_back_to_the_systems_and_counted(make, run, out):
    make(11)
    wishes = ["a"] * 6 + ["b"] * 2 + ["tie"] * 2 + [""]
    code, printed, _ = run("--read", voted(out, "anna", wishes))
    told = files.read_json(out / "human.json")
    assert code == 0 and "decoupled_dpo against vanilla_dpo" in printed
    for dimension in Dimension:
        one = told["dimensions"][dimension]
        assert [one[outcome]["count"] for outcome in ("win", "tie", "lose")] == [6, 2, 2]
        assert one["n"] == 10 and one["votes"] == {"win": 6, "tie": 2, "lose": 2, "blank": 1}
        # Wilson: 6 of 10; binomial: 2 of 8 or fewer, twice.
        assert (one["win"]["low"], one["win"]["high"]) == pytest.approx((0.3127, 0.8318), abs=5e-5)
        assert one["sign_test"]["p"] == pytest.approx(2 * 37 / 256)
        assert one["kappa"]["value"] is None and "takes two" in one["kappa"]["said"]


def test_several_annotators_make_one_outcome_a_turn_and_a_kappa(make, run, out):
    make(5)
    paths = [
        voted(out, "anna", ["a", "a", "b", "a", "tie"]),
        voted(out, "ben", ["a", "b", "b", "tie", ""]),
        voted(out, "cleo", ["a", "a", "b", "b", "a"]),
    ]
    assert run("--read", *paths)[0] == 0
    told = files.read_json(out / "human.json")
    one = told["dimensions"]["Empathy"]
    # Where no outcome has most votes it is a tie.
    assert [one[outcome]["count"] for outcome in ("win", "tie", "lose")] == [2, 2, 1]
    assert one["votes"] == {"win": 7, "tie": 2, "lose": 5, "blank": 1}
    # Of the four that all voted on: observed (1 + 1/3 + 1 + 0) / 4, chance (6² + 1² + 5²) / 12².
    chance = 62 / 144
    assert one["kappa"]["value"] == pytest.approx((7 / 12 - chance) / (1 - chance))
    assert one["kappa"]["n"] == 4 and list(told["annotators"]) == ["anna", "ben", "cleo"]


def test_a_reply_of_any_length_and_an_id_of_any_letters_are_read_back(run, out, tmp_path):
    ids = {"id": "1-1;=\u202e\x1b[2J"}
    a = save(tmp_path / "a.jsonl", [row(1, 1, "=long " * 30_000) | ids])
    run("--a", a, "--b", save(tmp_path / "b.jsonl", [row(1, 1, "<script>x</script>") | ids]))
    text = (out / "sheet.csv").read_text() + (out / "sheet.html").read_text()
    assert not {"\u202e", "\x1b"} & set(text) and text.count("<script>") == 2  # one in the table
    (cells,) = rows_of(out / "sheet.csv")
    votes = write(tmp_path / "votes_anna.csv", [cells | dict.fromkeys(ASKED, "A")])
    assert run("--read", votes)[::2] == (0, "")


def test_every_annotator_named_has_a_sheet_and_a_smoke_run_is_marked_on_it(
    make, run, out, tmp_path
):
    files.write_json(tmp_path / "vanilla_dpo" / "options.json", {"smoke": True})
    assert "SMOKE" in make(2, "--annotators", "anna", "ben")[1]
    assert (out / "sheet_anna.csv").read_bytes() == (out / "sheet_ben.csv").read_bytes()
    page = (out / "sheet_ben.html").read_text()
    assert 'data-file="votes_ben.csv"' in page and "<strong>SMOKE</strong>" in page
    assert not (out / "sheet.csv").exists() and not (out / "sheet.html").exists()
    assert "SMOKE" in run("--read", voted(out, "anna", ["a", "b"]))[1]
    assert files.read_json(out / "human.json")["smoke"] is True


@pytest.mark.parametrize("name", ["key.json", "sheet.csv", "sheet.html"])
def test_no_file_that_is_there_is_replaced_by_another(make, out, name):
    assert make(2)[0] == make(2)[0] == 0
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "name another folder in --out" in error(make(4)[2])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == made
    # As with a vote in it, or a user's own.
    files.write_text(out / name, '{"title": "music"}\n')
    for other in made.keys() - {name, ".lock"}:
        (out / other).unlink()
    assert f"{name} is there, and another" in error(make(2)[2])
    assert {path.name for path in out.iterdir()} == {name, ".lock"}


def test_votes_that_cannot_be_counted_are_one_line_and_write_nothing(make, run, out, tmp_path):
    (tmp_path / "x.csv").write_text("record,fluency\nturn,A\n")
    assert "makes it" in error(run("--read", tmp_path / "x.csv")[2])
    make(2)
    assert "no column 'professionalism'" in error(run("--read", tmp_path / "x.csv")[2])
    assert "has no vote in it" in error(run("--read", voted(out, "anna", ["", ""]))[2])
    assert "is none of A, B, tie" in error(run("--read", voted(out, "anna", ["a", "c"]))[2])
    full = voted(out, "ben", ["a", "b"])
    assert "two files are of annotator 'ben'" in error(run("--read", full, full)[2])
    shutil.rmtree(out)
    make(2, a="third")
    # The sheet of another comparison has other records.
    assert f"{full}: row 2: record" in error(run("--read", full)[2])
    assert not (out / "human.json").exists()


def test_nothing_to_compare_is_one_line(run, tmp_path):
    a = save(tmp_path / "a.jsonl", [row(0, 0, "same"), row(0, 1, None, predicted_response="")])
    assert "two replies that differ" in error(run("--a", a, "--b", a)[2])
    assert "takes --a FILE and --b FILE" in error(run("--a", a)[2])
    assert "make file names" in error(run("--a", a, "--b", a, "--annotators", "../x")[2])
