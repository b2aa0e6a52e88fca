"""Routing, over every combination of strategy and verdict, against the paper's rules spelt out."""

import itertools
import random

import pytest

from esc.judging import Reason, Unscored
from esc.psych_errors import PsychError
from esc.records import Candidate
from esc.strategies import Strategy
from mining.routing import STAGE_OF, Fate, StrategyFit, route_turn, screen, seeded, strategy_fit
from mining.verdicts import FilterVerdict

RIGHT, WRONG = Strategy.QUESTION, Strategy.INFORMATION
FITS = {"right": RIGHT, "wrong": WRONG, "unparsable": None}
MENDED_BY_RG = {"Lack of Empathy", "Early Emotion Shift", "Template Response"}
SCREENED = {
    "sampling failed",
    "unparsable strategy",
    "empty reply",
    "same reply as gold",
    "duplicate of an earlier sample",
}


def candidate(sample=0, *, strategy=RIGHT, response="a reply", failed=False, turn="3-1"):
    return Candidate(
        id=turn,
        sample=sample,
        gold_strategy=RIGHT,
        gold_response="The gold one.",
        strategy=None if failed else strategy,
        response=None if failed else response,
        failed=failed,
        text="" if failed else str(response),
        truncated=False,
    )


def verdict(rejected, *, chosen=PsychError.NONE, retain=True):
    """As read from a file, so that errors outside the filter's menu are in it too."""
    return FilterVerdict.model_construct(
        retain=retain, chosen_error=chosen, rejected_error=rejected
    )


VERDICTS = [
    None,
    Unscored(Reason.PROSE),
    *(
        verdict(rejected, chosen=chosen, retain=retain)
        for retain, chosen, rejected in itertools.product((True, False), PsychError, PsychError)
    ),
]
EVERY = list(itertools.product(FITS, VERDICTS))


def routed(task, fit, said):
    # The generator is given its strategy, so what it samples is under the gold one.
    strategy = RIGHT if task == "rg" and fit != "unparsable" else FITS[fit]
    one = candidate(strategy=strategy, response=None if task == "sp" else "a reply")
    return route_turn(task, [one], {one.key: said})[one.key]


def test_every_combination_is_tried():
    assert len(EVERY) == 3 * (2 + 2 * 7 * 7)


@pytest.mark.parametrize("fit", FITS)
def test_the_planner_has_a_pair_exactly_where_the_strategy_is_wrong(fit):
    fates = {routed("sp", fit, said).fate for said in VERDICTS}
    expected = {
        "right": "same strategy as gold",
        "wrong": "pair",
        "unparsable": "unparsable strategy",
    }
    assert fates == {expected[fit]}


def test_a_planners_pair_is_a_strategy_mismatch():
    assert routed("sp", "wrong", None).error == "Strategy Mismatch"


@pytest.mark.parametrize("fit", FITS)
def test_the_generator_has_a_pair_exactly_by_the_papers_rule(fit):
    for said in VERDICTS:
        pair = (
            fit != "unparsable"
            and isinstance(said, FilterVerdict)
            and said.chosen_error == "None"
            and said.rejected_error in MENDED_BY_RG
            and said.retain
        )
        assert (routed("rg", fit, said).fate == "pair") == pair, said


@pytest.mark.parametrize("fit", FITS)
def test_an_entangled_answer_is_in_the_quadrant_of_its_strategy_and_error(fit):
    for said in VERDICTS:
        way = routed("vanilla", fit, said)
        if fit == "unparsable" or not isinstance(said, FilterVerdict):
            assert way.quadrant is None and way.fate != "pair"
            continue
        response = "Pr" if said.rejected_error == "None" else "Nr"
        assert way.quadrant == ("Ps" if fit == "right" else "Ns") + response
        assert (way.fate == "pair") == (way.quadrant != "PsPr" and said.chosen_error == "None")
        sound = said.rejected_error == "None" and fit == "wrong"
        assert way.error == ("Strategy Mismatch" if sound else said.rejected_error)


@pytest.mark.parametrize("task", ["rg", "vanilla"])
def test_a_drop_names_its_reason(task):
    for fit, said in EVERY:
        way = routed(task, fit, said)
        if fit == "unparsable":
            expected = "unparsable strategy"
        elif not isinstance(said, FilterVerdict):
            expected = "unscored by the judge"
        elif said.chosen_error != "None":
            expected = "error in the gold reply"
        elif said.rejected_error == "None" and (task == "rg" or fit == "right"):
            expected = "no error in the sampled reply"
        elif task == "vanilla":
            expected = "pair"
        elif said.rejected_error not in MENDED_BY_RG:
            expected = "error that feeds no pair"
        else:
            expected = "pair" if said.retain else "not retained by the judge"
        assert way.fate == expected, (fit, said)


def test_what_the_judge_retains_does_not_move_an_entangled_answer():
    for fit, rejected in itertools.product(FITS, PsychError):
        ways = {
            routed("vanilla", fit, verdict(rejected, retain=retain)) for retain in (True, False)
        }
        assert len(ways) == 1


def test_every_error_has_a_stage_or_none():
    stages = {"Strategy Mismatch": "sp"} | dict.fromkeys(MENDED_BY_RG, "rg")
    assert {error.value: STAGE_OF[error] for error in PsychError} == {
        error.value: stages.get(error.value) for error in PsychError
    }


def test_a_strategy_is_right_wrong_or_unparsable():
    assert [strategy_fit(candidate(strategy=one)) for one in FITS.values()] == list(StrategyFit)


@pytest.mark.parametrize("task", ["sp", "rg", "vanilla"])
def test_every_candidate_of_any_turn_has_one_fate(task):
    rng = random.Random(7)
    seen = set()
    for _ in range(3000):
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
        assert all(isinstance(way.fate, Fate) for way in ways.values())
        seen |= {way.fate for way in ways.values()}
    impossible = {
        "sp": set(Fate) - {"pair", "same strategy as gold"} - SCREENED
        | {"empty reply", "same reply as gold"},
        "rg": {"same strategy as gold"},
        "vanilla": {"same strategy as gold", "not retained by the judge"}
        | {"error that feeds no pair"},
    }
    assert seen == set(Fate) - impossible[task]


@pytest.mark.parametrize("task", ["rg", "vanilla"])
@pytest.mark.parametrize(
    ("one", "fate"),
    [
        (candidate(failed=True), "sampling failed"),
        (candidate(response=""), "empty reply"),
        (candidate(response=" \n\t "), "empty reply"),
        (candidate(response="The gold one."), "same reply as gold"),
        (candidate(response=" the GOLD\n one. "), "same reply as gold"),
        (candidate(strategy=None), "unparsable strategy"),
        (candidate(), None),
    ],
)
def test_what_needs_no_verdict_is_screened(task, one, fate):
    assert screen(task, [one]) == {one.key: fate}


@pytest.mark.parametrize("again", ["a reply", "A  Reply", "\na reply "])
def test_a_twin_is_a_duplicate_whatever_its_blanks_and_case(again):
    first, second = seeded([candidate(0), candidate(1, response=again)])
    assert screen("rg", [candidate(0), candidate(1, response=again)]) == {
        first.key: None,
        second.key: "duplicate of an earlier sample",
    }


def test_the_same_words_under_another_strategy_are_no_twin():
    turn = [candidate(0), candidate(1, strategy=WRONG)]
    assert set(screen("vanilla", turn).values()) == {None}


def test_the_gold_words_under_a_wrong_strategy_go_to_the_judge():
    one = candidate(strategy=WRONG, response="The gold one.")
    assert screen("vanilla", [one]) == {one.key: None}


def test_one_strategy_sampled_twice_is_one_pair():
    turn = [candidate(sample, strategy=WRONG, response=None) for sample in range(3)]
    fates = [way.fate for way in route_turn("sp", turn, {}).values()]
    assert fates.count("pair") == 1 and fates.count("duplicate of an earlier sample") == 2


def test_a_generators_turn_has_one_pair_the_first_that_passes_in_seeded_order():
    turn = [candidate(sample, response=f"reply {sample}") for sample in range(6)]
    order = seeded(turn)
    bad = verdict(PsychError.TEMPLATE_RESPONSE)
    verdicts = {one.key: bad for one in turn} | {order[0].key: verdict(PsychError.NONE)}
    ways = route_turn("rg", turn, verdicts)
    assert [ways[one.key].fate for one in order] == [
        "no error in the sampled reply",
        "pair",
        *["its turn has a pair already"] * 4,
    ]


def test_seeded_order_is_not_the_order_of_samples_for_every_turn():
    turns = [[candidate(n, turn=f"{d}-0") for n in range(3)] for d in range(20)]
    orders = {tuple(one.sample for one in seeded(turn)) for turn in turns}
    assert len(orders) > 2


@pytest.mark.parametrize("task", ["sp", "rg", "vanilla"])
def test_ways_do_not_depend_on_the_order_of_the_input(task):
    rng = random.Random(3)
    turn = [
        candidate(sample, strategy=[RIGHT, WRONG][sample % 2], response=f"reply {sample // 3}")
        for sample in range(12)
    ]
    verdicts = {one.key: rng.choice(VERDICTS) for one in turn}
    expected = route_turn(task, turn, verdicts)
    for _ in range(20):
        rng.shuffle(turn)
        assert route_turn(task, turn, verdicts) == expected


def test_an_entangled_turn_has_one_pair_of_each_quadrant():
    said = {"PsNr": (RIGHT, PsychError.LACK_OF_EMPATHY), "NsPr": (WRONG, PsychError.NONE)}
    said["NsNr"] = (WRONG, PsychError.TEMPLATE_RESPONSE)
    turn, verdicts = [], {}
    for sample, (strategy, error) in enumerate([*said.values()] * 2):
        turn.append(candidate(sample, strategy=strategy, response=f"reply {sample}"))
        verdicts[turn[-1].key] = verdict(error)
    ways = route_turn("vanilla", turn, verdicts)
    for quadrant in said:
        fates = [ways[one.key].fate for one in seeded(turn) if ways[one.key].quadrant == quadrant]
        assert fates == ["pair", "its turn has a pair already"]
