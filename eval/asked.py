"""What a user asks of a prediction, and everything that decides its records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import adapters, backbones, files, forms, paths, prompts, smoke
from esc.chat.budget import Budget
from esc.chat.policy import Policy
from esc.exceptions import EscError
from esc.files import Row
from esc.turns import GoldTurn
from eval import systems
from eval.systems import PROMPT_BASELINES, Setting

FORMAT = 1
"""Raised with every change of a record's meaning."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of a prediction."""

    model: str
    work: Path
    system: str
    setting: Setting
    split: str
    limit: int | None
    base_urls: str | None
    budget: Budget
    policy: Policy
    timeout: float

    @property
    def models(self) -> list[str]:
        """The served names the system asks."""
        tasks = systems.TASKS.get(self.system, ("vanilla",))
        return sorted({self.setting.model(task) for task in tasks})


def weights_of(asked: Asked) -> dict[str, str]:
    """Served name to a hash of what answers under it.

    Raises EscError where an adapter is not trained. An adapter that is only on another machine's
    server is known by its name alone.
    """
    backbone = backbones.get(asked.model)
    found = {}
    for name in asked.models:
        if name == adapters.BASE:
            found[name] = _base_identity(backbone)
            continue
        try:
            found[name] = adapters.fingerprint(adapters.folder(asked.work, asked.model, name))
        except EscError:
            if not asked.base_urls:
                raise
            found[name] = "unknown: served elsewhere"
    return found


def _base_identity(backbone: backbones.Backbone) -> str:
    if backbone.name != backbones.EMBEDDED:
        return backbone.path
    manifest = files.read_json(Path(backbone.location) / "manifest.json", made_by="make model")
    return str(manifest["gguf_sha256"])


def options_of(asked: Asked, weights: dict[str, str], turns: Sequence[GoldTurn]) -> Row:
    """Everything that decides the records, under the names a user knows."""
    manifest = files.read_json(paths.data_manifest(asked.work), made_by="make data")
    texts = [prompts.source(forms.TEMPLATES, name) for name in forms.PROMPTS]
    if files.sha256_of(texts) != manifest["options"]["prompts"]:
        raise EscError(
            f"the sets in {paths.data(asked.work)} were built with other system prompts; set "
            "PROMPTS_DIR as it was then, or build and train again"
        )
    if asked.system in PROMPT_BASELINES:
        stem = asked.system.replace("-", "_")
        names = sorted(path.name for path in systems.TEMPLATES.glob(f"{stem}*.j2"))
        texts += [prompts.source(systems.TEMPLATES, name) for name in names]
    return {
        "format": FORMAT,
        "MODEL": asked.model,
        "SYSTEM": asked.system,
        "STAGE": asked.setting.stage,
        "SET": asked.split,
        "LIMIT": asked.limit,
        "DECODE": asked.setting.decode,
        "TEMPERATURE": asked.setting.temperature,
        "turns": len(turns),
        "weights": weights,
        "prompts": files.sha256_of(texts),
        "data": manifest["sets"][paths.sft_file("rg", asked.split)]["sha256"],
        "smoke": smoke.is_smoke(asked.model, asked.work),
    }
