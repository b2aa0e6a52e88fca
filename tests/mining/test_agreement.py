"""Two judges beside one another: kappa by hand, and what is read of the stored verdicts."""

from collections import Counter

import pytest

from esc import cli, files
from esc.psych_errors import PsychError
from mining import judge

YES, NO = "Yes", "No"
FILE = "agreement_first_second.json"


def cells(yes_yes, yes_no, no_yes, no_no):
    return Counter({(YES, YES): yes_yes, (YES, NO): yes_no, (NO, YES): no_yes, (NO, NO): no_no})


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((20, 5, 10, 15), 0.4),  # po 35/50, pe 1/2
        ((45, 15, 25, 15), (0.6 - 0.54) / 0.46),  # po 60/100, pe .6*.7 + .4*.3
        ((10, 0, 0, 10), 1.0),
        ((0, 10, 10, 0), -1.0),
        ((5, 5, 5, 5), 0.0),
        ((8, 0, 2, 0), 0.0),  # one of them constant: no better than chance
    ],
)
def test_kappa_by_hand(table, expected):
    assert judge.kappa(cells(*table)) == pytest.approx(expected)


@pytest.mark.parametrize("table", [(7, 0, 0, 0), (0, 7, 0, 0), (0, 0, 0, 0)])
def test_two_constant_judges_have_no_kappa_and_it_is_said(table):
    assert judge.kappa(cells(*table)) is None
    found = judge.agreement([cells(*table)])
    assert (found.kappa, found.low) == (None, None) and found.said


def test_the_interval_holds_kappa_and_is_the_same_again():
    dialogues = [cells(2, k % 2, (k + 1) % 3 == 0, 1 + k % 3) for k in range(60)]
    found = judge.agreement(dialogues)
    assert found.low < found.kappa < found.high
    assert judge.agreement(dialogues) == found


def test_more_dialogues_narrow_the_interval():
    few = [cells(2, k % 2, (k + 1) % 3 == 0, 1 + k % 3) for k in range(12)]
    one, other = judge.agreement(few), judge.agreement(few * 16)
    assert other.high - other.low < (one.high - one.low) / 2


def test_one_dialogue_has_kappa_and_no_interval():
    found = judge.agreement([cells(20, 5, 10, 15)])
    assert found.kappa == pytest.approx(0.4) and found.low is None and "interval" in found.said


@pytest.fixture
def two_judges(bench, server, planted):
    """A mining that ``first`` and ``second`` have judged; they differ on the first turn alone."""
    turns = bench.turns()
    mining = bench.sample("rg", lambda turn, _: f"sampled {turn.id}")
    planted.plan = {f"sampled {turn.id}": PsychError.TEMPLATE_RESPONSE for turn in turns[::2]}
    assert bench.judge("rg", judge_name="first", url=server.url)[0] == 0
    planted.plan[f"sampled {turns[0].id}"] = PsychError.LACK_OF_EMPATHY
    planted.plan[f"sampled {turns[1].id}"] = PsychError.LACK_OF_EMPATHY
    planted.odd[f"sampled {turns[2].id}"] = "I cannot say"
    assert bench.judge("rg", judge_name="second", url=server.url)[0] == 0
    return mining, len(turns)


@pytest.fixture
def agree(bench, capsys):
    def call(*options):
        capsys.readouterr()
        argv = ["--work", str(bench.work), "--task", "rg", "--judge", "first", *options]
        code = cli.run(judge.agreement_main, argv)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_pairs_are_matched_and_those_one_judge_scored_are_counted_apart(two_judges, agree):
    mining, n = two_judges
    code, out, _ = agree("--judge2", "second")
    done = files.read_json(mining.folder / "judges" / FILE)
    assert code == 0 and "SMOKE" in out
    assert done["pairs"] == {"both": n - 1, "first only": 1, "second only": 0, "none": 0}
    assert done["judges"] == ["first", "second"] and done["retain"]["n"] == n - 1


def test_the_confusion_matrix_has_the_first_judge_in_its_rows(two_judges, agree):
    mining, n = two_judges
    agree("--judge2", "second")
    found = files.read_json(mining.folder / "judges" / FILE)["rejected_error"]
    at = {label: place for place, label in enumerate(found["labels"])}
    template, empathy, none = at["Template Response"], at["Lack of Empathy"], at["None"]
    assert found["confusion"][template][empathy] == 1 == found["confusion"][none][empathy]
    assert sum(map(sum, found["confusion"])) == n - 1 and found["agreed"] == n - 3
    assert found["kappa"] is not None and found["low"] <= found["kappa"] <= found["high"]


def test_every_two_judges_have_a_file_of_their_own(bench, server, two_judges, agree):
    mining, _ = two_judges
    assert bench.judge("rg", judge_name="third", url=server.url)[0] == 0
    agree("--judge2", "second")
    code, out, _ = agree("--judge2", "third")
    names = {path.name for path in (mining.folder / "judges").glob("*.json")}
    assert code == 0 and names == {FILE, "agreement_first_third.json"}
    assert "agreement_first_third.json" in out


def test_the_judges_folder_is_held_while_the_result_is_written(two_judges, agree, monkeypatch):
    mining, _ = two_judges
    held, exclusive = [], files.exclusive
    monkeypatch.setattr(files, "exclusive", lambda path: held.append(path) or exclusive(path))
    assert agree("--judge2", "second")[0] == 0 and held == [mining.folder / "judges"]


def test_the_same_judge_twice_is_one_line(two_judges, agree, error_line):
    code, _, err = agree("--judge2", "first")
    assert code == 2 and "both first" in error_line(err)


def test_a_judge_that_was_not_asked_is_one_line_with_those_there_are(two_judges, agree, error_line):
    code, _, err = agree("--judge2", "third")
    assert code == 2 and "there are some by first, second" in error_line(err)


def test_the_planner_has_no_judge(bench, capsys, error_line):
    argv = ["--work", str(bench.work), "--task", "sp", "--judge", "a", "--judge2", "b"]
    assert cli.run(judge.agreement_main, argv) == 2
    assert "comparing names" in error_line(capsys.readouterr().err)
