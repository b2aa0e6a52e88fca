"""A judge that thinks, is cut, or says nothing: its last word is scored, or nothing is."""

import json

import pytest
from faulty_server import Fault, completion, refusal

VERDICT = json.dumps(
    {
        "Should the sample be retained": "Yes",
        "Error Type in chosen reply": "None",
        "Explanation for chosen reply error": "",
        "Error Type in rejected reply": "Lack of Empathy",
        "Explanation for rejected reply error": "cold",
    }
)
OTHER = VERDICT.replace("Yes", "No")
MENU = VERDICT.replace('"Yes"', '"Yes/No"').replace('"Lack of Empathy"', '"..."')
SCORED = {
    "after an empty block": f"<think>\n\n</think>\n\n{VERDICT}",
    "after another draft": f"<think>\nDraft: {OTHER}\nNo, it is cold.\n</think>\n{VERDICT}",
    "after the menu": f"<think>\nThe form is {MENU}\n</think>\n```json\n{VERDICT}\n```",
    "after what the prompt opened": f"Draft: {OTHER}\n</think>\n{VERDICT}",
    "in a fence": f"```json\n{VERDICT}\n```",
}
CUT = {
    "thinking": f"<think>\nDraft: {VERDICT}\nBut is the chosen reply not a template",
    "thinking that the prompt opened": f"Draft: {VERDICT}\nBut is the chosen reply not a template",
}


@pytest.fixture
def judged(bench, server):
    """Exit code, stdout and stderr of a judging in which every answer is the same."""
    bench.sample("rg", lambda turn, index: f"reply {turn.id}", limit=3)

    def run(answer):
        server.answer = lambda request: answer
        return bench.judge("rg", url=server.url)

    return run


@pytest.mark.parametrize("text", SCORED.values(), ids=SCORED)
def test_the_verdict_after_the_thinking_counts(bench, judged, text):
    code, _, _ = judged(text)
    rows = bench.verdicts("rg")
    assert code == 0 and rows
    assert {(row["status"], row.get("retain")) for row in rows} == {("scored", True)}


@pytest.mark.parametrize("text", CUT.values(), ids=CUT)
def test_a_draft_in_thinking_that_was_cut_is_never_scored(bench, judged, text):
    judged(Fault(body=completion(text, "length")))
    found = {(row["status"], row["reason"]) for row in bench.verdicts("rg")}
    assert found == {("unscored", "answer cut at its length limit")}


@pytest.mark.parametrize("text", [None, ""])
def test_a_judge_without_a_word_stops_and_says_what_it_cost(
    bench, server, judged, error_line, text
):
    server.answer = lambda request: Fault(body=completion(text, "length"))
    code, _, err = bench.judge("rg", "--price", "0/1000000", url=server.url)
    asked = len(server.chats())
    assert code == 2
    assert f"every answer is empty ({5 * asked}.0000 spent by this call)" in error_line(err)
    assert "thinking off" in error_line(err)
    assert not (bench.judged("rg") / "verdicts.jsonl").exists()


def test_what_the_server_says_is_in_the_closing_lines(bench, server, judged):
    refused = f"reply {bench.turns(3)[0].id}\n"
    no = refusal(400, "not on\x1b[2J our menu")
    server.answer = lambda request: no if refused in request.asked else VERDICT
    code, _, err = bench.judge("rg", url=server.url)
    assert code == 0
    assert r"no answer   1 request refused (not on\x1b[2J our menu)" in err
