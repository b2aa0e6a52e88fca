"""What becomes of every sampled answer.

All of it is pure: from candidates and verdicts to fates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from data_builders import pairs
from esc.judging import Unscored
from esc.paths import Quadrant
from esc.psych_errors import PsychError
from esc.records import Candidate, Key
from mining.verdicts import FilterVerdict


class Fate(StrEnum):
    """What becomes of a sampled answer; all but the first are reasons for dropping it."""

    PAIR = pairs.PAIR
    SAMPLING_FAILED = "sampling failed"
    UNPARSABLE = "unparsable strategy"
    SAME_STRATEGY = "same strategy as gold"
    EMPTY = "empty reply"
    SAME_REPLY = "same reply as gold"
    DUPLICATE = "duplicate of an earlier sample"
    UNSCORED = "unscored by the judge"
    GOLD_ERROR = "error in the gold reply"
    NO_ERROR = "no error in the sampled reply"
    NO_STAGE = "error that feeds no pair"
    NOT_RETAINED = "not retained by the judge"
    TURN_HAS_PAIR = "its turn has a pair already"


Judgement = FilterVerdict | Unscored | None
"""What the judge said of a pair; None where it was not asked."""


@dataclass(frozen=True, slots=True)
class Route:
    """The way of one candidate; error and quadrant (of an entangled one) where they are known."""

    fate: Fate
    error: PsychError | None = None
    quadrant: Quadrant | None = None

    def is_unwanted(self, task: str) -> bool:
        """Whether the sampled answer has an error that its phase can mend, paired or not."""
        if task == "vanilla":
            return self.quadrant not in (None, Quadrant.PSPR)
        return self.error is not None and self.error.feeds == task


def seeded(turn: Sequence[Candidate]) -> list[Candidate]:
    """The candidates of a turn in seeded order."""
    return sorted(turn, key=lambda candidate: (candidate.seed, candidate.sample))


def route_turn(
    task: str, turn: Sequence[Candidate], verdicts: Mapping[Key, Judgement]
) -> dict[Key, Route]:
    """The way of every candidate of one turn, by key.

    At most one pair a turn for the generator, and one a turn and quadrant for the entangled model:
    the first in seeded order.
    """
    routes: dict[Key, Route] = {}
    seen: set[tuple[object, str]] = set()
    taken: set[Quadrant | None] = set()
    for one in seeded(turn):
        # Two answers that differ in blanks or case alone would teach a model nothing else.
        twin = one.strategy, _normal(one.response or "")
        route = _route(task, one, verdicts.get(one.key), is_twin=twin in seen)
        if route.fate is Fate.PAIR and task != "sp":
            if route.quadrant in taken:
                route = replace(route, fate=Fate.TURN_HAS_PAIR)
            taken.add(route.quadrant)
        seen.add(twin)
        routes[one.key] = route
    return routes


def to_judge(task: str, turn: Sequence[Candidate]) -> list[Candidate]:
    """The replies of one turn that need a verdict, in the order of the samples."""
    routes = route_turn(task, turn, {})
    return [candidate for candidate in turn if routes[candidate.key].fate is Fate.UNSCORED]


def _route(task: str, one: Candidate, verdict: Judgement, *, is_twin: bool) -> Route:
    """The way of a candidate by itself.

    A generator's reply takes an error of its phase, and the judge's word that it is retained. The
    quadrant of an entangled answer decides which sets of Table 5 it is in: the judge's word on
    retaining is of the response alone, and does not count. Either takes a clean gold reply.
    """
    right, said = one.strategy is one.gold_strategy, _normal(one.response or "")
    screened = {
        Fate.SAMPLING_FAILED: one.status == "failed",
        Fate.UNPARSABLE: one.strategy is None,
        Fate.EMPTY: task != "sp" and not said,
        Fate.SAME_REPLY: task != "sp" and right and said == _normal(one.gold_response),
        Fate.DUPLICATE: is_twin,
    }
    if dropped := next((fate for fate, holds in screened.items() if holds), None):
        return Route(dropped)
    if task == "sp":
        same = Route(Fate.SAME_STRATEGY, PsychError.NONE)
        return same if right else Route(Fate.PAIR, PsychError.STRATEGY_MISMATCH)
    if not isinstance(verdict, FilterVerdict):
        return Route(Fate.UNSCORED)
    error, quadrant, fate = verdict.rejected_error, None, Fate.PAIR
    if task == "vanilla":
        reply = "Pr" if error is PsychError.NONE else "Nr"
        quadrant = Quadrant(("Ps" if right else "Ns") + reply)
        if quadrant is Quadrant.PSPR:
            fate = Fate.NO_ERROR
        elif quadrant is Quadrant.NSPR:
            # The response is sound: what is wrong with the answer is its strategy.
            error = PsychError.STRATEGY_MISMATCH
    elif error is PsychError.NONE:
        fate = Fate.NO_ERROR
    elif error.feeds != "rg":
        fate = Fate.NO_STAGE
    elif not verdict.retain:
        fate = Fate.NOT_RETAINED
    clean_gold = verdict.chosen_error is PsychError.NONE
    return Route(fate if clean_gold else Fate.GOLD_ERROR, error, quadrant)


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
