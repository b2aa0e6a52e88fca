"""A file of predictions, this kit's own or another system's, row by row and strictly."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from esc import backbones, paths, sheets
from esc.dialogue import Exchange, GoldTurn
from esc.files import EscError, Row
from esc.prompts import spoken
from esc.step import DONE
from esc.strategies import parse, strip_tag

PREDICTIONS = "predictions.jsonl"
"""The records of a run; whole where its ``run.json`` is beside them."""
GOLD = ("gold_strategy", "gold_response")
OURS = ("predicted_strategy", "predicted_response")
FOREIGN = ("predict_strategy", "predict_content")
NOT_GIVEN = "(not given)"

_NAMES = {
    "id": (),
    "context": ("history", "dialog_history", "dialogue_history", "conversation", "prompt"),
    "seeker": (),
    "gold_strategy": ("GT_strategy",),
    "gold_response": ("GT_content", "label"),
    "predicted_strategy": FOREIGN[:1],
    "predicted_response": (FOREIGN[1], "predict", "response"),
    "distribution": (),
}
"""What is read of a row: this kit's name to those that other systems have for it."""
# A missing value that was made text: what no system replies.
_MISSING = {"nan", "none", "null", "<na>"}
_SPEAKERS = {
    **dict.fromkeys(("seeker", "user", "usr", "human", "speaker"), "seeker"),
    **dict.fromkeys(("supporter", "assistant", "sys", "system", "gpt", "listener"), "supporter"),
}


def complete_runs(work: Path, model: str) -> list[Path]:
    """The folders of a model's whole runs; tells of others. EscError where there is none."""
    root = work / "runs" / backbones.get(model).name
    found = []
    for path in sorted(root.glob(f"*/{PREDICTIONS}")):
        if (path.parent / DONE).is_file():
            found.append(path.parent)
        else:
            print(f"note: {path} is not complete and left out; make predict goes on with it")
    if not found:
        make = paths.make("predict", work=work, model=model)
        raise EscError(f"no complete predictions in {root}; {make} makes them")
    return found


def gold_row(turn: GoldTurn) -> Row:
    """What a record of this kit's own holds of its turn."""
    return {
        "id": turn.id,
        "dialogue_turns": turn.dialogue_turns,
        "context": {"history": [list(pair) for pair in turn.history], "seeker": turn.seeker},
        "gold_strategy": turn.strategy.value,
        "gold_response": turn.response,
    }


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted reply, and the conversation before it."""

    id: str
    history: tuple[Exchange, ...]
    seeker: str
    strategy: str
    """A strategy's name, or whatever the file says in its place."""
    reply: str | None
    """None where there is nothing to judge, as ``lacking`` says why."""
    lacking: str
    gold: str | None
    """The corpus's own reply, where the row has it."""

    @property
    def said(self) -> list[str]:
        """The conversation before it, as far as the row has one."""
        before = [text for pair in self.history for text in pair]
        return before if self.seeker == NOT_GIVEN else [*before, self.seeker]


@dataclass(frozen=True, slots=True)
class Named:
    """One row of a file under this kit's names, without what a model thought."""

    id: str
    where: str
    """File and row, for a message."""
    numbered: bool
    """Whether it has no id of its own: then it is the row's number, from 0."""
    row: Row
    columns: str
    """The names it has in the file."""
    taken: dict[str, str]
    """This kit's name to another system's that the file has."""

    def text(self, field: str, *, needed: bool = False) -> str | None:
        """The text of a field that must be there; EscError, naming the row, where it is none."""
        value, called = self.row.get(field), self.taken.get(field, field)
        if field not in self.row:
            raise EscError(f"{self.where}: no {called!r}: add it, or rename one of {self.columns}")
        if not isinstance(value, str if needed else str | None):
            lost = "" if value is not None else ", but null or NaN: fill it in, or leave it out"
            raise EscError(f"{self.where}: {called!r} is no text{lost}")
        return value


def read_predictions(path: Path) -> tuple[list[Prediction], int]:
    """(the predictions of a file, how many have no id of their own); EscError as `named_rows`."""
    named = list(named_rows(path))
    return [prediction_of(one) for one in named], sum(one.numbered for one in named)


def named_rows(path: Path) -> Iterator[Named]:
    """The rows of a file (CSV, JSONL or JSON), one id each; tells what is taken of a foreign one.

    EscError, naming the row, for whatever is not as it should be; also where there is none.
    """
    seen: set[str] = set()
    is_csv = path.suffix.casefold() in (".csv", ".tsv")
    for number, row in enumerate(_of_csv(path) if is_csv else _of_json(path)):
        where = f"{path}, row {number} (from 0)"
        if not isinstance(row, dict):
            raise EscError(f"{where}: not a JSON object")
        given = row.get("id")
        # Pandas makes 3.0 of 3 in a column with a gap. Beyond this size digits are lost.
        if isinstance(given, float) and given.is_integer() and abs(given) < 2**53:
            given = int(given)
        if type(given) not in (str, int, type(None)):
            raise EscError(f"{where}: its id is neither text nor a whole number; write ids as text")
        name = str(number if given is None else given)
        if name in seen:
            raise EscError(f"{where}: id {name!r} is there twice")
        known, taken = _known(row)
        if OURS[1] in taken and not seen:
            read = {ours: taken.get(ours, ours) for ours in _NAMES}
            told = [f"{ours} {called!r}" for ours, called in read.items() if called in row]
            rest = [repr(called) for called in row if called not in read.values()]
            print(f"columns     {path}: {'; '.join(told)}; not read: {', '.join(rest) or 'none'}")
        seen.add(name)
        yield Named(name, where, given is None, known, ", ".join(row), taken)
    if not seen:
        raise EscError(f"{path} is empty; it takes one record at least")


def _of_json(path: Path) -> list[Any]:
    """The values of a file's JSON array, of a line each, or of the columns that pandas writes."""
    text = sheets.text_of(path)
    try:
        values = [_loads(text, str(path))]
    except EscError:
        if text.lstrip().startswith("["):
            raise
        # Not str.splitlines: a JSON string may hold the line separators it knows beyond "\n".
        lines = enumerate(text.split("\n"), start=1)
        values = [_loads(line, f"{path}, line {n}") for n, line in lines if line.strip()]
    if len(values) == 1 and isinstance(values[0], list):
        return list(values[0])
    columns = values[0] if len(values) == 1 and isinstance(values[0], dict) else {}
    labels = next(iter(columns.values()), None)
    # What pandas writes without being asked for rows: a mapping of row labels for each column.
    if not isinstance(labels, dict) or any(
        not isinstance(one, dict) or one.keys() != labels.keys() for one in columns.values()
    ):
        return values
    return [{name: column[label] for name, column in columns.items()} for label in labels]


def _loads(text: str, where: str) -> Any:
    """The value of a JSON text, with null for the NaN that pandas and numpy mean by it."""
    try:
        value = json.loads(text, parse_constant={"NaN": None}.__getitem__)
        if "\\ud" in text.casefold():
            # Half a surrogate pair can be escaped in JSON, and never be written again.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, KeyError, RecursionError) as error:
        raise EscError(f"{where}: not JSON ({error})") from error
    return value


def _of_csv(path: Path) -> Iterator[Row]:
    head, *records = sheets.table(path) or [[]]
    names = [name.strip() for name in head]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise EscError(f"{path}: two columns are named {twice[0]!r}; rename one")
    for number, record in enumerate(records, start=2):
        if len(record) > len(names):
            raise EscError(
                f"{path}, row {number} of the sheet: {len(record)} cells under {len(names)} names; "
                "quote cells that hold the delimiter"
            )
        # A column without a name is pandas' index.
        cells: Row = {name: cell for name, cell in zip_longest(names, record, fillvalue="") if name}
        if any(cells.values()):
            yield cells | ({"id": cells["id"] or None} if "id" in cells else {})


def _known(row: Row) -> tuple[Row, dict[str, str]]:
    """(the row under this kit's names too, which of them another name holds).

    A missing value made text is null. Strategy and reply stand apart where LLaMA-Factory's label
    begins with its strategy. Rows with a ``status`` are this kit's own.
    """
    is_foreign, taken = "status" not in row, {}
    for ours, others in _NAMES.items() if is_foreign else ():
        if ours not in row and (name := next((one for one in others if one in row), None)):
            taken[ours] = name
    found = row | {ours: row[name] for ours, name in taken.items()}
    found |= {name: spoken(found[name])[0] for name in OURS if isinstance(found.get(name), str)}
    if taken.get(OURS[1]) in ("predict", "response"):
        found.setdefault(OURS[0], None)
        gold, text = strip_tag(str(found.get(GOLD[1], "")))
        if gold and GOLD[0] not in found:
            predicted, reply = strip_tag(str(found[OURS[1]]))
            found |= dict(zip(GOLD, (gold.value, text), strict=True))
            found |= dict(zip(OURS, (predicted and predicted.value, reply), strict=True))
    for name in (*GOLD, *OURS) if is_foreign else ():
        if str(found.get(name)).strip().casefold() in _MISSING and name in found:
            found[name] = None
    return found, taken


def prediction_of(named: Named) -> Prediction:
    """The row as a prediction; EscError, naming the row, where it is none."""
    row, where, status = named.row, named.where, named.row.get("status")
    if OURS[1] not in row and status not in ("failed", "invalid"):
        raise EscError(
            f"{where}: neither a prediction ({' and '.join(OURS)}) nor a foreign one "
            f"({' and '.join(FOREIGN)}); its columns are {named.columns}: rename those that are it"
        )
    said, reply = (None, None) if status == "failed" else map(named.text, OURS)
    # Gold or prediction under another system's names: that alone may lack its conversation.
    if "context" not in row and not named.taken:
        raise EscError(f"{where}: no 'context'")
    history, seeker = _conversation(row, where)
    known, gold = parse(said or ""), row.get("gold_response")
    return Prediction(
        id=named.id,
        history=tuple(history),
        seeker=seeker or NOT_GIVEN,
        strategy=known.value if known else said or NOT_GIVEN,
        reply=reply if reply and reply.strip() else None,
        lacking=f"prediction {status}" if status in ("failed", "invalid") else "empty reply",
        gold=gold if isinstance(gold, str) and gold.strip() else None,
    )


def _conversation(row: Row, where: str) -> tuple[list[Exchange], str]:
    """(exchanges so far, the seeker's latest words); empty where the row holds none."""
    context, latest = row.get("context") or None, row.get("seeker") or ""
    if isinstance(context, dict):
        context, latest = context.get("history", []), context.get("seeker") or latest
    if not isinstance(latest, str) or not isinstance(context, str | list | None):
        raise EscError(f"{where}: its conversation is neither text nor a list")
    if not isinstance(context, list):
        # A transcript of unknown form is shown as it stands.
        return [], "\n".join(filter(None, (context, latest)))
    if all(isinstance(pair, list) and [*map(type, pair)] == [str, str] for pair in context):
        return [(said, reply) for said, reply in context], latest
    said = [_utterance(one, where) for one in context] + ([("seeker", latest)] if latest else [])
    exchanges: list[Exchange] = []
    open_words: list[str] = []
    for place, (speaker, text) in enumerate(said):
        # Utterances without a speaker alternate, and the last one is the seeker's.
        if (speaker or ("seeker" if (len(said) - place) % 2 else "supporter")) == "seeker":
            open_words.append(text)
        else:
            exchanges.append(("\n".join(open_words) or " ", text))
            open_words = []
    return exchanges, "\n".join(open_words)


def _utterance(one: object, where: str) -> tuple[str, str]:
    """(who speaks, empty where that is not said; the words)."""
    if isinstance(one, str):
        return "", one
    given = one if isinstance(one, dict) else {}
    text = next((given[key] for key in ("content", "text", "value") if key in given), None)
    speaker = next((given[key] for key in ("role", "speaker", "from") if key in given), None)
    if not isinstance(text, str) or str(speaker) not in _SPEAKERS:
        raise EscError(f"{where}: its conversation holds something that is no utterance or pair")
    return _SPEAKERS[str(speaker)], text
