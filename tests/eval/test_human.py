"""The sheet for people: blind, nothing on it more than text, and its votes counted by hand."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from predicted import row, rows, save

from esc import cli, files
from eval import human
from eval.human import ASKED
from eval.judge import Dimension


@pytest.fixture
def out(tmp_path):
    return tmp_path / "human"


@pytest.fixture
def systems(tmp_path):
    """Files of two systems, whose replies begin as told."""

    def make(a="first", b="second", count=40):
        paths = []
        for name, begins in (("decoupled_dpo", a), ("vanilla_dpo", b)):
            records = [one | {"predicted_response": f"{begins} {one['id']}"} for one in rows()]
            paths.append(save(tmp_path / name / "predictions.jsonl", records[:count]))
        return paths

    return make


@pytest.fixture
def run(out, capsys):
    def call(*options):
        capsys.readouterr()
        code = cli.run(human.main, ["--out", str(out), *map(str, options)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def make(run, systems):
    """Make a sheet of the two systems."""

    def call(*options, **begins):
        a, b = systems(**begins)
        return run("--a", a, "--b", b, *options)

    return call


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def write(path, records, *, delimiter=",", head=None):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, head or records[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    path.write_text(stream.getvalue(), encoding="utf-8-sig")
    return path


def voted(out, name, wishes):
    """An annotator's file: per record the system wished for on all dimensions, or tie, or blank."""
    sides = files.read_json(out / "key.json")["records"]
    records = []
    for record, wish in zip(sides, wishes, strict=True):
        side = {system: side for side, system in sides[record].items()}.get(wish, wish)
        records.append({"record": record, **dict.fromkeys(ASKED, side)})
    return write(out.parent / f"votes_{name}.csv", records)


def error(err):
    (line,) = [text for text in err.splitlines() if text.startswith("error: ")]
    return line


def test_the_sheet_holds_both_replies_the_key_says_whose_they_are(make, out):
    assert make("--n", 12)[0] == 0
    sheet, key = rows_of(out / "sheet.csv"), files.read_json(out / "key.json")
    assert len(sheet) == len(key["records"]) == key["n"] == 12
    for one in sheet:
        sides = key["records"][one["record"]]
        begins = {"a": "first", "b": "second"}
        assert {side: one[side].split()[0] for side in "AB"} == {
            side: begins[system] for side, system in sides.items()
        }
        assert {one[name] for name in (*ASKED, "comment")} == {""}
    assert {sides["A"] for sides in key["records"].values()} == {"a", "b"}


def test_sides_are_shuffled_about_evenly_by_the_turn_alone(make, out):
    make("--n", 40)
    sides = files.read_json(out / "key.json")["records"]
    assert 10 < sum(one["A"] == "a" for one in sides.values()) < 30
    make("--n", 7)
    few = files.read_json(out / "key.json")["records"]
    assert few.items() <= sides.items()


def test_no_word_on_the_sheet_says_whose_a_reply_is(make, out):
    make()
    for name in ("sheet.csv", "sheet.html"):
        text = (out / name).read_text()
        assert not re.search(r"decoupled|vanilla|\bdpo\b|gold \d", text)


def test_votes_are_turned_back_to_the_systems_and_counted(make, run, out):
    make("--n", 11)
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
    make("--n", 4)
    paths = [
        voted(out, "anna", ["a", "a", "b", "a"]),
        voted(out, "ben", ["a", "b", "b", "tie"]),
        voted(out, "cleo", ["a", "a", "b", "b"]),
    ]
    assert run("--read", *paths)[0] == 0
    told = files.read_json(out / "human.json")
    one = told["dimensions"]["Empathy"]
    assert [one[outcome]["count"] for outcome in ("win", "tie", "lose")] == [2, 1, 1]
    assert one["votes"] == {"win": 6, "tie": 1, "lose": 5, "blank": 0}
    # Observed (1 + 1/3 + 1 + 0) / 4, chance (6² + 1² + 5²) / 12².
    chance = 62 / 144
    assert one["kappa"]["value"] == pytest.approx((7 / 12 - chance) / (1 - chance))
    assert list(told["annotators"]) == ["anna", "ben", "cleo"]
    first = (out / "human.json").read_bytes()
    run("--read", *paths)
    assert (out / "human.json").read_bytes() == first


def test_agreement_is_over_the_turns_that_all_voted_on(make, run, out):
    make("--n", 3)
    run("--read", voted(out, "anna", ["a", "b", "a"]), voted(out, "ben", ["a", "b", ""]))
    one = files.read_json(out / "human.json")["dimensions"]["Fluency"]
    assert (one["kappa"]["value"], one["kappa"]["n"], one["n"]) == (1.0, 2, 3)


def test_annotators_of_one_mind_have_no_kappa_and_it_is_said(make, run, out):
    make("--n", 3)
    run("--read", voted(out, "anna", ["a"] * 3), voted(out, "ben", ["a"] * 3))
    kappa = files.read_json(out / "human.json")["dimensions"]["Fluency"]["kappa"]
    assert kappa["value"] is None and "cannot be told from chance" in kappa["said"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_sheet_filled_in_by_a_spreadsheet_is_read(make, run, out, tmp_path, delimiter):
    make("--n", 2)
    filled = [one | dict.fromkeys(ASKED, " Tie ") for one in rows_of(out / "sheet.csv")]
    code, _, _ = run("--read", write(tmp_path / "x.csv", filled, delimiter=delimiter))
    told = files.read_json(out / "human.json")["dimensions"]["Fluency"]
    assert code == 0 and told["tie"]["count"] == 2


@pytest.mark.parametrize("begins", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_is_a_formula(make, out, begins):
    make("--n", 3, a=begins)
    cells = [cell for one in rows_of(out / "sheet.csv") for cell in one.values()]
    assert any(cell.startswith(f"'{begins}") for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_a_reply_of_any_length_and_an_id_of_any_letters_are_read_back(make, run, out, tmp_path):
    ids = {"id": "1-1;=\u202e\x1b[2J"}
    a = save(tmp_path / "a.jsonl", [row(1, 1, "long " * 30_000) | ids])
    run("--a", a, "--b", save(tmp_path / "b.jsonl", [row(1, 1, "short") | ids]))
    text = (out / "sheet.csv").read_text() + (out / "sheet.html").read_text()
    assert not {"\u202e", "\x1b"} & set(text)
    (cells,) = rows_of(out / "sheet.csv")
    votes = write(tmp_path / "votes_anna.csv", [cells | dict.fromkeys(ASKED, "A")])
    code, _, err = run("--read", votes)
    assert (code, err) == (0, "")


def test_text_of_a_model_changes_nothing_of_the_page(make, out):
    make("--n", 5)
    tame = Page((out / "sheet.html").read_text())
    make("--n", 5, a='</article><script>alert(1)</script><img src=x onerror="a()"> {{ 7*7 }}')
    text = (out / "sheet.html").read_text()
    wild = Page(text)
    assert (wild.tags, wild.attributes) == (tame.tags, tame.attributes) and "{{ 7*7 }}" in text


def test_the_page_needs_nothing_else_and_runs_its_own_script_alone(make, out):
    make()
    text = (out / "sheet.html").read_text()
    assert not re.findall(r"""(?:src|href)=|url\(|@import|https?://""", text)
    assert Page(text).tags.count("script") == 1
    assert re.search(r"default-src &#39;none&#39;; .*script-src &#39;sha256-[\w+/]+=&#39;", text)
    assert "Research software" in text and "SMOKE" not in text
    assert Page(text).tags.count("input") == 20 * (4 * 3 + 1)


def test_what_comes_from_a_smoke_run_is_marked_on_the_page_and_in_the_result(
    make, run, out, tmp_path
):
    (tmp_path / "vanilla_dpo").mkdir()
    files.write_json(tmp_path / "vanilla_dpo" / "options.json", {"smoke": True})
    assert "SMOKE" in make("--n", 2)[1]
    assert "<strong>SMOKE</strong>" in (out / "sheet.html").read_text()
    assert "SMOKE" in run("--read", voted(out, "anna", ["a", "b"]))[1]
    assert files.read_json(out / "human.json")["smoke"] is True


def test_every_annotator_named_has_a_sheet_and_a_page_that_saves_under_the_name(make, out):
    make("--n", 2, "--annotators", "anna", "ben")
    assert (out / "sheet_anna.csv").read_bytes() == (out / "sheet_ben.csv").read_bytes()
    assert 'data-file="votes_ben.csv"' in (out / "sheet_ben.html").read_text()
    assert not (out / "sheet.csv").exists()


def test_a_sheet_with_votes_is_never_overwritten(make, out):
    make("--n", 2)
    assert make("--n", 3)[0] == 0
    filled = rows_of(out / "sheet.csv")
    filled[1]["empathy"] = "A"
    write(out / "sheet.csv", filled)
    before = (out / "sheet.csv").read_bytes(), (out / "key.json").read_bytes()
    code, _, err = make("--n", 4)
    assert code == 2 and "has 1 rows with votes" in error(err)
    assert ((out / "sheet.csv").read_bytes(), (out / "key.json").read_bytes()) == before


def test_saved_votes_beside_the_sheet_keep_their_key_too(make, out):
    make("--n", 2)
    voted(out, "anna", ["a", "b"]).rename(out / "votes_anna.csv")
    code, _, err = make("--n", 4)
    assert code == 2 and "votes_anna.csv has 2 rows with votes" in error(err)


def test_a_result_keeps_its_key(make, run, out):
    make("--n", 2)
    run("--read", voted(out, "anna", ["a", "b"]))
    code, _, err = make("--n", 4)
    assert code == 2 and "take another --out" in error(err)


def bad(out, **changed):
    records = [
        {"record": name, **dict.fromkeys(ASKED, "A")}
        for name in files.read_json(out / "key.json")["records"]
    ]
    records[1] |= changed
    return write(out.parent / "bad.csv", records)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"record": "turn 99-9 (abcdef)"},
            "row 3: record 'turn 99-9 (abcdef)' is not on the sheet",
        ),
        ({"empathy": "C"}, "empathy 'C' is none of A, B, tie"),
        ({"fluency": "3"}, "fluency '3' is none of A, B, tie"),
    ],
)
def test_a_bad_vote_is_one_line_with_file_and_row_and_writes_nothing(make, run, out, changed, told):
    make("--n", 2)
    path = bad(out, **changed)
    code, _, err = run("--read", path)
    assert code == 2 and f"{path}: row 3" in error(err) and told in error(err)
    assert not (out / "human.json").exists()


def test_a_record_twice_is_one_line(make, run, out):
    make("--n", 2)
    first = next(iter(files.read_json(out / "key.json")["records"]))
    assert "is there twice" in error(run("--read", bad(out, record=first))[2])


def test_votes_on_another_comparisons_sheet_are_refused(make, run, out, systems):
    make("--n", 2)
    path = voted(out, "anna", ["a", "b"])
    a, b = systems(a="third")
    run("--a", a, "--b", b, "--n", 2)
    assert "is not on the sheet of this folder" in error(run("--read", path)[2])


def test_files_that_cannot_be_read_are_one_line(make, run, out, tmp_path):
    (tmp_path / "x.csv").write_text("record,fluency\nturn,A\n")
    assert "makes it" in error(run("--read", tmp_path / "x.csv")[2])
    make("--n", 2)
    assert "no column 'professionalism'" in error(run("--read", tmp_path / "x.csv")[2])
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in error(run("--read", tmp_path / "x.csv")[2])
    blank = voted(out, "anna", ["", ""])
    assert "has no vote in it" in error(run("--read", blank)[2])
    full = voted(out, "ben", ["a", "b"])
    assert "two files are of annotator 'ben'" in error(run("--read", full, full)[2])


def test_nothing_to_compare_is_one_line(run, tmp_path):
    a = save(tmp_path / "a.jsonl", [row(0, 0, "same"), row(0, 1, None, predicted_response="")])
    code, _, err = run("--a", a, "--b", a)
    assert code == 2 and "two replies that differ" in error(err)
    assert "takes --a FILE and --b FILE" in error(run("--a", a)[2])
    assert "make file names" in error(run("--a", a, "--b", a, "--annotators", "../x")[2])


@pytest.mark.parametrize(
    ("count", "outcome"),
    [
        ({"win": 2, "lose": 1}, "win"),
        ({"win": 1, "lose": 1}, "tie"),
        ({"win": 1, "lose": 1, "tie": 2}, "tie"),
        ({"lose": 2, "tie": 2}, "tie"),
        ({"lose": 1}, "lose"),
    ],
)
def test_a_turn_has_the_outcome_with_most_votes(count, outcome):
    assert human.majority(human.Counter(count)) == outcome


@pytest.mark.parametrize("name", ["key.json", "sheet.csv", "sheet.html"])
def test_a_users_own_file_of_such_a_name_is_never_replaced(make, out, name):
    files.write_text(out / name, '{"title": "music"}\n')
    code, _, err = make()
    assert code == 2 and "is no file of this step" in error(err)
    assert (out / name).read_text() == '{"title": "music"}\n'


def test_other_files_of_a_user_stay_beside_the_sheet(make, out):
    for name in ("sheet_music.html", "sheet_music.csv", "prices.csv"):
        files.write_text(out / name, "a,b\n1,2\n")
    assert make()[0] == make("--n", 3)[0] == 0
    assert (out / "sheet_music.html").is_file() and (out / "sheet_music.csv").is_file()
    assert len(rows_of(out / "sheet.csv")) == 3
