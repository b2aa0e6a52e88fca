"""The sets that lie in ``data/``, with what their manifests say of them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esc import built, commands, files, paths
from esc.exceptions import EscError
from esc.files import Row
from esc.forms import TASKS
from esc.strategies import Strategy

WANTED = "wanted"
"""What stands for the error of a single reply that has none."""


@dataclass(frozen=True, slots=True)
class SetFile:
    """One file of a set."""

    file: str
    """Relative to ``data/``."""
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BuiltSet:
    """One registered set of SFT rows, or of mined pairs or single replies."""

    name: str
    """``esc_sp_sft``, ``esc_rg_dpo_qwen2.5-7b`` …"""
    task: str
    kind: str
    """``sft``, ``dpo`` or ``kto``."""
    splits: dict[str, SetFile]
    mined: Row | None = None
    """Of a mined set: who sampled and who judged."""
    errors: dict[str, int] | None = None
    """Of a mined set: rows by the unwanted reply's error."""


@dataclass(frozen=True, slots=True)
class Sets:
    """All that is published of a WORK."""

    manifest: Row
    built: tuple[BuiltSet, ...]
    strategies: dict[str, dict[Strategy, int]]
    """Split to supporter turns of each strategy."""
    left_out: tuple[str, ...]
    """Mined sets that do not belong to the built ones."""

    @property
    def kind(self) -> str:
        """``esconv``, ``failed-esconv``, ``sample`` or ``other``."""
        return str(self.manifest["corpus"]["kind"])

    @property
    def smoke(self) -> bool:
        """Whether any of them is of the sample corpus, the embedded model or a random judge."""
        return bool(self.manifest["smoke"]) or any(
            one.mined is not None and one.mined["smoke"] for one in self.built
        )


def sets_of(work: Path) -> Sets:
    """The sets under ``work``; EscError where none are built, or a file is not its manifest's."""
    manifest = built.manifest(work)
    sft = tuple(
        BuiltSet(
            paths.sft_dataset(task),
            task,
            "sft",
            {split: _file(work, paths.sft_file(task, split), manifest) for split in paths.SPLITS},
        )
        for task in TASKS
    )
    mined: list[BuiltSet] = []
    left_out = []
    here = built.train_set(manifest)
    for path in sorted(paths.data(work).glob("esc_*.manifest.json")):
        one: Row = files.read_json(path)
        if changed := files.differences(one["provenance"]["data"], here):
            left_out.append(
                f"the sets of {path.name}: mined from other train turns than are built now "
                f"({'; '.join(changed)})"
            )
            continue
        mined += _mined(work, one)
    counts = {split: _strategies(work / paths.sft_file("rg", split)) for split in paths.SPLITS}
    return Sets(manifest, (*sft, *mined), counts, tuple(left_out))


def _mined(work: Path, manifest: Row) -> list[BuiltSet]:
    found = []
    for name, facts in manifest["sets"].items():
        named = paths.preference_of(name)
        if named is None or not facts["rows"]:
            continue
        task, _, lineage = named
        file = paths.preference_file(name)
        one = _file(work, file, manifest | {"sets": {file: facts}})
        mined = manifest["provenance"] | {"smoke": manifest["smoke"]}
        errors = Counter(_error(row) for row in files.read_jsonl(work / file))
        found.append(
            BuiltSet(name, task, lineage.kind, {"train": one}, mined, dict(errors.most_common()))
        )
    return found


def _error(row: Row) -> str:
    """What is wrong with the unwanted reply of a row; a pair of others may not say."""
    return str(row["error"] or (WANTED if row.get("label") else "not said"))


def _file(work: Path, name: str, manifest: dict[str, Any]) -> SetFile:
    path, facts = work / name, manifest["sets"][name]
    if not path.is_file() or files.sha256(path) != facts["sha256"]:
        again = commands.make("data", work=work)
        raise EscError(
            f"{path} is not the file that its manifest describes (gone, or changed since); {again} "
            "builds SFT sets anew, the mining targets mined ones"
        )
    return SetFile(path.name, facts["rows"], facts["sha256"])


def _strategies(path: Path) -> dict[Strategy, int]:
    counts = Counter(Strategy(row["strategy"]) for row in files.read_jsonl(path))
    return {strategy: counts[strategy] for strategy in Strategy}
