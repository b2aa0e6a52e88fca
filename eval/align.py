r"""Another system's predictions, checked against the gold turns and in this kit's own form.

    python -m eval align --predictions theirs.json --out runs/theirs/predictions.jsonl --set test

Reads a file (JSONL, a JSON array, CSV …), and the built sets of WORK. A record is aligned by its id
(``231-7``), or, where it has none, by its conversation: the one gold turn with the same words
before it, whatever their case and blanks; where that is not one turn alone, its gold strategy and
reply decide, and of turns that are alike in these too each record takes one. Writes the records in
the order of the set, with the corpus's own gold, so that they are measured like this kit's; a file
named ``predictions.jsonl`` makes its folder a run like this kit's own, which ``make eval`` takes
up. What fits no turn, or more than one, is named and left out, and the step's exit code is then 1.
A turn without a record is counted.
"""

import argparse
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from esc import cli, files, paths, smoke
from esc.exceptions import EscError
from esc.files import JsonlWriter, Row
from esc.foreign import CONTEXTS
from esc.predictions import NOT_GIVEN, Named, Prediction, named_rows, prediction_of
from esc.run_folder import DONE, OPTIONS, check_own_file
from esc.strategies import parse
from esc.turns import GoldTurn, gold_turns
from eval.gold_index import Turns, gold_of, plain, plain_context
from eval.predict import PREDICTIONS

MARK = "aligned"
"""In the options of this step: the hash of the file that was aligned."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Aligned:
    """What became of a file."""

    records: tuple[Row, ...]
    """In the order of the set."""
    unaligned: tuple[str, ...]
    """One line for each record that fits no turn, or more than one."""
    missing: int
    """Turns of the set without a record."""


def aligned(rows: Sequence[Named], turns: Turns, split: str) -> Aligned:
    """Every record with its turn.

    Raises EscError, naming the row, for a record that is none, an id of no turn of the split, a
    gold strategy or reply that is not the turn's, or a second record of a turn.
    """
    found: dict[str, Row] = {}
    unaligned = []
    for named in rows:
        # The conversation is asked for below, and only where there is no id.
        prediction = prediction_of(replace(named, row={"context": None} | named.row))
        fitting = _fitting(named, prediction, turns, split, found)
        if len(fitting) != 1:
            why = "fits no turn" if not fitting else f"fits {len(fitting)} turns"
            unaligned.append(f"{named.where}: {why} of the {split} set")
            continue
        (turn,) = fitting
        if turn.id in found:
            raise EscError(f"{named.where}: a second record of turn {turn.id}")
        _check_gold(named, turn)
        found[turn.id] = _record(named, turn)
    records = tuple(found[turn.id] for turn in turns.all if turn.id in found)
    return Aligned(records, tuple(unaligned), len(turns.all) - len(records))


def _fitting(
    named: Named, prediction: Prediction, turns: Turns, split: str, taken: Container[str]
) -> list[GoldTurn]:
    if named.numbered:
        if not {*CONTEXTS, "seeker"} & named.row.keys():
            raise EscError(
                f"{named.where}: neither an id nor a conversation (context, history, seeker) to "
                "align it by"
            )
        # A supporter who goes on speaking answers no words of the seeker.
        seeker = "" if prediction.seeker == NOT_GIVEN else prediction.seeker
        return turns.of_context(plain_context(prediction.history, seeker), named.row, taken)
    turn = turns.by_id.get(named.id)
    if turn is None:
        examples = ", ".join(list(turns.by_id)[:_SHOWN])
        raise EscError(
            f"{named.where}: id {named.id!r} is no turn of the {split} set (which has {examples}, "
            "…); choose its --set, or leave ids out to align by conversation"
        )
    return [turn]


def _check_gold(named: Named, turn: GoldTurn) -> None:
    strategy, reply = gold_of(named.row)
    if strategy is not None and parse(strategy) is None:
        raise EscError(f"{named.where}: unknown gold strategy {strategy!r}")
    wrong = strategy is not None and parse(strategy) is not turn.strategy
    if wrong or (reply is not None and plain(reply) != plain(turn.response)):
        what = "strategy" if wrong else "reply"
        raise EscError(
            f"{named.where}: its gold {what} is not that of turn {turn.id}; it is of another split "
            "or corpus"
        )


def _record(named: Named, turn: GoldTurn) -> Row:
    row = named.row
    raw = row.get("predicted_strategy", row.get("predict_strategy"))
    said = raw if raw is not None else row.get("raw_strategy")
    strategy = parse(raw or "")
    gold: Row = {
        "id": turn.id,
        "dialogue_turns": turn.dialogue_turns,
        "context": {"history": [list(pair) for pair in turn.history], "seeker": turn.seeker},
        "gold_strategy": turn.strategy.value,
        "gold_response": turn.response,
    }
    if row.get("status") == "failed":
        return gold | {"status": "failed"}
    return gold | {
        "status": "ok" if strategy else "invalid",
        "predicted_strategy": strategy.value if strategy else None,
        "raw_strategy": said,
        "distribution": row.get("distribution"),
        "predicted_response": row.get("predicted_response", row.get("predict_content")),
    }


def align(path: Path, out: Path, work: Path, split: str) -> tuple[Aligned, int]:
    """Write ``out``; (what it holds, how many turns the split has).

    Raises EscError, naming the row, for whatever is not as it should be, and where nothing fits.
    """
    if out.resolve() == path.resolve():
        raise EscError(f"--out {out} is the file that is read; name another")
    beside = check_own_file(out, MARK)
    turns = Turns(gold_turns(work, split, None))
    found = aligned(list(named_rows(path)), turns, split)
    if not found.records:
        raise EscError(f"no record can be aligned: {found.unaligned[0]}")
    built = files.read_json(paths.data_manifest(work), made_by="make data")
    options = {
        MARK: files.sha256(path),
        "SET": split,
        "data": built["sets"][paths.sft_file("rg", split)]["sha256"],
        "smoke": bool(built["smoke"]) or smoke.made_beside(path),
        "files": sorted({*beside.get("files", ()), out.name}),
    }
    _leave_options(out, options, beside)
    facts = {"records": len(found.records), "unaligned": len(found.unaligned)}
    with files.atomic_writer(out) as stream:
        writer = JsonlWriter(stream)
        for record in found.records:
            writer.write(record)
    if out.name == PREDICTIONS:
        written = {"rows": writer.facts().rows, "sha256": writer.facts().sha256}
        files.write_json(out.parent / DONE, facts | {out.name: written})
    return found, len(turns.all)


def _leave_options(out: Path, options: Row, beside: Row) -> None:
    """Say beside the records where they are from, but never over what another step says there."""
    if not beside or MARK in beside:
        # One folder may hold several aligned files: a SMOKE mark of one stays.
        marked = options["smoke"] or bool(beside.get("smoke"))
        files.write_json(out.parent / OPTIONS, options | {"smoke": marked})
    elif out.name == PREDICTIONS or (options["smoke"] and not beside.get("smoke")):
        raise EscError(f"{out.parent} holds another run; name a folder of its own in --out")


def report(found: Aligned, out: Path, turns: int) -> str:
    """What became of the file, in words."""
    lines = [
        f"aligned     {out}: {len(found.records):,} records of {turns:,} turns",
    ]
    if found.missing:
        lines.append(f"missing     {found.missing:,} turns of the set have no record")
    if found.unaligned:
        lines.append(f"left out    {len(found.unaligned):,} records:")
        lines += [f"            {line}" for line in found.unaligned]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    found, turns = align(given.predictions, given.out, given.work, given.set)
    print(report(found, given.out, turns))
    return 1 if found.unaligned else 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m eval align",
        description=__doc__,
        examples="  python -m eval align --predictions theirs.json --out theirs.jsonl\n"
        "  python -m eval align --predictions theirs.json --out theirs.jsonl --set validation",
    )
    parser.add_argument("--predictions", type=Path, required=True, help="JSONL, JSON or CSV")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    cli.add_work(parser)
    parser.add_argument("--set", choices=paths.SPLITS, default="test", help="default: test")
    return parser
