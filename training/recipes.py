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
from typing import Annotated, Any, Literal, NamedTuple

import typer
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esc import adapters, backbones, cli, files, paths, prompts
from esc.backbones import CUTOFF, STAGES, Backbone
from esc.files import EscError, Row
from esc.llm import CHARACTERS_PER_TOKEN
from esc.paths import EMBEDDED, Lineage, at_stage, variants
from esc.prompts import TASKS
from training import memory


class Loss(NamedTuple):
    """One preference loss: LLaMA-Factory's stage and ``pref_loss``.

    ``start`` is its first value, from beta, where there is a reference; ``beta`` and, where
    ``papers_rate``, the learning rate are those of Table 7, or one that moves a LoRA.
    """

    stage: str
    name: str
    start: Callable[[float], float] | None
    beta: float | None = None
    papers_rate: bool = False


# The paper's own (equations 1 and 2).
_SIGMOID = Loss("dpo", "sigmoid", lambda beta: math.log(2), papers_rate=True)
_VARIANTS = {
    "practical": _SIGMOID._replace(papers_rate=False),
    # LLaMA-Factory averages log-probabilities over tokens for the next three: beta 0.5 asks IPO
    # for a gap of one nat a token.
    "ipo": Loss("dpo", "ipo", lambda beta: 1 / (4 * beta**2), beta=0.5),
    "simpo": Loss("dpo", "simpo", None, beta=2.0),
    "orpo": Loss("dpo", "orpo", None, beta=0.1),
    "kto": Loss("kto", "kto", lambda beta: 0.5, beta=0.1),
}
BATCH = 32  # section 6.1, for SFT and DPO
DIALOGUES = 2  # whose turns are about as many, ESConv's having 14.2 each


def of(lineage: Lineage) -> Loss:
    """The loss of a preference training; mixes of pairs have the paper's."""
    return _VARIANTS.get(lineage.variant or "", _SIGMOID)


def place() -> tuple[int, int]:
    """(machines of one training, which of them this is), as torchrun's own variables name them."""
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


@dataclass(kw_only=True)
class Policy:
    """A policy of a task, as options name it; EscError for what there is not."""

    task: cli.Task
    model: cli.Model = EMBEDDED
    variant: cli.Variant = None
    round: cli.Round = 1
    layout: cli.Layout = "turn"
    work: cli.Work = Path()

    def __post_init__(self) -> None:
        self.backbone = backbones.get(self.model)

    def at(self, stage: str) -> Lineage:
        """Its lineage at a stage of training; EscError as above."""
        number = self.round if self.round > 1 else None
        return at_stage(stage, self.variant, number, self.layout).checked(self.task)


@dataclass(kw_only=True)
class Training(Policy):
    """One training that a user asks for, and what follows from that."""

    stage: Annotated[
        Literal["sft", "dpo"], typer.Option(envvar="STAGE", help="what is trained")
    ] = "sft"
    processes: Annotated[
        int | None, typer.Option(envvar="NPROC", min=1, help="of this machine (default: all GPUs)")
    ] = None
    overrides: Annotated[
        list[str] | None, typer.Option("--set", envvar="TRAIN_ARGS", help="KEY=VALUE …")
    ] = None
    pack: Annotated[
        bool, typer.Option("--pack", envvar="PACK", help="several turns a row of SFT, apart")
    ] = False
    engine: Annotated[
        str | None, typer.Option(envvar="ENGINE", help=f"one of {', '.join(backbones.ENGINES)}")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lineage = self.at(self.stage)
        self.loss = of(self.lineage) if self.stage == "dpo" else None
        named = paths.preference_dataset(self.task, self.model, self.lineage)
        built = paths.sft_dataset(self.task, layout=self.lineage.layout)
        self.dataset = named if self.loss else built
        # The adapters that are merged before it, oldest first.
        at = self.work, self.model, self.task, self.stage, self.lineage
        *self.starts_from, self.output = adapters.folders_of(*at)
        # None for plain torchrun.
        engine = self.engine or self.backbone.engine
        self.spread = backbones.engine(engine) if engine else None
        # The merged model it starts from, and its precision; None where LLaMA-Factory merges.
        self.start_dtype = self.spread.merged_start if self.spread and self.starts_from else None
        self.merged_start = (
            paths.merged(self.starts_from[-1], self.start_dtype) if self.start_dtype else None
        )
        # Processes of this machine, and of all; rows of a step, over all of them.
        self.here = self.processes or (_gpus() if self.backbone.settings["gpus"] else 1)
        of_dialogues = self.lineage.layout != paths.TURN and not self.loss
        if of_dialogues:
            self.here = processes_of_dialogues(self.here, engine)
        self.world = self.here * place()[0]
        self.batch = max(DIALOGUES, self.world) if of_dialogues else BATCH
        # For one process LLaMA-Factory may ask torchrun by itself.
        asked = self.spread.by_torchrun if self.spread else None
        self.by_torchrun = self.world > 1 if asked is None else asked


def processes_of_dialogues(processes: int, engine: str | None) -> int:
    """How many learn dialogues: one each of a step's two, but where the weights are shared out."""
    shared = engine and backbones.engine(engine).shards_weights
    return processes if shared else min(processes, DIALOGUES)


def _gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = Path("/proc/driver/nvidia/gpus").glob("*") if visible is None else visible.split(",")
    return len([gpu for gpu in gpus if str(gpu).strip()]) or 1


def accumulation(per_device: int, processes: int, batch: int = BATCH) -> int:
    """Gradient accumulation steps that make the batch on all processes; EscError where none do."""
    steps, rest = divmod(batch, per_device * processes)
    if rest or not steps:
        whose = "the paper's batch of 32" if batch == BATCH else f"a batch of {batch} dialogues"
        raise EscError(
            f"{processes} processes x {per_device} samples do not divide {whose}; use another "
            "NPROC, or set TRAIN_ARGS=gradient_accumulation_steps=…"
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
    masked = training.task == "rg" and training.lineage.layout == paths.TURN
    masks = masked and TEMPLATES[backbone.template].efficient_eos
    text = prompts.render(
        paths.RECIPES / "templates",
        "recipe.yaml.j2",
        **backbone.settings,
        training=training,
        stage=stage,
        mix=" and ".join(sorted(paths.MIXES.get(training.variant or "", ()))),
        # LLaMA-Factory trains something else where `training/in_llamafactory` is not there.
        mended=loss.name == "ipo" if loss else masks,
        batch=training.batch,
        masked=masked,
        device_batch=device_batch,
        accumulation=accumulation(device_batch, training.here, training.batch),
        cutoff=CUTOFF,
        memory=memory.gigabytes(backbone, backbone.engine, training.here, CUTOFF, stage),
    )
    return text + "\n"


def _as_written(backbone: Backbone, task: str, stage: str, lineage: Lineage) -> Training:
    """A training as its recipe is written for."""
    made: Any = Training
    processes = max(backbone.settings["gpus"], 1)
    of = {"variant": lineage.variant, "layout": lineage.layout, "processes": processes}
    training: Training = made(model=backbone.name, task=task, stage=stage, **of)
    return training


def recipes() -> dict[Path, str]:
    """Path to text of every recipe the table gives; with BACKBONES of those that it adds alone."""
    kept = backbones.shipped() if backbones.own() else {}
    return {
        paths.recipe(model, task, stage, lineage): render(
            _as_written(backbone, task, stage, lineage)
        )
        for model, backbone in backbones.table().items()
        if model not in kept
        for task in TASKS
        for stage in STAGES
        for lineage in _shipped(task, stage)
    }


def _shipped(task: str, stage: str) -> Iterator[Lineage]:
    """The lineages with a recipe of their own: of dialogues without a variant."""
    for variant in (None, *(variants(task) if stage == "dpo" else ())):
        yield Lineage(variant)
    if paths.DIALOGUE in paths.layouts(task):
        yield Lineage(layout=paths.DIALOGUE)


@cli.command(examples="  python -m training render", name="render")
def main() -> None:
    """The recipes from the table of backbones."""
    rendered = recipes()
    for path, text in rendered.items():
        files.write_text(path, text)
    print(f"{len(rendered)} recipes under {paths.RECIPES.name}/")


def recipe_for(training: Training) -> Row:
    """The recipe as it will run: WORK's paths, the batch for the processes, the overrides."""
    if training.engine == "ray":
        # Its processes begin in folders of their own.
        training = replace(training, work=training.work.resolve())
    given = training.overrides or []
    backbone, lineage = training.backbone, replace(training.lineage, round=1)
    is_shipped = lineage in _shipped(training.task, training.stage)
    if backbone.name in backbones.own() or not is_shipped:
        # The recipe on disk is of the kit's own table.
        text = render(_as_written(backbone, training.task, training.stage, lineage))
    else:
        path = paths.recipe(backbone.name, training.task, training.stage, lineage)
        text = path.read_text(encoding="utf-8")
    settings: Row = yaml.safe_load(text)
    settings |= {
        "dataset": training.dataset,
        "dataset_dir": str(training.work),
        "output_dir": str(training.output),
        "model_name_or_path": str(training.merged_start or training.backbone.path),
    }
    for key in ("adapter_name_or_path", "create_new_adapter"):
        settings.pop(key, None)
    if training.starts_from and not training.merged_start:
        # LLaMA-Factory splits at commas, and merges one after the other.
        settings["adapter_name_or_path"] = ",".join(map(str, training.starts_from))
        settings["create_new_adapter"] = True
    if settings.get("use_cpu") and backbones.precision() == backbones.BF16:
        settings["bf16"] = True
    _spread(settings, training)
    if training.pack:
        if training.loss or training.lineage.layout != paths.TURN or training.task == "vanilla":
            raise EscError("PACK=1 is of the SFT of planner and generator in the turn layout")
        settings |= {"neat_packing": True, "per_device_eval_batch_size": 1}
    extra = _parsed(given)
    for names, why in _fixed(training):
        if found := [one for one in given if re.match(rf"({names})\b", one)]:
            raise EscError(f"TRAIN_ARGS cannot set {found[0].partition('=')[0]}: {why}")
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(settings.get(key), dict)
        settings[key] = settings[key] | value if both else value
    # Fewer mismatched replies are no estimate of KTO's divergence.
    fewest = memory.KTO_ROWS if settings["stage"] == "kto" else 1
    for key, low, high in (
        ("per_device_train_batch_size", fewest, BATCH),
        ("gradient_accumulation_steps", 1, 10**6),
        ("lora_rank", 1, adapters.LARGEST_RANK),
    ):
        if not isinstance(value := settings[key], int) or not low <= value <= high:
            raise EscError(f"TRAIN_ARGS: {key}={value} is no whole number from {low} to {high}")
    if "gradient_accumulation_steps" not in extra:
        per_device = settings["per_device_train_batch_size"]
        settings["gradient_accumulation_steps"] = (
            _steps_of_packs(settings, training)
            if training.pack
            else accumulation(per_device, training.world, training.batch)
        )
    return settings


def _steps_of_packs(settings: Row, training: Training) -> int:
    """Gradient accumulation steps whose packs hold about the paper's 32 rows."""
    rows = list(files.read_jsonl(training.work / paths.sft_file(training.task, "train")))
    texts = (str(row[name]) for row in rows for name in ("system", "instruction", "output"))
    past = sum(len(str(row.get("history", ""))) for row in rows)
    tokens = (sum(map(len, texts)) + past) / CHARACTERS_PER_TOKEN / len(rows)
    fit = max(float(settings["cutoff_len"]) / tokens, 1.0)
    at_once = int(settings["per_device_train_batch_size"]) * training.world
    steps = max(round(BATCH / fit / at_once), 1)
    packs = steps * at_once
    print(
        f"packing     about {fit:.1f} rows of {tokens:.0f} tokens a pack, {packs} packs a step: "
        f"about {packs * fit:.0f} rows, the paper's {BATCH} as nearly as whole packs allow",
        flush=True,
    )
    return steps


def _spread(settings: Row, training: Training) -> None:
    own, spread, on_cpu = training.backbone.engine, training.spread, settings.get("use_cpu")
    for key in backbones.engine(own).settings if own else ():
        settings.pop(key, None)
    if spread:
        if on_cpu and spread.name in ("fsdp", "zero3", "ray"):
            raise EscError(f"ENGINE={spread.name}: LLaMA-Factory 0.9.5 needs GPUs for it")
        settings |= spread.settings
    by_ray = spread is not None and spread.name == "ray"
    if by_ray:
        if place()[0] > 1:
            raise EscError("ENGINE=ray: Ray knows its machines itself; leave NNODES out")
        # Its processes take no variable from ours.
        mended = {"PYTHONPATH": str(paths.IN_LLAMAFACTORY)}
        settings["ray_init_kwargs"] = {"runtime_env": {"env_vars": mended}}
        settings["ray_num_workers"] = training.here
        settings["model_name_or_path"] = training.backbone.location
    # LLaMA-Factory splits torchrun's command at blanks, and the paths of adapters at commas. On a
    # machine with several GPUs it starts torchrun for one process too.
    torchrun, where = training.by_torchrun or not (on_cpu or by_ray), str(training.work)
    if (torchrun and re.search(r"\s", where)) or (training.starts_from and "," in where):
        why = "holds a blank or a comma, at which LLaMA-Factory splits it"
        raise EscError(f"WORK={where!r} {why}; choose another WORK")
    if training.by_torchrun and on_cpu:
        settings["ddp_backend"] = "gloo"


def _fixed(training: Training) -> Iterator[tuple[str, str]]:
    yield (
        "adapter_name_or_path|dataset|dataset_dir|output_dir|ray_num_workers|stage",
        "the target, WORK and NPROC do; llamafactory-cli train takes any",
    )
    # LoRA+ is none of them: loraplus_lr_ratio is a learning rate, and the adapter a plain LoRA.
    yield (
        "use_(rslora|dora|llama_pro)|pissa_.*|additional_target|finetuning_type|resize_vocab"
        "|add_(special_)?tokens|new_special_tokens_config|train_from_scratch|mixture_of_depths"
        "|lora_target=.*(embed_tokens|lm_head)",
        "what is trained would be no plain LoRA on the base's linear layers, and another model "
        "once it is composed, merged or served; llamafactory-cli train takes any",
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


def _parsed(overrides: Sequence[str]) -> Row:
    for found in _SECRET.findall(" ".join(overrides)):
        raise EscError(
            f"TRAIN_ARGS cannot hold {found.rpartition('.')[2]}, which every user here could read, "
            "and files of the training would keep; the libraries read HF_TOKEN, WANDB_API_KEY, "
            "SWANLAB_API_KEY and MODELSCOPE_API_TOKEN from the environment"
        )
    if wrong := [override for override in overrides if "=" not in override]:
        raise EscError(f"TRAIN_ARGS: {wrong[0]!r} is not key=value")
    try:
        # LLaMA-Factory's own way with them, to which 2e-5 is a number.
        named: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise EscError(f"TRAIN_ARGS: {str(error).splitlines()[0]}") from error
    # YAML reads no, yes, on and off as truth values; of these LLaMA-Factory wants the word.
    words = re.compile(r"(_strategy|_name|project|report_to)$")
    texts = dict(override.partition("=")[::2] for override in overrides)
    is_word = {key for key, one in named.items() if isinstance(one, bool) and words.search(key)}
    return dict(named) | {key: texts[key] for key in is_word}
