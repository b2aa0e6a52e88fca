"""What the training set holds, beside the paper: Table 1 (upper half), Table 6 and Figure 8.

Reads ``data/rg_sft_train.jsonl``; writes ``data/stats/stats.json`` and ``stats.md``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from esc import cli, files, paths, step
from esc.dialogue import INTERVALS, interval
from esc.files import EscError, Row
from esc.records import Built
from esc.strategies import HASH, Strategy, tag

PAPER: Row = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text())
"""What the paper prints of its data."""
PAPER_TABLE_1, PAPER_TABLE_6 = PAPER["TABLE_1_ESCONV"], PAPER["TABLE_6"]


def statistics(rows: Iterable[Row]) -> Row:
    """``table_1``, ``table_6`` and ``figure_8`` of RG rows of one split; EscError without any.

    A supporter's characters count the strategy's tag. Figure 8 is by interval of progress, then
    strategy: shares, 0 to 1.
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


def _tables(found: Row) -> dict[str, Any]:
    """Heading to a frame of texts: each number beside the paper's."""
    import pandas as pd

    table_1 = pd.DataFrame({"here": found["table_1"], "paper": PAPER_TABLE_1})
    paper = [PAPER_TABLE_6.get(strategy.code) for strategy in Strategy]
    counts = pd.DataFrame({"here": found["table_6"].values(), "paper": paper}, dtype=float)
    shares = (counts / counts.sum()).map("{:.2%}".format)
    table_6 = counts.map("{:,.0f}".format).join(shares, rsuffix=", share")
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
    parts = [f"# {title}", *notes]
    for heading, table in tables.items():
        align = ["left"] + ["right"] * table.shape[1]
        parts += [f"## {heading}", table.to_markdown(colalign=align, disable_numparse=True)]
    return "\n\n".join(parts) + "\n"


def _notes_on(manifest: Built) -> list[str]:
    """What a reader must know of the numbers: the smoke mark, options that are not the paper's."""
    options, corpus = manifest.options, manifest.corpus
    other = f"the numbers here are of another corpus ({corpus.origin})"
    if manifest.smoke:
        other = "SMOKE: the numbers here are of the sample corpus, no result"
    papers = {"LIMIT": None, "SPLIT": "paper", "CONSECUTIVE": "separate"}
    changed = [f"not as in the paper: {n}={options[n]}" for n in papers if options[n] != papers[n]]
    return [other] * (corpus.kind != "esconv") + changed


@cli.command(
    examples="  python -m data_builders stats\n  python -m data_builders stats --work demo"
)
def main(work: cli.Work = Path()) -> None:
    """The figures of the training set beside the paper's: Table 1, Table 6 and Figure 8."""
    manifest = step.built(work)
    notes = _notes_on(manifest)
    found = statistics(files.read_jsonl(work / paths.sft_file("rg", "train")))
    text = page("The training set beside the paper", notes, _tables(found))
    written = work / paths.STATS
    files.write_text(written.with_name("stats.md"), text)
    table_6 = {s.value: PAPER_TABLE_6[s.code] for s in Strategy if s.code in PAPER_TABLE_6}
    paper = {"table_1": PAPER_TABLE_1, "table_6": table_6, "figure_8": None}
    told = {"notes": notes, "options": manifest.options, "here": found, "paper": paper}
    told["list"] = HASH
    files.write_json(written, told)
    print(f"{text}written  {written}, stats.md")
