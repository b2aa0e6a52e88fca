"""What is known of one finished adapter: how it was trained, on what, and how it was measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from esc import adapters, commands, files, paths
from esc.backbones import EMBEDDED, Backbone
from esc.exceptions import EscError
from esc.files import Row
from esc.forms import TASKS
from esc.lineage import Lineage, of_suffix
from experiments.cards.found_sets import BuiltSet, Sets
from experiments.cards.scores import Scores, scores_of

FINISHED = "run.json"
"""A training's last file."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One finished training."""

    folder: Path
    served: Path
    """The folder to publish: for a preference training the adapter composed with what it is on."""
    backbone: Backbone
    task: str
    stage: str
    lineage: Lineage
    sets: Sets
    trained_on: BuiltSet
    options: Row
    facts: Row
    """Of ``run.json``: steps, first and last loss, seconds."""
    recipe: dict[str, Any]
    drift: Row | None
    scores: tuple[Scores, ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def smoke(self) -> bool:
        """Whether it is of the embedded model, the sample corpus or a random judge."""
        mined = self.trained_on.mined
        return (
            self.backbone.name == EMBEDDED
            or bool(self.facts["smoke"])
            or bool(self.sets.manifest["smoke"])
            or bool(mined and mined["smoke"])
        )


def read_trained(folder: Path, work: Path, backbone: Backbone, sets: Sets) -> Trained:
    """The training in ``folder``.

    Raises EscError where its weights are missing or not composed, or it was trained on other sets
    than are there now: then nothing says under which licence, or of which corpus, it is.
    """
    of_name = named(folder)
    assert of_name is not None, "asked for trainings alone"
    task, stage, lineage = of_name
    adapters.check(folder, work, backbone.name)
    served = adapters.folder(work, backbone.name, adapters.served_name(task, stage, lineage))
    options: Row = files.read_json(folder / "options.json")
    trained_on = _trained_on(options, sets)
    if trained_on is None:
        again = commands.make(f"{stage}-{task}", work=work, model=backbone.name)
        raise EscError(
            f"{folder} was trained on other sets than are in {paths.data(work)} now; build those "
            f"again (its options.json names them), or {again} FORCE=1"
        )
    drift = folder / "drift.json"
    return Trained(
        folder=folder,
        served=served,
        backbone=backbone,
        task=task,
        stage=stage,
        lineage=lineage,
        sets=sets,
        trained_on=trained_on,
        options=options,
        facts=files.read_json(folder / FINISHED),
        recipe=_recipe(folder / "recipe.yaml"),
        drift=files.read_json(drift) if drift.is_file() else None,
        scores=tuple(scores_of(work, backbone.name, adapters.fingerprint(served))),
    )


def named(folder: Path) -> tuple[str, str, Lineage] | None:
    """(task, stage, lineage) that a folder's name says, or None where it is no training's."""
    task, stage, suffix = (*folder.name.split("_", maxsplit=2), "", "")[:3]
    lineage = of_suffix(f"_{suffix}" if suffix else "")
    if lineage is None or task not in TASKS or stage not in ("sft", "dpo"):
        return None
    return None if stage == "sft" and suffix else (task, stage, lineage)


def _recipe(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise EscError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict) or "stage" not in found:
        raise EscError(f"{path} is no recipe of LLaMA-Factory: it has no stage")
    return found


def _trained_on(options: Row, sets: Sets) -> BuiltSet | None:
    digest = options["training set"]
    return next((one for one in sets.built if one.splits["train"].sha256 == digest), None)
