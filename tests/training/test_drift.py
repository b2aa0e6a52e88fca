"""How far a policy moved: the sums, the warning, and real adapters that did and did not move."""

import math

import pytest
import torch
from trained import MODEL, scale

from esc import backbones, files, paths
from esc.files import EscError
from esc.paths import PAPER, Lineage
from serving.compose import compose
from training import drift

OTHER = 0.25 * math.log(0.25 / 0.4) + 0.75 * math.log(0.75 / 0.6)


@pytest.mark.parametrize(
    ("start", "now", "kl", "changed"),
    [
        ([[0.5, 0.5], [0.9, 0.1]], [[0.5, 0.5], [0.9, 0.1]], 0, 0),
        # Of the moved policy from the start, and a mean over tokens.
        ([[0.4, 0.6], [0.75, 0.25]], [[0.25, 0.75], [0.75, 0.25]], OTHER / 2, 0),
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


# On some processors the chain's two steps move no further than rounding: the other way, 20 times.
@pytest.mark.slow
@pytest.mark.parametrize(("factor", "has_moved"), [(1e-9, False), (20.0, True)])
def test_an_update_below_the_precision_is_told_from_one_that_moves(copied, factor, has_moved):
    trained = copied / paths.adapter(MODEL, "sp", "dpo")
    scale(trained, factor)
    compose(copied, MODEL, "sp")
    found = drift.drift(copied, MODEL, "sp", PAPER)
    assert found["precision"] == backbones.precision() and found["turns"] == 2
    assert found["moved"] is has_moved, found
    assert files.read_json(trained / drift.DRIFT) == found
    (trained / "served" / "adapter_model.safetensors").unlink()
    with pytest.raises(EscError, match=r"serving compose .*--task sp"):
        drift.drift(copied, MODEL, "sp", PAPER)
