"""The turns that are measured: one system's, two systems' that are the same, and records of
another system that are given the turns' own ids (`align`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from data_builders import leaks
from esc import cli, dialogue, files, paths, step
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.languages import Language, detect
from esc.paths import DIALOGUE
from esc.predictions import (
    GOLD,
    OURS,
    PREDICTIONS,
    Named,
    Prediction,
    gold_row,
    named_rows,
    prediction_of,
    read_predictions,
)
from esc.stats import name_of, unit_of
from esc.step import OPTIONS, RunFolder, check_own_file
from esc.strategies import CONVERSATION, Strategy, parse, untagged
from eval.text_metrics import Profile


@dataclass(frozen=True, slots=True)
class Case:
    """One turn with what the corpus and the system say; None is what is unreadable or unknown."""

    id: str
    gold: Strategy
    gold_text: str
    predicted: Strategy | None
    text: str
    """The reply; empty where there is none."""
    spread: tuple[float, ...] | None = None
    """The planner's probability of each strategy, in their canonical order."""
    stage: int | None = None
    """How far its dialogue has come, as `esc.dialogue.interval` says it."""


@dataclass(frozen=True, slots=True)
class Cases:
    """A system's turns, and of what kind is what is resampled, as `esc.stats.unit_of` says."""

    rows: Sequence[Case]
    unit: str
    failed: int = 0
    """Records without an answer, which are left out."""
    numbered: int = 0
    """Records without an id of their own."""
    language: Language = "en"
    """What the gold replies are written in, or are said to be."""
    profile: Profile = "paper"
    sees: str = ""
    """What its planner and generator see besides the history, as a signature says it."""

    @property
    def names(self) -> list[str]:
        """The unit of each row: its dialogue, or itself."""
        return [name_of(case.id, self.unit) for case in self.rows]


def read_cases(path: Path, language: Language | None = None, profile: Profile = "paper") -> Cases:
    """The turns of one system; EscError, naming the row, for whatever is not as it should be."""
    named = list(named_rows(path))
    cases = [_case(one) for one in named if one.row.get("status") != "failed"]
    if not cases:
        raise EscError(f"{path}: all {len(named)} records failed; 'make predict' asks again")
    numbered = sum(one.numbered for one in named)
    failed, unit = len(named) - len(cases), unit_of(one.id for one in named)
    language = language or detect(case.gold_text for case in cases)
    return Cases(cases, unit, failed, numbered, language, profile, sees(path))


def sees(path: Path, whose: str = "gold") -> str:
    """What a signature says of records in ``path`` that saw strategies in their history."""
    made = files.read_json(path.with_name(OPTIONS), default={})
    return f"|layout:dialogue, {whose} strategies so far" * (made.get("LAYOUT") == DIALOGUE)


def _case(named: Named) -> Case:
    where, row = named.where, named.row
    if row.get("status", "ok") not in ("ok", "invalid"):
        raise EscError(f"{where}: its status {row['status']!r} is none of ok, invalid, failed")
    strategy, gold_text = (named.text(name, needed=True) or "" for name in GOLD)
    predicted, text = (named.text(name) or "" for name in OURS)
    gold = parse(strategy)
    if gold is None:
        known = ", ".join(Strategy)
        raise EscError(f"{where}: unknown gold strategy {strategy!r}; it takes one of {known}")
    place, turns, stage = named.id.rpartition("-")[2], row.get("dialogue_turns"), None
    # How long a dialogue is, a part of a file does not show.
    if turns is not None and place.isdecimal():
        if type(turns) is not int or turns <= int(place):
            raise EscError(f"{where}: dialogue_turns {turns!r} is no number that has {place}")
        stage = dialogue.interval(int(place), turns)
    spread = row.get("distribution")
    if spread is not None:
        shares = {parse(k): v for k, v in spread.items()} if isinstance(spread, dict) else {}
        spread = tuple(shares.get(one) for one in Strategy)
        numbers = all(type(one) in (int, float) and 0 <= one <= 1 for one in spread)
        # Probabilities that are rounded in the file.
        if not numbers or len(shares) != len(spread) or abs(sum(spread) - 1) > 1e-3:
            raise EscError(
                f"{where}: its distribution is not one probability for each of "
                f"{', '.join(Strategy)} that sum to 1 ({row['distribution']})"
            )
    return Case(named.id, gold, gold_text, parse(predicted), text.strip(), spread, stage)


def shared_turns(a: Mapping[str, Row], b: Mapping[str, Row]) -> list[str]:
    """The ids of the turns that both have, as they are drawn, from what each says of them, by id.

    EscError where the two share none, or differ in what both say, but for blanks.
    """
    shared = dialogue.order(a.keys() & b.keys())
    first, second = (", ".join(sorted(ids)[:3]) for ids in (a, b))
    wrong = "" if shared else f"the two share no turn (ids {first} … and {second} …)"
    for name in shared:
        for what, said in a[name].items():
            other = b[name][what]
            if said and other and said.split() != other.split():
                wrong = f"turn {name} has another {what} in the other file"
    if wrong:
        raise EscError(
            f"{wrong}; compare predictions of the same split; 'python -m eval align' gives the "
            "turns' own ids to records without them"
        )
    return shared


@dataclass(frozen=True, slots=True)
class Pair:
    """Two predictions of one turn."""

    a: Prediction
    b: Prediction

    @property
    def told(self) -> Prediction:
        """The one that has the conversation, where one of them has."""
        return self.a if self.a.said else self.b

    @property
    def lacking(self) -> str:
        """Which system has no reply, and why; empty where both have one."""
        both = {"a": self.a, "b": self.b}
        return "; ".join(f"{side}: {p.lacking}" for side, p in both.items() if p.reply is None)

    @property
    def is_alike(self) -> bool:
        """Whether both replies are the same words."""
        return not self.lacking and str(self.a.reply).split() == str(self.b.reply).split()


def matched(a: Path, b: Path) -> tuple[list[Pair], Row]:
    """(the turns of two predictions files as they are drawn; what the files are, and share).

    EscError where they share none, or one has another conversation or gold reply in the other.
    """
    (first, numbered), (second, more) = read_predictions(a), read_predictions(b)
    if numbered + more and len(first) != len(second):
        raise EscError(
            f"{a} has {len(first)} records and {b} {len(second)}, and some have no id to match "
            "them by; 'python -m eval align' gives them ids"
        )
    # Without ids and conversations, the gold replies alone tell that rows are of other turns.
    told = [
        {p.id: {"conversation": " ".join(p.said), "gold reply": p.gold} for p in side}
        for side in (first, second)
    ]
    shared = shared_turns(*told)
    source: Row = {"shared": len(shared), "numbered": numbered + more}
    for side, path, records in (("a", a, first), ("b", b, second)):
        source[side] = {
            "name": path.resolve().parent.name if path.name == PREDICTIONS else path.stem,
            "predictions": files.sha256(path),
            "alone": len(records) - len(shared),
        }
    source["smoke"] = step.made_beside(a) or step.made_beside(b)
    source["sees"] = sees(a) or sees(b)
    one, other = ({p.id: p for p in side} for side in (first, second))
    return [Pair(one[name], other[name]) for name in shared], source


_MARK = "aligned"
_SPEAKER = re.compile(
    r"\s*(?:seeker|supporter|user|usr|assistant|system|sys|human|gpt|speaker|listener"
    rf"|{re.escape(CONVERSATION.seeker)}|{re.escape(CONVERSATION.supporter)})\s*:\s*",
    re.I,
)


def _aligned(rows: Iterable[Named], turns: Sequence[GoldTurn]) -> tuple[list[Row], list[str]]:
    """(the records with their turns, in the order of the set; where those are that fit not one).

    A turn that fits has the record's id, or else its conversation, and its gold where it has any.
    """
    index: dict[str, list[GoldTurn]] = defaultdict(list)
    for turn in turns:
        said = [*(text for pair in turn.history for text in pair), turn.seeker]
        # The "Hi" that is put before a supporter who opens is in no file but this kit's.
        for key in {turn.id, _plain(said), _plain(said[said[0] == dialogue.OPENER :])}:
            index[key].append(turn)
    found: dict[str, Row] = {}
    unaligned = []
    for named in rows:
        row = named.row
        if named.numbered and not {"context", "seeker"} & row.keys():
            what = "neither an id nor a conversation (context, history, seeker) to align it by"
            raise EscError(f"{named.where}: {what}")
        # A supporter who goes on speaking answers no words of the seeker.
        said = prediction_of(replace(named, row={"context": None} | row)).said
        candidates = index.get(_plain(said) if named.numbered else named.id, ())
        fitting = [turn for turn in candidates if turn.id not in found and _has_gold(turn, row)]
        if len({(turn.strategy, turn.response) for turn in fitting}) != 1:
            unaligned.append(f"{named.where}: fits {len(fitting) or 'no'} turns")
            continue
        found[fitting[0].id] = record = gold_row(fitting[0])
        if row.get("status") == "failed":
            record["status"] = "failed"
            continue
        strategy, reply = (row.get(name) for name in OURS)
        predicted = parse(strategy or "")
        record |= {
            "status": "ok" if predicted else "invalid",
            "predicted_strategy": predicted.value if predicted else None,
            "raw_strategy": row.get("raw_strategy") if strategy is None else strategy,
            "distribution": row.get("distribution"),
            "predicted_response": reply,
        }
    return [found[turn.id] for turn in turns if turn.id in found], unaligned


def _plain(texts: Iterable[str]) -> str:
    """The words, without a layout's blanks, case, speakers and strategy tags."""
    lines = "\n".join(texts).split("\n")
    words = " ".join(untagged(_SPEAKER.sub("", line)) for line in lines)
    return " ".join(words.casefold().split())


def _has_gold(turn: GoldTurn, row: Row) -> bool:
    strategy, reply = (row.get(name) for name in GOLD)
    same = strategy is None or parse(str(strategy)) is turn.strategy
    return same and (reply is None or _plain([str(reply)]) == _plain([turn.response]))


@cli.command(
    name="align",
    examples="  python -m eval align --predictions theirs.json --out theirs.jsonl --set validation",
)
def align(
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
    beside = check_own_file(out, _MARK)
    turns = gold_turns(work, split, None)
    records, unaligned = _aligned(named_rows(predictions), turns)
    if not records:
        raise EscError(
            f"no record can be aligned with the {split} set ({unaligned[0]} with its id or "
            "conversation and gold); name its --set, or leave ids out to align by conversation"
        )
    built = step.built(work)
    options = {
        _MARK: files.sha256(predictions),
        "SET": split,
        "data": built.sets[paths.sft_file("rg", split)].sha256,
        # One folder may hold several aligned files: a SMOKE mark of one stays.
        "smoke": bool(built.smoke or beside.get("smoke")) or step.made_beside(predictions),
        "files": sorted({*beside.get("files", ()), out.name}),
    }
    files.write_json(out.parent / OPTIONS, options)
    sides = leaks.recognised(leaks.of_ids(work, (record["id"] for record in records)))
    facts = {"records": len(records), "unaligned": len(unaligned), "recognised": sides}
    facts["set"] = step.set_of(built, split)
    RunFolder(out.parent, {}, out.name).write(records, facts, complete=True)
    print(f"aligned     {out}: {len(records):,} records of {len(turns):,} turns")
    for one in sides:
        print(f"dialogues   {one}")
    if len(records) < len(turns):
        print(f"missing     {len(turns) - len(records):,} turns of the set have no record")
    for line in unaligned:
        print(f"left out    {line} of the {split} set with its id or conversation and gold")
    return 1 if unaligned else 0
