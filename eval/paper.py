"""The paper: how it is cited, and every number that it prints in its Tables 1 to 6."""

from pathlib import Path

import yaml

from esc import paths
from esc.psych_errors import PsychError

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
_FILES = (paths.ROOT / "data_builders" / "paper.yaml", Path(__file__).parent / "report/paper.yaml")
_PRINTED = {k: v for one in _FILES for k, v in yaml.safe_load(one.read_text("utf-8")).items()}
TABLE_1_ESCONV, TABLE_6 = _PRINTED["TABLE_1_ESCONV"], _PRINTED["TABLE_6"]
"""Table 1, upper half (the paper prints 28.40 and 14.20 in one row, by column); Table 6, supporter
turns by the paper's short names of strategies, 14,763 together."""
TABLE_1_COLUMNS, TABLE_1_PAIRS = _PRINTED["TABLE_1_COLUMNS"], _PRINTED["TABLE_1_PAIRS"]
"""Table 1, lower half; values by TABLE_1_COLUMNS."""
TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6_SHARES = (
    _PRINTED[name] for name in ("TABLE_2", "TABLE_3", "TABLE_4", "TABLE_5", "TABLE_6_SHARES")
)
"""The paper's column of a backbone to a row to its values; shares by short name."""
RQ4 = {PsychError.NONE: 7.0}
"""Share of replies without an error, Decoupled DPO less SFT, in points (section 6.2)."""

SEEKERS = _PRINTED["SEEKERS"]
"""What ESConv's seekers of the paper's test split said before and after; no number of the paper."""


def columns(model: str) -> dict[str, str]:
    """What a value is called beside a backbone's, to the paper's column it is from.

    Its own column where the paper has the backbone, else both.
    """
    known = {"qwen2.5-7b": "Qwen", "llama3.1-8b": "Llama"}
    return {"paper": known[model]} if model in known else {one: one for one in known.values()}
