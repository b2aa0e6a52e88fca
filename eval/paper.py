"""The paper: how it is cited, and every number that it prints in its Tables 1 to 6, as it has them.

Its Figures 2 to 4 and 6 to 9 carry no printed numbers; those of Figure 10 are Table 1's.
"""

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

BACKBONES = {"qwen2.5-7b": "Qwen", "llama3.1-8b": "Llama"}
"""This kit's name of a backbone to the paper's column."""

TABLE_1_ESCONV, TABLE_6 = stats.PAPER_TABLE_1, stats.PAPER_TABLE_6
"""Table 1, upper half (the paper prints 28.40 and 14.20 in one row, by column); Table 6, supporter
turns by the paper's short names of strategies, 14,763 together."""
TABLE_1_COLUMNS, TABLE_1_PAIRS = PAPER_COLUMNS, PAPER_TABLE_1
"""Table 1, lower half; values by TABLE_1_COLUMNS."""

DIMENSIONS = ("Fluency", "Professionalism", "Empathy", "Helpfulness")


def _table(text: str) -> dict[str, dict[str, tuple[float | None, ...]]]:
    """Column of the paper, then name of a row, to its values; a dash is none."""
    found: dict[str, dict[str, tuple[float | None, ...]]] = {}
    for column, name, *values in map(str.split, text.strip().splitlines()):
        told = tuple(None if value == "-" else float(value) for value in values)
        found.setdefault(column, {})[name] = told
    return found


TABLE_2 = _table("""
Qwen  chosen    3.82  3.52  3.20  2.95
Qwen  rejected  3.65  3.09  2.41  2.32
Qwen  improve   4.66 13.92 32.78 27.16
Llama chosen    3.99  3.74  3.33  3.09
Llama rejected  3.93  3.21  2.40  2.39
Llama improve   1.53 16.52 38.75 29.29
""")
"""Table 2; values by DIMENSIONS, ``improve`` in per cent."""

METRICS = ("D-1", "B-1", "F1", "R-L", "Flu.", "Pro.", "Emp.", "Hel.", "bias", "Q_w", "Q")
"""The columns of Tables 3 and 5."""
TABLE_3 = _table("""
Qwen  vanilla_base       93.50  9.75 14.92 12.59  3.55  2.53  1.89  1.38  2.17  8.41  8.06
Qwen  direct-refine_base 95.79 10.91 16.26 14.35  4.17  2.97  2.20  1.77  1.54 13.52 10.46
Qwen  self-refine_base   97.04 10.28 15.85 13.85  3.68  2.64  1.94  1.34  1.45 10.92  9.63
Qwen  emotional-cot_base 97.17 10.61 16.07 14.06  3.95  2.70  2.50  1.51  1.87  6.89  6.63
Qwen  vanilla_sft        90.93 15.61 20.99 17.78  3.30  2.61  2.29  2.12  0.31 24.89 20.27
Qwen  vanilla_dpo        88.13 16.23 21.24 18.03  3.47  2.67  2.36  2.23  0.30 22.25 18.97
Qwen  decoupled_base     97.55 10.97 16.33 14.19  3.92  2.71  2.17  1.38  1.92 13.96 12.07
Qwen  decoupled_sft      91.37 16.69 22.15 18.76  3.93  2.72  2.40  2.11  0.27 26.94 21.37
Qwen  decoupled_dpo      89.84 17.73 22.86 19.31  3.99  2.90  2.54  2.02  0.22 27.09 21.77
Llama vanilla_base       95.09 12.38 16.85 14.01  4.35  3.21  2.36  1.76  1.03 15.74     -
Llama direct-refine_base 90.07 11.36 14.97 12.79  3.35  2.82  2.16  1.35  1.72 12.12  9.98
Llama self-refine_base   87.18 10.72 14.26 12.20  3.53  2.95  2.40  1.45  1.68 13.93 12.00
Llama emotional-cot_base 77.32 10.06 13.32 11.33  3.24  2.88  2.56  1.63  1.86 13.31 11.35
Llama vanilla_sft        91.29 15.75 21.38 18.11  3.31  2.52  2.22  2.06  0.26 24.54 19.97
Llama vanilla_dpo        91.25 15.15 20.49 17.25  3.41  2.79  2.41  2.28  0.28 24.00 19.89
Llama decoupled_base     94.65 12.67 16.70 14.01  4.24  3.24  2.34  1.66  1.62  7.54  7.67
Llama decoupled_sft      91.51 16.97 22.42 19.12  3.87  2.74  2.39  1.95  0.23 26.03 21.36
Llama decoupled_dpo      90.35 17.50 22.59 19.16  3.81  2.73  2.64  2.17  0.15 27.10 22.94
""")
"""Table 3 by the name of this kit's run; values by METRICS. Of Llama's first row the last value is
cut off in the text of the paper at hand."""

TABLE_4 = _table("""
Qwen  decoupled-gold_sft  3.66  3.02  2.51  2.37
Qwen  decoupled-gold_dpo  3.77  3.26  2.75  2.67
Llama decoupled-gold_sft  3.67  3.18  2.71  2.52
Llama decoupled-gold_dpo  3.94  3.44  2.90  2.73
""")
"""Table 4; values by DIMENSIONS."""

TABLE_5 = _table("""
Qwen  vanilla_dpo_nsnr      89.38 15.93 20.94 17.75  3.31  2.64  2.34  2.15  0.26 25.60 21.69
Qwen  vanilla_dpo_nsnr_psnr 89.45 15.73 20.80 17.50  3.50  2.73  2.53  2.25  0.30 22.81 18.76
Qwen  vanilla_dpo_nsnr_nspr 90.83 15.32 20.78 17.53  3.19  2.54  2.17  2.13  0.29 22.91 18.63
Qwen  vanilla_dpo           88.13 16.23 21.24 18.03  3.47  2.67  2.36  2.23  0.30 22.25 18.97
Llama vanilla_dpo_nsnr      90.72 16.08 21.41 18.07  3.45  2.69  2.38  2.22  0.22 26.69 21.76
Llama vanilla_dpo_nsnr_psnr 91.19 15.92 21.30 17.92  3.48  2.68  2.45  2.26  0.29 23.82 19.71
Llama vanilla_dpo_nsnr_nspr 91.19 15.92 21.45 18.01  3.49  2.65  2.22  2.15  0.22 25.20 21.07
Llama vanilla_dpo           91.25 15.15 20.49 17.25  3.41  2.79  2.41  2.28  0.28 24.00 19.89
""")
"""Table 5 by the name of this kit's run; values by METRICS."""

TABLE_6_SHARES = {
    **{"Qu": 20.73, "RP": 5.81, "RF": 7.76, "Sd": 9.40},
    **{"AR": 15.50, "PS": 16.07, "In": 6.70, "Ot": 18.04},
}
"""Table 6 in per cent, as printed."""


def columns(model: str) -> dict[str, str]:
    """What a value is called beside a backbone's, to the paper's column it is from.

    Its own column where the paper has the backbone, else both.
    """
    if model in BACKBONES:
        return {"paper": BACKBONES[model]}
    return {column: column for column in BACKBONES.values()}


RQ4 = {PsychError.NONE: 7.0}
"""Share of replies without an error, Decoupled DPO less SFT, in points (section 6.2)."""
