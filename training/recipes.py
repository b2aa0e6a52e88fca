"""The recipes, rendered from the table of backbones, and a recipe as one training will run it.

    python -m training render

Writes ``llamafactory_configs/<model>/<task>_<stage>[_variant].yaml``. A training lays over its
recipe WORK's paths, the batch for its processes, its engine and the user's own settings; what would
make another adapter than can be composed, merged and served, or hide the first loss, is refused.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esc import adapters, backbones, cli, files, paths, prompts
from esc.backbones import CUTOFF, STAGES, Backbone, Engine
from esc.files import EscError, Row
from esc.paths import EMBEDDED, Lineage, at_stage, variants
from esc.prompts import TASKS
from training import memory


@dataclass(frozen=True, slots=True)
class Loss:
    """One preference loss, as a recipe has it: LLaMA-Factory's stage and ``pref_loss``."""

    stage: str
    name: str
    start: Callable[[float], float] | None
    """First loss, from beta; None where there is no reference."""
    beta: float | None = None
    """None for the one of Table 7."""
    papers_rate: bool = False
    """Whether the learning rate is that of Table 7, or one that moves a LoRA."""


SIGMOID = Loss("dpo", "sigmoid", lambda beta: math.log(2), papers_rate=True)
"""The paper's own (equations 1 and 2)."""
VARIANTS = {
    "practical": replace(SIGMOID, papers_rate=False),
    # LLaMA-Factory averages log-probabilities over tokens for the next three: beta 0.5 asks IPO
    # for a gap of one nat a token.
    "ipo": Loss("dpo", "ipo", lambda beta: 1 / (4 * beta**2), beta=0.5),
    "simpo": Loss("dpo", "simpo", None, beta=2.0),
    "orpo": Loss("dpo", "orpo", None, beta=0.1),
    "kto": Loss("kto", "kto", lambda beta: 0.5, beta=0.1),
}
"""Variant to loss; mixes of pairs have the paper's."""
BATCH = 32  # section 6.1, for SFT and DPO


def of(lineage: Lineage) -> Loss:
    """The loss of a preference training."""
    return VARIANTS.get(lineage.variant or "", SIGMOID)


def place() -> tuple[int, int]:
    """(machines of one training, which of them this is), as torchrun's own variables name them.

    Raises EscError where they name no place, or this machine lacks what several need.
    """
    machines, rank = (os.environ.get(name) or "" for name in ("NNODES", "NODE_RANK"))
    if not rank.strip("0") and machines in ("", "1"):
        return 1, 0
    named = machines.isdecimal() and rank.isdecimal() and int(rank) < int(machines)
    if not named or not os.environ.get("MASTER_ADDR"):
        raise EscError(
            f"NNODES={machines} NODE_RANK={rank} is no place among the machines of a training: it "
            "takes NODE_RANK from 0 to NNODES - 1, and MASTER_ADDR, the address of the first"
        )
    return int(machines), int(rank)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy of a task, as options name it."""

    task: cli.Task
    model: cli.Model = EMBEDDED
    variant: cli.Variant = None
    round: cli.Round = 1
    work: cli.Work = Path()

    @property
    def backbone(self) -> Backbone:
        """EscError for an unknown one."""
        return backbones.get(self.model)

    def at(self, stage: str) -> Lineage:
        """Its lineage; EscError where its task or the stage has no such variant or round."""
        number = self.round if self.round > 1 else None
        return at_stage(stage, self.variant, number).checked(self.task)


@dataclass(frozen=True, kw_only=True)
class Training(Policy):
    """One training that a user asks for."""

    stage: Annotated[
        Literal["sft", "dpo"], typer.Option(envvar="STAGE", help="what is trained")
    ] = "sft"
    processes: Annotated[
        int | None, typer.Option(envvar="NPROC", min=1, help="of this machine (default: all GPUs)")
    ] = None
    overrides: Annotated[
        list[str] | None, typer.Option("--set", envvar="TRAIN_ARGS", help="KEY=VALUE …")
    ] = None
    engine: Annotated[
        str | None, typer.Option(envvar="ENGINE", help=f"one of {', '.join(backbones.ENGINES)}")
    ] = None

    @property
    def lineage(self) -> Lineage:
        """Of a preference training; EscError as `at`."""
        return self.at(self.stage)

    @property
    def loss(self) -> Loss | None:
        """Of a preference training."""
        return of(self.lineage) if self.stage == "dpo" else None

    @property
    def spread(self) -> Engine | None:
        """The engine it runs on; None for plain torchrun. EscError for an unknown one."""
        name = self.engine or self.backbone.engine
        return backbones.engine(name) if name else None

    @property
    def here(self) -> int:
        """Training processes of this machine: by default one for each GPU that may be used."""
        if self.processes or not self.backbone.settings["gpus"]:
            return self.processes or 1
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = Path("/proc/driver/nvidia/gpus").glob("*") if visible is None else visible.split(",")
        return len([gpu for gpu in gpus if str(gpu).strip()]) or 1

    @property
    def world(self) -> int:
        """Training processes on all machines."""
        return self.here * place()[0]

    @property
    def by_torchrun(self) -> bool:
        """Whether torchrun is asked to start the processes; for one LLaMA-Factory may do it too."""
        asked = self.spread.by_torchrun if self.spread else None
        return self.world > 1 if asked is None else asked

    @property
    def dataset(self) -> str:
        """The registered name of what it is trained on."""
        if self.stage == "sft":
            return paths.sft_dataset(self.task)
        return paths.preference_dataset(self.task, self.model, self.lineage)

    @property
    def output(self) -> Path:
        """The folder of the adapter."""
        return self.work / paths.adapter(self.model, self.task, self.stage, self.lineage)

    @property
    def starts_from(self) -> list[Path]:
        """The folders of the adapters that are merged before it, oldest first; none for SFT."""
        of = self.work, self.model, self.task, self.stage, self.lineage
        return adapters.folders_of(*of)[:-1]

    @property
    def start_dtype(self) -> str | None:
        """The precision of the merged model it starts from; None where LLaMA-Factory merges."""
        return self.spread.merged_start if self.spread and self.starts_from else None

    @property
    def merged_start(self) -> Path | None:
        """The folder of that merged model, or None."""
        return paths.merged(self.starts_from[-1], self.start_dtype) if self.start_dtype else None


def accumulation(per_device: int, processes: int) -> int:
    """Gradient accumulation steps that make the effective batch 32; ``processes`` on all machines.

    Raises EscError where ``per_device`` times all processes does not divide it.
    """
    steps, rest = divmod(BATCH, per_device * processes)
    if rest or not steps:
        raise EscError(
            f"{processes} processes x {per_device} samples do not divide the paper's batch of "
            f"{BATCH}; use another NPROC, or set TRAIN_ARGS=gradient_accumulation_steps=…"
        )
    return steps


def render(training: Training) -> str:
    """The text of one recipe."""
    # LLaMA-Factory takes seconds to import.
    from llamafactory.data.template import TEMPLATES

    backbone, loss = training.backbone, training.loss
    stage = loss.stage if loss else "sft"
    kto_rows = memory.KTO_ROWS if stage == "kto" else 1
    device_batch = max(backbone.settings["per_device_batch"], kto_rows)
    masks = training.task == "rg" and TEMPLATES[backbone.template].efficient_eos
    text = prompts.render(
        paths.RECIPES / "templates",
        "recipe.yaml.j2",
        **backbone.settings,
        training=training,
        stage=stage,
        mix=" and ".join(sorted(paths.MIXES.get(training.variant or "", ()))),
        # LLaMA-Factory trains something else where `training/in_llamafactory` is not there.
        mended=loss.name == "ipo" if loss else masks,
        batch=BATCH,
        device_batch=device_batch,
        accumulation=accumulation(device_batch, training.here),
        cutoff=CUTOFF,
        memory=memory.gigabytes(backbone, backbone.engine, training.here, CUTOFF, stage),
    )
    return text + "\n"


def recipes() -> dict[Path, str]:
    """Path to text of every recipe the table gives."""
    asked: list[dict[str, Any]] = [
        {"model": model, "task": task, "stage": stage, "variant": variant}
        for model in backbones.table()
        for task in TASKS
        for stage in STAGES
        for variant in (None, *(variants(task) if stage == "dpo" else ()))
    ]
    gpus = {model: one.settings["gpus"] for model, one in backbones.table().items()}
    made: Any = Training
    return {
        paths.recipe(**one): render(made(**one, processes=max(gpus[one["model"]], 1)))
        for one in asked
    }


@cli.command(examples="  python -m training render", name="render")
def main() -> None:
    """The recipes from the table of backbones."""
    rendered = recipes()
    for path, text in rendered.items():
        files.write_text(path, text)
    print(f"{len(rendered)} recipes under {paths.RECIPES.name}/")


def recipe_for(training: Training) -> Row:
    """The recipe as it will run: WORK's paths, the batch for the processes, the overrides.

    Raises EscError for an unknown model, variant or engine, an override of another form or with a
    secret, an adapter that could not be composed, merged or served, or a batch that does not fit.
    """
    if training.engine == "ray":
        # Its processes begin in folders of their own.
        training = replace(training, work=training.work.resolve())
    given, variant = training.overrides or (), training.lineage.variant
    path = paths.recipe(training.backbone.name, training.task, training.stage, variant)
    settings: Row = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings |= {
        "dataset": training.dataset,
        "dataset_dir": str(training.work),
        "output_dir": str(training.output),
        "model_name_or_path": str(training.merged_start or training.backbone.path),
    }
    if training.merged_start:
        for key in ("adapter_name_or_path", "create_new_adapter"):
            settings.pop(key, None)
    elif training.starts_from:
        settings["create_new_adapter"] = True
        # LLaMA-Factory splits at commas, and merges one after the other.
        settings["adapter_name_or_path"] = ",".join(map(str, training.starts_from))
    if settings.get("use_cpu") and backbones.precision() == backbones.BF16:
        settings["bf16"] = True
    _spread(settings, training)
    extra = _parsed(given)
    for names, why in _fixed(training):
        if found := [one for one in given if re.match(rf"({names})\b", one)]:
            raise EscError(f"TRAIN_ARGS cannot set {found[0].partition('=')[0]}: {why}")
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(settings.get(key), dict)
        settings[key] = settings[key] | value if both else value
    for key, low, high in (
        # Fewer mismatched replies are no estimate of KTO's divergence.
        ("per_device_train_batch_size", 4 if settings["stage"] == "kto" else 1, BATCH),
        ("gradient_accumulation_steps", 1, 10**6),
        ("lora_rank", 1, adapters.LARGEST_RANK),
    ):
        if not isinstance(value := settings[key], int) or not low <= value <= high:
            raise EscError(f"TRAIN_ARGS: {key}={value} is no whole number from {low} to {high}")
    if "gradient_accumulation_steps" not in extra:
        per_device = settings["per_device_train_batch_size"]
        settings["gradient_accumulation_steps"] = accumulation(per_device, training.world)
    return settings


_NOT_ON_A_CPU = {
    "fsdp": "finds no device to shard over",
    "zero3": "builds the model before DeepSpeed knows of its processes",
    "ray": "waits for 10 CPU cores for each of the cluster's",
}


def _spread(settings: Row, training: Training) -> None:
    """Set how the training is spread over processes: the engine asked for, not the recipe's own."""
    own, spread, on_cpu = training.backbone.engine, training.spread, settings.get("use_cpu")
    for key in backbones.engine(own).settings if own else ():
        settings.pop(key, None)
    settings |= spread.settings if spread else {}
    if spread and on_cpu and (why := _NOT_ON_A_CPU.get(spread.name)):
        raise EscError(f"ENGINE={spread.name}: without GPUs LLaMA-Factory 0.9.5 {why}; take NPROC")
    if spread and spread.name == "ray":
        if place()[0] > 1:
            raise EscError("ENGINE=ray: Ray knows its machines itself; leave NNODES out")
        settings["ray_num_workers"] = training.here
        # Its processes take no variable from ours.
        mended = {"PYTHONPATH": str(paths.IN_LLAMAFACTORY)}
        settings["ray_init_kwargs"] = {"runtime_env": {"env_vars": mended}}
        settings["model_name_or_path"] = training.backbone.location
    # LLaMA-Factory splits torchrun's command at blanks, and the paths of adapters at commas. On a
    # machine with several GPUs it starts torchrun for one process too.
    torchrun = training.by_torchrun or not (on_cpu or "ray_num_workers" in settings)
    where = str(training.work)
    if (torchrun and re.search(r"\s", where)) or (training.starts_from and "," in where):
        why = "holds a blank or a comma, at which LLaMA-Factory splits it"
        raise EscError(f"WORK={where!r} {why}; choose another WORK")
    if training.by_torchrun and on_cpu:
        settings["ddp_backend"] = "gloo"


def _fixed(training: Training) -> Iterator[tuple[str, str]]:
    """Patterns of what is no TRAIN_ARGS of this training, with the reason."""
    by_hand = "llamafactory-cli train takes any"
    yield (
        "adapter_name_or_path|dataset|dataset_dir|output_dir|ray_num_workers|stage",
        f"the target, WORK and NPROC do; {by_hand}",
    )
    # LoRA+ is none of them: loraplus_lr_ratio is a learning rate, and the adapter a plain LoRA.
    yield (
        "use_(rslora|dora|llama_pro)|pissa_.*|additional_target|finetuning_type|resize_vocab"
        "|add_(special_)?tokens|new_special_tokens_config|train_from_scratch|mixture_of_depths"
        "|lora_target=.*(embed_tokens|lm_head)",
        "what is trained would be no plain LoRA on the base's linear layers, and another model "
        f"once it is composed, merged or served; {by_hand}",
    )
    if not (loss := training.loss):
        return
    yield (
        "pref_(bco_weight|ftx|loss)|ref_model.*|ld_alpha|dpo_label_smoothing|logging_.*",
        "the loss is the VARIANT's, and the check of the reference reads its first step",
    )
    if loss.stage == "kto":
        yield (
            "preprocessing_(batch_size|num_workers)|streaming|val_size",
            "KTO would be given replies of a row's own turn as mismatched ones",
        )
    if training.spread and training.merged_start:
        why = "starts from the merged SFT model, and another start would be the reference too"
        yield "model_name_or_path", f"ENGINE={training.spread.name} {why}"
    elif loss.start is None:
        yield (
            "deepspeed|use_unsloth|use_kt|quantization_bit|create_new_adapter",
            f"it may keep the SFT adapter apart, and {loss.name} has no reference whose first loss "
            "would show it; use ENGINE",
        )


_SECRET = re.compile(
    r"([\w.-]*(?:token|secret|password|passwd|api_key|webhook_url))\b\s*[=:]", re.I
)


def is_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret: ``hf_hub_token``, not ``max_new_tokens``."""
    return _SECRET.fullmatch(f"{name}=") is not None


# YAML reads no, yes, on and off as truth values; of these LLaMA-Factory wants the word.
_WORDS = re.compile(r"(_strategy|_name|project|report_to)$")


def _parsed(overrides: Sequence[str]) -> Row:
    """The overrides by name; EscError for one of another form, or with a secret."""
    for found in _SECRET.findall(" ".join(overrides)):
        raise EscError(
            f"TRAIN_ARGS cannot hold {found.rpartition('.')[2]}, which every user here could read, "
            "and files of the training would keep; the libraries read HF_TOKEN, WANDB_API_KEY, "
            "SWANLAB_API_KEY and MODELSCOPE_API_TOKEN from the environment"
        )
    texts = dict(override.partition("=")[::2] for override in overrides)
    if wrong := [override for override in overrides if "=" not in override]:
        raise EscError(f"TRAIN_ARGS: {wrong[0]!r} is not key=value")
    try:
        # LLaMA-Factory's own way with them, to which 2e-5 is a number.
        named: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise EscError(f"TRAIN_ARGS: {str(error).splitlines()[0]}") from error
    words = (key for key, value in named.items() if isinstance(value, bool) and _WORDS.search(key))
    return dict(named) | {key: texts[key] for key in words}
