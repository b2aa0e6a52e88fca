"""One turn's whole way through a mining, for a person to read."""

import textwrap
from collections.abc import Iterator

from esc import files
from esc.exceptions import EscError
from esc.turns import gold_turns
from esc.verdicts import Unscored
from esc.visible import visible
from mining.candidates import SAMPLES, Candidate, read_turns
from mining.folders import Mining
from mining.judge import Asked
from mining.routing import Fate, Judgement, Route, route_turn, screen, seeded
from mining.samples import finished_samples
from mining.stored import finished_verdicts
from mining.verdicts import FilterVerdict


def explain(mining: Mining, asked: Asked | None, turn_id: str) -> str:
    """The turn, its samples, what the judge said of each, and what became of them.

    Raises EscError where the turn was not sampled.
    """
    options, facts = finished_samples(mining)
    found = None
    judged = finished_verdicts(asked, facts[SAMPLES]["sha256"]) if asked else None
    verdicts: dict[tuple[str, int], Judgement] = {}
    for candidates in read_turns(mining.folder / SAMPLES):
        dropped = screen(mining.task, candidates)
        to_judge = [one.key for one in candidates if dropped[one.key] is None]
        said = judged.take(to_judge) if judged else {}
        if candidates[0].id == turn_id:
            found, verdicts = candidates, said
    if judged:
        judged.finish()
    if found is None:
        raise EscError(
            f"turn {turn_id} was not sampled in {mining.folder}; ids are those of its {SAMPLES}"
        )
    return "\n".join(_lines(mining, asked, options, found, verdicts))


def _lines(
    mining: Mining,
    asked: Asked | None,
    options: files.Row,
    turn: list[Candidate],
    verdicts: dict[tuple[str, int], Judgement],
) -> Iterator[str]:
    first = turn[0]
    gold = next(one for one in gold_turns(mining.work, "train", None) if one.id == first.id)
    yield f"turn {first.id} of the train split, {len(gold.history)} exchanges before it"
    yield f"  seeker    {_shown(gold.seeker)}"
    yield f"  gold      [{gold.strategy}] {_shown(gold.response)}"
    yield f"  sampler   {options['sampler']}, weights {options['weights'][:12]}"
    if asked:
        yield f"  judge     {asked.slug}"
    ways = route_turn(mining.task, turn, verdicts)
    for candidate in seeded(turn):
        yield f"sample {candidate.sample} (seed {candidate.seed})"
        yield f"  answer    {_shown(candidate.text) or '(none)'}"
        if mining.task != "rg":
            named = candidate.strategy.value if candidate.strategy else "none that parses"
            yield f"  strategy  {named}"
        verdict = verdicts.get(candidate.key)
        if isinstance(verdict, Unscored):
            yield f"  verdict   unscored: {verdict.reason} ({_shown(verdict.detail)})"
        elif isinstance(verdict, FilterVerdict):
            yield f"  verdict   retain: {'Yes' if verdict.retain else 'No'}"
            yield f"    gold    {verdict.chosen_error}: {_shown(verdict.chosen_explanation)}"
            yield f"    sampled {verdict.rejected_error}: {_shown(verdict.rejected_explanation)}"
        yield f"  fate      {_fate(mining, ways[candidate.key])}"


def _fate(mining: Mining, way: Route) -> str:
    if way.fate is not Fate.PAIR:
        return f"dropped: {way.fate}"
    kind = f" ({way.quadrant})" if way.quadrant else ""
    return f"pair for {mining.task}'s preference training{kind}, {way.error}"


def _shown(text: str) -> str:
    """One line of it, with nothing in it that could steer a terminal."""
    return textwrap.shorten(visible(text), 160, placeholder=" …")
