"""The recipe as one training will run it: WORK's paths, the batch, the user's own settings."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esc import adapters, backbones, cli, files, nodes, paths, prompts
from esc.backbones import CUTOFF, STAGES, Backbone, Engine
from esc.exceptions import EscError
from esc.files import Row
from esc.paths import MIXES, Lineage, variants
from esc.prompts import TASKS
from training import memory


@dataclass(frozen=True, slots=True)
class Loss:
    """One preference loss, as a recipe has it."""

    stage: str
    """LLaMA-Factory's."""
    name: str
    """LLaMA-Factory's ``pref_loss``; ``kto`` where the stage is the loss."""
    start: Callable[[float], float] | None
    """First loss, from beta; None where there is no reference."""
    beta: float | None = None
    """None for the one of Table 7."""
    gamma: float | None = None
    """SimPO's margin."""
    papers_rate: bool = False
    """Whether the learning rate is that of Table 7, or one that moves a LoRA."""


SIGMOID = Loss("dpo", "sigmoid", lambda beta: math.log(2), papers_rate=True)
"""The paper's own (equations 1 and 2)."""
VARIANTS = {
    "practical": Loss("dpo", "sigmoid", lambda beta: math.log(2)),
    # LLaMA-Factory averages log-probabilities over tokens for the next three: beta 0.5 asks IPO
    # for a gap of one nat a token.
    "ipo": Loss("dpo", "ipo", lambda beta: 1 / (4 * beta**2), beta=0.5),
    "simpo": Loss("dpo", "simpo", None, beta=2.0, gamma=1.0),
    "orpo": Loss("dpo", "orpo", None, beta=0.1),
    "kto": Loss("kto", "kto", lambda beta: 0.5, beta=0.1),
}
"""Variant to loss; mixes of pairs have the paper's."""


def of(lineage: Lineage) -> Loss:
    """The loss of a preference training."""
    return VARIANTS.get(lineage.variant or "", SIGMOID)


BATCH = 32  # section 6.1, for SFT and DPO
ONE_BATCH = 10**6
"""Rows: more than a set of KTO has."""
_SFT = {"learning_rate": 1e-5, "epochs": 3.0}  # section 6.1
_DPO_EPOCHS = 1.0  # section 6.1
_NAMES = {
    "sp": "strategy planner",
    "rg": "response generator",
    "vanilla": "entangled model",
}


def accumulation(per_device: int, processes: int, machines: int = 1) -> int:
    """Gradient accumulation steps that make the effective batch 32; ``processes`` a machine.

    Raises EscError where ``per_device`` times all processes does not divide it.
    """
    together = per_device * machines
    steps, rest = divmod(BATCH, together * processes)
    if rest or not steps:
        fitting = [str(n) for n in range(1, BATCH + 1) if BATCH % (n * together) == 0]
        way = f"use NPROC of {', '.join(fitting)}" if fitting else "no NPROC does"
        raise EscError(
            f"{f'{machines} machines x ' if machines > 1 else ''}{processes} processes x "
            f"{per_device} samples do not divide the paper's batch of {BATCH}; "
            f"{way}, or set TRAIN_ARGS"
        )
    return steps


def render(backbone: Backbone, task: str, stage: str, variant: str | None = None) -> str:
    """The text of one recipe."""
    settings, lineage = backbone.settings, Lineage(variant)
    world = max(settings["gpus"], 1)
    loss = None if stage == "sft" else of(lineage)
    rates = _rates(settings, task, loss)
    on_gpu = settings["gpus"] > 0
    per_device = settings["per_device_batch"]
    if loss and loss.stage == "kto":
        per_device = max(per_device, memory.KTO_ROWS)
    # A pass over the validation turns takes tens of minutes on a CPU.
    validated = loss is None and on_gpu
    preferred = paths.preference_dataset(task, backbone.name, lineage)
    return (
        prompts.render(
            paths.RECIPES / "templates",
            "recipe.yaml.j2",
            what=f"{stage.upper()} of the {_NAMES[task]}{f' ({variant})' if variant else ''},",
            purpose=_purpose(loss, variant),
            make=_make(backbone.name, task, stage, variant),
            file=paths.recipe(backbone.name, task, stage, variant).name,
            model=backbone.name,
            path=backbone.path,
            template=backbone.template,
            mended=_mended(backbone, task, loss),
            task=task,
            stage=loss.stage if loss else stage,
            loss=loss,
            hardware=settings["hardware"],
            gpus=settings["gpus"],
            world=world,
            per_device_batch=per_device,
            one_batch=ONE_BATCH,
            batch=BATCH,
            cutoff=CUTOFF,
            accumulation=accumulation(per_device, world),
            learning_rate=f"{rates['learning_rate']:.1e}",
            beta=rates.get("beta"),
            epochs=rates["epochs"],
            dataset=paths.sft_dataset(task) if loss is None else preferred,
            eval_dataset=paths.sft_dataset(task, "validation") if validated else None,
            output=paths.adapter(backbone.name, task, stage, lineage),
            engine=backbone.engine,
            engine_settings=_engine_settings(backbone),
            memory=_memory(backbone, loss.stage if loss else stage) if on_gpu else None,
            sft_output=paths.adapter(backbone.name, task, "sft"),
            merged=_merged_start(backbone, task) if loss else None,
            merged_dtype=backbones.engine(backbone.engine).merged_start
            if backbone.engine
            else None,
            save_steps=100 if on_gpu else 5,
        )
        + "\n"
    )


def _mended(backbone: Backbone, task: str, loss: Loss | None) -> bool:
    """Whether LLaMA-Factory trains something else where `training/in_llamafactory` is not there."""
    if loss is not None:
        return loss.name == "ipo"
    # LLaMA-Factory takes seconds to import.
    from llamafactory.data.template import TEMPLATES

    return task == "rg" and TEMPLATES[backbone.template].efficient_eos


def _engine_settings(backbone: Backbone) -> str | None:
    """The lines of the backbone's own engine, with paths from the repository's root."""
    if not backbone.engine:
        return None
    text = (backbones.FOLDER / f"{backbone.engine}.yaml").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def _merged_start(backbone: Backbone, task: str) -> Path | None:
    """The merged SFT model that a recipe starts from, where its engine keeps adapters apart."""
    dtype = backbones.engine(backbone.engine).merged_start if backbone.engine else None
    return paths.merged(paths.adapter(backbone.name, task, "sft"), dtype) if dtype else None


def _memory(backbone: Backbone, stage: str) -> str:
    """The estimate for the longest row that a recipe takes."""
    processes = backbone.settings["gpus"]
    found = memory.gigabytes(
        backbone, engine=backbone.engine, processes=processes, length=CUTOFF, stage=stage
    )
    return f"{found:.0f}"


def _rates(settings: dict[str, Any], task: str, loss: Loss | None) -> dict[str, float]:
    if loss is None:
        return _SFT
    rates: dict[str, float] = settings["dpo"][task] | {"epochs": _DPO_EPOCHS}
    if not loss.papers_rate:
        rates["learning_rate"] = settings["practical"]
    if loss.beta is not None:
        rates["beta"] = loss.beta
    return rates


def _purpose(loss: Loss | None, variant: str | None) -> str:
    if loss is None:
        return "LoRA supervised fine-tuning on ESConv."
    on = "its own mined errors"
    if variant in MIXES:
        on = f"PsPr against {' and '.join(sorted(MIXES[variant]))} alone"
    if not loss.papers_rate:
        on += ", at a rate that moves a LoRA"
    return f"preference optimisation from the SFT adapter, on {on}."


def _make(model: str, task: str, stage: str, variant: str | None) -> str:
    """The make command of a recipe."""
    return " ".join(
        ["make", f"{stage}-{task}", f"MODEL={model}", *([f"VARIANT={variant}"] if variant else [])]
    )


def recipes() -> dict[Path, str]:
    """Path to text of every recipe the table gives."""
    return {
        paths.recipe(name, task, stage, variant): render(backbone, task, stage, variant)
        for name, backbone in backbones.table().items()
        for task in TASKS
        for stage in STAGES
        for variant in (None, *(variants(task) if stage == "dpo" else ()))
    }


def main(argv: list[str]) -> None:
    """Command line of the step."""
    cli.parser(
        prog="python -m training render",
        description=__doc__,
        examples="  python -m training render",
    ).parse_args(argv)
    rendered = recipes()
    for path, text in rendered.items():
        files.write_text(path, text)
    print(f"{len(rendered)} recipes under {paths.RECIPES.name}/")


_NAMED = re.compile(r"([\w.-]*(?:token|secret|password|passwd|api_key|webhook_url))\b\s*[=:]", re.I)
_VARIABLES = {
    "hf_hub_token": "HF_TOKEN", "hub_token": "HF_TOKEN", "push_to_hub_token": "HF_TOKEN",
    "ms_hub_token": "MODELSCOPE_API_TOKEN", "swanlab_api_key": "SWANLAB_API_KEY",
    "wandb_api_key": "WANDB_API_KEY",
}  # fmt: skip
"""Where the libraries look for a secret themselves."""


def is_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret: ``hf_hub_token``, not ``max_new_tokens``."""
    return _NAMED.fullmatch(f"{name}=") is not None


def refuse(train_args: str) -> None:
    """Raise EscError, without the secret, where TRAIN_ARGS (or a part of it) holds one."""
    for found in _NAMED.findall(train_args):
        name = found.rpartition(".")[2]
        variable = name if name.isupper() else _VARIABLES.get(name.lower())
        way = f"set {variable} in the environment" if variable else "leave it out"
        raise EscError(
            f"TRAIN_ARGS cannot hold {name}, which every user here could read, and files of the "
            f"training would keep; {way}"
        )


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
        return backbones.engine(name) if name else None

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
    if settings.get("use_cpu") and backbones.precision() == backbones.BF16:
        settings["bf16"] = True
    _spread(settings, training)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(settings.get(key), dict)
        settings[key] = settings[key] | value if both else value
    _check_adapter(settings, training)
    if training.starts_from and not training.merged_start:
        _check_merge(settings, of(training.lineage).start is not None)
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
    for key in backbones.engine(own).settings if own else ():
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
    refuse(" ".join(overrides))
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
