"""LLaMA-Factory's registry of data sets, ``dataset_info.json``: written here, merged elsewhere.

In a registry that is there, only this kit's entries are added or updated; entries of others keep
their values and their order, and the file its indentation.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
import yaml

from esc import backbones, cli, files, paths
from esc.files import EscError, Row
from esc.paths import OWN_SETS, TURN, Lineage
from esc.prompts import TASKS

_FORMS: dict[str, Row] = yaml.safe_load(Path(__file__).with_name("forms.yaml").read_text())


def entries(registered: Iterable[str] = ()) -> dict[str, Row]:
    """Registered name to entry for every set of the kit; file names relative to the registry.

    Of the mined sets those of round 1, and those of later rounds among the names ``registered``.
    """
    models = backbones.table()
    mined = [
        (task, model, Lineage(variant, layout=layout))
        for model in models
        for task in TASKS
        for layout in paths.layouts(task)
        for variant in (None, "kto", *(OWN_SETS.get(task, ()) if layout == TURN else ()))
    ]
    mined += [one for name in registered if (one := paths.preference_of(name)) and one[1] in models]
    return {
        paths.sft_dataset(task, split, layout): {"file_name": paths.sft_file(task, split, layout)}
        | _FORMS[task if layout == TURN else "vanilla"]
        for task in TASKS
        for layout in paths.layouts(task)
        for split in paths.SPLITS
    } | dict(preference_entry(*one) for one in mined)


def preference_entry(task: str, model: str, lineage: Lineage) -> tuple[str, Row]:
    """(registered name, entry) of a mined set."""
    name = paths.preference_dataset(task, model, lineage)
    return name, {"file_name": paths.preference_file(name)} | _FORMS[lineage.kind]


def write_for(work: Path, later: dict[str, Row] | None = None) -> None:
    """Write the registry of ``work``; EscError where it has one of our names for another file."""
    path = work / paths.REGISTRY
    _merge(path, files.read_json(path, default={}), entries() | (later or {}))


def _merge(path: Path, held: Row, ours: dict[str, Row]) -> None:
    for name in held.keys() & ours.keys():
        there = held[name].get("file_name") if isinstance(held[name], dict) else held[name]
        if Path(str(there)).name != Path(ours[name]["file_name"]).name:
            raise EscError(
                f"the registry {path} already has {name!r} for another source ({there}); "
                "rename that entry first, nothing was changed"
            )
    if not held or held | ours != held:
        indented = re.search(r"\{\s*?\n([ \t]+)", path.read_text("utf-8-sig") if held else "")
        indent = indented[1] if indented else 2
        files.write_text(path, json.dumps(held | ours, ensure_ascii=False, indent=indent) + "\n")


@cli.command(
    examples="  python -m data_builders registry\n"
    "  python -m data_builders registry --into ../LLaMA-Factory/data/dataset_info.json"
)
def main(
    into: Annotated[
        Path | None, typer.Option(help="another registry to add the entries to")
    ] = None,
    work: cli.Work = Path(),
) -> None:
    """Write dataset_info.json, or add this kit's entries to the registry of another checkout.

    Those of later rounds that WORK has registered are among them.
    """
    if into is None:
        write_for(work)
        print(f"{work / paths.REGISTRY}: {len(entries())} entries")
        return
    # Relative names would be looked up beside that registry.
    ours = {
        name: entry | {"file_name": str((work / entry["file_name"]).resolve())}
        for name, entry in entries(files.read_json(work / paths.REGISTRY, default={})).items()
    }
    _merge(into, files.read_json(into), ours)
    made = [name for name, entry in ours.items() if Path(entry["file_name"]).is_file()]
    print(f"{into}: {len(ours)} entries of this kit, for the sets under {work / paths.DATA}")
    print(f"made        {len(made)}: {', '.join(made) or 'none'}; the others once they are")
