"""Simulated conversations on the page: the picture of relief, tables, and what was said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_builders import leaks
from esc import files, paths, records
from esc.dialogue import INTERVALS, order
from esc.files import Row
from esc.seeker import SCALE
from esc.strategies import IS_SHIPPED, Strategy
from eval import paper
from eval.conversation_measures import (
    COMPARED,
    CONTROL,
    CONVERSATIONS,
    ENDED,
    MEASURES,
    RATINGS,
    SUMMARY,
    current,
    felt,
    tells,
)
from eval.report.manifest import ALL, Sources
from eval.report.parts import CODES, cell, row, table, todo

_SHOWN = 2
"""Cards that are shown with what every system says to them."""
_COLUMNS: dict[str, tuple[str, Row]] = {
    "relief ↑": ("relief", {"form": "+.2f"}),
    "ends at 2 or below ↑": ("eased", {"form": ".0f", "unit": " %"}),
    "replies until then": ("replies_until_eased", {"form": ".1f"}),
    "dropped out ↓": ("dropped_out", {"form": ".0f", "unit": " %"}),
    "replies": ("replies", {"form": ".1f"}),
    "words a reply": ("words", {"form": ".1f"}),
    "Distinct-2": ("distinct2", {"form": ".1f"}),
    "said before ↓": ("repeated", {"form": ".1f", "unit": " %"}),
}
_RATED = ("fluency", "expression", "empathy", "information", "skill", "humanoid", "overall")


@dataclass(frozen=True, slots=True)
class Talked:
    """The conversations of one system of one backbone."""

    model: str
    folder: Path
    label: str
    measures: records.Conversed
    rated: records.Rated | None


def read(
    sources: Sources, model: str, *, danger: bool, force: bool
) -> tuple[list[Talked], list[str]]:
    """(every system that talked, the control last; why one is left out, tested on what it saw)."""
    root, found, gone = paths.conversations(model, danger=danger), list[Talked](), list[str]()
    renew = sources.make("converse", model, FORCE=1)
    for path in sorted((sources.work / root).glob(f"*/{MEASURES}")):
        folder = root / path.parent.name
        measures = sources.known(folder / MEASURES, records.Conversed, renew)
        is_current = current(sources.work / folder)
        judged = folder / "judge" / SUMMARY
        rated = sources.known(judged, records.Rated, renew) if is_current else None
        for one in (folder, folder / "judge"):
            sources.options_of(one)
        if not measures:
            continue
        if measures.seen["seen"] and not force:
            gone.append(f"{_label(folder.name)}: {leaks.told(measures.seen)}; FORCE=1 shows it.")
        else:
            found.append(Talked(model, folder, _label(folder.name), measures, rated))
    return sorted(found, key=lambda one: one.folder.name == CONTROL), gone


def _label(name: str) -> str:
    if name == CONTROL:
        return "control (empty sentences)"
    return next((kind.label for kind in ALL if kind.name == name), name.replace("_", " "))


def conversations(
    sources: Sources, models: Sequence[str], *, force: bool
) -> tuple[list[Row], str, list[Row]]:
    """(tables, the section's first sentence, what is shown of the conversations)."""
    talked, danger, gone = list[Talked](), list[Talked](), list[str]()
    compared: dict[str, Row] = {}
    for model in models:
        of, left_out = read(sources, model, danger=False, force=force)
        signs, unseen = read(sources, model, danger=True, force=force)
        talked, danger, gone = talked + of, danger + signs, gone + left_out + unseen
        if of:
            names = {one.folder.name for one in of}
            found = sources.read(paths.conversations(model) / COMPARED)
            pairs = [one for one in found["pairs"] if {one["a"], one["b"]} <= names]
            compared[model] = found | {"pairs": pairs, "tells": tells(pairs, names)}
    several = len(compared) > 1
    told = [f"{model}: " * several + one["tells"]["said"] for model, one in compared.items()]
    missing = [
        todo(f"{model} conversations", sources.make("converse", model, CARDS="sample"))
        for model in models
        if model not in compared
    ]
    tables = [
        *_numbers(talked, gone, missing),
        _differences(compared),
        _ratings(talked),
        _course(talked),
        _safety(sources, models, danger),
    ]
    shown = [one for of in talked for one in _transcripts(sources, of, _SHOWN)]
    shown += [one for of in danger for one in _transcripts(sources, of, None)]
    return [one for one in tables if one["rows"] or one["todo"]], " ".join(told), shown


def _numbers(
    talked: Sequence[Talked], gone: Sequence[str], missing: Sequence[Row]
) -> Iterator[Row]:
    rows, reliefs, notes, people = [], [], [*gone], dict[str, Row]()
    for one in talked:
        of = one.measures
        look: Row = {"smoke": of.smoke}
        cells = [cell(of.numbers[name], **form, **look) for name, form in _COLUMNS.values()]
        made = row(one.label, cells, one.model) | {
            "measured_on": f"{of.n} of {of.conversations} cards"
        }
        rows.append(made)
        reliefs.append(row(one.label, [of.numbers["relief"]], one.model, form="+.2f", **look))
        ended = [f"{n} {ENDED[name]}" for name, n in of.ended.items() if n]
        told = f"cards of {of.cards}, played by {of.seeker}; {of.truncated} replies cut"
        notes.append(f"{one.model}, {one.label}: {', '.join(ended)}; {told}.")
        if of.human:
            people[one.model] = of.human
    if talked and not people and IS_SHIPPED:
        people[talked[0].model] = paper.SEEKERS
    for model, human in people.items():
        where = (
            "ESConv's test set" if human is paper.SEEKERS else f"{human['n']} of these dialogues"
        )
        name = f"people, {where}"
        found = {key: records.Number.model_validate(human[key]) for key in ("relief", "eased")}
        cells = [cell(found.get(key), "—", **form) for key, form in _COLUMNS.values()]
        # No numbers of ours.
        rows.append(row(name, cells, model) | {"of_paper": True})
        reliefs.append(row(name, [found["relief"]], model, form="+.2f") | {"of_paper": True})
    yield table("figure-relief", reliefs, [], missing)
    yield table("table-conversations", rows, notes, columns=[*_COLUMNS])


def _differences(compared: dict[str, Row]) -> Row:
    rows, notes = [], []
    for model, one in compared.items():
        for pair in one.get("pairs", ()):
            numbers = records.Comparison.model_validate({"n": 0, "errors": {}, **pair}).numbers
            cells = [
                cell(numbers.get(name), "—", smoke=one["smoke"], **form | {"form": "+.2f"})
                for name, form in _COLUMNS.values()
            ]
            rows.append(row(f"{_label(pair['b'])} less {_label(pair['a'])}", cells, model))
        for gone in one.get("left_out", ()):
            notes.append(f"{gone['a']} and {gone['b']} are not compared: {gone['reason']}.")
        if both := one.get("seekers"):
            first, second = map(", ".join, both["orders"])
            rho = "undefined" if both["spearman"] is None else f"{both['spearman']:.2f}"
            same = "the same order" if both["same_order"] else f"{first}, and {second}"
            notes.append(
                f"{model}, two seekers: by relief {same}; Spearman by card {rho}, n {both['n']}."
            )
    return table("table-conversation-differences", rows, notes, columns=[*_COLUMNS])


def _ratings(talked: Sequence[Talked]) -> Row:
    rows, notes = [], dict[str, None]()
    for one in talked:
        if one.rated:
            look: Row = {"smoke": one.rated.smoke, "signature": one.rated.signature}
            cells = [cell(one.rated.dimensions[name], **look) for name in _RATED]
            rows.append(row(one.label, cells, one.model))
            lost = one.rated.unscored.get("total", 0)
            told = f"judged by {one.rated.judge}, {lost} unscored"
            notes[f"{one.model}, {one.label}: {told}."] = None
    return table("table-conversation-ratings", rows, notes, columns=_RATED)


def _course(talked: Sequence[Talked]) -> Row:
    rows = []
    for one in talked:
        for name, shares in zip(INTERVALS, one.measures.course, strict=True):
            if any(shares.values()):
                cells = [
                    cell(100 * shares[of], form=".1f", unit=" %", smoke=one.measures.smoke)
                    for of in Strategy
                ]
                rows.append(row(name, cells, f"{one.model}, {one.label}"))
    return table("figure-course", rows, columns=CODES)


def _safety(sources: Sources, models: Sequence[str], danger: Sequence[Talked]) -> Row:
    """Counts, and every conversation by its place on the page."""
    rows, notes = [], []
    for one in danger:
        look: Row = {"form": ".0f", "smoke": bool(one.rated and one.rated.smoke)}
        found = one.rated.dimensions if one.rated else {}
        counts = [
            cell(
                found[name].count if name in found else None,
                n=found[name].n if name in found else None,
                **look,
            )
            for name in ("noticed", "pointed")
        ]
        total = cell(one.measures.conversations, form=".0f")
        rows.append(row(one.label, [total, *counts], one.model))
        if one.rated:
            notes.append(f"{one.model}, {one.label}: judged by {one.rated.judge}.")
    there = {one.model for one in danger}
    missing = [
        todo(f"{model} signs of danger", sources.make("converse", model, CARDS="danger"))
        for model in models
        if model not in there
    ]
    return table("table-safety", rows, notes, missing)


def _transcripts(sources: Sources, one: Talked, count: int | None) -> Iterator[Row]:
    """The same cards of every system, drawn by their ids; all where no ``count`` is given."""
    told = list(files.read_jsonl(sources.whole(one.folder / CONVERSATIONS)))
    path = one.folder / "judge" / RATINGS
    rated = files.read_jsonl(sources.whole(path)) if one.rated else ()
    verdicts = {row["id"]: row for row in rated}
    drawn = order(row["id"] for row in told)[:count]
    for said in (said for said in told if said["id"] in drawn and said["status"] == "ok"):
        strengths = felt(said) or [turn["intensity"] for turn in said["turns"]]
        yield {
            "name": f"{one.folder.parent.name}-{one.model}-{one.folder.name}-{said['id']}",
            "id": said["id"],
            "model": one.model,
            "system": one.label,
            "is_danger": count is None,
            "card": said["card"],
            "turns": said["turns"],
            "last": said["last"],
            "ended": ENDED[said["ended"]]
            if not said["detail"]
            else f"{ENDED[said['ended']]}: {said['detail']}",
            "strengths": strengths,
            "line": _line(strengths),
            "verdict": _verdict(verdicts.get(said["id"], {})),
            "smoke": one.measures.smoke,
        }


def _line(strengths: Sequence[int]) -> str:
    """The points of a small line, 12 to a step and 8 to a point of the scale; high is strong."""
    return " ".join(f"{6 + 12 * k},{4 + 8 * (SCALE[-1] - one)}" for k, one in enumerate(strengths))


def _verdict(verdict: Row) -> str:
    """What the judge says of a conversation with signs of danger."""
    if "noticed" not in verdict:
        return "" if not verdict or verdict["status"] == "scored" else "no verdict"
    said = [f"{'' if verdict[name] else 'not '}{name}" for name in ("noticed", "pointed")]
    return f"danger {said[0]}, {said[1]} to help by people"
