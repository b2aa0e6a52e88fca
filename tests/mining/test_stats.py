"""Statistics of a mining: counts by hand, the paper's beside them, the mark of a smoke run."""

import json
import random
import re
import statistics
from collections import Counter

import pytest
from matplotlib.figure import Figure

from esc import cli, files, paths, step
from esc.prompts import Message
from esc.psych_errors import PsychError
from esc.stats import wilson
from esc.strategies import Strategy, tag
from mining import stats
from mining.routing import Fate

ERRORS = [PsychError(name) for name in stats.RG_ERRORS]


@pytest.fixture
def mined(bench, server, planted):
    """All three tasks mined: every turn an SP pair, every second one an RG pair."""
    turns = bench.turns()
    bench.sample("sp", lambda turn, _: other(turn.strategy).value)
    bench.sample("rg", lambda turn, _: f"sampled {turn.id}")
    bench.sample("vanilla", lambda turn, _: tag(other(turn.strategy), f"sampled {turn.id}"))
    planted.plan = {
        f"sampled {turn.id}": ERRORS[place % 3] for place, turn in enumerate(turns[::2])
    }
    for task in ("rg", "vanilla"):
        assert bench.judge(task, url=server.url)[0] == 0
    for task in ("sp", "rg", "vanilla"):
        assert bench.route(task)[0] == 0
    return turns


def other(strategy):
    return Strategy.OTHERS if strategy is not Strategy.OTHERS else Strategy.QUESTION


@pytest.fixture
def run(bench, capsys, monkeypatch):
    """Exit code, stdout and stderr of the step; figures are drawn where a test is about them."""

    def call(*options, figures=False):
        if not figures:
            monkeypatch.setattr(stats, "FIGURES", {})
        capsys.readouterr()
        code = cli.run(stats.main, ["--work", str(bench.work), *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def folder(bench):
    return bench.mining("sp").folder.parent / "stats"


def test_table_1_counts_the_pairs_and_their_characters(mined, run, folder):
    assert run()[0] == 0
    here = files.read_json(folder / "stats.json")["table_1"]["here"]
    pairs = mined[::2]
    assert here["strategy pairs"] == len(mined) and here["response pairs"] == len(pairs)
    assert here["mean characters of chosen"] == pytest.approx(
        sum(len(turn.response) for turn in pairs) / len(pairs)
    )
    assert here["mean characters of rejected"] == pytest.approx(
        sum(len(f"sampled {turn.id}") for turn in pairs) / len(pairs)
    )
    assert sum(here[error] for error in stats.RG_ERRORS) == len(pairs)


def test_the_papers_two_backbones_add_up_to_its_totals():
    for name, (total, qwen, llama) in stats.PAPER_TABLE_1.items():
        if "mean" not in name:
            assert total == qwen + llama
    sums = [sum(stats.PAPER_TABLE_1[error][k] for error in stats.RG_ERRORS) for k in range(3)]
    assert tuple(sums) == stats.PAPER_TABLE_1["response pairs"]


def test_keep_rates_are_of_all_samples_with_an_interval(mined, run, folder):
    run()
    rates = files.read_json(folder / "stats.json")["tasks"]["rg"]
    kept = rates["kept by error"]
    assert kept["None"]["pairs"] == 0 and kept["None"]["low"] == 0 < kept["None"]["high"]
    assert sum(one["samples"] for one in kept.values()) == len(mined)
    by_strategy = rates["kept by gold strategy"]
    assert sum(one["pairs"] for one in by_strategy.values()) == len(mined[::2])


def test_turns_of_one_dialogue_are_no_trials_of_their_own(mined, run, folder):
    run()
    rates = files.read_json(folder / "stats.json")["tasks"]["sp"]
    (one,) = rates["kept by error"].values()
    dialogues = {turn.id.partition("-")[0] for turn in mined}
    assert one["pairs"] == one["samples"] == len(mined) > len(dialogues)
    assert (one["low"], one["high"]) == wilson(len(dialogues), len(dialogues))
    assert "resamples of dialogues" in rates["interval"]


def test_keep_rates_have_intervals_by_dialogue():
    """Ten dialogues that are alike within are ten trials, however many turns they have."""

    def rate(each, fates=(Fate.PAIR, Fate.NO_ERROR) * 5):
        of = stats.Found("sp", {})
        for fate in fates:
            way = {"error": None, "gold_strategy": Strategy.QUESTION.value, "fate": fate}
            of.take_dialogue([way] * each)
        (one,) = of.keep_rates("gold strategy").values()
        return one

    few, many = rate(1), rate(50)
    assert (many["samples"], many["pairs"], many["share"]) == (500, 250, 0.5)
    assert (few["low"], few["high"]) == (many["low"], many["high"]) == (0.2, 0.8)
    one = rate(50, fates=[Fate.PAIR])
    assert (one["low"], one["high"]) == (None, None) and "1 dialogue," in one["reason"]


def test_strategies_of_both_sides_are_counted(mined, run, folder):
    run()
    found = files.read_json(folder / "stats.json")["tasks"]["sp"]["strategies"]
    chosen = Counter(turn.strategy.value for turn in mined)
    rejected = Counter(other(turn.strategy).value for turn in mined)
    assert {name: one["chosen"] for name, one in found.items() if one["chosen"]} == chosen
    assert {name: one["rejected"] for name, one in found.items() if one["rejected"]} == rejected


@pytest.mark.parametrize("seed", range(5))
def test_mean_and_median_are_those_of_the_list(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(0, 900) for _ in range(rng.randint(1, 60))]
    shown = stats.spread(Counter(lengths))
    assert shown["mean"] == pytest.approx(statistics.mean(lengths))
    assert shown["median"] == statistics.median(lengths)
    assert sum(shown["bins"]) == len(lengths)


def test_nothing_has_neither_mean_nor_median():
    assert stats.spread(Counter())["mean"] is stats.spread(Counter())["median"] is None


def test_every_table_page_and_figure_carries_the_mark(mined, run, folder, monkeypatch):
    texts = []
    write = Figure.text
    monkeypatch.setattr(
        Figure,
        "text",
        lambda self, *args, **more: texts.append(args[2]) or write(self, *args, **more),
    )
    _, out, _ = run(figures=True)
    assert "SMOKE" in out and files.read_json(folder / "stats.json")["smoke"] is True
    assert all("SMOKE" in (folder / name).read_text() for name in ("stats.md", "examples.md"))
    assert texts.count("SMOKE") == len(stats.FIGURES)


def test_four_figures_are_written(mined, run, folder):
    run(figures=True)
    for name in stats.FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_whose_tasks_are_not_mined_is_absent(bench, run, folder):
    bench.sample("sp", lambda turn, _: other(turn.strategy).value)
    bench.route("sp")
    folder.mkdir()
    (folder / "lengths.png").write_bytes(b"of another time")
    run(figures=True)
    assert {path.stem for path in folder.glob("*.png")} == {"strategies", "kept"}


def test_every_error_has_an_example_with_its_situation(mined, run, folder):
    run()
    text = (folder / "examples.md").read_text()
    for error in (PsychError.STRATEGY_MISMATCH, *ERRORS):
        section = text.partition(f"## {error}")[2].partition("\n## ")[0]
        turn = section.partition("Turn ")[2].partition(",")[0]
        dialogue = turn.partition("-")[0]
        assert f"**Situation** case {dialogue} with matter" in section
        assert "**Emotion** anxiety\n" in section and "**Problem** job crisis\n" in section
        assert f"hello from {dialogue}" in section
    assert "**Gold strategy**" in text and "**Rejected reply**" in text


def test_a_situation_is_not_guessed_where_two_dialogues_say_the_same(bench):
    said = ["what about 1?", "try 1"]
    known = stats.seeker_of(bench.work, said)
    assert known["Situation"] == "case 1 with matter 7 and worry 13"
    (name,) = step.manifest(bench.work)["corpus"]["files"]
    path = paths.corpus(bench.work) / name
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[1]]))
    assert stats.seeker_of(bench.work, said) == {}
    path.unlink()
    assert stats.seeker_of(bench.work, said) == {}


def test_the_hub_layout_gives_the_situation_too(bench):
    (name,) = step.manifest(bench.work)["corpus"]["files"]
    row = {
        "situation": "far away",
        "dialog": [{"speaker": "usr", "text": "hi"}, {"speaker": "sys", "text": "oh  no"}],
    }
    (paths.corpus(bench.work) / name).write_text(f"{json.dumps(row)}\n\n")
    assert stats.seeker_of(bench.work, ["oh no"]) == {"Situation": "far away"}


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (
            {"seeker": {"initial_emotion_intensity": "4", "empathy": 5}, "supporter": {}},
            {"Survey": "initial emotion intensity 4, empathy 5"},
        ),
        ({"seeker": {"initial_emotion_intensity": None}}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_the_seekers_survey_is_told_where_the_corpus_has_it(bench, scores, told):
    (name,) = step.manifest(bench.work)["corpus"]["files"]
    row = {"survey_score": scores, "dialog": [{"speaker": "sys", "text": "oh no"}]}
    (paths.corpus(bench.work) / name).write_text(json.dumps([row]))
    assert stats.seeker_of(bench.work, ["oh no"]) == told


def test_text_of_a_model_is_no_markdown(bench, server, planted, run, folder):
    evil = "# Heading\n<script>alert(1)</script> [x](http://x) | `a` **b**"
    bench.sample("rg", lambda turn, _: f"{evil} {turn.id}")
    heard = Message("user", evil).wire()["content"]
    planted.plan = {f"{heard} {turn.id}": ERRORS[0] for turn in bench.turns()}
    bench.judge("rg", url=server.url)
    bench.route("rg")
    assert run()[0] == 0
    text = (folder / "examples.md").read_text()
    assert not re.search(r"(?<!\\)<|\n# Heading", text)
    shown = r"\# Heading \<script\>alert(1)\</script\> \[x\](http:&#8203;//x) \| \`a\` \*\*b\*\*"
    assert shown in text


def test_a_task_that_is_not_mined_is_named_and_its_cells_are_empty(bench, run, folder):
    bench.sample("sp", lambda turn, _: other(turn.strategy).value)
    bench.route("sp")
    code, out, _ = run()
    assert code == 0 and "rg: not mined" in out
    assert "| response pairs | — | 11,887 | 6,041 | 5,846 |" in (folder / "stats.md").read_text()
    assert "No pair of it was mined." in (folder / "examples.md").read_text()


def test_nothing_mined_is_one_line(bench, run, error_line):
    code, _, err = run()
    assert code == 2 and "make mine-sp" in error_line(err)


def test_a_task_whose_pairs_were_changed_is_left_out_and_says_so(mined, bench, run, folder):
    with (bench.mining("rg").routed / "pairs.jsonl").open("a") as stream:
        stream.write("{}\n")
    code, out, _ = run()
    assert code == 0 and "rg: left out" in out and "was changed since it was written" in out
    assert "rg" not in files.read_json(folder / "stats.json")["tasks"]


@pytest.fixture
def without_pairs(mined, bench, run):
    """From tasks to a mining of each that no pair came out of, after one with pairs and numbers."""
    run()

    def call(*tasks):
        say = {
            "sp": lambda turn, _: turn.strategy.value,
            "rg": lambda turn, _: turn.response,
            "vanilla": lambda turn, _: tag(turn.strategy, turn.response),
        }
        for task in tasks:
            bench.sample(task, say[task])
            bench.judge(task, "--force", judge_name="random")
            assert bench.route(task, "--force", judge_name="random")[0] == 2

    return call


def test_pairs_of_before_a_mining_without_pairs_are_left_out(without_pairs, mined, run, folder):
    without_pairs("rg")
    code, out, _ = run()
    assert code == 0 and "rg: left out" in out and f"0 pairs of {len(mined)} samples for rg" in out
    told = files.read_json(folder / "stats.json")
    assert told["table_1"]["here"]["response pairs"] is None and "rg" not in told["tasks"]


def test_where_no_mining_has_pairs_no_numbers_of_before_stay(without_pairs, run, folder):
    without_pairs("sp", "rg", "vanilla")
    code, _, err = run()
    assert code == 2 and "0 pairs" in err
    assert not (folder / "stats.json").exists()


def test_pairs_of_other_train_turns_are_one_line(mined, bench, run, error_line):
    bench.build(limit=2)
    code, _, err = run()
    assert code == 2 and "other train turns" in error_line(err)


def test_the_same_again_is_the_same_to_the_byte(mined, run, folder, hashes):
    run(figures=True)
    first = hashes(folder)
    run(figures=True)
    assert hashes(folder) == first
