"""The sheet of a human evaluation: two replies to one turn, sides shuffled, nobody named.

As a table for a spreadsheet and as a page for a browser, a phone or paper. Which side is whose
stands in the key alone.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from esc import sheets
from esc.files import Row
from eval.matched import Matched, Pair
from eval.ratings import Dimension

TEMPLATE = Path(__file__).parent / "pages" / "human.html.j2"
CHOICES = ("A", "B", "tie")
ASKED = tuple(dimension.casefold() for dimension in Dimension)
"""The columns to fill in."""
COLUMNS = ("record", "conversation", "seeker", "A", "B", *ASKED, "comment")
SILENT = "(says nothing)"


def stamp_of(found: Matched) -> str:
    """What tells the sheets of two comparisons apart, and tells an annotator nothing."""
    files_compared = [found.source[side]["predictions"] for side in ("a", "b")]
    return hashlib.sha256("\n".join(files_compared).encode()).hexdigest()[:6]


def record_of(pair: Pair, stamp: str) -> str:
    """What names a turn on the sheet; no spreadsheet takes it for a date."""
    # As its cell on the sheet says it: it is read back from there.
    return sheets.guarded(f"turn {pair.id} ({stamp})")


def sides_of(pair: Pair) -> dict[str, str]:
    """Side of the sheet to the system whose reply stands there, ``a`` or ``b``."""
    return {"A": "a", "B": "b"} if pair.a_is_left else {"A": "b", "B": "a"}


def shown(pair: Pair) -> dict[str, str]:
    """Side of the sheet to the reply that stands there."""
    replies = {"a": str(pair.a), "b": str(pair.b)}
    return {side: replies[system] for side, system in sides_of(pair).items()}


def csv_text(pairs: Sequence[Pair], stamp: str) -> str:
    """The sheet as CSV, its answers still blank."""
    rows = []
    for pair in pairs:
        said = [f"seeker: {seeker}\nsupporter: {reply}" for seeker, reply in pair.history]
        told = {
            "record": record_of(pair, stamp),
            "conversation": "\n".join(said),
            "seeker": pair.seeker if pair.seeker.strip() else SILENT,
        }
        rows.append(dict.fromkeys(COLUMNS, "") | told | shown(pair))
    return sheets.csv_text(COLUMNS, rows)


def html(pairs: Sequence[Pair], stamp: str, votes: str, *, smoke: bool) -> str:
    """The sheet as one page that needs nothing else; it saves its answers as ``votes``."""
    records = [record_of(pair, stamp) for pair in pairs]
    return sheets.page(
        TEMPLATE,
        sheet=sheets.hash_of([votes, *records]),
        cards=[(name, pair, shown(pair)) for name, pair in zip(records, pairs, strict=True)],
        dimensions=list(Dimension),
        choices=CHOICES,
        columns=" ".join((*ASKED, "comment")),
        file=votes,
        silent=SILENT,
        smoke=smoke,
    )


def is_sheet(path: Path) -> bool:
    """Whether a CSV file has the columns of a sheet, or of the votes that its page saves."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return {"record", *ASKED} <= set(re.findall(r"\w+", stream.readline().casefold()))


def answers(path: Path) -> Iterator[tuple[int, Row]]:
    """(row as a spreadsheet counts it, record, votes and comment) of every row that is not blank.

    Raises EscError where it is no sheet that can be read.
    """
    columns = ("record", *ASKED, "comment")
    return sheets.read_csv(path, columns, needed=columns[:-1])
