"""What a user asks of a prediction, and everything that decides its records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import built, files, paths, prompts, smoke
from esc.files import Row
from esc.paper_systems import PROMPT_BASELINES, tasks_of
from esc.turns import GoldTurn
from eval import systems
from eval.systems import Setting

FORMAT = 2
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

    @property
    def folder(self) -> Path:
        """Of the predictions."""
        setting = self.setting
        return self.work / paths.run(self.model, self.system, setting.stage, setting.lineage)

    @property
    def models(self) -> list[str]:
        """The served names the system asks."""
        return sorted({self.setting.model(task) for task in tasks_of(self.system)})


def options_of(asked: Asked, weights: dict[str, str], turns: Sequence[GoldTurn]) -> Row:
    """Everything that decides the records, under the names a user knows."""
    manifest = built.manifest(asked.work)
    texts = built.system_prompts()
    if asked.system in PROMPT_BASELINES:
        stem = asked.system.replace("-", "_")
        names = sorted(path.name for path in systems.TEMPLATES.glob(f"{stem}*.j2"))
        texts += [prompts.source(systems.TEMPLATES, name) for name in names]
    return {
        "format": FORMAT,
        "MODEL": asked.model,
        "SYSTEM": asked.system,
        "STAGE": asked.setting.stage,
        "VARIANT": asked.setting.lineage.variant,
        "ROUND": asked.setting.lineage.round,
        "SET": asked.split,
        "LIMIT": asked.limit,
        "DECODE": asked.setting.decode,
        "reply_tokens": asked.setting.reply_tokens,
        "TEMPERATURE": asked.setting.temperature,
        "top_p": asked.setting.top_p,
        "turns": len(turns),
        "weights": weights,
        "prompts": files.sha256_of(texts),
        "data": manifest["sets"][paths.sft_file("rg", asked.split)]["sha256"],
        "smoke": smoke.is_smoke(asked.model, asked.work),
    }
