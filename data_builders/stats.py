"""What the training set holds, beside the paper: Table 1 (upper half), Table 6 and Figure 8.

Reads ``data/rg_sft_train.jsonl``; writes ``data/stats/stats.json`` and ``stats.md``. The lower half
of Table 1 belongs to ``mining``; Figure 8 is drawn by the report.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from esc import cli, files, paths
from esc.dialogue import INTERVALS, interval
from esc.files import EscError, Row
from esc.strategies import Strategy, tag

# Table 1, upper half, and Table 6 of the paper.
PAPER_TABLE_1 = {
    "dialogues": 1040.0,
    "utterances": 29526.0,
    "supporter utterances": 14763.0,
    "seeker utterances": 14763.0,
    "utterances per dialogue": 28.40,
    "turns per dialogue": 14.20,
    "characters per utterance": 95.85,
    "characters per supporter utterance": 112.17,
    "characters per seeker utterance": 79.54,
}
# By the paper's short names: a strategy that it does not have has no number there.
PAPER_TABLE_6 = {
    **{"Qu": 3060, "RP": 857, "RF": 1146, "Sd": 1387},
    **{"AR": 2288, "PS": 2373, "In": 989, "Ot": 2663},
}


def statistics(rows: Iterable[Row]) -> Row:
    """``table_1``, ``table_6`` and ``figure_8`` of RG rows of one split; EscError without any.

    A supporter's characters count the strategy's tag. The figure holds, for each interval of
    progress, the share of each strategy (0 to 1); those of an empty interval are 0.
    """
    import pandas as pd

    turns = pd.DataFrame(
        {
            "strategy": row["strategy"],
            "dialogue": row["provenance"]["dialogue"],
            "interval": interval(row["provenance"]["turn"], row["provenance"]["turns"]),
            "seeker": len(row["instruction"]),
            "supporter": len(tag(Strategy(row["strategy"]), row["output"])),
        }
        for row in rows
    )
    if turns.empty:
        raise EscError("the training set is empty; run 'make data' first")
    n, dialogues = len(turns), turns["dialogue"].nunique()
    seeker, supporter = turns["seeker"].mean(), turns["supporter"].mean()
    counts = (dialogues, 2 * n, n, n, 2 * n / dialogues, n / dialogues)
    names = [strategy.value for strategy in Strategy]
    shares = pd.crosstab(turns["interval"], turns["strategy"], normalize="index")
    figure_8 = shares.reindex(index=range(len(INTERVALS)), columns=names, fill_value=0.0)
    numbers = (*counts, (seeker + supporter) / 2, supporter, seeker)
    return {
        "table_1": dict(zip(PAPER_TABLE_1, map(float, numbers), strict=True)),
        "table_6": turns["strategy"].value_counts().reindex(names, fill_value=0).to_dict(),
        "figure_8": figure_8.to_dict("records"),
    }


def tables(found: Row) -> dict[str, Any]:
    """Heading to a frame of texts: each number beside the paper's."""
    import pandas as pd

    table_1 = pd.DataFrame({"here": found["table_1"], "paper": PAPER_TABLE_1})
    paper = [PAPER_TABLE_6.get(strategy.code) for strategy in Strategy]
    counts = pd.DataFrame({"here": found["table_6"].values(), "paper": paper}, dtype=float)
    table_6 = counts.map("{:,.0f}".format).join(
        (counts / counts.sum()).map("{:.2%}".format), rsuffix=", share"
    )
    table_6.index = pd.Index([f"{strategy} ({strategy.code})" for strategy in Strategy])
    figure_8 = pd.DataFrame(found["figure_8"], index=INTERVALS).map("{:.1%}".format)
    figure_8.columns = pd.Index([strategy.code for strategy in Strategy])
    return {
        "Table 1, upper half": table_1.map(lambda value: f"{value:,.2f}".removesuffix(".00")),
        "Table 6": table_6.replace(["nan", "nan%"], "not in it"),
        "Figure 8: share of each strategy (the paper prints no numbers)": figure_8,
    }


def page(title: str, notes: Iterable[str], tables: dict[str, Any]) -> str:
    """Markdown of frames of texts by their headings."""
    text = "\n\n".join([f"# {title}", *notes])
    for heading, table in tables.items():
        align = ["left"] + ["right"] * table.shape[1]
        shown = table.to_markdown(colalign=align, disable_numparse=True)
        text += f"\n\n## {heading}\n\n{shown}"
    return text + "\n"


def notes_on(manifest: Row) -> list[str]:
    """What a reader must know of the numbers: the smoke mark, options that are not the paper's."""
    options, corpus = manifest["options"], manifest["corpus"]
    other = f"the numbers here are of another corpus ({corpus['origin']})"
    if manifest["smoke"]:
        other = "SMOKE: the numbers here are of the sample corpus, no result"
    notes = {
        other: corpus["kind"] != "esconv",
        f"a subset: LIMIT={options['LIMIT']} dialogues per split": options["LIMIT"],
        f"split {options['SPLIT']}, not the paper's": options["SPLIT"] != "paper",
        f"consecutive supporter utterances: {options['CONSECUTIVE']}": (
            options["CONSECUTIVE"] != "separate"
        ),
    }
    return [note for note, holds in notes.items() if holds]


@cli.command(
    examples="  python -m data_builders stats\n  python -m data_builders stats --work demo"
)
def main(work: cli.Work = Path()) -> None:
    """The figures of the training set beside the paper's: Table 1, Table 6 and Figure 8."""
    manifest = files.read_json(work / paths.MANIFEST, made_by="make data")
    notes = notes_on(manifest)
    found = statistics(files.read_jsonl(work / paths.sft_file("rg", "train")))
    text = page("The training set beside the paper", notes, tables(found))
    written = work / paths.STATS
    files.write_text(written.with_name("stats.md"), text)
    table_6 = {s.value: PAPER_TABLE_6[s.code] for s in Strategy if s.code in PAPER_TABLE_6}
    paper = {"table_1": PAPER_TABLE_1, "table_6": table_6, "figure_8": None}
    told = {"notes": notes, "options": manifest["options"], "here": found, "paper": paper}
    files.write_json(written, told)
    print(f"{text}written  {written}, stats.md")
