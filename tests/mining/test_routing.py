"""Routing, over every combination of strategy and verdict, against the paper's rules spelt out."""

import itertools
import random

import pytest

from esc.judging import Unscored
from esc.llm import Reason, derived_seed
from esc.psych_errors import PsychError
from esc.records import Candidate
from esc.strategies import Strategy
from mining.routing import Fate, route_turn, seeded
from mining.verdicts import FilterVerdict

RIGHT, WRONG = Strategy.QUESTION, Strategy.INFORMATION
FITS = {"right": RIGHT, "wrong": WRONG, "unparsable": None}
MENDED_BY_RG = {"Lack of Empathy", "Early Emotion Shift", "Template Response"}
MISMATCH = "Strategy Mismatch"
UNSCORED, DUPLICATE = "unscored by the judge", "duplicate of an earlier sample"


def candidate(sample=0, *, strategy=RIGHT, response="a reply", failed=False, turn="3-1"):
    return Candidate(
        id=turn,
        sample=sample,
        seed=derived_seed(turn, sample),
        gold_strategy=RIGHT,
        gold_response="The gold one.",
        status="failed" if failed else "ok",
        strategy=None if failed else strategy,
        response=None if failed else response,
    )


def verdict(rejected, *, chosen=PsychError.NONE, retain=True):
    """With errors outside the filter's menu too."""
    return FilterVerdict.model_construct(
        retain=retain, chosen_error=chosen, rejected_error=rejected
    )


VERDICTS = [None, Unscored(Reason.PROSE)] + [
    verdict(rejected, chosen=chosen, retain=retain)
    for retain, chosen, rejected in itertools.product((True, False), PsychError, PsychError)
]


def fates(task, turn, verdicts=None):
    """In seeded order."""
    ways = route_turn(task, turn, verdicts or {})
    return [ways[one.key].fate for one in seeded(turn)]


def rule(task, fit, said):
    """Fate, error and quadrant by the paper, spelt out."""
    right, judged = fit == "right", isinstance(said, FilterVerdict)
    error = said.rejected_error if judged else None
    quadrant = ("Ps" if right else "Ns") + ("Pr" if error == "None" else "Nr")
    if fit == "unparsable":
        return "unparsable strategy", None, None
    if task == "sp":
        return ("same strategy as gold", "None", None) if right else ("pair", MISMATCH, None)
    if not judged:
        return UNSCORED, None, None
    if task == "vanilla":
        fate = "no error in the sampled reply" if quadrant == "PsPr" else "pair"
        error = MISMATCH if quadrant == "NsPr" else error
    elif error in MENDED_BY_RG:
        fate = "pair" if said.retain else "not retained by the judge"
    else:
        fate = "no error in the sampled reply" if error == "None" else "error that feeds no pair"
    fate = fate if said.chosen_error == "None" else "error in the gold reply"
    return fate, error, quadrant if task == "vanilla" else None


@pytest.mark.parametrize("task", ["sp", "rg", "vanilla"])
def test_a_sample_is_a_pair_by_the_papers_rule_and_a_drop_names_its_reason(task):
    for fit, said in itertools.product(FITS, VERDICTS):
        # The generator is given its strategy, so what it samples is under the gold one.
        fit = "right" if (task, fit) == ("rg", "wrong") else fit
        one = candidate(strategy=FITS[fit], response=None if task == "sp" else "a reply")
        way = route_turn(task, [one], {one.key: said})[one.key]
        assert (way.fate, way.error, way.quadrant) == rule(task, fit, said), (fit, said)


IMPOSSIBLE = {
    "sp": {*Fate}
    - {"pair", "same strategy as gold", "sampling failed", "unparsable strategy", DUPLICATE},
    "rg": {"same strategy as gold"},
    "vanilla": {"same strategy as gold", "not retained by the judge", "error that feeds no pair"},
}


@pytest.mark.parametrize("task", IMPOSSIBLE)
def test_every_candidate_of_any_turn_has_one_fate_whatever_the_order(task):
    rng, seen = random.Random(7), set()
    for _ in range(2000):
        turn = [
            candidate(
                sample,
                strategy=rng.choice([RIGHT, WRONG, None]),
                response=rng.choice(["", "the gold  one.", "a", "A ", "b", "c", "d"]),
                failed=rng.random() < 0.1,
            )
            for sample in range(rng.randint(1, 6))
        ]
        verdicts = {one.key: rng.choice(VERDICTS) for one in turn if rng.random() < 0.9}
        ways = route_turn(task, turn, verdicts)
        assert set(ways) == {one.key for one in turn}
        seen |= {way.fate for way in ways.values()}
        assert route_turn(task, rng.sample(turn, len(turn)), verdicts) == ways
    assert seen == {*Fate} - IMPOSSIBLE[task]


@pytest.mark.parametrize("task", ["rg", "vanilla"])
def test_what_needs_no_verdict_is_dropped_without_one(task):
    for one, fate in (
        (candidate(failed=True), "sampling failed"),
        (candidate(response=" \n\t "), "empty reply"),
        (candidate(response=" the GOLD\n one. "), "same reply as gold"),
        (candidate(strategy=None), "unparsable strategy"),
        (candidate(strategy=WRONG, response="The gold one."), UNSCORED),
        (candidate(), UNSCORED),
    ):
        assert fates(task, [one]) == [fate]


def test_a_twin_is_a_duplicate_whatever_its_blanks_and_case():
    twins = [candidate(0), candidate(1, response="\nA  Reply ")]
    assert fates("vanilla", twins) == [UNSCORED, DUPLICATE]
    assert fates("vanilla", [candidate(0), candidate(1, strategy=WRONG)]) == [UNSCORED] * 2


def test_a_generators_turn_has_one_pair_the_first_that_passes_in_seeded_order():
    turn = [candidate(sample, response=f"reply {sample}") for sample in range(6)]
    verdicts = {one.key: verdict(PsychError.TEMPLATE_RESPONSE) for one in turn}
    verdicts[seeded(turn)[0].key] = verdict(PsychError.NONE)
    later = ["pair", *["its turn has a pair already"] * 4]
    assert fates("rg", turn, verdicts) == ["no error in the sampled reply", *later]
    turns = [[candidate(n, turn=f"{d}-0") for n in range(3)] for d in range(20)]
    assert len({tuple(one.sample for one in seeded(turn)) for turn in turns}) > 2


def test_an_entangled_turn_has_one_pair_of_each_quadrant():
    said = {"PsNr": (RIGHT, PsychError.LACK_OF_EMPATHY), "NsPr": (WRONG, PsychError.NONE)}
    said["NsNr"] = (WRONG, PsychError.TEMPLATE_RESPONSE)
    turn, verdicts = [], {}
    for sample, (strategy, error) in enumerate([*said.values()] * 2):
        turn.append(candidate(sample, strategy=strategy, response=f"reply {sample}"))
        verdicts[turn[-1].key] = verdict(error)
    ways = route_turn("vanilla", turn, verdicts)
    for quadrant in said:
        found = [ways[one.key].fate for one in seeded(turn) if ways[one.key].quadrant == quadrant]
        assert found == ["pair", "its turn has a pair already"]
