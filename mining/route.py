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

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from esc import cli, files
from esc.dialogue import gold_turns
from esc.files import EscError, NoPairs, OptionsDiffer, Row
from esc.judging import JudgeName, JudgeUrl, Unscored, judge_for
from esc.paths import EMBEDDED
from esc.psych_errors import PsychError
from esc.records import SAMPLES, Candidate, Key
from esc.step import SMOKE
from esc.visible import visible
from mining.judge import Asked, Blind, Judged, finished_verdicts, judged_turns
from mining.routing import Fate, Judgement, Route, is_unwanted, route_turn, seeded
from mining.sample import Mining, Wanted, finished_samples
from mining.verdicts import FilterVerdict

KNOWN = {"id", "sample", "gold_strategy", "strategy"}
"""What a route says of its sample."""
ROUTES, PAIRS, SINGLES, DONE = "routes.jsonl", "pairs.jsonl", "singles.jsonl", "route.json"


def route(mining: Mining, asked: Asked | None, *, force: bool = False) -> Row:
    """What ``route.json`` says: counts of every fate, error and quadrant, and of what was written.

    ``asked`` names the judge, None for the planner. Raises, with nothing overwritten, EscError
    where samples or verdicts are not whole or do not belong together, or no pair is left, and
    without ``force`` OptionsDiffer where another judge's routing is there.
    """
    folder, task, provenance = mining.routed, mining.task, provenance_of(mining, asked)
    count, errors = Counter[Fate](), Counter[str]()
    truncated = 0
    with files.exclusive(folder):
        if not force:
            _check_same_judge(mining, provenance)
        names = (ROUTES, PAIRS, SINGLES)
        with files.jsonl_together(folder, *names, described_in=folder / DONE) as writers:
            routes, pairs, singles = writers
            for turn, verdicts in judged_turns(mining, asked):
                ways = route_turn(task, turn, verdicts)
                for candidate in turn:
                    way, verdict = ways[candidate.key], verdicts.get(candidate.key)
                    count[way.fate] += 1
                    known = candidate.model_dump(mode="json", include=KNOWN)
                    retain = verdict.retain if isinstance(verdict, FilterVerdict) else None
                    routes.write(known | asdict(way) | {"retain": retain})
                    if way.fate is Fate.PAIR:
                        errors[str(way.error)] += 1
                        truncated += candidate.truncated
                        pairs.write(pair_row(task, candidate, way, verdict, provenance))
                for single in single_rows(task, turn, verdicts, ways):
                    singles.write(single | {"provenance": provenance})
            fates = {fate.value: count[fate] for fate in Fate if count[fate]}
            if Fate.PAIR not in fates:
                told = (
                    f"0 pairs of {count.total():,} samples for {task}: {_listed(fates)}; take more "
                    "dialogues (LIMIT), more samples of a turn (SAMPLES) or another judge (JUDGE), "
                    "with FORCE=1"
                )
                files.write_json(mining.no_pairs, {"told": told, "fates": fates})
                raise NoPairs(told)
        # Not before: it keeps the pairs of an earlier routing from being taken.
        mining.no_pairs.unlink(missing_ok=True)
        done: Row = {
            "task": task,
            "model": mining.model,
            "samples": count.total(),
            "fates": fates,
            "truncated": truncated,
            "errors": dict(errors),
            "provenance": provenance,
            "smoke": provenance["smoke"],
            **{name: one.facts() for name, one in zip(names, writers, strict=True)},
        }
        files.write_json(folder / DONE, done)
    return done


SAMPLED = (
    *("MODEL", "task", "VARIANT", "ROUND", "sampler", "weights", "prompts", "temperature", "top_p"),
    *("DECODE", "data", "smoke"),
)
"""Options of the sampling that a pair's provenance tells."""


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


def _check_same_judge(mining: Mining, provenance: Row) -> None:
    """Raise OptionsDiffer where the pairs that are there were judged by another."""
    path = mining.routed / DONE
    there = files.read_json(path)["provenance"] if path.is_file() else provenance
    names = ("judge", "blind", "file")
    before, now = ({name: of.get(name) for name in names} for of in (there, provenance))
    changed = files.differences(before, now)
    if changed:
        raise OptionsDiffer(
            f"{mining.routed} holds what another judge's verdicts gave ({'; '.join(changed)}); use "
            "another WORK=folder, or FORCE=1 to route anew (verdicts of both are kept)"
        )


def pair_row(
    task: str, candidate: Candidate, way: Route, verdict: Judgement, provenance: Row
) -> Row:
    """The row of ``pairs.jsonl`` of a sample whose fate is a pair."""
    gold, sampled = _sides(task, candidate)
    known = {"id", "sample", "seed", "gold_strategy", "strategy", "truncated"}
    found = verdict if isinstance(verdict, FilterVerdict) else None
    return candidate.model_dump(mode="json", include=known) | {
        "chosen": gold,
        "rejected": sampled,
        "error": way.error,
        "explanation": found.rejected_explanation if found else None,
        "quadrant": way.quadrant,
        "provenance": provenance | {"verdict": found.model_dump(mode="json") if found else None},
    }


def _sides(task: str, candidate: Candidate) -> tuple[str, str]:
    """(gold, sampled) answer: a strategy's name for the planner, else the reply without a tag."""
    if task == "sp":
        return candidate.gold_strategy.value, str(candidate.strategy)
    return candidate.gold_response, str(candidate.response)


def single_rows(
    task: str, turn: list[Candidate], verdicts: Mapping[Key, Judgement], ways: Mapping[Key, Route]
) -> Iterator[Row]:
    """The unwanted answers of a turn, pair or not, and its gold one where it has any of them.

    The gold answer is left out where a verdict finds an error in it.
    """
    unwanted = [candidate for candidate in turn if is_unwanted(task, ways[candidate.key])]
    scored = [verdict for verdict in verdicts.values() if isinstance(verdict, FilterVerdict)]
    if unwanted and all(verdict.chosen_error is PsychError.NONE for verdict in scored):
        first = unwanted[0]
        gold: Row = {"sample": None, "strategy": first.gold_strategy}
        told: Row = {"text": _sides(task, first)[0], "wanted": True, "error": None}
        yield {"id": first.id} | gold | told
    for one in unwanted:
        said: Row = {"id": one.id, "sample": one.sample, "strategy": one.strategy}
        found: Row = {"text": _sides(task, one)[1]} | {"error": ways[one.key].error}
        yield said | found | {"wanted": False}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {what}" for what, n in Counter(counts).most_common())


def report(mining: Mining, done: Row) -> str:
    """The counts one should see: every sample once, every reason for dropping."""
    dropped = Counter({fate: n for fate, n in done["fates"].items() if fate != Fate.PAIR})
    lines = [
        f"routed      {mining.routed}: {done['samples']:,} samples = {done[PAIRS]['rows']:,} pairs "
        f"+ {dropped.total():,} dropped"
    ]
    lines += [f"            {n:>9,}  {fate}" for fate, n in dropped.most_common()]
    if done["truncated"]:
        lines.append(f"            {done['truncated']:,} of the pairs with a rejected answer cut")
    lines.append(f"errors      {_listed(done['errors'])}")
    if done["smoke"]:
        lines.append(SMOKE)
    return "\n".join(lines)


def explain(mining: Mining, asked: Asked | None, turn_id: str) -> str:
    """The turn, its samples, what the judge said of each, and what became of them.

    Raises EscError where the turn was not sampled.
    """
    of = provenance_of(mining, asked)
    found = [judged for judged in judged_turns(mining, asked) if judged[0][0].id == turn_id]
    if not found:
        raise EscError(
            f"turn {turn_id} was not sampled in {mining.folder}; ids are those of its {SAMPLES}"
        )
    gold = next(one for one in gold_turns(mining.work, "train", None) if one.id == turn_id)
    return "\n".join(
        [
            f"turn {turn_id} of the train split, {len(gold.history)} exchanges before it",
            f"  seeker    {_shown(gold.seeker)}",
            f"  gold      [{gold.strategy}] {_shown(gold.response)}",
            f"  sampler   {of['sampler']}, weights {of['weights'][:12]}",
            *([f"  judge     {asked.slug}"] if asked else []),
            *_explained(mining.task, found[0]),
        ]
    )


def _explained(task: str, judged: Judged) -> Iterator[str]:
    turn, verdicts = judged
    ways = route_turn(task, turn, verdicts)
    for candidate in seeded(turn):
        yield f"sample {candidate.sample} (seed {candidate.seed})"
        yield f"  answer    {_shown(candidate.text) or '(none)'}"
        if task != "rg":
            yield f"  strategy  {candidate.strategy or 'none that parses'}"
        verdict, way = verdicts.get(candidate.key), ways[candidate.key]
        if isinstance(verdict, Unscored):
            yield f"  verdict   unscored: {verdict.reason} ({_shown(verdict.detail)})"
        elif isinstance(verdict, FilterVerdict):
            yield f"  verdict   retain: {'Yes' if verdict.retain else 'No'}"
            yield f"    gold    {verdict.chosen_error}: {_shown(verdict.chosen_explanation)}"
            yield f"    sampled {verdict.rejected_error}: {_shown(verdict.rejected_explanation)}"
        kind = f" ({way.quadrant})" if way.quadrant else ""
        is_pair = way.fate is Fate.PAIR
        pair = f"pair for {task}'s preference training{kind}, {way.error}"
        yield f"  fate      {pair if is_pair else f'dropped: {way.fate}'}"


def _shown(text: str) -> str:
    """One line of it, with nothing in it that could steer a terminal."""
    return textwrap.shorten(visible(text), 160, placeholder=" …")


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
    without = []
    for mining in wanted.minings(model, work):
        asked = None
        if mining.task != "sp":
            asked = Asked(mining, judge_for(model, judge, judge_base_url, keyless=True), blind)
        if explained:
            print(explain(mining, asked, explained))
            continue
        try:
            print(report(mining, route(mining, asked, force=force)))
        except OptionsDiffer:
            raise
        except EscError as error:
            # One task's mining is none of another's.
            if planned and isinstance(error, NoPairs):
                print(f"not run     {error}")
            else:
                without.append(str(error))
    if without:
        raise EscError("; ".join(without))
