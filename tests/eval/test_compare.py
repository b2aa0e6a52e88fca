"""Two systems on the same turns: both resampled by the same draws, whatever the order."""

import numpy as np

from esc.strategies import Strategy
from eval.cases import Case, arranged
from eval.metrics import compare

Q, R = Strategy.QUESTION, Strategy.RESTATEMENT


def system(share, ids=lambda d, t: f"{d}-{t}", dialogues=12):
    """A system that names the gold strategy in ``share`` of ten turns."""
    cases = [
        Case(
            ids(d, t), Q if t % 2 else R, f"gold words {d} {t}",
            (Q if t % 2 else R) if t < share else (R if t % 2 else Q),
            f"gold {'words' if t < share else 'noise'} {d}",
        )
        for d in range(dialogues)
        for t in range(10)
    ]  # fmt: skip
    return arranged(cases, ids=[case.id for case in cases])


def test_a_system_is_not_told_from_itself():
    found = compare(system(5), system(5))
    assert found["n"] == 120 and found["resampled_by"] == "dialogue"
    one = found["numbers"]["strategy.accuracy"]
    assert (one["difference"], one["low"], one["high"]) == (0, 0, 0)
    assert one["verdict"] == "inside the noise"


def test_a_better_system_is_told_by_every_number_that_knows():
    found = compare(system(3), system(7))["numbers"]
    for name in ("strategy.accuracy", "text.paper.f1", "text.corpus.bleu1"):
        assert found[name]["verdict"] == "higher, outside the noise", name
    assert compare(system(7), system(3))["numbers"]["strategy.accuracy"]["difference"] == -40


def test_pairing_is_sharper_than_two_intervals():
    """Where both systems share what is hard, their difference is certain though neither is."""
    rng = np.random.default_rng(2)
    hard = rng.random(40) < 0.5

    def one(extra):
        cases = [
            Case(
                f"{d}-{t}",
                Q,
                "",
                Q if (not hard[d] or t == 0 or (extra and t == 1)) else R,
                "",
            )
            for d in range(40)
            for t in range(5)
        ]
        return arranged(cases, ids=[case.id for case in cases])

    found = compare(one(False), one(True))["numbers"]["strategy.accuracy"]
    assert found["low"] > 0 and found["high"] - found["low"] < 10


def test_the_order_and_the_ids_change_no_comparison():
    wanted = compare(system(3), system(7))
    backwards = arranged(system(7).rows[::-1], ids=[c.id for c in system(7).rows])
    assert compare(system(3), backwards) == wanted

    def other(d, t):
        return f"talk{99 - d}-{t}"

    assert compare(system(3, other), system(7, other)) == wanted


def test_fewer_than_ten_shared_dialogues_have_no_interval_and_no_verdict():
    found = compare(system(3, dialogues=12), system(7, dialogues=9))
    assert "9 dialogues, and an interval takes 10" in found["interval"]
    for one in found["numbers"].values():
        assert (one["low"], one["high"]) == (None, None)
        assert one["verdict"].startswith(("no interval", "undefined"))
    assert "reverse percentile of bias" in compare(system(3), system(7))["interval"]


def test_turns_that_only_one_has_are_counted():
    found = compare(system(3, dialogues=12), system(7, dialogues=10))
    assert found["n"] == 100 and found["alone"] == {"a": 20, "b": 0}
