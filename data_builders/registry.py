"""LLaMA-Factory's registry of data sets, ``dataset_info.json``: written here, merged elsewhere.

    python -m data_builders registry                                  # write ./dataset_info.json
    python -m data_builders registry --into PATH/dataset_info.json    # add to another checkout

Into another registry only this kit's entries are added or updated, those of later rounds that WORK
has registered among them; entries of others keep their values and their order, and the file its
indentation.
"""

import json
import re
from pathlib import Path
from typing import Any

from esc import backbones, cli, files, paths
from esc.exceptions import EscError
from esc.paths import MIXES, Lineage
from esc.prompts import TASKS

Entry = dict[str, Any]

# Once "columns" or "tags" is given, LLaMA-Factory takes every column or tag not listed for absent.
_ALPACA = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
}
_SHAREGPT = {"messages": "conversations", "system": "system"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_SFT: dict[str, Entry] = {
    "sp": {"formatting": "alpaca", "columns": _ALPACA},
    "rg": {"formatting": "alpaca", "columns": _ALPACA | {"history": "history"}},
    "vanilla": {"formatting": "sharegpt", "columns": _SHAREGPT, "tags": _TAGS},
}
_DPO: Entry = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": _SHAREGPT | {"chosen": "chosen", "rejected": "rejected"},
    "tags": _TAGS,
}
_KTO: Entry = {
    "formatting": "sharegpt",
    "columns": _SHAREGPT | {"kto_tag": "label"},
    "tags": _TAGS,
}


def entries() -> dict[str, Entry]:
    """Registered name to entry for every set of the kit; file names relative to the registry.

    Of the mined sets those of round 1, for every backbone; `preference` adds those of later rounds.
    """
    sft = {
        paths.sft_dataset(task, split): {"file_name": paths.sft_file(task, split)} | _SFT[task]
        for task in TASKS
        for split in paths.SPLITS
    }
    mined = [
        preference_entry(task, model, Lineage(variant))
        for model in backbones.table()
        for task in TASKS
        for variant in (None, "kto", *(MIXES if task == "vanilla" else ()))
    ]
    return sft | dict(mined)


def preference_entry(task: str, model: str, lineage: Lineage) -> tuple[str, Entry]:
    """(registered name, entry) of a mined set."""
    name = paths.preference_dataset(task, model, lineage)
    kind = _KTO if lineage.kind == "kto" else _DPO
    return name, {"file_name": paths.preference_file(name)} | kind


def register(work: Path, ours: dict[str, Entry]) -> None:
    """Add entries to the registry of ``work``; everything else there stays as it is."""
    write_for(work)
    _merge_into(work / paths.REGISTRY, ours)


def write_for(work: Path) -> None:
    """Write the registry of ``work``; one that is there keeps the entries of others."""
    path = work / paths.REGISTRY
    if path.is_file():
        _merge_into(path, entries())
    else:
        files.write_text(path, render())


def render() -> str:
    """The text of this kit's own registry."""
    return json.dumps(entries(), indent=2) + "\n"


def merge(held: dict[str, Any], ours: dict[str, Entry]) -> dict[str, Any]:
    """The registry ``held`` with ``ours`` added or updated, all else as it was.

    Raises EscError where an entry of one of our names is for another file.
    """
    for name in held.keys() & ours.keys():
        _refuse_clash(name, held[name], ours[name])
    return held | ours


def _refuse_clash(name: str, present: Any, entry: Entry) -> None:
    other = _file_of(present)
    if not isinstance(other, str) or Path(other).name != Path(entry["file_name"]).name:
        raise EscError(
            f"the registry already has {name!r} for another source ({other}); "
            "rename that entry first, nothing was changed"
        )


def _file_of(present: Any) -> Any:
    return present.get("file_name") if isinstance(present, dict) else present


def _merge_into(path: Path, ours: dict[str, Entry]) -> bool:
    """Whether ``path`` had to be changed to hold ``ours``."""
    held = files.read_json(path)
    merged = merge(held, ours)
    if merged == held:
        return False
    indented = re.search(r"\{\s*?\n([ \t]+)", path.read_text(encoding="utf-8-sig"))
    indent = indented[1] if indented else 2
    files.write_text(path, json.dumps(merged, ensure_ascii=False, indent=indent) + "\n")
    return True


def _into(path: Path, work: Path) -> None:
    # Relative names would be looked up beside that registry.
    ours = {
        name: entry | {"file_name": str((work / entry["file_name"]).resolve())}
        for name, entry in (entries() | _registered(work)).items()
    }
    changed = _merge_into(path, ours)
    print(
        f"{path}: {len(ours)} entries of this kit, for the sets under {paths.data(work)}"
        + ("" if changed else " (all there already)")
    )
    made = [name for name, entry in ours.items() if Path(entry["file_name"]).is_file()]
    print(f"made        {len(made)}: {', '.join(made) or 'none'}")
    print(f"not made    {len(ours) - len(made)}, registered for when they are")


def _registered(work: Path) -> dict[str, Entry]:
    """The mined sets in the registry of ``work``, of later rounds too."""
    path = work / paths.REGISTRY
    held = files.read_json(path) if path.is_file() else {}
    mined = dict(preference_entry(*known) for known in map(paths.preference_of, held) if known)
    # An entry of such a name for a file of another name is somebody's own.
    return {n: e for n, e in mined.items() if _file_of(held[n]) == e["file_name"]}


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m data_builders registry",
        description=__doc__,
        examples=(
            "  python -m data_builders registry\n"
            "  python -m data_builders registry --into ../LLaMA-Factory/data/dataset_info.json"
        ),
    )
    parser.add_argument("--into", type=Path, help="another registry to add the entries to")
    cli.add_work(parser)
    arguments = parser.parse_args(argv)
    if arguments.into:
        _into(arguments.into, arguments.work)
    else:
        write_for(arguments.work)
        print(f"{arguments.work / paths.REGISTRY}: {len(entries())} entries")
