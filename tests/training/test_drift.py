"""How far a policy moved: the sums, the warning, and real adapters that did and did not move."""

import math

import pytest
import torch
from trained import MODEL, scale

from esc import backbones, files, paths
from esc.dialogue import gold_turns
from esc.files import EscError
from esc.paths import Lineage
from serving.compose import compose
from training import drift


@pytest.mark.parametrize(
    ("start", "now", "kl", "changed"),
    [
        ([[0.5, 0.5], [0.9, 0.1]], [[0.5, 0.5], [0.9, 0.1]], 0, 0),
        # Of the moved policy from the start, and a mean over tokens.
        (
            [[0.4, 0.6], [0.75, 0.25]],
            [[0.25, 0.75], [0.75, 0.25]],
            (0.25 * math.log(0.25 / 0.4) + 0.75 * math.log(0.75 / 0.6)) / 2,
            0,
        ),
        ([[0.6, 0.4], [0.6, 0.4]], [[0.4, 0.6], [0.6, 0.4]], 0.1 * math.log(1.5), 0.5),
    ],
)
def test_divergence_and_changed_tokens_by_hand(start, now, kl, changed):
    found = drift.movement([drift.divergence(torch.tensor(start).log(), torch.tensor(now).log())])
    expected = {"kl": pytest.approx(kl, abs=1e-6), "changed": changed}
    assert found == {"turns": 1, "tokens": 2} | expected


@pytest.mark.parametrize(
    ("has_moved", "variant", "warned", "sent"),
    [(False, None, True, True), (True, None, False, False), (False, "practical", True, False)],
)
def test_a_training_that_moved_nothing_is_warned_of_with_the_way_out(
    has_moved, variant, warned, sent
):
    facts = {
        "kl": 1e-3, "changed": 0.01, "tokens": 100, "turns": 20, "precision": "bfloat16",
        "rounding": {"kl": 1e-3, "changed": 0.01}, "moved": has_moved, "smoke": False,
    }  # fmt: skip
    told = "\n".join(drift.report(facts, paths.Path(), MODEL, "rg", Lineage(variant)))
    assert ("WARNING" in told) == warned
    assert ("make dpo-rg VARIANT=practical trains at a rate that does" in told) == sent


def test_the_turns_are_of_as_many_dialogues_and_as_many_as_asked_for(work):
    with pytest.raises(EscError, match="make dpo-sp"):
        drift.drift(work, MODEL, "sp", paths.PAPER, None)
    turns = gold_turns(work, "validation", None)
    assert drift.drawn(turns, 500, 200) == turns
    assert 0 < len(drift.drawn(turns, 1, 200)) < len(turns)
    few = drift.drawn(turns, None, 2)
    assert len(few) == 2 and all(turn in turns for turn in few)


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "has_moved"), [(1e-9, False), (1.0, True)])
def test_an_update_below_the_precision_is_told_from_one_that_moves(copied, factor, has_moved):
    scale(copied / paths.adapter(MODEL, "sp", "dpo"), factor)
    compose(copied, MODEL, "sp")
    found = drift.drift(copied, MODEL, "sp", paths.PAPER, 2)
    assert found["precision"] == backbones.precision() and found["tokens"] > 0
    assert found["moved"] is has_moved, found
    written = copied / paths.adapter(MODEL, "sp", "dpo") / drift.DRIFT
    assert files.read_json(written) == found
