"""The recipe as one training will run it: WORK's paths, the batch, the user's own settings."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esc import backbones, cpu, paths
from esc.exceptions import EscError
from esc.files import Row
from esc.lineage import Lineage
from training import losses
from training.render import accumulation

_SET_BY_MAKE = {"adapter_name_or_path", "dataset", "dataset_dir", "output_dir", "stage"}
# What decides the loss or the reference is the variant's; another interval would hide the first.
_SET_BY_VARIANT = {
    "dpo_label_smoothing", "ld_alpha", "logging_first_step", "logging_steps", "logging_strategy",
    "pref_bco_weight", "pref_ftx", "pref_loss", "ref_model", "ref_model_adapters",
    "ref_model_quantization_bit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Training:
    """One training that a user asks for."""

    model: str
    task: str
    stage: str
    work: Path
    processes: int
    """Training processes of this node, each with a GPU of its own where there are any."""
    overrides: tuple[str, ...]
    """Extra ``key=value`` for LLaMA-Factory; they win over everything."""
    lineage: Lineage = paths.PAPER
    """Of a preference training."""

    @property
    def output(self) -> Path:
        """The folder of the adapter."""
        return self.work / paths.adapter(self.model, self.task, self.stage, self.lineage)

    @property
    def starts_from(self) -> list[Path]:
        """The folders of the adapters that are merged before it, oldest first; none for SFT."""
        if self.stage == "sft":
            return []
        return [
            self.work / paths.adapter(self.model, self.task, "sft"),
            *(
                self.work / paths.adapter(self.model, self.task, "dpo", before)
                for before in self.lineage.before
            ),
        ]


def recipe_for(training: Training) -> Row:
    """The recipe as it will run: WORK's paths, the batch for the processes, the overrides.

    Raises EscError for an unknown model or variant, an override of another form, or a batch that
    does not fit.
    """
    backbones.get(training.model)
    variant = training.lineage.checked(training.task).variant
    path = paths.recipe(training.model, training.task, training.stage, variant)
    settings: Row = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["dataset_dir"] = str(training.work)
    settings["output_dir"] = str(training.output)
    if training.starts_from:
        # LLaMA-Factory splits at commas, and merges one after the other.
        settings["adapter_name_or_path"] = ",".join(map(str, training.starts_from))
        settings["dataset"] = paths.preference_dataset(
            training.task, training.model, training.lineage
        )
        if "," in str(training.work):
            raise EscError(
                f"WORK={str(training.work)!r} holds a comma, at which LLaMA-Factory splits the "
                "adapters' paths; choose another WORK"
            )
    extra = _parsed(training.overrides)
    if fixed := _SET_BY_MAKE & extra.keys():
        raise EscError(
            f"TRAIN_ARGS cannot set {', '.join(sorted(fixed))}: the target and WORK=folder do; "
            "llamafactory-cli train takes any"
        )
    if training.stage == "dpo" and (fixed := _SET_BY_VARIANT & extra.keys()):
        raise EscError(
            f"TRAIN_ARGS cannot set {', '.join(sorted(fixed))}: the loss is the VARIANT's, and the "
            "check of the reference reads its first step"
        )
    if settings.get("use_cpu") and cpu.precision() == cpu.BF16:
        settings["bf16"] = True
    settings |= extra
    if training.stage == "dpo" and losses.of(training.lineage).start is None:
        _check_merge(settings)
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if not isinstance(settings[key], int) or settings[key] < 1:
            raise EscError(f"TRAIN_ARGS: {key}={settings[key]} is not a whole number of at least 1")
    if "gradient_accumulation_steps" not in extra:
        per_device = settings["per_device_train_batch_size"]
        settings["gradient_accumulation_steps"] = accumulation(per_device, world(training))
    if training.processes > 1 and any(letter.isspace() for letter in str(training.work)):
        raise EscError(
            f"WORK={str(training.work)!r} holds a blank, at which LLaMA-Factory splits torchrun's "
            "command; choose another WORK or NPROC=1"
        )
    if settings.get("use_cpu") and training.processes > 1:
        settings["ddp_backend"] = "gloo"
    return settings


def _check_merge(settings: Row) -> None:
    """Raise EscError where SFT would not be merged and no first loss could show it."""
    keys = ("deepspeed", "quantization_bit", "use_unsloth")
    apart = [key for key in keys if settings.get(key)]
    if apart or settings.get("create_new_adapter") is not True:
        what = (
            f"{apart[0]} may keep"
            if apart
            else "without create_new_adapter: true LLaMA-Factory keeps"
        )
        raise EscError(
            f"TRAIN_ARGS: {what} the SFT adapter apart, and {settings['pref_loss']} has no "
            "reference whose first loss would show it; leave it out, or take another VARIANT"
        )


def world(training: Training) -> int:
    """Training processes on all nodes; NNODES is the launcher's own variable."""
    return training.processes * int(os.environ.get("NNODES", "1"))


def _parsed(overrides: tuple[str, ...]) -> Row:
    for override in overrides:
        if "=" not in override:
            raise EscError(f"TRAIN_ARGS: {override!r} is not key=value")
    try:
        # LLaMA-Factory's own way with them, to which 2e-5 is a number.
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise EscError(f"TRAIN_ARGS: {str(error).splitlines()[0]}") from error
    assert isinstance(parsed, dict)
    return {str(key): value for key, value in parsed.items()}
