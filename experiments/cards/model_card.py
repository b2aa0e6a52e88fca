"""The text of a model card: metadata the hub reads, then what a person reads."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from esc import chat_template, prompts
from esc.adapters import SERVED
from esc.forms import PROMPTS
from esc.markdown import code, plain
from esc.secret import is_secret
from experiments.cards import licences
from experiments.cards.dataset_card import CITED, TEMPLATES
from experiments.cards.scores import Number
from experiments.cards.trained import Trained

_TASKS = {"sp": "strategy planner", "rg": "response generator", "vanilla": "entangled model"}
_DOES = {
    "sp": "reads a support chat and names the strategy of the supporter's next reply",
    "rg": "writes the supporter's next reply under a strategy that is given to it",
    "vanilla": "writes the supporter's next reply as `[Strategy] reply`, both at once",
}
_SYSTEM_PROMPTS = {name.partition("_")[0]: name for name in PROMPTS}
# What says where files lie on the machine that trained, and nothing of the training.
_PLACES = ("dataset_dir", "output_dir", "adapter_name_or_path", "model_name_or_path")


def text(trained: Trained, place: Path) -> str:
    """The whole card for the adapter in ``place``: the training's folder, or the composed one."""
    mined, recipe, composed = trained.trained_on.mined, trained.recipe, place.name == SERVED
    body = prompts.render(
        TEMPLATES,
        "model_card.md.j2",
        **CITED,
        title=code(f"{trained.backbone.name}/{trained.name}"),
        smoke=trained.smoke,
        what=_TASKS[trained.task],
        does=_DOES[trained.task],
        task=trained.task,
        stage=trained.stage,
        variant=code(trained.lineage.variant) if trained.lineage.variant else "",
        round=trained.lineage.round,
        composed=composed,
        is_delta=trained.stage == "dpo" and not composed,
        served=SERVED,
        # A folder's name says nothing to others, and where it lies is nobody's business.
        base=code(trained.backbone.hub or trained.backbone.name),
        base_licence=licences.of_base(trained.backbone),
        # An adapter composed before it was written there has it where the training left it.
        template_beside=not composed or (place / chat_template.FILE).is_file(),
        template=code(trained.backbone.template),
        system_prompt=code(_SYSTEM_PROMPTS[trained.task]),
        licence=plain(trained.sets.manifest["licence"]),
        set_name=code(trained.trained_on.name),
        set_rows=trained.trained_on.splits["train"].rows,
        set_sha256=trained.trained_on.splits["train"].sha256,
        origin=code(trained.sets.manifest["corpus"]["origin"]),
        split=code(trained.sets.manifest["options"]["SPLIT"]),
        judge=code(mined["judge"]) if mined and mined["judge"] else "",
        starts=[
            (code(name.removeprefix("adapter ")), code(value))
            for name, value in trained.options.items()
            if name.startswith("adapter ")
        ],
        recipe=[
            (code(name), code(str(value)))
            for name, value in recipe.items()
            if name not in _PLACES and not is_secret(name)
        ],
        batch=trained.options["batch"],
        facts=trained.facts,
        drift=trained.drift,
        scores=[
            (
                code(one.system),
                plain(one.split),
                one.n,
                one.smoke,
                list(map(_shown, one.numbers.values())),
            )
            for one in trained.scores
        ],
        columns=list(trained.scores[0].numbers) if trained.scores else [],
    )
    return f"---\n{metadata(trained).to_yaml()}\n---\n\n{body}\n"


def _shown(number: Number) -> str:
    if number.value is None:
        return "undefined"
    if number.low is None or number.high is None:
        return f"{number.value:.2f}"
    return f"{number.value:.2f} [{number.low:.2f}, {number.high:.2f}]"


def metadata(trained: Trained) -> ModelCardData:
    """What the hub reads. Numbers of a smoke run stay out of it: there they would be results."""
    results = [] if trained.smoke else list(_results(trained))
    tags = ["emotional-support-conversation", "lora", "llama-factory", trained.recipe["stage"]]
    kind = trained.sets.kind
    return ModelCardData(
        base_model=trained.backbone.hub,
        library_name="peft",
        pipeline_tag="text-generation",
        license=licences.of_adapter(kind, trained.backbone),
        language=None if kind == "other" else ["en"],
        datasets=["thu-coai/esconv"] if kind == "esconv" else None,
        tags=tags + ["smoke-test"] * trained.smoke,
        model_name=f"{trained.backbone.name} {trained.name}" if results else None,
        eval_results=results or None,
    )


def _results(trained: Trained) -> Iterator[EvalResult]:
    corpus = trained.sets.kind
    for one in trained.scores:
        for name, number in one.numbers.items():
            if one.smoke or number.value is None:
                continue
            yield EvalResult(
                task_type="text-generation",
                task_name=f"system {one.system}",
                dataset_type="thu-coai/esconv" if corpus == "esconv" else corpus,
                dataset_name=f"{corpus}, {one.n} turns",
                dataset_split=one.split,
                dataset_config=one.system,
                metric_type=name.lower().replace(" ", "_").replace("-", "_"),
                metric_name=name,
                metric_value=round(number.value, 4),
            )
