"""Statistics of a mining: counts by hand, the paper's beside them, the mark of a smoke run."""

import re
from collections import Counter

import pytest
from corpora import wrong

from esc import files
from esc.prompts import Message
from esc.psych_errors import PsychError
from esc.stats import wilson
from esc.strategies import tag
from mining import stats

ERRORS = [PsychError(name) for name in stats.RG_ERRORS]


@pytest.fixture
def mined(bench, server, planted):
    """All three tasks mined: every turn an SP pair, every second one an RG pair."""
    turns = bench.turns()
    bench.sample("sp", lambda turn, _: wrong(turn.strategy).value)
    bench.sample("rg", lambda turn, _: f"sampled {turn.id}")
    bench.sample("vanilla", lambda turn, _: tag(wrong(turn.strategy), f"sampled {turn.id}"))
    planted.plan = {
        f"sampled {turn.id}": ERRORS[place % 3] for place, turn in enumerate(turns[::2])
    }
    bench.mine("sp", "rg", "vanilla", url=server.url)
    return turns


@pytest.fixture
def folder(bench):
    return bench.mining("sp").folder.parent / "stats"


def test_table_1_and_strategies_count_the_pairs_and_rates_all_samples(mined, bench, folder):
    assert bench.stats()[0] == 0
    found = files.read_json(folder / "stats.json")
    here, tasks, pairs = found["table_1"]["here"], found["tasks"], mined[::2]
    assert here["strategy pairs"] == len(mined) and here["response pairs"] == len(pairs)
    assert here["mean characters of chosen"] == pytest.approx(
        sum(len(turn.response) for turn in pairs) / len(pairs)
    )
    assert sum(here[error] for error in stats.RG_ERRORS) == len(pairs)
    for side, said in (("chosen", lambda one: one), ("rejected", wrong)):
        counts = {name: one[side] for name, one in tasks["sp"]["strategies"].items() if one[side]}
        assert counts == Counter(said(turn.strategy).value for turn in mined)
    kept = tasks["rg"]["kept by error"]
    assert kept["None"]["pairs"] == 0 and kept["None"]["low"] == 0 < kept["None"]["high"]
    assert sum(one["samples"] for one in kept.values()) == len(mined)
    by_strategy = tasks["rg"]["kept by gold strategy"].values()
    assert sum(one["pairs"] for one in by_strategy) == len(pairs)
    # Turns of one dialogue are no trials of their own.
    (one,) = tasks["sp"]["kept by error"].values()
    dialogues = {turn.id.partition("-")[0] for turn in mined}
    assert one["pairs"] == one["samples"] == len(mined) > len(dialogues)
    assert (one["low"], one["high"]) == wilson(len(dialogues), len(dialogues))


def test_the_papers_two_backbones_add_up_to_its_totals():
    for name, (total, qwen, llama) in stats.PAPER_TABLE_1.items():
        assert "mean" in name or total == qwen + llama
    sums = [sum(stats.PAPER_TABLE_1[error][k] for error in stats.RG_ERRORS) for k in range(3)]
    assert sums == stats.PAPER_TABLE_1["response pairs"]


def test_what_a_smoke_run_leaves_carries_the_mark_and_every_error_has_an_example(
    mined, bench, folder, hashes
):
    assert "SMOKE" in bench.stats()[1] and files.read_json(folder / "stats.json")["smoke"] is True
    assert all("SMOKE" in (folder / name).read_text() for name in ("stats.md", "examples.md"))
    first, text = hashes(folder), (folder / "examples.md").read_text()
    for number, error in enumerate((PsychError.STRATEGY_MISMATCH, *ERRORS), start=11):
        section = text.partition(f"## {error} (as in Figure {number})\n")[2].partition("\n## ")[0]
        turn = section.partition("Turn ")[2].partition(",")[0]
        assert f"hello from {turn.partition('-')[0]}" in section
    assert "**Gold strategy**" in text and "**Rejected reply**" in text
    bench.stats()
    assert hashes(folder) == first


def test_a_task_that_is_not_mined_is_named_and_has_nothing_in_table_1(bench, folder):
    assert "make mine-sp" in bench.stats()[2]
    bench.sample("vanilla", lambda turn, _: tag(wrong(turn.strategy), "sampled"))
    bench.mine("vanilla", judge_name="random")
    code, out, _ = bench.stats()
    assert code == 0 and "rg: not mined" in out
    assert set(files.read_json(folder / "stats.json")["table_1"]["here"].values()) == {None}
    assert re.search(r"response pairs +\| +— \| +11,887", (folder / "stats.md").read_text())


def test_text_of_a_model_is_no_markdown(bench, server, planted, folder):
    evil = "# Heading\n<script>alert(1)</script> [x](http://x) | `a` **b** {{ 7*7 }}"
    bench.sample("rg", lambda turn, _: f"{evil} {turn.id}")
    heard = Message("user", evil).wire()["content"]
    planted.plan = {f"{heard} {turn.id}": ERRORS[0] for turn in bench.turns()}
    bench.mine("rg", url=server.url)
    assert bench.stats()[0] == 0
    text = (folder / "examples.md").read_text()
    assert not re.search(r"(?<!\\)<|\n# Heading", text)
    shown = r"\# Heading \<script\>alert(1)\</script\> \[x\](http:&#8203;//x) \| \`a\` \*\*b\*\*"
    assert f"{shown} {{{{ 7\\*7 }}}}" in text


def test_pairs_that_were_changed_or_are_of_other_turns_are_left_out(mined, bench, folder):
    with (bench.mining("rg").routed / "pairs.jsonl").open("a") as stream:
        stream.write("{}\n")
    code, out, _ = bench.stats()
    assert code == 0 and "rg: left out" in out and "was changed since it was written" in out
    assert "rg" not in files.read_json(folder / "stats.json")["tasks"]
    bench.build(limit=2)
    code, _, err = bench.stats()
    assert code == 2 and "other train turns" in err


def test_pairs_and_numbers_of_before_a_mining_without_pairs_do_not_stand(bench, folder):
    for say in (lambda turn, _: wrong(turn.strategy).value, lambda turn, _: turn.strategy.value):
        bench.sample("sp", say)
        bench.route("sp")
        code, _, err = bench.stats()
        assert (folder / "stats.json").exists() is (code == 0)
    assert code == 2 and f"0 pairs of {len(bench.turns())} samples for sp" in err
