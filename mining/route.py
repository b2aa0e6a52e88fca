"""What becomes of every sample: the pairs each training phase learns from, and why the rest is out.

    python -m mining route --task rg
    python -m mining route --task rg --explain 231-7

Reads ``samples.jsonl`` and a judge's ``verdicts.jsonl`` (the planner needs none) row by row, writes
``routed/`` beside them: ``routes.jsonl`` (the way of every sample), ``pairs.jsonl`` with full
provenance, ``singles.jsonl`` (single replies, wanted or not, for KTO), and ``route.json`` with the
counts of every reason. Where no pair is left it writes ``no_pairs.json`` alone: what an earlier
routing left stays, and no later step takes it. ``--explain ID`` shows one turn's whole way and
writes nothing.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
import yaml

from data_builders.published import PAIRS, Ways, write_routed
from esc import cli, files
from esc.dialogue import gold_turns
from esc.files import EscError, NoPairs, Row
from esc.judging import JudgeName, JudgeUrl, Unscored, judge_for
from esc.paths import EMBEDDED
from esc.psych_errors import PsychError
from esc.records import SAMPLES, Candidate
from esc.step import SMOKE
from esc.strategies import tag
from mining.judge import Asked, Blind, Judged, finished_verdicts, judged_turns
from mining.routing import Fate, route_turn, seeded
from mining.sample import Mining, Wanted, finished_samples
from mining.verdicts import FilterVerdict

SAMPLED = (
    *("MODEL", "task", "VARIANT", "ROUND", "sampler", "weights", "prompts", "temperature", "top_p"),
    *("DECODE", "data", "smoke"),
)
"""Options of the sampling that a pair's provenance tells."""


def route(mining: Mining, asked: Asked | None, *, force: bool = False) -> Row:
    """What ``route.json`` says: counts of every fate and error, and of what was written.

    ``asked`` names the judge, None for the planner. Raises, with nothing overwritten, EscError
    where samples or verdicts are not whole or do not belong together, or no pair is left, and
    without ``force`` OptionsDiffer where another judge's routing is there.
    """
    made_by, fates = provenance_of(mining, asked), Counter[str]()
    ways = _ways(mining, asked, made_by, fates)
    return write_routed(mining.work, mining.lineage, made_by, ways, fates, force=force)


def provenance_of(mining: Mining, asked: Asked | None) -> Row:
    """What all pairs of a mining have in common; EscError where samples or verdicts are not whole.

    Told are the sampler with everything that decided its answers, and the judge's.
    """
    options, samples = finished_samples(mining)
    sampled = {name.lower(): options[name] for name in SAMPLED} | {"split": "train"}
    if asked is None:
        return sampled | {"judge": None}
    judged = finished_verdicts(asked, samples)
    return sampled | {
        "judge": judged["JUDGE"],
        "blind": judged["BLIND"],
        "judge_prompts": judged["prompts"],
        "smoke": sampled["smoke"] or judged["smoke"],
    }


def _ways(mining: Mining, asked: Asked | None, made_by: Row, fates: Counter[str]) -> Ways:
    """Turn by turn, and last NoPairs, with ``no_pairs.json`` left, where there was none."""
    for judged in judged_turns(mining, asked):
        yield _rows(mining.task, judged, made_by, fates)
    if not fates[Fate.PAIR]:
        told = (
            f"0 pairs of {fates.total():,} samples for {mining.task}: {_listed(fates)}; take more "
            "dialogues (LIMIT), more samples of a turn (SAMPLES) or another judge (JUDGE), with "
            "FORCE=1"
        )
        files.write_json(mining.no_pairs, {"told": told, "fates": fates})
        raise NoPairs(told)


def _rows(
    task: str, judged: Judged, made_by: Row, fates: Counter[str]
) -> tuple[list[Row], list[Row], list[Row]]:
    """The routes, pairs and single replies of one turn.

    Single are its unwanted answers, pair or not, and its gold one where it has any of them; the
    gold one is left out where a verdict finds an error in it.
    """
    turn, verdicts = judged
    ways = route_turn(task, turn, verdicts)
    found = {key: one for key, one in verdicts.items() if isinstance(one, FilterVerdict)}
    routes, pairs, singles = [], [], []
    for one in turn:
        way, verdict, (gold, sampled) = ways[one.key], found.get(one.key), _sides(task, one)
        fates[way.fate.value] += 1
        known = {"id": one.id, "sample": one.sample, "strategy": one.strategy}
        named = known | {"gold_strategy": one.gold_strategy}
        routes.append(named | asdict(way) | {"retain": verdict.retain if verdict else None})
        if way.fate is Fate.PAIR:
            told = {"verdict": verdict.model_dump(mode="json") if verdict else None}
            pair = {
                "seed": one.seed,
                "truncated": one.truncated,
                "chosen": gold,
                "rejected": sampled,
                "error": way.error,
                "explanation": verdict.rejected_explanation if verdict else None,
                "quadrant": way.quadrant,
                "provenance": made_by | told,
            }
            pairs.append(named | pair)
        if way.is_unwanted(task):
            said = {"text": sampled, "error": way.error, "wanted": False, "provenance": made_by}
            singles.append(known | said)
    if singles and all(one.chosen_error is PsychError.NONE for one in found.values()):
        gold, _ = _sides(task, turn[0])
        own = {"sample": None, "strategy": turn[0].gold_strategy, "text": gold}
        singles.insert(0, singles[0] | own | {"error": None, "wanted": True})
    return routes, pairs, singles


def _sides(task: str, candidate: Candidate) -> tuple[str, str]:
    """(gold, sampled) answer: a strategy's name for the planner, else the reply without a tag."""
    if task == "sp":
        return candidate.gold_strategy.value, str(candidate.strategy)
    return candidate.gold_response, str(candidate.response)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {what}" for what, n in Counter(counts).most_common())


def report(mining: Mining, done: Row) -> Iterator[str]:
    """The counts one should see: every sample once, every reason for dropping."""
    dropped = Counter({fate: n for fate, n in done["fates"].items() if fate != Fate.PAIR})
    yield (
        f"routed      {mining.routed}: {done['samples']:,} samples = {done[PAIRS]['rows']:,} pairs "
        f"+ {dropped.total():,} dropped"
    )
    yield from (f"            {n:>9,}  {fate}" for fate, n in dropped.most_common())
    if done["truncated"]:
        yield f"            {done['truncated']:,} of the pairs with a rejected answer cut"
    yield f"errors      {_listed(done['errors'])}"
    if done["smoke"]:
        yield SMOKE


def explain(mining: Mining, asked: Asked | None, turn_id: str) -> str:
    """The turn, its samples, what the judge said of each, and what became of them, as YAML.

    Raises EscError where the turn was not sampled.
    """
    made_by = provenance_of(mining, asked)
    found = [judged for judged in judged_turns(mining, asked) if judged[0][0].id == turn_id]
    if not found:
        raise EscError(
            f"turn {turn_id} was not sampled in {mining.folder}; ids are those of its {SAMPLES}"
        )
    (turn, verdicts), *_ = found
    ways = route_turn(mining.task, turn, verdicts)
    samples = []
    for one in seeded(turn):
        verdict, way = verdicts.get(one.key), ways[one.key]
        told: Row = {"sample": one.sample, "seed": one.seed, "answer": one.text}
        told["strategy"] = one.strategy
        if isinstance(verdict, Unscored):
            told["unscored"] = f"{verdict.reason}: {verdict.detail}"
        elif verdict:
            told["verdict"] = verdict.model_dump(mode="json")
        samples.append(told | asdict(way))
    gold = next(one for one in gold_turns(mining.work, "train", None) if one.id == turn_id)
    about = {"turn": turn_id, "exchanges before": len(gold.history), "seeker": gold.seeker}
    about |= {"gold": tag(gold.strategy, gold.response), "sampler": made_by["sampler"]}
    about |= {"weights": made_by["weights"], "judge": made_by["judge"], "samples": samples}
    plain = json.loads(json.dumps(about))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100).rstrip()


@cli.command(
    examples="  python -m mining route --task sp\n"
    "  python -m mining route --task rg vanilla --judge random\n"
    "  python -m mining route --task rg --explain 231-7"
)
def main(
    wanted: Wanted,
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    judge: JudgeName = None,
    judge_base_url: JudgeUrl = None,
    blind: Blind = False,
    explained: Annotated[
        str, typer.Option("--explain", metavar="ID", help="show one turn's whole way, as 231-7")
    ] = "",
    force: cli.Force = False,
    planned: cli.Planned = False,
) -> None:
    """What becomes of every sample: the pairs each training phase learns from, and why the rest
    is out. The planner's samples need no judge.
    """

    def routed(mining: Mining) -> Iterable[str]:
        asked = None
        if mining.task != "sp":
            asked = Asked(mining, judge_for(model, judge, judge_base_url, keyless=True), blind)
        if explained:
            return [explain(mining, asked, explained)]
        return report(mining, route(mining, asked, force=force))

    cli.each(wanted.minings(model, work), routed, planned=planned)
