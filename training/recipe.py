"""The recipe as one training will run it: WORK's paths, the batch, the user's own settings."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esc import adapters, backbones, cpu, engines, files, memory, nodes, paths, secret
from esc.engines import Engine
from esc.exceptions import EscError
from esc.files import Row
from esc.lineage import Lineage
from training import losses
from training.render import accumulation

_SET_BY_MAKE = {
    "adapter_name_or_path", "dataset", "dataset_dir", "output_dir", "ray_num_workers", "stage",
}  # fmt: skip
# What decides the loss or the reference is the variant's; another interval would hide the first.
_SET_BY_VARIANT = {
    "dpo_label_smoothing", "ld_alpha", "logging_first_step", "logging_steps", "logging_strategy",
    "pref_bco_weight", "pref_ftx", "pref_loss", "ref_model", "ref_model_adapters",
    "ref_model_quantization_bit",
}  # fmt: skip
# Which reply stands beside which row: in the set's order, and all of it in one batch.
_PAIRS_KTO = {"preprocessing_batch_size", "preprocessing_num_workers", "streaming", "val_size"}
_OTHER_ADAPTERS = {
    "use_rslora": "is scaled by a rule of its own, and composed it would be served too strong",
    "use_dora": "is no sum that could be added to another, and vLLM serves none",
    "pissa_init": "changes the base itself, which is served as it was",
    "pissa_convert": "changes the base itself, which is served as it was",
    "additional_target": "trains whole modules, which are not composed and not served",
    "resize_vocab": "changes the embedding, which is served as it was",
    "add_tokens": "changes the vocabulary, which is served as it was",
    "add_special_tokens": "changes the vocabulary, which is served as it was",
    "new_special_tokens_config": "changes the vocabulary, which is served as it was",
    "train_from_scratch": "trains on random weights, and those of the backbone are served",
    "mixture_of_depths": "changes the base itself, which is served as it was",
    "use_llama_pro": "changes the base itself, which is served as it was",
}
"""What makes an adapter that is no sum of small differences to the backbone, and why.

LoRA+ is none of them: ``loraplus_lr_ratio`` is a learning rate, and the adapter a plain LoRA.
"""
_WHOLE_VOCABULARY = {"embed_tokens", "lm_head"}
"""Modules that PEFT saves whole beside their LoRA."""
# YAML reads no, yes, on and off as truth values; of these LLaMA-Factory wants the word.
_WORDS = re.compile(r"(_strategy|_name|project|report_to)$")


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
    engine: str | None = None
    """How it is spread over GPUs; None for the backbone's own way."""
    dtype: str | None = None
    """Of the merged model that it starts from under some engines; None for the engine's own."""

    @property
    def spread(self) -> Engine | None:
        """The engine it runs on; None for plain torchrun. EscError for an unknown one."""
        name = self.engine or backbones.get(self.model).engine
        return engines.get(name) if name else None

    @property
    def merged_start(self) -> Path | None:
        """The folder of the merged model it starts from; None where LLaMA-Factory merges itself."""
        return paths.merged(self.starts_from[-1], self.start_dtype) if self.start_dtype else None

    @property
    def start_dtype(self) -> str | None:
        """The precision of the merged model it starts from; None where it starts from none."""
        own = self.spread.merged_start if self.spread and self.starts_from else None
        return own and (self.dtype or own)

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

    Raises EscError for an unknown model, variant or engine, an override of another form or with a
    secret, an adapter that could not be composed, merged or served, or a batch that does not fit.
    """
    backbone = backbones.get(training.model)
    variant = training.lineage.checked(training.task).variant
    path = paths.recipe(training.model, training.task, training.stage, variant)
    settings: Row = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["dataset_dir"] = str(training.work)
    settings["output_dir"] = str(training.output)
    settings["model_name_or_path"] = backbone.path
    if training.starts_from:
        _start(settings, training)
    extra = _parsed(training.overrides)
    if fixed := _SET_BY_MAKE & extra.keys():
        raise EscError(
            f"TRAIN_ARGS cannot set {', '.join(sorted(fixed))}: the target, WORK and NPROC do; "
            "llamafactory-cli train takes any"
        )
    if training.stage == "dpo" and (fixed := _SET_BY_VARIANT & extra.keys()):
        raise EscError(
            f"TRAIN_ARGS cannot set {', '.join(sorted(fixed))}: the loss is the VARIANT's, and the "
            "check of the reference reads its first step"
        )
    if settings["stage"] == "kto" and (fixed := _PAIRS_KTO & extra.keys()):
        raise EscError(
            f"TRAIN_ARGS cannot set {', '.join(sorted(fixed))}: KTO would be given replies of a "
            "row's own turn as mismatched ones"
        )
    if training.merged_start and "model_name_or_path" in extra:
        assert training.spread is not None
        raise EscError(
            f"TRAIN_ARGS cannot set model_name_or_path: ENGINE={training.spread.name} starts from "
            "the merged SFT model, and another start would be the reference too"
        )
    if settings.get("use_cpu") and cpu.precision() == cpu.BF16:
        settings["bf16"] = True
    _spread(settings, training)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(settings.get(key), dict)
        settings[key] = settings[key] | value if both else value
    _check_adapter(settings, training)
    if training.starts_from and not training.merged_start:
        _check_merge(settings, losses.of(training.lineage).start is not None)
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if not isinstance(settings[key], int) or settings[key] < 1:
            raise EscError(f"TRAIN_ARGS: {key}={settings[key]} is not a whole number of at least 1")
    if settings["stage"] == "kto" and settings["per_device_train_batch_size"] < memory.KTO_ROWS:
        raise EscError(
            f"TRAIN_ARGS: KTO takes per_device_train_batch_size of at least {memory.KTO_ROWS}: "
            "fewer mismatched replies are no estimate of the divergence"
        )
    if "gradient_accumulation_steps" not in extra:
        per_device = settings["per_device_train_batch_size"]
        settings["gradient_accumulation_steps"] = accumulation(
            per_device, training.processes, nodes.here().count
        )
    return settings


def _start(settings: Row, training: Training) -> None:
    """Set what a preference training starts from, and is trained on."""
    settings["dataset"] = paths.preference_dataset(training.task, training.model, training.lineage)
    if training.merged_start:
        settings["model_name_or_path"] = str(training.merged_start)
        settings.pop("adapter_name_or_path", None)
        settings.pop("create_new_adapter", None)
        return
    settings["create_new_adapter"] = True
    # LLaMA-Factory splits at commas, and merges one after the other.
    settings["adapter_name_or_path"] = ",".join(map(str, training.starts_from))
    if "," in str(training.work):
        raise EscError(
            f"WORK={str(training.work)!r} holds a comma, at which LLaMA-Factory splits the "
            "adapters' paths; choose another WORK"
        )


def _spread(settings: Row, training: Training) -> None:
    """Set how the training is spread over processes: the engine asked for, not the recipe's own."""
    own, spread = backbones.get(training.model).engine, training.spread
    for key in engines.get(own).settings if own else ():
        settings.pop(key, None)
    settings |= spread.settings if spread else {}
    if spread and settings.get("use_cpu") and (why := _NOT_ON_A_CPU.get(spread.name)):
        raise EscError(f"ENGINE={spread.name}: without GPUs LLaMA-Factory 0.9.5 {why}; take NPROC")
    if spread and spread.name == "ray":
        _check_ray()
        settings["ray_num_workers"] = world(training)
        # Its processes take no variable from ours.
        mended = {"PYTHONPATH": str(paths.IN_LLAMAFACTORY)}
        settings["ray_init_kwargs"] = {"runtime_env": {"env_vars": mended}}
        # Its processes begin in folders of their own, on other machines too.
        settings["model_name_or_path"] = backbones.get(training.model).location
        for key in ("dataset_dir", "output_dir"):
            settings[key] = str(Path(settings[key]).resolve())
        if "adapter_name_or_path" in settings:
            folders = (str(folder.resolve()) for folder in training.starts_from)
            settings["adapter_name_or_path"] = ",".join(folders)
    torchrun = by_torchrun(training)
    # On a machine with several GPUs LLaMA-Factory starts torchrun for one process too.
    perhaps = not settings.get("use_cpu") and not settings.get("ray_num_workers")
    if (torchrun or perhaps) and any(letter.isspace() for letter in str(training.work)):
        raise EscError(
            f"WORK={str(training.work)!r} holds a blank, at which LLaMA-Factory splits torchrun's "
            f"command; choose another WORK{' or NPROC=1' if settings.get('use_cpu') else ''}"
        )
    if torchrun and settings.get("use_cpu"):
        settings["ddp_backend"] = "gloo"


_NOT_ON_A_CPU = {
    "fsdp": "finds no device to shard over",
    "zero3": "builds the model before DeepSpeed knows of its processes",
    "ray": "reserves 10 CPU cores for each CPU core of the cluster, and waits for them for ever",
}


def _check_ray() -> None:
    """Raise EscError where several machines are asked for in torchrun's way."""
    if nodes.here().count > 1:
        raise EscError(
            "ENGINE=ray: Ray knows its machines itself; leave NNODES out, and start it on one of "
            "them with NPROC=processes in the whole cluster"
        )


def by_torchrun(training: Training) -> bool:
    """Whether torchrun is asked to start the processes; for one alone LLaMA-Factory decides."""
    if training.spread and not training.spread.launched_by_torchrun:
        return False
    distributed = training.spread is not None and training.spread.name != "qlora"
    return distributed or world(training) > 1


def _check_adapter(settings: Row, training: Training) -> None:
    """Raise EscError where the adapter could not be composed, merged or served."""
    kind = settings.get("finetuning_type", "lora")
    if kind != "lora":
        raise EscError(
            f"TRAIN_ARGS cannot set finetuning_type={kind}: what is served, merged and trained on "
            "is a LoRA adapter; llamafactory-cli train takes any"
        )
    for key, why in _OTHER_ADAPTERS.items():
        if settings.get(key):
            raise EscError(
                f"TRAIN_ARGS cannot set {key}: it {why}; llamafactory-cli train takes it"
            )
    targets = {name.strip() for name in str(settings.get("lora_target")).split(",")}
    if whole := targets & _WHOLE_VOCABULARY:
        raise EscError(
            f"TRAIN_ARGS cannot set lora_target={min(whole)}: it would be saved whole, and is "
            "served as it was; llamafactory-cli train takes it"
        )
    # Composed, the adapters of a preference training have the sum of their ranks.
    before = (folder / adapters.CONFIG for folder in training.starts_from)
    rank = settings["lora_rank"]
    if isinstance(rank, int):
        rank += sum(int(files.read_json(one)["r"]) for one in before if one.is_file())
    if not isinstance(rank, int) or not 0 < rank <= adapters.LARGEST_RANK:
        raise EscError(
            f"TRAIN_ARGS: lora_rank={settings['lora_rank']} gives an adapter of rank {rank}, and "
            f"vLLM serves up to {adapters.LARGEST_RANK}"
        )


def _check_merge(settings: Row, referenced: bool) -> None:
    """Raise EscError where SFT would not be merged, and LLaMA-Factory or no first loss shows it."""
    if settings.get("quantization_bit"):
        raise EscError(
            "TRAIN_ARGS: LLaMA-Factory merges no SFT adapter into a quantized base; ENGINE=qlora "
            "starts from the merged SFT model"
        )
    if referenced:
        return
    keys = ("use_unsloth", "use_kt")
    apart = [key for key in keys if settings.get(key)]
    if "deepspeed" in settings and _zero_stage(settings["deepspeed"]) == 3:
        apart.append("deepspeed")
    if apart or settings.get("create_new_adapter") is not True:
        what = (
            f"{apart[0]} may keep"
            if apart
            else "without create_new_adapter: true LLaMA-Factory keeps"
        )
        raise EscError(
            f"TRAIN_ARGS: {what} the SFT adapter apart, and {settings['pref_loss']} has no "
            "reference whose first loss would show it; leave it out, or use ENGINE=zero3"
        )


def _zero_stage(config: object) -> int:
    """ZeRO's stage by a DeepSpeed configuration; 3, the one to be careful with, where unknown."""
    try:
        found = json.loads(Path(str(config)).read_text(encoding="utf-8"))
        return int(found["zero_optimization"]["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return 3


def world(training: Training) -> int:
    """Training processes on all nodes."""
    return training.processes * nodes.here().count


def _parsed(overrides: tuple[str, ...]) -> Row:
    secret.refuse(" ".join(overrides))
    for override in overrides:
        if "=" not in override:
            raise EscError(f"TRAIN_ARGS: {override!r} is not key=value")
    try:
        # LLaMA-Factory's own way with them, to which 2e-5 is a number.
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise EscError(f"TRAIN_ARGS: {str(error).splitlines()[0]}") from error
    assert isinstance(parsed, dict)
    named = {str(key): value for key, value in parsed.items()}
    texts = dict(override.partition("=")[::2] for override in overrides)
    words = (key for key, value in named.items() if isinstance(value, bool) and _WORDS.search(key))
    return named | {key: texts[key] for key in words}
