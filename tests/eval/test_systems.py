"""What each system asks, and what it makes of the answers."""

import asyncio
import re

import pytest

from esc.dialogue import GoldTurn
from esc.llm import Reply, derived_seed
from esc.paths import PROMPT_BASELINES
from esc.plan_and_speak import NAMES, constraint_of
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
    "emotional_state": "e",
    "plan": "Question",
}


class Model:
    """Answers from a table of step to text, and remembers what it was asked."""

    def __init__(self, scores=None, **texts):
        self.texts, self.scores, self.asked = ANSWERS | texts, scores, []

    async def ask(self, call):
        self.asked.append(call)
        if call.answers:
            return Reply("", scores=self.scores)
        return Reply(self.texts[call.step.replace(" ", "_")])

    @property
    def generations(self):
        return [call for call in self.asked if not call.answers]


def run(name, model, *, stage="sft", decode="free", **setting):
    """(outcome, steps) of a system."""
    one = Answering(model, TURN, Setting(stage, decode, 256, **setting))
    return asyncio.run(SYSTEMS[name](one)), one.steps


def asked(model, step):
    return next(call for call in model.asked if call.step == step)


def test_the_decoupled_generator_speaks_under_the_planned_strategy():
    model = Model(plan="suggestions", speak=" Try again. ", scores=(-1.0,) * 8)
    outcome, steps = run("decoupled", model)
    assert (outcome.strategy, outcome.raw_strategy) == (Strategy.SUGGESTIONS, "suggestions")
    assert outcome.response == "Try again." and [one["step"] for one in steps] == ["plan", "speak"]
    system = asked(model, "speak").messages[0].content
    assert "Strategy of this reply: Providing Suggestions." in system
    assert (asked(model, "plan").model, asked(model, "speak").model) == ("sp-sft", "rg-sft")
    assert outcome.distribution == dict.fromkeys(Strategy, 0.125)


def test_an_unparsable_plan_is_kept_raw_and_spoken_under_as_it_is():
    model = Model(plan="Hug\nthem", speak="Come here.")
    outcome, _ = run("decoupled", model)
    assert (outcome.strategy, outcome.raw_strategy) == (None, "Hug\nthem")
    assert outcome.distribution is None and outcome.response == "Come here."
    assert "Strategy of this reply: Hug them." in asked(model, "speak").messages[0].content


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_answers_are_sampled_as_the_papers_or_greedy_and_only_strategies_are_constrained(name):
    model, greedy = Model(scores=(-1.0,) * 8), Model()
    run(name, model, decode="choice")
    run(name, greedy, temperature=0.0)
    assert {(one.sampling.temperature, one.sampling.top_p) for one in model.generations} == {
        (0.7, 0.95)
    }
    assert {one.seed for one in model.generations} == {derived_seed(TURN.id, 0)}
    assert {(one.sampling.temperature, one.sampling.top_p) for one in greedy.generations} == {
        (0.0, 1.0)
    }
    held = {call.step for call in model.generations if call.constraint}
    assert held == {call.step for call in model.generations} & {"plan", "respond", "refine"}
    assert not [call for call in greedy.generations if call.constraint]


def test_under_the_gold_strategy_no_plan_is_asked_for():
    model = Model()
    outcome, _ = run("decoupled-gold", model, stage="dpo")
    assert outcome.strategy is Strategy.QUESTION
    assert [(call.step, call.model) for call in model.asked] == [("speak", "rg-dpo")]
    assert "Strategy of this reply: Question." in model.asked[0].messages[0].content


def test_the_entangled_answer_is_taken_apart_and_its_history_is_tagged():
    model = Model(respond="[Reflection of feelings] That hurts.")
    outcome, _ = run("vanilla", model)
    assert (outcome.strategy, outcome.response) == (Strategy.REFLECTION, "That hurts.")
    said = [message.content for message in model.asked[0].messages[1:]]
    assert said == ["Hi", "[Others] Hello.", "I failed."]
    outcome, _ = run("vanilla", Model(respond="[Hug] Come here."))
    assert (outcome.strategy, outcome.raw_strategy) == (None, "Hug")
    assert outcome.response == "Come here."


@pytest.mark.parametrize("name", PROMPT_BASELINES)
def test_a_prompt_baseline_builds_on_what_the_base_said_before(name):
    model = Model()
    outcome, steps = run(name, model, stage="base")
    assert {call.model for call in model.asked} == {"base"}
    last = model.asked[-1].messages
    assert last[-1].role == "user" and last[-2].role == "assistant"
    assert last[-2].content == steps[-2]["text"]
    assert outcome.response == ("a" if name == "emotional-cot" else "c")
    said = [message.content for message in last]
    if name == "emotional-cot":
        assert any(text.startswith("I failed.\n\n") for text in said)
    else:
        assert "[Question] a" in said
    wanted = {
        "direct-refine": ["respond", "refine"],
        "self-refine": ["respond", "feedback", "refine"],
        "emotional-cot": ["emotional state", "respond"],
    }
    assert [step["step"] for step in steps] == wanted[name]


def test_the_expression_of_an_entangled_answer_admits_the_eight_names_and_no_other():
    expression = re.compile(constraint_of("vanilla", "choice").regex)
    assert all(expression.fullmatch(f"[{name}] words") for name in NAMES)
    assert not expression.fullmatch("[Hug] words") and not expression.fullmatch("words")
