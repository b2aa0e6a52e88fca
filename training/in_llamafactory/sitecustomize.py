"""Mends LLaMA-Factory and two of its libraries; runs there, imports nothing of ours.

Python imports this module when it starts, where its folder is on PYTHONPATH.

- The loss. LLaMA-Factory 0.9.5 tells TRL the loss by the trainer's ``loss_type``. Since 0.20, TRL
  takes it as an argument instead, sigmoid where it is not given: ``pref_loss: ipo`` then trains the
  sigmoid loss without a word.
- The labels. Under ``mask_history`` LLaMA-Factory 0.9.5 masks the earlier replies, but not the end
  token that a template with ``efficient_eos`` (gemma2, chatglm3 …) learns at the start of every
  turn after the first.
- The positions. Under FSDP, accelerate has a model's buffers rounded to bfloat16 with its weights,
  the frequencies of the rotary embedding among them: at token 1,000 the angles are off by up to a
  radian and more, and a server's are not.
- The chat template that is saved with the adapter is the training's, not the tokenizer's own:
  whoever loads the adapter's tokenizer gets the training's ids.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any


def _take_loss_from_trainer(module: Any) -> None:
    dpo_loss = module.DPOTrainer.dpo_loss

    def as_asked(self: Any, *logps: Any, **named: Any) -> Any:
        return dpo_loss(self, *logps, **{"loss_type": self.loss_type, **named})

    module.DPOTrainer.dpo_loss = as_asked


def _mask_all_before_the_last_reply(module: Any) -> None:
    processor, ignored = module.SupervisedDatasetProcessor, module.IGNORE_INDEX
    encode = processor._encode_data_example

    def masked(self: Any, *of_row: Any, **named: Any) -> tuple[list[int], list[int]]:
        input_ids, labels = encode(self, *of_row, **named)
        if self.data_args.mask_history:
            start = len(labels)
            while start and labels[start - 1] != ignored:
                start -= 1
            labels[:start] = [ignored] * start
        return input_ids, labels

    processor._encode_data_example = masked


def _keep_buffers_in_float32(module: Any) -> None:
    plugin = module.FullyShardedDataParallelPlugin
    set_mixed_precision = plugin.set_mixed_precision

    def in_float32(self: Any, mixed_precision: Any, **named: Any) -> None:
        set_mixed_precision(self, mixed_precision, **named | {"buffer_autocast": True})

    plugin.set_mixed_precision = in_float32


def _save_the_trainings_template(module: Any) -> None:
    def replaced(self: Any, tokenizer: Any) -> None:
        tokenizer.chat_template = self._get_jinja_template(tokenizer)

    module.Template.fix_jinja_template = replaced


_MENDS = {
    "trl.trainer.dpo_trainer": _take_loss_from_trainer,
    "llamafactory.data.processor.supervised": _mask_all_before_the_last_reply,
    "accelerate.utils.dataclasses": _keep_buffers_in_float32,
    "llamafactory.data.template": _save_the_trainings_template,
}


class _WhenImported(MetaPathFinder):
    """Lets a module load as ever, then mends it."""

    def find_spec(self, name: str, path: object, target: object = None) -> Any:
        if not (mend := _MENDS.pop(name, None)):
            return None
        spec = find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            mend(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _WhenImported())
