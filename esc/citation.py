"""The paper that this kit follows, and how to cite it: as the paper's own first page has it."""

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
