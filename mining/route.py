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

import argparse
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from esc import cli, files
from esc.dialogue import gold_turns
from esc.exceptions import EscError, OptionsDiffer
from esc.files import JsonlWriter, Row
from esc.judging import Unscored, judge_for
from esc.psych_errors import PsychError
from esc.records import SAMPLES, Candidate, Key, read_turns
from esc.visible import visible
from mining.judge import Asked, StoredVerdicts, finished_verdicts
from mining.routing import STAGE_OF, Fate, Judgement, Route, route_turn, screen, seeded
from mining.sample import Mining, add_judge, add_mining, finished_samples, minings_of
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


def route(mining: Mining, asked: Asked | None, *, force: bool = False) -> Row:
    """What ``route.json`` says: counts of every fate, error and quadrant, and of what was written.

    ``asked`` names the judge, None for the planner. Raises, with nothing overwritten, EscError
    where samples or verdicts are not whole or do not belong together, or no pair is left, and
    without ``force`` OptionsDiffer where another judge's routing is there.
    """
    options, facts = finished_samples(mining)
    judged = finished_verdicts(asked, facts[SAMPLES]["sha256"]) if asked else None
    provenance = provenance_of(options, judged)
    smoke = options["smoke"] or bool(judged and judged.options["smoke"])
    with files.exclusive(mining.routed):
        if not force:
            _check_same_judge(mining, provenance)
        with ExitStack() as stack:
            routes, pairs, singles = (
                JsonlWriter(stack.enter_context(files.atomic_writer(mining.routed / name)))
                for name in (ROUTES, PAIRS, SINGLES)
            )
            count: Counter[str] = Counter()
            errors: Counter[str] = Counter()
            truncated = 0
            for turn, verdicts, ways in _ways(mining, judged):
                for candidate in turn:
                    way = ways[candidate.key]
                    count[way.fate.value] += 1
                    verdict = verdicts.get(candidate.key)
                    routes.write(route_row(candidate, way, verdict))
                    if way.fate is Fate.PAIR:
                        assert way.error is not None
                        errors[way.error.value] += 1
                        truncated += candidate.truncated
                        pair = pair_row(mining.task, candidate, way, verdict)
                        pairs.write(pair | {"provenance": provenance | verdict_facts(verdict)})
                for single in single_rows(mining.task, turn, verdicts, ways):
                    singles.write(single | {"provenance": provenance})
            fates = {fate.value: count[fate.value] for fate in Fate if count[fate.value]}
            if not fates.get(Fate.PAIR):
                told = no_pairs(mining, fates)
                files.write_json(mining.no_pairs, {"told": told, "fates": fates})
                raise EscError(told)
            for writer in (routes, pairs, singles):
                writer.flush()
            written = {
                name: asdict(writer.facts())
                for name, writer in ((ROUTES, routes), (PAIRS, pairs), (SINGLES, singles))
            }
            # From the first renaming on, the files are no longer those it describes.
            (mining.routed / DONE).unlink(missing_ok=True)
            # Not before: it keeps the pairs of an earlier routing from being taken.
            mining.no_pairs.unlink(missing_ok=True)
        done: Row = {
            "task": mining.task,
            "model": mining.model,
            "samples": count.total(),
            "fates": fates,
            "truncated": truncated,
            "errors": dict(errors),
            "provenance": provenance,
            "smoke": smoke,
            **written,
        }
        files.write_json(mining.routed / DONE, done)
    return done


def _check_same_judge(mining: Mining, provenance: Row) -> None:
    """Raise OptionsDiffer where the pairs that are there were judged by another."""
    path = mining.routed / DONE
    if not path.is_file():
        return
    there: Row = files.read_json(path)["provenance"]
    names = ("judge", "blind", "file")
    changed = files.differences(
        {name: there.get(name) for name in names}, {name: provenance.get(name) for name in names}
    )
    if changed:
        raise OptionsDiffer(
            f"{mining.routed} holds what another judge's verdicts gave ({'; '.join(changed)}); use "
            "another WORK=folder, or FORCE=1 to route anew (verdicts of both are kept)"
        )


def _ways(
    mining: Mining, judged: StoredVerdicts | None
) -> Iterator[tuple[list[Candidate], dict[Key, Judgement], dict[Key, Route]]]:
    """Every turn's candidates, their verdicts, and their ways, one turn at a time."""
    for turn in read_turns(mining.folder / SAMPLES):
        verdicts: dict[Key, Judgement] = {}
        if judged:
            dropped = screen(mining.task, turn)
            asked_about = [candidate.key for candidate in turn if dropped[candidate.key] is None]
            verdicts = judged.take(asked_about)
        yield turn, verdicts, route_turn(mining.task, turn, verdicts)
    if judged:
        judged.finish()


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    without = []
    for mining in minings_of(given):
        judged_by = None
        if mining.task != "sp":
            judge = judge_for(given.model, given.judge, given.judge_base_url, keyless=True)
            judged_by = Asked(mining, judge, given.blind)
        if given.explain:
            print(explain(mining, judged_by, given.explain))
            continue
        try:
            print(report(mining, route(mining, judged_by, force=given.force)))
        except OptionsDiffer:
            raise
        except EscError as error:
            # One task's mining is none of another's.
            without.append(str(error))
    if without:
        raise EscError("; ".join(without))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining route",
        description=__doc__,
        examples=(
            "  python -m mining route --task sp\n"
            "  python -m mining route --task rg vanilla --judge random\n"
            "  python -m mining route --task rg --explain 231-7"
        ),
    )
    add_mining(parser)
    add_judge(parser)
    parser.add_argument("--force", action="store_true", help="replace another judge's pairs")
    parser.add_argument("--explain", metavar="ID", help="show one turn's whole way, such as 231-7")
    return parser
