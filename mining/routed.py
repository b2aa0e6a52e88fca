"""What routing writes and tells: the rows of its files, and the counts a user should see."""

from collections.abc import Iterator
from typing import Any

from esc.files import Row
from esc.psych_errors import PsychError
from mining.candidates import Candidate, Key
from mining.folders import Mining
from mining.routing import STAGE_OF, Fate, Judgement, Route
from mining.stored import StoredVerdicts
from mining.verdicts import FilterVerdict

ROUTES, PAIRS, SINGLES, DONE = "routes.jsonl", "pairs.jsonl", "singles.jsonl", "route.json"


def provenance_of(options: Row, judged: StoredVerdicts | None) -> Row:
    """What all pairs of a mining have in common."""
    sampled = {
        "model": options["MODEL"],
        "task": options["task"],
        "variant": options["VARIANT"],
        "round": options["ROUND"],
        "sampler": options["sampler"],
        "weights": options["weights"],
        "prompts": options["prompts"],
        "temperature": options["temperature"],
        "top_p": options["top_p"],
        "decode": options["DECODE"],
        "data": options["data"],
        "split": "train",
        "smoke": options["smoke"],
    }
    if judged is None:
        return sampled | {"judge": None}
    return sampled | {
        "judge": judged.options["JUDGE"],
        "blind": judged.options["BLIND"],
        "judge_prompts": judged.options["prompts"],
        "smoke": options["smoke"] or judged.options["smoke"],
    }


def verdict_facts(verdict: Judgement) -> Row:
    """What a pair's provenance says of its verdict."""
    if not isinstance(verdict, FilterVerdict):
        return {"verdict": None}
    return {"verdict": verdict.model_dump(mode="json")}


def pair_row(task: str, candidate: Candidate, way: Route, verdict: Judgement) -> Row:
    """The row of ``pairs.jsonl`` of a sample whose fate is a pair, without its provenance."""
    explained = verdict.rejected_explanation if isinstance(verdict, FilterVerdict) else None
    gold, sampled = _sides(task, candidate)
    return {
        "id": candidate.id,
        "sample": candidate.sample,
        "seed": candidate.seed,
        "gold_strategy": candidate.gold_strategy.value,
        "strategy": candidate.strategy.value if candidate.strategy else None,
        "chosen": gold,
        "rejected": sampled,
        "error": way.error,
        "explanation": explained,
        "quadrant": way.quadrant,
        "truncated": candidate.truncated,
    }


def _sides(task: str, candidate: Candidate) -> tuple[str, str]:
    """(gold, sampled) answer: a strategy's name for the planner, else the reply without a tag."""
    if task == "sp":
        assert candidate.strategy is not None
        return candidate.gold_strategy.value, candidate.strategy.value
    assert candidate.response is not None
    return candidate.gold_response, candidate.response


def single_rows(
    task: str, turn: list[Candidate], verdicts: dict[Key, Judgement], ways: dict[Key, Route]
) -> Iterator[Row]:
    """The unwanted answers of a turn, pair or not, and its gold one where it has any of them.

    The gold answer is left out where a verdict finds an error in it.
    """
    unwanted = [candidate for candidate in turn if _is_unwanted(task, ways[candidate.key])]
    if not unwanted:
        return
    found = [verdict for verdict in verdicts.values() if isinstance(verdict, FilterVerdict)]
    if all(verdict.chosen_error is PsychError.NONE for verdict in found):
        first = unwanted[0]
        gold, _ = _sides(task, first)
        yield _single(first, None, gold, first.gold_strategy.value, None, wanted=True)
    for candidate in unwanted:
        _, said = _sides(task, candidate)
        strategy = candidate.strategy.value if candidate.strategy else None
        error = ways[candidate.key].error
        yield _single(candidate, candidate.sample, said, strategy, error, wanted=False)


def _single(
    candidate: Candidate,
    sample: int | None,
    text: str,
    strategy: str | None,
    error: PsychError | None,
    *,
    wanted: bool,
) -> Row:
    return {
        "id": candidate.id,
        "sample": sample,
        "strategy": strategy,
        "text": text,
        "wanted": wanted,
        "error": error,
    }


def _is_unwanted(task: str, way: Route) -> bool:
    """Whether the sampled answer has an error that its phase can mend, paired or not."""
    if way.error is None:
        return False
    if task == "vanilla":
        return way.quadrant is not None and way.quadrant != "PsPr"
    return STAGE_OF[way.error] == task


def route_row(candidate: Candidate, way: Route, verdict: Judgement) -> Row:
    """The row of ``routes.jsonl`` of a sample."""
    return {
        "id": candidate.id,
        "sample": candidate.sample,
        "fate": way.fate,
        "gold_strategy": candidate.gold_strategy,
        "strategy": candidate.strategy,
        "error": way.error,
        "quadrant": way.quadrant,
        "retain": verdict.retain if isinstance(verdict, FilterVerdict) else None,
    }


def report(mining: Mining, done: Row) -> str:
    """The counts one should see: every sample once, every reason for dropping."""
    dropped = {fate: n for fate, n in done["fates"].items() if fate != Fate.PAIR}
    kept = done[PAIRS]["rows"]
    lines = [
        f"routed      {mining.routed}: {done['samples']:,} samples = {kept:,} pairs "
        f"+ {sum(dropped.values()):,} dropped"
    ]
    lines += [f"            {n:>9,}  {fate}" for fate, n in _most_first(dropped)]
    if done["truncated"]:
        lines.append(f"            {done['truncated']:,} of the pairs with a rejected answer cut")
    if done["errors"]:
        told = ", ".join(f"{n:,} {error}" for error, n in _most_first(done["errors"]))
        lines.append(f"errors      {told}")
    if done["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


def _most_first(counts: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def no_pairs(mining: Mining, fates: dict[str, int]) -> str:
    """What a user is told where nothing is left: which filters took it all."""
    told = ", ".join(f"{n:,} {fate}" for fate, n in _most_first(fates))
    return (
        f"0 pairs of {sum(fates.values()):,} samples for {mining.task}: {told}; take more "
        "dialogues (LIMIT), more samples of a turn (SAMPLES) or another judge (JUDGE), with FORCE=1"
    )
