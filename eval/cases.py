"""The turns that are measured: what the corpus says to each, and what a system says.

Reads files of predictions, this kit's or foreign ones, strictly. The order that follows knows the
records' content only, so that neither the order of the rows nor their ids decide a number.
"""

import argparse
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esc import cli, dialogue, files, paths, step
from esc.dialogue import Exchange, GoldTurn, gold_turns
from esc.exceptions import EscError
from esc.files import JsonlWriter, Row
from esc.predictions import (
    CONTEXTS,
    NOT_GIVEN,
    Named,
    Prediction,
    named_rows,
    prediction_of,
    read_predictions,
)
from esc.stats import Units
from esc.step import DONE, OPTIONS, check_own_file
from esc.strategies import Strategy, parse, untagged
from eval.predict import PREDICTIONS

OPENING = "Hi"
"""The seeker's first words in a dialogue that the supporter opens (the rules of the turns)."""
_SPEAKER = re.compile(
    r"\s*(?:seeker|supporter|user|usr|assistant|system|sys|human|gpt|speaker|listener)\s*:\s*", re.I
)


class Turns:
    """The gold turns of a split, by what a record may know of them."""

    def __init__(self, turns: Sequence[GoldTurn]) -> None:
        self.all = turns
        self.by_id = {turn.id: turn for turn in turns}
        self._by_context: Mapping[str, list[GoldTurn]] = defaultdict(list)
        for turn in turns:
            for context in _contexts(turn):
                self._by_context[context].append(turn)

    def of_context(self, context: str, row: Row, taken: Container[str]) -> list[GoldTurn]:
        """The turns that follow these words, and have the row's gold where several do.

        Of turns that are alike in all of this the first that is not taken.
        """
        found = self._by_context.get(context, [])
        strategy, reply = gold_of(row)
        if len(found) < 2 or reply is None:
            return found
        found = [turn for turn in found if plain(turn.response) == plain(reply)]
        if strategy is not None:
            found = [turn for turn in found if turn.strategy is parse(strategy)]
        alike = len({turn.strategy for turn in found}) == 1
        return ([turn for turn in found if turn.id not in taken] or found)[:1] if alike else found


def gold_of(row: Row) -> tuple[str | None, str | None]:
    """(strategy, reply) that a row says are gold, as far as it says so."""
    strategy = row.get("gold_strategy", row.get("GT_strategy"))
    reply = row.get("gold_response", row.get("GT_content"))
    return None if strategy is None else str(strategy), None if reply is None else str(reply)


def _contexts(turn: GoldTurn) -> set[str]:
    """What another system's file may hold before a turn."""
    history = turn.history
    said = {plain_context(history, turn.seeker)}
    # The "Hi" that is put before a supporter who opens is in no file but this kit's.
    if history and history[0][0] == OPENING:
        said.add(plain_context([("", history[0][1]), *history[1:]], turn.seeker))
    elif not history and turn.seeker == OPENING:
        said.add("")
    return said


def plain_context(history: Sequence[tuple[str, str]], seeker: str) -> str:
    """The conversation's words, without a layout's blanks, case, speakers and strategy tags."""
    lines = "\n".join([*(text for pair in history for text in pair), seeker]).split("\n")
    return plain(" ".join(untagged(_SPEAKER.sub("", line)) for line in lines))


def plain(text: str) -> str:
    """A text without case and a layout's blanks."""
    return " ".join(text.casefold().split())


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
        "smoke": bool(built["smoke"]) or step.made_beside(path),
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


Spread = tuple[float, ...]
"""A probability per strategy, in their canonical order."""
STATUSES = ("ok", "invalid", "failed")
_FIELDS = {
    "ours": ("gold_strategy", "predicted_strategy", "gold_response", "predicted_response"),
    "foreign": ("GT_strategy", "predict_strategy", "GT_content", "predict_content"),
}
_NONE = np.zeros(0, dtype=np.int64)
_SUM_TOLERANCE = 1e-3
"""Of eight probabilities that are rounded in the file."""


@dataclass(frozen=True, slots=True)
class Case:
    """One turn with what the corpus and the system say."""

    id: str
    gold: Strategy
    gold_text: str
    predicted: Strategy | None
    """None where the system's words name no strategy."""
    text: str
    """The reply; empty where there is none."""
    spread: Spread | None = None
    """The planner's probabilities."""
    stage: int | None = None
    """How far its dialogue has come (`esc.dialogue.interval`); None where its length is unknown."""

    @property
    def content(self) -> tuple[Any, ...]:
        """What it says, without its id: equal contents are interchangeable."""
        return (
            self.gold.value,
            self.gold_text,
            self.predicted.value if self.predicted else "",
            self.text,
            self.spread or (),
            -1 if self.stage is None else self.stage,
        )


@dataclass(frozen=True, slots=True)
class Cases:
    """A system's turns in an order that depends on their content alone."""

    rows: tuple[Case, ...]
    units: NDArray[np.int64]
    """Per row, the number of what is resampled: its dialogue, or itself."""
    by_dialogue: bool
    failed: int = 0
    """Records without an answer, which are left out."""
    numbered: int = 0
    """Records without an id of their own."""

    @property
    def resampled_by(self) -> str:
        """What the intervals resample: ``dialogue`` or ``row``."""
        return "dialogue" if self.by_dialogue else "row"


def read_cases(paths: Sequence[Path]) -> Cases:
    """The turns of one system, from one file or from the parts of one.

    Raises EscError, naming the row, for whatever is not as it should be; also where every record
    failed.
    """
    found: dict[str, Case | None] = {}
    numbered = 0
    for path in paths:
        begin = len(found)
        for number, named in enumerate(named_rows(path)):
            # Rows without an id go on counting where the last part ended.
            name = f"row {begin + number}" if named.numbered else named.id
            if name in found:
                raise EscError(f"{named.where}: id {name!r} is there twice")
            found[name] = case_of(replace(named, id=name))
            numbered += named.numbered
    cases = [case for case in found.values() if case]
    if not cases:
        raise EscError(f"{paths[0]}: all {len(found)} records failed; 'make predict' asks again")
    failed = len(found) - len(cases)
    return arranged(cases, ids=list(found), failed=failed, numbered=numbered)


def arranged(
    cases: Iterable[Case], *, ids: Sequence[str], failed: int = 0, numbered: int = 0
) -> Cases:
    """The cases by dialogue, where all ``ids`` name one (`esc.stats.Units`).

    ``ids`` are those of all records, failed ones too.
    """
    units = Units.of(ids)
    by_dialogue = units.by_dialogue and not numbered
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[units.unit(case.id) if by_dialogue else case.id].append(case)
    return _in_order(groups.values(), Cases((), _NONE, by_dialogue, failed, numbered))


def changed(cases: Cases, change: Callable[[Case], Case]) -> Cases:
    """The same turns with each case changed, in the order of what they say then."""
    groups: dict[int, list[Case]] = defaultdict(list)
    for unit, one in zip(cases.units.tolist(), cases.rows, strict=True):
        groups[unit].append(change(one))
    return _in_order(groups.values(), cases)


def _in_order(groups: Iterable[list[Case]], of: Cases) -> Cases:
    ordered = sorted(
        (sorted(group, key=lambda one: one.content) for group in groups),
        key=lambda group: [one.content for one in group],
    )
    return replace(
        of,
        rows=tuple(one for group in ordered for one in group),
        units=np.repeat(np.arange(len(ordered)), [len(group) for group in ordered]),
    )


def case_of(named: Named) -> Case | None:
    """The row as a case, or None where it is a record of a failed request.

    Raises EscError, naming the row, where it is neither.
    """
    row, where = named.row, named.where
    form = "foreign" if {*_FIELDS["foreign"]} & row.keys() else "ours"
    status = row.get("status", "ok")
    if status not in STATUSES:
        raise EscError(f"{where}: its status {status!r} is none of {', '.join(STATUSES)}")
    if status == "failed":
        return None
    gold, predicted, gold_text, text = _FIELDS[form]
    for field in _FIELDS[form]:
        if field not in row:
            raise EscError(
                f"{where}: no {field!r}; metrics take {', '.join(_FIELDS['ours'])}, or "
                f"{', '.join(_FIELDS['foreign'])}: add it, or rename one of {named.columns}"
            )
        if not isinstance(row[field], str if field in (gold, gold_text) else str | None):
            lost = ", but null or NaN: fill it in, or leave the row out"
            raise EscError(f"{where}: {field!r} is no text{lost if row[field] is None else ''}")
    strategy = parse(row[gold])
    if strategy is None:
        known = ", ".join(Strategy)
        raise EscError(f"{where}: unknown {gold} {row[gold]!r}; it takes one of {known}")
    return Case(
        id=named.id,
        gold=strategy,
        gold_text=row[gold_text],
        predicted=parse(row[predicted] or ""),
        text=(row[text] or "").strip(),
        spread=_spread(row.get("distribution"), where),
        stage=_stage(named.id, row.get("dialogue_turns"), where),
    )


def _stage(name: str, turns: object, where: str) -> int | None:
    """How far the dialogue has come; the length of it is what a part of a file does not show."""
    turn = name.rpartition("-")[2]
    if turns is None or not turn.isdecimal():
        return None
    if isinstance(turns, bool) or not isinstance(turns, int) or turns <= int(turn):
        raise EscError(f"{where}: dialogue_turns {turns!r} is no number of turns that has {name!r}")
    return dialogue.interval(int(turn), turns)


def _spread(given: object, where: str) -> Spread | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise EscError(f"{where}: its distribution is no object of eight probabilities")
    shares: dict[Strategy, float] = {}
    for name, share in given.items():
        strategy = parse(name)
        if strategy is None or strategy in shares:
            raise EscError(f"{where}: its distribution has an unknown or double strategy {name!r}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise EscError(f"{where}: its distribution gives {name} {share!r}, no probability")
        shares[strategy] = float(share)
    if len(shares) != len(Strategy) or abs(sum(shares.values()) - 1) > _SUM_TOLERANCE:
        raise EscError(
            f"{where}: its distribution has {len(shares)} strategies that sum to "
            f"{sum(shares.values()):.4g}; it takes {len(Strategy)} that sum to 1"
        )
    return tuple(shares[strategy] for strategy in Strategy)


SHOWN = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one turn; None where a system has none."""

    id: str
    history: tuple[Exchange, ...]
    seeker: str
    a: str | None
    b: str | None
    lacking: str
    """Which system has no reply, and why."""

    @property
    def is_whole(self) -> bool:
        """Whether both systems have a reply."""
        return self.a is not None and self.b is not None

    @property
    def is_alike(self) -> bool:
        """Whether both replies are the same words."""
        return self.is_whole and str(self.a).split() == str(self.b).split()

    @property
    def a_is_left(self) -> bool:
        """Whether A's reply stands first where sides are shuffled: by the turn's id."""
        return bool(hashlib.sha256(f"left\n{self.id}".encode()).digest()[0] % 2)


@dataclass(frozen=True, slots=True)
class Matched:
    """The turns that both files hold."""

    pairs: tuple[Pair, ...]
    """All of them, in the order in which they are drawn: by id."""
    source: Row
    """What the two files are, and how many turns only one of them holds."""
    smoke: bool


def matched(a: Path, b: Path) -> Matched:
    """The turns of two predictions files, by id.

    Raises EscError where they share no turn, or one is of another conversation, or has another gold
    reply, in the other file.
    """
    (first, first_numbered), (second, second_numbered) = read_predictions(a), read_predictions(b)
    if (first_numbered or second_numbered) and len(first) != len(second):
        raise EscError(
            f"{a} has {len(first)} records and {b} {len(second)}, and some have no id to match "
            "them by; 'python -m eval align' gives them ids"
        )
    one, other = ({p.id: p for p in found} for found in (first, second))
    shared = dialogue.order(one.keys() & other.keys())
    if not shared:
        examples = ", ".join(sorted(one)[:SHOWN]), ", ".join(sorted(other)[:SHOWN])
        raise EscError(
            f"{a} and {b} share no turn (ids {examples[0]} … and {examples[1]} …); "
            "compare predictions of the same split"
        )
    pairs = tuple(_pair(one[name], other[name], a, b) for name in shared)
    source = {
        "a": {"name": name_of(a), "predictions": files.sha256(a), "alone": len(one) - len(pairs)},
        "b": {"name": name_of(b), "predictions": files.sha256(b), "alone": len(other) - len(pairs)},
        "shared": len(pairs),
        "numbered": first_numbered + second_numbered,
    }
    return Matched(pairs, source, step.made_beside(a) or step.made_beside(b))


def name_of(path: Path) -> str:
    """What to call a predictions file: its folder in this kit, else its own name."""
    return path.resolve().parent.name if path.name == "predictions.jsonl" else path.stem


def _pair(one: Prediction, other: Prediction, a: Path, b: Path) -> Pair:
    told = [p for p in (one, other) if p.history or p.seeker != NOT_GIVEN]
    if len(told) == 2 and _said(one) != _said(other):
        raise EscError(
            f"turn {one.id} is another conversation in {b} than in {a}; compare predictions of the "
            "same split and corpus"
        )
    if one.gold and other.gold and one.gold.split() != other.gold.split():
        # Without ids and conversations, the gold replies alone tell that rows are of other turns.
        raise EscError(
            f"turn {one.id} has another gold reply in {b} than in {a}; compare predictions of the "
            "same split and corpus; where they have no ids (a turn is its row, from 0), 'python -m "
            "eval align' gives them"
        )
    context = told[0] if told else one
    lacking = [f"{side}: {p.lacking}" for side, p in (("a", one), ("b", other)) if p.reply is None]
    return Pair(one.id, context.history, context.seeker, one.reply, other.reply, "; ".join(lacking))


def _said(one: Prediction) -> list[str]:
    """The conversation's words: blanks are no difference between two corpora's layouts."""
    texts = [text for exchange in one.history for text in exchange] + [one.seeker]
    return " ".join(texts).split()
