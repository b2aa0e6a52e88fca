"""Turns to read: drawn by a hash of their ids, with what every system says to them."""

from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from esc import draw
from esc.backbones import EMBEDDED
from esc.exceptions import EscError
from esc.files import Row
from esc.paper_systems import TABLE_3, TABLE_4
from eval.report.data_shapes import Record
from eval.report.page import Example, Said
from eval.report.runs import PREDICTIONS
from eval.report.sources import Sources, first

SHOWN = 3
KINDS = (*TABLE_3, *TABLE_4)


def examples(sources: Sources, model: str) -> tuple[Example, ...]:
    """Three turns of those that most systems answered; none where nothing is predicted.

    Raises EscError, naming the record, where a file of predictions has another shape.
    """
    folders = {kind: Path("runs") / model / kind.name for kind in KINDS}
    there = {
        kind: folder / PREDICTIONS
        for kind, folder in folders.items()
        if (sources.work / folder / PREDICTIONS).is_file()
    }
    answered: Counter[str] = Counter()
    for path in there.values():
        answered.update(str(row.get("id")) for row in sources.rows(path))
    place = {name: number for number, name in enumerate(draw.order(answered))}
    chosen = sorted(answered, key=lambda name: (-answered[name], place[name]))[:SHOWN]
    said: dict[str, list[Said]] = {name: [] for name in chosen}
    gold: dict[str, Record] = {}
    for kind, path in there.items():
        marked = bool(sources.options_of(path.parent).get("smoke")) or model == EMBEDDED
        for row in sources.rows(path):
            if str(row.get("id")) in said:
                record = _record(sources.work / path, row)
                gold.setdefault(record.id, record)
                said[record.id].append(_said(kind.label, record, smoke=marked))
    return tuple(_example(gold[name], model, tuple(said[name])) for name in chosen)


def _record(path: Path, row: Row) -> Record:
    try:
        return Record.model_validate(row)
    except ValidationError as error:
        raise EscError(
            f"{path}, record {row.get('id')!r}: {first(error)}; make predict FORCE=1 renews it"
        ) from error


def _said(label: str, record: Record, *, smoke: bool) -> Said:
    strategy = record.predicted_strategy
    if strategy is None:
        raw = record.raw_strategy
        strategy = f"unreadable: {raw}" if raw else "none"
    reply = record.predicted_response or f"(no reply: {record.status})"
    return Said(label, strategy, reply, smoke)


def _example(record: Record, model: str, said: tuple[Said, ...]) -> Example:
    context = []
    for seeker, supporter in record.context.history:
        context += [("seeker", seeker), ("supporter", supporter)]
    context.append(("seeker", record.context.seeker))
    return Example(
        record.id, model, tuple(context), record.gold_strategy, record.gold_response, said
    )
