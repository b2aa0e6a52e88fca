"""What each system asks, and what it makes of the answers."""

import asyncio
import re

import pytest

from esc import prompts
from esc.dialogue import GoldTurn
from esc.llm import Generation, Reply, derived_seed
from esc.paths import PROMPT_BASELINES
from esc.plan_and_speak import NAMES, constraint_of
from esc.strategies import Strategy
from eval.systems import SYSTEMS, TEMPLATES, Setting

TURN = GoldTurn(
    id="7-1",
    history=(("Hi", "Hello."),),
    history_strategies=(Strategy.OTHERS,),
    seeker="I failed.",
    strategy=Strategy.QUESTION,
    response="What happened?",
    dialogue_turns=9,
)


class Model:
    """Answers from a table of step to text, and remembers what it was asked."""

    def __init__(self, scores=None, **texts):
        self.texts, self.scores, self.asked = texts, scores, []

    async def ask(self, call):
        self.asked.append(call)
        if not isinstance(call, Generation):
            return self.scores
        return Reply(self.texts[call.step.replace(" ", "_")], False, 1, 1)


def run(name, model, *, stage="sft", decode="free"):
    return asyncio.run(SYSTEMS[name](model, TURN, Setting(stage, decode, 256)))


def asked(model, step):
    return next(call for call in model.asked if call.step == step)


def test_the_decoupled_generator_speaks_under_the_planned_strategy():
    model = Model(plan="suggestions", speak=" Try again. ", scores=(-1.0,) * 8)
    outcome = run("decoupled", model)
    assert (outcome.strategy, outcome.raw_strategy) == (Strategy.SUGGESTIONS, "suggestions")
    assert outcome.response == "Try again."
    system = asked(model, "speak").messages[0].content
    assert "Strategy of this reply: Providing Suggestions." in system
    assert (asked(model, "plan").model, asked(model, "speak").model) == ("sp-sft", "rg-sft")
    assert outcome.distribution == dict.fromkeys(Strategy, 0.125)


def test_an_unparsable_plan_is_kept_raw_and_spoken_under_as_it_is():
    model = Model(plan="Hug\nthem", speak="Come here.", scores=None)
    outcome = run("decoupled", model)
    assert (outcome.strategy, outcome.raw_strategy) == (None, "Hug\nthem")
    assert outcome.distribution is None and outcome.response == "Come here."
    system = asked(model, "speak").messages[0].content
    assert "Strategy of this reply: Hug them." in system


def test_an_unparsable_plan_has_an_empty_definition_for_a_prompt_that_asks_for_one(
    tmp_path, monkeypatch
):
    (tmp_path / "rg_system.j2").write_text("{{ strategy }}: {{ strategy.definition }}")
    monkeypatch.setenv("PROMPTS_DIR", str(tmp_path))
    assert prompts.rg_system.__wrapped__("Hug them") == "Hug them:"


def test_answers_are_sampled_as_the_papers_and_seeded_by_the_turn():
    model = Model(plan="Question", speak="Why?", scores=None)
    run("decoupled", model)
    for step in ("plan", "speak"):
        call = asked(model, step)
        assert (call.sampling.temperature, call.sampling.top_p) == (0.7, 0.95)
        assert call.seed == derived_seed(TURN.id, 0)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_at_temperature_0_every_answer_is_greedy(name):
    model = Model(respond="[Question] a", feedback="b", refine="[Others] c", speak="d",
                  emotional_state="d", plan="Question")  # fmt: skip
    asyncio.run(SYSTEMS[name](model, TURN, Setting("sft", "free", 256, temperature=0.0)))
    asked = [call.sampling for call in model.asked if isinstance(call, Generation)]
    assert {(one.temperature, one.top_p) for one in asked} == {(0.0, 1.0)}


def test_under_the_gold_strategy_no_plan_is_asked_for():
    model = Model(speak="What happened then?")
    outcome = run("decoupled-gold", model, stage="dpo")
    assert outcome.strategy is Strategy.QUESTION
    assert [(call.step, call.model) for call in model.asked] == [("speak", "rg-dpo")]
    assert "Strategy of this reply: Question." in model.asked[0].messages[0].content


def test_the_entangled_answer_is_taken_apart_and_its_history_is_tagged():
    model = Model(respond="[Reflection of feelings] That hurts.")
    outcome = run("vanilla", model)
    assert (outcome.strategy, outcome.response) == (Strategy.REFLECTION, "That hurts.")
    assert [message.content for message in model.asked[0].messages[1:]] == [
        "Hi", "[Others] Hello.", "I failed.",
    ]  # fmt: skip


def test_an_entangled_answer_without_a_known_strategy_keeps_its_words():
    outcome = run("vanilla", Model(respond="[Hug] Come here."))
    assert (outcome.strategy, outcome.raw_strategy) == (None, "Hug")
    assert outcome.response == "Come here."


def test_direct_refine_revises_its_own_draft_without_feedback():
    model = Model(respond="[Question] Why?", refine="[Others] I see.")
    outcome = run("direct-refine", model, stage="base")
    last = model.asked[-1].messages
    assert [message.role for message in last[-3:]] == ["user", "assistant", "user"]
    assert last[-2].content == "[Question] Why?"
    assert (outcome.strategy, outcome.response) == (Strategy.OTHERS, "I see.")
    assert [step["text"] for step in outcome.steps] == ["[Question] Why?", "[Others] I see."]


def test_self_refine_revises_after_its_own_feedback():
    model = Model(respond="[Question] Why?", feedback="Too cold.", refine="[Others] I see.")
    outcome = run("self-refine", model, stage="base")
    last = [message.content for message in model.asked[-1].messages]
    assert last.index("[Question] Why?") < last.index("Too cold.")
    assert [step["step"] for step in outcome.steps] == ["respond", "feedback", "refine"]


def test_emotional_cot_answers_from_the_state_it_found():
    model = Model(emotional_state="Ashamed.", respond="[Others] I am here.")
    outcome = run("emotional-cot", model, stage="base")
    last = [message.content for message in model.asked[-1].messages]
    assert "Ashamed." in last and any(text.startswith("I failed.\n\n") for text in last)
    assert outcome.response == "I am here."


def test_prompt_baselines_ask_the_base_alone():
    answers = {"respond": "[Question] a", "feedback": "b", "refine": "[Others] c",
               "emotional_state": "d"}  # fmt: skip
    for name in PROMPT_BASELINES:
        model = Model(**answers)
        run(name, model, stage="base")
        assert {call.model for call in model.asked} == {"base"}


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_only_answers_that_hold_a_strategy_are_constrained(name):
    answers = {"respond": "[Question] a", "feedback": "b", "refine": "[Others] c", "speak": "d",
               "emotional_state": "d", "plan": "Question"}  # fmt: skip
    model = Model(**answers, scores=(-1.0,) * 8)
    run(name, model, decode="choice")
    asked = [call for call in model.asked if isinstance(call, Generation)]
    assert {call.step for call in asked if call.constraint} <= {"plan", "respond", "refine"}
    assert all(
        bool(call.constraint.choice) == (call.step == "plan") for call in asked if call.constraint
    )
    assert any(call.constraint for call in asked) or name == "decoupled-gold"
    free = Model(**answers, scores=(-1.0,) * 8)
    run(name, free, decode="free")
    assert not [c for c in free.asked if isinstance(c, Generation) and c.constraint]


def test_the_expression_of_an_entangled_answer_admits_the_eight_names_and_no_other():
    expression = re.compile(constraint_of("vanilla", "choice").regex)
    assert all(expression.fullmatch(f"[{name}] words") for name in NAMES)
    assert not expression.fullmatch("[Hug] words") and not expression.fullmatch("words")


def test_every_prompt_of_a_baseline_renders_without_variables():
    stems = [name.replace("-", "_") for name in PROMPT_BASELINES]
    found = sorted(path.name for stem in stems for path in TEMPLATES.glob(f"{stem}*.j2"))
    assert len(found) == 5
    assert all(prompts.render(TEMPLATES, name) for name in found)
