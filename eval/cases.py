"""The turns that are measured: what the corpus says to each, and what a system says.

Reads files of predictions, this kit's or foreign ones, strictly: one system's turns for its
metrics, two systems' replies to the same turns, and records that are given the turns' own ids.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer
from pydantic import Field, TypeAdapter, ValidationError

from esc import cli, dialogue, files, paths, step
from esc.dialogue import Exchange, GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.predictions import (
    NOT_GIVEN,
    OURS,
    PREDICTIONS,
    Named,
    Prediction,
    gold_row,
    named_rows,
    prediction_of,
    read_predictions,
)
from esc.stats import Units
from esc.step import OPTIONS, RunFolder, check_own_file
from esc.strategies import Strategy, parse, untagged

_STATUSES = ("ok", "invalid", "failed")
_GOLD = ("gold_strategy", "gold_response")
_SHARES = TypeAdapter(dict[str, Annotated[float, Field(ge=0, le=1, strict=True)]])
_SHOWN = 3


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
    spread: tuple[float, ...] | None = None
    """The planner's probability of each strategy, in their canonical order."""
    stage: int | None = None
    """How far its dialogue has come (`esc.dialogue.interval`); None where its length is unknown."""


@dataclass(frozen=True, slots=True)
class Cases:
    """A system's turns."""

    rows: tuple[Case, ...]
    units: Units
    """What is resampled."""
    failed: int = 0
    """Records without an answer, which are left out."""
    numbered: int = 0
    """Records without an id of their own."""

    @property
    def names(self) -> list[str]:
        """What is resampled, of each row: its dialogue, or itself."""
        return [self.units.unit(case.id) for case in self.rows]

    def changed(self, change: Callable[[Case], Case]) -> "Cases":
        """The same turns with each case changed."""
        return replace(self, rows=tuple(map(change, self.rows)))


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
    cases = tuple(case for case in found.values() if case)
    if not cases:
        raise EscError(f"{paths[0]}: all {len(found)} records failed; 'make predict' asks again")
    return Cases(cases, Units.of(found), len(found) - len(cases), numbered)


def case_of(named: Named) -> Case | None:
    """The row as a case, or None where it is a record of a failed request.

    Raises EscError, naming the row, where it is neither.
    """
    row, where = named.row, named.where
    status = row.get("status", "ok")
    if status not in _STATUSES:
        raise EscError(f"{where}: its status {status!r} is none of {', '.join(_STATUSES)}")
    if status == "failed":
        return None
    strategy, gold_text = (named.text(name, needed=True) or "" for name in _GOLD)
    predicted, text = (named.text(name) or "" for name in OURS)
    gold = parse(strategy)
    if gold is None:
        raise EscError(
            f"{where}: unknown {named.called('gold_strategy')} {strategy!r}; it takes one of "
            f"{', '.join(Strategy)}"
        )
    return Case(
        id=named.id,
        gold=gold,
        gold_text=gold_text,
        predicted=parse(predicted),
        text=text.strip(),
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


def _spread(given: object, where: str) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        shares = {parse(name): share for name, share in _SHARES.validate_python(given).items()}
        total = sum(shares.values())
        # Eight probabilities that are rounded in the file.
        if shares.keys() == set(Strategy) and abs(total - 1) <= 1e-3:
            return tuple(shares[strategy] for strategy in Strategy)
        why = f"{', '.join(map(str, given))} sum to {total:.4g}"  # type: ignore[call-overload]
    except ValidationError as error:
        first = error.errors()[0]
        why = ": ".join([*map(str, first["loc"]), first["msg"]])
    raise EscError(
        f"{where}: its distribution is not one probability for each of {', '.join(Strategy)} that "
        f"sum to 1 ({why})"
    )


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
    numbered = first_numbered + second_numbered
    if numbered and len(first) != len(second):
        raise EscError(
            f"{a} has {len(first)} records and {b} {len(second)}, and some have no id to match "
            "them by; 'python -m eval align' gives them ids"
        )
    one, other = ({p.id: p for p in found} for found in (first, second))
    shared = dialogue.order(one.keys() & other.keys())
    if not shared:
        raise no_shared_turn(one, other)
    pairs = tuple(_pair(one[name], other[name], a, b) for name in shared)
    source = {
        "a": {"name": name_of(a), "predictions": files.sha256(a), "alone": len(one) - len(pairs)},
        "b": {"name": name_of(b), "predictions": files.sha256(b), "alone": len(other) - len(pairs)},
        "shared": len(pairs),
        "numbered": numbered,
    }
    return Matched(pairs, source, step.made_beside(a) or step.made_beside(b))


def no_shared_turn(one: Iterable[str], other: Iterable[str]) -> EscError:
    """What to say where the ids of two systems have nothing in common."""
    first, second = (", ".join(sorted(ids)[:_SHOWN]) for ids in (one, other))
    return EscError(
        f"the two share no turn (ids {first} … and {second} …); compare predictions of the same "
        "split"
    )


def name_of(path: Path) -> str:
    """What to call a predictions file: its folder in this kit, else its own name."""
    return path.resolve().parent.name if path.name == PREDICTIONS else path.stem


def _pair(one: Prediction, other: Prediction, a: Path, b: Path) -> Pair:
    told = [p for p in (one, other) if p.history or p.seeker != NOT_GIVEN]
    differs = "is another conversation" if len(told) == 2 and _said(one) != _said(other) else ""
    if one.gold and other.gold and one.gold.split() != other.gold.split():
        # Without ids and conversations, the gold replies alone tell that rows are of other turns.
        differs = differs or "has another gold reply"
    if differs:
        raise EscError(
            f"turn {one.id} {differs} in {b} than in {a}; compare predictions of the same split "
            "and corpus; where they have no ids (a turn is its row, from 0), 'python -m eval "
            "align' gives them"
        )
    context = told[0] if told else one
    lacking = [f"{side}: {p.lacking}" for side, p in (("a", one), ("b", other)) if p.reply is None]
    return Pair(one.id, context.history, context.seeker, one.reply, other.reply, "; ".join(lacking))


def _said(one: Prediction) -> list[str]:
    """The conversation's words: blanks are no difference between two corpora's layouts."""
    texts = [text for exchange in one.history for text in exchange] + [one.seeker]
    return " ".join(texts).split()


MARK = "aligned"
"""In the options of the step: the hash of the file that was aligned."""
_OPENING = "Hi"
"""The seeker's first words in a dialogue that the supporter opens (the rules of the turns)."""
_SPEAKER = re.compile(
    r"\s*(?:seeker|supporter|user|usr|assistant|system|sys|human|gpt|speaker|listener)\s*:\s*", re.I
)


def aligned(
    rows: Iterable[Named], turns: Sequence[GoldTurn], split: str
) -> tuple[list[Row], list[str]]:
    """(the records with their turns, in the order of the set; a line for each that fits not one).

    Raises EscError, naming the row, for a record that is none, an id of no turn of the split, a
    gold strategy or reply that is not the turn's, or a second record of a turn.
    """
    by_id = {turn.id: turn for turn in turns}
    by_context: dict[str, list[GoldTurn]] = defaultdict(list)
    for turn in turns:
        for context in _contexts(turn):
            by_context[context].append(turn)
    found: dict[str, Row] = {}
    unaligned = []
    for named in rows:
        if named.numbered:
            fitting = _fitting(named, by_context, found)
        elif named.id in by_id:
            fitting = [by_id[named.id]]
        else:
            raise EscError(
                f"{named.where}: id {named.id!r} is no turn of the {split} set (which has "
                f"{', '.join(list(by_id)[:_SHOWN])}, …); choose its --set, or leave ids out to "
                "align by conversation"
            )
        if len(fitting) != 1:
            why = "fits no turn" if not fitting else f"fits {len(fitting)} turns"
            unaligned.append(f"{named.where}: {why} of the {split} set")
            continue
        (turn,) = fitting
        if turn.id in found:
            raise EscError(f"{named.where}: a second record of turn {turn.id}")
        found[turn.id] = _record(named, turn)
    return [found[turn.id] for turn in turns if turn.id in found], unaligned


def _contexts(turn: GoldTurn) -> set[str]:
    """What another system's file may hold before a turn."""
    history = turn.history
    said = {_plain_context(history, turn.seeker)}
    # The "Hi" that is put before a supporter who opens is in no file but this kit's.
    if history and history[0][0] == _OPENING:
        said.add(_plain_context([("", history[0][1]), *history[1:]], turn.seeker))
    elif not history and turn.seeker == _OPENING:
        said.add("")
    return said


def _plain_context(history: Sequence[Exchange], seeker: str) -> str:
    """The conversation's words, without a layout's blanks, case, speakers and strategy tags."""
    lines = "\n".join([*(text for pair in history for text in pair), seeker]).split("\n")
    return _plain(" ".join(untagged(_SPEAKER.sub("", line)) for line in lines))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _fitting(
    named: Named, turns: Mapping[str, Sequence[GoldTurn]], taken: Container[str]
) -> Sequence[GoldTurn]:
    """The turns that follow the record's conversation, and have its gold where several do.

    Of turns that are alike in all of this the first that is not taken.
    """
    if not {"context", "seeker"} & named.row.keys():
        raise EscError(
            f"{named.where}: neither an id nor a conversation (context, history, seeker) to align "
            "it by"
        )
    prediction = prediction_of(named)
    # A supporter who goes on speaking answers no words of the seeker.
    seeker = "" if prediction.seeker == NOT_GIVEN else prediction.seeker
    found = turns.get(_plain_context(prediction.history, seeker), ())
    strategy, reply = (named.row.get(name) for name in _GOLD)
    if len(found) < 2 or reply is None:
        return found
    gold = None if strategy is None else parse(str(strategy))
    found = [
        turn
        for turn in found
        if _plain(turn.response) == _plain(str(reply)) and gold in (None, turn.strategy)
    ]
    alike = len({turn.strategy for turn in found}) == 1
    return ([turn for turn in found if turn.id not in taken] or found)[:1] if alike else found


def _record(named: Named, turn: GoldTurn) -> Row:
    """The record of its turn, as `eval predict` writes one; EscError where its gold is another."""
    row = named.row
    strategy, reply = (row.get(name) for name in _GOLD)
    if strategy is not None and parse(str(strategy)) is None:
        raise EscError(f"{named.where}: unknown gold strategy {strategy!r}")
    wrong = strategy is not None and parse(str(strategy)) is not turn.strategy
    if wrong or (reply is not None and _plain(str(reply)) != _plain(turn.response)):
        raise EscError(
            f"{named.where}: its gold {'strategy' if wrong else 'reply'} is not that of turn "
            f"{turn.id}; it is of another split or corpus"
        )
    # Its conversation is asked for only where there is no id.
    prediction_of(replace(named, row={"context": None} | row))
    if row.get("status") == "failed":
        return gold_row(turn) | {"status": "failed"}
    said, reply = (row.get(name) for name in OURS)
    predicted = parse(said or "")
    return gold_row(turn) | {
        "status": "ok" if predicted else "invalid",
        "predicted_strategy": predicted.value if predicted else None,
        "raw_strategy": row.get("raw_strategy") if said is None else said,
        "distribution": row.get("distribution"),
        "predicted_response": reply,
    }


@cli.command(
    name="align",
    examples="  python -m eval align --predictions theirs.json --out theirs.jsonl\n"
    "  python -m eval align --predictions theirs.json --out theirs.jsonl --set validation",
)
def main(
    predictions: Annotated[Path, typer.Option(help="JSONL, JSON or CSV")],
    out: Annotated[Path, typer.Option(help="the JSONL file to write")],
    work: cli.Work = Path(),
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option("--set", envvar="SET")
    ] = "test",
) -> int:
    """Another system's records, given the ids, gold and conversation of the turns they are of.

    A record is found by its id or by its conversation; one that fits no turn is named and left out.
    """
    if out.resolve() == predictions.resolve():
        raise EscError(f"--out {out} is the file that is read; name another")
    beside = check_own_file(out, MARK)
    turns = gold_turns(work, split, None)
    records, unaligned = aligned(named_rows(predictions), turns, split)
    if not records:
        raise EscError(f"no record can be aligned: {unaligned[0]}")
    built = files.read_json(work / paths.MANIFEST, made_by="make data")
    smoke = bool(built["smoke"]) or step.made_beside(predictions)
    if not beside or MARK in beside:
        options = {
            MARK: files.sha256(predictions),
            "SET": split,
            "data": built["sets"][paths.sft_file("rg", split)]["sha256"],
            # One folder may hold several aligned files: a SMOKE mark of one stays.
            "smoke": smoke or bool(beside.get("smoke")),
            "files": sorted({*beside.get("files", ()), out.name}),
        }
        files.write_json(out.parent / OPTIONS, options)
    elif out.name == PREDICTIONS or (smoke and not beside.get("smoke")):
        raise EscError(f"{out.parent} holds another run; name a folder of its own in --out")
    if out.name == PREDICTIONS:
        facts = {"records": len(records), "unaligned": len(unaligned)}
        RunFolder(out.parent, {}, out.name).write(records, facts, complete=True)
    else:
        files.write_text(out, "".join(orjson.dumps(one).decode() + "\n" for one in records))
    print(f"aligned     {out}: {len(records):,} records of {len(turns):,} turns")
    if len(records) < len(turns):
        print(f"missing     {len(turns) - len(records):,} turns of the set have no record")
    if unaligned:
        print(f"left out    {len(unaligned):,} records:")
        print("\n".join(f"            {line}" for line in unaligned))
    return 1 if unaligned else 0
