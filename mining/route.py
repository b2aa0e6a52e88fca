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
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict

from esc import cli, files
from esc.exceptions import EscError, OptionsDiffer
from esc.files import JsonlWriter, Row
from esc.judge import judge_for
from mining.candidates import SAMPLES, Candidate, Key, read_turns
from mining.explain import explain
from mining.folders import Mining
from mining.judge import Asked
from mining.options import add_judge, add_mining, minings_of
from mining.routed import (
    DONE,
    PAIRS,
    ROUTES,
    SINGLES,
    no_pairs,
    pair_row,
    provenance_of,
    report,
    route_row,
    single_rows,
    verdict_facts,
)
from mining.routing import Fate, Judgement, Route, route_turn, screen
from mining.samples import finished_samples
from mining.stored import StoredVerdicts, finished_verdicts


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
