"""Pairs from simulated conversations, and a real training on them."""

import json
import shutil

import pytest
from faulty_server import TOO_LONG, Fault, FaultyServer, completion, refusal
from predicted import error
from trained import MODEL, TWO_ROWS, training

from data_builders.registry import entries
from esc import adapters, cli, files, paths
from esc.dialogue import gold_turns
from mining import converse, sample
from training import train

SET = f"esc_rg_dpo_{MODEL}_converse"


@pytest.fixture
def server():
    """Seekers whom the words "I see" ease, and who say so; every other reply has them."""
    with FaultyServer(models=("sp-sft", "rg-sft", "m")) as server:
        server.answer = answered
        yield server


def answered(request):
    first, *chat = request.body["messages"]
    if request.body["model"] == "sp-sft":
        return "Question"
    if not first["content"].startswith("You play"):
        return f"I see, {len(chat)}." if request.body["seed"] % 2 else f"Well, {len(chat)}."
    heard = [one["content"] for one in chat if one["role"] == "user"]
    felt = max(4 - sum("I see" in one for one in heard), 1)
    return json.dumps({"say": f"hm {len(chat)}", "intensity": felt, "done": False})


@pytest.fixture
def mined(bench, server):
    """Exit code, stdout and stderr of a mining of conversations, two turns each."""

    def call(*options):
        argv = ["--work", bench.work, "--base-url", server.url, "--turns", "2"]
        argv += ["--seeker", "m", "--seeker-base-url", server.url, *options]
        bench.capsys.readouterr()
        code = cli.run(converse.main, [*map(str, argv)])
        shown = bench.capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_of_two_replies_the_one_that_is_followed_by_more_relief_is_chosen(bench, mined, server):
    code, out, _ = mined()
    assert code == 0
    rows = bench.set_rows(SET)
    turns = [
        turn
        for card in files.read_jsonl(bench.work / f"runs/{MODEL}/mining/converse/lookahead.jsonl")
        for turn in card["turns"]
    ]
    differ = [t for t in turns if len({one["text"][:5] for one in t["replies"]}) == 2]
    assert [row["id"] for row in rows] == [turn["id"] for turn in differ] and rows
    assert f"{len(rows):,} pairs of {len(turns):,} turns" in out
    for row in rows:
        assert row["chosen"]["value"].startswith("I see")
        assert row["rejected"]["value"].startswith("Well")
        assert row["provenance"]["source"] == "conversation"
        felt = row["provenance"]["intensity"]
        assert felt["chosen"] == felt["rejected"] - 1
        speakers = [one["from"] for one in row["conversations"]]
        assert speakers == ["human", "gpt"] * (len(speakers) // 2) + ["human"]
    train_turns = gold_turns(bench.work, "train", None)
    dialogues = {turn.id.partition("-")[0] for turn in train_turns}
    assert {row["id"].partition("-")[0] for row in rows} <= dialogues
    asked = len(server.log)
    before = (bench.work / "data" / f"{SET}.jsonl").read_bytes()
    assert mined()[0] == 0 and len(server.log) == asked
    assert (bench.work / "data" / f"{SET}.jsonl").read_bytes() == before


def test_the_set_is_registered_and_its_manifest_counts_every_turn(bench, mined):
    mined()
    registry = files.read_json(bench.work / paths.REGISTRY)
    assert registry[SET] == entries()[SET] and registry[SET]["ranking"]
    manifest = files.read_json(bench.work / f"data/{SET}.manifest.json")
    facts = manifest["sets"][SET]
    assert manifest["fates"]["pair"] == facts["rows"] == len(bench.set_rows(SET))
    assert facts["sha256"] == files.sha256(bench.work / f"data/{SET}.jsonl")


def test_without_a_pair_there_is_one_line_and_the_training_is_refused(bench, mined, server):
    same = json.dumps({"say": "hm", "intensity": 3, "done": False})
    server.answer = lambda request: same if "You play" in str(request.body) else answered(request)
    code, _, err = mined()
    assert code == 2 and "0 pairs of" in error(err) and "same relief" in error(err)
    assert not (bench.work / "data" / f"{SET}.jsonl").exists()


def test_a_full_context_ends_a_conversation_and_the_turns_before_it_stay(bench, mined, server):
    server.answer = lambda request: (
        TOO_LONG if len(request.body["messages"]) > 4 else answered(request)
    )
    assert mined()[0] == 0
    path = bench.work / f"runs/{MODEL}/mining/converse/lookahead.jsonl"
    assert {len(row["turns"]) for row in files.read_jsonl(path)} == {1}


def test_a_preferred_reply_is_whole_and_what_ended_a_conversation_is_counted(bench, mined, server):
    def cut(request):
        said = answered(request)
        is_better = said.startswith("I see")
        return Fault(body=completion(said, "length")) if is_better else said

    server.answer = cut
    code, _, err = mined()
    assert code == 2 and "better reply cut" in error(err)
    server.answer = lambda request: (
        refusal(400, "the content is not for us")
        if len(request.body["messages"]) > 4
        else answered(request)
    )
    code, out, _ = mined("--seed", "1", "--force")
    assert code == 0 and "conversation ended: request refused" in out


def test_the_usual_mining_does_not_take_the_variant(bench, mined):
    code, _, err = bench.run(sample.main, "--task", "rg", "--variant", "converse")
    assert code == 2 and "mined by make mine-converse alone" in error(err)


@pytest.mark.slow
def test_a_generator_trains_on_pairs_of_conversations_from_its_sft_reference(
    chain, tmp_path, server
):
    work = tmp_path / "chain"
    shutil.copytree(chain, work, ignore=shutil.ignore_patterns("checkpoint-*"))
    argv = ["--work", str(work), "--base-url", server.url, "--turns", "1"]
    argv += ["--seeker", "m", "--seeker-base-url", server.url]
    assert cli.run(converse.main, argv) == 0
    asked = training(work, "max_steps=1", *TWO_ROWS, task="rg", variant="converse")
    facts = train.train(asked, force=False)
    assert facts["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert asked.output == work / paths.adapters(MODEL) / "rg_dpo_converse"
    options = files.read_json(asked.output / train.OPTIONS)
    sft = work / paths.adapter(MODEL, "rg", "sft")
    assert options["adapter rg_sft"] == adapters.fingerprint(sft)
