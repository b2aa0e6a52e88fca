"""The sheet for people: blind, and its votes counted by hand."""

import csv
import io
import re
import shutil

import pytest
from predicted import error, row, rows, save

from esc import files
from eval import human
from eval.human import ASKED
from eval.judge import Dimension


@pytest.fixture
def out(tmp_path):
    return tmp_path / "human"


@pytest.fixture
def run(out, step):
    return lambda *options: step(human.main, "--out", out, *options)


@pytest.fixture
def make(run, tmp_path):
    """Make a sheet of two systems, whose replies begin as told."""

    def call(n, *options, a="first"):
        paths = []
        for name, begins in (("decoupled_dpo", a), ("vanilla_dpo", "second")):
            records = [one | {"predicted_response": f"{begins} {one['id']}"} for one in rows()]
            paths.append(save(tmp_path / name / "predictions.jsonl", records))
        return run("--a", paths[0], "--b", paths[1], "--n", n, *options)

    return call


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def write(path, records):
    with path.open("w", newline="") as stream:
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


@pytest.mark.parametrize(
    ("votes", "counts", "said", "kappa"),
    [
        # One annotator agrees with nobody.
        ([["a"] * 6 + ["b"] * 2 + ["tie"] * 2 + [""]], (6, 2, 2), (6, 2, 2, 1), None),
        (
            [["a", "a", "b", "a", "tie"], ["a", "b", "b", "tie", ""], ["a", "a", "b", "b", "a"]],
            # Where no outcome has most votes it is a tie.
            (2, 2, 1),
            (7, 2, 5, 1),
            # Of the four that all voted on: observed (1 + 1/3 + 1 + 0) / 4, chance 62 / 12².
            (7 / 12 - 62 / 144) / (1 - 62 / 144),
        ),
    ],
)
def test_votes_are_one_outcome_a_turn_and_a_kappa(make, run, out, votes, counts, said, kappa):
    make(len(votes[0]))
    names = ["anna", "ben", "cleo"][: len(votes)]
    paths = [voted(out, name, wishes) for name, wishes in zip(names, votes, strict=True)]
    code, printed, _ = run("--read", *paths)
    told = files.read_json(out / "human.json")
    assert code == 0 and "decoupled_dpo against vanilla_dpo" in printed
    assert list(told["annotators"]) == names
    for dimension in Dimension:
        one = told["dimensions"][dimension]
        assert tuple(one[outcome]["count"] for outcome in ("win", "tie", "lose")) == counts
        assert tuple(one["votes"].values()) == said and one["n"] == sum(counts)
        assert one["kappa"]["value"] == (kappa and pytest.approx(kappa))
        if len(votes) == 1:
            # Wilson: 6 of 10; binomial: 2 of 8 or fewer, twice.
            ends = one["win"]["low"], one["win"]["high"]
            assert ends == pytest.approx((0.3127, 0.8318), abs=5e-5)
            assert one["sign_test"]["p"] == pytest.approx(2 * 37 / 256)


def test_hostile_text_of_any_length_is_only_text_and_is_read_back(run, out, tmp_path):
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
    assert "SMOKE" in run("--read", voted(out, "anna", ["a", "b"]))[1]
    assert files.read_json(out / "human.json")["smoke"] is True


@pytest.mark.parametrize("name", ["key.json", "sheet.csv", "sheet.html"])
def test_no_file_that_is_there_is_replaced_by_another(make, out, name):
    assert make(2)[0] == make(2)[0] == 0
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    # As with a vote in it, or a user's own.
    files.write_text(out / name, '{"title": "music"}\n')
    for other in made.keys() - {name, ".lock"}:
        (out / other).unlink()
    assert f"{name} is there, and another" in error(make(2)[2])
    assert {path.name for path in out.iterdir()} == {name, ".lock"}


def test_what_cannot_be_counted_or_compared_is_one_line_and_writes_nothing(
    make, run, out, tmp_path
):
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
    a = save(tmp_path / "a.jsonl", [row(0, 0, "same"), row(0, 1, None, predicted_response="")])
    assert "two replies that differ" in error(run("--a", a, "--b", a)[2])
    assert "takes --a FILE and --b FILE" in error(run("--a", a)[2])
    assert "make file names" in error(run("--a", a, "--b", a, "--annotators", "../x")[2])
