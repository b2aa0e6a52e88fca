"""The paper: how it is cited, and every number that it prints in its Tables 1 to 6."""

from pathlib import Path

import yaml

from data_builders import stats
from esc.psych_errors import PsychError
from mining.stats import PAPER_COLUMNS, PAPER_TABLE_1

TITLE = (
    "DecoupledESC: Enhancing Emotional Support Generation via Strategy-Response Decoupled "
    "Preference Optimization"
)
AUTHORS = (
    "Chao Zhang", "Xin Shi", "Xueqiao Zhang", "Yifan Zhu", "Yi Yang", "Yawei Luo",
)  # fmt: skip
BIBTEX = f"""@misc{{zhang-decoupledesc,
  title = {{{{{TITLE}}}}},
  author = {{{" and ".join(f"{last}, {first}" for first, last in map(str.split, AUTHORS))}}}
}}"""
"""It prints no year and no venue."""

DIMENSIONS = ("Fluency", "Professionalism", "Empathy", "Helpfulness")
TABLE_1_ESCONV, TABLE_6 = stats.PAPER_TABLE_1, stats.PAPER_TABLE_6
"""Table 1, upper half (the paper prints 28.40 and 14.20 in one row, by column); Table 6, supporter
turns by the paper's short names of strategies, 14,763 together."""
TABLE_1_COLUMNS, TABLE_1_PAIRS = PAPER_COLUMNS, PAPER_TABLE_1
"""Table 1, lower half; values by TABLE_1_COLUMNS."""
_PRINTED = yaml.safe_load((Path(__file__).parent / "report" / "paper.yaml").read_text("utf-8"))
TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6_SHARES = (
    _PRINTED[name] for name in ("TABLE_2", "TABLE_3", "TABLE_4", "TABLE_5", "TABLE_6_SHARES")
)
"""The paper's column of a backbone to a row to its values; shares by short name."""
RQ4 = {PsychError.NONE: 7.0}
"""Share of replies without an error, Decoupled DPO less SFT, in points (section 6.2)."""


def columns(model: str) -> dict[str, str]:
    """What a value is called beside a backbone's, to the paper's column it is from.

    Its own column where the paper has the backbone, else both.
    """
    known = {"qwen2.5-7b": "Qwen", "llama3.1-8b": "Llama"}
    return {"paper": known[model]} if model in known else {one: one for one in known.values()}
