"""What each system asks, and what it makes of the answers."""

import asyncio
import re

import pytest

from esc.dialogue import GoldTurn
from esc.llm import Reply, derived_seed
from esc.strategies import Strategy
from eval.systems import SYSTEMS, Answering, Setting

TURN = GoldTurn(
    id="7-1",
    history=(("Hi", "Hello."),),
    history_strategies=(Strategy.OTHERS,),
    seeker="I failed.",
    strategy=Strategy.QUESTION,
    response="What happened?",
    dialogue_turns=9,
)
ANSWERS = {
    "respond": "[Question] a",
    "feedback": "b",
    "refine": "[Others] c",
    "speak": "d",
    "emotional state": "e",
    "plan": "Question",
}


class Model:
    """Answers from a table of step to text, and remembers what it was asked."""

    def __init__(self, scores=None, **texts):
        self.texts, self.scores, self.asked = ANSWERS | texts, scores, []

    async def ask(self, call):
        if call.answers:
            return Reply("", scores=self.scores)
        self.asked.append(call)
        return Reply(self.texts[call.step])


def run(name, model, *, stage="sft", decode="free", **setting):
    """(outcome, steps) of a system."""
    one = Answering(model, TURN, Setting(stage, decode, 256, **setting))
    return asyncio.run(SYSTEMS[name](one)), one.steps


@pytest.mark.parametrize(
    ("plan", "scores", "strategy", "said"),
    [
        ("suggestions", (-1.0,) * 8, Strategy.PROVIDING_SUGGESTIONS, "Providing Suggestions"),
        # What names none is spoken under as it is.
        ("Hug\nthem", None, None, "Hug them"),
    ],
)
def test_the_decoupled_generator_speaks_under_the_planned_strategy(plan, scores, strategy, said):
    model = Model(plan=plan, speak=" Try again. ", scores=scores)
    outcome, steps = run("decoupled", model)
    assert (outcome.plan.strategy, outcome.plan.raw) == (strategy, plan)
    assert outcome.response == "Try again." and [one["step"] for one in steps] == ["plan", "speak"]
    assert f"Strategy of this reply: {said}." in model.asked[1].messages[0].content
    assert [call.model for call in model.asked] == ["sp-sft", "rg-sft"]
    assert outcome.plan.distribution == (dict.fromkeys(Strategy, 0.125) if scores else None)
    gold = Model()
    assert run("decoupled-gold", gold, stage="dpo")[0].plan.strategy is Strategy.QUESTION
    assert [(call.step, call.model) for call in gold.asked] == [("speak", "rg-dpo")]
    assert "Strategy of this reply: Question." in gold.asked[0].messages[0].content


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_answers_are_sampled_as_the_papers_or_greedy_and_only_strategies_are_constrained(name):
    model, greedy = Model(), Model()
    run(name, model, decode="choice")
    run(name, greedy, temperature=0.0)
    for asked, drawn in ((model.asked, (0.7, 0.95)), (greedy.asked, (0.0, 1.0))):
        assert {(one.sampling.temperature, one.sampling.top_p) for one in asked} == {drawn}
    assert {one.seed for one in model.asked} == {derived_seed(TURN.id, 0)}
    held = {call.step: call.constraint for call in model.asked if call.constraint}
    assert held.keys() == {call.step for call in model.asked} & {"plan", "respond", "refine"}
    if tagged := held.get("respond"):
        assert re.fullmatch(tagged.regex, "[Providing Suggestions] words")
        assert not re.fullmatch(tagged.regex, "[Hug] words")
    assert not [call for call in greedy.asked if call.constraint]


@pytest.mark.parametrize(
    ("said", "strategy", "raw", "response"),
    [
        (
            "[Reflection of feelings] Ow.",
            Strategy.REFLECTION_OF_FEELINGS,
            "Reflection of feelings",
            "Ow.",
        ),
        ("[Hug] Come here.", None, "Hug", "Come here."),
    ],
)
def test_the_entangled_answer_is_taken_apart_and_its_history_is_tagged(
    said, strategy, raw, response
):
    model = Model(respond=said)
    outcome, _ = run("vanilla", model)
    assert (outcome.plan.strategy, outcome.plan.raw) == (strategy, raw)
    assert outcome.response == response
    asked = [message.content for message in model.asked[0].messages[1:]]
    assert asked == ["Hi", "[Others] Hello.", "I failed."]


@pytest.mark.parametrize(
    ("name", "steps", "response"),
    [
        ("direct-refine", ["respond", "refine"], "c"),
        ("self-refine", ["respond", "feedback", "refine"], "c"),
        ("emotional-cot", ["emotional state", "respond"], "a"),
    ],
)
def test_a_prompt_baseline_builds_on_what_the_base_said_before(name, steps, response):
    model = Model()
    outcome, told = run(name, model, stage="base")
    assert {call.model for call in model.asked} == {"base"}
    assert [one["step"] for one in told] == steps and outcome.response == response
    # Every answer before the last one, each with the next request after it.
    begin, *asked = model.asked[-1].messages[3:]
    assert [one.content for one in asked[::2]] == [ANSWERS[step] for step in steps[:-1]]
    assert [one.role for one in asked] == ["assistant", "user"] * (len(steps) - 1)
    assert begin.content.startswith("I failed.\n\n" if name == "emotional-cot" else "I failed.")
