"""A sheet on which people say whether the errors the judge named are really there, and its result.

Draws N pairs per error type, writes ``runs/<model>/mining…/audit/<task>/``: ``sheet.csv``,
``sheet.html`` (whose ticks are saved as a CSV file that is read in the same way), and last
``audit.json``. A sheet with ticks in it is never overwritten. ``--read`` writes ``precision.json``
beside them: of the answers yes and no, the share of yes, per error type and over all.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from data_builders.pairs import PAIRS, Mining, Wanted
from esc import cli, files, paths, sheets, step
from esc.dialogue import gold_turns
from esc.files import EscError, Row
from esc.paths import EMBEDDED
from esc.psych_errors import PsychError
from esc.stats import share_of_turns
from esc.strategies import Strategy, tag
from mining.stats import draw

TEMPLATE = Path(__file__).parent / "pages" / "audit.html.j2"
ANSWERS = ("yes", "no", "unsure")
CSV, HTML, DONE, PRECISION = "sheet.csv", "sheet.html", "audit.json", "precision.json"


def folder_of(mining: Mining) -> Path:
    """Of an audit's sheet and its result."""
    return mining.folder.parent / "audit" / mining.task


def _command(mining: Mining) -> str:
    lineage = {name.lower(): value for name, value in mining.lineage.variables.items()}
    of = mining.work, mining.model, mining.task
    return paths.step("mining", "audit", work=of[0], model=of[1], task=of[2], **lineage)


def make(mining: Mining, n: int) -> Iterator[str]:
    """Write the sheet; lines one should see. EscError where one with ticks is there, or no pair."""
    routed, folder = mining.pairs(), folder_of(mining)
    with files.exclusive(folder):
        if (folder / CSV).is_file():
            sheets.check_blank(folder / CSV, ["answer"])
        drawn = list(draw(files.read_jsonl(mining.routed / PAIRS), n))
        if not drawn:
            raise EscError(f"{mining.routed / PAIRS} holds no pair with an error to audit")
        (folder / DONE).unlink(missing_ok=True)
        turns = {turn.id: turn for turn in gold_turns(mining.work, "train", None)}
        of, rows = routed.pairs.sha256, []
        for pair in drawn:
            turn, gold, rejected = turns[pair["id"]], pair["chosen"], pair["rejected"]
            if mining.task == "vanilla":
                # The strategy is part of an entangled answer; its two sides need not share it.
                gold = tag(Strategy(pair["gold_strategy"]), gold)
                rejected = tag(Strategy(pair["strategy"]), rejected)
            row = {
                # It names the pairs it is of, and no spreadsheet takes it for a date.
                "record": f"{pair['id']} sample {pair['sample']} ({of[:6]})",
                "error": pair["error"],
                "conversation": sheets.conversation(turn.history),
                "seeker": turn.seeker,
                "strategy": pair["gold_strategy"],
                "gold": gold,
                "rejected": rejected,
                "explanation": pair["explanation"] or "",
            }
            rows.append(row)
        done: Row = routed.model_dump(include={"task", "model", "smoke"})
        done |= {name: routed.provenance[name] for name in ("sampler", "judge")}
        done |= {"n": n, "pairs": of, "records": {row["record"]: row["error"] for row in rows}}
        page = sheets.page(
            TEMPLATE,
            sheet=[of, *done["records"]],
            command=_command(mining),
            cards=[(row, turns[pair["id"]]) for row, pair in zip(rows, drawn, strict=True)],
            made=done,
            errors={error.value: error.definition for error in PsychError},
            answers=ANSWERS,
        )
        files.write_text(folder / CSV, sheets.csv_text([*rows[0], "answer", "comment"], rows))
        files.write_text(folder / HTML, page)
        files.write_json(folder / DONE, done)
    told = ", ".join(f"{k} {error}" for error, k in Counter(done["records"].values()).items())
    yield f"sheet       {folder}/{CSV} and {HTML}: {len(rows)} ({told})"
    if done["smoke"]:
        yield step.SMOKE


def read(mining: Mining, path: Path) -> Iterator[str]:
    """Write ``precision.json`` from a ticked sheet, where a record without a row counts as blank.

    Yields the lines one should see; EscError, naming file and row, where it cannot be read.
    """
    folder = folder_of(mining)
    made: Row = files.read_json(folder / DONE, made_by=_command(mining))
    said = sheets.answers(path, ["answer"], ANSWERS, made["records"])
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record, error in made["records"].items():
        answer = said.get(record, {}).get("answer") or "blank"
        counts[error][answer] += 1
        counts["all"][answer] += 1
    errors = {name: _precision(counts[name]) for name in (*PsychError, "all") if name in counts}
    done = {name: made[name] for name in ("task", "model", "sampler", "judge", "pairs", "smoke")}
    done |= {"sheet": files.sha256(path), "all": errors.pop("all"), "errors": errors}
    with files.exclusive(folder):
        files.write_json(folder / PRECISION, done)
    yield f"precision   {made['task']} pairs of {made['model']}, judge {made['judge']}"
    table = pd.DataFrame.from_dict(errors | {"all": done["all"]}, orient="index")
    shares = ["precision", "low", "high"]
    table[shares] = table[shares].astype(float)
    yield table.to_string(float_format="{:.1%}".format, na_rep="—")
    yield "'all' is of the sheet, where error types are equally frequent"
    if done["smoke"]:
        yield step.SMOKE
    yield f"written     {folder / PRECISION}"


def _precision(count: Mapping[str, int]) -> Row:
    """The share of yes among yes and no with its interval, 0 to 1, and how often each was said."""
    told = {answer: count.get(answer, 0) for answer in (*ANSWERS, "blank")}
    n = told["yes"] + told["no"]
    share = share_of_turns(told["yes"], n)
    return {"precision": share["share"], "low": share["low"], "high": share["high"], "n": n} | told


@cli.command(
    examples="  python -m mining audit --task rg --n 20\n"
    "  python -m mining audit --task rg --read sheet.csv"
)
def main(
    wanted: Wanted,
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    n: Annotated[int, typer.Option(min=1, help="pairs per error type")] = 20,
    sheet: Annotated[Path | None, typer.Option("--read", help="a sheet with answers")] = None,
) -> None:
    """A sheet on which people say whether the errors the judge named are really there, or with
    --read the share of the named errors that are.
    """
    minings = wanted.minings(model, work)
    if sheet and len(minings) > 1:
        raise EscError("a sheet is of one task; name that one alone with --read")
    cli.each(minings, lambda one: read(one, sheet) if sheet else make(one, n), planned=False)
