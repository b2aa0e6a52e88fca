"""What becomes of every sample: the pairs each training phase learns from, and why the rest is out.

    python -m mining route --task rg

Reads ``samples.jsonl`` and a judge's ``verdicts.jsonl`` (the planner needs none) row by row, writes
``routed/`` beside them: ``routes.jsonl`` (the way of every sample), ``pairs.jsonl``,
``singles.jsonl`` (single replies, wanted or not, for KTO), and ``route.json`` with the counts of
every reason. Where no pair is left it writes ``no_pairs.json`` alone: what an earlier routing left
stays, and no later step takes it. ``--explain ID`` shows one turn's whole way and writes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer
import yaml

from data_builders import pairs
from data_builders.pairs import Mining, Wanted, Ways
from esc import cli, files
from esc.dialogue import gold_turns
from esc.files import EscError, NoPairs, Row
from esc.judging import JudgeName, JudgeUrl, Unscored, judge_for
from esc.paths import EMBEDDED
from esc.psych_errors import PsychError
from esc.records import SAMPLES, Routed
from esc.strategies import tag
from mining.judge import Asked, Blind, Judged, judged_turns
from mining.routing import Fate, route_turn, seeded
from mining.sample import finished_samples
from mining.verdicts import FilterVerdict

_UNTOLD = {"format", "LIMIT", "SAMPLES", "reply_tokens", "turns"}
"""Options of the sampling that a pair's provenance does not tell."""


def provenance_of(mining: Mining, asked: Asked | None) -> Row:
    """What decided all pairs of a mining; EscError where samples or verdicts are not whole."""
    options, samples = finished_samples(mining)
    made_by = {name.lower(): one for name, one in options.items() if name not in _UNTOLD}
    made_by |= {"split": "train", "judge": None}
    if asked:
        by = asked.finished(samples)
        made_by |= {"judge": by["JUDGE"], "blind": by["BLIND"], "judge_prompts": by["prompts"]}
        made_by["smoke"] |= by["smoke"]
    return made_by


def route(mining: Mining, asked: Asked | None, *, force: bool = False) -> Routed:
    """What ``route.json`` says of a mining; ``asked`` names the judge, None for the planner.

    As `pairs.write`; EscError too where samples or verdicts are not whole, NoPairs for no pair.
    """
    made_by, fates = provenance_of(mining, asked), Counter[str]()

    def ways() -> Iterator[Ways]:
        for judged in judged_turns(mining, asked):
            yield _way(mining.task, judged, made_by, fates)
        if not fates[Fate.PAIR]:
            told = (
                f"0 pairs of {fates.total():,} samples for {mining.task}: {pairs.listed(fates)}; "
                "take more dialogues (LIMIT), more samples of a turn (SAMPLES) or another judge "
                "(JUDGE), with FORCE=1"
            )
            files.write_json(mining.no_pairs, {"told": told, "fates": fates})
            raise NoPairs(told)

    return pairs.write(mining, made_by, ways(), fates, force=force)


def _way(task: str, judged: Judged, made_by: Row, fates: Counter[str]) -> Ways:
    """Of one turn; single are its unwanted answers and, where no verdict finds an error, gold."""
    turn, verdicts = judged
    ways = route_turn(task, turn, verdicts)
    found = {key: one for key, one in verdicts.items() if isinstance(one, FilterVerdict)}
    sides = ("gold_strategy", "strategy") if task == "sp" else ("gold_response", "response")
    routes, paired, unwanted = [], [], []
    for one in turn:
        way, verdict = ways[one.key], found.get(one.key)
        fates[way.fate.value] += 1
        known = one.model_dump(include={"id", "sample", "strategy", "gold_strategy"}) | asdict(way)
        routes.append(known | {"retain": verdict.retain if verdict else None})
        del known["fate"]
        pair = known | {
            "seed": one.seed,
            "truncated": one.truncated,
            "chosen": getattr(one, sides[0]),
            "rejected": getattr(one, sides[1]),
            "explanation": verdict.rejected_explanation if verdict else None,
            "provenance": made_by | {"verdict": verdict.model_dump() if verdict else None},
        }
        if way.fate is Fate.PAIR:
            paired.append(pair)
        if way.is_unwanted(task):
            unwanted.append(pair)
    is_clean = all(one.chosen_error is PsychError.NONE for one in found.values())
    return routes, paired, pairs.singles(unwanted, made_by, with_gold=is_clean)


def explain(mining: Mining, asked: Asked | None, turn_id: str) -> str:
    """As YAML the turn, its samples, what the judge said of each, and what became of them."""
    made_by, judged = provenance_of(mining, asked), judged_turns(mining, asked)
    turn, verdicts = next((one for one in judged if one[0][0].id == turn_id), ([], {}))
    if not turn:
        raise EscError(
            f"turn {turn_id} was not sampled in {mining.folder}; ids are those of its {SAMPLES}"
        )
    ways, samples = route_turn(mining.task, turn, verdicts), []
    for one in seeded(turn):
        told: Row = {"sample": one.sample, "seed": one.seed, "answer": one.text}
        if isinstance(verdict := verdicts.get(one.key), Unscored):
            told["unscored"] = f"{verdict.reason}: {verdict.detail}"
        elif verdict:
            told["verdict"] = verdict.model_dump()
        samples.append(told | {"strategy": one.strategy} | asdict(ways[one.key]))
    gold = next(one for one in gold_turns(mining.work, "train", None) if one.id == turn_id)
    about: Row = {"turn": turn_id, "exchanges before": len(gold.history), "seeker": gold.seeker}
    about |= {"gold": tag(gold.strategy, gold.response), "samples": samples}
    about |= {name: made_by[name] for name in ("sampler", "weights", "judge")}
    plain = orjson.loads(orjson.dumps(about))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100).rstrip()


@cli.command(
    examples="  python -m mining route --task rg vanilla --judge random\n"
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
        return pairs.report(mining, route(mining, asked, force=force))

    cli.each(wanted.minings(model, work), routed, planned=planned)
