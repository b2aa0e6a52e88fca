"""What becomes of every sampled answer, and which training phase an error is for (`STAGE_OF`).

All of it is pure: from candidates and verdicts to fates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from esc.judging import Unscored
from esc.paths import Quadrant
from esc.psych_errors import PsychError
from esc.records import Candidate, Key
from mining.verdicts import FilterVerdict

STAGE_OF: dict[PsychError, str | None] = {
    PsychError.STRATEGY_MISMATCH: "sp",
    PsychError.LACK_OF_EMPATHY: "rg",
    PsychError.EARLY_EMOTION_SHIFT: "rg",
    PsychError.TEMPLATE_RESPONSE: "rg",
    PsychError.EMOTION_MISREAD: None,
    PsychError.OTHER: None,
    PsychError.NONE: None,
}
"""Error of the rejected side to the phase that can mend it (paper, section 4.1)."""


class Fate(StrEnum):
    """What becomes of a sampled answer; all but the first are reasons for dropping it."""

    PAIR = "pair"
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
    """The way of one candidate."""

    fate: Fate
    error: PsychError | None = None
    """Of the sampled answer, where it is known."""
    quadrant: Quadrant | None = None
    """Of an entangled answer, where it is known."""

    def is_unwanted(self, task: str) -> bool:
        """Whether the sampled answer has an error that its phase can mend, paired or not."""
        if task == "vanilla":
            return self.quadrant not in (None, Quadrant.PSPR)
        return self.error is not None and STAGE_OF[self.error] == task


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
    for candidate in seeded(turn):
        # Two answers that differ in blanks or case alone would teach a model nothing else.
        twin = (candidate.strategy, _normal(candidate.response or ""))
        dropped = _dropped(task, candidate, twin[1]) or (twin in seen and Fate.DUPLICATE)
        seen.add(twin)
        if dropped:
            route = Route(dropped)
        elif task == "sp":
            route = Route(Fate.PAIR, PsychError.STRATEGY_MISMATCH)
            if candidate.strategy is candidate.gold_strategy:
                route = Route(Fate.SAME_STRATEGY, PsychError.NONE)
        else:
            route = _judged(task, candidate, verdicts.get(candidate.key))
            if route.fate is Fate.PAIR:
                if route.quadrant in taken:
                    route = Route(Fate.TURN_HAS_PAIR, route.error, route.quadrant)
                taken.add(route.quadrant)
        routes[candidate.key] = route
    return routes


def to_judge(task: str, turn: Sequence[Candidate]) -> list[Candidate]:
    """The replies of one turn that need a verdict, in the order of the samples."""
    routes = route_turn(task, turn, {})
    return [candidate for candidate in turn if routes[candidate.key].fate is Fate.UNSCORED]


def _dropped(task: str, candidate: Candidate, said: str) -> Fate | None:
    """Why a candidate by itself needs no verdict."""
    if candidate.status == "failed":
        return Fate.SAMPLING_FAILED
    if candidate.strategy is None:
        return Fate.UNPARSABLE
    if task == "sp":
        return None
    if not said:
        return Fate.EMPTY
    same = said == _normal(candidate.gold_response)
    return Fate.SAME_REPLY if same and candidate.strategy is candidate.gold_strategy else None


def _judged(task: str, candidate: Candidate, verdict: Judgement) -> Route:
    """A generator's reply takes an error of its phase, and the judge's word that it is retained.

    The quadrant of an entangled answer decides which sets of Table 5 it is in: the judge's word on
    retaining is of the response alone, and does not count. Either takes a clean gold reply.
    """
    if not isinstance(verdict, FilterVerdict):
        return Route(Fate.UNSCORED)
    error, quadrant = verdict.rejected_error, None
    fate = Fate.PAIR if verdict.retain else Fate.NOT_RETAINED
    if STAGE_OF[error] != "rg":
        fate = Fate.NO_ERROR if error is PsychError.NONE else Fate.NO_STAGE
    if task == "vanilla":
        strategy = "Ps" if candidate.strategy is candidate.gold_strategy else "Ns"
        quadrant = Quadrant(strategy + ("Pr" if error is PsychError.NONE else "Nr"))
        fate = Fate.NO_ERROR if quadrant is Quadrant.PSPR else Fate.PAIR
        if quadrant is Quadrant.NSPR:
            # The response is sound: what is wrong with the answer is its strategy.
            error = PsychError.STRATEGY_MISMATCH
    return Route(
        fate if verdict.chosen_error is PsychError.NONE else Fate.GOLD_ERROR, error, quadrant
    )


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
