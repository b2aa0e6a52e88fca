"""Makes TRL use the loss that LLaMA-Factory is asked for; runs inside it, imports nothing of ours.

LLaMA-Factory 0.9.5 tells TRL the loss by the trainer's ``loss_type``. Since 0.20, TRL takes it as
an argument instead, sigmoid where it is not given: ``pref_loss: ipo`` then trains the sigmoid loss
without a word. Python imports this module when it starts, where its folder is on PYTHONPATH.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any

TRAINER = "trl.trainer.dpo_trainer"


class _WhenImported(MetaPathFinder):
    """Lets the trainer's module load as ever, then has it take the loss from the trainer."""

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        if name != TRAINER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            _take_loss_from(module.DPOTrainer)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _take_loss_from(trainer: Any) -> None:
    dpo_loss = trainer.dpo_loss

    def as_asked(self: Any, *logps: Any, **named: Any) -> Any:
        return dpo_loss(self, *logps, **{"loss_type": self.loss_type, **named})

    trainer.dpo_loss = as_asked


sys.meta_path.insert(0, _WhenImported())
