import pytest

from data_builders import stats
from esc import files, paths
from esc.strategies import Strategy


def row(strategy, said, reply, *, dialogue=0, turn=0, turns=1):
    return {
        "strategy": strategy,
        "instruction": said,
        "output": reply,
        "provenance": {"dialogue": dialogue, "turn": turn, "turns": turns},
    }


def test_the_supporters_characters_count_the_tag():
    found = stats.statistics([row("Question", "abcd", "why?")])["table_1"]
    assert found["characters per seeker utterance"] == 4
    assert found["characters per supporter utterance"] == len("[Question] why?")
    assert found["characters per utterance"] == (4 + 15) / 2


@pytest.mark.parametrize(
    ("turn", "turns", "interval"), [(0, 1, 5), (0, 10, 0), (8, 10, 4), (9, 10, 5), (3, 5, 4)]
)
def test_the_last_turn_is_an_interval_of_its_own(turn, turns, interval):
    assert stats.interval(turn, turns) == interval


def test_the_shares_of_an_interval_sum_to_one_and_an_empty_one_has_none():
    rows = [row(s, "a", "b", turn=n, turns=8) for n, s in enumerate(list(Strategy)[:6])]
    sums = [sum(shares.values()) for shares in stats.statistics(rows)["figure_8"]]
    assert sums == pytest.approx([1, 1, 1, 1, 0, 0])


def test_the_real_train_split_has_the_papers_table_6_and_the_measured_table_1(esconv_work):
    found = stats.statistics(files.read_jsonl(esconv_work / paths.sft_file("rg", "train")))
    assert {Strategy(n).code: count for n, count in found["table_6"].items()} == stats.PAPER_TABLE_6
    assert {name: round(value, 2) for name, value in found["table_1"].items()} == {
        "dialogues": 1040,
        "utterances": 29526,
        "supporter utterances": 14763,
        "seeker utterances": 14763,
        "utterances per dialogue": 28.39,
        "turns per dialogue": 14.2,
        "characters per utterance": 95.82,
        "characters per supporter utterance": 112.04,
        "characters per seeker utterance": 79.59,
    }


def test_the_step_writes_json_and_markdown_with_the_smoke_mark(sample_work):
    stats.main(["--work", str(sample_work)])
    written = sample_work / paths.STATS
    assert "SMOKE" in written.with_name("stats.md").read_text()
    told = files.read_json(written)
    assert any("SMOKE" in note for note in told["notes"])
    assert told["paper"]["table_6"]["Question"] == 3060
