"""Which training phase an error is for, and what becomes of every sampled answer.

All of it is pure: from candidates and verdicts to fates. The one table is `STAGE_OF`.
"""

from collections.abc import Iterable, Mapping, Sequence
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


def route_strategy(candidate: Candidate) -> Route:
    """The way of a planner's answer: only a wrong strategy is a mismatch, and so a pair."""
    if candidate.strategy is candidate.gold_strategy:
        return Route(Fate.SAME_STRATEGY, PsychError.NONE)
    return Route(Fate.PAIR, PsychError.STRATEGY_MISMATCH)


def route_reply(verdict: FilterVerdict) -> Route:
    """The way of a generator's reply: a clean gold reply, an error of its phase, and retained."""
    error = verdict.rejected_error
    if verdict.chosen_error is not PsychError.NONE:
        return Route(Fate.GOLD_ERROR, error)
    if error is PsychError.NONE:
        return Route(Fate.NO_ERROR, error)
    if STAGE_OF[error] != "rg":
        return Route(Fate.NO_STAGE, error)
    return Route(Fate.PAIR if verdict.retain else Fate.NOT_RETAINED, error)


def route_entangled(candidate: Candidate, verdict: FilterVerdict) -> Route:
    """The way of an entangled answer: its quadrant decides which sets of Table 5 it is in.

    The judge's own word on retaining is of the response alone, and does not count here.
    """
    error = verdict.rejected_error
    strategy = "Ps" if candidate.strategy is candidate.gold_strategy else "Ns"
    quadrant = Quadrant(strategy + ("Pr" if error is PsychError.NONE else "Nr"))
    if quadrant is Quadrant.NSPR:
        # The response is sound: what is wrong with the answer is its strategy.
        error = PsychError.STRATEGY_MISMATCH
    if verdict.chosen_error is not PsychError.NONE:
        return Route(Fate.GOLD_ERROR, error, quadrant)
    fate = Fate.NO_ERROR if quadrant is Quadrant.PSPR else Fate.PAIR
    return Route(fate, error, quadrant)


def screen(task: str, turn: Iterable[Candidate]) -> dict[Key, Fate | None]:
    """Why a candidate of one turn is dropped without a verdict; None where it goes on.

    For the planner that is all there is before `route_strategy`.
    """
    fates: dict[Key, Fate | None] = {}
    seen: set[tuple[object, str]] = set()
    for candidate in seeded(turn):
        # Two answers that differ in blanks or case alone would teach a model nothing else.
        said = _normal(candidate.response or "")
        twin = (candidate.strategy, said)
        fates[candidate.key] = _screened(task, candidate, said) or (
            Fate.DUPLICATE if twin in seen else None
        )
        if candidate.strategy is not None:
            seen.add(twin)
    return fates


def _screened(task: str, candidate: Candidate, said: str) -> Fate | None:
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


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def to_judge(task: str, turn: Sequence[Candidate]) -> list[Candidate]:
    """Those candidates of one turn that need a verdict, in the order of the samples."""
    dropped = screen(task, turn)
    return [candidate for candidate in turn if dropped[candidate.key] is None]


def seeded(turn: Iterable[Candidate]) -> list[Candidate]:
    """The candidates of a turn in seeded order."""
    return sorted(turn, key=lambda candidate: (candidate.seed, candidate.sample))


def route_turn(
    task: str, turn: Sequence[Candidate], verdicts: Mapping[Key, Judgement]
) -> dict[Key, Route]:
    """The way of every candidate of one turn, by key.

    At most one pair a turn for the generator, and one a turn and quadrant for the entangled model:
    the first in seeded order.
    """
    screened = screen(task, turn)
    routes: dict[Key, Route] = {}
    taken: set[Quadrant | None] = set()
    for candidate in seeded(turn):
        dropped, verdict = screened[candidate.key], verdicts.get(candidate.key)
        if dropped is not None:
            route = Route(dropped)
        elif task == "sp":
            route = route_strategy(candidate)
        elif not isinstance(verdict, FilterVerdict):
            route = Route(Fate.UNSCORED)
        else:
            is_reply = task == "rg"
            route = route_reply(verdict) if is_reply else route_entangled(candidate, verdict)
        if route.fate is Fate.PAIR and task != "sp":
            if route.quadrant in taken:
                route = Route(Fate.TURN_HAS_PAIR, route.error, route.quadrant)
            taken.add(route.quadrant)
        routes[candidate.key] = route
    return routes


def is_unwanted(task: str, way: Route) -> bool:
    """Whether the sampled answer has an error that its phase can mend, paired or not."""
    if way.error is None:
        return False
    if task == "vanilla":
        return way.quadrant is not Quadrant.PSPR
    return STAGE_OF[way.error] == task
