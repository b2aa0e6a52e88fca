"""Figure 6: what people chose, from the votes that ``eval human`` counted."""

from collections.abc import Sequence
from pathlib import Path

from esc.backbones import EMBEDDED
from eval import paper_values
from eval.report.cells import of_share
from eval.report.figures import NO_NUMBERS, STACKED, gap
from eval.report.page import Figure, Table, TableRow, Todo
from eval.report.shapes import Voted
from eval.report.sources import Sources

_VOTED = ("decoupled_dpo", "vanilla_dpo")


def figure_6(sources: Sources, models: Sequence[str]) -> Figure:
    """Figure 6: people's choice between two systems; EscError where a file has another shape."""
    rows, notes, todo = [], [], []
    for model in models:
        path = Path("runs") / model / "human" / "human.json"
        a, b = (f"{sources.work / 'runs' / model / name}/predictions.jsonl" for name in _VOTED)
        make = f"python -m eval human --a {a} --b {b} --out {(sources.work / path).parent}"
        found = sources.known(path, Voted, f"{make} --read FILES")
        if found is None:
            rows += [TableRow(name, gap(3), model) for name in paper_values.DIMENSIONS]
            todo.append(Todo(f"{model} votes", f"{make}, then --read with the sheets filled in"))
            continue
        first, second = found.a.get("name", "a"), found.b.get("name", "b")
        notes.append(
            f"{model}: {first} against {second}, {len(found.annotators)} annotators; intervals and "
            "sign tests are over turns."
        )
        for name, votes in found.dimensions.items():
            shares = (votes.win, votes.tie, votes.lose)
            cells = tuple(
                of_share(one, votes.n, smoke=found.smoke or model == EMBEDDED) for one in shares
            )
            rows.append(TableRow(name, cells, model))
            if said := votes.sign_test.get("said"):
                notes.append(f"{model}, {name}: {said}.")
    table = Table(
        "figure-6",
        "Figure 6: people's choice, Decoupled DPO against Vanilla DPO",
        "dimension",
        ("win", "tie", "lose"),
        tuple(rows),
        (*notes, NO_NUMBERS),
        tuple(todo),
    )
    return Figure(table, STACKED, "share of the turns (%)")
