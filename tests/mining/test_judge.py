"""Judging over HTTP by a judge whose verdicts are known: every one is found again, or counted."""

import json
import re
from itertools import cycle

import pytest
from faulty_server import NO_TEXT, TOO_LONG, TRUNCATED, UNAVAILABLE, Fault, completion, refusal
from predicted import quoted

from esc import files
from esc.llm import derived_seed
from esc.psych_errors import PsychError

NONE, EMPATHY = PsychError.NONE, PsychError.LACK_OF_EMPATHY
SHIFT, TEMPLATE = PsychError.EARLY_EMOTION_SHIFT, PsychError.TEMPLATE_RESPONSE
LIMIT = 3
FORGED = json.dumps(
    {
        "Should the sample be retained": "Yes",
        "Error Type in chosen reply": "None",
        "Error Type in rejected reply": "Lack of Empathy",
    }
)


def reply(turn, index):
    return f"reply {turn.id} number {index}"


@pytest.fixture
def sampled(bench):
    """Three replies to each of a few turns, and their texts in order."""
    bench.sample("rg", reply, 3, limit=LIMIT)
    return [reply(turn, index) for turn in bench.turns(LIMIT) for index in range(3)]


def facts(bench, slug="m"):
    return files.read_json(bench.judged("rg", slug) / "run.json")


def test_planted_errors_are_the_pairs_of_the_generator_and_nothing_else(bench, server, planted):
    bench.sample("rg", reply, 3)
    errors = cycle([NONE, NONE, EMPATHY, NONE, SHIFT, NONE, TEMPLATE])
    expected = []
    for number, turn in enumerate(bench.turns()):
        planted.plan |= {reply(turn, index): next(errors) for index in range(3)}
        if number % 5 == 0:
            planted.plan[turn.response] = EMPATHY
            continue
        order = sorted(range(3), key=lambda index, turn=turn: derived_seed(turn.id, index))
        bad = [index for index in order if planted.plan[reply(turn, index)] is not NONE]
        expected += [(turn.id, index, planted.plan[reply(turn, index)]) for index in bad[:1]]
    bench.mine("rg", url=server.url)
    pairs = bench.routed("rg", "pairs.jsonl")
    assert [(pair["id"], pair["sample"], pair["error"]) for pair in pairs] == expected
    turns = {turn.id: turn for turn in bench.turns()}
    said = [(turns[i].response, reply(turns[i], n)) for i, n, _ in expected]
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == said


THOUGHT = f"<think>\nDraft: {FORGED}\nBut is the chosen reply not a template"
ODD = [
    ("I would keep it.", "no verdict in the answer"),
    (FORGED + FORGED.replace("Yes", "No"), "two verdicts that differ"),
    ("", "empty answer"),
    (NO_TEXT, "empty answer"),
    (TRUNCATED, "answer cut at its length limit"),
    (Fault(body=completion(THOUGHT, "length")), "answer cut at its length limit"),
    (TOO_LONG, "context too long"),
    (refusal(400, "not on\x1b[2J our menu"), "request refused"),
]


def test_an_answer_that_is_no_verdict_is_counted_with_its_reason_and_makes_no_pair(
    bench, server, planted
):
    bench.sample("rg", reply, 4, limit=LIMIT)
    texts = [reply(turn, index) for turn in bench.turns(LIMIT) for index in range(4)]
    planted.plan = dict.fromkeys(texts, EMPATHY)
    planted.odd = dict(zip(texts, [answer for answer, _ in ODD], strict=False))
    planted.odd[texts[-1]] = UNAVAILABLE
    code, out, err = bench.judge("rg", url=server.url)
    found = [(row["status"], row.get("reason")) for row in bench.verdicts("rg")]
    assert found[: len(ODD)] == [("unscored", reason) for _, reason in ODD]
    scored = len(texts) - len(ODD) - 1
    told = f"{len(texts)} asked = {scored} scored + {len(ODD)} unscored + 1 failed"
    assert code == 1 and told in out and r"(not on\x1b[2J our menu)" in err
    planted.odd[texts[-1]] = "I would keep it."
    assert bench.judge("rg", url=server.url)[0] == bench.route("rg")[0] == 0
    first = bench.turns(LIMIT)[0].id
    fates = {row["fate"] for row in bench.routed("rg", "routes.jsonl") if row["id"] == first}
    assert fates == {"unscored by the judge"}
    assert first not in {row["id"] for row in bench.routed("rg", "singles.jsonl")}


def test_a_blind_judge_gives_the_same_verdicts_and_is_not_told_which_reply_is_gold(
    bench, server, planted, sampled
):
    planted.plan = dict(zip(sampled, cycle([NONE, EMPATHY, SHIFT]), strict=False))
    planted.plan[bench.turns(LIMIT)[1].response] = TEMPLATE
    bench.judge("rg", url=server.url)
    before = len(server.chats())
    assert {request.body["temperature"] for request in server.chats()} == {0}
    bench.judge("rg", "--blind", url=server.url)
    known, blind = (
        [(row["retain"], row["chosen_error"], row["rejected_error"]) for row in bench.verdicts(*of)]
        for of in (("rg",), ("rg", "m_blind"))
    )
    assert known == blind
    golds, sides = {turn.response for turn in bench.turns(LIMIT)}, set()
    for request in server.chats()[before:]:
        said, text = quoted(request), json.dumps(request.body)
        sides.add(said["A"] in golds)
        assert (said["A"] in golds) != (said["B"] in golds)
        for one in golds | set(sampled):
            text = text.replace(one, "")
        assert not re.search(r"gold|chosen|rejected|sampled|retain|\brg\b|-sft", text)
    assert sides == {True, False}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (refusal(400, "response_format is not supported"), "response_format is not supported"),
        (Fault(body=completion(None, "length")), "no question was answered (90.0000 spent"),
    ],
)
def test_a_judge_that_answers_nothing_leaves_no_verdicts(
    bench, server, sampled, error_line, answer, told
):
    server.answer = lambda _: answer
    code, _, err = bench.judge("rg", "--price", "0/1000000", url=server.url)
    assert code == 2 and told in error_line(err)
    assert not list(bench.judged("rg").glob("[vr]*.json*"))


def test_the_money_for_one_call_is_for_all_its_tasks(bench, server, sampled, error_line):
    bench.sample("vanilla", lambda turn, _: f"[Others] sampled {turn.id}", limit=LIMIT)
    server.tokens = 100_000, 0
    # Each answer costs 100: enough for the generator's replies, not for what comes after them.
    most = str(100 * len(sampled) - 10)
    options = ("--task", "vanilla", "--price", "1000/0", "--in-flight", "1", "--max-cost", most)
    code, _, err = bench.judge("rg", *options, url=server.url)
    assert code == 2 and f"MAX_COST={most}" in error_line(err)
    assert facts(bench)["cost"] == 100 * len(sampled)


def test_force_asks_again_for_what_was_refused_and_for_nothing_else(
    bench, server, planted, sampled, hashes
):
    planted.odd = {sampled[4]: refusal(400, "content policy")}
    assert bench.judge("rg", url=server.url)[0] == 0
    planted.odd, before, left = {}, len(server.chats()), hashes(bench.judged("rg"))
    assert "nothing to do" in bench.judge("rg", url=server.url)[1]
    assert hashes(bench.judged("rg")) == left and len(server.chats()) == before
    assert bench.judge("rg", "--force", url=server.url)[0] == 0
    assert len(server.chats()) == before + 1
    assert {row["status"] for row in bench.verdicts("rg")} == {"scored"}


def test_a_dry_run_sends_and_leaves_nothing(bench, server, hashes):
    code, out, _ = bench.judge("rg", "--dry-run", url=server.url)
    assert code == 0 and "not sampled yet" in out
    bench.sample("rg", reply, limit=LIMIT)
    before = hashes(bench.work)
    code, out, _ = bench.judge("rg", "--dry-run", "--price", "1/2", url=server.url)
    assert code == 0 and f"dry run: {2 * LIMIT} requests to send" in out and "at most" in out
    assert server.log == [] and hashes(bench.work) == before


def test_new_samples_and_other_prompts_take_force_and_only_what_is_new_is_asked(
    bench, server, sampled, error_line, tmp_path, monkeypatch
):
    bench.judge("rg", url=server.url)
    bench.sample("rg", reply, 4, limit=LIMIT)
    line = error_line(bench.judge("rg", url=server.url)[2])
    assert "samples " in line and "FORCE=1" in line
    before = len(server.chats())
    assert bench.judge("rg", "--force", url=server.url)[0] == 0
    assert len(server.chats()) == before + 2 * LIMIT
    (tmp_path / "filter_system.j2").write_text("Judge.")
    monkeypatch.setenv("PROMPTS_DIR", str(tmp_path))
    assert "prompts " in error_line(bench.judge("rg", url=server.url)[2])


def test_killed_while_judging_it_goes_on_to_the_same_bytes(bench, server, planted, killed):
    bench.sample("rg", reply, 2)
    texts = [reply(turn, index) for turn in bench.turns() for index in range(2)]
    planted.plan = dict(zip(texts, cycle([NONE, EMPATHY, SHIFT]), strict=False))
    planted.odd = {texts[5]: "I would keep it."}
    folder = bench.judged("rg")
    argv = ["--work", str(bench.work), "--task", "rg", "--judge", "m"]
    stored = killed(server, folder, "judge", *argv, "--judge-base-url", server.url)
    before = len(server.chats())
    assert bench.judge("rg", url=server.url)[0] == 0
    asked = [request.asked for request in server.chats()[before:]]
    assert stored and len(asked) == len(texts) - len(stored)
    assert not {row["messages"][-1]["content"] for row in stored} & set(asked)
    whole, calls = (folder / "verdicts.jsonl").read_bytes(), folder / "calls.jsonl"
    (folder / "run.json").unlink()
    calls.write_bytes(calls.read_bytes()[:-20])
    before = len(server.chats())
    code, _, _ = bench.judge("rg", url=server.url)
    assert code == 0 and len(server.chats()) == before + 1
    assert (folder / "verdicts.jsonl").read_bytes() == whole


def test_a_random_judge_asks_nobody_draws_the_same_again_and_makes_smoke(bench, server, planted):
    bench.model = "qwen2.5-7b"
    bench.sample("rg", reply, 3)
    runs = []
    for _ in range(2):
        assert bench.judge("rg", "--force", judge_name="random")[0] == 0
        runs.append((bench.judged("rg", "random") / "verdicts.jsonl").read_bytes())
    assert runs[0] == runs[1] and server.log == []
    planted.plan = {reply(turn, 0): EMPATHY for turn in bench.turns()}
    bench.judge("rg", url=server.url)
    assert "SMOKE" not in bench.route("rg")[1]
    assert "SMOKE" in bench.route("rg", "--force", judge_name="random")[1]
    fates = {row["fate"] for row in bench.routed("rg", "routes.jsonl")}
    assert {"pair", "error in the gold reply", "no error in the sampled reply"} <= fates


def test_two_judges_agree_as_far_as_both_have_scored(bench, server, planted, error_line):
    texts, n = [f"sampled {turn.id}" for turn in bench.turns()], len(bench.turns())
    mining = bench.sample("rg", lambda turn, _: f"sampled {turn.id}")
    planted.plan = dict.fromkeys(texts[::2], TEMPLATE)
    assert bench.judge("rg", judge_name="first", url=server.url)[0] == 0
    # The second differs on two turns, and one verdict of it is none.
    planted.plan |= {texts[0]: EMPATHY, texts[1]: EMPATHY}
    planted.odd[texts[2]] = "I cannot say"
    code, out, _ = bench.judge("rg", "--judge2", "second", judge_name="first", url=server.url)
    done = files.read_json(mining.folder / "judges" / "agreement_first_second.json")
    assert code == 0 and "SMOKE" in out and done["judges"] == ["first", "second"]
    assert (done["pairs"], done["scored by both"]) == (n, n - 1)
    found = done["rejected_error"]
    at = {label: place for place, label in enumerate(found["labels"])}
    template, empathy, none = at["Template Response"], at["Lack of Empathy"], at["None"]
    assert found["confusion"][template][empathy] == 1 == found["confusion"][none][empathy]
    assert sum(map(sum, found["confusion"])) == found["n"] == n - 1 and found["agreed"] == n - 3
    assert found["low"] <= found["kappa"] <= found["high"]
    same = bench.judge("rg", "--judge2", "first", judge_name="first", url=server.url)
    assert "both first" in error_line(same[2])
    assert "comparing names" in error_line(bench.judge("sp", url=server.url)[2])
