"""Two judges beside one another: what is read of the stored verdicts."""

import pytest

from esc import cli, files
from esc.psych_errors import PsychError
from mining import judge

FILE = "agreement_first_second.json"


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
