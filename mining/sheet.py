"""The sheet of an audit: as a table for a spreadsheet, and as a page for a browser or paper."""

from collections.abc import Iterator
from pathlib import Path

from esc import sheets
from esc.files import Row
from esc.psych_errors import PsychError
from esc.strategies import Strategy, tag
from esc.turns import GoldTurn

TEMPLATE = Path(__file__).parent / "pages" / "audit.html.j2"
ANSWERS = ("yes", "no", "unsure")
COLUMNS = (
    *("record", "error", "conversation", "seeker", "strategy", "gold", "rejected", "explanation"),
    *("answer", "comment", "sheet"),
)


def record_of(pair: Row) -> str:
    """What names a pair on the sheet; no spreadsheet takes it for a date."""
    return f"{pair['id']} sample {pair['sample']}"


def sheet_of(made: Row) -> str:
    """What tells the sheet of an audit from another's; ``made`` is as in ``audit.json``."""
    return sheets.hash_of([made["pairs"], *made["records"]])


def sheet_row(made: Row, pair: Row, turn: GoldTurn) -> dict[str, str]:
    """A pair as a row of the sheet, its answer and comment still blank."""
    sides = {"gold": pair["chosen"], "rejected": pair["rejected"]}
    if made["task"] == "vanilla":
        # The strategy is part of an entangled answer, and its two sides need not share it.
        strategies = Strategy(pair["gold_strategy"]), Strategy(pair["strategy"])
        sides = {
            side: tag(strategy, text)
            for (side, text), strategy in zip(sides.items(), strategies, strict=True)
        }
    said = [f"seeker: {seeker}\nsupporter: {reply}" for seeker, reply in turn.history]
    return dict.fromkeys(COLUMNS, "") | {
        "record": record_of(pair),
        "error": pair["error"],
        "conversation": "\n".join(said),
        "seeker": turn.seeker,
        "strategy": pair["gold_strategy"],
        "explanation": pair["explanation"] or "",
        "sheet": sheet_of(made),
        **sides,
    }


def answers(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(row as a spreadsheet counts it, record, answer, comment and sheet) of every row not blank.

    Raises EscError where it is no sheet that can be read.
    """
    columns = ("record", "answer", "comment", "sheet")
    return sheets.read_csv(path, columns, needed=columns[:2])


def html(rows: list[dict[str, str]], turns: list[GoldTurn], made: Row, command: str) -> str:
    """The sheet as one page that needs nothing else; ``command`` makes it."""
    return sheets.page(
        TEMPLATE,
        sheet=sheet_of(made),
        command=command,
        cards=list(zip(rows, turns, strict=True)),
        made=made,
        errors={error.value: error.definition for error in PsychError},
        answers=ANSWERS,
    )
